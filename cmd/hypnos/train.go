package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"

	"hypnos/bench/experiment"
	"hypnos/core/train"
)

func trainCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "train", "[-c FILE] [--set KEY=VALUE]... [flags]", `
Trains a network as a TOML file says and keeps everything in a run directory: config.toml, data.json, metrics.jsonl (one
JSON object a line), accuracy and snr as .svg and .png, checkpoint.safetensors. Ctrl-C saves and exits; the same command
goes on, and gives what an uninterrupted run gives.

Examples:
  hypnos train -c configs/sample-resnet8-lc-ws10.toml
  hypnos train -c configs/cifar10-resnet20-lc-ws10.toml --set data.path=cifar-10-binary.tar.gz --set train.steps=100
  hypnos train --set network.name=resnet8-lc --set train.epochs=5 --dir runs/try`)
	config := f.String("c", "", "configuration `file`")
	dir := f.String("dir", "", "run `directory` (default: runs/NAME, NAME from the configuration)")
	var settings list
	f.Var(&settings, "set", "override a setting: `key=value`; may be repeated")
	if _, err := f.parse(args); err != nil {
		return err
	}
	x, err := experiment.Load(*config, settings)
	if err != nil {
		return err
	}
	if *dir == "" {
		*dir = filepath.Join("runs", x.Name)
	}
	d, err := experiment.OpenDir(*dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if x.Data.Path != "" {
		fmt.Fprintf(c.Err, "reading %s\n", x.Data.Path) // which takes a while, before there is progress to show
	}
	p := newProgress(c.Err)
	state, last, err := experiment.Run(ctx, x, d, p)
	p.Close()
	if errors.Is(err, train.ErrInterrupted) {
		return fmt.Errorf("step %d is saved in %s; the same command goes on: %w", state.Step, d.Path, err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: %d steps in %s\n", x.Name, state.Step, clock(state.Seconds))
	if last != nil {
		printEval(c, *last)
	}
	fmt.Fprintf(c.Out, "results in %s\n", d.Path)
	return nil
}

// printEval prints an evaluation.
func printEval(c console, e train.Eval) {
	fmt.Fprintf(c.Out, "test: top-1 %.2f%%, top-5 %.2f%%, loss %.4f (%d images)\n", 100*e.Top1, 100*e.Top5, e.Loss, e.Images)
	if len(e.Weights.Layers) > 0 {
		fmt.Fprintf(c.Out, "weights: SNR %s (Eq. 6, geometric mean over %d layers)\n", formatSNR(e.Weights.SNR()), len(e.Weights.Layers))
	}
}

// formatSNR prints a signal-to-noise ratio; weights that are equal within their groups have an infinite one.
func formatSNR(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "inf"
	case math.IsNaN(v):
		return "-"
	}
	return fmt.Sprintf("%.3g", v)
}
