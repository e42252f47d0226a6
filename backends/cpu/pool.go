package cpu

import (
	"hypnos/backends/internal/buffers"
	"hypnos/backends/internal/workers"
	"hypnos/core/net"
)

// maxPool is a max pool. The channels are shared among the workers, because windows may overlap.
type maxPool struct {
	base
	op net.MaxPool

	onForward, onBackward workers.Task
}

func newMaxPool(b base, op net.MaxPool) *maxPool {
	l := &maxPool{base: b, op: op}
	l.onForward, l.onBackward = l.forwardPart, l.backwardPart
	return l
}

// each calls f for every image's window of channels lo to hi: o is the output's index, best the winner's.
func (l *maxPool) each(x []float32, batch, lo, hi int, f func(o, best int)) {
	in, out := l.v.In, l.v.Out
	pad := (l.op.Kernel - 1) / 2
	for i := range out.H {
		rowLo, rowHi := l.op.Span(i, in.H)
		for j := range out.W {
			colLo, colHi := l.op.Span(j, in.W)
			for c := lo; c < hi; c++ {
				for b := range batch {
					best := -1
					for u := rowLo; u < rowHi; u++ {
						for v := colLo; v < colHi; v++ {
							at := (((i*l.op.Stride-pad+u)*in.W+j*l.op.Stride-pad+v)*in.C+c)*batch + b
							if best < 0 || x[at] > x[best] || x[at] != x[at] && x[best] == x[best] { // a NaN wins
								best = at
							}
						}
					}
					f(((i*out.W+j)*out.C+c)*batch+b, best)
				}
			}
		}
	}
}

func (l *maxPool) forward(p pass) {
	l.pass = p
	p.pool.Run(l.v.In.C, l.onForward)
}

func (l *maxPool) forwardPart(_, lo, hi int) {
	x, y := l.in(0), l.out(l.node)
	l.each(x, l.n, lo, hi, func(o, best int) { y[o] = x[best] })
}

func (l *maxPool) backward(p pass) {
	l.pass = p
	p.pool.Run(l.v.In.C, l.onBackward)
}

func (l *maxPool) backwardPart(_, lo, hi int) {
	g := l.grad(l.node)
	dx, m := l.inGrad(l.node, 0)
	if m == buffers.Overwrite {
		for position := range l.v.In.H * l.v.In.W {
			clear(dx[(position*l.v.In.C+lo)*l.n : (position*l.v.In.C+hi)*l.n])
		}
	}
	l.each(l.in(0), l.n, lo, hi, func(o, best int) { dx[best] += g[o] })
}

// avgPool is the mean over all positions, summed in float64.
type avgPool struct {
	base
	sums []float64 // by channel and image

	onForward, onBackward workers.Task
}

func newAvgPool(b base) *avgPool {
	l := &avgPool{base: b}
	l.onForward, l.onBackward = l.forwardPart, l.backwardPart
	return l
}

func (l *avgPool) positions() int { return l.v.In.H * l.v.In.W }

// rows is the number of values at a position.
func (l *avgPool) rows() int { return l.v.In.C * l.n }

func (l *avgPool) forward(p pass) {
	l.pass = p
	if len(l.sums) < l.rows() {
		l.sums = make([]float64, l.rows())
	}
	p.pool.Run(l.rows(), l.onForward)
}

func (l *avgPool) forwardPart(_, lo, hi int) {
	x, y := l.in(0), l.out(l.node)
	sums := l.sums[lo:hi]
	clear(sums)
	l.kernels.AddRows(sums, x[lo:], l.rows(), l.positions())
	for i, s := range sums {
		y[lo+i] = float32(s / float64(l.positions()))
	}
}

func (l *avgPool) backward(p pass) {
	l.pass = p
	p.pool.Run(l.positions(), l.onBackward)
}

func (l *avgPool) backwardPart(_, lo, hi int) {
	g := l.grad(l.node)
	dx, m := l.inGrad(l.node, 0)
	scale := 1 / float32(l.positions())
	for position := lo; position < hi; position++ {
		dst := dx[position*l.rows() : (position+1)*l.rows()]
		for i, v := range g {
			d := v * scale
			if m == buffers.Accumulate {
				d += dst[i]
			}
			dst[i] = d
		}
	}
}
