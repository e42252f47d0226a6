//go:build cuda && cgo && linux && amd64

package main

import (
	"fmt"
	"math"
	"strings"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
)

// product is an LC layer at one batch size: side x side positions in and out, 3x3 receptive fields, as many channels in
// as out.
type product struct {
	side, channels, batch int
	data                  *operands // made when they are first asked for, and shared by all versions
}

// operands are random numbers: activations and their gradients (P, B, C), weights (P, Cout, 3, 3, Cin).
type operands struct{ x, dy, w []float32 }

const (
	kernel = 3
	taps   = kernel * kernel
)

func (p *product) positions() int64  { return int64(p.side) * int64(p.side) }
func (p *product) inputs() int64     { return taps * int64(p.channels) } // of a neuron
func (p *product) weights() int64    { return p.positions() * int64(p.channels) * p.inputs() }
func (p *product) activation() int64 { return p.positions() * int64(p.batch) * int64(p.channels) }
func (p *product) multiplies() float64 { // without those on the padding
	inside := float64(kernel*p.side - 2)
	return inside * inside * float64(p.batch) * float64(p.channels) * float64(p.channels)
}

func (p *product) geometry() kernels.Window {
	return kernels.Window{B: p.batch, H: p.side, W: p.side, Cin: p.channels, Ho: p.side, Wo: p.side, Cout: p.channels, K: kernel, Stride: 1,
		Pad: kernel / 2, Groups: 1, WeightStep: int64(p.channels) * p.inputs()}
}

// products are the LC layers of both networks, at the batch sizes that they are trained with.
func (b *bench) products() []*product {
	if b.small {
		return []*product{{side: 3, channels: 5, batch: 3}, {side: 4, channels: 16, batch: 16}}
	}
	var all []*product
	for _, batch := range []int{512, 256} {
		for _, side := range []int{32, 16, 8} {
			all = append(all, &product{side: side, channels: 512 / side, batch: batch})
		}
	}
	for _, side := range []int{56, 28, 14, 7} {
		all = append(all, &product{side: side, channels: 1792 / side, batch: 256})
	}
	return all
}

func (p *product) name() string {
	return fmt.Sprintf("%dx%dx%d/%d", p.channels, p.side, p.side, p.batch)
}

// operands makes the numbers, those of activations such that bf16 has them, and forgets those of the product before.
func (b *bench) operands(p *product) *operands {
	if b.product != p {
		if b.product != nil {
			b.product.data = nil
		}
		b.product = p
		p.data = &operands{b.floats(p.activation(), -1, 1), b.floats(p.activation(), -1e-2, 1e-2), b.floats(p.weights(), -0.1, 0.1)}
		for _, v := range [][]float32{p.data.x, p.data.dy} {
			for i := range v {
				v[i] = math.Float32frombits(math.Float32bits(v[i]) &^ 0xffff)
			}
		}
	}
	return p.data
}

// terms calls f with the two factors of every term of a sum.
type terms func(f func(a, b float32))

// pixel calls f with the position that tap (u, v) of position q sees, unless it is padding; back is the other way
// round.
func (p *product) pixel(q, u, v int) (int, bool) {
	y, x := q/p.side+u-kernel/2, q%p.side+v-kernel/2
	return y*p.side + x, y >= 0 && y < p.side && x >= 0 && x < p.side
}

// weight is where the weight of input channel j, tap (u, v), output channel c at position q lies.
func (p *product) weight(q, c, u, v, j int) int {
	return ((q*p.channels+c)*taps+u*kernel+v)*p.channels + j
}

// number is where the number of a position, image and channel lies.
func (p *product) number(q, image, c int) int { return (q*p.batch+image)*p.channels + c }

// forward are the terms of an output, inputGradient those of the gradient of an input, weightGradient those of a
// weight's.
func (p *product) forward(q, image, c int) terms {
	return func(f func(a, b float32)) {
		for t := range taps {
			if at, ok := p.pixel(q, t/kernel, t%kernel); ok {
				for j := range p.channels {
					f(p.data.x[p.number(at, image, j)], p.data.w[p.weight(q, c, t/kernel, t%kernel, j)])
				}
			}
		}
	}
}

func (p *product) inputGradient(q, image, j int) terms {
	return func(f func(a, b float32)) {
		for t := range taps {
			if from, ok := p.pixel(q, kernel-1-t/kernel, kernel-1-t%kernel); ok {
				for c := range p.channels {
					f(p.data.dy[p.number(from, image, c)], p.data.w[p.weight(from, c, t/kernel, t%kernel, j)])
				}
			}
		}
	}
}

func (p *product) weightGradient(q, c, u, v, j int) terms {
	return func(f func(a, b float32)) {
		if at, ok := p.pixel(q, u, v); ok {
			for image := range p.batch {
				f(p.data.x[p.number(at, image, j)], p.data.dy[p.number(q, image, c)])
			}
		}
	}
}

// errorOf is the error of got as a share of its bound, for a sum of products in a precision.
//
// In f32 a sum of n terms is rounded n times at most: n·2^-24 of the sum of magnitudes, and one more for good measure.
// Tensor cores add in float32 and may cut off instead of rounding: 2^-23 each. tf32 rounds both factors to 11 bits:
// 2^-11 each; bf16 rounds weights to 8 bits, 2^-9, activations are bf16 already, and so is a result that is one.
func errorOf(worst float64, got float32, precision string, weights, narrow bool, sum terms) float64 {
	want, magnitude, n := 0.0, 0.0, 1.0
	sum(func(a, b float32) {
		want += float64(a) * float64(b)
		magnitude += math.Abs(float64(a) * float64(b))
		n++
	})
	bound := n * half * magnitude
	switch precision {
	case "tf32":
		bound = (2*n*half + 0x1p-10 + 0x1p-22) * magnitude
	case "bf16":
		bound = 2 * n * half * magnitude
		if weights {
			bound += 0x1p-9 * magnitude
		}
		if narrow {
			bound += 0x1p-9 * (math.Abs(want) + bound)
		}
	}
	return worse(worst, got, want, bound)
}

// version is one form of the three products: the name of a kernel and its launch, by kind of product, geometry and precision.
type version func(kind string, g kernels.Window, precision string) (name string, size kernels.Launch)

// versions is the ladder: a thread a number, then tiles.
func versions() []version { return []version{naive, tiled} }

func naive(kind string, g kernels.Window, precision string) (string, kernels.Launch) {
	size := map[string]func() kernels.Launch{
		"forward": g.NaiveForward, "input_gradient": g.NaiveInputGradient, "weight_gradient": g.NaiveWeightGradient,
	}[kind]
	return "naive_window_" + kind + "_" + precision, size()
}

func tiled(kind string, g kernels.Window, precision string) (string, kernels.Launch) {
	size, tile := map[string]func() (kernels.Launch, kernels.Tile){
		"forward": g.Forward, "input_gradient": g.InputGradient, "weight_gradient": g.WeightGradient,
	}[kind]()
	return fmt.Sprintf("window_%s_%s_%v", kind, precision, tile), size
}

// windows lists the three products of every layer in every version and precision.
func (b *bench) windows() []subject {
	precisions := []string{"f32", "tf32", "bf16"}
	if b.device.Info().Major < 8 {
		precisions = precisions[:1]
	}
	var all []subject
	for _, p := range b.products() {
		for _, v := range versions() {
			for _, precision := range precisions {
				all = append(all, b.window(p, v, "forward", precision), b.window(p, v, "input_gradient", precision),
					b.window(p, v, "weight_gradient", precision))
			}
		}
	}
	return all
}

func (b *bench) window(p *product, v version, kind, precision string) subject {
	name, size := v(kind, p.geometry(), precision)
	s := subject{kernel: name, size: p.name(), flop: 2 * p.multiplies(), arithmetic: precision}
	element := int64(4)
	switch precision {
	case "f32":
		s.arithmetic = "fma"
	case "bf16":
		element = 2
	}
	s.bytes = float64(4*p.weights() + 2*element*p.activation())
	s.prepare = func() (job, error) { return b.prepareWindow(p, kind, name, size, precision, element) }
	return s
}

// together adds for every layer and precision the fastest versions of the three products: a forward and a backward
// pass.
func together(rows []row) (all []row) {
	for _, precision := range []string{"f32", "tf32", "bf16"} {
		best := map[string]map[string]row{} // by size and product
		var sizes []string
		for _, r := range rows {
			_, product, ok := strings.Cut(r.Kernel, "window_")
			kind, _, found := strings.Cut(product, "_"+precision) // the tile may follow
			if !ok || !found {
				continue
			}
			if best[r.Size] == nil {
				best[r.Size] = map[string]row{}
				sizes = append(sizes, r.Size)
			}
			if old, ok := best[r.Size][kind]; !ok || r.MS < old.MS {
				best[r.Size][kind] = r
			}
		}
		for _, size := range sizes {
			sum, least := row{Kernel: "window_" + precision, Size: size, Right: true, Binds: "both"}, 0.0
			for _, r := range best[size] {
				sum.Worst, sum.Right = max(sum.Worst, r.Worst), sum.Right && r.Right
				sum.GBs = (sum.GBs*sum.MS + r.GBs*r.MS) / (sum.MS + r.MS)
				sum.MS += r.MS
				least += r.Share * r.MS
			}
			sum.Share = least / sum.MS
			all = append(all, sum)
		}
	}
	return all
}

func (b *bench) prepareWindow(p *product, kind, name string, size kernels.Launch, precision string, element int64) (job, error) {
	g, data := p.geometry(), b.operands(p)
	launch, err := b.function(name, size)
	if err != nil {
		return job{}, err
	}
	j := job{sets: b.sets(2*element*p.activation() + 4*p.weights())}
	// What a kernel writes begins as what it would read, which is none of its results.
	x, err := b.putElements(data.x, element, j.sets)
	if err != nil {
		return job{}, err
	}
	dy, err := b.putElements(data.dy, element, j.sets)
	if err != nil {
		return job{}, err
	}
	w, err := b.put(data.w, j.sets)
	if err != nil {
		return job{}, err
	}
	flags, err := b.putInts([]int32{0})
	if err != nil {
		return job{}, err
	}
	geometry := []any{g.B, g.H, g.W, g.Cin, g.Ho, g.Wo, g.Cout, g.K, g.Stride, g.Pad, g.Groups, g.WeightStep, g.BiasStep}
	var parts []any
	if !strings.HasPrefix(name, "naive") {
		parts = []any{g.Parts()}
	}
	j.launch = func(i int) {
		switch kind {
		case "forward":
			launch(append([]any{x[i], w[i], driver.Ptr(0), dy[i]}, geometry...)...)
		case "input_gradient":
			launch(append([]any{dy[i], w[i], x[i], 0}, geometry...)...)
		case "weight_gradient":
			args := append([]any{x[i], dy[i], w[i]}, parts...)
			launch(append(append(args, flags, 0), geometry...)...)
		}
	}
	j.worst = func() (worst float64, err error) {
		var got []float32
		switch kind {
		case "forward":
			got, err = b.getElements(dy[0], element, p.activation())
		case "input_gradient":
			got, err = b.getElements(x[0], element, p.activation())
		case "weight_gradient":
			got, err = b.get(w[0], p.weights())
		}
		if err != nil {
			return 0, err
		}
		for q := range int(p.positions()) { // some results of every position, borders and all
			for range 4 {
				image, c, in, u, v := b.rng.IntN(p.batch), b.rng.IntN(p.channels), b.rng.IntN(p.channels), b.rng.IntN(kernel), b.rng.IntN(kernel)
				switch kind {
				case "forward":
					worst = errorOf(worst, got[p.number(q, image, c)], precision, true, true, p.forward(q, image, c))
				case "input_gradient":
					worst = errorOf(worst, got[p.number(q, image, in)], precision, true, true, p.inputGradient(q, image, in))
				case "weight_gradient":
					worst = errorOf(worst, got[p.weight(q, c, u, v, in)], precision, false, false, p.weightGradient(q, c, u, v, in))
				}
			}
		}
		return worst, nil
	}
	return j, nil
}

// putElements allocates so many arrays of float32, or of bf16, which the numbers are.
func (b *bench) putElements(v []float32, element int64, copies int) ([]driver.Ptr, error) {
	if element == 4 {
		return b.put(v, copies)
	}
	packed := make([]float32, (len(v)+1)/2)
	for i, x := range v {
		bits := math.Float32bits(packed[i/2]) | math.Float32bits(x)>>16<<(16*(i%2))
		packed[i/2] = math.Float32frombits(bits)
	}
	return b.put(packed, copies)
}

// getElements reads such an array.
func (b *bench) getElements(p driver.Ptr, element, n int64) ([]float32, error) {
	if element == 4 {
		return b.get(p, n)
	}
	packed, err := b.get(p, (n+1)/2)
	v := make([]float32, n)
	for i := range v {
		v[i] = math.Float32frombits(math.Float32bits(packed[i/2]) >> (16 * (i % 2)) << 16)
	}
	return v, err
}
