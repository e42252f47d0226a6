//go:build cuda && cgo && linux && amd64

package kernels_test

import (
	"math"
	"slices"
	"testing"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/core/data"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// device is the first device, real or emulated, and a queue of it.
func device(t *testing.T) (*driver.Device, *driver.Queue) {
	t.Helper()
	if found, err := driver.Devices(); err != nil || len(found) == 0 {
		t.Skipf("SKIPPED: no device (%v); make cuda-emu has one that stands in", err)
	}
	d := must(driver.Open(0))(t)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	q := must(d.Queue())(t)
	t.Cleanup(func() {
		if err := q.Free(); err != nil {
			t.Error(err)
		}
	})
	return d, q
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// place is an array on the device and the page-locked memory through which it goes.
func place(t *testing.T, d *driver.Device, bytes int) (driver.Ptr, *driver.HostBuffer) {
	t.Helper()
	p, b := must(d.Alloc(int64(bytes)))(t), must(d.Pinned(int64(bytes)))(t)
	t.Cleanup(func() {
		for _, err := range []error{d.Free(p), b.Free()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	return p, b
}

// The batches of augment_f32 are those of data.Loader, bit for bit, where the crops are drawn as it draws them.
func TestAugmentationIsTheLoaders(t *testing.T) {
	d, q := device(t)
	for _, c := range []struct {
		name string
		size int
		data.Augment
	}{
		{"as they are", 8, data.Augment{}},
		{"padded", 8, data.Augment{Pad: 2}},
		{"smaller, mirrored", 6, data.Augment{Pad: 1, Flip: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const count, h, w, batch, seed, epoch = 13, 8, 9, 5, 7, 3
			images := &data.Images{Shape: net.Shape{H: h, W: w, C: 3}, Pixels: make([]uint8, count*h*w*3), Labels: make([]int32, count)}
			random := rng.New(seed, rng.Shuffle, 1000)
			for i := range images.Pixels {
				images.Pixels[i] = uint8(random.Intn(uint64(i), 256))
			}
			l := &data.Loader{Images: images, Size: c.size, Batch: batch, Augment: c.Augment, Stats: data.ComputeStats(images), Seed: seed}
			if err := l.Check(); err != nil {
				t.Fatal(err)
			}

			pixels, hostPixels := place(t, d, len(images.Pixels))
			order, hostOrder := place(t, d, 4*batch)
			places, hostPlaces := place(t, d, 4*3*batch)
			table, hostTable := place(t, d, 4*3*256)
			x, hostX := place(t, d, 4*batch*c.size*c.size*3)
			copy(hostPixels.Bytes(), images.Pixels)
			for channel := range 3 {
				for v := range 256 {
					hostTable.Floats()[256*channel+v] = float32((float64(v)/255 - l.Stats.Mean[channel]) / l.Stats.Std[channel])
				}
			}
			q.Upload(pixels, hostPixels, 0, int64(len(images.Pixels)))
			q.Upload(table, hostTable, 0, 4*3*256)

			shuffled := rng.New(seed, rng.Shuffle, epoch).Perm(count)
			crop, flip := rng.New(seed, rng.Crop, epoch), rng.New(seed, rng.Flip, epoch)
			batches := 0
			for m := range l.Epoch(t.Context(), epoch, 0) {
				for i := range m.X.N {
					draw := uint64(m.Index*batch + i)
					hostOrder.Int32s()[i] = int32(shuffled[draw])
					at := hostPlaces.Int32s()[3*i:]
					at[0] = int32(crop.Intn(2*draw, h+2*c.Pad-c.size+1))
					at[1] = int32(crop.Intn(2*draw+1, w+2*c.Pad-c.size+1))
					at[2] = 0
					if c.Flip {
						at[2] = int32(flip.Intn(draw, 2))
					}
				}
				q.Upload(order, hostOrder, 0, int64(4*m.X.N))
				q.Upload(places, hostPlaces, 0, int64(4*3*m.X.N))
				size := kernels.Elements(int64(m.X.N * c.size * c.size))
				f := must(d.Function("augment_f32"))(t)
				q.Launch(f, driver.Grid{X: size.Grid[0]}, driver.Block{X: size.Block[0]}, size.Shared,
					pixels, order, places, table, x, m.X.N, h, w, 3, c.size, c.Pad)
				q.Download(hostX, 0, x, int64(4*m.X.N*c.size*c.size*3))
				if err := q.Synchronize(); err != nil {
					t.Fatal(err)
				}
				got := hostX.Floats()
				for i := range m.X.N {
					for p := range c.size * c.size {
						want := m.X.Pixels[(i*c.size*c.size+p)*3:][:3]
						if at := got[(p*m.X.N+i)*3:][:3]; !slices.EqualFunc(at, want, sameBits) {
							t.Fatalf("batch %d image %d pixel %d: %v, want %v", m.Index, i, p, at, want)
						}
					}
				}
				batches++
			}
			if batches != 3 {
				t.Errorf("%d batches", batches)
			}
		})
	}
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }
