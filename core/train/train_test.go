package train_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"hypnos/backends/cpu"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/rng"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

// rig is a loop and the record of its run. All that happens is an event: "wake", "infer" and a sleep rule's kind are
// calls of the engine; "step", "sleep" and "eval" are metrics, and "save" is a saved state.
type rig struct {
	train.Loop
	events  []string
	steps   []train.Step
	evals   []train.Eval
	metrics []string // all of them as JSON, without measured times
	saved   []place
	rates   []float64
	streams []sleep.Stream
	shown   []shown
	now     time.Time                // a second passes with every learning step
	on      func(event string) error // what an event leads to; nil is nothing
}

// place is a saved state, what the engine held then and how many metrics came before.
type place struct {
	train.State
	params  *model.Params // nil with a canned engine
	metrics int
}

// shown is a copy of a batch that was learnt.
type shown struct {
	pixels []float32
	labels core.Labels
}

// spy passes on what the loop asks of an engine, or gives canned answers when there is none. It learns and sleeps only
// in contexts that do not end, which leave the engine between two steps.
type spy struct {
	core.Engine
	*rig
}

func (r *rig) happen(event string) error {
	r.events = append(r.events, event)
	if r.on == nil {
		return nil
	}
	return r.on(event)
}

func (s spy) Wake(ctx context.Context, x core.Batch, y core.Labels, lr float64) (core.Step, error) {
	s.now = s.now.Add(time.Second)
	s.rates = append(s.rates, lr)
	s.shown = append(s.shown, shown{slices.Clone(x.Pixels), slices.Clone(y)})
	if err := errors.Join(s.happen("wake"), ctx.Err()); err != nil {
		return core.Step{}, err
	}
	if s.Engine == nil {
		return core.Step{N: x.N, Loss: 2, Top1: 1, Top5: x.N}, nil
	}
	return s.Engine.Wake(ctx, x, y, lr)
}

func (s spy) Sleep(ctx context.Context, p sleep.Stream) (sleep.Report, error) {
	s.streams = append(s.streams, p)
	if err := errors.Join(s.happen(p.Rule.Kind()), ctx.Err()); err != nil {
		return sleep.Report{}, err
	}
	if s.Engine == nil {
		layers := make([]sleep.LayerReport, 3)
		return sleep.Report{Rule: p.Rule.Kind(), Layers: layers, Bytes: 5, Duration: 2 * time.Second}, nil
	}
	return s.Engine.Sleep(ctx, p)
}

func (s spy) Infer(ctx context.Context, x core.Batch) (core.Logits, error) {
	if err := s.happen("infer"); err != nil {
		return core.Logits{}, err
	}
	if s.Engine == nil {
		return core.Logits{N: x.N, Classes: classes, Values: make([]float64, x.N*classes)}, ctx.Err()
	}
	return s.Engine.Infer(ctx, x)
}

const classes = 7

// newRig is a loop with five training and three test images in batches of two: three and two batches.
func newRig(t *testing.T, c train.Config, e core.Engine) *rig {
	t.Helper()
	r := &rig{now: time.Unix(1000, 0)}
	r.Loop = train.Loop{
		Config: c, Engine: spy{e, r}, Train: loader(5, 2), Test: loader(3, 2),
		Now: func() time.Time { return r.now },
	}
	r.Observe = func(metric any) error {
		kind := "step"
		switch m := metric.(type) {
		case train.Step:
			r.steps = append(r.steps, m)
		case train.Sleep:
			kind, m.Took = "sleep", 0
			metric = m
		case train.Eval:
			r.evals = append(r.evals, m)
			kind, m.Weights.Duration, m.Weights.Layers = "eval", 0, slices.Clone(m.Weights.Layers)
			for i := range m.Weights.Layers {
				m.Weights.Layers[i].Duration = 0
			}
			metric = m
		}
		line, err := json.Marshal(metric)
		if err != nil {
			return err
		}
		r.metrics = append(r.metrics, string(line))
		return r.happen(kind)
	}
	r.Save = func(s train.State) error {
		p := place{State: s, metrics: len(r.metrics)}
		if e != nil {
			p.params = snapshot(t, e)
		}
		r.saved = append(r.saved, p)
		return r.happen("save")
	}
	return r
}

// loader serves images of 6x6 random bytes, whose labels are their numbers.
func loader(images, batch int) *data.Loader {
	s := &data.Images{Shape: net.Shape{H: 6, W: 6, C: 3}}
	draw := rng.New(1, rng.Test, uint64(images))
	for i := range images {
		for range s.Shape.Len() {
			s.Pixels = append(s.Pixels, uint8(draw.Intn(uint64(len(s.Pixels)), 256)))
		}
		s.Labels = append(s.Labels, int32(i%classes))
	}
	return &data.Loader{
		Images: s, Size: 6, Batch: batch, Seed: 1, Augment: data.Augment{Pad: 1, Flip: true},
		Stats: data.Stats{Mean: [3]float64{0.5, 0.5, 0.5}, Std: [3]float64{0.25, 0.25, 0.25}},
	}
}

// config is a run of so many epochs.
func config(epochs int) train.Config {
	return train.Config{
		Epochs: epochs, Rate: optim.MultiStep{Base: 0.0625}, Phase: sleep.Stream{Rule: sleep.Instant{}},
	}
}

func (r *rig) run(t *testing.T, s train.State) train.State {
	t.Helper()
	s, err := r.Run(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// engine compiles a small locally connected network with batch norm on the CPU backend.
func engine(t *testing.T) core.Engine {
	t.Helper()
	nb := net.NewBuilder("tiny")
	x := nb.LC2D("lc", nb.Input(net.Shape{H: 6, W: 6, C: 3}), net.Window{Out: 4, Kernel: 3, Stride: 1})
	x = nb.ReLU("relu", nb.BatchNorm("bn", x))
	nb.Linear("linear", nb.GlobalAvgPool("pool", x), classes)
	n, err := nb.Build()
	if err != nil {
		t.Fatal(err)
	}
	b, err := cpu.Open(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	e, err := b.Compile(n, core.Options{MaxBatch: 2, Train: true, Optimizer: optim.Default(optim.AdamW, 0.1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(e.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	})
	p, err := n.Init(net.InitOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	load(t, e, p)
	return e
}

func load(t *testing.T, e core.Engine, p *model.Params) {
	t.Helper()
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
}

func snapshot(t *testing.T, e core.Engine) *model.Params {
	t.Helper()
	p, err := e.Save()
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.Snapshot(); err != nil {
		t.Fatal(err)
	}
	return p
}

// bits are parameters and optimiser state as a file, in which equal bytes are equal bits.
func bits(t *testing.T, p *model.Params) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := model.Write(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sameLines reports the first line that differs.
func sameLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		switch {
		case i >= len(got):
			t.Errorf("%s: only %d of %d metrics", what, len(got), len(want))
		case i >= len(want):
			t.Errorf("%s: %d metrics, want %d", what, len(got), len(want))
		case got[i] != want[i]:
			t.Errorf("%s: metric %d is\n%s, want\n%s", what, i, got[i], want[i])
		default:
			continue
		}
		return
	}
}

// Two epochs of three batches, by the definition of a step: wake, then sleep where it is due, then, behind the last
// batch, sleep where evaluations ask for it, a look at the weights, two test batches.
func TestOrderOfEvents(t *testing.T) {
	const end = "observe infer infer eval save"
	for _, c := range []struct {
		schedule sleep.Schedule
		want     string
		slept    []string // epoch, batch and step of the sleeps
	}{
		{sleep.Schedule{}, strings.Repeat("wake step ", 6) + end, nil},
		{ // after the batches of index 0 and 2 of each epoch
			sleep.Schedule{Every: 2, BeforeEval: true},
			strings.Repeat("wake step instant sleep wake step wake step instant sleep ", 2) + "instant sleep " + end,
			[]string{"0 0 1", "0 2 3", "1 0 4", "1 2 6", "1 2 6"},
		},
		{
			sleep.Schedule{Every: 100},
			strings.Repeat("wake step instant sleep wake step wake step ", 2) + end,
			[]string{"0 0 1", "1 0 4"},
		},
		{ // after steps 2, 4 and 6
			sleep.Schedule{Every: 2, Count: sleep.CountSteps},
			strings.Repeat("wake step wake step instant sleep ", 3) + end,
			[]string{"0 1 2", "1 0 4", "1 2 6"},
		},
	} {
		config := config(2)
		config.Sleep = c.schedule
		config.Phase.Border, config.Phase.Measure, config.Phase.Layers = sleep.BorderRests, true, []string{"x"}
		r := newRig(t, config, nil)
		var slept []string
		observe := r.Observe
		r.Observe = func(metric any) error {
			if m, ok := metric.(train.Sleep); ok {
				slept = append(slept, fmt.Sprint(m.Epoch, m.Batch, m.Step))
				if m.Rule != "instant" || m.Layers != 3 || m.Bytes != 5 || m.Took != 2 || len(m.Report.Layers) != 3 {
					t.Errorf("%+v: metric %+v does not tell the report", c.schedule, m)
				}
			}
			return observe(metric)
		}
		r.run(t, train.State{})
		if got := strings.Join(r.events, " "); got != c.want {
			t.Fatalf("%+v:\n%s, want\n%s", c.schedule, got, c.want)
		}
		if !slices.Equal(slept, c.slept) {
			t.Errorf("%+v: slept at (epoch batch step) %v, want %v", c.schedule, slept, c.slept)
		}
		for i, s := range r.streams {
			last := i == len(r.streams)-1 // the look at the weights: all layers, the phase's border
			if s.Border != sleep.BorderRests || s.Measure == last || (s.Layers == nil) != last {
				t.Errorf("%+v: sleep %d of %d is %+v", c.schedule, i, len(r.streams), s)
			}
		}
		if got := r.evals[0].Weights.Rule; got != "observe" {
			t.Errorf("%+v: the evaluation tells the weights of %q", c.schedule, got)
		}
	}
}

// The numbers of a step's metric: batches of 2, 2 and 1 images of which the canned engine gets one right.
func TestStepMetrics(t *testing.T) {
	r := newRig(t, config(2), nil)
	r.run(t, train.State{Seconds: 10})
	var got []string
	for _, m := range r.steps {
		got = append(got, fmt.Sprintf("%d/%d #%d %d: %g %g %g %gs",
			m.Epoch, m.Batch, m.Step, m.Images, m.Loss, m.Top1, m.Top5, m.Seconds))
	}
	want := []string{
		"0/0 #1 2: 2 0.5 1 11s", "0/1 #2 2: 2 0.5 1 12s", "0/2 #3 1: 2 1 1 13s",
		"1/0 #4 2: 2 0.5 1 14s", "1/1 #5 2: 2 0.5 1 15s", "1/2 #6 1: 2 1 1 16s",
	}
	if !slices.Equal(got, want) {
		t.Errorf("steps %q, want %q", got, want)
	}
	if len(r.evals) != 1 || len(r.saved) != 1 {
		t.Fatalf("%d evaluations, %d states", len(r.evals), len(r.saved))
	}
	if e := r.evals[0]; e.Epoch != 1 || e.Step != 6 || e.Images != 3 || e.Seconds != 16 {
		t.Errorf("evaluation %+v", e)
	}
	if s := r.saved[0].State; s != (train.State{Epoch: 2, Step: 6, Seconds: 16, Done: true}) {
		t.Errorf("saved %+v", s)
	}
}

// Every n epochs, counted from 1, and the last epoch once, whether it is due or not.
func TestEvalEveryAndSaveEvery(t *testing.T) {
	for _, c := range []struct {
		every int
		want  []int // epochs done
	}{{0, []int{5}}, {1, []int{1, 2, 3, 4, 5}}, {2, []int{2, 4, 5}}, {3, []int{3, 5}}, {5, []int{5}}, {9, []int{5}}} {
		for _, saving := range []bool{false, true} {
			config := config(5)
			if saving {
				config.SaveEvery = c.every
			} else {
				config.EvalEvery = c.every
			}
			r := newRig(t, config, nil)
			end := r.run(t, train.State{})
			var evals, saves []int
			for _, e := range r.evals {
				evals = append(evals, e.Epoch+1)
			}
			for _, s := range r.saved {
				saves = append(saves, s.Epoch)
				if s.Batch != 0 || s.Step != int64(3*s.Epoch) || s.Done != (s.Epoch == 5) {
					t.Errorf("every %d: saved %+v", c.every, s.State)
				}
			}
			got, other := evals, saves
			if saving {
				got, other = saves, evals
			}
			if !slices.Equal(got, c.want) || !slices.Equal(other, []int{5}) {
				t.Fatalf("every %d (saving: %v): %v, want %v; the other %v", c.every, saving, got, c.want, other)
			}
			if last := r.saved[len(r.saved)-1].State; end != last {
				t.Errorf("every %d: ends at %+v, saved %+v", c.every, end, last)
			}
		}
	}
}

// A limit of steps ends the run with an evaluation and a saved state, in the middle of an epoch too. The same
// configuration then does nothing; more steps or epochs go on with the batch after the last one.
func TestStepLimit(t *testing.T) {
	var s train.State
	var batches []string
	for _, c := range []struct {
		steps  int64
		epochs int
		end    train.State
		evals  int
	}{
		{4, 3, train.State{Epoch: 1, Batch: 1, Step: 4, Done: true}, 1},
		{4, 3, train.State{Epoch: 1, Batch: 1, Step: 4, Done: true}, 0},
		{3, 3, train.State{Epoch: 1, Batch: 1, Step: 4, Done: true}, 0},
		{6, 3, train.State{Epoch: 2, Batch: 0, Step: 6, Done: true}, 1}, // with the epoch's end: evaluated once
		{6, 9, train.State{Epoch: 2, Batch: 0, Step: 6, Done: true}, 0},
		{7, 3, train.State{Epoch: 2, Batch: 1, Step: 7, Done: true}, 1},
		{0, 3, train.State{Epoch: 3, Batch: 0, Step: 9, Done: true}, 1},
		{99, 3, train.State{Epoch: 3, Batch: 0, Step: 9, Done: true}, 0},
		{99, 4, train.State{Epoch: 4, Batch: 0, Step: 12, Done: true}, 1},
	} {
		config := config(c.epochs)
		config.Steps = c.steps
		r := newRig(t, config, nil)
		s = r.run(t, s)
		c.end.Seconds = float64(c.end.Step) // one a step
		if s != c.end || len(r.evals) != c.evals || len(r.saved) != c.evals {
			t.Errorf("%d steps, %d epochs: ends at %+v with %d evaluations and %d states, want %+v with %d of each",
				c.steps, c.epochs, s, len(r.evals), len(r.saved), c.end, c.evals)
		}
		if c.evals == 0 && len(r.events) > 0 {
			t.Errorf("%d steps, %d epochs: a run that was done did %v", c.steps, c.epochs, r.events)
		}
		if c.evals == 1 && (len(r.saved) != 1 || r.saved[0].State != s) {
			t.Errorf("%d steps, %d epochs: saved %+v", c.steps, c.epochs, r.saved)
		}
		for _, m := range r.steps {
			batches = append(batches, fmt.Sprintf("%d/%d", m.Epoch, m.Batch))
		}
	}
	if got := strings.Join(batches, " "); got != "0/0 0/1 0/2 1/0 1/1 1/2 2/0 2/1 2/2 3/0 3/1 3/2" {
		t.Errorf("batches %s", got)
	}
}

// Drops at epochs 1 and 3 by a half of 0.0625: exact powers of two, the same in the engine and in the metrics.
func TestLearningRateDrops(t *testing.T) {
	config := config(4)
	config.Rate.Drops, config.Rate.Factor = []int{1, 3}, 0.5
	r := newRig(t, config, nil)
	r.run(t, train.State{})
	var metrics, want []float64
	for _, m := range r.steps {
		metrics = append(metrics, m.LR)
	}
	for _, lr := range []float64{1. / 16, 1. / 32, 1. / 32, 1. / 64} {
		want = append(want, lr, lr, lr)
	}
	if !slices.Equal(r.rates, want) || !slices.Equal(metrics, want) {
		t.Errorf("learning rates %v, metrics %v, want %v", r.rates, metrics, want)
	}
}

// A step learns from the loader's batch of its epoch and index; epochs are drawn anew.
func TestLearnsFromTheLoader(t *testing.T) {
	r := newRig(t, config(2), nil)
	r.run(t, train.State{})
	var want []shown
	for epoch := range 2 {
		for m := range r.Train.Epoch(context.Background(), epoch, 0) {
			want = append(want, shown{slices.Clone(m.X.Pixels), slices.Clone(m.Labels)})
		}
	}
	same := func(a, b shown) bool { return slices.Equal(a.pixels, b.pixels) && slices.Equal(a.labels, b.labels) }
	if len(want) != 6 || !slices.EqualFunc(r.shown, want, same) {
		t.Errorf("learnt from %d batches, which are not the loader's %d", len(r.shown), len(want))
	}
	if slices.EqualFunc(want[:3], want[3:], same) {
		t.Error("both epochs are alike")
	}
}

// runs are those of the tests of going on: both ways of counting, with and without sleep before evaluations, and one
// that ends in the middle of an epoch.
func runs() []train.Config {
	limited := changing(sleep.Schedule{Every: 2, BeforeEval: true})
	limited.Steps = 5
	return []train.Config{
		changing(sleep.Schedule{Every: 2, BeforeEval: true}),
		changing(sleep.Schedule{Every: 2, Count: sleep.CountSteps}),
		limited,
	}
}

// changing is a run in which everything changes on the way: rates, evaluations, states.
func changing(s sleep.Schedule) train.Config {
	c := config(3)
	c.Rate.Drops, c.Rate.Factor = []int{1}, 0.5
	c.EvalEvery, c.SaveEvery, c.Sleep = 2, 1, s
	c.Phase.Measure = true
	return c
}

// goOn runs from a saved place, the state read back from JSON, on a new engine and long after.
func goOn(t *testing.T, c train.Config, p place) (*rig, train.State) {
	t.Helper()
	e := engine(t)
	load(t, e, p.params)
	text, err := json.Marshal(p.State)
	if err != nil {
		t.Fatal(err)
	}
	var s train.State
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, c, e)
	r.now = r.now.Add(1e6 * time.Second)
	return r, r.run(t, s)
}

// Wherever a run is interrupted, in whatever happens between its beginning and its end, it saves a state, and going on
// from it gives the parameters of an uninterrupted run bit by bit and the rest of its metrics, times included.
func TestInterruptedAnywhere(t *testing.T) {
	interrupted := map[string]int{}
	for _, c := range runs() {
		whole := newRig(t, c, engine(t))
		end := whole.run(t, train.State{})
		want := bits(t, whole.saved[len(whole.saved)-1].params)
		for stop, event := range append([]string{"nothing"}, whole.events...) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			first := newRig(t, c, engine(t))
			if stop == 0 {
				cancel()
			}
			first.on = func(string) error {
				if len(first.events) == stop {
					cancel()
				}
				return nil
			}
			s, err := first.Run(ctx, train.State{})
			at := fmt.Sprintf("%+v, at most %d steps, interrupted in event %d (%s)", c.Sleep, c.Steps, stop, event)
			if len(first.saved) == 0 {
				t.Fatalf("%s: nothing saved (%v)", at, err)
			}
			p := first.saved[len(first.saved)-1]
			late := stop >= len(whole.events)-1 // behind the last evaluation
			if late != (err == nil) || !late && !errors.Is(err, train.ErrInterrupted) {
				t.Errorf("%s: error %v", at, err)
			}
			if n := len(first.metrics); p.State != s || p.metrics != n {
				t.Errorf("%s: saved %+v after %d metrics, ended at %+v after %d", at, p.State, p.metrics, s, n)
			}
			second, done := goOn(t, c, p)
			sameLines(t, at, append(first.metrics, second.metrics...), whole.metrics)
			if got := bits(t, snapshot(t, second.Engine)); !bytes.Equal(got, want) {
				t.Errorf("%s: other parameters than without", at)
			}
			if done != end {
				t.Errorf("%s: ends at %+v, want %+v", at, done, end)
			}
			interrupted[event]++
		}
	}
	for _, event := range []string{"nothing", "wake", "step", "instant", "sleep", "observe", "infer", "eval", "save"} {
		if interrupted[event] < 2 {
			t.Errorf("interrupted %d times in %q", interrupted[event], event)
		}
	}
}

// A run that ended without saving, as in a crash, goes on from the last state it saved and repeats what came after.
func TestGoingOnFromEverySavedState(t *testing.T) {
	compared := 0
	for _, c := range runs() {
		whole := newRig(t, c, engine(t))
		end := whole.run(t, train.State{})
		for _, p := range whole.saved {
			again, done := goOn(t, c, p)
			from := fmt.Sprintf("%+v, at most %d steps, from %+v", c.Sleep, c.Steps, p.State)
			sameLines(t, from, again.metrics, whole.metrics[p.metrics:])
			if done != end {
				t.Errorf("%s: ends at %+v, want %+v", from, done, end)
			}
			if !bytes.Equal(bits(t, snapshot(t, again.Engine)), bits(t, snapshot(t, whole.Engine))) {
				t.Errorf("%s: other parameters than without", from)
			}
			compared++
		}
	}
	if compared != 3+3+2 {
		t.Errorf("%d states compared, want those of 3, 3 and 2 epochs", compared)
	}
}

// A short run made longer is the long run: evaluations without sleep do not change anything.
func TestLongerRunIsTheSame(t *testing.T) {
	c := changing(sleep.Schedule{Every: 2})
	whole := newRig(t, c, engine(t))
	whole.run(t, train.State{})
	for _, cut := range []struct {
		steps  int64
		epochs int
	}{{4, 3}, {6, 3}, {0, 1}, {2, 1}} {
		short := c
		short.Steps, short.Epochs = cut.steps, cut.epochs
		first := newRig(t, short, engine(t))
		first.run(t, train.State{})
		second, _ := goOn(t, c, first.saved[len(first.saved)-1])
		if !slices.Equal(append(first.steps, second.steps...), whole.steps) {
			t.Errorf("%+v: other steps", cut)
		}
		if !bytes.Equal(bits(t, snapshot(t, second.Engine)), bits(t, snapshot(t, whole.Engine))) {
			t.Errorf("%+v: other parameters", cut)
		}
	}
}

// Interrupted in an evaluation, after the sleep before it: going on evaluates without a second sleep; going on with a
// longer run, in which that evaluation is not due any more, sleeps before the next one.
func TestSleepBeforeInterruptedEvaluation(t *testing.T) {
	c := config(1)
	c.Sleep.BeforeEval = true
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := newRig(t, c, nil)
	r.on = func(event string) error {
		if event == "infer" {
			cancel()
		}
		return nil
	}
	s, err := r.Run(ctx, train.State{})
	if !errors.Is(err, train.ErrInterrupted) {
		t.Fatalf("error %v", err)
	}
	for epochs, want := range map[int]string{
		1: "observe infer infer eval save",
		2: "wake step wake step wake step instant sleep observe infer infer eval save",
	} {
		c.Epochs = epochs
		r := newRig(t, c, nil)
		r.run(t, s)
		if got := strings.Join(r.events, " "); got != want {
			t.Errorf("%d epochs go on with %s, want %s", epochs, got, want)
		}
	}
}

// When the state cannot be saved the error says so, beside what interrupted the run and why it was not saved.
func TestInterruptedAndNotSaved(t *testing.T) {
	full := errors.New("disk full")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := newRig(t, config(1), nil)
	r.on = func(string) error { return full }
	_, err := r.Run(ctx, train.State{})
	if !errors.Is(err, train.ErrInterrupted) || !errors.Is(err, full) {
		t.Fatalf("error %v, want both ErrInterrupted and %v", err, full)
	}
	if !strings.Contains(err.Error(), "the state is lost") {
		t.Errorf("error %q does not say that the state is lost", err)
	}
}

// A loss that is not finite in step 5, the second batch of epoch 1: the error says where, and the run is where it was
// after step 4, without a metric or a state of step 5.
func TestNonFiniteStops(t *testing.T) {
	r := newRig(t, config(3), nil)
	r.on = func(event string) error {
		if event == "wake" && len(r.rates) == 5 {
			return &core.NonFiniteError{Layer: "stem.conv", What: "gradient"}
		}
		return nil
	}
	s, err := r.Run(context.Background(), train.State{})
	var where *core.NonFiniteError
	if !errors.As(err, &where) {
		t.Fatalf("error %v, want a NonFiniteError", err)
	}
	for _, want := range []string{"step 5 ", "epoch 1,", "batch 1)", `layer "stem.conv"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q without %q", err, want)
		}
	}
	if s.Epoch != 1 || s.Batch != 1 || s.Step != 4 || s.Done || len(r.steps) != 4 || len(r.saved) != 0 {
		t.Errorf("stopped at %+v with %d metrics and %d states", s, len(r.steps), len(r.saved))
	}
}

// A learning rate so large that the second step overflows: the engine is left as it was after the first.
func TestNonFiniteKeepsNothing(t *testing.T) {
	c := config(1)
	c.Rate.Base = 1e30
	e := engine(t)
	r := newRig(t, c, e)
	var before []byte
	r.on = func(event string) error {
		if event == "step" {
			before = bits(t, snapshot(t, e))
		}
		return nil
	}
	s, err := r.Run(context.Background(), train.State{})
	var where *core.NonFiniteError
	if !errors.As(err, &where) || !strings.Contains(err.Error(), "step 2 (epoch 0, batch 1)") || s.Step != 1 {
		t.Fatalf("error %v after %d steps, want a NonFiniteError in step 2", err, s.Step)
	}
	if !bytes.Equal(bits(t, snapshot(t, e)), before) {
		t.Error("the step that failed changed the engine")
	}
}

// An error of engine, observer or saver ends the run: it is the last event, it is no interruption, and nothing is saved
// behind it.
func TestErrorsEndTheRun(t *testing.T) {
	boom := errors.New("boom")
	for event, want := range map[string]string{
		"wake": "step 1", "step": "boom", "instant": "sleep after step 1", "sleep": "boom",
		"observe": "boom", "infer": "evaluation", "eval": "boom", "save": "boom",
	} {
		c := config(2)
		c.Sleep.Every, c.EvalEvery, c.SaveEvery = 1, 1, 1
		r := newRig(t, c, nil)
		r.on = func(e string) error {
			if e == event {
				return boom
			}
			return nil
		}
		_, err := r.Run(context.Background(), train.State{})
		if !errors.Is(err, boom) || errors.Is(err, train.ErrInterrupted) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want boom and %q", event, err, want)
		}
		if last := r.events[len(r.events)-1]; last != event || slices.Index(r.events, event) != len(r.events)-1 {
			t.Errorf("%s failed, then %v", event, r.events)
		}
	}
}

// Every setting out of range is named, by Check and by Run before anything happens.
func TestConfigCheck(t *testing.T) {
	if err := config(1).Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*train.Loop)
		want   string
	}{
		{func(l *train.Loop) { l.Epochs = 0 }, "0 epochs"},
		{func(l *train.Loop) { l.Steps = -1 }, "-1 steps"},
		{func(l *train.Loop) { l.EvalEvery = -2 }, "evaluation or saving every -2, 0 epochs"},
		{func(l *train.Loop) { l.SaveEvery = -3 }, "evaluation or saving every 0, -3 epochs"},
		{func(l *train.Loop) { l.Phase.Rule = nil }, "no sleep rule"},
		{func(l *train.Loop) { l.Rate.Base = math.NaN() }, "learning rate NaN"},
		{func(l *train.Loop) { l.Rate.Drops = []int{2, 1} }, "learning-rate drops [2 1]"},
		{func(l *train.Loop) { l.Rate.Drops, l.Rate.Factor = []int{1}, 2 }, "learning-rate factor 2"},
		{func(l *train.Loop) { l.Sleep.Every = -4 }, "sleep every -4"},
	} {
		r := newRig(t, config(1), nil)
		c.change(&r.Loop)
		_, running := r.Run(context.Background(), train.State{})
		for _, err := range []error{r.Check(), running} {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		}
		if len(r.events) > 0 {
			t.Errorf("%s: %v happened", c.want, r.events)
		}
	}
	for _, which := range []func(*rig) *data.Loader{
		func(r *rig) *data.Loader { return r.Train }, func(r *rig) *data.Loader { return r.Test },
	} {
		r := newRig(t, config(1), nil)
		which(r).Batch = 0
		_, err := r.Run(context.Background(), train.State{})
		if err == nil || !strings.Contains(err.Error(), "batch size 0") {
			t.Errorf("a loader with batches of 0: error %v", err)
		}
	}
}

// With n repetitions an image stands n times in a batch, cropped anew each time; an epoch has n times as many steps.
func TestRepetitions(t *testing.T) {
	const images, batch = 12, 6
	for _, reps := range []int{1, 2, 3, 6} {
		r := newRig(t, config(2), nil)
		r.Train = loader(images, batch)
		for i := range images { // labels that tell images apart
			r.Train.Images.Labels[i] = int32(i)
		}
		r.Train.Reps = reps
		r.run(t, train.State{})
		perEpoch := images / batch * reps
		if len(r.shown) != 2*perEpoch {
			t.Fatalf("%d repetitions: %d steps, want 2 epochs of %d", reps, len(r.shown), perEpoch)
		}
		seen, pairs, alike := map[int32]int{}, 0, 0
		for _, b := range r.shown {
			inBatch, size := map[int32]int{}, len(b.pixels)/batch
			for i, label := range b.labels {
				seen[label]++
				inBatch[label]++
				if i%reps > 0 {
					pairs++
					if slices.Equal(b.pixels[i*size:(i+1)*size], b.pixels[(i-1)*size:i*size]) {
						alike++
					}
				}
			}
			for label, n := range inBatch {
				if n != reps {
					t.Errorf("%d repetitions: image %d is %d times in a batch", reps, label, n)
				}
			}
		}
		for label, n := range seen {
			if n != 2*reps {
				t.Errorf("%d repetitions: image %d was shown %d times in 2 epochs", reps, label, n)
			}
		}
		// 9 crops, mirrored or not, make 1 of 18 neighbours alike: 24·5/18 = 6.7 at most, standard deviation 2.5.
		if len(seen) != images || pairs != 2*images*(reps-1) || alike > 20 || alike > pairs/2 {
			t.Errorf("%d repetitions: %d images, %d of %d neighbours alike", reps, len(seen), alike, pairs)
		}
	}
}

// answers gives out rows of logits, image after image.
type answers struct {
	core.Engine
	rows  [][]float64
	given *int
	fail  func(call int) error
	calls *int
}

func (a answers) Infer(_ context.Context, x core.Batch) (core.Logits, error) {
	*a.calls++
	if err := a.fail(*a.calls); err != nil {
		return core.Logits{}, err
	}
	l := core.Logits{N: x.N, Classes: classes}
	for range x.N {
		l.Values = append(l.Values, a.rows[*a.given]...)
		*a.given++
	}
	return l, nil
}

func newAnswers(rows [][]float64) answers {
	return answers{rows: rows, given: new(int), calls: new(int), fail: func(int) error { return nil }}
}

// Five images in batches of 2, 2 and 1, by hand. Equal logits of 7 classes have cross-entropy ln 7, and the class r has
// rank r: of the classes 0, 4, 5 and 6 one is first and two are among five. The last image has ln 6 for its class and 0
// for the six others, probability 6/12: cross-entropy ln 2, first. A mean over batches would give the last one a third.
func TestEvaluate(t *testing.T) {
	equal, sure := make([]float64, classes), make([]float64, classes)
	sure[3] = math.Log(6)
	rows := [][]float64{equal, equal, equal, equal, sure}
	l := loader(5, 2)
	l.Images.Labels = []int32{0, 4, 5, 6, 3}
	got, err := train.Evaluate(context.Background(), newAnswers(rows), l)
	if err != nil {
		t.Fatal(err)
	}
	if got.Kind != "eval" || got.Images != 5 || got.Top1 != 2./5 || got.Top5 != 3./5 {
		t.Errorf("%+v, want 5 images, 2 of them first and 3 among five", got)
	}
	// Some 30 roundings of numbers below 10, relative 2^-53 each.
	if want := (4*math.Log(7) + math.Ln2) / 5; !(math.Abs(got.Loss-want) <= 1e-13) {
		t.Errorf("loss %.17g, want %.17g", got.Loss, want)
	}
}

// An evaluation that cannot be finished is an error, wherever the context ends or the engine fails, at its end too.
func TestEvaluateFails(t *testing.T) {
	boom := errors.New("boom")
	rows := make([][]float64, 5)
	for i := range rows {
		rows[i] = make([]float64, classes)
	}
	for at := range 4 { // 0 is before the first batch
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if at == 0 {
			cancel()
		}
		a := newAnswers(rows)
		a.fail = func(call int) error {
			if call == at {
				cancel()
			}
			return nil
		}
		if e, err := train.Evaluate(ctx, a, loader(5, 2)); !errors.Is(err, context.Canceled) || *a.calls != at {
			t.Errorf("interrupted in batch %d: %+v, error %v, after %d batches", at, e, err, *a.calls)
		}
		a = newAnswers(rows)
		a.fail = func(call int) error {
			if call == at {
				return boom
			}
			return nil
		}
		if e, err := train.Evaluate(context.Background(), a, loader(5, 2)); errors.Is(err, boom) != (at > 0) {
			t.Errorf("failing in batch %d: %+v, error %v", at, e, err)
		}
	}
}
