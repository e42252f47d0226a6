package sleep

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"hypnos/core/net"
)

// Stream describes one sleep phase: the rule that runs over the grids of the locally connected layers, layer by layer
// in the order of the network.
type Stream struct {
	Rule   Rule
	Border Border
	// Layers restricts the phase to the named layers; nil means all.
	Layers []string
	// From is where an interrupted phase goes on; nil means from the beginning.
	From *Token
	// Measure asks for the statistics before and after, which costs two more readings of the weights. The means'
	// preservation and the time are always reported. Observe always measures.
	Measure bool
}

// Token is a place in a phase: everything before this grid of this layer has been done.
type Token struct {
	Layer string `json:"layer"`
	Grid  int    `json:"grid"` // index into Layer.Grids
}

// Work lists the layers that the stream runs over, each with the first grid to do. Names that are no locally
// connected layers of the network are errors.
func (s Stream) Work(n *net.Network) ([]Work, error) {
	layers := Layers(n)
	known := func(name string) bool {
		return slices.ContainsFunc(layers, func(l Layer) bool { return l.Name == name })
	}
	for _, name := range s.Layers {
		if !known(name) {
			return nil, fmt.Errorf("sleep: %s has no locally connected layer %q", n.Name, name)
		}
	}
	var work []Work
	started := s.From == nil
	for _, l := range layers {
		if s.Layers != nil && !slices.Contains(s.Layers, l.Name) {
			continue
		}
		w := Work{Layer: l, Grids: l.Grids(s.Border)}
		if !started {
			if l.Name != s.From.Layer {
				continue
			}
			if s.From.Grid < 0 || s.From.Grid >= len(w.Grids) {
				return nil, fmt.Errorf("sleep: cannot go on at grid %d of layer %q, which has %d", s.From.Grid, l.Name, len(w.Grids))
			}
			w.First, started = s.From.Grid, true
		}
		work = append(work, w)
	}
	if !started {
		return nil, fmt.Errorf("sleep: cannot go on at layer %q: it is no part of this phase", s.From.Layer)
	}
	return work, nil
}

// Work is one layer's part of a phase.
type Work struct {
	Layer
	Grids []Grid
	First int // index of the first grid to do
}

// Report is what a phase did.
type Report struct {
	Rule     string        `json:"rule"`
	Border   Border        `json:"border"`
	Layers   []LayerReport `json:"layers"`
	Duration time.Duration `json:"duration_ns"`
	Bytes    int64         `json:"bytes"`          // weights read and written by the rule
	Next     *Token        `json:"next,omitempty"` // set when the phase was interrupted: where to go on
}

// LayerReport is what a phase did to one layer. When the phase was interrupted or continued inside the layer, Mean and
// Bytes cover the grids that it did, Before and After the whole layer.
type LayerReport struct {
	Layer    string        `json:"layer"`
	Before   *Stats        `json:"before,omitempty"` // set when measured
	After    *Stats        `json:"after,omitempty"`
	Mean     Preservation  `json:"mean"`
	Duration time.Duration `json:"duration_ns"`
	Bytes    int64         `json:"bytes"`
}

// Runner is one layer's weights in a backend, as Run needs them.
type Runner interface {
	// Measure computes the layer's statistics.
	Measure(Border) Stats
	// Share applies the rule to all groups of a grid and returns what became of their means and the bytes moved.
	Share(Rule, Grid) (PreservationSum, int64)
}

// Run is the phase itself, the same for every backend: it goes through layers and grids in order, asks ctx before
// each grid, and keeps the report. open gives the weights of a layer, now the time. When ctx ends, the report's Next
// is the first grid not done, and the error wraps the context's.
func Run(ctx context.Context, n *net.Network, s Stream, now func() time.Time, open func(Layer) Runner) (Report, error) {
	start := now()
	r := Report{Border: s.Border}
	if s.Rule == nil {
		return r, errors.New("sleep: a phase without a rule")
	}
	r.Rule = s.Rule.Kind()
	work, err := s.Work(n)
	if err != nil {
		return r, err
	}
	_, observe := s.Rule.(Observe)
	for _, w := range work {
		begin := now()
		lr := LayerReport{Layer: w.Name, Mean: Preservation{Ratio: 1}}
		run := open(w.Layer)
		if s.Measure || observe {
			before := run.Measure(s.Border)
			lr.Before = &before
		}
		var kept PreservationSum
		for i := w.First; i < len(w.Grids) && !observe; i++ {
			if ctx.Err() != nil {
				r.Next = &Token{Layer: w.Name, Grid: i}
				break
			}
			sum, bytes := run.Share(s.Rule, w.Grids[i])
			kept.Merge(sum)
			lr.Bytes += bytes
		}
		lr.Mean = kept.Preservation()
		if s.Measure && !observe && r.Next == nil {
			after := run.Measure(s.Border)
			lr.After = &after
		}
		lr.Duration = now().Sub(begin)
		r.Bytes += lr.Bytes
		r.Layers = append(r.Layers, lr)
		if r.Next != nil {
			r.Duration = now().Sub(start)
			return r, fmt.Errorf("sleep: interrupted in layer %q: %w", r.Next.Layer, context.Cause(ctx))
		}
	}
	r.Duration = now().Sub(start)
	return r, nil
}

// SNR is the network's signal-to-noise ratio in the report, before the rule ran: the geometric mean of the layers'
// (Eq. 6), so that ln(1/SNR), which the paper plots, is averaged. NaN without a measurement.
func (r Report) SNR() float64 { return r.geometric(func(l LayerReport) *Stats { return l.Before }) }

// SNRAfter is the network's signal-to-noise ratio after the rule ran.
func (r Report) SNRAfter() float64 {
	return r.geometric(func(l LayerReport) *Stats { return l.After })
}

func (r Report) geometric(which func(LayerReport) *Stats) float64 {
	sum, n := 0.0, 0
	for _, l := range r.Layers {
		if s := which(l); s != nil && s.Groups > 0 {
			sum += math.Log(s.SNR)
			n++
		}
	}
	return math.Exp(sum / float64(n))
}

// ParseRule reads a rule by its kind.
func ParseRule(kind string) (Rule, error) {
	known := []Rule{Observe{}, Instant{}}
	var names []string
	for _, r := range known {
		if r.Kind() == kind {
			return r, nil
		}
		names = append(names, r.Kind())
	}
	return nil, fmt.Errorf("sleep: unknown rule %q (known: %s)", kind, strings.Join(names, ", "))
}
