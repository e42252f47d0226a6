package sleep

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
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
	// To ends the phase before this grid, as if it had been interrupted there, without an error; nil means at its end.
	// So an interrupted phase is done again: with what its report had as Next.
	To *Token
	// Source makes the patterns of Hebbian and Circuit, Events runs on each grid; nil is Gaussian.
	Source    PatternSource
	Events    int
	Execution Execution
	// Seed and Phase key the random numbers: phases of a run have one seed and different numbers. A phase that goes
	// on has those with which it began.
	Seed, Phase uint64
	// Measure asks for the statistics before and after, which costs two more readings of the weights. The means'
	// preservation and the time are always reported. Observe always measures.
	Measure bool
}

// Token is a place in a phase: everything before this grid of this layer has been done.
type Token struct {
	Layer string `json:"layer"`
	Grid  int    `json:"grid"` // index into Layer.Grids
}

// Work lists the layers that the stream runs over, each with the grids to do. Names that are no locally connected layers of
// the network are errors, and so are From and To that are no places of this phase, in this order.
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
	started, ended := s.From == nil, false
	for _, l := range layers {
		if ended {
			break
		}
		if s.Layers != nil && !slices.Contains(s.Layers, l.Name) {
			continue
		}
		w := Work{Layer: l, Grids: l.Grids(s.Border)}
		w.End = len(w.Grids)
		if !started {
			if l.Name != s.From.Layer {
				continue
			}
			if s.From.Grid < 0 || s.From.Grid >= len(w.Grids) {
				return nil, fmt.Errorf("sleep: cannot go on at grid %d of layer %q, which has %d", s.From.Grid, l.Name, len(w.Grids))
			}
			w.First, started = s.From.Grid, true
		}
		if s.To != nil && l.Name == s.To.Layer {
			if s.To.Grid < w.First || s.To.Grid >= len(w.Grids) {
				return nil, fmt.Errorf("sleep: cannot end at grid %d of layer %q, which has %d…%d to do", s.To.Grid, l.Name, w.First, len(w.Grids)-1)
			}
			w.End, ended = s.To.Grid, true
		}
		if w.First < w.End {
			work = append(work, w)
		}
	}
	if s.To != nil && !ended {
		return nil, fmt.Errorf("sleep: cannot end at layer %q: it is no part of this phase", s.To.Layer)
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
	End   int // index behind the last grid to do
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
	// Of rules with events: how they were run, and the rule's rate in this layer.
	Execution Execution `json:"execution,omitempty"`
	Rate      float64   `json:"rate,omitempty"`
}

// Host is a backend, as a phase needs it.
type Host struct {
	Now   func() time.Time
	Open  func(Layer) Runner                   // gives the weights of a layer
	Param func(name string) ([]float64, error) // reads a parameter in the canonical layout
	Word  int                                  // bytes of a weight
	// Each shares a loop over 0…n-1 among workers, f being for lo…hi-1, and waits for all; nil is one after the other.
	Each func(n int, f func(lo, hi int))
}

// Runner is one layer's weights in a backend, as Run needs them.
type Runner interface {
	// Measure computes the layer's statistics.
	Measure(Border) Stats
	// Means are the mean weights and biases of a grid's groups, (N, M), the bias behind each neuron's weights.
	Means(Grid) []float64
	// NonFinite finds a neuron with a weight or bias that is not finite.
	NonFinite() (position, channel int, found bool)
	// Share runs a task on one grid and returns what became of the group means of its weights and the bytes moved.
	Share(*Task) (PreservationSum, int64)
}

// LayerRunner is a Runner that may share many grids of its layer together, where that is quicker than one after the other.
type LayerRunner interface {
	Runner
	// ShareAll runs a rule on all the grids, with the result of Share on each; or not, and then nothing has changed.
	ShareAll(Rule, []Grid) (kept PreservationSum, bytes int64, done bool)
}

// Run is the phase itself, the same for every backend: it checks everything that can be refused, then goes through
// layers and grids in order, asks ctx before each grid, or before all that a LayerRunner shares together, and while it
// prepares a layer, and keeps the report. When ctx
// ends, the report's Next is the first grid not done, and the error wraps the context's.
func Run(ctx context.Context, n *net.Network, s Stream, h Host) (Report, error) {
	p := phase{Stream: s, host: h, state: NewState(n, s.Border, h), start: h.Now()}
	p.report.Border = s.Border
	if s.Rule == nil {
		return p.report, errors.New("sleep: a phase without a rule")
	}
	p.report.Rule = s.Rule.Kind()
	work, err := s.Work(n)
	if err != nil {
		return p.report, err
	}
	if err := p.check(work); err != nil {
		return p.report, err
	}
	for _, w := range work {
		if err := p.layer(ctx, w); err != nil {
			return p.report, err
		}
	}
	p.report.Duration, p.report.Next = h.Now().Sub(p.start), s.To
	return p.report, nil
}

// phase is a phase under way.
type phase struct {
	Stream
	host   Host
	state  *State
	start  time.Time
	report Report
}

func (p *phase) observes() bool { _, ok := p.Rule.(Observe); return ok }

// check refuses what cannot run, before any weight changes. (A Circuit that does not preserve means changes what
// Propagated makes of later layers, so that those are looked at again when their turn comes.)
func (p *phase) check(work []Work) error {
	rule, events := p.Rule.(plastic)
	if events {
		if err := rule.Check(); err != nil {
			return err
		}
		if err := checkEvents(rule.Kind(), p.Events); err != nil {
			return err
		}
	}
	state := NewState(p.state.net, p.Border, p.host) // what it reads is not kept: weights will change
	for _, w := range work {
		if p.observes() {
			break
		}
		if position, channel, found := p.host.Open(w.Layer).NonFinite(); found {
			return fmt.Errorf("sleep: layer %q: weights of the group of channel %d in grid %s are not finite", w.Name, channel, w.gridOf(position))
		}
		if events {
			if _, err := p.plan(w, state); err != nil {
				return err
			}
		}
	}
	return nil
}

// gridOf names the grid of a position by its phases.
func (l Layer) gridOf(position int) string {
	period := l.Period()
	return fmt.Sprintf("(%d, %d)", position/l.Out.W%period, position%l.Out.W%period)
}

// layer runs the phase over one layer.
func (p *phase) layer(ctx context.Context, w Work) error {
	begin := p.host.Now()
	lr := LayerReport{Layer: w.Name, Mean: Preservation{Ratio: 1}}
	run := p.host.Open(w.Layer)
	if p.Measure || p.observes() {
		before := run.Measure(p.Border)
		lr.Before = &before
	}
	if !p.observes() {
		if err := p.share(ctx, w, run, &lr); err != nil {
			return err
		}
		if p.Measure && p.report.Next == nil {
			after := run.Measure(p.Border)
			lr.After = &after
		}
	}
	lr.Duration = p.host.Now().Sub(begin)
	p.report.Bytes += lr.Bytes
	p.report.Layers = append(p.report.Layers, lr)
	if p.report.Next != nil {
		p.report.Duration = p.host.Now().Sub(p.start)
		return fmt.Errorf("sleep: interrupted in layer %q: %w", w.Name, context.Cause(ctx))
	}
	return nil
}

// share runs the rule over the layer's grids, or up to the end of ctx.
func (p *phase) share(ctx context.Context, w Work, run Runner, lr *LayerReport) error {
	plan, err := p.plan(w, p.state)
	if err != nil {
		return err
	}
	lr.Execution, lr.Rate = plan.execution, plan.rate()
	if plan.prepare(ctx) != nil {
		p.report.Next = &Token{Layer: w.Name, Grid: w.First}
		return nil
	}
	var kept PreservationSum
	if all, ok := run.(LayerRunner); ok && ctx.Err() == nil {
		if sum, bytes, done := all.ShareAll(p.Rule, w.Grids[w.First:w.End]); done {
			lr.Mean, lr.Bytes = sum.Preservation(), bytes
			return nil
		}
	}
	for i := w.First; i < w.End; i++ {
		if ctx.Err() != nil {
			p.report.Next = &Token{Layer: w.Name, Grid: i}
			break
		}
		sum, bytes := run.Share(plan.task(w.Grids[i], i))
		kept.Merge(sum)
		lr.Bytes += bytes
	}
	lr.Mean = kept.Preservation()
	return nil
}

// SNR is the network's signal-to-noise ratio in the report, before the rule ran: the geometric mean of the layers'
// (Eq. 6), so that ln(1/SNR), which the paper plots, is averaged. As equal weights of a layer do (Stats), layers all
// of whose weights are equal stand apart: +Inf when all layers are such. NaN without a measurement.
func (r Report) SNR() float64 { return r.geometric(func(l LayerReport) *Stats { return l.Before }) }

// SNRAfter is the network's signal-to-noise ratio after the rule ran.
func (r Report) SNRAfter() float64 {
	return r.geometric(func(l LayerReport) *Stats { return l.After })
}

func (r Report) geometric(which func(LayerReport) *Stats) float64 {
	sum, n, equal := 0.0, 0, 0
	for _, l := range r.Layers {
		switch s := which(l); {
		case s == nil || s.Groups == 0:
		case s.AllEqual():
			equal++
		default:
			sum += math.Log(s.SNR)
			n++
		}
	}
	if n == 0 && equal > 0 {
		return math.Inf(1)
	}
	return math.Exp(sum / float64(n))
}
