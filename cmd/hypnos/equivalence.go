package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"hypnos/backends"
	"hypnos/bench/equivalence"
	"hypnos/bench/experiment"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

func benchEquivalence(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "bench equivalence", "[flags]", `
Runs one network on several backends, the same integer parameters (float backends get their exact values), images, wake
steps at batch 1 and sleeps, and compares them layer by layer: activations, gradients, weights after steps and after a sleep,
signal-to-noise ratio and means, logits and accuracy. Every difference comes with a bound derived from the number formats
(docs/EDGE.md), the place of the largest error and its cause. Backends with the same numbers must give the same bits. A
violated bound is exit code 1.

Without -m it trains a small network on the embedded sample first.

Examples:
  hypnos bench equivalence --json eq.json
  hypnos bench equivalence --backends ref,fixed --rule hebbian --layers
  hypnos bench equivalence --backends 'fixed,fixed:kernels=portable,fixed:threads=1'
  hypnos-cuda bench equivalence --backends ref,cpu,cuda,cuda:precision=bf16
  hypnos bench equivalence -m edge.hyp --data cifar-10-binary.tar.gz --test 200`)
	var o equivalenceRun
	names := f.String("backends", "ref,cpu,fixed", "backends, with settings; the others are compared with the first")
	f.StringVar(&o.path, "m", "", "checkpoint or edge package `file`")
	f.StringVar(&o.source, "data", "", "folder or archive of images (default: the checkpoint's, or the embedded sample)")
	f.StringVar(&o.network, "net", "resnet8-lc", "network to train without -m: "+strings.Join(net.Names(), ", "))
	f.IntVar(&o.width, "width", 8, "its width")
	f.IntVar(&o.input, "input", 16, "rows and columns of its images, cut from the centre")
	f.IntVar(&o.epochs, "epochs", 12, "passes through the training images for it")
	f.IntVar(&o.test, "test", 500, "test images, the first of every class")
	f.IntVar(&o.Steps, "steps", 200, "wake steps at batch 1")
	f.IntVar(&o.Every, "sleep-every", 10, "steps from one sleep to the next")
	f.IntVar(&o.Check, "check", 0, "steps compared with their bounds (default: up to the first sleep, at most 10)")
	f.Float64Var(&o.Rate, "lr", 2e-3, "learning rate of the wake steps")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of weights, order of images, patterns and stochastic rounding")
	spec := sleep.DefaultSpec()
	f.StringVar(&spec.Rule, "rule", spec.Rule, "rule of sleep: instant, hebbian, circuit")
	f.IntVar(&spec.Events, "events", spec.Events, "events a grid, of rules that have them")
	every := f.Bool("layers", false, "print every comparison, not only the one nearest to its bound of every check")
	file := f.String("json", "", "write everything to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	for _, s := range []struct {
		name  string
		value int
	}{{"test", o.test}, {"steps", o.Steps}, {"sleep-every", o.Every}, {"epochs", o.epochs}} {
		if s.value < 1 {
			return usageError{fmt.Errorf("--%s %d is below 1", s.name, s.value)}
		}
	}
	switch first := min(o.Steps, o.Every); {
	case o.Check == 0:
		o.Check = min(10, first)
	case o.Check < 0 || o.Check > first:
		return usageError{fmt.Errorf("--check %d is outside 1…%d, the first sleep", o.Check, first)}
	}
	var err error
	if o.Phase, err = spec.Stream(); err != nil {
		return usageError{err}
	}
	if o.Phase.Rule.Kind() == (sleep.Observe{}).Kind() {
		return usageError{errors.New("--rule observe changes nothing to compare")}
	}
	r, err := o.run(ctx, c, *names)
	return reportEquivalence(ctx, c, r, err, *every, *file)
}

// reportEquivalence prints what a comparison found, and writes it to a JSON file that is named. A violated bound is an error.
func reportEquivalence(ctx context.Context, c console, r *equivalence.Result, err error, every bool, file string) error {
	if err != nil {
		if ctx.Err() != nil {
			return train.ErrInterrupted
		}
		return err
	}
	if err := r.WriteText(c.Out, every); err != nil {
		return err
	}
	if file != "" {
		if err := saveJSON(file, r); err != nil {
			return err
		}
	}
	return r.Err()
}

// equivalenceRun is one run of the command.
type equivalenceRun struct {
	equivalence.Options
	path, source, network      string
	width, input, epochs, test int
	origin, data               string
	closers                    []func() error
}

func (o *equivalenceRun) run(ctx context.Context, c console, names string) (r *equivalence.Result, err error) {
	begin := time.Now()
	defer func() { err = errors.Join(err, o.close()) }()
	subjects, err := o.subjects(names)
	if err != nil {
		return nil, err
	}
	if len(subjects) < 2 {
		return nil, usageError{fmt.Errorf("--backends %s: at least two are compared", names)}
	}
	if err := o.open(ctx, c); err != nil {
		return nil, err
	}
	r, err = equivalence.Run(ctx, subjects, o.Options, func(name string) { fmt.Fprintf(c.Err, "%s\n", name) })
	if err != nil {
		return nil, err
	}
	o.describe(r, begin)
	return r, nil
}

// subjects opens "name,name:key=value,key=value,name": a comma ends a backend unless a setting follows it.
func (o *equivalenceRun) subjects(names string) ([]equivalence.Subject, error) {
	var specs []string
	for _, part := range strings.Split(names, ",") {
		name, _, _ := strings.Cut(part, ":")
		if len(specs) > 0 && strings.Contains(specs[len(specs)-1], ":") && strings.Contains(name, "=") {
			specs[len(specs)-1] += "," + part
			continue
		}
		specs = append(specs, part)
	}
	var all []equivalence.Subject
	for _, s := range specs {
		b, err := backends.Open(s)
		if err != nil {
			return nil, err
		}
		o.closers = append(o.closers, b.Close)
		all = append(all, equivalence.Subject{Name: s, Backend: b})
	}
	return all, nil
}

// open makes the network, its integer parameters and the images.
func (o *equivalenceRun) open(ctx context.Context, c console) error {
	if o.path == "" {
		return o.trainSmall(ctx, c)
	}
	file, err := model.Open(o.path)
	if err != nil {
		return err
	}
	packaged := edge.IsPackage(&file.Params)
	if err := file.Close(); err != nil {
		return err
	}
	if packaged {
		return o.openPackage()
	}
	return o.openCheckpoint(ctx)
}

func (o *equivalenceRun) openPackage() error {
	p, err := edge.OpenPackage(o.path)
	if err != nil {
		return err
	}
	o.closers = append(o.closers, p.Close)
	d, err := experiment.OpenData(experiment.Data{Path: o.source, Fit: data.FitExact}, o.Seed)
	if err != nil {
		return err
	}
	if len(d.Classes) != len(p.Manifest.Classes) {
		return fmt.Errorf("%s has %d classes, the package has %d", d.Name, len(d.Classes), len(p.Manifest.Classes))
	}
	o.Net, o.origin = p.Manifest.Network, o.path
	if o.Params, err = p.Params(); err != nil {
		return err
	}
	return o.images(d, p.Manifest.Stats)
}

func (o *equivalenceRun) openCheckpoint(ctx context.Context) error {
	k, file, err := experiment.ReadCheckpoint(o.path)
	if err != nil {
		return err
	}
	o.closers = append(o.closers, file.Close)
	d, err := openFor(k, o.source)
	if err != nil {
		return err
	}
	o.origin = o.path
	return o.convert(ctx, k.Net, &file.Params, d, k.Data.Stats)
}

// trainSmall trains a network for a moment: a start that no layer is idle in.
func (o *equivalenceRun) trainSmall(ctx context.Context, c console) error {
	conf := experiment.Default()
	conf.Name, conf.Seed = "equivalence", o.Seed
	conf.Network.Name, conf.Network.Width, conf.Network.Input = o.network, o.width, o.input
	conf.Data.Path, conf.Data.Pad = o.source, 1
	conf.Train.Batch, conf.Train.Epochs, conf.Train.Drops = 64, o.epochs, []int{}
	conf.Train.Optimizer, conf.Train.LR, conf.Train.WeightDecay = optim.SGD, 0.3, 5e-4
	conf.Train.EvalEvery, conf.Train.SaveEvery = 0, 0
	if strings.HasSuffix(o.network, "-lc") {
		conf.Sleep.Every = 10
	}
	fmt.Fprintf(c.Err, "training %s for %d epochs\n", o.network, o.epochs)
	d, err := experiment.OpenData(conf.Data, conf.Seed)
	if err != nil {
		return err
	}
	x, err := experiment.Open(conf, d)
	if err != nil {
		return err
	}
	defer x.Close()
	x.Loop.Save = func(train.State) error { return nil }
	x.Loop.Observe = func(any) error { return nil }
	if _, err := x.Loop.Run(ctx, train.State{}); err != nil {
		return err
	}
	p, err := x.Engine.Save()
	if err != nil {
		return err
	}
	if p, err = p.Snapshot(); err != nil {
		return err
	}
	o.origin = fmt.Sprintf("width %d, %dx%d pixels, %d epochs of training on cpu", o.width, o.input, o.input, o.epochs)
	return o.convert(ctx, x.Net, p, d, x.Stats)
}

// calibrationImages is how many training images ranges of activations are measured on.
const calibrationImages = 256

// convert makes integers of float parameters, as hypnos package does.
func (o *equivalenceRun) convert(ctx context.Context, n *net.Network, p *model.Params, d *data.Dataset, s data.Stats) error {
	folded, params, err := edge.Fold(n, p)
	if err != nil {
		return err
	}
	const batch = 64
	float, err := open("cpu", folded, core.Options{MaxBatch: batch}, params)
	if err != nil {
		return err
	}
	defer float.Close()
	images := experiment.TestLoader(d.Train, folded, s, batch, 1)
	if err := images.Check(); err != nil {
		return err
	}
	var unread error
	ranges, err := edge.Calibrate(ctx, folded, float, batches(ctx, images, min(calibrationImages, d.Train.Len()), &unread))
	if err = cmp.Or(unread, err); err != nil {
		return err
	}
	converted, _, err := edge.Convert(folded, params, ranges, edge.ConvertOptions{})
	if err != nil {
		return err
	}
	if o.Params, err = converted.Snapshot(); err != nil {
		return err
	}
	o.Net = folded
	return o.images(d, s)
}

func (o *equivalenceRun) images(d *data.Dataset, s data.Stats) error {
	if err := d.Limit(0, min(o.test, d.Test.Len())); err != nil {
		return err
	}
	o.data = d.Name
	o.Train = &data.Loader{Images: d.Train, Size: o.Net.Input().H, Batch: 1, Stats: s, Seed: o.Seed}
	o.Test = experiment.TestLoader(d.Test, o.Net, s, min(50, d.Test.Len()), 1)
	return nil
}
