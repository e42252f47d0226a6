package cpu

import (
	"slices"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/cpu/internal/workers"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// sleeper is one locally connected layer asleep. The weights of a position lie together, in the same order at every
// position, so that a grid's groups are the columns of a table with a row a position: means and variances go element
// by element, and the workers share the elements.
type sleeper struct {
	layer  sleep.Layer
	pool   *workers.Pool
	kernel *kernel.Kernels
	params []*param // weight and perhaps bias, (position, element)
}

// elements is how many numbers of the parameter a position has.
func (s sleeper) elements(p *param) int { return len(p.value) / (s.layer.Out.H * s.layer.Out.W) }

// blockLen is how many elements are summed together. Statistics are summed block by block, so that they do not depend
// on the number of threads.
const blockLen = 2048

// eachBlock lets the workers call f for blocks lo…hi-1 of n elements.
func (s sleeper) eachBlock(n int, f func(block, lo, hi int)) (blocks int) {
	blocks = (n + blockLen - 1) / blockLen
	s.pool.Run(blocks, func(_, from, to int) {
		for block := from; block < to; block++ {
			f(block, block*blockLen, min((block+1)*blockLen, n))
		}
	})
	return blocks
}

func (s sleeper) Measure(b sleep.Border) sleep.Stats {
	var all sleep.StatsSum
	inner := s.layer.Grids(sleep.BorderRests)
	weight := s.params[0]
	parts := make([]sleep.StatsSum, s.elements(weight)/blockLen+1)
	for i, g := range s.layer.Grids(b) {
		if len(g.Positions) >= 2 {
			all.AddGroups(s.layer.Out.C)
		}
		clear(parts)
		blocks := s.eachBlock(s.elements(weight), func(block, lo, hi int) {
			t := newTable(weight.value, s.elements(weight), lo, hi)
			if len(g.Positions) >= 2 {
				t.moments(g.Positions, parts[block].Add)
			}
			if len(inner[i].Positions) >= 2 {
				t.moments(inner[i].Positions, parts[block].AddInner)
			}
		})
		for _, p := range parts[:blocks] {
			all.Merge(p)
		}
	}
	return all.Stats()
}

func (s sleeper) NonFinite() (position, channel int, found bool) {
	for _, p := range s.params {
		bad := make([]bool, len(p.value)/blockLen+1)
		s.eachBlock(len(p.value), func(block, lo, hi int) { bad[block] = !s.kernel.Finite(p.value[lo:hi]) })
		if block := slices.Index(bad, true); block >= 0 {
			i := block * blockLen
			for s.kernel.Finite(p.value[i : i+1]) {
				i++
			}
			position, channel = s.neuronOf(p, i)
			return position, channel, true
		}
	}
	return 0, 0, false
}

func (s sleeper) Share(t *sleep.Task) (kept sleep.PreservationSum, bytes int64) {
	g := t.Grid
	if len(g.Positions) < 2 {
		return kept, 0
	}
	_ = t.Rule.(sleep.Instant) // the only rule that changes weights
	for _, p := range s.params {
		parts := make([]sleep.PreservationSum, s.elements(p)/blockLen+1)
		blocks := s.eachBlock(s.elements(p), func(block, lo, hi int) {
			parts[block] = newTable(p.value, s.elements(p), lo, hi).share(s.kernel, g.Positions)
		})
		bytes += 2 * 4 * int64(len(g.Positions)*s.elements(p))
		if p.Role != net.Weight {
			continue
		}
		for _, part := range parts[:blocks] {
			kept.Merge(part)
		}
	}
	return kept, bytes
}

// neuronOf is where the element of a parameter belongs.
func (s sleeper) neuronOf(p *param, element int) (position, channel int) {
	if p.filters == nil { // a bias, (positions, N)
		return element / s.layer.Out.C, element % s.layer.Out.C
	}
	return p.filters.neuron(element)
}

func (s sleeper) Means(g sleep.Grid) []float64 {
	m := s.layer.Inputs()
	means := make([]float64, s.layer.Out.C*m)
	for _, p := range s.params {
		n := s.elements(p)
		t := newTable(p.value, n, 0, n)
		e := make([]float64, 0, n)
		t.moments(g.Positions, func(mean, _ float64) { e = append(e, mean) })
		if p.filters == nil {
			for channel, v := range e {
				means[channel*m+s.layer.K] = v
			}
			continue
		}
		one := *p.filters
		one.positions = 1
		one.each(func(here, canonical int) { means[canonical/s.layer.K*m+canonical%s.layer.K] = e[here] })
	}
	return means
}

// table is a range of elements of all positions, with accumulators.
type table struct {
	value          []float32
	stride, lo, hi int
	d1, d2         []float64 // sums of w - first and of its square over the positions
}

func newTable(value []float32, stride, lo, hi int) *table {
	return &table{value, stride, lo, hi, make([]float64, hi-lo), make([]float64, hi-lo)}
}

func (t *table) row(position int) []float32 {
	return t.value[position*t.stride+t.lo : position*t.stride+t.hi]
}

// moments calls f with mean and variance of each element over the positions.
func (t *table) moments(positions []int, f func(mean, variance float64)) {
	clear(t.d1)
	clear(t.d2)
	first := t.row(positions[0])
	for _, p := range positions {
		for i, v := range t.row(p) {
			d := float64(v) - float64(first[i])
			t.d1[i] += d
			t.d2[i] += d * d
		}
	}
	for i, v := range first {
		f(sleep.Central(float64(v), t.d1[i], t.d2[i], len(positions)))
	}
}

// share sets each element to its mean over the positions, computed in float64 around the first and rounded once.
func (t *table) share(k *kernel.Kernels, positions []int) (kept sleep.PreservationSum) {
	clear(t.d1)
	first := t.row(positions[0])
	for _, p := range positions {
		k.AddDeviations(t.d1, t.row(p), first)
	}
	n := float64(len(positions))
	for i, v := range first {
		mean := float64(v) + t.d1[i]/n
		first[i] = float32(mean)
		kept.Add(mean, float64(first[i]))
	}
	for _, p := range positions[1:] {
		copy(t.row(p), first)
	}
	return kept
}
