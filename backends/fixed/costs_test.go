package fixed

import (
	"context"
	"os"
	"runtime"
	"strings"
	"testing"

	"hypnos/backends/fixed/internal/kernel"
	"hypnos/backends/internal/arena"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// resnet8 is the network of the demonstration as it is folded: no batch norms, biases everywhere.
func resnet8(t *testing.T, width, size int) *net.Network {
	t.Helper()
	b := net.NewBuilder("resnet8-lc")
	spatial := func(name string, x net.Ref, out, kernel, stride int) net.Ref {
		return b.LC2D(name, x, net.Window{Out: out, Kernel: kernel, Stride: stride, Bias: true})
	}
	x := b.ReLU("stem.relu", spatial("stem", b.Input(net.Shape{H: size, W: size, C: 3}), width, 3, 1))
	for s, name := range []string{"one", "two", "three"} {
		stride := min(s, 1) + 1
		y := b.ReLU(name+".relu1", spatial(name+".conv1", x, width<<s, 3, stride))
		y = spatial(name+".conv2", y, width<<s, 3, 1)
		if s > 0 {
			x = spatial(name+".shortcut", x, width<<s, 1, stride)
		}
		x = b.ReLU(name+".relu2", b.Sum(name+".add", y, x))
	}
	b.Linear("linear", b.GlobalAvgPool("pool", x), 10)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// What Memory plans is what an engine allocates, within 10 %, and Costs has the same weights, activations and errors.
func TestMemoryIsWhatIsAllocated(t *testing.T) {
	for _, c := range []struct{ width, size, batch, threads int }{{4, 16, 1, 1}, {8, 32, 1, 2}, {4, 16, 8, 1}} {
		n := resnet8(t, c.width, c.size)
		o := core.Options{MaxBatch: c.batch, Train: true, Optimizer: optim.Spec{Kind: optim.SGD}, Seed: 1}
		p := randomParams(t, n, 1, 0.1)
		planned, err := MemoryOf(n, o, c.threads)
		if err != nil {
			t.Fatal(err)
		}
		before := heap()
		e, err := compile(n, o, c.threads, kernel.Versions()[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Load(p); err != nil {
			t.Fatal(err)
		}
		got := heap() - before
		if runtime.GOOS == "linux" { // large weights are outside of the heap
			for _, w := range e.weights {
				if w != nil && len(w.value) >= arena.LeastMapped {
					got += int64(2 * len(w.value))
				}
			}
		}
		if ratio := float64(got) / float64(planned.Total()); !(ratio >= 0.9 && ratio <= 1.1) {
			t.Errorf("%+v: %d bytes allocated, %d planned: %+v", c, got, planned.Total(), planned)
		}
		costs, err := Costs(n, o, 100, 1)
		if err != nil {
			t.Fatal(err)
		}
		var weights, activations, errors int64
		for _, l := range costs {
			weights, activations, errors = weights+l.Weights, activations+l.Activations, errors+l.Errors
		}
		if weights != planned.Weights || activations != planned.Activations || errors != planned.Gradients {
			t.Errorf("%+v: layers add up to %d, %d, %d; the plan is %+v", c, weights, activations, errors, planned)
		}
		runtime.KeepAlive(p)
		e.Close()
	}
}

// heap is what is allocated on the heap.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A small locally connected network infers, learns and sleeps in less than 32 MB: what the runtime has from the system, with
// the weights outside of its heap and their float and integer copies, from which the test loads them. VmHWM is logged, too: under user-mode emulation it
// is the emulator's.
func TestSmallNetworkUnder32MB(t *testing.T) {
	n := resnet8(t, 8, 32)
	o := core.Options{MaxBatch: 1, Train: true, Optimizer: optim.Spec{Kind: optim.SGD}, Seed: 1}
	p := randomParams(t, n, 1, 0.1)
	var start, end runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&start)
	e, err := compile(n, o, 1, kernel.Versions()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	x := images(n, 1, 1)
	if _, err := e.Infer(context.Background(), x); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Wake(context.Background(), x, core.Labels{3}, 0.01); err != nil {
		t.Fatal(err)
	}
	full := int64(0)
	for _, w := range e.weights {
		if w != nil {
			full += int64(2 * len(w.value))
		}
	}
	if _, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&end)
	engine := int64(end.HeapSys-min(end.HeapSys, start.HeapSys)) + full
	status, _ := os.ReadFile("/proc/self/status")
	peak := ""
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") {
			peak = strings.TrimSpace(line)
		}
	}
	t.Logf("%s/%s: engine %.1f MB beyond the heap before it, weights %.1f MB of them; runtime.MemStats.Sys %.1f MB in all; %s",
		runtime.GOOS, runtime.GOARCH, float64(engine)/1e6, float64(full)/1e6, float64(end.Sys)/1e6, peak)
	const limit = 32e6
	if !(float64(engine) < limit) {
		t.Errorf("the engine took %d bytes", engine)
	}
}
