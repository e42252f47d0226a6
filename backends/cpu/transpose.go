package cpu

import (
	"hypnos/backends/internal/buffers"
	"hypnos/backends/internal/workers"
)

// transpose exchanges positions and channels. The batch is innermost, so that it moves rows of B numbers.
type transpose struct {
	base

	onForward, onBackward workers.Task
}

func newTranspose(b base) *transpose {
	l := &transpose{base: b}
	l.onForward, l.onBackward = l.forwardPart, l.backwardPart
	return l
}

// each calls f for every row of output positions lo…hi-1: to is its place in the output, from in the input.
func (l *transpose) each(lo, hi int, f func(to, from int)) {
	in, out := l.v.In, l.v.Out
	for position := lo; position < hi; position++ {
		for c := range out.C {
			f((position*out.C+c)*l.n, (c*in.C+position)*l.n)
		}
	}
}

func (l *transpose) forward(p pass) {
	l.pass = p
	p.pool.Run(l.v.Out.H*l.v.Out.W, l.onForward)
}

func (l *transpose) forwardPart(_, lo, hi int) {
	x, y := l.in(0), l.out(l.node)
	l.each(lo, hi, func(to, from int) { copy(y[to:to+l.n], x[from:from+l.n]) })
}

func (l *transpose) backward(p pass) {
	l.pass = p
	p.pool.Run(l.v.Out.H*l.v.Out.W, l.onBackward)
}

func (l *transpose) backwardPart(_, lo, hi int) {
	g := l.grad(l.node)
	dx, m := l.inGrad(l.node, 0)
	l.each(lo, hi, func(to, from int) {
		row := dx[from : from+l.n]
		if m == buffers.Accumulate {
			l.kernels.Sum(row, row, g[to:to+l.n])
		} else {
			copy(row, g[to:to+l.n])
		}
	})
}
