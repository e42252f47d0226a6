package brain

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hypnos/backends/fixed"
	"hypnos/board/device"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/edge/edgetest"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/server/governor"
	"hypnos/server/store"
	"hypnos/server/store/storetest"
)

// network is small, and has a locally connected layer with more than one grid.
func network(t testing.TB) *net.Network {
	t.Helper()
	b := net.NewBuilder("small-lc")
	x := b.ReLU("relu", b.LC2D("lc", b.Input(net.Shape{H: 8, W: 8, C: 3}), net.Window{Out: 4, Kernel: 3, Stride: 1, Bias: true}))
	b.Linear("linear", b.GlobalAvgPool("pool", x), 3)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// packaged is a package of a version with golden vectors; a change may spoil them.
func packaged(t testing.TB, version uint64, key ed25519.PrivateKey, change func(*edge.Manifest, *edge.GoldenTensors)) []byte {
	t.Helper()
	n := network(t)
	p := edgetest.Params(t, n, 4)
	f, err := edge.FormatsOf(p)
	if err != nil {
		t.Fatal(err)
	}
	on, err := fixed.Open(fixed.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	g := edge.Golden{Rate: 0.01, Seed: 1}
	e, err := on.Compile(n, g.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	x := core.Batch{N: 2, Pixels: make([]float32, 2*n.Input().Len())}
	for i := range x.Pixels {
		x.Pixels[i] = float32(i%7) / 4
	}
	record, tensors, err := edge.MakeGolden(t.Context(), n, f, e, g, x, core.Labels{0, 2})
	if err != nil {
		t.Fatal(err)
	}
	m := edge.Manifest{Version: version, Network: n, Classes: []string{"cat", "dog", "ship"}, Golden: &record,
		Stats: data.Stats{Mean: [3]float64{0.5, 0.5, 0.5}, Std: [3]float64{0.25, 0.25, 0.25}}}
	if change != nil {
		change(&m, tensors)
	}
	return edgetest.File(t, m, p, edge.PackOptions{Key: key, Golden: tensors})
}

// rig is a brain that runs on devices that a test plays.
type rig struct {
	*Brain
	t           *testing.T
	temperature *device.FakeThermometer
	wake, sleep *device.FakeLine
	led         *device.FakeLED
	events      <-chan Event
	stop        func() error
}

func quick() governor.Config {
	c := governor.Default()
	c.Night, c.WakeHold, c.MinInterval, c.StayAwake, c.Latency = nil, time.Millisecond, 0, 10*time.Millisecond, 5*time.Millisecond
	return c
}

func config(t *testing.T) Config {
	c := DefaultConfig()
	c.Data, c.Unsigned, c.Threads, c.Health.Window = filepath.Join(t.TempDir(), "data"), true, 1, 50*time.Millisecond
	return c
}

// run starts a brain; files nil is the configuration's folder.
func run(t *testing.T, files store.FS, c Config, limits governor.Config) *rig {
	t.Helper()
	r := &rig{t: t, temperature: &device.FakeThermometer{}, wake: &device.FakeLine{}, sleep: &device.FakeLine{}, led: &device.FakeLED{}}
	set := &device.Set{Temperature: r.temperature, Power: device.None("a test has none"), Wake: r.wake, Sleep: r.sleep, LED: r.led, Clock: device.NewSystem()}
	b := Board{Name: "generic-linux", Devices: set}
	var err error
	if files == nil {
		r.Brain, err = New(c, limits, b, slog.New(slog.DiscardHandler))
	} else {
		r.Brain, err = newOn(files, c, limits, b, slog.New(slog.DiscardHandler))
	}
	if err != nil {
		t.Fatal(err)
	}
	r.events, _ = r.Subscribe(10000)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// until waits for a state of things.
func (r *rig) until(what string, is func(Status) bool) Status {
	r.t.Helper()
	end := time.Now().Add(20 * time.Second)
	for time.Now().Before(end) {
		if s := r.Status(); is(s) {
			return s
		}
		time.Sleep(time.Millisecond)
	}
	r.t.Fatalf("not %s: %+v", what, r.Status())
	return Status{}
}

func ready(s Status) bool { return s.Model.Slot != "" }

// started is a rig with a model in use.
func started(t *testing.T, files store.FS, c Config, limits governor.Config) *rig {
	t.Helper()
	c.Package = filepath.Join(t.TempDir(), "first.hyp")
	if err := os.WriteFile(c.Package, packaged(t, 1, nil, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, files, c, limits)
	r.until("ready", ready)
	return r
}

// picture is a PNG of a colour, w by h.
func picture(w, h int, c color.Color) Image {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		m.Set(i%w, i/w, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err)
	}
	return Image{PNG, b.Bytes()}
}

// example is the i-th image of a stream, as a tensor, and its label.
func example(i int) (Image, int) {
	x := make([]byte, 8*8*3)
	r := rand.New(rand.NewPCG(7, uint64(i)))
	for j := range x {
		x[j] = byte(r.IntN(120) + 60*(i%3))
	}
	return Image{Tensor, x}, i % 3
}

func (r *rig) teach(from, n int) {
	r.t.Helper()
	for i := from; i < from+n; i++ {
		x, label := example(i)
		if a, err := r.Learn(r.t.Context(), x, label); err != nil || !a.Durable || a.Step != int64(i+1) {
			r.t.Fatalf("lesson %d: %+v, %v", i, a, err)
		}
	}
}

// look is what the network says of some images.
func (r *rig) look() []float64 {
	r.t.Helper()
	var all []float64
	for i := range 4 {
		x, _ := example(1000 + i)
		v, err := r.Classify(r.t.Context(), x)
		if err != nil {
			r.t.Fatal(err)
		}
		all = append(all, v.Logits...)
	}
	return all
}

func TestClassifyAndLearn(t *testing.T) {
	c := config(t)
	r := started(t, nil, c, quick())
	ctx := t.Context()
	none := device.None("a test has none")
	set := &device.Set{Temperature: none, Power: none, Wake: none, Sleep: none, LED: none, Clock: device.NewSystem()}
	if _, err := New(c, quick(), Board{Devices: set}, slog.New(slog.DiscardHandler)); !errors.Is(err, model.ErrLocked) || !strings.Contains(err.Error(), c.Data) {
		t.Errorf("a second daemon on one folder: %v", err)
	}
	r.until("alight", func(Status) bool { return r.led.On() })
	grey := picture(8, 8, color.Gray{200})
	v, err := r.Classify(ctx, grey)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for i, s := range v.Scores {
		if sum += s.Probability; s.Class != r.Status().Model.Classes[s.Label] || i > 0 && s.Probability > v.Scores[i-1].Probability {
			t.Errorf("scores %+v", v.Scores)
		}
	}
	if !(math.Abs(sum-1) < 1e-12) || v.Label != v.Scores[0].Label || v.Version != 1 || v.Took <= 0 || len(v.Logits) != 3 { // three roundings of numbers up to 1, far below
		t.Errorf("%+v, sum %g", v, sum)
	}
	raw := bytes.Repeat([]byte{200}, 192)
	same, err := r.Classify(ctx, Image{Tensor, raw})
	if err != nil || !reflect.DeepEqual(same.Logits, v.Logits) {
		t.Errorf("the tensor gives %v, the PNG %v (%v)", same.Logits, v.Logits, err)
	}
	var floats []byte
	for range 192 {
		floats = binary.LittleEndian.AppendUint32(floats, math.Float32bits(float32((200.0/255-0.5)/0.25)))
	}
	if same, err = r.Classify(ctx, Image{Tensor, floats}); err != nil || !reflect.DeepEqual(same.Logits, v.Logits) {
		t.Errorf("float32 gives %v, the PNG %v (%v)", same.Logits, v.Logits, err)
	}
	if _, err := r.Classify(ctx, picture(40, 30, color.Gray{200})); err != nil {
		t.Errorf("a larger image: %v", err)
	}
	r.teach(0, 30)
	s := r.Status()
	if s.Step != 30 || s.StepsSinceSleep != 30 || s.Feedback.Count != 30 || s.Counters.Learned != 30 || s.Counters.Classified != 4 || !s.Durability.Durable {
		t.Errorf("%+v", s)
	}
	if after := r.look(); reflect.DeepEqual(after, v.Logits) {
		t.Error("nothing was learned")
	}
	nan := bytes.Clone(floats)
	binary.LittleEndian.PutUint32(nan[8:], math.Float32bits(float32(math.NaN())))
	var asJPEG bytes.Buffer
	if err := jpeg.Encode(&asJPEG, image.NewGray(image.Rect(0, 0, 8, 8)), nil); err != nil {
		t.Fatal(err)
	}
	cut := Image{PNG, grey.Data[:len(grey.Data)-20]}
	refusals := 0
	for name, x := range map[string]struct {
		image Image
		label int
		code  Code
	}{
		"type":             {Image{"image/gif", grey.Data}, 0, CodeImageType},
		"another type":     {Image{PNG, asJPEG.Bytes()}, 0, CodeImageBroken},
		"no image":         {Image{JPEG, []byte("hello")}, 0, CodeImageBroken},
		"cut":              {cut, 0, CodeImageBroken},
		"too many pixels":  {picture(2100, 2000, color.Gray{1}), 0, CodeImagePixels},
		"short tensor":     {Image{Tensor, raw[1:]}, 0, CodeTensor},
		"not finite":       {Image{Tensor, nan}, 0, CodeTensor},
		"label":            {grey, 3, CodeLabel},
		"a negative label": {grey, -1, CodeLabel},
	} {
		if _, err := r.Learn(ctx, x.image, x.label); CodeOf(err) != x.code {
			t.Errorf("%s: %v", name, err)
		}
		refusals++
		if x.code != CodeLabel {
			if _, err := r.Classify(ctx, x.image); CodeOf(err) != x.code {
				t.Errorf("%s: %v", name, err)
			}
			refusals++
		}
	}
	s = r.Status()
	counted := 0
	for _, n := range s.Counters.Refused {
		counted += int(n)
	}
	if s.Step != 30 || counted != refusals {
		t.Errorf("%d steps, %d refusals counted of %d", s.Step, counted, refusals)
	}
}

// TestSleeps: asked for by the API or the pin, after enough steps; the record of it, and that weights are alike afterwards.
func TestSleeps(t *testing.T) {
	limits := quick()
	limits.AfterSteps = 10
	r := started(t, nil, config(t), limits)
	r.teach(0, 10)
	s := r.until("asleep by itself", func(s Status) bool { return s.Counters.Sleeps == 1 })
	if last := s.Sleeps[0]; !last.Complete || !strings.Contains(last.Reason, "10 wake steps") || len(last.Layers) != 1 || last.Layers[0].After == nil || !last.Layers[0].After.AllEqual() {
		t.Errorf("%+v", last)
	}
	if s.StepsSinceSleep != 0 || len(s.Layers) == 0 || s.Measured.IsZero() {
		t.Errorf("%+v", s)
	}
	if m, err := r.Sleep(t.Context(), SleepRequest{Source: "api"}); err != nil || m.State == "" {
		t.Errorf("%+v, %v", m, err)
	}
	r.until("asleep when asked", func(s Status) bool { return s.Counters.Sleeps == 2 })
	r.sleep.Press(true, 0)
	r.until("asleep by the pin", func(s Status) bool { return s.Counters.Sleeps == 3 && strings.Contains(s.Sleeps[2].Reason, "pin") })
	r.wake.Press(true, 0)
	seen := 0
	r.teach(10, 1)
	for len(r.events) > 0 {
		if e := <-r.events; e.Kind == EventMood || e.Kind == EventSleep || e.Kind == EventLearn {
			seen++
		}
	}
	if seen < 10 {
		t.Errorf("only %d events", seen)
	}
}

// slow is a sleep that takes long: many events.
func slow(t *testing.T) Config {
	c := config(t)
	c.Sleep.Rule, c.Sleep.Events, c.Sleep.Measure = "hebbian", 3000, false
	return c
}

// TestWakesForRequests: a request in a sleep is answered within it, the sleep goes on afterwards from where it stopped and comes to
// its end; the weights are those of a sleep that nothing stopped.
func TestWakesForRequests(t *testing.T) {
	c := slow(t)
	calm := started(t, storetest.New(), c, quick())
	calm.teach(0, 5)
	if _, err := calm.Sleep(t.Context(), SleepRequest{Source: "api"}); err != nil {
		t.Fatal(err)
	}
	calm.until("slept", func(s Status) bool { return s.Counters.Sleeps == 1 })

	r := started(t, storetest.New(), c, quick())
	r.teach(0, 5)
	if _, err := r.Sleep(t.Context(), SleepRequest{Source: "api"}); err != nil {
		t.Fatal(err)
	}
	x, _ := example(0)
	for range 200 {
		if s := r.Status(); s.Counters.Sleeps == 1 {
			break
		}
		if _, err := r.Classify(t.Context(), x); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Millisecond)
	}
	s := r.until("slept", func(s Status) bool { return s.Counters.Sleeps == 1 })
	if s.Counters.Interrupted == 0 || s.Sleeps[0].Parts < 2 {
		t.Errorf("never stopped: %+v", s.Sleeps)
	}
	if a, b := calm.look(), r.look(); !reflect.DeepEqual(a, b) {
		t.Errorf("after a sleep with %d interruptions %v, without %v", s.Counters.Interrupted, b, a)
	}
}

// TestHeat: heat stops a sleep, and cold lets it go on.
func TestHeat(t *testing.T) {
	limits := quick()
	limits.MaxTemperature = 70
	c := slow(t)
	r := started(t, storetest.New(), c, limits)
	r.temperature.Set(40)
	r.teach(0, 3)
	r.until("warm", func(s Status) bool { return s.Readings[0].Value != nil && *s.Readings[0].Value == 40 })
	r.temperature.Set(80)
	r.until("hot", func(s Status) bool { return *s.Readings[0].Value == 80 })
	if m, err := r.Sleep(t.Context(), SleepRequest{Source: "api"}); err != nil || m.State != "drowsy" || !strings.Contains(m.Reason, "too hot") {
		t.Errorf("%+v, %v", m, err)
	}
	r.temperature.Set(50)
	r.until("slept", func(s Status) bool { return s.Counters.Sleeps == 1 })
	r.temperature.Fail(errors.New("the bus is stuck"))
	s := r.until("failing", func(s Status) bool { return s.Readings[0].Error != "" })
	if s.Readings[0].Value == nil || s.Readings[1].Absent == "" {
		t.Errorf("%+v", s.Readings)
	}
}

// TestRestart: what was learned and slept is there again after an orderly end and after a loss of power in the middle of anything,
// to the bit; an unfinished sleep goes on.
func TestRestart(t *testing.T) {
	files := storetest.New()
	c := config(t)
	r := started(t, files, c, quick())
	r.teach(0, 7)
	if _, err := r.Sleep(t.Context(), SleepRequest{Source: "api"}); err != nil {
		t.Fatal(err)
	}
	r.until("slept", func(s Status) bool { return s.Counters.Sleeps == 1 })
	r.teach(7, 5)
	want := r.look()
	crashed := files.Crashed(rand.New(rand.NewPCG(1, 2)))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]store.FS{"an orderly end": files, "a crash": crashed} {
		again := run(t, f, c, quick())
		s := again.until("ready", ready)
		if got := again.look(); s.Step != 12 || s.StepsSinceSleep != 5 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: step %d, %v, was %v", name, s.Step, got, want)
		}
		again.teach(12, 1)
		if err := again.stop(); err != nil {
			t.Error(err)
		}
	}
	other := c // lessons by other settings are done again by those
	other.Seed, other.Rule, other.From = 9, core.Broadcast, "linear"
	changed := run(t, files, other, quick())
	changed.until("ready", ready)
	changed.teach(13, 3)
	want = changed.look()
	crashed = files.Crashed(rand.New(rand.NewPCG(1, 3)))
	back := run(t, crashed, c, quick())
	back.until("ready", ready)
	if got := back.look(); !reflect.DeepEqual(got, want) {
		t.Errorf("after other settings %v, was %v", got, want)
	}
}

// TestPowerCuts: at whatever write the power is lost while the network learns and sleeps, what is there afterwards is what was
// acknowledged, or a little more of the same.
func TestPowerCuts(t *testing.T) {
	const seed, cuts = 3, 40
	c := config(t)
	c.MaxReplay, c.Sleep.Measure = time.Millisecond, false // a snapshot after almost every step
	limits := quick()
	limits.AfterSteps = 4
	first := storetest.New()
	started(t, first, c, limits).stop()
	base := first.Crashed(rand.New(rand.NewPCG(seed, 0)))
	met := 0
	for i := range uint64(cuts) {
		files := base.Crashed(rand.New(rand.NewPCG(seed, i)))
		files.CrashAt(3 + int(i)*2)
		r := run(t, files, c, limits)
		acknowledged := int64(0)
		r.until("ready", ready)
		for j := range 12 {
			x, label := example(j)
			a, err := r.Learn(t.Context(), x, label)
			if err != nil || !a.Durable {
				met++
				break
			}
			acknowledged = a.Step
		}
		after := files.Crashed(rand.New(rand.NewPCG(seed, 1000+i)))
		r.stop()
		again := run(t, after, c, limits)
		s := again.until("ready", ready)
		if s.Step < acknowledged || s.Step > acknowledged+1 {
			t.Errorf("cut %d: %d steps, %d were acknowledged", i, s.Step, acknowledged)
		}
		again.teach(int(s.Step), 1)
		if err := again.stop(); err != nil {
			t.Error(err)
		}
	}
	if met < cuts/4 {
		t.Errorf("only %d of %d cuts came while it learned", met, cuts)
	}
}

// TestFullDisk: on a full disk lessons are not taken for durable; afterwards everything is durable again.
func TestFullDisk(t *testing.T) {
	for _, strict := range []bool{true, false} {
		files := storetest.New()
		c := config(t)
		c.Durable = strict
		r := started(t, files, c, quick())
		r.teach(0, 2)
		files.Before(func(_ int, op, _ string) error {
			if op == "write" || op == "create" {
				return syscall.ENOSPC
			}
			return nil
		})
		x, label := example(2)
		a, err := r.Learn(t.Context(), x, label)
		if err != nil || a.Durable || !strings.Contains(a.Reason, "no space") {
			t.Fatalf("%+v, %v", a, err)
		}
		s := r.until("not durable", func(s Status) bool { return !s.Durability.Durable })
		if !strings.Contains(s.Durability.Reason, "no space") {
			t.Errorf("%+v", s.Durability)
		}
		x, label = example(3)
		a, err = r.Learn(t.Context(), x, label)
		if strict && CodeOf(err) != CodeNotDurable || !strict && (err != nil || a.Durable) {
			t.Errorf("durable %t: %+v, %v", strict, a, err)
		}
		files.Before(nil)
		s = r.until("durable again", func(s Status) bool { return s.Durability.Durable })
		r.teach(int(s.Step), 1)
		want := r.look()
		again := run(t, files.Crashed(rand.New(rand.NewPCG(1, 1))), c, quick())
		again.until("ready", ready)
		if got := again.look(); !reflect.DeepEqual(got, want) {
			t.Errorf("after a crash %v, was %v", got, want)
		}
	}
}

// TestReadOnlyDisk: from a disk that cannot be written the daemon starts, with what was learned, and classifies; lessons are not taken
// for durable, and its end is in order.
func TestReadOnlyDisk(t *testing.T) {
	files := storetest.New()
	c := config(t)
	r := started(t, files, c, quick())
	r.teach(0, 4)
	want := r.look()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	files.Before(func(int, string, string) error { return syscall.EROFS })
	r = run(t, files, c, quick())
	r.until("ready", ready)
	if got := r.look(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, was %v", got, want)
	}
	x, label := example(4)
	if a, err := r.Learn(t.Context(), x, label); err != nil || a.Durable || !strings.Contains(a.Reason, "read-only") {
		t.Errorf("%+v, %v", a, err)
	}
	r.until("not durable", func(s Status) bool { return !s.Durability.Durable })
	if _, err := r.Learn(t.Context(), x, label); CodeOf(err) != CodeNotDurable {
		t.Error(err)
	}
	if _, err := r.Upload(t.Context(), bytes.NewReader(packaged(t, 2, nil, nil))); CodeOf(err) != CodeStorage {
		t.Error(err)
	}
}

// TestModels: upload, trial, commit; a trial that fails its golden vectors, its feedback, or by a crash; rollback; what each model has
// learned is its own.
func TestModels(t *testing.T) {
	files := storetest.New()
	c := config(t)
	r := started(t, files, c, quick())
	ctx := t.Context()
	r.teach(0, 3)
	learned := r.look()
	upload := func(b []byte) (Model, error) { return r.Upload(ctx, bytes.NewReader(b)) }
	if _, err := r.Activate(ctx); CodeOf(err) != CodeNoModel {
		t.Errorf("nothing to activate: %v", err)
	}
	if _, err := r.Rollback(ctx, ""); CodeOf(err) != CodeNoModel {
		t.Errorf("nothing to return to: %v", err)
	}
	wrong := packaged(t, 2, nil, func(_ *edge.Manifest, g *edge.GoldenTensors) { g.Logits[0] ^= 1 })
	if m, err := upload(wrong); err != nil || m.State != Uploaded || m.Version != 2 {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, err := r.Activate(ctx); CodeOf(err) != CodeTrial || !strings.Contains(err.Error(), "golden image 0") {
		t.Errorf("wrong golden vectors: %v", err)
	}
	s := r.Status()
	if s.Model.Version != 1 || len(s.Models) != 2 || s.Models[1].State != Returned || !strings.Contains(s.Models[1].Reason, "golden image 0") {
		t.Errorf("%+v", s.Models)
	}
	none := packaged(t, 2, nil, nil)
	if _, err := upload(none); err != nil {
		t.Fatal(err)
	}
	if m, err := r.Activate(ctx); err != nil || m.State != Trial {
		t.Fatalf("%+v, %v", m, err)
	}
	if s := r.Status(); s.Step != 0 || s.Model.Version != 2 {
		t.Errorf("on trial: %+v", s)
	}
	if _, err := upload(none); CodeOf(err) != CodeBusy {
		t.Errorf("an upload during a trial: %v", err)
	}
	r.until("committed", func(s Status) bool { return s.Model.Version == 2 && s.Model.State == Active })
	r.teach(0, 1)
	if _, err := upload(packaged(t, 1, nil, nil)); CodeOf(err) != CodeDowngrade {
		t.Errorf("a downgrade: %v", err)
	}
	if m, err := r.Rollback(ctx, "confuses cats"); err != nil || m.Version != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
	if got := r.look(); !reflect.DeepEqual(got, learned) || r.Status().Step != 3 {
		t.Errorf("after the rollback %v, had learned %v", got, learned)
	}
	if s := r.Status(); s.Models[1].State != Returned || s.Models[1].Reason != "confuses cats" {
		t.Errorf("%+v", s.Models)
	}

	watched := c
	watched.Health.Window, watched.Health.MinAccuracy, watched.Health.MinFeedback = 300*time.Millisecond, 1, 5
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = run(t, files, watched, quick())
	r.until("ready", ready)
	if _, err := upload(packaged(t, 3, nil, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	r.teach(0, 6)
	s = r.until("returned from", func(s Status) bool { return s.Model.Version == 1 })
	if m := s.Models[1]; m.State != Returned || !strings.Contains(m.Reason, "feedbacks of its trial") {
		t.Errorf("%+v", m)
	}
	watched.Health.Window = time.Hour
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = run(t, files, watched, quick())
	r.until("ready", ready)
	if _, err := upload(packaged(t, 3, nil, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	crashed := files.Crashed(rand.New(rand.NewPCG(4, 4)))
	r = run(t, crashed, watched, quick())
	s = r.until("ready", ready)
	if s.Model.Version != 1 || s.Models[1].Reason != "the daemon ended during its trial" {
		t.Errorf("after a crash on trial: %+v", s.Models)
	}
	if got := r.look(); !reflect.DeepEqual(got, learned) {
		t.Errorf("after a crash on trial %v, had learned %v", got, learned)
	}
}

// broken is an engine that fails.
type broken struct{ core.Engine }

func (broken) Infer(context.Context, core.Batch) (core.Logits, error) {
	return core.Logits{}, errors.New("a lane is dead")
}

// TestFaultOnTrial: a model whose engine fails on trial is returned from at once, or, while the disk cannot be written, as soon as it
// can.
func TestFaultOnTrial(t *testing.T) {
	for _, full := range []bool{false, true} {
		files := storetest.New()
		c := config(t)
		c.Health.Window = time.Hour
		r := started(t, files, c, quick())
		r.teach(0, 2)
		want := r.look()
		if _, err := r.Upload(t.Context(), bytes.NewReader(packaged(t, 2, nil, nil))); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Activate(t.Context()); err != nil {
			t.Fatal(err)
		}
		if full {
			files.Before(func(_ int, _, name string) error {
				if strings.HasPrefix(name, "state-") {
					return syscall.ENOSPC
				}
				return nil
			})
		}
		if err := r.do(t.Context(), func() error { r.mind.engine = broken{r.mind.engine}; return nil }); err != nil {
			t.Fatal(err)
		}
		x, _ := example(0)
		if _, err := r.Classify(t.Context(), x); CodeOf(err) != CodeInternal {
			t.Fatalf("%v", err)
		}
		if full {
			r.until("tried", func(Status) bool { return files.Ops() > 0 })
			if s := r.Status(); s.Model.Version != 2 {
				t.Errorf("%+v", s.Models)
			}
			files.Before(nil)
			if err := r.do(t.Context(), func() error { r.trial.until = 0; return nil }); err != nil { // it is tried every 10 s
				t.Fatal(err)
			}
		}
		s := r.until("returned from", func(s Status) bool { return s.Model.Version == 1 })
		if m := s.Models[1]; m.State != Returned || !strings.Contains(m.Reason, "a lane is dead") {
			t.Errorf("%+v", m)
		}
		if got := r.look(); !reflect.DeepEqual(got, want) {
			t.Errorf("%v, was %v", got, want)
		}
	}
}

// TestExport: what comes back is a package with what was learned, whose golden vectors fit it.
func TestExport(t *testing.T) {
	r := started(t, nil, config(t), quick())
	r.teach(0, 9)
	var b bytes.Buffer
	if err := r.Export(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "learned.hyp")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := edge.OpenPackage(path)
	if err != nil {
		t.Fatal(err)
	}
	if p.Manifest.Source.Step != 9 || p.Manifest.Golden == nil {
		t.Errorf("%+v", p.Manifest.Source)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	want := r.look()
	c := config(t)
	c.Package = path
	other := run(t, nil, c, quick())
	other.until("ready", ready)
	if got := other.look(); !reflect.DeepEqual(got, want) {
		t.Errorf("on another board %v, was %v", got, want)
	}
}

// TestManyAtOnce: many classify, learn and sleep at a time; no acknowledged lesson is lost, and the queue is bounded.
func TestManyAtOnce(t *testing.T) {
	files := storetest.New()
	c := config(t)
	c.Queue = 4
	limits := quick()
	limits.AfterSteps = 25
	r := started(t, files, c, limits)
	var wait sync.WaitGroup
	var mu sync.Mutex
	steps, busy := map[int64]bool{}, 0
	for w := range 12 {
		wait.Go(func() {
			for i := range 40 {
				x, label := example(100*w + i)
				if i%2 == 0 {
					if _, err := r.Classify(t.Context(), x); err != nil {
						t.Error(err)
					}
					continue
				}
				a, err := r.Learn(t.Context(), x, label)
				mu.Lock()
				switch {
				case errors.Is(err, ErrBusy):
					busy++
				case err != nil || !a.Durable || steps[a.Step]:
					t.Errorf("%+v, %v", a, err)
				default:
					steps[a.Step] = true
				}
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	s := r.Status()
	if int(s.Step) != len(steps) || s.Counters.Classified != 240 || len(steps)+busy != 240 || s.Queued != 0 {
		t.Errorf("%d steps, %d acknowledged, %d refused: %+v", s.Step, len(steps), busy, s.Counters)
	}
	var crashed *storetest.Mem
	want := r.digest(func() { crashed = files.Crashed(rand.New(rand.NewPCG(1, 1))) })
	limits.MaxTemperature = -100 // so that it does not sleep before it is looked at
	again := run(t, crashed, c, limits)
	again.until("ready", ready)
	if got := again.digest(func() {}); got != want {
		t.Errorf("after a crash %x, was %x", got, want)
	}
}

// digest is that of the parameters at a moment at which all is durable and nobody sleeps; at the same moment, f is called.
func (r *rig) digest(f func()) (sum [32]byte) {
	r.t.Helper()
	err := r.do(r.t.Context(), func() error {
		r.interrupt()
		r.journal.flush()
		f()
		p, err := r.mind.engine.Save()
		if err != nil {
			return err
		}
		sum, err = edge.Digest(r.mind.network, p)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return sum
}

// TestWithoutModel: a daemon without a model says so, takes one, and refuses what it cannot do.
func TestWithoutModel(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	public, err := edge.MarshalPublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	c := config(t)
	c.Unsigned, c.Keys = false, []string{filepath.Join(t.TempDir(), "maker.pub")}
	if err := os.WriteFile(c.Keys[0], public, 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, nil, c, quick())
	ctx := t.Context()
	r.until("awake", func(s Status) bool { return strings.Contains(s.Reason, "no model") })
	x, _ := example(1)
	if _, err := r.Classify(ctx, x); CodeOf(err) != CodeNoModel {
		t.Error(err)
	}
	if _, err := r.Sleep(ctx, SleepRequest{}); CodeOf(err) != CodeNoModel {
		t.Error(err)
	}
	if err := r.Export(ctx, &bytes.Buffer{}); CodeOf(err) != CodeNoModel {
		t.Error(err)
	}
	if _, err := r.Upload(ctx, bytes.NewReader(packaged(t, 1, nil, nil))); CodeOf(err) != CodeSignature {
		t.Error(err)
	}
	foreign := packaged(t, 1, key, func(m *edge.Manifest, _ *edge.GoldenTensors) { m.Boards = []string{"raspberry-pi-4"} })
	if _, err := r.Upload(ctx, bytes.NewReader(foreign)); CodeOf(err) != CodeBoard {
		t.Error(err)
	}
	if _, err := r.Upload(ctx, strings.NewReader("hello")); CodeOf(err) != CodePackage {
		t.Error(err)
	}
	m, err := r.Upload(ctx, bytes.NewReader(packaged(t, 1, key, nil)))
	if err != nil || m.Key != edge.KeyID(key.Public().(ed25519.PublicKey)) {
		t.Fatalf("%+v, %v", m, err)
	}
	if _, err := r.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	r.until("committed", func(s Status) bool { return s.Model.State == Active })
	if _, err := r.Classify(ctx, x); err != nil {
		t.Error(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Classify(ctx, x); CodeOf(err) != CodeStopping {
		t.Errorf("after the end: %v", err)
	}
	if _, err := r.Learn(ctx, x, 0); CodeOf(err) != CodeStopping {
		t.Errorf("after the end: %v", err)
	}
}

// TestDamagedModel: a committed package that is damaged on disk is left for the one before, with the reason.
func TestDamagedModel(t *testing.T) {
	files := storetest.New()
	c := config(t)
	r := started(t, files, c, quick())
	r.teach(0, 2)
	want := r.look()
	if _, err := r.Upload(t.Context(), bytes.NewReader(packaged(t, 2, nil, nil))); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.until("committed", func(s Status) bool { return s.Model.Version == 2 && s.Model.State == Active })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if !files.Flip("model-2/package.hyp", 8*6000+1) {
		t.Fatal("no such bit")
	}
	r = run(t, files, c, quick())
	s := r.until("ready", ready)
	if s.Model.Version != 1 || s.Models[1].State != Returned || !strings.Contains(s.Models[1].Reason, "damaged") {
		t.Errorf("%+v", s.Models)
	}
	if got := r.look(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, was %v", got, want)
	}
}

func TestConfigCheck(t *testing.T) {
	good := DefaultConfig()
	good.Unsigned = true
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Config){
		"data: which": func(c *Config) { c.Data = "" }, "keys: no key": func(c *Config) { c.Unsigned = false }, "rate: NaN": func(c *Config) { c.Rate = math.NaN() },
		"rule: ": func(c *Config) { c.Rule = "x" }, "queue: 0": func(c *Config) { c.Queue = 0 }, "batch: 1000": func(c *Config) { c.Batch = 1000 },
		"sleep.rule": func(c *Config) { c.Sleep.Rule = "observe" }, "sleep: ": func(c *Config) { c.Sleep.Rule = "x" }, "max_replay": func(c *Config) { c.MaxReplay = 0 },
		"health.min_accuracy: 2": func(c *Config) { c.Health.MinAccuracy = 2 }, "threads: -1": func(c *Config) { c.Threads = -1 },
	} {
		c := good
		change(&c)
		if err := c.Check(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", want, err)
		}
	}
}
