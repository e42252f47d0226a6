package kernels

import (
	"slices"
	"testing"
)

// Launches of products stay within what every device can do and have a block for every tile, of the layers of the paper's
// networks and of odd ones.
func TestWindowLaunches(t *testing.T) {
	checked := 0
	for _, g := range []Window{
		{B: 512, H: 32, W: 32, Cin: 3, Ho: 32, Wo: 32, Cout: 16, K: 3, Stride: 1, Pad: 1, Groups: 1},
		{B: 512, H: 32, W: 32, Cin: 16, Ho: 16, Wo: 16, Cout: 32, K: 3, Stride: 2, Pad: 1, Groups: 1},
		{B: 512, H: 8, W: 8, Cin: 64, Ho: 8, Wo: 8, Cout: 64, K: 3, Stride: 1, Pad: 1, Groups: 1},
		{B: 256, H: 224, W: 224, Cin: 3, Ho: 112, Wo: 112, Cout: 32, K: 7, Stride: 2, Pad: 3, Groups: 1},
		{B: 256, H: 7, W: 7, Cin: 256, Ho: 7, Wo: 7, Cout: 256, K: 3, Stride: 1, Pad: 1, Groups: 1},
		{B: 1, H: 5, W: 7, Cin: 9, Ho: 5, Wo: 7, Cout: 33, K: 5, Stride: 1, Pad: 2, Groups: 3},
		{B: 64, H: 4, W: 4, Cin: 7, Ho: 4, Wo: 4, Cout: 100, K: 3, Stride: 1, Pad: 1, Groups: 1},
		{B: 65, H: 4, W: 4, Cin: 8, Ho: 4, Wo: 4, Cout: 17, K: 3, Stride: 1, Pad: 1, Groups: 1},
		{B: 129, H: 1, W: 1, Cin: 512, Ho: 1, Wo: 1, Cout: 1000, K: 1, Stride: 1, Groups: 1},
	} {
		for _, located := range []bool{false, true} {
			if g.WeightStep, g.BiasStep = 0, 0; located {
				g.WeightStep, g.BiasStep = g.Weights(), int64(g.Cout)
			}
			positions, inputs := g.Ho*g.Wo, g.H*g.W
			k, n, c := g.K*g.K*g.Cin/g.Groups, g.Cout/g.Groups, g.Cin/g.Groups
			if p := g.Parts(); p < 1 || p > positions || located && p != positions {
				t.Errorf("%+v: %d parts", g, p)
			}
			for name, l := range map[string]struct {
				launch              func() (Launch, Tile)
				rows, columns, many int
			}{
				"forward": {g.Forward, g.B, n, positions}, "input gradient": {g.InputGradient, g.B, c, inputs},
				"weight gradient": {g.WeightGradient, k, n, g.Parts()},
			} {
				launch, tile := l.launch()
				want := l.many * g.Groups * ((l.rows + tile.Rows - 1) / tile.Rows) * ((l.columns + tile.Columns - 1) / tile.Columns)
				small := l.rows <= 64
				switch {
				case !slices.Contains([]string{"32x16", "32x32", "128x16", "128x32", "128x64"}, tile.String()):
					t.Errorf("%+v: %s has tiles of %v, for which there is no kernel", g, name, tile)
				case small != (tile.Rows == 32), l.columns > tile.Columns && (tile.Columns == 16 || tile.Columns == 32 && !small):
					t.Errorf("%+v: %s has tiles of %v for %d rows and %d columns", g, name, tile, l.rows, l.columns)
				case launch.Grid != [3]int{want, 1, 1} || launch.Block != [3]int{tile.Rows, 1, 1} || launch.Shared != 0 || want > 1<<31-1:
					t.Errorf("%+v: %s is launched as %+v, want %d blocks of %d", g, name, launch, want, tile.Rows)
				}
				checked++
			}
			if b := g.BiasGradient(); b.Grid[0]*32 < g.Cout || b.Grid[1] > 1<<16-1 || b.Block != [3]int{32, 8, 1} {
				t.Errorf("%+v: the bias gradient is launched as %+v", g, b)
			}
		}
	}
	if checked != 9*2*3 {
		t.Errorf("%d launches checked", checked)
	}
}
