//go:build cuda && cgo && linux && amd64

package equivalence

import (
	"strings"
	"testing"

	"hypnos/backends"
	"hypnos/core"
	"hypnos/core/sleep"
)

// TestCUDABoundsHold: a GPU is equivalent in every precision, none of the sharp checks is vacuous, and rounded factors do
// not keep the bounds of float32.
func TestCUDABoundsHold(t *testing.T) {
	if b, err := backends.Open("cuda"); err != nil {
		t.Skipf("SKIPPED: %v; make cuda-emu has a library that stands in for the driver's", err)
	} else if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	o := small(t, 9, sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: 20})
	for _, precision := range []string{"f32", "tf32", "bf16"} {
		s := subjects(t, "ref", "cuda:precision="+precision)
		r := compared(t, s, o)
		if err := r.Err(); err != nil {
			t.Errorf("%s: %v", precision, err)
		}
		checks := map[string]float64{}
		for _, row := range r.Rows {
			if row.Ratio == nil || row.Elements == 0 {
				t.Errorf("%s: %s of %s, %s: %d elements, ratio %v", precision, row.Backend, row.Check, row.Layer, row.Elements, row.Ratio)
				continue
			}
			if strings.HasPrefix(row.Backend, "cuda") {
				checks[row.Check] = max(checks[row.Check], *row.Ratio)
			}
		}
		for _, want := range []string{"activation", "gradient", "local activation", "local 3 steps", "sleep", "last logits"} {
			if ratio, ok := checks[want]; !ok || want == "local activation" && !(ratio > 1e-2) {
				t.Errorf("%s: check %q made: %v, largest error %g of its bound", precision, want, ok, ratio)
			}
		}
		if precision == "f32" {
			continue
		}
		s[1].Backend = posing{s[1].Backend}
		if r := compared(t, s, o); r.Err() == nil {
			t.Errorf("%s keeps the bounds of float32", precision)
		}
	}
}

// posing is a backend that calls its numbers float32.
type posing struct{ core.Backend }

func (p posing) Caps() core.Caps {
	c := p.Backend.Caps()
	c.Format = "float32"
	return c
}
