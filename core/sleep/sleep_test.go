package sleep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"gonum.org/v1/gonum/stat"

	"hypnos/core/net"
	"hypnos/core/rng"
)

// layer makes a locally connected layer on a square input.
func layer(t *testing.T, size, in, out, kernel, stride int) Layer {
	t.Helper()
	b := net.NewBuilder("x")
	b.LC2D("l", b.Input(net.Shape{H: size, W: size, C: in}), net.Window{Out: out, Kernel: kernel, Stride: stride})
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return Layers(n)[0]
}

// Group sizes of the notes on the paper, item 8: 32x32 with k=3 has 121, 110 or 100 members; 8x8 and 7x7 have 9, 6 or
// 4; 1x1 kernels make one group of all positions.
func TestGroupSizes(t *testing.T) {
	for _, c := range []struct {
		size, kernel, stride int
		want                 []int
	}{
		{32, 3, 1, []int{121, 121, 110, 121, 121, 110, 110, 110, 100}},
		{8, 3, 1, []int{9, 9, 6, 9, 9, 6, 6, 6, 4}},
		{7, 3, 1, []int{9, 6, 6, 6, 4, 4, 6, 4, 4}},
		{8, 1, 1, []int{64}},
		{8, 1, 2, []int{16}},
		{64, 3, 2, []int{121, 121, 110, 121, 121, 110, 110, 110, 100}}, // 32x32 outputs
		{9, 3, 3, []int{9}},                                            // patches: one group of all
		{14, 7, 7, []int{4}},                                           // patches
		{18, 9, 6, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}},                   // 3x3 outputs; 9/gcd(9, 6) = 3
	} {
		l := layer(t, c.size, 1, 1, c.kernel, c.stride)
		var got []int
		for _, g := range l.Grids(BorderShares) {
			got = append(got, len(g.Positions))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%d pixels, kernel %d, stride %d: groups of %v, want %v", c.size, c.kernel, c.stride, got, c.want)
		}
	}
}

// The reason for the groups: when the input repeats every k pixels, two neurons inside the border see the same input
// exactly if they are in one grid. Checked for all pairs of neurons by building the input.
func TestGridsSeeTheSamePattern(t *testing.T) {
	pairs := 0
	for _, kernel := range []int{1, 3, 5, 7} {
		for _, stride := range []int{1, 2, 3, 5} {
			l := layer(t, 30, 1, 1, kernel, stride)
			patch := make([]string, l.Out.H*l.Out.W) // what each neuron sees of the repeated pattern, pixel by pixel
			grid := make([]int, len(patch))
			for i := range grid {
				grid[i] = -1
			}
			for g, members := range l.Grids(BorderRests) {
				for _, p := range members.Positions {
					grid[p] = g
				}
			}
			for p := range patch {
				row, col := p/l.Out.W*stride-l.Window.Pad(), p%l.Out.W*stride-l.Window.Pad()
				var seen []int
				for u := range kernel {
					for v := range kernel {
						seen = append(seen, mod(row+u, kernel)*kernel+mod(col+v, kernel))
					}
				}
				patch[p] = fmt.Sprint(seen)
			}
			for p := range patch {
				for q := range p {
					if grid[p] < 0 || grid[q] < 0 {
						continue
					}
					pairs++
					if (patch[p] == patch[q]) != (grid[p] == grid[q]) {
						t.Fatalf("kernel %d, stride %d: neurons %d and %d are in grids %d and %d and see %s and %s", kernel, stride, p, q, grid[p], grid[q], patch[p], patch[q])
					}
				}
			}
		}
	}
	if pairs < 10_000 {
		t.Errorf("only %d pairs compared", pairs)
	}
}

func TestBorderRests(t *testing.T) {
	l := layer(t, 6, 1, 1, 3, 1)
	inside := 0
	for _, g := range l.Grids(BorderRests) {
		for _, p := range g.Positions {
			if r, c := p/6, p%6; r == 0 || r == 5 || c == 0 || c == 5 {
				t.Errorf("border neuron (%d, %d) shares", r, c)
			}
			inside++
		}
	}
	if inside != 16 {
		t.Errorf("%d neurons share, want 16", inside)
	}
}

func weights(l Layer, seed uint64) []float64 {
	w := make([]float64, l.Out.Len()*l.K)
	s := rng.New(seed, rng.Test, 0)
	for i := range w {
		w[i] = 1 + s.Normal(uint64(i))
	}
	return w
}

// SNR by the letter of Eq. 6, with gonum's moments, group by group.
func TestMeasureAgainstGonum(t *testing.T) {
	l := layer(t, 8, 2, 3, 3, 1)
	w := weights(l, 1)
	for _, border := range []Border{BorderShares, BorderRests} {
		var snr, inverse, absolute []float64
		for _, g := range l.Grids(border) {
			for n := range l.Out.C {
				for j := range l.K {
					var x []float64
					for _, p := range g.Positions {
						x = append(x, w[(p*l.Out.C+n)*l.K+j])
					}
					mean := stat.Mean(x, nil)
					variance := stat.Moment(2, x, nil)
					snr = append(snr, mean*mean/variance)
					inverse = append(inverse, variance/mean/mean)
					if border == BorderRests {
						absolute = append(absolute, math.Abs(mean)/math.Sqrt(variance))
					}
				}
			}
		}
		got := Measure(w, l, border)
		check := func(what string, got, want float64) {
			t.Helper()
			if !(math.Abs(got-want) <= 1e-12*math.Abs(want)) { // sums of 486 float64 terms
				t.Errorf("border %v: %s = %g, want %g", border, what, got, want)
			}
		}
		check("SNR", got.SNR, stat.Mean(snr, nil))
		check("inverse ratio", got.InverseRatio, stat.Mean(inverse, nil))
		if border == BorderRests {
			check("absolute ratio", got.AbsRatio, stat.Mean(absolute, nil))
		}
		if got.Groups != 27 || got.Weights != 27*l.K || got.Equal != 0 {
			t.Errorf("%d groups of %d weights, %d equal, want 27 of %d, none", got.Groups, got.Weights, got.Equal, 27*l.K)
		}
	}
}

// A weight that is the same in its whole group is counted and left out of SNR; the others' average is what it was.
func TestEqualWeightsAreCountedApart(t *testing.T) {
	l := layer(t, 8, 2, 3, 3, 1)
	w := weights(l, 1)
	const dead = 5
	var snr, inverse []float64
	for _, g := range l.Grids(BorderShares) {
		for n := range l.Out.C {
			for j := range l.K {
				if j == dead {
					for _, p := range g.Positions {
						w[(p*l.Out.C+n)*l.K+j] = 0 // a mean of 0, too
					}
					inverse = append(inverse, 0)
					continue
				}
				mean, variance := Moments(w, l, g.Positions, n, j)
				snr, inverse = append(snr, mean*mean/variance), append(inverse, variance/mean/mean)
			}
		}
	}
	got := Measure(w, l, BorderShares)
	if got.Equal != 27 || got.Weights != 27*l.K || got.AllEqual() {
		t.Errorf("%d of %d weights equal, want 27 of %d", got.Equal, got.Weights, 27*l.K)
	}
	// Sums of 486 float64 terms.
	if want := stat.Mean(snr, nil); !(math.Abs(got.SNR-want) <= 1e-12*want) {
		t.Errorf("SNR %g, want %g", got.SNR, want)
	}
	if want := stat.Mean(inverse, nil); !(math.Abs(got.InverseRatio-want) <= 1e-12*want) {
		t.Errorf("inverse ratio %g, want %g", got.InverseRatio, want)
	}
	if math.IsInf(got.AbsRatio, 0) || math.IsNaN(got.AbsRatio) {
		t.Errorf("absolute ratio %g", got.AbsRatio)
	}
	// Merged sums are the sum.
	var a, b StatsSum
	a.Add(2, 1)
	a.Add(3, 0)
	b.Add(4, 0)
	a.Merge(b)
	if s := a.Stats(); s.Weights != 3 || s.Equal != 2 || s.SNR != 4 || s.InverseRatio != 0.25/3 {
		t.Errorf("merged: %+v", s)
	}
}

// A network's figure is about the layers with weights that differ; it is infinite when there are none.
func TestNetworkSNR(t *testing.T) {
	equal, differs := &Stats{Groups: 1, Weights: 2, Equal: 2, SNR: math.Inf(1)}, func(snr float64) *Stats {
		return &Stats{Groups: 1, Weights: 2, Equal: 1, SNR: snr}
	}
	single := &Stats{SNR: math.NaN()} // groups of one neuron
	for _, c := range []struct {
		layers []*Stats
		want   float64
	}{
		{[]*Stats{differs(2), differs(8)}, 4},
		{[]*Stats{differs(2), equal, single, differs(8), nil}, 4},
		{[]*Stats{equal, equal, single}, math.Inf(1)},
		{[]*Stats{single, nil}, math.NaN()},
	} {
		var r Report
		for _, s := range c.layers {
			r.Layers = append(r.Layers, LayerReport{Before: s})
		}
		// exp of a mean of logarithms: 1e-15 is some ulps.
		if got := r.SNR(); !(math.Abs(got-c.want) <= 1e-15*c.want || got == c.want || math.IsNaN(got) && math.IsNaN(c.want)) {
			t.Errorf("%v: SNR %g, want %g", c.layers, got, c.want)
		}
	}
}

// Sharing makes groups equal, keeps their means, and does nothing to equal weights: it is idempotent bit by bit.
func TestInstant(t *testing.T) {
	l := layer(t, 8, 2, 3, 3, 1)
	w := weights(l, 2)
	before := slices.Clone(w)
	share := func() {
		for _, g := range l.Grids(BorderShares) {
			for n := range l.Out.C {
				Instant{}.Share(w, l, g, n, l.K, make([]float64, l.K))
			}
		}
	}
	share()
	var kept PreservationSum
	for _, g := range l.Grids(BorderShares) {
		for n := range l.Out.C {
			for j := range l.K {
				was, _ := Moments(before, l, g.Positions, n, j)
				is, variance := Moments(w, l, g.Positions, n, j)
				kept.Add(was, is)
				if variance != 0 {
					t.Fatalf("a group has variance %g", variance)
				}
			}
		}
	}
	if p := kept.Preservation(); !(math.Abs(p.Ratio-1) <= 1e-15) || !(p.Error <= 1e-15) {
		t.Errorf("means kept to %+v", p)
	}
	if s := Measure(w, l, BorderShares); !s.AllEqual() || !math.IsInf(s.SNR, 1) || !math.IsInf(s.AbsRatio, 1) || s.InverseRatio != 0 || !math.IsInf(s.LnInverseSNR(), -1) {
		t.Errorf("shared weights measure as %+v", s)
	}
	once := slices.Clone(w)
	share()
	if !slices.Equal(w, once) {
		t.Error("sharing twice differs from sharing once")
	}
}

// What is kept outlives JSON, also what is no number.
func TestPreservationJSON(t *testing.T) {
	for want, p := range map[string]Preservation{`{"ratio":0.5,"error":0.25}`: {0.5, 0.25}, `{"ratio":null,"error":null}`: {math.NaN(), math.Inf(1)}} {
		text, err := json.Marshal(p)
		if err != nil || string(text) != want {
			t.Errorf("%s %v, want %s", text, err, want)
		}
		var back Preservation
		if err := json.Unmarshal(text, &back); err != nil || back != p && !math.IsNaN(p.Ratio) || math.IsNaN(back.Ratio) != math.IsNaN(p.Ratio) {
			t.Errorf("%+v %v, was %+v", back, err, p)
		}
	}
}

func TestPreservation(t *testing.T) {
	for _, c := range []struct {
		before, after []float64
		want          Preservation
	}{
		{[]float64{1, 2}, []float64{1, 2}, Preservation{1, 0}},
		{[]float64{1, 2}, []float64{0.5, 1}, Preservation{0.5, 0.5}},
		{[]float64{1, 0}, []float64{0, 1}, Preservation{0, math.Sqrt2}},
		{[]float64{0, 0}, []float64{0, 0}, Preservation{1, 0}},
	} {
		var s PreservationSum
		for i := range c.before {
			s.Add(c.before[i], c.after[i])
		}
		if got := s.Preservation(); math.Abs(got.Ratio-c.want.Ratio) > 1e-15 || math.Abs(got.Error-c.want.Error) > 1e-15 || math.IsNaN(got.Ratio+got.Error) {
			t.Errorf("%v to %v: %+v, want %+v", c.before, c.after, got, c.want)
		}
	}
}

// NaN weights are not hidden by any of the three ratios.
func TestMeasureOfNaN(t *testing.T) {
	l := layer(t, 8, 1, 1, 3, 1)
	w := weights(l, 3)
	w[4*8*9+4*9] = math.NaN() // position 36, inside the border
	if s := Measure(w, l, BorderShares); !math.IsNaN(s.SNR) || !math.IsNaN(s.InverseRatio) || !math.IsNaN(s.AbsRatio) {
		t.Errorf("a NaN weight measures as %+v", s)
	}
}

func TestStatsJSON(t *testing.T) {
	for _, want := range []Stats{
		{Groups: 3, Weights: 6, Equal: 2, SNR: 0.5, InverseRatio: 4, AbsRatio: 0.25},
		{Groups: 3, Weights: 6, Equal: 6, SNR: math.Inf(1), InverseRatio: 0, AbsRatio: math.Inf(1)},
	} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Stats
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Errorf("%s reads as %+v (%v), want %+v", text, got, err, want)
		}
		if equal := strings.Contains(string(text), `"equal":true`); equal != math.IsInf(want.SNR, 1) {
			t.Errorf("%s", text)
		}
	}
}

// The schedule by hand: batches counted in each epoch from 0, or steps from 1.
func TestSchedule(t *testing.T) {
	for _, c := range []struct {
		s    Schedule
		want []int // steps after which the network sleeps, in two epochs of 5 batches
	}{
		{Schedule{}, nil},
		{Schedule{Every: 1}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		{Schedule{Every: 3}, []int{1, 4, 6, 9}},
		{Schedule{Every: 100}, []int{1, 6}},
		{Schedule{Every: 3, Count: CountSteps}, []int{3, 6, 9}},
		{Schedule{Every: 100, Count: CountSteps}, nil},
	} {
		var got []int
		for step := 1; step <= 10; step++ {
			if c.s.Due((step-1)%5, int64(step)) {
				got = append(got, step)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v sleeps after steps %v, want %v", c.s, got, c.want)
		}
	}
	if err := (Schedule{Every: -1}).Check(); err == nil {
		t.Error("sleep every -1 was accepted")
	}
	for _, snr := range []float64{-1, math.NaN(), math.Inf(1)} {
		if err := (Schedule{BelowSNR: snr}).Check(); err == nil {
			t.Errorf("sleep below an SNR of %g was accepted", snr)
		}
	}
}

func TestNames(t *testing.T) {
	spec := DefaultSpec()
	for _, name := range Kinds() {
		spec.Rule = name
		if s, err := spec.Stream(); err != nil || s.Rule.Kind() != name {
			t.Errorf("rule %q reads as %v (%v)", name, s.Rule, err)
		}
	}
	spec.Rule = "nap"
	if _, err := spec.Stream(); err == nil || !strings.Contains(err.Error(), "known: observe, instant, hebbian, circuit") {
		t.Errorf("rule nap: %v", err)
	}
	if !slices.Equal(Kinds(), []string{"observe", "instant", "hebbian", "circuit"}) {
		t.Errorf("rules %v", Kinds())
	}
	for _, e := range append(Executions(), Auto) {
		var got Execution
		if text, err := e.MarshalText(); err != nil || got.UnmarshalText(text) != nil || got != e {
			t.Errorf("execution %v reads as %v", e, got)
		}
	}
	if err := new(Execution).UnmarshalText([]byte("x")); err == nil {
		t.Error("execution x was accepted")
	}
	for _, b := range []Border{BorderShares, BorderRests} {
		var got Border
		if text, err := b.MarshalText(); err != nil || got.UnmarshalText(text) != nil || got != b {
			t.Errorf("border %v reads as %v", b, got)
		}
	}
	for _, c := range []Count{CountBatches, CountSteps} {
		var got Count
		if text, err := c.MarshalText(); err != nil || got.UnmarshalText(text) != nil || got != c {
			t.Errorf("count %v reads as %v", c, got)
		}
	}
	if err := new(Border).UnmarshalText([]byte("x")); err == nil {
		t.Error("border x was accepted")
	}
	if err := new(Count).UnmarshalText([]byte("x")); err == nil {
		t.Error("count x was accepted")
	}
}

// A setting out of range is named by its key, whatever the rule.
func TestSettingsAreChecked(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, rule := range Kinds() {
		for i, c := range []struct {
			key string
			set func(*Spec)
		}{
			{"gamma", func(s *Spec) { s.Gamma = -1 }}, {"gamma", func(s *Spec) { s.Gamma = nan }}, {"gamma", func(s *Spec) { s.Gamma = inf }},
			{"momentum", func(s *Spec) { s.Momentum = 1 }}, {"momentum", func(s *Spec) { s.Momentum = nan }},
			{"rate", func(s *Spec) { s.Rate = -1 }}, {"rate", func(s *Spec) { s.Rate = inf }},
			{"decay", func(s *Spec) { s.Decay = "slow" }},
			{"decay_time", func(s *Spec) { s.Decay, s.DecayTime = "root", 0 }}, {"decay_time", func(s *Spec) { s.Decay, s.DecayTime = "inverse", nan }},
			{"batch", func(s *Spec) { s.Batch = 0 }}, {"noise", func(s *Spec) { s.Noise = nan }},
			{"alpha", func(s *Spec) { s.Alpha = -1 }}, {"alpha", func(s *Spec) { s.Alpha = 59 }}, {"alpha", func(s *Spec) { s.Alpha = nan }},
			{"tau", func(s *Spec) { s.Tau = 0 }}, {"dt", func(s *Spec) { s.Dt = nan }},
			{"presentation", func(s *Spec) { s.Presentation = 0.5 }}, {"presentation", func(s *Spec) { s.Presentation = nan }},
			{"settle", func(s *Spec) { s.Settle = -1 }},
			{"events", func(s *Spec) { s.Events = 0 }}, {"source", func(s *Spec) { s.Source = "noise" }}, {"rule", func(s *Spec) { s.Rule = "nap" }},
		} {
			s := DefaultSpec()
			s.Rule = rule
			c.set(&s)
			_, err := s.Stream()
			var setting *SettingError
			if !errors.As(err, &setting) || setting.Key != c.key {
				t.Errorf("rule %s, case %d: error %v, want one of setting %s", rule, i, err, c.key)
			}
		}
	}
}

// stub counts the grids it is given.
type stub struct{ shared *[]string }

func (s stub) Measure(Border) Stats                           { return Stats{Groups: 1, SNR: 2} }
func (s stub) Means(Grid) []float64                           { return nil }
func (s stub) NonFinite() (position, channel int, found bool) { return 0, 0, false }
func (s stub) Share(t *Task) (p PreservationSum, bytes int64) {
	*s.shared = append(*s.shared, fmt.Sprintf("%d,%d", t.Row, t.Col))
	p.Add(1, 1)
	return p, 10
}

func twoLayers(t *testing.T) *net.Network {
	t.Helper()
	b := net.NewBuilder("two")
	x := b.LC2D("a", b.Input(net.Shape{H: 8, W: 8, C: 1}), net.Window{Out: 1, Kernel: 3, Stride: 1})
	b.LC2D("b", x, net.Window{Out: 1, Kernel: 1, Stride: 1})
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRunGoesThroughGridsInOrder(t *testing.T) {
	n, now := twoLayers(t), time.Time{}
	clock := func() time.Time { now = now.Add(time.Second); return now }
	var shared []string
	host := Host{Now: clock, Open: func(Layer) Runner { return stub{&shared} }}
	r, err := Run(context.Background(), n, Stream{Rule: Instant{}, Measure: true}, host)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"0,0", "0,1", "0,2", "1,0", "1,1", "1,2", "2,0", "2,1", "2,2", "0,0"}
	if !slices.Equal(shared, want) {
		t.Errorf("grids %v, want %v", shared, want)
	}
	if r.Bytes != 100 || len(r.Layers) != 2 || r.Layers[0].Bytes != 90 || r.Layers[0].Duration != time.Second || r.Duration != 5*time.Second {
		t.Errorf("report %+v", r)
	}
	if r.SNR() != 2 || r.SNRAfter() != 2 {
		t.Errorf("SNR %g and %g, want 2", r.SNR(), r.SNRAfter())
	}

	shared = nil
	r, err = Run(context.Background(), n, Stream{Rule: Observe{}}, host)
	if err != nil || len(shared) != 0 || r.Layers[0].Before == nil || r.Bytes != 0 {
		t.Errorf("observing shared %v: %+v, %v", shared, r, err)
	}

	shared = nil
	if _, err = Run(context.Background(), n, Stream{Rule: Instant{}, Layers: []string{"b"}}, host); err != nil || len(shared) != 1 {
		t.Errorf("one layer: shared %v (%v)", shared, err)
	}

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	r, err = Run(ended, n, Stream{Rule: Instant{}}, host)
	if !errors.Is(err, context.Canceled) || r.Next == nil || *r.Next != (Token{"a", 0}) {
		t.Errorf("cancelled: %+v, %v", r.Next, err)
	}
}

func TestBadTokens(t *testing.T) {
	n := twoLayers(t)
	for _, c := range []struct {
		s    Stream
		want string
	}{
		{Stream{From: &Token{Layer: "c"}}, `cannot go on at layer "c"`},
		{Stream{From: &Token{Layer: "a", Grid: 9}}, `cannot go on at grid 9 of layer "a", which has 9`},
		{Stream{From: &Token{Layer: "a", Grid: -1}}, "grid -1"},
		{Stream{From: &Token{Layer: "a"}, Layers: []string{"b"}}, "no part of this phase"},
		{Stream{Layers: []string{"b", "c"}}, `no locally connected layer "c"`},
		{Stream{To: &Token{Layer: "c"}}, `cannot end at layer "c"`},
		{Stream{To: &Token{Layer: "a", Grid: 9}}, `cannot end at grid 9 of layer "a", which has 0…8`},
		{Stream{From: &Token{Layer: "a", Grid: 5}, To: &Token{Layer: "a", Grid: 4}}, "cannot end at grid 4"},
		{Stream{From: &Token{Layer: "b"}, To: &Token{Layer: "a"}}, "no part of this phase"},
	} {
		if _, err := c.s.Work(n); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", c.s, err, c.want)
		}
	}
}
