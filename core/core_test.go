package core

import (
	"math"
	"slices"
	"strings"
	"testing"

	"hypnos/core/net"
)

// By hand: ln 3 for equal logits, ln(1+e) for a lead of 1 of the other; shifted logits give the same.
func TestCrossEntropy(t *testing.T) {
	for _, c := range []struct {
		logits []float64
		label  int32
		want   float64
	}{
		{[]float64{0, 0, 0}, 1, math.Log(3)},
		{[]float64{0, 1}, 0, math.Log(1 + math.E)},
		{[]float64{1000, 1001}, 0, math.Log(1 + math.E)},
		{[]float64{-1e308, 1e308}, 1, 0},
		{[]float64{math.NaN(), 0}, 1, math.NaN()},
		{[]float64{math.Inf(1), 0}, 1, math.Inf(1)},
		{[]float64{math.Inf(1), 0}, 0, math.NaN()},
	} {
		got := CrossEntropy(c.logits, c.label)
		if math.IsNaN(c.want) && math.IsNaN(got) || math.IsInf(c.want, 1) && (math.IsNaN(got) || math.IsInf(got, 1)) {
			continue
		}
		if !(math.Abs(got-c.want) <= 1e-13) { // at most 1,001 times the roundoff of float64
			t.Errorf("CrossEntropy(%v, %d) = %g, want %g", c.logits, c.label, got, c.want)
		}
	}
}

// The gradient against central differences: h² truncation of 1e-12 and roundoff/h of 1e-10.
func TestSoftmaxGradient(t *testing.T) {
	logits, g := []float64{0.3, -1.2, 2.5, 0.1}, make([]float64, 4)
	const h, scale = 1e-6, 0.25
	SoftmaxGradient(g, logits, 2, scale)
	sum := 0.0
	for j := range logits {
		up, down := append([]float64(nil), logits...), append([]float64(nil), logits...)
		up[j] += h
		down[j] -= h
		want := scale * (CrossEntropy(up, 2) - CrossEntropy(down, 2)) / (2 * h)
		if !(math.Abs(g[j]-want) <= 1e-9) {
			t.Errorf("derivative by logit %d = %g, the difference quotient is %g", j, g[j], want)
		}
		sum += g[j]
	}
	if !(math.Abs(sum) <= 1e-15) {
		t.Errorf("the derivatives sum to %g, want 0", sum)
	}
}

func TestRank(t *testing.T) {
	for _, c := range []struct {
		logits []float64
		label  int32
		want   int
	}{
		{[]float64{3, 2, 1}, 0, 0},
		{[]float64{3, 2, 1}, 2, 2},
		{[]float64{1, 1, 1}, 0, 0},
		{[]float64{1, 1, 1}, 2, 2},
		{[]float64{math.NaN(), 2, 1}, 1, 1},
		{[]float64{math.NaN(), 2, 1}, 0, 2},
	} {
		if got := Rank(c.logits, c.label); got != c.want {
			t.Errorf("Rank(%v, %d) = %d, want %d", c.logits, c.label, got, c.want)
		}
	}
	l := Logits{N: 2, Classes: 7, Values: []float64{7, 6, 5, 4, 3, 2, 1, 7, 6, 5, 4, 3, 2, 1}}
	if loss, top1, top5 := Score(l, Labels{0, 4}); top1 != 1 || top5 != 2 || !(loss > 0) {
		t.Errorf("Score = %g, %d, %d", loss, top1, top5)
	}
	if _, top1, top5 := Score(l, Labels{5, 6}); top1 != 0 || top5 != 0 {
		t.Errorf("ranks 5 and 6 count as hits: %d, %d", top1, top5)
	}
}

// What is cut is what the image shows there, outside of it nothing; crops that miss their image are refused.
func TestCrops(t *testing.T) {
	n, err := net.ByName("resnet8", net.Options{Input: 4})
	if err != nil {
		t.Fatal(err)
	}
	m := Images{Shape: net.Shape{H: 2, W: 3, C: 3}, Values: make([][256]float32, 3)}
	for i := range 2 * m.Shape.Len() {
		m.Pixels = append(m.Pixels, uint8(i))
		for c := range 3 {
			m.Values[c][i] = float32(100*c + i)
		}
	}
	if err := m.Check(); err != nil || m.Len() != 2 {
		t.Fatalf("%d images, %v", m.Len(), err)
	}
	size := net.Shape{H: 2, W: 2, C: 3}
	got := make([]float32, size.Len())
	m.Cut(got, size, Crop{Image: 1, Row: -1, Col: 2, Mirror: true})
	// Row -1 and column 3 are outside; column 2 of row 0 are bytes 18+6 and on, which go to the right.
	if want := []float32{0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 125, 226}; !slices.Equal(got, want) {
		t.Errorf("cut %v, want %v", got, want)
	}
	for _, c := range []struct {
		crops []Crop
		want  string
	}{
		{[]Crop{{}, {Image: 1, Row: -4, Col: 3, Mirror: true}}, ""},
		{nil, "batch of 0 images"},
		{make([]Crop, 3), "batch of 3 images, compiled for 1 to 2"},
		{[]Crop{{}, {Image: 2}}, "crop 1 is of image 2, 2 are kept"},
		{[]Crop{{Image: -1}}, "image -1"},
		{[]Crop{{Row: -5}}, "at (-5, 0) is far from its image of 2x3x3"},
		{[]Crop{{Row: 3}}, "at (3, 0)"},
		{[]Crop{{Col: -5}}, "at (0, -5)"},
		{[]Crop{{Col: 4}}, "at (0, 4)"},
	} {
		switch err := CheckCrops(n, 2, m.Len(), m.Shape, c.crops); {
		case c.want == "" && err != nil:
			t.Error(err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: error %v, want one with %q", c.crops, err, c.want)
		}
	}
	o := Options{MaxBatch: 2, Train: true}
	for _, c := range []struct {
		o     Options
		crops []Crop
		y     Labels
		lr    float64
		want  string
	}{
		{o, make([]Crop, 2), Labels{0, 1}, 0.1, ""},
		{Options{MaxBatch: 2}, make([]Crop, 2), Labels{0, 1}, 0.1, "inference only"},
		{o, make([]Crop, 2), Labels{0, 1}, math.NaN(), "learning rate NaN"},
		{o, make([]Crop, 3), Labels{0, 1, 2}, 0.1, "batch of 3 images"},
		{o, make([]Crop, 2), Labels{0}, 0.1, "1 labels for 2 images"},
		{o, make([]Crop, 2), Labels{0, -1}, 0.1, "label -1"},
	} {
		err := CheckWakeKept(n, c.o, m.Len(), m.Shape, c.crops, c.y, c.lr)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
	for _, bad := range []Images{
		{Values: m.Values}, {Shape: m.Shape, Values: m.Values}, {Shape: m.Shape, Pixels: m.Pixels[1:], Values: m.Values},
		{Shape: m.Shape, Pixels: m.Pixels, Values: m.Values[1:]},
	} {
		if bad.Check() == nil {
			t.Errorf("%v with %d bytes and %d channels of values is accepted", bad.Shape, len(bad.Pixels), len(bad.Values))
		}
	}
}

func TestMemoryFits(t *testing.T) {
	for _, c := range []struct {
		images, free int64
		fits, amply  bool
	}{{0, 0, true, false}, {475, 1000, true, true}, {476, 1000, true, false}, {600, 1000, true, false}, {601, 1000, false, false}} {
		m := Memory{Weights: 100, Gradients: 100, Optimizer: 100, Activations: 50, Scratch: 50, Images: c.images, Free: c.free}
		if m.Fits() != c.fits || m.FitsAmply() != c.amply {
			t.Errorf("%+v of %d: fits %v, amply %v", m, m.Total(), m.Fits(), m.FitsAmply())
		}
	}
}
