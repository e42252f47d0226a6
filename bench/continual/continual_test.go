package continual

import (
	"context"
	"io"
	"math"
	"strings"
	"testing"

	"hypnos/core/data"
	"hypnos/core/data/datatest"
)

func TestFigures(t *testing.T) {
	r := Run{Accuracy: [][]float64{{.8, .1, .1}, {.6, .9, .2}, {.7, .5, .6}}}
	r.summarise()
	for _, c := range []struct {
		what      string
		got, want float64
	}{
		{"ACC", r.Average, (.7 + .5 + .6) / 3},
		{"BWT", r.BWT, ((.7 - .8) + (.5 - .9)) / 2},
		{"forgetting", r.Forgetting, ((.8 - .7) + (.9 - .5)) / 2},
	} {
		if !(math.Abs(c.got-c.want) <= 1e-15) { // of three sums of numbers below 1
			t.Errorf("%s is %g, want %g", c.what, c.got, c.want)
		}
	}
}

func TestTasks(t *testing.T) {
	stats := data.Stats{Mean: [3]float64{.2, .4, .6}, Std: [3]float64{1, 1, 1}}
	all := &data.Images{Labels: []int32{0, 1, 2}}
	all.Shape.H, all.Shape.W, all.Shape.C = 2, 2, 3
	for i := range 36 {
		all.Pixels = append(all.Pixels, uint8(5*i))
	}
	shifted := Task{Shift, 1}.images(all, 3, 3, stats, 1, 1)
	if want := append(make([]uint8, 0), all.Image(1)[:3]...); string(shifted.Image(1)[9:]) != string(want) || shifted.Image(1)[0] != 51 {
		t.Errorf("shifted: %v", shifted.Image(1))
	}
	if dark := (Task{Darker, .5}).images(all, 3, 3, stats, 1, 1); dark.Image(1)[2] != 35 {
		t.Errorf("darker: %v", dark.Image(1))
	}
	if c := (Task{Classes, 1}).images(all, 2, 3, stats, 1, 1); c.Len() != 1 || c.Labels[0] != 2 {
		t.Errorf("classes: %v", c.Labels)
	}
	if o := (Task{Kind: Original}).images(all, 2, 3, stats, 1, 1); o.Len() != 2 {
		t.Errorf("original: %v", o.Labels)
	}
	a, b := Task{Noise, .2}.images(all, 3, 3, stats, 1, 1), Task{Noise, .2}.images(all, 3, 3, stats, 1, 2)
	if string(a.Pixels) == string(b.Pixels) || string(a.Pixels) == string(all.Pixels) {
		t.Error("noise is the same, or none")
	}
	for _, text := range []string{"", "shift", "shift=x", "noise=0.1,,"} {
		if _, err := ParseTasks(text); err == nil {
			t.Errorf("tasks %q are read", text)
		}
	}
	d := &data.Dataset{Classes: []string{"a", "b", "c"}, Train: all}
	for _, bad := range []Task{{Classes, 3}, {Classes, .5}, {Shift, 2}, {Shift, 0}, {Noise, 0}, {Noise, math.NaN()}, {Darker, 1}, {"fog", 1}} {
		if err := bad.check(d); err == nil || !strings.Contains(err.Error(), bad.Kind) {
			t.Errorf("%v: error %v", bad, err)
		}
	}
}

// A stream on a tiny network: every run has its matrix, runs repeat, and sleep changes what a run that learns everything knows of
// nothing but what it has learned: the first row is that of no sleep.
func TestExecute(t *testing.T) {
	ctx := context.Background()
	d, err := data.Open(datatest.ClassFolders(t, 8, 8, 20), data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := PretrainConfig(1, 1)
	c.Network.Input, c.Network.Width, c.Train.Batch = 8, 2, 8
	s, err := Pretrain(ctx, c, d, 1)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Tasks: []Task{{Classes, 1}, {Shift, 1}}, Steps: 12, SleepEvery: 4, LR: 0.01, Test: 12, Modes: Modes(), Seed: 1}
	r, err := Execute(ctx, s, o, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 2*(len(Modes())+1) {
		t.Fatalf("%d runs", len(r.Runs))
	}
	for _, run := range r.Runs {
		if len(run.Accuracy) != 3 || len(run.Online) != 2 {
			t.Errorf("%s: %v", run.name(), run.Accuracy)
		}
		if first := r.Find(run.Backend, All, 0); run.Accuracy[0][0] != first.Accuracy[0][0] {
			t.Errorf("%s begins at another accuracy", run.name())
		}
	}
	again, err := Execute(ctx, s, Options{o.Tasks, 12, 4, 0.01, 12, []string{Local}, 1, 0}, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := again.Find("fixed", Local, 4), r.Find("fixed", Local, 4); a.Average != b.Average || a.Online[0] != b.Online[0] {
		t.Error("a run does not repeat")
	}
	if err := r.WriteText(io.Discard); err != nil {
		t.Error(err)
	}
	if r.Figure().Empty() {
		t.Error("no figure")
	}
}
