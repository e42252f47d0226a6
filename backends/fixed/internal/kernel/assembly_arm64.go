//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

//go:generate sh -c "cd gen && go run ./neon -out ../kernel_arm64.s -stubs ../stubs_arm64.go"

// assembly lists the versions in assembly that the processor can run.
func assembly() []*Kernels {
	if !cpu.ARM64.HasASIMD {
		return nil
	}
	return []*Kernels{vectors("neon")}
}
