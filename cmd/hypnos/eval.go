package main

import (
	"context"
	"errors"
	"fmt"

	"hypnos/bench/experiment"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

func eval(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "eval", "-m CHECKPOINT [flags]", `
Tests a checkpoint, or an edge package, on the test images of the data set it was trained on, or of another with the same classes. Images are
normalised with the statistics of the training images, which the checkpoint knows.

Examples:
  hypnos eval -m runs/sample-resnet8-lc-ws10/checkpoint.safetensors
  hypnos eval -m a.safetensors --data cifar-10-binary.tar.gz --backend cpu:threads=1
  hypnos eval -m edge.hyp
  hypnos eval -m a.safetensors --sleep --json a.json`)
	path := f.String("m", "", "checkpoint or edge package `file`")
	source := f.String("data", "", "folder or archive of images (default: the checkpoint's)")
	backend := f.String("backend", "", defaultBackend)
	batch := f.Int("batch", 128, "images a batch")
	sleeps := f.Bool("sleep", false, "sleep (instant rule) before the test; the file is not changed")
	jsonPath := f.String("json", "", "write the result to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *path == "" {
		return usageError{errors.New("which checkpoint? -m FILE")}
	}
	k, err := openModel(*path)
	if err != nil {
		return err
	}
	defer k.Close()
	e, err := k.compile(*backend, core.Options{MaxBatch: *batch})
	if err != nil {
		return err
	}
	defer e.Close()
	d, err := openFor(k.Checkpoint, *source)
	if err != nil {
		return err
	}
	if *sleeps {
		if _, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}, Border: k.Config.Sleep.Border}); err != nil {
			return err
		}
	}
	weights, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Observe{}, Border: k.Config.Sleep.Border})
	if err != nil {
		return err
	}
	test := experiment.TestLoader(d.Test, k.Net, k.Data.Stats, *batch, k.Config.Data.Workers)
	if err := test.Check(); err != nil {
		return err
	}
	r, err := train.Evaluate(ctx, e, test)
	for _, m := range d.Test.Mended() {
		fmt.Fprintf(c.Err, "cache: %v\n", m)
	}
	if err != nil {
		return err
	}
	r.Weights, r.Step, r.Epoch = weights, k.State.Step, k.State.Epoch
	fmt.Fprintf(c.Out, "%s: %s, trained for %d steps on %s\n", *path, k.Net.Name, k.State.Step, k.Data.Name)
	fmt.Fprintf(c.Out, "images: %s\n", d.Name)
	printEval(c, r)
	if *jsonPath != "" {
		return saveJSON(*jsonPath, r)
	}
	return nil
}

// openFor opens the checkpoint's data, or another source with the same classes.
func openFor(k experiment.Checkpoint, source string) (*data.Dataset, error) {
	o := k.Config.Data
	if source != "" && source != o.Path {
		o.Path, o.Cache, o.Holdout, o.TrainLimit, o.TestLimit = source, "", 0, 0, 0
	}
	d, err := experiment.OpenData(o, k.Config.Seed)
	if err != nil {
		return nil, err
	}
	if len(d.Classes) != len(k.Data.Classes) {
		return nil, fmt.Errorf("%s has %d classes, the network was trained on %d", d.Name, len(d.Classes), len(k.Data.Classes))
	}
	return d, nil
}
