package brain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hypnos/core/sleep"
	"hypnos/server/governor"
	"hypnos/server/store"
)

// nap is a stretch of a sleep, or a measurement of the weights, which runs beside Run and has the engine meanwhile.
type nap struct {
	measuring bool
	what      store.Sleep
	began     time.Duration // monotonic
	cancel    context.CancelCauseFunc
	ended     chan struct{}
	report    sleep.Report
	err       error
}

// done is closed when the nap is over; nil, which blocks, without one.
func (n *nap) done() <-chan struct{} {
	if n == nil {
		return nil
	}
	return n.ended
}

// begin has the engine sleep.
func (b *Brain) begin(ctx context.Context, n *nap, s sleep.Stream) {
	ctx, n.cancel = context.WithCancelCause(ctx)
	n.ended, n.began = make(chan struct{}), b.clock.Monotonic()
	b.nap = n
	engine := b.mind.engine
	go func() {
		defer close(n.ended)
		n.report, n.err = engine.Sleep(ctx, s)
	}()
}

// sleep begins a sleep, or goes on with the one that was stopped.
func (b *Brain) sleep(ctx context.Context, d governor.Decision) {
	m := b.mind
	what := store.Sleep{}
	if d.Action == governor.Resume && m.Unfinished != nil {
		what = *m.Unfinished
		what.From, what.Next = what.Next, nil
		b.goOn(b.clock.Now())
	} else {
		m.Phase++
		what = b.stream(m.Phase, nil)
		b.fallAsleep(d.Reason, what.Spec.Rule, b.clock.Now())
	}
	b.failure = ""
	s, err := what.Stream()
	if err != nil { // of another version of the program
		m.Unfinished, b.failure = nil, err.Error()
		return
	}
	s.Measure = b.config.Sleep.Measure
	b.begin(ctx, &nap{what: what}, s)
}

// measure begins a measurement when it is due and there is nothing better to do.
func (b *Brain) measure(ctx context.Context) {
	m, every := b.mind, b.config.MeasureEvery
	if b.nap != nil || m == nil || !m.measurable || every == 0 || m.snr != nil && m.unmeasured < every {
		return
	}
	m.unmeasured = 0
	b.begin(ctx, &nap{measuring: true}, sleep.Stream{Rule: sleep.Observe{}, Border: b.config.Sleep.Border})
}

// wakeFor frees the engine for a request. The governor decides whether the sleep goes on behind it.
func (b *Brain) wakeFor(ctx context.Context) {
	if b.nap != nil && !b.nap.measuring {
		b.decide(ctx)
	}
	b.interrupt()
}

// errInterrupted is why a nap ends that gives no other reason.
var errInterrupted = errors.New("the engine is wanted")

// interrupt stops a nap, if there is one, and waits for it: for the work of a grid, or of a layer whose grids are shared together.
func (b *Brain) interrupt() {
	if b.nap == nil {
		return
	}
	b.nap.cancel(errInterrupted)
	<-b.nap.ended
	b.endNap()
}

// endNap takes up what a nap did.
func (b *Brain) endNap() {
	n, m := b.nap, b.mind
	b.nap = nil
	n.cancel(nil)
	interrupted := n.err != nil && n.report.Next != nil
	if n.measuring {
		if n.err == nil {
			m.take(n.report)
			b.measuredAt(n.report.Layers, b.clock.Now())
		}
		return
	}
	took := b.clock.Monotonic() - n.began
	now := b.clock.Now()
	switch {
	case n.err == nil:
		m.Unfinished, m.StepsSinceSleep, m.unmeasured = nil, 0, 0
		b.slept = b.clock.Monotonic()
	case interrupted:
		n.what.Next = n.report.Next
		m.Unfinished = &n.what
	default: // nothing was changed
		b.failure = n.err.Error()
		b.faulty(n.err)
		b.wake(n.report, took, now, n.err.Error(), false)
		return
	}
	m.since(took)
	if !interrupted || n.what.From == nil || *n.what.From != *n.what.Next {
		b.append(n.what, nil)
	}
	m.take(n.report)
	stopped := ""
	if interrupted {
		stopped = b.decision.Reason
	}
	b.wake(n.report, took, now, stopped, !interrupted)
	if !interrupted {
		m.due = true // a snapshot: the network is at its smallest
	}
}

// take keeps the layers' SNR of a report.
func (m *mind) take(r sleep.Report) {
	for _, l := range r.Layers {
		s := l.After
		if s == nil {
			s = l.Before
		}
		if s == nil {
			continue
		}
		now := governor.Layer{Name: l.Layer, SNR: s.SNR}
		if i := slices.IndexFunc(m.snr, func(l governor.Layer) bool { return l.Name == now.Name }); i >= 0 {
			m.snr[i] = now
		} else {
			m.snr = append(m.snr, now)
		}
	}
}

// merge adds the layers of a stretch to those of the sleep so far.
func merge(all, more []sleep.LayerReport) []sleep.LayerReport {
	for _, l := range more {
		i := slices.IndexFunc(all, func(a sleep.LayerReport) bool { return a.Layer == l.Layer })
		if i < 0 {
			all = append(all, l)
			continue
		}
		l.Duration += all[i].Duration
		l.Bytes += all[i].Bytes
		if all[i].Before != nil {
			l.Before = all[i].Before // as it was when the sleep began
		}
		all[i] = l
	}
	return all
}

func sleepText(s Sleep) string {
	switch {
	case s.Complete:
		return fmt.Sprintf("slept to the end, %v asleep", s.Asleep.Round(time.Millisecond))
	case s.Stopped != "":
		return "sleep stopped: " + s.Stopped
	case s.Parts > 1:
		return "sleep goes on: " + s.Reason
	}
	return "sleep begins: " + s.Reason
}
