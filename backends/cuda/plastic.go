//go:build cuda && cgo && linux && amd64

package cuda

import (
	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/core/sleep"
)

// mapper applies the maps of a run of events,
//
//	w_i ← mean·w̄ + deviation·(w_i - w̄)
//
// to the neurons of a layer's grids, some positions of a grid at a time. All grids of a layer have the same maps but for the
// order of inputs, which kernels put right as they take and put the weights.
type mapper struct {
	*sleeper
	m, cout    int            // M inputs of a neuron; neurons of a channel group at a position
	deviation  []deviationMap // by channel group
	mean       []sleep.Map    // by channel group
	seen       driver.Ptr     // of the grid under way
	minus      driver.Ptr     // w̄ in the maps' order, (cout, M)
	plus       driver.Ptr     // mean·w̄ in the maps' order, (cout, M)
	deviations [2]driver.Ptr  // of some neurons, (rows, M), and what the map makes of them
	response   driver.Ptr     // (rows, R)
	together   int            // positions at a time
}

// deviationMap is one sleep.Map, rounded, on the device.
type deviationMap struct {
	sleep.Map
	diagonal driver.Ptr // (M)
	dense    driver.Ptr // (M, M)
	y, xt    driver.Ptr // (R, M) and (M, R)
	rank     int
}

// mapBytes is about how much memory the deviations of the neurons that are mapped together take.
const mapBytes = 16 << 20

func newMapper(s *sleeper, t *sleep.Task) *mapper {
	s.free() // what the layer before has left
	groups := s.layer.Window.Groups
	a := &mapper{sleeper: s, m: s.layer.Inputs(), cout: s.layer.Out.C / groups}
	rank := 0
	for g := range groups {
		d, mean := t.TileMaps(g)
		r := a.rounded(d)
		a.deviation, a.mean, rank = append(a.deviation, r), append(a.mean, mean), max(rank, r.rank)
	}
	position := 4 * int64(a.cout) * int64(a.m)
	a.together = int(min(max(mapBytes/position, 1), int64(s.layer.Out.H*s.layer.Out.W)))
	a.seen, a.minus, a.plus = s.alloc(4*int64(a.m)), s.alloc(position), s.alloc(position)
	for i := range a.deviations {
		a.deviations[i] = s.alloc(int64(a.together) * position)
	}
	if rank > 0 {
		a.response = s.alloc(4 * int64(a.together*a.cout) * int64(rank))
	}
	return a
}

// rounded brings a map to the device.
func (a *mapper) rounded(d sleep.Map) deviationMap {
	r, m := deviationMap{Map: d}, a.m
	put := func(n int, at func(i int) float64) driver.Ptr {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(at(i))
		}
		to := a.alloc(4 * int64(n))
		if to != 0 {
			a.note(a.upload(to, v))
		}
		return to
	}
	switch {
	case d.Diagonal != nil:
		r.diagonal = put(m, func(i int) float64 { return d.Diagonal[i] })
	case d.Dense != nil:
		r.dense = put(m*m, func(i int) float64 { return d.Dense[i] })
	case d.X != nil:
		r.rank = len(d.X) / m
		r.y = put(len(d.Y), func(i int) float64 { return d.Y[i] })
		r.xt = put(len(d.X), func(i int) float64 { return d.X[i%r.rank*m+i/r.rank] })
	}
	return r
}

// run is the task on one grid, whose means before are (N, M).
func (a *mapper) run(t *sleep.Task, before []float64) (bytes int64) {
	seen := a.layer.Seen(t.Grid)
	if a.err != nil {
		return 0
	}
	a.place(t.Grid)
	if !a.note(a.wait()) { // the positions are on their way through the same pieces
		return 0
	}
	for j, place := range seen {
		a.pieces.Int32s()[j] = int32(place)
	}
	a.queue.Upload(a.seen, a.pieces, 0, 4*int64(len(seen)))
	if !a.note(a.wait()) {
		return 0
	}
	for g := range a.deviation {
		if !a.note(a.group(t, g, seen, before[g*a.cout*a.m:][:a.cout*a.m])) {
			return 0
		}
	}
	return 2 * word * int64(len(t.Positions)*a.layer.Out.C*a.m)
}

// group is the task on one grid's neurons of a channel group.
func (a *mapper) group(t *sleep.Task, g int, seen []int, before []float64) error {
	minus, plus := a.means(g, seen, before)
	if err := a.upload(a.minus, minus); err != nil {
		return err
	}
	if err := a.upload(a.plus, plus); err != nil {
		return err
	}
	w, bias := a.value(a.params[0]), driver.Ptr(0)
	if len(a.params) > 1 {
		bias = a.value(a.params[1])
	}
	d, channels, first := a.deviation[g], a.layer.Out.C, g*a.cout
	for lo := 0; lo < len(t.Positions); lo += a.together {
		count := min(a.together, len(t.Positions)-lo)
		positions, rows := a.positions+driver.Ptr(4*lo), int64(count*a.cout)
		size, from := kernels.Elements(rows*int64(a.m)), a.deviations[0]
		a.launch("map_take", size, w, bias, positions, count, a.seen, a.minus, from, channels, first, a.cout, a.layer.K, a.m)
		switch {
		case d.dense != 0:
			a.launch("map_product", kernels.MapProduct(rows, a.m), from, d.dense, a.deviations[1], rows, a.m, a.m)
			from = a.deviations[1]
		case d.xt != 0: // XᵀY δ, to which δ itself is added when it is put
			a.launch("map_product", kernels.MapProduct(rows, d.rank), from, d.y, a.response, rows, d.rank, a.m)
			a.launch("map_product", kernels.MapProduct(rows, a.m), a.response, d.xt, a.deviations[1], rows, a.m, d.rank)
			n := rows * int64(a.m)
			a.launch("add_forward_f32", kernels.Elements(n), from, a.deviations[1], from, 0, n)
		}
		a.launch("map_put", size, w, bias, positions, count, a.seen, from, d.diagonal, a.plus, channels, first, a.cout, a.layer.K, a.m)
	}
	return a.wait()
}

// means are the means before of a channel group's neurons and what the map makes of them, in the maps' order, (cout, M).
func (a *mapper) means(g int, seen []int, before []float64) (minus, plus []float32) {
	minus, plus = make([]float32, len(before)), make([]float32, len(before))
	neuron, scratch := make([]float64, a.m), make([]float64, max(a.m, len(a.mean[g].X)/a.m))
	for n := range a.cout {
		at := n * a.m
		for j, place := range seen {
			neuron[place] = before[at+j]
		}
		for place, v := range neuron {
			minus[at+place], plus[at+place] = float32(v), float32(v)
		}
		if a.mean[g].Identity() {
			continue
		}
		a.mean[g].Apply(neuron, scratch)
		for place, v := range neuron {
			plus[at+place] = float32(v)
		}
	}
	return minus, plus
}
