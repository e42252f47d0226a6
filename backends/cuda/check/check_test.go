//go:build cuda && cgo && linux && amd64

package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The whole check on an emulated device, at small sizes.
func TestCheck(t *testing.T) {
	if os.Getenv("HYPNOS_CUDA_DRIVER") == "" {
		t.Skip("SKIPPED: only for the library that stands in for the driver's; make cuda-emu has it")
	}
	path := filepath.Join(t.TempDir(), "check.json")
	var out strings.Builder
	if err := run([]string{"-small", "-json", path}, &out); err != nil {
		t.Fatal(err, out.String())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r result
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Ceilings) != 5 || len(r.Rows) != 6 || !r.Small || r.Device == "" {
		t.Errorf("%s", text)
	}
	for _, row := range r.Rows {
		if !row.Right || !(row.Worst > 0) || !(row.Worst <= 1) || !(row.MS > 0) || !strings.Contains(out.String(), "\n"+row.Kernel+" ") {
			t.Errorf("%+v", row)
		}
	}
}

// What is not near is wrong, NaN above all.
func TestWorse(t *testing.T) {
	nan := float32(math.NaN())
	for i, c := range []struct {
		got         float32
		want, bound float64
		worst       float64
	}{{1, 1, 0, 0.5}, {1, 1.25, 0.25, 1}, {1, 1.5, 0.25, 2}, {nan, 1, 1, math.Inf(1)}, {1, math.NaN(), 1, math.Inf(1)}, {2, 1, 0, math.Inf(1)}} {
		if got := worse(0.5, c.got, c.want, c.bound); got != c.worst {
			t.Errorf("case %d: %g, not %g", i, got, c.worst)
		}
	}
}
