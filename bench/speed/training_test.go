package speed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hypnos/core"
	"hypnos/core/data/datatest"
)

// trained measures rows of training on a machine with so much memory free.
func trained(t *testing.T, freeMB int64, keys ...Key) (Result, string) {
	t.Helper()
	var text bytes.Buffer
	r := Result{}
	b := bench{threads: 1, budget: time.Millisecond, machine: Machine{AvailableMB: freeMB}}
	b.cpu.Threads = 1
	if err := b.trainings(context.Background(), keys, &r, &table{out: &text, progressTo: io.Discard}); errors.Is(err, core.ErrUnsupported) {
		t.Skipf("cannot measure: %v", err) // which gives the memory needed and the memory free
	} else if err != nil {
		t.Fatal(err)
	}
	return r, text.String()
}

// Training takes the memory of the plan within 10 %: a promise, and wide enough for what the plan does not count, the
// pipeline's 0.3 MB, and a few tensors of initial weights (9.4 MB each) while they are loaded, of 669 MB.
func TestMemoryOfTraining(t *testing.T) {
	if _, err := resetPeak(); err != nil {
		t.Skipf("cannot measure: %v", err)
	}
	if raceDetector {
		t.Skip("the race detector takes memory of its own")
	}
	k := Key{Memory, "r20lc", 8, TrainStep}
	r, text := trained(t, 2000, k)
	if len(r.Memory) != 1 || len(r.Skipped) != 0 {
		t.Fatalf("result %+v", r)
	}
	row := r.Memory[0]
	t.Logf("plan %d bytes, peak %d bytes, ratio %.3f", row.PlanBytes, row.PeakBytes, row.Ratio)
	if row.Key != k || row.PlanBytes != row.Plan.Total() || row.PlanBytes < 600e6 || row.InputBytes != 3*8*(32*32*3+1)*4 {
		t.Errorf("row %+v", row)
	}
	if !(row.Ratio >= 0.9 && row.Ratio <= 1.1) {
		t.Errorf("peak / plan is %.3f, want 1 within 10 %%", row.Ratio)
	}
	if !strings.Contains(text, "peak / plan") || !strings.Contains(text, "r20lc") {
		t.Errorf("text is\n%s", text)
	}
	has(t, r, `"memory":[{"kind":"memory","layer":"r20lc","batch":8,"what":"train_step_AdamW","plan":{"weights":`, `"plan_bytes":`, `"input_bytes":`, `"peak_bytes":`, `"ratio":`)
}

func TestInputOfTraining(t *testing.T) {
	k := Key{Input, "r8w8", 4, TrainStep}
	r, text := trained(t, 2000, k)
	if len(r.Inputs) != 1 || len(r.Skipped) != 0 {
		t.Fatalf("result %+v", r)
	}
	row := r.Inputs[0]
	if row.Key != k || !(row.Pipeline.Median > 0) || !(row.Training.Median > 0) || row.Training.N < minSamples || row.Wait.N != row.Training.N {
		t.Errorf("row %+v", row)
	}
	if !(row.Wait.Min >= 0 && row.Wait.Max <= 1) {
		t.Errorf("shares of waiting %+v", row.Wait)
	}
	if !strings.Contains(text, "waits") || !strings.Contains(text, "r8w8") {
		t.Errorf("text is\n%s", text)
	}
	has(t, r, `"input":[{"kind":"input","layer":"r8w8","batch":4,`, `"pipeline_images_per_s":{`, `"training_images_per_s":{`, `"wait_share":{`)
}

// What does not fit the memory is skipped with both figures.
func TestTrainingSkips(t *testing.T) {
	k := Key{Memory, "r20lc", 512, TrainStep}
	r, _ := trained(t, 100, k)
	if len(r.Memory) != 0 || len(r.Skipped) != 1 || r.Skipped[0].Name != "memory/r20lc/512/train_step_AdamW" || !strings.Contains(r.Skipped[0].Reason, "100 MB are free") {
		t.Errorf("result %+v", r)
	}
}

// has tells whether the JSON of a result has the given parts.
func has(t *testing.T, r Result, parts ...string) {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range parts {
		if !strings.Contains(string(text), part) {
			t.Errorf("no %s in\n%s", part, text)
		}
	}
}

// ImageNet's pipeline beside training, with made-up photos and, where they are, the real sample; a small network stands for the large.
func TestImageNetPipeline(t *testing.T) {
	for _, source := range []string{"", "../../../shared/data/imagenet-sample.tar"} {
		name := "real photos"
		if source == "" {
			name = "made-up photos"
		}
		t.Run(name, func(t *testing.T) {
			if _, err := os.Stat(source); source != "" && err != nil {
				t.Skipf("the ImageNet sample is not there: %v", err)
			}
			keys := []Key{{ImageNet, "r8w8", 4, TrainStep}, {ImageNet, "r8w8", 4, WakeSleep}}
			var text bytes.Buffer
			r := Result{}
			b := bench{threads: 1, budget: time.Millisecond, machine: Machine{AvailableMB: 2000}}
			b.cpu.Threads = 1
			if err := b.imageNets(context.Background(), keys, source, &r, &table{out: &text, progressTo: io.Discard}); err != nil {
				t.Fatal(err)
			}
			if len(r.ImageNet) != 2 || len(r.Skipped) != 0 {
				t.Fatalf("result %+v", r)
			}
			for i, row := range r.ImageNet {
				if row.Key != keys[i] || (row.Images == source) != (source != "") {
					t.Errorf("row %+v", row)
				}
				for _, s := range []Spread{row.Step, row.Decode, row.Crop, row.Resized, row.DecodeRatio, row.CropRatio, row.ResizedRatio, row.Training} {
					if !(s.Min > 0) || math.IsInf(s.Max, 0) || s.N < minSamples {
						t.Errorf("row %+v", row)
					}
				}
				if !(row.Crop.Median > row.Decode.Median) { // a decoded image is decoded no more
					t.Errorf("%g images/s are decoded, %g read", row.Decode.Median, row.Crop.Median)
				}
				if !(row.Wait.Min >= 0 && row.Wait.Max <= 1) {
					t.Errorf("shares of waiting %+v", row.Wait)
				}
			}
			t.Logf("%s", text.String())
			has(t, r, `"imagenet":[{"kind":"imagenet","layer":"r8w8","batch":4,`, `"decode_by_step":{`, `"wait_share":{`)
		})
	}
}

// A source of images that cannot be decoded is an error that names the file.
func TestImageNetPipelineRefuses(t *testing.T) {
	source := t.TempDir()
	datatest.Write(t, filepath.Join(source, "train", "x", "1.jpg"), []byte("none"))
	b := bench{threads: 1, budget: time.Millisecond, machine: Machine{AvailableMB: 2000}}
	err := b.imageNets(context.Background(), []Key{{ImageNet, "r8w8", 4, TrainStep}}, source, &Result{}, &table{out: io.Discard, progressTo: io.Discard})
	if err == nil || !strings.Contains(err.Error(), source+": train/x/1.jpg: image: unknown format") {
		t.Errorf("got %v", err)
	}
}
