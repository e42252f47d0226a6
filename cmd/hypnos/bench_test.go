package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/core/data/datatest"
)

// What one backend computes is kept in a file, and others are compared with it.
func TestBenchGolden(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	trained := filepath.Join(dir, "run")
	works(t, trainTiny(trained, "resnet8-lc", source))
	integers, file := filepath.Join(dir, "edge.hyp"), filepath.Join(dir, "cpu.golden")
	works(t, []string{"package", "-m", filepath.Join(trained, "checkpoint.safetensors"), "-o", integers, "--images", "12"})
	works(t, []string{"bench", "golden", "-o", file, "-m", integers, "--data", source, "--steps", "2", "--test", "3"}, "every bound holds")
	works(t, []string{"bench", "golden", "--check", file, "--backends", "fixed"}, "golden file of cpu (float32)", "fixed : golden cpu", "every bound holds")
}

func TestBenchUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"bench", exitUsage, "missing the name"},
		{"bench quality", exitUsage, "quality"},
		{"bench --help", exitOK, "speed"},
		{"bench speed --help", exitOK, "Examples"},
		{"bench speed now", exitUsage, "now"},
		{"bench speed --budget 0", exitUsage, "--budget"},
		{"bench speed --budget NaN", exitUsage, "--budget"},
		{"bench speed --rounds 0", exitUsage, "--rounds"},
		{"bench speed --only (", exitUsage, "--only"},
		{"bench speed --only nothing", exitFailed, "no row matches"},
		{"bench speed --kernels mmx", exitFailed, "mmx"},
		{"bench equivalence --help", exitOK, "Examples"},
		{"bench equivalence --backends ref", exitUsage, "at least two"},
		{"bench equivalence --backends ref,tpu", exitFailed, "unknown backend \"tpu\""},
		{"bench equivalence --backends ref,fixed:kernels=mmx", exitFailed, "mmx"},
		{"bench equivalence --steps 0", exitUsage, "--steps"},
		{"bench equivalence --rule dream", exitUsage, "dream"},
		{"bench equivalence --rule observe", exitUsage, "observe"},
		{"bench equivalence -m missing.hyp", exitFailed, "missing.hyp"},
		{"bench equivalence --data missing", exitFailed, "missing"},
		{"bench equivalence --net resnet9", exitFailed, "resnet9"},
		{"bench equivalence --check 11", exitUsage, "--check 11"},
		{"bench equivalence --check -1", exitUsage, "--check -1"},
		{"bench golden --help", exitOK, "Examples"},
		{"bench golden", exitUsage, "either -o FILE"},
		{"bench golden -o a --check b", exitUsage, "either -o FILE"},
		{"bench golden --check missing", exitFailed, "missing"},
		{"bench golden -o a --steps 0", exitUsage, "--steps 0"},
		{"bench golden -o a --rule dream", exitUsage, "dream"},
		{"bench golden -o a --backend tpu", exitFailed, "tpu"},
	} {
		var out, errs bytes.Buffer
		code := run(context.Background(), strings.Fields(c.args), console{&out, &errs})
		if all := out.String() + errs.String(); code != c.code || !strings.Contains(all, c.want) {
			t.Errorf("hypnos %s: code %d, want %d with %q:\n%s", c.args, code, c.code, c.want, all)
		}
	}
}
