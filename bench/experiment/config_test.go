package experiment_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hypnos/bench/experiment"
	"hypnos/core/data/datatest"
)

// setting is a key of the configuration with its value as TOML.
type setting struct{ key, value string }

// settings are those of a configuration, in their order.
func settings(c experiment.Config) []setting {
	var all []setting
	table := ""
	for line := range strings.Lines(c.Text()) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			table = strings.TrimSuffix(name, "]") + "."
		}
		if key, value, ok := strings.Cut(line, " = "); ok {
			all = append(all, setting{table + key, value})
		}
	}
	return all
}

// keys are those of a configuration by its type.
func keys(prefix string, t reflect.Type) []string {
	var all []string
	for i := range t.NumField() {
		f := t.Field(i)
		if key := prefix + f.Tag.Get("toml"); f.Type.Kind() == reflect.Struct {
			all = append(all, keys(key+".", f.Type)...)
		} else {
			all = append(all, key)
		}
	}
	return all
}

// others are settings of which none is the default.
func others() []string {
	return []string{
		"name=other", "seed=2", "backend=ref",
		"data.path=a folder/b.tar.gz", "data.size=64", "data.fit=resize", "data.cache=c", "data.skip_corrupt=true", "data.holdout=5",
		"data.train_limit=6", "data.test_limit=7", "data.pad=0", "data.flip=true", "data.resized_crop=true", "data.reps=2", "data.workers=3",
		"network.name=mixer-lc", "network.input=48", "network.width=8", "network.patch=8", "network.depth=3",
		"network.first_conv=true", "network.tied=true", "network.epsilon=0.1",
		"train.epochs=9", "train.steps=10", "train.batch=12", "train.rule=broadcast", "train.optimizer=sgd", "train.lr=0.3", "train.drops=[1, 2, 4]",
		"train.factor=0.1", "train.weight_decay=1e-7", "train.momentum=0.5", "train.eval_every=2", "train.save_every=3",
		"sleep.every=4", "sleep.count=steps", "sleep.before_eval=true", "sleep.below_snr=0.5", "sleep.rule=observe", "sleep.border=rests",
		"sleep.source=onehot", "sleep.events=7", "sleep.gamma=0.25", "sleep.momentum=0.4", "sleep.rate=0.02", "sleep.decay=root",
		"sleep.decay_time=9", "sleep.batch=3", "sleep.noise=0.125", "sleep.alpha=4", "sleep.tau=20", "sleep.dt=0.5",
		"sleep.presentation=90", "sleep.settle=30", "sleep.mean_preserving=false", "sleep.execution=map",
	}
}

func load(t *testing.T, path string, settings ...string) experiment.Config {
	t.Helper()
	c, err := experiment.Load(path, settings)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// write makes a configuration file.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.toml")
	datatest.Write(t, path, []byte(text))
	return path
}

// wantError reports an error that is none, has more than a line or lacks one of the parts.
func wantError(t *testing.T, what string, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error, want one with %q", what, parts)
		return
	}
	for _, part := range append(parts, "experiment: ") {
		if !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: error %q, want one line with %q", what, err, part)
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, path := range []string{"", write(t, ""), write(t, "[train]\n# nothing\n")} {
		if c := load(t, path); !reflect.DeepEqual(c, experiment.Default()) {
			t.Errorf("without settings the configuration is\n%s, want\n%s", c.Text(), experiment.Default().Text())
		}
	}
	var got []string
	for _, s := range settings(experiment.Default()) {
		got = append(got, s.key)
	}
	if want := keys("", reflect.TypeFor[experiment.Config]()); !slices.Equal(got, want) {
		t.Errorf("Text writes %v, want %v", got, want)
	}
}

// Every setting, changed by --set and in a file, arrives and is written so that it reads back.
func TestEverySettingRoundTrips(t *testing.T) {
	c := load(t, "", others()...)
	got, old := settings(c), settings(experiment.Default())
	if len(got) != len(others()) || len(got) != len(old) {
		t.Fatalf("%d settings, %d changed of %d", len(got), len(others()), len(old))
	}
	for i, s := range got {
		if key, _, _ := strings.Cut(others()[i], "="); s.key != key || s.value == old[i].value {
			t.Errorf("--set %s gives %s = %s", others()[i], s.key, s.value)
		}
	}
	none, odd := experiment.Default(), experiment.Default()
	none.Train.Drops = nil
	odd.Name, odd.Data.Path = "\"\tü", `C:\x`
	for _, c := range []experiment.Config{c, none, odd, load(t, "", "train.drops=[]")} {
		back, err := experiment.Parse(c.Text())
		if err != nil {
			t.Fatal(err)
		}
		if back.Text() != c.Text() || len(back.Train.Drops) != len(c.Train.Drops) {
			t.Errorf("reads back as\n%s, want\n%s", back.Text(), c.Text())
		}
	}
	if got := load(t, write(t, c.Text())); !reflect.DeepEqual(got, c) {
		t.Errorf("from a file:\n%s, want\n%s", got.Text(), c.Text())
	}
}

func TestSet(t *testing.T) {
	file := write(t, "seed = 7\ntrain.lr = 0.5\n[data]\npath = \"from the file\"\npad = 3\n")
	for _, c := range []struct{ set, want string }{
		{`data.path=b c/d#e"f`, `data.path = "b c/d#e\"f"`},
		{`data.path="quoted"`, `data.path = "quoted"`},
		{`data.path='C:\single'`, `data.path = "C:\\single"`},
		{`data.path=C:\bare`, `data.path = "C:\\bare"`},
		{`data.path=a=b`, `data.path = "a=b"`},
		{`data.path=`, `data.path = ""`},
		{`train.lr=1e-3`, `train.lr = 0.001`},
		{`train.lr=1`, `train.lr = 1.0`},
		{` train . drops = [1,2] `, `train.drops = [1, 2]`},
		{`train.drops=[]`, `train.drops = []`},
		{`data.flip=true`, `data.flip = true`},
		{`train={steps=5}`, `train.steps = 5`},
	} {
		got := load(t, file, c.set)
		found := 0
		for _, s := range settings(got) {
			switch {
			case s.key+" = "+s.value == c.want:
				found++
			case s.key == "seed" && s.value != "7", s.key == "data.pad" && s.value != "3":
				t.Errorf("--set %s: %s is %s", c.set, s.key, s.value)
			}
		}
		if found != 1 {
			t.Errorf("--set %s: no %s in\n%s", c.set, c.want, got.Text())
		}
	}
	if c := load(t, file, "seed=8", "seed=9"); c.Seed != 9 || c.Train.LR != 0.5 {
		t.Errorf("seed %d, learning rate %g: the last setting counts, the file's others stay", c.Seed, c.Train.LR)
	}
	c := experiment.Default()
	if _, err := c.With([]string{"train.drops=[1]"}); err != nil || c.Text() != experiment.Default().Text() {
		t.Errorf("With changed the configuration it was called on: %v\n%s", err, c.Text())
	}
}

func TestUnknownKeys(t *testing.T) {
	for _, c := range []struct{ text, key, line string }{
		{"nam = 1\n", "nam", "1"},
		{"name = \"a\"\n\n  epochs = 3\n", "epochs", "3"},
		{"[train] # comment\nlr = 0.1\nleraning_rate = 3\n", "train.leraning_rate", "3"},
		{"[data]\npad = 2\n[train]\npad = 2\n", "train.pad", "4"},
		{"[ train ]\n\"patch\" = 2\n", "train.patch", "2"},
		{"train.lr = 0.1\ntrain . stepz = 1\n", "train.stepz", "2"},
		{"[sleep]\n[sleeep]\nevery = 1\n", "sleeep", "2"},
		{"[sleep]\n[sleep.more]\nx = 1\n", "sleep.more", "2"},
		{"name = \"a\"\ntrain = {lr = 1, foo = 2}\n", "train.foo", "2"},
	} {
		path := write(t, c.text)
		_, err := experiment.Load(path, nil)
		wantError(t, c.text, err, path, c.key, "line "+c.line)
	}
	for _, set := range []string{"foo=1", "train.foo=1", "foo.bar=x", "train={foo=1}"} {
		_, err := experiment.Load("", []string{set})
		key, _, _ := strings.Cut(set, "=")
		wantError(t, set, err, "--set "+set, "unknown key", key)
	}
}

func TestBadValues(t *testing.T) {
	for _, c := range []struct{ set, want string }{
		{"name=", "name"}, {"name=a/b", "name"}, {"name=..", "name"}, {"name=3", "name"},
		{"seed=-1", "seed"}, {"seed=x", "seed"},
		{"backend=gpu", `backend: backends: unknown backend "gpu" (known: ref, cpu, fixed, cuda)`}, {"backend=cpu:threads=x", "backend"},
		{"data.size=-1", "data.size"}, {"data.fit=stretch", "data.fit"}, {"data.skip_corrupt=1", "data.skip_corrupt"},
		{"data.holdout=-1", "data.holdout"}, {"data.train_limit=-1", "data.train_limit"},
		{"data.test_limit=-1", "data.test_limit"}, {"data.pad=-1", "data.pad"}, {"data.reps=0", "data.reps"},
		{"data.reps=3", "data.reps"}, {"data.workers=0", "data.workers"},
		{"network.name=resnet9", `network: net: unknown network "resnet9" (known: resnet8, `},
		{"network.width=-1", "network"}, {"network.input=-1", "network"}, {"network.input=30", `network: net: resnet20: layer "stage3`},
		{"network.first_conv=true", "network"}, {"network.epsilon=1", "network"}, {"network.epsilon=nan", "network"},
		{"train.epochs=0", "train.epochs"}, {"train.steps=-1", "train.steps"}, {"train.steps=1.5", "train.steps"},
		{"train.steps=many", "train.steps"}, {"train.batch=0", "train.batch"}, {"train.optimizer=lion", "train.optimizer"},
		{"train.lr=0", "train.lr"}, {"train.lr=nan", "train.lr"}, {"train.lr=inf", "train.lr"}, {"train.drops=5", "train.drops"},
		{"train.drops=[3, 2]", "train.drops"}, {"train.drops=[-1]", "train.drops"}, {"train.factor=0", "train.factor"},
		{"train.factor=nan", "train.factor"}, {"train.weight_decay=-1", "train.weight_decay"},
		{"train.weight_decay=nan", "train.weight_decay"}, {`train={optimizer="sgd", momentum=1}`, "train.momentum"},
		{"train.eval_every=-1", "train.eval_every"}, {"train.save_every=-1", "train.save_every"},
		{"sleep.every=-1", "sleep.every"}, {"sleep.count=minutes", "sleep.count"}, {"sleep.before_eval=x", "sleep.before_eval"}, {"sleep.below_snr=-1", "sleep.below_snr"}, {"sleep.below_snr=nan", "sleep.below_snr"},
		{"sleep.rule=dream", `sleep.rule: "dream" is unknown (known: observe, `}, {"sleep.gamma=-1", "sleep.gamma: -1 is not"},
		{"sleep.alpha=70", "sleep.alpha: 70 is unstable"}, {"sleep.events=0", "sleep.events"}, {"sleep.source=noise", "sleep.source"},
		{"sleep.border=open", "sleep.border"},
		{"train=3", "train"}, {"novalue", "want key=value"}, {"=3", "want key=value"}, {"name=a\nseed=2", "one line"},
	} {
		_, err := experiment.Load("", []string{c.set})
		wantError(t, fmt.Sprintf("%q", c.set), err, c.want)
	}
	path := write(t, "[train]\nsteps = \"x\"\n")
	_, err := experiment.Load(path, nil)
	wantError(t, "in a file", err, path, "line 2", "train.steps")
	_, err = experiment.Load("missing.toml", nil)
	wantError(t, "no file", err, "missing.toml")
}

func TestConfigFiles(t *testing.T) {
	files, err := filepath.Glob("../../configs/*.toml")
	files = slices.DeleteFunc(files, func(path string) bool { return strings.HasPrefix(filepath.Base(path), "board-") }) // the daemon's
	if err != nil || len(files) < 4 {
		t.Fatalf("only %v in configs (%v)", files, err)
	}
	for _, path := range files {
		if c := load(t, path); c.Name+".toml" != filepath.Base(path) {
			t.Errorf("%s names its run %s", path, c.Name)
		}
	}
}

// The table of docs/TRAINING.md has every setting with its default, in the order in which they are written.
func TestDocumentedSettings(t *testing.T) {
	text, err := os.ReadFile("../../docs/TRAINING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n## Settings\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var documented []setting
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| `(.*?)` \\|").FindAllStringSubmatch(table, -1) {
		documented = append(documented, setting{row[1], row[2]})
	}
	want := settings(experiment.Default())
	for i := range max(len(want), len(documented)) {
		if i >= len(want) || i >= len(documented) || documented[i] != want[i] {
			t.Fatalf("docs/TRAINING.md lists\n%v, want\n%v", documented[min(i, len(documented)):], want[min(i, len(want)):])
		}
	}
}
