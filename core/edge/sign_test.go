package edge_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/edge/edgetest"
	"hypnos/core/model"
)

// key is the i-th key for tests.
func key(i byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{i}, ed25519.SeedSize))
}

func public(i byte) ed25519.PublicKey { return key(i).Public().(ed25519.PublicKey) }

// packed is a package as a file has it.
func packed(t testing.TB, m edge.Manifest, c converted, o edge.PackOptions) []byte {
	t.Helper()
	return edgetest.File(t, m, c.integer, o)
}

func written(t testing.TB, p *model.Params) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := model.Write(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestPolicy: what a policy accepts, and why it refuses; from the head of a file alone.
func TestPolicy(t *testing.T) {
	c := small(t)
	m := manifest(c) // version 3
	forBoards := m
	forBoards.Boards = []string{"raspberry-pi-4", "raspberry-pi-5"}
	newer := m
	newer.MinRuntime = edge.Runtime + 1
	counter := func(b []byte) edge.Counter {
		h, _, _, err := edge.ReadHead(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return h.Counter
	}
	signed, unsigned := packed(t, m, c, edge.PackOptions{Key: key(1)}), packed(t, m, c, edge.PackOptions{})
	trust := edge.Policy{Keys: []ed25519.PublicKey{public(2), public(1)}}
	with := func(change func(p *edge.Policy)) edge.Policy {
		p := trust
		change(&p)
		return p
	}
	resigned := func(change func(meta map[string]string)) []byte {
		p, err := edge.Pack(m, c.integer, edge.PackOptions{Key: key(1)})
		if err != nil {
			t.Fatal(err)
		}
		change(p.Meta)
		return written(t, p)
	}
	flipped := func(meta map[string]string) {
		b, err := base64.StdEncoding.DecodeString(meta[edge.SignatureKey])
		if err != nil {
			t.Fatal(err)
		}
		b[17] ^= 4
		meta[edge.SignatureKey] = base64.StdEncoding.EncodeToString(b)
	}
	development := edge.Policy{Unsigned: true}
	for _, x := range []struct {
		name   string
		file   []byte
		policy edge.Policy
		want   error
	}{
		{"signed by a trusted key", signed, trust, nil},
		{"signed by another", packed(t, m, c, edge.PackOptions{Key: key(3)}), trust, edge.ErrKey},
		{"signed, nobody trusted", signed, edge.Policy{}, edge.ErrKey},
		{"signed, nobody trusted, in development", signed, development, edge.ErrKey},
		{"unsigned", unsigned, trust, edge.ErrUnsigned},
		{"unsigned, in development", unsigned, development, nil},
		{"a flipped bit of the signature", resigned(flipped), trust, edge.ErrSignature},
		{"no base64", resigned(func(m map[string]string) { m[edge.SignatureKey] = "%" }), trust, edge.ErrSignature},
		{"another's name", resigned(func(m map[string]string) { m[edge.SignerKey] = edge.KeyID(public(2)) }), trust, edge.ErrSignature},
		{"no signature, but a signer", resigned(func(m map[string]string) { delete(m, edge.SignatureKey) }), with(func(p *edge.Policy) { p.Unsigned = true }), edge.ErrSignature},
		{"a signature without a signer", resigned(func(m map[string]string) { delete(m, edge.SignerKey) }), with(func(p *edge.Policy) { p.Unsigned = true }), edge.ErrKey},
		{"its own version again", signed, with(func(p *edge.Policy) { p.Counter = counter(signed) }), nil},
		{"a version that was used", packed(t, forBoards, c, edge.PackOptions{Key: key(1)}), with(func(p *edge.Policy) { p.Counter = counter(signed) }), edge.ErrDowngrade},
		{"an older version", signed, with(func(p *edge.Policy) { p.Counter = edge.Counter{Version: 4, Manifest: "x"} }), edge.ErrDowngrade},
		{"a newer version", signed, with(func(p *edge.Policy) { p.Counter = edge.Counter{Version: 2, Manifest: "x"} }), nil},
		{"for this board", packed(t, forBoards, c, edge.PackOptions{Key: key(2)}), with(func(p *edge.Policy) { p.Board = "raspberry-pi-5" }), nil},
		{"for another board", packed(t, forBoards, c, edge.PackOptions{Key: key(2)}), with(func(p *edge.Policy) { p.Board = "generic-linux" }), edge.ErrBoard},
		{"for all boards", signed, with(func(p *edge.Policy) { p.Board = "generic-linux" }), nil},
		{"for a newer program", packed(t, newer, c, edge.PackOptions{Key: key(2)}), trust, edge.ErrRuntime},
	} {
		r := bytes.NewReader(x.file)
		h, head, size, err := edge.ReadHead(r)
		if err != nil {
			t.Fatalf("%s: %v", x.name, err)
		}
		if size != int64(len(x.file)) || r.Len() != len(x.file)-len(head) || !bytes.Equal(head, x.file[:len(head)]) {
			t.Errorf("%s: read %d of %d bytes, said to be %d", x.name, len(head), len(x.file), size)
		}
		if err := x.policy.Check(h); !errors.Is(err, x.want) || err != nil && (x.want == nil || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%s: %v, want %v", x.name, err, x.want)
		}
	}
	t.Run("manifest changed after signing", func(t *testing.T) {
		other := packed(t, forBoards, c, edge.PackOptions{})
		h, _, _, err := edge.ReadHead(bytes.NewReader(resigned(func(meta map[string]string) {
			p, err := model.Read(bytes.NewReader(other), int64(len(other)))
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range []string{edge.ManifestKey, edge.ManifestHash} {
				meta[k] = p.Meta[k]
			}
		})))
		if err != nil {
			t.Fatal(err)
		}
		if err := trust.Check(h); !errors.Is(err, edge.ErrSignature) {
			t.Errorf("another manifest under the signature: %v", err)
		}
	})
}

// TestReadHeadRefuses: what is cut, or no package, is an error, and takes no more memory than it has bytes.
func TestReadHeadRefuses(t *testing.T) {
	whole := packed(t, manifest(small(t)), small(t), edge.PackOptions{})
	_, head, _, err := edge.ReadHead(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(head) {
		if _, _, _, err := edge.ReadHead(bytes.NewReader(whole[:n])); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for _, b := range []string{"\xff\xff\xff\xff\xff\xff\xff\xff", "\x02\x00\x00\x00\x00\x00\x00\x00{}", "\x02\x00\x00\x00\x00\x00\x00\x00??"} {
		if _, _, _, err := edge.ReadHead(strings.NewReader(b)); err == nil {
			t.Errorf("%q is taken for a package", b)
		}
	}
}

func TestKeys(t *testing.T) {
	private, err := edge.MarshalPrivateKey(key(1))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := edge.MarshalPublicKey(public(1))
	if err != nil {
		t.Fatal(err)
	}
	if k, err := edge.ParsePrivateKey(private); err != nil || !k.Equal(key(1)) {
		t.Errorf("private key: %v", err)
	}
	if k, err := edge.ParsePublicKey(pub); err != nil || !k.Equal(public(1)) {
		t.Errorf("public key: %v", err)
	}
	// RFC 8032, 7.1, test 1 has the public key d75a98…; the first bytes of its SHA-256 are of sha256sum.
	rfc := ed25519.PublicKey([]byte("\xd7\x5a\x98\x01\x82\xb1\x0a\xb7\xd5\x4b\xfe\xd3\xc9\x64\x07\x3a\x0e\xe1\x72\xf3\xda\xa6\x23\x25\xaf\x02\x1a\x68\xf7\x07\x51\x1a"))
	if id := edge.KeyID(rfc); id != "21fe31dfa154a261" {
		t.Errorf("id %s", id)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: big.NewInt(1 << 62), E: 3})
	if err != nil {
		t.Fatal(err)
	}
	other := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for text, want := range map[string]string{
		"": "no PEM block", string(private): `"PRIVATE KEY" where "PUBLIC KEY"`, string(other): "*rsa.PublicKey where an ed25519 key",
		string(pub) + string(pub): "something follows", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n": "public key: ",
	} {
		if _, err := edge.ParsePublicKey([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestGolden: an engine gives the numbers that another one gave, logits and what is learned, and one that does not is refused.
func TestGolden(t *testing.T) {
	ctx := context.Background()
	backend := integers(t)
	compile := func(c converted, g edge.Golden, p *model.Params) core.Engine {
		e, err := backend.Compile(c.net, g.Options())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		if err := e.Load(p); err != nil {
			t.Fatal(err)
		}
		return e
	}
	checked := 0
	for _, n := range networks(t) {
		c := convert(t, n, edge.ConvertOptions{})
		for _, rate := range []float64{0, 0.01} {
			g := edge.Golden{Rate: rate, Seed: 5}
			x := images(c.net, 3, 2)
			m := manifest(c)
			record, tensors, err := edge.MakeGolden(ctx, c.net, formats(t, c.integer), compile(c, g, c.integer), g, x, core.Labels{1, 4})
			if err != nil {
				t.Fatal(err)
			}
			m.Golden = &record
			path := filepath.Join(t.TempDir(), "edge.hyp")
			if err := edge.WritePackage(path, m, c.integer, edge.PackOptions{Golden: tensors}); err != nil {
				t.Fatal(err)
			}
			p, err := edge.OpenPackage(path)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			params, err := p.Params()
			if err != nil {
				t.Fatal(err)
			}
			if err := p.CheckGolden(ctx, compile(c, record, params)); err != nil {
				t.Errorf("%s: %v", n.Name, err)
			}
			same, again, err := p.Golden(ctx, compile(c, record, params), rate)
			if err != nil || *same != record || !slices.Equal(again.Logits, tensors.Logits) {
				t.Errorf("%s: %v, made again: %+v, was %+v", n.Name, err, same, record)
			}
			other := tensors.Logits[1] ^ 1 // what another arithmetic would have given
			tensors.Logits[1] = other
			if err := edge.WritePackage(path, m, c.integer, edge.PackOptions{Golden: tensors}); err != nil {
				t.Fatal(err)
			}
			wrong, err := edge.OpenPackage(path)
			if err != nil {
				t.Fatal(err)
			}
			defer wrong.Close()
			if err := wrong.CheckGolden(ctx, compile(c, record, params)); err == nil || !strings.Contains(err.Error(), "golden image 0: output 1") {
				t.Errorf("%s: other logits pass: %v", n.Name, err)
			}
			if rate == 0 {
				checked++
				continue
			}
			e, err := backend.Compile(c.net, edge.Golden{Rate: rate, Seed: 6}.Options()) // which learns otherwise
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			if err := e.Load(params); err != nil {
				t.Fatal(err)
			}
			if err := p.CheckGolden(ctx, e); err == nil || !strings.Contains(err.Error(), "after learning the golden images") {
				t.Errorf("%s: other learning passes: %v", n.Name, err)
			}
			checked++
		}
	}
	if checked < 6 {
		t.Errorf("only %d packages", checked)
	}
	c := small(t)
	m := manifest(c)
	m.Golden = &edge.Golden{Images: 1}
	path := filepath.Join(t.TempDir(), "edge.hyp")
	for _, g := range []*edge.GoldenTensors{nil, {Inputs: []int16{1}, Labels: []int32{0}, Logits: make([]int16, 5)}, {Inputs: make([]int16, c.net.Input().Len()), Labels: []int32{5}, Logits: make([]int16, 5)}} {
		if err := edge.WritePackage(path, m, c.integer, edge.PackOptions{Golden: g}); err == nil || !strings.Contains(err.Error(), "golden") {
			t.Errorf("%+v: %v", g, err)
		}
	}
}
