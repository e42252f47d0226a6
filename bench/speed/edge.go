package speed

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"

	"hypnos/backends/cpu"
	"hypnos/backends/fixed"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// EdgeRow compares a network in integers with the same in float32: inference of one image by backends/cpu, by
// backends/fixed, and by backends/fixed in the consolidated form, in alternation with reading at the machine's limit.
type EdgeRow struct {
	Key
	Kernels      string `json:"kernels"` // of backends/fixed
	Float        Spread `json:"float_ms"`
	Integer      Spread `json:"int16_ms"`
	Consolidated Spread `json:"consolidated_ms"`
	// Ratios are pair by pair; above 1 the second is faster.
	FloatByInteger        Spread `json:"float_by_int16"`
	FloatByConsolidated   Spread `json:"float_by_consolidated"`
	IntegerByConsolidated Spread `json:"int16_by_consolidated"`
	Bytes                 int64  `json:"int16_bytes"` // of weights and biases, each read once
	Share                 Spread `json:"share"`       // of the read bandwidth that int16 inference reaches
	// A learning step of one image, backpropagation through all layers, and an instant sleep of all layers, in integers.
	Wake  Spread `json:"wake_ms"`
	Sleep Spread `json:"sleep_instant_ms"`
}

// edges measures the rows of kind Edge.
func (b *bench) edges(ctx context.Context, keys []Key, r *Result, t *table) error {
	for _, k := range keys {
		s, err := training(k)
		if err != nil {
			return err
		}
		s.train = false
		if need := 4 * s.memory(); !b.fits(need) {
			r.Skipped = append(r.Skipped, Skipped{k.String(), b.tooLarge(need)})
			continue
		}
		t.progress("measuring %s %s", k.Kind, k.Layer)
		row, err := b.edge(ctx, s, k)
		if err != nil {
			return fmt.Errorf("speed: %s: %w", k, err)
		}
		r.Edge = append(r.Edge, row)
		t.edge(row)
	}
	return t.err
}

func (b *bench) edge(ctx context.Context, s *subject, k Key) (EdgeRow, error) {
	r := EdgeRow{Key: k, Kernels: fixed.Versions()[0]}
	defer debug.FreeOSMemory()
	float, err := s.open(b.cpu)
	if err != nil {
		return r, err
	}
	defer float.close()
	x := images(s.net, k.Batch)
	folded, p, err := converted(ctx, float, x)
	if err != nil {
		return r, err
	}
	integer, err := openInteger(folded, p, b.threads, false)
	if err != nil {
		return r, err
	}
	defer integer.close()
	small, err := openInteger(folded, p, b.threads, false)
	if err != nil {
		return r, err
	}
	defer small.close()
	if _, err := small.engine.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}); err != nil {
		return r, err
	}
	infer := func(e *engine) func() { return func() { _, err = e.engine.Infer(ctx, x) } }
	read, amount := b.loops.of(Read, b.threads)
	times, measureErr := measure(ctx, b.budget, infer(float), infer(integer), infer(small), read)
	if measureErr != nil || err != nil {
		return r, cmpError(measureErr, err)
	}
	r.Float, r.Integer, r.Consolidated = spreadOf(times[0]).times(1e3), spreadOf(times[1]).times(1e3), spreadOf(times[2]).times(1e3)
	r.FloatByInteger, r.FloatByConsolidated = spreadOf(ratios(times[0], times[1])), spreadOf(ratios(times[0], times[2]))
	r.IntegerByConsolidated = spreadOf(ratios(times[1], times[2]))
	for _, q := range p.Infos() {
		r.Bytes += int64(q.Len() * q.DType.Size())
	}
	share := ratios(times[3], times[1])
	for i := range share {
		share[i] *= float64(r.Bytes) / amount
	}
	r.Share = spreadOf(share)
	return r, b.edgeLearning(ctx, &r, folded, p, x)
}

// edgeLearning measures a learning step and an instant sleep, each on weights that the other has not shared.
func (b *bench) edgeLearning(ctx context.Context, r *EdgeRow, n *net.Network, p *model.Params, x core.Batch) error {
	e, err := openInteger(n, p, b.threads, true)
	if err != nil {
		return err
	}
	defer e.close()
	y := make(core.Labels, x.N)
	wake := func() { _, err = e.engine.Wake(ctx, x, y, 1e-4) }
	times, measureErr := measure(ctx, b.budget, wake)
	if measureErr != nil || err != nil {
		return cmpError(measureErr, err)
	}
	r.Wake = spreadOf(times[0]).times(1e3)
	var asleep []float64
	for range max(minSamples, r.Wake.N/2) {
		wake() // expands the layers
		asleep = append(asleep, timed(1, func() { _, err = e.engine.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}) }).Seconds())
		if err != nil {
			return err
		}
	}
	r.Sleep = spreadOf(asleep).times(1e3)
	return nil
}

func cmpError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// converted is a network with what a float engine has for weights, folded and in integers.
func converted(ctx context.Context, e *engine, x core.Batch) (*net.Network, *model.Params, error) {
	p, err := e.engine.Save()
	if err != nil {
		return nil, nil, err
	}
	n, p, err := edge.Fold(e.net, p)
	if err != nil {
		return nil, nil, err
	}
	b, err := cpu.Open(cpu.Options{})
	if err != nil {
		return nil, nil, err
	}
	defer b.Close()
	twin, err := b.Compile(n, core.Options{MaxBatch: x.N})
	if err != nil {
		return nil, nil, err
	}
	defer twin.Close()
	if err := twin.Load(p); err != nil {
		return nil, nil, err
	}
	ranges, err := edge.Calibrate(ctx, n, twin, slices.Values([]core.Batch{x}))
	if err != nil {
		return nil, nil, err
	}
	p, _, err = edge.Convert(n, p, ranges, edge.ConvertOptions{})
	if err != nil {
		return nil, nil, err
	}
	p, err = p.Snapshot()
	return n, p, err
}

// openInteger compiles a folded network for one image.
func openInteger(n *net.Network, p *model.Params, threads int, train bool) (*engine, error) {
	b, err := fixed.Open(fixed.Options{Threads: threads})
	if err != nil {
		return nil, err
	}
	e := &engine{backend: b}
	if e.engine, err = b.Compile(n, core.Options{MaxBatch: 1, Train: train, Optimizer: optim.Spec{Kind: optim.SGD}}); err != nil {
		b.Close()
		return nil, err
	}
	if err := e.engine.Load(p); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// edge writes a row of integers against float32.
func (t *table) edge(r EdgeRow) {
	t.begin(fmt.Sprintf("One image in integers (%s kernels): ms of inference, ratios of times, share of the read bandwidth, a learning step, an instant sleep", r.Kernels), []column{
		{"net", -6}, {"float32", 7}, {"int16", 7}, {"consol.", 7}, {"float/int16", -18}, {"float/consol.", 13}, {"int16/consol.", 13}, {"share", -14}, {"wake", 6}, {"sleep", 6},
	})
	t.row(r.Layer, digits(r.Float.Median), digits(r.Integer.Median), digits(r.Consolidated.Median), r.FloatByInteger.String(), digits(r.FloatByConsolidated.Median),
		digits(r.IntegerByConsolidated.Median), r.Share.times(100).String(), digits(r.Wake.Median), digits(r.Sleep.Median))
}
