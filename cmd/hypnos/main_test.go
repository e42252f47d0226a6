package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hypnos/backends"
	"hypnos/bench/experiment"
	"hypnos/core/data/datatest"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/train"
)

// result is what a command gave.
type result struct {
	code     int
	out, err string
}

// hypnos runs a command.
func hypnos(ctx context.Context, args ...string) result {
	var out, err bytes.Buffer
	code := run(ctx, args, console{&out, &err})
	return result{code, out.String(), err.String()}
}

// works runs a command that must succeed, and print the given parts.
func works(t *testing.T, args []string, parts ...string) result {
	t.Helper()
	r := hypnos(context.Background(), args...)
	if r.code != exitOK {
		t.Fatalf("hypnos %q: exit code %d: %s", args, r.code, r.err)
	}
	for _, part := range parts {
		if !strings.Contains(r.out, part) {
			t.Errorf("hypnos %q: no %q in\n%s", args, part, r.out)
		}
	}
	return r
}

// fails runs a command that must fail with one line that has the given parts, print no result and change no file of a
// folder.
func fails(t *testing.T, dir string, code int, args []string, parts ...string) {
	t.Helper()
	before := tree(t, dir)
	r := hypnos(context.Background(), args...)
	message := r.err[strings.LastIndex(strings.TrimSuffix(r.err, "\n"), "\n")+1:] // behind lines of progress
	if r.code != code || r.out != "" || !strings.HasPrefix(message, "hypnos") || len(message) > 600 {
		t.Errorf("hypnos %q: exit code %d, want %d; output %q, error %q", args, r.code, code, r.out, r.err)
	}
	for _, part := range parts {
		if !strings.Contains(message, part) {
			t.Errorf("hypnos %q: error %q, want %q in it", args, message, part)
		}
	}
	after := tree(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("hypnos %q failed, and yet %s is changed", args, name)
		}
	}
}

// tree are the contents of the files below a folder.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var text []byte
			text, err = os.ReadFile(path)
			all[path] = string(text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// tiny are settings of a quick network on the images of a source.
func tiny(source string, more ...string) []string {
	var args []string
	for _, s := range append([]string{
		"data.path=" + source, "data.pad=1", "network.input=8", "network.width=2", "train.batch=8", "train.drops=[]",
	}, more...) {
		args = append(args, "--set", s)
	}
	return args
}

// trainTiny are the arguments of a quick training run of a network in a directory.
func trainTiny(dir, network, source string, more ...string) []string {
	return append([]string{"train", "--dir", dir}, tiny(source, append([]string{"network.name=" + network, "train.epochs=2"}, more...)...)...)
}

// parseJSON reads what a command wrote and refuses fields that the type does not have.
func parseJSON(t *testing.T, text string, v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestHelp(t *testing.T) {
	for _, arg := range []string{"help", "-h", "--help"} {
		r := works(t, []string{arg})
		for _, cmd := range commands() {
			if !strings.Contains(r.out, cmd.name) || !strings.Contains(r.out, cmd.summary) {
				t.Errorf("hypnos %s does not tell of %s", arg, cmd.name)
			}
		}
	}
	examples := 0
	for _, cmd := range commands() {
		for _, arg := range []string{"-h", "--help"} {
			works(t, []string{cmd.name, arg}, "Usage: hypnos "+cmd.name, "\nExamples:\n", "\nFlags:\n")
		}
		_, text, _ := strings.Cut(works(t, []string{cmd.name, "--help"}).out, "\nExamples:\n")
		text, _, _ = strings.Cut(text, "\n\n")
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "hypnos" || words[1] != cmd.name {
				t.Errorf("%s: the example %q is of another command", cmd.name, line)
				continue
			}
			// A flag that does not parse is refused before --help, which ends every command, is reached.
			works(t, append(words[1:], "--help"))
			examples++
		}
	}
	if examples < 2*len(commands()) {
		t.Errorf("%d examples of %d commands", examples, len(commands()))
	}
}

func TestUsageErrors(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"dance"}, `unknown command "dance"`},
		{[]string{"summary"}, "missing argument NETWORK"},
		{[]string{"summary", "resnet8", "resnet20"}, `unexpected argument "resnet20"`},
		{[]string{"doctor", "--wide"}, "wide"},
		{[]string{"train", "--set"}, "set"},
		{[]string{"eval"}, "-m FILE"},
		{[]string{"demo", "--epochs", "0"}, "0 epochs"},
		{[]string{"demo", "--epochs", "many"}, "epochs"},
	} {
		fails(t, t.TempDir(), exitUsage, c.args, c.want, "(see hypnos ")
	}
	if r := hypnos(context.Background()); r.code != exitUsage || !strings.Contains(r.err, "Usage: hypnos COMMAND") {
		t.Errorf("without a command: %+v", r)
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitOK}, {flag.ErrHelp, exitOK}, {errors.New("a\nb"), exitFailed}, {usageError{errors.New("x")}, exitUsage},
		{fmt.Errorf("x: %w", train.ErrInterrupted), exitInterrupted}, {fmt.Errorf("x: %w", context.Canceled), exitInterrupted},
	} {
		var text bytes.Buffer
		if got := report(console{io.Discard, &text}, "x", c.err); got != c.want || strings.Count(text.String(), "\n") > 1 {
			t.Errorf("%v: exit code %d, want %d; %q", c.err, got, c.want, text.String())
		}
	}
}

// The demonstration, short, on the embedded sample: its table, its data and its figure.
func TestDemo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	jsonFile := filepath.Join(dir, "out.json")
	args := []string{"demo", "--epochs", "1", "--out", dir, "--json", jsonFile, "--set", "data.train_limit=40",
		"--set", "data.test_limit=20", "--set", "network.width=2", "--set", "train.batch=20"}
	names := []string{"conv", "LC", "LC - 4 reps", "LC - ws(1)", "LC - ws(10)"}
	r := works(t, args, append(names, "connectivity", "CIFAR-10 sample", "2 steps of 20 images", "figure: ")...)
	if !strings.Contains(r.out, read(t, filepath.Join(dir, "table.txt"))) {
		t.Errorf("table.txt is not what was printed")
	}
	if n := strings.Count(r.err, "test top-1"); n != len(names) || strings.ContainsAny(r.err, "\r\x1b") {
		t.Errorf("progress is not in plain lines, or not of all rows:\n%s", r.err)
	}
	var d demoResult
	parseJSON(t, read(t, jsonFile), &d)
	if d.Train != 40 || d.Test != 20 || d.Steps != 2 || d.Batch != 20 || d.Seed != 1 || d.Width != 2 || len(d.Cells) != len(names) || !(d.Seconds > 0) {
		t.Fatalf("the demonstration as data is %+v", d)
	}
	if c, err := experiment.Parse(d.Base); err != nil || c.Data.TrainLimit != 40 || len(c.Train.Drops) != 0 {
		t.Errorf("the configuration reads as %+v (%v)", c, err)
	}
	for i, c := range d.Cells {
		lc := c.Name != "conv"
		if c.Name != names[i] || c.Steps != 2 || c.Images != 40 || len(c.Evals) == 0 || !(c.Loss > 0) || !(c.Seconds > 0) || (c.Diff != nil) != lc {
			t.Errorf("row %d is %+v", i, c)
		}
		if equal := c.Name == "LC - ws(1)"; c.Equal != equal || (c.SNR == nil) != (equal || !lc) {
			t.Errorf("%s: weights equal %t, SNR %v", c.Name, c.Equal, c.SNR)
		}
		if lc && !(math.Abs(c.Top1-d.Cells[0].Top1-*c.Diff) < 1e-12) { // one rounding of numbers up to 1
			t.Errorf("%s: difference %g of %g and %g", c.Name, *c.Diff, c.Top1, d.Cells[0].Top1)
		}
	}
	for _, name := range []string{"accuracy.svg", "accuracy.png"} {
		if read(t, filepath.Join(dir, name)) == "" {
			t.Errorf("%s is empty", name)
		}
	}
	fails(t, dir, exitFailed, append(args, "--set", "train.batch=6"), "LC - 4 reps", "data.reps")
}

// A run that is interrupted, gone on with and tested on both backends.
func TestTrainAndEval(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), filepath.Join(t.TempDir(), "run")
	args := trainTiny(dir, "resnet8-lc", source, "train.epochs=4", "sleep.every=2")
	stopped, stop := context.WithCancel(context.Background())
	stop()
	r := hypnos(stopped, args...)
	if r.code != exitInterrupted || !strings.Contains(r.err, "step 0 is saved in "+dir) || r.out != "" {
		t.Errorf("interrupted: %+v", r)
	}
	works(t, append(args, "--set", "train.steps=5"), "5 steps", "results in "+dir)
	r = works(t, args, "run: 12 steps", "test: top-1", "(60 images)", "weights: SNR")
	for _, want := range []string{"reading " + source + "\n", "going on at step 5 of 12", "epoch 4 step 12/12", "images/s", "s left"} {
		if !strings.Contains(r.err, want) || strings.ContainsAny(r.err, "\r\x1b") {
			t.Errorf("no %q in the plain lines of progress\n%s", want, r.err)
		}
	}
	for _, name := range []string{"config.toml", "data.json", "metrics.jsonl", "accuracy.svg", "accuracy.png", "snr.svg", "snr.png"} {
		if read(t, filepath.Join(dir, name)) == "" {
			t.Errorf("%s is empty", name)
		}
	}
	checkpoint := filepath.Join(dir, "checkpoint.safetensors")
	evals := map[string]train.Eval{}
	for _, backend := range []string{"cpu", "ref"} {
		out := filepath.Join(t.TempDir(), "eval.json")
		works(t, []string{"eval", "-m", checkpoint, "--backend", backend, "--json", out}, "trained for 12 steps", "(60 images)")
		var e train.Eval
		parseJSON(t, read(t, out), &e)
		if e.Images != 60 || e.Step != 12 {
			t.Errorf("%s: %+v", backend, e)
		}
		evals[backend] = e
	}
	// Both compute the same function; float32 may turn the answer only where two logits are all but equal, which two of
	// sixty images are allowed. The loss is a mean of logarithms through ten layers of at most 9·8 terms: 1e-3 is wide.
	cpu, ref := evals["cpu"], evals["ref"]
	if !(math.Abs(cpu.Top1-ref.Top1) <= 2.0/60+1e-12) || !(math.Abs(cpu.Loss-ref.Loss) <= 1e-3*ref.Loss) {
		t.Errorf("cpu %g, %g; ref %g, %g", cpu.Top1, cpu.Loss, ref.Top1, ref.Loss)
	}
	before := read(t, checkpoint)
	works(t, []string{"eval", "-m", checkpoint, "--sleep", "--batch", "7"}, "SNR inf")
	if read(t, checkpoint) != before {
		t.Error("eval --sleep changed the checkpoint")
	}
	works(t, []string{"eval", "-m", checkpoint, "--data", datatest.ClassFolders(t, 8, 1, 2)}, "(6 images)")
	works(t, []string{"summary", checkpoint}, "stem.conv", "lc2d")
	if r := hypnos(stopped, "eval", "-m", checkpoint); r.code != exitInterrupted || r.out != "" {
		t.Errorf("eval interrupted: %+v", r)
	}
	if r := hypnos(stopped, "demo", "--out", t.TempDir()); r.code != exitInterrupted || r.out != "" {
		t.Errorf("demo interrupted: %+v", r)
	}
}

func TestSummary(t *testing.T) {
	var s net.Summary
	parseJSON(t, works(t, []string{"summary", "resnet20-lc", "--json"}).out, &s)
	// 40,812,544 is the size of the paper's network for CIFAR-10: every position of every layer has its own kernel.
	if s.Weights != 40812544 || s.Linear != 64*10+10 || s.Bytes["float32"] != 4*s.Weights {
		t.Errorf("%d weights, %d linear, %v bytes", s.Weights, s.Linear, s.Bytes)
	}
	lc := int64(0)
	for _, l := range s.Layers {
		if l.Out.H < 1 || l.Out.W < 1 || l.Out.C < 1 {
			t.Errorf("%s has the shape %v", l.Name, l.Out)
		}
		if l.Op == "lc2d" {
			lc += int64(l.Out.Len()) * int64(l.Kernel*l.Kernel*l.In.C/l.Groups)
		}
	}
	if lc != s.Weights {
		t.Errorf("the shapes of the layers give %d weights, want %d", lc, s.Weights)
	}
	works(t, []string{"summary", "resnet20-lc"}, "40,812,544 weights", "163 MB")
	works(t, []string{"summary", "--input", "48", "resnet20-lc", "--classes", "200"}, "91,828,224 weights")
}

// The plan of an engine: its text, its JSON, and what does not fit, which is no error.
func TestSummaryOfMemory(t *testing.T) {
	const mb, weights = 1e6, 4 * 40_812_544
	args := []string{"summary", "resnet20-lc", "--backend", "cpu:memory=1000", "--batch", "512"}
	works(t, args, "memory of cpu:memory=1000, inference, batches of 512: ", "MB; 1000.0 MB are free\n  weights 163.3 MB, gradients 0.0 MB, moments 0.0 MB, ")
	works(t, append(args, "--train"), "training with adamw, ", "MB; does not fit: 1000.0 MB are free\n  weights 163.3 MB, gradients 163.3 MB, moments 326.5 MB, ")
	works(t, []string{"summary", "resnet8", "--backend", "ref"}, "memory of ref, inference, batches of 512: ", "how much is free is unknown")

	var s networkSummary
	parseJSON(t, works(t, append(args, "--train", "--optimizer", "sgd", "--json")).out, &s)
	m := s.Memory
	if m == nil || m.Backend != "cpu:memory=1000" || m.Batch != 512 || !m.Train || m.Optimizer != optim.SGD || m.Fits || m.Total <= 1000*mb || m.Total != m.Memory.Total() {
		t.Fatalf("plan %+v", m)
	}
	b := m.Memory
	if b.Free != 1000*mb || b.Weights < weights || b.Gradients < weights || b.Optimizer != b.Gradients || b.Activations < 1 || b.Scratch < 1 {
		t.Errorf("plan %+v", m)
	}
	if r := works(t, []string{"summary", "resnet8"}); strings.Contains(r.out, "memory") {
		t.Errorf("a plan that nobody asked for in\n%s", r.out)
	}
	fails(t, t.TempDir(), exitFailed, append(args, "--batch", "0"), "batch size 0")
	fails(t, t.TempDir(), exitFailed, append(args, "--train", "--optimizer", "lion"), `unknown optimiser "lion"`)
	fails(t, t.TempDir(), exitFailed, []string{"summary", "resnet8", "--backend", "abacus"}, "abacus")
	fails(t, t.TempDir(), exitUsage, []string{"summary", "resnet8", "--train"}, "--train needs --backend")
	fails(t, t.TempDir(), exitUsage, []string{"summary", "resnet8", "--train", "--images", "9"}, "needs --backend")
	fails(t, t.TempDir(), exitUsage, append(args, "--images", "9"), "--images needs --train")
	fails(t, t.TempDir(), exitUsage, append(args, "--train", "--image-size", "9"), "--image-size --images")
	fails(t, t.TempDir(), exitUsage, append(args, "--train", "--images", "-9"), "-9 images")
	if r := works(t, append(args, "--train", "--images", "9")); strings.Contains(r.out, "training images") {
		t.Errorf("the CPU backend keeps images:\n%s", r.out)
	}
}

func TestDoctor(t *testing.T) {
	r := works(t, []string{"doctor"}, "program", "processor", "memory", "CIFAR-10 sample", "resnet20-lc")
	var d diagnosis
	parseJSON(t, works(t, []string{"doctor", "--json"}).out, &d)
	var names []string
	for _, b := range d.Backends {
		names = append(names, b.Name)
		if !strings.Contains(r.out, "\n"+b.Name) || (b.Caps == nil) == (b.Error == "") {
			t.Errorf("backend %s: %+v", b.Name, b)
		}
	}
	if !slices.Equal(names, backends.Names()) || !slices.Equal(d.Networks, net.Names()) || d.Cores < 1 || d.Go == "" {
		t.Errorf("doctor finds %+v", d)
	}
}

// archive writes a tar archive of CIFAR-10 with files of so many bytes.
func archive(t *testing.T, train, test int) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, size := range map[string]int{"data_batch_1.bin": train, "test_batch.bin": test} {
		content := bytes.Repeat([]byte{1, 3, 9}, size/3+1)[:size]
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cifar.tar")
	datatest.Write(t, path, b.Bytes())
	return path
}

// Whatever is wrong with the input, train says so in a line that names it, and leaves an earlier run as it was.
func TestBadInput(t *testing.T) {
	t.Parallel()
	good, dir := datatest.ClassFolders(t, 8, 8, 3), t.TempDir()
	works(t, trainTiny(dir, "resnet8-lc", good, "train.epochs=1"))
	checkpoint := filepath.Join(dir, "checkpoint.safetensors")
	other := filepath.Join(t.TempDir(), "other")
	works(t, trainTiny(other, "resnet8", good, "train.epochs=1"))

	whole := read(t, archive(t, 3*3073, 3073))
	truncated := filepath.Join(t.TempDir(), "truncated.tar")
	datatest.Write(t, truncated, []byte(whole[:5000]))
	corrupt := datatest.ClassFolders(t, 8, 8, 3)
	datatest.Write(t, filepath.Join(corrupt, "train", "red", "bad.jpg"), []byte("\xff\xd8\xff\xe0 no image"))
	config := filepath.Join(t.TempDir(), "c.toml")
	datatest.Write(t, config, []byte("[train]\nepochs = 1\nleraning_rate = 1\n"))
	text := filepath.Join(t.TempDir(), "text.safetensors")
	datatest.Write(t, text, []byte("hello, this is no checkpoint"))
	cut := filepath.Join(t.TempDir(), "cut.safetensors")
	datatest.Write(t, cut, []byte(read(t, checkpoint)[:9000]))

	for _, c := range []struct {
		args []string
		want []string
	}{
		{trainTiny(dir, "resnet8-lc", "nowhere.tar.gz"), []string{"nowhere.tar.gz"}},
		{trainTiny(dir, "resnet8-lc", truncated), []string{truncated, "unexpected EOF"}},
		{trainTiny(dir, "resnet8-lc", archive(t, 3*3073-1, 3073)), []string{"data_batch_1.bin: 9218 bytes", "3073"}},
		{trainTiny(dir, "resnet8-lc", archive(t, 3*3073, 5)), []string{"test_batch.bin: 5 bytes"}},
		{trainTiny(dir, "resnet8-lc", corrupt), []string{corrupt, "train/red/bad.jpg"}},
		{trainTiny(dir, "resnet8", good), []string{dir, `network.name = "resnet8-lc" there`}},
		{trainTiny(dir, "resnet8-lc", good, "backend=gpu"), []string{`unknown backend "gpu" (known: ref, cpu, fixed, cuda)`}},
		{trainTiny(dir, "resnet8-lc", good, "network.input=6"), []string{"layer", "stage3"}},
		{trainTiny(filepath.Join(dir, "new"), "resnet8-lc", good, "network.input=12"), []string{"crop 12x12", "8x8"}},
		{trainTiny(dir, "resnet8-lc", good, "train.leraning_rate=1"), []string{`unknown key "train.leraning_rate"`}},
		{[]string{"train", "-c", config, "--dir", dir}, []string{config, "line 3", `"train.leraning_rate"`}},
		{[]string{"train", "-c", "nowhere.toml", "--dir", dir}, []string{"nowhere.toml"}},
		{[]string{"train", "--dir", checkpoint}, []string{checkpoint}},
		{[]string{"eval", "-m", "nowhere.safetensors"}, []string{"nowhere.safetensors"}},
		{[]string{"eval", "-m", text}, []string{text}},
		{[]string{"eval", "-m", cut}, []string{cut, "truncated"}},
		{[]string{"eval", "-m", checkpoint, "--backend", "gpu"}, []string{`unknown backend "gpu" (known: ref, cpu, fixed, cuda)`}},
		{[]string{"eval", "-m", checkpoint, "--batch", "0"}, []string{"batch"}},
		{[]string{"eval", "-m", checkpoint, "--data", archive(t, 3*3073, 3073)}, []string{"10 classes", "3"}},
		{[]string{"summary", "resnet20", "--input", "30"}, []string{"resnet20", "layer"}},
		{[]string{"summary", "resnet9"}, []string{`unknown network "resnet9" (known: resnet8, `}},
		{[]string{"summary", text}, []string{text}},
		{[]string{"demo", "--backend", "gpu", "--out", dir}, []string{"known: ref, cpu"}},
		{[]string{"demo", "--set", "train.foo=1", "--out", dir}, []string{`unknown key "train.foo"`}},
	} {
		fails(t, dir, exitFailed, c.args, c.want...)
	}
	fails(t, dir, exitUsage, []string{"summary", checkpoint, "--width", "3"}, "own sizes")

	// Another network's checkpoint in the run's place.
	datatest.Write(t, checkpoint, []byte(read(t, filepath.Join(other, "checkpoint.safetensors"))))
	fails(t, dir, exitFailed, trainTiny(dir, "resnet8-lc", good), dir, `network.name = "resnet8" there`)

	// Corrupt images are left out when that is asked for, and listed.
	skipping := filepath.Join(t.TempDir(), "skipping")
	works(t, trainTiny(skipping, "resnet8", corrupt, "data.skip_corrupt=true", "train.steps=1"))
	var record experiment.DataRecord
	parseJSON(t, read(t, filepath.Join(skipping, "data.json")), &record)
	if record.Train != 24 || len(record.Skipped) != 1 || !regexp.MustCompile(`^train/red/bad\.jpg: `).MatchString(record.Skipped[0]) {
		t.Errorf("the run's data are %+v", record)
	}
}

// eval and train tell what they mended of a damaged cache, train in its metrics, too; results are those of a whole one.
func TestDamagedCacheIsTold(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 12, 6, 2), t.TempDir()
	cache, run := filepath.Join(dir, "cache"), filepath.Join(dir, "run")
	args := trainTiny(run, "resnet8", source, "data.size=8", "data.fit=resize", "data.cache="+cache)
	works(t, args)
	model := filepath.Join(run, "checkpoint.safetensors")
	want := works(t, []string{"eval", "-m", model}).out
	whole := read(t, filepath.Join(cache, "pixels"))
	const image = 8 * 8 * 3 // bytes; test images come first
	damage := func(at int) {
		text := []byte(whole)
		text[at] ^= 4
		datatest.Write(t, filepath.Join(cache, "pixels"), text)
	}
	damage(2)
	r := works(t, []string{"eval", "-m", model})
	if told := "cache: test/blue/0.png: the checksum of its pixels is wrong; it was decoded anew\n"; r.err != told || r.out != want {
		t.Errorf("eval says %q and prints\n%s", r.err, r.out)
	}
	if r := works(t, []string{"eval", "-m", model}); r.err != "" || read(t, filepath.Join(cache, "pixels")) != whole {
		t.Errorf("eval says %q again", r.err)
	}
	damage(6 * image)
	r = works(t, append(args, "--set", "train.epochs=3"))
	if told := "cache: train/blue/0.png: the checksum of its pixels is wrong; it was decoded anew\n"; strings.Count(r.err, told) != 1 ||
		strings.Count(read(t, filepath.Join(run, "metrics.jsonl")), `{"kind":"mended","image":"train/blue/0.png",`) != 1 {
		t.Errorf("train says\n%s", r.err)
	}
}
