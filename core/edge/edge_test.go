package edge_test

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"hypnos/backends/fixed"
	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// network builds a classifier of 5 classes.
func network(t testing.TB, name string, in net.Shape, add func(b *net.Builder, x net.Ref) net.Ref) *net.Network {
	t.Helper()
	b := net.NewBuilder(name)
	x := add(b, b.Input(in))
	b.Linear("linear", b.GlobalAvgPool("pool", x), 5)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// networks are small ones with batch norms: locally connected and convolutional residual ones with groups, strides and
// biases, patches, and a batch norm behind the classifier.
func networks(t testing.TB) []*net.Network {
	t.Helper()
	type spatial func(b *net.Builder, name string, x net.Ref, w net.Window) net.Ref
	block := func(name string, layer spatial) *net.Network {
		return network(t, name, net.Shape{H: 6, W: 6, C: 3}, func(b *net.Builder, x net.Ref) net.Ref {
			x = b.ReLU("relu1", b.BatchNorm("stem.bn", layer(b, "stem", x, net.Window{Out: 8, Kernel: 3, Stride: 1})))
			y := b.ReLU("relu2", b.BatchNorm("bn1", layer(b, "conv1", x, net.Window{Out: 12, Kernel: 3, Stride: 2, Bias: true, Groups: 2})))
			y = b.BatchNorm("bn2", layer(b, "conv2", y, net.Window{Out: 12, Kernel: 3, Stride: 1}))
			z := layer(b, "shortcut", x, net.Window{Out: 12, Kernel: 1, Stride: 2})
			return b.ReLU("relu3", b.Sum("add", y, z))
		})
	}
	all := []*net.Network{
		block("lc", func(b *net.Builder, name string, x net.Ref, w net.Window) net.Ref { return b.LC2D(name, x, w) }),
		block("conv", func(b *net.Builder, name string, x net.Ref, w net.Window) net.Ref { return b.Conv2D(name, x, w) }),
		network(t, "patches", net.Shape{H: 6, W: 4, C: 2}, func(b *net.Builder, x net.Ref) net.Ref {
			x = b.BatchNorm("patches.bn", b.LC2D("patches", x, net.Window{Out: 20, Kernel: 2, Stride: 2, Patches: true}))
			x = b.MaxPool("maxpool", x, 3, 1)
			x = b.BatchNorm("tokens.bn", b.LC2D("tokens", b.Transpose("t", x), net.Window{Out: 6, Kernel: 1, Stride: 1, Bias: true}))
			return b.TransposeBack("back", x, net.Shape{H: 3, W: 2})
		}),
	}
	b := net.NewBuilder("head")
	x := b.LC2D("layer", b.Input(net.Shape{H: 2, W: 2, C: 3}), net.Window{Out: 4, Kernel: 3, Stride: 1})
	b.BatchNorm("bn", b.Linear("linear", b.GlobalAvgPool("pool", x), 5))
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return append(all, n)
}

// randomParams draws parameters of one float type, variances around 1.
func randomParams(n *net.Network, seed uint64, single bool) *model.Params {
	p := &model.Params{}
	for i, q := range n.Params() {
		s, x := rng.New(seed, rng.Test, uint64(i)), make([]float64, q.Len())
		for j := range x {
			switch v := s.Normal(uint64(j)); q.Role {
			case net.RunningVar:
				x[j] = 0.5 + v*v
			case net.Gain:
				x[j] = 1 + v/4
			case net.Weight:
				x[j] = v / 4
			default:
				x[j] = v / 2
			}
		}
		if !single {
			p.Add(model.NewTensor(q.Name, q.Shape, x))
			continue
		}
		y := make([]float32, len(x))
		for j, v := range x {
			y[j] = float32(v)
		}
		p.Add(model.NewTensor(q.Name, q.Shape, y))
	}
	return p
}

func images(n *net.Network, seed uint64, count int) core.Batch {
	s, b := rng.New(seed, rng.Test, 99), core.Batch{N: count, Pixels: make([]float32, count*n.Input().Len())}
	for i := range b.Pixels {
		b.Pixels[i] = float32(s.Normal(uint64(i)))
	}
	return b
}

// engine compiles a network for inference.
func engine(t testing.TB, b core.Backend, n *net.Network, p *model.Params) core.Engine {
	t.Helper()
	e, err := b.Compile(n, core.Options{MaxBatch: 16})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	return e
}

func integers(t testing.TB) core.Backend {
	t.Helper()
	b, err := fixed.Open(fixed.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// trace runs a batch and returns all activations by layer.
func trace(t testing.TB, e core.Engine, x core.Batch) map[string][]float64 {
	t.Helper()
	all := map[string][]float64{}
	for v, err := range e.Trace(context.Background(), x, core.Probe{}) {
		if err != nil {
			t.Fatal(err)
		}
		values, err := v.Float64s()
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(v.Name, "out/")] = slices.Clone(values)
	}
	return all
}

func float64s(t testing.TB, p *model.Params, name string) []float64 {
	t.Helper()
	v, err := p.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	x, err := v.Float64s()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// norms maps each layer to the batch norm behind it, by name.
func norms(n *net.Network) map[string]string {
	m := map[string]string{}
	for _, v := range n.Nodes {
		if _, ok := v.Op.(net.BatchNorm); ok {
			m[n.Nodes[v.Inputs[0]].Name] = v.Name
		}
	}
	return m
}

// absolute gives parameters without signs, and means with theirs turned, so that the reference computes on |x| the sum
// of the absolute values of everything that a layer adds up.
func absolute(t *testing.T, n *net.Network, p *model.Params) *model.Params {
	t.Helper()
	a := &model.Params{}
	for _, q := range n.Params() {
		x := slices.Clone(float64s(t, p, q.Name))
		for i, v := range x {
			x[i] = math.Abs(v)
			if q.Role == net.RunningMean {
				x[i] = -x[i]
			}
		}
		a.Add(model.NewTensor(q.Name, q.Shape, x))
	}
	return a
}

// TestFold: every layer of the folded network gives what the original's batch norm behind it does, or the layer itself.
//
// The bound: a layer of K products and its batch norm are, folded or not, a sum of at most K+2 terms that each took
// fewer than 20 roundings. Let A be the same sum of absolute values, carried through the whole network by the original
// with absolute parameters: both networks are within (K+20)·u·A of the exact layer, u = 2^-53, and an error e of a
// layer's input is at most e carried through the absolute layer; rectifiers, sums, pools and transposes do not enlarge
// it. So no output is off by more than Σ 2(K+20)·u times its A, over the layers. Folded weights in float32 are rounded
// once more, by at most 2^-24 of each term of each layer.
func TestFold(t *testing.T) {
	compared := 0
	for _, n := range networks(t) {
		for _, single := range []bool{false, true} {
			p := randomParams(n, 1, single)
			folded, q, err := edge.Fold(n, p)
			if err != nil {
				t.Fatal(err)
			}
			x := images(n, 2, 4)
			want, got := trace(t, engine(t, ref.Open(), n, p), x), trace(t, engine(t, ref.Open(), folded, q), x)
			for i, v := range x.Pixels {
				x.Pixels[i] = float32(math.Abs(float64(v)))
			}
			sums, relative := trace(t, engine(t, ref.Open(), n, absolute(t, n, p)), x), 0.0
			for _, v := range folded.Nodes {
				if _, ok := v.Op.(net.BatchNorm); ok {
					t.Errorf("%s: %s is still there", n.Name, v.Name)
				}
				if len(v.Params) > 0 {
					k := v.In.C * 9 // at most
					relative += 2 * float64(k+20) * 0x1p-53
					if single {
						relative += 0x1p-24
					}
				}
			}
			for _, v := range folded.Nodes {
				name := v.Name
				if norm, ok := norms(n)[name]; ok {
					name = norm
				}
				for i, w := range want[name] {
					if diff := math.Abs(got[v.Name][i] - w); !(diff <= relative*sums[name][i]) {
						t.Fatalf("%s: %s[%d] = %g, want %g, off by %g, bound %g", n.Name, v.Name, i, got[v.Name][i], w, diff, relative*sums[name][i])
					}
					compared++
				}
			}
			for _, i := range q.Infos() {
				if is := i.DType == model.F32; is != single {
					t.Errorf("%s: %s is %s", n.Name, i.Name, i.DType)
				}
			}
		}
	}
	if compared < 10000 {
		t.Errorf("only %d outputs compared", compared)
	}
}

func TestFoldRefuses(t *testing.T) {
	mixer, err := net.ByName("mixer-lc", net.Options{Input: 8, Classes: 5, Width: 4, Patch: 2, Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	shape := net.Shape{H: 2, W: 2, C: 3}
	shared := network(t, "shared", shape, func(b *net.Builder, x net.Ref) net.Ref {
		y := b.Conv2D("layer", x, net.Window{Out: 3, Kernel: 1, Stride: 1})
		return b.Sum("add", y, b.BatchNorm("bn", y))
	})
	twice := network(t, "twice", shape, func(b *net.Builder, x net.Ref) net.Ref {
		return b.BatchNorm("bn2", b.BatchNorm("bn1", b.Conv2D("layer", x, net.Window{Out: 3, Kernel: 1, Stride: 1})))
	})
	plain := networks(t)[3]
	with := func(n *net.Network, name string, value float64) *model.Params {
		p, all := randomParams(n, 1, false), &model.Params{}
		for v, err := range p.All() {
			if err != nil {
				t.Fatal(err)
			}
			if v.Name == name {
				v.Data.([]float64)[1] = value
			}
			all.Add(v)
		}
		return all
	}
	for _, c := range []struct {
		n    *net.Network
		p    *model.Params
		want string
	}{
		{mixer, randomParams(mixer, 1, false), `batch norm "block1.tokens.bn" cannot be folded: layer "patches" before it has other readers`},
		{shared, randomParams(shared, 1, false), `batch norm "bn" cannot be folded: layer "layer"`},
		{twice, randomParams(twice, 1, false), `batch norm "bn2" cannot be folded: it is behind "bn1" (batchnorm)`},
		{plain, &model.Params{}, `tensor "layer.weight" is missing`},
		{plain, with(plain, "bn.var", -1), `batch norm "bn": channel 1`},
		{plain, with(plain, "bn.gain", math.Inf(1)), `batch norm "bn": channel 1`},
	} {
		if _, _, err := edge.Fold(c.n, c.p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	_, q, err := edge.Fold(plain, with(plain, "layer.weight", math.NaN()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Get("layer.weight"); err == nil || !strings.Contains(err.Error(), `"layer.weight": element 1 is not finite`) {
		t.Errorf("a NaN among the weights: %v", err)
	}
}
