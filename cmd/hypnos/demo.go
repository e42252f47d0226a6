package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"hypnos/bench/experiment"
	"hypnos/bench/figure"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/optim"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

// demoCell is one network of the demonstration: what sets it apart from the others.
type demoCell struct {
	name   string
	change func(*experiment.Config)
}

// demoCells are the rows of the paper's Table 1 that the demonstration repeats.
func demoCells() []demoCell {
	lc := func(change func(*experiment.Config)) func(*experiment.Config) {
		return func(c *experiment.Config) {
			c.Network.Name += "-lc"
			change(c)
		}
	}
	return []demoCell{
		{"conv", func(*experiment.Config) {}},
		{"LC", lc(func(*experiment.Config) {})},
		{"LC - 4 reps", lc(func(c *experiment.Config) { repeat(c, 4) })},
		{"LC - ws(1)", lc(func(c *experiment.Config) { c.Sleep.Every = 1 })},
		{"LC - ws(10)", lc(func(c *experiment.Config) { c.Sleep.Every = 10 })},
	}
}

// repeat puts every image n times into a batch. The epochs, n times longer for that, become fewer: every cell takes
// the same number of learning steps.
func repeat(c *experiment.Config, n int) {
	c.Data.Reps = n
	c.Train.EvalEvery = (c.Train.EvalEvery + n - 1) / n
	epochs := (c.Train.Epochs + n - 1) / n
	c.Train.Drops = dropsOf(epochs)
	c.Train.Epochs = epochs + 1 // Train.Steps ends it: longer epochs have fewer batches that are not full
}

// demoConfig is what all cells have in common. Stochastic gradient descent at one rate suits the comparison: while the
// groups are equal, the mean of their gradients moves them relative to their size as a convolution moves.
func demoConfig(epochs int) experiment.Config {
	c := experiment.Default()
	c.Name = "demo"
	c.Data.Pad = 1
	c.Network.Name, c.Network.Width = "resnet8", 8
	c.Train.Batch, c.Train.Epochs, c.Train.Drops = 64, epochs, dropsOf(epochs)
	c.Train.Optimizer, c.Train.LR, c.Train.WeightDecay = optim.SGD, 0.3, 5e-4
	c.Train.EvalEvery, c.Train.SaveEvery = 4, 0
	return c
}

// dropsOf puts the drops of the learning rate at one half and three quarters, as the paper does.
func dropsOf(epochs int) []int {
	if epochs < 4 {
		return []int{}
	}
	return []int{epochs / 2, epochs * 3 / 4}
}

// demoResult is the demonstration as data.
type demoResult struct {
	Program string           `json:"program"`
	Data    string           `json:"data"`
	Train   int              `json:"train_images"`
	Test    int              `json:"test_images"`
	Network string           `json:"network"`
	Width   int              `json:"width"`
	Seed    uint64           `json:"seed"`
	Batch   int              `json:"batch"`
	Steps   int64            `json:"steps"`  // of every cell
	Base    string           `json:"config"` // what all cells have in common, as TOML
	Backend string           `json:"backend"`
	Cells   []demoCellResult `json:"cells"`
	Seconds float64          `json:"seconds"`
	Figure  string           `json:"figure,omitempty"`
	conf    experiment.Config
}

// demoCellResult is one row of the table.
type demoCellResult struct {
	Name      string       `json:"name"`
	Steps     int64        `json:"steps"`
	Images    int          `json:"images_seen"`
	TrainTop1 float64      `json:"train_top1"` // of the last epoch, as a fraction
	Top1      float64      `json:"top1"`       // of the test images
	Top5      float64      `json:"top5"`
	Loss      float64      `json:"loss"`
	Diff      *float64     `json:"diff_to_conv,omitempty"` // of top-1
	SNR       *float64     `json:"snr"`                    // Eq. 6, geometric mean over the LC layers; null when infinite or without LC layers
	Equal     bool         `json:"weights_equal"`          // all groups of all LC layers were equal at the evaluation
	Seconds   float64      `json:"seconds"`
	Evals     []train.Eval `json:"evals"`
	snr       float64
}

func demo(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "demo", "[flags]", `
Shows the paper's effect on a sample of CIFAR-10 that is part of the program: a locally connected (LC) network falls
behind its convolutional twin, and sleep brings it back. All networks see the same images from the same seed; they
take the same number of steps, and differ in connectivity, in how often an image is repeated in a batch ("reps") and in
how often they sleep ("ws(n)": after every n-th batch). Prints a table in the form of the paper's Table 1 and writes a
figure. A later result replaces an earlier one in the same directory.

Examples:
  hypnos demo
  hypnos demo --json out.json
  hypnos demo --seed 2 --epochs 5 --out short
  hypnos demo --set train.optimizer=adamw --set train.lr=1e-3`)
	out := f.String("out", "hypnos-demo", "`directory` for the table and the figure")
	jsonPath := f.String("json", "", "write the results to a `file` as JSON, too")
	seed := f.Uint64("seed", 1, "seed of weights, order of images and crops")
	epochs := f.Int("epochs", 60, "passes through the sample")
	backend := f.String("backend", "cpu", "backend, with settings: cpu, cpu:threads=1, ref")
	var settings list
	f.Var(&settings, "set", "change a setting of all networks: `key=value`; may be repeated")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *epochs < 1 {
		return usageError{fmt.Errorf("%d epochs are below 1", *epochs)}
	}
	conf := demoConfig(*epochs)
	conf.Seed, conf.Backend = *seed, *backend
	conf, err := conf.With(settings)
	if err != nil {
		return err
	}
	d, err := experiment.OpenData(conf.Data, conf.Seed)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	r, err := runDemo(ctx, c, conf, d)
	if err != nil {
		return err
	}
	r.Figure = filepath.Join(*out, "accuracy.svg")
	if err := r.figure().Save(strings.TrimSuffix(r.Figure, ".svg")); err != nil {
		return err
	}
	table := filepath.Join(*out, "table.txt")
	if err := model.Replace(table, r.write); err != nil {
		return err
	}
	if err := r.write(c.Out); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "\nfigure: %s and .png; table: %s\n", r.Figure, table)
	if *jsonPath != "" {
		return saveJSON(*jsonPath, r)
	}
	return nil
}

// runDemo trains the cells one after the other.
func runDemo(ctx context.Context, c console, conf experiment.Config, d *data.Dataset) (*demoResult, error) {
	all := int64(conf.Train.Epochs) * int64((d.Train.Len()+conf.Train.Batch-1)/conf.Train.Batch)
	if conf.Train.Steps == 0 || conf.Train.Steps > all {
		conf.Train.Steps = all
	}
	cells := demoCells()
	configs := make([]experiment.Config, len(cells))
	for i, cell := range cells { // all are checked before the first is trained
		configs[i] = conf
		cell.change(&configs[i])
		if err := configs[i].Check(); err != nil {
			return nil, fmt.Errorf("%s: %w", cell.name, err)
		}
	}
	r := &demoResult{
		Program: "hypnos " + version(), Data: d.Name, Train: d.Train.Len(), Test: d.Test.Len(),
		Network: conf.Network.Name, Width: conf.Network.Width, Seed: conf.Seed, Batch: conf.Train.Batch,
		Steps: conf.Train.Steps, Backend: conf.Backend, Base: conf.Text(), conf: conf,
	}
	begin := time.Now()
	for i, cell := range cells {
		fmt.Fprintf(c.Err, "[%d/%d] %s\n", i+1, len(cells), cell.name)
		result, err := runCell(ctx, c, cell.name, configs[i], d)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cell.name, err)
		}
		if i > 0 {
			diff := result.Top1 - r.Cells[0].Top1
			result.Diff = &diff
		}
		r.Cells = append(r.Cells, result)
	}
	r.Seconds = time.Since(begin).Seconds()
	return r, nil
}

// runCell trains one network and keeps its evaluations.
func runCell(ctx context.Context, c console, name string, conf experiment.Config, d *data.Dataset) (demoCellResult, error) {
	r := demoCellResult{Name: name}
	begin := time.Now()
	x, err := experiment.Open(conf, d)
	if err != nil {
		return r, err
	}
	defer x.Close()
	p := newProgress(c.Err)
	defer p.Close()
	p.Begin(x.Steps(), train.State{})
	var epochImages, epochHits float64
	x.Loop.Save = func(train.State) error { return nil }
	x.Loop.Observe = func(metric any) error {
		switch m := metric.(type) {
		case train.Step:
			if m.Batch == 0 {
				epochImages, epochHits = 0, 0
			}
			epochImages += float64(m.Images)
			epochHits += m.Top1 * float64(m.Images)
			r.Images += m.Images
		case train.Eval:
			r.Evals = append(r.Evals, m)
		}
		p.Observe(metric)
		return nil
	}
	s, err := x.Loop.Run(ctx, train.State{})
	if err != nil {
		return r, err
	}
	if len(r.Evals) == 0 {
		return r, errors.New("no evaluation")
	}
	last := r.Evals[len(r.Evals)-1]
	r.Steps, r.Top1, r.Top5, r.Loss = s.Step, last.Top1, last.Top5, last.Loss
	r.TrainTop1 = epochHits / epochImages
	r.snr = last.Weights.SNR()
	r.SNR, r.Equal = sleep.Finite(r.snr), equalWeights(last.Weights)
	r.Seconds = time.Since(begin).Seconds()
	return r, nil
}

// equalWeights tells whether all groups of all layers were equal.
func equalWeights(r sleep.Report) bool {
	for _, l := range r.Layers {
		if l.Before == nil || !l.Before.AllEqual() {
			return false
		}
	}
	return len(r.Layers) > 0
}

// write prints the table and what was run.
func (r *demoResult) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "connectivity\ttop-1 (%)\tdiff\tSNR\tseconds\t\n")
	for _, c := range r.Cells {
		diff := "-"
		if c.Diff != nil {
			diff = fmt.Sprintf("%+.1f", 100**c.Diff)
		}
		fmt.Fprintf(t, "%s\t%.1f\t%s\t%s\t%.1f\t\n", c.Name, 100*c.Top1, diff, formatSNR(c.snr), c.Seconds)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s", r.caption())
	return err
}

// caption says what was run and how far it can be trusted.
func (r *demoResult) caption() string {
	p := r.Cells[0].Top1
	t := r.conf.Train
	return fmt.Sprintf(`A small sample, not the paper's experiment: %s.
%s of width %d; %d steps of %d images, %s at learning rate %g, weight decay %g, padding %d, the same in
every row; seed %d, one run a row, backend %s, %.0f s in all. With %d test images a figure has a standard error
of %.1f points. SNR (Eq. 6): how alike the weights of laterally connected neurons were when tested; inf: all were equal.
`, r.Data, r.Network, r.Width, r.Steps, r.Batch, t.Optimizer, t.LR, t.WeightDecay, r.conf.Data.Pad,
		r.Seed, r.Backend, r.Seconds, r.Test, 100*math.Sqrt(p*(1-p)/float64(r.Test)))
}

// figure is the test accuracy of every cell against epochs.
func (r *demoResult) figure() figure.Figure {
	f := figure.Figure{Title: r.Data + ", " + r.Network, XLabel: "learning steps", YLabel: "test top-1 accuracy (%)"}
	for _, c := range r.Cells {
		s := figure.Series{Name: c.Name}
		for _, e := range c.Evals {
			s.X, s.Y = append(s.X, float64(e.Step)), append(s.Y, 100*e.Top1)
		}
		f.Series = append(f.Series, s)
	}
	return f
}
