package experiment

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"hypnos/bench/figure"
	"hypnos/core/model"
	"hypnos/core/train"
)

// Files of a run directory.
const (
	ConfigFile     = "config.toml"
	MetricsFile    = "metrics.jsonl"
	CheckpointFile = "checkpoint.safetensors"
	DataFile       = "data.json"
	AccuracyFigure = "accuracy" // .svg and .png
	SNRFigure      = "snr"
)

// RunDir is a run directory that this process has locked.
type RunDir struct {
	Path string
	lock io.Closer
}

// OpenDir makes the directory if need be and locks it against other runs.
func OpenDir(path string) (*RunDir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("experiment: run directory: %w", err)
	}
	held, err := model.LockFolder(path)
	if err != nil {
		return nil, fmt.Errorf("experiment: run directory %s: %w", path, err)
	}
	return &RunDir{path, held}, nil
}

// Close unlocks the directory.
func (d *RunDir) Close() error { return d.lock.Close() }

// File is the path of a file of the directory.
func (d *RunDir) File(name string) string { return filepath.Join(d.Path, name) }

// Evals are the evaluations of the run that the directory holds, of all its parts.
func (d *RunDir) Evals() ([]train.Eval, error) {
	text, err := os.ReadFile(d.File(MetricsFile))
	if err != nil {
		return nil, fmt.Errorf("experiment: %w", err)
	}
	var h history
	if err := h.read(bytes.NewReader(text)); err != nil {
		return nil, fmt.Errorf("experiment: %s: %w", d.File(MetricsFile), err)
	}
	return h.evals, nil
}

// Observer is told about a run as it goes.
type Observer interface {
	// Begin is called once: the number of learning steps of the whole run, and the state it begins from.
	Begin(steps int64, from train.State)
	// Observe gets every train.Step, train.Sleep, train.Eval and Saved, a data.Mended for each image of a cache that was damaged, and
	// before Begin Decoded and, of a backend that can keep images where it computes, a Feed.
	Observe(metric any)
}

// Saved tells that the directory's checkpoint is whole and durable. Until Observe returns, no file of the directory changes: it can be
// copied as it is, and the copy can go on.
type Saved struct {
	State train.State
}

// Decoded tells how many images a cache holds that is being made.
type Decoded struct {
	Images int
}

// Place is what is otherwise on this machine than a configuration says that was made on another one. Nothing of it is kept: the run
// directory and its checkpoint have the configuration's. What is "" is as configured.
type Place struct {
	DataPath  string // where the same images lie
	DataCache string // where they may be kept decoded; only in place of a configured cache
	Backend   string // one that computes the same
}

// of is the configuration as it is run here.
func (p Place) of(c Config) Config {
	if p.DataPath != "" {
		c.Data.Path = p.DataPath
	}
	if p.DataCache != "" && c.Data.Cache != "" {
		c.Data.Cache = p.DataCache
	}
	if p.Backend != "" {
		c.Backend = p.Backend
	}
	return c
}

// Run trains as configured in a directory, or goes on with the run that the directory holds, which must have
// the same configuration but for its length, its backend and where its images lie. It returns the last state and the
// last evaluation, nil if there was none. Interrupted runs return an error that wraps train.ErrInterrupted.
func Run(ctx context.Context, c Config, dir *RunDir, o Observer) (train.State, *train.Eval, error) {
	return RunAt(ctx, c, Place{}, dir, o)
}

// RunAt is Run on another machine than the one that the configuration was made on.
func RunAt(ctx context.Context, c Config, p Place, dir *RunDir, o Observer) (train.State, *train.Eval, error) {
	old, params, err := dir.previous(c)
	if err != nil {
		return train.State{}, nil, err
	}
	if params != nil {
		defer params.Close()
	}
	here := p.of(c)
	d, err := openData(ctx, here.Data, c.Seed, func(images int) { o.Observe(Decoded{images}) })
	if err != nil {
		return train.State{}, nil, err
	}
	x, err := Open(here, d)
	if err != nil {
		return train.State{}, nil, err
	}
	defer x.Close()
	x.Config = c // which is what is kept
	r := session{Experiment: x, dir: dir, observer: o, record: DataRecord{
		Name: d.Name, Classes: d.Classes, Train: d.Train.Len(), Test: d.Test.Len(),
		Stats: x.Stats, Fingerprint: Fingerprint(d), Skipped: d.Skipped,
	}}
	if params != nil {
		if old.Data.Fingerprint != r.record.Fingerprint {
			return train.State{}, nil, fmt.Errorf("experiment: run directory %s: it was trained on other images (%s, %d + %d) than these (%s, %d + %d)",
				dir.Path, old.Data.Name, old.Data.Train, old.Data.Test, d.Name, d.Train.Len(), d.Test.Len())
		}
		if err := x.Engine.Load(&params.Params); err != nil {
			return train.State{}, nil, fmt.Errorf("experiment: %s: %w", dir.File(CheckpointFile), err)
		}
	}
	return r.train(ctx, old)
}

// previous reads the checkpoint of an earlier part of the run, if there is one.
func (d *RunDir) previous(c Config) (Checkpoint, *model.File, error) {
	k, f, err := ReadCheckpoint(d.File(CheckpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Checkpoint{}, nil, nil
	}
	if err != nil {
		return k, nil, err
	}
	if key := differs(k.Config, c); key != "" {
		f.Close()
		return k, nil, fmt.Errorf("experiment: run directory %s holds another run: %s; choose another directory", d.Path, key)
	}
	return k, f, nil
}

// State is where the run stands that the directory holds, the zero State without one. A run of another configuration is an error, as in Run.
func (d *RunDir) State(c Config) (train.State, error) {
	k, f, err := d.previous(c)
	if f != nil {
		f.Close()
	}
	return k.State, err
}

// differs names the first setting that would make a resumed run another run.
func differs(a, b Config) string {
	for _, c := range []*Config{&a, &b} {
		c.Name, c.Backend, c.Data.Path, c.Data.Cache, c.Data.Workers = "", "", "", "", 0
		c.Train.Epochs, c.Train.Steps, c.Train.EvalEvery, c.Train.SaveEvery = 0, 0, 0, 0
	}
	as, bs := strings.Split(a.Text(), "\n"), strings.Split(b.Text(), "\n")
	table := ""
	for i := range min(len(as), len(bs)) {
		if strings.HasPrefix(as[i], "[") {
			table = strings.Trim(as[i], "[]") + "."
		}
		if as[i] != bs[i] {
			return fmt.Sprintf("%s%s there, %s here", table, strings.TrimSpace(as[i]), strings.TrimSpace(bs[i]))
		}
	}
	return ""
}

// session is an experiment under way in a directory.
type session struct {
	*Experiment
	dir      *RunDir
	observer Observer
	record   DataRecord
	metrics  *os.File
	history  history
}

func (r *session) train(ctx context.Context, from Checkpoint) (s train.State, last *train.Eval, err error) {
	if err := r.writeSettings(); err != nil {
		return from.State, nil, err
	}
	if err := r.openMetrics(from.Metrics); err != nil {
		return from.State, nil, err
	}
	defer func() {
		if closing := r.metrics.Close(); err == nil && closing != nil {
			err = fmt.Errorf("experiment: %w", closing)
		}
	}()
	r.Loop.Observe = r.observe
	r.Loop.Save = r.save
	if r.Feed != nil {
		r.observer.Observe(*r.Feed)
	}
	r.observer.Begin(r.Steps(), from.State)
	s, err = r.Loop.Run(ctx, from.State)
	return s, r.history.last(), err
}

// Steps is the number of learning steps of the whole run.
func (x *Experiment) Steps() int64 {
	n := int64(x.Config.Train.Epochs) * int64(x.Loop.Train.Batches())
	if limit := x.Config.Train.Steps; limit > 0 {
		n = min(n, limit)
	}
	return n
}

// writeSettings keeps configuration and data record beside the results.
func (r *session) writeSettings() error {
	err := model.Replace(r.dir.File(ConfigFile), func(w io.Writer) error {
		_, err := io.WriteString(w, r.Config.Text())
		return err
	})
	if err != nil {
		return err
	}
	return model.Replace(r.dir.File(DataFile), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r.record)
	})
}

// openMetrics opens the metrics for appending. What is behind those that belong to the checkpoint, the first so many
// bytes, a crash left: it is cut, since those steps are done again.
func (r *session) openMetrics(size int64) error {
	path := r.dir.File(MetricsFile)
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("experiment: %w", err)
	}
	kept := old[:min(int64(len(old)), size)]
	kept = kept[:bytes.LastIndexByte(kept, '\n')+1] // whole lines, also where somebody changed the file
	if err := r.history.read(bytes.NewReader(kept)); err != nil {
		return fmt.Errorf("experiment: %s: %w", path, err)
	}
	if len(kept) < len(old) {
		err := model.Replace(path, func(w io.Writer) error { _, err := w.Write(kept); return err })
		if err != nil {
			return err
		}
	}
	r.metrics, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("experiment: %w", err)
	}
	return nil
}

// observe keeps a metric and what was mended before it, and passes both on.
func (r *session) observe(metric any) error {
	for _, m := range r.Data.Train.Mended() {
		if err := r.keep(m); err != nil {
			return err
		}
	}
	if err := r.keep(metric); err != nil {
		return err
	}
	r.history.add(metric)
	if _, ok := metric.(train.Eval); ok {
		return r.history.draw(r.dir, r.Config.Name)
	}
	return nil
}

// keep appends a metric to the file.
func (r *session) keep(metric any) error {
	line, err := json.Marshal(metric)
	if err != nil {
		return fmt.Errorf("experiment: metrics: %w", err)
	}
	if _, err := r.metrics.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("experiment: metrics: %w", err)
	}
	r.observer.Observe(metric)
	return nil
}

// save keeps the engine and the state as a checkpoint, which is replaced whole or not at all; the metrics up to it are
// made durable first.
func (r *session) save(s train.State) error {
	if err := r.metrics.Sync(); err != nil {
		return fmt.Errorf("experiment: metrics: %w", err)
	}
	metrics, err := r.metrics.Stat()
	if err != nil {
		return fmt.Errorf("experiment: metrics: %w", err)
	}
	p, err := r.Engine.Save()
	if err != nil {
		return err
	}
	k := Checkpoint{Net: r.Net, Config: r.Config, State: s, Data: r.record, Backend: r.backend.Name(), Metrics: metrics.Size()}
	if err := k.describe(p); err != nil {
		return err
	}
	if err := model.Save(r.dir.File(CheckpointFile), p); err != nil {
		return err
	}
	r.observer.Observe(Saved{s})
	return nil
}

// history is what the figures show.
type history struct {
	evals  []train.Eval
	epochs []float64 // training accuracy, by epoch
	images []float64 // images it was averaged over
}

func (h *history) add(metric any) {
	switch m := metric.(type) {
	case train.Step:
		for len(h.epochs) <= m.Epoch {
			h.epochs, h.images = append(h.epochs, 0), append(h.images, 0)
		}
		n := h.images[m.Epoch] + float64(m.Images)
		h.epochs[m.Epoch] += (m.Top1 - h.epochs[m.Epoch]) * float64(m.Images) / n
		h.images[m.Epoch] = n
	case train.Eval:
		h.evals = append(h.evals, m)
	}
}

func (h *history) last() *train.Eval {
	if len(h.evals) == 0 {
		return nil
	}
	return &h.evals[len(h.evals)-1]
}

// read takes in the metrics of an earlier part of the run.
func (h *history) read(r io.Reader) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 16<<20)
	for s.Scan() {
		var kind struct {
			Kind string `json:"kind"`
		}
		if err := json.Unmarshal(s.Bytes(), &kind); err != nil {
			return err
		}
		switch kind.Kind {
		case "step":
			var m train.Step
			if err := json.Unmarshal(s.Bytes(), &m); err != nil {
				return err
			}
			h.add(m)
		case "eval":
			var m train.Eval
			if err := json.Unmarshal(s.Bytes(), &m); err != nil {
				return err
			}
			h.add(m)
		}
	}
	return s.Err()
}

// draw writes the figures: accuracy, and, for networks with locally connected layers, their regularity.
func (h *history) draw(dir *RunDir, name string) error {
	accuracy := figure.Figure{Title: name, XLabel: "epoch", YLabel: "top-1 accuracy (%)"}
	test, wake := figure.Series{Name: "test"}, figure.Series{Name: "training"}
	for _, e := range h.evals {
		test.X, test.Y = append(test.X, float64(e.Epoch+1)), append(test.Y, 100*e.Top1)
	}
	for i, a := range h.epochs {
		if h.images[i] > 0 {
			wake.X, wake.Y = append(wake.X, float64(i+1)), append(wake.Y, 100*a)
		}
	}
	accuracy.Series = []figure.Series{test, wake}
	if err := accuracy.Save(dir.File(AccuracyFigure)); err != nil {
		return err
	}
	if snr := h.regularity(name); !snr.Empty() {
		return snr.Save(dir.File(SNRFigure))
	}
	return nil
}

// regularity is ln(1/SNR) of every layer at every evaluation, and their mean. Where all groups are equal it is -Inf and
// there is no point to draw.
func (h *history) regularity(name string) figure.Figure {
	f := figure.Figure{Title: name + ": weights before each evaluation", XLabel: "epoch", YLabel: "ln(1/SNR), Eq. 6"}
	layers := map[string]*figure.Series{}
	var order []string
	mean := figure.Series{Name: "mean over layers"}
	for _, e := range h.evals {
		x := float64(e.Epoch + 1)
		for _, l := range e.Weights.Layers {
			if l.Before == nil || l.Before.Groups == 0 {
				continue
			}
			if layers[l.Layer] == nil {
				layers[l.Layer] = &figure.Series{Name: l.Layer, Faint: true}
				order = append(order, l.Layer)
			}
			s := layers[l.Layer]
			s.X, s.Y = append(s.X, x), append(s.Y, l.Before.LnInverseSNR())
		}
		mean.X, mean.Y = append(mean.X, x), append(mean.Y, -math.Log(e.Weights.SNR()))
	}
	for _, l := range order {
		f.Series = append(f.Series, *layers[l])
	}
	f.Series = append(f.Series, mean)
	return f
}
