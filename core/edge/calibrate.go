package edge

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"hypnos/core"
	"hypnos/core/net"
)

// Ranges are the largest absolute values of the nodes' outputs over some images, by node.
type Ranges map[string]float64

// Calibrate runs a float engine of a folded network over images and returns the ranges of its activations, the input's
// included. It is an error when there are no images, when each channel of all images is one constant, and when a node's
// activations are all 0 or not all finite, which names the node.
//
// The largest value is the rule, not a percentile: 13 bits are three more than accuracy needs (docs/EDGE.md), so that
// cutting off large activations could gain nothing, and what is cut off is lost to learning.
func Calibrate(ctx context.Context, n *net.Network, e core.Engine, batches iter.Seq[core.Batch]) (Ranges, error) {
	r, images, constant := Ranges{}, 0, true
	var first []float32
	for x := range batches {
		if first == nil {
			first = slices.Clone(x.Pixels[:n.Input().C])
		}
		for i, v := range x.Pixels {
			constant = constant && v == first[i%len(first)]
		}
		for t, err := range e.Trace(ctx, x, core.Probe{}) {
			if err != nil {
				return nil, fmt.Errorf("edge: calibration: %w", err)
			}
			v, err := t.Float64s()
			if err != nil {
				return nil, fmt.Errorf("edge: calibration: %w", err)
			}
			name := strings.TrimPrefix(t.Name, "out/")
			largest := largestOf(v)
			if !finite(largest) {
				return nil, fmt.Errorf("edge: calibration: activations of layer %q are not finite", name)
			}
			r[name] = max(r[name], largest)
		}
		images += x.N
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case images == 0:
		return nil, errors.New("edge: calibration: no images")
	case constant:
		return nil, fmt.Errorf("edge: calibration: constant images: all pixels of all %d are the same", images)
	}
	for _, v := range n.Nodes {
		if r[v.Name] == 0 {
			return nil, fmt.Errorf("edge: calibration: layer %q gives nothing but 0 for %d images", v.Name, images)
		}
	}
	return r, nil
}

// largestOf is the largest |x|; NaN where one is.
func largestOf(x []float64) float64 {
	largest := 0.0
	for _, v := range x {
		largest = max(largest, math.Abs(v)) // max gives NaN when one of the two is
	}
	return largest
}
