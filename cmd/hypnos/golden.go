package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hypnos/bench/equivalence"
	"hypnos/bench/golden"
	"hypnos/core/sleep"
)

func benchGolden(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "bench golden", "-o FILE [flags] | --check FILE [flags]", `
Keeps what a backend computes in a file, or compares backends with such a file, by the bounds of hypnos bench equivalence:
logits, every layer's activations and gradients, weights after learning steps at batch 1 and a sleep. The file holds network,
parameters and images, so that the comparison can be made on another machine, without data. What is not equivalent to the
reference backend is not written; a violated bound is exit code 1.

Without -m it trains a small network on the embedded sample first.

Examples:
  hypnos bench golden -o cpu.golden --backend cpu
  hypnos bench golden --check cpu.golden --backends fixed,ref
  hypnos bench golden -o edge.golden -m edge.hyp --backend fixed --rule hebbian`)
	var o equivalenceRun
	out := f.String("o", "", "golden `file` to write")
	check := f.String("check", "", "golden `file` to compare with")
	backend := f.String("backend", "cpu", "backend to record, with settings")
	names := f.String("backends", "ref,cpu,fixed", "backends to compare with the file")
	f.StringVar(&o.path, "m", "", "checkpoint or edge package `file`")
	f.StringVar(&o.source, "data", "", "folder or archive of images (default: the checkpoint's, or the embedded sample)")
	f.IntVar(&o.test, "test", 20, "test images, the first of every class")
	f.IntVar(&o.Steps, "steps", 4, "wake steps at batch 1, and then a sleep")
	f.Float64Var(&o.Rate, "lr", 2e-3, "learning rate of the wake steps")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of weights, order of images, patterns and stochastic rounding")
	spec := sleep.DefaultSpec()
	f.StringVar(&spec.Rule, "rule", spec.Rule, "rule of sleep: instant, hebbian, circuit")
	f.IntVar(&spec.Events, "events", spec.Events, "events a grid, of rules that have them")
	every := f.Bool("layers", false, "print every comparison, not only the one nearest to its bound of every check")
	file := f.String("json", "", "write the comparisons to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	var r *equivalence.Result
	var err error
	switch {
	case (*out == "") == (*check == ""):
		return usageError{errors.New("either -o FILE, to write, or --check FILE, to compare with")}
	case *check != "":
		r, err = o.checkGolden(ctx, c, *check, *names)
	case o.Steps < 1 || o.test < 1:
		return usageError{fmt.Errorf("--steps %d, --test %d: both are at least 1", o.Steps, o.test)}
	default:
		o.network, o.width, o.input, o.epochs = "resnet8-lc", 8, 16, 12
		o.Every, o.Check = o.Steps, o.Steps
		if o.Phase, err = spec.Stream(); err != nil {
			return usageError{err}
		}
		r, err = o.recordGolden(ctx, c, *out, *backend, spec)
	}
	return reportEquivalence(ctx, c, r, err, *every, *file)
}

// recordGolden writes a golden file.
func (o *equivalenceRun) recordGolden(ctx context.Context, c console, path, backend string, spec sleep.Spec) (r *equivalence.Result, err error) {
	begin := time.Now()
	defer func() { err = errors.Join(err, o.close()) }()
	all, err := o.subjects(backend + ",ref")
	if err != nil {
		return nil, err
	}
	if err := o.open(ctx, c); err != nil {
		return nil, err
	}
	m := golden.Manifest{Program: "hypnos " + version(), Date: begin.UTC().Truncate(time.Second), Origin: o.origin, Data: o.data, Sleep: spec}
	if r, err = golden.Record(ctx, path, all[0], all[1], o.Options, m); err != nil {
		return nil, err
	}
	fmt.Fprintf(c.Err, "golden file: %s\n", path)
	o.describe(r, begin)
	return r, nil
}

// checkGolden compares backends with a golden file.
func (o *equivalenceRun) checkGolden(ctx context.Context, c console, path, names string) (r *equivalence.Result, err error) {
	begin := time.Now()
	defer func() { err = errors.Join(err, o.close()) }()
	f, err := golden.Open(path)
	if err != nil {
		return nil, err
	}
	o.closers = append(o.closers, f.Close)
	all, err := o.subjects(names)
	if err != nil {
		return nil, err
	}
	if err := f.WriteText(c.Out); err != nil {
		return nil, err
	}
	if r, err = f.Check(ctx, all, func(name string) { fmt.Fprintf(c.Err, "%s\n", name) }); err != nil {
		return nil, err
	}
	o.origin, o.data = f.Manifest.Origin, f.Manifest.Data
	o.describe(r, begin)
	return r, nil
}

// close closes what was opened.
func (o *equivalenceRun) close() (err error) {
	for _, f := range o.closers {
		err = errors.Join(err, f())
	}
	return err
}

// describe says in a result what was run.
func (o *equivalenceRun) describe(r *equivalence.Result, begin time.Time) {
	r.Program, r.Date = "hypnos "+version(), begin.UTC().Truncate(time.Second)
	r.Origin, r.Data, r.Seconds = o.origin, o.data, time.Since(begin).Seconds()
}
