//go:build cuda && cgo && linux && amd64

package cuda

import (
	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/core/net"
)

// window is a locally connected layer, a convolution or a linear layer.
type window struct {
	base
	geometry     kernels.Window // of the largest batch
	weight, bias *param         // bias nil: none
}

func newWindow(e *engine, b base, w net.Window, located bool) *window {
	l := &window{base: b, geometry: windowOf(b.v, w, located, e.opt.MaxBatch)}
	q := e.plan.byNode[b.node]
	l.weight = q[0]
	if w.Bias {
		l.bias = q[1]
	}
	return l
}

// windowOf is the geometry of a layer's products.
func windowOf(v net.Node, w net.Window, located bool, batch int) kernels.Window {
	g := kernels.Window{
		B: batch, H: v.In.H, W: v.In.W, Cin: v.In.C, Ho: v.Out.H, Wo: v.Out.W, Cout: v.Out.C,
		K: w.Kernel, Stride: w.Stride, Pad: w.Pad(), Groups: w.Groups,
	}
	if located {
		g.WeightStep = int64(w.Out) * int64(w.Kernel*w.Kernel*v.In.C/w.Groups)
		if w.Bias {
			g.BiasStep = int64(w.Out)
		}
	}
	return g
}

// windowOfNode is windowOf for a node; ok is false for others.
func windowOfNode(v net.Node, batch int) (g kernels.Window, ok bool) {
	switch op := v.Op.(type) {
	case net.Conv2D:
		return windowOf(v, op.Window, false, batch), true
	case net.LC2D:
		return windowOf(v, op.Window, true, batch), true
	case net.Linear:
		return windowOf(v, linear(op), false, batch), true
	}
	return g, false
}

// linear is a linear layer as a convolution on one position.
func linear(op net.Linear) net.Window {
	return net.Window{Out: op.Out, Kernel: 1, Stride: 1, Groups: 1, Bias: true}
}

// with is the geometry of a pass.
func (l *window) with(p pass) kernels.Window {
	g := l.geometry
	g.B = p.n
	return g
}

// products launches a kernel of the family, whose last arguments are the geometry.
func (e *engine) products(name string, size kernels.Launch, g kernels.Window, args ...any) {
	e.launch(name, size, append(args, g.B, g.H, g.W, g.Cin, g.Ho, g.Wo, g.Cout, g.K, g.Stride, g.Pad, g.Groups, g.WeightStep, g.BiasStep)...)
}

// tiles launches the kernel of the engine's precision for a tile.
func (e *engine) tiles(name string, g kernels.Window, size kernels.Launch, t kernels.Tile, args ...any) {
	e.products(name+"_"+string(e.precision)+"_"+t.String(), size, g, args...)
}

func (l *window) forward(p pass) {
	g, bias := l.with(p), driver.Ptr(0)
	if l.bias != nil {
		bias = p.value(l.bias)
	}
	size, tile := g.Forward()
	p.tiles("window_forward", g, size, tile, l.in(p, 0), p.value(l.weight), bias, p.out(l.node))
}

func (l *window) backward(p pass) {
	g := l.with(p)
	l.weightGradient(p, g, l.in(p, 0), p.grad(l.node))
	if l.bias != nil {
		p.products("window_bias_gradient_"+p.element(), g.BiasGradient(), g, p.grad(l.node), p.gradient(l.bias), p.outcome, l.node)
	}
	dx, m, wanted := p.inGrad(l.node, 0)
	switch {
	case !wanted:
	case p.errors != 0:
		p.broadcastError(p, l, dx, adds(m))
	default:
		size, tile := g.InputGradient()
		p.tiles("window_input_gradient", g, size, tile, p.grad(l.node), p.value(l.weight), dx, adds(m))
	}
}

func (l *window) weightGradient(p pass, g kernels.Window, x, dy driver.Ptr) {
	dw, parts := p.gradient(l.weight), g.Parts()
	size, tile := g.WeightGradient()
	if g.WeightStep > 0 {
		p.tiles("window_weight_gradient", g, size, tile, x, dy, dw, parts, p.outcome, l.node)
		return
	}
	p.tiles("window_weight_gradient", g, size, tile, x, dy, p.scratch, parts, driver.Ptr(0), 0)
	p.launch("sum_parts", kernels.Elements(g.Weights()), p.scratch, dw, parts, g.Weights(), p.outcome, l.node)
}

// windowScratch is what the products of a layer need beside, in bytes: the parts of shared weights' gradient.
func windowScratch(g kernels.Window) int64 {
	if g.WeightStep > 0 {
		return 0
	}
	return 4 * int64(g.Parts()) * g.Weights()
}
