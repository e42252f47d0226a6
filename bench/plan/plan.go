// Package plan says what a network in integers takes on a board before it is there: memory, and estimated times. Sizes, bytes
// and products are counted (package fixed); memory is what the engine allocates, which tests compare. Times are estimates from
// a board's profile: of each layer the longer of bytes / bandwidth and products / rate, and a constant; random numbers are added
// to products.
package plan

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"hypnos/backends/fixed"
	"hypnos/board"
	"hypnos/core"
	"hypnos/core/net"
)

// Options of New.
type Options struct {
	Threads int // 0 means one a core of the board
	Events  int // a grid, of a Hebbian sleep
	Core    core.Options
}

// Seconds are estimated times.
type Seconds struct {
	Infer   float64 `json:"inference"`
	Small   float64 `json:"inference_consolidated"`
	Wake    float64 `json:"wake"`
	Instant float64 `json:"instant_sleep"`
	Hebbian float64 `json:"hebbian_sleep"`
}

// Layer is one layer's cost and its times.
type Layer struct {
	fixed.Cost
	Seconds Seconds `json:"seconds_estimated"`
}

// Plan is the whole.
type Plan struct {
	Network   string        `json:"network"`
	Board     board.Profile `json:"board"`
	Threads   int           `json:"threads"`
	Batch     int           `json:"batch"`
	Events    int           `json:"hebbian_events"`
	LearnFrom string        `json:"learn_from,omitempty"`
	Learns    bool          `json:"learns"`
	Layers    []Layer       `json:"layers"`
	Total     fixed.Cost    `json:"total"`
	Seconds   Seconds       `json:"seconds_estimated"`
	Memory    core.Memory   `json:"memory"` // of the engine, with full weights
	// Small is the engine's memory with consolidated weights: until the first wake step after an instant sleep expands them.
	Small   core.Memory `json:"memory_consolidated"`
	Program int64       `json:"program"` // bytes of the program itself
	Peak    int64       `json:"peak"`    // bytes: engine, program, and the largest layer while it is loaded, expanded or asleep
	Free    int64       `json:"free"`    // bytes of the board
	Fits    bool        `json:"fits"`
}

// programBytes is the resident memory of the program without an engine: VmHWM of "hypnos help" on linux/amd64, rounded up;
// armv7 is taken to be alike, since under user-mode emulation the figure is the emulator's.
const programBytes = 16e6

// New plans a network on a board.
func New(n *net.Network, b board.Profile, o Options) (*Plan, error) {
	if o.Threads == 0 {
		o.Threads = int(b.Cores.Value)
	}
	if o.Threads < 1 || o.Threads > int(b.Cores.Value) {
		return nil, fmt.Errorf("plan: %d threads, the board has %g cores", o.Threads, b.Cores.Value)
	}
	if o.Events < 1 {
		return nil, fmt.Errorf("plan: %d events are below 1", o.Events)
	}
	costs, err := fixed.Costs(n, o.Core, o.Events, o.Threads)
	if err != nil {
		return nil, err
	}
	p := &Plan{
		Network: n.Name, Board: b, Threads: o.Threads, Batch: o.Core.MaxBatch, Events: o.Events, LearnFrom: o.Core.LearnFrom,
		Learns: o.Core.Train, Program: programBytes, Free: int64(1e6 * b.Free.Value),
	}
	if p.Memory, err = fixed.MemoryOf(n, o.Core, o.Threads); err != nil {
		return nil, err
	}
	p.Memory.Free = 0
	p.Small = p.Memory
	largest := int64(0)
	for _, c := range costs {
		l := Layer{Cost: c, Seconds: p.seconds(c)}
		p.Layers = append(p.Layers, l)
		p.Total.Weights += c.Weights
		p.Total.Consolidated += c.Consolidated
		p.Total.Activations += c.Activations
		p.Total.Errors += c.Errors
		p.Total.Scratch = max(p.Total.Scratch, c.Scratch)
		for _, w := range []struct{ to, of *fixed.Work }{
			{&p.Total.Infer, &c.Infer}, {&p.Total.Small, &c.Small}, {&p.Total.Wake, &c.Wake}, {&p.Total.Instant, &c.Instant}, {&p.Total.Hebbian, &c.Hebbian},
		} {
			w.to.Bytes, w.to.MACs, w.to.Random = w.to.Bytes+w.of.Bytes, w.to.MACs+w.of.MACs, w.to.Random+w.of.Random
		}
		p.Seconds.Infer += l.Seconds.Infer
		p.Seconds.Small += l.Seconds.Small
		p.Seconds.Wake += l.Seconds.Wake
		p.Seconds.Instant += l.Seconds.Instant
		p.Seconds.Hebbian += l.Seconds.Hebbian
		p.Small.Weights -= c.Weights - c.Consolidated
		largest = max(largest, c.Weights, c.Asleep)
		p.Total.Asleep = max(p.Total.Asleep, c.Asleep)
	}
	p.Peak = p.Memory.Total() + largest + p.Program
	p.Fits = p.Peak <= p.Free
	return p, nil
}

// seconds estimates a layer's times.
func (p *Plan) seconds(c fixed.Cost) Seconds {
	at := func(w fixed.Work, bandwidth float64) float64 {
		if w == (fixed.Work{}) {
			return 0
		}
		cores := 1e9 * float64(p.Threads)
		memory := float64(w.Bytes) / (1e9 * bandwidth)
		arithmetic := float64(w.MACs)/(cores*p.Board.MACs.Value) + float64(w.Random)/(cores*p.Board.Random.Value)
		return max(memory, arithmetic) + 1e-6*p.Board.Layer.Value
	}
	read, both := p.Board.Read.Value, p.Board.Copy.Value
	return Seconds{at(c.Infer, read), at(c.Small, read), at(c.Wake, both), at(c.Instant, both), at(c.Hebbian, both)}
}

// WriteText prints the plan.
func (p *Plan) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%s on %s (%s), %d threads, batch %d; no measurement: times are estimates\n\n", p.Network, p.Board.Title, p.Board.Name, p.Threads, p.Batch)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "layer\tkind\tweights\tconsolidated\tscratch\tinfer MB\tM products\tms\twake MB\tM products\tms\tinstant ms\thebbian ms\t\n")
	row := func(c fixed.Cost, s Seconds) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t%.3f\t\n", c.Layer, c.Kind, kB(c.Weights), kB(c.Consolidated), kB(c.Scratch),
			mega(c.Infer.Bytes), mega(c.Infer.MACs), 1e3*s.Infer, mega(c.Wake.Bytes), mega(c.Wake.MACs), 1e3*s.Wake, 1e3*s.Instant, 1e3*s.Hebbian)
	}
	for _, l := range p.Layers {
		row(l.Cost, l.Seconds)
	}
	total := p.Total
	total.Layer, total.Kind = "total", "-"
	row(total, p.Seconds)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "consolidated, inference moves %.3f MB and takes %.3f ms (estimate)\n\n", mega(total.Small.Bytes), 1e3*p.Seconds.Small)
	m := p.Memory
	fmt.Fprintf(w, "engine: %.2f MB (weights %.2f, activations %.2f, errors %.2f, scratch %.2f); consolidated, until it learns: %.2f MB\n",
		mega(m.Total()), mega(m.Weights), mega(m.Activations), mega(m.Gradients), mega(m.Scratch), mega(p.Small.Total()))
	fmt.Fprintf(w, "peak: %.2f MB (engine, the largest layer while it is read, expanded or asleep, %.0f MB for the program); the board has %.0f MB for it: %s\n",
		mega(p.Peak), mega(p.Program), mega(p.Free), map[bool]string{true: "fits", false: "does not fit"}[p.Fits])
	if e := p.Board.Estimated(); len(e) > 0 {
		fmt.Fprintf(w, "figures of the board that are estimates, not of a data sheet: %s\n", strings.Join(e, ", "))
	}
	return nil
}

func mega(n int64) float64 { return float64(n) / 1e6 }
func kB(n int64) string    { return fmt.Sprintf("%.1f kB", float64(n)/1e3) }
