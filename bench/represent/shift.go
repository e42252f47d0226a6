package represent

import (
	"context"
	"errors"
	"fmt"
	"math"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// Shift is how much of a layer's response does not move along with its input.
type Shift struct {
	Layer    string `json:"layer"`
	Position int    `json:"positions"` // of the output, by which the response should have moved
	Input    int    `json:"input"`     // positions by which the input was shifted, Position times the stride
	// Error is Σ(f(T x) - T f(x))² over Σ(f(x) - its channel's mean)², over images and the output positions whose receptive fields
	// lie within both. 0 is a layer that shares its weights at this distance; independent weights give about 2.
	Error float64 `json:"error"`
}

// Shifts shifts the input of every locally connected layer, as it is for a batch of images, by 1 to Period positions of its
// output along the rows, and compares the layer's response by itself with the shifted response. After a sleep that shares the
// weights of grids, the error is 0 at the period, the paper's "every k-th position" (Section 4.1), and not before.
func Shifts(ctx context.Context, e core.Engine, n *net.Network, x core.Batch) ([]Shift, error) {
	p, err := e.Save()
	if err != nil {
		return nil, err
	}
	inputs := map[string][]float64{} // by node
	for t, err := range e.Trace(ctx, x, core.Probe{}) {
		if err != nil {
			return nil, err
		}
		v, err := t.Float64s()
		if err != nil {
			return nil, err
		}
		for _, l := range sleep.Layers(n) {
			if from := n.Nodes[n.Nodes[l.Node].Inputs[0]].Name; t.Name == "out/"+from {
				inputs[l.Name] = append([]float64(nil), v...)
			}
		}
	}
	var all []Shift
	for _, l := range sleep.Layers(n) {
		shifts, err := shifted(ctx, n.Nodes[l.Node], l, p, inputs[l.Name], x.N)
		if err != nil {
			return nil, fmt.Errorf("represent: layer %q: %w", l.Name, err)
		}
		all = append(all, shifts...)
	}
	return all, nil
}

// shifted measures one layer on its own input x, (B, H, W, C).
func shifted(ctx context.Context, v net.Node, l sleep.Layer, p *model.Params, x []float64, images int) ([]Shift, error) {
	b := net.NewBuilder(v.Name)
	b.Add(v.Name, v.Op, b.Input(v.In))
	alone, err := b.Build()
	if err != nil {
		return nil, err
	}
	own := &model.Params{}
	for _, q := range alone.Params() {
		t, err := p.Get(q.Name)
		if err != nil {
			return nil, err
		}
		own.Add(t)
	}
	e, err := ref.Open().Compile(alone, core.Options{MaxBatch: images})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	if err := e.Load(own); err != nil {
		return nil, err
	}
	respond := func(by int) ([]float64, error) {
		for t, err := range e.Trace(ctx, core.Batch{N: images, Pixels: moved(x, v.In, images, by)}, core.Probe{}) {
			if err != nil {
				return nil, err
			}
			if t.Name == "out/"+v.Name {
				y, err := t.Float64s()
				return append([]float64(nil), y...), err
			}
		}
		return nil, fmt.Errorf("no response")
	}
	still, err := respond(0)
	if err != nil {
		return nil, err
	}
	var all []Shift
	for d := 1; d <= l.Period(); d++ {
		y, err := respond(d * l.Window.Stride)
		if err != nil {
			return nil, err
		}
		s := Shift{Layer: v.Name, Position: d, Input: d * l.Window.Stride}
		var ok bool
		switch s.Error, ok = apart(y, still, v, l.Window, images, d); {
		case math.IsNaN(s.Error) || math.IsInf(s.Error, 0):
			return nil, errors.New("its response is not finite")
		case ok: // a map may be too small for the distance
			all = append(all, s)
		}
	}
	return all, nil
}

// moved is x with every row's positions shifted to the right, zeros coming in.
func moved(x []float64, s net.Shape, images, by int) []float32 {
	y := make([]float32, len(x))
	for row := range images * s.H {
		for j := by; j < s.W; j++ {
			for c := range s.C {
				y[(row*s.W+j)*s.C+c] = float32(x[(row*s.W+j-by)*s.C+c])
			}
		}
	}
	return y
}

// apart is the error at a shift of d positions: y is the response to the shifted input.
func apart(y, still []float64, v net.Node, w net.Window, images, d int) (float64, bool) {
	inside := func(i, n int) bool { lo, hi := w.Span(i, n); return lo == 0 && hi == w.Kernel }
	var difference, spread float64
	count := 0
	means := make([]float64, v.Out.C)
	each := func(f func(here, before, c int)) {
		for row := range images * v.Out.H {
			for j := d; j < v.Out.W; j++ {
				// Both fields lie on the input, and that of the shifted one on what came from it.
				if !inside(row%v.Out.H, v.In.H) || !inside(j, v.In.W) || !inside(j-d, v.In.W) {
					continue
				}
				for c := range v.Out.C {
					f((row*v.Out.W+j)*v.Out.C+c, (row*v.Out.W+j-d)*v.Out.C+c, c)
				}
			}
		}
	}
	each(func(_, before, c int) { means[c] += still[before]; count++ })
	for c := range means {
		means[c] *= float64(v.Out.C) / float64(max(count, 1))
	}
	each(func(here, before, c int) {
		e, m := y[here]-still[before], still[before]-means[c]
		difference, spread = difference+e*e, spread+m*m
	})
	if spread == 0 {
		return 0, false
	}
	return difference / spread, true
}
