package table_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"hypnos/bench/experiment"
	"hypnos/bench/table"
	"hypnos/core/data/datatest"
	"hypnos/core/train"
)

// quiet observes nothing; it ends the context after so many steps, if that is not 0.
type quiet struct {
	steps *int
	after int
	stop  context.CancelFunc
}

func (quiet) Begin(int64, train.State) {}
func (q quiet) Observe(metric any) {
	if _, is := metric.(train.Step); is {
		if *q.steps++; *q.steps == q.after {
			q.stop()
		}
	}
}

// small are options for cells of a tiny network on a few images.
func small(t *testing.T, source, dir string, names ...string) table.Options {
	t.Helper()
	o := table.Options{Number: 1, Dir: dir, Seeds: []uint64{1, 2}}
	var err error
	if o.Base, _, err = table.Protocol(1, "sample"); err != nil {
		t.Fatal(err)
	}
	o.Base.Data.Path, o.Base.Data.Pad = source, 1
	o.Base.Network.Width, o.Base.Network.Input = 2, 8
	o.Base.Train.Batch, o.Base.Train.Epochs, o.Base.Train.Drops = 12, 2, []int{}
	if o.Cells, err = table.Choose(names); err != nil {
		t.Fatal(err)
	}
	return o
}

// run runs a table to its end, or up to so many steps; it returns how many steps were made.
func run(t *testing.T, o table.Options, upTo int) (*table.Table, int, error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	steps := 0
	o.Observe = func(string) experiment.Observer { return quiet{&steps, upTo, stop} }
	o.Done = func(string, table.Result) {}
	r, err := table.Run(ctx, o, "test")
	return r, steps, err
}

// figures are what a table measured, without times.
func figures(r *table.Table) (all [][]float64) {
	for _, row := range r.Rows {
		for _, result := range row.Runs {
			for _, e := range result.Evals {
				all = append(all, []float64{float64(e.Step), e.Loss, e.Top1, e.Top5})
			}
		}
	}
	return all
}

// TestRun: cells times seeds; what is whole is not done again; a table that is stopped anywhere and goes on gives the same figures; a
// folder of other runs is refused by the key that differs.
func TestRun(t *testing.T) {
	source := datatest.ClassFolders(t, 8, 8, 20)
	dir := t.TempDir()
	o := small(t, source, dir, "conv", "lc", "lc-reps4", "lc-ws1")
	whole, steps, err := run(t, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(whole.Rows) != 4 || len(whole.Rows[0].Runs) != 2 || steps == 0 {
		t.Fatalf("%d rows, %d steps", len(whole.Rows), steps)
	}
	if one, four := whole.Rows[1].Runs[0].Steps, whole.Rows[2].Runs[0].Steps; four < 3*one {
		t.Errorf("%d steps without repetition, %d with 4", one, four)
	}
	conv, ws1 := whole.Rows[0], whole.Rows[3]
	if conv.Diff != nil || ws1.Diff == nil || !(math.Abs(*ws1.Diff-(ws1.Top1.Mean-conv.Top1.Mean)) < 1e-9) || ws1.Top1.Runs != 2 || !(ws1.Top1.Min <= ws1.Top1.Mean && ws1.Top1.Mean <= ws1.Top1.Max) {
		t.Errorf("conv %+v, ws(1) %+v", conv.Top1, ws1)
	}
	if !ws1.Equal || ws1.SNR != nil || whole.Rows[1].SNR == nil {
		t.Errorf("ws(1) has SNR %v, LC %v", ws1.SNR, whole.Rows[1].SNR)
	}
	again, steps, err := run(t, o, 0)
	if err != nil || steps != 0 || !reflect.DeepEqual(figures(again), figures(whole)) {
		t.Errorf("again: %d steps, %v", steps, err)
	}
	var text bytes.Buffer
	if err := whole.WriteMarkdown(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| LC - ws(1) |", "Not the paper's protocol: resnet8 in place of resnet20", "2 epochs in place of 200", "2 of 5 runs a cell", "standard error"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if whole.Accuracy().Empty() || whole.Regularity().Empty() || !whole.Interval().Empty() {
		t.Error("figures are missing, or there is one of a single interval")
	}
	if _, err := json.Marshal(whole); err != nil {
		t.Error(err)
	}

	stopped := small(t, source, t.TempDir(), "conv", "lc", "lc-reps4", "lc-ws1")
	stops := 0
	for ; ; stops++ {
		r, _, err := run(t, stopped, 7)
		if err == nil {
			if !reflect.DeepEqual(figures(r), figures(whole)) {
				t.Errorf("stopped %d times the figures are %v, want %v", stops, figures(r), figures(whole))
			}
			break
		}
		if !errors.Is(err, train.ErrInterrupted) || stops > 100 {
			t.Fatalf("stop %d: %v", stops, err)
		}
	}
	if stops < 5 {
		t.Errorf("only %d stops", stops)
	}

	other := o
	other.Base.Data.Pad = 2
	if _, _, err := run(t, other, 0); err == nil || !strings.Contains(err.Error(), "data.pad") || !strings.Contains(err.Error(), filepath.Join(dir, "conv", "seed-1")) {
		t.Errorf("another padding in the same folder: %v", err)
	}
	longer := o
	longer.Cells, longer.Base.Train.Epochs = o.Cells[:1], 3
	if r, steps, err := run(t, longer, 0); err != nil || steps == 0 || len(r.Rows[0].Runs[0].Evals) != 3 {
		t.Errorf("a longer run: %d steps, %v", steps, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lc", "seed-1", "result.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, o, 0); err == nil || !strings.Contains(err.Error(), "result.json") {
		t.Errorf("a result that is no JSON: %v", err)
	}
}

// TestDiverged: a cell whose numbers are no longer finite is reported as that, and is no average.
func TestDiverged(t *testing.T) {
	o := small(t, datatest.ClassFolders(t, 8, 8, 20), t.TempDir(), "conv", "lc")
	o.Base.Train.LR, o.Seeds = 1e30, o.Seeds[:1]
	r, _, err := run(t, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := r.WriteMarkdown(&text); err != nil {
		t.Fatal(err)
	}
	if r.Rows[0].Top1 != nil || r.Rows[0].Runs[0].Diverged == "" || !strings.Contains(text.String(), "| conv | diverged |") || !strings.Contains(text.String(), "seed 1: diverged at step") {
		t.Errorf("%+v\n%s", r.Rows[0].Top1, text.String())
	}
	if _, steps, err := run(t, o, 0); err != nil || steps != 0 {
		t.Errorf("again: %d steps, %v", steps, err)
	}
}

// TestSearch: eight runs on held out images choose rate and decay; the cell is then trained with them on all.
func TestSearch(t *testing.T) {
	o := small(t, datatest.ClassFolders(t, 8, 8, 20), t.TempDir(), "lc")
	o.Search, o.Seeds, o.Base.Train.Epochs = true, o.Seeds[:1], 1
	r, _, err := run(t, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := r.Rows[0].Search
	if s == nil || s.Tried != 8 || !(s.LR > 0) || !(s.Top1 >= 0) {
		t.Fatalf("%+v", s)
	}
	conf, err := experiment.Parse(r.Rows[0].Runs[0].Config)
	if err != nil || conf.Train.LR != s.LR || conf.Train.WeightDecay != s.WeightDecay || conf.Data.Holdout != 0 {
		t.Errorf("trained with %+v, %v", conf.Train, err)
	}
}

func TestChoose(t *testing.T) {
	for want, names := range map[string][]string{`no cell "lc-ws7"`: {"conv", "lc-ws7"}, `"conv" is given twice`: {"conv", "lc", "conv"}} {
		if _, err := table.Choose(names); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	for number, scale := range map[int]string{3: "paper", 1: "moon"} {
		if _, _, err := table.Protocol(number, scale); err == nil {
			t.Errorf("table %d, scale %s", number, scale)
		}
	}
	configured := 0
	for _, scale := range table.Scales() { // every cell is a configuration that can be run
		for number := 1; number <= 2; number++ {
			base, awake, err := table.Protocol(number, scale)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range table.Cells() {
				conf := (table.Options{Base: base, Awake: awake}).Configure(c, 1)
				if err := conf.Check(); err != nil {
					t.Errorf("table %d, %s: %v", number, c.Name, err)
				}
				if slower := conf.Train.LR < base.Train.LR; slower != (awake != nil && c.Interval == 0 && c.Name != "conv") {
					t.Errorf("table %d, %s: learning rate %g", number, c.Name, conf.Train.LR)
				}
				configured++
			}
		}
	}
	if configured < 60 {
		t.Errorf("%d cells", configured)
	}
}
