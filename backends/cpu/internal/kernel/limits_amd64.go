//go:build !purego

package kernel

import "unsafe"

// assemblyLimits are the loops of a version in assembly.
func assemblyLimits(name string) (Limits, bool) {
	switch name {
	case "avx512":
		return limitsOf(16, fmaPeakAVX512, readAVX512, copyAVX512, streamAVX512, scaleAVX512), true
	case "avx2":
		return limitsOf(8, fmaPeakAVX2, readAVX2, copyAVX2, streamAVX2, scaleAVX2), true
	}
	return Limits{}, false
}

// limitsOf wraps the kernels of one instruction set with vectors of the given width.
func limitsOf(width int, fma func(*float32, int), read func(sum, x *float32, n int), plain, stream func(dst, src *float32, n int), scale func(*float32, int, float32)) Limits {
	return Limits{
		Flop: 2 * 12 * 2 * width, // 12 vectors, twice a round
		FMA: func(x *[16]float32, rounds int) {
			if rounds < 1 {
				panic("kernel: no rounds")
			}
			clear(x[2:])
			fma(&x[0], rounds)
		},
		Read: func(x []float32) float32 {
			var sums [16]float32
			read(&sums[0], &x[0], limitBlocks(len(x)))
			var s float32
			for _, v := range sums {
				s += v
			}
			return s
		},
		Copy: func(dst, src []float32) { plain(&dst[0], &src[:len(dst)][0], limitBlocks(len(dst))) },
		Stream: func(dst, src []float32) {
			if uintptr(unsafe.Pointer(&dst[0]))%64 != 0 {
				panic("kernel: destination not on a multiple of 64 bytes")
			}
			stream(&dst[0], &src[:len(dst)][0], limitBlocks(len(dst)))
		},
		Scale: func(x []float32, factor float32) { scale(&x[0], limitBlocks(len(x)), factor) },
	}
}

// limitBlocks is the number of blocks of n floats, which must be whole.
func limitBlocks(n int) int {
	if n == 0 || n%LimitBlock != 0 {
		panic("kernel: not whole blocks")
	}
	return n / LimitBlock
}
