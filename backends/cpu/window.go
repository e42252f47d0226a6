package cpu

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/internal/buffers"
	"hypnos/backends/internal/workers"
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
	lists        map[int]*lists // by batch size
	now          *lists         // of the pass
	then         epilogue

	onForward, onWeights, onSharedWeights, onBiases, onInput workers.Task
}

// classes sorts locations by what they compute.
type classes struct {
	of    []int    // class of each location
	taps  []int    // how many each class has
	terms [][]term // products of each class
}

// lists are the products of each class for one batch size.
type lists struct {
	fields, uses []kernel.Lists
	shares       [][]kernel.Lists // of a convolution: the products of each field whose rows a worker has
}

// term is one product: an activation row, counted in rows, and a weight in a tile of the given width, both relative to
// the location's.
type term struct {
	row, weight, width int
}

func newWindow(b base, w net.Window, params []*param) *window {
	l := &window{
		base: b, Window: w, filters: *params[0].filters, weight: params[0], lists: map[int]*lists{},
		then: epilogue{Fusion: buffers.Fusion{Norm: buffers.None, Other: buffers.None, Last: b.node}},
	}
	l.onForward, l.onInput, l.onBiases = l.forwardPart, l.inputPart, l.biasesPart
	l.onWeights, l.onSharedWeights = l.weightsPart, l.sharedWeightsPart
	if w.Bias {
		l.bias = params[1]
	}
	l.fields = sortLocations(b.v.Out.H*b.v.Out.W, l.inputTaps, l.field)
	l.uses = sortLocations(b.v.In.H*b.v.In.W, l.outputTaps, l.use)
	return l
}

// tap is a kernel offset of a location and the position at its other end, relative to the location's.
type tap struct{ t, away int }

// sortLocations finds the classes of n locations, those with the same taps, and the products of each.
func sortLocations(n int, taps func(location int) []tap, products func([]tap) []term) classes {
	c := classes{of: make([]int, n)}
	known := map[string]int{}
	var key []byte
	for i := range n {
		own := taps(i)
		key = key[:0]
		for _, t := range own {
			key = binary.AppendVarint(binary.AppendVarint(key, int64(t.t)), int64(t.away))
		}
		at, ok := known[string(key)]
		if !ok {
			at = len(c.terms)
			known[string(key)] = at
			c.taps = append(c.taps, len(own))
			c.terms = append(c.terms, products(own))
		}
		c.of[i] = at
	}
	return c
}

// forBatch makes the lists for a batch size.
func (c *classes) forBatch(n int) []kernel.Lists {
	made := make([]kernel.Lists, len(c.terms))
	for i, terms := range c.terms {
		made[i] = makeLists(terms, n)
	}
	return made
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

// field lists a receptive field: for each tap on a real input and each input channel of a group, the activation and the
// first weight of a tile.
func (l *window) field(taps []tap) []term {
	var terms []term
	for _, width := range l.widths() {
		for _, tap := range taps {
			for c := range l.cin {
				terms = append(terms, term{tap.away*l.v.In.C + c, (tap.t*l.cin + c) * width, width})
			}
		}
	}
	return terms
}

// use lists where an input position is used: for each output position that reads it and each output channel of a group,
// the output gradient and the weight of the group's first input channel.
func (l *window) use(taps []tap) []term {
	var terms []term
	for _, tap := range taps {
		for n := range l.cout {
			first := n / kernel.Tile * kernel.Tile
			at := l.index(l.shared(tap.away), 0, tap.t, 0, n)
			terms = append(terms, term{tap.away*l.Out + n, at, min(kernel.Tile, l.cout-first)})
		}
	}
	return terms
}

// inputTaps are those of an output position that fall on real inputs.
func (l *window) inputTaps(position int) (taps []tap) {
	in, out := l.v.In, l.v.Out
	i, j := position/out.W, position%out.W
	rowLo, rowHi := l.Span(i, in.H)
	colLo, colHi := l.Span(j, in.W)
	for u := rowLo; u < rowHi; u++ {
		for v := colLo; v < colHi; v++ {
			x := (i*l.Stride-l.Pad()+u)*in.W + j*l.Stride - l.Pad() + v
			taps = append(taps, tap{u*l.Kernel + v, x - l.centre(position)})
		}
	}
	return taps
}

// outputTaps are those through which output positions read input position x.
func (l *window) outputTaps(x int) (taps []tap) {
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
			taps = append(taps, tap{u*l.Kernel + v, i/l.Stride*out.W + j/l.Stride - l.nearest(x)})
		}
	}
	return taps
}

// shared is the index of the weights used at an output position: 0 for a convolution.
func (l *window) shared(position int) int {
	if l.positions == 1 {
		return 0
	}
	return position
}

// prepare makes the lists for the pass's batch size, once.
func (l *window) prepare(p pass) {
	l.pass = p
	if l.now = l.lists[p.n]; l.now != nil {
		return
	}
	l.now = &lists{fields: l.fields.forBatch(p.n)}
	if p.opt.Train {
		l.now.uses = l.uses.forBatch(p.n)
		if l.byRows() {
			l.now.shares = l.makeShares(p)
		}
	}
	l.lists[p.n] = l.now
}

// byRows tells whether the workers share the rows of the weights' gradient, as for a convolution, instead of the
// positions.
func (l *window) byRows() bool { return l.positions == 1 }

// makeShares sorts the products of each field by the worker that has their row.
func (l *window) makeShares(p pass) [][]kernel.Lists {
	size := p.pool.Size()
	shares := make([][]kernel.Lists, size)
	for w := range size {
		lo, hi := l.rows()*w/size, l.rows()*(w+1)/size
		for _, terms := range l.fields.terms {
			own := slices.DeleteFunc(slices.Clone(terms), func(t term) bool {
				row := t.weight / t.width
				return row < lo || row >= hi
			})
			shares[w] = append(shares[w], makeLists(own, p.n))
		}
	}
	return shares
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
	if p.fusing() && l.then.norm != nil {
		l.then.norm.pass = p
		l.then.norm.setAffine()
	}
	p.pool.Run(l.v.Out.H*l.v.Out.W, l.onForward)
}

func (l *window) forwardPart(worker, lo, hi int) {
	fusing := l.fusing() && l.then.Last != l.node
	x, y := l.in(0), l.out(l.node)
	if fusing {
		y = l.out(l.then.Last)
	}
	size := l.Out * l.n
	for position := lo; position < hi; {
		count := l.alike(position, hi)
		dst := y[position*size : (position+count)*size]
		own := dst
		if fusing { // what is added may lie where the result goes
			own = l.scratch[worker][:count*size]
		}
		l.products(own, x, position, count, l.scratch[worker][l.plan.scratch-kernel.ThinScratchLen:])
		for at := 0; fusing && at < len(dst); at += size {
			l.then.apply(l.pass, dst[at:at+size], own[at:at+size], position*size+at)
		}
		position += count
	}
}

// strips tells whether positions of one class that follow each other are computed together: with one image, where every position
// has weights of its own, which come from memory one after the other.
func (l *window) strips() bool { return l.n == 1 && l.groups == 1 && l.bias == nil && l.shared(1) != 0 }

// alike is how many positions from one on, before hi, are computed together.
func (l *window) alike(position, hi int) int {
	if !l.strips() {
		return 1
	}
	of := l.fields.of
	end := min(hi, (position/l.v.Out.W+1)*l.v.Out.W)
	next := position + 1
	for next < end && of[next] == of[position] {
		next++
	}
	return next - position
}

// products sets count output positions that are alike, (count, Out, B), to the products of their receptive fields.
func (l *window) products(y, x []float32, position, count int, scratch []float32) {
	if l.strips() && l.kernels.Strip(y, l.operand(x, l.v.In.C, l.centre(position), 0), l.weights(l.weight.value, position, 0),
		&l.now.fields[l.fields.of[position]], l.rows(), l.cout, count, l.Stride*l.v.In.C) {
		return
	}
	size := l.Out * l.n
	for i := range count {
		l.product(y[i*size:(i+1)*size], x, position+i, scratch)
	}
}

// product sets one output position, (Out, B).
func (l *window) product(y, x []float32, position int, scratch []float32) {
	if l.bias != nil {
		for c, v := range l.biases(l.bias.value, position) {
			fill(y[c*l.n:(c+1)*l.n], v)
		}
	}
	for g := range l.groups {
		l.kernels.Forward(y[g*l.cout*l.n:(g+1)*l.cout*l.n],
			l.operand(x, l.v.In.C, l.centre(position), g*l.cin), l.weights(l.weight.value, position, g),
			&l.now.fields[l.fields.of[position]], l.rows(), l.cout, l.n, l.nextField(), l.bias != nil, scratch)
	}
}

// nextField is where the next output position's field and weights are, nextUse where the next input position is used.
func (l *window) nextField() kernel.Next {
	return kernel.Next{X: l.Stride * l.v.In.C * l.n, W: l.shared(1) * l.size()}
}
func (l *window) nextUse() kernel.Next { return kernel.Next{X: l.Out * l.n, W: l.shared(1) * l.size()} }

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
	l.pass = p
	if l.byRows() {
		clear(l.weight.grad)
		p.pool.Run(p.pool.Size(), l.onSharedWeights)
		if !p.kernels.Finite(l.weight.grad) {
			p.spoiled[l.node].Store(true)
		}
	} else {
		p.pool.Run(l.v.Out.H*l.v.Out.W, l.onWeights)
	}
	if l.bias != nil {
		p.pool.Run(l.Out, l.onBiases)
	}
	switch {
	case p.skipInput && l.v.Inputs[0] == 0:
	case p.broadcast != nil:
		p.broadcast.inputError(p, &l.base)
	default:
		p.pool.Run(l.v.In.H*l.v.In.W, l.onInput)
	}
}

// weightsPart sets the gradient of weights that no two positions share.
func (l *window) weightsPart(worker, lo, hi int) {
	x, dy, dw := l.in(0), l.grad(l.node), l.weight.grad
	for position := lo; position < hi; position++ {
		class := l.fields.of[position]
		if l.fields.taps[class] < l.taps { // weights on the padding have none
			clear(dw[position*l.size() : (position+1)*l.size()])
		}
		l.addWeightGradient(dw, x, dy, position, &l.now.fields[class], false, worker)
		if !l.kernels.Finite(dw[position*l.size() : (position+1)*l.size()]) { // they are in the cache now
			l.spoiled[l.node].Store(true)
		}
	}
}

// sharedWeightsPart adds to the gradient of weights that all positions share: every worker goes over all positions in
// order, for rows of its own.
func (l *window) sharedWeightsPart(_, from, to int) {
	x, dy, dw := l.in(0), l.grad(l.node), l.weight.grad
	for worker := from; worker < to; worker++ {
		for position := range l.v.Out.H * l.v.Out.W {
			l.addWeightGradient(dw, x, dy, position, &l.now.shares[worker][l.fields.of[position]], true, worker)
		}
	}
}

func (l *window) addWeightGradient(dw, x, dy []float32, position int, lists *kernel.Lists, keep bool, worker int) {
	for g := range l.groups {
		at := (position*l.Out + g*l.cout) * l.n
		l.kernels.WeightGradient(l.weights(dw, position, g), l.operand(x, l.v.In.C, l.centre(position), g*l.cin), lists,
			dy[at:at+l.cout*l.n], l.rows(), l.cout, l.n, l.nextField(), keep, l.scratch[worker])
	}
}

// biasesPart sets the gradient of the biases of some channels: dy summed over the batch, and over the positions that
// share them.
func (l *window) biasesPart(_, lo, hi int) {
	dy, db := l.grad(l.node), l.bias.grad
	for c := lo; c < hi; c++ {
		for i := c; i < len(db); i += l.Out {
			db[i] = 0
		}
		for position := range l.v.Out.H * l.v.Out.W {
			at := (position*l.Out + c) * l.n
			l.biases(db, position)[c] += sum(dy[at : at+l.n])
		}
	}
}

func sum(xs []float32) (s float32) {
	for _, x := range xs {
		s += x
	}
	return s
}

// inputPart sets the gradient of some input positions, or adds to it.
func (l *window) inputPart(_, lo, hi int) {
	dx, m := l.inGrad(l.node, 0)
	dy := l.grad(l.node)
	for x := lo; x < hi; x++ {
		dst := dx[x*l.v.In.C*l.n : (x+1)*l.v.In.C*l.n]
		near := l.nearest(x)
		for g := range l.groups {
			l.kernels.InputGradient(dst[g*l.cin*l.n:(g+1)*l.cin*l.n],
				l.operand(dy, l.Out, near, g*l.cout), l.weights(l.weight.value, near, g),
				&l.now.uses[l.uses.of[x]], l.cin, l.cout, l.n, l.nextUse(), m == buffers.Accumulate)
		}
	}
}
