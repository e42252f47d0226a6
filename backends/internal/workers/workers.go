// Package workers runs loops on a fixed set of goroutines.
package workers

import (
	"fmt"
	"runtime"
	"sync/atomic"
)

// Count is the size of a pool for so many threads asked for: 0 means one a core; more than there are cores are cut, which
// the notes say.
func Count(threads int) (size int, notes []string, err error) {
	cores := runtime.GOMAXPROCS(0)
	switch {
	case threads < 0:
		return 0, nil, fmt.Errorf("%d threads are below 0", threads)
	case threads > cores:
		return cores, []string{fmt.Sprintf("%d threads asked for, cut to the %d cores", threads, cores)}, nil
	case threads == 0:
		return cores, nil, nil
	}
	return threads, nil, nil
}

// Pool is a set of goroutines that live until Close. A pool of one runs everything on the caller's goroutine.
//
// A network's layers are loops of some ten microseconds to milliseconds, one behind the other. To wake a sleeping thread
// takes as long as the short ones, above all on a virtual machine; so whoever waits here looks for a while before it
// sleeps.
type Pool struct {
	helpers []*helper // one less than the pool's size
	running atomic.Int32
	done    signal // running is 0
}

// Task does the part lo…hi-1 of a loop on behalf of a worker. Loops that are run often keep theirs, so that running them
// allocates nothing.
type Task func(worker, lo, hi int)

// helper is one goroutine and its next job.
type helper struct {
	worker int
	run    Task // nil ends the goroutine
	lo, hi int
	given  signal
}

// New starts a pool of the given size, at least 1, the caller's goroutine included.
func New(size int) *Pool {
	p := &Pool{}
	p.done.init()
	for w := 1; w < size; w++ {
		h := &helper{worker: w}
		h.given.init()
		p.helpers = append(p.helpers, h)
		go p.serve(h)
	}
	return p
}

func (p *Pool) serve(h *helper) {
	for {
		h.given.wait()
		if h.run == nil {
			return
		}
		h.run(h.worker, h.lo, h.hi)
		if p.running.Add(-1) == 0 {
			p.done.send()
		}
	}
}

// Size is the number of workers.
func (p *Pool) Size() int { return len(p.helpers) + 1 }

// Run calls run for contiguous parts of 0…n-1, one a worker, and waits for all. The partition depends on n and the
// pool's size alone, so that a worker meets the same locations, and their weights in its cache, at every step. It is
// for one caller at a time.
func (p *Pool) Run(n int, run Task) {
	size := p.Size()
	if size == 1 || n < 2 {
		run(0, 0, n)
		return
	}
	p.running.Store(int32(min(n, size) - min(1, n/size))) // those with a part, but for the caller where it has one
	for _, h := range p.helpers {
		lo, hi := n*h.worker/size, n*(h.worker+1)/size
		if lo == hi {
			continue
		}
		h.run, h.lo, h.hi = run, lo, hi
		h.given.send()
	}
	run(0, 0, n/size)
	p.done.wait()
}

// Close ends the goroutines.
func (p *Pool) Close() {
	for _, h := range p.helpers {
		h.run = nil
		h.given.send()
	}
	p.helpers = nil
}

// signal is sent by one goroutine and waited for by another, in turns. What the sender wrote before, the other sees.
type signal struct {
	state atomic.Int32
	wake  chan struct{}
	_     [48]byte // a cache line of its own
}

// states of a signal.
const (
	quiet    int32 = iota // neither sent nor waited for
	sent                  // and not taken
	sleeping              // waited for, on the channel
)

// looks is how often the signal is looked at before sleeping: for some hundred microseconds, which is what it takes to
// wake a thread of a virtual machine.
const looks = 1 << 18

func (s *signal) init() { s.wake = make(chan struct{}, 1) }

func (s *signal) send() {
	if s.state.Swap(sent) == sleeping {
		s.state.Store(quiet)
		s.wake <- struct{}{}
	}
}

func (s *signal) wait() {
	for range looks {
		if s.state.Load() == sent {
			s.state.Store(quiet)
			return
		}
	}
	if s.state.CompareAndSwap(quiet, sleeping) {
		<-s.wake
		return
	}
	s.state.Store(quiet) // it was sent just now
}
