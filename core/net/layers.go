package net

// inputName is the name of every network's first node.
const inputName = "input"

// Constants of batch normalisation in the authors' program (PyTorch's defaults).
const (
	bnEps      = 1e-5
	bnMomentum = 0.1
)

// Input appends the network's input.
func (b *Builder) Input(s Shape) Ref { return b.Add(inputName, Input{s}) }

// Conv2D appends a convolution.
func (b *Builder) Conv2D(name string, x Ref, w Window) Ref { return b.Add(name, Conv2D{w}, x) }

// LC2D appends a locally connected layer.
func (b *Builder) LC2D(name string, x Ref, w Window) Ref { return b.Add(name, LC2D{w}, x) }

// BatchNorm appends batch normalisation with the authors' constants, ε = 1e-5 and momentum 0.1.
func (b *Builder) BatchNorm(name string, x Ref) Ref {
	return b.Add(name, BatchNorm{Eps: bnEps, Momentum: bnMomentum}, x)
}

// ReLU appends a rectifier.
func (b *Builder) ReLU(name string, x Ref) Ref { return b.Add(name, ReLU{}, x) }

// Sum appends the sum of two activations.
func (b *Builder) Sum(name string, x, y Ref) Ref { return b.Add(name, Add{}, x, y) }

// MaxPool appends a max pool.
func (b *Builder) MaxPool(name string, x Ref, kernel, stride int) Ref {
	return b.Add(name, MaxPool{Kernel: kernel, Stride: stride}, x)
}

// GlobalAvgPool appends the mean over positions.
func (b *Builder) GlobalAvgPool(name string, x Ref) Ref { return b.Add(name, GlobalAvgPool{}, x) }

// Transpose appends the exchange of positions and channels, positions of the output in one row.
func (b *Builder) Transpose(name string, x Ref) Ref { return b.Add(name, Transpose{}, x) }

// TransposeBack appends the exchange of positions and channels that gives the positions of a shape back.
func (b *Builder) TransposeBack(name string, x Ref, s Shape) Ref {
	return b.Add(name, Transpose{Rows: s.H, Cols: s.W}, x)
}

// Linear appends a fully connected layer.
func (b *Builder) Linear(name string, x Ref, out int) Ref { return b.Add(name, Linear{out}, x) }
