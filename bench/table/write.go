package table

import (
	"fmt"
	"io"
	"math"
	"strings"

	"hypnos/bench/figure"
)

// caption says what was run and how it differs from the paper's protocol.
func (t *Table) caption() string {
	c := t.base
	paper, _, _ := Protocol(t.Number, "paper") // of a table that there is
	var scaled []string
	note := func(differs bool, format string, args ...any) {
		if differs {
			scaled = append(scaled, fmt.Sprintf(format, args...))
		}
	}
	note(c.Network.Name != paper.Network.Name, "%s in place of %s", c.Network.Name, paper.Network.Name)
	note(c.Network.Width != 0, "width %d", c.Network.Width)
	note(c.Train.Epochs != paper.Train.Epochs, "%d epochs in place of %d, the drops of the learning rate with them", c.Train.Epochs, paper.Train.Epochs)
	note(c.Train.Steps != 0, "%d learning steps a run at most", c.Train.Steps)
	note(c.Train.Batch != paper.Train.Batch, "batches of %d in place of %d", c.Train.Batch, paper.Train.Batch)
	note(c.Data.TrainLimit != 0, "%d training images", c.Data.TrainLimit)
	note(c.Data.TestLimit != 0, "%d test images", c.Data.TestLimit)
	note(c.Train.Optimizer != paper.Train.Optimizer, "%s in place of %s", c.Train.Optimizer, paper.Train.Optimizer)
	note(len(t.Seeds) < 5 && t.Number == 1, "%d of 5 runs a cell", len(t.Seeds))
	text := fmt.Sprintf("Table %d on %s, padding %d, seeds %s, backend %s.", t.Number, t.Data, padding(c), numbers(t.Seeds), c.Backend)
	if len(scaled) > 0 {
		text += " Not the paper's protocol: " + strings.Join(scaled, "; ") + "."
	}
	if e, ok := t.Rows[0].Runs[0].last(); ok {
		text += fmt.Sprintf(" With %d test images a figure has a standard error of %.1f points.", e.Images, 100*math.Sqrt(e.Top1*(1-e.Top1)/float64(e.Images)))
	}
	return text
}

func numbers(n []uint64) string { return strings.Trim(fmt.Sprint(n), "[]") }

// WriteMarkdown writes the table as Markdown.
func (t *Table) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "| connectivity | top-1 (%%) | min to max | diff | paper | paper's diff | top-5 (%%) | SNR | seconds a run |\n")
	fmt.Fprintf(&b, "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	var conv *Paper
	for _, r := range t.Rows {
		if r.Name == "conv" {
			conv = r.Paper
		}
	}
	for _, r := range t.Rows {
		top1, spread, top5, diff, paper, paperDiff := "diverged", "", "", "", "", ""
		if r.Top1 != nil {
			top1, top5 = fmt.Sprintf("%.1f", r.Top1.Mean), fmt.Sprintf("%.1f", r.Top5.Mean)
			if r.Top1.Runs > 1 {
				spread = fmt.Sprintf("%.1f to %.1f", r.Top1.Min, r.Top1.Max)
			}
			if lost := len(r.Runs) - r.Top1.Runs; lost > 0 {
				top1 += fmt.Sprintf(" (%d of %d diverged)", lost, len(r.Runs))
			}
		}
		if r.Diff != nil {
			diff = fmt.Sprintf("%+.1f", *r.Diff)
		}
		if r.Paper != nil {
			paper = fmt.Sprintf("%.1f", r.Paper.Top1)
			if conv != nil && r.Name != "conv" {
				paperDiff = fmt.Sprintf("%+.1f", r.Paper.Top1-conv.Top1)
			}
		}
		seconds := 0.0
		for _, run := range r.Runs {
			seconds += run.Seconds / float64(len(r.Runs))
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s | %.0f |\n", r.Label, top1, spread, diff, paper, paperDiff, top5, snrText(r.snr), seconds)
	}
	fmt.Fprintf(&b, "\n%s\n", t.Caption)
	for _, r := range t.Rows {
		if r.Search != nil {
			fmt.Fprintf(&b, "%s: learning rate %g, weight decay %g, the best of %d on held out images (%.1f %%).\n", r.Label, r.Search.LR, r.Search.WeightDecay, r.Search.Tried, r.Search.Top1)
		}
		for _, run := range r.Runs {
			if run.Diverged != "" {
				fmt.Fprintf(&b, "%s, seed %d: diverged at step %d: %s\n", r.Label, run.Seed, run.Steps, run.Diverged)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func snrText(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "inf"
	case math.IsNaN(v):
		return ""
	}
	return fmt.Sprintf("%.3g", v)
}

// Accuracy is the test accuracy of every cell against learning steps, of the first seed's run, the others faint.
func (t *Table) Accuracy() figure.Figure {
	f := figure.Figure{Title: fmt.Sprintf("Table %d, %s", t.Number, t.Data), XLabel: "learning steps", YLabel: "test top-1 accuracy (%)"}
	for _, r := range t.Rows {
		for i, run := range r.Runs {
			s := figure.Series{Name: r.Label, Faint: i > 0}
			if i > 0 {
				s.Name = ""
			}
			for _, e := range run.Evals {
				s.X, s.Y = append(s.X, float64(e.Step)), append(s.Y, 100*e.Top1)
			}
			f.Series = append(f.Series, s)
		}
	}
	return f
}

// Regularity is the signal-to-noise ratio of every LC cell against learning steps, ln(1/SNR) as in the paper's Fig. 3A and 4.
func (t *Table) Regularity() figure.Figure {
	f := figure.Figure{Title: fmt.Sprintf("Table %d, %s", t.Number, t.Data), XLabel: "learning steps", YLabel: "ln(1/SNR)"}
	for _, r := range t.Rows {
		s := figure.Series{Name: r.Label}
		for _, e := range r.Runs[0].Evals {
			if len(e.Weights.Layers) > 0 {
				s.X, s.Y = append(s.X, float64(e.Step)), append(s.Y, -math.Log(e.Weights.SNR()))
			}
		}
		if len(s.X) > 0 {
			f.Series = append(f.Series, s)
		}
	}
	return f
}

// Interval is the difference to conv against the batches between sleeps, measured and in the paper; empty with fewer than two such cells.
func (t *Table) Interval() figure.Figure {
	f := figure.Figure{Title: fmt.Sprintf("Table %d, %s", t.Number, t.Data), XLabel: "log10 of the batches between sleeps", YLabel: "top-1, difference to conv (points)"}
	measured, paper := figure.Series{Name: "measured"}, figure.Series{Name: "paper"}
	var conv *Paper
	for _, r := range t.Rows {
		if r.Name == "conv" {
			conv = r.Paper
		}
	}
	for _, r := range t.Rows {
		if r.Cell.Interval == 0 || r.Name != fmt.Sprintf("lc-ws%d", r.Cell.Interval) {
			continue
		}
		at := math.Log10(float64(r.Cell.Interval))
		if r.Diff != nil {
			measured.X, measured.Y = append(measured.X, at), append(measured.Y, *r.Diff)
		}
		if r.Paper != nil && conv != nil {
			paper.X, paper.Y = append(paper.X, at), append(paper.Y, r.Paper.Top1-conv.Top1)
		}
	}
	if len(measured.X) >= 2 {
		f.Series = []figure.Series{measured}
		if len(paper.X) > 0 {
			f.Series = append(f.Series, paper)
		}
	}
	return f
}
