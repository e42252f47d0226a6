package net

import (
	"fmt"
	"math"

	"hypnos/core/model"
	"hypnos/core/rng"
)

// InitOptions choose the initial weights.
type InitOptions struct {
	Seed uint64
	// Tied starts every locally connected layer from one convolution kernel instead of independent kernels.
	Tied bool
	// Epsilon is used with Tied: position l starts at kernel + Epsilon·noise_l, where the noise is drawn like a
	// kernel. Hence it is relative to the kernel's standard deviation; 0 is a convolution.
	Epsilon float64
}

// Init returns initial parameters as float32 in the canonical layout, the same on every processor for a seed:
//
//   - lc2d, conv2d: normal with mean 0 and standard deviation √2/√(N·k²), "fan out" (He et al. 2015, Eq. 14), in
//     an lc2d independent at every position, whatever the stride, as in PyTorch; biases 0;
//   - batch norm: gain 1, shift 0, running mean 0, running variance 1;
//   - linear: weights and biases uniform in ±1/√C (PyTorch's default, as in the authors' program).
//
// A tied lc2d and a conv2d at the same place in their networks draw the same kernel from the same seed.
func (n *Network) Init(o InitOptions) (*model.Params, error) {
	if !(o.Epsilon >= 0) || math.IsInf(o.Epsilon, 0) {
		return nil, fmt.Errorf("net: init: epsilon %g is not a finite number of at least 0", o.Epsilon)
	}
	if o.Epsilon > 0 && !o.Tied {
		return nil, fmt.Errorf("net: init: epsilon %g needs tied initial weights", o.Epsilon)
	}
	all := &model.Params{}
	for i, node := range n.Nodes {
		draw := drawer{
			main:        rng.New(o.Seed, rng.Init, uint64(i)),
			noise:       rng.New(o.Seed, rng.Epsilon, uint64(i)),
			InitOptions: o,
		}
		for _, p := range node.Params {
			info := model.Info{Name: p.Name, DType: model.F32, Shape: p.Shape}
			all.AddLazy(info, func() (model.Tensor, error) {
				return model.NewTensor(p.Name, p.Shape, draw.initial(node, p)), nil
			})
		}
	}
	return all, nil
}

// drawer makes the initial values of one node.
type drawer struct {
	main, noise rng.Stream
	InitOptions
}

func (d drawer) initial(node Node, p Param) []float32 {
	v := make([]float32, p.Len())
	switch op := node.Op.(type) {
	case Conv2D:
		if p.Role == Weight {
			d.normal(v, len(v), op.Window)
		}
	case LC2D:
		if p.Role == Weight {
			d.normal(v, len(v)/(node.Out.H*node.Out.W), op.Window)
		}
	case BatchNorm:
		if p.Role == Gain || p.Role == RunningVar {
			for i := range v {
				v[i] = 1
			}
		}
	case Linear:
		bound := 1 / math.Sqrt(float64(node.In.C))
		first := uint64(0)
		if p.Role == Bias { // the biases are drawn behind the weights
			first = uint64(op.Out) * uint64(node.In.C)
		}
		for i := range v {
			v[i] = float32(bound * (2*d.main.Float64(first+uint64(i)) - 1))
		}
	}
	return v
}

// normal fills v with kernels of the given number of weights, one a position.
func (d drawer) normal(v []float32, kernel int, w Window) {
	std := math.Sqrt2 / math.Sqrt(float64(w.Out)*float64(w.Kernel*w.Kernel))
	draws := make([]float64, kernel)
	if d.Tied {
		d.main.Normals(draws, 0)
	}
	noise := make([]float64, kernel)
	for first := 0; first < len(v); first += kernel {
		if !d.Tied {
			d.main.Normals(draws, uint64(first))
		}
		if d.Epsilon > 0 {
			d.noise.Normals(noise, uint64(first))
		}
		for i, x := range draws {
			v[first+i] = float32(std * (x + float64(d.Epsilon*noise[i])))
		}
	}
}
