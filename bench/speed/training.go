package speed

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"hypnos/backends/cpu"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/net"
)

// MemoryRow compares what training makes resident with the plan of the engine.
type MemoryRow struct {
	Key
	Plan      core.Memory `json:"plan"`
	PlanBytes int64       `json:"plan_bytes"`
	// InputBytes are the buffers of the input pipeline, which the plan does not count and the peak does.
	InputBytes int64 `json:"input_bytes"`
	// PeakBytes is by how much the process's resident memory grew at most, from before the engine was compiled until
	// after its second step.
	PeakBytes int64   `json:"peak_bytes"`
	Ratio     float64 `json:"ratio"` // PeakBytes / PlanBytes
}

// InputRow tells how the input pipeline keeps up with training: images in memory, of the size of the network's, are
// padded by 4, cropped, mirrored at random and normalised by one goroutine, the default of training.
type InputRow struct {
	Key
	Pipeline Spread `json:"pipeline_images_per_s"` // alone
	Training Spread `json:"training_images_per_s"` // with the wait
	// Wait is the share of a step that training waits for its batch. Steps count from where the batches made in advance
	// are used up.
	Wait Spread `json:"wait_share"`
}

// training is the subject of a key of training.
func training(k Key) (*subject, error) {
	k.Kind = Net
	n, err := k.network(nil)
	if err != nil {
		return nil, err
	}
	return &subject{kind: Net, layer: k.Layer, train: true, net: n, keys: []Key{k}}, nil
}

// pipeline serves so many batches of images in memory.
func pipeline(n *net.Network, batch, batches int) *data.Loader {
	size := n.Input().H
	images := &data.Images{
		Shape: net.Shape{H: size, W: size, C: 3}, Pixels: make([]uint8, batches*batch*size*size*3), Labels: make([]int32, batches*batch),
	}
	for i := range images.Pixels {
		images.Pixels[i] = uint8(i * 181 >> 3)
	}
	for i := range images.Labels {
		images.Labels[i] = int32(i % n.Output().C)
	}
	l := &data.Loader{Images: images, Size: size, Batch: batch, Augment: data.Augment{Pad: 4, Flip: true}, Seed: 1}
	l.Stats = data.ComputeStats(images)
	return l
}

// trainings measures the rows of kinds Memory and Input.
func (b *bench) trainings(ctx context.Context, keys []Key, r *Result, t *table) error {
	for _, k := range keys {
		s, err := training(k)
		if err != nil {
			return err
		}
		skip := func(reason string) { r.Skipped = append(r.Skipped, Skipped{k.String(), reason}) }
		if need := s.memory(); !b.fits(need) {
			skip(b.tooLarge(need))
			continue
		}
		t.progress("measuring %s %s", k.Kind, k.Layer)
		if k.Kind == Input {
			row, err := b.input(ctx, s, k)
			if err != nil {
				return err
			}
			r.Inputs = append(r.Inputs, row)
			t.input(row)
			continue
		}
		if _, err := resetPeak(); err != nil {
			skip(strings.TrimPrefix(err.Error(), "speed: "))
			continue
		}
		row, err := b.memory(ctx, s, k)
		if err != nil {
			return err
		}
		r.Memory = append(r.Memory, row)
		t.memory(row)
	}
	return t.err
}

// memory measures the peak of two steps.
func (b *bench) memory(ctx context.Context, s *subject, k Key) (MemoryRow, error) {
	r := MemoryRow{Key: k}
	backend, err := cpu.Open(b.cpu)
	if err != nil {
		return r, err
	}
	defer backend.Close()
	if r.Plan, err = backend.Memory(s.net, s.options()); err != nil {
		return r, err
	}
	l := pipeline(s.net, k.Batch, 2)
	defer debug.FreeOSMemory()
	debug.FreeOSMemory() // what is free in the heap would be used again, and not be seen
	before, err := resetPeak()
	if err != nil {
		return r, err
	}
	e, err := s.open(b.cpu)
	if err != nil {
		return r, err
	}
	defer e.close()
	for m := range l.Epoch(ctx, 0, 0) {
		if _, err := e.engine.Wake(ctx, m.X, m.Labels, 1e-3); err != nil {
			return r, fmt.Errorf("speed: %s: %w", k, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return r, err
	}
	after, err := peak()
	if err != nil {
		return r, err
	}
	r.PlanBytes, r.InputBytes, r.PeakBytes = r.Plan.Total(), l.BufferBytes(), after-before
	r.Ratio = float64(r.PeakBytes) / float64(r.PlanBytes)
	return r, nil
}

// input measures the pipeline alone, then training with it.
func (b *bench) input(ctx context.Context, s *subject, k Key) (InputRow, error) {
	const batches = 16
	r := InputRow{Key: k}
	l := pipeline(s.net, k.Batch, batches)
	epoch := 0
	alone, err := measure(ctx, b.budget, func() {
		for range l.Epoch(ctx, epoch, 0) {
		}
		epoch++
	})
	if err != nil {
		return r, err
	}
	r.Pipeline = spreadOf(alone[0]).per(float64(batches * k.Batch))
	e, err := s.open(b.cpu)
	if err != nil {
		return r, err
	}
	defer e.close()
	steps, waits, err := b.waits(ctx, l, func(m data.Minibatch) error { return e.learn(ctx, k, m.X, m.Labels) })
	if err != nil {
		return r, fmt.Errorf("speed: %s: %w", k, err)
	}
	r.Training, r.Wait = spreadOf(steps).per(float64(k.Batch)), spreadOf(waits)
	return r, nil
}

// waits trains until the budget is spent: the seconds of each step, and the share of them that it waited for its batch.
func (b *bench) waits(ctx context.Context, l *data.Loader, learn func(data.Minibatch) error) (steps, waits []float64, err error) {
	done := func() bool {
		counted := steps[min(len(steps), inAdvance):]
		return len(counted) >= minSamples && sum(counted) >= b.budget.Seconds()
	}
	epoch := 0
	for last := time.Now(); !done(); epoch++ {
		for m := range l.Epoch(ctx, epoch, 0) {
			wait := time.Since(last)
			if err := learn(m); err != nil {
				return nil, nil, err
			}
			step := time.Since(last)
			last = last.Add(step)
			steps, waits = append(steps, step.Seconds()), append(waits, wait.Seconds()/step.Seconds())
			if done() {
				break
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
	}
	return steps[inAdvance:], waits[inAdvance:], nil
}

// inAdvance is how many steps do not count: one for each batch that the pipeline makes in advance, and the first.
const inAdvance = 3

func sum(xs []float64) (total float64) {
	for _, x := range xs {
		total += x
	}
	return total
}

// apart tells whether a key is for trainings or edges.
func apart(k Key) bool { return slices.Contains([]string{Memory, Input, Edge, ImageNet}, k.Kind) }
