package main

import (
	"context"
	"errors"
	"time"

	"hypnos/bench/load"
)

func benchLoad(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "bench load", "--to URL [flags]", `
Has many clients classify and learn on a board at a time: random images in the network's size, labels at random. It prints
how many were answered and how fast, which were refused, whether every acknowledged step is there in the end, and the
daemon's memory. Any error but a documented 429, and a lost step, is exit code 1. What the board learns here is noise: load
a board that is for tests. Its limit of requests, rate, is for one address: set it to 0 for the load.

Examples:
  hypnos bench load --to http://localhost:8470
  hypnos bench load --to http://localhost:8470 --clients 16 --duration 10s --learn 0.1 --json load.json`)
	to := boardFlags(f, "to")
	var o load.Config
	f.IntVar(&o.Clients, "clients", 64, "clients at a time")
	f.DurationVar(&o.Duration, "duration", time.Minute, "how long they send requests")
	f.Float64Var(&o.Learn, "learn", 0.25, "share of the requests that learn")
	f.Uint64Var(&o.Seed, "seed", 1, "seed of images, labels and the order of requests")
	file := f.String("json", "", "write everything to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if o.Clients < 1 || o.Clients > 1024 || o.Duration <= 0 || !(o.Learn >= 0 && o.Learn <= 1) {
		return usageError{errors.New("want 1 to 1024 clients, a duration above 0 and a share from 0 to 1")}
	}
	board, err := connect(c, "to", *to)
	if err != nil {
		return err
	}
	r, err := load.Run(ctx, board, o)
	if err != nil {
		return err
	}
	if *file != "" {
		if err := saveJSON(*file, r); err != nil {
			return err
		}
	}
	if err := r.WriteText(c.Out); err != nil {
		return err
	}
	return r.Check()
}
