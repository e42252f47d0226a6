package cpu

// relu is max(x, 0), in place where the plan says so.
type relu struct{ base }

func (l relu) forward(p pass) {
	x, y := l.in(p, 0), p.out(l.node)
	p.pool.Run(len(x), func(_, lo, hi int) {
		dst := y[lo:hi]
		for i, v := range x[lo:hi] {
			if v <= 0 { // false for NaN, which passes
				v = 0
			}
			dst[i] = v
		}
	})
}

func (l relu) backward(p pass) {
	y, g := p.out(l.node), p.grad(l.node)
	dx, m := p.inGrad(l.node, 0)
	p.pool.Run(len(y), func(_, lo, hi int) {
		gs, dst := g[lo:hi], dx[lo:hi]
		for i, v := range y[lo:hi] {
			d := gs[i]
			if !(v > 0) {
				d = 0
			}
			if m == accumulate {
				d += dst[i]
			}
			dst[i] = d
		}
	})
}

// add is the sum of two activations, in place where the plan says so.
type add struct{ base }

func (l add) forward(p pass) {
	a, b, y := l.in(p, 0), l.in(p, 1), p.out(l.node)
	p.pool.Run(len(y), func(_, lo, hi int) {
		bs, dst := b[lo:hi], y[lo:hi]
		for i, v := range a[lo:hi] {
			dst[i] = v + bs[i]
		}
	})
}

// backward: both inputs get the gradient. The one that takes over the buffer has it already.
func (l add) backward(p pass) {
	g := p.grad(l.node)
	for i := range l.v.Inputs {
		dx, m := p.inGrad(l.node, i)
		p.pool.Run(len(g), func(_, lo, hi int) {
			dst := dx[lo:hi]
			switch m {
			case overwrite:
				copy(dst, g[lo:hi])
			case accumulate:
				for i, v := range g[lo:hi] {
					dst[i] += v
				}
			}
		})
	}
}
