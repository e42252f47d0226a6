package ref

import (
	"context"
	"time"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

func (e *engine) Sleep(ctx context.Context, s sleep.Stream) (sleep.Report, error) {
	return sleep.Run(ctx, e.net, s, sleep.Host{
		Now:   time.Now,
		Open:  func(l sleep.Layer) sleep.Runner { return sleeper{l, e.params[l.Node]} },
		Param: func(name string) ([]float64, error) { return core.Parameter(e, name) },
		Word:  wordBytes,
	})
}

// wordBytes is the size of a float64.
const wordBytes = 8

// sleeper is one locally connected layer asleep.
type sleeper struct {
	layer  sleep.Layer
	params []*param // weight (Hout, Wout, N, K) and perhaps bias (Hout, Wout, N)
}

func (s sleeper) Measure(b sleep.Border) sleep.Stats {
	return sleep.Measure(s.params[0].value, s.layer, b)
}

func (s sleeper) NonFinite() (position, channel int, found bool) {
	for _, p := range s.params {
		k := s.inputs(p)
		for i := range len(p.value) / k {
			if !finite(p.value[i*k : (i+1)*k]) {
				return i / s.layer.Out.C, i % s.layer.Out.C, true
			}
		}
	}
	return 0, 0, false
}

// inputs is how many numbers of a parameter a neuron has.
func (s sleeper) inputs(p *param) int {
	if p.Role == net.Bias {
		return 1
	}
	return s.layer.K
}

func (s sleeper) Means(g sleep.Grid) []float64 {
	var means []float64
	for n := range s.layer.Out.C {
		means = append(means, s.means(g, n)...)
	}
	return means
}

// means are the mean weights of one group, the bias last.
func (s sleeper) means(g sleep.Grid, channel int) []float64 {
	var m []float64
	for _, p := range s.params {
		l := s.layer
		l.K = s.inputs(p)
		for j := range l.K {
			mean, _ := sleep.Moments(p.value, l, g.Positions, channel, j)
			m = append(m, mean)
		}
	}
	return m
}

func (s sleeper) Share(t *sleep.Task) (kept sleep.PreservationSum, bytes int64) {
	if len(t.Positions) < 2 {
		return kept, 0 // nobody to share with
	}
	for n := range s.layer.Out.C {
		before := s.means(t.Grid, n)
		if rule, ok := t.Rule.(sleep.Instant); ok {
			bytes += s.instant(rule, t.Grid, n)
		} else {
			group := s.gather(t.Positions, n)
			bytes += t.Run(group, n, wordBytes)
			s.scatter(group, t.Positions, n)
		}
		for j, after := range s.means(t.Grid, n)[:s.layer.K] {
			kept.Add(before[j], after)
		}
	}
	return kept, bytes
}

func (s sleeper) instant(rule sleep.Instant, g sleep.Grid, channel int) (bytes int64) {
	mean := make([]float64, s.layer.K)
	for _, p := range s.params {
		k := s.inputs(p)
		rule.Share(p.value, s.layer, g, channel, k, mean)
		bytes += 2 * wordBytes * int64(k*len(g.Positions))
	}
	return bytes
}

// gather copies the weights and biases of one group, (positions, M).
func (s sleeper) gather(positions []int, channel int) [][]float64 {
	var group [][]float64
	for _, at := range positions {
		w := make([]float64, 0, s.layer.Inputs())
		for _, p := range s.params {
			w = append(w, s.neuron(p, at, channel)...)
		}
		group = append(group, w)
	}
	return group
}

// scatter puts them back.
func (s sleeper) scatter(group [][]float64, positions []int, channel int) {
	for i, at := range positions {
		w := group[i]
		for _, p := range s.params {
			w = w[copy(s.neuron(p, at, channel), w):]
		}
	}
}

// neuron is what a parameter has for one neuron.
func (s sleeper) neuron(p *param, position, channel int) []float64 {
	k := s.inputs(p)
	at := (position*s.layer.Out.C + channel) * k
	return p.value[at : at+k]
}
