package cpu

import (
	"math"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/internal/buffers"
	"hypnos/backends/internal/workers"
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
	scale, offset               []float32 // the same as scale·x + offset, for single images
	gradient                    []kernel.Gradient
	sums                        []float64 // by block, channel, sum and lane
	rectified                   bool      // a rectifier follows

	onMoments, onNormalise, onGradientSums, onGradient workers.Task
}

// normBlocks is the number of blocks of positions that are summed separately.
const normBlocks = 16

func newNorm(b base, op net.BatchNorm, params []*param) *norm {
	c := b.v.In.C
	l := &norm{
		base: b, BatchNorm: op, gain: params[0], shift: params[1], mean: params[2], variance: params[3],
		batchMean: make([]float64, c), batchVar: make([]float64, c),
		affine: make([]kernel.Affine, c), scale: make([]float32, c), offset: make([]float32, c), gradient: make([]kernel.Gradient, c),
		sums: make([]float64, normBlocks*c*2*kernel.Lanes),
	}
	l.onMoments, l.onNormalise = l.momentsPart, l.normalisePart
	l.onGradientSums, l.onGradient = l.gradientSumsPart, l.gradientPart
	return l
}

// count is m, the number of values a channel.
func (l *norm) count(batch int) float64 { return float64(batch * l.positions()) }

func (l *norm) positions() int { return l.v.In.H * l.v.In.W }

// bounds are those of the numbers of positions lo…hi-1.
func (l *norm) bounds(lo, hi int) (from, to int) {
	size := l.v.In.C * l.n
	return lo * size, hi * size
}

// block is the part of the sums that belongs to a block of positions, cleared, and the block's bounds.
func (l *norm) block(i int) (sums []float64, lo, hi int) {
	width := l.v.In.C * 2 * kernel.Lanes
	sums = l.sums[i*width : (i+1)*width]
	clear(sums)
	return sums, l.positions() * i / normBlocks, l.positions() * (i + 1) / normBlocks
}

// totals are the two sums of a channel over all blocks and lanes.
func (l *norm) totals(c int) (first, second float64) {
	for block := range normBlocks {
		sums := l.sums[(block*l.v.In.C+c)*2*kernel.Lanes:][:2*kernel.Lanes]
		first += lanes(sums[:kernel.Lanes])
		second += lanes(sums[kernel.Lanes:])
	}
	return first, second
}

// lanes adds up the parts of a sum, in pairs, which do not wait for each other.
func lanes(s []float64) float64 {
	_ = s[kernel.Lanes-1]
	return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
}

// inverse is 1/√(var+ε).
func (l *norm) inverse(variance float64) float64 { return 1 / math.Sqrt(variance+l.Eps) }

func (l *norm) forward(p pass) {
	l.pass = p
	if p.train {
		p.pool.Run(normBlocks, l.onMoments)
		l.setMoments()
	}
	l.setAffine()
	p.pool.Run(l.positions(), l.onNormalise)
}

// setAffine makes a pass's coefficients, of the batch's statistics in training and of the running ones otherwise.
func (l *norm) setAffine() {
	for c := range l.affine {
		mean, variance := float64(l.mean.value[c]), float64(l.variance.value[c])
		if l.train {
			mean, variance = l.batchMean[c], l.batchVar[c]
		}
		scale := float64(l.gain.value[c]) * l.inverse(variance)
		l.affine[c] = kernel.Affine{Centre: float32(mean), Scale: float32(scale), Shift: l.shift.value[c]}
		l.scale[c], l.offset[c] = float32(scale), float32(float64(l.shift.value[c])-mean*scale)
	}
}

func (l *norm) normalisePart(_, lo, hi int) {
	x, y := l.in(0), l.out(l.node)
	for position := lo; position < hi; position++ {
		from, to := l.bounds(position, position+1)
		l.kernels.Normalise(y[from:to], x[from:to], l.affine, l.n, l.rectified && !l.unfused)
	}
}

func (l *norm) momentsPart(_, lo, hi int) {
	x := l.in(0)
	for i := lo; i < hi; i++ {
		sums, first, last := l.block(i)
		for position := first; position < last; position++ {
			from, to := l.bounds(position, position+1)
			l.kernels.MomentSums(sums, x[from:to], l.v.In.C, l.n)
		}
	}
}

// setMoments computes mean and variance of every channel: Σx/m and Σx²/m - mean², whose cancellation float64 bears up to
// means of some 10^6 standard deviations.
func (l *norm) setMoments() {
	m := l.count(l.n)
	for c := range l.batchMean {
		s, q := l.totals(c)
		mean := s / m
		l.batchMean[c] = mean
		l.batchVar[c] = max(0, q/m-mean*mean) // NaN stays
	}
}

// backward: with x̂ the normalised input and h the gradient behind the rectifier, dx = gain/√(var+ε) · (h - mean(h) -
// x̂·mean(h·x̂)).
func (l *norm) backward(p pass) {
	l.pass = p
	for c := range l.gradient {
		l.gradient[c].Affine = l.affine[c]
	}
	p.pool.Run(normBlocks, l.onGradientSums)
	n := l.count(p.n)
	for c := range l.gradient {
		s, q := l.totals(c)
		k, inverse := &l.gradient[c], l.inverse(l.batchVar[c])
		q -= s * float64(k.Centre) // Σ h·(x-centre)
		l.shift.grad[c] = float32(s)
		l.gain.grad[c] = float32(q * inverse)
		k.Mean, k.Slope = float32(s/n), float32(q*inverse*inverse/n)
	}
	p.pool.Run(l.positions(), l.onGradient)
}

func (l *norm) gradientSumsPart(_, lo, hi int) {
	x, g := l.in(0), l.grad(l.node)
	for i := lo; i < hi; i++ {
		sums, first, last := l.block(i)
		for position := first; position < last; position++ {
			from, to := l.bounds(position, position+1)
			l.kernels.GradientSums(sums, g[from:to], x[from:to], l.gradient, l.n, l.rectified)
		}
	}
}

func (l *norm) gradientPart(_, lo, hi int) {
	x, g := l.in(0), l.grad(l.node)
	dx, m := l.inGrad(l.node, 0)
	for position := lo; position < hi; position++ {
		from, to := l.bounds(position, position+1)
		l.kernels.NormaliseGradient(dx[from:to], g[from:to], x[from:to], l.gradient, l.n, l.rectified, m == buffers.Accumulate)
	}
}

// moveStatistics moves the running statistics of every batch norm that learns towards the batch's, the variance made unbiased.
func (e *engine) moveStatistics(p pass) {
	for i, l := range e.layers {
		b, ok := l.(*norm)
		if !ok || !e.learns[i] {
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
