// Package optim defines the optimisers and learning-rate schedules: what an update is, not how a backend runs it.
//
// The update of one weight w with gradient g at step t = 1, 2, … and learning rate η, slots starting at 0:
//
//	adamw  w ← w - η λ w                             λ weight decay, decoupled
//	       m ← β1 m + (1-β1) g,  v ← β2 v + (1-β2) g²
//	       w ← w - η/(1-β1^t) · m / (√(v/(1-β2^t)) + ε)
//	adam   g ← g + λ w, then m, v and w as above     λ as an L2 penalty
//	sgd    g ← g + λ w,  m ← μ m + g,  w ← w - η m   μ momentum
//
// Sources: Loshchilov and Hutter 2019, Algorithm 2; Kingma and Ba 2015, Algorithm 1; details as in PyTorch, where
// every trained parameter decays, those of batch norm and biases included.
package optim

import (
	"fmt"
	"math"
)

// Kind names an optimiser.
type Kind string

// The optimisers.
const (
	AdamW Kind = "adamw"
	Adam  Kind = "adam"
	SGD   Kind = "sgd"
)

// Spec is an optimiser with its constants. The learning rate is passed at each step.
type Spec struct {
	Kind        Kind
	WeightDecay float64 // λ ≥ 0
	Beta1       float64 // adamw, adam: β1 in [0, 1)
	Beta2       float64 // adamw, adam: β2 in [0, 1)
	Eps         float64 // adamw, adam: ε > 0
	Momentum    float64 // sgd: μ in [0, 1)
}

// Default is an optimiser with the usual constants: β1 = 0.9, β2 = 0.999, ε = 1e-8; μ = 0.9.
func Default(k Kind, weightDecay float64) Spec {
	return Spec{Kind: k, WeightDecay: weightDecay, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Momentum: 0.9}
}

// Check returns an error that names the first constant out of range.
func (s Spec) Check() error {
	unit := func(name string, v float64) error {
		if !(v >= 0 && v < 1) {
			return fmt.Errorf("optim: %s: %s = %g is outside [0, 1)", s.Kind, name, v)
		}
		return nil
	}
	if !(s.WeightDecay >= 0) || math.IsInf(s.WeightDecay, 0) {
		return fmt.Errorf("optim: %s: weight decay %g is not a finite number of at least 0", s.Kind, s.WeightDecay)
	}
	switch s.Kind {
	case AdamW, Adam:
		if err := unit("beta1", s.Beta1); err != nil {
			return err
		}
		if err := unit("beta2", s.Beta2); err != nil {
			return err
		}
		if !(s.Eps > 0) || math.IsInf(s.Eps, 0) {
			return fmt.Errorf("optim: %s: eps = %g is not a finite number above 0", s.Kind, s.Eps)
		}
		return nil
	case SGD:
		return unit("momentum", s.Momentum)
	}
	return fmt.Errorf("optim: unknown optimiser %q (known: %s, %s, %s)", s.Kind, AdamW, Adam, SGD)
}

// Slots names the numbers that the optimiser keeps for every weight, in the order in which Step takes them.
func (s Spec) Slots() []string {
	if s.Kind == SGD {
		return []string{"m"}
	}
	return []string{"m", "v"}
}

// Step is an optimiser at one step: everything of the update that is the same for all weights.
type Step struct {
	Kind   Kind
	Rate   float64 // η, for adam and adamw divided by 1-β1^t
	Shrink float64 // adamw: 1 - ηλ
	L2     float64 // adam, sgd: λ
	Beta1  float64
	Beta2  float64
	Eps    float64
	RootC2 float64 // √(1-β2^t)
	Moment float64 // sgd: μ
}

// At prepares step t ≥ 1 with learning rate lr.
func (s Spec) At(t int64, lr float64) Step {
	step := Step{Kind: s.Kind, Rate: lr, Shrink: 1, Beta1: s.Beta1, Beta2: s.Beta2, Eps: s.Eps, Moment: s.Momentum}
	if s.Kind == SGD {
		step.L2 = s.WeightDecay
		return step
	}
	if s.Kind == AdamW {
		step.Shrink = 1 - lr*s.WeightDecay
	} else {
		step.L2 = s.WeightDecay
	}
	step.Rate = lr / (1 - math.Pow(s.Beta1, float64(t)))
	step.RootC2 = math.Sqrt(1 - math.Pow(s.Beta2, float64(t)))
	return step
}

// Update is the update of one weight; v is unused by sgd. Backends that do it faster are compared with it.
func (s Step) Update(w, g, m, v float64) (wNew, mNew, vNew float64) {
	g += s.L2 * w
	if s.Kind == SGD {
		m = s.Moment*m + g
		return w - s.Rate*m, m, v
	}
	m = s.Beta1*m + (1-s.Beta1)*g
	v = s.Beta2*v + (1-s.Beta2)*g*g
	return s.Shrink*w - s.Rate*m/(math.Sqrt(v)/s.RootC2+s.Eps), m, v
}

// MultiStep multiplies the learning rate by Factor at the beginning of each epoch in Drops (counted from 0). The
// authors use 0.25 at epochs 100 and 150 of 200.
type MultiStep struct {
	Base   float64
	Drops  []int
	Factor float64
}

// Check returns an error that names what is out of range.
func (m MultiStep) Check() error {
	if !(m.Base > 0) || math.IsInf(m.Base, 0) {
		return fmt.Errorf("optim: learning rate %g is not a finite number above 0", m.Base)
	}
	for i, d := range m.Drops {
		if d < 0 || i > 0 && d <= m.Drops[i-1] {
			return fmt.Errorf("optim: learning-rate drops %v are not increasing epochs from 0", m.Drops)
		}
	}
	if len(m.Drops) > 0 && !(m.Factor > 0 && m.Factor <= 1) {
		return fmt.Errorf("optim: learning-rate factor %g is outside (0, 1]", m.Factor)
	}
	return nil
}

// At is the learning rate of an epoch.
func (m MultiStep) At(epoch int) float64 {
	lr := m.Base
	for _, d := range m.Drops {
		if epoch >= d {
			lr *= m.Factor
		}
	}
	return lr
}
