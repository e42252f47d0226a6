package fixed

import (
	"fmt"
	"math"

	"hypnos/backends/fixed/internal/kernel"
	"hypnos/backends/internal/arena"
	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
)

// weights are the weights and biases of one layer.
type weights struct {
	geometry
	node   int
	weight net.Param // canonical
	bias   net.Param // nameless without

	format, input, output fixed.Format
	value                 []int16 // (blocks, N, padded K)
	biases                []int32 // (blocks, N), with input.Frac+format.Frac fraction bits; nil without
	zeros                 []int32 // (N): the biases of a layer without
	period                int     // > 0: consolidated, block (row mod period)·period + column mod period; else block = position
	norm                  int64   // no row's Σ|w| is above
	largestBias           int64   // no bias's absolute value is above
	equal                 []bool  // by grid: its groups have become equal since the layer last learned
	shared                []int32 // by position: whose block it has, since they became equal; nil: its own
	release               func() error
}

func newWeights(n *net.Network, node int, g geometry) *weights {
	v := n.Nodes[node]
	w := &weights{geometry: g, node: node, weight: v.Params[0]}
	if g.Bias {
		w.bias = v.Params[1]
	} else {
		w.zeros = make([]int32, g.Out)
	}
	return w
}

// block is which block of rows a position has.
func (w *weights) block(position int) int {
	switch {
	case !w.located:
		return 0
	case w.period > 0:
		return position/w.out.W%w.period*w.period + position%w.out.W%w.period
	case w.shared != nil:
		return int(w.shared[position])
	}
	return position
}

// share lets positions have the block of the first of them.
func (w *weights) share(positions []int) {
	if w.shared == nil {
		w.shared = make([]int32, w.positions)
		for p := range w.shared {
			w.shared[p] = int32(p)
		}
	}
	for _, p := range positions {
		w.shared[p] = int32(positions[0])
	}
}

// separate gives every position a block of its own again, in the memory that it has.
func (w *weights) separate() {
	size := w.Out * w.padded
	for p, from := range w.shared {
		if b := int(from); b != p {
			copy(w.value[p*size:(p+1)*size], w.value[b*size:])
			if w.biases != nil {
				copy(w.biases[p*w.Out:(p+1)*w.Out], w.biases[b*w.Out:])
			}
		}
	}
	w.shared = nil
}

// blocksNow is how many blocks there are in memory.
func (w *weights) blocksNow() int {
	if w.period > 0 {
		return w.period * w.period
	}
	return w.blocks()
}

// rowsOf are the rows of channel group g of a block, (N/g, padded K).
func (w *weights) rowsOf(block, group int) []int16 {
	at := (block*w.Out + group*w.rows) * w.padded
	return w.value[at : at+w.rows*w.padded]
}

// biasesOf are the biases of a block, (N).
func (w *weights) biasesOf(block int) []int32 {
	if w.biases == nil {
		return w.zeros
	}
	return w.biases[block*w.Out : (block+1)*w.Out]
}

// boundBiases takes account of the biases.
func (w *weights) boundBiases() {
	w.largestBias = 0
	for _, b := range w.biases {
		w.largestBias = max(w.largestBias, int64(b), -int64(b))
	}
}

// shift is by how many bits sums are above the output's last place.
func (w *weights) shift() int { return w.sumFrac() - w.output.Frac }

// sumFrac is the number of fraction bits of the layer's sums, and biases.
func (w *weights) sumFrac() int { return w.input.Frac + w.format.Frac }

// narrow tells whether every sum of products fits an int32.
func (w *weights) narrow() bool { return fixed.NarrowSum(w.norm, w.input.Max()) }

// narrowOutputs tells whether an int32 holds the sums with biases and what rounding adds, too.
func (w *weights) narrowOutputs() bool {
	shift := w.shift()
	return shift >= 0 && shift <= 30 && w.norm*int64(w.input.Max())+w.largestBias+1<<shift>>1 <= math.MaxInt32
}

// dot chooses the kernel for the layer's sums.
func (w *weights) dot(k *kernel.Kernels) func(y []int64, w, x []int16) {
	if w.narrow() {
		return k.DotNarrow
	}
	return k.Dot
}

// grids is the period of the layer's consolidated form; a convolution has none.
func (w *weights) grids() int {
	k, s := w.Kernel, w.Stride
	for s != 0 {
		k, s = s, k%s
	}
	return w.Kernel / k
}

// stored is how a parameter lies among integer parameters.
type stored struct {
	name   string
	shape  []int
	period int
}

// find tells in which form the parameters have one of this layer's, and checks its type and shape.
func (w *weights) find(p *model.Params, q net.Param, want model.DType) (stored, error) {
	s := stored{name: q.Name, shape: q.Shape}
	if w.located && !p.Has(q.Name) && p.Has(q.Name+edge.GroupsSuffix) {
		s.name, s.period = q.Name+edge.GroupsSuffix, w.grids()
		s.shape = append([]int{s.period, s.period}, q.Shape[2:]...)
	}
	t, err := info(p, s.name)
	if err != nil {
		return s, err
	}
	if t.DType != want || !equalInts(t.Shape, s.shape) {
		return s, fmt.Errorf("tensor %q is %s %v, want %s %v", s.name, t.DType, t.Shape, want, s.shape)
	}
	return s, nil
}

func info(p *model.Params, name string) (model.Info, error) {
	for _, i := range p.Infos() {
		if i.Name == name {
			return i, nil
		}
	}
	return model.Info{}, fmt.Errorf("tensor %q is missing", name)
}

func equalInts(a, b []int) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// check refuses formats between which the layer's sums cannot be brought to its output's: the exact sum, biases included,
// shifted to the output's last place must stay below 2^62.
func (w *weights) check(f edge.Formats, input, output string) error {
	format, in, out := f.Weights[w.weight.Name], f.Activations[input], f.Activations[output]
	const half = 62
	largest := int64(w.k)<<(format.Bits()+in.Bits()) + 1<<31
	shift := in.Frac + format.Frac - out.Frac
	if shift >= half || shift < 0 && largest >= 1<<(half+max(shift, -half)) {
		return fmt.Errorf("formats %v of inputs, %v of weights and %v of outputs are too far apart", in, format, out)
	}
	return nil
}

// load takes the layer's parameters, of which find has found the forms.
func (w *weights) load(p *model.Params, k *kernel.Kernels) error {
	s, err := w.find(p, w.weight, model.I16)
	if err != nil {
		return err
	}
	t, err := p.Get(s.name)
	if err != nil {
		return err
	}
	w.period, w.equal, w.shared = s.period, nil, nil
	if err := w.allocate(w.blocksNow()); err != nil {
		return err
	}
	data, limit := t.Data.([]int16), w.format.Max()
	for row := range len(data) / w.k {
		for j, v := range data[row*w.k : (row+1)*w.k] {
			if v > limit || v < -limit {
				return fmt.Errorf("tensor %q: %d is outside its format %v", s.name, v, w.format)
			}
			w.value[row*w.padded+j] = v
		}
	}
	w.norm = k.Norm(w.value, w.padded)
	if w.bias.Name == "" {
		return nil
	}
	s, err = w.find(p, w.bias, model.I32)
	if err != nil {
		return err
	}
	if s.period != w.period {
		return fmt.Errorf("tensor %q is consolidated and %q is not, or the other way round", w.weight.Name, w.bias.Name)
	}
	if t, err = p.Get(s.name); err != nil {
		return err
	}
	w.biases = append([]int32(nil), t.Data.([]int32)...)
	w.boundBiases()
	return nil
}

// save adds the layer's parameters, in the form in which they are.
func (w *weights) save(p *model.Params) {
	add := func(q net.Param, t model.DType, load func() any) {
		i := model.Info{Name: q.Name, DType: t, Shape: q.Shape}
		if w.period > 0 {
			i.Name, i.Shape = q.Name+edge.GroupsSuffix, append([]int{w.period, w.period}, q.Shape[2:]...)
		}
		p.AddLazy(i, func() (model.Tensor, error) { return model.Tensor{Info: i, Data: load()}, nil })
	}
	block := func(i int) int { // that the i-th of those that are saved has
		if w.period > 0 {
			return i
		}
		return w.block(i)
	}
	add(w.weight, model.I16, func() any {
		data := make([]int16, w.blocksNow()*w.Out*w.k)
		for row := range w.blocksNow() * w.Out {
			from := block(row/w.Out)*w.Out + row%w.Out
			copy(data[row*w.k:(row+1)*w.k], w.value[from*w.padded:])
		}
		return data
	})
	if w.biases != nil {
		add(w.bias, model.I32, func() any {
			data := make([]int32, 0, w.blocksNow()*w.Out)
			for i := range w.blocksNow() {
				data = append(data, w.biasesOf(block(i))...)
			}
			return data
		})
	}
}

// normOf is the largest Σ|w| of the neurons at some positions.
func (w *weights) normOf(k *kernel.Kernels, positions []int) int64 {
	size, norm := w.Out*w.padded, int64(0)
	for _, p := range positions {
		b := w.block(p)
		norm = max(norm, k.Norm(w.value[b*size:(b+1)*size], w.padded))
	}
	return norm
}

// allocate makes room for so many blocks of weights, all 0, instead of what there was. Large ones lie outside of the
// garbage collector's heap (package arena), so that their memory is free again as soon as they are.
func (w *weights) allocate(blocks int) error {
	value, release, err := arena.Int16s(blocks * w.Out * w.padded)
	if err != nil {
		return fmt.Errorf("%s: %w", w.weight.Name, err)
	}
	if err := w.free(); err != nil {
		return err
	}
	w.value, w.release = value, release
	return nil
}

func (w *weights) free() error {
	if w.release == nil {
		return nil
	}
	release := w.release
	w.value, w.release = nil, nil
	return release()
}

// expand gives every position a block of its own. An error, when there is no memory, leaves the layer as it was.
func (w *weights) expand() error {
	if w.period == 0 {
		w.separate()
		return nil
	}
	from, size := *w, w.Out*w.padded
	w.release = nil // of what is still read
	if err := w.allocate(w.positions); err != nil {
		w.release = from.release
		return err
	}
	w.period, w.equal = 0, nil
	if w.biases != nil {
		w.biases = make([]int32, w.positions*w.Out)
	}
	for p := range w.positions {
		b := from.block(p)
		copy(w.value[p*size:(p+1)*size], from.value[b*size:])
		if w.biases != nil {
			copy(w.biases[p*w.Out:(p+1)*w.Out], from.biases[b*w.Out:])
		}
	}
	return from.free()
}

// consolidate keeps one block a grid. The groups must be equal.
func (w *weights) consolidate() error {
	if w.period > 0 || !w.located {
		return nil
	}
	from, period, size := *w, w.grids(), w.Out*w.padded
	w.release = nil
	if err := w.allocate(period * period); err != nil {
		w.release = from.release
		return err
	}
	if w.biases != nil {
		w.biases = make([]int32, period*period*w.Out)
	}
	for row := range min(period, w.out.H) {
		for col := range min(period, w.out.W) {
			at, to := from.block(row*w.out.W+col), row*period+col
			copy(w.value[to*size:(to+1)*size], from.value[at*size:])
			if w.biases != nil {
				copy(w.biases[to*w.Out:(to+1)*w.Out], from.biases[at*w.Out:])
			}
		}
	}
	w.period, w.shared = period, nil
	return from.free()
}
