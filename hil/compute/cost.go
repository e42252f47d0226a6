package compute

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"hypnos/backends/fixed"
	"hypnos/core"
	"hypnos/core/sleep"
)

// Cost is what one piece of work took by a clock. On an emulator whose clock goes by instructions, a nanosecond is one.
type Cost struct {
	Network string        `json:"network"`
	Work    string        `json:"work"`
	Took    time.Duration `json:"instructions"`
}

// Costs measures a package's network on one thread, each piece of work the second time it is done: the first meets empty caches of
// the program. No garbage is collected meanwhile: when that happens depends on the whole program, not on the work.
func Costs(ctx context.Context, path string, l Life, clock func() time.Duration) (costs []Cost, err error) {
	a, err := open(path, l, fixed.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	defer a.close()
	x := a.image(0)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	for _, w := range []struct {
		name string
		do   func() error
	}{
		{"inference", func() error { _, err := a.engine.Infer(ctx, x); return err }},
		{"wake step", func() error { _, err := a.engine.Wake(ctx, x, core.Labels{0}, l.Rate); return err }},
		{fmt.Sprintf("hebbian sleep, %d events", l.Events), func() error {
			_, err := a.engine.Sleep(ctx, sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1, Momentum: 0.5}, Events: l.Events, Seed: l.Seed})
			return err
		}},
		{"instant sleep", func() error {
			_, err := a.engine.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}})
			return err
		}},
	} {
		runtime.GC()
		var took time.Duration
		for range 2 {
			begin := clock()
			if err := w.do(); err != nil {
				return nil, err
			}
			took = clock() - begin
		}
		costs = append(costs, Cost{a.pack.Manifest.Network.Name, w.name, took})
	}
	return costs, nil
}
