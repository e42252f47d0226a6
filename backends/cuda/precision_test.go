//go:build cuda && cgo && linux && amd64

package cuda

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"hypnos/backends/backendtest"
	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/rng"
	"hypnos/core/sleep"
)

// roundoff is the unit roundoff u of a product's factors: 2^-p of p bits.
func (p Precision) roundoff() float64 {
	return map[Precision]float64{F32: 0, TF32: 0x1p-11, BF16: 0x1p-8}[p]
}

// stored is that of activations and their gradients.
func (p Precision) stored() float64 {
	if p == BF16 {
		return 0x1p-8
	}
	return 0x1p-24
}

// productBound is how far a sum of n products of rounded factors, added in float32 and stored, may be from the exact one,
// size being the sum of the products' absolute values: a product is off by a factor of (1+u)², so by 2u+u² of its size;
// adding n of them in any order by γ(n) of what they are then, at most (1+u)² as large; storing by its roundoff of the result.
func (p Precision) productBound(n int, size float64) float64 {
	u, nu := p.roundoff(), float64(n)*0x1p-24
	sum := size * (2*u + u*u + nu/(1-nu)*(1+u)*(1+u))
	return sum + p.stored()*(size+sum)
}

func randoms(seed uint64, n int) []float64 {
	x, s := make([]float64, n), rng.New(seed, rng.Test, 0)
	for i := range x {
		x[i] = float64(float32(s.Normal(uint64(i))))
	}
	return x
}

// loaded is an engine with parameters.
func loaded(t *testing.T, b core.Backend, n *net.Network, o core.Options, p *model.Params) core.Engine {
	t.Helper()
	e := ready(t, b, n, o)
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	return e
}

func absolute(x []float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = math.Abs(v)
	}
	return y
}

// within reports the first element that is farther off than its bound; a NaN is always.
func within(t *testing.T, what string, got, want []float64, bound func(i int) float64) {
	t.Helper()
	if len(got) != len(want) || len(got) == 0 {
		t.Errorf("%s: %d elements, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if d := math.Abs(got[i] - want[i]); !(d <= bound(i)) {
			t.Errorf("%s[%d] = %.9g, want %.9g ± %.3g", what, i, got[i], want[i], bound(i))
			return
		}
	}
}

// Products in tf32 and bf16 are within the bounds of their rounded factors, forwards and backwards, in every kind of layer
// that has them, and rounded at all: some differ from float32's.
func TestProductsOfPrecisions(t *testing.T) {
	needDevice(t, false)
	compared := 0
	for _, precision := range []Precision{TF32, BF16} {
		b, full := open(t, precision), open(t, F32)
		for _, w := range []net.Window{
			{Out: 5, Kernel: 1, Stride: 1},
			{Out: 6, Kernel: 3, Stride: 2, Groups: 2, Bias: true},
			{Out: 16, Kernel: 3, Stride: 1, Bias: true},
			{Out: 4, Kernel: 3, Stride: 3, Patches: true},
		} {
			for _, kind := range []string{"conv2d", "lc2d"} {
				for _, images := range []int{1, 19} {
					in := net.Shape{H: 6, W: 6, C: 8}
					nb := net.NewBuilder("one")
					if x := nb.Input(in); kind == "lc2d" {
						nb.LC2D("layer", x, w)
					} else {
						nb.Conv2D("layer", x, w)
					}
					n, err := nb.Build()
					if err != nil {
						t.Fatal(err)
					}
					groups, k := max(1, w.Groups), w.Kernel*w.Kernel
					positions := n.Output().H * n.Output().W
					terms := map[string]int{"out/input": 1, "out/layer": k*in.C/groups + 1, "grad/input": k * w.Out / groups, "grad/layer.weight": images, "grad/layer.bias": images}
					if kind == "conv2d" {
						terms["grad/layer.weight"], terms["grad/layer.bias"] = images*positions, images*positions
					}
					p := backendtest.ParamsOf(n, func(i int, q net.Param) []float64 { return randoms(uint64(10+i), q.Len()) })
					size := backendtest.ParamsOf(n, func(i int, q net.Param) []float64 { return absolute(randoms(uint64(10+i), q.Len())) })
					x, g := randoms(1, images*in.Len()), randoms(2, images*n.Output().Len())
					probe := core.Probe{Train: true, Cotangent: g}
					o := learning(images, optim.SGD)
					got := backendtest.Trace(t, loaded(t, b, n, o, p), backendtest.Batch(images, x), probe)
					want := backendtest.Trace(t, loaded(t, ref.Open(), n, o, p), backendtest.Batch(images, x), probe)
					sizes := backendtest.Trace(t, loaded(t, ref.Open(), n, o, size), backendtest.Batch(images, absolute(x)), core.Probe{Train: true, Cotangent: absolute(g)})
					float := backendtest.Trace(t, loaded(t, full, n, o, p), backendtest.Batch(images, x), probe)
					for name := range want {
						what := fmt.Sprintf("%s: %s %+v, %d images: %s", precision, kind, w, images, name)
						within(t, what, got[name], want[name], func(i int) float64 { return precision.productBound(terms[name], sizes[name][i]) })
						compared++
					}
					differ := 0
					for i, v := range float["out/layer"] {
						if v != got["out/layer"][i] {
							differ++
						}
					}
					if differ == 0 {
						t.Errorf("%s: %s %+v gives what float32 does: its factors are not rounded", precision, kind, w)
					}
				}
			}
		}
	}
	if compared != 2*2*2*(2*4+2*5) {
		t.Errorf("%d tensors compared", compared)
	}
}

// A whole network layer by layer: each against the reference on the inputs that the device itself gave it.
func TestNetworksOfPrecisions(t *testing.T) {
	needDevice(t, false)
	const images = 5
	compared, want := 0, 0
	for _, precision := range Precisions() {
		b := open(t, precision)
		for _, name := range []string{"resnet8", "resnet8-lc", "mixer", "mixer-lc"} {
			n := small(t, name)
			p := backendtest.ParamsOf(n, func(i int, q net.Param) []float64 {
				x := randoms(uint64(i), q.Len())
				for j := range x {
					if q.Role == net.RunningVar {
						x[j] = 0.5 + math.Abs(x[j])
					}
				}
				return x
			})
			got := backendtest.Trace(t, loaded(t, b, n, learning(images, optim.SGD), p), backendtest.Batch(images, randoms(7, images*n.Input().Len())), core.Probe{Train: true})
			for _, v := range n.Nodes[1:] {
				compareNode(t, precision, n, v, p, got)
				compared++
			}
			want += len(n.Nodes) - 1
		}
	}
	if compared != want || compared < 300 {
		t.Errorf("%d layers compared, want %d", compared, want)
	}
}

// compareNode compares one node's output with the reference's of the node's own inputs. What has no products is computed in
// float32, or better, and stored: a batch norm takes at most 16 roundings of float32 of gain/√(var+ε)·(|x|+|mean|) and |shift| - its
// statistics are float64 -, a pool's mean of float64 and a sum one, and the others none.
func compareNode(t *testing.T, precision Precision, n *net.Network, v net.Node, p *model.Params, got map[string][]float64) {
	t.Helper()
	const u32 = 0x1p-24
	name, y := n.Name+" in "+string(precision)+": "+v.Name, got["out/"+v.Name]
	x := got["out/"+n.Nodes[v.Inputs[0]].Name]
	images := len(x) / v.In.Len()
	if _, ok := v.Op.(net.Add); ok {
		z := got["out/"+n.Nodes[v.Inputs[1]].Name]
		sum := make([]float64, len(x))
		for i := range sum {
			sum[i] = x[i] + z[i]
		}
		within(t, name, y, sum, func(i int) float64 { return (u32 + precision.stored()) * (1 + u32) * math.Abs(sum[i]) })
		return
	}
	nb := net.NewBuilder("single")
	nb.Add("layer", v.Op, nb.Input(v.In))
	single, err := nb.Build()
	if err != nil {
		t.Fatal(err)
	}
	own := func(f func([]float64) []float64) *model.Params {
		return backendtest.ParamsOf(single, func(i int, _ net.Param) []float64 {
			q, err := p.Get(v.Params[i].Name)
			if err != nil {
				t.Fatal(err)
			}
			w, err := q.Float64s()
			if err != nil {
				t.Fatal(err)
			}
			return f(w)
		})
	}
	same := func(w []float64) []float64 { return w }
	o := learning(images, optim.SGD)
	want := backendtest.Trace(t, loaded(t, ref.Open(), single, o, own(same)), backendtest.Batch(images, x), core.Probe{Train: true})["out/layer"]
	switch op := v.Op.(type) {
	case net.Conv2D, net.LC2D, net.Linear:
		g, _ := windowOfNode(v, images)
		size := backendtest.Trace(t, loaded(t, ref.Open(), single, o, own(absolute)), backendtest.Batch(images, absolute(x)), core.Probe{Train: true})["out/layer"]
		within(t, name, y, want, func(i int) float64 {
			return precision.productBound(g.K*g.K*g.Cin/g.Groups+1, size[i])
		})
	case net.BatchNorm:
		scale := normScale(t, own(same), op, x, v.In.C)
		within(t, name, y, want, func(i int) float64 {
			return 16*u32/(1-16*u32)*scale(i) + precision.stored()*(math.Abs(want[i])+16*u32*scale(i))
		})
	default:
		within(t, name, y, want, func(i int) float64 { return (u32 + precision.stored()) * (1 + u32) * math.Abs(want[i]) })
	}
}

// normScale gives gain/√(var+ε)·(|x|+|mean|) + |shift| of every element.
func normScale(t *testing.T, p *model.Params, op net.BatchNorm, x []float64, channels int) func(i int) float64 {
	t.Helper()
	mean, square := make([]float64, channels), make([]float64, channels)
	m := float64(len(x) / channels)
	for i, v := range x {
		mean[i%channels] += v / m
	}
	for i, v := range x {
		d := v - mean[i%channels]
		square[i%channels] += d * d / m
	}
	of := func(name string) []float64 {
		q, err := p.Get("layer." + name)
		if err != nil {
			t.Fatal(err)
		}
		v, err := q.Float64s()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	gain, shift := of("gain"), of("shift")
	return func(i int) float64 {
		c := i % channels
		return math.Abs(gain[c])/math.Sqrt(square[c]+op.Eps)*(math.Abs(x[i])+math.Abs(mean[c])) + math.Abs(shift[c])
	}
}

// In every precision and by both wake rules, learning and sleep give the same bits each time, and an engine that loads
// what another saved goes on like it.
func TestPrecisionsGiveTheSameBits(t *testing.T) {
	needDevice(t, false)
	n, compared := small(t, "resnet8-lc"), 0
	x, y := images(n, 6), core.Labels{0, 1, 2, 3, 4, 5}
	for _, precision := range []Precision{TF32, BF16} {
		b := open(t, precision)
		for _, rule := range core.WakeRules() {
			o := learning(6, optim.AdamW)
			o.Rule = rule
			ctx := context.Background()
			learnAndSleep := func(e core.Engine, steps int) {
				for range steps {
					if _, err := e.Wake(ctx, x, y, 1e-3); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}); err != nil {
					t.Fatal(err)
				}
			}
			one, two := ready(t, b, n, o), ready(t, b, n, o)
			learnAndSleep(one, 2)
			learnAndSleep(two, 2)
			half, err := one.Save()
			if err != nil {
				t.Fatal(err)
			}
			three := loaded(t, b, n, o, half)
			var states []*model.Params
			for _, e := range []core.Engine{one, two, three} {
				learnAndSleep(e, 2)
				p, err := e.Save()
				if err == nil {
					p, err = p.Snapshot()
				}
				if err != nil {
					t.Fatal(err)
				}
				states = append(states, p)
			}
			for _, info := range states[0].Infos() {
				if info.DType != model.F32 {
					continue
				}
				var first []float64
				for i, p := range states {
					v, err := p.Get(info.Name)
					if err != nil {
						t.Fatal(err)
					}
					f, err := v.Float64s()
					if err != nil {
						t.Fatal(err)
					}
					if i == 0 {
						first = f
						continue
					}
					within(t, fmt.Sprintf("%s by %s, run %d: %s", precision, rule, i+1, info.Name), f, first, func(int) float64 { return 0 })
					compared++
				}
			}
		}
	}
	if compared < 2*2*2*3*len(n.Params())/2 {
		t.Errorf("only %d tensors compared", compared)
	}
}

// What an image gives does not depend, to the bit, on how many others are in its batch: tiles of few rows, for small batches, and of
// many add the terms of a sum in the same order.
func TestSameBitsInSmallAndLargeBatches(t *testing.T) {
	needDevice(t, false)
	b := net.NewBuilder("tiles")
	x := b.ReLU("relu", b.LC2D("lc1", b.Input(net.Shape{H: 4, W: 4, C: 3}), net.Window{Out: 8, Kernel: 3, Stride: 1}))
	x = b.Conv2D("conv", b.LC2D("lc2", x, net.Window{Out: 40, Kernel: 3, Stride: 2}), net.Window{Out: 5, Kernel: 1, Stride: 1})
	b.Linear("linear", b.GlobalAvgPool("pool", x), 7)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	const large = 130 // more than one tile of many rows
	all := images(n, large)
	cotangent := make([]float64, large*7)
	for i := range cotangent {
		cotangent[i] = rng.New(6, rng.Test, 0).Normal(uint64(i))
	}
	compared := 0
	for _, precision := range Precisions() {
		e := ready(t, open(t, precision), n, learning(large, optim.SGD))
		// results are the logits and the gradients of count images.
		results := func(first, count int) [][]float64 {
			size := n.Input().Len()
			x := core.Batch{N: count, Pixels: all.Pixels[first*size : (first+count)*size]}
			l, err := e.Infer(context.Background(), x)
			if err != nil {
				t.Fatal(err)
			}
			found := [][]float64{l.Values, nil}
			for v, err := range e.Trace(context.Background(), x, core.Probe{Train: true, Cotangent: cotangent[first*7 : (first+count)*7]}) {
				if err != nil {
					t.Fatal(err)
				}
				if v.Name == "grad/input" {
					if found[1], err = v.Float64s(); err != nil {
						t.Fatal(err)
					}
				}
			}
			return found
		}
		want := results(0, large)
		for _, part := range [][2]int{{0, 1}, {127, 3}, {60, 33}, {3, 64}, {1, 65}} {
			for i, got := range results(part[0], part[1]) {
				each := len(want[i]) / large
				if !slices.Equal(got, want[i][part[0]*each:(part[0]+part[1])*each]) {
					t.Errorf("%s: images %d to %d alone give other bits (result %d)", precision, part[0], part[0]+part[1]-1, i)
				}
				compared += len(got)
			}
		}
	}
	if compared != 3*(1+3+33+64+65)*(7+4*4*3) {
		t.Errorf("%d numbers compared", compared)
	}
}
