package experiment_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hypnos/bench/experiment"
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

// A run whose cache is damaged ends with an error that names the image, and goes on once the cache is mended.
func TestRunFromDamagedCache(t *testing.T) {
	cache, dir := filepath.Join(t.TempDir(), "cache"), t.TempDir()
	c := tiny(t, "data.path="+datatest.ClassFolders(t, 12, 8, 3), "data.size=8", "data.fit=resize", "data.cache="+cache)
	c.Train.Epochs = 1
	finish(t, dir, c)
	damaged := readFile(t, cache, "pixels")
	damaged[9*8*8*3] ^= 1 // of the first training image, behind 9 test images
	datatest.Write(t, filepath.Join(cache, "pixels"), damaged)
	c.Train.Epochs = 2
	_, _, err := runIn(context.Background(), dir, c, nil)
	if err == nil || !strings.Contains(err.Error(), cache+": train/blue/0.png: the checksum") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("got %v", err)
	}
	if err := os.Remove(filepath.Join(cache, "done")); err != nil {
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
