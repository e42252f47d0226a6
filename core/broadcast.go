package core

import (
	"fmt"
	"math"
	"slices"

	"hypnos/core/rng"
)

// WakeRule names the rule by which an engine learns awake. Sleep does not depend on it.
type WakeRule string

const (
	// Backprop is backpropagation of the mean cross-entropy, the default.
	Backprop WakeRule = "backprop"
	// Broadcast is direct feedback alignment (Nøkland, "Direct feedback alignment provides learning in deep neural
	// networks", NeurIPS 2016), a three-factor rule. Wherever backpropagation carries an error back through the weights
	// of a layer - conv2d, lc2d, linear -, the layer's input gets B·e instead: e is the error of the network's output
	// and B the layer's Feedback, a fixed random matrix. Everything else is as in backpropagation: an error goes back
	// through rectifiers, batch norms, pools, transpositions and sums by their derivatives, and what reaches an
	// activation by several ways is added up. So a weight sees the activity before it, the derivatives between it and
	// the next weights, and the broadcast error. No weight is used on the way back and no layer waits for the weights
	// behind it. Layers with no weights behind them learn from the true error: the last linear layer's is e itself.
	Broadcast WakeRule = "broadcast"
)

// WakeRules lists the rules.
func WakeRules() []WakeRule { return []WakeRule{Backprop, Broadcast} }

// Check returns an error that lists the known rules when r is none of them.
func (r WakeRule) Check() error {
	if !slices.Contains(WakeRules(), r) {
		return fmt.Errorf("core: unknown wake rule %q (known: %s, %s)", r, Backprop, Broadcast)
	}
	return nil
}

// Feedback is the matrix B of the broadcast rule at one layer, (H·W·Cin, Outputs) in memory order: a row for every element
// of the layer's input, a column for every element of the network's output. It is not stored anywhere: an element is a
// function of the seed, the layer and its place.
//
// Elements are ±√(2/Outputs), both signs equally probable. Thus their variance, 2/Outputs, is that of the "fan out"
// initial weights (net.Network.Init) of a layer that would lead from the input straight to the output, N = Outputs, k = 1.
// Since signs are independent, (B·e)_j has mean 0 and variance Σ_c B_jc² e_c² = 2·mean(e²): as through fan-out weights, where
// N·k² errors times weights of variance 2/(N·k²) add up to twice the errors' mean square, the 2 making up for the half that
// the rectifier takes (He et al. 2015, Eq. 14). A sign costs a bit to draw and nothing to multiply by.
type Feedback struct {
	signs   rng.Stream
	outputs int
}

// NewFeedback returns the matrix of the node-th node of a network with so many outputs an image.
func NewFeedback(seed uint64, node, outputs int) Feedback {
	return Feedback{rng.New(seed, rng.Feedback, uint64(node)), outputs}
}

// Scale is the elements' absolute value.
func (f Feedback) Scale() float64 { return math.Sqrt(2 / float64(f.outputs)) }

// At is the element of row j and column c.
func (f Feedback) At(j, c int) float64 {
	return f.signs.Sign(uint64(j)*uint64(f.outputs)+uint64(c)) * f.Scale()
}

// Rows sets dst to the rows from the first-th on, (rows, Outputs), as many as it has room for.
func (f Feedback) Rows(dst []float32, first int) {
	f.signs.Signs(dst, uint64(first)*uint64(f.outputs), float32(f.Scale()))
}
