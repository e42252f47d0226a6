package kernels

// Window is the geometry of a locally connected layer, a convolution or a linear layer: x (H·W, B, Cin), y (Ho·Wo, B, Cout).
type Window struct {
	B, H, W, Cin, Ho, Wo, Cout, K, Stride, Pad, Groups int
	WeightStep                                         int64 // numbers from one position's weights to the next's; 0: shared
	BiasStep                                           int64 // likewise of biases
}

// Weights is the number of weights of a position.
func (g Window) Weights() int64 { return int64(g.Cout) * int64(g.K*g.K) * int64(g.Cin/g.Groups) }

// What a block makes of a product: rows, and the most columns.
const (
	tileRows    = 128
	tileColumns = 64
)

// tile is the number of columns of a tile for so many columns: 16, 32 or 64, by which kernels are named.
func tile(columns int) int {
	n := 16
	for n < columns && n < tileColumns {
		n *= 2
	}
	return n
}

// tiled is the launch of a product (rows, columns) at every position and group, and the columns of its tiles.
func (g Window) tiled(positions, rows, columns int) (Launch, int) {
	n := tile(columns)
	return Launch{Grid: [3]int{positions * g.Groups * ceil(rows, tileRows) * ceil(columns, n), 1, 1}, Block: [3]int{tileRows, 1, 1}}, n
}

// Forward is the launch of window_forward, and the columns of its tiles, with which its name ends.
func (g Window) Forward() (Launch, int) { return g.tiled(g.Ho*g.Wo, g.B, g.Cout/g.Groups) }

// InputGradient is the launch of window_input_gradient.
func (g Window) InputGradient() (Launch, int) { return g.tiled(g.H*g.W, g.B, g.Cin/g.Groups) }

// WeightGradient is the launch of window_weight_gradient, which makes Parts sums.
func (g Window) WeightGradient() (Launch, int) { return g.weightGradient(g.Parts()) }

func (g Window) weightGradient(parts int) (Launch, int) {
	return g.tiled(parts, g.K*g.K*g.Cin/g.Groups, g.Cout/g.Groups)
}

// Parts is in how many parts the gradient of weights is made: one a position where these have weights of their own; of
// shared ones a few positions each, such that there are blocks for several waves of any device.
func (g Window) Parts() int {
	const blocks = 1024
	if g.WeightStep > 0 {
		return g.Ho * g.Wo
	}
	one, _ := g.weightGradient(1)
	return max(1, min(g.Ho*g.Wo, blocks/one.Grid[0]))
}

// BiasGradient is the launch of window_bias_gradient.
func (g Window) BiasGradient() Launch {
	positions := 1
	if g.BiasStep > 0 {
		positions = g.Ho * g.Wo
	}
	return Launch{Grid: [3]int{ceil(g.Cout, 32), positions, 1}, Block: [3]int{32, 8, 1}}
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
