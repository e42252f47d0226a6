// Package backendtest is the compliance suite: what any backend must do, checked against the definitions in core, against
// finite differences and against the reference backend.
//
// Every tolerance is a bound on rounding errors. With u the unit roundoff of the backend's format, a sum of n products
// computed in any order is off by at most γ(n)·Σ|a||b|, γ(n) = nu/(1-nu) (Higham, "Accuracy and stability of numerical
// algorithms", 2nd ed., Section 3.1). The Σ|a||b| are computed by running the reference on absolute values.
package backendtest

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/rng"
)

// Config says what is tested and how precise it is.
type Config struct {
	// Open opens the backend. Every test opens and closes it.
	Open func() (core.Backend, error)
	// Same opens it in other ways, for example with another number of threads, that must give the same bits.
	Same map[string]func() (core.Backend, error)
	// Roundoff is u: 2^-53 for float64, 2^-24 for float32.
	Roundoff float64
	// Interruptions is how many looks at a context lie between the interruptions of a sleep phase that are tried, one after the
	// other; 0 means 11. Emulated devices, on which a phase takes seconds, try fewer.
	Interruptions int
}

// Run runs the whole suite.
func Run(t *testing.T, c Config) {
	t.Run("LayersAgainstReference", c.layersAgainstReference)
	t.Run("FiniteDifferences", c.finiteDifferences)
	t.Run("TiedLCEqualsConv", c.tiedLCEqualsConv)
	t.Run("NetworkLayerByLayer", c.networkLayerByLayer)
	t.Run("BatchOfOneAndOfMany", c.batchOfOneAndOfMany)
	t.Run("NonFiniteTravels", c.nonFiniteTravels)
	t.Run("RunningStatistics", c.runningStatistics)
	t.Run("Optimizers", c.optimizers)
	t.Run("NonFiniteIsRefused", c.nonFiniteIsRefused)
	t.Run("LearnsFrom", c.learnsFrom)
	t.Run("SaveAndLoad", c.saveAndLoad)
	t.Run("SameBits", c.sameBits)
	t.Run("BroadcastOfLayers", c.broadcastOfLayers)
	t.Run("BroadcastInNetwork", c.broadcastInNetwork)
	t.Run("BroadcastLearns", c.broadcastLearns)
	t.Run("InstantSleep", c.instantSleep)
	t.Run("PlasticSleep", c.plasticSleep)
	t.Run("PlasticSleepSameBits", c.plasticSameBits)
	t.Run("SleepRefusals", c.sleepRefusals)
	t.Run("SleepIsInterruptible", c.sleepIsInterruptible)
	t.Run("Refusals", c.refusals)
}

// gamma is γ(n) for the backend's format.
func (c Config) gamma(n int) float64 {
	nu := float64(n) * c.Roundoff
	return nu / (1 - nu)
}

func open(t *testing.T, f func() (core.Backend, error)) core.Backend {
	t.Helper()
	b, err := f()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (c Config) open(t *testing.T) core.Backend { t.Helper(); return open(t, c.Open) }

// compile compiles a network and loads parameters.
func compile(t *testing.T, b core.Backend, n *net.Network, o core.Options, p *model.Params) core.Engine {
	t.Helper()
	e, err := b.Compile(n, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	return e
}

// training are options to learn with batches of up to n images.
func training(n int) core.Options {
	return core.Options{MaxBatch: n, Train: true, Optimizer: optim.Default(optim.SGD, 0)}
}

// numbers draws n standard normal numbers, rounded to multiples of 2^-10: every backend starts from the same, and small
// steps around them are exact too.
func numbers(seed uint64, n int) []float64 {
	s, x := rng.New(seed, rng.Test, 0), make([]float64, n)
	for i := range x {
		x[i] = math.Round(s.Normal(uint64(i))*1024) / 1024
	}
	return x
}

// spread draws n numbers that keep a distance of 1/16 from each other and from 0, in random order: the kinks of ReLU
// and the ties of max pools are far away.
func spread(seed uint64, n int) []float64 {
	x := make([]float64, n)
	for i, j := range rng.New(seed, rng.Test, 1).Perm(n) {
		x[i] = (float64(j) - float64(n/2) + 0.5) / 8
	}
	return x
}

// Batch is n images of the given numbers, rounded to float32.
func Batch(n int, x []float64) core.Batch {
	b := core.Batch{N: n, Pixels: make([]float32, len(x))}
	for i, v := range x {
		b.Pixels[i] = float32(v)
	}
	return b
}

// ParamsOf makes parameters of a network from a function of each.
func ParamsOf(n *net.Network, f func(i int, p net.Param) []float64) *model.Params {
	all := &model.Params{}
	for i, p := range n.Params() {
		all.Add(model.NewTensor(p.Name, p.Shape, f(i, p)))
	}
	return all
}

// randomParams draws all parameters; running variances are positive.
func randomParams(n *net.Network, seed uint64) *model.Params {
	return ParamsOf(n, func(i int, p net.Param) []float64 {
		x := numbers(seed+uint64(i), p.Len())
		if p.Role == net.RunningVar {
			for j := range x {
				x[j] = 0.5 + math.Abs(x[j])
			}
		}
		return x
	})
}

// values reads a tensor as float64.
func values(t *testing.T, p *model.Params, name string) []float64 {
	t.Helper()
	v, err := p.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return floats(t, v)
}

func floats(t *testing.T, v model.Tensor) []float64 {
	t.Helper()
	x, err := v.Float64s()
	if err != nil {
		t.Fatal(err)
	}
	return append([]float64(nil), x...)
}

// absolute is p with every element's absolute value.
func absolute(t *testing.T, n *net.Network, p *model.Params) *model.Params {
	return ParamsOf(n, func(_ int, q net.Param) []float64 { return abs(values(t, p, q.Name)) })
}

func abs(x []float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = math.Abs(v)
	}
	return y
}

// traced are the tensors of one trace by name.
type traced = map[string][]float64

// Trace are the tensors that a trace yields, copied, by name.
func Trace(t *testing.T, e core.Engine, x core.Batch, p core.Probe) map[string][]float64 {
	t.Helper()
	all := traced{}
	for v, err := range e.Trace(context.Background(), x, p) {
		if err != nil {
			t.Fatal(err)
		}
		all[v.Name] = floats(t, v)
	}
	return all
}

// reference traces a batch on the reference backend.
func reference(t *testing.T, n *net.Network, p *model.Params, x core.Batch, probe core.Probe) traced {
	t.Helper()
	return Trace(t, compile(t, ref.Open(), n, training(x.N), p), x, probe)
}

// closeTo reports elements of got that differ from want by more than their bound. A NaN is never close.
func closeTo(t *testing.T, what string, got, want []float64, bound func(i int) float64) {
	t.Helper()
	if len(got) != len(want) || len(got) == 0 {
		t.Errorf("%s: %d elements, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if d := math.Abs(got[i] - want[i]); !(d <= bound(i)) {
			t.Errorf("%s[%d] = %.9g, want %.9g ± %.3g", what, i, got[i], want[i], bound(i))
			return // one element shows the fault
		}
	}
}

// same reports elements whose bits differ.
func same(t *testing.T, what string, got, want []float64) {
	t.Helper()
	if len(got) != len(want) || len(got) == 0 {
		t.Errorf("%s: %d elements, want %d", what, len(got), len(want))
		return
	}
	for i := range got {
		if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
			t.Errorf("%s[%d] = %.17g, want exactly %.17g", what, i, got[i], want[i])
			return
		}
	}
}

// layerCase is a network of one layer, or of few where one does not stand alone, for which the rounding errors are
// known.
type layerCase struct {
	name string
	net  *net.Network
	// terms are the numbers of products summed in an output, in a weight's gradient for one image, and in an input's
	// gradient.
	forward, weight, input int
	nonlinear              bool // the layer is ReLU or MaxPool: sums are taken where the input, not its absolute value, says
	norm                   bool // the layer is a batch norm
}

const inputName = "input"

func layerCases(t *testing.T) []layerCase {
	t.Helper()
	var cases []layerCase
	one := func(c layerCase, in net.Shape, add func(b *net.Builder, x net.Ref)) {
		b := net.NewBuilder(c.name)
		add(b, b.Input(in))
		n, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		c.net = n
		cases = append(cases, c)
	}
	for _, w := range []net.Window{
		{Out: 5, Kernel: 1, Stride: 1},
		{Out: 4, Kernel: 1, Stride: 2, Bias: true},
		{Out: 5, Kernel: 3, Stride: 1},
		{Out: 6, Kernel: 3, Stride: 2, Groups: 2, Bias: true},
		{Out: 4, Kernel: 3, Stride: 1, Groups: 4},
		{Out: 16, Kernel: 3, Stride: 1, Bias: true},
		{Out: 33, Kernel: 3, Stride: 3},
		{Out: 3, Kernel: 7, Stride: 2},
		{Out: 5, Kernel: 2, Stride: 2, Patches: true, Bias: true},
		{Out: 17, Kernel: 3, Stride: 3, Patches: true},
		{Out: 4, Kernel: 6, Stride: 6, Groups: 2, Patches: true},
	} {
		groups := max(1, w.Groups)
		in := net.Shape{H: 6, W: 6, C: 4}
		k := w.Kernel * w.Kernel
		positions := in.H * in.W / w.Stride / w.Stride
		name := fmt.Sprintf("k%d s%d g%d bias=%v out%d", w.Kernel, w.Stride, groups, w.Bias, w.Out)
		if w.Patches {
			name += " patches"
		}
		one(layerCase{name: "conv2d " + name, forward: k*in.C/groups + 1, weight: positions, input: k * w.Out / groups},
			in, func(b *net.Builder, x net.Ref) { b.Conv2D("layer", x, w) })
		one(layerCase{name: "lc2d " + name, forward: k*in.C/groups + 1, weight: 1, input: k * w.Out / groups},
			in, func(b *net.Builder, x net.Ref) { b.LC2D("layer", x, w) })
	}
	one(layerCase{name: "lc2d wide", forward: 9*20 + 1, weight: 1, input: 9 * 20},
		net.Shape{H: 3, W: 5, C: 20}, func(b *net.Builder, x net.Ref) {
			b.LC2D("layer", x, net.Window{Out: 20, Kernel: 3, Stride: 1})
		})
	one(layerCase{name: "linear", forward: 19 + 1, weight: 1, input: 11},
		net.Shape{H: 1, W: 1, C: 19}, func(b *net.Builder, x net.Ref) { b.Linear("layer", x, 11) })
	one(layerCase{name: "globalavgpool", forward: 15 + 1, input: 1},
		net.Shape{H: 3, W: 5, C: 3}, func(b *net.Builder, x net.Ref) { b.GlobalAvgPool("layer", x) })
	one(layerCase{name: "relu", input: 1, nonlinear: true},
		net.Shape{H: 3, W: 5, C: 3}, func(b *net.Builder, x net.Ref) { b.ReLU("layer", x) })
	one(layerCase{name: "add", forward: 1, input: 2, nonlinear: true}, // x + relu(x)
		net.Shape{H: 3, W: 5, C: 3}, func(b *net.Builder, x net.Ref) { b.Sum("layer", x, b.ReLU("r", x)) })
	one(layerCase{name: "add twice", forward: 2, input: 3, nonlinear: true}, // relu(x) + x + x
		net.Shape{H: 3, W: 5, C: 3}, func(b *net.Builder, x net.Ref) { b.Sum("layer", b.Sum("s", b.ReLU("r", x), x), x) })
	for _, p := range []net.MaxPool{{Kernel: 3, Stride: 2}, {Kernel: 3, Stride: 1}, {Kernel: 1, Stride: 2}} {
		one(layerCase{name: fmt.Sprintf("maxpool %d/%d", p.Kernel, p.Stride), input: p.Kernel * p.Kernel, nonlinear: true},
			net.Shape{H: 6, W: 4, C: 3}, func(b *net.Builder, x net.Ref) { b.MaxPool("layer", x, p.Kernel, p.Stride) })
	}
	one(layerCase{name: "transpose", input: 1}, // to 1x5 positions of 12 channels
		net.Shape{H: 3, W: 4, C: 5}, func(b *net.Builder, x net.Ref) { b.Transpose("layer", x) })
	one(layerCase{name: "transpose to rows", input: 1},
		net.Shape{H: 1, W: 4, C: 6}, func(b *net.Builder, x net.Ref) { b.TransposeBack("layer", x, net.Shape{H: 2, W: 3}) })
	one(layerCase{name: "transpose beside", forward: 1, input: 2}, // its gradient is added to another's
		net.Shape{H: 2, W: 2, C: 4}, func(b *net.Builder, x net.Ref) {
			b.Sum("layer", x, b.TransposeBack("t", x, net.Shape{H: 2, W: 2}))
		})
	for _, kind := range []string{"conv2d", "lc2d"} {
		// Relative to the run on absolute values, in which no rectifier cuts anything off, an output has the roundings of
		// four layers of K products and a bias, and of two sums: 6+3+4+5 and 6. So has each factor of a gradient, which is
		// then summed over the batch and, in a convolution, over 6 positions at most.
		const roundings = 6 + 3 + 4 + 5 + 6
		one(layerCase{name: kind + " mixer block", forward: roundings, weight: 2*roundings + 6, input: 2 * roundings},
			net.Shape{H: 2, W: 3, C: 4}, func(b *net.Builder, x net.Ref) { mixerBlock(b, x, kind) })
	}
	one(layerCase{name: "batchnorm", norm: true},
		net.Shape{H: 3, W: 4, C: 5}, func(b *net.Builder, x net.Ref) { b.BatchNorm("layer", x) })
	return cases
}

// mixerBlock is a block of net's mixer without its batch norms, on 2x3 tokens of 4 channels.
func mixerBlock(b *net.Builder, x net.Ref, kind string) {
	spatial := b.Conv2D
	if kind == "lc2d" {
		spatial = b.LC2D
	}
	perceptron := func(name string, x net.Ref, hidden, out int) net.Ref {
		y := b.ReLU(name+".relu", spatial(name+".mlp1", x, net.Window{Out: hidden, Kernel: 1, Stride: 1, Bias: true}))
		return spatial(name+".mlp2", y, net.Window{Out: out, Kernel: 1, Stride: 1, Bias: true})
	}
	y := perceptron("tokens", b.Transpose("transpose", x), 3, 6)
	x = b.Sum("sum", x, b.TransposeBack("back", y, net.Shape{H: 2, W: 3}))
	b.Sum("layer", x, perceptron("channels", x, 5, 4))
}

// batches are the batch sizes tested: below, at and above the vector lengths, and more than one block.
func batches() []int { return []int{1, 2, 3, 7, 8, 16, 17, 40, 130} }

// layersAgainstReference compares every layer's output and gradients with the reference, for every batch size.
func (c Config) layersAgainstReference(t *testing.T) {
	compared := 0
	for _, l := range layerCases(t) {
		for _, n := range batches() {
			if l.norm && n*l.net.Input().H*l.net.Input().W < 2 {
				continue
			}
			t.Run(fmt.Sprintf("%s B=%d", l.name, n), func(t *testing.T) {
				c.compareLayer(t, l, n)
				compared++
			})
		}
	}
	if want := len(layerCases(t)) * len(batches()); compared != want {
		t.Errorf("%d comparisons, want %d", compared, want)
	}
}

func (c Config) compareLayer(t *testing.T, l layerCase, n int) {
	p := randomParams(l.net, 1)
	x := numbers(2, n*l.net.Input().Len())
	g := numbers(3, n*l.net.Output().Len())
	probe := core.Probe{Train: true, Cotangent: g}
	got := Trace(t, compile(t, c.open(t), l.net, training(n), p), Batch(n, x), probe)
	want := reference(t, l.net, p, Batch(n, x), probe)
	if len(got) != len(want) {
		t.Fatalf("%d tensors traced, want %d", len(got), len(want))
	}
	for name := range want {
		bound := c.errorBound(t, l, n, p, x, g, name, want)
		closeTo(t, name, got[name], want[name], bound)
	}
}

// errorBound is how far an element of a traced tensor may be from the reference.
func (c Config) errorBound(t *testing.T, l layerCase, n int, p *model.Params, x, g []float64, name string, want traced) func(int) float64 {
	if l.norm {
		return c.normBound(t, l, n, p, x, g, name)
	}
	xs := x
	if !l.nonlinear {
		xs, p = abs(x), absolute(t, l.net, p)
	}
	size := reference(t, l.net, p, Batch(n, xs), core.Probe{Train: true, Cotangent: abs(g)})[name]
	terms := 0
	switch name {
	case "out/" + l.net.Nodes[len(l.net.Nodes)-1].Name:
		terms = l.forward
	case "grad/" + inputName:
		terms = l.input
	default:
		terms = l.forward // activations inside a case of several layers
		if strings.HasPrefix(name, "grad/") {
			terms = l.weight * n
		}
		if name == "grad/layer.bias" && l.weight == 1 && l.name[:4] == "conv" {
			terms = n * l.net.Output().H * l.net.Output().W
		}
	}
	return func(i int) float64 { return c.gamma(terms+1) * math.Abs(size[i]) }
}

// normBound bounds the errors of a batch norm over m values a channel with X the largest |x|, D the mean |x-mean|. The
// mean is off by e = γ(m)·X, x-mean by e + u|x-mean|. The variance is off by 2eD + γ(m+2)·var, which is the fraction ρ
// of var+ε, so that 1/√(var+ε) is off by a factor of ρ/2 + 3u to first order; hence the normalised x̂ by
// h = inv·e + |x̂|(ρ/2 + 6u). To first order in the errors of its factors:
//
//	y            |gain| h + 3u(|gain x̂| + |shift|)
//	dshift       γ(m) Σ|g|
//	dgain        Σ|g| h + γ(m+1) Σ|g x̂|
//	dx           |gain| inv ( (ρ/2+8u)(|g| + |mean g| + |x̂ mean(g x̂)|) + err(dshift)/m + |x̂| err(dgain)/m + h |mean(g x̂)| )
//
// A factor of 2 covers the higher orders.
func (c Config) normBound(t *testing.T, l layerCase, n int, p *model.Params, x, g []float64, name string) func(int) float64 {
	channels := l.net.Input().C
	m, u := len(x)/channels, c.Roundoff
	gain, shift := values(t, p, "layer.gain"), values(t, p, "layer.shift")
	op := l.net.Nodes[1].Op.(net.BatchNorm)
	bounds := make([]func(i int) (y, dx float64), channels)
	dgain, dshift := make([]float64, channels), make([]float64, channels)
	for ch := range channels {
		var mean, variance, largest, spreadOf float64
		each := func(f func(i int)) {
			for i := ch; i < len(x); i += channels {
				f(i)
			}
		}
		each(func(i int) { mean += x[i] / float64(m); largest = max(largest, math.Abs(x[i])) })
		each(func(i int) {
			d := x[i] - mean
			variance += d * d / float64(m)
			spreadOf += math.Abs(d) / float64(m)
		})
		inv := 1 / math.Sqrt(variance+op.Eps)
		e := c.gamma(m) * largest
		rho := (2*e*spreadOf + c.gamma(m+2)*variance) / (variance + op.Eps)
		hat := func(i int) float64 { return (x[i] - mean) * inv }
		h := func(i int) float64 { return inv*e + math.Abs(hat(i))*(rho/2+6*u) }
		var sumG, sumGHat, absG, absGHat, hG float64
		each(func(i int) {
			sumG += g[i]
			sumGHat += g[i] * hat(i)
			absG += math.Abs(g[i])
			absGHat += math.Abs(g[i] * hat(i))
			hG += math.Abs(g[i]) * h(i)
		})
		dshift[ch] = c.gamma(m) * absG
		dgain[ch] = hG + c.gamma(m+1)*absGHat
		meanG, meanGHat := math.Abs(sumG)/float64(m), math.Abs(sumGHat)/float64(m)
		gn, sh := math.Abs(gain[ch]), math.Abs(shift[ch])
		bounds[ch] = func(i int) (y, dx float64) {
			xh := math.Abs(hat(i))
			y = gn*h(i) + 3*u*(gn*xh+sh)
			dx = gn * inv * ((rho/2+8*u)*(math.Abs(g[i])+meanG+xh*meanGHat) + (dshift[ch]+xh*dgain[ch])/float64(m) + h(i)*meanGHat)
			return y, dx
		}
	}
	return func(i int) float64 {
		switch name {
		case "out/" + inputName:
			return 0
		case "grad/layer.gain":
			return 2 * dgain[i]
		case "grad/layer.shift":
			return 2 * dshift[i]
		}
		y, dx := bounds[i%channels](i)
		if name == "out/layer" {
			return 2 * y
		}
		return 2 * dx
	}
}

// finiteDifferences compares gradients with central differences D(h) of f = Σ cotangent × output. D is off by its
// truncation, for which |D(2h) - D(h)|, three times the estimate of Richardson, stands, and by the rounding of f.
func (c Config) finiteDifferences(t *testing.T) {
	const n = 3
	h := math.Exp2(math.Round(math.Log2(math.Cbrt(c.Roundoff)))) // balances truncation h² and rounding u/h
	checked := 0
	for _, l := range layerCases(t) {
		t.Run(l.name, func(t *testing.T) {
			p := randomParams(l.net, 1)
			x := spread(2, n*l.net.Input().Len())
			if !l.nonlinear {
				x = numbers(2, len(x))
			}
			g := numbers(3, n*l.net.Output().Len())
			e := compile(t, c.open(t), l.net, training(n), p)
			probe := core.Probe{Train: true, Cotangent: g}
			want := reference(t, l.net, p, Batch(n, x), probe)
			got := Trace(t, e, Batch(n, x), probe)
			out := "out/" + l.net.Nodes[len(l.net.Nodes)-1].Name
			f := func() (sum, rounding float64) { // with the error of sum
				bound := c.errorBound(t, l, n, p, x, g, out, want)
				for i, y := range Trace(t, e, Batch(n, x), core.Probe{Train: true})[out] {
					sum += g[i] * y
					rounding += math.Abs(g[i]) * (bound(i) + c.Roundoff*math.Abs(y))
				}
				return sum, rounding
			}
			check := func(name string, i int, at *float64, reload func()) {
				t.Helper()
				difference := func(h float64) (d, rounding float64) {
					v := *at
					*at = v + h
					reload()
					up, r1 := f()
					*at = v - h
					reload()
					down, r2 := f()
					*at = v
					reload()
					return (up - down) / (2 * h), (r1 + r2) / (2 * h)
				}
				d1, rounding := difference(h)
				d2, _ := difference(2 * h)
				tolerance := math.Abs(d2-d1) + 2*rounding + c.errorBound(t, l, n, p, x, g, name, want)(i)
				if d := math.Abs(got[name][i] - d1); !(d <= tolerance) {
					t.Errorf("%s[%d] = %g, the difference quotient is %g ± %g", name, i, got[name][i], d1, tolerance)
				}
				checked++
			}
			for k := range 4 {
				i := (k*len(x) + k) / 4 % len(x)
				check("grad/"+inputName, i, &x[i], func() {})
			}
			for _, q := range l.net.Params() {
				if !q.Trained() {
					continue
				}
				w := values(t, p, q.Name)
				for k := range 4 {
					i := (k*len(w) + k) / 4 % len(w)
					check("grad/"+q.Name, i, &w[i], func() {
						p = ParamsOf(l.net, func(_ int, r net.Param) []float64 {
							if r.Name == q.Name {
								return append([]float64(nil), w...)
							}
							return values(t, p, r.Name)
						})
						if err := e.Load(p); err != nil {
							t.Fatal(err)
						}
					})
				}
			}
		})
	}
	if checked < 100 {
		t.Errorf("only %d derivatives checked", checked)
	}
}
