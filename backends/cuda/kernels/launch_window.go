package kernels

// Window is the geometry of a locally connected layer, a convolution or a linear layer: x (H·W, B, Cin), y (Ho·Wo, B, Cout).
type Window struct {
	B, H, W, Cin, Ho, Wo, Cout, K, Stride, Pad, Groups int
	WeightStep                                         int64 // numbers from one position's weights to the next's; 0: shared
	BiasStep                                           int64 // likewise of biases
}

// Weights is the number of weights of a position.
func (g Window) Weights() int64 { return int64(g.Cout) * int64(g.K*g.K) * int64(g.Cin/g.Groups) }

// Parts is in how many parts the gradient of shared weights is summed: a few positions each.
func (g Window) Parts() int {
	const most = 64
	return min(g.Ho*g.Wo, most)
}

// NaiveForward, NaiveInputGradient, NaiveWeightGradient, NaiveWeightParts and NaiveBiasGradient are the launches of the
// kernels of naive_window.cu: a thread a number that they write. That of sum_parts is Elements(g.Weights()).
func (g Window) NaiveForward() Launch {
	return Elements(int64(g.Ho*g.Wo) * int64(g.B) * int64(g.Cout))
}

func (g Window) NaiveInputGradient() Launch {
	return Elements(int64(g.H*g.W) * int64(g.B) * int64(g.Cin))
}

func (g Window) NaiveWeightGradient() Launch { return Elements(int64(g.Ho*g.Wo) * g.Weights()) }

func (g Window) NaiveWeightParts() Launch { return Elements(int64(g.Parts()) * g.Weights()) }

func (g Window) NaiveBiasGradient() Launch {
	if g.BiasStep > 0 {
		return Elements(int64(g.Ho*g.Wo) * int64(g.Cout))
	}
	return Elements(int64(g.Cout))
}
