package equivalence

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"math"
	"strings"
	"testing"

	"hypnos/backends"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/data/datatest"
	"hypnos/core/edge/edgetest"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// small is a network with every kind of layer that integers have but transposes, its integer parameters, and a few images.
func small(t *testing.T, steps int, rule sleep.Stream) Options {
	t.Helper()
	return smallOf(t, 4, steps, rule)
}

// smallOf has formats for activations up to largest.
func smallOf(t *testing.T, largest float64, steps int, rule sleep.Stream) Options {
	t.Helper()
	b := net.NewBuilder("small")
	window := func(out, stride int) net.Window {
		return net.Window{Out: out, Kernel: 3, Stride: stride, Bias: true}
	}
	x := b.ReLU("relu1", b.LC2D("lc1", b.Input(net.Shape{H: 8, W: 8, C: 3}), window(4, 1)))
	y := b.LC2D("lc2", b.MaxPool("maxpool", x, 3, 2), window(4, 1))
	z := b.Conv2D("conv", x, window(4, 2))
	b.Linear("linear", b.GlobalAvgPool("pool", b.ReLU("relu2", b.Sum("add", y, z))), 3)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	d, err := data.Open(datatest.ClassFolders(t, 8, 4, 4), data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	stats := data.ComputeStats(d.Train)
	return Options{
		Net: n, Params: edgetest.Params(t, n, largest), Steps: steps, Every: 4, Check: 3, Phase: rule, Rate: 0.01, Seed: 1,
		Train: &data.Loader{Images: d.Train, Size: 8, Batch: 1, Stats: stats, Seed: 1},
		Test:  &data.Loader{Images: d.Test, Size: 8, Batch: 4, Stats: stats},
	}
}

func subjects(t *testing.T, specs ...string) []Subject {
	t.Helper()
	var all []Subject
	for _, s := range specs {
		b, err := backends.Open(s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		all = append(all, Subject{s, b})
	}
	return all
}

func compared(t *testing.T, s []Subject, o Options) *Result {
	t.Helper()
	r, err := Run(context.Background(), s, o, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestBoundsHold: the backends are equivalent by every rule, every kind of check was made, and none of the sharp ones is vacuous.
func TestBoundsHold(t *testing.T) {
	for name, s := range map[string]sleep.Stream{
		"instant": {Rule: sleep.Instant{}},
		"rests":   {Rule: sleep.Instant{}, Border: sleep.BorderRests},
		"hebbian": {Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: 20},
		"circuit": {Rule: sleep.DefaultCircuit(), Events: 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := compared(t, subjects(t, "ref", "cpu", "fixed"), small(t, 9, s))
			if err := r.Err(); err != nil {
				t.Error(err)
			}
			checks := map[string]float64{}
			for _, row := range r.Rows {
				if row.Ratio == nil || row.Elements == 0 {
					t.Errorf("%s of %s, %s: %d elements, ratio %v", row.Backend, row.Check, row.Layer, row.Elements, row.Ratio)
					continue
				}
				checks[row.Backend+" "+row.Check] = max(checks[row.Backend+" "+row.Check], *row.Ratio)
			}
			for _, want := range []string{
				"cpu activation", "cpu gradient", "cpu local activation", "cpu local 3 steps", "cpu last logits", "cpu last accuracy",
				"fixed activation", "fixed gradient", "fixed local gradient", "fixed local 3 steps", "fixed drift of 3 steps", "fixed paths of 3 steps",
			} {
				if _, ok := checks[want]; !ok {
					t.Errorf("no check %q in %v", want, checks)
				}
			}
			for _, sharp := range []string{"fixed local gradient", "fixed local 3 steps", "cpu local activation"} {
				if !(checks[sharp] > 1e-3) {
					t.Errorf("%s: the bound is reached to %.2g only", sharp, checks[sharp])
				}
			}
		})
	}
}

// TestSameIntegers: integers are the same bits with any kernels and threads.
func TestSameIntegers(t *testing.T) {
	r := compared(t, subjects(t, "fixed", "fixed:kernels=portable", "fixed:threads=1"), small(t, 6, sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: 10}))
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	same := 0
	for _, row := range r.Rows {
		if row.Against == "fixed" && row.Kind == identical && *row.Largest == 0 {
			same++
		}
	}
	if same < 40 {
		t.Errorf("only %d tensors were identical", same)
	}
	if d := r.Backends; d[0].Digest != d[1].Digest || d[0].Digest != d[2].Digest {
		t.Errorf("digests %v", d)
	}
}

// TestSaturationIsApart: activations beyond their formats are counted, and no bound is violated by them.
func TestSaturationIsApart(t *testing.T) {
	r := compared(t, subjects(t, "ref", "fixed"), smallOf(t, 0.3, 4, sleep.Stream{Rule: sleep.Instant{}}))
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	saturated, named := 0, 0
	for _, row := range r.Rows {
		saturated += row.Saturated
		if row.Why == "saturation" {
			named++
		}
	}
	if saturated < 10 || named == 0 {
		t.Errorf("%d elements saturated, %d rows say so", saturated, named)
	}
}

// faulty is a backend with a fault in it.
type faulty struct {
	core.Backend
	load  func(*model.Params) *model.Params
	trace func(model.Tensor)
}

func (f faulty) Compile(n *net.Network, o core.Options) (core.Engine, error) {
	e, err := f.Backend.Compile(n, o)
	return faultyEngine{e, f}, err
}

type faultyEngine struct {
	core.Engine
	faulty
}

func (e faultyEngine) Close() error { return e.Engine.Close() }

func (e faultyEngine) Load(p *model.Params) error {
	if e.load != nil {
		p = e.load(p)
	}
	return e.Engine.Load(p)
}

func (e faultyEngine) Trace(ctx context.Context, x core.Batch, p core.Probe) iter.Seq2[model.Tensor, error] {
	if e.trace == nil {
		return e.Engine.Trace(ctx, x, p)
	}
	return func(yield func(model.Tensor, error) bool) {
		for t, err := range e.Engine.Trace(ctx, x, p) {
			if err == nil {
				e.trace(t)
			}
			if !yield(t, err) {
				return
			}
		}
	}
}

// TestFaultsAreFound: a weight of the other sign, a NaN and a gradient off are violations that name the layer.
func TestFaultsAreFound(t *testing.T) {
	flip := func(name string, at int) func(*model.Params) *model.Params {
		return func(p *model.Params) *model.Params {
			q := &model.Params{Meta: p.Meta}
			for v, err := range p.All() {
				if err != nil {
					t.Fatal(err)
				}
				if v.Name == name {
					switch d := v.Data.(type) {
					case []int16:
						d = append([]int16(nil), d...)
						d[at] = -d[at]
						v.Data = d
					case []float64:
						d = append([]float64(nil), d...)
						d[at] = -d[at]
						v.Data = d
					}
				}
				q.Add(v)
			}
			return q
		}
	}
	spoil := func(name string, f func(float64) float64) func(model.Tensor) {
		return func(v model.Tensor) {
			switch d := v.Data.(type) {
			case []float64:
				if v.Name == name {
					d[5] = f(d[5])
				}
			case []float32:
				if v.Name == name {
					d[5] = float32(f(float64(d[5])))
				}
			}
		}
	}
	nan := func(float64) float64 { return math.NaN() }
	at := 100*27 + 13 // position 25, channel 0, the centre of its kernel: no padding
	for name, c := range map[string]struct {
		backend string
		fault   faulty
		want    string
	}{
		"weight, integers": {"fixed", faulty{load: flip("lc1.weight", at)}, `activation of layer "lc1"`},
		"weight, float32":  {"cpu", faulty{load: flip("lc2.weight", 5*4*36+20)}, `activation of layer "lc2"`},
		"NaN, integers":    {"fixed", faulty{trace: spoil("out/conv", nan)}, `activation of layer "conv" (out/conv): element 5 is NaN`},
		"NaN, float32":     {"cpu", faulty{trace: spoil("grad/lc1.weight", nan)}, `gradient of layer "lc1" (grad/lc1.weight): element 5 is NaN`},
		"gradient":         {"fixed", faulty{trace: spoil("grad/lc2.bias", func(v float64) float64 { return v + 0.5 })}, `gradient of layer "lc2"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := subjects(t, "ref", c.backend)
			c.fault.Backend = s[1].Backend
			s[1].Backend = c.fault
			r := compared(t, s, small(t, 4, sleep.Stream{Rule: sleep.Instant{}}))
			err := r.Err()
			if !errors.Is(err, ErrViolated) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, c.want)
			}
			var text bytes.Buffer
			if err := r.WriteText(&text, false); err != nil || !strings.Contains(text.String(), "VIOLATED") {
				t.Errorf("%v, text without the violation:\n%s", err, &text)
			}
		})
	}
}

// TestOneFlippedWeightAmongTheSame: identical backends differ by one weight.
func TestOneFlippedWeightAmongTheSame(t *testing.T) {
	s := subjects(t, "fixed", "fixed:threads=1")
	s[1].Backend = faulty{Backend: s[1].Backend, load: func(p *model.Params) *model.Params {
		q, err := p.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		w, err := q.Get("lc2.weight")
		if err != nil {
			t.Fatal(err)
		}
		w.Data.([]int16)[5*4*36+20] += 64
		return q
	}}
	err := compared(t, s, small(t, 4, sleep.Stream{Rule: sleep.Instant{}})).Err()
	if !errors.Is(err, ErrViolated) || !strings.Contains(err.Error(), `"lc2"`) {
		t.Errorf("error %v, want one that names lc2", err)
	}
}

// TestRefusals: bad options are errors before anything runs.
func TestRefusals(t *testing.T) {
	tried := 0
	for want, change := range map[string]func(*Options, *[]Subject){
		"at least two":     func(_ *Options, s *[]Subject) { *s = (*s)[:1] },
		"0 steps":          func(o *Options, _ *[]Subject) { o.Steps = 0 },
		"5 steps to check": func(o *Options, _ *[]Subject) { o.Check = 5 },
		"learning rate":    func(o *Options, _ *[]Subject) { o.Rate = math.NaN() },
		"label 3":          func(o *Options, _ *[]Subject) { o.Test.Images.Labels[2] = 3 },
		"no number format": func(o *Options, _ *[]Subject) { o.Params.Meta = nil },
	} {
		o, s := small(t, 6, sleep.Stream{Rule: sleep.Instant{}}), subjects(t, "ref", "fixed")
		change(&o, &s)
		if _, err := Run(context.Background(), s, o, func(string) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
		tried++
	}
	if tried != 6 {
		t.Errorf("%d refusals tried", tried)
	}
}
