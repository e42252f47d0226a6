package brain

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/server/governor"
	"hypnos/server/store"
)

// trial is a model's health window.
type trial struct {
	until  time.Duration // monotonic: when it is looked at
	fault  string        // why it is to be returned from
	before Feedback      // when it began
}

// wakeUp takes the committed model into use. One that cannot be is returned from, for the one before.
func (b *Brain) wakeUp(ctx context.Context) {
	reason := "no model is in use: upload one"
	if b.store.State().Active() == store.None && b.config.Package != "" {
		if err := b.first(ctx); err != nil {
			b.log.Error("first package", "file", b.config.Package, "error", err)
			reason += "; " + b.config.Package + " was not taken: " + err.Error()
		}
	}
	for b.store.State().Active() != store.None {
		err := b.use(ctx)
		if err == nil {
			return
		}
		b.log.Error("model", "slot", b.store.State().Active(), "error", err)
		if err := b.store.Rollback("it could not be taken into use: " + err.Error()); err != nil {
			b.log.Error("no other model", "error", err)
			break
		}
	}
	b.showModels()
	b.log.Warn("no model is in use: upload one")
	b.setMood(governor.Decision{State: governor.Awake, Reason: reason}, b.clock.Now())
}

// first installs the configuration's package.
func (b *Brain) first(ctx context.Context) error {
	f, err := os.Open(b.config.Package)
	if err != nil {
		return err
	}
	defer f.Close()
	slot, err := b.store.Install(f)
	if err != nil {
		return err
	}
	if err := b.prove(ctx, slot); err != nil {
		return errors.Join(err, b.store.Reject(slot, err.Error()))
	}
	return errors.Join(b.store.StartTrial(), b.store.Commit())
}

// use takes the active model into use, in place of the one that is.
func (b *Brain) use(ctx context.Context) error {
	b.leave()
	m, err := b.recall(ctx)
	if err != nil {
		return err
	}
	b.mind = m
	b.adopt(m)
	b.showModels()
	b.log.Info("model", "slot", m.slot, "network", m.network.Name, "version", m.version, "step", m.Step)
	b.failure, b.slept, b.saveTry = "", governor.Never, 0
	debug.FreeOSMemory()                     // what loading took: boards are small
	b.governor, err = governor.New(b.limits) // what it remembers is of another model's sleeps
	return err
}

// leave takes the model out of use.
func (b *Brain) leave() {
	if b.mind == nil {
		return
	}
	b.quiesce()
	if err := b.mind.close(); err != nil {
		b.log.Error("engine", "error", err)
	}
	b.mind = nil
	b.adopt(nil)
	for {
		select {
		case l := <-b.learn:
			l.ack <- taught{err: errChanged}
			continue
		default:
		}
		return
	}
}

// prove computes a package's golden vectors on this board, in an engine of its own, and compares.
func (b *Brain) prove(ctx context.Context, slot store.Slot) error {
	p, err := b.store.Package(slot)
	if err != nil {
		return err
	}
	defer p.Close()
	if _, err := factsOf(p.Package); err != nil {
		return err
	}
	m := p.Manifest
	if m.Golden == nil {
		return errors.New("brain: the package has no golden vectors")
	}
	o := b.options(b.settings())
	if _, err := o.Learns(m.Network); err != nil {
		return err
	}
	params, err := p.Params()
	if err != nil {
		return err
	}
	e, err := b.compile(m.Network, m.Golden.Options(), params)
	if err != nil {
		return err
	}
	return errors.Join(p.CheckGolden(ctx, e), e.Close())
}

// Upload verifies a package and puts it into the slot that is not in use.
func (b *Brain) Upload(_ context.Context, r io.Reader) (Model, error) {
	if !b.changing.TryLock() {
		return Model{}, b.refused(errChanging)
	}
	defer b.changing.Unlock()
	slot, err := b.store.Install(r)
	if err != nil {
		return Model{}, b.refused(installError(err))
	}
	b.showModels()
	return b.model(slot), nil
}

var errChanging error = refuse(CodeBusy, "another upload, activation, rollback or export runs")

// installError gives an error of the store its code.
func installError(err error) error {
	if errors.Is(err, store.ErrRead) {
		return err // whoever sends knows why
	}
	for _, x := range []struct {
		is   error
		code Code
	}{
		{edge.ErrUnsigned, CodeSignature}, {edge.ErrSignature, CodeSignature}, {edge.ErrKey, CodeKey}, {edge.ErrDowngrade, CodeDowngrade},
		{edge.ErrBoard, CodeBoard}, {edge.ErrRuntime, CodeBoard}, {store.ErrTrial, CodeBusy}, {store.ErrNone, CodeNoModel},
	} {
		if errors.Is(err, x.is) {
			return &Error{x.code, err}
		}
	}
	if _, is := errors.AsType[*store.StorageError](err); is {
		return &Error{CodeStorage, err}
	}
	return &Error{CodePackage, err}
}

// Activate takes the package that was uploaded last into use on trial, when its golden vectors come out right. The model before
// works until then.
func (b *Brain) Activate(ctx context.Context) (Model, error) {
	if !b.changing.TryLock() {
		return Model{}, b.refused(errChanging)
	}
	defer b.changing.Unlock()
	slot := b.store.State().Find(store.Uploaded)
	if slot == store.None {
		return Model{}, b.refused(refuse(CodeNoModel, "nothing is uploaded"))
	}
	if err := b.prove(ctx, slot); err != nil {
		if ctx.Err() != nil {
			return Model{}, context.Cause(ctx)
		}
		err = oneLine(err, b.store.Reject(slot, err.Error()))
		b.showModels()
		return Model{}, b.refused(&Error{CodeTrial, err})
	}
	err := b.do(ctx, func() error {
		b.stepAside()
		if err := b.store.StartTrial(); err != nil {
			return installError(errors.Join(err, b.use(context.Background())))
		}
		if err := b.use(context.Background()); err != nil {
			return &Error{CodeTrial, oneLine(err, b.goBack(err.Error()))}
		}
		b.trial = &trial{until: b.clock.Monotonic() + b.config.Health.Window, before: b.feedback()}
		return nil
	})
	return b.model(slot), b.refused(err)
}

// oneLine is an error with what went wrong after it.
func oneLine(err, then error) error {
	if then == nil {
		return err
	}
	return fmt.Errorf("%w; %w", err, then)
}

// stepAside takes the model out of use for another one. What is durable in the journal needs no snapshot.
func (b *Brain) stepAside() {
	b.interrupt()
	b.journal.flush()
	b.save(!b.durability().Durable)
	b.leave()
}

// goBack returns from the trial to the committed model. When that cannot be written down, the model on trial stays in use.
func (b *Brain) goBack(reason string) error {
	if err := b.store.Return(reason); err != nil {
		return err
	}
	b.trial = nil
	b.leave()
	b.showModels()
	b.wakeUp(context.Background())
	return nil
}

// watchTrial ends a trial: for a fault at once, otherwise when its window has passed.
func (b *Brain) watchTrial() {
	t := b.trial
	if t == nil || b.clock.Monotonic() < t.until {
		return
	}
	if t.fault == "" {
		t.fault = b.config.Health.judge(t.before, b.feedback())
	}
	if t.fault == "" {
		if err := b.store.Commit(); err != nil {
			b.log.Error("commit", "error", err)
			t.until = b.clock.Monotonic() + saveEvery // the disk may come back
			return
		}
		b.trial = nil
		b.log.Info("model", "version", b.mind.version, "state", Active)
		b.showModels()
		return
	}
	b.log.Warn("trial", "version", b.mind.version, "returned", t.fault)
	if err := b.goBack(t.fault); err != nil {
		b.log.Error("return from the trial", "error", err)
		t.until = b.clock.Monotonic() + saveEvery
	}
}

// judge says what is wrong with a model by the feedback of its trial; nothing is "".
func (h Health) judge(before, after Feedback) string {
	count, correct := after.Count-before.Count, after.Correct-before.Correct
	if h.MinAccuracy == 0 || count < h.MinFeedback {
		return ""
	}
	if share := float64(correct) / float64(count); !(share >= h.MinAccuracy) {
		return fmt.Sprintf("right in %.1f %% of %d feedbacks of its trial, at least %.1f %% are asked for", 100*share, count, 100*h.MinAccuracy)
	}
	return ""
}

// faulty notes that the engine failed. A model on trial is returned from for it, at once.
func (b *Brain) faulty(err error) {
	b.log.Error("engine", "error", err)
	if t := b.trial; t != nil && t.fault == "" {
		t.fault, t.until = "its engine failed: "+err.Error(), 0
	}
}

// Rollback takes the model before into use, with what it had learned; of a trial, it is its end.
func (b *Brain) Rollback(ctx context.Context, reason string) (Model, error) {
	if !b.changing.TryLock() {
		return Model{}, b.refused(errChanging)
	}
	defer b.changing.Unlock()
	reason = cmp.Or(reason, "asked for")
	err := b.do(ctx, func() error {
		state := b.store.State()
		if state.Find(store.Trial) == store.None && state.Find(store.Previous) == store.None {
			return refuse(CodeNoModel, "there is no model to return to")
		}
		b.stepAside()
		b.trial = nil
		if err := b.store.Rollback(reason); err != nil {
			return installError(errors.Join(err, b.use(context.Background())))
		}
		b.showModels()
		if b.store.State().Active() == store.None {
			return nil
		}
		if err := b.use(context.Background()); err != nil {
			return &Error{CodePackage, err}
		}
		return nil
	})
	if err != nil {
		return Model{}, b.refused(err)
	}
	return b.model(b.store.State().Active()), nil
}

// Export writes the model in use as a package, with what it has learned and golden vectors of that, unsigned.
func (b *Brain) Export(ctx context.Context, w io.Writer) error {
	if !b.changing.TryLock() {
		return b.refused(errChanging)
	}
	defer b.changing.Unlock()
	var params *model.Params
	var m edge.Manifest
	var o edge.PackOptions
	err := b.do(ctx, func() error {
		if b.mind == nil {
			return errNoModel
		}
		b.interrupt()
		p, err := b.store.Package(b.mind.slot)
		if err != nil {
			return installError(err)
		}
		defer p.Close()
		m = p.Manifest
		m.Source.Step += b.mind.Step
		if m.Golden, o.Golden, err = p.Golden(ctx, b.mind.engine, 0); err != nil {
			return err
		}
		params, err = b.mind.copied()
		return err
	})
	if err != nil {
		return b.refused(err)
	}
	small, err := edge.Consolidate(m.Network, params)
	if err != nil {
		return err
	}
	all, err := edge.Pack(m, small, o)
	if err != nil {
		return err
	}
	return model.Write(w, all)
}
