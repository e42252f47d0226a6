package data

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	_ "image/jpeg"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hypnos/core/data/datatest"
	"hypnos/core/net"
	"hypnos/core/rng"
)

const imagenetSample = "../../../shared/data/imagenet-sample.tar"

// sampleFiles are the 36 images of ImageNet, by name; the test is skipped where they are not.
func sampleFiles(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open(imagenetSample)
	if err != nil {
		t.Skipf("the ImageNet sample is not there: %v", err)
	}
	defer f.Close()
	files, r := map[string][]byte{}, tar.NewReader(f)
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, ".JPEG") {
			if files[h.Name], err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(files) != 36 {
		t.Fatalf("%d images, want 36", len(files))
	}
	return files
}

// weights are those of a source's n pixels in pixel i of m: a triangle around its centre, as wide as a pixel of the coarser of the two.
func weights(n, m, i int) (first int, w []float64) {
	scale := float64(n) / float64(m)
	reach := max(1, scale)
	centre := (float64(i) + 0.5) * scale
	first = max(0, int(math.Floor(centre-reach)))
	sum := 0.0
	for x := first; x < n && float64(x) < centre+reach; x++ {
		v := max(0, 1-math.Abs(float64(x)+0.5-centre)/reach)
		w = append(w, v)
		sum += v
	}
	for k := range w {
		w[k] /= sum
	}
	return first, w
}

// resized is the definition: channel c of pixel (row, col) of an image scaled to h x w, in units of bytes.
func resized(m image.Image, h, w, row, col int) (p [3]float64) {
	b := m.Bounds()
	y0, wy := weights(b.Dy(), h, row)
	x0, wx := weights(b.Dx(), w, col)
	for i, vy := range wy {
		for j, vx := range wx {
			r, g, b, _ := m.At(b.Min.X+x0+j, b.Min.Y+y0+i).RGBA()
			for c, v := range []uint32{r, g, b} {
				p[c] += vy * vx * float64(v) / 257
			}
		}
	}
	return p
}

// All sample images come out of cache and loader as the centre of the image scaled to 256, by the definition of scaling.
func TestImageNetSample(t *testing.T) {
	files := sampleFiles(t)
	d, err := OpenCached(context.Background(), imagenetSample, t.TempDir(), Options{Size: 256, TrainOnly: true, Workers: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(files))
	if d.Train.Len() != 36 || len(d.Classes) != 36 {
		t.Fatalf("%d images of %d classes", d.Train.Len(), len(d.Classes))
	}
	l := &Loader{Images: d.Train, Size: 224, Batch: 5, Stats: unit(), Workers: 2}
	compared, worst := 0, 0.0
	for b := range l.InOrder(context.Background()) {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for i := range b.X.N {
			name := names[compared]
			if got := d.Classes[b.Labels[i]]; !strings.Contains(name, "/"+got+"/") {
				t.Errorf("%s has class %s", name, got)
			}
			m, _, err := image.Decode(bytes.NewReader(files[name]))
			if err != nil {
				t.Fatal(err)
			}
			worst = max(worst, centreError(m, b.X.Pixels[i*224*224*3:]))
			compared++
		}
	}
	// Bytes are rounded down or to the nearest, from sums that keep at least 16 bits: an error under one level and 1/257 of one.
	if limit := 1 + 1.0/257; !(worst <= limit) || compared != 36 {
		t.Errorf("%d images differ by up to %.3f levels, want %.3f at most", compared, worst, limit)
	}
	t.Logf("largest difference to the definition: %.3f levels", worst)
}

// Random-resized-crops of all sample images, twice each and mirrored where they are, are parts of the cached images scaled by the
// definition.
func TestImageNetSampleResizedCrops(t *testing.T) {
	sampleFiles(t)
	d, err := OpenCached(context.Background(), imagenetSample, t.TempDir(), Options{Size: 256, TrainOnly: true, Workers: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := &Loader{Images: d.Train, Size: 224, Batch: 6, Reps: 2, Augment: Augment{Flip: true, Resized: true}, Stats: unit(), Seed: 1, Workers: 2}
	const epoch = 3
	v := &view{Loader: l, crop: rng.New(l.Seed, rng.Crop, epoch), flip: rng.New(l.Seed, rng.Flip, epoch)}
	order := rng.New(l.Seed, rng.Shuffle, epoch).Perm(36)
	compared, mirrored, worst := 0, 0, 0.0
	for b := range l.Epoch(context.Background(), epoch, 0) {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for i := range b.X.N {
			pixels, shape, err := d.Train.read(order[compared/2], nil)
			if err != nil {
				t.Fatal(err)
			}
			r := v.part(uint64(compared), shape)
			m := image.NewRGBA(image.Rect(0, 0, r.w, r.h))
			for y := range r.h {
				for x := range r.w {
					copy(m.Pix[m.PixOffset(x, y):], pixels[((r.row+y)*shape.W+r.col+x)*3:][:3])
					m.Pix[m.PixOffset(x, y)+3] = 255
				}
			}
			mirror := v.flip.Intn(uint64(compared), 2) == 1
			if mirror {
				mirrored++
			}
			for row := 0; row < 224; row += 31 {
				for col := 0; col < 224; col += 31 {
					at := col
					if mirror {
						at = 223 - col
					}
					want := resized(m, 224, 224, row, col)
					for c := range 3 {
						if diff := math.Abs(255*float64(b.X.Pixels[((i*224+row)*224+at)*3+c]) - want[c]); !(diff <= worst) {
							worst = diff
						}
					}
				}
			}
			compared++
		}
	}
	// Both sums are of float64; what remains is the rounding to float32, of values up to 1: 255 · 2^-25, and 1e-12 for the sums.
	if limit := 255*math.Exp2(-25) + 1e-12; !(worst <= limit) || compared != 72 || mirrored == 0 || mirrored == 72 {
		t.Errorf("%d crops, %d mirrored, differ by up to %g levels, want %g at most", compared, mirrored, worst, limit)
	}
}

func TestParts(t *testing.T) {
	v := &view{crop: rng.New(1, rng.Crop, 0)}
	for _, s := range []net.Shape{{H: 256, W: 341, C: 3}, {H: 500, W: 256, C: 3}} {
		least, most := 1.0, 0.0
		for draw := range uint64(2000) {
			r := v.part(draw, s)
			if r.row < 0 || r.col < 0 || r.h < 1 || r.w < 1 || r.row+r.h > s.H || r.col+r.w > s.W {
				t.Fatalf("%+v of %dx%d", r, s.H, s.W)
			}
			// The sides are rounded by half a pixel, and none is shorter than 60, so that a part of either is below 1 %.
			area, aspect := float64(r.h*r.w)/float64(s.H*s.W), float64(r.w)/float64(r.h)
			if !(area >= 0.08*0.98 && area <= 1) || !(aspect >= 0.75*0.98 && aspect <= 1.02/0.75) {
				t.Fatalf("%+v of %dx%d: area %g, aspect %g", r, s.H, s.W, area, aspect)
			}
			least, most = min(least, area), max(most, area)
		}
		whole := min(1, float64(s.W)*4/3/float64(s.H)) // the largest part that is 3:4 at least; none is wider than 4:3
		if !(least < 0.1 && most > 0.9*whole) {
			t.Errorf("areas of %dx%d from %g to %g only, want 0.08 to %g", s.H, s.W, least, most, whole)
		}
	}
	if r := v.part(0, net.Shape{H: 8, W: 800, C: 3}); r != (rectangle{0, 394, 8, 11}) { // no draw fits: 800 x 8 · 0.08 is 22 x 22
		t.Errorf("%+v", r)
	}
	for x := -0.29; x < 0.3; x += 0.01 {
		if diff := math.Abs(exp(x) - math.Exp(x)); !(diff <= 0x1p-51) { // two roundings near 1, and one of math.Exp
			t.Errorf("exp(%g) differs by %g", x, diff)
		}
	}
}

// centreError is the largest difference, in levels, of some pixels of a 224 x 224 centre crop of m scaled to 256.
func centreError(m image.Image, got []float32) (worst float64) {
	b := m.Bounds()
	short := min(b.Dx(), b.Dy())
	h, w := b.Dy()*256/short, b.Dx()*256/short
	for row := 0; row < 224; row += 31 {
		for col := 0; col < 224; col += 31 {
			want := resized(m, h, w, (h-224)/2+row, (w-224)/2+col)
			for c := range 3 {
				if diff := math.Abs(255*float64(got[(row*224+col)*3+c]) - want[c]); !(diff <= worst) {
					worst = diff
				}
			}
		}
	}
	return worst
}

// source is a small one of class folders, its cache's folder and its options.
func cacheSource(t *testing.T) (source, cache string, o Options) {
	return datatest.ClassFolders(t, 12, 4, 2), filepath.Join(t.TempDir(), "cache"), Options{Size: 8, Workers: 2}
}

// pixels reads all images through a loader, which must not fail.
func pixels(t *testing.T, s *Images) (all []float32) {
	t.Helper()
	l := &Loader{Images: s, Size: 8, Batch: 5, Stats: unit()}
	for b := range l.InOrder(context.Background()) {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		all = append(all, b.X.Pixels...)
	}
	return all
}

// Square images in a cache are those that Open holds in memory, and so are their statistics, splits and batches.
func TestCacheIsWhatMemoryHolds(t *testing.T) {
	source, cache, o := cacheSource(t)
	o.Fit = FitResize
	want, err := Open(source, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, pass := range []string{"made", "read"} {
		decoded := 0
		got, err := OpenCached(context.Background(), source, cache, o, func(int) { decoded++ })
		if err != nil {
			t.Fatal(err)
		}
		if read := pass == "read"; read != (decoded == 0) {
			t.Errorf("%s: %d images", pass, decoded)
		}
		same := func(what string) {
			if a, b := pixels(t, want.Train), pixels(t, got.Train); !slices.Equal(a, b) || len(a) == 0 {
				t.Errorf("%s, %s: training images differ", pass, what)
			}
			if !slices.Equal(pixels(t, want.Test), pixels(t, got.Test)) || !slices.Equal(want.Train.Labels, got.Train.Labels) {
				t.Errorf("%s, %s: test images or labels differ", pass, what)
			}
			if ComputeStats(want.Train) != ComputeStats(got.Train) {
				t.Errorf("%s, %s: statistics differ", pass, what)
			}
		}
		if !slices.Equal(want.Classes, got.Classes) {
			t.Errorf("%v, want %v", got.Classes, want.Classes)
		}
		same("whole")
		if pass == "made" {
			continue
		}
		for _, d := range []*Dataset{want, got} {
			if err := d.Holdout(3, 1); err != nil {
				t.Fatal(err)
			}
			if err := d.Limit(6, 2); err != nil {
				t.Fatal(err)
			}
		}
		same("held out and limited")
		if err := got.Holdout(6, 1); err == nil {
			t.Error("all training images were held out")
		}
	}
}

// A cache whose making was stopped anywhere goes on, and does not decode again.
func TestCacheGoesOn(t *testing.T) {
	source, cache, o := cacheSource(t)
	ctx, kill := context.WithCancelCause(context.Background())
	stopped := errors.New("stopped")
	_, err := OpenCached(ctx, source, cache, o, func(n int) {
		if n == 7 {
			kill(stopped)
		}
	})
	if !errors.Is(err, stopped) {
		t.Fatalf("got %v", err)
	}
	index := filepath.Join(cache, "index")
	text, err := os.ReadFile(index)
	if lines := bytes.Count(text, []byte("\n")); err != nil || lines != 7 {
		t.Fatalf("%d images are kept (%v)", lines, err)
	}
	// As a kill leaves it: a line half written, and pixels without one.
	if err := os.WriteFile(index, text[:len(text)-20], 0o644); err != nil {
		t.Fatal(err)
	}
	d, err := OpenCached(context.Background(), source, cache, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := OpenCached(context.Background(), source, t.TempDir(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pixels(t, d.Train), pixels(t, fresh.Train)) || !slices.Equal(pixels(t, d.Test), pixels(t, fresh.Test)) {
		t.Error("images differ from those of a cache made in one go")
	}
}

// A cache mends itself: when it is opened, or, where only pixels are others, when they are read.
func TestDamagedCache(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, cache string)
		mended int // images, when they are read
	}{
		// The first training image comes after 6 test images.
		{"a byte of an image", func(t *testing.T, cache string) { flip(t, filepath.Join(cache, "pixels"), 6*8*8*3) }, 1},
		{"all bytes", func(t *testing.T, cache string) {
			datatest.Write(t, filepath.Join(cache, "pixels"), make([]byte, 18*8*8*3))
		}, 12},
		{"a byte of the index", func(t *testing.T, cache string) { flip(t, filepath.Join(cache, "index"), 40) }, 0},
		{"pixels cut", func(t *testing.T, cache string) { cut(t, filepath.Join(cache, "pixels")) }, 0},
		{"index cut", func(t *testing.T, cache string) { cut(t, filepath.Join(cache, "index")) }, 0},
		{"no index", func(t *testing.T, cache string) { os.Remove(filepath.Join(cache, "index")) }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, cache, o := cacheSource(t)
			whole, err := OpenCached(context.Background(), source, cache, o, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := pixels(t, whole.Train)
			c.damage(t, cache)
			d, err := OpenCached(context.Background(), source, cache, o, nil)
			if err != nil {
				t.Fatal(err)
			}
			for pass, mended := range []int{c.mended, 0} {
				if !slices.Equal(pixels(t, d.Train), want) {
					t.Errorf("pass %d: images differ from those before", pass)
				}
				if got := d.Train.Mended(); len(got) != mended || mended > 0 && got[0].Unwritten != "" {
					t.Errorf("pass %d: mended %v, want %d images", pass, got, mended)
				}
			}
		})
	}
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[at] ^= 1
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func cut(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, st.Size()/2); err != nil {
		t.Fatal(err)
	}
}

func TestCacheRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, source string, o *Options) // of a source whose cache is complete
		fresh  bool                                          // no cache yet
		want   string
	}{
		{"another image", func(t *testing.T, source string, _ *Options) {
			swap(t, filepath.Join(source, "train/red/1.png"), filepath.Join(source, "train/red/2.png"))
		}, false, "train/red/1.png: it has changed"},
		{"an image less", func(t *testing.T, source string, _ *Options) { os.Remove(filepath.Join(source, "test/red/1.png")) },
			false, "test/red/1.png: cache"},
		{"another size", func(_ *testing.T, _ string, o *Options) { o.Size = 9 }, false, "shorter sides of 8 pixels, not of 9"},
		{"no size", func(_ *testing.T, _ string, o *Options) { o.Size = 0 }, true, "say what size"},
		{"unreadable image", func(t *testing.T, source string, _ *Options) {
			datatest.Write(t, filepath.Join(source, "train/blue/9.png"), []byte("none"))
		}, true, "train/blue/9.png: image: unknown format"},
		{"class without images", func(t *testing.T, source string, _ *Options) {
			if err := os.Mkdir(filepath.Join(source, "train/yellow"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, true, "train/yellow: a class folder without images"},
		{"wrong label", func(t *testing.T, source string, _ *Options) {
			if err := os.Rename(filepath.Join(source, "test/red"), filepath.Join(source, "test/rd")); err != nil {
				t.Fatal(err)
			}
		}, true, `test/rd/0.png: class "rd" has no training images`},
	} {
		source, cache, o := cacheSource(t)
		if !c.fresh {
			if _, err := OpenCached(context.Background(), source, cache, o, nil); err != nil {
				t.Fatal(err)
			}
		}
		c.change(t, source, &o)
		_, err := OpenCached(context.Background(), source, cache, o, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// A cache that lies in its source would change what the source looks like.
func TestCacheInItsSource(t *testing.T) {
	source, _, o := cacheSource(t)
	for _, cache := range []string{source, filepath.Join(source, "cache"), filepath.Join(source, "x", "..", "cache")} {
		if _, err := OpenCached(context.Background(), source, cache, o, nil); err == nil || !strings.Contains(err.Error(), "outside of the source") {
			t.Errorf("%s: got %v", cache, err)
		}
	}
	if _, err := OpenCached(context.Background(), source, source+"-cache", o, nil); err != nil {
		t.Error(err)
	}
}

func swap(t *testing.T, a, b string) {
	t.Helper()
	for _, v := range [][2]string{{a, a + "~"}, {b, a}, {a + "~", b}} {
		if err := os.Rename(v[0], v[1]); err != nil {
			t.Fatal(err)
		}
	}
}

// Corrupt files are left out where that is wished, and taken in when they are repaired.
func TestCacheSkipsCorrupt(t *testing.T) {
	source, cache, o := cacheSource(t)
	o.SkipCorrupt = true
	bad := filepath.Join(source, "train/blue/1.png")
	content, err := os.ReadFile(bad)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		content []byte
		images  int
	}{{content[:40], 11}, {content, 12}} {
		datatest.Write(t, bad, c.content)
		d, err := OpenCached(context.Background(), source, cache, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.Train.Len() != c.images || len(d.Skipped) != 12-c.images {
			t.Errorf("pass %d: %d images, left out: %q", i, d.Train.Len(), d.Skipped)
		}
	}
}

// The first epoch decodes, the others read.
func BenchmarkImageNet(b *testing.B) {
	sampleFiles(b)
	o := Options{Size: 256, TrainOnly: true, Workers: runtime.NumCPU()}
	b.Run("decode", func(b *testing.B) {
		for i := range b.N {
			if _, err := OpenCached(context.Background(), imagenetSample, filepath.Join(b.TempDir(), fmt.Sprint(i)), o, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(36*b.N)/b.Elapsed().Seconds(), "images/s")
	})
	for _, resized := range []bool{false, true} {
		b.Run(fmt.Sprint("epoch/resized=", resized), func(b *testing.B) {
			epochs(b, o, Augment{Flip: true, Resized: resized})
		})
	}
}

func epochs(b *testing.B, o Options, a Augment) {
	d, err := OpenCached(context.Background(), imagenetSample, b.TempDir(), o, nil)
	if err != nil {
		b.Fatal(err)
	}
	l := &Loader{Images: d.Train, Size: 224, Batch: 12, Augment: a, Stats: unit(), Workers: o.Workers}
	b.ResetTimer()
	for epoch := range b.N {
		for m := range l.Epoch(context.Background(), epoch, 0) {
			if m.Err != nil {
				b.Fatal(m.Err)
			}
		}
	}
	b.ReportMetric(float64(36*b.N)/b.Elapsed().Seconds(), "images/s")
}
