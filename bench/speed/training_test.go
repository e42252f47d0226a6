package speed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"hypnos/core"
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
