// Package workers runs loops on a fixed set of goroutines.
package workers

import "sync"

// Pool is a set of goroutines that live until Close. A pool of one runs everything on the caller's goroutine.
type Pool struct {
	size int
	jobs []chan job // one a helper, size-1 of them
	done sync.WaitGroup
}

type job struct {
	run    func(worker, lo, hi int)
	worker int
	lo, hi int
}

// New starts a pool of the given size, at least 1, the caller's goroutine included.
func New(size int) *Pool {
	p := &Pool{size: size, jobs: make([]chan job, size-1)}
	for i := range p.jobs {
		jobs := make(chan job)
		p.jobs[i] = jobs
		go func() {
			for j := range jobs {
				j.run(j.worker, j.lo, j.hi)
				p.done.Done()
			}
		}()
	}
	return p
}

// Size is the number of workers.
func (p *Pool) Size() int { return p.size }

// Run calls run for contiguous parts of 0…n-1, one a worker, and waits for all. The partition depends on n and the
// pool's size alone, so that a worker meets the same locations, and their weights in its cache, at every step. It is
// for one caller at a time.
func (p *Pool) Run(n int, run func(worker, lo, hi int)) {
	if p.size == 1 || n < 2 {
		run(0, 0, n)
		return
	}
	for w := 1; w < p.size; w++ {
		lo, hi := n*w/p.size, n*(w+1)/p.size
		if lo == hi {
			continue
		}
		p.done.Add(1)
		p.jobs[w-1] <- job{run, w, lo, hi}
	}
	run(0, 0, n/p.size)
	p.done.Wait()
}

// Close ends the goroutines.
func (p *Pool) Close() {
	for _, c := range p.jobs {
		close(c)
	}
	p.jobs = nil
	p.size = 1
}
