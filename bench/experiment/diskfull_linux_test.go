package experiment_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hypnos/bench/experiment"
	"hypnos/core/data/datatest"
	"hypnos/core/train"
)

// A disk that is full when the checkpoint is saved, here a file system in memory: the old checkpoint stays, and the run
// goes on from it when there is room again.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("SKIPPED: a file system of our own cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	c := tiny(t)
	short, err := c.With([]string{"train.epochs=1"})
	if err != nil {
		t.Fatal(err)
	}
	finish(t, dir, short)
	old := readFile(t, dir, experiment.CheckpointFile)

	filler := filepath.Join(dir, "filler")
	_, _, err = runIn(context.Background(), dir, c, func(_ int, metric any) {
		if m, ok := metric.(train.Step); ok && m.Step == 6 {
			fill(t, filler, len(old)/2) // room for the figures and the metrics, not for a checkpoint
		}
	})
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error %v, want no space left", err)
	}
	wantFile := filepath.Join(dir, experiment.CheckpointFile)
	if !strings.Contains(err.Error(), wantFile) {
		t.Errorf("error %q does not name %s", err, wantFile)
	}
	if !bytes.Equal(readFile(t, dir, experiment.CheckpointFile), old) {
		t.Error("the old checkpoint is lost")
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	finish(t, dir, c)
	sameRun(t, "after a full disk", dir, whole(t, c))
}

// fill leaves so many bytes of a file system.
func fill(t *testing.T, path string, room int) {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &s); err != nil {
		t.Fatal(err)
	}
	free := int(s.Bavail)*int(s.Bsize) - room
	if free <= 0 {
		t.Fatalf("the disk has only %d bytes left", free+room)
	}
	datatest.Write(t, path, make([]byte, free))
}
