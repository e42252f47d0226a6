// Package servertest has a brain without a network, for tests of what talks to one.
package servertest

import (
	"bytes"
	"context"
	"fmt"
	"image"
	_ "image/jpeg" // formats that Classify takes
	_ "image/png"
	"io"
	"slices"
	"sync"
	"time"

	"hypnos/core/sleep"
	"hypnos/server/brain"
)

// Brain classifies by the first byte of an image, and learns by counting. Fields may be set before it is used.
type Brain struct {
	// Fail, when set, is asked before each call, by the name of its method; its error is the call's.
	Fail func(method string) error
	// Delay is how long Classify, Learn, Upload and Export take, unless the context ends before.
	Delay time.Duration
	// Package is what Export writes, and Upload must be given.
	Package []byte

	mu          sync.Mutex
	status      brain.Status
	subscribers map[chan brain.Event]bool
	events      uint64
}

// MaxPixels is how many pixels an image may have.
const MaxPixels = 1 << 20

// Classes are the names of the outputs.
func Classes() []string { return []string{"cat", "dog", "ship"} }

// New returns a brain that is awake, with a network of three classes and two layers.
func New() *Brain {
	start := time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)
	celsius, volts := 48.5, 5.08
	m := brain.Model{
		Slot: "a", State: brain.Active, Version: 3, Network: "resnet8-lc", Classes: Classes(), Input: [3]int{2, 2, 3},
		Digest: "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", Key: "1a2b3c4d",
	}
	previous := m
	previous.Slot, previous.State, previous.Version = "b", brain.Previous, 2
	return &Brain{
		Package: []byte("a package"), subscribers: map[chan brain.Event]bool{},
		status: brain.Status{
			Mood:    brain.Mood{State: "awake", Reason: "started", Since: start},
			Started: start, QueueLimit: 8, Step: 120, StepsSinceSleep: 20,
			Model: m, Models: []brain.Model{m, previous},
			Layers: []sleep.LayerReport{layer("stem.conv", 1.5), layer("stage1.block1.conv1", 0.6)}, Measured: start,
			Sleeps: []brain.Sleep{{
				Began: start.Add(-time.Hour), Ended: start.Add(-time.Hour + 9*time.Second), Reason: "a night window", Rule: "instant",
				Asleep: 8 * time.Second, Parts: 2, Complete: true, Layers: []sleep.LayerReport{layer("stem.conv", 1.2), layer("stage1.block1.conv1", 0.4)},
			}},
			Readings: []brain.Reading{
				{Name: "temperature", Unit: "°C", Value: &celsius, At: start},
				{Name: "voltage", Unit: "V", Value: &volts, At: start},
				{Name: "current", Unit: "A", Absent: "no power meter is wired"},
			},
			Durability: brain.Durability{Durable: true, Snapshot: 100, At: start, Journal: 20},
			Counters:   brain.Counters{Refused: map[string]int64{}},
		},
	}
}

// layer is a layer's report whose weights became four times as regular.
func layer(name string, snr float64) sleep.LayerReport {
	stats := func(snr float64) *sleep.Stats {
		return &sleep.Stats{Groups: 4, Weights: 36, SNR: snr, InverseRatio: 2, AbsRatio: 1}
	}
	return sleep.LayerReport{Layer: name, Before: stats(snr), After: stats(4 * snr), Mean: sleep.Preservation{Ratio: 0.999, Error: 0.001}}
}

func (b *Brain) fails(method string) error {
	if b.Fail == nil {
		return nil
	}
	return b.Fail(method)
}

func (b *Brain) wait(ctx context.Context) error {
	if b.Delay == 0 {
		return ctx.Err()
	}
	select {
	case <-time.After(b.Delay):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refuse is an error of a code.
func refuse(code brain.Code, format string, args ...any) error {
	return &brain.Error{Code: code, Err: fmt.Errorf("brain: "+format, args...)}
}

// check decodes an image, for its errors.
func check(x brain.Image) error {
	if x.Type == brain.Tensor {
		if n := len(x.Data); n != 12 && n != 48 {
			return refuse(brain.CodeTensor, "a tensor has 12 or 48 bytes, not %d", n)
		}
		return nil
	}
	c, _, err := image.DecodeConfig(bytes.NewReader(x.Data))
	if err != nil {
		return refuse(brain.CodeImageBroken, "%v", err)
	}
	if c.Width*c.Height > MaxPixels {
		return refuse(brain.CodeImagePixels, "%dx%d pixels are more than %d", c.Width, c.Height, MaxPixels)
	}
	if _, _, err = image.Decode(bytes.NewReader(x.Data)); err != nil {
		return refuse(brain.CodeImageBroken, "%v", err)
	}
	return nil
}

// Classify gives the label 1.
func (b *Brain) Classify(ctx context.Context, x brain.Image) (brain.Result, error) {
	if err := b.fails("Classify"); err != nil {
		return brain.Result{}, err
	}
	if err := check(x); err != nil {
		return brain.Result{}, err
	}
	if err := b.wait(ctx); err != nil {
		return brain.Result{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Counters.Classified++
	return brain.Result{
		Label: 1, Class: "dog", Scores: []brain.Score{{Label: 1, Class: "dog", Probability: 0.7}, {Label: 0, Class: "cat", Probability: 0.2}},
		Logits: []float64{0.5, 1.75, -1}, Version: b.status.Model.Version, Step: b.status.Step, Took: time.Millisecond,
	}, nil
}

// Learn counts a step. The network is right about the label 1.
func (b *Brain) Learn(ctx context.Context, x brain.Image, label int) (brain.Ack, error) {
	if err := b.fails("Learn"); err != nil {
		return brain.Ack{}, err
	}
	if label < 0 || label >= len(Classes()) {
		return brain.Ack{}, refuse(brain.CodeLabel, "label %d is none of 0 to %d", label, len(Classes())-1)
	}
	if err := check(x); err != nil {
		return brain.Ack{}, err
	}
	b.mu.Lock()
	if b.status.Queued == b.status.QueueLimit {
		b.mu.Unlock()
		return brain.Ack{}, brain.ErrBusy
	}
	b.status.Queued++
	b.mu.Unlock()
	err := b.wait(ctx)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Queued--
	if err != nil {
		return brain.Ack{}, err
	}
	b.status.Step++
	b.status.StepsSinceSleep++
	b.status.Counters.Learned++
	f := &b.status.Feedback
	f.Count++
	f.Recent = min(f.Recent+1, 100)
	if label == 1 {
		f.Correct++
	}
	f.Share = float64(f.Correct) / float64(f.Count)
	ack := brain.Ack{Step: b.status.Step, Correct: label == 1, Loss: 0.5, Durable: true}
	b.emit(brain.Event{Kind: brain.EventLearn, Text: "learned", Learn: &ack})
	return ack, nil
}

// Sleep falls asleep at once.
func (b *Brain) Sleep(_ context.Context, r brain.SleepRequest) (brain.Mood, error) {
	return b.change("Sleep", "asleep", "asked for by "+r.Source)
}

// Wake wakes at once.
func (b *Brain) Wake(_ context.Context, reason string) (brain.Mood, error) {
	return b.change("Wake", "awake", "woken by "+reason)
}

func (b *Brain) change(method, state, reason string) (brain.Mood, error) {
	if err := b.fails(method); err != nil {
		return brain.Mood{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Mood = brain.Mood{State: state, Reason: reason, Since: time.Now()}
	m := b.status.Mood
	b.emit(brain.Event{Kind: brain.EventMood, Text: state + ": " + reason, Mood: &m})
	return m, nil
}

// Status is a copy.
func (b *Brain) Status() brain.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.Time = time.Now()
	s.Models, s.Sleeps = slices.Clone(s.Models), slices.Clone(s.Sleeps)
	return s
}

// Set changes the status.
func (b *Brain) Set(change func(*brain.Status)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.status)
}

// Emit sends an event, whose number and time it sets.
func (b *Brain) Emit(e brain.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.emit(e)
}

func (b *Brain) emit(e brain.Event) {
	b.events++
	e.ID, e.Time = b.events, time.Now()
	for c := range b.subscribers {
		select {
		case c <- e:
		default:
			b.status.Counters.EventsMissed++
		}
	}
}

// Subscribe gives the events from now on.
func (b *Brain) Subscribe(buffer int) (<-chan brain.Event, func()) {
	c := make(chan brain.Event, buffer)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subscribers[c] = true
	return c, sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.subscribers, c)
		close(c)
	})
}

// Upload takes Package, and nothing else, as version 4.
func (b *Brain) Upload(ctx context.Context, r io.Reader) (brain.Model, error) {
	text, readErr := io.ReadAll(r)
	if err := b.wait(ctx); err != nil {
		return brain.Model{}, err
	}
	if err := b.fails("Upload"); err != nil {
		return brain.Model{}, err
	}
	if readErr != nil || !bytes.Equal(text, b.Package) {
		return brain.Model{}, refuse(brain.CodePackage, "not a package")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.status.Model
	m.Slot, m.State, m.Version = "b", brain.Uploaded, 4
	b.status.Models = []brain.Model{b.status.Model, m}
	b.emit(brain.Event{Kind: brain.EventModel, Text: "version 4 is uploaded", Model: &m})
	return m, nil
}

// Activate takes what was uploaded on trial.
func (b *Brain) Activate(context.Context) (brain.Model, error) {
	return b.use("Activate", brain.Uploaded, brain.Trial, "nothing is uploaded", "")
}

// Rollback returns to the model before.
func (b *Brain) Rollback(_ context.Context, reason string) (brain.Model, error) {
	return b.use("Rollback", brain.Previous, brain.Active, "there is no model to return to", reason)
}

// use takes the model of the other slot, which must be in a state, into use.
func (b *Brain) use(method, from, to, none, reason string) (brain.Model, error) {
	if err := b.fails(method); err != nil {
		return brain.Model{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.IndexFunc(b.status.Models, func(m brain.Model) bool { return m.State == from })
	if i < 0 {
		return brain.Model{}, refuse(brain.CodeNoModel, "%s", none)
	}
	for j := range b.status.Models {
		b.status.Models[j].State = brain.Previous
		if to == brain.Active {
			b.status.Models[j].State, b.status.Models[j].Reason = brain.Returned, reason
		}
	}
	m := &b.status.Models[i]
	m.State, m.Reason = to, ""
	b.status.Model = *m
	used := *m
	b.emit(brain.Event{Kind: brain.EventModel, Text: fmt.Sprintf("version %d is in use", m.Version), Model: &used})
	return used, nil
}

// Export writes Package.
func (b *Brain) Export(ctx context.Context, w io.Writer) error {
	if err := b.fails("Export"); err != nil {
		return err
	}
	if err := b.wait(ctx); err != nil {
		return err
	}
	_, err := w.Write(b.Package)
	return err
}
