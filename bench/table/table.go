package table

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hypnos/bench/experiment"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/optim"
	"hypnos/core/sleep"
	"hypnos/core/train"
)

// Options of Run.
type Options struct {
	Number int // of the paper's table: 1 or 2
	Cells  []Cell
	Seeds  []uint64
	Base   experiment.Config // what all cells have in common; see Protocol
	Awake  *Rates            // of LC cells that never sleep; nil is those of the others
	Search bool              // learning rate and weight decay of each cell by a search on held out training images
	Dir    string            // of the runs: CELL/seed-N
	// Observe gives the observer of a run, which is told its label first; Done is told of each result, resumed or not.
	Observe func(label string) experiment.Observer
	Done    func(label string, r Result)
	Machine string // that trains, for the results
	// Dispatch has a run trained elsewhere, which ends with its result in its directory (Result.Save); package farm does. All runs are then
	// handed out at a time, and Observe is not used. nil trains one run after the other here.
	Dispatch func(context.Context, Task) (Result, error)
}

// Task is one run: a configuration and the directory that it is kept in.
type Task struct {
	Label  string // for readers: "LC - ws(10), seed 1"
	Dir    string
	Config experiment.Config
}

// Rates are what a search chooses.
type Rates struct {
	LR          float64 `json:"lr"`
	WeightDecay float64 `json:"weight_decay"`
}

// Scales lists the scales of Protocol: the paper's for CIFAR-10, CIFAR-100 and ImageNet, the paper's for TinyImageNet, and one for the
// embedded sample, a small network that a CPU trains in minutes.
func Scales() []string { return []string{"paper", "tinyimagenet", "sample"} }

// Protocol is what all cells of a table have in common at a scale. On CIFAR, LC cells that never sleep have the authors' smaller
// learning rate and larger weight decay.
func Protocol(number int, scale string) (c experiment.Config, awake *Rates, err error) {
	c = experiment.Default()
	switch {
	case number != 1 && number != 2:
		return c, nil, fmt.Errorf("table: no table %d: 1 or 2", number)
	case !slices.Contains(Scales(), scale):
		return c, nil, fmt.Errorf("table: no scale %q (known: %s)", scale, strings.Join(Scales(), ", "))
	case scale == "sample":
		c.Data.Pad = 1
		c.Network.Name, c.Network.Width = "resnet8", 8
		c.Train.Batch, c.Train.Epochs = 64, 60
		c.Train.Optimizer, c.Train.LR, c.Train.WeightDecay = optim.SGD, 0.3, 5e-4
	case number == 2: // the authors' rates, and batches of 256
		c.Network.Name = "resnet18-half"
		c.Data.Flip, c.Data.Pad, c.Data.Size, c.Data.Fit = true, 0, 256, data.FitResize
		c.Train.Batch, c.Train.LR, c.Train.WeightDecay = 256, 5e-4, 1e-2
	case scale == "tinyimagenet": // a rate that the authors' grids of convolutional and of LC networks have in common
		c.Network.Input = 48
		c.Train.LR = 1e-3
		SetPadding(&c, 4)
	default:
		awake = &Rates{1e-3, 1e-2}
	}
	c.Train.Drops = Drops(c.Train.Epochs)
	return c, awake, nil
}

// SetPadding sets the padding; of TinyImageNet that much more than the network sees is cut out of the middle of its images (Section 5.1).
func SetPadding(c *experiment.Config, pad int) {
	if c.Network.Input == 48 {
		c.Data.Pad, c.Data.Fit, c.Data.Size = 0, data.FitCrop, c.Network.Input+2*pad
		return
	}
	c.Data.Pad = pad
}

// padding is what SetPadding set.
func padding(c experiment.Config) int {
	if c.Network.Input == 48 {
		return (c.Data.Size - c.Network.Input) / 2
	}
	return c.Data.Pad
}

// Configure gives the configuration of a cell.
func (o Options) Configure(c Cell, seed uint64) experiment.Config {
	conf := o.Base
	conf.Seed, conf.Name = seed, fmt.Sprintf("%s-seed-%d", c.Name, seed)
	if o.Awake != nil && c.Name != "conv" && c.Interval == 0 {
		conf.Train.LR, conf.Train.WeightDecay = o.Awake.LR, o.Awake.WeightDecay
	}
	c.change(&conf)
	return conf
}

// Result is one run.
type Result struct {
	Config   string       `json:"config"` // TOML
	Seed     uint64       `json:"seed"`
	Steps    int64        `json:"steps"`
	Seconds  float64      `json:"seconds"`
	Diverged string       `json:"diverged,omitempty"` // where numbers that are not finite appeared first
	Evals    []train.Eval `json:"evals"`
	Classes  int          `json:"classes"`
	Data     string       `json:"data"`
	Program  string       `json:"program"`
	Machine  string       `json:"machine,omitempty"`
}

// last is the last evaluation; ok is false without one, or of a run that diverged.
func (r Result) last() (e train.Eval, ok bool) {
	if r.Diverged != "" || len(r.Evals) == 0 {
		return e, false
	}
	return r.Evals[len(r.Evals)-1], true
}

// ResultFile has a run's Result, once it is whole.
const ResultFile = "result.json"

// Save writes the result into a run's directory.
func (r Result) Save(dir string) error {
	return model.Replace(filepath.Join(dir, ResultFile), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(r)
	})
}

// Run trains all cells from all seeds, one after the other unless they are dispatched. Runs that are whole are not done again, those that
// are not go on; a folder with another run is an error that names what differs.
func Run(ctx context.Context, o Options, program string) (*Table, error) {
	if len(o.Cells) == 0 || len(o.Seeds) == 0 {
		return nil, errors.New("table: no cells or no seeds")
	}
	for _, c := range o.Cells { // all are checked before the first is trained
		if err := o.Configure(c, o.Seeds[0]).Check(); err != nil {
			return nil, fmt.Errorf("table: %s: %w", c.Name, err)
		}
	}
	begin := time.Now()
	t := &Table{Number: o.Number, Seeds: o.Seeds, Program: program, Rows: make([]Row, len(o.Cells)), base: o.Base}
	err := o.each(ctx, len(o.Cells), func(ctx context.Context, i int) (err error) {
		t.Rows[i], err = o.row(ctx, o.Cells[i], program)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Seconds = time.Since(begin).Seconds()
	t.summarise()
	return t, nil
}

// Runs is how many runs the table has, those of searches included.
func (o Options) Runs() int {
	n := len(o.Cells) * len(o.Seeds)
	if o.Search {
		for _, c := range o.Cells {
			rates, decays := grid(c)
			n += len(rates) * len(decays)
		}
	}
	return n
}

// each calls do for 0 … n-1: in order, or all at a time where they only wait for others. The first error ends the rest.
func (o Options) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	if o.Dispatch == nil {
		for i := range n {
			if err := do(ctx, i); err != nil {
				return err
			}
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// row trains a cell from all seeds, after the search for its rates.
func (o Options) row(ctx context.Context, c Cell, program string) (row Row, err error) {
	row = Row{Cell: c, Runs: make([]Result, len(o.Seeds))}
	if o.Search {
		if row.Search, err = o.search(ctx, c, program); err != nil {
			return row, err
		}
	}
	return row, o.each(ctx, len(o.Seeds), func(ctx context.Context, i int) (err error) {
		seed := o.Seeds[i]
		conf := o.Configure(c, seed)
		if o.Search {
			conf.Train.LR, conf.Train.WeightDecay = row.Search.LR, row.Search.WeightDecay
		}
		task := Task{fmt.Sprintf("%s, seed %d", c.Label, seed), filepath.Join(o.Dir, c.Name, fmt.Sprintf("seed-%d", seed)), conf}
		if row.Runs[i], err = o.run(ctx, task, program); err != nil {
			return fmt.Errorf("table: %s, seed %d: %w", c.Name, seed, err)
		}
		return nil
	})
}

// run has one run trained, or reads what it gave.
func (o Options) run(ctx context.Context, task Task, program string) (r Result, err error) {
	r, err = readResult(filepath.Join(task.Dir, ResultFile), task.Config)
	if errors.Is(err, fs.ErrNotExist) {
		if o.Dispatch != nil {
			r, err = o.Dispatch(ctx, task)
		} else {
			r, err = o.here(ctx, task, program)
		}
	}
	if err == nil {
		o.Done(task.Label, r)
	}
	return r, err
}

// here trains a run in this process.
func (o Options) here(ctx context.Context, task Task, program string) (r Result, err error) {
	d, err := experiment.OpenDir(task.Dir)
	if err != nil {
		return r, err
	}
	defer d.Close()
	r, err = Train(ctx, task.Config, experiment.Place{}, d, o.Observe(task.Label))
	if err != nil {
		return r, err
	}
	r.Program, r.Machine = program, o.Machine
	return r, r.Save(task.Dir)
}

// Train trains a run in a directory and gives its result, but for the program and the machine. A run that diverges has a result, too.
func Train(ctx context.Context, conf experiment.Config, p experiment.Place, d *experiment.RunDir, o experiment.Observer) (r Result, err error) {
	state, _, err := experiment.RunAt(ctx, conf, p, d, o)
	r = Result{Config: conf.Text(), Seed: conf.Seed, Steps: state.Step, Seconds: state.Seconds}
	var lost *core.NonFiniteError
	if errors.As(err, &lost) {
		r.Diverged = err.Error()
	} else if err != nil {
		return r, err
	}
	if r.Evals, err = d.Evals(); err != nil {
		return r, err
	}
	var record experiment.DataRecord
	text, err := os.ReadFile(d.File(experiment.DataFile))
	if err == nil {
		err = json.Unmarshal(text, &record)
	}
	r.Classes, r.Data = len(record.Classes), record.Name
	return r, err
}

// readResult reads the result of a run that is whole. fs.ErrNotExist: there is none of this configuration; what is there may go on.
func readResult(path string, conf experiment.Config) (r Result, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	if r.Config != conf.Text() { // longer, perhaps: experiment.Run tells what differs
		return r, fs.ErrNotExist
	}
	return r, nil
}

// Table is what was measured.
type Table struct {
	Number  int      `json:"table"`
	Program string   `json:"program"`
	Data    string   `json:"data"`
	Classes int      `json:"classes"`
	Caption string   `json:"caption"`
	Seeds   []uint64 `json:"seeds"`
	Rows    []Row    `json:"rows"`
	Seconds float64  `json:"seconds"` // of this call; runs that were whole before took theirs
	base    experiment.Config
}

// Row is a cell with its runs.
type Row struct {
	Cell   Cell        `json:"-"`
	Name   string      `json:"cell"`
	Label  string      `json:"label"`
	Search *Searched   `json:"search,omitempty"`
	Runs   []Result    `json:"runs"`
	Top1   *Statistics `json:"top1"` // of the test images, in percent; null when all runs diverged
	Top5   *Statistics `json:"top5"`
	Diff   *float64    `json:"diff_to_conv,omitempty"` // of the means of top-1
	SNR    *float64    `json:"snr"`                    // of the first run, when it was tested last; null when infinite or without LC layers
	Equal  bool        `json:"weights_equal"`
	Paper  *Paper      `json:"paper,omitempty"`
	snr    float64
}

// Statistics are of the runs that did not diverge.
type Statistics struct {
	Mean float64 `json:"mean"`
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
	Runs int     `json:"runs"`
}

// statistics are those of a figure of the last evaluations; nil without any.
func (r Row) statistics(figure func(train.Eval) float64) *Statistics {
	s := &Statistics{Min: math.Inf(1), Max: math.Inf(-1)}
	for _, run := range r.Runs {
		if e, ok := run.last(); ok {
			v := 100 * figure(e)
			s.Mean, s.Min, s.Max, s.Runs = s.Mean+v, min(s.Min, v), max(s.Max, v), s.Runs+1
		}
	}
	if s.Runs == 0 {
		return nil
	}
	s.Mean /= float64(s.Runs)
	return s
}

func (t *Table) summarise() {
	t.Data, t.Classes = t.Rows[0].Runs[0].Data, t.Rows[0].Runs[0].Classes
	var conv *Statistics
	for i := range t.Rows {
		r := &t.Rows[i]
		r.Name, r.Label = r.Cell.Name, r.Cell.Label
		r.Top1 = r.statistics(func(e train.Eval) float64 { return e.Top1 })
		r.Top5 = r.statistics(func(e train.Eval) float64 { return e.Top5 })
		r.Paper = paperOf(t.Number, t.Classes, padding(t.base), r.Name)
		r.snr = math.NaN()
		if e, ok := r.Runs[0].last(); ok && len(e.Weights.Layers) > 0 {
			r.snr = e.Weights.SNR()
			r.SNR, r.Equal = sleep.Finite(r.snr), math.IsInf(r.snr, 1)
		}
		if r.Name == "conv" {
			conv = r.Top1
		}
	}
	for i := range t.Rows {
		if r := &t.Rows[i]; conv != nil && r.Top1 != nil && r.Name != "conv" {
			diff := r.Top1.Mean - conv.Mean
			r.Diff = &diff
		}
	}
	t.Caption = t.caption()
}

// Searched is what a search chose.
type Searched struct {
	Rates
	Top1  float64 `json:"top1"` // of the images that were held out, in percent
	Tried int     `json:"tried"`
}

// The authors' grids (NOTES of the paper's program): learning rates of convolutional and of LC networks, weight decays.
func grid(c Cell) (rates, decays []float64) {
	if c.Name == "conv" {
		return []float64{1e-1, 5e-2, 1e-2, 5e-3}, []float64{1e-2, 1e-4}
	}
	return []float64{1e-3, 5e-4, 1e-4, 5e-5}, []float64{1e-2, 1e-4}
}

// heldOut is the share of the training images that a search tests on: 5,000 of CIFAR-10's 50,000.
const heldOut = 10

// search trains a cell from the first seed at all rates and decays of the authors' grid, without a tenth of the training images, and
// chooses by the accuracy on those.
func (o Options) search(ctx context.Context, c Cell, program string) (*Searched, error) {
	d, err := experiment.OpenData(o.Base.Data, o.Seeds[0])
	if err != nil {
		return nil, err
	}
	best := &Searched{Top1: -1}
	rates, decays := grid(c)
	var tasks []Task
	var tried []Rates
	for _, lr := range rates {
		for _, decay := range decays {
			conf := o.Configure(c, o.Seeds[0])
			conf.Train.LR, conf.Train.WeightDecay, conf.Data.Holdout = lr, decay, d.Train.Len()/heldOut
			name := fmt.Sprintf("lr-%g-wd-%g", lr, decay)
			tasks = append(tasks, Task{c.Label + ", search, " + name, filepath.Join(o.Dir, c.Name, "search", name), conf})
			tried = append(tried, Rates{lr, decay})
		}
	}
	results := make([]Result, len(tasks))
	err = o.each(ctx, len(tasks), func(ctx context.Context, i int) (err error) {
		if results[i], err = o.run(ctx, tasks[i], program); err != nil {
			return fmt.Errorf("table: %s, search, %s: %w", c.Name, filepath.Base(tasks[i].Dir), err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		best.Tried++
		if e, ok := r.last(); ok && 100*e.Top1 > best.Top1 {
			best.Rates, best.Top1 = tried[i], 100*e.Top1
		}
	}
	if best.Top1 < 0 {
		return nil, fmt.Errorf("table: %s: every learning rate of the search diverged", c.Name)
	}
	return best, nil
}
