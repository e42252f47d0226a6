package golden

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"math"

	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// Kinds of questions.
const (
	inferred = "logits"
	traced   = "trace"
	woke     = "step"
	slept    = "sleep"
	saved    = "weights"
)

// answer is what an engine gave to one question: of a kind, after so many learning steps and sleeps, about a batch.
type answer struct {
	Kind   string `json:"kind"`
	Steps  int    `json:"steps"`
	Sleeps int    `json:"sleeps"`
	Batch  string `json:"batch,omitempty"` // its hash
	// Tensors are the names of those given, in order.
	Tensors []string      `json:"tensors,omitempty"`
	Step    *core.Step    `json:"step,omitempty"`
	Report  *sleep.Report `json:"report,omitempty"`
}

// key tells questions apart.
func (a answer) key() string { return fmt.Sprintf("%s/%d/%d/%s", a.Kind, a.Steps, a.Sleeps, a.Batch) }

// tensor is the name in the file of a tensor given.
func (a answer) tensor(name string) string { return "answers/" + a.key() + "/" + name }

// hash tells batches, and what is asked about them, apart.
func hash(x core.Batch, p core.Probe) string {
	h := sha256.New()
	word := make([]byte, 8)
	write := func(v uint64) {
		binary.LittleEndian.PutUint64(word, v)
		h.Write(word)
	}
	write(uint64(x.N))
	for _, v := range x.Pixels {
		write(uint64(math.Float32bits(v)))
	}
	for _, label := range p.Labels {
		write(uint64(label))
	}
	if p.Train {
		write(1)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// tape is what a recorder has heard.
type tape struct {
	answers []answer
	params  *model.Params
}

// keep takes an answer with its tensors, once.
func (t *tape) keep(a answer, tensors *model.Params) error {
	for _, known := range t.answers {
		if known.key() == a.key() {
			return nil
		}
	}
	for v, err := range tensors.All() {
		if err != nil {
			return err
		}
		a.Tensors = append(a.Tensors, v.Name)
		v.Name = a.tensor(v.Name)
		t.params.Add(v)
	}
	t.answers = append(t.answers, a)
	return nil
}

// recorder is a backend whose engine keeps its answers.
type recorder struct {
	core.Backend
	tape *tape
}

func (r recorder) Compile(n *net.Network, o core.Options) (core.Engine, error) {
	e, err := r.Backend.Compile(n, o)
	if err != nil {
		return nil, err
	}
	return &recording{Engine: e, tape: r.tape}, nil
}

// state is how far an engine has gone.
type state struct{ steps, sleeps int }

func (s state) answer(kind string) answer {
	return answer{Kind: kind, Steps: s.steps, Sleeps: s.sleeps}
}

type recording struct {
	core.Engine
	tape *tape
	at   state
}

func (e *recording) Save() (*model.Params, error) {
	p, err := e.Engine.Save()
	if err != nil {
		return nil, err
	}
	if p, err = p.Snapshot(); err != nil {
		return nil, err
	}
	return p, e.tape.keep(e.at.answer(saved), p)
}

func (e *recording) Infer(ctx context.Context, x core.Batch) (core.Logits, error) {
	l, err := e.Engine.Infer(ctx, x)
	if err != nil {
		return l, err
	}
	a, p := e.at.answer(inferred), &model.Params{}
	a.Batch = hash(x, core.Probe{})
	p.Add(model.NewTensor(inferred, []int{l.N, l.Classes}, append([]float64(nil), l.Values...)))
	return l, e.tape.keep(a, p)
}

func (e *recording) Wake(ctx context.Context, x core.Batch, y core.Labels, lr float64) (core.Step, error) {
	s, err := e.Engine.Wake(ctx, x, y, lr)
	if err != nil {
		return s, err
	}
	a := e.at.answer(woke)
	a.Batch, a.Step = hash(x, core.Probe{Labels: y}), &s
	e.at.steps++
	return s, e.tape.keep(a, &model.Params{})
}

func (e *recording) Sleep(ctx context.Context, s sleep.Stream) (sleep.Report, error) {
	r, err := e.Engine.Sleep(ctx, s)
	if err != nil {
		return r, err
	}
	a := e.at.answer(slept)
	a.Report = &r
	e.at.sleeps++
	return r, e.tape.keep(a, &model.Params{})
}

func (e *recording) Trace(ctx context.Context, x core.Batch, p core.Probe) iter.Seq2[model.Tensor, error] {
	return func(yield func(model.Tensor, error) bool) {
		a, all := e.at.answer(traced), &model.Params{}
		a.Batch = hash(x, p)
		for t, err := range e.Engine.Trace(ctx, x, p) {
			if err != nil {
				yield(t, err)
				return
			}
			one := &model.Params{}
			one.Add(t)
			one, err = one.Snapshot() // t is valid only until the next
			if err != nil {
				yield(t, err)
				return
			}
			if t, err = one.Get(t.Name); err != nil {
				yield(t, err)
				return
			}
			all.Add(t)
			if !yield(t, nil) {
				return // of a trace that was not heard to its end nothing is kept
			}
		}
		if err := e.tape.keep(a, all); err != nil {
			yield(model.Tensor{}, err)
		}
	}
}

// replayer is the backend of a golden file.
type replayer struct{ file *File }

func (r replayer) Name() string { return "golden" }

func (r replayer) Caps() core.Caps {
	return core.Caps{Format: r.file.Manifest.Numbers, Rules: sleep.Kinds(), WakeRules: core.WakeRules(), Notes: r.file.Manifest.Notes}
}

func (r replayer) Close() error { return nil }

func (r replayer) Memory(*net.Network, core.Options) (core.Memory, error) { return core.Memory{}, nil }

func (r replayer) Compile(*net.Network, core.Options) (core.Engine, error) {
	e := &replay{file: r.file, answers: map[string]answer{}}
	for _, a := range r.file.Manifest.Answers {
		e.answers[a.key()] = a
	}
	return e, nil
}

// replay is an engine that answers what was asked when the file was made, and nothing else.
type replay struct {
	file    *File
	answers map[string]answer
	at      state
}

// find is the answer to a question.
func (e *replay) find(kind, batch string) (answer, error) {
	q := e.at.answer(kind)
	q.Batch = batch
	a, ok := e.answers[q.key()]
	if !ok {
		return a, fmt.Errorf("golden: the file has no %s of this batch after %d steps and %d sleeps", kind, e.at.steps, e.at.sleeps)
	}
	return a, nil
}

// get reads one of an answer's tensors.
func (e *replay) get(a answer, name string) (model.Tensor, error) {
	t, err := e.file.file.Get(a.tensor(name))
	t.Name = name
	return t, err
}

// Load takes the parameters, which are those of the file.
func (e *replay) Load(*model.Params) error { return nil }

func (e *replay) Close() error { return nil }

func (e *replay) Save() (*model.Params, error) {
	a, err := e.find(saved, "")
	if err != nil {
		return nil, err
	}
	p := &model.Params{}
	for key, v := range e.file.file.Meta {
		if key != manifestKey {
			p.SetMeta(key, v)
		}
	}
	for _, name := range a.Tensors {
		t, err := e.get(a, name)
		if err != nil {
			return nil, err
		}
		p.Add(t)
	}
	return p, nil
}

func (e *replay) Infer(_ context.Context, x core.Batch) (l core.Logits, err error) {
	a, err := e.find(inferred, hash(x, core.Probe{}))
	if err != nil {
		return l, err
	}
	t, err := e.get(a, inferred)
	if err != nil {
		return l, err
	}
	v, err := t.Float64s()
	if err != nil || len(t.Shape) != 2 {
		return l, fmt.Errorf("golden: logits of shape %v: %w", t.Shape, err)
	}
	return core.Logits{N: t.Shape[0], Classes: t.Shape[1], Values: v}, nil
}

func (e *replay) Wake(_ context.Context, x core.Batch, y core.Labels, _ float64) (core.Step, error) {
	a, err := e.find(woke, hash(x, core.Probe{Labels: y}))
	if err != nil {
		return core.Step{}, err
	}
	e.at.steps++
	return *a.Step, nil
}

func (e *replay) Sleep(context.Context, sleep.Stream) (sleep.Report, error) {
	a, err := e.find(slept, "")
	if err != nil {
		return sleep.Report{}, err
	}
	e.at.sleeps++
	return *a.Report, nil
}

func (e *replay) Trace(_ context.Context, x core.Batch, p core.Probe) iter.Seq2[model.Tensor, error] {
	return func(yield func(model.Tensor, error) bool) {
		a, err := e.find(traced, hash(x, p))
		if err != nil {
			yield(model.Tensor{}, err)
			return
		}
		for _, name := range a.Tensors {
			t, err := e.get(a, name)
			if !yield(t, err) || err != nil {
				return
			}
		}
	}
}
