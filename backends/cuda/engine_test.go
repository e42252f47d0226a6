//go:build cuda && cgo && linux && amd64

package cuda

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/rng"
	"hypnos/core/sleep"
)

// small is a built-in network of 8x8 images.
func small(t *testing.T, name string) *net.Network {
	t.Helper()
	n, err := net.ByName(name, net.Options{Input: 8, Classes: 7, Width: 4})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// open opens the backend until the end of the test.
func open(t *testing.T, p Precision) *backend {
	t.Helper()
	b, err := Open(Options{Precision: p})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b.(*backend)
}

func learning(batch int, kind optim.Kind) core.Options {
	return core.Options{MaxBatch: batch, Train: true, Optimizer: optim.Default(kind, 1e-2)}
}

// ready is an engine with initial weights.
func ready(t *testing.T, b core.Backend, n *net.Network, o core.Options) core.Engine {
	t.Helper()
	e, err := b.Compile(n, o)
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

func images(n *net.Network, count int) core.Batch {
	x := core.Batch{N: count, Pixels: make([]float32, count*n.Input().Len())}
	s := rng.New(2, rng.Test, 0)
	for i := range x.Pixels {
		x.Pixels[i] = float32(s.Normal(uint64(i)))
	}
	return x
}

// What an engine allocates is what Memory says before, to the byte, whatever it is compiled for; closing it gives all back.
func TestMemoryIsWhatIsPlanned(t *testing.T) {
	needDevice(t, true)
	compared := 0
	for _, precision := range Precisions() {
		b := open(t, precision)
		for _, name := range []string{"resnet8", "resnet8-lc", "mixer-lc"} {
			n := small(t, name)
			broadcast := learning(3, optim.SGD)
			broadcast.Rule = core.Broadcast
			keeping, kept := learning(3, optim.AdamW), core.Options{MaxBatch: 3}
			keeping.Keep, kept.Keep = 100_001, 100_001 // the latter is not for training
			for _, o := range []core.Options{{MaxBatch: 3}, learning(3, optim.AdamW), learning(17, optim.SGD), broadcast, keeping, kept} {
				m, err := b.Memory(n, o)
				if err != nil {
					t.Fatal(err)
				}
				e, err := b.Compile(n, o)
				if err != nil {
					t.Fatal(err)
				}
				free, _, err := b.device.Memory()
				if err != nil {
					t.Fatal(err)
				}
				if room := m.Images; (room >= o.Keep && room > 0) != (o.Keep > 0 && o.Train) {
					t.Errorf("%s in %s: %d bytes of images, %d asked for", name, precision, room, o.Keep)
				}
				if took := m.Free - free; took != m.Total() {
					t.Errorf("%s in %s, %+v: took %d bytes, %d were planned", name, precision, o, took, m.Total())
				}
				if err := e.Close(); err != nil {
					t.Fatal(err)
				}
				if free, _, err := b.device.Memory(); err != nil || free != m.Free {
					t.Errorf("%s in %s: %d bytes are free after Close (%v), %d were before Compile", name, precision, free, err, m.Free)
				}
				compared++
			}
		}
	}
	if compared != 3*3*6 {
		t.Errorf("%d plans compared", compared)
	}
}

// A step allocates nothing, neither of the device nor of Go, once its graph has been recorded.
func TestStepsDoNotAllocate(t *testing.T) {
	needDevice(t, true)
	b, n := open(t, F32), small(t, "resnet8-lc")
	for _, kind := range []optim.Kind{optim.AdamW, optim.SGD} {
		e := ready(t, b, n, learning(5, kind))
		x, y := images(n, 5), core.Labels{0, 1, 2, 3, 4}
		step := func() {
			if _, err := e.Wake(context.Background(), x, y, 1e-3); err != nil {
				t.Fatal(err)
			}
		}
		step()
		before, _, err := b.device.Memory()
		if err != nil {
			t.Fatal(err)
		}
		if allocs := testing.AllocsPerRun(3, step); allocs != 0 {
			t.Errorf("%s: %v allocations a step", kind, allocs)
		}
		if after, _, err := b.device.Memory(); err != nil || after != before {
			t.Errorf("%s: %d bytes of the device are free after steps (%v), %d were before", kind, after, err, before)
		}
	}
}

// Batches of many sizes, more than there are graphs, learn as a fresh engine does with each.
func TestManyBatchSizes(t *testing.T) {
	needDevice(t, false)
	b, n := open(t, F32), small(t, "resnet8-lc")
	const most = mostGraphs + 3
	e := ready(t, b, n, learning(most, optim.SGD))
	p, err := n.Init(net.InitOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for size := most; size >= 1; size-- {
		x, y := images(n, size), make(core.Labels, size)
		if err := e.Load(p); err != nil {
			t.Fatal(err)
		}
		got, err := e.Wake(context.Background(), x, y, 1e-3)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ready(t, b, n, learning(most, optim.SGD)).Wake(context.Background(), x, y, 1e-3)
		if err != nil || got != want {
			t.Errorf("batch of %d: %+v, from a fresh engine %+v (%v)", size, got, want, err)
		}
		compared++
	}
	if compared != most {
		t.Errorf("%d sizes compared", compared)
	}
}

// Training with what is fused behind batch norms and Trace without agree: one step's loss is that of the traced logits.
func TestFusedIsUnfused(t *testing.T) {
	needDevice(t, false)
	b, n := open(t, F32), small(t, "resnet8-lc")
	e := ready(t, b, n, learning(4, optim.SGD))
	x, y := images(n, 4), core.Labels{3, 1, 0, 6}
	logits := core.Logits{N: 4, Classes: 7}
	for v, err := range e.Trace(context.Background(), x, core.Probe{Train: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if v.Name == "out/linear" {
			if logits.Values, err = v.Float64s(); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, _, _ := core.Score(logits, y)
	got, err := e.Wake(context.Background(), x, y, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Fused, a batch norm's output is not rounded before it is added to the other summand: an ulp of the activations, which
	// some ten layers carry on. A wrong or missing term would show in the second digit.
	if diff := got.Loss - want/4; !(diff <= 1e-4 && diff >= -1e-4) {
		t.Errorf("loss %v, of the traced logits %v", got.Loss, want/4)
	}
}

// A network that does not fit is refused before training with what it takes and what there is.
func TestOutOfMemory(t *testing.T) {
	child(t, "HYPNOS_EMU_MEMORY=3000000", func(t *testing.T) {
		b, n := open(t, F32), small(t, "resnet8-lc")
		ready(t, b, n, core.Options{MaxBatch: 1})
		o := learning(256, optim.AdamW)
		m, err := b.Memory(n, o)
		if err != nil || m.Fits() {
			t.Errorf("a plan of %d bytes fits %d (%v)", m.Total(), m.Free, err)
		}
		_, err = b.Compile(n, o)
		want := fmt.Sprintf("takes %.0f MB of the device's memory, %.0f MB are free", float64(m.Total())/1e6, float64(m.Free)/1e6)
		if !errors.Is(err, core.ErrUnsupported) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want one line with %q", err, want)
		}
		// Images that are to be kept count.
		o = learning(4, optim.AdamW)
		if m, err = b.Memory(n, o); err != nil || !m.FitsAmply() {
			t.Fatalf("a plan of %d bytes does not fit %d amply (%v)", m.Total(), m.Free, err)
		}
		o.Keep = m.Free - m.Total() + 1
		if m, err = b.Memory(n, o); err != nil || m.Fits() || m.Images < o.Keep {
			t.Errorf("%d bytes of images in a plan of %d fit %d (%v)", m.Images, m.Total(), m.Free, err)
		}
		if _, err = b.Compile(n, o); !errors.Is(err, core.ErrUnsupported) {
			t.Errorf("images that do not fit: error %v", err)
		}
	})
}

// A device without the tensor cores of capability 8.0 learns in float32 and refuses the other precisions by name.
func TestOldDevice(t *testing.T) {
	child(t, "HYPNOS_EMU_CAPABILITY=75", func(t *testing.T) {
		for _, p := range []Precision{TF32, BF16} {
			if b, err := Open(Options{Precision: p}); !errors.Is(err, core.ErrUnsupported) || !strings.Contains(err.Error(), string(p)) {
				t.Errorf("%s: backend %v, error %v", p, b, err)
			}
		}
		n := small(t, "resnet8-lc")
		e := ready(t, open(t, F32), n, learning(2, optim.AdamW))
		if _, err := e.Wake(context.Background(), images(n, 2), core.Labels{0, 1}, 1e-3); err != nil {
			t.Error(err)
		}
	})
}

// When the device is lost, the call under way and all later ones say so, and engine and backend close.
func TestLostDevice(t *testing.T) {
	child(t, "HYPNOS_EMU_LAUNCHES=200", func(t *testing.T) {
		b, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		n := small(t, "resnet8-lc")
		e, err := b.Compile(n, learning(2, optim.AdamW))
		if err != nil {
			t.Fatal(err)
		}
		p, err := n.Init(net.InitOptions{Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Load(p); err != nil {
			t.Fatal(err)
		}
		x, y := images(n, 2), core.Labels{0, 1}
		ctx := context.Background()
		steps := 0
		for err == nil && steps < 100 {
			_, err = e.Wake(ctx, x, y, 1e-3)
			steps++
		}
		check := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, driver.ErrLost) || !strings.Contains(err.Error(), "cuda: ") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: error %v, want one line that tells of the lost device", what, err)
			}
		}
		check("the step under way", err)
		_, err = e.Wake(ctx, x, y, 1e-3)
		check("a later step", err)
		_, err = e.Infer(ctx, x)
		check("an inference", err)
		_, err = e.Save()
		check("Save", err)
		_, err = e.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}})
		check("Sleep", err)
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
		if err := b.Close(); err != nil && !errors.Is(err, driver.ErrLost) {
			t.Errorf("closing the backend: %v", err)
		}
		t.Logf("lost in step %d", steps)
	})
}

// A device that is lost in sleep ends the phase.
func TestLostInSleep(t *testing.T) {
	child(t, "HYPNOS_EMU_LAUNCHES=40", func(t *testing.T) {
		b, err := Open(Options{})
		if err != nil {
			t.Fatal(err)
		}
		n := small(t, "resnet8-lc")
		e, err := b.Compile(n, core.Options{MaxBatch: 1})
		if err != nil {
			t.Fatal(err)
		}
		p, err := n.Init(net.InitOptions{Seed: 1})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Load(p); err != nil {
			t.Fatal(err)
		}
		report, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Hebbian{Batch: 1}, Events: 4, Execution: sleep.DenseMap})
		if !errors.Is(err, driver.ErrLost) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v after %d layers, want one line that tells of the lost device", err, len(report.Layers))
		}
		if err := e.Close(); err != nil {
			t.Errorf("closing the engine: %v", err)
		}
		if err := b.Close(); err != nil && !errors.Is(err, driver.ErrLost) {
			t.Errorf("closing the backend: %v", err)
		}
	})
}

// child runs a test in a process of its own, as the library that stands in for the driver's reads its settings once.
func child(t *testing.T, setting string, f func(t *testing.T)) {
	t.Helper()
	needDevice(t, true)
	const mark = "HYPNOS_TEST_CHILD"
	if os.Getenv(mark) == t.Name() {
		f(t)
		return
	}
	c := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v")
	c.Env = append(os.Environ(), mark+"="+t.Name(), setting)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("with %s: %v\n%s", setting, err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("with %s the test did not run:\n%s", setting, out)
	}
	t.Logf("with %s: %s", setting, out)
}
