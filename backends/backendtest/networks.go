package backendtest

import (
	"fmt"
	"math"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
)

// tiedLCEqualsConv: with the same kernel at every position a locally connected layer is a convolution, output, input
// gradient and (summed over positions) weight gradient, within 1e-5 of the largest element: about 80 roundings of
// float32 at up to 145 terms. All combinations of 1 to 4 input and output channels, kernels 1 and 3 and
// patches, strides 1, 2 and 4, maps of 2, 4 and 8, 1 to 4 groups, bias on and off, but for those that do not divide: 1056
// cases.
func (c Config) tiedLCEqualsConv(t *testing.T) {
	const patches = 0 // for a kernel: that of the stride, without padding
	b := c.open(t)
	compared := 0
	for in := 1; in <= 4; in++ {
		for out := 1; out <= 4; out++ {
			for groups := 1; groups <= 4; groups++ {
				for _, kernel := range []int{1, 3, patches} {
					for _, stride := range []int{1, 2, 4} {
						for _, size := range []int{2, 4, 8} {
							for _, bias := range []bool{false, true} {
								if in%groups != 0 || out%groups != 0 || size%stride != 0 {
									continue
								}
								w := net.Window{Out: out, Kernel: kernel, Stride: stride, Groups: groups, Bias: bias}
								if kernel == patches {
									w.Kernel, w.Patches = stride, true
								}
								compareTied(t, b, net.Shape{H: size, W: size, C: in}, w)
								compared++
							}
						}
					}
				}
			}
		}
	}
	if compared != 1056 {
		t.Errorf("%d cases compared, want 1056", compared)
	}
}

func compareTied(t *testing.T, b core.Backend, in net.Shape, w net.Window) {
	t.Helper()
	const images, relative = 2, 1e-5
	build := func(add func(*net.Builder, net.Ref)) *net.Network {
		nb := net.NewBuilder("tied")
		add(nb, nb.Input(in))
		n, err := nb.Build()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	conv := build(func(nb *net.Builder, x net.Ref) { nb.Conv2D("layer", x, w) })
	lc := build(func(nb *net.Builder, x net.Ref) { nb.LC2D("layer", x, w) })
	positions := lc.Output().H * lc.Output().W
	kernel := randomParams(conv, 1)
	tied := ParamsOf(lc, func(_ int, p net.Param) []float64 {
		k := values(t, kernel, p.Name)
		var all []float64
		for range positions {
			all = append(all, k...)
		}
		return all
	})
	x := Batch(images, numbers(2, images*in.Len()))
	probe := core.Probe{Train: true, Cotangent: numbers(3, images*lc.Output().Len())}
	run := func(n *net.Network, tieds bool) traced {
		p := kernel
		if tieds {
			p = tied
		}
		e, err := b.Compile(n, training(images))
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		if err := e.Load(p); err != nil {
			t.Fatal(err)
		}
		return Trace(t, e, x, probe)
	}
	got, want := run(lc, true), run(conv, false)
	for name := range want {
		g := got[name]
		if len(g) == positions*len(want[name]) && positions > 1 && len(name) > 11 && name[:11] == "grad/layer." {
			sum := make([]float64, len(want[name]))
			for i, v := range g {
				sum[i%len(sum)] += v
			}
			g = sum
		}
		largest := 0.0
		for _, v := range want[name] {
			largest = max(largest, math.Abs(v))
		}
		closeTo(t, fmt.Sprintf("%v on %v: %s", w, in, name), g, want[name], func(int) float64 { return relative * largest })
	}
}

// smallNet is a residual network with every kind of layer, 8 pixels, with uneven groups and batch norms.
func smallNet(t *testing.T, lc bool) *net.Network {
	t.Helper()
	b := net.NewBuilder("small")
	spatial := b.Conv2D
	if lc {
		spatial = b.LC2D
	}
	x := b.Input(net.Shape{H: 8, W: 8, C: 3})
	x = spatial("stem", x, net.Window{Out: 6, Kernel: 3, Stride: 1})
	x = b.ReLU("stem.relu", b.BatchNorm("stem.bn", x))
	y := spatial("conv1", x, net.Window{Out: 8, Kernel: 3, Stride: 2, Groups: 2, Bias: true})
	y = b.ReLU("relu1", b.BatchNorm("bn1", y))
	y = b.BatchNorm("bn2", spatial("conv2", y, net.Window{Out: 8, Kernel: 3, Stride: 1}))
	s := b.BatchNorm("short.bn", spatial("short", x, net.Window{Out: 8, Kernel: 1, Stride: 2}))
	x = b.ReLU("relu2", b.Sum("add", y, s))
	x = b.MaxPool("maxpool", x, 3, 2)
	b.Linear("linear", b.GlobalAvgPool("pool", x), 7)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// mixerNet is the built-in network of patches, small, with the classes of smallNet: batch norms, perceptrons over tokens
// and over channels, rows and columns of different use.
func mixerNet(t *testing.T, lc bool) *net.Network {
	t.Helper()
	name := "mixer"
	if lc {
		name += "-lc"
	}
	n, err := net.ByName(name, net.Options{Input: 8, Classes: 7, Width: 6, Patch: 2, Depth: 2})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// wholeNets are the networks that are tested as such, each convolutional and locally connected.
func wholeNets(t *testing.T) []*net.Network {
	t.Helper()
	return []*net.Network{smallNet(t, false), smallNet(t, true), mixerNet(t, false), mixerNet(t, true)}
}

// labels are classes of smallNet and mixerNet.
func labels(n int) core.Labels {
	y := make(core.Labels, n)
	for i := range y {
		y[i] = int32((3*i + 1) % 7)
	}
	return y
}

// networkLayerByLayer runs a whole network and recomputes every layer on the reference from the inputs that the backend
// itself gave it, so that the bounds of single layers hold.
func (c Config) networkLayerByLayer(t *testing.T) {
	const images = 9
	if format := c.open(t).Caps().Format; format == "float64" {
		t.Skip("the reference takes float32 images, so that float64 activations cannot be handed to it")
	}
	compared := 0
	want := 0
	for _, n := range wholeNets(t) {
		want += len(n.Nodes) - 1
		p := randomParams(n, 1)
		x := numbers(2, images*n.Input().Len())
		got := Trace(t, compile(t, c.open(t), n, training(images), p), Batch(images, x), core.Probe{Train: true})
		for _, node := range n.Nodes[1:] {
			single, inputs := isolate(t, n, node)
			at := got["out/"+n.Nodes[inputs[0]].Name]
			own := ParamsOf(single.net, func(_ int, q net.Param) []float64 {
				return values(t, p, node.Name+q.Name[len("layer"):])
			})
			want := reference(t, single.net, own, Batch(images, at), core.Probe{Train: true})
			if len(inputs) == 2 { // a sum: the second summand is added here
				for i, v := range got["out/"+n.Nodes[inputs[1]].Name] {
					want["out/layer"][i] = at[i] + v
				}
			}
			bound := c.errorBound(t, single, images, own, at, make([]float64, images*node.Out.Len()), "out/layer", want)
			if len(inputs) == 2 {
				bound = func(i int) float64 { return c.Roundoff * math.Abs(want["out/layer"][i]) }
			}
			closeTo(t, "out/"+node.Name, got["out/"+node.Name], want["out/layer"], bound)
			compared++
		}
	}
	if compared != want {
		t.Errorf("%d layers compared, want %d", compared, want)
	}
}

// isolate makes a network of one node. A sum becomes a rectifier in its place: only its shape counts.
func isolate(t *testing.T, n *net.Network, v net.Node) (layerCase, []int) {
	t.Helper()
	b := net.NewBuilder("single")
	op := v.Op
	if _, ok := op.(net.Add); ok {
		op = net.ReLU{}
	}
	b.Add("layer", op, b.Input(n.Nodes[v.Inputs[0]].Out))
	single, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	l := layerCase{name: v.Name, net: single}
	switch op := op.(type) {
	case net.Conv2D:
		l.forward = op.Kernel*op.Kernel*v.In.C/op.Groups + 1
	case net.LC2D:
		l.forward = op.Kernel*op.Kernel*v.In.C/op.Groups + 1
	case net.Linear:
		l.forward = v.In.C + 1
	case net.GlobalAvgPool:
		l.forward = v.In.H*v.In.W + 1
	case net.BatchNorm:
		l.norm = true
	case net.Transpose:
	default:
		l.nonlinear = true
	}
	return l, v.Inputs
}

// batchOfOneAndOfMany: an image's activations do not depend, beyond rounding, on the batch around it. Every layer of
// the batch is compared with that of the single image; both are within the bound of the exact value.
func (c Config) batchOfOneAndOfMany(t *testing.T) {
	compared := 0
	for _, l := range layerCases(t) {
		for _, images := range []int{2, 9, 33} {
			p := randomParams(l.net, 1)
			x := numbers(2, images*l.net.Input().Len())
			e := compile(t, c.open(t), l.net, core.Options{MaxBatch: images}, p)
			many := Trace(t, e, Batch(images, x), core.Probe{})["out/layer"]
			size := l.net.Input().Len()
			out := l.net.Output().Len()
			for i := range images {
				xi := x[i*size : (i+1)*size]
				one := Trace(t, e, Batch(1, xi), core.Probe{})["out/layer"]
				bound := c.inferenceBound(t, l, p, xi)
				closeTo(t, fmt.Sprintf("%s: image %d of %d", l.name, i, images), many[i*out:(i+1)*out], one, func(j int) float64 { return 2 * bound(j) })
				compared++
			}
		}
	}
	if want := len(layerCases(t)) * (2 + 9 + 33); compared != want {
		t.Errorf("%d images compared, want %d", compared, want)
	}
}

// inferenceBound bounds a layer's output for one image. Batch norm in inference is gain·(x-mean)·inv + shift: the
// factors and the sum take at most 8 roundings of |gain| inv (|x| + |mean|) and |shift|.
func (c Config) inferenceBound(t *testing.T, l layerCase, p *model.Params, x []float64) func(int) float64 {
	if !l.norm {
		g := make([]float64, l.net.Output().Len())
		return c.errorBound(t, l, 1, p, x, g, "out/layer", nil)
	}
	gain, shift := values(t, p, "layer.gain"), values(t, p, "layer.shift")
	mean, variance := values(t, p, "layer.mean"), values(t, p, "layer.var")
	eps := l.net.Nodes[1].Op.(net.BatchNorm).Eps
	return func(i int) float64 {
		ch := i % len(gain)
		return c.gamma(8) * (math.Abs(gain[ch])/math.Sqrt(variance[ch]+eps)*(math.Abs(x[i])+math.Abs(mean[ch])) + math.Abs(shift[ch]))
	}
}

// nonFiniteTravels: a NaN or an infinity in an image reaches the outputs that the reference gives it to, as a NaN or
// the same infinity, and no others; zeros in the weights do not hide it.
func (c Config) nonFiniteTravels(t *testing.T) {
	compared := 0
	for _, l := range layerCases(t) {
		for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
			for _, images := range []int{1, 17} {
				p := randomParams(l.net, 1)
				x := numbers(2, images*l.net.Input().Len())
				x[0], x[len(x)-1] = v, v
				got := Trace(t, compile(t, c.open(t), l.net, core.Options{MaxBatch: images}, p), Batch(images, x), core.Probe{})["out/layer"]
				want := Trace(t, compile(t, ref.Open(), l.net, core.Options{MaxBatch: images}, p), Batch(images, x), core.Probe{})["out/layer"]
				for i := range want {
					switch {
					case math.IsNaN(want[i]) != math.IsNaN(got[i]), math.IsInf(want[i], 1) != math.IsInf(got[i], 1), math.IsInf(want[i], -1) != math.IsInf(got[i], -1):
						t.Errorf("%s B=%d with %g: output %d = %g, want %g", l.name, images, v, i, got[i], want[i])
					}
					compared++
				}
			}
		}
	}
	if compared < 1000 {
		t.Errorf("only %d outputs compared", compared)
	}
}
