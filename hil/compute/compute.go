// Package compute is a life of a network in integers, told by digests: on a device under test and on the host they must be equal.
package compute

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"hypnos/backends/fixed"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/optim"
	"hypnos/core/rng"
	"hypnos/core/sleep"
)

// Life is what the network goes through, after each image was looked at: Wake steps, a sleep of each rule with two steps behind it.
type Life struct {
	Seed   uint64  `json:"seed"`
	Images int     `json:"images"` // whose layers are compared
	Wake   int     `json:"wake"`   // steps of one image
	Rate   float64 `json:"rate"`
	Events int     `json:"events"` // of a Hebbian sleep, on each grid
}

// Check returns an error for a life that compares nothing.
func (l Life) Check() error {
	switch {
	case l.Images < 1, l.Wake < 1, l.Events < 1:
		return errors.New("images, wake and events must be above 0")
	case !(l.Rate > 0 && l.Rate <= 1):
		return fmt.Errorf("rate %g is outside (0, 1]", l.Rate)
	}
	return nil
}

// Stage is a digest (SHA-256) of the numbers at one point of a life.
type Stage struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// Run lives with the network of a package file. The kernels that it ran on are told, too.
func Run(ctx context.Context, path string, l Life) (stages []Stage, kernels string, err error) {
	a, err := open(path, l, fixed.Options{})
	if err != nil {
		return nil, "", err
	}
	defer a.close()
	if err := a.live(ctx); err != nil {
		return nil, "", err
	}
	return a.stages, a.backend.Caps().Notes[0], nil
}

type life struct {
	Life
	pack    *edge.Package
	backend core.Backend
	engine  core.Engine
	steps   int
	stages  []Stage
}

// open loads a package's network into an engine that learns.
func open(path string, l Life, o fixed.Options) (a *life, err error) {
	if err := l.Check(); err != nil {
		return nil, fmt.Errorf("compute: %w", err)
	}
	a = &life{Life: l}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.pack, err = edge.OpenPackage(path); err != nil {
		return nil, err
	}
	params, err := a.pack.Params()
	if err != nil {
		return nil, err
	}
	if a.backend, err = fixed.Open(o); err != nil {
		return nil, err
	}
	a.engine, err = a.backend.Compile(a.pack.Manifest.Network, core.Options{MaxBatch: 1, Train: true, Optimizer: optim.Spec{Kind: optim.SGD}, Seed: l.Seed})
	if err != nil {
		return nil, err
	}
	return a, a.engine.Load(params)
}

func (a *life) close() {
	if a.engine != nil {
		a.engine.Close()
	}
	if a.backend != nil {
		a.backend.Close()
	}
	if a.pack != nil {
		a.pack.Close()
	}
}

func (a *life) live(ctx context.Context) error {
	for i := range a.Images {
		if err := a.trace(ctx, i); err != nil {
			return err
		}
	}
	if err := a.wake(ctx, a.Wake); err != nil {
		return err
	}
	if err := a.note("wake"); err != nil {
		return err
	}
	for i, s := range []sleep.Stream{
		{Rule: sleep.Instant{}},
		{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1, Momentum: 0.5}, Events: a.Events},
	} {
		s.Seed, s.Phase = a.Seed, uint64(i)
		if _, err := a.engine.Sleep(ctx, s); err != nil {
			return err
		}
		if err := a.note("sleep/" + s.Rule.Kind()); err != nil {
			return err
		}
		if err := a.wake(ctx, 2); err != nil {
			return err
		}
		if err := a.note("sleep/" + s.Rule.Kind() + "/wake"); err != nil {
			return err
		}
	}
	return nil
}

// image is one of noise, the same everywhere: eighths of -2 to 2.
func (a *life) image(i int) core.Batch {
	r := rng.New(a.Seed, rng.Test, uint64(i))
	x := core.Batch{N: 1, Pixels: make([]float32, a.pack.Manifest.Network.Input().Len())}
	for j := range x.Pixels {
		x.Pixels[j] = float32(r.Intn(uint64(j), 33)-16) / 8
	}
	return x
}

// trace notes the outputs of all layers.
func (a *life) trace(ctx context.Context, i int) error {
	for t, err := range a.engine.Trace(ctx, a.image(i), core.Probe{}) {
		if err != nil {
			return err
		}
		h := sha256.New()
		if err := binary.Write(h, binary.LittleEndian, t.Data); err != nil {
			return fmt.Errorf("compute: %s: %w", t.Name, err)
		}
		a.stages = append(a.stages, Stage{fmt.Sprintf("image %d/%s", i, t.Name), fmt.Sprintf("%x", h.Sum(nil))})
	}
	return nil
}

func (a *life) wake(ctx context.Context, steps int) error {
	classes := a.pack.Manifest.Network.Output().C
	for range steps {
		a.steps++
		if _, err := a.engine.Wake(ctx, a.image(1000+a.steps), core.Labels{int32(a.steps % classes)}, a.Rate); err != nil {
			return err
		}
	}
	return nil
}

// note notes all parameters.
func (a *life) note(name string) error {
	var p *model.Params
	p, err := a.engine.Save()
	if err != nil {
		return err
	}
	d, err := edge.Digest(a.pack.Manifest.Network, p)
	if err != nil {
		return err
	}
	a.stages = append(a.stages, Stage{name, fmt.Sprintf("%x", d)})
	return nil
}

// Compare returns the first difference, or nil; nothing to compare is a difference.
func Compare(got, want []Stage) error {
	if len(want) == 0 {
		return errors.New("nothing was compared")
	}
	if len(got) != len(want) {
		return fmt.Errorf("%d stages, want %d", len(got), len(want))
	}
	for i, w := range want {
		if got[i].Name != w.Name {
			return fmt.Errorf("stage %d is %s, want %s", i, got[i].Name, w.Name)
		}
		if got[i].Digest != w.Digest {
			return fmt.Errorf("%s: digest %.12s…, want %.12s…", w.Name, got[i].Digest, w.Digest)
		}
	}
	return nil
}
