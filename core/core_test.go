package core

import (
	"math"
	"testing"
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
