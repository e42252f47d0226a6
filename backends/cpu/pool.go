package cpu

import "hypnos/core/net"

// maxPool is a max pool. The channels are shared among the workers, because windows may overlap.
type maxPool struct {
	base
	op net.MaxPool
}

// each calls f for every image's window of channels lo to hi: o is the output's index, best the winner's.
func (l maxPool) each(x []float32, batch, lo, hi int, f func(o, best int)) {
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

func (l maxPool) forward(p pass) {
	x, y := l.in(p, 0), p.out(l.node)
	p.pool.Run(l.v.In.C, func(_, lo, hi int) {
		l.each(x, p.n, lo, hi, func(o, best int) { y[o] = x[best] })
	})
}

func (l maxPool) backward(p pass) {
	x, g := l.in(p, 0), p.grad(l.node)
	dx, m := p.inGrad(l.node, 0)
	p.pool.Run(l.v.In.C, func(_, lo, hi int) {
		if m == overwrite {
			for position := range l.v.In.H * l.v.In.W {
				clear(dx[(position*l.v.In.C+lo)*p.n : (position*l.v.In.C+hi)*p.n])
			}
		}
		l.each(x, p.n, lo, hi, func(o, best int) { dx[best] += g[o] })
	})
}

// avgPool is the mean over all positions, summed in float64.
type avgPool struct{ base }

func (l avgPool) forward(p pass) {
	x, y := l.in(p, 0), p.out(l.node)
	positions, rows := l.v.In.H*l.v.In.W, l.v.In.C*p.n
	p.pool.Run(rows, func(_, lo, hi int) {
		for r := lo; r < hi; r++ {
			s := 0.0
			for position := range positions {
				s += float64(x[position*rows+r])
			}
			y[r] = float32(s / float64(positions))
		}
	})
}

func (l avgPool) backward(p pass) {
	g := p.grad(l.node)
	dx, m := p.inGrad(l.node, 0)
	positions, rows := l.v.In.H*l.v.In.W, l.v.In.C*p.n
	scale := 1 / float32(positions)
	p.pool.Run(positions, func(_, lo, hi int) {
		for position := lo; position < hi; position++ {
			dst := dx[position*rows : (position+1)*rows]
			for i, v := range g {
				d := v * scale
				if m == accumulate {
					d += dst[i]
				}
				dst[i] = d
			}
		}
	})
}
