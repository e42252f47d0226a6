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

// outputsAll is outputs on the sums of dotNarrowAll: what is done to a sum is 1/K of the work on the products.
func outputsAll(y, w, x []int16, bias []int32, shift int, low, high int16) {
	var sums [64]int64
	half := int64(1) << shift >> 1
	for first := 0; first < len(y); first += len(sums) {
		part := sums[:min(len(sums), len(y)-first)]
		dotNarrowAll(part, w[first*len(x):], x)
		for i, s := range part {
			y[first+i] = int16(min(max((s+int64(bias[first+i])+half)>>shift, int64(low)), int64(high)))
		}
	}
}
