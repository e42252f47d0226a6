package fixed

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"hypnos/core"
	"hypnos/core/rng"
	"hypnos/core/sleep"
)

// Sleep runs a phase. Instant sets a group to the mean of its integers, rounded once, half a last place at most from the exact
// mean; a layer all of whose groups have slept so is held in the consolidated form from then on. Hebbian and Circuit run as
// the map of their events (package sleep), applied to integer deviations with one stochastic rounding a weight: other
// executions, and noise of the neurons' own, are not supported.
func (e *engine) Sleep(ctx context.Context, s sleep.Stream) (sleep.Report, error) {
	if !e.loaded {
		return sleep.Report{}, errNotLoaded
	}
	switch rule := s.Rule.(type) {
	case sleep.Hebbian, sleep.Circuit:
		if h, ok := rule.(sleep.Hebbian); ok && h.Noise > 0 {
			return sleep.Report{}, fmt.Errorf("fixed: noise of %g is %w: every neuron's run would be its own", h.Noise, core.ErrUnsupported)
		}
		switch s.Execution {
		case sleep.Auto:
			s.Execution = sleep.DenseMap
		case sleep.DenseMap:
		default:
			return sleep.Report{}, fmt.Errorf("fixed: execution %q is %w: only %q", s.Execution, core.ErrUnsupported, sleep.DenseMap)
		}
		for _, w := range e.weights { // neurons move one by one
			if w != nil {
				w.separate()
			}
		}
		if c, ok := rule.(sleep.Circuit); ok && !c.MeanPreserving { // and equal ones, too
			if err := e.expand(nil); err != nil {
				return sleep.Report{}, err
			}
		}
	}
	key, border := rng.New(s.Seed, rng.RoundSleep, 0).Uint64(s.Phase), s.Border
	return sleep.Run(ctx, e.net, s, sleep.Host{
		Now: time.Now,
		Open: func(l sleep.Layer) sleep.Runner {
			return &sleeper{engine: e, layer: l, border: border, w: e.weights[l.Node], stream: rng.New(key, rng.RoundSleep, uint64(l.Node))}
		},
		Param: e.parameter,
		Word:  wordBytes,
		Each:  func(n int, f func(lo, hi int)) { e.pool.Run(n, func(_, lo, hi int) { f(lo, hi) }) },
	})
}

const wordBytes = 2

// parameter reads a parameter as numbers, for sources of patterns that need it.
func (e *engine) parameter(name string) ([]float64, error) {
	for _, w := range e.weights {
		switch {
		case w == nil:
		case w.weight.Name == name:
			v := make([]float64, 0, w.weight.Len())
			for p := range w.blocks() {
				rows := w.value[w.block(p)*w.Out*w.padded:]
				for n := range w.Out {
					v = append(v, floats(rows[n*w.padded:n*w.padded+w.k], w.format.Frac)...)
				}
			}
			return v, nil
		case w.bias.Name == name:
			v := make([]float64, 0, w.bias.Len())
			for p := range w.blocks() {
				for _, b := range w.biases[w.block(p)*w.Out:][:w.Out] {
					v = append(v, math.Ldexp(float64(b), -w.sumFrac()))
				}
			}
			return v, nil
		}
	}
	return nil, fmt.Errorf("fixed: no parameter %q", name)
}

// sleeper is one locally connected layer asleep.
type sleeper struct {
	*engine
	layer  sleep.Layer
	border sleep.Border
	w      *weights
	stream rng.Stream
	sums   []int32 // (grids, N, padded K): Σ w over each grid's positions, once asked for
}

// row is the weights of one neuron.
func (s *sleeper) row(position, channel int) []int16 {
	at := (s.w.block(position)*s.w.Out + channel) * s.w.padded
	return s.w.value[at : at+s.w.k]
}

// Measure computes the statistics from exact sums of integers.
func (s *sleeper) Measure(b sleep.Border) sleep.Stats {
	var all sleep.StatsSum
	inner := s.layer.Grids(sleep.BorderRests)
	for i, g := range s.layer.Grids(b) {
		for channel := range s.w.Out {
			if len(g.Positions) >= 2 {
				all.AddGroups(1)
				s.moments(g.Positions, channel, all.Add)
			}
			if len(inner[i].Positions) >= 2 {
				s.moments(inner[i].Positions, channel, all.AddInner)
			}
		}
	}
	return all.Stats()
}

// moments gives mean and variance of every weight over a group: both from exact integers.
func (s *sleeper) moments(positions []int, channel int, add func(mean, variance float64)) {
	n, unit := int64(len(positions)), s.w.format.Unit()
	sum, square := make([]int64, s.w.k), make([]int64, s.w.k)
	for _, p := range positions {
		for j, v := range s.row(p, channel) {
			sum[j] += int64(v)
			square[j] += int64(v) * int64(v)
		}
	}
	for j, t := range sum {
		add(float64(t)/float64(n)*unit, float64(n*square[j]-t*t)/float64(n*n)*unit*unit)
	}
}

// Means are the groups' mean weights, the bias last.
func (s *sleeper) Means(g sleep.Grid) []float64 {
	var means []float64
	for channel := range s.w.Out {
		sums := s.groupSums(g.Positions, channel)
		for _, t := range sums {
			means = append(means, float64(t)/float64(len(g.Positions))*s.w.format.Unit())
		}
		if s.w.biases != nil {
			b := s.biasSum(g.Positions, channel)
			means = append(means, math.Ldexp(float64(b)/float64(len(g.Positions)), -s.w.sumFrac()))
		}
	}
	return means
}

// groupSums are Σ w over a group, exact.
func (s *sleeper) groupSums(positions []int, channel int) []int64 {
	sum := make([]int64, s.w.k)
	for _, p := range positions {
		for j, v := range s.row(p, channel) {
			sum[j] += int64(v)
		}
	}
	return sum
}

func (s *sleeper) biasSum(positions []int, channel int) int64 {
	sum := int64(0)
	for _, p := range positions {
		sum += int64(s.w.biases[s.w.block(p)*s.w.Out+channel])
	}
	return sum
}

// NonFinite finds nothing: integers are finite.
func (s *sleeper) NonFinite() (position, channel int, found bool) { return 0, 0, false }

// Share implements sleep.Runner. A grid of one neuron a group, or none, has nobody to share with.
func (s *sleeper) Share(t *sleep.Task) (kept sleep.PreservationSum, bytes int64) {
	instant := t.Rule.Kind() == sleep.Instant{}.Kind()
	if s.w.period > 0 {
		return s.unchanged(t.Grid), 0 // deviations are 0 and stay so; what moves means has had the layer expanded
	}
	if len(t.Positions) >= 2 {
		if instant {
			kept, bytes = s.instant(t)
		} else {
			kept, bytes = s.plastic(t)
		}
	}
	s.noteShared(t, instant)
	return kept, bytes
}

// unchanged reports means that were kept exactly.
func (s *sleeper) unchanged(g sleep.Grid) (kept sleep.PreservationSum) {
	if len(g.Positions) < 2 {
		return kept
	}
	for channel := range s.w.Out {
		for _, v := range s.row(g.Positions[0], channel) {
			w := float64(v) * s.w.format.Unit()
			kept.Add(w, w)
		}
	}
	return kept
}

// noteShared keeps account of the grids whose groups are equal, and consolidates the layer when all are.
func (s *sleeper) noteShared(t *sleep.Task, instant bool) {
	all := s.layer.Grids(sleep.BorderShares)
	if s.w.equal == nil {
		s.w.equal = make([]bool, len(all))
	}
	n := len(all[t.Index].Positions)
	s.w.equal[t.Index] = n < 2 || instant && len(t.Positions) == n
	if !instant {
		s.w.boundBiases()
	}
	changed := t.Positions
	if instant { // all are alike
		changed = changed[:min(1, len(changed))]
	}
	s.w.norm = max(s.w.norm, s.w.normOf(s.kernels, changed))
	if !slices.Contains(s.w.equal, false) {
		_ = s.w.consolidate() // without memory for the small form the layer stays in the large one, which means the same
	}
}
