package cpu_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"hypnos/backends/cpu"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
)

// BenchmarkWake is one learning step of whole networks, AdamW, all cores.
func BenchmarkWake(b *testing.B) {
	for _, name := range []string{"resnet8", "resnet8-lc", "resnet20", "resnet20-lc"} {
		for _, v := range cpu.Versions() {
			b.Run(fmt.Sprintf("%s/%s", name, v), func(b *testing.B) {
				const batch = 64
				e, x := training(b, name, v, batch)
				for b.Loop() {
					if _, err := e.Wake(context.Background(), x, make(core.Labels, batch), 1e-3); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*batch)/b.Elapsed().Seconds(), "images/s")
			})
		}
	}
}

// training is an engine of a built-in network that is ready to train by AdamW, and a batch of images.
func training(b *testing.B, name, kernels string, batch int) (core.Engine, core.Batch) {
	b.Helper()
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	n, err := net.ByName(name, net.Options{})
	must(err)
	backend, err := cpu.Open(cpu.Options{Kernels: kernels})
	must(err)
	b.Cleanup(func() { must(backend.Close()) })
	e, err := backend.Compile(n, core.Options{MaxBatch: batch, Train: true, Optimizer: optim.Default(optim.AdamW, 1e-2)})
	if errors.Is(err, core.ErrUnsupported) {
		b.Skipf("SKIPPED: %v", err) // more memory than there is
	}
	must(err)
	b.Cleanup(func() { must(e.Close()) })
	p, err := n.Init(net.InitOptions{Seed: 1})
	must(err)
	must(e.Load(p))
	x := core.Batch{N: batch, Pixels: make([]float32, batch*n.Input().Len())}
	for i := range x.Pixels {
		x.Pixels[i] = float32(i%17)/8 - 1
	}
	return e, x
}
