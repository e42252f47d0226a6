//go:build cuda && cgo && linux && amd64

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/bench/experiment"
	"hypnos/core/data/datatest"
	"hypnos/core/model"
)

// emulated skips a test without the library that stands in for the driver's.
func emulated(t *testing.T) {
	t.Helper()
	if os.Getenv("HYPNOS_CUDA_DRIVER") == "" {
		t.Skip("SKIPPED: only for the library that stands in for the driver's; make cuda-emu has it")
	}
}

// A build with CUDA lists the devices; without a driver it says so in one line and succeeds.
func TestDoctorCUDA(t *testing.T) {
	emulated(t)
	works(t, []string{"doctor"}, "device 0: CPU emulation, capability 8.0, 2048 MB", "driver for CUDA 13.0")
}

// A run keeps its images on the device, where it was not told otherwise, and says so; it goes on from a checkpoint with images from
// the host, and the other way round, and ends with the same bits.
func TestTrainCUDAFromEitherPlace(t *testing.T) {
	emulated(t)
	const device, host = "training images stay on the device: 0.0 MB\n", "training images"
	source := datatest.ClassFolders(t, 8, 8, 3)
	train := func(dir, backend, steps string) result {
		return works(t, trainTiny(dir, "resnet8-lc", source, "backend="+backend, "train.batch=8", "train.steps="+steps))
	}
	parameters := func(dir string) []byte {
		f, err := model.Open(filepath.Join(dir, experiment.CheckpointFile))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.Meta = nil // has times
		var b bytes.Buffer
		if err := model.Write(&b, &f.Params); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	whole := t.TempDir()
	if r := train(whole, "cuda", "4"); !strings.Contains(r.err, device) {
		t.Errorf("no %q in\n%s", device, r.err)
	}
	want := parameters(whole)
	for _, order := range [][2]string{{"cuda", "cuda:images=host"}, {"cuda:images=host", "cuda"}} {
		dir := t.TempDir()
		for i, backend := range order {
			r := train(dir, backend, []string{"2", "4"}[i])
			if on := backend == "cuda"; strings.Contains(r.err, device) != on || strings.Contains(r.err, host) != on {
				t.Errorf("%s says\n%s", backend, r.err)
			}
		}
		if !bytes.Equal(parameters(dir), want) {
			t.Errorf("%v: other parameters", order)
		}
	}
	r := works(t, trainTiny(t.TempDir(), "resnet8-lc", source, "backend=cuda", "train.batch=8", "train.steps=1", "data.pad=0", "data.resized_crop=true"))
	if want := "training images come from the host: resized crops are made there\n"; !strings.Contains(r.err, want) {
		t.Errorf("no %q in\n%s", want, r.err)
	}
}

// The plan counts images that are kept, and says why others are not.
func TestSummaryCUDA(t *testing.T) {
	emulated(t)
	args := []string{"summary", "resnet20-lc", "--backend", "cuda", "--batch", "32", "--train"}
	var without, with networkSummary
	parseJSON(t, works(t, append(args, "--json")).out, &without)
	parseJSON(t, works(t, append(args, "--json", "--images", "50000")).out, &with)
	const images = 50_000 * 32 * 32 * 3
	if m := with.Memory; m.Feed == nil || !m.Feed.Kept || m.Feed.Bytes != images || m.Memory.Images < images || m.Total < without.Memory.Total+images || !m.Fits {
		t.Errorf("plan %+v, feed %+v; without images %+v", m, m.Feed, without.Memory)
	}
	works(t, append(args, "--images", "50000"), "training images stay on the device: 153.6 MB\n")
	works(t, append(args, "--images", "100000", "--image-size", "64"), "training images come from the host: their 1228.8 MB do not fit beside the ")
	var large networkSummary
	parseJSON(t, works(t, append(args, "--json", "--images", "100000", "--image-size", "64")).out, &large)
	if m := large.Memory; m.Feed.Kept || m.Memory.Images != 0 || m.Total != without.Memory.Total {
		t.Errorf("plan %+v, feed %+v; without images %+v", m, m.Feed, without.Memory)
	}
}
