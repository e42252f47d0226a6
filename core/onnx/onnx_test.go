package onnx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/onnx"
	"hypnos/core/rng"
)

// integers draws n whole numbers from -3 to 3: sums of their products are exact in float64, whatever their order.
func integers(seed uint64, n int) []float32 {
	s, x := rng.New(seed, rng.Test, 0), make([]float32, n)
	for i := range x {
		x[i] = float32(math.Round(max(-3, min(3, s.Normal(uint64(i))))))
	}
	return x
}

// params are whole numbers for all parameters; variances are such that the standard deviation is about 2.
func params(n *net.Network) *model.Params {
	p := &model.Params{}
	for i, q := range n.Params() {
		x := integers(uint64(i+10), q.Len())
		if q.Role == net.RunningVar {
			for j := range x {
				x[j] = 4
			}
		}
		p.Add(model.NewTensor(q.Name, q.Shape, x))
	}
	return p
}

// build makes a network of one input and what add puts behind it.
func build(t *testing.T, in net.Shape, add func(*net.Builder, net.Ref)) *net.Network {
	t.Helper()
	b := net.NewBuilder("exported")
	add(b, b.Input(in))
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// reference is the network's output by the definition, (B, C, H, W).
func reference(t *testing.T, n *net.Network, p *model.Params, images int, pixels []float32) array {
	t.Helper()
	e, err := ref.Open().Compile(n, core.Options{MaxBatch: images})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	last := "out/" + n.Nodes[len(n.Nodes)-1].Name
	for v, err := range e.Trace(context.Background(), core.Batch{N: images, Pixels: pixels}, core.Probe{}) {
		if err != nil {
			t.Fatal(err)
		}
		if v.Name == last {
			x, err := v.Float64s()
			if err != nil {
				t.Fatal(err)
			}
			return transpose(array{v.Shape, append([]float64(nil), x...)}, []int{0, 3, 1, 2})
		}
	}
	t.Fatalf("no %s", last)
	return array{}
}

// compare writes the network, interprets the file and compares every number of the output.
func compare(t *testing.T, n *net.Network, relative float64) {
	t.Helper()
	const images = 3
	p, in := params(n), n.Input()
	var file bytes.Buffer
	if err := onnx.Write(&file, n, p, onnx.Options{}); err != nil {
		t.Fatal(err)
	}
	pixels := integers(1, images*in.Len())
	x := array{[]int{images, in.H, in.W, in.C}, nil}
	for _, v := range pixels {
		x.data = append(x.data, float64(v))
	}
	m := parse(t, file.Bytes())
	got, want := m.run(t, transpose(x, []int{0, 3, 1, 2})), reference(t, n, p, images, pixels)
	if len(got.data) != len(want.data) || got.shape[0] != images || got.shape[1] != n.Output().C {
		t.Fatalf("output is %v, want %v", got.shape, want.shape)
	}
	largest := 0.0
	for _, v := range want.data {
		largest = max(largest, math.Abs(v))
	}
	if !(largest > 0) {
		t.Fatal("every output is 0: nothing is compared")
	}
	for i, v := range got.data {
		if !(math.Abs(v-want.data[i]) <= relative*largest) {
			t.Fatalf("output %d is %v, want %v", i, v, want.data[i])
		}
	}
}

// An interpreter of its own, by the operators' definitions, gives for every kind of layer, kernel, stride, group and bias what
// the reference backend gives, to the last bit: whole numbers, of which all sums are exact.
func TestLayers(t *testing.T) {
	compared := 0
	layer := func(name string, in net.Shape, add func(*net.Builder, net.Ref)) {
		t.Run(name, func(t *testing.T) { compare(t, build(t, in, add), 0) })
		compared++
	}
	for _, kernel := range []int{1, 3, 5} {
		for _, stride := range []int{1, 2} {
			for _, groups := range []int{1, 2} {
				for _, bias := range []bool{false, true} {
					w := net.Window{Out: 6, Kernel: kernel, Stride: stride, Groups: groups, Bias: bias}
					in := net.Shape{H: 6, W: 8, C: 4}
					name := fmt.Sprintf("%d,%d,%d,%v", kernel, stride, groups, bias)
					layer("lc2d "+name, in, func(b *net.Builder, x net.Ref) { b.LC2D("layer", x, w) })
					layer("conv2d "+name, in, func(b *net.Builder, x net.Ref) { b.Conv2D("layer", x, w) })
				}
			}
		}
	}
	patches := net.Window{Out: 5, Kernel: 2, Stride: 2, Groups: 1, Patches: true, Bias: true}
	in := net.Shape{H: 4, W: 6, C: 3}
	layer("patches, lc2d", in, func(b *net.Builder, x net.Ref) { b.LC2D("layer", x, patches) })
	layer("patches, conv2d", in, func(b *net.Builder, x net.Ref) { b.Conv2D("layer", x, patches) })
	layer("relu, add", in, func(b *net.Builder, x net.Ref) { b.Sum("add", b.ReLU("relu", x), x) })
	layer("maxpool", in, func(b *net.Builder, x net.Ref) { b.MaxPool("pool", x, 3, 2) })
	layer("transpose", in, func(b *net.Builder, x net.Ref) { b.Transpose("turn", x) })
	layer("transpose back", in, func(b *net.Builder, x net.Ref) { b.TransposeBack("back", b.Transpose("turn", x), in) })
	layer("globalavgpool, linear", net.Shape{H: 4, W: 4, C: 3}, func(b *net.Builder, x net.Ref) { b.Linear("linear", b.GlobalAvgPool("pool", x), 7) })
	if want := 2*3*2*2*2 + 7; compared != want {
		t.Errorf("%d layers compared, want %d", compared, want)
	}
}

// A batch norm rounds: to a part in 10^12 of the largest output, some hundred roundings of float64 in another order, and in
// whole networks some hundred more a layer; epsilon itself is rounded to float32 in the file, a part in 2^24 of 1e-5 beside
// a variance of 4, 10^-13.
func TestNetworks(t *testing.T) {
	t.Run("batch norm", func(t *testing.T) {
		compare(t, build(t, net.Shape{H: 3, W: 4, C: 5}, func(b *net.Builder, x net.Ref) { b.BatchNorm("norm", x) }), 1e-12)
	})
	compared := 0
	for _, name := range net.Names() {
		if strings.HasPrefix(name, "resnet18") || strings.HasPrefix(name, "resnet20") || strings.HasPrefix(name, "resnet34") {
			continue // the layers of resnet8, more often
		}
		t.Run(name, func(t *testing.T) {
			n, err := net.ByName(name, net.Options{Width: 4, Input: 8})
			if err != nil {
				n, err = net.ByName(name, net.Options{})
			}
			if err != nil {
				t.Fatal(err)
			}
			compare(t, n, 1e-12)
		})
		compared++
	}
	if compared < 2 {
		t.Errorf("%d networks compared: %v", compared, net.Names())
	}
}

// With statistics the model takes pixels in 0…1.
func TestStatistics(t *testing.T) {
	n := build(t, net.Shape{H: 2, W: 2, C: 3}, func(b *net.Builder, x net.Ref) { b.ReLU("relu", x) })
	stats := data.Stats{Mean: [3]float64{0.5, 0.25, 0.125}, Std: [3]float64{0.5, 0.25, 0.125}}
	var file bytes.Buffer
	meta := map[string]string{"key": "value"}
	if err := onnx.Write(&file, n, &model.Params{}, onnx.Options{Stats: &stats, Producer: "hypnos", Meta: meta}); err != nil {
		t.Fatal(err)
	}
	m := parse(t, file.Bytes())
	if m.ir != onnx.IRVersion || m.opset != onnx.OpSet || m.meta["key"] != "value" {
		t.Errorf("ir %d, opset %d, meta %v", m.ir, m.opset, m.meta)
	}
	x := fill([]int{1, 3, 2, 2}, func(index []int) float64 { return float64(index[2]*2+index[3]) / 4 })
	got, checked := m.run(t, x), 0
	for i, v := range got.data {
		c := i / 4
		if want := max(0, (x.data[i]-stats.Mean[c])/stats.Std[c]); v != want {
			t.Errorf("output %d is %v, want %v", i, v, want)
		}
		checked++
	}
	if checked != 12 {
		t.Errorf("%d outputs", checked)
	}
}

// Faults are found before anything is written.
func TestRefusals(t *testing.T) {
	gray := build(t, net.Shape{H: 2, W: 2, C: 1}, func(b *net.Builder, x net.Ref) { b.ReLU("relu", x) })
	lc := build(t, net.Shape{H: 2, W: 2, C: 1}, func(b *net.Builder, x net.Ref) {
		b.LC2D("layer", x, net.Window{Out: 1, Kernel: 1, Stride: 1, Groups: 1})
	})
	large := build(t, net.Shape{H: 64, W: 64, C: 128}, func(b *net.Builder, x net.Ref) {
		b.LC2D("layer", x, net.Window{Out: 256, Kernel: 3, Stride: 1, Groups: 1})
	})
	lazy := &model.Params{}
	for _, q := range large.Params() {
		lazy.AddLazy(model.Info{Name: q.Name, DType: model.F32, Shape: q.Shape}, func() (model.Tensor, error) {
			return model.Tensor{}, errors.New("read")
		})
	}
	for name, c := range map[string]struct {
		n     *net.Network
		p     *model.Params
		stats *data.Stats
		want  string
	}{
		"channels":  {gray, &model.Params{}, &data.Stats{}, "3 channels for an input of 1"},
		"missing":   {lc, &model.Params{}, nil, "layer.weight"},
		"too large": {large, lazy, nil, "more than the 2147483647"},
	} {
		var file bytes.Buffer
		err := onnx.Write(&file, c.n, c.p, onnx.Options{Stats: c.stats})
		if err == nil || !strings.Contains(err.Error(), c.want) || file.Len() > 0 {
			t.Errorf("%s: %v, %d bytes written", name, err, file.Len())
		}
	}
}
