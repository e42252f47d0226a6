//go:build purego || !(amd64 || arm64)

package kernel

// assembly lists the versions in assembly: none in this build.
func assembly() []*Kernels { return nil }
