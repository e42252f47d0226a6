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

func outputsAll(y, w, x []int16, bias []int32, shift int, low, high int16) {
	if len(y) == 0 || len(x) == 0 {
		outputs(y, w, x, bias, shift, low, high)
		return
	}
	_, _ = w[len(y)*len(x)-1], bias[len(y)-1]
	outputsVector(&y[0], &w[0], &x[0], &bias[0], len(y), len(x), shift, int(low), int(high))
}
