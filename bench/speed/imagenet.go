package speed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/rng"
	"hypnos/core/sleep"
)

// ImageNetRow tells how ImageNet's input pipeline keeps up with training. Every form of it runs on one goroutine, alone on the machine,
// in alternation with the step: decoding JPEGs into a new cache, shorter sides of 256 pixels, as a first epoch does; and from that cache
// random crops, and random-resized-crops, of the network's size, mirrored at random and normalised, as every other epoch does.
type ImageNetRow struct {
	Key
	Images  string `json:"images"` // what is decoded
	Step    Spread `json:"step_images_per_s"`
	Decode  Spread `json:"decode_images_per_s"`
	Crop    Spread `json:"crop_images_per_s"`
	Resized Spread `json:"resized_crop_images_per_s"`
	// Ratios are to the step's images a second, sample by sample: above 1 one goroutine gives more than training takes.
	DecodeRatio  Spread `json:"decode_by_step"`
	CropRatio    Spread `json:"crop_by_step"`
	ResizedRatio Spread `json:"resized_crop_by_step"`
	// Training is with random-resized-crops by one goroutine, and Wait the share of a step that it waits for its batch.
	Training Spread `json:"training_images_per_s"`
	Wait     Spread `json:"wait_share"`
}

// cachedSide is the shorter side of images in a cache of ImageNet.
const cachedSide = 256

// imageNets measures the rows of kind ImageNet, with images of a source, or made-up ones.
func (b *bench) imageNets(ctx context.Context, keys []Key, source string, r *Result, t *table) error {
	if len(keys) == 0 {
		return nil
	}
	folder, err := os.MkdirTemp("", "hypnos-images-")
	if err != nil {
		return fmt.Errorf("speed: %w", err)
	}
	defer os.RemoveAll(folder)
	photos := photos{cacheIn: folder, source: source, name: source}
	if source == "" {
		photos.source = filepath.Join(folder, "source")
		if photos.name, err = makePhotos(photos.source); err != nil {
			return fmt.Errorf("speed: %w", err)
		}
	}
	for _, k := range keys {
		s, err := training(k)
		if err != nil {
			return err
		}
		if need := s.memory(); !b.fits(need) {
			r.Skipped = append(r.Skipped, Skipped{k.String(), b.tooLarge(need)})
			continue
		}
		t.progress("measuring %s %s", k.Kind, k.Layer)
		row, err := b.imageNet(ctx, s, k, photos)
		if err != nil {
			return fmt.Errorf("speed: %s: %w", k, err)
		}
		r.ImageNet = append(r.ImageNet, row)
		t.imageNet(row)
	}
	return t.err
}

func (b *bench) imageNet(ctx context.Context, s *subject, k Key, p photos) (ImageNetRow, error) {
	r := ImageNetRow{Key: k, Images: p.name}
	d, err := p.decode(ctx)
	if err != nil {
		return r, err
	}
	images := d.Train.Len()
	stats := data.ComputeStats(d.Train)
	loader := func(batch, reps int, resized bool) *data.Loader {
		return &data.Loader{
			Images: d.Train, Size: s.net.Input().H, Batch: batch, Reps: reps, Augment: data.Augment{Flip: true, Resized: resized}, Stats: stats, Seed: 1,
		}
	}
	l := loader(8, 1, false)
	if err := l.Check(); err != nil {
		return r, err
	}
	defer debug.FreeOSMemory()
	e, err := s.open(b.cpu)
	if err != nil {
		return r, err
	}
	defer e.close()
	step, err := e.prepare(ctx, k)
	if err != nil {
		return r, err
	}
	var failed error
	epochs := 0
	epoch := func(l *data.Loader) func() {
		return func() {
			for m := range l.Epoch(ctx, epochs, 0) {
				failed = errors.Join(failed, m.Err)
			}
			epochs++
		}
	}
	times, err := measure(ctx, b.budget, step, func() {
		_, err := p.decode(ctx)
		failed = errors.Join(failed, err)
	}, epoch(l), epoch(loader(8, 1, true)))
	if err := errors.Join(err, failed, e.err); err != nil {
		return r, err
	}
	rates := make([][]float64, len(times)) // images/s
	for i, seconds := range times {
		n := images
		if i == 0 {
			n = k.Batch
		}
		for _, t := range seconds {
			rates[i] = append(rates[i], float64(n)/t)
		}
	}
	r.Step, r.Decode, r.Crop, r.Resized = spreadOf(rates[0]), spreadOf(rates[1]), spreadOf(rates[2]), spreadOf(rates[3])
	byStep := func(i int) Spread { return spreadOf(ratios(rates[i], rates[0])) }
	r.DecodeRatio, r.CropRatio, r.ResizedRatio = byStep(1), byStep(2), byStep(3)
	// Each image as often as a batch has some, in crops of its own, so that all batches are full.
	steps, waits, err := b.waits(ctx, loader(k.Batch, k.Batch, true), func(m data.Minibatch) error {
		if m.Err != nil {
			return m.Err
		}
		for i := range m.Labels { // of a network with fewer classes
			m.Labels[i] %= int32(s.net.Output().C)
		}
		return e.learn(ctx, k, m.X, m.Labels)
	})
	if err != nil {
		return r, err
	}
	r.Training, r.Wait = spreadOf(steps).per(float64(k.Batch)), spreadOf(waits)
	return r, nil
}

// learn is a learning step, with the sleep that belongs to it.
func (e *engine) learn(ctx context.Context, k Key, x core.Batch, y core.Labels) error {
	_, err := e.engine.Wake(ctx, x, y, 1e-3)
	if err == nil && k.What == WakeSleep {
		_, err = e.engine.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}})
	}
	return err
}

// photos are JPEGs to decode.
type photos struct {
	source, name string
	cacheIn      string // a folder for caches
}

// decode decodes all into a new cache.
func (p photos) decode(ctx context.Context) (*data.Dataset, error) {
	cache, err := os.MkdirTemp(p.cacheIn, "cache-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(cache) // what is open stays readable
	return data.OpenCached(ctx, p.source, cache, data.Options{Size: cachedSide, TrainOnly: true}, nil)
}

// makePhotos writes JPEGs of waves and noise, of about as many bytes as 36 images of ImageNet have on average, 95 KB.
func makePhotos(folder string) (name string, err error) {
	const images, w, h, quality = 32, 400, 350, 96
	bytesInAll := 0
	for i := range images {
		drawn := rng.New(1, rng.Test, uint64(i))
		m := image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio420)
		for at := range m.Y {
			x, y := float64(at%m.YStride), float64(at/m.YStride)
			m.Y[at] = uint8(95 + 50*math.Sin(x/float64(9+i))*math.Cos(y/17) + float64(drawn.Intn(uint64(at), 64)))
		}
		for at := range m.Cb {
			m.Cb[at], m.Cr[at] = uint8(100+at%m.CStride/4), uint8(100+at/m.CStride/4)
		}
		var b bytes.Buffer
		if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: quality}); err != nil {
			return "", err
		}
		bytesInAll += b.Len()
		path := filepath.Join(folder, "train", "photos", fmt.Sprintf("%02d.jpg", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d made-up JPEGs of %d x %d, %d KB each on average", images, w, h, bytesInAll/images/1000), nil
}
