package cpu

import (
	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// sleeper is one locally connected layer asleep. The weights of a position lie together, in the same order at every
// position, so that a grid's groups are the columns of a table with a row a position: means and variances go element
// by element, and the workers share the elements.
type sleeper struct {
	*engine
	layer  sleep.Layer
	params []*param    // weight and perhaps bias, (position, element)
	tables []*columns  // by worker
	means  [][]float64 // of a grid before it sleeps, by parameter and element of a position
	maps   *mapper     // of the phase, made when a task needs it
}

func newSleeper(e *engine, l sleep.Layer) *sleeper {
	s := &sleeper{engine: e, layer: l, params: e.byNode[l.Node]}
	for range e.pool.Size() {
		s.tables = append(s.tables, &columns{kernels: e.kernels})
	}
	return s
}

// elements is how many numbers of the parameter a position has.
func (s *sleeper) elements(p *param) int { return len(p.value) / (s.layer.Out.H * s.layer.Out.W) }

// blockLen is how many elements of a grid are worked on together, such that they stay in a core's cache between the pass
// that reads them and the one that writes, in pieces that are still worth streaming.
func blockLen(positions int) int {
	const cached = 64 << 10 // floats
	return min(max(cached/max(positions, 1)&^(kernel.Tile-1), 512), 4096)
}

// blocks is how many blocks of a size the elements of a parameter make. What is summed over a parameter is summed block by
// block, so that it does not depend on the number of threads.
func (s *sleeper) blocks(p *param, size int) int { return (s.elements(p) + size - 1) / size }

// eachBlock lets the workers call f for blocks of the parameter's elements, each with the columns of the block.
func (s *sleeper) eachBlock(p *param, size int, f func(block int, c *columns)) {
	elements := s.elements(p)
	s.pool.Run(s.blocks(p, size), func(worker, from, to int) {
		c := s.tables[worker]
		for block := from; block < to; block++ {
			c.value, c.stride, c.lo, c.hi = p.value, elements, block*size, min((block+1)*size, elements)
			f(block, c)
		}
	})
}

func (s *sleeper) Measure(b sleep.Border) sleep.Stats {
	var all sleep.StatsSum
	inner := s.layer.Grids(sleep.BorderRests)
	weight := s.params[0]
	for i, g := range s.layer.Grids(b) {
		if len(g.Positions) >= 2 {
			all.AddGroups(s.layer.Out.C)
		}
		size := blockLen(len(g.Positions))
		parts := make([]sleep.StatsSum, s.blocks(weight, size))
		s.eachBlock(weight, size, func(block int, c *columns) {
			if len(g.Positions) >= 2 {
				c.moments(g.Positions, parts[block].Add)
			}
			if len(inner[i].Positions) >= 2 {
				c.moments(inner[i].Positions, parts[block].AddInner)
			}
		})
		for _, p := range parts {
			all.Merge(p)
		}
	}
	return all.Stats()
}

// NonFinite finds a weight that is not finite.
func (s *sleeper) NonFinite() (position, channel int, found bool) {
	for _, p := range s.params {
		if p.finite.Load() || s.allFinite(p) {
			continue
		}
		i := 0
		for s.kernels.Finite(p.value[i : i+1]) {
			i++
		}
		position, channel = s.neuronOf(p, i)
		return position, channel, true
	}
	return 0, 0, false
}

// allFinite looks at all values of a parameter, and notes it when they are finite.
func (s *sleeper) allFinite(p *param) bool {
	p.finite.Store(true)
	s.pool.Run(len(p.value), func(_, lo, hi int) {
		if !s.kernels.Finite(p.value[lo:hi]) {
			p.finite.Store(false)
		}
	})
	return p.finite.Load()
}

func (s *sleeper) Share(t *sleep.Task) (kept sleep.PreservationSum, bytes int64) {
	if len(t.Positions) < 2 {
		return kept, 0 // nobody to share with
	}
	if kept, bytes, done := s.ShareAll(t.Rule, []sleep.Grid{t.Grid}); done {
		return kept, bytes
	}
	for _, p := range s.params {
		p.finite.Store(false) // float32 may not hold what finite weights become
	}
	switch t.Execution {
	case sleep.DenseMap, sleep.Factored:
		if s.maps == nil {
			s.maps = newMapper(s, t)
		}
		bytes = s.maps.run(t)
	default:
		s.before(t.Grid)
		bytes = s.byGroup(t)
	}
	return s.kept(t.Grid), bytes
}

// summed is how many bytes of sums stay in a core's first cache beside the rows that they are of.
const summed = 14 << 10

// ahead is how many positions before its turn a row is asked for.
const ahead = 6

// rests stands for the grid of a position that does not sleep.
const rests = -1

// ShareAll sets the weights of every group of the grids to their mean: some elements of all positions at a time, in the
// order of memory, as the positions of one grid lie far apart.
func (s *sleeper) ShareAll(rule sleep.Rule, grids []sleep.Grid) (kept sleep.PreservationSum, bytes int64, done bool) {
	if _, ok := rule.(sleep.Instant); !ok {
		return kept, 0, false
	}
	gridOf, asleep := make([]int, s.layer.Out.H*s.layer.Out.W), 0
	for i := range gridOf {
		gridOf[i] = rests
	}
	for i, g := range grids {
		if len(g.Positions) < 2 {
			continue // nobody to share with
		}
		for _, p := range g.Positions {
			gridOf[p] = i
		}
		asleep += len(g.Positions)
	}
	size := max(summed/(8*max(len(grids), 1))&^(kernel.Tile-1), kernel.Tile)
	for _, p := range s.params {
		parts := make([]kernel.Kept, s.blocks(p, size))
		s.eachBlock(p, size, func(block int, c *columns) { c.share(grids, gridOf, &parts[block]) })
		bytes += 2 * 4 * int64(asleep*s.elements(p))
		if p.Role != net.Weight {
			continue
		}
		for _, part := range parts {
			for lane := range kernel.Lanes {
				kept.AddSums(part.Cross[lane], part.Before[lane], part.Diff[lane])
			}
		}
	}
	return kept, bytes, true
}

// neuronOf is where the element of a parameter belongs.
func (s *sleeper) neuronOf(p *param, element int) (position, channel int) {
	if p.filters == nil { // a bias, (positions, N)
		return element / s.layer.Out.C, element % s.layer.Out.C
	}
	return p.filters.neuron(element)
}

func (s *sleeper) Means(g sleep.Grid) []float64 {
	m := s.layer.Inputs()
	means := make([]float64, s.layer.Out.C*m)
	for _, p := range s.params {
		n := s.elements(p)
		c := &columns{kernels: s.kernels, value: p.value, stride: n, hi: n}
		e := make([]float64, 0, n)
		c.moments(g.Positions, func(mean, _ float64) { e = append(e, mean) })
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

// columns is a range of elements of all positions, with accumulators.
type columns struct {
	kernels        *kernel.Kernels
	value          []float32
	stride, lo, hi int
	d1, d2         []float64
}

func (c *columns) row(position int) []float32 {
	return c.value[position*c.stride+c.lo : position*c.stride+c.hi]
}

// cleared returns the accumulators, n each.
func (c *columns) cleared(n int) (d1, d2 []float64) {
	if len(c.d1) < n {
		c.d1, c.d2 = make([]float64, n), make([]float64, n)
	}
	clear(c.d1[:n])
	clear(c.d2[:n])
	return c.d1[:n], c.d2[:n]
}

// moments calls f with mean and variance of each element over the positions, summed around the first.
func (c *columns) moments(positions []int, f func(mean, variance float64)) {
	d1, d2 := c.cleared(c.hi - c.lo)
	first := c.row(positions[0])
	for _, p := range positions[1:] {
		c.kernels.AddMoments(d1, d2, c.row(p), first)
	}
	for i, v := range first {
		f(sleep.Central(float64(v), d1[i], d2[i], len(positions)))
	}
}

// share sets each element to its mean over the positions of each grid, computed in float64 and rounded once. Equal weights
// stay as they are: the sum of up to 2^29 of them is exact. gridOf are the positions' grids, rests for those that rest.
func (c *columns) share(grids []sleep.Grid, gridOf []int, kept *kernel.Kept) {
	n := c.hi - c.lo
	sums, _ := c.cleared(len(grids) * n)
	for p, g := range gridOf {
		if g != rests {
			c.kernels.AddRow(sums[g*n:(g+1)*n], c.row(p), c.row(min(p+ahead, len(gridOf)-1)))
		}
	}
	mean := func(g int) []float32 { return c.row(grids[g].Positions[0]) } // where it is written first
	for g := range grids {
		if count := len(grids[g].Positions); count >= 2 {
			c.kernels.Means(mean(g), sums[g*n:(g+1)*n], float64(count), kept)
		}
	}
	for p, g := range gridOf {
		if g != rests && p != grids[g].Positions[0] {
			copy(c.row(p), mean(g))
		}
	}
}

// sums adds up each element over the positions.
func (c *columns) sums(positions []int) []float64 {
	sums, _ := c.cleared(c.hi - c.lo)
	for i := 0; i < len(positions); {
		run := evenly(positions[i:])
		apart := 0
		if run > 1 {
			apart = positions[i+1] - positions[i]
		}
		from := positions[i]*c.stride + c.lo
		c.kernels.AddRows(sums, c.value[from:], apart*c.stride, run)
		i += run
	}
	return sums
}

// evenly is how many of the first positions are at one distance from each other: those in a row of the map.
func evenly(positions []int) int {
	n := min(2, len(positions))
	for n < len(positions) && positions[n]-positions[n-1] == positions[1]-positions[0] {
		n++
	}
	return n
}
