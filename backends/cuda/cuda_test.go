//go:build cuda && cgo && linux && amd64

package cuda

import (
	"os"
	"testing"

	"hypnos/backends/backendtest"
	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/internal/shim"
	"hypnos/core"
)

// needDevice skips a test where there is no device; with emulated only the library that stands in for the driver's will do.
func needDevice(t *testing.T, emulated bool) {
	t.Helper()
	if _, err := driver.Devices(); err != nil {
		t.Skipf("SKIPPED: %v; make cuda-emu has a library that stands in for the driver's", err)
	}
	if emulated && os.Getenv(shim.Library) == "" {
		t.Skip("SKIPPED: only for the library that stands in for the driver's; make cuda-emu has it")
	}
}

// opener opens the backend at a precision.
func opener(p Precision) func() (core.Backend, error) {
	return func() (core.Backend, error) { return Open(Options{Precision: p}) }
}

// In float32 the backend passes the whole suite.
func TestCompliance(t *testing.T) {
	needDevice(t, false)
	backendtest.Run(t, backendtest.Config{Open: opener(F32), Roundoff: 0x1p-24, Interruptions: 45})
}
