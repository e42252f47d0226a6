package device

import (
	"sync"
	"time"
)

// Manual is a clock that stands still until a test moves it.
type Manual struct {
	mu     sync.Mutex
	wall   time.Time
	mono   time.Duration
	timers []timer
}

type timer struct {
	at time.Duration
	c  chan time.Time
}

// NewManual returns a clock that shows a wall time, with monotonic time 0.
func NewManual(wall time.Time) *Manual { return &Manual{wall: wall} }

func (m *Manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wall
}

func (m *Manual) Monotonic() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mono
}

func (m *Manual) After(d time.Duration) <-chan time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan time.Time, 1)
	if d <= 0 {
		c <- m.wall
	} else {
		m.timers = append(m.timers, timer{m.mono + d, c})
	}
	return c
}

// Advance lets time pass.
func (m *Manual) Advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall, m.mono = m.wall.Add(d), m.mono+d
	var later []timer
	for _, t := range m.timers {
		if t.at > m.mono {
			later = append(later, t)
		} else {
			t.c <- m.wall
		}
	}
	m.timers = later
}

// Jump sets the wall clock forward or back; no time passes.
func (m *Manual) Jump(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall = m.wall.Add(d)
}

// Waiting is the number of timers that have not fired.
func (m *Manual) Waiting() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.timers)
}

// fake is a value that is set while it is read.
type fake[T any] struct {
	mu    sync.Mutex
	value T
	err   error
	reads int
}

// Set makes the sensor work and show a value.
func (f *fake[T]) Set(v T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.value, f.err = v, nil
}

// Fail makes it fail; with an Absent it is not there.
func (f *fake[T]) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// Reads counts how often it was read.
func (f *fake[T]) Reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

func (f *fake[T]) read() (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.value, f.err
}

// FakeThermometer shows what it is set to; 0 °C at first.
type FakeThermometer struct{ fake[float64] }

func (f *FakeThermometer) Celsius() (float64, error) { return f.read() }

// FakeMeter shows what it is set to; 0 V and 0 A at first.
type FakeMeter struct{ fake[Power] }

func (f *FakeMeter) Read() (Power, error) { return f.read() }

// FakeLine is a line that is pressed and released by a test.
type FakeLine struct {
	mu     sync.Mutex
	active bool
	err    error
	out    edges
	closed bool
}

// Press changes the line at a time of the monotonic clock.
func (f *FakeLine) Press(active bool, at time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if active != f.active && f.out != nil && !f.closed {
		f.out.send(Edge{active, at})
	}
	f.active = active
}

// Fail makes Active fail; nil ends that.
func (f *FakeLine) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *FakeLine) Active() (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.active, f.err
}

func (f *FakeLine) Edges() <-chan Edge {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.out == nil {
		f.out = make(edges, edgeBacklog)
	}
	return f.out
}

func (f *FakeLine) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.out != nil && !f.closed {
		close(f.out)
	}
	f.closed = true
	return nil
}

// FakeLED remembers whether it is on.
type FakeLED struct{ fake[bool] }

// Set turns the light on or off, or fails as it was told to.
func (f *FakeLED) Set(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	f.value = on
	return nil
}

// On tells whether it is on.
func (f *FakeLED) On() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.value
}
