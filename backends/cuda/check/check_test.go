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
	peer := `echo '{"name":"adam/odd","form":"plain","ms":1e9}{"name":"adam/odd","form":"strong","ms":1e3}'`
	if err := run([]string{"-small", "-json", path, "-peer", peer}, &out); err != nil {
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
	if len(r.Ceilings) != 5 || len(r.Rows) != 6+36+6 || !r.Small || r.Device == "" {
		t.Errorf("%s", text)
	}
	for _, row := range r.Rows {
		if adam := row.Kernel+"/"+row.Size == "adam/odd"; adam != (len(row.Peers) == 2) {
			t.Errorf("peers of %s/%s: %v", row.Kernel, row.Size, row.Peers)
		}
		if !row.Right || !(row.Worst >= 0) || !(row.Worst <= 1) || !(row.MS > 0) || !strings.Contains(out.String(), "\n"+row.Kernel+" ") {
			t.Errorf("%+v", row)
		}
	}
}

// A peer that fails, or prints something else, is an error that names it.
func TestPeerErrors(t *testing.T) {
	for _, command := range []string{"exit 3", "echo no"} {
		if _, err := measured(command); err == nil || !strings.Contains(err.Error(), command) {
			t.Errorf("%s: %v", command, err)
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
