package cpu

import (
	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core/net"
)

// window is a conv2d or lc2d layer.
type window struct {
	base
	net.Window
	kernels
	weight, bias *param // bias is nil without
}

func newWindow(b base, w net.Window, params []*param) *window {
	l := &window{base: b, Window: w, kernels: *params[0].kernels, weight: params[0]}
	if w.Bias {
		l.bias = params[1]
	}
	return l
}

// shared is the index of the weights used at an output position: 0 for a convolution.
func (l *window) shared(position int) int {
	if l.positions == 1 {
		return 0
	}
	return position
}

// block are the weights of one output position and group, (tap, cin, cout).
func (l *window) block(w []float32, position, g int) []float32 {
	size := l.taps * l.cin * l.cout
	at := (l.shared(position)*l.groups + g) * size
	return w[at : at+size]
}

// biases are those of one output position, by channel.
func (l *window) biases(b []float32, position int) []float32 {
	at := l.shared(position) * l.Out
	return b[at : at+l.Out]
}

// taps calls f for every kernel offset of output position l that falls on a real input: t is the tap, x the input
// position.
func (l *window) eachTap(position int, f func(t, x int)) {
	in, out := l.v.In, l.v.Out
	i, j := position/out.W, position%out.W
	rowLo, rowHi := l.Span(i, in.H)
	colLo, colHi := l.Span(j, in.W)
	for u := rowLo; u < rowHi; u++ {
		for v := colLo; v < colHi; v++ {
			f(u*l.Kernel+v, (i*l.Stride-l.Pad()+u)*in.W+j*l.Stride-l.Pad()+v)
		}
	}
}

// eachUse calls f for every output position y that reads input position x through tap t.
func (l *window) eachUse(x int, f func(t, y int)) {
	in, out := l.v.In, l.v.Out
	row, col := x/in.W+l.Pad(), x%in.W+l.Pad()
	for u := range l.Kernel {
		i := row - u
		if i < 0 || i%l.Stride != 0 || i/l.Stride >= out.H {
			continue
		}
		for v := range l.Kernel {
			j := col - v
			if j < 0 || j%l.Stride != 0 || j/l.Stride >= out.W {
				continue
			}
			f(u*l.Kernel+v, i/l.Stride*out.W+j/l.Stride)
		}
	}
}

func (l *window) forward(p pass) {
	x, y, w := l.in(p, 0), p.out(l.node), l.weight.value
	cin, n := l.cin, l.cout
	p.pool.Run(l.v.Out.H*l.v.Out.W, func(_, lo, hi int) {
		var rows kernel.Rows
		for position := lo; position < hi; position++ {
			dst := y[position*l.Out*p.n : (position+1)*l.Out*p.n]
			l.setBias(dst, position, p.n)
			for g := range l.groups {
				rows.X, rows.W = rows.X[:0], rows.W[:0]
				l.eachTap(position, func(t, at int) {
					for c := range cin {
						rows.X = append(rows.X, (at*l.v.In.C+g*cin+c)*p.n)
						rows.W = append(rows.W, (t*cin+c)*n)
					}
				})
				kernel.Forward(dst[g*n*p.n:(g+1)*n*p.n], x, l.block(w, position, g), rows, n, p.n)
			}
		}
	})
}

// setBias fills y (channels, B) of one position with the biases, or with 0.
func (l *window) setBias(y []float32, position, n int) {
	clear(y)
	if l.bias == nil {
		return
	}
	for c, v := range l.biases(l.bias.value, position) {
		fill(y[c*n:(c+1)*n], v)
	}
}

func fill(xs []float32, v float32) {
	for i := range xs {
		xs[i] = v
	}
}

func (l *window) backward(p pass) {
	l.weightGradient(p)
	if l.bias != nil {
		l.biasGradient(p)
	}
	if !(p.skipInput && l.v.Inputs[0] == 0) {
		l.inputGradient(p)
	}
}

// weightGradient sets the gradient of the weights. The rows (group, tap, cin) of a convolution are shared among the
// workers, each going over all positions in order; the positions of a locally connected layer are.
func (l *window) weightGradient(p pass) {
	x, dy, dw := l.in(p, 0), p.grad(l.node), l.weight.grad
	positions := l.v.Out.H * l.v.Out.W
	if l.positions > 1 || positions == 1 {
		p.pool.Run(positions, func(_, lo, hi int) {
			for position := lo; position < hi; position++ {
				for g := range l.groups {
					clear(l.block(dw, position, g))
				}
				l.addRows(dw, x, dy, position, 0, l.groups*l.taps*l.cin, p.n)
			}
		})
		return
	}
	p.pool.Run(l.groups*l.taps*l.cin, func(_, lo, hi int) {
		clear(dw[lo*l.cout : hi*l.cout])
		for position := range positions {
			l.addRows(dw, x, dy, position, lo, hi, p.n)
		}
	})
}

// addRows adds one output position's share to rows lo to hi, counted over (group, tap, cin), of its weights' gradient.
func (l *window) addRows(dw, x, dy []float32, position, lo, hi, batch int) {
	cin, n := l.cin, l.cout
	l.eachTap(position, func(t, at int) {
		for g := range l.groups {
			first := (g*l.taps + t) * cin
			from, to := max(lo, first)-first, min(hi, first+cin)-first
			if from >= to {
				continue
			}
			kernel.WeightGradient(
				l.block(dw, position, g)[(t*cin+from)*n:],
				x[(at*l.v.In.C+g*cin+from)*batch:],
				dy[(position*l.Out+g*n)*batch:],
				to-from, n, n, batch)
		}
	})
}

// biasGradient sets the gradient of the biases: dy summed over the batch, and over the positions that share them.
func (l *window) biasGradient(p pass) {
	dy, db := p.grad(l.node), l.bias.grad
	p.pool.Run(l.Out, func(_, lo, hi int) {
		for c := lo; c < hi; c++ {
			for i := c; i < len(db); i += l.Out {
				db[i] = 0
			}
			for position := range l.v.Out.H * l.v.Out.W {
				at := (position*l.Out + c) * p.n
				l.biases(db, position)[c] += sum(dy[at : at+p.n])
			}
		}
	})
}

func sum(xs []float32) (s float32) {
	for _, x := range xs {
		s += x
	}
	return s
}

func (l *window) inputGradient(p pass) {
	dx, m := p.inGrad(l.node, 0)
	dy, w := p.grad(l.node), l.weight.value
	cin, n := l.cin, l.cout
	p.pool.Run(l.v.In.H*l.v.In.W, func(_, lo, hi int) {
		for at := lo; at < hi; at++ {
			dst := dx[at*l.v.In.C*p.n : (at+1)*l.v.In.C*p.n]
			if m == overwrite {
				clear(dst)
			}
			l.eachUse(at, func(t, position int) {
				for g := range l.groups {
					kernel.InputGradient(
						dst[g*cin*p.n:(g+1)*cin*p.n],
						dy[(position*l.Out+g*n)*p.n:],
						l.block(w, position, g)[t*cin*n:],
						cin, n, n, p.n)
				}
			})
		}
	})
}
