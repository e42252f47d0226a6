//go:build cuda && cgo && linux && amd64

package cuda

import (
	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/backends/internal/buffers"
	"hypnos/core/net"
)

func (e *engine) newLayer(i int, v net.Node) layer {
	b := base{i, v}
	switch op := v.Op.(type) {
	case net.Conv2D:
		return newWindow(e, b, op.Window, false)
	case net.LC2D:
		return newWindow(e, b, op.Window, true)
	case net.Linear:
		return newWindow(e, b, linear(op), false)
	case net.BatchNorm:
		return newNorm(e, b, op)
	case net.ReLU:
		return &relu{b, e.plan.rectified(v.Inputs[0]) == i}
	case net.Add:
		return add{b}
	case net.MaxPool:
		return maxPool{b, op}
	case net.GlobalAvgPool:
		return averagePool{b}
	case net.Transpose:
		return transpose{b}
	default:
		return input{}
	}
}

// base is what every layer knows: its place.
type base struct {
	node int
	v    net.Node
}

// in is where the layer's i-th input lies.
func (b base) in(p pass, i int) driver.Ptr { return p.out(b.v.Inputs[i]) }

func adds(m buffers.Mode) int {
	if m == buffers.Accumulate {
		return 1
	}
	return 0
}

// input is the network's first node; its activation is there before the pass.
type input struct{}

func (input) forward(pass)  {}
func (input) backward(pass) {}

// relu is max(x, 0), in place where the plan says so.
type relu struct {
	base
	gated bool // the batch norm before it gates its gradient
}

func (l *relu) forward(p pass) {
	n := p.numbers(l.v.Out)
	p.launch("relu_forward_"+p.element(), kernels.Elements(n), l.in(p, 0), p.out(l.node), n)
}

func (l *relu) backward(p pass) {
	dx, m, wanted := p.inGrad(l.node, 0)
	if l.gated || !wanted {
		return
	}
	n := p.numbers(l.v.Out)
	p.launch("relu_backward_"+p.element(), kernels.Elements(n), p.out(l.node), p.grad(l.node), dx, adds(m), n)
}

// add is the sum of two activations, in place where the plan says so.
type add struct{ base }

func (l add) forward(p pass) {
	n := p.numbers(l.v.Out)
	p.launch("add_forward_"+p.element(), kernels.Elements(n), l.in(p, 0), l.in(p, 1), p.out(l.node), 0, n)
}

// backward: both inputs get the gradient. The one that takes over the buffer has it already.
func (l add) backward(p pass) {
	n := p.numbers(l.v.Out)
	for i := range l.v.Inputs {
		if dx, m, wanted := p.inGrad(l.node, i); wanted && m != buffers.HandOn {
			p.launch("add_backward_"+p.element(), kernels.Elements(n), p.grad(l.node), dx, adds(m), n)
		}
	}
}

// maxPool is a max pool. Which input won is found again on the way back.
type maxPool struct {
	base
	op net.MaxPool
}

func (l maxPool) forward(p pass) {
	in, out := l.v.In, l.v.Out
	p.launch("max_pool_forward_"+p.element(), kernels.Elements(p.numbers(out)), l.in(p, 0), p.out(l.node),
		p.n, in.H, in.W, in.C, out.H, out.W, l.op.Kernel, l.op.Stride, (l.op.Kernel-1)/2)
}

func (l maxPool) backward(p pass) {
	in, out := l.v.In, l.v.Out
	if dx, m, wanted := p.inGrad(l.node, 0); wanted {
		p.launch("max_pool_backward_"+p.element(), kernels.Elements(p.numbers(in)), l.in(p, 0), p.grad(l.node), dx, adds(m),
			p.n, in.H, in.W, in.C, out.H, out.W, l.op.Kernel, l.op.Stride, (l.op.Kernel-1)/2)
	}
}

// averagePool is the mean over all positions.
type averagePool struct{ base }

func (l averagePool) forward(p pass) {
	in := l.v.In
	p.launch("average_pool_forward_"+p.element(), kernels.Elements(p.numbers(l.v.Out)), l.in(p, 0), p.out(l.node), p.n, in.H*in.W, in.C)
}

func (l averagePool) backward(p pass) {
	in := l.v.In
	if dx, m, wanted := p.inGrad(l.node, 0); wanted {
		p.launch("average_pool_backward_"+p.element(), kernels.Elements(p.numbers(in)), p.grad(l.node), dx, adds(m), p.n, in.H*in.W, in.C)
	}
}

// transpose exchanges positions and channels.
type transpose struct{ base }

func (l transpose) forward(p pass) { l.exchange(p, l.in(p, 0), p.out(l.node), 0, l.v.In) }

func (l transpose) backward(p pass) {
	if dx, m, wanted := p.inGrad(l.node, 0); wanted {
		l.exchange(p, p.grad(l.node), dx, adds(m), l.v.Out)
	}
}

// exchange brings an activation of a shape to the other one.
func (l transpose) exchange(p pass, x, y driver.Ptr, add int, from net.Shape) {
	positions := from.H * from.W
	p.launch("transpose_"+p.element(), kernels.Transpose(p.n, positions, from.C), x, y, add, p.n, positions, from.C)
}

// norm is a batch norm, with what is fused behind it: a sum, a rectifier.
type norm struct {
	base
	net.BatchNorm
	fusion                      buffers.Fusion
	gated                       bool     // its gradient is that behind the rectifier
	gain, shift, mean, variance *param   // mean and variance are the running ones
	places                      normRoom // in device memory
}

// normRoom is where a batch norm's numbers of a pass lie: moments (2, C) of double, affine (3, C) and coefficients (2, C) of
// float32.
type normRoom struct{ moments, affine, coefficients driver.Ptr }

// normBytes is the room that a batch norm of so many channels takes.
func normBytes(channels int) int64 { return padded(int64(channels) * (2*8 + 3*4 + 2*4)) }

func newNorm(e *engine, b base, op net.BatchNorm) *norm {
	q, c := e.plan.byNode[b.node], driver.Ptr(b.v.In.C)
	at := e.norms + driver.Ptr(e.plan.normAt[b.node])
	return &norm{
		base: b, BatchNorm: op, fusion: e.plan.then[b.node], gated: e.plan.rectified(b.node) >= 0,
		gain: q[0], shift: q[1], mean: q[2], variance: q[3], places: normRoom{at, at + 16*c, at + 28*c},
	}
}

// rectified is the rectifier that gates the gradient of a batch norm: that follows it at once and that nothing else reads before.
func (p *plan) rectified(node int) int {
	if f := p.then[node]; f.Norm == node && f.ReLU && f.Other == buffers.None {
		return f.Last
	}
	return buffers.None
}

// rows is the number of values a channel.
func (l *norm) rows(p pass) int64 { return int64(p.n) * int64(l.v.In.H*l.v.In.W) }

func (l *norm) sums(p pass) kernels.Launch {
	return kernels.NormSums(l.rows(p), l.v.In.C, int(p.precision.elementSize()))
}

func (l *norm) forward(p pass) {
	c, rows, size := l.v.In.C, l.rows(p), l.sums(p)
	if p.train {
		p.launch("norm_sums_"+p.element(), size, l.in(p, 0), p.scratch, rows, c)
		p.launch("norm_statistics", kernels.NormTotals(c), p.scratch, size.Grid[0], rows, c, l.Eps, p.value(l.gain), p.value(l.shift),
			l.places.moments, l.places.affine)
	} else {
		p.launch("norm_running", kernels.Channels(c), p.value(l.mean), p.value(l.variance), c, l.Eps, p.value(l.gain), p.value(l.shift), l.places.affine)
	}
	to, residual, rectify := l.node, driver.Ptr(0), 0
	if !p.unfused {
		to = l.fusion.Last
		if l.fusion.Other != buffers.None {
			residual = p.out(l.fusion.Other)
		}
		if l.fusion.ReLU {
			rectify = 1
		}
	}
	p.launch("norm_forward_"+p.element(), kernels.Elements(rows*int64(c)), l.in(p, 0), l.places.affine, residual, p.out(to), rectify, rows, c)
}

func (l *norm) backward(p pass) {
	c, rows, size := l.v.In.C, l.rows(p), l.sums(p)
	gate, rectified := driver.Ptr(0), 0
	if l.gated {
		gate, rectified = p.out(l.fusion.Last), 1
	}
	x, dy := l.in(p, 0), p.grad(l.node)
	p.launch("norm_gradient_sums_"+p.element(), size, dy, x, gate, rectified, l.places.affine, p.scratch, rows, c)
	p.launch("norm_gradient", kernels.NormTotals(c), p.scratch, size.Grid[0], rows, c, l.Eps, l.places.moments, l.places.affine,
		p.gradient(l.gain), p.gradient(l.shift), l.places.coefficients, p.outcome, l.node)
	if dx, m, wanted := p.inGrad(l.node, 0); wanted {
		p.launch("norm_backward_"+p.element(), kernels.Elements(rows*int64(c)), dy, x, gate, rectified, l.places.affine, l.places.coefficients,
			dx, adds(m), rows, c)
	}
}

// move moves the running statistics towards the batch's.
func (l *norm) move(p pass) {
	c := l.v.In.C
	p.launch("norm_move", kernels.Channels(c), l.places.moments, l.rows(p), c, l.Momentum, p.value(l.mean), p.value(l.variance),
		p.outcome, flags(len(p.net.Nodes)))
}
