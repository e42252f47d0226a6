//go:build cuda && cgo && linux && amd64

package cuda

import (
	"context"
	"fmt"
	"math"
	"time"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/backends/internal/workers"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// word is the size of a weight.
const word = 4

func (e *engine) Sleep(ctx context.Context, s sleep.Stream) (sleep.Report, error) {
	if e.failed != nil {
		return sleep.Report{}, e.failed
	}
	if err := core.CheckSleep(rules(), s); err != nil {
		return sleep.Report{}, err
	}
	threads, _, err := workers.Count(0)
	if err != nil {
		return sleep.Report{}, err
	}
	pool := workers.New(threads)
	defer pool.Close()
	p := &phase{engine: e}
	defer p.free()
	report, err := sleep.Run(watched{ctx, p}, e.net, s, sleep.Host{
		Now:   time.Now,
		Open:  func(l sleep.Layer) sleep.Runner { return newSleeper(p, l) },
		Param: func(name string) ([]float64, error) { return core.Parameter(e, name) },
		Word:  word,
		Each:  func(n int, f func(lo, hi int)) { pool.Run(n, func(_, lo, hi int) { f(lo, hi) }) },
	})
	if p.err != nil {
		return report, fmt.Errorf("cuda: %s: %w", e.net.Name, p.err)
	}
	return report, err
}

// phase is a sleep phase under way.
type phase struct {
	*engine
	err       error        // the first of the device: nothing is asked of it afterwards
	temporary []driver.Ptr // what the layer under way has beside the plan
}

// note keeps the first error; ok is false from then on.
func (p *phase) note(err error) (ok bool) {
	if p.err == nil {
		p.err = err
	}
	return p.err == nil
}

// free frees what the phase has allocated.
func (p *phase) free() {
	for _, at := range p.temporary {
		p.note(p.device.Free(at))
	}
	p.temporary = nil
}

// alloc allocates memory until free.
func (p *phase) alloc(bytes int64) driver.Ptr {
	if p.err != nil {
		return 0
	}
	at, err := p.device.Alloc(padded(bytes))
	if p.note(err) {
		p.temporary = append(p.temporary, at)
	}
	return at
}

// watched is a context that ends with the device, too.
type watched struct {
	context.Context
	phase *phase
}

func (w watched) Err() error {
	if w.phase.err != nil {
		return w.phase.err
	}
	return w.Context.Err()
}

// sleepBytes is the scratch of a layer asleep: its positions and where its grids begin, sums of blocks and their totals,
// and mean and variance of every element of a position.
func sleepBytes(l sleep.Layer) int64 {
	positions, grids := int64(l.Out.H*l.Out.W), len(l.Grids(sleep.BorderShares))
	elements := int64(l.Out.C * l.K)
	g := kernels.Groups(elements, grids).Grid
	return padded(4*(positions+int64(grids)+1)) + padded(8*3*int64(g[0]*g[1]+1)) + 2*padded(8*elements)
}

// sleeper is one locally connected layer asleep. The weights of a position lie together, in the same order at every
// position, so that a grid's groups are the columns of a table with a row a position.
type sleeper struct {
	*phase
	layer  sleep.Layer
	params []*param // weight and perhaps bias, (position, element)
	maps   *mapper  // of the phase, made when a task needs it

	// In the scratch: see sleepBytes.
	positions, starts, parts, totals, means, variances driver.Ptr
}

func newSleeper(p *phase, l sleep.Layer) *sleeper {
	s := &sleeper{phase: p, layer: l, params: p.plan.byNode[l.Node]}
	positions, grids := l.Out.H*l.Out.W, len(l.Grids(sleep.BorderShares))
	elements := int64(l.Out.C * l.K)
	g := kernels.Groups(elements, grids).Grid
	s.positions = p.scratch
	s.starts = s.positions + driver.Ptr(4*positions)
	s.totals = p.scratch + driver.Ptr(padded(4*(int64(positions+grids)+1)))
	s.parts = s.totals + 8*3
	s.means = s.totals + driver.Ptr(padded(8*3*int64(g[0]*g[1]+1)))
	s.variances = s.means + driver.Ptr(padded(8*elements))
	return s
}

// elements is how many numbers of the parameter a position has.
func (s *sleeper) elements(q *param) int64 { return int64(q.Len() / (s.layer.Out.H * s.layer.Out.W)) }

// place brings the positions of grids to the device.
func (s *sleeper) place(grids ...sleep.Grid) {
	to, n := s.pieces.Int32s(), 0
	starts := make([]int32, 1, len(grids)+1)
	for _, g := range grids {
		for _, at := range g.Positions {
			to[n] = int32(at)
			n++
		}
		starts = append(starts, int32(n))
	}
	copy(to[n:], starts)
	s.queue.Upload(s.positions, s.pieces, 0, 4*int64(n))
	s.queue.Upload(s.starts, s.pieces, 4*int64(n), 4*int64(len(starts)))
}

// moments calls f with mean and variance of every element of a parameter over the positions of a grid.
func (s *sleeper) moments(q *param, g sleep.Grid, f func(element int, mean, variance float64)) {
	if s.err != nil {
		return
	}
	n := s.elements(q)
	s.place(g)
	s.launch("group_moments", kernels.Groups(n, 1), s.value(q), n, s.positions, s.starts, s.means, s.variances)
	means, variances := make([]float64, n), make([]float64, n)
	if s.note(s.downloadDoubles(means, s.means)) && s.note(s.downloadDoubles(variances, s.variances)) {
		for i, m := range means {
			f(i, m, variances[i])
		}
	}
}

func (s *sleeper) Measure(b sleep.Border) sleep.Stats {
	var all sleep.StatsSum
	inner := s.layer.Grids(sleep.BorderRests)
	for i, g := range s.layer.Grids(b) {
		if len(g.Positions) >= 2 {
			all.AddGroups(s.layer.Out.C)
			s.moments(s.params[0], g, func(_ int, mean, variance float64) { all.Add(mean, variance) })
		}
		if len(inner[i].Positions) >= 2 {
			s.moments(s.params[0], inner[i], func(_ int, mean, variance float64) { all.AddInner(mean, variance) })
		}
	}
	return all.Stats()
}

func (s *sleeper) Means(g sleep.Grid) []float64 {
	m := s.layer.Inputs()
	means := make([]float64, s.layer.Out.C*m)
	for _, q := range s.params {
		s.moments(q, g, func(i int, mean, _ float64) { means[s.input(q, i)] = mean })
	}
	return means
}

// input is the place of an element of a position among its neurons' inputs, (N, M), the bias last.
func (s *sleeper) input(q *param, element int) int {
	if q.Role == net.Bias {
		return element*s.layer.Inputs() + s.layer.K
	}
	return element/s.layer.K*s.layer.Inputs() + element%s.layer.K
}

// NonFinite finds a weight that is not finite.
func (s *sleeper) NonFinite() (position, channel int, found bool) {
	for _, q := range s.params {
		if s.err != nil {
			return 0, 0, false
		}
		s.queue.Set(s.outcome, 0, 4)
		s.finite(s.value(q), int64(q.Len()), "f32", 0)
		s.queue.Download(s.report, 0, s.outcome, 4)
		if !s.note(s.wait()) || s.report.Int32s()[0] == 0 {
			continue
		}
		v := make([]float32, q.Len())
		if !s.note(s.download(v, s.value(q))) {
			continue
		}
		for i, x := range v {
			if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
				neuron := i / (int(s.elements(q)) / s.layer.Out.C)
				return neuron / s.layer.Out.C, neuron % s.layer.Out.C, true
			}
		}
	}
	return 0, 0, false
}

// ShareAll sets the weights of every group of the grids to their mean, all grids in one launch.
func (s *sleeper) ShareAll(rule sleep.Rule, grids []sleep.Grid) (kept sleep.PreservationSum, bytes int64, done bool) {
	if _, ok := rule.(sleep.Instant); !ok {
		return kept, 0, false
	}
	kept, bytes = s.instant(grids)
	return kept, bytes, true
}

func (s *sleeper) instant(all []sleep.Grid) (kept sleep.PreservationSum, bytes int64) {
	var grids []sleep.Grid
	asleep := int64(0)
	for _, g := range all {
		if len(g.Positions) >= 2 { // otherwise there is nobody to share with
			grids = append(grids, g)
			asleep += int64(len(g.Positions))
		}
	}
	if len(grids) == 0 || s.err != nil {
		return kept, 0
	}
	s.place(grids...)
	for _, q := range s.params {
		n := s.elements(q)
		size, parts := kernels.Groups(n, len(grids)), driver.Ptr(0)
		if q.Role == net.Weight {
			parts = s.parts
		}
		s.launch("instant_sleep", size, s.value(q), n, s.positions, s.starts, parts)
		if parts != 0 {
			s.launch("sum_columns", kernels.SumColumns(3), parts, s.totals, int64(size.Grid[0]*size.Grid[1]), 3)
		}
		bytes += 2 * word * asleep * n
	}
	var totals [3]float64
	if s.note(s.downloadDoubles(totals[:], s.totals)) {
		kept.AddSums(totals[0], totals[1], totals[2])
	}
	return kept, bytes
}

func (s *sleeper) Share(t *sleep.Task) (kept sleep.PreservationSum, bytes int64) {
	if len(t.Positions) < 2 || s.err != nil {
		return kept, 0 // nobody to share with
	}
	if _, ok := t.Rule.(sleep.Instant); ok {
		return s.instant([]sleep.Grid{t.Grid})
	}
	before := s.Means(t.Grid)
	if s.err != nil {
		return kept, 0
	}
	switch t.Execution {
	case sleep.DenseMap, sleep.Factored:
		if s.maps == nil {
			s.maps = newMapper(s, t)
		}
		bytes = s.maps.run(t, before)
	default:
		bytes = s.byGroup(t)
	}
	s.moments(s.params[0], t.Grid, func(i int, after, _ float64) { kept.Add(before[s.input(s.params[0], i)], after) })
	return kept, bytes
}

// byGroup runs a task on the host, event by event or neuron by neuron, in float64 and rounded at the end: the definition.
func (s *sleeper) byGroup(t *sleep.Task) (bytes int64) {
	rows := make([][][]float32, len(s.params)) // by parameter and position of the grid
	for i, q := range s.params {
		n := s.elements(q)
		for _, at := range t.Positions {
			row := make([]float32, n)
			if !s.note(s.download(row, s.value(q)+driver.Ptr(4*n*int64(at)))) {
				return 0
			}
			rows[i] = append(rows[i], row)
		}
	}
	group := make([][]float64, len(t.Positions))
	for i := range group {
		group[i] = make([]float64, s.layer.Inputs())
	}
	eachOf := func(channel int, f func(w *float32, v *float64)) {
		for i, q := range s.params {
			per := int(s.elements(q)) / s.layer.Out.C
			for k, row := range rows[i] {
				for j := range per {
					f(&row[channel*per+j], &group[k][i*s.layer.K+j]) // the bias is the last input
				}
			}
		}
	}
	for channel := range s.layer.Out.C {
		eachOf(channel, func(w *float32, v *float64) { *v = float64(*w) })
		bytes += t.Run(group, channel, word)
		eachOf(channel, func(w *float32, v *float64) { *w = float32(*v) })
	}
	for i, q := range s.params {
		n := s.elements(q)
		for k, at := range t.Positions {
			s.note(s.upload(s.value(q)+driver.Ptr(4*n*int64(at)), rows[i][k]))
		}
	}
	return bytes
}
