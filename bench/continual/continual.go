// Package continual measures learning from a stream: a network trained beforehand meets labelled images of new conditions,
// one task after the other, one image at a time, and sleeps every few of them, or not. What it then knows of each task is
// compared between sleep and none, between integers (backends/fixed) and float32 (backends/cpu on the numbers that the
// integers stand for), and between ways of learning that suit small boards.
//
// R(i, j) is the accuracy on the test images of task j after the stream's task i; task 0 is what the network was trained on,
// and R(0, j) is before the stream. With T tasks in the stream,
//
//	ACC = 1/(T+1) Σ_j R(T, j)                              Lopez-Paz and Ranzato, NeurIPS 2017, Eq. 2
//	BWT = 1/T Σ_{j<T} R(T, j) - R(j, j)                    the same, Eq. 3
//	F   = 1/T Σ_{j<T} max_{i<T} R(i, j) - R(T, j)          Chaudhry et al., ECCV 2018, Section 3.1
package continual

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"hypnos/backends"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

// Subject is the network that the stream meets.
type Subject struct {
	Net    *net.Network  // folded
	Params *model.Params // integers, as an engine takes them
	Float  *model.Params // what they stand for
	Data   *data.Dataset // the stream is of its training images
	Stats  data.Stats
	Known  int // classes that it was trained on: the first
}

// Modes of learning.
const (
	All        = "all"        // every layer learns
	LastBlock  = "last-block" // the layers behind the last block's input
	Classifier = "classifier" // the last layer
	Local      = "local"      // every layer, by core.Broadcast
)

// Modes lists the modes.
func Modes() []string { return []string{All, LastBlock, Classifier, Local} }

// Options of Run.
type Options struct {
	Tasks      []Task
	Steps      int // wake steps a task, of one image each
	SleepEvery int // wake steps
	LR         float64
	Test       int      // test images a task, at most; 0 means all
	Modes      []string // the first in float32, too
	Seed       uint64
	Threads    int // 0 means one a core
}

// Check returns an error that names the first option out of range.
func (o Options) Check() error {
	switch {
	case len(o.Tasks) == 0:
		return errors.New("continual: no tasks")
	case o.Steps < 1:
		return fmt.Errorf("continual: %d steps a task are below 1", o.Steps)
	case o.SleepEvery < 1:
		return fmt.Errorf("continual: sleep every %d steps: below 1", o.SleepEvery)
	case !(o.LR > 0 && o.LR <= 1):
		return fmt.Errorf("continual: learning rate %g is outside (0, 1]", o.LR)
	case o.Test < 0:
		return fmt.Errorf("continual: %d test images are below 0", o.Test)
	case len(o.Modes) == 0:
		return errors.New("continual: no modes")
	}
	for _, m := range o.Modes {
		if !slices.Contains(Modes(), m) {
			return fmt.Errorf("continual: unknown mode %q (known: %s)", m, strings.Join(Modes(), ", "))
		}
	}
	return nil
}

// Result is what was measured.
type Result struct {
	Network    string   `json:"network"`
	Data       string   `json:"data"`
	Tasks      []string `json:"tasks"` // the original first
	TestImages []int    `json:"test_images"`
	Steps      int      `json:"steps_a_task"`
	SleepEvery int      `json:"sleep_every"`
	LR         float64  `json:"lr"`
	Seed       uint64   `json:"seed"`
	Runs       []Run    `json:"runs"`
	Seconds    float64  `json:"seconds"`
}

// Run is one way of going through the stream.
type Run struct {
	Backend    string      `json:"backend"` // "fixed" or "cpu"
	Mode       string      `json:"mode"`
	LearnFrom  string      `json:"learn_from,omitempty"` // the first layer that learns
	SleepEvery int         `json:"sleep_every"`          // 0: never
	Accuracy   [][]float64 `json:"accuracy"`             // R(i, j)
	Average    float64     `json:"average_accuracy"`     // ACC
	BWT        float64     `json:"backward_transfer"`
	Forgetting float64     `json:"forgetting"`
	Online     []float64   `json:"online"` // by task of the stream: share of its images classified rightly before learning from them
	Seconds    float64     `json:"seconds"`
}

// summarise computes ACC, BWT and F.
func (r *Run) summarise() {
	last := len(r.Accuracy) - 1
	for j, now := range r.Accuracy[last] {
		r.Average += now / float64(last+1)
		if j == last {
			continue
		}
		best := 0.0
		for i := range last {
			best = max(best, r.Accuracy[i][j])
		}
		r.BWT += (now - r.Accuracy[j][j]) / float64(last)
		r.Forgetting += (best - now) / float64(last)
	}
}

// Find returns the run of a backend, mode and number of steps between sleeps.
func (r *Result) Find(backend, mode string, every int) *Run {
	i := slices.IndexFunc(r.Runs, func(v Run) bool { return v.Backend == backend && v.Mode == mode && v.SleepEvery == every })
	if i < 0 {
		return nil
	}
	return &r.Runs[i]
}

// Execute goes through the stream once for every mode, with sleep and without, in integers, and for the first mode in float32,
// too. The images, their order and the noise on them are the same every time. Progress goes to log, a line a run.
func Execute(ctx context.Context, s Subject, o Options, log io.Writer) (*Result, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	for _, t := range o.Tasks {
		if err := t.check(s.Data); err != nil {
			return nil, err
		}
	}
	begin := time.Now()
	b, err := newStream(s, o)
	if err != nil {
		return nil, err
	}
	r := &Result{Network: s.Net.Name, Data: s.Data.Name, Steps: o.Steps, SleepEvery: o.SleepEvery, LR: o.LR, Seed: o.Seed}
	for i, t := range b.tasks {
		r.Tasks = append(r.Tasks, t.String())
		r.TestImages = append(r.TestImages, b.tests[i].Images.Len())
	}
	for i, mode := range o.Modes {
		on := []string{"fixed", "cpu"}
		if i > 0 {
			on = on[:1]
		}
		for _, every := range []int{o.SleepEvery, 0} {
			for _, backend := range on {
				run, err := b.run(ctx, backend, mode, every)
				if err != nil {
					return nil, fmt.Errorf("continual: %s, %s: %w", backend, mode, err)
				}
				fmt.Fprintf(log, "%s, %s, sleep every %d: %.1f s\n", backend, mode, every, run.Seconds)
				r.Runs = append(r.Runs, run)
			}
		}
	}
	r.Seconds = time.Since(begin).Seconds()
	return r, nil
}

// stream is what every run goes through.
type stream struct {
	Subject
	Options
	tasks []Task         // the original first
	train []*data.Loader // by task of the stream
	tests []*data.Loader // by task
}

// testBatch is how many images are tested together.
const testBatch = 50

func newStream(s Subject, o Options) (*stream, error) {
	b := &stream{Subject: s, Options: o, tasks: append([]Task{{Kind: Original}}, o.Tasks...)}
	size, classes := s.Net.Input().H, len(s.Data.Classes)
	all := data.Dataset{Name: s.Data.Name, Train: s.Data.Train, Test: s.Data.Test}
	for i, t := range b.tasks {
		part := all
		part.Test = t.images(all.Test, s.Known, classes, s.Stats, o.Seed, uint64(2*i))
		if o.Test > 0 && o.Test < part.Test.Len() {
			if err := part.Limit(0, o.Test); err != nil {
				return nil, err
			}
		}
		b.tests = append(b.tests, &data.Loader{Images: part.Test, Size: size, Batch: testBatch, Stats: s.Stats})
		if i > 0 {
			images := t.images(all.Train, s.Known, classes, s.Stats, o.Seed, uint64(2*i+1))
			b.train = append(b.train, &data.Loader{Images: images, Size: size, Batch: 1, Stats: s.Stats, Seed: o.Seed})
		}
	}
	for i, l := range slices.Concat(b.tests, b.train) {
		if err := l.Check(); err != nil {
			return nil, fmt.Errorf("continual: task %v: %w", b.tasks[i%len(b.tests)], err)
		}
	}
	return b, nil
}

// LearnFrom names the first layer that learns in a mode; "" is all.
func LearnFrom(n *net.Network, mode string) (string, error) {
	switch last := len(n.Nodes) - 1; mode {
	case Classifier:
		for i := last; i > 0; i-- {
			if len(n.Nodes[i].Params) > 0 {
				return n.Nodes[i].Name, nil
			}
		}
	case LastBlock: // what the last sum adds to its first input begins behind the sum, or pool, before it
		sum := last
		for ; sum > 0; sum-- {
			if _, ok := n.Nodes[sum].Op.(net.Add); ok {
				break
			}
		}
		for i := sum - 1; i > 0; i-- {
			if _, ok := n.Nodes[i].Op.(net.Add); !ok {
				continue
			}
			for _, v := range n.Nodes[i+1 : sum] {
				if len(v.Params) > 0 {
					return v.Name, nil
				}
			}
		}
		return "", fmt.Errorf("continual: %s has no two sums: no last block", n.Name)
	case All, Local:
		return "", nil
	}
	return "", fmt.Errorf("continual: unknown mode %q (known: %s)", mode, strings.Join(Modes(), ", "))
}

// open compiles and loads the network on a backend.
func (b *stream) open(backend, mode, from string) (core.Engine, func() error, error) {
	if b.Threads > 0 {
		backend = fmt.Sprintf("%s:threads=%d", backend, b.Threads)
	}
	on, err := backends.Open(backend)
	if err != nil {
		return nil, nil, err
	}
	o := core.Options{MaxBatch: testBatch, Train: true, Optimizer: optim.Spec{Kind: optim.SGD}, Seed: b.Seed, LearnFrom: from}
	if mode == Local {
		o.Rule = core.Broadcast
	}
	e, err := on.Compile(b.Net, o)
	if err != nil {
		return nil, nil, errors.Join(err, on.Close())
	}
	p := b.Params
	if on.Name() != "fixed" {
		p = b.Float
	}
	if err := e.Load(p); err != nil {
		return nil, nil, errors.Join(err, e.Close(), on.Close())
	}
	return e, func() error { return errors.Join(e.Close(), on.Close()) }, nil
}

// run goes through the stream once.
func (b *stream) run(ctx context.Context, backend, mode string, every int) (r Run, err error) {
	begin := time.Now()
	r = Run{Backend: backend, Mode: mode, SleepEvery: every}
	if r.LearnFrom, err = LearnFrom(b.Net, mode); err != nil {
		return r, err
	}
	e, done, err := b.open(backend, mode, r.LearnFrom)
	if err != nil {
		return r, err
	}
	defer done()
	if err := b.test(ctx, e, &r); err != nil {
		return r, err
	}
	step := 0
	for task := range b.train {
		hits := 0
		for m := range b.samples(ctx, task) {
			s, err := e.Wake(ctx, m.X, m.Labels, b.LR)
			if err != nil {
				return r, err
			}
			hits += s.Top1
			step++
			if every > 0 && step%every == 0 {
				if _, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}, Seed: b.Seed, Phase: uint64(step)}); err != nil {
					return r, err
				}
			}
		}
		r.Online = append(r.Online, float64(hits)/float64(b.Steps))
		if err := b.test(ctx, e, &r); err != nil {
			return r, err
		}
	}
	r.summarise()
	r.Seconds = time.Since(begin).Seconds()
	return r, nil
}

// samples are the images of one task, as many as there are steps, in random order, in another order when they begin anew.
func (b *stream) samples(ctx context.Context, task int) func(yield func(data.Minibatch) bool) {
	return func(yield func(data.Minibatch) bool) {
		left := b.Steps
		for epoch := 0; left > 0 && ctx.Err() == nil; epoch++ {
			for m := range b.train[task].Epoch(ctx, task<<16+epoch, 0) {
				if left--; left < 0 || !yield(m) {
					return
				}
			}
		}
	}
}

// test adds a row to the accuracies.
func (b *stream) test(ctx context.Context, e core.Engine, r *Run) error {
	var row []float64
	for _, t := range b.tests {
		v, err := train.Evaluate(ctx, e, t)
		if err != nil {
			return err
		}
		row = append(row, v.Top1)
	}
	r.Accuracy = append(r.Accuracy, row)
	return nil
}

// NewSubject makes a subject of a float network as it was trained: folded, calibrated on training images of the classes that it
// knows, in integers.
func NewSubject(ctx context.Context, n *net.Network, p *model.Params, d *data.Dataset, stats data.Stats, known int) (s Subject, err error) {
	s = Subject{Data: d, Stats: stats, Known: known}
	var folded *model.Params
	if s.Net, folded, err = edge.Fold(n, p); err != nil {
		return s, err
	}
	on, err := backends.Open("cpu")
	if err != nil {
		return s, err
	}
	defer on.Close()
	e, err := on.Compile(s.Net, core.Options{MaxBatch: testBatch})
	if err != nil {
		return s, err
	}
	defer e.Close()
	if err := e.Load(folded); err != nil {
		return s, err
	}
	const calibration = 256
	part := data.Dataset{Name: d.Name, Train: Task{Kind: Original}.images(d.Train, known, len(d.Classes), stats, 0, 0), Test: d.Test}
	if err := part.Limit(min(calibration, part.Train.Len()), 0); err != nil {
		return s, err
	}
	l := &data.Loader{Images: part.Train, Size: s.Net.Input().H, Batch: testBatch, Stats: stats}
	ranges, err := edge.Calibrate(ctx, s.Net, e, func(yield func(core.Batch) bool) {
		for m := range l.InOrder(ctx) {
			if !yield(m.X) {
				return
			}
		}
	})
	if err != nil {
		return s, err
	}
	integers, _, err := edge.Convert(s.Net, folded, ranges, edge.ConvertOptions{})
	if err != nil {
		return s, err
	}
	return s, s.take(integers)
}

// take keeps integer parameters and the numbers that they stand for.
func (s *Subject) take(p *model.Params) (err error) {
	if s.Params, err = p.Snapshot(); err != nil {
		return err
	}
	twin, err := edge.Float(s.Net, s.Params)
	if err != nil {
		return err
	}
	s.Float, err = twin.Snapshot()
	return err
}

// OfPackage makes a subject of an open edge package, which knows all classes of the data.
func OfPackage(p *edge.Package, d *data.Dataset) (s Subject, err error) {
	m := p.Manifest
	if len(d.Classes) != len(m.Classes) {
		return s, fmt.Errorf("continual: %s has %d classes, the network %d", d.Name, len(d.Classes), len(m.Classes))
	}
	s = Subject{Net: m.Network, Data: d, Stats: m.Stats, Known: len(d.Classes)}
	params, err := p.Params()
	if err != nil {
		return s, err
	}
	return s, s.take(params)
}
