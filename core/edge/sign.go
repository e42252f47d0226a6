package edge

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Runtime counts what programs can do with packages: a package names the least that it needs (Manifest.MinRuntime).
const Runtime = 1

// Metadata of a signed package file, beside the manifest and its hash.
const (
	signatureKey = "hypnos.package.signature" // base64
	signerKey    = "hypnos.package.key"       // KeyID
)

// signed is the text that a signature is over: it stands for the manifest, which has the hashes of everything else. Its first
// line keeps a signature from meaning anything elsewhere.
func signed(manifestHash string) []byte {
	return []byte("hypnos package signature 1\n" + manifestHash + "\n")
}

// sign adds the signature to a package's metadata.
func sign(meta map[string]string, key ed25519.PrivateKey) {
	meta[signerKey] = KeyID(key.Public().(ed25519.PublicKey))
	meta[signatureKey] = base64.StdEncoding.EncodeToString(ed25519.Sign(key, signed(meta[manifestHash])))
}

// KeyID names a key: the first 8 bytes of the SHA-256 of its 32 bytes, in hexadecimal digits. Whoever looks for a key by it
// must verify with the key all the same.
func KeyID(k ed25519.PublicKey) string {
	sum := sha256.Sum256(k)
	return hex.EncodeToString(sum[:8])
}

// Why a package is refused, wrapped by the errors of Policy. Any other error of reading one means that it is damaged, or no
// package.
var (
	ErrUnsigned  = errors.New("not signed")
	ErrKey       = errors.New("signed by a key that is not trusted")
	ErrSignature = errors.New("the signature is wrong")
	ErrDowngrade = errors.New("a downgrade")
	ErrBoard     = errors.New("not for this board")
	ErrRuntime   = errors.New("needs a newer program")
)

// Policy says which packages are accepted.
type Policy struct {
	Keys []ed25519.PublicKey // trusted
	// Unsigned accepts packages without a signature, too: for development. A signature that is there must be right.
	Unsigned bool
	// Board is this board's class. Packages that name none are for all; "" accepts every package's.
	Board string
	// Counter is the highest version that was accepted.
	Counter Counter
}

// Counter keeps packages from being replaced by older ones: a package must have a higher version, or be the same.
type Counter struct {
	Version  uint64 `json:"version"`
	Manifest string `json:"manifest"` // SHA-256 of the manifest of that version, in hexadecimal digits
}

// Head is what a package file says before its tensors.
type Head struct {
	Manifest Manifest
	Counter  Counter // of this package
	Signer   string  // KeyID of who signed it; "" without a signature
	meta     map[string]string
}

// Check returns why the package is refused, an error that wraps one of the sentinels above.
func (p Policy) Check(h Head) error {
	if err := p.checkSignature(h); err != nil {
		return err
	}
	m := h.Manifest
	switch {
	case m.MinRuntime > Runtime:
		return fmt.Errorf("edge: %w: of runtime %d, this one is %d", ErrRuntime, m.MinRuntime, Runtime)
	case p.Board != "" && len(m.Boards) > 0 && !slices.Contains(m.Boards, p.Board):
		return fmt.Errorf("edge: %w: it is for %s, this is %s", ErrBoard, strings.Join(m.Boards, ", "), p.Board)
	case m.Version < p.Counter.Version:
		return fmt.Errorf("edge: %w: version %d, and %d was accepted before", ErrDowngrade, m.Version, p.Counter.Version)
	case m.Version == p.Counter.Version && p.Counter.Manifest != "" && h.Counter.Manifest != p.Counter.Manifest:
		return fmt.Errorf("edge: %w: another package of version %d was accepted before", ErrDowngrade, m.Version)
	}
	return nil
}

func (p Policy) checkSignature(h Head) error {
	text, ok := h.meta[signatureKey]
	if !ok && h.Signer == "" {
		if p.Unsigned {
			return nil
		}
		return fmt.Errorf("edge: %w", ErrUnsigned)
	}
	i := slices.IndexFunc(p.Keys, func(k ed25519.PublicKey) bool { return KeyID(k) == h.Signer })
	if i < 0 {
		return fmt.Errorf("edge: %w: %.32q", ErrKey, h.Signer)
	}
	signature, err := base64.StdEncoding.DecodeString(text)
	if err != nil || !ed25519.Verify(p.Keys[i], signed(h.Counter.Manifest), signature) {
		return fmt.Errorf("edge: %w: key %s", ErrSignature, h.Signer)
	}
	return nil
}

// Kinds of PEM blocks, those of PKCS #8 and X.509, as openssl writes them.
const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
)

// MarshalPrivateKey writes a key as PEM, PKCS #8.
func MarshalPrivateKey(k ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), err
}

// MarshalPublicKey writes a key as PEM, X.509's SubjectPublicKeyInfo.
func MarshalPublicKey(k ed25519.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der}), err
}

// ParsePrivateKey reads what MarshalPrivateKey writes.
func ParsePrivateKey(text []byte) (ed25519.PrivateKey, error) {
	return parseKey[ed25519.PrivateKey](text, privateBlock, x509.ParsePKCS8PrivateKey)
}

// ParsePublicKey reads what MarshalPublicKey writes.
func ParsePublicKey(text []byte) (ed25519.PublicKey, error) {
	return parseKey[ed25519.PublicKey](text, publicBlock, x509.ParsePKIXPublicKey)
}

func parseKey[K any](text []byte, kind string, parse func([]byte) (any, error)) (k K, err error) {
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return k, errors.New("edge: not a key: no PEM block")
	case block.Type != kind:
		return k, fmt.Errorf("edge: a PEM block of %q where %q is wanted", block.Type, kind)
	case strings.TrimSpace(string(rest)) != "":
		return k, fmt.Errorf("edge: something follows the %s", strings.ToLower(kind))
	}
	any, err := parse(block.Bytes)
	if err != nil {
		return k, fmt.Errorf("edge: %s: %w", strings.ToLower(kind), err)
	}
	k, ok := any.(K)
	if !ok {
		return k, fmt.Errorf("edge: %s: a %T where an ed25519 key is wanted", strings.ToLower(kind), any)
	}
	return k, nil
}
