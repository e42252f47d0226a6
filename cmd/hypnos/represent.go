package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"hypnos/bench/experiment"
	"hypnos/bench/represent"
	"hypnos/core"
)

// representReport is what hypnos represent writes as JSON.
type representReport struct {
	A            string                 `json:"a"`
	B            string                 `json:"b"`
	Data         string                 `json:"data"`
	Images       int                    `json:"images"`
	Similarities []represent.Similarity `json:"similarities"` // every layer of A with every layer of B
	ShiftsA      []represent.Shift      `json:"shifts_a,omitempty"`
	ShiftsB      []represent.Shift      `json:"shifts_b,omitempty"`
	TuningA      []represent.Tuning     `json:"tuning_a,omitempty"`
	TuningB      []represent.Tuning     `json:"tuning_b,omitempty"`
}

func representCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "represent", "-m FILE [-m FILE] [flags]", `
Compares what two networks make of the same test images, layer by layer: linear CKA, the same without its bias, and RSA; and
for every locally connected layer how much of its response does not move along when its input is shifted, which is 0 at every
k-th position after a sleep. With one network its layers are compared with each other. --gratings measures how neurons are tuned
to orientation. docs/REPRESENTATION.md has the measures.

Examples:
  hypnos represent -m conv.safetensors -m lc.safetensors
  hypnos represent -m lc.safetensors --images 500 --json cka.json
  hypnos represent -m a.safetensors -m b.safetensors --layers stage1.block1.add,pool
  hypnos represent -m conv.safetensors -m lc.safetensors --gratings --layers stem.conv,stage1.block1.conv1`)
	var paths []string
	f.Func("m", "checkpoint or edge package `file`; once or twice", func(s string) error { paths = append(paths, s); return nil })
	images := f.Int("images", 200, "test images, the first")
	source := f.String("data", "", "folder or archive of images (default: the first checkpoint's)")
	backend := f.String("backend", "", defaultBackend)
	layers := f.String("layers", "", "`names` of layers, with commas (default: ends of blocks, mean and classifier)")
	gratings := f.Bool("gratings", false, "measure the tuning of the layers to the orientation of gratings, too")
	jsonPath := f.String("json", "", "write every pair of layers to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	switch {
	case len(paths) == 0 || len(paths) > 2:
		return usageError{errors.New("one or two checkpoints: -m FILE")}
	case *images < represent.LeastImages:
		return usageError{fmt.Errorf("--images %d is below %d", *images, represent.LeastImages)}
	}
	var names []string
	if *layers != "" {
		names = strings.Split(*layers, ",")
	}
	r := representReport{A: paths[0], B: paths[len(paths)-1], Images: *images}
	var views [][]*represent.Representation
	for _, path := range paths {
		v, err := r.view(ctx, path, *backend, *source, names, *gratings)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if views = append(views, v.layers); len(views) == 1 {
			r.ShiftsA, r.TuningA = v.shifts, v.tuning
		} else {
			r.ShiftsB, r.TuningB = v.shifts, v.tuning
		}
	}
	for _, a := range views[0] {
		for _, b := range views[len(views)-1] {
			s, err := represent.Compare(a, b)
			if err != nil {
				return err
			}
			r.Similarities = append(r.Similarities, s)
		}
	}
	if err := r.writeText(c.Out); err != nil {
		return err
	}
	if *jsonPath != "" {
		return saveJSON(*jsonPath, r)
	}
	return nil
}

// view is what is measured of one network.
type view struct {
	layers []*represent.Representation
	shifts []represent.Shift
	tuning []represent.Tuning
}

// view runs the images through one network.
func (r *representReport) view(ctx context.Context, path, backend, source string, layers []string, gratings bool) (v view, err error) {
	const batch = 16
	k, err := openModel(path)
	if err != nil {
		return v, err
	}
	defer k.Close()
	d, err := openFor(k.Checkpoint, source)
	if err != nil {
		return v, err
	}
	if r.Data != "" && r.Data != d.Name {
		return v, fmt.Errorf("its images are %s, not %s: name one with --data", d.Name, r.Data)
	}
	r.Data = d.Name
	e, err := k.compile(backend, core.Options{MaxBatch: batch})
	if err != nil {
		return v, err
	}
	defer e.Close()
	if layers == nil {
		layers = represent.DefaultLayers(k.Net)
	}
	test := experiment.TestLoader(d.Test, k.Net, k.Data.Stats, batch, k.Config.Data.Workers)
	if err := test.Check(); err != nil {
		return v, err
	}
	v.layers, err = represent.Of(ctx, e, k.Net, test, r.Images, layers)
	if err != nil {
		return v, err
	}
	var x core.Batch
	for m := range test.InOrder(ctx) {
		if m.Err != nil {
			return v, m.Err
		}
		x = core.Batch{N: m.X.N, Pixels: slices.Clone(m.X.Pixels)}
		break
	}
	if v.shifts, err = represent.Shifts(ctx, e, k.Net, x); err == nil && gratings {
		v.tuning, err = represent.Tune(ctx, e, k.Net, layers, represent.DefaultGratings())
	}
	return v, err
}

// writeText prints the pairs of layers of one name, or of one place where the networks have other layers, and the shifts.
func (r *representReport) writeText(w io.Writer) error {
	fmt.Fprintf(w, "A %s\nB %s\n%d test images of %s\n\n", r.A, r.B, r.Images, r.Data)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "layer\tCKA\tdebiased\tRSA")
	for _, s := range r.Similarities {
		if s.A == s.B {
			fmt.Fprintf(t, "%s\t%.3f\t%.3f\t%.3f\n", s.A, s.CKA, s.Debiased, s.RSA)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range []struct {
		name   string
		shifts []represent.Shift
	}{{"A", r.ShiftsA}, {"B", r.ShiftsB}} {
		if len(n.shifts) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s: share of a layer's response that does not move along, at shifts of its output by 1, 2, … positions\n", n.name)
		var lines []string
		for _, s := range n.shifts {
			if s.Position == 1 || len(lines) == 0 {
				lines = append(lines, s.Layer)
			}
			lines[len(lines)-1] += fmt.Sprintf("\t%.3g", s.Error)
		}
		fmt.Fprintln(t, strings.Join(lines, "\n"))
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return r.writeTuning(w, t)
}

// writeTuning prints how neurons are tuned, when that was measured.
func (r *representReport) writeTuning(w io.Writer, t *tabwriter.Writer) error {
	for _, n := range []struct {
		name   string
		tuning []represent.Tuning
	}{{"A", r.TuningA}, {"B", r.TuningB}} {
		if len(n.tuning) == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s: tuning to the orientation of gratings\n", n.name)
		fmt.Fprintln(t, "layer\tneurons\tsilent\tselectivity, quartiles\tagreement in a group")
		for _, l := range n.tuning {
			fmt.Fprintf(t, "%s\t%d\t%d\t%.3f %.3f %.3f\t%.3f\n", l.Layer, l.Units, l.Silent, l.Selectivity[0], l.Selectivity[1], l.Selectivity[2], l.Agreement)
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	return nil
}
