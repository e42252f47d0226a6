package cpu

import (
	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core/sleep"
)

// before keeps the means of all elements over a grid, as float64.
func (s *sleeper) before(g sleep.Grid) {
	if s.means == nil {
		for _, p := range s.params {
			s.means = append(s.means, make([]float64, s.elements(p)))
		}
	}
	n := float64(len(g.Positions))
	for i, p := range s.params {
		s.eachBlock(p, blockLen(len(g.Positions)), func(_ int, c *columns) {
			for j, sum := range c.sums(g.Positions) {
				s.means[i][c.lo+j] = sum / n
			}
		})
	}
}

// kept compares the means of the weights with those before.
func (s *sleeper) kept(g sleep.Grid) (kept sleep.PreservationSum) {
	weight, n := s.params[0], float64(len(g.Positions))
	size := blockLen(len(g.Positions))
	parts := make([]sleep.PreservationSum, s.blocks(weight, size))
	s.eachBlock(weight, size, func(block int, c *columns) {
		before := s.means[0][c.lo:c.hi]
		for j, sum := range c.sums(g.Positions) {
			parts[block].Add(before[j], sum/n)
		}
	})
	for _, p := range parts {
		kept.Merge(p)
	}
	return kept
}

// byGroup runs a task event by event or neuron by neuron, in float64 and rounded at the end: the definition.
func (s *sleeper) byGroup(t *sleep.Task) (bytes int64) {
	const word = 4
	group := make([][]float64, len(t.Positions))
	for i := range group {
		group[i] = make([]float64, s.layer.Inputs())
	}
	for n := range s.layer.Out.C {
		s.eachOf(t.Positions, n, func(i, j int, w *float32) { group[i][j] = float64(*w) })
		bytes += t.Run(group, n, word)
		s.eachOf(t.Positions, n, func(i, j int, w *float32) { *w = float32(group[i][j]) })
	}
	return bytes
}

// eachOf calls f with every weight and bias of a group: input j of the neuron at the i-th position.
func (s *sleeper) eachOf(positions []int, channel int, f func(i, j int, w *float32)) {
	for _, p := range s.params {
		for i, at := range positions {
			if p.filters == nil {
				f(i, s.layer.K, &p.value[at*s.layer.Out.C+channel])
				continue
			}
			first, width := p.filters.index(at, channel/p.filters.cout, 0, 0, channel%p.filters.cout), p.filters.width(channel)
			for j := range s.layer.K {
				f(i, j, &p.value[first+j*width])
			}
		}
	}
}

// mapper applies the maps of a run of events,
//
//	w_i ← mean·w̄ + deviation·(w_i - w̄)
//
// to the neurons of a layer's grids. The weights of 16 channels at a position are a tile (K, 16) as they lie, so that a
// map is a matrix that multiplies tiles. All grids of a layer have the same maps but for the order of inputs: rows go to
// the places that the maps call theirs when a tile's deviations are taken, and come back when they are put in place.
type mapper struct {
	*sleeper
	f           filters
	m           int             // M, inputs of a neuron
	tiles       int             // of a position
	deviation   []deviationMap  // by channel group
	mean        []sleep.Map     // by channel group
	minus, plus []float32       // -w̄ and mean·w̄ in the maps' order, (tiles, M, 16)
	scratch     []mapperScratch // by worker
	positions   []int           // of the grid under way
	seen        []int           // of the grid under way
	runs        []run           // of the grid under way
	onMeans     func(worker, lo, hi int)
	onTiles     func(worker, lo, hi int)
}

// run is some rows that stay neighbours: a neuron's inputs from first on are the maps' from place on.
type run struct{ first, place, rows int }

// deviationMap is one sleep.Map, rounded, as matrices for tiles.
type deviationMap struct {
	diagonal []float32 // (M, 16)
	dense    *kernel.Matrix
	y, xt    *kernel.Matrix // (R, M) and (M, R)
}

// mapperScratch is one worker's: pairs of tiles, and a neuron.
type mapperScratch struct {
	tile, product, response []float32
	neuron, sums            []float64
}

func newMapper(s *sleeper, t *sleep.Task) *mapper {
	a := &mapper{sleeper: s, f: *s.params[0].filters, m: s.layer.Inputs()}
	a.tiles = a.f.groups * ((a.f.cout + kernel.Tile - 1) / kernel.Tile)
	a.minus, a.plus = make([]float32, a.tiles*a.m*kernel.Tile), make([]float32, a.tiles*a.m*kernel.Tile)
	rank := 0
	for g := range a.f.groups {
		d, mean := t.TileMaps(g)
		a.deviation, a.mean = append(a.deviation, a.rounded(d)), append(a.mean, mean)
		rank = max(rank, len(d.X)/a.m, len(mean.X)/a.m)
	}
	for range s.pool.Size() {
		pair := func(rows int) []float32 { return make([]float32, 2*kernel.PaddedRows(rows)*kernel.Tile) }
		a.scratch = append(a.scratch, mapperScratch{pair(a.m), pair(a.m), pair(rank), make([]float64, a.m), make([]float64, max(a.m, rank))})
	}
	a.onMeans, a.onTiles = a.meansPart, a.tilesPart
	return a
}

func (a *mapper) rounded(d sleep.Map) (r deviationMap) {
	m := a.m
	matrix := func(rows, columns int, at func(i, j int) float64) *kernel.Matrix {
		made := a.kernels.Matrix(rows, columns, at)
		return &made
	}
	switch {
	case d.Diagonal != nil:
		for _, v := range d.Diagonal {
			for range kernel.Tile {
				r.diagonal = append(r.diagonal, float32(v))
			}
		}
	case d.Dense != nil:
		r.dense = matrix(m, m, func(i, j int) float64 { return d.Dense[i*m+j] })
	case d.X != nil:
		r.y = matrix(len(d.Y)/m, m, func(i, j int) float64 { return d.Y[i*m+j] })
		r.xt = matrix(m, len(d.X)/m, func(i, j int) float64 { return d.X[j*m+i] })
	}
	return r
}

// run is the task on one grid.
func (a *mapper) run(t *sleep.Task) (bytes int64) {
	a.before(t.Grid)
	a.positions, a.seen = t.Positions, a.layer.Seen(t.Grid)
	a.runs = a.runs[:0]
	for j, place := range a.seen[:a.layer.K] {
		if last := len(a.runs) - 1; last >= 0 && place == a.runs[last].place+a.runs[last].rows {
			a.runs[last].rows++
		} else {
			a.runs = append(a.runs, run{j, place, 1})
		}
	}
	a.pool.Run(a.tiles, a.onMeans)
	a.pool.Run(len(a.positions)*a.tiles, a.onTiles)
	return 2 * 4 * int64(len(a.positions)*a.layer.Out.C*a.m)
}

// place is where a tile of a position is: its group, its first channel in it, and its width.
func (a *mapper) place(tile int) (g, first, width int) {
	per := a.tiles / a.f.groups
	g, first = tile/per, tile%per*kernel.Tile
	return g, first, min(kernel.Tile, a.f.cout-first)
}

// meansPart makes minus and plus of some tiles.
func (a *mapper) meansPart(worker, lo, hi int) {
	s := &a.scratch[worker]
	for tile := lo; tile < hi; tile++ {
		g, first, width := a.place(tile)
		means := a.means[0][g*a.f.block()+first*a.f.rows():]
		of := func(j, lane int) float64 {
			if j == a.layer.K {
				return a.means[1][g*a.f.cout+first+lane]
			}
			return means[j*width+lane]
		}
		minus, plus := a.minus[tile*a.m*kernel.Tile:], a.plus[tile*a.m*kernel.Tile:]
		if a.mean[g].Identity() {
			for j, place := range a.seen {
				for lane := range width {
					v := float32(of(j, lane))
					minus[place*kernel.Tile+lane], plus[place*kernel.Tile+lane] = -v, v
				}
			}
			continue
		}
		for lane := range width {
			for j, place := range a.seen {
				s.neuron[place] = of(j, lane)
			}
			for place, v := range s.neuron {
				minus[place*kernel.Tile+lane] = float32(-v)
			}
			a.mean[g].Apply(s.neuron, s.sums)
			for place, v := range s.neuron {
				plus[place*kernel.Tile+lane] = float32(v)
			}
		}
	}
}

// tileAt is a tile of a position.
type tileAt struct {
	group, width int
	minus, plus  []float32
	w, bias      []float32
}

// at is the i-th tile of the grid, position by position.
func (a *mapper) at(i int) (t tileAt) {
	position, tile := a.positions[i/a.tiles], i%a.tiles
	g, first, width := a.place(tile)
	t.group, t.width = g, width
	at, size := tile*a.m*kernel.Tile, a.m*kernel.Tile
	t.minus, t.plus = a.minus[at:at+size], a.plus[at:at+size]
	from := position*a.f.size() + g*a.f.block() + first*a.f.rows()
	t.w = a.params[0].value[from : from+a.layer.K*width]
	if a.m > a.layer.K {
		t.bias = a.params[1].value[position*a.layer.Out.C+g*a.f.cout+first:][:width]
	}
	return t
}

// tilesPart applies the maps to some of the grid's tiles, two at a time where they are wide and have one map.
func (a *mapper) tilesPart(worker, lo, hi int) {
	s := &a.scratch[worker]
	size := len(s.tile) / 2
	for i := lo; i < hi; {
		one := a.at(i)
		i++
		a.take(s.tile, one)
		if i < hi && one.width == kernel.Tile {
			if two := a.at(i); two.width == kernel.Tile && two.group == one.group {
				i++
				a.take(s.tile[size:], two)
				made := a.applyTwo(s, &a.deviation[one.group])
				a.put(one, made)
				a.put(two, made[size:])
				continue
			}
		}
		a.put(one, a.apply(s, &a.deviation[one.group], one.width))
	}
}

// apply returns what the map makes of the tile of deviations in s.
func (a *mapper) apply(s *mapperScratch, d *deviationMap, width int) []float32 {
	switch {
	case d.diagonal != nil:
		for i, v := range d.diagonal {
			s.tile[i] *= v
		}
	case d.dense != nil:
		clear(s.product)
		a.kernels.Times(s.product, d.dense, s.tile, width)
		return s.product
	case d.xt != nil:
		clear(s.response)
		a.kernels.Times(s.response, d.y, s.tile, width)
		a.kernels.Times(s.tile, d.xt, s.response, width)
	}
	return s.tile
}

// applyTwo is apply for the two tiles in s.
func (a *mapper) applyTwo(s *mapperScratch, d *deviationMap) []float32 {
	switch {
	case d.diagonal != nil:
		for _, tile := range [][]float32{s.tile, s.tile[len(s.tile)/2:]} {
			for i, v := range d.diagonal {
				tile[i] *= v
			}
		}
	case d.dense != nil:
		clear(s.product)
		a.kernels.TimesTwo(s.product, d.dense, s.tile)
		return s.product
	case d.xt != nil:
		response := s.response[:2*kernel.PaddedRows(d.y.Rows)*kernel.Tile]
		clear(response)
		a.kernels.TimesTwo(response, d.y, s.tile)
		a.kernels.TimesTwo(s.tile, d.xt, response)
	}
	return s.tile
}

// take sets a tile of deviations, (M, 16) in the maps' order, to w, (K, width), and the biases, plus minus.
func (a *mapper) take(tile []float32, t tileAt) {
	w, bias, minus, width := t.w, t.bias, t.minus, t.width
	for _, r := range a.runs {
		if width == kernel.Tile {
			at, n := r.place*kernel.Tile, r.rows*kernel.Tile
			a.kernels.Sum(tile[at:at+n], w[r.first*kernel.Tile:][:n], minus[at:at+n])
			continue
		}
		for j := range r.rows {
			at, row := (r.place+j)*kernel.Tile, w[(r.first+j)*width:][:width]
			for lane, v := range row {
				tile[at+lane] = v + minus[at+lane]
			}
		}
	}
	at := a.layer.K * kernel.Tile
	for lane, v := range bias {
		tile[at+lane] = v + minus[at+lane]
	}
}

// put is the way back: w and the biases are the tile plus plus.
func (a *mapper) put(t tileAt, tile []float32) {
	w, bias, plus, width := t.w, t.bias, t.plus, t.width
	for _, r := range a.runs {
		if width == kernel.Tile {
			at, n := r.place*kernel.Tile, r.rows*kernel.Tile
			a.kernels.Sum(w[r.first*kernel.Tile:][:n], tile[at:at+n], plus[at:at+n])
			continue
		}
		for j := range r.rows {
			at, row := (r.place+j)*kernel.Tile, w[(r.first+j)*width:][:width]
			for lane := range row {
				row[lane] = tile[at+lane] + plus[at+lane]
			}
		}
	}
	at := a.layer.K * kernel.Tile
	for lane := range bias {
		bias[lane] = tile[at+lane] + plus[at+lane]
	}
}
