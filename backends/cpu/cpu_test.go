package cpu_test

import (
	"testing"

	"hypnos/backends/backendtest"
	"hypnos/backends/cpu"
	"hypnos/core"
)

func TestCompliance(t *testing.T) {
	threads := func(n int) func() (core.Backend, error) {
		return func() (core.Backend, error) { return cpu.Open(n) }
	}
	backendtest.Run(t, backendtest.Config{
		Open:     threads(0),
		Same:     map[string]func() (core.Backend, error){"1 thread": threads(1), "2 threads": threads(2)},
		Roundoff: 0x1p-24,
	})
}
