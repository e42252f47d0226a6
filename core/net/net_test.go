package net

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"gonum.org/v1/gonum/stat"

	"hypnos/core/model"
)

func mustByName(t *testing.T, name string, o Options) *Network {
	t.Helper()
	n, err := ByName(name, o)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The sizes of the paper's networks, from the table "Sizes" of the notes on the paper.
func TestSizesOfThePapersNetworks(t *testing.T) {
	for _, c := range []struct {
		name    string
		o       Options
		weights int64
	}{
		{"resnet20", Options{}, 270_256},
		{"resnet20-lc", Options{}, 40_812_544},
		{"resnet20", Options{Input: 48, Classes: 200}, 270_256},
		{"resnet20-lc", Options{Input: 48, Classes: 200}, 91_828_224},
		{"resnet18-half", Options{}, 2_794_080},
		{"resnet18-half-lc", Options{}, 482_893_824},
		// 64 patches of 48 numbers to 32 channels; 4 blocks of 2·64·16 weights that mix tokens, 2·32·128 that mix channels
		{"mixer", Options{}, 48*32 + 4*(2*64*16+2*32*128)},
		// one kernel a patch; a perceptron a channel for the tokens, a perceptron a token for the channels
		{"mixer-lc", Options{}, 64*48*32 + 4*(32*2*64*16+64*2*32*128)},
		{"mixer-lc", Options{Input: 24, Width: 6, Patch: 8, Depth: 1}, 9*192*6 + 6*2*9*3 + 9*2*6*24},
	} {
		n := mustByName(t, c.name, c.o)
		s := n.Summary()
		if s.Weights != c.weights {
			t.Errorf("%s at %d pixels has %d weights, want %d", c.name, n.Input().H, s.Weights, c.weights)
		}
		if s.Bytes["float32"] != 4*c.weights || s.Bytes["int16"] != 2*c.weights || s.Bytes["int8"] != c.weights {
			t.Errorf("%s: bytes %v for %d weights", c.name, s.Bytes, c.weights)
		}
	}
	n := mustByName(t, "resnet20", Options{Classes: 7})
	if s := n.Summary(); s.Linear != 64*7+7 || s.Output != (Shape{1, 1, 7}) {
		t.Errorf("ResNet20 with 7 classes: linear %d, output %v", s.Linear, s.Output)
	}
	// 2·(16+6·16 + 32·6+32 + 64·6+64) parameters of gain and shift in the 21 batch norms
	if s := n.Summary(); s.Params != s.Weights+s.Linear+2*(7*16+7*32+7*64) || s.Statistics != 2*(7*16+7*32+7*64) {
		t.Errorf("ResNet20: %d parameters, %d statistics", s.Params, s.Statistics)
	}
}

func TestLayersOfResNet20(t *testing.T) {
	n, lc := mustByName(t, "resnet20-lc", Options{}), 0
	for _, v := range n.Nodes {
		if _, ok := v.Op.(LC2D); ok {
			lc++
		}
		if _, ok := v.Op.(Conv2D); ok {
			t.Errorf("%s is convolutional", v.Name)
		}
	}
	if lc != 21 {
		t.Errorf("%d locally connected layers, want 21", lc)
	}
	first := mustByName(t, "resnet18-half-lc", Options{ConvOne: true})
	if _, ok := first.Nodes[1].Op.(Conv2D); !ok {
		t.Errorf("the first layer is %s in spite of ConvOne", first.Nodes[1].Op.Kind())
	}
	if _, ok := mustByName(t, "resnet18-half-lc", Options{}).Nodes[1].Op.(LC2D); !ok {
		t.Error("the first layer is not locally connected")
	}
}

// By hand: on 4x4 positions a 3x3 window with one pixel of padding has 2+3+3+2 taps along an axis, on 6x6 positions with
// stride 3 it has 2+3; patches have k for each of theirs.
func TestMACsLeavePaddingOut(t *testing.T) {
	for _, c := range []struct {
		w       Window
		in, out Shape
		want    int64
	}{
		{Window{Out: 5, Kernel: 3, Stride: 1, Groups: 1}, Shape{4, 4, 3}, Shape{4, 4, 5}, 10 * 10 * 5 * 3},
		{Window{Out: 5, Kernel: 3, Stride: 3, Groups: 1}, Shape{6, 6, 3}, Shape{2, 2, 5}, 5 * 5 * 5 * 3},
		{Window{Out: 5, Kernel: 3, Stride: 3, Groups: 1, Patches: true}, Shape{6, 6, 3}, Shape{2, 2, 5}, 6 * 6 * 5 * 3},
		{Window{Out: 4, Kernel: 2, Stride: 2, Groups: 2, Patches: true}, Shape{6, 4, 6}, Shape{3, 2, 4}, 6 * 4 * 4 * 3},
	} {
		out, err := c.w.resolve([]Shape{c.in})
		if err != nil || out != c.out {
			t.Errorf("%+v on %v: output %v (%v), want %v", c.w, c.in, out, err, c.out)
		}
		if got := c.w.macs(c.in, out); got != c.want {
			t.Errorf("%+v on %v: %d multiply-adds, want %d", c.w, c.in, got, c.want)
		}
	}
}

// Patches read the input without gaps or overlaps: window i holds i·k … i·k+k-1. A description that does not know them
// keeps its padding, also where stride and kernel are equal.
func TestPatchesAreNotPadded(t *testing.T) {
	for _, k := range []int{1, 2, 3, 4, 7} {
		w := Window{Out: 1, Kernel: k, Stride: k, Groups: 1, Patches: true}
		for i := range 3 {
			if lo, hi := w.Span(i, 3*k); w.Pad() != 0 || lo != 0 || hi != k {
				t.Errorf("patch %d of size %d: padding %d, taps %d to %d", i, k, w.Pad(), lo, hi)
			}
		}
	}
	const text = `{"name":"x","input":{"h":6,"w":6,"c":3},"nodes":[{"name":"a","op":"lc2d","in":["input"],"args":{"out":2,"kernel":3,"stride":3%s}}]}`
	for _, c := range []struct {
		more string
		pad  int
	}{{"", 1}, {`,"patches":false`, 1}, {`,"patches":true`, 0}} {
		var n Network
		if err := json.Unmarshal([]byte(fmt.Sprintf(text, c.more)), &n); err != nil {
			t.Fatal(err)
		}
		if got := n.Nodes[1].Op.(LC2D).Pad(); got != c.pad {
			t.Errorf("a description with %q: padding %d, want %d", c.more, got, c.pad)
		}
	}
}

// The mixer of Fig. 1 of its paper: what mixes tokens has channels as positions and tokens as channels, its result is
// brought back to the patches' rows and columns, and both perceptrons are skipped.
func TestLayersOfTheMixer(t *testing.T) {
	n := mustByName(t, "mixer-lc", Options{Input: 12, Width: 6, Patch: 3, Depth: 2})
	out := map[string]Shape{}
	for _, v := range n.Nodes {
		out[v.Name] = v.Out
		if _, ok := v.Op.(Conv2D); ok {
			t.Errorf("%s is convolutional", v.Name)
		}
	}
	for name, want := range map[string]Shape{
		"patches": {4, 4, 6}, "block2.tokens.transpose": {1, 6, 16}, "block2.tokens.mlp1": {1, 6, 3},
		"block2.tokens.mlp2": {1, 6, 16}, "block2.tokens.back": {4, 4, 6}, "block2.tokens.add": {4, 4, 6},
		"block2.channels.mlp1": {4, 4, 24}, "block2.channels.mlp2": {4, 4, 6}, "block2.channels.add": {4, 4, 6},
	} {
		if out[name] != want {
			t.Errorf("%s gives %v, want %v", name, out[name], want)
		}
	}
	first := mustByName(t, "mixer-lc", Options{ConvOne: true})
	if _, ok := first.Nodes[1].Op.(Conv2D); !ok || first.Summary().Weights != 48*32+4*(32*2*64*16+64*2*32*128) {
		t.Errorf("the patch embedding is %s in spite of ConvOne, or more than it", first.Nodes[1].Op.Kind())
	}
}

func TestDescriptionRoundTrip(t *testing.T) {
	n := 0
	for _, name := range Names() {
		want := mustByName(t, name, Options{})
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Network
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(&got, want) {
			t.Errorf("%s: description %s builds another network", name, text)
		}
		n++
	}
	if n != 10 {
		t.Errorf("%d networks described, want 10", n)
	}
}

func TestDescriptionRefuses(t *testing.T) {
	const in = `"name":"x","input":{"h":4,"w":4,"c":3}`
	for _, c := range []struct{ text, want string }{
		{`{` + in + `,"nodes":[]}`, "no layers"},
		{`{` + in + `,"nodes":[{"name":"a","op":"conv3d","in":["input"]}]}`, `layer "a": unknown op "conv3d"`},
		{`{` + in + `,"nodes":[{"name":"a","op":"relu","in":["b"]}]}`, `layer "a": no layer "b"`},
		{`{` + in + `,"nodes":[{"name":"a","op":"relu","in":["input"],"args":{"x":1}}]}`, `unknown field "x"`},
		{`{` + in + `,"nodes":[{"name":"a","op":"relu","in":["input"],"kernel":1}]}`, `unknown field "kernel"`},
		{`{"name":"x","input":{"h":0,"w":4,"c":3},"nodes":[{"name":"a","op":"relu","in":["input"]}]}`, "axis below 1"},
		{`[]`, "description"},
	} {
		var n Network
		if err := json.Unmarshal([]byte(c.text), &n); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.text, err, c.want)
		}
	}
}

// An impossible shape is one line that names the layer.
func TestImpossibleShapes(t *testing.T) {
	window := func(change func(*Window)) func(*Builder, Ref) Ref {
		w := Window{Out: 4, Kernel: 3, Stride: 1, Groups: 1}
		change(&w)
		return func(b *Builder, x Ref) Ref { return b.LC2D("bad", x, w) }
	}
	for _, c := range []struct {
		want string
		add  func(*Builder, Ref) Ref
	}{
		{"kernel 2 is not an odd", window(func(w *Window) { w.Kernel = 2 })},
		{"kernel 0 is not an odd", window(func(w *Window) { w.Kernel = 0 })},
		{"patches with kernel 3 and stride 1", window(func(w *Window) { w.Patches = true })},
		{"patches with kernel 0 and stride 0", window(func(w *Window) { w.Patches, w.Kernel, w.Stride = true, 0, 0 })},
		{"stride 4 does not divide", window(func(w *Window) { w.Patches, w.Kernel, w.Stride = true, 4, 4 })},
		{"3 channels do not make 2x2", func(b *Builder, x Ref) Ref { return b.TransposeBack("bad", x, Shape{H: 2, W: 2}) }},
		{"3 channels do not make 3x0", func(b *Builder, x Ref) Ref { return b.Add("bad", Transpose{Rows: 3}, x) }},
		{"stride 0", window(func(w *Window) { w.Stride = 0 })},
		{"stride 5 does not divide the input's 6x6", window(func(w *Window) { w.Stride = 5 })},
		{"-1 groups", window(func(w *Window) { w.Groups = -1 })},
		{"2 groups do not divide 3 input and 4 output", window(func(w *Window) { w.Groups = 2 })},
		{"0 output channels", window(func(w *Window) { w.Out = 0 })},
		{"has more than 2147483647 elements", window(func(w *Window) { w.Out = 1 << 30 })},
		{"weight [6 6 1000000 9 9 3] has more than", window(func(w *Window) { w.Out, w.Kernel = 1_000_000, 9 })},
		{"not 1x1xC", func(b *Builder, x Ref) Ref { return b.Linear("bad", x, 3) }},
		{"eps 0", func(b *Builder, x Ref) Ref { return b.Add("bad", BatchNorm{Momentum: 0.1}, x) }},
		{"momentum NaN", func(b *Builder, x Ref) Ref { return b.Add("bad", BatchNorm{Eps: 1, Momentum: math.NaN()}, x) }},
		{"1 inputs, want 2", func(b *Builder, x Ref) Ref { return b.Add("bad", Add{}, x) }},
		{"one input, its first node", func(b *Builder, x Ref) Ref { return b.Add("bad", Input{Shape{1, 1, 1}}) }},
		{"different shapes, 6x6x3 and 3x3x3", func(b *Builder, x Ref) Ref { return b.Sum("bad", x, b.MaxPool("p", x, 3, 2)) }},
		{"the name is taken", func(b *Builder, x Ref) Ref { return b.ReLU("bad", b.ReLU("bad", x)) }},
	} {
		b := NewBuilder("x")
		c.add(b, b.Input(Shape{6, 6, 3}))
		_, err := b.Build()
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"bad"`) {
			t.Errorf("error %v, want one with %q that names the layer", err, c.want)
		}
	}
	b := NewBuilder("x")
	x := b.Input(Shape{2, 2, 1})
	b.ReLU("idle", x)
	b.ReLU("out", x)
	if _, err := b.Build(); err == nil || !strings.Contains(err.Error(), `"idle": nothing reads its output`) {
		t.Errorf("an idle layer: %v", err)
	}
	for _, c := range []struct {
		name string
		o    Options
		want string
	}{
		{"resnet21", Options{}, "known: resnet8, resnet8-lc, resnet20,"},
		{"resnet20-lc", Options{Input: 30}, `"stage3.block1.conv1" (lc2d): stride 2 does not divide`},
		{"resnet20", Options{Classes: -1}, "number of classes -1"},
		{"resnet20", Options{ConvOne: true}, "convolutional already"},
		{"resnet20", Options{Patch: 4}, "has no patch size to choose"},
		{"resnet20-lc", Options{Depth: 4}, "has no number of blocks to choose"},
		{"mixer", Options{Depth: -1}, "number of blocks -1 is below 1"},
		{"mixer-lc", Options{Patch: 5}, `"patches" (lc2d): stride 5 does not divide`},
	} {
		if _, err := ByName(c.name, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ByName(%s, %+v): error %v, want one with %q", c.name, c.o, err, c.want)
		}
	}
}

// tensor reads one initial tensor.
func tensor(t *testing.T, p *model.Params, err error, name string) []float64 {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	v, err := p.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	x, err := v.Float64s()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// The standard error of the standard deviation of m normal draws is σ/√(2m), that of the mean σ/√m.
func TestInitDistribution(t *testing.T) {
	n := mustByName(t, "resnet8-lc", Options{})
	p, err := n.Init(InitOptions{Seed: 5})
	w := tensor(t, p, err, "stage2.block1.conv1.weight") // (16, 16, 32, 3, 3, 16)
	m, sigma := float64(len(w)), math.Sqrt2/math.Sqrt(32*9)
	mean, std := stat.MeanStdDev(w, nil)
	if !(math.Abs(mean) <= 4*sigma/math.Sqrt(m)) || !(math.Abs(std-sigma) <= 4*sigma/math.Sqrt(2*m)) {
		t.Errorf("mean %g and standard deviation %g of %g draws, want 0 and %g", mean, std, m, sigma)
	}
	if len(w) != 16*16*32*9*16 {
		t.Errorf("%d weights", len(w))
	}
	for name, want := range map[string]float64{"stem.bn.gain": 1, "stem.bn.shift": 0, "stem.bn.mean": 0, "stem.bn.var": 1} {
		for _, v := range tensor(t, p, nil, name) {
			if v != want {
				t.Errorf("%s holds %g, want %g", name, v, want)
			}
		}
	}
	largest := 0.0
	for _, name := range []string{"linear.weight", "linear.bias"} {
		for _, v := range tensor(t, p, nil, name) {
			largest = max(largest, math.Abs(v))
		}
	}
	if !(largest <= 0.125 && largest > 0.12) { // 1/√64, and 650 draws come close to it
		t.Errorf("linear parameters reach %g, want just below 0.125", largest)
	}
	again, err := n.Init(InitOptions{Seed: 6})
	if v := tensor(t, again, err, "stage2.block1.conv1.weight"); v[0] == w[0] && v[1] == w[1] {
		t.Error("another seed gives the same weights")
	}
}

// A tied LC layer starts as its convolutional twin; ε adds noise relative to the kernel's standard deviation.
func TestInitTied(t *testing.T) {
	conv := mustByName(t, "resnet8", Options{})
	lc := mustByName(t, "resnet8-lc", Options{})
	const name = "stage1.block1.conv1.weight" // (16, 3, 3, 16) and (32, 32, 16, 3, 3, 16)
	kernelParams, err := conv.Init(InitOptions{Seed: 1})
	kernel := tensor(t, kernelParams, err, name)
	for _, epsilon := range []float64{0, 0.5} {
		p, err := lc.Init(InitOptions{Seed: 1, Tied: true, Epsilon: epsilon})
		w := tensor(t, p, err, name)
		var noise []float64
		for i, v := range w {
			noise = append(noise, v-kernel[i%len(kernel)])
		}
		want := epsilon * math.Sqrt2 / math.Sqrt(16*9)
		if std := stat.StdDev(noise, nil); !(math.Abs(std-want) <= 4*want/math.Sqrt(2*float64(len(noise)))) {
			t.Errorf("ε = %g: the noise has standard deviation %g, want %g", epsilon, std, want)
		}
	}
	for _, o := range []InitOptions{{Epsilon: 0.1}, {Tied: true, Epsilon: -1}, {Tied: true, Epsilon: math.NaN()}} {
		if _, err := lc.Init(o); err == nil {
			t.Errorf("Init(%+v) was accepted", o)
		}
	}
}

func TestSummaryText(t *testing.T) {
	var b strings.Builder
	if err := mustByName(t, "resnet20-lc", Options{}).Summary().WriteText(&b); err != nil {
		t.Fatal(err)
	}
	var m strings.Builder
	if err := mustByName(t, "mixer-lc", Options{}).Summary().WriteText(&m); err != nil || !strings.Contains(m.String(), "4x4/4 patches") {
		t.Errorf("no patches in (%v)\n%s", err, m.String())
	}
	for _, want := range []string{"40,812,544 weights + 650 linear", "float32 163 MB, int16 82 MB, int8 41 MB, adam float32 653 MB", "stage2.block1.shortcut"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
