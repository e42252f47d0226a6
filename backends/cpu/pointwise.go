package cpu

import (
	"hypnos/backends/internal/buffers"
	"hypnos/backends/internal/workers"
)

// relu is max(x, 0), in place where the plan says so.
type relu struct {
	base
	fused bool // the batch norm before it does the work

	onForward, onBackward workers.Task
}

func newReLU(b base) *relu {
	l := &relu{base: b}
	l.onForward, l.onBackward = l.forwardPart, l.backwardPart
	return l
}

func (l *relu) forward(p pass) {
	if l.fused && !p.unfused {
		return
	}
	l.pass = p
	p.pool.Run(len(l.in(0)), l.onForward)
}

func (l *relu) forwardPart(_, lo, hi int) {
	l.kernels.Rectify(l.out(l.node)[lo:hi], l.in(0)[lo:hi])
}

func (l *relu) backward(p pass) {
	if l.fused {
		return
	}
	l.pass = p
	p.pool.Run(len(l.out(l.node)), l.onBackward)
}

func (l *relu) backwardPart(_, lo, hi int) {
	dx, m := l.inGrad(l.node, 0)
	l.kernels.RectifyGradient(dx[lo:hi], l.grad(l.node)[lo:hi], l.out(l.node)[lo:hi], m == buffers.Accumulate)
}

// add is the sum of two activations, in place where the plan says so.
type add struct {
	base

	onForward, onBackward workers.Task
}

func newAdd(b base) *add {
	l := &add{base: b}
	l.onForward, l.onBackward = l.forwardPart, l.backwardPart
	return l
}

func (l *add) forward(p pass) {
	l.pass = p
	p.pool.Run(len(l.out(l.node)), l.onForward)
}

func (l *add) forwardPart(_, lo, hi int) {
	l.kernels.Sum(l.out(l.node)[lo:hi], l.in(0)[lo:hi], l.in(1)[lo:hi])
}

// backward: both inputs get the gradient. The one that takes over the buffer has it already.
func (l *add) backward(p pass) {
	l.pass = p
	p.pool.Run(len(l.grad(l.node)), l.onBackward)
}

func (l *add) backwardPart(_, lo, hi int) {
	g := l.grad(l.node)[lo:hi]
	for i := range l.v.Inputs {
		switch dx, m := l.inGrad(l.node, i); m {
		case buffers.Overwrite:
			copy(dx[lo:hi], g)
		case buffers.Accumulate:
			l.kernels.Sum(dx[lo:hi], dx[lo:hi], g)
		}
	}
}
