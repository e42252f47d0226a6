// Package experiment runs a training run that a TOML file describes: it opens data, network and backend, trains, and
// keeps configuration, metrics, figures and checkpoint in a run directory from which the run can be resumed.
package experiment

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"hypnos/backends"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Config describes a run. Default gives the values that a file leaves out.
type Config struct {
	Name    string  `toml:"name"`    // of the run directory, unless another is asked for
	Seed    uint64  `toml:"seed"`    // of initial weights, order of images, crops and flips, and what the wake rule draws
	Backend string  `toml:"backend"` // "cpu", "cpu:threads=2", "ref", …
	Data    Data    `toml:"data"`
	Network Network `toml:"network"`
	Train   Train   `toml:"train"`
	Sleep   Sleep   `toml:"sleep"`
}

// Data says which images are used and how training images are changed at random.
type Data struct {
	Path        string   `toml:"path"`  // folder or archive (package data); empty is the embedded sample
	Size        int      `toml:"size"`  // images of class folders are brought to this size; 0 keeps theirs
	Fit         data.Fit `toml:"fit"`   // how: "exact", "crop" or "resize"
	Cache       string   `toml:"cache"` // folder that keeps decoded images in place of memory (data.OpenCached)
	SkipCorrupt bool     `toml:"skip_corrupt"`
	Holdout     int      `toml:"holdout"`     // test on that many training images instead, left out of training
	TrainLimit  int      `toml:"train_limit"` // use only so many, the first of every class; 0 means all
	TestLimit   int      `toml:"test_limit"`
	Pad         int      `toml:"pad"`          // padding before random crops
	Flip        bool     `toml:"flip"`         // mirror half of the images
	ResizedCrop bool     `toml:"resized_crop"` // random parts of an image, scaled, in place of random crops
	Reps        int      `toml:"reps"`         // different crops of an image in a batch
	Workers     int      `toml:"workers"`
}

// Network says which network is trained.
type Network struct {
	Name      string  `toml:"name"`  // a built-in network (package net)
	Input     int     `toml:"input"` // rows and columns it sees; 0 means the network's own default
	Width     int     `toml:"width"` // channels of the first stage, or of a token; 0 means the network's own default
	Patch     int     `toml:"patch"` // rows and columns of a patch; 0 means the network's own default
	Depth     int     `toml:"depth"` // blocks, where their number is free; 0 means the network's own default
	FirstConv bool    `toml:"first_conv"`
	Tied      bool    `toml:"tied"`    // start every LC layer from one kernel
	Epsilon   float64 `toml:"epsilon"` // with noise of this relative size
}

// Train says how it is trained.
type Train struct {
	Epochs      int           `toml:"epochs"`
	Steps       int64         `toml:"steps"` // stop after so many; 0 means no limit
	Batch       int           `toml:"batch"`
	Rule        core.WakeRule `toml:"rule"` // of waking: "backprop" or "broadcast"
	Optimizer   optim.Kind    `toml:"optimizer"`
	LR          float64       `toml:"lr"`
	Drops       []int         `toml:"drops"` // epochs at which the learning rate drops
	Factor      float64       `toml:"factor"`
	WeightDecay float64       `toml:"weight_decay"`
	Momentum    float64       `toml:"momentum"` // of sgd
	EvalEvery   int           `toml:"eval_every"`
	SaveEvery   int           `toml:"save_every"`
}

// Sleep says when and how the network sleeps.
type Sleep struct {
	Every      int          `toml:"every"` // n of ws(n); 0 means never
	Count      sleep.Count  `toml:"count"` // "batches" in each epoch, as the authors count, or "steps"
	BeforeEval bool         `toml:"before_eval"`
	BelowSNR   float64      `toml:"below_snr"` // look every n, and sleep only when the SNR is below; 0: whatever it is
	Rule       string       `toml:"rule"`
	Border     sleep.Border `toml:"border"` // "shares" or "rests"
	// The rest is for the rules "hebbian" and "circuit"; sleep.Spec says what it means.
	Source         string          `toml:"source"`
	Events         int             `toml:"events"`
	Gamma          float64         `toml:"gamma"`
	Momentum       float64         `toml:"momentum"`
	Rate           float64         `toml:"rate"`
	Decay          string          `toml:"decay"`
	DecayTime      float64         `toml:"decay_time"`
	Batch          int             `toml:"batch"`
	Noise          float64         `toml:"noise"`
	Alpha          float64         `toml:"alpha"`
	Tau            float64         `toml:"tau"`
	Dt             float64         `toml:"dt"`
	Presentation   float64         `toml:"presentation"`
	Settle         float64         `toml:"settle"`
	MeanPreserving bool            `toml:"mean_preserving"`
	Execution      sleep.Execution `toml:"execution"`
}

// defaultSleep never sleeps; the settings of its rules are sleep.DefaultSpec.
func defaultSleep() Sleep {
	s := sleep.DefaultSpec()
	return Sleep{
		Rule: s.Rule, Source: s.Source, Events: s.Events, Gamma: s.Gamma, Momentum: s.Momentum, Rate: s.Rate,
		Decay: s.Decay, DecayTime: s.DecayTime, Batch: s.Batch, Noise: s.Noise, Alpha: s.Alpha, Tau: s.Tau, Dt: s.Dt,
		Presentation: s.Presentation, Settle: s.Settle, MeanPreserving: s.MeanPreserving, Execution: s.Execution,
	}
}

// Spec is the phase that the settings describe.
func (s Sleep) Spec() sleep.Spec {
	return sleep.Spec{
		Rule: s.Rule, Source: s.Source, Events: s.Events, Gamma: s.Gamma, Momentum: s.Momentum, Rate: s.Rate,
		Decay: s.Decay, DecayTime: s.DecayTime, Batch: s.Batch, Noise: s.Noise, Alpha: s.Alpha, Tau: s.Tau, Dt: s.Dt,
		Presentation: s.Presentation, Settle: s.Settle, MeanPreserving: s.MeanPreserving, Execution: s.Execution,
	}
}

// phase is the phase that training schedules.
func (c Config) phase() (sleep.Stream, error) {
	s, err := c.SleepStream(nil)
	if err == nil && sleep.NeedsRecording(s.Source) {
		err = errors.New("experiment: sleep.source: \"recorded\" is for the sleep command: training has no recording")
	}
	return s, err
}

// Default is the paper's setting for CIFAR-10 with a convolutional ResNet20: batches of 512, 200 epochs, the learning
// rate times 0.25 at epochs 100 and 150, padding 4, no flips.
func Default() Config {
	return Config{
		Name: "run", Seed: 1, Backend: "cpu",
		Data:    Data{Fit: data.FitExact, Pad: 4, Reps: 1, Workers: 1},
		Network: Network{Name: "resnet20"},
		Train: Train{
			Epochs: 200, Batch: 512, Rule: core.Backprop, Optimizer: optim.AdamW, LR: 1e-2, Drops: []int{100, 150}, Factor: 0.25,
			WeightDecay: 1e-4, Momentum: 0.9, EvalEvery: 1, SaveEvery: 1,
		},
		Sleep: defaultSleep(),
	}
}

// Load reads a configuration file, "" for none, over the defaults, then settings of the form key=value, for example
// "train.steps=100". A key that is not known is an error that names it and its line.
func Load(path string, settings []string) (Config, error) {
	c := Default()
	if path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return c, fmt.Errorf("experiment: %w", err)
		}
		if err := decode(string(text), &c); err != nil {
			return c, fmt.Errorf("experiment: %s: %w", path, err)
		}
	}
	return c.With(settings)
}

// With is the configuration with settings of the form key=value. It also checks that there are such a network and such
// a backend here.
func (c Config) With(settings []string) (Config, error) {
	c.Train.Drops = slices.Clone(c.Train.Drops) // decoding writes into the array that is there
	for _, s := range settings {
		if strings.ContainsAny(s, "\n\r") {
			return c, fmt.Errorf("experiment: --set %q: a setting is one line", s)
		}
		if err := set(&c, s); err != nil {
			return c, fmt.Errorf("experiment: --set %s: %w", s, err)
		}
	}
	if err := c.Check(); err != nil {
		return c, err
	}
	return c, c.available()
}

// Parse reads a configuration from text that Text wrote.
func Parse(text string) (Config, error) {
	c := Default()
	if err := decode(text, &c); err != nil {
		return c, fmt.Errorf("experiment: %w", err)
	}
	return c, c.Check()
}

// decode reads TOML over what is there. A key that is not known is an error that names its line.
func decode(text string, c *Config) error {
	meta, err := toml.Decode(text, c)
	if err != nil {
		return err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return fmt.Errorf("line %d: unknown key %q", lineOf(text, unknown[0]), unknown[0])
	}
	return nil
}

// lineOf finds the line that sets a key, or an inline table with it: the toml package does not tell. It knows [tables]
// and dotted keys; 0 is not found.
func lineOf(text string, key toml.Key) int {
	for ; len(key) > 0; key = key[:len(key)-1] {
		var table []string
		for i, line := range strings.Split(text, "\n") {
			line = strings.TrimSpace(line)
			name, _, set := strings.Cut(line, "=")
			name = strings.TrimSpace(name)
			if strings.HasPrefix(line, "[") {
				name, _, set = strings.Cut(strings.TrimLeft(line, "["), "]")
				table, name = nil, strings.TrimSpace(name)
			}
			at := append(slices.Clone(table), splitKey(name)...)
			if set && slices.Equal(at, key) {
				return i + 1
			}
			if strings.HasPrefix(line, "[") {
				table = at
			}
		}
	}
	return 0
}

// splitKey splits a dotted key and takes quotes off its parts.
func splitKey(s string) []string {
	parts := strings.Split(s, ".")
	for i, p := range parts {
		parts[i] = strings.Trim(strings.TrimSpace(p), `"'`)
	}
	return parts
}

// set applies one key=value. The value is TOML; what TOML does not know as a value, such as a bare path, is a string.
func set(c *Config, setting string) error {
	key, value, ok := strings.Cut(setting, "=")
	if !ok || strings.TrimSpace(key) == "" {
		return fmt.Errorf("want key=value")
	}
	line := key + " = " + value
	if _, err := toml.Decode(line, new(map[string]any)); err != nil {
		line = key + " = " + strconv.Quote(value)
	}
	meta, err := toml.Decode(line, c)
	if err == nil && len(meta.Undecoded()) > 0 {
		err = fmt.Errorf("unknown key %q", meta.Undecoded()[0])
	}
	return err
}

// Text is the whole configuration as TOML.
func (c Config) Text() string {
	if c.Train.Drops == nil {
		c.Train.Drops = []int{} // the encoder leaves nil out, which would read as the default
	}
	var b bytes.Buffer
	e := toml.NewEncoder(&b)
	e.Indent = ""
	if err := e.Encode(c); err != nil {
		panic("experiment: a configuration cannot be encoded: " + err.Error()) // it has only plain fields
	}
	return b.String()
}

// Check returns an error that names the first setting that is out of range; whether network and backend exist With
// checks, and what depends on the images is checked when they are opened.
func (c Config) Check() error {
	for _, s := range []struct {
		key            string
		value, atLeast int64
	}{
		{"data.size", int64(c.Data.Size), 0},
		{"data.holdout", int64(c.Data.Holdout), 0},
		{"data.train_limit", int64(c.Data.TrainLimit), 0},
		{"data.test_limit", int64(c.Data.TestLimit), 0},
		{"data.pad", int64(c.Data.Pad), 0},
		{"data.workers", int64(c.Data.Workers), 1},
		{"train.epochs", int64(c.Train.Epochs), 1},
		{"train.steps", c.Train.Steps, 0},
		{"train.batch", int64(c.Train.Batch), 1},
		{"train.eval_every", int64(c.Train.EvalEvery), 0},
		{"train.save_every", int64(c.Train.SaveEvery), 0},
		{"sleep.every", int64(c.Sleep.Every), 0},
	} {
		if s.value < s.atLeast {
			return fmt.Errorf("experiment: %s: %d is below %d", s.key, s.value, s.atLeast)
		}
	}
	if !(c.Sleep.BelowSNR >= 0) || math.IsInf(c.Sleep.BelowSNR, 1) {
		return fmt.Errorf("experiment: sleep.below_snr: %g is no number from 0", c.Sleep.BelowSNR)
	}
	if c.Seed > math.MaxInt64 {
		return fmt.Errorf("experiment: seed: %d is not between 0 and %d", c.Seed, uint64(math.MaxInt64)) // what TOML can hold
	}
	if c.Name == "" || strings.ContainsAny(c.Name, `/\`) || strings.HasPrefix(c.Name, ".") {
		return fmt.Errorf("experiment: name: %q does not name a directory", c.Name)
	}
	if err := c.Train.Rule.Check(); err != nil {
		return fmt.Errorf("experiment: train.rule: %w", err)
	}
	if c.Data.Reps < 1 || c.Train.Batch%c.Data.Reps != 0 {
		return fmt.Errorf("experiment: data.reps: %d repetitions do not divide a batch of %d", c.Data.Reps, c.Train.Batch)
	}
	if c.Data.Cache != "" && (c.Data.Path == "" || c.Data.Size == 0 || c.Data.Fit != data.FitResize) {
		return fmt.Errorf("experiment: data.cache: it needs data.path, data.size and data.fit = %q", data.FitResize)
	}
	if c.Data.ResizedCrop && c.Data.Pad > 0 {
		return fmt.Errorf("experiment: data.resized_crop: such crops do not reach into a padding, data.pad = %d", c.Data.Pad)
	}
	_, phase := c.Sleep.Spec().Stream()
	sleepKey := "sleep"
	if bad, ok := errors.AsType[*sleep.SettingError](phase); ok {
		sleepKey, phase = "sleep."+bad.Key, errors.New(bad.Problem)
	}
	return first([]fault{
		{sleepKey, phase},
		{"train.optimizer", optim.Default(c.Train.Optimizer, 0).Check()},
		{"train.weight_decay", optim.Default(c.Train.Optimizer, c.Train.WeightDecay).Check()},
		{"train.momentum", c.optimizer().Check()},
		{"train.lr", optim.MultiStep{Base: c.Train.LR}.Check()},
		{"train.drops", optim.MultiStep{Base: c.Train.LR, Drops: c.Train.Drops, Factor: 1}.Check()},
		{"train.factor", c.rate().Check()},
	})
}

// available returns an error when this program has no such network or this machine no such backend. It is apart from
// Check, so that a checkpoint from elsewhere can be read.
func (c Config) available() error {
	n, err := c.network(0)
	if err == nil {
		_, err = n.Init(c.initial())
	}
	b, opening := backends.Open(c.Backend)
	if opening == nil {
		opening = b.Close()
	}
	return first([]fault{{"network", err}, {"backend", opening}})
}

// fault is what is wrong with a setting, or nil.
type fault struct {
	key string
	err error
}

// first is the first fault that is one.
func first(faults []fault) error {
	for _, f := range faults {
		if f.err != nil {
			return fmt.Errorf("experiment: %s: %w", f.key, f.err)
		}
	}
	return nil
}

func (c Config) optimizer() optim.Spec {
	s := optim.Default(c.Train.Optimizer, c.Train.WeightDecay)
	s.Momentum = c.Train.Momentum
	return s
}

func (c Config) rate() optim.MultiStep {
	return optim.MultiStep{Base: c.Train.LR, Drops: c.Train.Drops, Factor: c.Train.Factor}
}

func (c Config) initial() net.InitOptions {
	return net.InitOptions{Seed: c.Seed, Tied: c.Network.Tied, Epsilon: c.Network.Epsilon}
}

// network builds the configured network for a number of classes, 0 for the network's own.
func (c Config) network(classes int) (*net.Network, error) {
	return net.ByName(c.Network.Name, net.Options{
		Input: c.Network.Input, Classes: classes, Width: c.Network.Width,
		Patch: c.Network.Patch, Depth: c.Network.Depth, ConvOne: c.Network.FirstConv,
	})
}

// SleepStream is the phase that the configuration describes, with settings of the form key=value.
func (c Config) SleepStream(settings []string) (sleep.Stream, error) {
	c, err := c.With(settings)
	if err != nil {
		return sleep.Stream{}, err
	}
	s, err := c.Sleep.Spec().Stream()
	s.Border, s.Seed = c.Sleep.Border, c.Seed
	return s, err
}
