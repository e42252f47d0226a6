package speed

import (
	"context"
	"fmt"
	"runtime/debug"
	"time"

	"hypnos/backends/cpu"
)

// Row is one piece of work as it was measured. Bound is the least time at the machine's limits, from the exact
// multiply-adds, and Share what part of the median time it is: 1 is a work done at the limit.
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
	BoundMS    float64  `json:"bound_ms"`
	Binds      string   `json:"binds"` // FMA or a kind of traffic
	Share      float64  `json:"share"`
	InCache    bool     `json:"fits_cache,omitempty"` // memory binds by the figures, but what is touched fits the last-level cache
	OneThread  *Speedup `json:"one_thread,omitempty"`
}

// Speedup compares with one thread, measured in alternation.
type Speedup struct {
	MS    Spread `json:"ms"`
	Ratio Spread `json:"ratio"` // time with one thread / time, pair by pair
}

// newRow does the arithmetic of a row.
func newRow(s *subject, k Key, threads int, seconds []float64, l limits, cacheKB int64) Row {
	works := k.works(s.net)
	w := total(works)
	least, binds := bound(works, l)
	t := spreadOf(seconds)
	r := Row{
		Key: k, Threads: threads, MS: t.times(1e3),
		FLOP: w.FLOP, MACs: w.MACs, GFLOPS: w.FLOP / t.Median / 1e9, Bytes: w.Bytes, GBs: w.Bytes / t.Median / 1e9,
		BoundMS: 1e3 * least, Binds: binds, Share: least / t.Median,
		InCache: binds != FMA && k.footprint(s.net) < float64(cacheKB)*1024,
	}
	if s.kind == Net {
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
	all     limits // with all threads
	budget  time.Duration
	machine Machine
}

// speedupBatch is the batch size from which on works bound by arithmetic are compared with one thread.
const speedupBatch = 64

// scales tells whether a row is to be compared with one thread.
func (b *bench) scales(s *subject, k Key) bool {
	if b.threads == 1 || k.Batch != speedupBatch {
		return false
	}
	_, binds := bound(k.works(s.net), b.all)
	return binds == FMA
}

// measure measures the subject's rows and hands each to done. What does not fit the memory is skipped, row by row, with
// the reason. compare asks for the speed-up over one thread.
func (b *bench) measure(ctx context.Context, s *subject, compare bool, done func(Row), skip func(Skipped)) error {
	engines := 1
	for _, k := range s.keys {
		if compare && b.scales(s, k) {
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
		r, err := b.row(ctx, s, k, run)
		if err != nil {
			return err
		}
		done(r)
	}
	return nil
}

// row measures one row on an engine with all threads and perhaps one with a single one.
func (b *bench) row(ctx context.Context, s *subject, k Key, engines []*engine) (Row, error) {
	var works []func()
	for _, e := range engines {
		work, err := e.prepare(ctx, k)
		if err != nil {
			return Row{}, err
		}
		works = append(works, work)
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
	r := newRow(s, k, b.threads, times[0], b.all, b.machine.CacheKB)
	if len(engines) == 2 {
		r.OneThread = &Speedup{MS: spreadOf(times[1]).times(1e3), Ratio: spreadOf(ratios(times[1], times[0]))}
	}
	return r, nil
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
