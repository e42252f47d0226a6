//go:build linux || darwin

package data

import (
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// Reading a cache as it is done, into a buffer, beside a mapping of the file, from which pixels need not be copied. 1,000 images of
// 256 x 341 are in the page cache, and are read in a random order; either way has the checksum, and what comes after it: nothing, a
// crop of 224, or a random-resized-crop. "fresh" maps the file for every pass over the images, as a first epoch does; "kept" keeps the
// mapping, whose pages have been touched before. Passes alternate, and the ratios are medians of passes side by side, so that a busy
// machine does not decide. docs/performance.md has figures, and why nothing is mapped.
func BenchmarkCacheReads(b *testing.B) {
	const images = 1000
	shape := net.Shape{H: 256, W: 341, C: 3}
	c, f, bytes := cacheOf(b, images, shape)
	mapped := func() []byte {
		m, err := unix.Mmap(int(f.Fd()), 0, bytes, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			b.Fatal(err)
		}
		return m
	}
	kept := mapped()
	defer unix.Munmap(kept)
	var buf []uint8
	pread := func(v *cachedImage) []uint8 {
		var damage error
		if buf, damage = c.load(v, buf); damage != nil {
			b.Fatal(damage)
		}
		return buf
	}
	from := func(m []byte) func(v *cachedImage) []uint8 {
		return func(v *cachedImage) []uint8 {
			p := m[v.At : v.At+int64(v.bytes())]
			if crc32.Checksum(p, castagnoli) != v.Sum {
				b.Fatal("checksum")
			}
			return p
		}
	}
	v := &view{Loader: &Loader{Size: 224, Stats: unit()}, random: true, value: unit().table(), crop: rng.New(1, rng.Crop, 0)}
	dst := make([]float32, v.shape().Len())
	order := rng.New(1, rng.Test, 0).Perm(images)
	for _, then := range []struct {
		name string
		do   func(draw uint64, pixels []uint8)
	}{
		{"nothing", func(uint64, []uint8) {}},
		{"crop", func(draw uint64, pixels []uint8) {
			crop := v.place(0, draw, shape)
			crop.Mirror = draw%2 == 1
			core.Images{Shape: shape, Pixels: pixels, Values: v.value[:]}.Cut(dst, v.shape(), crop)
		}},
		{"resized", func(draw uint64, pixels []uint8) { v.resized(dst, pixels, shape, v.part(draw, shape), draw%2 == 1) }},
	} {
		b.Run(then.name, func(b *testing.B) {
			pass := func(read func(*cachedImage) []uint8) float64 {
				begin := time.Now()
				for at, i := range order {
					then.do(uint64(at), read(&c.images[i]))
				}
				return time.Since(begin).Seconds()
			}
			var buffered, keptRatio, freshRatio []float64
			for b.Loop() {
				t := pass(pread)
				buffered = append(buffered, t*1e6/images)
				keptRatio = append(keptRatio, pass(from(kept))/t)
				m := mapped()
				freshRatio = append(freshRatio, pass(from(m))/t)
				if err := unix.Munmap(m); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(buffered), "µs/image")
			b.ReportMetric(median(keptRatio), "kept/pread")
			b.ReportMetric(median(freshRatio), "fresh/pread")
		})
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

// cacheOf is a cache of made-up images, its file and the bytes in it.
func cacheOf(b *testing.B, images int, shape net.Shape) (*cache, *os.File, int) {
	b.Helper()
	pixels := make([]byte, images*shape.Len())
	for i := range pixels {
		pixels[i] = byte(i * 181 >> 3)
	}
	path := filepath.Join(b.TempDir(), cachePixels)
	if err := os.WriteFile(path, pixels, 0o644); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	c := &cache{pixels: f, images: make([]cachedImage, images)}
	for i := range c.images {
		at := i * shape.Len()
		c.images[i] = cachedImage{H: shape.H, W: shape.W, At: int64(at), Sum: crc32.Checksum(pixels[at:at+shape.Len()], castagnoli)}
	}
	return c, f, len(pixels)
}
