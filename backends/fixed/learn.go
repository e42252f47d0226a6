package fixed

import (
	"math"
	"math/bits"

	"hypnos/core/fixed"
	"hypnos/core/rng"
)

// lesson is what one layer learns from in a step.
type lesson struct {
	images   int
	x        []int16 // (B, H, W, Cin)
	errors   []int16 // (B, H, W, N)
	scaled   []int16 // errors times the learning rate's mantissa, negative: what weights change by
	shift    int     // of p = Σ scaled·x to the last place of the weights
	shared   factor  // of Σ errors·x, for weights that positions share
	bias     factor  // of Σ errors, for biases
	gradient []int64 // (N, padded K): scratch for weights that positions share
	random   rng.Stream
	dither   rng.Stream // of biases
}

// stream is the generator of one use of random numbers in one layer and step.
func (e *engine) stream(p rng.Purpose, node int) rng.Stream {
	return rng.New(e.opt.Seed, p, uint64(node)<<40|uint64(e.step)&(1<<40-1))
}

// changeBias makes the step of one bias.
func (l *lesson) changeBias(biases []int32, i int, sum int64, u uint16) {
	b := int64(biases[i]) - l.bias.apply(sum, u)
	biases[i] = int32(min(max(b, -math.MaxInt32), math.MaxInt32))
}

// factor is a positive number m·2^-shift, m < 2^15, by which exact sums are brought to the last place of what they change,
// with one stochastic rounding.
type factor struct {
	m     int64
	shift int
}

// factorBits is the precision of a factor: its relative error is at most 2^-15.
const factorBits = 15

func newFactor(v float64) factor {
	if !(v > 0) {
		return factor{}
	}
	fraction, exponent := math.Frexp(v)
	return factor{int64(math.Floor(math.Ldexp(fraction, factorBits) + 0.5)), factorBits - exponent}
}

// apply is sum·m·2^-shift, rounded by u; beyond ±2^40 it stays there. Sums of more than 46 bits lose their last first, so that
// the product fits; what is below 2^-32 of a last place is nothing.
func (f factor) apply(sum int64, u uint16) int64 {
	if cut := bits.Len64(uint64(max(sum, -sum))) - 46; cut > 0 {
		sum, f.shift = fixed.RoundShift(sum, cut), f.shift-cut
	}
	p := sum * f.m
	switch {
	case f.shift > 62:
		return 0
	case f.shift >= 0:
		return fixed.StochasticShift64(p, f.shift, u)
	case bits.Len64(uint64(max(p, -p)))-f.shift > 40:
		if p < 0 {
			return -1 << 40
		}
		return 1 << 40
	}
	return p << -f.shift
}

// learningRate prepares a step of a layer whose weights change by -lr/B·Σ x·d: in last places of the weights by c·Σ x·d with
// c = lr/B·2^(fw-fx-fd). For kernels, that product is one of int16: errors become scaled = -d·c·2^shift with the largest shift
// for which B products of scaled and x stay below 2^30, and the sum is shifted back. Both roundings are stochastic. The rate
// is saturated where shift would have to be below 0, that is when weights change by more than their range.
func (e *engine) learningRate(w *weights, l *lesson, lr float64, frac int) {
	rate := lr / float64(l.images)
	c := math.Ldexp(rate, w.format.Frac-w.input.Frac-frac)
	l.bias = newFactor(math.Ldexp(rate, w.sumFrac()-frac))
	l.shared = newFactor(c)
	if !w.located {
		return
	}
	limit := int64(min(math.MaxInt16, 1<<15/l.images))
	l.scaled = e.scaled[:len(l.errors)]
	clear(l.scaled)
	if !(c > 0) {
		return
	}
	_, exponent := math.Frexp(float64(limit) / (c * fixed.GradientMax)) // 2^(exponent-1) is at most the quotient
	l.shift = min(max(exponent-1, 0), fixed.MaxShift)
	m, err := fixed.NewMultiplier(math.Ldexp(c, l.shift))
	if err != nil { // nothing can change, or everything saturates
		if c < 1 {
			return
		}
		m = fixed.Multiplier{M: math.MaxInt32, Shift: 0}
	}
	random := e.stream(rng.RoundRate, w.node)
	e.pool.Run(blocksOf(len(l.errors)), func(worker, lo, hi int) {
		e.eachDithered(random, 0, len(l.errors), lo, hi, func(i int, u uint16) {
			p := fixed.StochasticShift64(int64(l.errors[i])*int64(m.M), m.Shift, u)
			l.scaled[i] = int16(min(max(-p, -limit), limit))
		})
	})
}

// ditherBlock is how many elements are rounded between two calls of the generator.
const ditherBlock = 1024

func blocksOf(n int) int { return (n + ditherBlock - 1) / ditherBlock }

// eachDithered calls f for the elements of blocks lo…hi-1 of n elements, each with 16 random bits of its own, from the
// generator's block base on.
func (e *engine) eachDithered(s rng.Stream, base uint64, n, lo, hi int, f func(i int, u uint16)) {
	var u [ditherBlock]uint16
	for block := lo; block < hi; block++ {
		first := block * ditherBlock
		e.kernels.Halves(u[:], s, base+uint64(first/rng.HalvesBlock))
		for i, v := range u[:min(ditherBlock, n-first)] {
			f(first+i, v)
		}
	}
}

// tensorErrors is the error of one node's output in a step, block floating point.
type tensorErrors struct {
	fixed.Gradient
	contributions int
}

// contribute adds v, with frac fraction bits, to the error of a node, and normalises the sum. v is used up.
func (e *engine) contribute(node int, v []int64, frac int) {
	d := &e.errors[node]
	n := d.N[:len(v)]
	if d.contributions > 0 {
		frac = align(v, frac, n, d.Frac)
	}
	base := uint64(d.contributions) << 32 // no other contribution's numbers
	d.contributions++
	shift := fixed.NormalShift(fixed.Largest(v))
	d.Frac = frac - shift
	if shift == 0 {
		for i, x := range v {
			n[i] = int16(x)
		}
		return
	}
	random := e.stream(rng.RoundGradient, node)
	e.pool.Run(blocksOf(len(v)), func(_, lo, hi int) {
		e.eachDithered(random, base, len(v), lo, hi, func(i int, u uint16) { n[i] = int16(fixed.StochasticShift64(v[i], shift, u)) })
	})
}

// align adds n, with nFrac fraction bits, to v, with frac, and returns the fraction bits of the sum: the finer, unless the
// coarser numbers would leave 60 bits.
func align(v []int64, frac int, n []int16, nFrac int) int {
	const room = 60
	to := max(frac, nFrac)
	to = min(to, frac+max(0, room-bits.Len64(uint64(fixed.Largest(v)))), nFrac+room-fixed.GradientBits)
	for i, x := range v {
		v[i] = fixed.RoundShift(x, min(frac-to, 62)) + fixed.RoundShift(int64(n[i]), min(nFrac-to, 62))
	}
	return to
}
