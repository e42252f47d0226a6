//go:build purego || !amd64

package kernel

// assemblyLimits are the loops of a version in assembly: none in this build.
func assemblyLimits(string) (Limits, bool) { return Limits{}, false }
