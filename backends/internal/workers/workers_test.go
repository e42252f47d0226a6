package workers

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// part is what one call was given.
type part struct{ worker, lo, hi int }

// parts runs a loop of n and returns the calls, in the order of the workers. Counts are kept without a lock: the race
// detector sees it if Run returns before all are done, or two workers get one index.
func parts(t *testing.T, p *Pool, n int) []part {
	t.Helper()
	times := make([]int, n)
	var lock sync.Mutex
	var calls []part
	p.Run(n, func(worker, lo, hi int) {
		for i := lo; i < hi; i++ {
			times[i]++
		}
		lock.Lock()
		defer lock.Unlock()
		calls = append(calls, part{worker, lo, hi})
	})
	for i, k := range times {
		if k != 1 {
			t.Errorf("%d workers, loop of %d: index %d was done %d times", p.Size(), n, i, k)
		}
	}
	slices.SortFunc(calls, func(a, b part) int { return a.worker - b.worker })
	return calls
}

// Every index is done once, in contiguous parts whose lengths differ by at most one, in the order of the workers, no
// worker twice: also where there are more workers than indexes. A second loop is cut in the same way.
func TestRun(t *testing.T) {
	loops := 0
	for _, size := range []int{1, 2, 3, 7, 16, 61} {
		p := New(size)
		defer p.Close()
		if p.Size() != size {
			t.Errorf("a pool of %d has %d workers", size, p.Size())
		}
		for _, n := range []int{0, 1, 2, 3, 6, 7, 8, 15, 16, 17, 60, 61, 62, 1000, 4099} {
			loops++
			name := fmt.Sprintf("%d workers, loop of %d", size, n)
			calls := parts(t, p, n)
			next, worker := 0, -1
			for _, c := range calls {
				if c.worker <= worker || c.worker >= size || c.lo != next || c.hi < c.lo {
					t.Errorf("%s: calls %v", name, calls)
				}
				if length := c.hi - c.lo; n >= 2 && (length < n/size || length > (n+size-1)/size) {
					t.Errorf("%s: worker %d has %d indexes", name, c.worker, length)
				}
				next, worker = c.hi, c.worker
			}
			if again := parts(t, p, n); !slices.Equal(calls, again) {
				t.Errorf("%s: calls %v, then %v", name, calls, again)
			}
		}
	}
	if loops != 6*15 {
		t.Errorf("%d loops", loops)
	}
}

// All workers of a pool run at one time: each waits for the others, and one after the other would wait forever.
func TestRunsConcurrently(t *testing.T) {
	const size = 5
	p := New(size)
	defer p.Close()
	var all sync.WaitGroup
	all.Add(size)
	p.Run(size, func(_, _, _ int) {
		all.Done()
		all.Wait()
	})
}

// helpers counts the goroutines that pools started.
func helpers() int {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return strings.Count(string(stacks), "created by hypnos/backends/internal/workers.New ")
}

// ended fails when goroutines are left. They end in their own time once their channel is closed; the deadline is far
// off and for failure only.
func ended(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); helpers() > 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left", helpers())
		}
	}
}

// A pool's size counts the caller, so that a pool of one starts no goroutine. Closing ends them all; a closed pool
// still works, on the caller's goroutine, and closing it again does nothing.
func TestClose(t *testing.T) {
	ended(t) // those of other tests
	for _, size := range []int{1, 2, 9} {
		p := New(size)
		if n := helpers(); n != size-1 {
			t.Errorf("a pool of %d started %d goroutines", size, n)
		}
		parts(t, p, 100)
		p.Close()
		p.Close()
		ended(t)
		if calls := parts(t, p, 10); !slices.Equal(calls, []part{{0, 0, 10}}) {
			t.Errorf("a closed pool of %d calls %v", size, calls)
		}
	}
}
