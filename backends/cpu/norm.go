package cpu

import (
	"math"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core/net"
)

// norm is a batch norm, with the rectifier behind it where nothing else reads its output: the rectifier is then applied
// on the way, and its gradient is gated by recomputing its input.
//
// Sums over the batch and the positions are float64, taken in blocks of positions that do not depend on the number of
// threads and added up in their order.
type norm struct {
	base
	net.BatchNorm
	gain, shift, mean, variance *param    // mean and variance are the running ones
	batchMean, batchVar         []float64 // of the last training pass, by channel; variance divided by m
	affine                      []kernel.Affine
	gradient                    []kernel.Gradient
	sums                        []float64 // by block, channel, sum and lane
	rectified                   bool      // a rectifier follows
}

// normBlocks is the number of blocks of positions that are summed separately.
const normBlocks = 16

func newNorm(b base, op net.BatchNorm, params []*param) *norm {
	c := b.v.In.C
	return &norm{
		base: b, BatchNorm: op, gain: params[0], shift: params[1], mean: params[2], variance: params[3],
		batchMean: make([]float64, c), batchVar: make([]float64, c),
		affine: make([]kernel.Affine, c), gradient: make([]kernel.Gradient, c),
		sums: make([]float64, normBlocks*c*2*kernel.Lanes),
	}
}

// count is m, the number of values a channel.
func (l *norm) count(batch int) float64 { return float64(batch * l.v.In.H * l.v.In.W) }

// eachPosition lets the workers call f for all positions, with the bounds of a position's numbers.
func (l *norm) eachPosition(p pass, f func(lo, hi int)) {
	size := l.v.In.C * p.n
	p.pool.Run(l.v.In.H*l.v.In.W, func(_, from, to int) {
		for position := from; position < to; position++ {
			f(position*size, (position+1)*size)
		}
	})
}

// sum lets the workers call add for all positions, with the sums of the position's block and the bounds of its numbers,
// and returns the two sums of each channel.
func (l *norm) sum(p pass, add func(sums []float64, lo, hi int)) func(c int) (first, second float64) {
	positions, size, width := l.v.In.H*l.v.In.W, l.v.In.C*p.n, l.v.In.C*2*kernel.Lanes
	p.pool.Run(normBlocks, func(_, from, to int) {
		for block := from; block < to; block++ {
			sums := l.sums[block*width : (block+1)*width]
			clear(sums)
			for at := positions * block / normBlocks; at < positions*(block+1)/normBlocks; at++ {
				add(sums, at*size, (at+1)*size)
			}
		}
	})
	return func(c int) (first, second float64) {
		for block := range normBlocks {
			for lane := range kernel.Lanes {
				at := block*width + c*2*kernel.Lanes + lane
				first += l.sums[at]
				second += l.sums[at+kernel.Lanes]
			}
		}
		return first, second
	}
}

// inverse is 1/√(var+ε).
func (l *norm) inverse(variance float64) float64 { return 1 / math.Sqrt(variance+l.Eps) }

func (l *norm) forward(p pass) {
	x, y := l.in(p, 0), p.out(l.node)
	if p.train {
		l.setMoments(p, x)
	}
	for c := range l.affine {
		mean, variance := float64(l.mean.value[c]), float64(l.variance.value[c])
		if p.train {
			mean, variance = l.batchMean[c], l.batchVar[c]
		}
		l.affine[c] = kernel.Affine{
			Centre: float32(mean), Scale: float32(float64(l.gain.value[c]) * l.inverse(variance)), Shift: l.shift.value[c],
		}
	}
	l.eachPosition(p, func(lo, hi int) {
		p.kernels.Normalise(y[lo:hi], x[lo:hi], l.affine, p.n, l.rectified && !p.unfused)
	})
}

// setMoments computes mean and variance of every channel: Σx/m and Σx²/m - mean², whose cancellation float64 bears up to
// means of some 10^6 standard deviations.
func (l *norm) setMoments(p pass, x []float32) {
	sums := l.sum(p, func(sums []float64, lo, hi int) { p.kernels.MomentSums(sums, x[lo:hi], l.v.In.C, p.n) })
	m := l.count(p.n)
	for c := range l.batchMean {
		s, q := sums(c)
		mean := s / m
		l.batchMean[c] = mean
		l.batchVar[c] = max(0, q/m-mean*mean) // NaN stays
	}
}

// backward: with x̂ the normalised input and h the gradient behind the rectifier, dx = gain/√(var+ε) · (h - mean(h) -
// x̂·mean(h·x̂)).
func (l *norm) backward(p pass) {
	x, g := l.in(p, 0), p.grad(l.node)
	dx, m := p.inGrad(l.node, 0)
	for c := range l.gradient {
		l.gradient[c].Affine = l.affine[c]
	}
	sums := l.sum(p, func(sums []float64, lo, hi int) {
		p.kernels.GradientSums(sums, g[lo:hi], x[lo:hi], l.gradient, p.n, l.rectified)
	})
	n := l.count(p.n)
	for c := range l.gradient {
		s, q := sums(c)
		k, inverse := &l.gradient[c], l.inverse(l.batchVar[c])
		q -= s * float64(k.Centre) // Σ h·(x-centre)
		l.shift.grad[c] = float32(s)
		l.gain.grad[c] = float32(q * inverse)
		k.Mean, k.Slope = float32(s/n), float32(q*inverse*inverse/n)
	}
	l.eachPosition(p, func(lo, hi int) {
		p.kernels.NormaliseGradient(dx[lo:hi], g[lo:hi], x[lo:hi], l.gradient, p.n, l.rectified, m == accumulate)
	})
}

// moveStatistics moves the running statistics of every batch norm towards the batch's, the variance made unbiased.
func (e *engine) moveStatistics(p pass) {
	for _, l := range e.layers {
		b, ok := l.(*norm)
		if !ok {
			continue
		}
		m := b.count(p.n)
		for c := range b.batchMean {
			move := func(v *float32, to float64) { *v += float32(b.Momentum * (to - float64(*v))) }
			move(&b.mean.value[c], b.batchMean[c])
			move(&b.variance.value[c], b.batchVar[c]*m/(m-1))
		}
	}
}
