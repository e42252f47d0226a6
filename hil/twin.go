package hil

import (
	"context"
	"fmt"
	"slices"

	"hypnos/backends/fixed"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/optim"
	"hypnos/core/rng"
	"hypnos/server/brain"
)

// deed is what changes a network's weights.
type deed byte

const (
	learned deed = 'w' // from the next image
	slept   deed = 's' // a whole sleep
)

// twin is what a device's network must be, computed here: an engine that is given the same images and sleeps, without the daemon.
type twin struct {
	pack    *edge.Package
	config  brain.Config
	backend core.Backend

	engine core.Engine
	done   []deed
}

func newTwin(path string, c brain.Config) (*twin, error) {
	p, err := edge.OpenPackage(path)
	if err != nil {
		return nil, err
	}
	on, err := fixed.Open(fixed.Options{})
	if err != nil {
		return nil, err
	}
	return &twin{pack: p, config: c, backend: on}, nil
}

func (t *twin) close() {
	if t.engine != nil {
		t.engine.Close()
	}
	t.backend.Close()
	t.pack.Close()
}

// picture is image number i as the daemon is sent it: noise, a byte for each pixel and channel.
func (t *twin) picture(i int) []byte {
	r := rng.New(t.config.Seed, rng.Test, uint64(i))
	x := make([]byte, t.pack.Manifest.Network.Input().Len())
	for j := range x {
		x[j] = byte(r.Intn(uint64(j), 256))
	}
	return x
}

// label is what image number i is said to show.
func (t *twin) label(i int) int { return i * 7 % t.pack.Manifest.Network.Output().C }

// batch is a picture as the network takes it.
func (t *twin) batch(i int) core.Batch {
	m := t.pack.Manifest
	in := m.Formats.Activations[m.Network.Nodes[0].Name]
	var n []int16
	for _, v := range m.Stats.Normalised(t.picture(i)) {
		n = append(n, in.Quantise(float64(v)))
	}
	return core.Batch{N: 1, Pixels: edge.Dequantise(in, n)}
}

// be has the engine do all deeds, from the beginning unless it has done the first of them already.
func (t *twin) be(ctx context.Context, deeds []deed) error {
	if t.engine == nil || len(t.done) > len(deeds) || !slices.Equal(t.done, deeds[:len(t.done)]) {
		if t.engine != nil {
			t.engine.Close()
		}
		e, err := t.backend.Compile(t.pack.Manifest.Network, core.Options{
			MaxBatch: t.config.Batch, Train: true, Optimizer: optim.Spec{Kind: optim.SGD}, Seed: t.config.Seed, Rule: t.config.Rule, LearnFrom: t.config.From})
		if err != nil {
			return err
		}
		params, err := t.pack.Params()
		if err != nil {
			return err
		}
		if err := e.Load(params); err != nil {
			return err
		}
		t.engine, t.done = e, nil
	}
	for _, d := range deeds[len(t.done):] {
		if err := t.do(ctx, d); err != nil {
			return err
		}
		t.done = append(t.done, d)
	}
	return nil
}

func (t *twin) do(ctx context.Context, d deed) error {
	if d == learned {
		i := count(t.done, learned)
		_, err := t.engine.Wake(ctx, t.batch(i), core.Labels{int32(t.label(i))}, t.config.Rate)
		return err
	}
	s, err := t.config.Sleep.Spec().Stream()
	if err != nil {
		return err
	}
	s.Border, s.Seed, s.Phase = t.config.Sleep.Border, t.config.Seed, uint64(count(t.done, slept)+1)
	_, err = t.engine.Sleep(ctx, s)
	return err
}

// digest is that of the weights after some deeds.
func (t *twin) digest(ctx context.Context, deeds []deed) (string, error) {
	if err := t.be(ctx, deeds); err != nil {
		return "", err
	}
	p, err := t.engine.Save()
	if err != nil {
		return "", err
	}
	d, err := edge.Digest(t.pack.Manifest.Network, p)
	return fmt.Sprintf("%x", d), err
}

// logits are what the network says of a picture after some deeds.
func (t *twin) logits(ctx context.Context, deeds []deed, i int) ([]float64, error) {
	if err := t.be(ctx, deeds); err != nil {
		return nil, err
	}
	l, err := t.engine.Infer(ctx, t.batch(i))
	if err != nil {
		return nil, err
	}
	return slices.Clone(l.Row(0)), nil
}

func count(deeds []deed, of deed) (n int) {
	for _, d := range deeds {
		if d == of {
			n++
		}
	}
	return n
}
