package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/core/data/datatest"
)

// Two networks are compared layer by layer; a network that has slept answers every third shift alike.
func TestRepresent(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	trained := filepath.Join(dir, "run")
	works(t, trainTiny(trained, "resnet8-lc", source))
	checkpoint, slept, out := filepath.Join(trained, "checkpoint.safetensors"), filepath.Join(dir, "slept.safetensors"), filepath.Join(dir, "r.json")
	works(t, []string{"sleep", "-m", checkpoint, "--rule", "instant", "--out", slept})
	works(t, []string{"represent", "-m", checkpoint, "-m", slept, "--images", "20", "--json", out}, "stage1.block1.add", "debiased", "stem.conv")
	var r representReport
	parseJSON(t, read(t, out), &r)
	if len(r.Similarities) != 5*5 || len(r.ShiftsA) != len(r.ShiftsB) || len(r.ShiftsA) < 8 || r.Images != 20 {
		t.Errorf("%d similarities, %d and %d shifts of %d images", len(r.Similarities), len(r.ShiftsA), len(r.ShiftsB), r.Images)
	}
	for i, s := range r.ShiftsB {
		if s.Position == 3 && (!(s.Error <= 1e-12) || !(r.ShiftsA[i].Error > 0.1)) {
			t.Errorf("%+v after sleep, %+v before", s, r.ShiftsA[i])
		}
	}
	works(t, []string{"represent", "-m", checkpoint, "--images", "20", "--layers", "pool,linear"}, "pool")
	tuning := filepath.Join(dir, "tuning.json")
	works(t, []string{"represent", "-m", checkpoint, "-m", slept, "--images", "8", "--gratings", "--layers", "stem.conv,pool", "--json", tuning},
		"A: tuning to the orientation", "B: tuning", "agreement in a group")
	var g representReport
	parseJSON(t, read(t, tuning), &g)
	if len(g.TuningA) != 2 || len(g.TuningB) != 2 || g.TuningA[0].Units+g.TuningA[0].Silent == 0 || !(g.TuningB[0].Agreement > g.TuningA[0].Agreement) {
		t.Errorf("tuning %+v, after sleep %+v", g.TuningA, g.TuningB)
	}
	for want, args := range map[string][]string{
		"one or two":      {"represent"},
		"--images 3":      {"represent", "-m", checkpoint, "--images", "3"},
		`no layer "roof"`: {"represent", "-m", checkpoint, "--images", "20", "--layers", "roof"},
		"61 images":       {"represent", "-m", checkpoint, "--images", "61"},
		"missing":         {"represent", "-m", "missing"},
	} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), args, console{&out, &errs}); code == exitOK || !strings.Contains(errs.String(), want) {
			t.Errorf("%v: code %d, %q, want %q", args, code, errs.String(), want)
		}
	}
}
