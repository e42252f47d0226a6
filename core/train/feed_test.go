package train_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/train"
)

// ahead is an engine that fetches each batch before it makes the step before, and learns from its own copies.
type ahead struct {
	core.Engine
	fetched *core.Batch // a copy of what next returned
	steps   int
}

func (a *ahead) WakeAhead(ctx context.Context, x core.Batch, y core.Labels, lr float64, next func() core.Batch) (core.Step, error) {
	own := core.Batch{N: x.N, Pixels: slices.Clone(x.Pixels)}
	labels := slices.Clone(y)
	if a.fetched != nil && (a.fetched.N != x.N || !slices.Equal(a.fetched.Pixels, x.Pixels)) {
		return core.Step{}, errors.New("this is not the batch that was fetched")
	}
	b := next()
	a.fetched = &core.Batch{N: b.N, Pixels: slices.Clone(b.Pixels)}
	if b.N == 0 {
		a.fetched = nil
	}
	a.steps++
	return a.Engine.Wake(ctx, own, labels, lr)
}

// keeper is an engine that keeps images and cuts batches out of them.
type keeper struct {
	core.Engine
	images core.Images
	steps  int
}

func (k *keeper) Keep(m core.Images) error {
	k.images = core.Images{Shape: m.Shape, Pixels: slices.Clone(m.Pixels), Values: slices.Clone(m.Values)}
	return m.Check()
}

func (k *keeper) WakeKept(ctx context.Context, crops []core.Crop, y core.Labels, lr float64) (core.Step, error) {
	size := net.Shape{H: 6, W: 6, C: 3}
	x := core.Batch{N: len(crops), Pixels: make([]float32, len(crops)*size.Len())}
	for i, c := range crops {
		k.images.Cut(x.Pixels[i*size.Len():], size, c)
	}
	k.steps++
	return k.Engine.Wake(ctx, x, y, lr)
}

// feeds are the ways in which batches get to an engine; each changes a loop and returns how many steps went that way.
func feeds() map[string]func(l *train.Loop) func() int {
	return map[string]func(l *train.Loop) func() int{
		"ahead": func(l *train.Loop) func() int {
			e := &ahead{Engine: l.Engine}
			l.Engine = e
			return func() int { return e.steps }
		},
		"kept": func(l *train.Loop) func() int {
			e := &keeper{Engine: l.Engine}
			l.Engine, l.Keep = e, true
			return func() int { return e.steps }
		},
	}
}

// However batches get to the engine, a run gives the same metrics, states and parameters, and goes on from any of its steps, also
// in another way than it began.
func TestFeeds(t *testing.T) {
	c := config(3)
	c.Sleep.Every, c.Sleep.BeforeEval, c.EvalEvery, c.SaveEvery = 2, true, 1, 1
	plain := newRig(t, c, engine(t))
	end := plain.run(t, train.State{})
	want := bits(t, plain.saved[len(plain.saved)-1].params)
	compared := 0
	for name, feed := range feeds() {
		whole := newRig(t, c, engine(t))
		steps := feed(&whole.Loop)
		if got := whole.run(t, train.State{}); got != end || steps() != 9 {
			t.Errorf("%s: ends at %+v after %d steps, want %+v after 9", name, got, steps(), end)
		}
		sameLines(t, name, whole.metrics, plain.metrics)
		if got := bits(t, whole.saved[len(whole.saved)-1].params); !bytes.Equal(got, want) {
			t.Errorf("%s: other parameters", name)
		}
		for stop := 1; stop <= 9; stop++ {
			first, second := newRig(t, c, engine(t)), newRig(t, c, engine(t))
			feed(&first.Loop)
			ctx, cancel := context.WithCancel(t.Context())
			first.on = func(string) error {
				if len(first.steps) == stop {
					cancel()
				}
				return nil
			}
			s, err := first.Run(ctx, train.State{})
			cancel()
			if !errors.Is(err, train.ErrInterrupted) {
				t.Fatalf("%s, stopped after step %d: %v", name, stop, err)
			}
			load(t, second.Loop.Engine, first.saved[len(first.saved)-1].params)
			if stop%2 == 0 {
				feed(&second.Loop)
			}
			second.run(t, s)
			kept := first.metrics[:first.saved[len(first.saved)-1].metrics]
			sameLines(t, fmt.Sprintf("%s, stopped after step %d", name, stop), append(kept, second.metrics...), plain.metrics)
			if got := bits(t, second.saved[len(second.saved)-1].params); !bytes.Equal(got, want) {
				t.Errorf("%s, stopped after step %d: other parameters", name, stop)
			}
			compared++
		}
	}
	if compared != 18 {
		t.Errorf("%d interrupted runs compared", compared)
	}
}

// A limit of steps that is met while the batch behind it has been fetched ends the run there.
func TestFeedsAndStepLimit(t *testing.T) {
	for name, feed := range feeds() {
		c := config(2)
		c.Steps = 4
		r := newRig(t, c, nil)
		steps := feed(&r.Loop)
		if s := r.run(t, train.State{}); s.Step != 4 || s.Batch != 1 || !s.Done || steps() != 4 {
			t.Errorf("%s: ends at %+v after %d steps", name, s, steps())
		}
	}
}

// Keep without an engine that keeps images, or with images that cannot be kept, is refused before the first step.
func TestKeepIsRefused(t *testing.T) {
	none := newRig(t, config(1), nil)
	none.Keep = true
	resized := newRig(t, config(1), nil)
	feeds()["kept"](&resized.Loop)
	resized.Train.Augment.Pad, resized.Train.Augment.Resized = 0, true
	full := newRig(t, config(1), nil)
	feeds()["kept"](&full.Loop)
	full.Loop.Engine = refusing{full.Loop.Engine.(*keeper)}
	for want, r := range map[string]*rig{
		"this engine keeps no images": none, "resized crops cannot be kept": resized, "no room": full,
	} {
		if _, err := r.Run(t.Context(), train.State{}); err == nil || !strings.Contains(err.Error(), want) || len(r.events) > 0 {
			t.Errorf("error %v after %v, want one with %q", err, r.events, want)
		}
	}
}

// refusing is a keeper without room.
type refusing struct{ *keeper }

func (refusing) Keep(core.Images) error { return errors.New("no room") }
