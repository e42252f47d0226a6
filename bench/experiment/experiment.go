package experiment

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hypnos/backends"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/data/sample"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

// Experiment is a run that is ready to start.
type Experiment struct {
	Config  Config
	Data    *data.Dataset
	Stats   data.Stats
	Net     *net.Network
	Engine  core.Engine
	Loop    *train.Loop // its Observe and Save are to be set
	Feed    *Feed       // nil of a backend that keeps no images
	backend core.Backend
}

// OpenData opens the images that a configuration names.
func OpenData(c Data, seed uint64) (*data.Dataset, error) {
	return openData(context.Background(), c, seed, nil)
}

// openData is OpenData for who waits for a cache: until ctx ends, with the number of images there so far.
func openData(ctx context.Context, c Data, seed uint64, progress func(images int)) (*data.Dataset, error) {
	var d *data.Dataset
	var err error
	o := data.Options{Size: c.Size, Fit: c.Fit, SkipCorrupt: c.SkipCorrupt, Workers: c.Workers, TrainOnly: c.Holdout > 0}
	switch {
	case c.Path == "":
		d, err = sample.Open()
	case c.Cache != "":
		d, err = data.OpenCached(ctx, c.Path, c.Cache, o, progress)
	default:
		d, err = data.Open(c.Path, o)
	}
	if err != nil {
		return nil, err
	}
	if c.Holdout > 0 {
		if err := d.Holdout(c.Holdout, seed); err != nil {
			return nil, err
		}
	}
	return d, d.Limit(c.TrainLimit, c.TestLimit)
}

// Open builds a run on images that OpenData opened. Initial weights are loaded.
func Open(c Config, d *data.Dataset) (*Experiment, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	x := &Experiment{Config: c, Data: d, Stats: data.ComputeStats(d.Train)}
	var err error
	if x.Net, err = c.network(len(d.Classes)); err != nil {
		return nil, err
	}
	loader := &data.Loader{
		Images: d.Train, Size: x.Net.Input().H, Batch: c.Train.Batch, Reps: c.Data.Reps,
		Augment: data.Augment{Pad: c.Data.Pad, Flip: c.Data.Flip, Resized: c.Data.ResizedCrop}, Stats: x.Stats, Seed: c.Seed, Workers: c.Data.Workers,
	}
	if err := x.openEngine(loader); err != nil {
		return nil, errors.Join(err, x.Close())
	}
	phase, err := c.phase()
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	x.Loop = &train.Loop{
		Config: train.Config{
			Epochs: c.Train.Epochs, Steps: c.Train.Steps, Rate: c.rate(),
			Sleep:     sleep.Schedule{Every: c.Sleep.Every, Count: c.Sleep.Count, BeforeEval: c.Sleep.BeforeEval, BelowSNR: c.Sleep.BelowSNR},
			Phase:     phase,
			EvalEvery: c.Train.EvalEvery, SaveEvery: c.Train.SaveEvery,
		},
		Engine: x.Engine,
		Train:  loader,
		Keep:   x.Feed != nil && x.Feed.Kept,
		Test:   TestLoader(d.Test, x.Net, x.Stats, c.Train.Batch, c.Data.Workers),
		Now:    time.Now,
	}
	for _, l := range []*data.Loader{x.Loop.Train, x.Loop.Test} {
		if err := l.Check(); err != nil {
			return nil, errors.Join(err, x.Close())
		}
	}
	return x, nil
}

// TestLoader serves test images to a network.
func TestLoader(images *data.Images, n *net.Network, s data.Stats, batch, workers int) *data.Loader {
	return &data.Loader{Images: images, Size: n.Input().H, Batch: batch, Stats: s, Workers: workers}
}

func (x *Experiment) openEngine(l *data.Loader) error {
	var err error
	if x.backend, err = backends.Open(x.Config.Backend); err != nil {
		return err
	}
	o := core.Options{
		MaxBatch: x.Config.Train.Batch, Train: true, Optimizer: x.Config.optimizer(),
		Rule: x.Config.Train.Rule, Seed: x.Config.Seed,
	}
	if o, x.Feed, err = planFeed(x.backend, x.Net, o, l); err != nil {
		return err
	}
	if x.Engine, err = x.backend.Compile(x.Net, o); err != nil {
		return err
	}
	p, err := x.Net.Init(x.Config.initial())
	if err != nil {
		return err
	}
	return x.Engine.Load(p)
}

// Close releases engine and backend.
func (x *Experiment) Close() error {
	var err error
	if x.Engine != nil {
		err = x.Engine.Close()
	}
	if x.backend != nil {
		err = errors.Join(err, x.backend.Close())
	}
	x.Engine, x.backend = nil, nil
	return err
}

// Fingerprint identifies the images of a data set: a SHA-256 over data.Images.Digest.
func Fingerprint(d *data.Dataset) string {
	h := sha256.New()
	d.Train.Digest(h)
	d.Test.Digest(h)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// Checkpoint is what a checkpoint file knows beside the parameters.
type Checkpoint struct {
	Net     *net.Network
	Config  Config
	State   train.State
	Data    DataRecord
	Backend string
	Metrics int64 // bytes of the run's metrics up to the state
}

// DataRecord says what a network was trained on.
type DataRecord struct {
	Name        string     `json:"name"`
	Classes     []string   `json:"classes"`
	Train       int        `json:"train"` // images
	Test        int        `json:"test"`
	Stats       data.Stats `json:"stats"` // of the training images, for normalising
	Fingerprint string     `json:"fingerprint"`
	Skipped     []string   `json:"skipped,omitempty"` // corrupt files left out
}

// keys of the checkpoint's metadata, and the version of their meaning.
const (
	keyFormat  = "hypnos.format"
	keyNetwork = "hypnos.network"
	keyConfig  = "hypnos.config"
	keyState   = "hypnos.state"
	keyData    = "hypnos.data"
	keyBackend = "hypnos.backend"
	keyMetrics = "hypnos.metrics"

	format = "1"
)

// describe puts a checkpoint's knowledge into metadata.
func (k Checkpoint) describe(p *model.Params) error {
	p.SetMeta(keyFormat, format)
	p.SetMeta(keyConfig, k.Config.Text())
	p.SetMeta(keyBackend, k.Backend)
	for key, v := range map[string]any{keyNetwork: k.Net, keyState: k.State, keyData: k.Data, keyMetrics: k.Metrics} {
		text, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("experiment: checkpoint: %w", err)
		}
		p.SetMeta(key, string(text))
	}
	return nil
}

// ReadCheckpoint opens a checkpoint file. The caller closes the file when the parameters have been read.
func ReadCheckpoint(path string) (k Checkpoint, f *model.File, err error) {
	if f, err = model.Open(path); err != nil {
		return k, nil, err
	}
	if err = k.parse(f.Meta); err != nil {
		f.Close()
		return k, nil, fmt.Errorf("experiment: %s: %w", path, err)
	}
	return k, f, nil
}

func (k *Checkpoint) parse(meta map[string]string) error {
	if v, ok := meta[keyFormat]; !ok {
		return errors.New("not a checkpoint of hypnos: its metadata has no " + keyFormat)
	} else if v != format {
		return fmt.Errorf("checkpoint format %q, this program reads %q", v, format)
	}
	var err error
	if k.Config, err = Parse(meta[keyConfig]); err != nil {
		return err
	}
	k.Backend = meta[keyBackend]
	k.Net = &net.Network{}
	for key, v := range map[string]any{keyNetwork: k.Net, keyState: &k.State, keyData: &k.Data, keyMetrics: &k.Metrics} {
		if err := json.Unmarshal([]byte(meta[key]), v); err != nil {
			return fmt.Errorf("metadata %s: %w", key, err)
		}
	}
	return k.Data.Stats.Check()
}
