//go:build cuda && cgo && linux && amd64

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
)

// bench measures on one device.
type bench struct {
	device     *driver.Device
	queue      *driver.Queue
	start, end *driver.Event
	host       *driver.HostBuffer // through which arrays go
	rng        *rand.Rand
	small      bool
	rates      map[string]float64 // of ceilings, bytes or operations a second
	held       []driver.Ptr       // what the subject at hand has allocated
	product    *product           // whose operands there are
}

func newBench(d *driver.Device, seed uint64, small bool) (b *bench, err error) {
	b = &bench{device: d, small: small, rng: rand.New(rand.NewPCG(seed, 0)), rates: map[string]float64{}}
	if b.queue, err = d.Queue(); err != nil {
		return nil, err
	}
	if b.start, err = d.Event(); err != nil {
		return nil, err
	}
	if b.end, err = d.Event(); err != nil {
		return nil, err
	}
	b.host, err = d.Pinned(16 << 20)
	return b, err
}

// subject is a kernel at one size.
type subject struct {
	kernel, size string
	bytes, flop  float64 // that a launch must move and do at least
	arithmetic   string  // the ceiling of its operations; "" when it has none to speak of
	prepare      func() (job, error)
}

// job is a subject ready to be launched, on any of so many sets of arrays. Together they are larger than a cache, so
// that launches on one after the other find nothing there.
type job struct {
	sets   int
	launch func(set int)
	// worst is the largest error of one launch on set 0, as a share of its bound.
	worst func() (float64, error)
}

// cache is more than the last-level cache of any device: what the sets of a job together exceed, in bytes.
const cache = 256 << 20

// sets is how many sets of arrays of so many bytes a job needs.
func (b *bench) sets(bytes int64) int {
	if b.small {
		return 2
	}
	return int(cache/bytes) + 2
}

// measure launches a subject once, compares, and takes its time.
func (b *bench) measure(s subject) (row, error) {
	defer b.free()
	j, err := s.prepare()
	if err != nil {
		return row{}, err
	}
	j.launch(0)
	if err := b.queue.Synchronize(); err != nil {
		return row{}, err
	}
	worst, err := j.worst()
	if err != nil {
		return row{}, err
	}
	seconds, err := b.time(j)
	if err != nil {
		return row{}, err
	}
	least, binds := s.bytes/b.rates["copy"], "copy"
	if s.arithmetic != "" {
		if t := s.flop / b.rates[s.arithmetic]; t > least {
			least, binds = t, s.arithmetic
		}
	}
	return row{Kernel: s.kernel, Size: s.size, Worst: worst, Right: worst <= 1, MS: 1e3 * seconds, GBs: s.bytes / seconds * 1e-9,
		Share: least / seconds, Binds: binds}, nil
}

// time is the seconds of a launch: the median over some runs of a graph of launches, one set after the other.
func (b *bench) time(j job) (float64, error) {
	samples, least, most := 15, 3e-3, 1.0 // seconds: of one sample, of all together
	if b.small {
		samples, least = 3, 0
	}
	for launches := j.sets; ; {
		g, err := b.queue.Capture(func() {
			for i := range launches {
				j.launch(i % j.sets)
			}
		})
		if err != nil {
			return 0, err
		}
		var times []float64
		for i, spent := 0, 0.0; i <= samples && (i < 2 || spent < most); i++ { // the first warms up
			b.queue.Record(b.start)
			b.queue.Run(g)
			b.queue.Record(b.end)
			if err := b.queue.Synchronize(); err != nil {
				return 0, err
			}
			ms, err := b.end.Since(b.start)
			if err != nil {
				return 0, err
			}
			spent += 1e-3 * ms
			if i > 0 {
				times = append(times, 1e-3*ms)
			}
		}
		if err := g.Free(); err != nil {
			return 0, err
		}
		slices.Sort(times)
		median := times[len(times)/2]
		if !(median > 0) {
			return 0, errors.New("the device's clock stands still")
		}
		if median >= least || launches > 1<<14 {
			return median / float64(launches), nil
		}
		launches = int(float64(launches)*1.2*least/median) + 1
	}
}

// alloc allocates until the subject is measured.
func (b *bench) alloc(bytes int64) (driver.Ptr, error) {
	p, err := b.device.Alloc(bytes)
	if err == nil {
		b.held = append(b.held, p)
	}
	return p, err
}

func (b *bench) free() {
	for _, p := range b.held {
		b.device.Free(p) // a lost device frees nothing, and the error was told
	}
	b.held = nil
}

// floats are n random numbers between lo and hi.
func (b *bench) floats(n int64, lo, hi float32) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = lo + (hi-lo)*b.rng.Float32()
	}
	return v
}

// put allocates so many arrays with the same numbers.
func (b *bench) put(v []float32, copies int) ([]driver.Ptr, error) {
	var all []driver.Ptr
	for range copies {
		p, err := b.alloc(4 * int64(len(v)))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	room := b.host.Floats()
	for done := 0; done < len(v); done += len(room) {
		n := copy(room, v[done:])
		b.queue.Upload(all[0]+driver.Ptr(4*done), b.host, 0, 4*int64(n))
		if err := b.queue.Synchronize(); err != nil {
			return nil, err
		}
	}
	for _, p := range all[1:] {
		b.queue.Copy(p, all[0], 4*int64(len(v)))
	}
	return all, b.queue.Synchronize()
}

// putInts allocates an array of whole numbers.
func (b *bench) putInts(v []int32) (driver.Ptr, error) {
	p, err := b.alloc(4 * int64(len(v)))
	if err != nil {
		return 0, err
	}
	copy(b.host.Int32s(), v)
	b.queue.Upload(p, b.host, 0, 4*int64(len(v)))
	return p, b.queue.Synchronize()
}

// get reads an array.
func (b *bench) get(p driver.Ptr, n int64) ([]float32, error) {
	v := make([]float32, n)
	room := b.host.Floats()
	for done := int64(0); done < n; done += int64(len(room)) {
		part := min(n-done, int64(len(room)))
		b.queue.Download(b.host, 0, p+driver.Ptr(4*done), 4*part)
		if err := b.queue.Synchronize(); err != nil {
			return nil, err
		}
		copy(v[done:], room[:part])
	}
	return v, nil
}

// function is a kernel's launch of a size.
func (b *bench) function(name string, l kernels.Launch) (func(args ...any), error) {
	f, err := b.device.Function(name)
	if err != nil {
		return nil, err
	}
	grid, block := driver.Grid{X: l.Grid[0], Y: l.Grid[1], Z: l.Grid[2]}, driver.Block{X: l.Block[0], Y: l.Block[1], Z: l.Block[2]}
	return func(args ...any) { b.queue.Launch(f, grid, block, l.Shared, args...) }, nil
}

// ceiling is the most that the device does of something.
type ceiling struct {
	Name string  `json:"name"`
	Rate float64 `json:"rate"`
	Unit string  `json:"unit"`
}

// ceilings measures what the device reaches at most: bytes a second, read and written, and operations a second in
// float32 and in products of tiles, which devices before capability 8.0 have not.
func (b *bench) ceilings() ([]ceiling, error) {
	var all []ceiling
	add := func(name, unit string, scale, work float64, j job) error {
		seconds, err := b.time(j)
		if err != nil {
			return fmt.Errorf("ceiling %s: %w", name, err)
		}
		b.rates[name] = work / seconds
		all = append(all, ceiling{name, work / seconds * scale, unit})
		return nil
	}
	defer b.free()
	n := int64(1) << 26 // floats: 256 MB
	if b.small {
		n = 1 << 12
	}
	x, err := b.put(make([]float32, n), 2)
	if err != nil {
		return nil, err
	}
	wide := kernels.Elements(n)
	cp, err := b.function("copy", wide)
	if err != nil {
		return nil, err
	}
	scale, err := b.function("scale", wide)
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		add("copy", "GB/s", 1e-9, 8*float64(n), job{sets: 1, launch: func(int) { cp(x[0], x[1], n) }}),
		add("scale", "GB/s", 1e-9, 8*float64(n), job{sets: 1, launch: func(int) { scale(x[0], x[0], float32(1), n) }}))
	if err != nil {
		return nil, err
	}
	rounds, blocks := 4096, 2048
	if b.small {
		rounds, blocks = 2, 2
	}
	l := kernels.Launch{Grid: [3]int{blocks, 1, 1}, Block: [3]int{256, 1, 1}}
	threads := float64(blocks * 256)
	fma, err := b.function("ceiling_fma", l)
	if err != nil {
		return nil, err
	}
	err = add("fma", "TFLOP/s", 1e-12, 16*float64(rounds)*threads, job{sets: 1, launch: func(int) { fma(x[0], float32(0.5), float32(1), rounds) }})
	if err != nil || b.device.Info().Major < 8 {
		return all, err
	}
	for _, t := range []struct {
		name string
		k    float64 // factors of an element of a tile
	}{{"tf32", 8}, {"bf16", 16}} {
		f, err := b.function("ceiling_"+t.name, l)
		if err != nil {
			return nil, err
		}
		work := 4 * 2 * 16 * 16 * t.k * float64(rounds) * threads / 32
		if err := add(t.name, "TFLOP/s", 1e-12, work, job{sets: 1, launch: func(int) { f(x[0], rounds) }}); err != nil {
			return nil, err
		}
	}
	return all, nil
}
