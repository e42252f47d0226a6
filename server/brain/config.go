package brain

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"hypnos/board/device"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/sleep"
)

// Config says how a network learns, sleeps and is kept.
type Config struct {
	// Data is the folder of what is kept. It is made if it is not there.
	Data string `toml:"data"`
	// Keys are files of public keys, PEM, whose packages are trusted. Unsigned takes packages without a signature, too: for
	// development.
	Keys     []string `toml:"keys"`
	Unsigned bool     `toml:"unsigned"`
	// Package is a package file that is installed when the daemon starts without any model.
	Package string `toml:"package"`

	Threads int           `toml:"threads"`    // 0 means one a core
	Seed    uint64        `toml:"seed"`       // of stochastic rounding and of the patterns of sleeps
	Rate    float64       `toml:"rate"`       // learning rate
	Rule    core.WakeRule `toml:"rule"`       // by which it learns awake
	From    string        `toml:"learn_from"` // the first layer that learns; empty is all

	Queue     int   `toml:"queue"`      // learn requests that wait
	Batch     int   `toml:"batch"`      // requests to classify that are answered together
	MaxPixels int64 `toml:"max_pixels"` // of an image
	// Durable refuses to learn while what is learned would not be durable. Otherwise answers say so.
	Durable bool `toml:"durable"`
	// MaxReplay bounds how long it takes to do again, when the daemon starts, what was learned since the last snapshot.
	MaxReplay time.Duration `toml:"max_replay"`
	// MeasureEvery is how many wake steps lie between measurements of the weights' SNR. 0 measures in sleeps only.
	MeasureEvery int64 `toml:"measure_every"`

	Sleep  SleepSettings `toml:"sleep"`
	Health Health        `toml:"health"`
}

// SleepSettings are what a sleep does: sleep.Spec says what its settings mean.
type SleepSettings struct {
	Rule     string       `toml:"rule"` // "instant", "hebbian" or "circuit"
	Border   sleep.Border `toml:"border"`
	Source   string       `toml:"source"`
	Events   int          `toml:"events"`
	Gamma    float64      `toml:"gamma"`
	Momentum float64      `toml:"momentum"`
	Batch    int          `toml:"batch"`
	Measure  bool         `toml:"measure"` // SNR before and after
}

// Health says when a model that is on trial is committed to.
type Health struct {
	Window      time.Duration `toml:"window"`       // how long it is watched
	MinAccuracy float64       `toml:"min_accuracy"` // of feedback, as far as there is as much as MinFeedback; 0 asks for none
	MinFeedback int64         `toml:"min_feedback"`
}

// DefaultConfig learns with all layers, sleeps at once (instant) and watches a new model for a minute.
func DefaultConfig() Config {
	s := sleep.DefaultSpec()
	return Config{
		Data: "hypnos-data", Seed: 1, Rate: 0.005, Rule: core.Backprop, Queue: 64, Batch: 4, MaxPixels: 4 << 20, Durable: true,
		MaxReplay: 10 * time.Second, MeasureEvery: 100,
		Sleep:  SleepSettings{Rule: s.Rule, Source: s.Source, Events: s.Events, Gamma: s.Gamma, Momentum: s.Momentum, Batch: s.Batch, Measure: true},
		Health: Health{Window: time.Minute, MinFeedback: 20},
	}
}

// Spec is the phase that the settings describe.
func (s SleepSettings) Spec() sleep.Spec {
	spec := sleep.DefaultSpec()
	spec.Rule, spec.Source, spec.Events, spec.Gamma, spec.Momentum, spec.Batch = s.Rule, s.Source, s.Events, s.Gamma, s.Momentum, s.Batch
	return spec
}

// Check returns an error, of one line, that names the keys at fault.
func (c Config) Check() error {
	var errs []string
	note := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Sprintf(format, args...))
		}
	}
	note(c.Data == "", "data: which folder?")
	note(len(c.Keys) == 0 && !c.Unsigned, "keys: no key is trusted, and unsigned is false: no package would be taken")
	note(c.Threads < 0, "threads: %d is below 0", c.Threads)
	note(!(c.Rate > 0 && c.Rate <= 1), "rate: %g is outside (0, 1]", c.Rate)
	if err := c.Rule.Check(); err != nil {
		errs = append(errs, "rule: "+err.Error())
	}
	for _, v := range []struct {
		key        string
		v          int64
		least, top int64
	}{
		{"queue", int64(c.Queue), 1, 1 << 16}, {"batch", int64(c.Batch), 1, 256}, {"max_pixels", c.MaxPixels, 1, 64 << 20},
		{"measure_every", c.MeasureEvery, 0, 1 << 40}, {"health.min_feedback", c.Health.MinFeedback, 0, 1 << 40},
	} {
		note(v.v < v.least || v.v > v.top, "%s: %d is outside %d…%d", v.key, v.v, v.least, v.top)
	}
	note(c.MaxReplay <= 0, "max_replay: %v must be above 0", c.MaxReplay)
	note(c.Health.Window < 0, "health.window: %v is below 0", c.Health.Window)
	note(!(c.Health.MinAccuracy >= 0 && c.Health.MinAccuracy <= 1), "health.min_accuracy: %g is outside [0, 1]", c.Health.MinAccuracy)
	note(c.Sleep.Rule == (sleep.Observe{}).Kind(), "sleep.rule: %s does not sleep", c.Sleep.Rule)
	if _, err := c.Sleep.Spec().Stream(); err != nil {
		errs = append(errs, "sleep: "+err.Error())
	}
	if len(errs) > 0 {
		return errors.New("brain: " + strings.Join(errs, "; "))
	}
	return nil
}

// readKeys reads the trusted keys.
func (c Config) readKeys() ([]ed25519.PublicKey, error) {
	var keys []ed25519.PublicKey
	for _, path := range c.Keys {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("brain: keys: %w", err)
		}
		k, err := edge.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("brain: keys: %s: %w", path, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Inspect tells, a line each, which keys are trusted and what is in the folder of what is kept. It changes nothing.
func Inspect(c Config) (lines []string, err error) {
	keys, err := c.readKeys()
	if err != nil {
		return nil, err
	}
	for i, k := range keys {
		lines = append(lines, fmt.Sprintf("key: %s (%s)", edge.KeyID(k), c.Keys[i]))
	}
	if c.Unsigned {
		lines = append(lines, "unsigned packages are taken: for development only")
	}
	st, err := os.Stat(c.Data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return append(lines, fmt.Sprintf("data: %s is not there yet", c.Data)), nil
	case err != nil:
		return lines, fmt.Errorf("brain: data: %w", err)
	case !st.IsDir():
		return lines, fmt.Errorf("brain: data: %s is no folder", c.Data)
	}
	free, err := device.Space(c.Data)
	if err == nil {
		lines = append(lines, fmt.Sprintf("data: %s, %.1f MB free", c.Data, float64(free)/1e6))
	}
	return lines, nil
}
