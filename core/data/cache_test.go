package data_test

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

	"hypnos/core/data"
	"hypnos/core/data/datatest"
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

func unitStats() data.Stats { return data.Stats{Std: [3]float64{1, 1, 1}} }

// All sample images come out of cache and loader as the centre of the image scaled to 256, by the definition of scaling.
func TestImageNetSample(t *testing.T) {
	files := sampleFiles(t)
	d, err := data.OpenCached(context.Background(), imagenetSample, t.TempDir(), data.Options{Size: 256, TrainOnly: true, Workers: 2}, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := slices.Sorted(maps.Keys(files))
	if d.Train.Len() != 36 || len(d.Classes) != 36 {
		t.Fatalf("%d images of %d classes", d.Train.Len(), len(d.Classes))
	}
	l := &data.Loader{Images: d.Train, Size: 224, Batch: 5, Stats: unitStats(), Workers: 2}
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
func cacheSource(t *testing.T) (source, cache string, o data.Options) {
	return datatest.ClassFolders(t, 12, 4, 2), filepath.Join(t.TempDir(), "cache"), data.Options{Size: 8, Workers: 2}
}

// pixels reads all images through a loader, which must not fail.
func pixels(t *testing.T, s *data.Images) (all []float32) {
	t.Helper()
	l := &data.Loader{Images: s, Size: 8, Batch: 5, Stats: unitStats()}
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
	o.Fit = data.FitResize
	want, err := data.Open(source, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, pass := range []string{"made", "read"} {
		decoded := 0
		got, err := data.OpenCached(context.Background(), source, cache, o, func(int) { decoded++ })
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
			if data.ComputeStats(want.Train) != data.ComputeStats(got.Train) {
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
		for _, d := range []*data.Dataset{want, got} {
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
	_, err := data.OpenCached(ctx, source, cache, o, func(n int) {
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
	d, err := data.OpenCached(context.Background(), source, cache, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := data.OpenCached(context.Background(), source, t.TempDir(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pixels(t, d.Train), pixels(t, fresh.Train)) || !slices.Equal(pixels(t, d.Test), pixels(t, fresh.Test)) {
		t.Error("images differ from those of a cache made in one go")
	}
}

func TestDamagedCache(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, cache string)
		opens  bool   // the cache mends itself
		want   string // else in the loader's error
	}{
		// The first training image comes after 6 test images.
		{"a byte of an image", func(t *testing.T, cache string) { flip(t, filepath.Join(cache, "pixels"), 6*8*8*3) }, false, "checksum"},
		{"a byte of the index", func(t *testing.T, cache string) { flip(t, filepath.Join(cache, "index"), 40) }, true, ""},
		{"pixels cut", func(t *testing.T, cache string) { cut(t, filepath.Join(cache, "pixels")) }, true, ""},
		{"index cut", func(t *testing.T, cache string) { cut(t, filepath.Join(cache, "index")) }, true, ""},
		{"no index", func(t *testing.T, cache string) { os.Remove(filepath.Join(cache, "index")) }, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			source, cache, o := cacheSource(t)
			whole, err := data.OpenCached(context.Background(), source, cache, o, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := pixels(t, whole.Train)
			c.damage(t, cache)
			d, err := data.OpenCached(context.Background(), source, cache, o, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !c.opens {
				l := &data.Loader{Images: d.Train, Size: 8, Batch: 5, Stats: unitStats()}
				var failed error
				for b := range l.InOrder(context.Background()) {
					failed = b.Err
				}
				if failed == nil || !strings.Contains(failed.Error(), c.want) || !strings.Contains(failed.Error(), "train/blue/0.png") {
					t.Errorf("got %v", failed)
				}
				if err := os.Remove(filepath.Join(cache, "done")); err != nil { // as the error says
					t.Fatal(err)
				}
				if d, err = data.OpenCached(context.Background(), source, cache, o, nil); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(pixels(t, d.Train), want) {
				t.Error("images differ from those before")
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
		change func(t *testing.T, source string, o *data.Options) // of a source whose cache is complete
		fresh  bool                                               // no cache yet
		want   string
	}{
		{"another image", func(t *testing.T, source string, _ *data.Options) {
			swap(t, filepath.Join(source, "train/red/1.png"), filepath.Join(source, "train/red/2.png"))
		}, false, "train/red/1.png: it has changed"},
		{"an image less", func(t *testing.T, source string, _ *data.Options) { os.Remove(filepath.Join(source, "test/red/1.png")) },
			false, "test/red/1.png: cache"},
		{"another size", func(_ *testing.T, _ string, o *data.Options) { o.Size = 9 }, false, "shorter sides of 8 pixels, not of 9"},
		{"no size", func(_ *testing.T, _ string, o *data.Options) { o.Size = 0 }, true, "say what size"},
		{"unreadable image", func(t *testing.T, source string, _ *data.Options) {
			datatest.Write(t, filepath.Join(source, "train/blue/9.png"), []byte("none"))
		}, true, "train/blue/9.png: image: unknown format"},
		{"class without images", func(t *testing.T, source string, _ *data.Options) {
			if err := os.Mkdir(filepath.Join(source, "train/yellow"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, true, "train/yellow: a class folder without images"},
		{"wrong label", func(t *testing.T, source string, _ *data.Options) {
			if err := os.Rename(filepath.Join(source, "test/red"), filepath.Join(source, "test/rd")); err != nil {
				t.Fatal(err)
			}
		}, true, `test/rd/0.png: class "rd" has no training images`},
	} {
		source, cache, o := cacheSource(t)
		if !c.fresh {
			if _, err := data.OpenCached(context.Background(), source, cache, o, nil); err != nil {
				t.Fatal(err)
			}
		}
		c.change(t, source, &o)
		_, err := data.OpenCached(context.Background(), source, cache, o, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
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
		d, err := data.OpenCached(context.Background(), source, cache, o, nil)
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
	o := data.Options{Size: 256, TrainOnly: true, Workers: runtime.NumCPU()}
	b.Run("decode", func(b *testing.B) {
		for i := range b.N {
			if _, err := data.OpenCached(context.Background(), imagenetSample, filepath.Join(b.TempDir(), fmt.Sprint(i)), o, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(36*b.N)/b.Elapsed().Seconds(), "images/s")
	})
	b.Run("epoch", func(b *testing.B) {
		d, err := data.OpenCached(context.Background(), imagenetSample, b.TempDir(), o, nil)
		if err != nil {
			b.Fatal(err)
		}
		l := &data.Loader{Images: d.Train, Size: 224, Batch: 12, Augment: data.Augment{Flip: true}, Stats: unitStats(), Workers: o.Workers}
		b.ResetTimer()
		for epoch := range b.N {
			for m := range l.Epoch(context.Background(), epoch, 0) {
				if m.Err != nil {
					b.Fatal(m.Err)
				}
			}
		}
		b.ReportMetric(float64(36*b.N)/b.Elapsed().Seconds(), "images/s")
	})
}
