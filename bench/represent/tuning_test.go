package represent

import (
	"context"
	"encoding/json"
	"math"
	"math/cmplx"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// gabor is a filter of k x k pixels for bars of 8 pixels, which it meets at their edges, as (k, k, 3).
func gabor(k int, theta float64) []float64 {
	var w []float64
	for i := range k {
		for j := range k {
			y, x := float64(i-k/2), float64(j-k/2)
			v := math.Exp(-(x*x+y*y)/18) * math.Sin(2*math.Pi/8*(x*math.Cos(theta)+y*math.Sin(theta)))
			w = append(w, v, v, v)
		}
	}
	return w
}

// TestTuning: filters of known orientations prefer these; neurons of one group with one filter agree, with a filter each they do not;
// a blob without orientation is not selective, a neuron without weights is silent.
func TestTuning(t *testing.T) {
	const k, side, channels = 9, 18, 4
	b := net.NewBuilder("filters")
	b.LC2D("lc", b.Input(net.Shape{H: side, W: side, C: 3}), net.Window{Out: channels, Kernel: k, Stride: 1})
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	blob := make([]float64, 0, 3*k*k)
	for i := range k {
		for j := range k {
			y, x := float64(i-k/2), float64(j-k/2)
			v := math.Exp(-(x*x + y*y) / 4)
			blob = append(blob, v, v, v)
		}
	}
	s := rng.New(1, rng.Test, 0)
	var w []float64
	oblique := math.Pi * 3 / 16
	for position := range side * side {
		w = append(w, gabor(k, oblique)...)                                               // one for all
		w = append(w, gabor(k, math.Pi*float64(s.Uint64(uint64(position))%997)/997.0)...) // each its own
		w = append(w, blob...)
		w = append(w, make([]float64, 3*k*k)...)
	}
	e, err := ref.Open().Compile(n, core.Options{MaxBatch: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	p := &model.Params{}
	p.Add(model.NewTensor("lc.weight", []int{side, side, channels, k, k, 3}, w))
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	g := DefaultGratings()
	all, err := Tune(context.Background(), e, n, []string{"lc"}, g)
	if err != nil {
		t.Fatal(err)
	}
	if r := all[0]; r.Silent != side*side || r.Units != 3*side*side {
		t.Errorf("%+v", r)
	}
	// By channel, in the middle, where no padding cuts a filter.
	layer := &tuned{node: n.Nodes[1]}
	show := func(x core.Batch, take func(*tuned, []float64)) {
		if err := respond(context.Background(), e, x, []*tuned{layer}, take); err != nil {
			t.Fatal(err)
		}
	}
	show(core.Batch{N: 1, Pixels: make([]float32, side*side*3)}, func(l *tuned, y []float64) { l.blank = append([]float64(nil), y...) })
	for _, f := range g.Frequencies {
		for o := range g.Orientations {
			show(g.pixels(n.Input(), math.Pi*float64(o)/16, f), func(l *tuned, y []float64) { l.add(y, g.Phases) })
		}
	}
	middle := (side/2*side + side/2) * channels
	v, ok := layer.vector(middle, g)
	if angle := cmplx.Phase(v) / 2; !ok || !(math.Abs(angle-oblique) < math.Pi/32) || !(cmplx.Abs(v) > 0.4) { // half the distance of two gratings
		t.Errorf("a filter of %.3f prefers %.3f, selectivity %.2f", oblique, cmplx.Phase(v)/2, cmplx.Abs(v))
	}
	if v, ok := layer.vector(middle+2, g); !ok || !(cmplx.Abs(v) < 0.1) {
		t.Errorf("a blob has selectivity %.2f", cmplx.Abs(v))
	}
	if _, ok := layer.vector(middle+3, g); ok {
		t.Error("a neuron without weights responds")
	}
	agreement := func(channel int) float64 { // of the whole channel, in the middle
		sum, count := complex(0, 0), 0
		for i := k; i < side-k+1; i++ {
			for j := k / 2; j < side-k/2; j++ {
				if v, ok := layer.vector((i*side+j)*channels+channel, g); ok {
					sum += v / complex(cmplx.Abs(v), 0)
					count++
				}
			}
		}
		return cmplx.Abs(sum) / float64(count)
	}
	if same, own := agreement(0), agreement(1); !(same > 0.999) || !(own < 0.6) {
		t.Errorf("agreement %.3f of one filter, %.3f of a filter each", same, own)
	}
	if text, err := json.Marshal(Tuning{Agreement: nullable(math.NaN())}); err != nil || len(text) == 0 {
		t.Errorf("%s, %v", text, err)
	}
	if _, err := Tune(context.Background(), e, n, []string{"nosuch"}, g); err == nil {
		t.Error("a layer that is not there was tuned")
	}
}
