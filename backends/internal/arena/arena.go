// Package arena holds an engine's large arrays in one piece of memory of a size that is known beforehand.
//
// The piece lies outside of the garbage collector's heap, which else would wait until as much garbage had gathered as an
// engine is large, and on Linux in huge pages where the kernel grants them: weights of hundreds of megabytes that are
// read once a pass otherwise cost a page walk every four kilobytes.
package arena

import (
	"fmt"
	"unsafe"
)

// line is the number of floats in a cache line, on which every array begins.
const line = 16

// Padded is the number of floats that an array of n takes.
func Padded[T int | int64](n T) T { return (n + line - 1) / line * line }

// Arena is a piece of memory from which arrays are taken one after the other.
type Arena struct {
	rest    []float32
	release func() error
}

// New returns an arena of so many floats, all 0.
func New(floats int) (*Arena, error) {
	memory, release, err := allocate(floats)
	if err != nil {
		return nil, fmt.Errorf("arena: %d bytes: %w", 4*int64(floats), err)
	}
	return &Arena{memory, release}, nil
}

// Floats takes an array of n, which are 0. The arena must have been made large enough.
func (a *Arena) Floats(n int) []float32 {
	size := Padded(n)
	if size > len(a.rest) {
		panic("arena: more taken than planned")
	}
	taken := a.rest[:n:n]
	a.rest = a.rest[size:]
	return taken
}

// Left is the number of floats that have not been taken.
func (a *Arena) Left() int { return len(a.rest) }

// Close gives the memory back. The arrays must not be used afterwards.
func (a *Arena) Close() error {
	a.rest = nil
	release := a.release
	a.release = func() error { return nil }
	return release()
}

// LeastMapped is the length from which Int16s maps memory: a huge page. Less is taken from the heap, since a mapping takes a
// huge page of addresses more than it holds, and these end on 32 bits.
const LeastMapped = 1 << 20

// Int16s is an array of n, all 0, in memory of its own, for what comes and goes while an engine lives. release gives it back;
// the array must not be used afterwards.
func Int16s(n int) (array []int16, release func() error, err error) {
	if n < LeastMapped {
		return make([]int16, n), func() error { return nil }, nil
	}
	memory, release, err := allocate((n + 1) / 2)
	if err != nil {
		return nil, nil, fmt.Errorf("arena: %d bytes: %w", 2*int64(n), err)
	}
	if n == 0 {
		return nil, release, nil
	}
	return unsafe.Slice((*int16)(unsafe.Pointer(&memory[0])), n), release, nil
}
