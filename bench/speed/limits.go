package speed

import (
	"context"
	"slices"
	"sync"
	"time"

	"hypnos/backends/cpu"
)

// Limit is one of the machine's limits.
type Limit struct {
	What    string `json:"what"` // FMA, or one of the kinds of traffic
	Threads int    `json:"threads"`
	Unit    string `json:"unit"` // GFLOP/s or GB/s, 10^9
	Rate    Spread `json:"rate"`
	Bytes   int64  `json:"buffer_bytes,omitempty"` // size of each buffer
}

// What binds: the peak of multiply-adds, or memory with one of three kinds of traffic. Bandwidth counts the bytes that
// the program reads and writes, not the lines that ordinary stores fetch first.
const (
	FMA    = "FMA"
	Read   = "read"   // a sum
	Copy   = "copy"   // ordinary stores
	Stream = "stream" // a copy with stores past the caches, for comparison: nothing is bound by it
	Scale  = "scale"  // in place
)

// limitTime is how long each limit is measured.
const limitTime = 400 * time.Millisecond

// bufferBytes is the size of each of the two buffers of the bandwidth measurements: 512 MB, far more than caches
// hold, or an eighth of the memory that is available where that is less or the address space is small.
func bufferBytes(availableMB int64) int64 {
	mb := int64(512)
	if availableMB > 0 {
		mb = min(mb, availableMB/8)
	}
	if ^uint(0)>>32 == 0 {
		mb = min(mb, 64)
	}
	return max(mb, 1) << 20
}

// loops are the machine's limits as loops, on buffers of their own.
type loops struct {
	all   []loop
	n     int   // floats of each buffer
	bytes int64 // the same in bytes
	free  func()
}

// loop loads one limit.
type loop struct {
	what   string
	amount float64 // of a call: by a thread for FMA, by all together for memory
	run    func(lo, hi int)
}

// openLoops allocates buffers of so many bytes each.
func openLoops(l cpu.Limits, bytes int64) (*loops, error) {
	const float = 4
	n := int(bytes / float / chunk * chunk)
	a, b, free, err := buffers(n)
	if err != nil {
		return nil, err
	}
	for i := range a { // every page gets memory of its own
		a[i], b[i] = 1, 1
	}
	const rounds = 200_000
	m := &loops{n: n, bytes: bytes, free: free}
	m.all = []loop{
		{FMA, float64(l.Flop) * rounds, func(int, int) { x := [16]float32{1, 1e-9}; l.FMA(&x, rounds) }},
		{Read, float * float64(n), func(lo, hi int) { l.Read(a[lo:hi]) }},
		{Copy, 2 * float * float64(n), func(lo, hi int) { l.Copy(b[lo:hi], a[lo:hi]) }},
		{Scale, 2 * float * float64(n), func(lo, hi int) { l.Scale(a[lo:hi], 1.0000001) }},
	}
	if l.Stream != nil {
		m.all = slices.Insert(m.all, 3, loop{Stream, 2 * float * float64(n), func(lo, hi int) { l.Stream(b[lo:hi], a[lo:hi]) }})
	}
	return m, nil
}

// of is the loop of one of the limits, on so many threads, and what a call does, in operations or bytes.
func (m *loops) of(what string, threads int) (call func(), amount float64) {
	l := m.all[slices.IndexFunc(m.all, func(l loop) bool { return l.what == what })]
	if what == FMA {
		l.amount *= float64(threads)
	}
	return func() { parallel(threads, m.n, l.run) }, l.amount
}

// measure measures all limits with each of the numbers of threads, in alternation.
func (m *loops) measure(ctx context.Context, threads []int, budget time.Duration) ([]Limit, error) {
	var limits []Limit
	for _, k := range m.all {
		runs, amounts := make([]func(), len(threads)), make([]float64, len(threads))
		for i, t := range threads {
			runs[i], amounts[i] = m.of(k.what, t)
		}
		times, err := measure(ctx, budget, runs...)
		if err != nil {
			return nil, err
		}
		for i, t := range threads {
			limit := Limit{What: k.what, Threads: t, Unit: "GB/s", Rate: spreadOf(times[i]).per(amounts[i] / 1e9), Bytes: m.bytes}
			if k.what == FMA {
				limit.Unit, limit.Bytes = "GFLOP/s", 0
			}
			limits = append(limits, limit)
		}
	}
	return limits, nil
}

// chunk is what threads' parts of a buffer are multiples of, in floats: a page, and a block of the loops.
const chunk = 1024

// parallel calls run for equal parts of 0…n-1, one a thread.
func parallel(threads, n int, run func(lo, hi int)) {
	var wait sync.WaitGroup
	for t := range threads {
		wait.Go(func() { run(n/chunk*t/threads*chunk, n/chunk*(t+1)/threads*chunk) })
	}
	wait.Wait()
}

// limits are rates by what binds, for one number of threads, in operations and bytes a second.
type limits map[string]float64

// limitsFor are the medians.
func limitsFor(all []Limit, threads int) limits {
	l := limits{}
	for _, m := range all {
		if m.Threads == threads {
			l[m.What] = m.Rate.Median * 1e9
		}
	}
	return l
}
