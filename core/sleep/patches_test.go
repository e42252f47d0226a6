package sleep

import (
	"testing"

	"hypnos/core/net"
)

// Appendix A.4: patches of any size, odd or even, are one group, since all of them see the same phase of an input that
// repeats every k pixels, and none of them is at a border.
func TestPatchesAreOneGroup(t *testing.T) {
	for _, k := range []int{1, 2, 3, 4, 7} {
		b := net.NewBuilder("x")
		b.LC2D("l", b.Input(net.Shape{H: 5 * k, W: 4 * k, C: 2}), net.Window{Out: 3, Kernel: k, Stride: k, Patches: true})
		n, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		l := Layers(n)[0]
		if l.Period() != 1 || l.K != 2*k*k {
			t.Errorf("patches of %d: period %d, %d weights a neuron", k, l.Period(), l.K)
		}
		for _, border := range []Border{BorderShares, BorderRests} {
			if g := l.Grids(border); len(g) != 1 || len(g[0].Positions) != 20 {
				t.Errorf("patches of %d, border %v: grids %v, want one of 20", k, border, g)
			}
		}
		for i := range l.Out.H {
			if row := i*l.Window.Stride - l.Window.Pad(); row%k != 0 {
				t.Errorf("patches of %d: patch %d begins at phase %d", k, i, row%k)
			}
		}
	}
}
