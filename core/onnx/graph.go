package onnx

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
)

// Names of the model's input, its output, and the axis of images.
const (
	InputName  = "images"
	OutputName = "output"
	batchAxis  = "batch"
)

// Element types of TensorProto.
const (
	typeFloat = 1
	typeInt64 = 7
)

// graph is a GraphProto under construction.
type graph struct {
	net          *net.Network
	params       *model.Params
	stats        *data.Stats
	values       []string // by node: the name of its activation, (B, C, H, W)
	nodes        []*message
	initializers []*message
}

func newGraph(n *net.Network, p *model.Params, s *data.Stats) *graph {
	return &graph{net: n, params: p, stats: s, values: make([]string, len(n.Nodes))}
}

// message is the finished graph.
func (g *graph) message() *message {
	m := &message{}
	for _, v := range g.nodes {
		m.embed(1, v)
	}
	m.text(2, g.net.Name)
	for _, t := range g.initializers {
		m.embed(5, t)
	}
	m.embed(11, valueInfo(InputName, g.net.Input(), false))
	_, err := g.net.Classes()
	m.embed(12, valueInfo(OutputName, g.net.Output(), err == nil))
	return m
}

// valueInfo describes an input or output; that of a classifier is flat.
func valueInfo(name string, s net.Shape, flat bool) *message {
	dims := []int{s.C, s.H, s.W}
	if flat {
		dims = dims[:1]
	}
	shape := &message{}
	axis := &message{}
	axis.text(2, batchAxis)
	shape.embed(1, axis)
	for _, d := range dims {
		axis := &message{}
		axis.integer(1, int64(d))
		shape.embed(1, axis)
	}
	tensor := &message{}
	tensor.integer(1, typeFloat)
	tensor.embed(2, shape)
	of := &message{}
	of.embed(1, tensor)
	info := &message{}
	info.text(1, name)
	info.embed(2, of)
	return info
}

// build writes the network node by node.
func (g *graph) build() error {
	for i, v := range g.net.Nodes {
		if err := g.layer(i, v); err != nil {
			return fmt.Errorf("layer %q: %w", v.Name, err)
		}
	}
	last := g.values[len(g.values)-1]
	if _, err := g.net.Classes(); err == nil {
		g.node("Flatten", "output", []string{last}, OutputName, integer("axis", 1))
	} else {
		g.node("Identity", "output", []string{last}, OutputName)
	}
	return nil
}

func (g *graph) layer(i int, v net.Node) error {
	var in []string
	for _, j := range v.Inputs {
		in = append(in, g.values[j])
	}
	out := v.Name + "/out" // no name of a layer's parameter, nor of the model's input or output
	g.values[i] = out
	switch op := v.Op.(type) {
	case net.Input:
		g.input(v, out)
	case net.Conv2D:
		g.conv(v, op.Window, in[0], out)
	case net.LC2D:
		g.lc(v, op.Window, in[0], out)
	case net.BatchNorm:
		for _, name := range []string{"gain", "shift", "mean", "var"} {
			in = append(in, g.param(v, name, []int{v.In.C}, nil))
		}
		g.node("BatchNormalization", v.Name, in, out, float("epsilon", float32(op.Eps)))
	case net.ReLU:
		g.node("Relu", v.Name, in, out)
	case net.Add:
		g.node("Add", v.Name, in, out)
	case net.MaxPool:
		pad := int64(op.Kernel-1) / 2
		g.node("MaxPool", v.Name, in, out, pair("kernel_shape", op.Kernel), pair("strides", op.Stride), integers("pads", pad, pad, pad, pad))
	case net.GlobalAvgPool:
		g.node("GlobalAveragePool", v.Name, in, out)
	case net.Transpose:
		x := g.reshape(v.Name+"/flat", in[0], 0, v.In.C, v.In.H*v.In.W)
		x = g.transpose(v.Name+"/turned", x, 0, 2, 1)
		g.values[i] = g.reshape(out, x, 0, v.Out.C, v.Out.H, v.Out.W)
	case net.Linear:
		w := g.param(v, "weight", []int{op.Out, v.In.C, 1, 1}, nil)
		g.node("Conv", v.Name, []string{in[0], w, g.param(v, "bias", []int{op.Out}, nil)}, out, pair("kernel_shape", 1))
	default:
		return fmt.Errorf("no standard operators for %s", v.Op.Kind())
	}
	return nil
}

// input applies the statistics.
func (g *graph) input(v net.Node, out string) {
	if g.stats == nil {
		g.node("Identity", v.Name, []string{InputName}, out)
		return
	}
	channels := func(of func(c int) float64) []float32 {
		x := make([]float32, v.Out.C)
		for c := range x {
			x[c] = float32(of(c))
		}
		return x
	}
	shape := []int{1, v.Out.C, 1, 1}
	mean := g.constant(v.Name+"/mean", shape, channels(func(c int) float64 { return g.stats.Mean[c] }))
	std := g.constant(v.Name+"/std", shape, channels(func(c int) float64 { return g.stats.Std[c] }))
	g.node("Sub", v.Name+"/centred", []string{InputName, mean}, v.Name+"/centred")
	g.node("Div", v.Name, []string{v.Name + "/centred", std}, out)
}

// conv writes weights (N, k, k, Cin/g) as (N, Cin/g, k, k).
func (g *graph) conv(v net.Node, w net.Window, x, out string) {
	k, c := w.Kernel, v.In.C/w.Groups
	in := []string{x, g.param(v, "weight", []int{w.Out, c, k, k}, func(dst, src []float32) {
		turn(dst, src, w.Out, k*k, c)
	})}
	if w.Bias {
		in = append(in, g.param(v, "bias", []int{w.Out}, nil))
	}
	pad := int64(w.Pad())
	g.node("Conv", v.Name, in, out, pair("kernel_shape", k), pair("strides", w.Stride), integers("pads", pad, pad, pad, pad),
		integer("group", int64(w.Groups)))
}

// lc writes a locally connected layer as products, one a position and group.
func (g *graph) lc(v net.Node, w net.Window, x, out string) {
	k, n, c, at := w.Kernel, w.Out/w.Groups, v.In.C/w.Groups, v.Name+"/"
	positions, taps := v.Out.H*v.Out.W, k*k
	if pad := int64(w.Pad()); pad > 0 {
		pads := g.indices(at+"pads", 0, 0, pad, pad, 0, 0, pad, pad)
		g.node("Pad", at+"padded", []string{x, pads}, at+"padded")
		x = at + "padded"
	}
	// (B, k²·Cin, Ho, Wo)
	var fields []string
	axes, steps := g.indices(at+"axes", 2, 3), g.indices(at+"steps", int64(w.Stride), int64(w.Stride))
	for tap := range taps {
		row, column := int64(tap/k), int64(tap%k)
		name := fmt.Sprintf("%stap%d", at, tap)
		first := g.indices(name+"/first", row, column)
		last := g.indices(name+"/last", row+int64((v.Out.H-1)*w.Stride)+1, column+int64((v.Out.W-1)*w.Stride)+1)
		g.node("Slice", name, []string{x, first, last, axes, steps}, name)
		fields = append(fields, name)
	}
	x = at + "fields"
	g.node("Concat", x, fields, x, integer("axis", 1))
	// (P, g, B, K)
	x = g.reshape(at+"grouped", x, -1, taps, w.Groups, c, positions)
	x = g.transpose(at+"outermost", x, 4, 2, 0, 1, 3)
	x = g.reshape(at+"rows", x, positions, w.Groups, -1, taps*c)
	weight := g.param(v, "weight", []int{positions, w.Groups, taps * c, n}, func(dst, src []float32) {
		turn(dst, src, positions*w.Groups, n, taps*c)
	})
	g.node("MatMul", at+"products", []string{x, weight}, at+"products")
	// back to (B, N, Ho, Wo)
	x = g.transpose(at+"innermost", at+"products", 2, 1, 3, 0)
	if !w.Bias {
		g.reshape(out, x, -1, w.Out, v.Out.H, v.Out.W)
		return
	}
	x = g.reshape(at+"unbiased", x, -1, w.Out, v.Out.H, v.Out.W)
	bias := g.param(v, "bias", []int{1, w.Out, v.Out.H, v.Out.W}, func(dst, src []float32) { turn(dst, src, 1, positions, w.Out) })
	g.node("Add", v.Name, []string{x, bias}, out)
}

// turn is dst (blocks, columns, rows) of src (blocks, rows, columns).
func turn(dst, src []float32, blocks, rows, columns int) {
	for b := range blocks {
		at := b * rows * columns
		for i := range rows {
			for j := range columns {
				dst[at+j*rows+i] = src[at+i*columns+j]
			}
		}
	}
}

// reshape adds a Reshape and returns the name of its result. A length of -1 is what is left, 0 that of the input.
func (g *graph) reshape(name, x string, lengths ...int) string {
	shape := make([]int64, len(lengths))
	for i, n := range lengths {
		shape[i] = int64(n)
	}
	g.node("Reshape", name, []string{x, g.indices(name+"/shape", shape...)}, name)
	return name
}

func (g *graph) transpose(name, x string, axes ...int64) string {
	g.node("Transpose", name, []string{x}, name, integers("perm", axes...))
	return name
}

// node adds an operation with one result.
func (g *graph) node(op, name string, inputs []string, output string, attributes ...*message) {
	m := &message{}
	for _, x := range inputs {
		m.text(1, x)
	}
	m.text(2, output)
	m.text(3, name)
	m.text(4, op)
	for _, a := range attributes {
		m.embed(5, a)
	}
	g.nodes = append(g.nodes, m)
}

// param adds a parameter of a node in another order of axes, which permute brings it into; nil is none. It returns the
// tensor's name, the parameter's own.
func (g *graph) param(v net.Node, suffix string, shape []int, permute func(dst, src []float32)) string {
	name := v.Name + "." + suffix
	n := 1
	for _, d := range shape {
		n *= d
	}
	m := tensor(name, typeFloat, shape)
	m.later(9, 4*int64(n), func() ([]byte, error) {
		t, err := g.params.Get(name)
		if err != nil {
			return nil, err
		}
		x, err := t.Float32s()
		if err != nil {
			return nil, err
		}
		if permute != nil {
			turned := make([]float32, len(x))
			permute(turned, x)
			x = turned
		}
		return floatBytes(x), nil
	})
	g.initializers = append(g.initializers, m)
	return name
}

// constant adds a tensor of numbers.
func (g *graph) constant(name string, shape []int, x []float32) string {
	m := tensor(name, typeFloat, shape)
	m.text(9, string(floatBytes(x)))
	g.initializers = append(g.initializers, m)
	return name
}

// indices adds a vector of whole numbers.
func (g *graph) indices(name string, x ...int64) string {
	m := tensor(name, typeInt64, []int{len(x)})
	var b []byte
	for _, v := range x {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	m.text(9, string(b))
	g.initializers = append(g.initializers, m)
	return name
}

func floatBytes(x []float32) []byte {
	b := make([]byte, 0, 4*len(x))
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// tensor is a TensorProto without its data.
func tensor(name string, of int64, shape []int) *message {
	m := &message{}
	for _, d := range shape {
		m.integer(1, int64(d))
	}
	m.integer(2, of)
	m.text(8, name)
	return m
}

// Types of AttributeProto.
const (
	attributeFloat    = 1
	attributeInt      = 2
	attributeIntegers = 7
)

func attribute(name string, of int64) *message {
	m := &message{}
	m.text(1, name)
	m.integer(20, of)
	return m
}

func float(name string, v float32) *message {
	m := attribute(name, attributeFloat)
	m.float(2, math.Float32bits(v))
	return m
}

func integer(name string, v int64) *message {
	m := attribute(name, attributeInt)
	m.integer(3, v)
	return m
}

func integers(name string, vs ...int64) *message {
	m := attribute(name, attributeIntegers)
	for _, v := range vs {
		m.integer(protowire.Number(8), v)
	}
	return m
}

// pair is the same for rows and columns.
func pair(name string, v int) *message { return integers(name, int64(v), int64(v)) }

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
