package backendtest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// plasticStreams are short phases of the rules with events that the backend has, by every execution.
func (c Config) plasticStreams(t *testing.T) []sleep.Stream {
	t.Helper()
	circuit := sleep.DefaultCircuit()
	circuit.Dt, circuit.Alpha, circuit.Settle, circuit.MeanPreserving = 5, 3, 0, false
	kept := circuit
	kept.MeanPreserving = true
	var streams []sleep.Stream
	for _, r := range []sleep.Rule{sleep.Hebbian{Gamma: 0.01, Momentum: 0.5, Batch: 2}, circuit, kept} {
		if !slices.Contains(c.open(t).Caps().Rules, r.Kind()) {
			continue
		}
		for _, e := range append(sleep.Executions(), sleep.Auto) {
			streams = append(streams, sleep.Stream{Rule: r, Events: 8, Execution: e, Seed: 3, Phase: 1})
		}
	}
	return streams
}

// plasticSleep compares every rule with events that the backend has, by every execution, with the reference's direct
// run: grids of one member, 1x1 kernels, stride 2, channel groups, biases, both border policies, two sources.
//
// A run of R patterns changes a neuron of M inputs R times by M products each, taken up in sums of M; no error
// grows, the rates being below their bounds. So it is off by at most γ(4MR) of the largest weight; the circuit
// takes S steps a pattern. A factor of 2 is for the reference's own errors.
//
// A map's numbers round once, and its products are sums of M terms and, factored as XᵀY, of R more: with L the largest
// weight, so that deviations are below 2L, it is off by γ(M+R+4) Σ_q |x_q| Σ_j |y_qj| 2L. A pattern shown moves a
// deviation along x_q by at most twice what its response was (rates below their bounds do not overshoot by more), and
// the response is a form in the start with a norm of |x_q| at most: |x_q|² |y_q| ≤ 2 |x_q|, and Σ_j |y_qj| ≤ √M |y_q|. The
// largest of M normal numbers is below 5 |x_q|/√M here (of one-hot patterns it is √M times that, but they have one term
// instead of M); so the sum over R patterns is below 10R, and the error below 20R γ(M+R+4) L.
func (c Config) plasticSleep(t *testing.T) {
	streams := c.plasticStreams(t)
	if len(streams) == 0 {
		t.Skip("the backend lists no rule with events")
	}
	n := sleepNet(t)
	p := randomParams(n, 1)
	compared, alone := 0, 0
	references := map[string]*model.Params{} // the direct run serves every execution
	for _, s := range streams {
		for _, s.Border = range []sleep.Border{sleep.BorderShares, sleep.BorderRests} {
			for _, s.Source = range []sleep.PatternSource{sleep.Gaussian{}, sleep.OneHot{}} {
				name := fmt.Sprintf("%s %v by %s, border %v, %s", s.Rule.Kind(), preserves(s.Rule), s.Execution, s.Border, s.Source.Kind())
				e := compile(t, c.open(t), n, core.Options{MaxBatch: 1}, p)
				report, err := e.Sleep(context.Background(), s)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				direct := s
				direct.Execution = sleep.Direct
				key := fmt.Sprint(s.Rule.Kind(), preserves(s.Rule), s.Border, s.Source.Kind())
				if references[key] == nil {
					r := compile(t, ref.Open(), n, core.Options{MaxBatch: 1}, p)
					if _, err := r.Sleep(context.Background(), direct); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					references[key] = snapshot(t, r)
				}
				got, want := snapshot(t, e), references[key]
				for i, l := range sleep.Layers(n) {
					steps := 2.0
					if s.Rule.Kind() == "circuit" {
						steps = 30
					}
					bound := c.gamma(int(4*steps) * l.Inputs() * s.Events)
					if e := report.Layers[i].Execution; e == sleep.DenseMap || e == sleep.Factored {
						shown := 2 * s.Events // R, at most
						bound = max(bound, float64(20*shown)/2*c.gamma(l.Inputs()+shown+4))
					}
					for _, q := range n.Nodes[l.Node].Params {
						before, after := values(t, p, q.Name), values(t, got, q.Name)
						largest := 0.0
						for _, v := range before {
							largest = max(largest, math.Abs(v))
						}
						closeTo(t, name+": "+q.Name, after, values(t, want, q.Name), func(int) float64 { return 2 * bound * largest })
						alone += resting(t, name, l, s.Border, q, before, after)
						compared++
					}
					lr := report.Layers[i]
					if preserves(s.Rule) && !(math.Abs(lr.Mean.Ratio-1) <= 2*bound && lr.Mean.Error <= 10*bound) {
						t.Errorf("%s: %s: means kept to %+v", name, l.Name, lr.Mean)
					}
					if lr.Execution == sleep.Auto || s.Execution != sleep.Auto && lr.Execution != s.Execution || !(lr.Rate > 0) {
						t.Errorf("%s: %s: reported execution %q, rate %g", name, l.Name, lr.Execution, lr.Rate)
					}
				}
			}
		}
	}
	if compared < len(streams)*4*len(sleep.Layers(n)) || alone == 0 {
		t.Errorf("%d parameters compared, %d resting neurons", compared, alone)
	}
}

// plasticSameBits: every rule with events, by every execution, gives the same bits each time and in every configuration
// that the backend says is the same.
func (c Config) plasticSameBits(t *testing.T) {
	streams := c.plasticStreams(t)
	if len(streams) == 0 {
		t.Skip("the backend lists no rule with events")
	}
	n := sleepNet(t)
	p := randomParams(n, 1)
	openers := map[string]func() (core.Backend, error){"again": c.Open}
	for name, f := range c.Same {
		openers[name] = f
	}
	compared := 0
	for _, s := range streams {
		run := func(f func() (core.Backend, error)) (*model.Params, sleep.LayerReport) {
			e := compile(t, open(t, f), n, core.Options{MaxBatch: 1}, p)
			r, err := e.Sleep(context.Background(), s)
			if err != nil {
				t.Fatal(err)
			}
			return snapshot(t, e), r.Layers[0]
		}
		want, report := run(c.Open)
		for name, f := range openers {
			got, r := run(f)
			sameParams(t, got, want)
			if r.Mean != report.Mean {
				t.Errorf("%s by %s, %s: means kept to %+v, want %+v", s.Rule.Kind(), s.Execution, name, r.Mean, report.Mean)
			}
			compared++
		}
	}
	if compared != len(streams)*len(openers) {
		t.Errorf("%d runs compared", compared)
	}
}

func preserves(r sleep.Rule) bool {
	c, ok := r.(sleep.Circuit)
	return !ok || c.MeanPreserving
}

// resting checks that neurons without a partner, or at a border that rests, keep their bits, and counts them.
func resting(t *testing.T, name string, l sleep.Layer, b sleep.Border, q net.Param, before, after []float64) (count int) {
	t.Helper()
	sleeps := map[int]bool{}
	for _, g := range l.Grids(b) {
		for _, p := range g.Positions {
			sleeps[p] = len(g.Positions) > 1
		}
	}
	per := len(before) / (l.Out.H * l.Out.W)
	for p := range l.Out.H * l.Out.W {
		if !sleeps[p] {
			same(t, name+": resting "+q.Name, after[p*per:(p+1)*per], before[p*per:(p+1)*per])
			count++
		}
	}
	return count
}

// sleepRefusals: what a phase refuses it refuses before any weight changes, by name.
func (c Config) sleepRefusals(t *testing.T) {
	n := sleepNet(t)
	spoilt := sleep.Layers(n)[len(sleep.Layers(n))-1]
	e := compile(t, c.open(t), n, core.Options{MaxBatch: 1}, ParamsOf(n, func(i int, q net.Param) []float64 {
		v := numbers(uint64(i), q.Len())
		if q.Name == spoilt.Name+".weight" {
			v[(1*spoilt.Out.C+1)*spoilt.K] = math.NaN() // position 1, channel 1
		}
		return v
	}))
	before := snapshot(t, e)
	rules := c.open(t).Caps().Rules
	tried := 0
	for _, r := range []sleep.Rule{sleep.Instant{}, sleep.Hebbian{Batch: 1}, sleep.DefaultCircuit()} {
		_, err := e.Sleep(context.Background(), sleep.Stream{Rule: r, Events: 2})
		if !slices.Contains(rules, r.Kind()) {
			if !errors.Is(err, core.ErrUnsupported) || !strings.Contains(err.Error(), r.Kind()) {
				t.Errorf("rule %q, which the backend has not: %v", r.Kind(), err)
			}
		} else if want := fmt.Sprintf("layer %q: weights of the group of channel 1 in grid (0, ", spoilt.Name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s of a NaN: error %v, want one with %q", r.Kind(), err, want)
		}
		tried++
	}
	now := snapshot(t, e)
	for _, q := range n.Params() {
		same(t, q.Name, values(t, now, q.Name), values(t, before, q.Name))
	}
	if tried != 3 {
		t.Errorf("%d rules tried", tried)
	}
}
