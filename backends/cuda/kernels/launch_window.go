package kernels

import "strconv"

// Window is the geometry of a locally connected layer, a convolution or a linear layer: x (H·W, B, Cin), y (Ho·Wo, B, Cout).
type Window struct {
	B, H, W, Cin, Ho, Wo, Cout, K, Stride, Pad, Groups int
	WeightStep                                         int64 // numbers from one position's weights to the next's; 0: shared
	BiasStep                                           int64 // likewise of biases
}

// Weights is the number of weights of a position.
func (g Window) Weights() int64 { return int64(g.Cout) * int64(g.K*g.K) * int64(g.Cin/g.Groups) }

// Tile is what a block makes of a product, by which kernels are named.
type Tile struct{ Rows, Columns int }

func (t Tile) String() string { return strconv.Itoa(t.Rows) + "x" + strconv.Itoa(t.Columns) }

// tileOf is the tile for a product of so many rows and columns: 128 rows, or 32 where those are at most half full, as of small
// batches; 16 columns, 32, or, with 128 rows, 64.
func tileOf(rows, columns int) Tile {
	t, most := Tile{128, 16}, 64
	if rows <= t.Rows/2 {
		t.Rows, most = 32, 32
	}
	for t.Columns < min(columns, most) {
		t.Columns *= 2
	}
	return t
}

// tiled is the launch of a product (rows, columns) at every position and group, and its tiles.
func (g Window) tiled(positions, rows, columns int) (Launch, Tile) {
	t := tileOf(rows, columns)
	return Launch{Grid: [3]int{positions * g.Groups * ceil(rows, t.Rows) * ceil(columns, t.Columns), 1, 1}, Block: [3]int{t.Rows, 1, 1}}, t
}

// Forward is the launch of window_forward, and its tiles, with which its name ends.
func (g Window) Forward() (Launch, Tile) { return g.tiled(g.Ho*g.Wo, g.B, g.Cout/g.Groups) }

// InputGradient is the launch of window_input_gradient.
func (g Window) InputGradient() (Launch, Tile) { return g.tiled(g.H*g.W, g.B, g.Cin/g.Groups) }

// WeightGradient is the launch of window_weight_gradient, which makes Parts sums.
func (g Window) WeightGradient() (Launch, Tile) { return g.weightGradient(g.Parts()) }

func (g Window) weightGradient(parts int) (Launch, Tile) {
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
