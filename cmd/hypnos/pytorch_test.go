package main

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/core/data/datatest"
	"hypnos/core/model"
)

// A network that was exported for PyTorch gives in PyTorch, by the recipe of docs/load_in_pytorch.py, what it gives here: read from
// the activations that were exported beside it. The safetensors file is read by the format's own library.
func TestExportPyTorch(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	for _, network := range []string{"resnet8-lc", "resnet8", "mixer-lc"} {
		more := map[string][]string{"mixer-lc": {"network.patch=2", "network.depth=1", "network.width=4"}}[network]
		trained := filepath.Join(dir, network)
		works(t, trainTiny(trained, network, source, more...))
		checkpoint := filepath.Join(trained, "checkpoint.safetensors")
		file, npy := filepath.Join(dir, network+".st"), filepath.Join(dir, network+"-npy")
		const images = 18 // more than a batch
		r := works(t, []string{"export", "-m", checkpoint, "--pytorch", file, "--npy", npy, "--images", "18", "--layers", "linear", "--backend", "ref"}, "PyTorch's layout", "linear.npy: (18, 3, 1, 1)")
		if r.err != "" {
			t.Errorf("said %q", r.err)
		}
		logits := readNPY(t, filepath.Join(npy, "linear.npy"), images*3)
		if labels, err := os.Stat(filepath.Join(npy, "labels.npy")); err != nil || labels.Size() != 128+4*images {
			t.Errorf("labels: %v, %v", labels, err)
		}
		python := torchPython(t)
		if python == "" {
			continue
		}
		k, err := openModel(checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		d, err := openFor(k.Checkpoint, "")
		if err != nil {
			t.Fatal(err)
		}
		side := d.Test.Shape.H
		head, err := model.NPYHeader(model.F32, []int{images, 3, side, side})
		if err != nil {
			t.Fatal(err)
		}
		pixels := filepath.Join(dir, "pixels.npy")
		for i := range images {
			for c := range 3 {
				for p := range side * side {
					head = binary.LittleEndian.AppendUint32(head, math.Float32bits(float32(d.Test.Image(i)[3*p+c])/255))
				}
			}
		}
		if err := os.WriteFile(pixels, head, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(python, "../../docs/load_in_pytorch.py", file, pixels).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		var got [][]float64
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		largest := 0.0
		for _, v := range logits {
			largest = max(largest, math.Abs(v))
		}
		// float32 against float64: each of some ten layers adds relative errors of (K+2)·2^-24, K below 600, to sums whose terms are
		// some times larger than they; 10·600·2^-24 = 3.6e-4.
		tolerance := 3.6e-4 * (1 + largest)
		for i, row := range got {
			for j, v := range row {
				if !(math.Abs(v-logits[3*i+j]) <= tolerance) {
					t.Fatalf("%s: logit %d of image %d is %g in PyTorch, %g here (tolerance %g)", network, j, i, v, logits[3*i+j], tolerance)
				}
			}
		}
		if len(got) != images {
			t.Errorf("%d images", len(got))
		}
	}
	if torchPython(t) == "" {
		t.Skip("SKIPPED: no python3 with torch and safetensors (HYPNOS_PYTHON names another): exported, not run")
	}
}

// torchPython is a Python that has what the recipe needs, "" without one.
func torchPython(t *testing.T) string {
	t.Helper()
	for _, python := range []string{os.Getenv("HYPNOS_PYTHON"), "python3"} {
		if python != "" && exec.Command(python, "-c", "import torch, safetensors").Run() == nil {
			return python
		}
	}
	return ""
}

// readNPY reads a NumPy file of n float32.
func readNPY(t *testing.T, path string, n int) []float64 {
	t.Helper()
	text := read(t, path)
	if !strings.HasPrefix(text, "\x93NUMPY\x01\x00") || len(text) < 4*n {
		t.Fatalf("%s: %d bytes", path, len(text))
	}
	data := []byte(text[len(text)-4*n:])
	x := make([]float64, n)
	for i := range x {
		x[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:])))
	}
	return x
}
