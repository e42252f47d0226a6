package edge

// What tests of broken packages need.
var SHA256Hex = sha256Hex

// Keys of a package's metadata.
const (
	ManifestKey  = manifestKey
	ManifestHash = manifestHash
	SignatureKey = signatureKey
	SignerKey    = signerKey
)
