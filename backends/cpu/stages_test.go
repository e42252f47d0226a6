package cpu

import (
	"context"
	"reflect"
	"testing"

	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
)

// TestStages takes a learning step in one piece and in stages: the same bits.
func TestStages(t *testing.T) {
	const batch, lr = 5, 0.01
	b := net.NewBuilder("stages")
	x := b.LC2D("lc", b.Input(net.Shape{H: 4, W: 4, C: 3}), net.Window{Out: 18, Kernel: 3, Stride: 1})
	b.Linear("linear", b.GlobalAvgPool("pool", b.ReLU("relu", x)), 4)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	params, err := n.Init(net.InitOptions{Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	open := func() core.Engine {
		backend, err := Open(Options{Threads: 2})
		if err != nil {
			t.Fatal(err)
		}
		e, err := backend.Compile(n, core.Options{MaxBatch: batch, Train: true, Optimizer: optim.Default(optim.AdamW, 1e-2)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { e.Close() })
		if err := e.Load(params); err != nil {
			t.Fatal(err)
		}
		return e
	}
	images := core.Batch{N: batch, Pixels: make([]float32, batch*n.Input().Len())}
	for i := range images.Pixels {
		images.Pixels[i] = float32(i*37%101)/50 - 1
	}
	labels := core.Labels{0, 1, 2, 3, 1}

	whole, parts := open(), open()
	logits, err := parts.Infer(context.Background(), images)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := whole.Wake(context.Background(), images, labels, lr); err != nil {
		t.Fatal(err)
	}
	s, err := StagesOf(parts)
	if err != nil {
		t.Fatal(err)
	}
	var cotangent []float32
	row := make([]float64, logits.Classes)
	for i, label := range labels {
		core.SoftmaxGradient(row, logits.Row(i), label, 1.0/batch)
		for _, v := range row {
			cotangent = append(cotangent, float32(v))
		}
	}
	if err := s.Put(images, cotangent); err != nil {
		t.Fatal(err)
	}
	s.Forward()
	s.Backward()
	s.Update(lr)

	want, got := saved(t, whole), saved(t, parts)
	if len(want) == 0 || !reflect.DeepEqual(want, got) {
		t.Error("weights after the stages are not those after the whole step")
	}
	if err := s.Put(images, cotangent[1:]); err == nil {
		t.Error("Put takes a cotangent of another size")
	}
	if err := s.Put(core.Batch{N: batch + 1}, cotangent); err == nil {
		t.Error("Put takes a batch beyond the engine's limit")
	}
}

// saved are all tensors of an engine by name.
func saved(t *testing.T, e core.Engine) map[string]any {
	p, err := e.Save()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	for _, info := range p.Infos() {
		var v model.Tensor
		if v, err = p.Get(info.Name); err != nil {
			t.Fatal(err)
		}
		all[info.Name] = v.Data
	}
	return all
}

func TestStagesNeedTraining(t *testing.T) {
	backend, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := net.NewBuilder("small")
	b.ReLU("relu", b.Input(net.Shape{H: 1, W: 1, C: 1}))
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	e, err := backend.Compile(n, core.Options{MaxBatch: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := StagesOf(e); err == nil {
		t.Error("StagesOf takes an engine for inference")
	}
	if _, err := StagesOf(nil); err == nil {
		t.Error("StagesOf takes no engine")
	}
}

func TestLimitsOf(t *testing.T) {
	for _, v := range Versions() {
		l, err := LimitsOf(Options{Threads: 1, Kernels: v})
		if err != nil {
			t.Fatal(err)
		}
		if l.Kernels != v || l.Threads != 1 || l.FMA == nil || l.Read == nil || l.Copy == nil || l.Scale == nil {
			t.Errorf("limits of %s: %+v", v, l)
		}
	}
	if _, err := LimitsOf(Options{Kernels: "mmx"}); err == nil {
		t.Error("LimitsOf takes an unknown version")
	}
}
