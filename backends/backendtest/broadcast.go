package backendtest

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

const feedbackSeed = 11

// broadcasting are options to learn by the broadcast rule.
func broadcasting(n int) core.Options {
	o := training(n)
	o.Rule, o.Seed = core.Broadcast, feedbackSeed
	return o
}

// rules are the options to learn with, one for each rule that the backend has.
func (c Config) rules(t *testing.T, o core.Options) []core.Options {
	t.Helper()
	var all []core.Options
	for _, r := range c.open(t).Caps().WakeRules {
		o.Rule, o.Seed = r, feedbackSeed
		all = append(all, o)
	}
	if !slices.ContainsFunc(all, func(o core.Options) bool { return o.Rule == core.Backprop }) {
		t.Errorf("the backend's wake rules lack %q", core.Backprop)
	}
	return all
}

// needs skips a test of a wake rule that the backend has not.
func (c Config) needs(t *testing.T, r core.WakeRule) {
	t.Helper()
	if has := c.open(t).Caps().WakeRules; !slices.Contains(has, r) {
		t.Skipf("the backend has no wake rule %q, only %v", r, has)
	}
}

// broadcast is B·e by the definition in core for the layer of that name and a batch of errors (B, Outputs), with how
// far a backend may be off: B's scale is rounded once and every element is a sum of Outputs products.
func (c Config) broadcast(n *net.Network, layer string, e []float64) (dx, off []float64) {
	i, _ := n.Node(layer)
	outputs, in := n.Output().Len(), n.Nodes[i].In.Len()
	b := core.NewFeedback(feedbackSeed, i, outputs)
	images := len(e) / outputs
	dx, off = make([]float64, images*in), make([]float64, images*in)
	for j := range in {
		for k := range outputs {
			element := b.At(j, k)
			for image := range images {
				v := element * e[image*outputs+k]
				dx[image*in+j] += v
				off[image*in+j] += c.gamma(outputs+1) * math.Abs(v)
			}
		}
	}
	return dx, off
}

// broadcastOfLayers: the error of every weight layer's input is B·e whatever its weights are; its own gradients are
// those of backpropagation, bit by bit, since its output's error is the true one.
func (c Config) broadcastOfLayers(t *testing.T) {
	c.needs(t, core.Broadcast)
	sizes, compared := []int{1, 3, 16, 130}, 0
	for _, l := range layerCases(t) {
		switch l.net.Nodes[len(l.net.Nodes)-1].Op.(type) {
		case net.Conv2D, net.LC2D, net.Linear:
		default:
			continue
		}
		for _, n := range sizes {
			t.Run(fmt.Sprintf("%s B=%d", l.name, n), func(t *testing.T) {
				x, g := Batch(n, numbers(2, n*l.net.Input().Len())), numbers(3, n*l.net.Output().Len())
				probe := core.Probe{Train: true, Cotangent: g}
				b, p := c.open(t), randomParams(l.net, 1)
				e := compile(t, b, l.net, broadcasting(n), p)
				got := Trace(t, e, x, probe)
				want, off := c.broadcast(l.net, "layer", g)
				closeTo(t, "B·e", got["grad/"+inputName], want, func(i int) float64 { return off[i] })

				true := Trace(t, compile(t, b, l.net, training(n), p), x, probe)
				for name := range true {
					if name != "grad/"+inputName {
						same(t, name, got[name], true[name])
					}
				}
				if err := e.Load(randomParams(l.net, 77)); err != nil {
					t.Fatal(err)
				}
				same(t, "B·e with other weights", Trace(t, e, x, probe)["grad/"+inputName], got["grad/"+inputName])
				compared++
			})
		}
	}
	if want := 24 * len(sizes); compared != want {
		t.Errorf("%d comparisons, want %d", compared, want)
	}
}

// broadcastNet has a skip connection over a locally connected layer:
//
//	a = relu(first·x)   s = relu(a + second·a)   y = linear·mean(s)
func broadcastNet(t *testing.T) *net.Network {
	t.Helper()
	b := net.NewBuilder("broadcast")
	x := b.Input(net.Shape{H: 4, W: 3, C: 3})
	a := b.ReLU("a", b.LC2D("first", x, net.Window{Out: 5, Kernel: 3, Stride: 1, Bias: true}))
	s := b.ReLU("s", b.Sum("sum", a, b.LC2D("second", a, net.Window{Out: 5, Kernel: 3, Stride: 1})))
	b.Linear("linear", b.GlobalAvgPool("pool", s), 7)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// estimate is a batch's numbers with bounds of their errors.
type estimate struct{ v, off []float64 }

// plus is the sum of two estimates, rounded once.
func (c Config) plus(a, b estimate) estimate {
	r := estimate{make([]float64, len(a.v)), make([]float64, len(a.v))}
	for i := range a.v {
		r.v[i] = a.v[i] + b.v[i]
		r.off[i] = a.off[i] + b.off[i] + c.Roundoff*(math.Abs(r.v[i])+a.off[i]+b.off[i])
	}
	return r
}

// gate is the error in front of a rectifier with output y.
func (e estimate) gate(y []float64) estimate {
	r := estimate{make([]float64, len(y)), make([]float64, len(y))}
	for i, v := range y {
		if v > 0 {
			r.v[i], r.off[i] = e.v[i], e.off[i]
		}
	}
	return r
}

// broadcastInNetwork writes the rule down for broadcastNet and compares every gradient: each weight layer's weights get
// the activity before them times the error behind them, which is made of broadcast errors and derivatives only. The
// gradients for those errors are the reference's for single layers, from the activations that the backend itself had.
func (c Config) broadcastInNetwork(t *testing.T) {
	c.needs(t, core.Broadcast)
	n := broadcastNet(t)
	compared := 0
	for _, images := range []int{1, 5, 40} {
		p := randomParams(n, 1)
		x, e := Batch(images, numbers(2, images*n.Input().Len())), numbers(3, images*7)
		got := Trace(t, compile(t, c.open(t), n, broadcasting(images), p), x, core.Probe{Train: true, Cotangent: e})
		to := func(layer string) estimate { v, off := c.broadcast(n, layer, e); return estimate{v, off} }

		pooled, s := to("linear"), estimate{}
		for i := range got["out/s"] { // the mean over 12 positions: 1/12 and the product are rounded
			at := i/(12*5)*5 + i%5
			v := pooled.v[at] / 12
			s.v, s.off = append(s.v, v), append(s.off, pooled.off[at]/12+c.gamma(3)*(math.Abs(v)+pooled.off[at]/12))
		}
		second := s.gate(got["out/s"])
		first := c.plus(second, to("second")).gate(got["out/a"])

		for _, l := range []struct {
			name, in string
			error    estimate
		}{
			{"linear", "pool", estimate{e, make([]float64, len(e))}},
			{"second", "a", second},
			{"first", inputName, first},
		} {
			i, _ := n.Node(l.name)
			single, _ := isolate(t, n, n.Nodes[i])
			own := ParamsOf(single.net, func(_ int, q net.Param) []float64 { return values(t, p, l.name+q.Name[len("layer"):]) })
			gradients := func(x, g []float64) traced {
				return reference(t, single.net, own, Batch(images, x), core.Probe{Train: true, Cotangent: g})
			}
			in := got["out/"+l.in]
			want, size, off := gradients(in, l.error.v), gradients(abs(in), abs(l.error.v)), gradients(abs(in), l.error.off)
			for _, q := range n.Nodes[i].Params {
				name := "grad/layer" + q.Name[len(l.name):]
				// A sum over the images; the reference's input was rounded to float32 before.
				closeTo(t, "grad/"+q.Name, got["grad/"+q.Name], want[name], func(i int) float64 {
					return off[name][i] + (c.gamma(images+1)+c.inputRounding())*(size[name][i]+off[name][i])
				})
				compared++
			}
		}
		images := to("first")
		closeTo(t, "grad/input", got["grad/"+inputName], images.v, func(i int) float64 { return images.off[i] })
	}
	if compared != 3*5 {
		t.Errorf("%d gradients compared, want 15", compared)
	}
}

// inputRounding is the relative error of an activation of the backend's format handed on as an image, which is float32.
func (c Config) inputRounding() float64 {
	if c.Roundoff < 0x1p-24 {
		return 0x1p-24
	}
	return 0
}

// broadcastLearns: the loss on one batch falls under the rule, with and without sleep after every step. It must come down
// to half: a step that were not downhill would not do that in any number of them.
func (c Config) broadcastLearns(t *testing.T) {
	c.needs(t, core.Broadcast)
	const images, steps = 24, 60
	n := smallNet(t, true)
	for _, asleep := range []bool{false, true} {
		o := broadcasting(images)
		o.Optimizer = optim.Default(optim.AdamW, 0)
		p, err := n.Init(net.InitOptions{Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		e := compile(t, c.open(t), n, o, p)
		x := Batch(images, numbers(2, images*n.Input().Len()))
		var losses []float64
		for range steps {
			losses = append(losses, wake(t, e, x, labels(images), 0.01).Loss)
			if asleep {
				if _, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		t.Logf("asleep %v: loss %.3f, after %d steps %.3f", asleep, losses[0], steps-1, losses[steps-1])
		if !(losses[steps-1] <= losses[0]/2) {
			t.Errorf("asleep %v: the loss went from %g to %g", asleep, losses[0], losses[steps-1])
		}
	}
}
