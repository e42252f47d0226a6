package experiment

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/train"
)

// quiet observes a run and, after a step, ends it.
type quiet struct {
	cancel context.CancelFunc
	after  int64
}

func (quiet) Begin(int64, train.State) {}

func (q quiet) Observe(metric any) {
	if s, ok := metric.(train.Step); ok && s.Step == q.after {
		q.cancel()
	}
}

// ruleConfig is a short run of a small locally connected network that sleeps, by a wake rule.
func ruleConfig(t *testing.T, settings ...string) Config {
	t.Helper()
	c, err := Load("", append([]string{
		"network.name=mixer-lc", "network.width=4", "network.patch=8", "network.depth=1", "train.rule=broadcast",
		"train.epochs=2", "train.batch=32", "train.drops=[]", "data.train_limit=160", "data.test_limit=20", "sleep.every=3",
	}, settings...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// runIn runs in a directory and interrupts the run after a step, 0 for not at all.
func runIn(path string, c Config, after int64) error {
	d, err := OpenDir(path)
	if err != nil {
		return err
	}
	defer d.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, _, err = Run(ctx, c, d, quiet{cancel, after})
	return err
}

// parameters are a checkpoint's tensors by name, weights and optimiser.
func parameters(t *testing.T, dir string) map[string][]float32 {
	t.Helper()
	f, err := model.Open(filepath.Join(dir, CheckpointFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string][]float32{}
	for v, err := range f.All() {
		if err != nil {
			t.Fatal(err)
		}
		if v.Name == core.StepTensor {
			continue
		}
		if all[v.Name], err = v.Float32s(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

// A broadcast run that was interrupted goes on to the same bits as one that was not, though its matrices are in no file.
// Another rule or seed is another run, and is refused.
func TestBroadcastRunGoesOn(t *testing.T) {
	whole, parted := t.TempDir(), t.TempDir()
	if err := runIn(whole, ruleConfig(t), 0); err != nil {
		t.Fatal(err)
	}
	if err := runIn(parted, ruleConfig(t), 4); !errors.Is(err, train.ErrInterrupted) {
		t.Fatalf("interrupted after 4 of 10 steps: %v", err)
	}
	for _, c := range []struct{ setting, want string }{
		{"train.rule=backprop", `train.rule = "broadcast" there, rule = "backprop" here`},
		{"seed=2", "seed = 1 there, seed = 2 here"},
	} {
		err := runIn(parted, ruleConfig(t, c.setting), 0)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.setting, err, c.want)
		}
	}
	if err := runIn(parted, ruleConfig(t), 0); err != nil {
		t.Fatal(err)
	}
	got, want := parameters(t, parted), parameters(t, whole)
	if len(got) != len(want) || len(want) < 20 {
		t.Fatalf("%d tensors, want %d, at least 20", len(got), len(want))
	}
	for name, w := range want {
		if !slices.EqualFunc(got[name], w, sameBits) {
			t.Errorf("%s differs from the uninterrupted run's", name)
		}
	}
	text, err := os.ReadFile(filepath.Join(parted, ConfigFile))
	if err != nil || !strings.Contains(string(text), `rule = "broadcast"`) {
		t.Errorf("no wake rule in the configuration kept beside the results (%v):\n%s", err, text)
	}
	other := t.TempDir()
	if err := runIn(other, ruleConfig(t, "train.rule=backprop"), 0); err != nil {
		t.Fatal(err)
	}
	if name := "patches.weight"; slices.EqualFunc(parameters(t, other)[name], want[name], sameBits) {
		t.Error("the wake rule makes no difference to the first layer")
	}
}

// A rule that is not known is refused by its key.
func TestUnknownWakeRule(t *testing.T) {
	_, err := Load("", []string{"train.rule=hope"})
	if err == nil || !strings.Contains(err.Error(), `train.rule: core: unknown wake rule "hope" (known: backprop, broadcast)`) {
		t.Errorf("error %v", err)
	}
}
