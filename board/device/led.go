package device

import (
	"context"
	"sync"
	"time"
)

// Pattern is a light as a function of time.
type Pattern string

const (
	Off       Pattern = "off"
	Steady    Pattern = "steady"
	SlowBlink Pattern = "slow blink" // 1 s on, 1 s off
	Breath    Pattern = "breath"     // 0.1 s on every 4 s: off, but alive
)

// At tells whether the light is on at a time since the pattern began, and for how long it stays so.
func (p Pattern) At(t time.Duration) (on bool, hold time.Duration) {
	var lit, period time.Duration
	switch p {
	case Steady:
		return true, time.Hour
	case SlowBlink:
		lit, period = time.Second, 2*time.Second
	case Breath:
		lit, period = 100*time.Millisecond, 4*time.Second
	default:
		return false, time.Hour
	}
	if t %= period; t < lit {
		return true, lit - t
	}
	return false, period - t
}

// Blinker plays a pattern on a light.
type Blinker struct {
	led   LED
	clock Clock

	mu      sync.Mutex
	pattern Pattern
	since   time.Duration
	err     error
	changed chan struct{}
}

// NewBlinker returns one that shows Off.
func NewBlinker(led LED, clock Clock) *Blinker {
	return &Blinker{led: led, clock: clock, pattern: Off, since: clock.Monotonic(), changed: make(chan struct{}, 1)}
}

// Show changes the pattern.
func (b *Blinker) Show(p Pattern) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p == b.pattern {
		return
	}
	b.pattern, b.since = p, b.clock.Monotonic()
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// Err returns why the light was last not set; Absent when there is none.
func (b *Blinker) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// Run plays until the context is done, and then turns the light off.
func (b *Blinker) Run(ctx context.Context) {
	defer b.set(false)
	for {
		b.mu.Lock()
		on, hold := b.pattern.At(b.clock.Monotonic() - b.since)
		b.mu.Unlock()
		b.set(on)
		select {
		case <-ctx.Done():
			return
		case <-b.changed:
		case <-b.clock.After(hold):
		}
	}
}

func (b *Blinker) set(on bool) {
	err := b.led.Set(on)
	b.mu.Lock()
	b.err = err
	b.mu.Unlock()
}
