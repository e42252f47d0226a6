package experiment_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"hypnos/bench/experiment"
	"hypnos/core/data/datatest"
	"hypnos/core/model"
	"hypnos/core/train"
)

// tiny is a run of two epochs of three batches, asleep after the first and third of each, on images of 8x8 pixels.
func tiny(t *testing.T, more ...string) experiment.Config {
	t.Helper()
	return load(t, "", append([]string{
		"name=tiny", "backend=cpu:threads=1", "data.path=" + datatest.ClassFolders(t, 8, 8, 3), "data.pad=1",
		"network.name=resnet8-lc", "network.input=8", "network.width=2",
		"train.epochs=2", "train.batch=8", "train.drops=[1]", "sleep.every=2", "sleep.before_eval=true",
	}, more...)...)
}

// observer does something at every metric of a run, which are counted from 1.
type observer struct {
	n  int
	do func(n int, metric any)
}

func (o *observer) Begin(int64, train.State) {}
func (o *observer) Observe(metric any) {
	o.n++
	if o.do != nil {
		o.do(o.n, metric)
	}
}

// runIn runs in a directory.
func runIn(ctx context.Context, dir string, c experiment.Config, do func(n int, metric any)) (train.State, *train.Eval, error) {
	d, err := experiment.OpenDir(dir)
	if err != nil {
		return train.State{}, nil, err
	}
	defer d.Close()
	return experiment.Run(ctx, c, d, &observer{do: do})
}

// finish runs to the end.
func finish(t *testing.T, dir string, c experiment.Config) {
	t.Helper()
	if s, e, err := runIn(context.Background(), dir, c, nil); err != nil || !s.Done || e == nil {
		t.Fatalf("run ended with %+v, %+v, %v", s, e, err)
	}
}

// whole is the directory of a run that was not interrupted.
func whole(t *testing.T, c experiment.Config) string {
	t.Helper()
	dir := t.TempDir()
	finish(t, dir, c)
	return dir
}

func readFile(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// untimed takes measured times out of JSON.
func untimed(t *testing.T, text []byte) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	var clean func(v any)
	clean = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, key := range []string{"seconds", "took", "duration_ns"} {
				delete(v, key)
			}
			for _, w := range v {
				clean(w)
			}
		case []any:
			for _, w := range v {
				clean(w)
			}
		}
	}
	clean(v)
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// metrics are the lines of a run, without measured times.
func metrics(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	for line := range bytes.Lines(readFile(t, dir, experiment.MetricsFile)) {
		lines = append(lines, untimed(t, line))
	}
	return lines
}

// sameRun reports where the files of a run differ from another's: parameters and optimiser by their bits.
func sameRun(t *testing.T, what, dir, want string) {
	t.Helper()
	got, old := append(metrics(t, dir), "end"), append(metrics(t, want), "end")
	for i := range min(len(got), len(old)) {
		if got[i] != old[i] {
			t.Errorf("%s: line %d of the metrics is\n%s, want\n%s", what, i+1, got[i], old[i])
			break
		}
	}
	if g, w := content(t, dir), content(t, want); g != w {
		t.Errorf("%s: another checkpoint", what)
	}
	if g, w := readFile(t, dir, experiment.DataFile), readFile(t, want, experiment.DataFile); !bytes.Equal(g, w) {
		t.Errorf("%s: data\n%s\nwant\n%s", what, g, w)
	}
}

// content is all that a checkpoint holds but for times and what may differ between parts of a run.
func content(t *testing.T, dir string) string {
	t.Helper()
	k, f, err := experiment.ReadCheckpoint(filepath.Join(dir, experiment.CheckpointFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if k.State.Seconds <= 0 || k.State.Step < 1 {
		t.Errorf("the state of a run is %+v", k.State)
	}
	k.State.Seconds = 0
	var b bytes.Buffer
	f.Params.Meta = map[string]string{"state": fmt.Sprintf("%+v", k.State), "data": fmt.Sprintf("%+v", k.Data), "net": fmt.Sprint(k.Net.Params())}
	if err := model.Write(&b, &f.Params); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// copyRun copies the files of a run directory as they are at this moment: what a crash leaves, but for the last line
// of the metrics, which is cut short.
func copyRun(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(to, experiment.MetricsFile)
	datatest.Write(t, path, append(readFile(t, to, experiment.MetricsFile), `{"kind":"step","ep`...))
	return to
}

// Interrupted after each of its metrics, once or again and again, a run goes on bit for bit.
func TestInterruptedRunGoesOn(t *testing.T) {
	t.Parallel()
	c := tiny(t)
	want := whole(t, c)
	total := len(metrics(t, want))
	if total != 6+4+2+2 { // steps, sleeps, sleeps before evaluations, evaluations
		t.Fatalf("the run has %d metrics: %v", total, metrics(t, want))
	}
	often := t.TempDir()
	parts := 0
	for at := 1; at <= total; at++ {
		dir := t.TempDir()
		ctx, cancel := context.WithCancel(context.Background())
		s, _, err := runIn(ctx, dir, c, func(n int, _ any) {
			if n == at {
				cancel()
			}
		})
		if at == total != (err == nil) || err != nil && !errors.Is(err, train.ErrInterrupted) {
			t.Errorf("interrupted after metric %d: error %v", at, err)
		}
		finish(t, dir, c)
		sameRun(t, fmt.Sprintf("interrupted after metric %d, at %+v", at, s), dir, want)

		ctx, cancel = context.WithCancel(context.Background())
		s, _, err = runIn(ctx, often, c, func(int, any) { cancel() })
		parts++
		if err == nil && s.Done {
			break
		}
	}
	if parts < 6 {
		t.Errorf("the often interrupted run had only %d parts", parts)
	}
	finish(t, often, c)
	sameRun(t, "interrupted again and again", often, want)
}

// After a crash at any moment a run goes on from the last checkpoint: what the metrics say of later steps is cut.
func TestCrashedRunGoesOn(t *testing.T) {
	t.Parallel()
	c := tiny(t)
	want := whole(t, c)
	interrupted := t.TempDir() // between the last step of an epoch and its evaluation
	ctx, cancel := context.WithCancel(context.Background())
	_, _, err := runIn(ctx, interrupted, c, func(_ int, metric any) {
		if m, ok := metric.(train.Step); ok && m.Step == 3 {
			cancel()
		}
	})
	if !errors.Is(err, train.ErrInterrupted) {
		t.Fatal(err)
	}
	crashes := 0
	for _, dir := range []string{t.TempDir(), interrupted} {
		var left []string
		if _, _, err := runIn(context.Background(), dir, c, func(int, any) { left = append(left, copyRun(t, dir)) }); err != nil {
			t.Fatal(err)
		}
		sameRun(t, "uninterrupted", dir, want)
		for i, crashed := range left {
			finish(t, crashed, c)
			sameRun(t, fmt.Sprintf("crashed after metric %d", i+1), crashed, want)
			crashes++
		}
	}
	if crashes < 20 {
		t.Errorf("only %d crashes", crashes)
	}
}

// A longer run is what it had been with that length from the beginning, and what may change between parts does.
func TestLongerRun(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ short, long []string }{
		{[]string{"train.epochs=1"}, nil},
		{[]string{"train.epochs=1", "name=other", "backend=cpu:threads=2", "data.workers=2", "train.save_every=0"}, nil},
	} {
		long := tiny(t, c.long...)
		short, err := long.With(c.short)
		if err != nil {
			t.Fatal(err)
		}
		dir := whole(t, short)
		finish(t, dir, short) // does nothing
		finish(t, dir, long)
		sameRun(t, fmt.Sprint(c.short), dir, whole(t, long))
		if got := string(readFile(t, dir, experiment.ConfigFile)); got != long.Text() {
			t.Errorf("%v: the directory's configuration is\n%s", c.short, got)
		}
	}
}

// files are the contents of a directory.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all[e.Name()] = string(readFile(t, dir, e.Name()))
	}
	return all
}

// refused runs in a directory and wants an error with the given parts and no file changed.
func refused(t *testing.T, dir string, c experiment.Config, parts ...string) {
	t.Helper()
	before := files(t, dir)
	_, _, err := runIn(context.Background(), dir, c, nil)
	if err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %v, want one line with %q", err, parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q, want %q in it", err, part)
		}
	}
	after := files(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("refused with %q, and yet %s is changed", err, name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("refused with %q, and yet there are other files", err)
	}
}

func TestAnotherRunIsRefused(t *testing.T) {
	t.Parallel()
	c := tiny(t)
	dir := whole(t, c)
	for _, set := range []string{
		"seed=2", "data.size=9", "data.fit=crop", "data.skip_corrupt=true", "data.holdout=2", "data.train_limit=9", "data.test_limit=4",
		"data.pad=2", "data.flip=true", "data.reps=2", "network.name=resnet8", "network.input=12", "network.width=3",
		"network.first_conv=true", "network.tied=true", "train.batch=4", "train.optimizer=adam", "train.lr=0.5",
		"train.drops=[]", "train.factor=0.5", "train.weight_decay=0.5", "train.momentum=0.5", "sleep.every=3",
		"sleep.count=steps", "sleep.before_eval=false", "sleep.rule=observe", "sleep.border=rests",
	} {
		other, err := c.With([]string{set})
		if err != nil {
			t.Fatal(err)
		}
		key, _, _ := strings.Cut(set, "=")
		refused(t, dir, other, dir, key+" = ")
	}
	other := c
	other.Data.Path = datatest.ClassFolders(t, 8, 9, 3)
	refused(t, dir, other, dir, "trained on other images", "24 + 9", "27 + 9")
	finish(t, dir, c)
}

func TestCheckpointOfAnotherNetworkIsRefused(t *testing.T) {
	t.Parallel()
	c := tiny(t)
	dir := whole(t, c)
	checkpoint := filepath.Join(dir, experiment.CheckpointFile)
	own := readFile(t, dir, experiment.CheckpointFile)
	wide, err := c.With([]string{"network.width=3"})
	if err != nil {
		t.Fatal(err)
	}
	others := readFile(t, whole(t, wide), experiment.CheckpointFile)
	datatest.Write(t, checkpoint, others)
	refused(t, dir, c, "network.width = 3 there, width = 2 here")

	// The weights of one under the metadata of the other.
	mixed, err := model.Read(bytes.NewReader(others), int64(len(others)))
	if err != nil {
		t.Fatal(err)
	}
	meta, err := model.Read(bytes.NewReader(own), int64(len(own)))
	if err != nil {
		t.Fatal(err)
	}
	mixed.Meta = meta.Meta
	if err := model.Save(checkpoint, mixed); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, c, checkpoint, "stem.conv.weight", "shape")

	mixed.Meta = nil
	if err := model.Save(checkpoint, mixed); err != nil {
		t.Fatal(err)
	}
	refused(t, dir, c, checkpoint, "not a checkpoint of hypnos")
	datatest.Write(t, checkpoint, own[:len(own)-5])
	refused(t, dir, c, checkpoint, "truncated")
}

func TestOneRunADirectory(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("SKIPPED: directories are not locked on this system")
	}
	dir := t.TempDir()
	d, err := experiment.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = experiment.OpenDir(dir)
	wantError(t, "a second run", err, dir, "another process is using it")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = experiment.OpenDir(dir); err != nil {
		t.Fatal(err)
	}
	d.Close()
	path := filepath.Join(dir, "file")
	datatest.Write(t, path, nil)
	_, err = experiment.OpenDir(path)
	wantError(t, "a file", err, path)
}

func TestFigures(t *testing.T) {
	t.Parallel()
	for network, want := range map[string][]string{
		"resnet8": {experiment.AccuracyFigure}, "resnet8-lc": {experiment.AccuracyFigure, experiment.SNRFigure},
	} {
		all := files(t, whole(t, tiny(t, "network.name="+network, "sleep.before_eval=false", "sleep.count=steps")))
		for _, name := range want {
			if err := xml.Unmarshal([]byte(all[name+".svg"]), new(struct{})); err != nil {
				t.Errorf("%s: %s.svg: %v", network, name, err)
			}
			if _, err := png.Decode(strings.NewReader(all[name+".png"])); err != nil {
				t.Errorf("%s: %s.png: %v", network, name, err)
			}
		}
		if len(all) != 4+2*len(want) { // config, data, metrics, checkpoint
			t.Errorf("%s: %d files in the run directory", network, len(all))
		}
	}
}
