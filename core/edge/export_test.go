package edge

// What tests of broken packages need.
var (
	ReadPackage = readPackage
	SHA256Hex   = sha256Hex
)

// Keys of a package's metadata.
const (
	ManifestKey  = manifestKey
	ManifestHash = manifestHash
	SignatureKey = signatureKey
	SignerKey    = signerKey
)
