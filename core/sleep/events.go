package sleep

import (
	"context"
	"fmt"
	"iter"

	"hypnos/core/rng"
)

// Event is one event of a phase.
type Event struct {
	Kind  EventKind
	Layer string
	// Of a Shown event:
	Grid     int       // index into Layer.Grids
	Number   int       // of the event in the grid's run, from 0
	X        []float64 // what the grid's neurons see, (g, B, M), canonical order of weights, bias last; valid until the next event
	Duration float64   // ms; 0 under a rule that knows no time
}

// EventKind says what happens.
type EventKind uint8

// The events of a phase, layer by layer: LayerBegins, then grid by grid the patterns, then LayerEnds.
const (
	LayerBegins EventKind = iota
	Shown
	LayerEnds
)

// Sequence is the phase as a sequence of events, in bounded memory: patterns are made when they are asked for. state
// gives the network's parameters, for sources that need them. The sequence ends at the first error.
func (s Stream) Sequence(state *State) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		work, err := s.Work(state.net)
		if err != nil {
			yield(Event{}, err)
			return
		}
		for _, w := range work {
			p, err := s.plan(w, state)
			if err != nil {
				yield(Event{}, err)
				return
			}
			if !yield(Event{Kind: LayerBegins, Layer: w.Name}, nil) {
				return
			}
			for i := w.First; i < w.End && p.events > 0; i++ {
				for e := range p.task(w.Grids[i], i).Events() {
					if !yield(e, nil) {
						return
					}
				}
			}
			if !yield(Event{Kind: LayerEnds, Layer: w.Name}, nil) {
				return
			}
		}
	}
}

// key is the generator's key for a layer in this phase, or, without a layer, for the phase.
func (s Stream) key(l *Layer) uint64 {
	k := rng.New(s.Seed, rng.SleepPattern, 0).Uint64(s.Phase)
	if l == nil {
		return k
	}
	return rng.New(k, rng.SleepPattern, 1).Uint64(uint64(l.Node))
}

// plan is one layer's part of a phase, ready to run: its rule with every number chosen, its patterns, and the maps
// that all its grids share. They are those of the tile; a grid's neurons see the tile from a corner of their own, so
// that its maps are the same ones with inputs in another order (Layer.Seen).
type plan struct {
	layer     Layer
	rule      Rule
	execution Execution
	events    int // T; 0 for rules without patterns
	batch     int // B
	key       uint64
	patterns  Patterns
	each      func(n int, f func(lo, hi int)) // of the host
	strength  Strength
	tiles     []float64           // (g, T·B, M), nil when there are too many to hold
	maps      [][2]Map            // by channel group: of deviations and of means
	shown     [][2][]presentation // a circuit's, likewise
}

// plastic are the rules that run on patterns.
type plastic interface {
	Rule
	Check() error
	forStrength(Strength) (Rule, error)
	evolve(m int) Evolution
}

// Evolution is a rule under way on groups whose neurons see the same M inputs: the maps so far, with which
//
//	w_i = mean·w̄(0) + deviation·(w_i(0) - w̄(0))
type Evolution interface {
	// Present shows the patterns of the next event, (B, M).
	Present(x []float64)
	// Maps returns the maps, which the next event may change.
	Maps() (deviation, mean Map)
}

// Evolve begins an evolution of a rule. The rule's rate must be set.
func Evolve(r Rule, m int) (Evolution, error) {
	p, ok := r.(plastic)
	if !ok {
		return nil, fmt.Errorf("sleep: rule %q has no evolution", r.Kind())
	}
	return p.evolve(m), p.Check()
}

// open opens the patterns of a layer, refuses a source that does not reach all its directions, and chooses the rule's
// rate. The layer is named in errors.
func (s Stream) open(l Layer, state *State) (Patterns, Strength, Rule, error) {
	fail := func(err error) (Patterns, Strength, Rule, error) {
		return nil, Strength{}, nil, fmt.Errorf("sleep: layer %q: %w", l.Name, err)
	}
	source := s.source()
	p, err := source.Open(PatternRequest{Layer: l, Key: s.key(&l), Phase: s.key(nil), State: state, Samples: true})
	if err != nil {
		return fail(fmt.Errorf("source %s: %w", source.Kind(), err))
	}
	strength := p.Strength()
	if strength.Rank < strength.Of {
		return fail(fmt.Errorf("source %s reaches only %d of %d directions", source.Kind(), strength.Rank, strength.Of))
	}
	rule, err := s.Rule.(plastic).forStrength(strength)
	if err != nil {
		return fail(fmt.Errorf("%s: %w", s.Rule.Kind(), err))
	}
	return p, strength, rule, nil
}

func (s Stream) source() PatternSource {
	if s.Source == nil {
		return Gaussian{}
	}
	return s.Source
}

// plan makes a layer's plan. Nothing is computed yet.
func (s Stream) plan(w Work, state *State) (*plan, error) {
	p := &plan{layer: w.Layer, rule: s.Rule, batch: 1, each: state.host.Each}
	if p.each == nil {
		p.each = func(n int, f func(lo, hi int)) { f(0, n) }
	}
	if _, ok := s.Rule.(plastic); !ok {
		return p, nil
	}
	var err error
	if p.patterns, p.strength, p.rule, err = s.open(w.Layer, state); err != nil {
		return nil, err
	}
	p.events, p.key = s.Events, s.key(&w.Layer)
	size := Size{M: w.Inputs(), Events: p.events, Batch: 1, Sets: w.Window.Groups, Steps: 1, WordBytes: state.host.Word}
	for _, g := range w.Grids {
		if len(g.Positions) > 1 {
			size.Neurons += len(g.Positions) * w.Out.C
		}
	}
	p.execution = s.Execution
	switch r := p.rule.(type) {
	case Hebbian:
		p.batch, size.Batch = r.Batch, r.Batch
		if r.Noise > 0 {
			if p.execution != Auto && p.execution != Direct {
				return nil, fmt.Errorf("sleep: hebbian: with noise every neuron's run is its own: execution %q cannot be, only %q", p.execution, Direct)
			}
			p.execution = Direct
		}
	case Circuit:
		size.Steps, _ = r.steps()
	}
	if p.execution == Auto {
		p.execution = size.Choose()
	}
	if need := size.Cost(p.execution).Memory; p.holdsAll() && need > forcedMemory {
		return nil, fmt.Errorf("sleep: layer %q: execution %q of %d events holds %.1f GB of patterns, allowed are %.1f GB", w.Name, p.execution, p.events, need/1e9, forcedMemory/1e9)
	}
	return p, nil
}

// holdsAll tells whether the execution needs all patterns together.
func (p *plan) holdsAll() bool { return p.execution == Streaming || p.execution == Factored }

// fill sets x, (g, B, M), to the patterns of event t as the tile has them.
func (p *plan) fill(x []float64, t int) {
	m, groups := p.layer.Inputs(), p.layer.Window.Groups
	if p.tiles != nil {
		for g := range groups {
			copy(x[g*p.batch*m:(g+1)*p.batch*m], p.tiles[(g*p.events+t)*p.batch*m:])
		}
		return
	}
	tile, parts := make([]float64, p.layer.TileLen()), make([]float64, groups*m)
	for b := range p.batch {
		bias := p.patterns.Tile(tile, uint64(t*p.batch+b))
		p.layer.split(parts, tile, bias)
		for g := range groups {
			copy(x[(g*p.batch+b)*m:][:m], parts[g*m:])
		}
	}
}

// set is the patterns of channel group g, (T·B, M).
func (p *plan) set(g int) []float64 {
	n := p.events * p.batch * p.layer.Inputs()
	return p.tiles[g*n : (g+1)*n]
}

// prepare computes what all grids of the layer share. When ctx ends it returns the context's error.
func (p *plan) prepare(ctx context.Context) error {
	if p.events == 0 {
		return nil
	}
	m, groups := p.layer.Inputs(), p.layer.Window.Groups
	if n := float64(groups) * float64(p.events) * float64(p.batch) * float64(m); 8*n <= patternMemory || p.holdsAll() {
		tiles := make([]float64, int(n))
		const together = 32 // events between two looks at ctx
		for first := 0; first < p.events; first += together {
			if err := ctx.Err(); err != nil {
				return err
			}
			p.each(min(together, p.events-first), func(lo, hi int) {
				x := make([]float64, groups*p.batch*m)
				for t := first + lo; t < first+hi; t++ {
					p.fill(x, t)
					for g := range groups {
						copy(tiles[(g*p.events+t)*p.batch*m:], x[g*p.batch*m:(g+1)*p.batch*m])
					}
				}
			})
		}
		p.tiles = tiles
	}
	switch p.execution {
	case Streaming:
		return p.present(ctx)
	case DenseMap, Factored:
		return p.mapping(ctx)
	}
	return nil
}

// present computes a circuit's presentations.
func (p *plan) present(ctx context.Context) error {
	c, ok := p.rule.(Circuit)
	if !ok {
		return nil
	}
	m := p.layer.Inputs()
	p.shown = make([][2][]presentation, p.layer.Window.Groups)
	for g := range p.shown {
		for t := range p.events {
			if err := ctx.Err(); err != nil {
				return err
			}
			x := p.set(g)[t*m : (t+1)*m]
			p.shown[g][0] = append(p.shown[g][0], c.presentation(t, dot(x, x), true))
			if !c.MeanPreserving {
				p.shown[g][1] = append(p.shown[g][1], c.presentation(t, dot(x, x), false))
			}
		}
	}
	return nil
}

// mapping computes the maps.
func (p *plan) mapping(ctx context.Context) error {
	m, groups := p.layer.Inputs(), p.layer.Window.Groups
	size := Size{M: m, Events: p.events, Batch: p.batch}
	p.maps = make([][2]Map, groups)
	if p.tiles == nil || p.execution == DenseMap && size.recurrence() < size.factors()+float64(p.events*p.batch*m*m) {
		return p.recur(ctx)
	}
	if err := p.present(ctx); err != nil {
		return err
	}
	for g := range p.maps {
		var err error
		x := p.set(g)
		switch r := p.rule.(type) {
		case Hebbian:
			if line, ok := lines(x, m); ok {
				p.maps[g][0] = r.diagonal(x, m, line)
			} else {
				p.maps[g][0], err = r.factors(x, m, p.each, ctx.Err)
			}
		case Circuit:
			if p.maps[g][0], err = r.factors(x, m, p.shown[g][0], ctx.Err); err == nil && !r.MeanPreserving {
				p.maps[g][1], err = r.factors(x, m, p.shown[g][1], ctx.Err)
			}
		}
		if err != nil {
			return err
		}
		if p.execution == DenseMap {
			for i, f := range p.maps[g] {
				if f.X != nil {
					p.maps[g][i] = f.dense(m)
				}
			}
		}
	}
	return nil
}

// recur computes the dense maps event by event.
func (p *plan) recur(ctx context.Context) error {
	m, groups := p.layer.Inputs(), p.layer.Window.Groups
	run := make([]Evolution, groups)
	for g := range run {
		run[g] = p.rule.(plastic).evolve(m)
	}
	x := make([]float64, groups*p.batch*m)
	for t := range p.events {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.fill(x, t)
		for g := range run {
			run[g].Present(x[g*p.batch*m : (g+1)*p.batch*m])
		}
	}
	for g := range run {
		p.maps[g][0], p.maps[g][1] = run[g].Maps()
	}
	return nil
}

func (p *plan) task(g Grid, index int) *Task {
	t := &Task{Grid: g, Index: index, Rule: p.rule, Execution: p.execution, plan: p}
	if p.events > 0 {
		t.seen = p.layer.Seen(g)
	}
	return t
}

// Task is what a phase does to one grid.
type Task struct {
	Grid
	Index     int  // into Layer.Grids
	Rule      Rule // with every number chosen for the layer
	Execution Execution
	plan      *plan
	seen      []int
	sets      [][]float64 // by channel group, what the grid's neurons see, (T·B, M)
	maps      []*[2]Map   // by channel group
}

// Len is T, the number of events; Batch is B, the patterns of each.
func (t *Task) Len() int { return t.plan.events }

// Events is the grid's run of events.
func (t *Task) Events() iter.Seq[Event] {
	return func(yield func(Event) bool) {
		p := t.plan
		m := p.layer.Inputs()
		tile := make([]float64, p.layer.Window.Groups*p.batch*m)
		x := make([]float64, len(tile))
		duration := 0.0
		if c, ok := p.rule.(Circuit); ok {
			duration = c.Presentation
		}
		for n := range p.events {
			p.fill(tile, n)
			for r := range len(x) / m {
				t.see(x[r*m:(r+1)*m], tile[r*m:(r+1)*m])
			}
			if !yield(Event{Shown, p.layer.Name, t.Index, n, x, duration}) {
				return
			}
		}
	}
}

func (t *Task) see(x, tile []float64) {
	for j, from := range t.seen {
		x[j] = tile[from]
	}
}

// Maps are the maps of channel group g for this grid's neurons, under DenseMap and Factored: the deviations' and the
// mean's, which is the identity but for a Circuit that does not preserve means. They are for reading only.
func (t *Task) Maps(g int) (deviation, mean Map) {
	if t.maps == nil {
		t.maps = make([]*[2]Map, len(t.plan.maps))
	}
	if t.maps[g] == nil {
		m := t.plan.maps[g]
		t.maps[g] = &[2]Map{m[0].seen(t.seen), m[1].seen(t.seen)}
	}
	return t.maps[g][0], t.maps[g][1]
}

// TileMaps are the maps of channel group g as all grids of the layer share them: what a grid's Maps call weight j they
// call weight Layer.Seen[j]. They are for reading only.
func (t *Task) TileMaps(g int) (deviation, mean Map) {
	return t.plan.maps[g][0], t.plan.maps[g][1]
}

// set is what the neurons of channel group g see, (T·B, M).
func (t *Task) set(g int) []float64 {
	if t.sets == nil {
		t.sets = make([][]float64, t.plan.layer.Window.Groups)
	}
	if t.sets[g] == nil {
		m, tiles := len(t.seen), t.plan.set(g)
		t.sets[g] = make([]float64, len(tiles))
		for r := range len(tiles) / m {
			t.see(t.sets[g][r*m:(r+1)*m], tiles[r*m:(r+1)*m])
		}
	}
	return t.sets[g]
}

// Run runs a task that has events on one group: w are the weights of channel n of the grid's N neurons, (N, M), the bias last.
// It returns the bytes read and written, words of the given size.
func (t *Task) Run(w [][]float64, n, word int) int64 {
	once := 2 * int64(word) * int64(len(w)) * int64(len(w[0]))
	g := n / (t.plan.layer.Out.C / t.plan.layer.Window.Groups)
	switch t.Execution {
	case Direct:
		t.direct(w, n, g)
		return once / 2 * 5 * int64(t.Len()) // weight and velocity in and out, start in
	case Streaming:
		t.stream(w, g)
	default:
		deviation, mean := t.Maps(g)
		applyMaps(w, deviation, mean)
	}
	return once
}

// direct runs event by event.
func (t *Task) direct(w [][]float64, n, g int) {
	m := len(t.seen)
	switch r := t.Rule.(type) {
	case Hebbian:
		d := r.direct(w)
		for e := range t.Events() {
			var noise func(b, i int, seen []float64)
			if r.Noise > 0 {
				noise = t.noise(r.Noise, n, e.Number)
			}
			d.present(e.Number, e.X[g*r.Batch*m:(g+1)*r.Batch*m], noise)
		}
	case Circuit:
		d := r.direct(w)
		for e := range t.Events() {
			d.present(e.Number, e.X[g*m:(g+1)*m])
		}
	}
}

// noise is what neuron i of channel n sees beside pattern b of an event: a function of seed, phase, layer, grid,
// channel, event, b and i.
func (t *Task) noise(sigma float64, n, event int) func(b, i int, seen []float64) {
	k := t.plan.layer.K
	key := rng.New(t.plan.key, rng.SleepNoise, uint64(t.Index)).Uint64(uint64(n))
	draws := make([]float64, k)
	return func(b, i int, seen []float64) {
		rng.New(key, rng.SleepNoise, uint64(event*t.plan.batch+b)).Normals(draws, uint64(i)*uint64(k+k%2))
		axpy(seen[:k], sigma, draws)
	}
}

// stream runs neuron by neuron.
func (t *Task) stream(w [][]float64, g int) {
	mean := meanOf(w)
	x, scratch := t.set(g), make([]float64, 3*len(mean))
	after := append([]float64(nil), mean...)
	if c, ok := t.Rule.(Circuit); ok && !c.MeanPreserving {
		c.stream(after, x, t.plan.shown[g][1], scratch)
	}
	for _, w := range w {
		axpy(w, -1, mean)
		switch r := t.Rule.(type) {
		case Hebbian:
			r.stream(w, x, scratch)
		case Circuit:
			r.stream(w, x, t.plan.shown[g][0], scratch)
		}
		axpy(w, 1, after)
	}
}

// applyMaps is w_i ← mean·w̄ + deviation·(w_i - w̄).
func applyMaps(w [][]float64, deviation, mean Map) {
	before := meanOf(w)
	scratch := make([]float64, max(len(before), len(deviation.X)/len(before), len(mean.X)/len(before)))
	after := append([]float64(nil), before...)
	mean.Apply(after, scratch)
	for _, w := range w {
		axpy(w, -1, before)
		deviation.Apply(w, scratch)
		axpy(w, 1, after)
	}
}

// meanOf is the mean row, computed around the first.
func meanOf(w [][]float64) []float64 {
	mean := make([]float64, len(w[0]))
	for _, row := range w {
		for j, v := range row {
			mean[j] += v - w[0][j]
		}
	}
	for j := range mean {
		mean[j] = w[0][j] + mean[j]/float64(len(w))
	}
	return mean
}

// rate is the rate that was chosen, 0 for a rule without.
func (p *plan) rate() float64 {
	switch r := p.rule.(type) {
	case Hebbian:
		return r.Rate.Base
	case Circuit:
		return r.Rate.Base
	}
	return 0
}
