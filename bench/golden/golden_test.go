package golden_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hypnos/backends"
	"hypnos/bench/equivalence"
	"hypnos/bench/golden"
	"hypnos/core/data"
	"hypnos/core/data/datatest"
	"hypnos/core/edge/edgetest"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// small is a network, its integer parameters and a few images.
func small(t *testing.T, spec sleep.Spec) equivalence.Options {
	t.Helper()
	b := net.NewBuilder("small")
	window := net.Window{Out: 4, Kernel: 3, Stride: 1, Bias: true}
	x := b.ReLU("relu", b.LC2D("lc1", b.Input(net.Shape{H: 6, W: 6, C: 3}), window))
	b.Linear("linear", b.GlobalAvgPool("pool", b.LC2D("lc2", x, window)), 3)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	d, err := data.Open(datatest.ClassFolders(t, 8, 4, 4), data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	phase, err := spec.Stream()
	if err != nil {
		t.Fatal(err)
	}
	stats := data.ComputeStats(d.Train)
	return equivalence.Options{
		Net: n, Params: edgetest.Params(t, n, 4), Steps: 5, Every: 4, Check: 3, Phase: phase, Rate: 0.01, Seed: 1,
		Train: &data.Loader{Images: d.Train, Size: 6, Batch: 1, Stats: stats, Seed: 1},
		Test:  &data.Loader{Images: d.Test, Size: 6, Batch: 4, Stats: stats},
	}
}

func subject(t *testing.T, spec string) equivalence.Subject {
	t.Helper()
	b, err := backends.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return equivalence.Subject{Name: spec, Backend: b}
}

func record(t *testing.T, backend string, spec sleep.Spec) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.golden")
	m := golden.Manifest{Program: "test", Date: time.Unix(0, 0).UTC(), Origin: "random", Data: "test", Sleep: spec}
	if _, err := golden.Record(context.Background(), path, subject(t, backend), subject(t, "ref"), small(t, spec), m); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string) *golden.File {
	t.Helper()
	f, err := golden.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// What one backend computed, read from the file, is compared with the others as the backend itself would be: every bound of
// the comparison is there, and the numbers of the same backend are the same.
func TestCheck(t *testing.T) {
	hebbian := sleep.DefaultSpec()
	hebbian.Rule, hebbian.Events = "hebbian", 10
	checked := 0
	for name, spec := range map[string]sleep.Spec{"instant": sleep.DefaultSpec(), "hebbian": hebbian} {
		for _, recorded := range []string{"ref", "cpu:threads=1", "fixed"} {
			t.Run(name+" "+recorded, func(t *testing.T) {
				f := open(t, record(t, recorded, spec))
				var all []equivalence.Subject
				for _, s := range []string{"ref", "cpu:threads=1", "fixed"} {
					all = append(all, subject(t, s))
				}
				r, err := f.Check(context.Background(), all, func(string) {})
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Err(); err != nil {
					t.Error(err)
				}
				live, err := equivalence.Run(context.Background(), append([]equivalence.Subject{subject(t, recorded)}, all...), small(t, spec), func(string) {})
				if err != nil {
					t.Fatal(err)
				}
				if len(r.Rows) != len(live.Rows) || len(r.Rows) < 50 {
					t.Errorf("%d comparisons, %d with the backend itself", len(r.Rows), len(live.Rows))
				}
				for i, b := range r.Backends {
					if b.Digest != live.Backends[i].Digest || b.Top1 != live.Backends[i].Top1 || b.Loss != live.Backends[i].Loss {
						t.Errorf("%s: %+v, the backend itself %+v", b.Name, b, live.Backends[i])
					}
				}
				checked++
			})
		}
	}
	if checked != 6 {
		t.Errorf("%d files checked", checked)
	}
}

// One bit of one recorded weight or of one activation, in the file, is found.
func TestFlippedBit(t *testing.T) {
	path := record(t, "fixed", sleep.DefaultSpec())
	file, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	flipped := 0
	for _, part := range []string{"weights/3/0//lc1.weight", "/out/lc2"} {
		all := &model.Params{}
		for key, v := range file.Meta {
			all.SetMeta(key, v)
		}
		done := false
		for v, err := range file.All() {
			if err != nil {
				t.Fatal(err)
			}
			if !done && strings.Contains(v.Name, part) {
				done = true
				switch d := v.Data.(type) {
				case []int16:
					d[0] ^= 1
				case []float64:
					d[0] += 0x1p-10
				case []float32:
					d[0] += 0x1p-10
				default:
					t.Fatalf("%s is %T", v.Name, d)
				}
			}
			all.Add(v)
		}
		if !done {
			t.Fatalf("the file has no %s", part)
		}
		bad := filepath.Join(t.TempDir(), "bad.golden")
		if err := model.Save(bad, all); err != nil {
			t.Fatal(err)
		}
		r, err := open(t, bad).Check(context.Background(), []equivalence.Subject{subject(t, "fixed")}, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(r.Err(), equivalence.ErrViolated) {
			t.Errorf("%s: not found", part)
		}
		flipped++
	}
	if flipped != 2 {
		t.Errorf("%d bits flipped", flipped)
	}
}

// Files that are none, or not whole, are refused by name.
func TestRefusals(t *testing.T) {
	path, dir := record(t, "cpu:threads=1", sleep.DefaultSpec()), t.TempDir()
	var text bytes.Buffer
	if err := open(t, path).WriteText(&text); err != nil || !strings.Contains(text.String(), "golden file of cpu:threads=1 (float32)") {
		t.Errorf("%v: %s", err, text.String())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "weights.safetensors")
	p := &model.Params{}
	p.Add(model.NewTensor("x", []int{1}, []float32{1}))
	if err := model.Save(other, p); err != nil {
		t.Fatal(err)
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]string{
		other:                         "not a golden file",
		write("cut", b[:len(b)-1]):    "cut",
		filepath.Join(dir, "missing"): "missing",
		write("next", bytes.Replace(b, []byte(`{\"format\":1,`), []byte(`{\"format\":2,`), 1)): "format 2",
	} {
		f, err := golden.Open(path)
		if err == nil {
			f.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Base(path)) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
