package fixed

import (
	"fmt"
	"math"
)

// Multiplier is a positive factor M·2^-Shift, 2^30 ≤ M < 2^31, as by-product of an int32 multiplication: for scales that
// are no powers of two, the mean of a pool and the learning rate.
type Multiplier struct {
	M     int32
	Shift int
}

// NewMultiplier is the factor nearest to v; its relative error is at most 2^-31. Factors outside 2^-30…2^30 are errors.
func NewMultiplier(v float64) (Multiplier, error) {
	if !(v >= 0x1p-30 && v <= 0x1p30) {
		return Multiplier{}, fmt.Errorf("fixed: factor %g is outside 2^-30…2^30", v)
	}
	fraction, exponent := math.Frexp(v) // exact; fraction in [1/2, 1)
	m := Nearest(math.Ldexp(fraction, 31))
	if m == 1<<31 {
		m, exponent = 1<<30, exponent+1
	}
	return Multiplier{int32(m), 31 - exponent}, nil
}

// Apply is x times the factor, rounded once to the nearest, midpoints up, for |x| < 2^31.
func (m Multiplier) Apply(x int64) int64 { return RoundShift(x*int64(m.M), m.Shift) }
