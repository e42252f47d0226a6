package speed

import (
	"context"
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

// measureLimits measures all limits with each of the numbers of threads, in alternation.
func measureLimits(ctx context.Context, l cpu.Limits, threads []int, bytes int64, budget time.Duration) ([]Limit, error) {
	const float = 4
	n := int(bytes / float / chunk * chunk)
	a, b, free, err := buffers(n)
	if err != nil {
		return nil, err
	}
	defer free()
	for i := range a { // every page gets memory of its own
		a[i], b[i] = 1, 1
	}
	const rounds = 200_000
	kinds := []struct {
		what   string
		amount float64 // by a thread for FMA, by all together for memory
		run    func(lo, hi int)
	}{
		{FMA, float64(l.Flop) * rounds, func(int, int) { x := [16]float32{1, 1e-9}; l.FMA(&x, rounds) }},
		{Read, float * float64(n), func(lo, hi int) { l.Read(a[lo:hi]) }},
		{Copy, 2 * float * float64(n), func(lo, hi int) { l.Copy(b[lo:hi], a[lo:hi]) }},
		{Stream, 2 * float * float64(n), func(lo, hi int) { l.Stream(b[lo:hi], a[lo:hi]) }},
		{Scale, 2 * float * float64(n), func(lo, hi int) { l.Scale(a[lo:hi], 1.0000001) }},
	}
	var limits []Limit
	for _, k := range kinds {
		if k.what == Stream && l.Stream == nil {
			continue
		}
		var runs []func()
		for _, t := range threads {
			runs = append(runs, func() { parallel(t, n, k.run) })
		}
		times, err := measure(ctx, budget, runs...)
		if err != nil {
			return nil, err
		}
		for i, t := range threads {
			m := Limit{What: k.what, Threads: t, Unit: "GB/s", Rate: spreadOf(times[i]).per(k.amount / 1e9), Bytes: bytes}
			if k.what == FMA {
				m.Unit, m.Bytes, m.Rate = "GFLOP/s", 0, spreadOf(times[i]).per(k.amount*float64(t)/1e9)
			}
			limits = append(limits, m)
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

// limits are the medians by which rows are judged: by what binds, for one number of threads, in operations and bytes a
// second.
type limits map[string]float64

func limitsFor(all []Limit, threads int) limits {
	l := limits{}
	for _, m := range all {
		if m.Threads == threads {
			l[m.What] = m.Rate.Median * 1e9
		}
	}
	return l
}
