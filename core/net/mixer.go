package net

import "fmt"

// Hidden channels of the two perceptrons of a block, relative to what they mix: D_S = C/2 and D_C = 4·C for C channels a
// token in every network of Table 1 of the MLP-Mixer paper.
const (
	tokenShrink   = 2
	channelExpand = 4
)

// mixerLayers are the layers of an MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601, Fig. 1): patches of the image
// become tokens of C channels, and blocks mix first the tokens of each channel, then the channels of each token, each with
// a perceptron of one hidden layer and a skip connection:
//
//	y = x + T⁻¹(mlp(T(norm(x))))    tokens; T exchanges positions and channels (Transpose)
//	z = y + mlp(norm(y))            channels
//
// What mixes channels is a 1x1 layer over the tokens, what mixes tokens a 1x1 layer over the channels. As convolutions
// they share weights as in the paper: mlp is the same at every token, or channel. Locally connected, every token, and
// every channel, has a perceptron of its own, and sleep shares: the positions of a 1x1 layer are one group, and so are
// those of the patch embedding (Appendix A.4 of Pogodin et al. 2021).
//
// It differs from the paper in batch norm instead of layer norm and in ReLU instead of GELU.
func mixerLayers(b *blocks, x Ref, o Options) Ref {
	x = b.spatial("patches", x, Window{Out: o.Width, Kernel: o.Patch, Stride: o.Patch, Patches: true, Bias: true})
	tokens := b.shape(x)
	for i := range o.Depth {
		name := fmt.Sprintf("block%d", i+1)
		y := b.Transpose(name+".tokens.transpose", b.BatchNorm(name+".tokens.bn", x))
		y = b.perceptron(name+".tokens", y, max(1, o.Width/tokenShrink))
		y = b.TransposeBack(name+".tokens.back", y, tokens)
		x = b.Sum(name+".tokens.add", x, y)
		y = b.perceptron(name+".channels", b.BatchNorm(name+".channels.bn", x), channelExpand*o.Width)
		x = b.Sum(name+".channels.add", x, y)
	}
	return b.BatchNorm("bn", x)
}

// perceptron is two 1x1 layers with a rectifier between them; it keeps the shape.
func (b *blocks) perceptron(name string, x Ref, hidden int) Ref {
	out := b.shape(x).C
	y := b.spatial(name+".mlp1", x, Window{Out: hidden, Kernel: 1, Stride: 1, Bias: true})
	y = b.ReLU(name+".relu", y)
	return b.spatial(name+".mlp2", y, Window{Out: out, Kernel: 1, Stride: 1, Bias: true})
}
