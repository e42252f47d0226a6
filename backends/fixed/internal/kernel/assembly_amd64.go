//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

//go:generate sh -c "cd gen && go run . -out ../kernel_amd64.s -stubs ../stubs_amd64.go -pkg kernel"

// assembly lists the versions in assembly that the processor can run.
func assembly() []*Kernels {
	if !cpu.X86.HasAVX2 {
		return nil
	}
	return []*Kernels{vectors("avx2")}
}
