package cpu

// relu is max(x, 0), in place where the plan says so.
type relu struct {
	base
	fused bool // the batch norm before it does the work
}

func (l *relu) forward(p pass) {
	if l.fused && !p.unfused {
		return
	}
	x, y := l.in(p, 0), p.out(l.node)
	p.pool.Run(len(x), func(_, lo, hi int) { p.kernels.Rectify(y[lo:hi], x[lo:hi]) })
}

func (l *relu) backward(p pass) {
	if l.fused {
		return
	}
	y, g := p.out(l.node), p.grad(l.node)
	dx, m := p.inGrad(l.node, 0)
	p.pool.Run(len(y), func(_, lo, hi int) {
		p.kernels.RectifyGradient(dx[lo:hi], g[lo:hi], y[lo:hi], m == accumulate)
	})
}

// add is the sum of two activations, in place where the plan says so.
type add struct{ base }

func (l add) forward(p pass) {
	a, b, y := l.in(p, 0), l.in(p, 1), p.out(l.node)
	p.pool.Run(len(y), func(_, lo, hi int) { p.kernels.Sum(y[lo:hi], a[lo:hi], b[lo:hi]) })
}

// backward: both inputs get the gradient. The one that takes over the buffer has it already.
func (l add) backward(p pass) {
	g := p.grad(l.node)
	for i := range l.v.Inputs {
		dx, m := p.inGrad(l.node, i)
		p.pool.Run(len(g), func(_, lo, hi int) {
			switch m {
			case overwrite:
				copy(dx[lo:hi], g[lo:hi])
			case accumulate:
				p.kernels.Sum(dx[lo:hi], dx[lo:hi], g[lo:hi])
			}
		})
	}
}
