//go:build cuda && cgo && linux && amd64

package main

import (
	"os"
	"testing"
)

// A build with CUDA lists the devices; without a driver it says so in one line and succeeds.
func TestDoctorCUDA(t *testing.T) {
	if os.Getenv("HYPNOS_CUDA_DRIVER") == "" {
		t.Skip("SKIPPED: only for the library that stands in for the driver's; make cuda-emu has it")
	}
	works(t, []string{"doctor"}, "device 0: CPU emulation, capability 8.0, 2048 MB", "driver for CUDA 13.0")
}
