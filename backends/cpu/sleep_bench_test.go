package cpu_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"hypnos/core"
	"hypnos/core/sleep"
)

// BenchmarkSleep is a sleep of all layers of ResNet20-LC, by Eq. 4 with 100 events a grid, one pattern an event, and
// instant, beside one training step of batch 512 with AdamW, in alternation: the medians of their times and what part
// of a step each takes. Everything counts, the drawing of patterns and the making of maps included.
func BenchmarkSleep(b *testing.B) {
	const batch = 512
	e, x := training(b, "resnet20-lc", "", batch)
	labels := make(core.Labels, batch)
	asleep := func(s sleep.Stream) func() error {
		return func() error { _, err := e.Sleep(context.Background(), s); return err }
	}
	works := []func() error{
		func() error { _, err := e.Wake(context.Background(), x, labels, 1e-3); return err },
		asleep(sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Events: 100, Seed: 1}),
		asleep(sleep.Stream{Rule: sleep.Instant{}}),
	}
	var took [3][]float64 // ms
	for b.Loop() {
		for i, work := range works {
			begin := time.Now()
			if err := work(); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], float64(time.Since(begin).Microseconds())/1e3)
		}
	}
	ms := func(i int) float64 { // the median: other work on the machine spoils some
		slices.Sort(took[i])
		return took[i][len(took[i])/2]
	}
	b.ReportMetric(ms(0), "step-ms")
	b.ReportMetric(ms(1), "hebbian-ms")
	b.ReportMetric(ms(2), "instant-ms")
	b.ReportMetric(100*ms(1)/ms(0), "hebbian-%-of-step")
	b.ReportMetric(100*ms(2)/ms(0), "instant-%-of-step")
}
