package device

import (
	"context"
	"fmt"
	"sync"
	"time"

	"periph.io/x/conn/v3/gpio"
)

// settle is what debouncing knows of a line.
type settle struct {
	need    time.Duration // how long a change must last
	stable  bool          // level last reported
	pending bool          // the level differs from stable
	since   time.Duration // when it began to
}

// sample takes a level at a time; edge tells that it changed since the sample before, which may hide in two equal levels.
func (s *settle) sample(level, edge bool, at time.Duration) (Edge, bool) {
	if level == s.stable {
		s.pending = false
		return Edge{}, false
	}
	if !s.pending || edge {
		s.pending, s.since = true, at
	}
	if at-s.since < s.need {
		return Edge{}, false
	}
	s.stable, s.pending = level, false
	return Edge{level, s.since}, true
}

// left is how long a pending change must still last.
func (s *settle) left(at time.Duration) time.Duration { return s.need - (at - s.since) }

// edges delivers edges to whom it may concern, and drops the oldest when nobody takes them.
type edges chan Edge

func (c edges) send(e Edge) {
	for {
		select {
		case c <- e:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

// edgeBacklog is how many edges are kept for who does not receive.
const edgeBacklog = 16

// lookAgain is how long a line waits for an edge before it looks at the level, in case one was lost, and before it tries again
// after a failure.
const lookAgain = 500 * time.Millisecond

// pinLine is a GPIO line.
type pinLine struct {
	name  string
	pin   gpio.PinIn
	low   bool // active low
	pull  gpio.Pull
	poll  time.Duration // when above 0: look this often in place of waiting for edges
	clock Clock
	need  time.Duration

	mu     sync.Mutex
	ready  bool // the pin is an input
	err    error
	out    edges
	cancel context.CancelFunc
	done   chan struct{}
}

// prepare makes the pin an input.
func (l *pinLine) prepare() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ready {
		return nil
	}
	edge := gpio.BothEdges
	if l.poll > 0 {
		edge = gpio.NoEdge
	}
	if err := l.pin.In(l.pull, edge); err != nil {
		l.err = fmt.Errorf("%s: %w", l.name, err)
		return l.err
	}
	l.ready, l.err = true, nil
	return nil
}

func (l *pinLine) level() bool { return bool(l.pin.Read()) != l.low }

func (l *pinLine) Active() (bool, error) {
	if err := l.prepare(); err != nil {
		return false, err
	}
	return l.level(), nil
}

// Edges delivers what changes after it was first called.
func (l *pinLine) Edges() <-chan Edge {
	active, err := l.Active()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out == nil {
		ctx, cancel := context.WithCancel(context.Background())
		l.out, l.cancel, l.done = make(edges, edgeBacklog), cancel, make(chan struct{})
		go l.watch(ctx, active, err)
	}
	return l.out
}

// watch reports edges until the context is done. A pin that cannot be had is tried again.
func (l *pinLine) watch(ctx context.Context, active bool, err error) {
	defer close(l.done)
	defer close(l.out)
	for err != nil {
		select {
		case <-ctx.Done():
			return
		case <-l.clock.After(lookAgain):
		}
		active, err = l.Active()
	}
	s := settle{need: l.need, stable: active}
	for ctx.Err() == nil {
		wait := lookAgain
		if l.poll > 0 {
			wait = l.poll
		} else if s.pending {
			wait = max(s.left(l.clock.Monotonic()), time.Millisecond)
		}
		edge := l.pause(ctx, wait)
		if e, ok := s.sample(l.level(), edge, l.clock.Monotonic()); ok {
			l.out.send(e)
		}
	}
}

// pause waits for an edge, and tells whether there was one.
func (l *pinLine) pause(ctx context.Context, wait time.Duration) bool {
	if l.poll == 0 {
		start := time.Now()
		if l.pin.WaitForEdge(wait) {
			return true
		}
		if time.Since(start) >= wait/2 {
			return false
		}
		// It came back at once: halted, or the pin fails.
	}
	select {
	case <-ctx.Done():
	case <-l.clock.After(wait):
	}
	return false
}

// Close ends the delivery and gives the pin up.
func (l *pinLine) Close() error {
	l.mu.Lock()
	cancel, done := l.cancel, l.done
	l.cancel = nil
	l.mu.Unlock()
	if cancel != nil {
		cancel()
		if err := l.pin.Halt(); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		<-done
	}
	if c, ok := l.pin.(interface{ Close() }); ok {
		c.Close()
	}
	return nil
}

func (l *pinLine) String() string { return l.name }

// pinLED is a light on a GPIO line.
type pinLED struct {
	name string
	pin  gpio.PinOut
	low  bool
}

func (l *pinLED) Set(on bool) error {
	if err := l.pin.Out(gpio.Level(on != l.low)); err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	return nil
}

// Close gives the pin up.
func (l *pinLED) Close() error {
	if c, ok := l.pin.(interface{ Close() }); ok {
		c.Close()
	}
	return nil
}

func (l *pinLED) String() string { return l.name }
