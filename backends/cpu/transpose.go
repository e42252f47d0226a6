package cpu

// transpose exchanges positions and channels. The batch is innermost, so that it moves rows of B numbers.
type transpose struct{ base }

// each lets the workers call f for every row: to is its place in the output, from in the input.
func (l transpose) each(p pass, f func(to, from int)) {
	in, out := l.v.In, l.v.Out
	p.pool.Run(out.H*out.W, func(_, lo, hi int) {
		for position := lo; position < hi; position++ {
			for c := range out.C {
				f((position*out.C+c)*p.n, (c*in.C+position)*p.n)
			}
		}
	})
}

func (l transpose) forward(p pass) {
	x, y := l.in(p, 0), p.out(l.node)
	l.each(p, func(to, from int) { copy(y[to:to+p.n], x[from:from+p.n]) })
}

func (l transpose) backward(p pass) {
	g := p.grad(l.node)
	dx, m := p.inGrad(l.node, 0)
	l.each(p, func(to, from int) {
		row := dx[from : from+p.n]
		if m == accumulate {
			p.kernels.Sum(row, row, g[to:to+p.n])
		} else {
			copy(row, g[to:to+p.n])
		}
	})
}
