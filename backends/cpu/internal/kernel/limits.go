package kernel

// Limits are loops that load the machine as far as a version of the kernels can, for measurements. Lengths are
// multiples of LimitBlock.
type Limits struct {
	// FMA adds x[0]·x[1] to a set of numbers kept in registers, Flop/2 times a round, and leaves their sum in x, of
	// which the rest counts as 0.
	FMA  func(x *[16]float32, rounds int)
	Flop int // operations of a round, a multiply-add being two
	// Read returns the sum.
	Read func(x []float32) float32
	// Copy uses ordinary stores, Stream stores past the caches, to a multiple of 64 bytes; nil where there are none.
	Copy, Stream func(dst, src []float32)
	Scale        func(x []float32, factor float32)
}

// LimitBlock is the number of floats that the loops of Limits go by.
const LimitBlock = 128

// Limits are those of the version. Versions that have none of their own get portable Go, own being false: it reaches
// the limits of Go, not of the machine.
func (k *Kernels) Limits() (l Limits, own bool) {
	if l, ok := assemblyLimits(k.Name); ok {
		return l, true
	}
	return Limits{FMA: fmaGo, Flop: 2 * 8, Read: readGo, Copy: func(dst, src []float32) { copy(dst, src) }, Scale: scaleGo},
		k.Name == portable().Name
}

func fmaGo(x *[16]float32, rounds int) {
	a, b := x[0], x[1]
	var s0, s1, s2, s3, s4, s5, s6, s7 float32
	for range rounds {
		s0 += a * b
		s1 += a * b
		s2 += a * b
		s3 += a * b
		s4 += a * b
		s5 += a * b
		s6 += a * b
		s7 += a * b
	}
	*x = [16]float32{s0, s1, s2, s3, s4, s5, s6, s7}
}

func readGo(x []float32) float32 {
	var s0, s1, s2, s3 float32
	for ; len(x) >= 4; x = x[4:] {
		s0 += x[0]
		s1 += x[1]
		s2 += x[2]
		s3 += x[3]
	}
	return s0 + s1 + s2 + s3
}

func scaleGo(x []float32, factor float32) {
	for i := range x {
		x[i] *= factor
	}
}
