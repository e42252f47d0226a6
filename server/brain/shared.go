package brain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hypnos/board/device"
	"hypnos/core/sleep"
	"hypnos/server/governor"
	"hypnos/server/store"
)

// shared is what all goroutines see, behind a lock.
type shared struct {
	mu          sync.Mutex
	clock       device.Clock
	status      Status
	current     *facts // of the model in use; nil: none
	requestAt   time.Duration
	asked       bool              // there was a request
	recent      []bool            // the last feedbacks: right or not
	next        time.Duration     // monotonic: when the governor decides again
	troubles    map[string]string // of sensors, by name
	subscribers map[chan Event]bool
	events      uint64
	closed      bool
}

// Limits of what is remembered.
const (
	maxRecent = 100
	maxSleeps = 50
)

func (s *shared) start(clock device.Clock, queue int) {
	now := clock.Now()
	s.clock = clock
	s.subscribers, s.troubles = map[chan Event]bool{}, map[string]string{}
	s.status = Status{
		Mood: Mood{State: string(governor.Awake), Reason: "starting", Since: now}, Started: now, QueueLimit: queue,
		Durability: Durability{Durable: true}, Counters: Counters{Refused: map[string]int64{}},
	}
}

// requested notes that there is a request, and gives its time.
func (s *shared) requested() time.Duration {
	now := s.clock.Monotonic()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requestAt, s.asked = now, true
	return now
}

func (s *shared) sinceRequest(now time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.asked {
		return governor.Never
	}
	return now - s.requestAt
}

func (s *shared) facts() *facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// refused counts an error by its code.
func (s *shared) refused(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, store.ErrRead) {
		return err
	}
	code := string(CodeOf(err))
	s.count(func(c *Counters) { c.Refused[code]++ })
	return err
}

func (s *shared) count(f func(*Counters)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.status.Counters)
}

func (s *shared) keep(f func(*Durability)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.status.Durability)
}

func (s *shared) durability() Durability {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Durability
}

func (s *shared) feedback() Feedback {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Feedback
}

func (s *shared) mood() Mood {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.Mood
}

// keptChanged notes whether what is learned is durable.
func (s *shared) keptChanged(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &s.status.Durability
	if err == nil {
		d.Durable, d.Reason = true, ""
		s.send(Event{Kind: EventStore, Text: "what is learned is durable again"})
		return
	}
	d.Durable, d.Reason = false, err.Error()
	s.status.Counters.StoreErrors++
	s.send(Event{Kind: EventStore, Text: "what is learned is not durable: " + err.Error()})
}

// felt notes that a sensor began to fail, or works again. One that is absent is no trouble.
func (b *Brain) felt(sensor, why string, absent bool) {
	b.mu.Lock()
	if absent {
		why = ""
	}
	if was := b.troubles[sensor]; was != why {
		b.troubles[sensor] = why
		if why == "" {
			b.send(Event{Kind: EventSensor, Text: sensor + " is read again"})
		} else if was == "" {
			b.send(Event{Kind: EventSensor, Text: sensor + ": " + why})
		}
	}
	b.mu.Unlock()
	b.ask() // a value may have passed a limit
}

// setMood tells of a new decision.
func (s *shared) setMood(d governor.Decision, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := Mood{State: string(d.State), Reason: d.Reason, Since: now}
	s.status.Mood = m
	s.send(Event{Kind: EventMood, Text: m.State + ": " + m.Reason, Mood: &m})
}

// foresee notes when the governor decides again.
func (s *shared) foresee(d governor.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next = d.Next
}

// refine gives the reason newer figures, which is no event.
func (s *shared) refine(d governor.Decision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Reason = d.Reason
}

// adopt tells of the model that is in use.
func (s *shared) adopt(m *mind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	s.current = nil
	st.Step, st.StepsSinceSleep, st.Layers, st.Measured = 0, 0, nil, time.Time{}
	if m != nil {
		s.current = m.facts
		st.Step, st.StepsSinceSleep = m.Step, m.StepsSinceSleep
		st.Durability.Snapshot, st.Durability.Journal = m.savedStep, int64(m.seq-m.savedSeq)
	}
}

// learned counts a wake step.
func (s *shared) learned(m *mind, correct bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	st.Step, st.StepsSinceSleep = m.Step, m.StepsSinceSleep
	st.Counters.Learned++
	f := &st.Feedback
	f.Count++
	if correct {
		f.Correct++
	}
	if len(s.recent) == maxRecent {
		s.recent = slices.Delete(s.recent, 0, 1)
	}
	s.recent = append(s.recent, correct)
	right := 0
	for _, c := range s.recent {
		if c {
			right++
		}
	}
	f.Recent, f.Share = len(s.recent), float64(right)/float64(len(s.recent))
}

// fallAsleep begins the record of a sleep.
func (s *shared) fallAsleep(reason, rule string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	if len(st.Sleeps) == maxSleeps {
		st.Sleeps = slices.Delete(st.Sleeps, 0, 1)
	}
	st.Sleeps = append(st.Sleeps, Sleep{Began: now, Reason: reason, Rule: rule, Parts: 1})
	s.tellSleep()
}

// goOn goes on with the record of the sleep that was stopped; of one from before the daemon's start, it begins one.
func (s *shared) goOn(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	if n := len(st.Sleeps); n == 0 || st.Sleeps[n-1].Complete {
		st.Sleeps = append(st.Sleeps, Sleep{Began: now, Reason: "unfinished, begun before the daemon started"})
	}
	last := &st.Sleeps[len(st.Sleeps)-1]
	last.Parts++
	last.Stopped = ""
	s.tellSleep()
}

// wake takes a stretch of sleep into its record.
func (s *shared) wake(r sleep.Report, took time.Duration, now time.Time, stopped string, complete bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	last := &st.Sleeps[len(st.Sleeps)-1]
	last.Rule = r.Rule
	last.Asleep += took
	last.Layers = merge(slices.Clone(last.Layers), r.Layers)
	last.Stopped, last.Complete = stopped, complete
	if complete {
		last.Ended = now
		st.StepsSinceSleep = 0
		st.Counters.Sleeps++
		st.Layers, st.Measured = last.Layers, now
	} else {
		st.Counters.Interrupted++
	}
	s.tellSleep()
}

func (s *shared) tellSleep() {
	last := s.status.Sleeps[len(s.status.Sleeps)-1]
	last.Layers = slices.Clone(last.Layers)
	s.send(Event{Kind: EventSleep, Text: sleepText(last), Sleep: &last})
}

func (s *shared) measuredAt(layers []sleep.LayerReport, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Layers, s.status.Measured = layers, now
}

// showModels tells of the slots, and of those that changed.
func (b *Brain) showModels() {
	state, active := b.store.State(), b.store.State().Active()
	var models []Model
	var current Model
	for _, slot := range []store.Slot{store.A, store.B} {
		if _, filled := state.Slots[slot]; !filled {
			continue
		}
		m := b.describe(slot, state)
		models = append(models, m)
		if slot == active {
			current = m
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.status.Models
	b.status.Models = models
	b.status.Model = Model{}
	if b.current != nil {
		b.status.Model = current
	}
	for _, m := range models {
		if !slices.ContainsFunc(before, func(o Model) bool {
			return o.Slot == m.Slot && o.State == m.State && o.Version == m.Version && o.Digest == m.Digest
		}) {
			text := fmt.Sprintf("%s, version %d, is %s", m.Network, m.Version, m.State)
			if m.Reason != "" {
				text += ": " + m.Reason
			}
			b.send(Event{Kind: EventModel, Text: text, Model: &m})
		}
	}
}

// describe tells of a slot. What cannot be read of its package is left out, and its reason says so.
func (b *Brain) describe(slot store.Slot, state store.State) Model {
	f := state.Slots[slot]
	m := Model{Slot: string(slot), State: stateOf(f.Role), Reason: f.Reason, Version: f.Counter.Version, Key: f.Signer}
	h, err := b.store.Head(slot)
	if err != nil {
		m.Reason = err.Error()
		return m
	}
	in := h.Manifest.Network.Input()
	m.Network, m.Classes, m.Input, m.Digest = h.Manifest.Network.Name, h.Manifest.Classes, [3]int{in.H, in.W, in.C}, h.Manifest.Digest
	return m
}

func stateOf(r store.Role) string {
	switch r {
	case store.Committed:
		return Active
	case store.Trial:
		return Trial
	case store.Uploaded:
		return Uploaded
	case store.Previous:
		return Previous
	}
	return Returned
}

// model is a slot's, as the status has it.
func (s *shared) model(slot store.Slot) Model {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.status.Models {
		if m.Slot == string(slot) {
			return m
		}
	}
	return Model{}
}

// Status is all that there is to know, at one moment.
func (b *Brain) Status() Status {
	readings := b.readings()
	free, err := device.Space(b.config.Data)
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.status
	s.Time, s.Queued, s.Readings = b.clock.Now(), len(b.learn), readings
	if next := b.next; s.State != "" && next > 0 {
		s.Next = s.Time.Add(max(0, next-b.clock.Monotonic()))
	}
	s.Models, s.Sleeps, s.Layers = slices.Clone(s.Models), slices.Clone(s.Sleeps), slices.Clone(s.Layers)
	refused := map[string]int64{}
	for k, v := range s.Counters.Refused {
		refused[k] = v
	}
	s.Counters.Refused = refused
	if err == nil {
		bytes := float64(free)
		s.Durability.Free = &bytes
	}
	return s
}

// readings are those of the sensors.
func (b *Brain) readings() []Reading {
	wall, mono := b.clock.Now(), b.clock.Monotonic()
	at := func(t time.Duration) time.Time { return wall.Add(t - mono) }
	reading := func(name, unit string, v float64, known bool, t time.Duration, err error, absent string) Reading {
		r := Reading{Name: name, Unit: unit, Absent: absent}
		if known {
			r.Value, r.At = &v, at(t)
		}
		if err != nil {
			r.Error = err.Error()
		}
		return r
	}
	t, p := b.temperature.Last(), b.power.Last()
	return []Reading{
		reading("temperature", "°C", t.Value, t.Known, t.At, t.Err, t.Absent),
		reading("voltage", "V", p.Value.Volts, p.Known, p.At, p.Err, p.Absent),
		reading("current", "A", p.Value.Amperes, p.Known, p.At, p.Err, p.Absent),
	}
}

// Subscribe gives the events from now on. What a full buffer cannot hold is missed, and counted.
func (s *shared) Subscribe(buffer int) (<-chan Event, func()) {
	c := make(chan Event, buffer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(c)
		return c, func() {}
	}
	s.subscribers[c] = true
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.subscribers[c] {
			delete(s.subscribers, c)
			close(c)
		}
	}
}

// close ends all subscriptions.
func (s *shared) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.subscribers {
		delete(s.subscribers, c)
		close(c)
	}
}

// emit sends an event, whose number and time it sets.
func (s *shared) emit(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.send(e)
}

// send is emit with the lock held.
func (s *shared) send(e Event) {
	s.events++
	e.ID, e.Time = s.events, s.clock.Now()
	for c := range s.subscribers {
		select {
		case c <- e:
		default:
			s.status.Counters.EventsMissed++
		}
	}
}
