package device

import (
	"context"
	"sync"
	"time"
)

// Poller reads a sensor again and again. After a failure it waits twice as long each time, up to Slowest.
type Poller[T any] struct {
	Read    func() (T, error)
	Every   time.Duration // between two polls of a sensor that works
	Slowest time.Duration // between two polls of one that does not; at least Every
	Clock   Clock
	Changed func(Reading[T]) // when set, called after each poll

	mu    sync.Mutex
	last  Reading[T]
	fails uint
}

// Last returns what is known.
func (p *Poller[T]) Last() Reading[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// Poll reads the sensor now and returns how long to wait before the next poll.
func (p *Poller[T]) Poll() time.Duration {
	value, err := p.Read()
	p.mu.Lock()
	p.last = p.last.after(value, err, p.Clock.Monotonic())
	wait := p.Every
	if err == nil {
		p.fails = 0
	} else {
		for i := uint(0); i < p.fails && wait < p.Slowest; i++ {
			wait *= 2
		}
		p.fails++
		wait = max(p.Every, min(wait, p.Slowest))
	}
	last := p.last
	p.mu.Unlock()
	if p.Changed != nil {
		p.Changed(last)
	}
	return wait
}

// Run polls until the context is done.
func (p *Poller[T]) Run(ctx context.Context) {
	for {
		wait := p.Poll()
		select {
		case <-ctx.Done():
			return
		case <-p.Clock.After(wait):
		}
	}
}
