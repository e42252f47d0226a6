package fixed

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// TestInstantSleepIsTheRoundedMean: every weight and bias is the exact group mean, rounded to the nearest; what does not
// sleep stays as it was.
func TestInstantSleepIsTheRoundedMean(t *testing.T) {
	checked := 0
	for _, border := range []sleep.Border{sleep.BorderShares, sleep.BorderRests} {
		for _, n := range testNets(t) {
			p := randomParams(t, n, 6, 0.5)
			e := openEngine(t, Options{}, n, core.Options{MaxBatch: 1}, p)
			report, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}, Border: border})
			if err != nil {
				t.Fatal(err)
			}
			for i, l := range sleep.Layers(n) {
				// Means of |w| ~ 2^9 last places keep their ratio to 1 ± 1/2^10, and far better, as roundings average.
				if r := report.Layers[i].Mean.Ratio; !(math.Abs(r-1) <= 1.0/1024) {
					t.Errorf("%s: mean ratio %g", l.Name, r)
				}
				w := e.weights[l.Node]
				before := ints16(t, p, w.weight.Name)
				after := parameter(t, e, w.weight.Name)
				want := floats(before, w.format.Frac)
				for _, g := range l.Grids(border) {
					if len(g.Positions) < 2 {
						continue
					}
					for channel := range l.Out.C {
						for j := range l.K {
							at := func(p int) int { return (p*l.Out.C+channel)*l.K + j }
							sum := int64(0)
							for _, p := range g.Positions {
								sum += int64(before[at(p)])
							}
							mean := fixed.DivideRound(sum, int64(len(g.Positions)))
							for _, p := range g.Positions {
								want[at(p)] = w.format.Float(mean)
							}
						}
					}
				}
				if !slices.Equal(after, want) {
					t.Errorf("%s, border %v: weights are not the rounded means", l.Name, border)
				}
				checked++
			}
		}
	}
	if checked < 12 {
		t.Errorf("only %d layers checked", checked)
	}
}

func parameter(t *testing.T, e *engine, name string) []float64 {
	t.Helper()
	v, err := e.parameter(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestConsolidatedForm: after an instant sleep a layer takes a block a group; it infers, saves, loads and, expanded by the next
// step, learns as the full form does.
func TestConsolidatedForm(t *testing.T) {
	ctx := context.Background()
	for _, n := range testNets(t)[:1] {
		p := randomParams(t, n, 6, 0.5)
		e := openEngine(t, Options{}, n, training(2), p)
		if _, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}); err != nil {
			t.Fatal(err)
		}
		full := openEngine(t, Options{}, n, training(2), p)
		if _, err := full.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}); err != nil {
			t.Fatal(err)
		}
		for _, w := range full.weights {
			if w != nil {
				if err := w.expand(); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, w := range e.weights {
			if w != nil && w.located {
				if w.period == 0 {
					t.Errorf("%s is not consolidated", w.weight.Name)
				}
			}
		}
		saved, err := e.Save()
		if err != nil {
			t.Fatal(err)
		}
		if saved, err = saved.Snapshot(); err != nil {
			t.Fatal(err)
		}
		loaded := openEngine(t, Options{}, n, training(2), saved)
		x := images(n, 9, 2)
		var inferred [][]float64
		var learned []string
		for _, e := range []*engine{full, e, loaded} {
			for range 2 {
				l, err := e.Infer(ctx, x)
				if err != nil {
					t.Fatal(err)
				}
				inferred = append(inferred, l.Values)
				wakes(t, e, 1, 2)
			}
			learned = append(learned, digest(t, e))
		}
		for i := 2; i < len(inferred); i++ {
			if !slices.Equal(inferred[i], inferred[i%2]) {
				t.Errorf("engine %d, after %d steps: logits are not the full form's", i/2, i%2)
			}
		}
		if learned[1] != learned[0] || learned[2] != learned[0] {
			t.Errorf("digests after learning: %v", learned)
		}
	}
}

// TestHebbianSleepAgainstFloat: at 12 fraction bits ln(1/SNR) is within 0.3 of the reference backend's and mean ratios within
// 0.2 %, for the Gaussian and the one-hot source, as is a circuit's. (Weights of mean 0.44 and
// deviation 0.12 here. What rounding adds to the variance is 1/6 of a squared last place, 10^-8: ratios below that are out of
// reach, so that γ is such that deviations end above.)
func TestHebbianSleepAgainstFloat(t *testing.T) {
	n := plasticNet(t)
	p := randomParams(t, n, 11, 3.5)
	rules := map[string]sleep.Stream{
		"gaussian": {Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: 3000},
		"one-hot":  {Rule: sleep.Hebbian{Gamma: 1e-2, Batch: 1}, Source: sleep.OneHot{}, Events: 3000},
		"circuit":  {Rule: circuit(true), Events: 500},
		"leaking":  {Rule: circuit(false), Events: 100},
	}
	for name, s := range rules {
		t.Run(name, func(t *testing.T) {
			s.Measure, s.Seed = true, 3
			e := openEngine(t, Options{}, n, core.Options{MaxBatch: 1}, p)
			r, err := ref.Open().Compile(n, core.Options{MaxBatch: 1})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Load(floatParams(t, n, p)); err != nil {
				t.Fatal(err)
			}
			got, err := e.Sleep(context.Background(), s)
			if err != nil {
				t.Fatal(err)
			}
			want, err := r.Sleep(context.Background(), s)
			if err != nil {
				t.Fatal(err)
			}
			for i, g := range got.Layers {
				w := want.Layers[i]
				if d := g.After.LnInverseSNR() - w.After.LnInverseSNR(); !(math.Abs(d) <= 0.3) {
					t.Errorf("%s: ln(1/SNR) %.2f, float %.2f", g.Layer, g.After.LnInverseSNR(), w.After.LnInverseSNR())
				}
				if d := g.Mean.Ratio/w.Mean.Ratio - 1; !(math.Abs(d) <= 0.002) {
					t.Errorf("%s: mean ratio %.5f, float %.5f", g.Layer, g.Mean.Ratio, w.Mean.Ratio)
				}
				t.Logf("%s: ln(1/SNR) %.2f to %.2f, float %.2f; mean ratio %.5f, float %.5f", g.Layer, g.Before.LnInverseSNR(), g.After.LnInverseSNR(), w.After.LnInverseSNR(), g.Mean.Ratio, w.Mean.Ratio)
			}
			if len(got.Layers) < 1 {
				t.Error("no layer slept")
			}
		})
	}
}

// TestSleepIsResumable: a phase cut short after any grid and taken up where its report says gives the same weights as one
// that ran through, and leaves no group half done; what was slept until it was cut can be slept again, with the report's
// place as its end.
func TestSleepIsResumable(t *testing.T) {
	n := testNets(t)[0]
	p := randomParams(t, n, 6, 0.5)
	for name, s := range map[string]sleep.Stream{
		"instant": {Rule: sleep.Instant{}},
		"hebbian": {Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: 30, Seed: 1},
	} {
		looks := map[string]int{"instant": 3, "hebbian": 12}[name] // at the context: more than a layer's preparation takes
		whole := openEngine(t, Options{}, n, core.Options{MaxBatch: 1}, p)
		if _, err := whole.Sleep(context.Background(), s); err != nil {
			t.Fatal(err)
		}
		cut := openEngine(t, Options{}, n, core.Options{MaxBatch: 1}, p)
		again := openEngine(t, Options{}, n, core.Options{MaxBatch: 1}, p)
		parts := 0
		for next := s; ; parts++ {
			report, err := cut.Sleep(&countdown{Context: context.Background(), left: looks}, next)
			if err == nil {
				break
			}
			if !errors.Is(err, context.Canceled) || report.Next == nil {
				t.Fatalf("%v, next %v", err, report.Next)
			}
			if parts > 200 {
				t.Fatal("it does not end")
			}
			stretch := next
			stretch.To = report.Next
			if r, err := again.Sleep(context.Background(), stretch); err != nil || *r.Next != *report.Next {
				t.Fatalf("slept again up to %v: %v, next %v", report.Next, err, r.Next)
			}
			if a, b := digest(t, cut), digest(t, again); a != b {
				t.Fatalf("%s: %s when cut at %v, %s when slept again up to there", name, a, report.Next, b)
			}
			next.From = report.Next
		}
		if parts < 2 {
			t.Errorf("%s: only %d interruptions", name, parts)
		}
		if a, b := digest(t, whole), digest(t, cut); a != b {
			t.Errorf("%s: %s in one go, %s in %d parts", name, a, b, parts+1)
		}
	}
}

// countdown is a context that ends when it has been asked so many times.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// TestRefusals: what cannot be done is an error that names it, and changes nothing.
func TestRefusals(t *testing.T) {
	ctx := context.Background()
	n := testNets(t)[0]
	p := randomParams(t, n, 6, 0.5)
	e := openEngine(t, Options{}, n, training(1), p)
	before := digest(t, e)
	x := images(n, 1, 1)
	nan := images(n, 1, 1)
	nan.Pixels[5] = float32(math.NaN())
	tests := map[string]func() error{
		"no formats": func() error { return e.Load(&model.Params{}) },
		"other net":  func() error { return e.Load(randomParams(t, testNets(t)[2], 1, 0)) },
		"label":      func() error { _, err := e.Wake(ctx, x, core.Labels{5}, 0.1); return err },
		"image":      func() error { _, err := e.Infer(ctx, core.Batch{N: 1, Pixels: x.Pixels[1:]}); return err },
		"pixel":      func() error { _, err := e.Wake(ctx, nan, core.Labels{1}, 0.1); return err },
		"rate":       func() error { _, err := e.Wake(ctx, x, core.Labels{1}, math.NaN()); return err },
		"noise": func() error {
			_, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Hebbian{Batch: 1, Noise: 0.1}, Events: 3})
			return err
		},
		"execution": func() error {
			_, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Hebbian{Batch: 1}, Events: 3, Execution: sleep.Direct})
			return err
		},
		"interrupted": func() error {
			c, stop := context.WithCancel(ctx)
			stop()
			_, err := e.Wake(c, x, core.Labels{1}, 0.1)
			return err
		},
	}
	for name, f := range tests {
		err := f()
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		t.Logf("%s: %v", name, err)
		if after := digest(t, e); after != before {
			t.Errorf("%s: the weights changed", name)
		}
	}
}

// plasticNet is one layer of two inputs' channels on a map of 12x12 and what makes it a classifier.
func plasticNet(t *testing.T) *net.Network {
	t.Helper()
	b := net.NewBuilder("plastic")
	x := b.LC2D("layer", b.Input(net.Shape{H: 12, W: 12, C: 2}), net.Window{Out: 4, Kernel: 3, Stride: 1, Bias: true})
	b.Linear("linear", b.GlobalAvgPool("pool", x), 5)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMeansOf: means by multiplication are those of fixed.DivideRound, for sums around every midpoint, of groups of all sizes
// that networks here have and of some larger ones.
func TestMeansOf(t *testing.T) {
	checked := 0
	for _, n := range []int{2, 3, 4, 6, 7, 9, 49, 100, 110, 121, 1023, 1024, 5575, 50176, maxPositions} {
		var sums []int32
		for _, m := range []int64{-32767, -32766, -1025, -2, -1, 0, 1, 2, 777, 32766, 32767} {
			for d := int64(-2); d <= 2; d++ {
				if s := m*int64(n) + int64(n)/2 + d; s <= 32767*int64(n) && s >= -32767*int64(n) {
					sums = append(sums, int32(s))
				}
				if s := m*int64(n) + d; s <= 32767*int64(n) && s >= -32767*int64(n) {
					sums = append(sums, int32(s))
				}
			}
		}
		mean := make([]int16, len(sums))
		meansOf(mean, sums, n)
		for i, s := range sums {
			if want := fixed.DivideRound(int64(s), int64(n)); int64(mean[i]) != want {
				t.Errorf("mean of %d over %d is %d, want %d", s, n, mean[i], want)
			}
			checked++
		}
	}
	if checked < 1000 {
		t.Errorf("only %d means checked", checked)
	}
}
