// Package train is the wake loop: epochs of learning steps, sleep when the schedule says so, evaluation, and a place to
// go on from. It knows neither files nor clocks: metrics go to an observer, states to a saver, time comes from a
// function.
//
// The order of one step is: learn from a batch; sleep, if the schedule says so. After the last batch of an epoch:
// sleep, if the schedule asks for it before evaluations; observe how regular the weights are; evaluate.
package train

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Config says how long and how to train.
type Config struct {
	Epochs    int   // at least 1
	Steps     int64 // stop after so many steps in all; 0 means no limit
	Rate      optim.MultiStep
	Sleep     sleep.Schedule
	Phase     sleep.Stream // the phase that Sleep schedules
	EvalEvery int          // epochs between evaluations; the last epoch is always evaluated; 0 means only it
	SaveEvery int          // epochs between states passed to Save; the last one always is; 0 means only it
}

// Check returns an error that names the first setting out of range.
func (c Config) Check() error {
	switch {
	case c.Epochs < 1:
		return fmt.Errorf("train: %d epochs are below 1", c.Epochs)
	case c.Steps < 0:
		return fmt.Errorf("train: %d steps are below 0", c.Steps)
	case c.EvalEvery < 0 || c.SaveEvery < 0:
		return fmt.Errorf("train: evaluation or saving every %d, %d epochs is below 0", c.EvalEvery, c.SaveEvery)
	case c.Phase.Rule == nil:
		return errors.New("train: no sleep rule")
	}
	if err := c.Rate.Check(); err != nil {
		return err
	}
	return c.Sleep.Check()
}

// State is a place between two steps. Together with the engine's parameters it determines the rest of the run: the
// generator is counter-based (package rng), so that its state is these counters and the seed.
type State struct {
	Epoch   int     `json:"epoch"` // of the next batch
	Batch   int     `json:"batch"` // index of the next batch in its epoch; the number of batches before an evaluation
	Step    int64   `json:"step"`  // learning steps taken
	Slept   bool    `json:"slept"` // the network has slept for an evaluation since the last step
	Seconds float64 `json:"seconds"`
	Done    bool    `json:"done"` // nothing is left to do under the configuration that wrote it
}

// Step is the metric of a learning step.
type Step struct {
	Kind    string  `json:"kind"` // "step"
	Epoch   int     `json:"epoch"`
	Batch   int     `json:"batch"` // index in the epoch
	Step    int64   `json:"step"`  // counted from 1
	Images  int     `json:"images"`
	Loss    float64 `json:"loss"` // mean cross-entropy before the step
	Top1    float64 `json:"top1"` // fraction of the batch
	Top5    float64 `json:"top5"`
	LR      float64 `json:"lr"`
	Seconds float64 `json:"seconds"` // since the run began, pauses between resumed parts left out
}

// Sleep is the metric of a sleep phase: its report's totals.
type Sleep struct {
	Kind   string       `json:"kind"` // "sleep"
	Epoch  int          `json:"epoch"`
	Batch  int          `json:"batch"`
	Step   int64        `json:"step"`
	Rule   string       `json:"rule"`
	Layers int          `json:"layers"`
	Bytes  int64        `json:"bytes"`
	Took   float64      `json:"took"` // seconds
	Report sleep.Report `json:"-"`
}

// Eval is the metric of an evaluation.
type Eval struct {
	Kind    string       `json:"kind"` // "eval"
	Epoch   int          `json:"epoch"`
	Step    int64        `json:"step"`
	Images  int          `json:"images"`
	Loss    float64      `json:"loss"`
	Top1    float64      `json:"top1"`
	Top5    float64      `json:"top5"`
	Weights sleep.Report `json:"weights"` // how regular the weights were, observed before the evaluation
	Seconds float64      `json:"seconds"`
}

// Loop trains an engine.
type Loop struct {
	Config
	Engine core.Engine
	Train  *data.Loader
	Test   *data.Loader // its Batch must not exceed what the engine was compiled for
	// Keep makes the training batches where the engine computes: it must be a core.Keeper, compiled with room for the images of
	// Train. Otherwise an engine that is a core.Ahead gets a batch while it makes the step before, and others when they are to
	// learn from it. The results are the same.
	Keep bool
	Now  func() time.Time
	// Observe gets a Step, Sleep or Eval; an error ends the run.
	Observe func(metric any) error
	// Save gets the state when the engine's parameters are to be kept; an error ends the run.
	Save func(State) error

	start time.Time
	spent float64 // seconds before start
}

// ErrInterrupted is wrapped by Run's error when its context ended. The state was saved.
var ErrInterrupted = errors.New("interrupted")

// Run trains from a state, the zero State for a new run, until the configured end, an error or the end of ctx, which is
// looked at between steps: the state is then saved, and going on from it gives what an uninterrupted run gives.
// A loss or gradient that is not finite is an error that names the step and layer; nothing of that step is kept.
//
// A run that is done goes on when the configuration has been given more steps or epochs.
func (l *Loop) Run(ctx context.Context, s State) (State, error) {
	for _, check := range []func() error{l.Check, l.Train.Check, l.Test.Check} {
		if err := check(); err != nil {
			return s, err
		}
	}
	if err := l.keep(); err != nil {
		return s, err
	}
	l.start, l.spent = l.Now(), s.Seconds
	s.Done = s.Epoch >= l.Epochs || s.Done && l.stepsTaken(s)
	for !s.Done {
		if err := l.epoch(ctx, &s); err != nil {
			if errors.Is(err, ErrInterrupted) {
				if saving := l.save(&s); saving != nil {
					err = fmt.Errorf("%w; the state is lost: %w", err, saving)
				}
			}
			return s, err
		}
	}
	return s, nil
}

// keep brings the training images to an engine that is to keep them.
func (l *Loop) keep() error {
	if !l.Keep {
		return nil
	}
	images, can := l.Train.Kept()
	keeper, ok := l.Engine.(core.Keeper)
	switch {
	case !ok:
		return errors.New("train: this engine keeps no images")
	case !can:
		return errors.New("train: images of a cache and resized crops cannot be kept by the engine")
	}
	if err := keeper.Keep(images); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}

// stepsTaken tells whether the limit of steps is reached.
func (l *Loop) stepsTaken(s State) bool { return l.Steps > 0 && s.Step >= l.Steps }

// seconds is the time spent in the run.
func (l *Loop) seconds() float64 { return l.spent + l.Now().Sub(l.start).Seconds() }

// save keeps the state.
func (l *Loop) save(s *State) error {
	s.Seconds = l.seconds()
	return l.Save(*s)
}

// epoch does what is left of the state's epoch, its evaluation included.
func (l *Loop) epoch(ctx context.Context, s *State) error {
	if err := l.steps(ctx, s); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("train: %w", ErrInterrupted)
	}
	complete := s.Batch >= l.Train.Batches()
	due := func(every int) bool { return complete && every > 0 && (s.Epoch+1)%every == 0 }
	end := l.stepsTaken(*s) || complete && s.Epoch == l.Epochs-1
	if end || due(l.EvalEvery) {
		if err := l.evaluate(ctx, s); err != nil {
			return err
		}
	}
	save := end || due(l.SaveEvery)
	if complete {
		s.Epoch, s.Batch = s.Epoch+1, 0
	}
	s.Done = end
	if save {
		return l.save(s)
	}
	return nil
}

// steps learns from what is left of the epoch's batches, until the limit of steps or the end of ctx.
func (l *Loop) steps(ctx context.Context, s *State) error {
	batches := l.Train.Epoch
	if l.Keep {
		batches = l.Train.Crops
	}
	pull, stop := iter.Pull(batches(ctx, s.Epoch, s.Batch))
	defer stop()
	next, ok := pull()
	for ok && ctx.Err() == nil && !l.stepsTaken(*s) {
		m, fetched := next, false
		fetch := func() core.Batch {
			next, ok = pull()
			fetched = true
			return next.X
		}
		if err := l.step(ctx, s, m, fetch); err != nil {
			return err
		}
		if !fetched {
			fetch()
		}
	}
	return nil
}

// wake makes the learning step on a batch, however that gets to the engine. m is not valid any more once fetch has been called.
func (l *Loop) wake(ctx context.Context, m data.Minibatch, lr float64, fetch func() core.Batch) (core.Step, error) {
	if l.Keep {
		return l.Engine.(core.Keeper).WakeKept(ctx, m.Crops, m.Labels, lr)
	}
	if e, ok := l.Engine.(core.Ahead); ok {
		return e.WakeAhead(ctx, m.X, m.Labels, lr, fetch)
	}
	return l.Engine.Wake(ctx, m.X, m.Labels, lr)
}

// step learns from one batch and sleeps if it is time. fetch may be called when the batch is not needed any more, for the next one.
func (l *Loop) step(ctx context.Context, s *State, m data.Minibatch, fetch func() core.Batch) error {
	if m.Err != nil {
		return fmt.Errorf("train: step %d (epoch %d, batch %d): %w", s.Step+1, s.Epoch, m.Index, m.Err)
	}
	lr := l.Rate.At(s.Epoch)
	// A step is finished once begun, so that the state is always between two.
	ctx = context.WithoutCancel(ctx)
	r, err := l.wake(ctx, m, lr, fetch)
	if err != nil {
		return fmt.Errorf("train: step %d (epoch %d, batch %d): %w", s.Step+1, s.Epoch, m.Index, err)
	}
	s.Step++
	s.Batch = m.Index + 1
	s.Slept = false
	n := float64(r.N)
	if err := l.Observe(Step{"step", s.Epoch, m.Index, s.Step, r.N, r.Loss, float64(r.Top1) / n, float64(r.Top5) / n, lr, l.seconds()}); err != nil {
		return err
	}
	if !l.Sleep.Due(m.Index, s.Step) {
		return nil
	}
	if alike, err := l.alike(ctx); err != nil || alike {
		return err
	}
	return l.sleep(ctx, *s, 0)
}

// alike tells whether the weights are so alike that the schedule needs no sleep. Those of a network without groups, whose SNR is not a
// number, are.
func (l *Loop) alike(ctx context.Context) (bool, error) {
	if l.Sleep.BelowSNR == 0 {
		return false, nil
	}
	r, err := l.Engine.Sleep(ctx, sleep.Stream{Rule: sleep.Observe{}, Border: l.Phase.Border})
	if err != nil {
		return false, fmt.Errorf("train: %w", err)
	}
	return !(r.SNR() < l.Sleep.BelowSNR), nil
}

// sleep runs the configured phase. Its number, which keys its patterns, is twice that of the step, and one more for
// the sleep before an evaluation.
func (l *Loop) sleep(ctx context.Context, s State, beforeEval uint64) error {
	phase := l.Phase
	phase.Phase = 2*uint64(s.Step) + beforeEval
	r, err := l.Engine.Sleep(ctx, phase)
	if err != nil {
		return fmt.Errorf("train: sleep after step %d: %w", s.Step, err)
	}
	return l.Observe(Sleep{"sleep", s.Epoch, s.Batch - 1, s.Step, r.Rule, len(r.Layers), r.Bytes, r.Duration.Seconds(), r})
}

// evaluate tests the network. An interrupted evaluation is done anew, without the sleep before it.
func (l *Loop) evaluate(ctx context.Context, s *State) error {
	if l.Sleep.BeforeEval && !s.Slept {
		if err := l.sleep(context.WithoutCancel(ctx), *s, 1); err != nil {
			return err
		}
		s.Slept = true
	}
	weights, err := l.Engine.Sleep(context.WithoutCancel(ctx), sleep.Stream{Rule: sleep.Observe{}, Border: l.Phase.Border})
	if err != nil {
		return fmt.Errorf("train: %w", err)
	}
	e, err := Evaluate(ctx, l.Engine, l.Test)
	if ctx.Err() != nil {
		return fmt.Errorf("train: evaluation: %w", ErrInterrupted)
	}
	if err != nil {
		return err
	}
	e.Epoch, e.Step, e.Weights, e.Seconds = s.Epoch, s.Step, weights, l.seconds()
	return l.Observe(e)
}

// Evaluate tests an engine on all images of a loader, in order.
func Evaluate(ctx context.Context, e core.Engine, test *data.Loader) (Eval, error) {
	r := Eval{Kind: "eval"}
	loss, top1, top5 := 0.0, 0, 0
	for m := range test.InOrder(ctx) {
		if m.Err != nil {
			return r, fmt.Errorf("train: evaluation: %w", m.Err)
		}
		logits, err := e.Infer(ctx, m.X)
		if err != nil {
			return r, fmt.Errorf("train: evaluation: %w", err)
		}
		sum, first, five := core.Score(logits, m.Labels)
		loss += sum
		top1 += first
		top5 += five
		r.Images += m.X.N
	}
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("train: evaluation: %w", err)
	}
	n := float64(r.Images)
	r.Loss, r.Top1, r.Top5 = loss/n, float64(top1)/n, float64(top5)/n
	return r, nil
}
