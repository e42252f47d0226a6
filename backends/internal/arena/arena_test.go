package arena

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"
)

// Arrays begin on cache lines, do not overlap, are 0 and fit as planned.
func TestFloats(t *testing.T) {
	sizes := []int{1, 0, 16, 17, 100_000, 5, 1 << 20}
	total := 0
	for _, n := range sizes {
		total += Padded(n)
	}
	a, err := New(total)
	if err != nil {
		t.Fatal(err)
	}
	var arrays [][]float32
	for i, n := range sizes {
		xs := a.Floats(n)
		if len(xs) != n || cap(xs) != n {
			t.Fatalf("array of %d has length %d and capacity %d", n, len(xs), cap(xs))
		}
		if n > 0 && uintptr(unsafe.Pointer(&xs[0]))%64 != 0 {
			t.Errorf("array %d does not begin on a cache line", i)
		}
		for j, v := range xs {
			if v != 0 {
				t.Fatalf("element %d of array %d is %g", j, i, v)
			}
			xs[j] = float32(i + 1)
		}
		arrays = append(arrays, xs)
	}
	for i, xs := range arrays {
		for j, v := range xs {
			if v != float32(i+1) {
				t.Fatalf("element %d of array %d was written over", j, i)
			}
		}
	}
	if a.Left() != 0 {
		t.Errorf("%d floats are left", a.Left())
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("more was taken than planned")
			}
		}()
		a.Floats(1)
	}()
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestEmpty(t *testing.T) {
	a, err := New(0)
	if err != nil || a.Left() != 0 || len(a.Floats(0)) != 0 || a.Close() != nil {
		t.Errorf("an empty arena: %+v, %v", a, err)
	}
}

// The control group's limit counts where it is the smaller one, and only where it can be read.
func TestAvailable(t *testing.T) {
	const meminfo = "MemTotal:  9000 kB\nMemAvailable:   5000 kB\n"
	for _, c := range []struct {
		meminfo, limit, used string
		want                 int64
		ok                   bool
	}{
		{meminfo, "", "", 5000 << 10, true},
		{meminfo, "max\n", "1000\n", 5000 << 10, true},
		{meminfo, "4000\n", "1000\n", 3000, true},
		{meminfo, "4000\n", "5000\n", 0, true},
		{meminfo, "4000\n", "", 5000 << 10, true},
		{"MemTotal: 9000 kB\n", "4000\n", "1000\n", 0, false},
		{"MemAvailable: x kB\n", "", "", 0, false},
		{"", "4000\n", "1000\n", 0, false},
	} {
		dir := t.TempDir()
		for name, text := range map[string]string{"meminfo": c.meminfo, "memory.max": c.limit, "memory.current": c.used} {
			if text == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, ok := available(filepath.Join(dir, "meminfo"), dir); got != c.want || ok != c.ok {
			t.Errorf("%+v: %d, %v", c, got, ok)
		}
	}
}
