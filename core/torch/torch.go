// Package torch gives a network's parameters the names and axes that PyTorch has for them.
//
//	conv2d     weight (N, Cin/g, k, k)                  bias (N)          as torch.nn.Conv2d
//	linear     weight (N, Cin)                          bias (N)          as torch.nn.Linear
//	batchnorm  weight, bias, running_mean, running_var (C)                as torch.nn.BatchNorm2d
//	lc2d       weight (Hout·Wout, N, Cin/g·k·k)         bias (Hout·Wout, N)
//
// PyTorch has no locally connected layer. Its rows are ordered as the columns of torch.nn.functional.unfold, so that the layer is
// einsum("bkl,lnk->bnl", unfold(x), weight) where it has one group. docs/load_in_pytorch.py runs any exported network.
package torch

import (
	"encoding/json"
	"fmt"
	"strings"

	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
)

// Metadata of an exported file.
const (
	networkKey = "hypnos.network" // JSON: the graph, as net.Network describes itself
	statsKey   = "hypnos.stats"   // JSON: mean and standard deviation, by channel, of pixels in 0…1
	classesKey = "hypnos.classes" // JSON: names by label
)

// Params gives the parameters, each in float32 when it is asked for, with what a program needs to run them as metadata.
func Params(n *net.Network, p *model.Params, stats data.Stats, classes []string) (*model.Params, error) {
	all := &model.Params{}
	for _, v := range n.Nodes {
		for _, q := range v.Params {
			if err := p.Check(q.Name, q.Shape); err != nil {
				return nil, err
			}
			name, shape, order := layout(v, q)
			all.AddLazy(model.Info{Name: name, DType: model.F32, Shape: shape}, func() (model.Tensor, error) {
				t, err := p.Get(q.Name)
				if err != nil {
					return t, err
				}
				x, err := t.Float32s()
				if err != nil {
					return t, err
				}
				return model.NewTensor(name, shape, permuted(x, q.Shape, order)), nil
			})
		}
	}
	for key, v := range map[string]any{networkKey: n, statsKey: stats, classesKey: classes} {
		text, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("torch: %s: %w", key, err)
		}
		all.SetMeta(key, string(text))
	}
	return all, nil
}

// layout is the parameter's name and shape in PyTorch, and which of its axes come in which order.
func layout(v net.Node, q net.Param) (name string, shape, order []int) {
	name = strings.TrimSuffix(q.Name, q.Name[strings.LastIndexByte(q.Name, '.'):]) + "." + suffix(q.Role)
	s := q.Shape
	_, located := v.Op.(net.LC2D)
	switch {
	case located && q.Role == net.Weight: // (H, W, N, k, k, C)
		return name, []int{s[0] * s[1], s[2], s[5] * s[3] * s[4]}, []int{0, 1, 2, 5, 3, 4}
	case located: // (H, W, N)
		return name, []int{s[0] * s[1], s[2]}, []int{0, 1, 2}
	case len(s) == 4: // (N, k, k, C)
		return name, []int{s[0], s[3], s[1], s[2]}, []int{0, 3, 1, 2}
	}
	order = make([]int, len(s))
	for i := range order {
		order[i] = i
	}
	return name, s, order
}

func suffix(r net.Role) string {
	switch r {
	case net.Bias, net.Shift:
		return "bias"
	case net.RunningMean:
		return "running_mean"
	case net.RunningVar:
		return "running_var"
	}
	return "weight"
}

// permuted gives the elements of a tensor with its axes in another order.
func permuted(x []float32, shape, order []int) []float32 {
	strides := make([]int, len(shape)) // of x, by axis of the result
	for i, axis := range order {
		strides[i] = 1
		for _, d := range shape[axis+1:] {
			strides[i] *= d
		}
	}
	y := make([]float32, 0, len(x))
	var walk func(depth, at int)
	walk = func(depth, at int) {
		if depth == len(order) {
			y = append(y, x[at])
			return
		}
		for i := range shape[order[depth]] {
			walk(depth+1, at+i*strides[depth])
		}
	}
	walk(0, 0)
	return y
}
