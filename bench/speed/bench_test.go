package speed

import (
	"context"
	"testing"

	"hypnos/backends/cpu"
)

// BenchmarkLayer is the layers of ResNet20 at batch size 64; hypnos bench speed measures more, and against the limits.
func BenchmarkLayer(b *testing.B) {
	shapes := mustShapes(b)[:3]
	for _, kind := range []string{LC, Conv} {
		for _, shape := range shapes {
			for _, what := range []string{Forward, Both} {
				k := Key{kind, shape.Name, 64, what}
				b.Run(k.String(), func(b *testing.B) { run(b, k, shapes) })
			}
		}
	}
}

func run(b *testing.B, k Key, shapes []Shape) {
	all, _ := subjects([]Key{k}, shapes)
	if len(all) != 1 {
		b.Fatalf("no row %s", k)
	}
	e, err := all[0].open(cpu.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer e.close()
	work, err := e.prepare(context.Background(), k)
	if err != nil {
		b.Fatal(err)
	}
	work()
	for b.Loop() {
		work()
	}
	b.ReportMetric(total(k.works(e.net)).FLOP*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}
