package cpu

import (
	"fmt"
	"math"
	"slices"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core"
	"hypnos/core/net"
)

// window is a conv2d or lc2d layer, or a linear one, which is a 1x1 convolution of one position.
//
// What a location computes is the same everywhere but for taps that fall on the padding, so that the lists of products
// are made once for each class of locations and batch size.
type window struct {
	base
	net.Window
	filters
	weight, bias *param // bias is nil without
	fields, uses classes
	batch        int              // for which the lists were made
	shares       [][]kernel.Lists // of a convolution: the products of each field whose rows a worker has
}

// classes sorts locations by what they compute.
type classes struct {
	of    []int          // class of each location
	terms [][]term       // products of each class
	lists []kernel.Lists // the same for a batch size
}

// term is one product: an activation row, counted in rows, and a weight in a tile of the given width, both relative to
// the location's.
type term struct {
	row, weight, width int
}

func newWindow(b base, w net.Window, params []*param) *window {
	l := &window{base: b, Window: w, filters: *params[0].filters, weight: params[0]}
	if w.Bias {
		l.bias = params[1]
	}
	l.fields = sortLocations(b.v.Out.H*b.v.Out.W, l.field)
	l.uses = sortLocations(b.v.In.H*b.v.In.W, l.use)
	return l
}

// sortLocations finds the classes of n locations from the products of each.
func sortLocations(n int, products func(location int) []term) classes {
	c := classes{of: make([]int, n)}
	known := map[string]int{}
	for i := range n {
		terms := products(i)
		key := fmt.Sprint(terms)
		at, ok := known[key]
		if !ok {
			at = len(c.terms)
			known[key] = at
			c.terms = append(c.terms, terms)
		}
		c.of[i] = at
	}
	return c
}

// forBatch makes the lists for a batch size.
func (c *classes) forBatch(n int) {
	c.lists = make([]kernel.Lists, len(c.terms))
	for i, terms := range c.terms {
		c.lists[i] = makeLists(terms, n)
	}
}

func makeLists(terms []term, n int) kernel.Lists {
	var full, part []kernel.Pair
	for _, t := range terms {
		pair := kernel.Pair{int32(t.row * n), int32(t.weight)}
		if t.width == kernel.Tile {
			full = append(full, pair)
		} else {
			part = append(part, pair)
		}
	}
	return kernel.Lists{Full: kernel.NewList(full), Part: kernel.NewList(part)}
}

// check returns an error when an offset does not fit the lists' 32 bits at the largest batch.
func (l *window) check(maxBatch int) error {
	for _, c := range []classes{l.fields, l.uses} {
		for _, terms := range c.terms {
			for _, t := range terms {
				if r := t.row * maxBatch; r > math.MaxInt32 || r < math.MinInt32 || t.weight > math.MaxInt32 || t.weight < math.MinInt32 {
					return fmt.Errorf("cpu: layer %q: offsets beyond 2^31 at batch size %d: %w", l.v.Name, maxBatch, core.ErrUnsupported)
				}
			}
		}
	}
	return nil
}

// centre is the input position under the middle of an output position's window; lists are relative to it.
func (l *window) centre(position int) int {
	return position/l.v.Out.W*l.Stride*l.v.In.W + position%l.v.Out.W*l.Stride
}

// nearest is the output position to which the uses of an input position are relative.
func (l *window) nearest(x int) int {
	return x/l.v.In.W/l.Stride*l.v.Out.W + x%l.v.In.W/l.Stride
}

// widths are those of a full tile and of the last one, 0 when all are full.
func (l *window) widths() []int {
	return slices.DeleteFunc([]int{kernel.Tile, l.cout % kernel.Tile}, func(w int) bool {
		return w == 0 || w == kernel.Tile && l.cout < kernel.Tile
	})
}

// field lists the receptive field of an output position: for each tap on a real input and each input channel of a
// group, the activation and the first weight of a tile.
func (l *window) field(position int) []term {
	var terms []term
	for _, width := range l.widths() {
		l.eachTap(position, func(t, x int) {
			for c := range l.cin {
				terms = append(terms, term{(x-l.centre(position))*l.v.In.C + c, (t*l.cin + c) * width, width})
			}
		})
	}
	return terms
}

// use lists where an input position is used: for each output position that reads it and each output channel of a group,
// the output gradient and the weight of the group's first input channel.
func (l *window) use(x int) []term {
	var terms []term
	l.eachUse(x, func(t, position int) {
		away := position - l.nearest(x)
		for n := range l.cout {
			first := n / kernel.Tile * kernel.Tile
			at := l.index(l.shared(position), 0, t, 0, n) - l.index(l.shared(l.nearest(x)), 0, 0, 0, 0)
			terms = append(terms, term{away*l.Out + n, at, min(kernel.Tile, l.cout-first)})
		}
	})
	return terms
}

// eachTap calls f for every kernel offset of an output position that falls on a real input: t is the tap, x the input
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

// eachUse calls f for every output position that reads input position x, through tap t.
func (l *window) eachUse(x int, f func(t, position int)) {
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

// shared is the index of the weights used at an output position: 0 for a convolution.
func (l *window) shared(position int) int {
	if l.positions == 1 {
		return 0
	}
	return position
}

// prepare makes the lists for the pass's batch size.
func (l *window) prepare(p pass) {
	if l.batch == p.n {
		return
	}
	l.batch = p.n
	l.fields.forBatch(p.n)
	if !p.opt.Train {
		return
	}
	l.uses.forBatch(p.n)
	if l.byRows() {
		l.makeShares(p)
	}
}

// byRows tells whether the workers share the rows of the weights' gradient, as for a convolution, instead of the
// positions.
func (l *window) byRows() bool { return l.positions == 1 }

// makeShares sorts the products of each field by the worker that has their row.
func (l *window) makeShares(p pass) {
	workers := p.pool.Size()
	l.shares = make([][]kernel.Lists, workers)
	for w := range workers {
		lo, hi := l.rows()*w/workers, l.rows()*(w+1)/workers
		for _, terms := range l.fields.terms {
			own := slices.DeleteFunc(slices.Clone(terms), func(t term) bool {
				row := t.weight / t.width
				return row < lo || row >= hi
			})
			l.shares[w] = append(l.shares[w], makeLists(own, p.n))
		}
	}
}

// operand is an activation or gradient with c channels at a position, from a group's first channel on.
func (p pass) operand(data []float32, c, position, first int) kernel.Operand {
	return kernel.Operand{Data: data, At: (position*c + first) * p.n}
}

// weights is the operand of the weights of an output position and group.
func (l *window) weights(w []float32, position, g int) kernel.Operand {
	return kernel.Operand{Data: w, At: l.shared(position)*l.size() + g*l.block()}
}

func (l *window) forward(p pass) {
	l.prepare(p)
	x, y := l.in(p, 0), p.out(l.node)
	p.pool.Run(l.v.Out.H*l.v.Out.W, func(_, lo, hi int) {
		for position := lo; position < hi; position++ {
			dst := y[position*l.Out*p.n : (position+1)*l.Out*p.n]
			if l.bias != nil {
				for c, v := range l.biases(l.bias.value, position) {
					fill(dst[c*p.n:(c+1)*p.n], v)
				}
			}
			for g := range l.groups {
				p.kernels.Forward(dst[g*l.cout*p.n:(g+1)*l.cout*p.n],
					p.operand(x, l.v.In.C, l.centre(position), g*l.cin), l.weights(l.weight.value, position, g),
					&l.fields.lists[l.fields.of[position]], l.rows(), l.cout, p.n, l.bias != nil)
			}
		}
	})
}

// biases are those of one output position, by channel.
func (l *window) biases(b []float32, position int) []float32 {
	at := l.shared(position) * l.Out
	return b[at : at+l.Out]
}

func fill(xs []float32, v float32) {
	for i := range xs {
		xs[i] = v
	}
}

func (l *window) backward(p pass) {
	if l.byRows() {
		l.sharedWeightGradient(p)
	} else {
		l.weightGradient(p)
	}
	if l.bias != nil {
		l.biasGradient(p)
	}
	switch {
	case p.skipInput && l.v.Inputs[0] == 0:
	case p.broadcast != nil:
		p.broadcast.inputError(p, l.base)
	default:
		l.inputGradient(p)
	}
}

// weightGradient sets the gradient of weights that no two positions share.
func (l *window) weightGradient(p pass) {
	x, dy, dw := l.in(p, 0), p.grad(l.node), l.weight.grad
	p.pool.Run(l.v.Out.H*l.v.Out.W, func(worker, lo, hi int) {
		for position := lo; position < hi; position++ {
			class := l.fields.of[position]
			if len(l.fields.terms[class]) < len(l.widths())*l.rows() { // weights on the padding have none
				clear(dw[position*l.size() : (position+1)*l.size()])
			}
			l.addWeightGradient(p, dw, x, dy, position, &l.fields.lists[class], false, worker)
			if !p.kernels.Finite(dw[position*l.size() : (position+1)*l.size()]) { // they are in the cache now
				p.spoiled[l.node].Store(true)
			}
		}
	})
}

// sharedWeightGradient sets the gradient of weights that all positions share: every worker goes over all positions in
// order, for rows of its own.
func (l *window) sharedWeightGradient(p pass) {
	x, dy, dw := l.in(p, 0), p.grad(l.node), l.weight.grad
	clear(dw)
	p.pool.Run(p.pool.Size(), func(_, from, to int) {
		for worker := from; worker < to; worker++ {
			for position := range l.v.Out.H * l.v.Out.W {
				l.addWeightGradient(p, dw, x, dy, position, &l.shares[worker][l.fields.of[position]], true, worker)
			}
		}
	})
	if !p.kernels.Finite(dw) {
		p.spoiled[l.node].Store(true)
	}
}

func (l *window) addWeightGradient(p pass, dw, x, dy []float32, position int, lists *kernel.Lists, keep bool, worker int) {
	for g := range l.groups {
		at := (position*l.Out + g*l.cout) * p.n
		p.kernels.WeightGradient(l.weights(dw, position, g), p.operand(x, l.v.In.C, l.centre(position), g*l.cin), lists,
			dy[at:at+l.cout*p.n], l.rows(), l.cout, p.n, keep, p.scratch[worker])
	}
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
	dy := p.grad(l.node)
	p.pool.Run(l.v.In.H*l.v.In.W, func(_, lo, hi int) {
		for x := lo; x < hi; x++ {
			dst := dx[x*l.v.In.C*p.n : (x+1)*l.v.In.C*p.n]
			near := l.nearest(x)
			for g := range l.groups {
				p.kernels.InputGradient(dst[g*l.cin*p.n:(g+1)*l.cin*p.n],
					p.operand(dy, l.Out, near, g*l.cout), l.weights(l.weight.value, near, g),
					&l.uses.lists[l.uses.of[x]], l.cin, l.cout, p.n, m == accumulate)
			}
		}
	})
}
