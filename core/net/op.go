package net

import "fmt"

// Op is what a node computes. The set is closed: Input, Conv2D, LC2D, BatchNorm, ReLU, Add, MaxPool, GlobalAvgPool,
// Transpose and Linear; backends switch over it.
type Op interface {
	// Kind is the name in files and messages.
	Kind() string
	// resolve checks the inputs' shapes and gives the output's.
	resolve(in []Shape) (Shape, error)
	// params lists the parameters; their names are only the suffixes.
	params(in, out Shape) []Param
	// macs is the number of multiply-adds for one image, zero-padded taps not counted.
	macs(in, out Shape) int64
}

// Input is the image itself, normalised.
type Input struct{ Shape Shape }

// Window is the geometry that conv2d and lc2d share. The output has (H/Stride, W/Stride) positions and position i reads
// the inputs i·Stride - pad + {0, …, Kernel-1}. Padding is 'same', (Kernel-1)/2 zeros on every side, or none where
// Patches is set.
type Window struct {
	Out    int  `json:"out"`              // N, output channels
	Kernel int  `json:"kernel"`           // k; odd, unless Patches is set
	Stride int  `json:"stride"`           // s; must divide H and W
	Groups int  `json:"groups,omitempty"` // g; must divide Cin and Out; 0 means 1
	Bias   bool `json:"bias,omitempty"`
	// Patches cuts the input into patches that neither overlap nor leave anything out: Stride must be Kernel, odd or
	// even, and nothing is padded. It is a field of its own because a stride equal to an odd kernel has always
	// meant windows that padding shifts by (Kernel-1)/2. In an lc2d all positions are one sleep group (Appendix A.4).
	Patches bool `json:"patches,omitempty"`
}

// Conv2D is a convolution: the same N kernels at every position.
type Conv2D struct{ Window }

// LC2D is a locally connected layer: the receptive fields of a convolution, kernels of its own at every position.
type LC2D struct{ Window }

// BatchNorm normalises each channel over batch and positions: gain·(x-mean)/sqrt(var+Eps)+shift. Training uses the
// batch's mean and biased variance and moves the running statistics by Momentum towards the batch's mean and
// unbiased variance; inference uses the running statistics (Ioffe and Szegedy 2015; constants as in PyTorch).
type BatchNorm struct {
	Eps      float64 `json:"eps"`
	Momentum float64 `json:"momentum"`
}

// ReLU is max(x, 0). A NaN stays a NaN.
type ReLU struct{}

// Add is the sum of two activations of one shape.
type Add struct{}

// MaxPool is the maximum over a window with (Kernel-1)/2 of padding that never wins. On a tie the first position in
// row-major order gets the gradient. A NaN in the window is the result.
type MaxPool struct {
	Kernel int `json:"kernel"`
	Stride int `json:"stride"`
}

// GlobalAvgPool is the mean over all positions of each channel.
type GlobalAvgPool struct{}

// Transpose exchanges positions and channels: (H, W, Cin) becomes (Rows, Cols, H·W), whose channel p at position c is
// channel c at position p of the input, positions counted row by row. Rows·Cols must be Cin; both 0 stand for 1·Cin, one
// row. So Transpose{} and then Transpose{H, W} give the activation back.
type Transpose struct {
	Rows int `json:"rows,omitempty"`
	Cols int `json:"cols,omitempty"`
}

// Linear is a fully connected layer with bias on a 1x1xC activation.
type Linear struct {
	Out int `json:"out"` // N
}

func (Input) Kind() string         { return "input" }
func (Conv2D) Kind() string        { return "conv2d" }
func (LC2D) Kind() string          { return "lc2d" }
func (BatchNorm) Kind() string     { return "batchnorm" }
func (ReLU) Kind() string          { return "relu" }
func (Add) Kind() string           { return "add" }
func (MaxPool) Kind() string       { return "maxpool" }
func (GlobalAvgPool) Kind() string { return "globalavgpool" }
func (Transpose) Kind() string     { return "transpose" }
func (Linear) Kind() string        { return "linear" }

// Pad is the number of zeros on each side.
func (w Window) Pad() int {
	if w.Patches {
		return 0
	}
	return (w.Kernel - 1) / 2
}

// Span returns the kernel offsets [lo, hi) along one axis that fall on real inputs for output position i of an input
// of n; the others fall on padding.
func (w Window) Span(i, n int) (lo, hi int) {
	first := i*w.Stride - w.Pad()
	return max(0, -first), min(w.Kernel, n-first)
}

func (w Window) resolve(in []Shape) (Shape, error) {
	x := in[0]
	switch {
	case w.Patches && (w.Kernel < 1 || w.Stride != w.Kernel):
		return Shape{}, fmt.Errorf("patches with kernel %d and stride %d: both must be the same positive number", w.Kernel, w.Stride)
	case !w.Patches && (w.Kernel < 1 || w.Kernel%2 == 0):
		return Shape{}, fmt.Errorf("kernel %d is not an odd positive number", w.Kernel)
	case w.Stride < 1:
		return Shape{}, fmt.Errorf("stride %d is below 1", w.Stride)
	case w.Groups < 1:
		return Shape{}, fmt.Errorf("%d groups are below 1", w.Groups)
	case w.Out < 1:
		return Shape{}, fmt.Errorf("%d output channels are below 1", w.Out)
	case x.H%w.Stride != 0 || x.W%w.Stride != 0:
		return Shape{}, fmt.Errorf("stride %d does not divide the input's %dx%d positions", w.Stride, x.H, x.W)
	case x.C%w.Groups != 0 || w.Out%w.Groups != 0:
		return Shape{}, fmt.Errorf("%d groups do not divide %d input and %d output channels", w.Groups, x.C, w.Out)
	}
	return Shape{H: x.H / w.Stride, W: x.W / w.Stride, C: w.Out}, nil
}

// macs counts the taps on real inputs, row by row and column by column.
func (w Window) macs(in, out Shape) int64 {
	rows, cols := 0, 0
	for i := range out.H {
		lo, hi := w.Span(i, in.H)
		rows += hi - lo
	}
	for j := range out.W {
		lo, hi := w.Span(j, in.W)
		cols += hi - lo
	}
	return product(rows, cols, w.Out, in.C/w.Groups)
}

func (o Conv2D) params(in, _ Shape) []Param {
	ps := []Param{{Name: "weight", Role: Weight, Shape: []int{o.Out, o.Kernel, o.Kernel, in.C / o.Groups}}}
	if o.Bias {
		ps = append(ps, Param{Name: "bias", Role: Bias, Shape: []int{o.Out}})
	}
	return ps
}

func (o LC2D) params(in, out Shape) []Param {
	ps := []Param{{Name: "weight", Role: Weight, Shape: []int{out.H, out.W, o.Out, o.Kernel, o.Kernel, in.C / o.Groups}}}
	if o.Bias {
		ps = append(ps, Param{Name: "bias", Role: Bias, Shape: []int{out.H, out.W, o.Out}})
	}
	return ps
}

func (o Input) resolve([]Shape) (Shape, error) { return o.Shape, nil }
func (Input) params(_, _ Shape) []Param        { return nil }
func (Input) macs(_, _ Shape) int64            { return 0 }

func (o BatchNorm) resolve(in []Shape) (Shape, error) {
	if !(o.Eps > 0) {
		return Shape{}, fmt.Errorf("eps %g is not above 0", o.Eps)
	}
	if !(o.Momentum > 0 && o.Momentum <= 1) {
		return Shape{}, fmt.Errorf("momentum %g is outside (0, 1]", o.Momentum)
	}
	return in[0], nil
}
func (BatchNorm) params(in, _ Shape) []Param {
	c := []int{in.C}
	return []Param{
		{Name: "gain", Role: Gain, Shape: c}, {Name: "shift", Role: Shift, Shape: c},
		{Name: "mean", Role: RunningMean, Shape: c}, {Name: "var", Role: RunningVar, Shape: c},
	}
}
func (BatchNorm) macs(_, out Shape) int64 { return int64(out.Len()) }

func (ReLU) resolve(in []Shape) (Shape, error) { return in[0], nil }
func (ReLU) params(_, _ Shape) []Param         { return nil }
func (ReLU) macs(_, _ Shape) int64             { return 0 }

func (Add) resolve(in []Shape) (Shape, error) {
	if in[0] != in[1] {
		return Shape{}, fmt.Errorf("the summands have different shapes, %v and %v", in[0], in[1])
	}
	return in[0], nil
}
func (Add) params(_, _ Shape) []Param { return nil }
func (Add) macs(_, _ Shape) int64     { return 0 }

// window gives MaxPool the geometry of a Window.
func (o MaxPool) window(c int) Window {
	return Window{Out: c, Kernel: o.Kernel, Stride: o.Stride, Groups: 1}
}

// Span is Window.Span for the pool's window.
func (o MaxPool) Span(i, n int) (lo, hi int) { return o.window(1).Span(i, n) }

func (o MaxPool) resolve(in []Shape) (Shape, error) { return o.window(in[0].C).resolve(in) }
func (MaxPool) params(_, _ Shape) []Param           { return nil }
func (MaxPool) macs(_, _ Shape) int64               { return 0 }

func (GlobalAvgPool) resolve(in []Shape) (Shape, error) { return Shape{H: 1, W: 1, C: in[0].C}, nil }
func (GlobalAvgPool) params(_, _ Shape) []Param         { return nil }
func (GlobalAvgPool) macs(_, _ Shape) int64             { return 0 }

func (o Transpose) resolve(in []Shape) (Shape, error) {
	x := in[0]
	if o == (Transpose{}) {
		o = Transpose{1, x.C}
	}
	if o.Rows < 1 || o.Cols < 1 || product(o.Rows, o.Cols) != int64(x.C) {
		return Shape{}, fmt.Errorf("%d channels do not make %dx%d positions", x.C, o.Rows, o.Cols)
	}
	return Shape{H: o.Rows, W: o.Cols, C: x.H * x.W}, nil
}
func (Transpose) params(_, _ Shape) []Param { return nil }
func (Transpose) macs(_, _ Shape) int64     { return 0 }

func (o Linear) resolve(in []Shape) (Shape, error) {
	if in[0].H != 1 || in[0].W != 1 {
		return Shape{}, fmt.Errorf("its input %v is not 1x1xC: pool first", in[0])
	}
	if o.Out < 1 {
		return Shape{}, fmt.Errorf("%d outputs are below 1", o.Out)
	}
	return Shape{H: 1, W: 1, C: o.Out}, nil
}
func (o Linear) params(in, _ Shape) []Param {
	return []Param{
		{Name: "weight", Role: Weight, Shape: []int{o.Out, in.C}},
		{Name: "bias", Role: Bias, Shape: []int{o.Out}},
	}
}
func (o Linear) macs(in, _ Shape) int64 { return product(in.C, o.Out) }

// inputs is how many activations the op takes.
func inputs(op Op) int {
	switch op.(type) {
	case Input:
		return 0
	case Add:
		return 2
	default:
		return 1
	}
}
