package sleep

import (
	"slices"
	"strings"
	"testing"

	"hypnos/core/net"
	"hypnos/core/rng"
)

// A recorded tile is a piece of the recording, drawn by its number.
func TestRecordedTile(t *testing.T) {
	l := layer(t, 6, 2, 1, 3, 1)
	x := make([]float64, 4*l.In.Len())
	rng.New(1, rng.Test, 0).Normals(x, 0)
	source := &Recorded{Inputs: map[string][]float64{"l": x}}
	p, err := source.Open(PatternRequest{Layer: l, Key: 3, Samples: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Strength(); s.Rank != l.Inputs() || s.Of != l.Inputs() {
		t.Errorf("random recordings reach %d of %d directions", s.Rank, s.Of)
	}
	places := map[int]bool{}
	got, again := make([]float64, l.TileLen()), make([]float64, l.TileLen())
	for i := range uint64(40) {
		p.Tile(got, i)
		p.Tile(again, i)
		if !slices.Equal(got, again) {
			t.Fatalf("tile %d differs from itself", i)
		}
		at := slices.Index(x, got[0]) // the tile's corner: numbers are all different
		if at < 0 {
			t.Fatalf("tile %d is no part of the recording", i)
		}
		for row := range 3 {
			if !slices.Equal(got[row*6:(row+1)*6], x[at+row*12:at+row*12+6]) {
				t.Fatalf("tile %d, row %d is not what lies there", i, row)
			}
		}
		places[at] = true
	}
	if len(places) < 20 {
		t.Errorf("40 tiles from only %d places", len(places))
	}
}

// Recordings that reach too few directions are measured as such; unfit ones are refused.
func TestRecordedRefusals(t *testing.T) {
	l := layer(t, 6, 2, 1, 3, 1)
	flat := make([]float64, l.In.Len())
	for i := range flat {
		flat[i] = 1
	}
	p, err := (&Recorded{Inputs: map[string][]float64{"l": flat}}).Open(PatternRequest{Layer: l, Samples: true})
	if err != nil {
		t.Fatal(err)
	}
	if s := p.Strength(); s.Rank != 1 || s.Of != 18 {
		t.Errorf("a constant recording reaches %d of %d directions, want 1 of 18", s.Rank, s.Of)
	}
	for _, x := range [][]float64{nil, flat[:7]} {
		if _, err := (&Recorded{Inputs: map[string][]float64{"l": x}}).Open(PatternRequest{Layer: l}); err == nil || !strings.Contains(err.Error(), "no recorded activity") {
			t.Errorf("a recording of %d numbers: %v", len(x), err)
		}
	}
}

// Propagated is exact for 3x3 layers behind layers of 3x3 and 1x1, strides included, and refuses others by name.
func TestPropagatedExactness(t *testing.T) {
	for _, c := range []struct {
		kernels, strides []int
		want             string // of the last layer; "" is exact
	}{
		{[]int{3, 3}, []int{1, 1}, ""},
		{[]int{3, 1, 3}, []int{2, 1, 1}, ""},
		{[]int{3, 1, 3, 3}, []int{1, 2, 2, 1}, ""},
		{[]int{1, 1}, []int{1, 2}, ""},
		{[]int{3, 1}, []int{1, 1}, `layer "a": filters of unequal size`},
		{[]int{5, 3}, []int{1, 1}, `layer "a": filters of unequal size`},
		{[]int{3, 3}, []int{3, 1}, "repeats every 1 positions"},
	} {
		b := net.NewBuilder("p")
		x := b.Input(net.Shape{H: 24, W: 24, C: 2})
		for i, k := range c.kernels {
			x = b.LC2D(string(rune('a'+i)), x, net.Window{Out: 2, Kernel: k, Stride: c.strides[i]})
		}
		n, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		layers := Layers(n)
		host := Host{Open: func(l Layer) Runner { return fixedMeans{l} }, Word: 8}
		target := layers[len(layers)-1]
		p, err := Propagated{}.Open(PatternRequest{Layer: target, State: NewState(n, BorderShares, host), Phase: 1})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("kernels %v, strides %v: error %v, want one with %q", c.kernels, c.strides, err, c.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("kernels %v, strides %v: %v", c.kernels, c.strides, err)
			continue
		}
		a, again, other := make([]float64, target.TileLen()), make([]float64, target.TileLen()), make([]float64, target.TileLen())
		p.Tile(a, 1)
		p.Tile(again, 1)
		p.Tile(other, 2)
		if !slices.Equal(a, again) || slices.Equal(a, other) {
			t.Errorf("kernels %v: tiles are not told by their number", c.kernels)
		}
	}
}
