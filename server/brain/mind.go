package brain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
	"hypnos/server/governor"
	"hypnos/server/store"
)

// facts are what is constant of a model in use.
type facts struct {
	network *net.Network
	input   fixed.Format
	formats edge.Formats
	stats   data.Stats
	classes []string
	version uint64
}

// progress is how far a model has come. It is part of its snapshots.
type progress struct {
	Step            int64        `json:"step"` // wake steps
	StepsSinceSleep int64        `json:"steps_since_sleep"`
	Phase           uint64       `json:"phase"`                // of the last sleep that began
	Unfinished      *store.Sleep `json:"unfinished,omitempty"` // the sleep that was stopped, which goes on from its Next
}

// mind is a model in use, with what it has learned.
type mind struct {
	*facts
	progress
	slot   store.Slot
	engine core.Engine
	seq    uint64 // of its last record, durable or not

	measurable bool // it has locally connected layers
	snr        []governor.Layer
	unmeasured int64 // wake steps since the last measurement

	savedSeq  uint64 // record and step of the snapshot that it began with
	savedStep int64

	replay time.Duration // what it took to do the records since the last snapshot
	due    bool          // a snapshot
}

// since counts the time that a record took to do, and will take to do again.
func (m *mind) since(d time.Duration) { m.replay += d }

// progressKey is the metadata of snapshots that has the progress.
const progressKey = "hypnos.progress"

// options are those of an engine that learns by some settings.
func (b *Brain) options(s store.Settings) core.Options {
	return core.Options{MaxBatch: b.config.Batch, Train: true, Optimizer: optim.Spec{Kind: optim.SGD}, Seed: s.Seed, Rule: s.Rule, LearnFrom: s.LearnFrom}
}

// compile makes an engine and loads it. One that does not fit in memory is refused before it is made.
func (b *Brain) compile(n *net.Network, o core.Options, p *model.Params) (core.Engine, error) {
	need, err := b.backend.Memory(n, o)
	if err != nil {
		return nil, err
	}
	if !need.Fits() {
		return nil, fmt.Errorf("brain: %s takes %.1f MB of memory, there are %.1f", n.Name, float64(need.Total())/1e6, float64(need.Free)/1e6)
	}
	e, err := b.backend.Compile(n, o)
	if err != nil {
		return nil, err
	}
	if err := e.Load(p); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// factsOf reads a package's. A network that takes no images is refused.
func factsOf(p *edge.Package) (*facts, error) {
	m := p.Manifest
	in := m.Network.Input()
	if in.C != 3 || in.H != in.W {
		return nil, fmt.Errorf("brain: the network %s takes %v, no square images of three channels", m.Network.Name, in)
	}
	return &facts{
		network: m.Network, input: m.Formats.Activations[m.Network.Nodes[0].Name], formats: m.Formats, stats: m.Stats, classes: m.Classes, version: m.Version,
	}, nil
}

// recall makes the active model's mind: its package, its last snapshot, and all that came after.
func (b *Brain) recall(ctx context.Context) (*mind, error) {
	slot := b.store.State().Active()
	p, err := b.store.Package(slot)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	f, err := factsOf(p.Package)
	if err != nil {
		return nil, err
	}
	r, err := b.store.Recover()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	m := &mind{facts: f, slot: slot, seq: r.Seq, measurable: len(sleep.Layers(f.network)) > 0}
	params, err := p.Params()
	if r.Params != nil {
		if err = json.Unmarshal([]byte(r.Params.Meta[progressKey]), &m.progress); err == nil {
			params, err = edge.Loadable(f.network, r.Params)
		}
	}
	if err != nil {
		return nil, err
	}
	params.Add(model.NewTensor(core.StepTensor, nil, []int64{m.Step}))
	m.savedSeq, m.savedStep = r.Seq, m.Step
	if err := b.replay(ctx, m, r, params); err != nil {
		return nil, errors.Join(err, m.close())
	}
	for _, p := range r.Problems {
		b.log.Warn("store", "problem", p.String(), "lost", p.Lost)
		if p.Lost > 0 {
			b.emit(Event{Kind: EventStore, Text: fmt.Sprintf("%d steps and sleeps are lost: %v", p.Lost, p)})
		}
	}
	return m, nil
}

func (m *mind) close() error {
	if m.engine == nil {
		return nil
	}
	return m.engine.Close()
}

// replay does again what was done since the snapshot. Wake steps that were made by other settings than today's are made by an
// engine of those.
func (b *Brain) replay(ctx context.Context, m *mind, r *store.Recovery, params *model.Params) (err error) {
	settings := b.settings()
	if m.engine, err = b.compile(m.network, b.options(settings), params); err != nil {
		return err
	}
	begin := b.clock.Monotonic()
	change := func(to store.Settings) error {
		if to == settings {
			return nil
		}
		settings = to
		return b.exchange(m, to)
	}
	err = r.Replay(func(seq uint64, e store.Entry) error {
		m.seq = seq
		switch e := e.(type) {
		case store.Wake:
			if err := change(e.Settings); err != nil {
				return err
			}
			if m.Step++; e.Step != m.Step {
				return fmt.Errorf("brain: step %d where %d comes", e.Step, m.Step)
			}
			m.StepsSinceSleep++
			_, err := m.engine.Wake(ctx, core.Batch{N: len(e.Labels), Pixels: edge.Dequantise(m.input, e.Input)}, e.Labels, e.Rate)
			return err
		case store.Sleep:
			s, err := e.Stream()
			if err != nil {
				return err
			}
			m.Phase, m.Unfinished = e.Phase, &e
			if e.Next == nil {
				m.StepsSinceSleep, m.Unfinished = 0, nil
			}
			_, err = m.engine.Sleep(ctx, s)
			return err
		}
		return nil
	})
	if err == nil {
		err = change(b.settings())
	}
	m.replay = b.clock.Monotonic() - begin
	return err
}

// exchange gives a mind an engine of other settings.
func (b *Brain) exchange(m *mind, to store.Settings) error {
	p, err := m.engine.Save()
	if err != nil {
		return err
	}
	if p, err = p.Snapshot(); err != nil {
		return err
	}
	if err := m.engine.Close(); err != nil {
		return err
	}
	m.engine = nil
	m.engine, err = b.compile(m.network, b.options(to), p)
	return err
}

// copied is a copy of a mind's parameters, with its progress.
func (m *mind) copied() (*model.Params, error) {
	p, err := m.engine.Save()
	if err != nil {
		return nil, err
	}
	if p, err = p.Snapshot(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(m.progress)
	if err != nil {
		return nil, err
	}
	p.SetMeta(progressKey, string(text))
	return p, nil
}

// saveEvery is how long a snapshot that failed is not tried again.
const saveEvery = 10 * time.Second

// save begins a snapshot when there is something to save: after a sleep, when a replay would take too long, when the journal does
// not work, or when it must be.
func (b *Brain) save(must bool) {
	m := b.mind
	if m == nil || b.saving != nil || b.nap != nil {
		return
	}
	now := b.clock.Monotonic()
	wanted := m.due || m.replay > b.config.MaxReplay || !b.durability().Durable
	if !must && (!wanted || b.saveTry != 0 && now-b.saveTry < saveEvery) || m.replay == 0 && !m.due {
		return
	}
	b.saveTry = now
	p, err := m.copied()
	if err != nil {
		b.faulty(err)
		return
	}
	m.due, m.replay = false, 0
	seq, network, step := m.seq, m.network, m.Step
	b.saving = make(chan error, 1)
	b.keep(func(d *Durability) { d.Journal = 0 })
	go func(done chan<- error) {
		small, err := edge.Consolidate(network, p)
		if err == nil {
			small.SetMeta(progressKey, p.Meta[progressKey])
			err = b.store.Snapshot(small, seq)
		}
		if err == nil {
			b.keep(func(d *Durability) { d.Snapshot, d.At = step, b.clock.Now() })
		}
		done <- err
	}(b.saving)
}

// saved takes up the end of a snapshot.
func (b *Brain) saved(err error) {
	b.saving = nil
	if err == nil {
		b.saveTry = 0
		b.count(func(c *Counters) { c.Snapshots++ })
		return
	}
	b.count(func(c *Counters) { c.StoreErrors++ })
	b.log.Error("snapshot", "error", err)
	if b.mind != nil {
		b.mind.due = true
	}
}

// quiesce waits until all that was learned is durable, or known not to be, and a snapshot under way is over.
func (b *Brain) quiesce() {
	b.interrupt()
	b.journal.flush()
	if b.saving != nil {
		b.saved(<-b.saving)
	}
}
