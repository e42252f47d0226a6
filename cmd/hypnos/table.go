package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"hypnos/bench/experiment"
	"hypnos/bench/figure"
	"hypnos/bench/table"
	"hypnos/core/model"
	"hypnos/core/train"
)

func tableCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "table", "1|2 [flags]", `
Repeats a table of the paper: Table 1 (ResNet20; CIFAR-10, CIFAR-100, TinyImageNet) or Table 2 (half-width ResNet18; ImageNet). Each
cell is trained from each seed in a run directory of its own; the same command goes on where it was stopped, and does nothing again
that is whole. Prints the table as Markdown with the paper's values beside, and writes table.md and figures. docs/TABLES.md has the
cells, among them some that the paper does not have.

With --workers runs are trained by so many processes at a time; with --listen or --queue other machines help (hypnos worker). Workers may
come, go and die; no number depends on it.

Examples:
  hypnos table 1 --data sample --cells conv,lc,lc-ws10 --epochs 2 --json t1.json
  hypnos table 1 --data cifar-10-binary.tar.gz --seeds 1,2,3,4,5
  hypnos table 1 --data cifar-10-binary.tar.gz --cells conv,lc,lc-ws1,lc-ws10 --epochs 6 --out runs/six
  hypnos table 1 --data cifar-10-binary.tar.gz --cells lc --search --epochs 20
  hypnos table 1 --data tiny-imagenet-200.tar.gz --scale tinyimagenet --padding 8
  hypnos table 2 --data imagenet --set data.cache=imagenet-256 --cells conv,lc-ws1 --set train.steps=1000
  hypnos table 1 --data sample --cells conv,lc --seeds 1,2 --workers 2
  hypnos table 1 --data cifar-10-binary.tar.gz --seeds 1,2,3,4,5 --workers 1 --listen 0.0.0.0:4222
  hypnos table 1 --data cifar-10-binary.tar.gz --queue tls://nats.example.org --token-file queue.token

--data is what data.path is in docs/TRAINING.md; for ImageNet a folder with its archives as downloaded, or class folders.`)
	source := f.String("data", "sample", "folder or archive of images, or sample for the embedded one")
	cells := f.String("cells", "conv,lc,lc-reps4,lc-ws1,lc-ws10,lc-ws100", "`names` with commas; known: "+strings.Join(table.Names(), ", "))
	seeds := f.String("seeds", "1", "`numbers` with commas, a run each")
	epochs := f.Int("epochs", 0, "epochs of every cell; the learning rate drops at one half and three quarters (default: the scale's)")
	scale := f.String("scale", "", "what all cells have in common: paper, tinyimagenet, or sample, a small network (default: sample for the embedded sample, else paper)")
	pad := f.Int("padding", -1, "`pixels` around training images, of which random crops are taken (default: the scale's)")
	backend := f.String("backend", "cpu", "backend, with settings: cpu, cpu:threads=1, ref")
	search := f.Bool("search", false, "choose learning rate and weight decay of each cell by the authors' grid, on a tenth of the training images")
	out := f.String("out", "", "`folder` of runs, table and figures (default: runs/tableN)")
	jsonPath := f.String("json", "", "write everything to a `file` as JSON")
	help := farmFlags(f)
	var settings list
	f.Var(&settings, "set", "change a setting of all cells: `key=value`; may be repeated")
	rest, err := f.parse(args, "TABLE")
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(rest[0])
	if err != nil {
		return usageError{fmt.Errorf("table %q: 1 or 2", rest[0])}
	}
	o := table.Options{Number: number, Search: *search, Dir: *out}
	if o.Dir == "" {
		o.Dir = filepath.Join("runs", fmt.Sprintf("table%d", number))
	}
	if *scale == "" {
		*scale = "paper"
		if *source == "sample" {
			*scale = "sample"
		}
	}
	if o.Base, o.Awake, err = table.Protocol(number, *scale); err != nil {
		return usageError{err}
	}
	if o.Cells, err = table.Choose(strings.Split(*cells, ",")); err != nil {
		return usageError{err}
	}
	if o.Seeds, err = seedList(*seeds); err != nil {
		return usageError{err}
	}
	if *source != "sample" {
		o.Base.Data.Path = *source
	}
	switch {
	case *epochs < 0:
		return usageError{fmt.Errorf("--epochs %d is below 0", *epochs)}
	case *epochs > 0:
		o.Base.Train.Epochs, o.Base.Train.Drops = *epochs, table.Drops(*epochs)
	}
	if *pad >= 0 {
		table.SetPadding(&o.Base, *pad)
	}
	o.Base.Backend = *backend
	if o.Base, err = o.Base.With(settings); err != nil {
		return err
	}
	if err := help.check(); err != nil {
		return err
	}
	return c.table(ctx, o, help, *jsonPath)
}

// seedList reads seeds, each once.
func seedList(text string) ([]uint64, error) {
	var all []uint64
	seen := map[uint64]bool{}
	for _, s := range strings.Split(text, ",") {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("--seeds: %q is no number from 0", s)
		}
		if seen[n] {
			return nil, fmt.Errorf("--seeds: %d is given twice", n)
		}
		seen[n] = true
		all = append(all, n)
	}
	return all, nil
}

// table trains the cells and writes what they gave.
func (c console) table(ctx context.Context, o table.Options, help farmSettings, jsonPath string) error {
	t, err := c.train(ctx, o, help)
	if errors.Is(err, train.ErrInterrupted) {
		return fmt.Errorf("what was done is in %s; the same command goes on: %w", o.Dir, err)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return err
	}
	for name, f := range map[string]figure.Figure{"accuracy": t.Accuracy(), "snr": t.Regularity(), "interval": t.Interval()} {
		if !f.Empty() {
			if err := f.Save(filepath.Join(o.Dir, name)); err != nil {
				return err
			}
		}
	}
	if err := model.Replace(filepath.Join(o.Dir, "table.md"), t.WriteMarkdown); err != nil {
		return err
	}
	if jsonPath != "" {
		if err := saveJSON(jsonPath, t); err != nil {
			return err
		}
	}
	if err := t.WriteMarkdown(c.Out); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "\nruns, table and figures in %s\n", o.Dir)
	return err
}

// train trains the cells, here or on workers.
func (c console) train(ctx context.Context, o table.Options, help farmSettings) (*table.Table, error) {
	if help.wanted() {
		return c.farm(ctx, o, help)
	}
	var p *progress
	closeProgress := func() {
		if p != nil {
			p.Close()
			p = nil
		}
	}
	defer closeProgress()
	o.Machine = machine(o.Base.Backend)
	o.Observe = func(label string) experiment.Observer {
		closeProgress()
		p = newProgress(c.Err)
		p.label = label + ": "
		return p
	}
	o.Done = func(label string, r table.Result) {
		closeProgress()
		fmt.Fprintln(c.Err, resultLine(label, r))
	}
	return table.Run(ctx, o, "hypnos "+version())
}

// resultLine says what a run gave.
func resultLine(label string, r table.Result) string {
	what := fmt.Sprintf("%s: %d steps in %s", label, r.Steps, clock(r.Seconds))
	if n := len(r.Evals); n > 0 {
		what += fmt.Sprintf(", top-1 %.2f%%", 100*r.Evals[n-1].Top1)
	}
	if r.Diverged != "" {
		what += ", diverged: " + r.Diverged
	}
	return what
}
