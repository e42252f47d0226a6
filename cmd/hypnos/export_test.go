package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/core/data/datatest"
)

// A checkpoint and a package of it are written as ONNX models; what is missing is said, and nothing is left behind.
func TestExport(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	trained := filepath.Join(dir, "run")
	works(t, trainTiny(trained, "resnet8-lc", source))
	checkpoint, integers := filepath.Join(trained, "checkpoint.safetensors"), filepath.Join(dir, "edge.hyp")
	works(t, []string{"package", "-m", checkpoint, "-o", integers, "--images", "12"})
	model, edge, bare := filepath.Join(dir, "a.onnx"), filepath.Join(dir, "edge.onnx"), filepath.Join(dir, "bare.onnx")
	works(t, []string{"export", "-m", checkpoint, "--onnx", model}, "resnet8-lc", "operator set 13")
	works(t, []string{"export", "-m", integers, "--onnx", edge}, "resnet8-lc")
	works(t, []string{"export", "-m", checkpoint, "--onnx", bare, "--normalised"})
	for _, c := range []struct {
		path             string
		normalises, norm bool
	}{{model, true, true}, {edge, true, false}, {bare, false, true}} {
		text := read(t, c.path)
		if strings.Contains(text, "Sub") != c.normalises || strings.Contains(text, "hypnos.mean") == c.normalises {
			t.Errorf("%s: normalisation is not where it was asked for", c.path)
		}
		if strings.Contains(text, "BatchNormalization") != c.norm || !strings.Contains(text, "MatMul") {
			t.Errorf("%s: not the operators of this network", c.path)
		}
	}
	for _, args := range [][]string{{"export"}, {"export", "-m", checkpoint}, {"export", "-m", checkpoint, "--pytorch", filepath.Join(dir, "c"), "--normalised"},
		{"export", "-m", checkpoint, "--npy", filepath.Join(dir, "npy"), "--layers", "nosuch"}, {"export", "-m", checkpoint, "--npy", filepath.Join(dir, "npy"), "--images", "100000"},
		{"export", "-m", checkpoint, "--npy", checkpoint + "/x"}, {"export", "-m", "missing", "--onnx", filepath.Join(dir, "b.onnx")}} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, console{&out, &errs}); code == exitOK || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%v: code %d, %q", args, code, errs.String())
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "b.onnx")); !os.IsNotExist(err) {
		t.Errorf("a file is left behind: %v", err)
	}
}
