package main

import (
	"context"
	"fmt"

	"hypnos/backends/fixed"
	"hypnos/bench/equivalence"
	"hypnos/bench/golden"
	"hypnos/hil/message"
)

// golden compares what this device computes with what another backend, elsewhere, has written to a file.
func (g *guest) golden(ctx context.Context, path string) (any, error) {
	path, err := g.path(path)
	if err != nil {
		return nil, err
	}
	f, err := golden.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := fixed.Open(fixed.Options{})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	r, err := f.Check(ctx, []equivalence.Subject{{Name: "fixed", Backend: b}}, func(string) {})
	if err != nil {
		return nil, err
	}
	c := message.Checked{Against: fmt.Sprintf("%s (%s)", f.Manifest.Backend, f.Manifest.Numbers), Violated: r.Violated}
	nearest := -1.0
	for _, row := range r.Rows {
		if row.Backend != "fixed" { // the file's own, with the reference
			continue
		}
		c.Comparisons++
		if row.Ratio != nil && *row.Ratio > nearest {
			nearest = *row.Ratio
			c.Nearest = fmt.Sprintf("%s of %s, %.2g of its bound", row.Check, row.Layer, nearest)
		}
	}
	return c, nil
}
