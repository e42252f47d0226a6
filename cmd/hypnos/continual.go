package main

import (
	"context"
	"fmt"
	"strings"

	"hypnos/bench/continual"
	"hypnos/bench/experiment"
)

func benchContinual(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "bench continual", "[flags]", `
Measures learning from a stream as a device does it: a network meets labelled images of new conditions, task after task, one
image at a time, and sleeps every few of them, or not; in integers and, the same stream, in float32. Prints what it knows of
every task at the end: average accuracy, backward transfer and forgetting (docs/EDGE.md).

Without -m it trains a small locally connected network on the embedded sample first, on all classes but those of the first
task of the kind "classes". Tasks: classes=N, images of the last N classes; shift=N, moved by N pixels; noise=S, Gaussian
noise of standard deviation S of a range of 0 to 1; darker=F, values times F.

Examples:
  hypnos bench continual
  hypnos bench continual --json cl.json --figure cl.svg
  hypnos bench continual -m edge.hyp --tasks noise=0.2,shift=3 --steps 100 --modes all
  hypnos bench continual --modes all,classifier --lr 0.003 --sleep-every 20`)
	path := f.String("m", "", "edge package `file` (default: train a small network)")
	source := f.String("data", "", "folder or archive of images (default: the package's; the embedded sample)")
	o := continual.Options{Tasks: continual.DefaultTasks()}
	tasks := f.String("tasks", "classes=2,shift=4,noise=0.1,darker=0.4", "the stream, in `order`")
	modes := f.String("modes", strings.Join(continual.Modes(), ","), "what learns: "+strings.Join(continual.Modes(), ", "))
	f.IntVar(&o.Steps, "steps", 200, "wake steps a task, of one image each")
	f.IntVar(&o.SleepEvery, "sleep-every", 10, "wake steps from sleep to sleep, where there is sleep")
	f.Float64Var(&o.LR, "lr", 0.05, "learning rate")
	f.IntVar(&o.Test, "test", 150, "test images a task, the first of every class; 0 means all")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of initial weights, of the stream and of stochastic rounding")
	f.IntVar(&o.Threads, "threads", 0, "number of threads (default: one a core)")
	epochs := f.Int("epochs", 12, "passes through the sample beforehand, without -m")
	jsonPath := f.String("json", "", "write the result to a `file` as JSON")
	figurePath := f.String("figure", "", "draw average accuracy against steps to a `file`, SVG, and PNG beside it")
	if _, err := f.parse(args); err != nil {
		return err
	}
	o.Modes = strings.Split(*modes, ",")
	var err error
	if o.Tasks, err = continual.ParseTasks(*tasks); err != nil {
		return usageError{err}
	}
	if err := o.Check(); err != nil {
		return usageError{err}
	}
	if *epochs < 1 {
		return usageError{fmt.Errorf("%d epochs are below 1", *epochs)}
	}
	s, done, err := continualSubject(ctx, c, *path, *source, o, *epochs)
	if err != nil {
		return err
	}
	defer done()
	r, err := continual.Execute(ctx, s, o, c.Err)
	if err != nil {
		return err
	}
	if err := r.WriteText(c.Out); err != nil {
		return err
	}
	if *figurePath != "" {
		if err := r.Figure().Save(strings.TrimSuffix(*figurePath, ".svg")); err != nil {
			return err
		}
	}
	if *jsonPath != "" {
		return saveJSON(*jsonPath, r)
	}
	return nil
}

// continualSubject opens the package, or trains a network.
func continualSubject(ctx context.Context, c console, path, source string, o continual.Options, epochs int) (continual.Subject, func() error, error) {
	none := func() error { return nil }
	if path != "" {
		k, err := openModel(path)
		if err != nil {
			return continual.Subject{}, nil, err
		}
		if k.edge == nil {
			return continual.Subject{}, nil, fmt.Errorf("%s is a checkpoint, not an edge package (hypnos package makes one of it)", path)
		}
		k.Config.Data.Cache = "" // tasks change the images, in memory
		d, err := openFor(k.Checkpoint, source)
		if err != nil {
			return continual.Subject{}, nil, err
		}
		s, err := continual.OfPackage(k.edge, d)
		return s, k.Close, err
	}
	conf := continual.PretrainConfig(o.Seed, epochs)
	conf.Data.Path = source
	d, err := experiment.OpenData(conf.Data, conf.Seed)
	if err != nil {
		return continual.Subject{}, nil, err
	}
	fmt.Fprintf(c.Err, "training %s of width %d for %d epochs\n", conf.Network.Name, conf.Network.Width, epochs)
	s, err := continual.Pretrain(ctx, conf, d, unknownClasses(o.Tasks))
	return s, none, err
}

// unknownClasses is how many classes the first task of new ones has.
func unknownClasses(tasks []continual.Task) int {
	for _, t := range tasks {
		if t.Kind == continual.Classes {
			return int(t.By)
		}
	}
	return 0
}
