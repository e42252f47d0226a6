package fixed

import (
	"context"
	"fmt"
	"testing"

	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// BenchmarkStep measures one image, ResNet8-LC of width 8 at 32×32 pixels, on one thread, by every version of the kernels:
// inference, inference in the consolidated form, a wake step, an instant sleep with the expansion before it. Under an
// emulator it gives emulated time, which is no board's.
func BenchmarkStep(b *testing.B) {
	ctx := context.Background()
	n, err := net.ByName("resnet8-lc", net.Options{Width: 8})
	if err != nil {
		b.Fatal(err)
	}
	p, err := n.Init(net.InitOptions{Seed: 1, Tied: true})
	if err != nil {
		b.Fatal(err)
	}
	if n, _, err = edge.Fold(n, p); err != nil {
		b.Fatal(err)
	}
	q := randomParams(b, n, 1, 0.5)
	x, instant := images(n, 2, 1), sleep.Stream{Rule: sleep.Instant{}}
	for _, version := range Versions() {
		e := openEngine(b, Options{Threads: 1, Kernels: version}, n, training(1), q)
		for _, c := range []struct {
			what string
			do   func() error
		}{
			{"infer", func() error { _, err := e.Infer(ctx, x); return err }},
			{"wake", func() error { _, err := e.Wake(ctx, x, core.Labels{3}, 1e-3); return err }},
			{"sleep", func() error {
				if err := e.expand(nil); err != nil {
					return err
				}
				_, err := e.Sleep(ctx, instant)
				return err
			}},
			{"infer_consolidated", func() error { _, err := e.Infer(ctx, x); return err }},
		} {
			b.Run(fmt.Sprintf("%s/%s", version, c.what), func(b *testing.B) {
				for b.Loop() {
					if err := c.do(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
