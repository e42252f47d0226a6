// Package brain is the one owner of a board's network: it classifies, learns from labelled feedback, sleeps when the
// governor says so, keeps what it learned, and changes models.
//
// One goroutine, Run, holds the engine and goes from one piece of work to the next: requests to classify first, then what
// is to be learned, then sleep. A request that arrives in a sleep ends it between two groups of neurons (core.Engine.Sleep);
// the governor has it go on later from where it stopped. A second goroutine (journal) makes what was learned durable, so that
// nobody who classifies waits for a disk. Who classifies while Run waits for work does so on its own goroutine: another thread
// would have to be woken first, which takes longer than decoding the image.
//
// All other methods may be called from any goroutine. Images are decoded on the caller's. An error is an *Error with a
// Code, or the context's.
package brain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"hypnos/backends/fixed"
	"hypnos/board"
	"hypnos/board/device"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/sleep"
	"hypnos/server/governor"
	"hypnos/server/store"
)

// Board is what a brain needs of the board that it runs on.
type Board struct {
	Name    string // of its profile, for packages
	Wiring  board.Wiring
	Devices *device.Set
	Files   func(dir string) store.FS // where it keeps what it learns; nil is a folder of the operating system
}

// Brain is the owner. Use New, and Run.
type Brain struct {
	config   Config
	governor *governor.Governor
	limits   governor.Config
	board    Board
	clock    device.Clock
	log      *slog.Logger
	store    *store.Store
	held     io.Closer // the lock of the store's folder; nil where a test has another file system
	backend  core.Backend

	turn     chan struct{} // has one element while Run waits: whoever takes it may use what is Run's own, and puts it back
	classify chan *question
	learn    chan *lesson
	control  chan func() // run between two pieces of work, in order
	look     chan struct{}
	changing sync.Mutex    // one upload, activation, rollback or export at a time
	stopped  chan struct{} // closed when Run has ended

	temperature *device.Poller[float64]
	power       *device.Poller[device.Power]
	light       *device.Blinker

	// What follows is Run's own.
	mind     *mind // nil: no model is in use
	nap      *nap  // nil: awake
	journal  *journal
	decision governor.Decision
	wishes   []governor.Request
	failure  string        // why the last sleep failed
	slept    time.Duration // monotonic, when a sleep last ended; Never before the first
	saving   chan error    // a snapshot under way; nil without
	saveTry  time.Duration // monotonic, of the last try
	trial    *trial

	shared
}

// New opens the store and returns a brain, of which Run makes something that works. It takes no model into use.
func New(c Config, limits governor.Config, b Board, log *slog.Logger) (*Brain, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("brain: data: %w", err)
	}
	held, err := model.LockFolder(c.Data)
	if err != nil {
		return nil, fmt.Errorf("brain: data: %s: %w", c.Data, err)
	}
	files := store.Dir
	if b.Files != nil {
		files = b.Files
	}
	a, err := newOn(files(c.Data), c, limits, b, log)
	if err != nil {
		return nil, errors.Join(err, held.Close())
	}
	a.held = held
	return a, nil
}

// newOn is New with the store on another file system.
func newOn(files store.FS, c Config, limits governor.Config, b Board, log *slog.Logger) (*Brain, error) {
	g, err := governor.New(limits)
	if err != nil {
		return nil, err
	}
	keys, err := c.readKeys()
	if err != nil {
		return nil, err
	}
	policy := edge.Policy{Keys: keys, Unsigned: c.Unsigned, Board: b.Name}
	kept, problems, err := store.Open(files, store.Options{Policy: policy})
	if err != nil {
		return nil, fmt.Errorf("brain: %s: %w", c.Data, err)
	}
	for _, p := range problems {
		log.Warn("store", "problem", p.String())
	}
	on, err := fixed.Open(fixed.Options{Threads: c.Threads})
	if err != nil {
		return nil, err
	}
	for _, note := range on.Caps().Notes {
		log.Info("engine", "note", note)
	}
	clock := b.Devices.Clock
	a := &Brain{
		config: c, governor: g, limits: limits, board: b, clock: clock, log: log, store: kept, backend: on,
		turn: make(chan struct{}, 1), classify: make(chan *question), learn: make(chan *lesson, c.Queue), control: make(chan func()), look: make(chan struct{}, 1),
		stopped: make(chan struct{}),
		light:   device.NewBlinker(b.Devices.LED, clock), slept: governor.Never,
	}
	a.shared.start(clock, c.Queue)
	a.temperature = &device.Poller[float64]{Read: b.Devices.Temperature.Celsius, Every: b.Wiring.Temperature.Period(), Slowest: time.Minute, Clock: clock}
	a.power = &device.Poller[device.Power]{Read: b.Devices.Power.Read, Every: b.Wiring.Power.Period(), Slowest: time.Minute, Clock: clock}
	a.temperature.Changed = func(r device.Reading[float64]) { a.felt("temperature", r.Why(), r.Absent != "") }
	a.power.Changed = func(r device.Reading[device.Power]) { a.felt("supply", r.Why(), r.Absent != "") }
	return a, nil
}

// Run lives until ctx ends: it takes the committed model into use, with what it had learned, and works. In the end it stops a
// sleep, learns what waits in the queue, and keeps all in a snapshot. It is called once.
func (b *Brain) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	for _, f := range []func(context.Context){b.temperature.Run, b.power.Run, b.light.Run, b.watchLines} {
		others.Go(func() { f(work) })
	}
	b.journal = newJournal(b.store, func(err error) {
		b.keptChanged(err)
		b.ask()
	})
	others.Go(b.journal.run)
	b.wakeUp(work)
	b.live(ctx, work)
	err := b.end()
	close(b.stopped)
	stop()
	b.journal.close()
	others.Wait()
	b.shared.close()
	if b.held != nil {
		err = errors.Join(err, b.held.Close())
	}
	return errors.Join(err, b.backend.Close())
}

// live goes from one piece of work to the next until ctx ends. Work itself runs with another context, which ends later.
func (b *Brain) live(ctx, work context.Context) {
	for ctx.Err() == nil {
		if b.nap != nil || len(b.learn) == 0 { // what waits to be learned is learned before a sleep
			b.decide(work)
		}
		b.watchTrial()
		b.save(false)
		if len(b.learn) == 0 {
			b.measure(work)
		}
		select { // whoever classifies goes first
		case q := <-b.classify:
			b.answer(work, q)
			continue
		default:
		}
		b.work(ctx, work)
	}
}

// work waits for one piece of work and does it.
func (b *Brain) work(ctx, work context.Context) {
	var lessons chan *lesson
	if b.mind != nil {
		lessons = b.learn
	}
	ended, saved, later := b.nap.done(), b.saving, b.clock.After(b.patience())
	var do func()
	b.turn <- struct{}{}
	select {
	case <-ctx.Done():
	case q := <-b.classify:
		do = func() { b.answer(work, q) }
	case f := <-b.control:
		do = f
	case l := <-lessons:
		do = func() { b.study(work, l) }
	case <-ended:
		do = b.endNap
	case err := <-saved:
		do = func() { b.saved(err) }
	case <-b.look:
	case <-later:
	}
	<-b.turn
	if do != nil {
		do()
	}
}

// patience is how long there may be nothing to do.
func (b *Brain) patience() time.Duration {
	now := b.clock.Monotonic()
	wait := b.decision.Next - now
	if b.trial != nil {
		wait = min(wait, b.trial.until-now)
	}
	if b.saveTry != 0 && b.saving == nil && b.nap == nil {
		wait = min(wait, b.saveTry+saveEvery-now)
	}
	return max(wait, time.Millisecond)
}

// end brings everything to rest.
func (b *Brain) end() error {
	b.interrupt()
	for b.mind != nil && len(b.learn) > 0 {
		b.study(context.Background(), <-b.learn)
	}
	b.quiesce()
	b.save(true)
	if b.saving != nil {
		b.saved(<-b.saving)
	}
	if b.mind == nil {
		return nil
	}
	err := b.mind.engine.Close()
	b.mind = nil
	return err
}

// ask has Run look at what is to be done.
func (b *Brain) ask() {
	select {
	case b.look <- struct{}{}:
	default:
	}
}

// errStopping is what callers get when Run has ended.
var errStopping error = refuse(CodeStopping, "the daemon ends")

// do runs f between two pieces of work and waits for it.
func (b *Brain) do(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case b.control <- func() { done <- f() }:
		return <-done
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-b.stopped:
		return errStopping
	}
}

// watchLines turns edges of the two lines into orders.
func (b *Brain) watchLines(ctx context.Context) {
	wake, sleep := b.board.Devices.Wake.Edges(), b.board.Devices.Sleep.Edges()
	for {
		var e device.Edge
		var more bool
		order := governor.OrderWake
		select {
		case <-ctx.Done():
			return
		case e, more = <-wake:
			if !more {
				wake = nil
			}
		case e, more = <-sleep:
			if order = governor.OrderSleep; !more {
				sleep = nil
			}
		}
		if more && e.Active {
			b.do(ctx, func() error { b.wishes = append(b.wishes, governor.Request{Order: order, Source: "pin"}); return nil })
		}
	}
}

// inputs is what the governor is told.
func (b *Brain) inputs() governor.Inputs {
	now := b.clock.Monotonic()
	in := governor.Inputs{
		Now: b.clock.Now(), Mono: now, SinceRequest: b.sinceRequest(now), SinceSleep: governor.Never,
		Temperature: b.temperature.Last(), Supply: b.power.Last(), Requests: b.wishes,
		Sleeping: b.nap != nil && !b.nap.measuring, Failure: b.failure,
	}
	if b.slept != governor.Never {
		in.SinceSleep = now - b.slept
	}
	if b.mind != nil {
		in.StepsSinceSleep, in.Unfinished = b.mind.StepsSinceSleep, b.mind.Unfinished != nil
		in.SNR = b.mind.snr
	}
	b.wishes = nil
	return in
}

// decide asks the governor and does what it says.
func (b *Brain) decide(ctx context.Context) {
	if b.mind == nil {
		b.wishes = nil
		b.decision.Next = b.clock.Monotonic() + time.Second
		return
	}
	before := b.decision
	b.decision = b.governor.Decide(b.inputs())
	d := b.decision
	b.foresee(d)
	if d.State != before.State || d.Code != before.Code {
		b.log.Info("governor", "state", d.State, "action", d.Action, "code", d.Code, "reason", d.Reason)
		b.setMood(d, b.clock.Now())
		b.light.Show(d.State.Light())
	} else if d.Reason != before.Reason {
		b.refine(d)
	}
	switch d.Action {
	case governor.Start, governor.Resume:
		b.interrupt() // a measurement
		b.sleep(ctx, d)
	case governor.Stop:
		b.nap.cancel(errors.New(d.Reason))
	}
}

// Sleep asks the governor for a sleep, and returns what it makes of it.
func (b *Brain) Sleep(ctx context.Context, r SleepRequest) (Mood, error) {
	return b.order(ctx, governor.Request{Order: governor.OrderSleep, Source: r.Source}, true)
}

// Wake wakes the network, and has it stay awake for a while (governor.Config).
func (b *Brain) Wake(ctx context.Context, reason string) (Mood, error) {
	return b.order(ctx, governor.Request{Order: governor.OrderWake, Source: reason}, false)
}

func (b *Brain) order(ctx context.Context, r governor.Request, needsModel bool) (m Mood, err error) {
	err = b.do(ctx, func() error {
		if b.mind == nil && needsModel {
			return errNoModel
		}
		b.wishes = append(b.wishes, r)
		b.decide(context.Background())
		if r.Order == governor.OrderWake {
			b.interrupt() // the answer tells what is, not what will be
			b.decide(context.Background())
		}
		m = b.mood()
		return nil
	})
	return m, err
}

var errNoModel error = refuse(CodeNoModel, "no model is in use")

// stream is a sleep of the configuration.
func (b *Brain) stream(phase uint64, from *sleep.Token) store.Sleep {
	return store.Sleep{Spec: b.config.Sleep.Spec(), Border: b.config.Sleep.Border, Seed: b.config.Seed, Phase: phase, From: from}
}
