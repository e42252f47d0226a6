package speed

import (
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"hypnos/backends/cpu"
)

// Row is one piece of work as it was measured. Bound is the least time at the machine's limits, from the exact
// multiply-adds, and Share what part of the time it is: 1 is a work done at the limit. The limits are those measured
// between the samples of the row, so that both are of the same moments: a machine may be twice as fast a second later.
type Row struct {
	Key
	Threads    int      `json:"threads"`
	MS         Spread   `json:"ms"`
	GFLOPS     float64  `json:"gflops,omitempty"` // of FLOP, 10^9 a second
	FLOP       float64  `json:"flop,omitempty"`   // 2·B·L·K·N and three times that with gradients, padding included
	MACs       float64  `json:"macs,omitempty"`   // multiply-adds on real inputs
	Bytes      float64  `json:"bytes"`            // that have to be moved, see Work
	GBs        float64  `json:"gb_s"`             // of Bytes
	ImagesPerS float64  `json:"images_per_s,omitempty"`
	BoundMS    Spread   `json:"bound_ms"`
	Binds      string   `json:"binds"`                // FMA or a kind of traffic
	Share      Spread   `json:"share"`                // sample by sample
	InCache    bool     `json:"fits_cache,omitempty"` // memory binds by the figures, but what is touched fits the last-level cache
	OneThread  *Speedup `json:"one_thread,omitempty"`
	OfStep     *OfStep  `json:"of_step,omitempty"`
}

// OfStep compares a Hebbian and an instant sleep with a training step, all three measured in alternation.
type OfStep struct {
	StepMS  Spread `json:"step_ms"`
	Ratio   Spread `json:"ratio"`         // Hebbian sleep / step, pair by pair
	Instant Spread `json:"instant_ratio"` // instant sleep / step
}

// Speedup compares with one thread, measured in alternation.
type Speedup struct {
	MS    Spread `json:"ms"`
	Ratio Spread `json:"ratio"` // time with one thread / time, pair by pair
}

// newRow does the arithmetic of a row. around are the limits measured before each of the samples.
func newRow(s *subject, k Key, threads int, seconds []float64, around []limits, cacheKB int64) Row {
	works := k.works(s.net)
	w := total(works)
	bounds := make([]float64, len(around))
	counts, binds := map[string]int{}, ""
	for i, l := range around {
		var by string
		bounds[i], by = bound(works, l)
		if counts[by]++; binds == "" || counts[by] > counts[binds] {
			binds = by
		}
	}
	t := spreadOf(seconds)
	r := Row{
		Key: k, Threads: threads, MS: t.times(1e3),
		FLOP: w.FLOP, MACs: w.MACs, GFLOPS: w.FLOP / t.Median / 1e9, Bytes: w.Bytes, GBs: w.Bytes / t.Median / 1e9,
		BoundMS: spreadOf(bounds).times(1e3), Binds: binds, Share: spreadOf(ratios(bounds, seconds)),
		InCache: binds != FMA && k.footprint(s.net) < float64(cacheKB)*1024,
	}
	if s.kind == Net && k.What != Hebbian {
		r.ImagesPerS = float64(k.Batch) / t.Median
	}
	return r
}

func (s Spread) times(factor float64) Spread {
	return Spread{Median: factor * s.Median, Min: factor * s.Min, Max: factor * s.Max, N: s.N}
}

// bench measures rows on one machine.
type bench struct {
	cpu     cpu.Options
	threads int
	loops   *loops
	all     limits // medians, with all threads
	budget  time.Duration
	machine Machine
}

// speedupBatch is the batch size from which on works bound by arithmetic are compared with one thread.
const speedupBatch = 64

// scales tells whether a row is to be compared with one thread.
func (b *bench) scales(s *subject, k Key) bool {
	if b.threads == 1 || k.Batch != speedupBatch || k.What == Hebbian {
		return false
	}
	_, binds := bound(k.works(s.net), b.all)
	return binds == FMA
}

// measure measures the subject's rows and hands each to done. What does not fit the memory is skipped, row by row, with
// the reason. full asks for the limits of the same moments and the speed-up over one thread.
func (b *bench) measure(ctx context.Context, s *subject, full bool, done func(Row), skip func(Skipped)) error {
	engines := 1
	for _, k := range s.keys {
		if full && b.scales(s, k) {
			engines = 2
		}
	}
	if need := s.memory(); !b.fits(need) {
		for _, k := range s.keys {
			skip(Skipped{k.String(), b.tooLarge(need)})
		}
		return nil
	} else if engines == 2 && !b.fits(2*need) {
		skip(Skipped{fmt.Sprintf("%s/%s with one thread", s.kind, s.layer), b.tooLarge(2 * need)})
		engines = 1
	}
	defer debug.FreeOSMemory() // the next subject, or a peer, may need it
	many, err := s.open(b.cpu)
	if err != nil {
		return err
	}
	defer many.close()
	var single *engine
	if engines == 2 {
		if single, err = s.open(cpu.Options{Threads: 1, Kernels: b.cpu.Kernels}); err != nil {
			return err
		}
		defer single.close()
	}
	for _, k := range s.keys {
		run := []*engine{many}
		if single != nil && b.scales(s, k) {
			run = append(run, single)
		}
		r, err := b.row(ctx, s, k, run, full)
		if err != nil {
			return err
		}
		done(r)
	}
	return nil
}

// row measures one row on an engine with all threads and perhaps one with a single one. Where the limits of the same
// moments are not asked for, those of the beginning stand for them.
func (b *bench) row(ctx context.Context, s *subject, k Key, engines []*engine, full bool) (Row, error) {
	var works []func()
	for _, e := range engines {
		work, err := e.prepare(ctx, k)
		if err != nil {
			return Row{}, err
		}
		works = append(works, work)
	}
	if k.What == Hebbian {
		for _, other := range []Key{{k.Kind, k.Layer, k.Batch, TrainStep}, {k.Kind, k.Layer, 0, Sleep}} {
			work, err := engines[0].prepare(ctx, other)
			if err != nil {
				return Row{}, err
			}
			works = append(works, work)
		}
	}
	n := len(works)
	var loads []load
	if full {
		loads = b.loads(k.works(s.net))
	}
	for _, l := range loads {
		works = append(works, l.call)
	}
	times, err := measure(ctx, b.budget, works...)
	for _, e := range engines {
		if err == nil {
			err = e.err
		}
	}
	if err != nil {
		return Row{}, err
	}
	around := make([]limits, len(times[0]))
	for i := range around {
		around[i] = maps.Clone(b.all)
		for j, l := range loads {
			around[i][l.what] = l.amount / times[n+j][i]
		}
	}
	r := newRow(s, k, b.threads, times[0], around, b.machine.CacheKB)
	if k.What == Hebbian {
		r.OfStep = &OfStep{spreadOf(times[1]).times(1e3), spreadOf(ratios(times[0], times[1])), spreadOf(ratios(times[2], times[1]))}
	}
	if len(engines) == 2 {
		r.OneThread = &Speedup{MS: spreadOf(times[1]).times(1e3), Ratio: spreadOf(ratios(times[1], times[0]))}
	}
	return r, nil
}

// load is a limit to measure beside a row.
type load struct {
	what   string
	call   func()
	amount float64
}

// loads are the limits that can bind works.
func (b *bench) loads(works []Work) []load {
	var all []load
	add := func(what string) {
		if !slices.ContainsFunc(all, func(l load) bool { return l.what == what }) {
			call, amount := b.loops.of(what, b.threads)
			all = append(all, load{what, call, amount})
		}
	}
	for _, w := range works {
		if w.MACs > 0 {
			add(FMA)
		}
		add(w.Traffic)
	}
	return all
}

// fits tells whether there is memory, with a tenth to spare. Where nobody knows how much there is, everything fits that
// is no more than a gigabyte.
func (b *bench) fits(bytes float64) bool {
	if b.machine.AvailableMB == 0 {
		return bytes <= 1<<30
	}
	return bytes <= 0.9*float64(b.machine.AvailableMB)*(1<<20)
}

func (b *bench) tooLarge(bytes float64) string {
	if b.machine.AvailableMB == 0 {
		return fmt.Sprintf("needs %.0f MB, and how much there is is unknown", bytes/(1<<20))
	}
	return fmt.Sprintf("needs %.0f MB, %d MB are free", bytes/(1<<20), b.machine.AvailableMB)
}
