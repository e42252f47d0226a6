package brain

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/server/store"
)

// question is a request to classify.
type question struct {
	pixels []float32
	asked  time.Duration // monotonic
	answer chan reply
	model  *facts
}

type reply struct {
	Result
	err error
}

// lesson is a request to learn.
type lesson struct {
	input []int16
	label int
	ack   chan taught
	model *facts
}

type taught struct {
	Ack
	err error
}

// errChanged is the answer to requests whose images were made for a model that is no longer in use.
var errChanged error = refuse(CodeBusy, "the model was changed meanwhile: send it again")

// Classify tells what an image shows. It goes before learning and sleep.
func (b *Brain) Classify(ctx context.Context, x Image) (Result, error) {
	m, pixels, err := b.read(x)
	if err != nil {
		return Result{}, b.refused(err)
	}
	q := &question{pixels: pixels, asked: b.requested(), answer: make(chan reply, 1), model: m}
	select {
	case <-b.turn:
		if b.nap == nil && len(b.learn) == 0 {
			b.answer(context.WithoutCancel(ctx), q)
		}
		b.turn <- struct{}{}
	default:
	}
	select { // answered already, or not
	case r := <-q.answer:
		return r.Result, b.refused(r.err)
	default:
	}
	select {
	case b.classify <- q:
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	case <-b.stopped:
		return Result{}, errStopping
	}
	select {
	case r := <-q.answer:
		return r.Result, b.refused(r.err)
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	}
}

// read decodes an image for the model in use.
func (b *Brain) read(x Image) (*facts, []float32, error) {
	m := b.facts()
	if m == nil {
		return nil, nil, errNoModel
	}
	pixels, err := x.pixels(m.network.Input(), m.stats, b.config.MaxPixels)
	return m, pixels, err
}

// Learn has the network learn that an image shows label. It returns when the step is durable, or is known not to be. When ctx
// ends before, the step may be done all the same.
func (b *Brain) Learn(ctx context.Context, x Image, label int) (Ack, error) {
	m, pixels, err := b.read(x)
	if err == nil && (label < 0 || label >= len(m.classes)) {
		err = refuse(CodeLabel, "label %d is none of 0 to %d", label, len(m.classes)-1)
	}
	if err == nil && b.config.Durable {
		if d := b.durability(); !d.Durable {
			err = refuse(CodeNotDurable, "%s", d.Reason)
		}
	}
	if err != nil {
		return Ack{}, b.refused(err)
	}
	l := &lesson{label: label, ack: make(chan taught, 1), model: m}
	for _, v := range pixels {
		l.input = append(l.input, m.input.Quantise(float64(v)))
	}
	b.requested()
	select {
	case <-b.stopped:
		return Ack{}, errStopping
	case b.learn <- l:
		b.ask()
	default:
		return Ack{}, b.refused(ErrBusy)
	}
	select {
	case t := <-l.ack:
		return t.Ack, b.refused(t.err)
	case <-ctx.Done():
		return Ack{}, context.Cause(ctx)
	case <-b.stopped:
		select {
		case t := <-l.ack: // the last ones
			return t.Ack, b.refused(t.err)
		default:
			return Ack{}, errStopping
		}
	}
}

// answer answers a question, with others that wait.
func (b *Brain) answer(ctx context.Context, first *question) {
	b.wakeFor(ctx)
	questions := []*question{first}
	for len(questions) < b.config.Batch {
		select {
		case q := <-b.classify:
			questions = append(questions, q)
			continue
		default:
		}
		break
	}
	current := b.facts()
	questions = slices.DeleteFunc(questions, func(q *question) bool {
		stale := q.model != current
		if stale {
			q.answer <- reply{err: errChanged}
		}
		return stale
	})
	if len(questions) == 0 {
		return
	}
	x := core.Batch{N: len(questions)}
	for _, q := range questions {
		x.Pixels = append(x.Pixels, q.pixels...)
	}
	begin := b.clock.Monotonic()
	logits, err := b.mind.engine.Infer(ctx, x)
	took := b.clock.Monotonic() - begin
	if err != nil {
		b.faulty(err)
	}
	b.count(func(c *Counters) { c.Classified += int64(len(questions)) })
	for i, q := range questions {
		if err != nil {
			q.answer <- reply{err: err}
			continue
		}
		r := b.result(logits.Row(i))
		r.Waited, r.Took = begin-q.asked, took
		q.answer <- reply{Result: r}
	}
}

// shown is how many scores a result has.
const shown = 5

// result tells what logits mean.
func (b *Brain) result(logits []float64) Result {
	r := Result{Logits: slices.Clone(logits), Version: b.mind.version, Step: b.mind.Step}
	largest := slices.Max(logits)
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(v - largest)
	}
	order := make([]int, len(logits))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case logits[i] > logits[j]:
			return -1
		case logits[i] < logits[j]:
			return 1
		}
		return 0
	})
	for _, i := range order[:min(shown, len(order))] {
		r.Scores = append(r.Scores, Score{i, b.mind.classes[i], math.Exp(logits[i]-largest) / sum})
	}
	r.Label, r.Class = r.Scores[0].Label, r.Scores[0].Class
	return r
}

// study makes a wake step and has it made durable.
func (b *Brain) study(ctx context.Context, l *lesson) {
	if l.model != b.facts() {
		l.ack <- taught{err: errChanged}
		return
	}
	b.wakeFor(ctx)
	m := b.mind
	begin := b.clock.Monotonic()
	labels := core.Labels{int32(l.label)}
	step, err := m.engine.Wake(ctx, core.Batch{N: 1, Pixels: edge.Dequantise(m.input, l.input)}, labels, b.config.Rate)
	if err != nil {
		b.faulty(err)
		l.ack <- taught{err: err}
		return
	}
	m.Step++
	m.StepsSinceSleep++
	m.unmeasured++
	m.since(b.clock.Monotonic() - begin)
	ack := Ack{Step: m.Step, Correct: step.Top1 == 1, Loss: step.Loss}
	b.learned(m, ack.Correct)
	b.append(store.Wake{Settings: b.settings(), Step: m.Step, Rate: b.config.Rate, Labels: labels, Input: l.input}, func(err error) {
		if ack.Durable = err == nil; err != nil {
			ack.Reason = err.Error()
		}
		b.emit(Event{Kind: EventLearn, Text: fmt.Sprintf("step %d, %s", ack.Step, map[bool]string{true: "right before", false: "wrong before"}[ack.Correct]), Learn: &ack})
		l.ack <- taught{Ack: ack}
	})
}

// settings are what wake steps depend on.
func (b *Brain) settings() store.Settings {
	return store.Settings{Seed: b.config.Seed, Rule: b.config.Rule, LearnFrom: b.config.From}
}

// append gives an entry to the journal.
func (b *Brain) append(e store.Entry, done func(error)) {
	b.mind.seq++
	b.keep(func(d *Durability) { d.Journal++ })
	b.journal.queue <- entry{e, done}
}
