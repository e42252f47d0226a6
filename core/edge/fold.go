package edge

import (
	"fmt"
	"math"

	"hypnos/core/model"
	"hypnos/core/net"
)

// Fold moves every batch norm into the layer before it. What a batch norm computes in inference, a·(y - mean) + shift
// with a = gain/sqrt(var+ε) of each channel, is for y = w·x + b the same layer with weights a·w and biases a·(b - mean)
// + shift. That holds for a conv2d, lc2d or linear layer that nothing but the batch norm reads; a batch norm anywhere
// else is an error.
//
// The layers keep their names; the batch norms are gone, and their readers read the layer. Parameters come as p has
// them, float32 or float64, computed in float64 and rounded once, each tensor when it is asked for: p must live as
// long. Whatever else p holds, an optimiser's state, is left out. Parameters that are missing or have another shape,
// and factors that are not finite, are errors here; weights that are not finite are errors when they are read.
func Fold(n *net.Network, p *model.Params) (*net.Network, *model.Params, error) {
	for _, q := range n.Params() {
		if err := p.Check(q.Name, q.Shape); err != nil {
			return nil, nil, fmt.Errorf("edge: %s: %w", n.Name, err)
		}
	}
	norms, err := foldable(n)
	if err != nil {
		return nil, nil, err
	}
	b, refs := net.NewBuilder(n.Name), make([]net.Ref, len(n.Nodes))
	for i, v := range n.Nodes {
		if _, ok := v.Op.(net.BatchNorm); ok {
			refs[i] = refs[v.Inputs[0]]
			continue
		}
		var in []net.Ref
		for _, j := range v.Inputs {
			in = append(in, refs[j])
		}
		op := v.Op
		if _, ok := norms[i]; ok {
			op = withBias(op)
		}
		refs[i] = b.Add(v.Name, op, in...)
	}
	folded, err := b.Build()
	if err != nil {
		return nil, nil, fmt.Errorf("edge: fold: %w", err)
	}
	all := &model.Params{}
	for i, v := range n.Nodes {
		if _, ok := v.Op.(net.BatchNorm); ok {
			continue
		}
		at, _ := folded.Node(v.Name)
		to := folded.Nodes[at]
		var a affine
		if norm, ok := norms[i]; ok {
			if a, err = affineOf(n.Nodes[norm], p); err != nil {
				return nil, nil, err
			}
		}
		for _, q := range to.Params {
			a.add(all, q, to, p)
		}
	}
	return folded, all, nil
}

// foldable finds for each layer the batch norm that is folded into it, by index.
func foldable(n *net.Network) (map[int]int, error) {
	readers := make([]int, len(n.Nodes))
	for _, v := range n.Nodes {
		for _, i := range v.Inputs {
			readers[i]++
		}
	}
	norms := map[int]int{}
	for i, v := range n.Nodes {
		if _, ok := v.Op.(net.BatchNorm); !ok {
			continue
		}
		before := n.Nodes[v.Inputs[0]]
		switch before.Op.(type) {
		case net.Conv2D, net.LC2D, net.Linear:
			if readers[v.Inputs[0]] == 1 {
				norms[v.Inputs[0]] = i
				continue
			}
			return nil, fmt.Errorf("edge: %s: batch norm %q cannot be folded: layer %q before it has other readers, too", n.Name, v.Name, before.Name)
		}
		return nil, fmt.Errorf("edge: %s: batch norm %q cannot be folded: it is behind %q (%s), not directly behind a conv2d, lc2d or linear layer (a mixer, whose batch norms are before its layers, has no integer form)",
			n.Name, v.Name, before.Name, before.Op.Kind())
	}
	return norms, nil
}

// withBias is a layer's operation with a bias.
func withBias(op net.Op) net.Op {
	switch o := op.(type) {
	case net.Conv2D:
		o.Bias = true
		return o
	case net.LC2D:
		o.Bias = true
		return o
	}
	return op
}

// affine is what a batch norm does in inference, scale·y + offset, both (C). The zero value does nothing.
type affine struct{ scale, offset []float64 }

func affineOf(v net.Node, p *model.Params) (a affine, err error) {
	var values [4][]float64 // gain, shift, mean, var
	for i, q := range v.Params {
		if values[i], err = float64s(p, q.Name); err != nil {
			return a, err
		}
	}
	eps := v.Op.(net.BatchNorm).Eps
	for c := range v.In.C {
		scale := values[0][c] / math.Sqrt(values[3][c]+eps)
		offset := values[1][c] - values[2][c]*scale
		if !finite(scale) || !finite(offset) {
			return a, fmt.Errorf("edge: batch norm %q: channel %d has gain %g, shift %g, mean %g and variance %g: its factor or offset is not finite",
				v.Name, c, values[0][c], values[1][c], values[2][c], values[3][c])
		}
		a.scale, a.offset = append(a.scale, scale), append(a.offset, offset)
	}
	return a, nil
}

// add adds parameter q of the folded layer v. Rows of weights, and biases, follow one another with their channels, the
// last axis of the layer's output, going round.
func (a affine) add(all *model.Params, q net.Param, v net.Node, from *model.Params) {
	has := from.Has(q.Name)
	info := model.Info{Name: q.Name, DType: dtype(from, v.Params[0].Name), Shape: q.Shape}
	if has {
		info.DType = dtype(from, q.Name)
	}
	all.AddLazy(info, func() (model.Tensor, error) {
		x := make([]float64, q.Len())
		if has {
			old, err := float64s(from, q.Name)
			if err != nil {
				return model.Tensor{}, err
			}
			copy(x, old)
		}
		if a.scale != nil {
			row := q.Len() / rows(q, v)
			for i := range x {
				c := i / row % v.Out.C
				x[i] *= a.scale[c]
				if q.Role == net.Bias {
					x[i] += a.offset[c]
				}
			}
		}
		for i, w := range x {
			if !finite(w) {
				return model.Tensor{}, fmt.Errorf("edge: %q: element %d is not finite", q.Name, i)
			}
		}
		return floatTensor(info, x), nil
	})
}

// rows is the number of neurons that a parameter of a layer has entries for: a bias has one a neuron, weights K.
func rows(q net.Param, v net.Node) int {
	switch op := v.Op.(type) {
	case net.LC2D:
		return v.Out.H * v.Out.W * op.Out
	}
	return v.Out.C
}

// floatTensor makes a tensor of float numbers, rounded to float32 where it is one.
func floatTensor(i model.Info, x []float64) model.Tensor {
	if i.DType == model.F64 {
		return model.NewTensor(i.Name, i.Shape, x)
	}
	y := make([]float32, len(x))
	for j, v := range x {
		y[j] = float32(v)
	}
	return model.NewTensor(i.Name, i.Shape, y)
}

func float64s(p *model.Params, name string) ([]float64, error) {
	t, err := p.Get(name)
	if err != nil {
		return nil, err
	}
	return t.Float64s()
}

// infoOf describes a tensor; the zero Info says that there is none.
func infoOf(p *model.Params, name string) model.Info {
	for _, i := range p.Infos() {
		if i.Name == name {
			return i
		}
	}
	return model.Info{}
}

func dtype(p *model.Params, name string) model.DType { return infoOf(p, name).DType }

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
