package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"hypnos/bench/experiment"
	"hypnos/core"
	"hypnos/core/sleep"
)

func sleepCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "sleep", "-m CHECKPOINT [flags]", `
Lets the network of a checkpoint or an edge package sleep and prints for each locally connected layer how alike weights were before and after,
what became of the mean weights, how long it took and how many bytes were moved. Settings that are not given are those
of the checkpoint's configuration ([sleep], docs/TRAINING.md); docs/SLEEP.md explains rules, sources and executions.

Examples:
  hypnos sleep -m runs/sample-resnet8-lc-ws10/checkpoint.safetensors
  hypnos sleep -m edge.hyp --rule instant --out slept.hyp
  hypnos sleep -m a.safetensors --rule hebbian --events 100 --json s.json
  hypnos sleep -m a.safetensors --rule circuit --source onehot --out b.safetensors`)
	path := f.String("m", "", "checkpoint or edge package `file`")
	out := f.String("out", "", "write the network after the sleep to a `file` of the same kind")
	jsonPath := f.String("json", "", "write the report to a `file` as JSON")
	backend := f.String("backend", "", defaultBackend)
	residual := f.Int("residual", 0, "of a package: store weights as means of their groups and 8-bit residuals where at most so many `bits` are lost")
	var settings list
	f.Var(&settings, "set", "override another setting of [sleep]: `key=value`; may be repeated")
	given := map[string]*string{}
	for _, s := range [][2]string{
		{"rule", "instant, hebbian, circuit or observe"}, {"source", "gaussian, onehot, propagated or recorded; sources for layers behind commas: propagated,*.shortcut=gaussian"},
		{"events", "events a grid"}, {"gamma", "γ"}, {"momentum", "μ"}, {"rate", "learning rate; 0 chooses it for each layer"},
		{"execution", "auto, direct, streaming, map or factored"}, {"border", "shares or rests"},
	} {
		given[s[0]] = f.String(s[0], "", s[1])
	}
	seed := f.Uint64("seed", 1, "seed of the patterns")
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
	if *out != "" {
		if err := k.saves(*backend); err != nil {
			return err
		}
	}
	var all []string
	for name, v := range given {
		if *v != "" {
			all = append(all, "sleep."+name+"="+*v)
		}
	}
	for _, s := range settings {
		all = append(all, "sleep."+s)
	}
	stream, err := k.Config.SleepStream(all)
	if err != nil {
		return err
	}
	stream.Measure, stream.Seed, stream.Phase = true, *seed, 2*uint64(k.State.Step)
	e, err := k.compile(*backend, core.Options{MaxBatch: recordedImages})
	if err != nil {
		return err
	}
	defer e.Close()
	if sleep.NeedsRecording(stream.Source) {
		if err := record(ctx, e, k.Checkpoint, stream.Source); err != nil {
			return err
		}
	}
	r, err := e.Sleep(ctx, stream)
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: %s, rule %s", *path, k.Net.Name, r.Rule)
	if len(r.Layers) > 0 && r.Layers[0].Rate > 0 {
		fmt.Fprintf(c.Out, ", source %s, %d events a grid, seed %d", stream.Source.Kind(), stream.Events, *seed)
	}
	fmt.Fprintln(c.Out)
	if err := writeSleep(c.Out, r); err != nil {
		return err
	}
	if *out != "" {
		if err := k.save(ctx, *out, e, *residual); err != nil {
			return err
		}
		if k.edge != nil {
			fmt.Fprintf(c.Out, "package: %s\n", *out)
		} else {
			fmt.Fprintf(c.Out, "checkpoint: %s (without the optimiser's state)\n", *out)
		}
	}
	if *jsonPath != "" {
		return saveJSON(*jsonPath, r)
	}
	return nil
}

// recordedImages is how many test images recorded activity is taken from.
const recordedImages = 32

// record gives a source the activity of the first test images, at the input of every locally connected layer.
func record(ctx context.Context, e core.Engine, k experiment.Checkpoint, source sleep.PatternSource) error {
	d, err := openFor(k, "")
	if err != nil {
		return err
	}
	test := experiment.TestLoader(d.Test, k.Net, k.Data.Stats, recordedImages, 1)
	if err := test.Check(); err != nil {
		return err
	}
	readers := map[string][]string{} // layers, by the node that they read
	for _, l := range sleep.Layers(k.Net) {
		from := k.Net.Nodes[k.Net.Nodes[l.Node].Inputs[0]].Name
		readers["out/"+from] = append(readers["out/"+from], l.Name)
	}
	inputs := map[string][]float64{}
	for m := range test.InOrder(ctx) {
		if m.Err != nil {
			return m.Err
		}
		for t, err := range e.Trace(ctx, m.X, core.Probe{}) {
			if err != nil {
				return err
			}
			if len(readers[t.Name]) == 0 {
				continue
			}
			x, err := t.Float64s()
			if err != nil {
				return err
			}
			x = append([]float64(nil), x...)
			for _, name := range readers[t.Name] {
				inputs[name] = x
			}
		}
		break
	}
	sleep.SetRecording(source, inputs)
	return ctx.Err()
}

// writeSleep prints a report layer by layer.
func writeSleep(w io.Writer, r sleep.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "layer\tgroups\tln(1/SNR)\tafter\tmean kept\terror\texecution\trate\tms\tMB\t\n")
	for _, l := range r.Layers {
		execution := "-"
		if l.Execution != "" {
			execution = l.Execution.String()
		}
		groups, before, after := "-", "-", "-"
		if l.Before != nil {
			groups, before = fmt.Sprint(l.Before.Groups), formatLn(l.Before.LnInverseSNR())
		}
		if l.After != nil {
			after = formatLn(l.After.LnInverseSNR())
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%.4f\t%.2g\t%s\t%.3g\t%.1f\t%.2f\t\n", l.Layer, groups, before, after, l.Mean.Ratio, l.Mean.Error, execution, l.Rate, 1e3*l.Duration.Seconds(), float64(l.Bytes)/1e6)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "network: SNR %s before, %s after (Eq. 6, geometric mean over layers), %.1f ms, %.2f MB\n",
		formatSNR(r.SNR()), formatSNR(r.SNRAfter()), 1e3*r.Duration.Seconds(), float64(r.Bytes)/1e6)
	return err
}

// formatLn prints ln(1/SNR); groups that are equal have -Inf.
func formatLn(v float64) string {
	switch {
	case math.IsInf(v, -1):
		return "-inf"
	case math.IsNaN(v):
		return "-"
	}
	return fmt.Sprintf("%.2f", v)
}
