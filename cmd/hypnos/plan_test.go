package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/bench/continual"
	"hypnos/bench/plan"
	"hypnos/core/data/datatest"
)

// A package is planned on a board, and meets a stream; what cannot be is refused.
func TestPlanAndContinual(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	run := filepath.Join(dir, "run")
	works(t, trainTiny(run, "resnet8-lc", source))
	checkpoint, file := filepath.Join(run, "checkpoint.safetensors"), filepath.Join(dir, "edge.hyp")
	works(t, []string{"package", "-m", checkpoint, "-o", file, "--images", "12", "--batch", "5"})
	report := filepath.Join(dir, "plan.json")
	works(t, []string{"plan", "-m", file, "--board", "generic-armv7", "--learn", "last-block", "--json", report}, "stem.conv", "peak", "fits", "estimates")
	var p plan.Plan
	parseJSON(t, read(t, report), &p)
	if !p.Fits || p.LearnFrom != "stage3.block1.conv1" || p.Peak <= p.Memory.Total() || !(p.Seconds.Wake > p.Seconds.Infer) || p.Small.Weights >= p.Memory.Weights {
		t.Errorf("%+v", p)
	}
	text, err := os.ReadFile("../../board/profiles/generic-armv7.toml")
	if err != nil {
		t.Fatal(err)
	}
	small := filepath.Join(dir, "small.toml")
	if err := os.WriteFile(small, []byte(strings.Replace(string(text), "value = 128", "value = 4", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	r := hypnos(t.Context(), "plan", "-m", file, "--board", small)
	if r.code != exitFailed || !strings.Contains(r.err, "does not fit: peak") || strings.Count(r.err, "\n") != 1 {
		t.Errorf("code %d: %s", r.code, r.err)
	}
	cl := filepath.Join(dir, "cl.json")
	stream := []string{"bench", "continual", "-m", file, "--tasks", "noise=0.1,darker=0.5", "--steps", "6", "--sleep-every", "3", "--modes", "all,classifier"}
	works(t, append(stream, "--json", cl, "--figure", filepath.Join(dir, "cl.svg")), "ACC", "integers against float", "classifier")
	var got continual.Result
	parseJSON(t, read(t, cl), &got)
	if len(got.Runs) != 6 || len(got.Tasks) != 3 {
		t.Errorf("%+v", got)
	}
	for _, c := range []struct {
		code int
		args []string
		want string
	}{
		{exitUsage, []string{"plan", "-m", file, "--board", "toaster"}, "known: generic-armv7"},
		{exitUsage, []string{"plan", "-m", file}, "--board"},
		{exitUsage, []string{"plan", "--board", "generic-armv7"}, "-m"},
		{exitUsage, []string{"plan", "-m", file, "--board", "generic-armv7", "--learn", "half"}, "half"},
		{exitFailed, []string{"plan", "-m", checkpoint, "--board", "generic-armv7"}, "not an edge package"},
		{exitFailed, []string{"plan", "-m", file, "--board", "generic-armv7", "--threads", "9"}, "9 threads"},
		{exitFailed, []string{"bench", "continual", "-m", checkpoint}, "not an edge package"},
		{exitUsage, append(stream, "--tasks", "fog"), "fog"},
		{exitFailed, append(stream, "--tasks", "fog=1"), "unknown task"},
		{exitUsage, append(stream, "--steps", "0"), "0 steps"},
		{exitUsage, append(stream, "--sleep-every", "0"), "sleep every 0"},
		{exitUsage, append(stream, "--lr", "NaN"), "learning rate"},
		{exitUsage, append(stream, "--modes", "most"), "most"},
	} {
		fails(t, dir, c.code, c.args, c.want)
	}
}
