package cpu

import (
	"fmt"
	"math"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/internal/buffers"
	"hypnos/backends/internal/workers"
	"hypnos/core"
)

// broadcast brings the error of the network's output to the inputs of weight layers (core.Broadcast). For one position
// that is the input gradient of a linear layer from the position's channels to the outputs, whose weights are rows of
// the layer's feedback matrix. They are drawn anew whenever they are used, which costs less time than the product does,
// and no memory.
type broadcast struct {
	outputs  int
	errors   []float32   // of the network's output, (outputs, B)
	feedback []*feedback // by node; nil where there are no weights
	drawn    [][]float32 // by worker: the rows of one position, (channels, outputs)
	weights  [][]float32 // the same as the weights of a linear layer

	layer   *base // whose input's error is made
	onInput workers.Task
}

// feedback is one layer's part.
type feedback struct {
	core.Feedback
	filters              // of one position
	lists   kernel.Lists // for each output its error and its weight of the first channel
	batch   int          // for which the lists were made
}

// newBroadcast makes room for the layer with the most channels. It is nil when the rule does not broadcast.
func (e *engine) newBroadcast(workers int) (*broadcast, error) {
	if !e.opt.Train || e.opt.Rule != core.Broadcast {
		return nil, nil
	}
	b := &broadcast{outputs: e.net.Output().Len(), feedback: make([]*feedback, len(e.net.Nodes))}
	b.onInput = b.inputPart
	channels := 0
	for i, v := range e.net.Nodes {
		if _, ok := filtersOf(v); !ok {
			continue
		}
		channels = max(channels, v.In.C)
		b.feedback[i] = &feedback{
			Feedback: core.NewFeedback(e.opt.Seed, i, b.outputs),
			filters:  filters{positions: 1, groups: 1, taps: 1, cin: v.In.C, cout: b.outputs},
		}
	}
	if int64(b.outputs)*int64(max(e.opt.MaxBatch, channels)) > math.MaxInt32 {
		return nil, fmt.Errorf("cpu: broadcast of %d outputs: offsets beyond 2^31 at batch size %d: %w", b.outputs, e.opt.MaxBatch, core.ErrUnsupported)
	}
	b.errors = make([]float32, b.outputs*e.opt.MaxBatch)
	for range workers {
		b.drawn = append(b.drawn, make([]float32, channels*b.outputs))
		b.weights = append(b.weights, make([]float32, channels*b.outputs))
	}
	return b, nil
}

// begin keeps the error of the output: others will use its buffer.
func (b *broadcast) begin(p pass) { copy(b.errors, p.grad(len(p.net.Nodes)-1)) }

// inputError sets the gradient of a weight layer's input to B·e, or adds it.
func (b *broadcast) inputError(p pass, l *base) {
	b.layer = l
	b.feedback[l.node].prepare(p)
	p.pool.Run(l.v.In.H*l.v.In.W, b.onInput)
}

func (b *broadcast) inputPart(worker, lo, hi int) {
	l, f := b.layer, b.feedback[b.layer.node]
	dx, m := l.inGrad(l.node, 0)
	size := f.cin * l.n
	drawn, weights := b.drawn[worker][:f.size()], b.weights[worker][:f.size()]
	for position := lo; position < hi; position++ {
		f.Rows(drawn, position*f.cin)
		f.tile(weights, drawn)
		l.kernels.InputGradient(dx[position*size:(position+1)*size], kernel.Operand{Data: b.errors},
			kernel.Operand{Data: weights}, &f.lists, f.cin, f.cout, l.n, kernel.Next{}, m == buffers.Accumulate)
	}
}

// prepare makes the lists for the pass's batch size.
func (f *feedback) prepare(p pass) {
	if f.batch == p.n {
		return
	}
	f.batch = p.n
	var terms []term
	for c := range f.cout {
		terms = append(terms, term{row: c, weight: f.index(0, 0, 0, 0, c), width: f.tileWidth(c)})
	}
	f.lists = makeLists(terms, p.n)
}

// tileWidth is the width of the tile that output c is in.
func (f *feedback) tileWidth(c int) int { return min(kernel.Tile, f.cout-c/kernel.Tile*kernel.Tile) }

// tile copies rows of the matrix, (channels, outputs), to the layout of weights, tile by tile.
func (f *feedback) tile(weights, rows []float32) {
	for first := 0; first < f.cout; first += kernel.Tile {
		width := f.tileWidth(first)
		for c := range f.cin {
			copy(weights[f.index(0, 0, 0, c, first):][:width], rows[c*f.cout+first:])
		}
	}
}
