package backends_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hypnos/backends"
	"hypnos/backends/cpu"
	"hypnos/backends/cuda"
	"hypnos/core"
)

// open opens a backend that the test closes.
func open(t *testing.T, spec string) core.Backend {
	t.Helper()
	b, err := backends.Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("%s: close: %v", spec, err)
		}
	})
	return b
}

// Every name that is listed opens the backend of that name, with and without the colon before no settings.
func TestEveryNameOpens(t *testing.T) {
	names := backends.Names()
	if !slices.Equal(names, []string{"ref", "cpu", "fixed", "cuda"}) {
		t.Errorf("names %v, want ref, cpu, fixed and cuda", names)
	}
	for _, name := range names {
		if name == cuda.Name {
			continue // needs a device: TestCUDA
		}
		for _, spec := range []string{name, name + ":"} {
			b := open(t, spec)
			if caps := b.Caps(); b.Name() != name || caps.Format == "" || len(caps.Layers) == 0 {
				t.Errorf("%q opens %q with %+v", spec, b.Name(), caps)
			}
		}
	}
}

// Whether or not there is a device, cuda opens or says in one line why not.
func TestCUDA(t *testing.T) {
	b, err := backends.Open("cuda:device=0,precision=f32")
	if err != nil {
		if !strings.Contains(err.Error(), "cuda: ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q", err)
		}
		return
	}
	if caps := b.Caps(); b.Name() != cuda.Name || caps.Format != "float32" {
		t.Errorf("opens %q with %+v", b.Name(), caps)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

// Settings reach the backend, whose first note tells threads and kernels, alone and together, in any order.
func TestSettings(t *testing.T) {
	versions := cpu.Versions()
	if len(versions) == 0 {
		t.Fatal("no kernels at all")
	}
	for _, v := range versions {
		want := fmt.Sprintf("1 threads, %s kernels", v)
		for _, spec := range []string{"cpu:threads=1,kernels=" + v, "cpu:kernels=" + v + ",threads=1"} {
			if got := open(t, spec).Caps().Notes[0]; got != want {
				t.Errorf("%q opens with %q, want %q", spec, got, want)
			}
		}
		if got := open(t, "cpu:kernels="+v).Caps().Notes[0]; !strings.HasSuffix(got, v+" kernels") {
			t.Errorf("kernels %s alone open with %q", v, got)
		}
	}
	if got := open(t, "cpu:threads=1").Caps().Notes[0]; !strings.HasPrefix(got, "1 threads, ") {
		t.Errorf("one thread alone opens with %q", got)
	}
}

// What cannot be opened is one line that names what is wrong and lists what there is.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		spec  string
		wants []string
	}{
		{"gpu", []string{`unknown backend "gpu"`, "known: ref, cpu"}},
		{"gpu:threads=1", []string{`unknown backend "gpu"`, "known: ref, cpu"}},
		{"", []string{`unknown backend ""`, "known: ref, cpu"}},
		{"CPU", []string{`unknown backend "CPU"`}},
		{"cpu:cores=2", []string{`"cpu:cores=2"`, `unknown setting "cores"`, "known: threads, kernels, memory"}},
		{"cpu:threads=1,cores=2", []string{`unknown setting "cores"`}},
		{"ref:threads=1", []string{`unknown setting "threads"`, "there are none"}},
		{"cpu:threads", []string{`"threads" is not key=value`}},
		{"cpu:threads=1,", []string{`"" is not key=value`}},
		{"cpu:threads=x", []string{"threads=", `"x"`, "whole number"}},
		{"cpu:threads=", []string{"threads=", `""`}},
		{"cpu:threads=1.5", []string{"threads=", `"1.5"`}},
		{"cpu:threads=-1", []string{`"cpu:threads=-1"`, "-1 threads are below 0"}},
		{"cpu:memory=lots", []string{"memory=", `"lots"`, "megabytes"}},
		{"cpu:memory=0", []string{"memory=", `"0"`}},
		{"cuda:device=x", []string{"device=", `"x"`, "whole number"}},
		{"cuda:images=disk", []string{"images=", `"disk"`, "neither device nor host"}},
		{"cuda:device=-1", []string{"device -1 is below 0"}},
		{"cuda:precision=f64", []string{`unknown precision "f64"`, "known: f32, tf32, bf16"}},
		{"cpu:kernels=nonsense", []string{`no kernels "nonsense"`, "there are: " + strings.Join(cpu.Versions(), ", ")}},
	} {
		b, err := backends.Open(c.spec)
		if err == nil {
			t.Errorf("%q opens %q", c.spec, b.Name())
			continue
		}
		for _, want := range c.wants {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: error %q without %q", c.spec, err, want)
			}
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %q has more than one line", c.spec, err)
		}
	}
}

// TestPin: what is chosen here is written out, and opens; other kernels are another arithmetic, other threads are not.
func TestPin(t *testing.T) {
	pinned, arithmetic, err := backends.Pin("cpu")
	if err != nil || !strings.HasPrefix(pinned, "cpu:kernels=") {
		t.Fatalf("%q, %v", pinned, err)
	}
	for _, spec := range []string{pinned, "cpu:threads=1", pinned + ",threads=1"} {
		again, same, err := backends.Pin(spec)
		if err != nil || same != arithmetic || !strings.Contains(again, "kernels=") {
			t.Errorf("%s: %q, %q, want %q, %v", spec, again, same, arithmetic, err)
		}
		b, err := backends.Open(again)
		if err != nil {
			t.Error(err)
			continue
		}
		b.Close()
	}
	others := map[string]bool{arithmetic: true}
	for _, spec := range []string{"ref", "fixed"} {
		_, a, err := backends.Pin(spec)
		if err != nil || others[a] {
			t.Errorf("%s: %q, %v", spec, a, err)
		}
		others[a] = true
	}
	if _, _, err := backends.Pin("abacus"); err == nil {
		t.Error("a backend that there is not")
	}
}
