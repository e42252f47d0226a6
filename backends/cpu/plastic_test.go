package cpu

import (
	"context"
	"testing"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// A grid's sleep by maps allocates a few small things, none of them for a position: as many for 4 times the positions.
func TestMapsDoNotAllocateByPosition(t *testing.T) {
	allocations := func(side int) float64 {
		b := net.NewBuilder("n")
		b.LC2D("layer", b.Input(net.Shape{H: side, W: side, C: 3}), net.Window{Out: 20, Kernel: 3, Stride: 1, Bias: true})
		n, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		e := ready(t, n, core.Options{MaxBatch: 1})
		s := sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: 10, Execution: sleep.Factored, Seed: 1}
		return testing.AllocsPerRun(3, func() {
			if _, err := e.Sleep(context.Background(), s); err != nil {
				t.Fatal(err)
			}
		})
	}
	// The lists of a grid's positions are made by appending: at most 2 more each for 4 times the positions, three times a phase.
	small, large := allocations(12), allocations(24)
	if extra := 3 * 9 * 2.0; !(large <= small+extra) || small == 0 {
		t.Errorf("%v allocations at 12x12 positions, %v at 24x24", small, large)
	}
}
