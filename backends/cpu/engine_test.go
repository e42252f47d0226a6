package cpu

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"testing"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

func byName(t *testing.T, name string) *net.Network {
	t.Helper()
	n, err := net.ByName(name, net.Options{Width: 8})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// ready compiles a network on two threads and loads its initial weights.
func ready(t *testing.T, n *net.Network, o core.Options) *engine {
	t.Helper()
	e, err := compile(n, o, 2, kernel.Versions()[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := n.Init(net.InitOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	return e
}

func images(n *net.Network, batch int) core.Batch {
	x := core.Batch{N: batch, Pixels: make([]float32, batch*n.Input().Len())}
	for i := range x.Pixels {
		x.Pixels[i] = float32(i%17)/8 - 1
	}
	return x
}

// A learning step allocates nothing after the first of its batch size, whatever the optimiser.
func TestStepsDoNotAllocate(t *testing.T) {
	for _, kind := range []optim.Kind{optim.AdamW, optim.SGD} {
		for _, name := range []string{"resnet8", "resnet8-lc"} {
			n := byName(t, name)
			e := ready(t, n, core.Options{MaxBatch: 6, Train: true, Optimizer: optim.Default(kind, 1e-2)})
			x, y := images(n, 6), make(core.Labels, 6)
			step := func() {
				if _, err := e.Wake(context.Background(), x, y, 1e-3); err != nil {
					t.Fatal(err)
				}
			}
			step()
			if allocs := testing.AllocsPerRun(5, step); allocs != 0 {
				t.Errorf("%s with %s: %v allocations a step", name, kind, allocs)
			}
		}
	}
}

// Training and inference of the same weights agree whether layers are fused or not, and whether buffers are used again:
// Trace leaves every layer's own output behind.
//
// Both compute the same products in the same order; they differ in each batch norm, by x·scale + offset for
// (x - centre)·scale + shift: at most 6 roundings, u each, of terms no larger than the activations here, where centres
// and shifts are 0. Behind it errors go through the same layers as activations do, which the next norms keep at one
// size, so that those of L norms add up to 6uL of the size of the output; 4 times that is for the largest of many.
func TestFusedInference(t *testing.T) {
	compared := 0
	for _, name := range []string{"resnet8", "resnet8-lc", "resnet18-lc"} {
		o := net.Options{Width: 8}
		if name == "resnet18-lc" {
			o = net.Options{Input: 64, Width: 4, Classes: 7}
		}
		n, err := net.ByName(name, o)
		if err != nil {
			t.Fatal(err)
		}
		norms := 0
		for _, v := range n.Nodes {
			if _, ok := v.Op.(net.BatchNorm); ok {
				norms++
			}
		}
		bound := 4 * 6 * 0x1p-24 * float64(norms)
		for _, batch := range []int{1, 2, 5, 17} {
			for _, train := range []bool{false, true} {
				e := ready(t, n, core.Options{MaxBatch: batch, Train: train, Optimizer: optim.Default(optim.SGD, 0)})
				x := images(n, batch)
				logits, err := e.Infer(context.Background(), x)
				if err != nil {
					t.Fatal(err)
				}
				var last []float32
				for tensor, err := range e.Trace(context.Background(), x, core.Probe{}) {
					if err != nil {
						t.Fatal(err)
					}
					last = append(last[:0], tensor.Data.([]float32)...)
				}
				largest := float32(0)
				for _, v := range last {
					largest = max(largest, v, -v)
				}
				for i, v := range last { // (B, classes) both
					if d := logits.Values[i] - float64(v); !(max(d, -d) <= bound*float64(largest)) {
						t.Fatalf("%s, batch %d, train %v: output %d is %g fused, %g layer by layer", name, batch, train, i, logits.Values[i], v)
					}
					compared++
				}
			}
		}
	}
	if compared != 2*25*(10+10+7) {
		t.Errorf("%d outputs compared", compared)
	}
}

// What an engine will not have room for is refused before it is allocated, with both figures.
func TestMemory(t *testing.T) {
	n := byName(t, "resnet8-lc")
	o := core.Options{MaxBatch: 64, Train: true, Optimizer: optim.Default(optim.AdamW, 0)}
	b, err := Open(Options{Memory: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Compile(n, o)
	if !errors.Is(err, core.ErrUnsupported) || !strings.Contains(err.Error(), "batches of 64 takes") || !strings.Contains(err.Error(), "1 MB are free") {
		t.Errorf("error %v", err)
	}
	m, err := b.Memory(n, o)
	if err != nil {
		t.Fatal(err)
	}
	trained := 0
	for _, q := range n.Params() {
		if q.Trained() {
			trained += q.Len()
		}
	}
	// Arrays begin on cache lines: at most 15 floats more for each of the network's.
	if room := int64(60 * len(n.Params())); m.Gradients < int64(4*trained) || m.Gradients > int64(4*trained)+room || m.Optimizer != 2*m.Gradients {
		t.Errorf("%+v for %d trained parameters", m, trained)
	}
	o.Train = false
	if inference, err := b.Memory(n, o); err != nil || inference.Gradients+inference.Optimizer != 0 || 2*inference.Activations > m.Activations {
		t.Errorf("inference takes %+v, training %+v (%v)", inference, m, err)
	}
}

// A sleep phase of a network takes little memory beside its weights: accumulators of a few blocks.
func TestSleepMemory(t *testing.T) {
	n := byName(t, "resnet8-lc")
	e := ready(t, n, core.Options{MaxBatch: 1})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	weights := uint64(4 * n.Summary().Weights)
	if used := after.TotalAlloc - before.TotalAlloc; used > weights/2 {
		t.Errorf("a sleep of %d bytes of weights allocated %d", weights, used)
	}
}

// Sleep does not read weights to find out whether they are finite where an update has told; so an update must tell.
func TestUpdateTellsNonFinite(t *testing.T) {
	for _, kind := range []optim.Kind{optim.AdamW, optim.SGD} {
		n := byName(t, "resnet8-lc")
		e := ready(t, n, core.Options{MaxBatch: 2, Train: true, Optimizer: optim.Default(kind, 1)})
		asleep := func() error {
			_, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}})
			return err
		}
		wake := func(lr float64) {
			t.Helper()
			if _, err := e.Wake(context.Background(), images(n, 2), make(core.Labels, 2), lr); err != nil {
				t.Fatal(err)
			}
		}
		wake(1e-6)
		if err := asleep(); err != nil {
			t.Errorf("%s: finite weights: %v", kind, err)
		}
		wake(2 * math.MaxFloat32) // in float32 it is infinite, and so are the weights
		if err := asleep(); err == nil || !strings.Contains(err.Error(), "not finite") {
			t.Errorf("%s: weights that diverged: %v", kind, err)
		}
		p, err := n.Init(net.InitOptions{Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Load(p); err != nil {
			t.Fatal(err)
		}
		if err := asleep(); err != nil {
			t.Errorf("%s: finite weights loaded again: %v", kind, err)
		}
	}
}
