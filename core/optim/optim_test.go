package optim

import (
	"math"
	"strings"
	"testing"
)

// Three steps from w = 1 with gradients 0.5, -0.25, 1 and weight decay 0.1, learning rate 0.1, computed by PyTorch 2.15
// in float64 (torch.optim.AdamW, Adam, SGD with momentum 0.9).
func TestAgainstPyTorch(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		want [3]float64
	}{
		{AdamW, [3]float64{0.890000002, 0.8544662986878463, 0.7801104766702113}},
		{Adam, [3]float64{0.9000000016666666, 0.8544413674617625, 0.7815043998631658}},
		{SGD, [3]float64{0.94, 0.9016, 0.7580239999999999}},
	} {
		spec := Default(c.kind, 0.1)
		w, m, v := 1.0, 0.0, 0.0
		for i, g := range []float64{0.5, -0.25, 1} {
			w, m, v = spec.At(int64(i+1), 0.1).Update(w, g, m, v)
			if !(math.Abs(w-c.want[i]) <= 1e-14) { // a few dozen roundings of numbers up to 1
				t.Errorf("%s: step %d gives %.17g, PyTorch %.17g", c.kind, i+1, w, c.want[i])
			}
		}
	}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Kind = "lbfgs" }, `unknown optimiser "lbfgs" (known: adamw, adam, sgd)`},
		{func(s *Spec) { s.WeightDecay = -1 }, "weight decay -1"},
		{func(s *Spec) { s.WeightDecay = math.NaN() }, "weight decay NaN"},
		{func(s *Spec) { s.Beta1 = 1 }, "beta1 = 1"},
		{func(s *Spec) { s.Beta2 = math.NaN() }, "beta2 = NaN"},
		{func(s *Spec) { s.Eps = 0 }, "eps = 0"},
		{func(s *Spec) { s.Kind, s.Momentum = SGD, -0.1 }, "momentum = -0.1"},
	} {
		s := Default(AdamW, 0)
		c.change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", s, err, c.want)
		}
	}
	for _, k := range []Kind{AdamW, Adam, SGD} {
		if err := Default(k, 0.01).Check(); err != nil {
			t.Error(err)
		}
	}
}

// The authors' schedule: times 0.25 at epochs 100 and 150.
func TestMultiStep(t *testing.T) {
	m := MultiStep{Base: 1, Drops: []int{100, 150}, Factor: 0.25}
	for epoch, want := range map[int]float64{0: 1, 99: 1, 100: 0.25, 149: 0.25, 150: 0.0625, 199: 0.0625} {
		if got := m.At(epoch); got != want {
			t.Errorf("epoch %d: learning rate %g, want %g", epoch, got, want)
		}
	}
	for _, c := range []struct {
		m    MultiStep
		want string
	}{
		{MultiStep{}, "learning rate 0"},
		{MultiStep{Base: math.Inf(1)}, "learning rate +Inf"},
		{MultiStep{Base: 1, Drops: []int{5, 5}, Factor: 0.5}, "drops [5 5]"},
		{MultiStep{Base: 1, Drops: []int{5}, Factor: 2}, "factor 2"},
	} {
		if err := c.m.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: error %v, want one with %q", c.m, err, c.want)
		}
	}
}
