// Package device is what the daemon needs of a board: temperature, supply, two input lines, a light, a clock and free space.
//
// What a board lacks is Absent, with the reason, and no failure; what fails is reported and polled again (Poller).
package device

import (
	"errors"
	"fmt"
	"time"
)

// Absent is the error of a device that is not there. It says why: "/dev/i2c-1 does not exist".
type Absent string

func (a Absent) Error() string { return "absent, because " + string(a) }

// Thermometer measures a temperature.
type Thermometer interface {
	// Celsius returns °C. The error is Absent when there is no sensor, any other when it fails.
	Celsius() (float64, error)
}

// Power is a supply: volts at the load's side, amperes into the load.
type Power struct {
	Volts   float64 `json:"volts"`
	Amperes float64 `json:"amperes"`
}

// PowerMeter measures the supply.
type PowerMeter interface {
	// Read returns volts and amperes. The error is Absent when there is no sensor, any other when it fails.
	Read() (Power, error)
}

// Edge is a change of a line that lasted as long as its debouncing demands.
type Edge struct {
	Active bool          // what the line became
	At     time.Duration // of the monotonic clock, when it changed
}

// Line is an input: a button, or a pin of another board.
type Line interface {
	// Active tells whether the line is asserted now.
	Active() (bool, error)
	// Edges delivers the changes from the first call on. It drops the oldest ones when nobody receives, and is closed by Close.
	// A line that is absent delivers none.
	Edges() <-chan Edge
	// Close stops the delivery.
	Close() error
}

// LED is a light. A pattern is played by Blink.
type LED interface {
	Set(on bool) error
}

// Clock is the time: wall time, which may jump, and time since an arbitrary start, which only grows.
type Clock interface {
	Now() time.Time
	Monotonic() time.Duration
	// After delivers once, d of the monotonic clock from now.
	After(d time.Duration) <-chan time.Time
}

// Reading is what is known of a sensor: its last value, and why there is no newer one.
type Reading[T any] struct {
	Value  T             // of the last success
	At     time.Duration // of the monotonic clock, when Value was read; meaningful when Known
	Known  bool          // there was a success
	Err    error         // the last poll failed
	Absent string        // there is no such sensor, because …
}

// OK tells whether Value is of the last poll.
func (r Reading[T]) OK() bool { return r.Known && r.Err == nil && r.Absent == "" }

// Why says what is wrong; it is empty when OK.
func (r Reading[T]) Why() string {
	switch {
	case r.Absent != "":
		return Absent(r.Absent).Error()
	case r.Err != nil:
		return r.Err.Error()
	case !r.Known:
		return "not read yet"
	}
	return ""
}

// after is what is known after a poll.
func (r Reading[T]) after(value T, err error, at time.Duration) Reading[T] {
	var absent Absent
	switch {
	case err == nil:
		return Reading[T]{Value: value, At: at, Known: true}
	case errors.As(err, &absent):
		return Reading[T]{Absent: string(absent)}
	}
	r.Err, r.Absent = err, ""
	return r
}

// Set is the devices of a board. None is nil: what is not there is of the type None.
type Set struct {
	Temperature Thermometer
	Power       PowerMeter
	Wake        Line // wakes the network when it becomes active
	Sleep       Line // asks for sleep when it becomes active
	LED         LED
	Clock       Clock
}

// Close gives up what is held: lines, buses.
func (s *Set) Close() error {
	var errs []error
	for _, d := range []any{s.Temperature, s.Power, s.Wake, s.Sleep, s.LED} {
		if c, ok := d.(interface{ Close() error }); ok {
			errs = append(errs, c.Close())
		}
	}
	return join(errs...)
}

// join makes one error of several, on one line.
func join(errs ...error) (joined error) {
	for _, err := range errs {
		switch {
		case err == nil:
		case joined == nil:
			joined = err
		default:
			joined = fmt.Errorf("%w; %w", joined, err)
		}
	}
	return joined
}

// None is any device that is not there, because of its text.
type None string

func (n None) Celsius() (float64, error) { return 0, Absent(n) }
func (n None) Read() (Power, error)      { return Power{}, Absent(n) }
func (n None) Active() (bool, error)     { return false, Absent(n) }
func (n None) Edges() <-chan Edge        { return nil }
func (n None) Set(bool) error            { return Absent(n) }
func (n None) Close() error              { return nil }
func (n None) String() string            { return Absent(n).Error() }

// System is the machine's own clock. Its monotonic time starts when it is made.
type System struct{ start time.Time }

// NewSystem starts a clock.
func NewSystem() System { return System{time.Now()} }

func (System) Now() time.Time                         { return time.Now() }
func (s System) Monotonic() time.Duration             { return time.Since(s.start) }
func (System) After(d time.Duration) <-chan time.Time { return time.After(d) }
