package fixed

import (
	"math/bits"
)

// GradientBits is the number of bits of a gradient's integers beside the sign. With 13, sums of 2^3 products with any
// int16, or of 2^6 with weights of 12 bits, fit an int32.
const GradientBits = 13

// GradientMax is the largest of a gradient's integers.
const GradientMax = 1<<GradientBits - 1

// Gradient is a tensor in block floating point: n stands for n·2^-Frac. Frac belongs to the tensor, not to the network.
type Gradient struct {
	N    []int16
	Frac int
}

// Largest is the largest |x|; no x is the least int64.
func Largest(x []int64) int64 {
	largest := int64(0)
	for _, v := range x {
		largest = max(largest, v, -v)
	}
	return largest
}

// NormalShift is the smallest shift s ≥ 0 for which every |x| ≤ largest rounds to at most GradientMax, up or down.
func NormalShift(largest int64) int {
	s := max(0, bits.Len64(uint64(largest))-GradientBits)
	if largest > GradientMax<<s { // it could round up to GradientMax+1
		s++
	}
	return s
}
