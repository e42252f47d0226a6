// Package fixed is the integer contract: what a number is, how it is rounded, what an accumulator may hold. The edge
// backend computes by it and by nothing else, so that weights and activations are the same bytes on every processor, with
// any number of threads, with assembly or without.
//
// A number. A tensor has one Format, a power of two: its elements are integers n that stand for n·2^-Frac, at most
// Bits = Int+Frac bits and a sign, stored in an int16. The range is symmetric, |n| ≤ 2^Bits - 1, so that negation never
// overflows and a sum of two products of int16 fits an int32. What falls outside becomes the nearest end of the range: it
// saturates, it never wraps.
//
// A sum of products is exact. It is an integer, and integers add up to the same whatever their order; so kernels may split
// and reorder as they like. Products of int16 are below 2^30 and layers have fewer than 2^31 terms (package net), which an
// int64 holds. Kernels that sum in int32 may do so only where Σ|w||x| < 2^31 is known: NarrowSum proves it from the
// largest Σ|w| of a neuron.
//
// Rounding happens once, where the exact sum becomes an element of the next tensor: RoundShift, to the nearest, midpoints
// up. (Rounding twice, as in a doubling high multiplication and a shift behind it, differs in one case of twenty.)
//
// Learning rounds at random: StochasticShift rounds x/2^s up with the probability of its fraction, so that small changes
// are kept on the average instead of lost (Gupta, Agrawal, Gopalakrishnan, Narayanan 2015, arXiv 1502.02551). Its
// numbers are a function of (seed, layer, weight, step), package rng.
//
// Gradients have no fixed range: it falls over orders of magnitude with the loss. They are block floating point: integers
// of at most GradientBits bits with one exponent a tensor, chosen from the largest element (NormalShift).
package fixed

import (
	"fmt"
	"math"
	"math/bits"
)

// Format is the number format of a tensor: n stands for n·2^-Frac, |n| ≤ 2^(Int+Frac) - 1. Int bits before the binary point
// give the range (-2^Int, 2^Int), the sign not counted; either may be negative.
type Format struct {
	Int  int `json:"int"`
	Frac int `json:"frac"`
}

// WordBits is the most bits of a number, beside its sign.
const WordBits = 15

// maxExponent bounds |Int|, so that shifts between any two formats stay below 63.
const maxExponent = 15

// Check returns an error when the format is none of an int16.
func (f Format) Check() error {
	if b := f.Bits(); b < 1 || b > WordBits || f.Int < -maxExponent || f.Int > maxExponent {
		return fmt.Errorf("fixed: Q%d.%d is no format of 1 to %d bits with %d to %d before the point", f.Int, f.Frac, WordBits, -maxExponent, maxExponent)
	}
	return nil
}

func (f Format) String() string { return fmt.Sprintf("Q%d.%d", f.Int, f.Frac) }

// Bits is the number of bits beside the sign.
func (f Format) Bits() int { return f.Int + f.Frac }

// Max is the largest n.
func (f Format) Max() int16 { return int16(1<<f.Bits() - 1) }

// Unit is the value of the last place, 2^-Frac.
func (f Format) Unit() float64 { return math.Ldexp(1, -f.Frac) }

// Float is the value of n, exact.
func (f Format) Float(n int64) float64 { return math.Ldexp(float64(n), -f.Frac) }

// Saturate is n, or the end of the range beyond which it lies.
func (f Format) Saturate(n int64) int16 {
	limit := int64(f.Max())
	return int16(min(max(n, -limit), limit))
}

// Quantise is the number nearest to v, midpoints up, saturated. A NaN is a programmer's error.
func (f Format) Quantise(v float64) int16 {
	if math.IsNaN(v) {
		panic("fixed: NaN has no integer")
	}
	limit := float64(f.Max())
	n := Nearest(math.Ldexp(v, f.Frac))
	return int16(min(max(n, -limit), limit))
}

// Nearest is the integer nearest to v, midpoints up. v + 0.5 would round before it is cut.
func Nearest(v float64) float64 {
	n := math.Floor(v)
	if v-n >= 0.5 {
		n++
	}
	return n
}

// FormatFor is the finest format of so many bits whose range holds |v| ≤ largest, after rounding. Zero, and what is
// smaller than any format's range, gets the finest there is. It is an error for numbers that are not finite or beyond every range.
func FormatFor(largest float64, wordBits int) (Format, error) {
	if math.IsNaN(largest) || math.IsInf(largest, 0) {
		return Format{}, fmt.Errorf("fixed: a largest number of %g has no format", largest)
	}
	for i := -maxExponent; i <= maxExponent; i++ {
		f := Format{i, wordBits - i}
		if Nearest(math.Ldexp(math.Abs(largest), f.Frac)) <= float64(f.Max()) {
			return f, f.Check()
		}
	}
	return Format{}, fmt.Errorf("fixed: numbers up to %g are beyond every format", largest)
}

// RoundShift is x/2^s rounded to the nearest, midpoints up, for 0 ≤ s ≤ 62 and |x| < 2^62: (x + 2^(s-1)) >> s, in vectors
// VPADDQ and a shift, on NEON SRSHL. A negative s multiplies by 2^-s, which must not overflow.
func RoundShift(x int64, s int) int64 {
	if s <= 0 {
		return x << -s
	}
	return (x + 1<<(s-1)) >> s
}

// DitherBits is the number of random bits that a stochastic rounding uses.
const DitherBits = 16

// MaxShift is the largest shift of StochasticShift for products of int16.
const MaxShift = 30

// Dither turns DitherBits random bits into what StochasticShift adds: a number of [0, 2^s), 0 ≤ s ≤ MaxShift. Where s has
// more than DitherBits bits it is the middle of one of 2^DitherBits equal cells.
func Dither(u uint16, s int) int32 {
	if s > DitherBits {
		return (2*int32(u) + 1) << (s - DitherBits - 1)
	}
	return int32(u) >> (DitherBits - s)
}

// StochasticShift is x/2^s rounded down or up, up with the probability of the fraction, for |x| ≤ 2^30 and 0 ≤ s ≤
// MaxShift. Over the 2^16 values of u its mean is x/2^s exactly for s ≤ DitherBits, and within 2^-17 of it beyond.
func StochasticShift(x int32, s int, u uint16) int32 { return (x + Dither(u, s)) >> s }

// StochasticShift64 is StochasticShift for |x| < 2^62 and 0 ≤ s ≤ 62.
func StochasticShift64(x int64, s int, u uint16) int64 {
	if s <= MaxShift {
		return (x + int64(Dither(u, s))) >> s
	}
	return (x + (2*int64(u)+1)<<(s-DitherBits-1)) >> s
}

// DivideRound is a/n rounded to the nearest, midpoints up, for 0 < n < 2^62 and |2a| + n < 2^63: the mean of a group.
func DivideRound(a, n int64) int64 { return floorDivide(2*a+n, 2*n) }

// floorDivide is ⌊a/n⌋ for n > 0; Go's division cuts towards 0.
func floorDivide(a, n int64) int64 {
	q := a / n
	if a%n < 0 {
		q--
	}
	return q
}

// NarrowSum tells whether an int32 holds every partial sum of Σ w·x, in any order: when the neuron's Σ|w| times the largest
// |x| is below 2^31.
func NarrowSum(norm int64, largest int16) bool {
	hi, lo := bits.Mul64(uint64(norm), uint64(largest))
	return hi == 0 && lo <= math.MaxInt32
}

// NarrowTerms is how many products of numbers up to a and b an int32 holds, at least 2 for int16 of a symmetric range.
func NarrowTerms(a, b int16) int {
	if a == 0 || b == 0 {
		return math.MaxInt32
	}
	return math.MaxInt32 / (int(a) * int(b))
}
