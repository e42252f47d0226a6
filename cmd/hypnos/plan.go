package main

import (
	"context"
	"errors"
	"fmt"

	"hypnos/bench/continual"
	"hypnos/bench/plan"
	"hypnos/board"
	"hypnos/core/optim"
)

func planCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "plan", "-m PACKAGE --board BOARD [flags]", `
Tells what an edge package takes on a board before it is there: per layer weights, scratch, bytes moved and multiply-adds of
inference, of a wake step and of sleep, estimated times, peak memory, and whether it fits. When it does not, the exit code is 1.
Boards are embedded profiles, or a TOML file.

Examples:
  hypnos plan -m edge.hyp --board raspberry-pi-4
  hypnos plan -m edge.hyp --board raspberry-pi-zero-2 --learn classifier --json plan.json
  hypnos plan -m edge.hyp --board my-board.toml --threads 1 --batch 4`)
	path := f.String("m", "", "edge package `file`")
	name := f.String("board", "", fmt.Sprintf("board, one of %v, or a TOML `file`", board.Names()))
	o := plan.Options{}
	f.IntVar(&o.Threads, "threads", 0, "number of threads (default: one a core of the board)")
	f.IntVar(&o.Events, "events", 100, "events a grid of a Hebbian sleep")
	learn := f.String("learn", continual.All, "what learns: all, last-block, classifier; none for inference and sleep only")
	f.IntVar(&o.Core.MaxBatch, "batch", 1, "images a batch")
	jsonPath := f.String("json", "", "write the plan to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	switch {
	case *path == "":
		return usageError{errors.New("which package? -m FILE")}
	case *name == "":
		return usageError{fmt.Errorf("which board? --board, one of %v, or a TOML file", board.Names())}
	}
	b, err := board.Open(*name)
	if err != nil {
		return usageError{err}
	}
	k, err := openModel(*path)
	if err != nil {
		return err
	}
	defer k.Close()
	if k.edge == nil {
		return fmt.Errorf("%s is a checkpoint, not an edge package (hypnos package makes one of it)", *path)
	}
	if *learn != "none" {
		o.Core.Train, o.Core.Optimizer = true, optim.Spec{Kind: optim.SGD}
		if o.Core.LearnFrom, err = continual.LearnFrom(k.Net, *learn); err != nil {
			return usageError{err}
		}
	}
	p, err := plan.New(k.Net, *b, o)
	if err != nil {
		return err
	}
	if err := p.WriteText(c.Out); err != nil {
		return err
	}
	if *jsonPath != "" {
		if err := saveJSON(*jsonPath, p); err != nil {
			return err
		}
	}
	if !p.Fits {
		return fmt.Errorf("%s does not fit: peak %.1f MB, %s has %.1f MB", *path, float64(p.Peak)/1e6, b.Name, float64(p.Free)/1e6)
	}
	return nil
}
