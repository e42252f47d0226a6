package cpu

import (
	"math"

	"hypnos/core/net"
)

// norm is a batch norm. Sums over the batch and the positions are taken in float64, row by row.
type norm struct {
	base
	net.BatchNorm
	gain, shift, mean, variance *param    // mean and variance are the running ones
	batchMean, batchVar         []float64 // of the last training pass, by channel; variance divided by m
}

func newNorm(b base, op net.BatchNorm, params []*param) *norm {
	c := b.v.In.C
	return &norm{
		base: b, BatchNorm: op, gain: params[0], shift: params[1], mean: params[2], variance: params[3],
		batchMean: make([]float64, c), batchVar: make([]float64, c),
	}
}

// eachRow calls f with the bounds of a channel's row at every position.
func (l *norm) eachRow(c, batch int, f func(lo, hi int)) {
	for position := range l.v.In.H * l.v.In.W {
		lo := (position*l.v.In.C + c) * batch
		f(lo, lo+batch)
	}
}

// count is m, the number of values a channel.
func (l *norm) count(batch int) float64 { return float64(batch * l.v.In.H * l.v.In.W) }

// setMoments computes mean and variance of channel c over the batch.
func (l *norm) setMoments(x []float32, c, batch int) {
	m, s := l.count(batch), 0.0
	l.eachRow(c, batch, func(lo, hi int) {
		for _, v := range x[lo:hi] {
			s += float64(v)
		}
	})
	mean := s / m
	s = 0
	l.eachRow(c, batch, func(lo, hi int) {
		for _, v := range x[lo:hi] {
			d := float64(v) - mean
			s += d * d
		}
	})
	l.batchMean[c], l.batchVar[c] = mean, s/m
}

// inverse is 1/√(var+ε).
func (l *norm) inverse(variance float64) float64 { return 1 / math.Sqrt(variance+l.Eps) }

func (l *norm) forward(p pass) {
	x, y := l.in(p, 0), p.out(l.node)
	p.pool.Run(l.v.In.C, func(_, lo, hi int) {
		for c := lo; c < hi; c++ {
			mean, variance := float64(l.mean.value[c]), float64(l.variance.value[c])
			if p.train {
				l.setMoments(x, c, p.n)
				mean, variance = l.batchMean[c], l.batchVar[c]
			}
			scale := float32(float64(l.gain.value[c]) * l.inverse(variance))
			centre, shift := float32(mean), l.shift.value[c]
			l.eachRow(c, p.n, func(lo, hi int) {
				dst := y[lo:hi]
				for i, v := range x[lo:hi] {
					dst[i] = (v-centre)*scale + shift
				}
			})
		}
	})
}

// backward: with x̂ the normalised input, dx = gain/√(var+ε) · (g - mean(g) - x̂·mean(g·x̂)).
func (l *norm) backward(p pass) {
	x, g := l.in(p, 0), p.grad(l.node)
	dx, m := p.inGrad(l.node, 0)
	p.pool.Run(l.v.In.C, func(_, lo, hi int) {
		for c := lo; c < hi; c++ {
			l.backwardChannel(dx, g, x, m, c, p.n)
		}
	})
}

func (l *norm) backwardChannel(dx, g, x []float32, m mode, c, batch int) {
	mean, inverse := l.batchMean[c], l.inverse(l.batchVar[c])
	centre := float32(mean)
	var sumG, sumGD float64 // of g, and of g·(x-mean)
	l.eachRow(c, batch, func(lo, hi int) {
		xs := x[lo:hi]
		for i, v := range g[lo:hi] {
			sumG += float64(v)
			sumGD += float64(v) * float64(xs[i]-centre)
		}
	})
	l.shift.grad[c] = float32(sumG)
	l.gain.grad[c] = float32(sumGD * inverse)
	n := l.count(batch)
	scale := float32(float64(l.gain.value[c]) * inverse)
	meanG, slope := float32(sumG/n), float32(sumGD*inverse*inverse/n)
	l.eachRow(c, batch, func(lo, hi int) {
		xs, gs, dst := x[lo:hi], g[lo:hi], dx[lo:hi]
		for i, v := range gs {
			d := scale * (v - meanG - (xs[i]-centre)*slope)
			if m == accumulate {
				d += dst[i]
			}
			dst[i] = d
		}
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
