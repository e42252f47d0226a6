package data

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hypnos/core/data/datatest"
	"hypnos/core/model"
	"hypnos/core/rng"
)

// mendingSources are one data set in every form that a source has: a folder, archives, and ImageNet's.
func mendingSources(t *testing.T) map[string]string {
	t.Helper()
	folder := datatest.ClassFolders(t, 12, 3, 1)
	var files []datatest.File
	if err := walk(context.Background(), folder, func(e entry) error {
		if e.r == nil {
			return nil
		}
		content, err := readImage(e.r)
		files = append(files, datatest.File{Name: "./" + e.name, Content: content})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	plain, zipped := filepath.Join(t.TempDir(), "a.tar"), filepath.Join(t.TempDir(), "a.tar.gz")
	datatest.Write(t, plain, datatest.Tar(t, files...))
	datatest.Write(t, zipped, zip(t, datatest.Tar(t, files...)))
	return map[string]string{"folder": folder, "archive": plain, "compressed archive": zipped, "ImageNet": datatest.ImageNet(t, 9, 3, 1)}
}

// readAll reads all images of a cache, byte by byte as they are kept.
func readAll(s *Images) (all []byte, err error) {
	var buf []uint8
	for i := range s.Len() {
		if buf, _, err = s.read(i, buf); err != nil {
			return all, err
		}
		all = append(all, buf...)
	}
	return all, nil
}

func TestMendFromEverySource(t *testing.T) {
	for name, source := range mendingSources(t) {
		cache := t.TempDir()
		d, err := OpenCached(context.Background(), source, cache, Options{Size: 8}, nil)
		if err != nil {
			t.Fatal(err)
		}
		before, err := os.ReadFile(filepath.Join(cache, cachePixels))
		if err != nil {
			t.Fatal(err)
		}
		want, err := readAll(d.Train)
		if err != nil {
			t.Fatal(err)
		}
		datatest.Write(t, filepath.Join(cache, cachePixels), make([]byte, len(before)))
		got, err := readAll(d.Train)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes read, %d before: %v", name, len(got), len(want), err)
		}
		if _, err := readAll(d.Test); err != nil {
			t.Error(err)
		}
		mended := d.Test.Mended() // of the whole cache
		if len(mended) != 12 || len(d.Train.Mended()) != 0 {
			t.Errorf("%s: %d images mended", name, len(mended))
		}
		if where := "ILSVRC2012_img_train.tar: n00000001.tar: n00000001_0.JPEG: the checksum of its pixels is wrong; it was decoded anew"; name == "ImageNet" &&
			mended[0].String() != where {
			t.Errorf("mended %v, want %s", mended[0], where)
		}
		if after, err := os.ReadFile(filepath.Join(cache, cachePixels)); err != nil || !bytes.Equal(after, before) {
			t.Errorf("%s: the file of pixels is not what it was (%v)", name, err)
		}
	}
}

// Bits flip while batches are read by several workers: every batch is right, and in the end the file is.
func TestMendWhileReading(t *testing.T) {
	source, cache, o := cacheSource(t)
	d, err := OpenCached(context.Background(), source, cache, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, cachePixels)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := pixels(t, d.Train)
	stop, flips := make(chan struct{}), 0
	var wait sync.WaitGroup
	wait.Go(func() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		drawn := rng.New(1, rng.Test, 0)
		for {
			select {
			case <-stop:
				return
			default:
			}
			at := drawn.Intn(uint64(flips), len(before))
			if _, err := f.WriteAt([]byte{before[at] ^ 1<<(flips%8)}, int64(at)); err != nil {
				t.Error(err)
				return
			}
			flips++
			time.Sleep(20 * time.Microsecond)
		}
	})
	mended := 0
	for pass := range 300 {
		l := &Loader{Images: d.Train, Size: 8, Batch: 2, Stats: unit(), Workers: 4, Ahead: 4}
		var got []float32
		for b := range l.InOrder(context.Background()) {
			if b.Err != nil {
				t.Fatal(b.Err)
			}
			got = append(got, b.X.Pixels...)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("pass %d: images differ", pass)
		}
		mended += len(d.Train.Mended())
	}
	close(stop)
	wait.Wait()
	t.Logf("%d bits flipped, %d images mended", flips, mended)
	if flips < 10 || mended < 10 {
		t.Errorf("%d bits flipped, %d images mended: too few to tell", flips, mended)
	}
	for _, s := range []*Images{d.Train, d.Test} {
		if _, err := readAll(s); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the file of pixels is not what it was (%v)", err)
	}
}

// What cannot be mended is an error that names the cache, the image and the source.
func TestCannotMend(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, source, cache string, d *Dataset)
		want   string // behind cache, image, damage and source; empty where it can be mended all the same
	}{
		{"file gone", func(t *testing.T, source, _ string, _ *Dataset) { os.Remove(filepath.Join(source, "train/blue/0.png")) }, "no such file"},
		{"source gone", func(t *testing.T, source, _ string, _ *Dataset) { os.RemoveAll(source) }, "no such file"},
		{"another file", func(t *testing.T, source, _ string, _ *Dataset) {
			datatest.Write(t, filepath.Join(source, "train/blue/0.png"), encodePNG(grey(8, 8, 1)))
		}, "the file has changed since the cache was made"},
		{"another decoder", func(_ *testing.T, _, _ string, d *Dataset) { d.Train.cached[0].Sum ^= 1 }, "its pixels are others now"},
		{"pixels cut", func(t *testing.T, _, cache string, _ *Dataset) { os.Truncate(filepath.Join(cache, cachePixels), 0) }, ""},
	} {
		source, cache, o := cacheSource(t)
		d, err := OpenCached(context.Background(), source, cache, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		flip(t, filepath.Join(cache, cachePixels), 6*8*8*3)
		c.change(t, source, cache, d)
		_, err = readAll(d.Train)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		want := "data: cache " + cache + ": train/blue/0.png: the checksum of its pixels is wrong, and " + source + " does not give it again: "
		if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s… %s", c.name, err, want, c.want)
		}
	}
}

// Where the cache cannot be written, images are right, and what stays damaged is told.
func TestMendWithoutWriting(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, cache string, d *Dataset) (undo func())
		want   string
	}{
		{"another process has the folder", func(t *testing.T, cache string, _ *Dataset) func() {
			lock, err := model.LockFolder(cache)
			if err != nil {
				t.Fatal(err)
			}
			return func() { lock.Close() }
		}, model.ErrLocked.Error()},
		{"the file is only to be read", func(t *testing.T, cache string, d *Dataset) func() {
			f, err := os.Open(filepath.Join(cache, cachePixels))
			if err != nil {
				t.Fatal(err)
			}
			d.Train.cache.pixels.Close()
			d.Train.cache.pixels = f
			return func() { f.Close() }
		}, "write"},
		{"the disk is read-only", func(_ *testing.T, _ string, d *Dataset) func() {
			d.Train.cache.readOnly = fs.ErrPermission
			return func() {}
		}, "permission denied"},
		{"another process has made the cache anew", func(t *testing.T, cache string, _ *Dataset) func() {
			text, err := os.ReadFile(filepath.Join(cache, cacheIndex))
			if err != nil {
				t.Fatal(err)
			}
			if err := model.Replace(filepath.Join(cache, cacheIndex), func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
				t.Fatal(err)
			}
			return func() {}
		}, "another process has changed the cache"},
	} {
		source, cache, o := cacheSource(t)
		d, err := OpenCached(context.Background(), source, cache, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		want := pixels(t, d.Train)
		flip(t, filepath.Join(cache, cachePixels), 6*8*8*3)
		undo := c.change(t, cache, d)
		for range 2 { // damaged the second time, too
			got := pixels(t, d.Train)
			mended := d.Train.Mended()
			if !slices.Equal(got, want) || len(mended) != 1 || !strings.Contains(mended[0].Unwritten, c.want) ||
				!strings.Contains(mended[0].String(), "still damaged: ") {
				t.Errorf("%s: mended %v, want %q", c.name, mended, c.want)
			}
		}
		undo()
	}
}
