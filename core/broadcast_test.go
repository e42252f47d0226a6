package core

import (
	"math"
	"testing"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"

	"hypnos/core/rng"
)

// The matrix is what its description says: elements ±√(2/Outputs), rows drawn together the same as elements drawn
// alone, wherever they begin, and a matrix of its own for every layer and seed.
func TestFeedback(t *testing.T) {
	const rows = 2000
	for _, outputs := range []int{1, 7, 10, 200} {
		f := NewFeedback(3, 5, outputs)
		all := make([]float32, rows*outputs)
		f.Rows(all, 0)
		minus := 0
		for i, v := range all {
			want := f.At(i/outputs, i%outputs)
			if v != float32(want) || math.Abs(want) != math.Sqrt(2/float64(outputs)) {
				t.Fatalf("%d outputs: element %d is %g in its row, %g alone", outputs, i, v, want)
			}
			if v < 0 {
				minus++
			}
		}
		// The number of minus signs among m has standard deviation √m/2.
		if m := float64(len(all)); !(math.Abs(float64(minus)-m/2) <= 4*math.Sqrt(m)/2) {
			t.Errorf("%d outputs: %d of %g signs are minus", outputs, minus, m)
		}
		part := make([]float32, 3*outputs)
		f.Rows(part, 17)
		for i, v := range part {
			if v != all[17*outputs+i] {
				t.Fatalf("%d outputs: rows from 17 on differ at %d", outputs, i)
			}
		}
		for what, other := range map[string]Feedback{"layer": NewFeedback(3, 6, outputs), "seed": NewFeedback(4, 5, outputs)} {
			theirs, product := make([]float32, len(all)), 0.0
			other.Rows(theirs, 0)
			for i, v := range theirs {
				product += float64(v) * float64(all[i])
			}
			// A sum of m products ±2/Outputs of independent signs has standard deviation 2√m/Outputs.
			if m := float64(len(all)); !(math.Abs(product) <= 4*2*math.Sqrt(m)/float64(outputs)) {
				t.Errorf("%d outputs: the matrix of another %s has the product %g with this", outputs, what, product)
			}
		}
	}
}

// (B·e)_j has mean 0 and variance 2·mean(e²) over the rows. A sum of independent signs has a kurtosis of at most 3, so that
// the variance of m of them has at most the standard error of normal numbers, the variance times √(2/m).
func TestFeedbackVariance(t *testing.T) {
	const outputs, rows = 10, 20000
	e := make([]float64, outputs)
	s := rng.New(1, rng.Test, 0)
	s.Normals(e, 0)
	f := NewFeedback(1, 2, outputs)
	errors := make([]float64, rows)
	for j := range errors {
		for c, v := range e {
			errors[j] += f.At(j, c) * v
		}
	}
	want := 2 * floats.Dot(e, e) / outputs
	mean, variance := stat.MeanVariance(errors, nil)
	if !(math.Abs(mean) <= 4*math.Sqrt(want/rows)) || !(math.Abs(variance-want) <= 4*want*math.Sqrt(2.0/rows)) {
		t.Errorf("B·e has mean %g and variance %g, want 0 and %g", mean, variance, want)
	}
}

func TestWakeRules(t *testing.T) {
	for _, r := range WakeRules() {
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	}
	if err := WakeRule("").Check(); err == nil {
		t.Error("an empty wake rule is a rule")
	}
}
