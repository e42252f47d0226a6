package cpu_test

import (
	"testing"

	"hypnos/backends/backendtest"
	"hypnos/backends/cpu"
	"hypnos/core"
)

// Every version of the kernels passes the suite, with the same bits on one thread and on two. A short run, as under the
// race detector, which sees the code around the kernels, or on an emulated processor, takes the best version only.
func TestCompliance(t *testing.T) {
	versions := cpu.Versions()
	t.Logf("versions here: %v", versions)
	if testing.Short() {
		versions = versions[:1]
		t.Logf("short: %v only", versions)
	}
	for _, v := range versions {
		t.Run(v, func(t *testing.T) {
			threads := func(n int) func() (core.Backend, error) {
				return func() (core.Backend, error) { return cpu.Open(cpu.Options{Threads: n, Kernels: v}) }
			}
			backendtest.Run(t, backendtest.Config{
				Open:     threads(0),
				Same:     map[string]func() (core.Backend, error){"1 thread": threads(1), "2 threads": threads(2)},
				Roundoff: 0x1p-24,
			})
		})
	}
}
