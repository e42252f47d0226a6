package equivalence

import (
	"context"
	"fmt"
	"math"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
)

// training are the options of every engine here: images one by one, plain gradient descent.
func training(batch int, seed uint64) core.Options {
	o := core.Options{MaxBatch: batch, Train: true, Optimizer: optim.Default(optim.SGD, 0), Seed: seed}
	o.Optimizer.Momentum = 0
	return o
}

// layer is one node's operation by itself, on the reference backend: with its weights, and with their absolute values and no
// bias.
type layer struct {
	node       net.Node
	exact, abs core.Engine
	bias       []float64 // |b|, by neuron; nil without
	terms      int       // products in a sum, forwards or backwards, at most
}

func newLayer(v net.Node, weights map[string][]float64) (*layer, error) {
	l := &layer{node: v, terms: v.In.H * v.In.W}
	switch v.Op.(type) {
	case net.Input, net.Add, net.ReLU:
		return l, nil
	}
	b := net.NewBuilder("layer")
	b.Add("layer", v.Op, b.Input(v.In))
	n, err := b.Build()
	if err != nil {
		return nil, err
	}
	switch op := v.Op.(type) {
	case net.Conv2D:
		l.terms = max(l.window(op.Window), v.Out.H*v.Out.W)
	case net.LC2D:
		l.terms = l.window(op.Window)
	case net.Linear:
		l.terms = max(v.In.C, op.Out)
	}
	exact, abs := &model.Params{}, &model.Params{}
	for i, q := range n.Params() {
		w := weights[v.Params[i].Name]
		size := mapped(w, math.Abs)
		if q.Role == net.Bias {
			l.bias, size = size, make([]float64, len(w))
		}
		exact.Add(model.NewTensor(q.Name, q.Shape, w))
		abs.Add(model.NewTensor(q.Name, q.Shape, size))
	}
	if l.exact, err = engineOf(n, exact); err == nil {
		l.abs, err = engineOf(n, abs)
	}
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", v.Name, err)
	}
	return l, nil
}

// engineOf is a network on the reference backend.
func engineOf(n *net.Network, p *model.Params) (core.Engine, error) {
	e, err := ref.Open().Compile(n, training(1, 0))
	if err != nil {
		return nil, err
	}
	return e, e.Load(p)
}

func (l *layer) window(w net.Window) int {
	k := w.Kernel * w.Kernel
	return max(k*l.node.In.C/w.Groups, k*w.Out/w.Groups)
}

// forward is the operation of x, which must be a float32's number.
func forward(e core.Engine, x []float64) ([]float64, error) {
	y, _, err := through(e, x, nil)
	return y, err
}

// through takes x through the layer and an error g, of its output, back: the gradients are those of "weight", "bias" and
// "input".
func through(e core.Engine, x, g []float64) (y []float64, grads map[string][]float64, err error) {
	b := core.Batch{N: 1, Pixels: make([]float32, len(x))}
	for i, v := range x {
		b.Pixels[i] = float32(v)
	}
	probe := core.Probe{}
	if g != nil {
		probe = core.Probe{Train: true, Cotangent: g}
	}
	grads = map[string][]float64{}
	for t, err := range e.Trace(context.Background(), b, probe) {
		if err != nil {
			return nil, nil, err
		}
		v, err := t.Float64s()
		if err != nil {
			return nil, nil, err
		}
		switch t.Name {
		case "out/layer":
			y = append([]float64(nil), v...)
		case "grad/layer.weight", "grad/layer.bias":
			grads[t.Name[len("grad/layer."):]] = append([]float64(nil), v...)
		case "grad/input":
			grads["input"] = append([]float64(nil), v...)
		}
	}
	return y, grads, nil
}

// up is |x| as numbers of float32, none smaller; what is beyond them, bounds that say nothing any more, is their largest.
func up(x []float64) []float64 {
	return mapped(x, func(v float64) float64 {
		v = min(math.Abs(v), math.MaxFloat32)
		f := float32(v)
		if float64(f) < v {
			f = math.Nextafter32(f, float32(math.Inf(1)))
		}
		return float64(f)
	})
}

func mapped(x []float64, f func(float64) float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = f(v)
	}
	return y
}

// plus is a + c·b.
func plus(a []float64, c float64, b []float64) []float64 {
	y := make([]float64, len(a))
	for i := range a {
		y[i] = a[i] + c*b[i]
	}
	return y
}

// winners are the inputs that a max pool chooses for one image, the first of equals.
func winners(op net.MaxPool, v net.Node, x []float64) []int {
	all := make([]int, v.Out.Len())
	pad := (op.Kernel - 1) / 2
	for j := range all {
		row, col, c := j/(v.Out.W*v.Out.C), j/v.Out.C%v.Out.W, j%v.Out.C
		rowLo, rowHi := op.Span(row, v.In.H)
		colLo, colHi := op.Span(col, v.In.W)
		best := -1
		for s := rowLo; s < rowHi; s++ {
			for t := colLo; t < colHi; t++ {
				at := ((row*op.Stride-pad+s)*v.In.W+col*op.Stride-pad+t)*v.In.C + c
				if best < 0 || x[at] > x[best] {
					best = at
				}
			}
		}
		all[j] = best
	}
	return all
}
