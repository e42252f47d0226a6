package edge

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
)

// Difference is how far the output of one layer in an integer network is from that in its float one, over some images.
// Each network computes from its own images on, so that a layer has the errors of those before it, too.
type Difference struct {
	Layer   string  `json:"layer"`
	Largest float64 `json:"largest"` // |integer - float|
	RMS     float64 `json:"rms"`     // of the difference
	Signal  float64 `json:"signal"`  // root mean square of the float output
	// Saturated counts outputs at an end of their format's range, of Outputs.
	Saturated int64 `json:"saturated"`
	Outputs   int64 `json:"outputs"`
}

// Compare runs the same images through the two engines of a network, float and integer with the formats f.
func Compare(ctx context.Context, n *net.Network, f Formats, float, integer core.Engine, batches iter.Seq[core.Batch]) ([]Difference, error) {
	all := make([]Difference, len(n.Nodes))
	for i, v := range n.Nodes {
		all[i].Layer = v.Name
	}
	for x := range batches {
		if err := compareBatch(ctx, n, f, float, integer, x, all); err != nil {
			return nil, fmt.Errorf("edge: compare: %w", err)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if all[0].Outputs == 0 {
		return nil, errors.New("edge: compare: no images")
	}
	for i := range all {
		d := &all[i]
		d.RMS = math.Sqrt(d.RMS / float64(d.Outputs))
		d.Signal = math.Sqrt(d.Signal / float64(d.Outputs))
	}
	return all, nil
}

// compareBatch adds one batch; RMS and Signal are sums of squares so far.
func compareBatch(ctx context.Context, n *net.Network, f Formats, float, integer core.Engine, x core.Batch, all []Difference) error {
	next, stop := iter.Pull2(integer.Trace(ctx, x, core.Probe{}))
	defer stop()
	i := 0
	for t, err := range float.Trace(ctx, x, core.Probe{}) {
		if err != nil {
			return err
		}
		u, err, ok := next()
		if err != nil {
			return err
		}
		if !ok || i == len(all) || t.Name != u.Name || t.Name != "out/"+all[i].Layer {
			return fmt.Errorf("layer %d is %q in one network and %q in the other", i, t.Name, u.Name)
		}
		format := f.Activations[all[i].Layer]
		if err := all[i].add(t, u, format.Float(int64(format.Max()))); err != nil {
			return err
		}
		i++
	}
	if i != len(all) {
		return fmt.Errorf("%d layers, %s has %d", i, n.Name, len(all))
	}
	return nil
}

func (d *Difference) add(float, integer model.Tensor, limit float64) error {
	x, err := float.Float64s()
	if err != nil {
		return err
	}
	y, err := integer.Float64s()
	if err != nil {
		return err
	}
	if len(x) != len(y) {
		return fmt.Errorf("layer %q has %d outputs in one network and %d in the other", d.Layer, len(x), len(y))
	}
	for i, v := range y {
		diff := math.Abs(v - x[i])
		d.Largest = max(d.Largest, diff)
		d.RMS += diff * diff
		d.Signal += x[i] * x[i]
		if math.Abs(v) >= limit {
			d.Saturated++
		}
	}
	d.Outputs += int64(len(y))
	return nil
}
