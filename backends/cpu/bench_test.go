package cpu_test

import (
	"context"
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
				n, err := net.ByName(name, net.Options{})
				if err != nil {
					b.Fatal(err)
				}
				backend, err := cpu.Open(cpu.Options{Kernels: v})
				if err != nil {
					b.Fatal(err)
				}
				defer backend.Close()
				e, err := backend.Compile(n, core.Options{MaxBatch: batch, Train: true, Optimizer: optim.Default(optim.AdamW, 1e-2)})
				if err != nil {
					b.Fatal(err)
				}
				defer e.Close()
				p, err := n.Init(net.InitOptions{Seed: 1})
				if err != nil {
					b.Fatal(err)
				}
				if err := e.Load(p); err != nil {
					b.Fatal(err)
				}
				x := core.Batch{N: batch, Pixels: make([]float32, batch*n.Input().Len())}
				for i := range x.Pixels {
					x.Pixels[i] = float32(i%17) - 8
				}
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
