package experiment_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hypnos/bench/experiment"
	"hypnos/core/data"
	"hypnos/core/data/datatest"
)

// A run from a cache is the run from memory: the same metrics and weights.
func TestRunFromCache(t *testing.T) {
	source := datatest.ClassFolders(t, 12, 8, 3)
	settings := []string{"data.path=" + source, "data.size=8", "data.fit=resize"}
	cached := append(slices.Clone(settings), "data.cache="+filepath.Join(t.TempDir(), "cache"))
	want := whole(t, tiny(t, settings...))

	dir, decoded := t.TempDir(), 0
	_, _, err := runIn(context.Background(), dir, tiny(t, cached...), func(_ int, metric any) {
		if d, ok := metric.(experiment.Decoded); ok {
			decoded = d.Images
		}
	})
	if err != nil || decoded != 3*8+3*3 {
		t.Fatalf("%d images decoded: %v", decoded, err)
	}
	a := strings.Split(strings.TrimSpace(string(readFile(t, want, experiment.MetricsFile))), "\n")
	b := strings.Split(strings.TrimSpace(string(readFile(t, dir, experiment.MetricsFile))), "\n")
	if len(a) != len(b) || len(a) < 6 {
		t.Fatalf("%d and %d metrics", len(a), len(b))
	}
	for i := range a {
		if x, y := untimed(t, []byte(a[i])), untimed(t, []byte(b[i])); x != y {
			t.Errorf("metric %d: %s from memory, %s from the cache", i, x, y)
		}
	}
}

// A run whose cache is damaged mends it, and says so in its metrics. Where the source is gone it ends with an error that names both,
// and goes on once the source is back.
func TestRunFromDamagedCache(t *testing.T) {
	cache, dir, source := filepath.Join(t.TempDir(), "cache"), t.TempDir(), datatest.ClassFolders(t, 12, 8, 3)
	c := tiny(t, "data.path="+source, "data.size=8", "data.fit=resize", "data.cache="+cache)
	c.Train.Epochs = 1
	finish(t, dir, c)
	whole := readFile(t, cache, "pixels")
	damage := func(image int) { // in its place: the run reads the file meanwhile
		f, err := os.OpenFile(filepath.Join(cache, "pixels"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		at := image * 8 * 8 * 3
		_, err = f.WriteAt([]byte{whole[at] ^ 1}, int64(at))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	damage(9) // the first training image, behind 9 test images
	c.Train.Epochs = 2
	var mended []data.Mended
	if _, _, err := runIn(context.Background(), dir, c, func(_ int, metric any) {
		if m, ok := metric.(data.Mended); ok {
			mended = append(mended, m)
		}
	}); err != nil {
		t.Fatal(err)
	}
	one := data.Mended{Kind: "mended", Image: "train/blue/0.png", Damage: "the checksum of its pixels is wrong"}
	if !slices.Equal(mended, []data.Mended{one}) || !bytes.Equal(readFile(t, cache, "pixels"), whole) {
		t.Errorf("mended %v", mended)
	}
	if n := bytes.Count(readFile(t, dir, experiment.MetricsFile), []byte(`{"kind":"mended","image":"train/blue/0.png"`)); n != 1 {
		t.Errorf("%d lines of the metrics tell", n)
	}

	// During the first step of another epoch the source is moved away, and the first test image is damaged.
	c.Train.Epochs = 3
	moved := source + "-moved"
	_, _, err := runIn(context.Background(), dir, c, func(n int, _ any) {
		if n == 1 {
			if err := os.Rename(source, moved); err != nil {
				t.Error(err)
			}
			damage(0)
		}
	})
	want := cache + ": test/blue/0.png: the checksum of its pixels is wrong, and " + source + " does not give it again: stat "
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v, want %s", err, want)
	}
	if err := os.Rename(moved, source); err != nil {
		t.Fatal(err)
	}
	finish(t, dir, c)
}

func TestCacheSettings(t *testing.T) {
	ok := []string{"data.path=x", "data.size=8", "data.fit=resize", "data.cache=y"}
	if _, err := experiment.Load("", ok); err != nil {
		t.Error(err)
	}
	for i := range 3 {
		_, err := experiment.Load("", slices.Delete(slices.Clone(ok), i, i+1))
		wantError(t, "without "+ok[i], err, "data.cache")
	}
	_, err := experiment.Load("", []string{"data.resized_crop=true", "data.pad=1"})
	wantError(t, "padded", err, "data.resized_crop", "data.pad = 1")
}
