//go:build cuda && cgo && linux && amd64

package cuda

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/rng"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

// randomImages are count images of 9x9 pixels of 7 classes.
func randomImages(count int) *data.Images {
	m := &data.Images{Shape: net.Shape{H: 9, W: 9, C: 3}, Pixels: make([]uint8, count*9*9*3), Labels: make([]int32, count)}
	s := rng.New(4, rng.Test, 0)
	for i := range m.Pixels {
		m.Pixels[i] = uint8(s.Intn(uint64(i), 256))
	}
	for i := range m.Labels {
		m.Labels[i] = int32(i % 7)
	}
	return m
}

// tiny is a network of one locally connected layer for images of 8x8 pixels of 7 classes, with a batch norm: how batches get to it
// is what is tested.
func tiny(t *testing.T) *net.Network {
	t.Helper()
	b := net.NewBuilder("tiny")
	x := b.LC2D("lc", b.Input(net.Shape{H: 8, W: 8, C: 3}), net.Window{Out: 4, Kernel: 3, Stride: 2})
	x = b.ReLU("relu", b.BatchNorm("bn", x))
	b.Linear("linear", b.GlobalAvgPool("pool", x), 7)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// hidden is an engine of which nothing but core.Engine is seen.
type hidden struct{ core.Engine }

// counted is an engine that counts the steps that take each way.
type counted struct {
	*engine
	wakes, aheads, fetched, keeps int
}

func (c *counted) Wake(ctx context.Context, x core.Batch, y core.Labels, lr float64) (core.Step, error) {
	c.wakes++
	return c.engine.Wake(ctx, x, y, lr)
}

func (c *counted) WakeAhead(ctx context.Context, x core.Batch, y core.Labels, lr float64, next func() core.Batch) (core.Step, error) {
	c.aheads++
	if c.has(x) {
		c.fetched++
	}
	return c.engine.WakeAhead(ctx, x, y, lr, next)
}

func (c *counted) WakeKept(ctx context.Context, crops []core.Crop, y core.Labels, lr float64) (core.Step, error) {
	c.keeps++
	return c.engine.WakeKept(ctx, crops, y, lr)
}

// run trains two epochs of three batches, asleep after the second of each, and returns the metrics without times and the parameters.
func run(t *testing.T, e core.Engine, images *data.Images, keep bool) (metrics []string, params []byte) {
	t.Helper()
	loader := func(images *data.Images) *data.Loader {
		return &data.Loader{Images: images, Size: 8, Batch: 3, Augment: data.Augment{Pad: 2, Flip: true}, Stats: data.ComputeStats(images), Seed: 1}
	}
	l := train.Loop{
		Config: train.Config{
			Epochs: 2, EvalEvery: 1, Rate: optim.MultiStep{Base: 1e-2},
			Sleep: sleep.Schedule{Every: 2, Count: sleep.CountSteps}, Phase: sleep.Stream{Rule: sleep.Instant{}},
		},
		Engine: e, Train: loader(images), Test: loader(images), Keep: keep,
		Now:  func() time.Time { return time.Time{} },
		Save: func(train.State) error { return nil },
	}
	l.Observe = func(m any) error {
		if _, ok := m.(train.Sleep); !ok { // which has measured times
			if v, ok := m.(train.Eval); ok {
				v.Weights = sleep.Report{}
				m = v
			}
			metrics = append(metrics, fmt.Sprintf("%+v", m))
		}
		return nil
	}
	s, err := l.Run(context.Background(), train.State{})
	if err != nil || s.Step != 6 {
		t.Fatalf("%d steps, %v", s.Step, err)
	}
	return metrics, saved(t, e)
}

// saved are an engine's parameters and moments, as a file.
func saved(t *testing.T, e core.Engine) []byte {
	t.Helper()
	p, err := e.Save()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := model.Write(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A run gives the same bits whether batches come from the host when they are learned from, or while the step before runs, or are cut
// out of images on the device.
func TestFeeds(t *testing.T) {
	needDevice(t, false)
	compared := 0
	for _, precision := range []Precision{F32, BF16} {
		b, n, images := open(t, precision), tiny(t), randomImages(8)
		metrics, params := run(t, hidden{ready(t, b, n, learning(3, optim.AdamW))}, images, false)
		if len(metrics) != 6+2 {
			t.Fatalf("%d metrics", len(metrics))
		}
		for _, keep := range []bool{false, true} {
			o := learning(3, optim.AdamW)
			if keep {
				o.Keep = int64(len(images.Pixels))
			}
			e := &counted{engine: ready(t, b, n, o).(*engine)}
			got, gotParams := run(t, e, images, keep)
			if !slices.Equal(got, metrics) {
				t.Errorf("%s, kept %v:\n%s\nwant\n%s", precision, keep, strings.Join(got, "\n"), strings.Join(metrics, "\n"))
			}
			if !bytes.Equal(gotParams, params) {
				t.Errorf("%s, kept %v: other parameters", precision, keep)
			}
			// The first batch of an epoch is not fetched ahead.
			if want := (counted{e.engine, 0, 6, 4, 0}); !keep && *e != want {
				t.Errorf("%d, %d, %d, %d steps from the host, ahead, with a batch that was there, and kept", e.wakes, e.aheads, e.fetched, e.keeps)
			}
			if want := (counted{e.engine, 0, 0, 0, 6}); keep && *e != want {
				t.Errorf("%d, %d, %d, %d steps from the host, ahead, with a batch that was there, and kept", e.wakes, e.aheads, e.fetched, e.keeps)
			}
			compared++
		}
	}
	if compared != 4 {
		t.Errorf("%d runs compared", compared)
	}
}

// A batch that was fetched is used by the step it is for and by no other, whatever comes between.
func TestFetchedBatches(t *testing.T) {
	needDevice(t, false)
	b, n := open(t, F32), tiny(t)
	ctx, y := context.Background(), core.Labels{0, 1}
	batch := func(from float32) core.Batch {
		x := images(n, 2)
		for i := range x.Pixels {
			x.Pixels[i] += from
		}
		return x
	}
	first, second, third := batch(0), batch(1), batch(2)
	none := func() core.Batch { return core.Batch{} }
	give := func(x core.Batch) func() core.Batch { return func() core.Batch { return x } }
	var e, plain core.Engine
	ahead := func(x core.Batch, next func() core.Batch) func() (core.Step, error) {
		return func() (core.Step, error) { return e.(core.Ahead).WakeAhead(ctx, x, y, 1e-2, next) }
	}
	wake := func(x core.Batch) func() (core.Step, error) {
		return func() (core.Step, error) { return e.Wake(ctx, x, y, 1e-2) }
	}
	nothing := func(f func() error) func() (core.Step, error) {
		return func() (core.Step, error) { return core.Step{}, f() }
	}
	infer := nothing(func() error { _, err := e.Infer(ctx, third); return err })
	trace := nothing(func() error {
		for _, err := range e.Trace(ctx, third, core.Probe{}) {
			return err // stops after the first
		}
		return nil
	})
	asleep := nothing(func() error { _, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Observe{}}); return err })
	save := nothing(func() error { _, err := e.Save(); return err })
	wrong := nothing(func() error {
		if _, err := e.Wake(ctx, first, core.Labels{0}, 1e-2); err == nil {
			return errors.New("one label for two images is accepted")
		}
		return nil
	})
	compared := 0
	for name, calls := range map[string][]func() (core.Step, error){
		"one after the other": {ahead(first, give(second)), ahead(second, give(third)), ahead(third, none)},
		"asleep, saved":       {ahead(first, give(second)), asleep, save, ahead(second, give(third)), asleep, ahead(third, none)},
		"inference":           {ahead(first, give(second)), infer, ahead(second, give(third)), infer, infer, ahead(third, none)},
		"a trace":             {ahead(first, give(second)), trace, ahead(second, give(third)), trace, ahead(third, none)},
		"another batch":       {ahead(first, give(third)), ahead(second, give(first)), ahead(third, give(second))},
		"Wake":                {ahead(first, give(second)), wake(second), ahead(third, give(third))},
		"a refusal":           {ahead(first, give(second)), wrong, ahead(second, none), ahead(third, none)},
		"what is none":        {ahead(first, give(core.Batch{N: 2})), ahead(second, give(images(n, 3))), ahead(third, none)},
	} {
		e, plain = ready(t, b, n, learning(2, optim.SGD)), ready(t, b, n, learning(2, optim.SGD))
		var got []core.Step
		for _, call := range calls {
			s, err := call()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if s.N > 0 {
				got = append(got, s)
			}
		}
		for i, x := range []core.Batch{first, second, third} {
			want, err := plain.Wake(ctx, x, y, 1e-2)
			if err != nil || len(got) != 3 || got[i] != want {
				t.Fatalf("%s: steps %+v, want %+v in place %d (%v)", name, got, want, i, err)
			}
		}
		if !bytes.Equal(saved(t, e), saved(t, plain)) {
			t.Errorf("%s: other parameters", name)
		}
		compared++
	}
	if compared != 8 {
		t.Errorf("%d orders compared", compared)
	}
}

// While a step runs, the next batch is fetched: next is called before the host waits for the step.
func TestNextIsFetchedWhileTheStepRuns(t *testing.T) {
	needDevice(t, true)
	b, n := open(t, F32), tiny(t)
	e := ready(t, b, n, learning(2, optim.SGD)).(*engine)
	x, y := images(n, 2), core.Labels{0, 1}
	if _, err := e.Wake(context.Background(), x, y, 1e-2); err != nil {
		t.Fatal(err)
	}
	o := outcomeOf(e.report, len(n.Nodes), 2)
	calls := 0
	_, err := e.WakeAhead(context.Background(), x, y, 1e-2, func() core.Batch {
		calls++
		if e.copies.Err() != nil || e.queue.Err() != nil {
			t.Error("the step could not be given to the device")
		}
		o.losses[0] = -1 // which the step, not yet waited for, is to write
		return x
	})
	if err != nil || calls != 1 || !(o.losses[0] > 0) {
		t.Errorf("next called %d times, loss %v (%v)", calls, o.losses[0], err)
	}
}

// A step on images that are kept, or with a batch that is fetched, allocates nothing and names the layer that is not finite.
func TestFeedsAllocateNothingAndNameTheLayer(t *testing.T) {
	needDevice(t, true)
	n, m := tiny(t), randomImages(4)
	o := learning(2, optim.SGD)
	o.Keep = int64(len(m.Pixels))
	e := ready(t, open(t, F32), n, o).(*engine)
	l := &data.Loader{Images: m, Size: 8, Batch: 2, Stats: data.ComputeStats(m)}
	kept, _ := l.Kept()
	if err := e.Keep(kept); err != nil {
		t.Fatal(err)
	}
	x, y, crops := images(n, 2), core.Labels{0, 1}, []core.Crop{{Image: 3, Row: 1}, {Mirror: true}}
	next := func() core.Batch { return x }
	feeds := map[string]func() (core.Step, error){
		"kept":  func() (core.Step, error) { return e.WakeKept(context.Background(), crops, y, 1e-3) },
		"ahead": func() (core.Step, error) { return e.WakeAhead(context.Background(), x, y, 1e-3, next) },
	}
	for name, step := range feeds {
		if _, err := step(); err != nil {
			t.Fatal(err)
		}
		if allocs := testing.AllocsPerRun(2, func() { step() }); allocs != 0 {
			t.Errorf("%s: %v allocations a step", name, allocs)
		}
	}
	initial, err := n.Init(net.InitOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	const bad = "lc.weight"
	damaged := &model.Params{}
	for _, info := range initial.Infos() {
		v, err := initial.Get(info.Name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Name == bad {
			numbers := make([]float32, info.Len())
			for i := range numbers {
				numbers[i] = float32(math.Inf(1))
			}
			v = model.NewTensor(bad, info.Shape, numbers)
		}
		damaged.Add(v)
	}
	if err := e.Load(damaged); err != nil {
		t.Fatal(err)
	}
	for name, step := range feeds {
		var nonFinite *core.NonFiniteError
		if _, err := step(); !errors.As(err, &nonFinite) || nonFinite.Layer+".weight" != bad || nonFinite.What != "weights" {
			t.Errorf("%s: error %v, want one of the weights of %s", name, err, bad)
		}
	}
}

// Images that do not fit the room they were given, or not the network, are refused, and so are crops without images; others can be
// kept afterwards, of another shape too.
func TestKeepRefuses(t *testing.T) {
	needDevice(t, false)
	b, n, m := open(t, F32), tiny(t), randomImages(3)
	o := learning(2, optim.SGD)
	o.Keep = int64(len(m.Pixels))
	e := ready(t, b, n, o).(*engine)
	kept, _ := (&data.Loader{Images: m, Stats: data.ComputeStats(m)}).Kept()
	crops, y := []core.Crop{{Image: 2}, {}}, core.Labels{0, 1}
	if _, err := e.WakeKept(context.Background(), crops, y, 1e-3); err == nil || !strings.Contains(err.Error(), "0 are kept") {
		t.Errorf("crops of nothing: %v", err)
	}
	small := core.Images{Shape: net.Shape{H: 8, W: 8, C: 3}, Pixels: kept.Pixels[:2*8*8*3], Values: kept.Values}
	if err := e.Keep(small); err != nil {
		t.Fatal(err)
	}
	cut := []core.Crop{{Image: 1}, {}}
	if _, err := e.WakeKept(context.Background(), cut, y, 0); err != nil {
		t.Fatal(err)
	}
	grey := core.Images{Shape: net.Shape{H: 9, W: 9, C: 1}, Pixels: kept.Pixels[:81], Values: kept.Values[:1]}
	for want, images := range map[string]core.Images{
		"there is room for": {Shape: kept.Shape, Pixels: append(slices.Clone(kept.Pixels), kept.Pixels...), Values: kept.Values},
		"images of 9x9x1":   grey,
		"no whole images":   {Shape: kept.Shape, Pixels: kept.Pixels[1:], Values: kept.Values},
	} {
		if err := e.Keep(images); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	if _, err := e.WakeKept(context.Background(), crops, y, 1e-3); err == nil || !strings.Contains(err.Error(), "image 2, 2 are kept") {
		t.Errorf("a crop of an image that is not kept: %v", err)
	}
	if err := e.Keep(kept); err != nil {
		t.Fatal(err)
	}
	got, err := e.WakeKept(context.Background(), crops, y, 0)
	if err != nil {
		t.Fatal(err)
	}
	x := core.Batch{N: 2, Pixels: make([]float32, 2*n.Input().Len())}
	for i, c := range crops {
		kept.Cut(x.Pixels[i*n.Input().Len():], n.Input(), c)
	}
	if want, err := e.Wake(context.Background(), x, y, 0); err != nil || got != want {
		t.Errorf("%+v, from the host %+v (%v)", got, want, err)
	}
	without := ready(t, b, n, learning(2, optim.SGD)).(*engine)
	if err := without.Keep(small); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("images without room: %v", err)
	}
}
