package sleep

import (
	"context"
	"fmt"
	"testing"

	"hypnos/core/net"
)

// BenchmarkExecutions times a run of 100 events, one pattern each, at the numbers of inputs of ResNet20's layers:
// preparing it, once a layer, and applying it to one group of 100 neurons, in float64 on one core.
func BenchmarkExecutions(b *testing.B) {
	for _, m := range []int{16, 27, 32, 144, 288, 576} {
		for _, e := range Executions() {
			l := Layer{Name: "l", K: m, Window: net.Window{Out: 1, Kernel: 1, Stride: 1, Groups: 1}, In: net.Shape{H: 10, W: 10, C: m}, Out: net.Shape{H: 10, W: 10, C: 1}}
			s := Stream{Rule: Hebbian{Gamma: 1e-3, Batch: 1}, Events: 100, Execution: e, Seed: 1}
			w := Work{Layer: l, Grids: l.Grids(BorderShares)}
			plan := func(b *testing.B) *plan {
				p, err := s.plan(w, NewState(nil, BorderShares, Host{Word: 8}))
				if err == nil {
					err = p.prepare(context.Background())
				}
				if err != nil {
					b.Fatal(err)
				}
				return p
			}
			b.Run(fmt.Sprintf("K=%d/%s/prepare", m, e), func(b *testing.B) {
				for b.Loop() {
					plan(b)
				}
			})
			b.Run(fmt.Sprintf("K=%d/%s/apply", m, e), func(b *testing.B) {
				task, start := plan(b).task(w.Grids[0], 0), group(1, 100, m)
				weights := clone(start)
				for b.Loop() {
					for i := range weights {
						copy(weights[i], start[i])
					}
					task.Run(weights, 0, 8)
				}
			})
		}
	}
}
