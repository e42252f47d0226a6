package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"text/tabwriter"

	"hypnos/bench/figure"
	"hypnos/core/model"
	"hypnos/core/rng"
	"hypnos/core/sleep"
)

// snrDefinition is what the simulations call ln(1/SNR). Eq. 6 and the authors' plots define it differently; the figures
// repeat the plots, and Eq. 6 stands beside them.
const snrDefinition = "ln(1/SNR): ln of the mean over weights of var/mean², as the authors plotted; Eq. 6: -ln of the mean of mean²/var, as the paper's text has it; both averaged over trials"

func simulate(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "simulate", "fig4a|fig4b [flags]", `
Repeats the simulations of the paper's Fig. 4: one group of 100 neurons with weights 1 + N(0, 1) that see Gaussian
patterns. fig4a is Eq. 4 for three kernel sizes and three γ, with the floor that theory has for it; fig4b is the circuit
of Eq. 8 with α = 10, kernel size 3, in the paper's form and in the form that preserves means. Prints
ln(1/SNR) beside what became of the mean weights.

Examples:
  hypnos simulate fig4a
  hypnos simulate fig4a --json fig4a.json --out figs/
  hypnos simulate fig4b --trials 3 --seed 2`)
	jsonPath := f.String("json", "", "write the results to a `file` as JSON")
	out := f.String("out", "", "`directory` for the figure (.svg, .png) and the curves (.csv)")
	trials := f.Int("trials", 10, "runs with different weights and patterns")
	seed := f.Uint64("seed", 1, "seed of weights and patterns")
	names, err := f.parse(args, "fig4a|fig4b")
	if err != nil {
		return err
	}
	if *trials < 1 {
		return usageError{fmt.Errorf("%d trials are below 1", *trials)}
	}
	var r simulation
	switch names[0] {
	case "fig4a":
		r, err = simulateHebbian(ctx, *seed, *trials)
	case "fig4b":
		r, err = simulateCircuit(ctx, *seed, *trials)
	default:
		return usageError{fmt.Errorf("unknown simulation %q (known: fig4a, fig4b)", names[0])}
	}
	if err != nil {
		return err
	}
	r.Seed, r.Trials, r.Neurons, r.Definition = *seed, *trials, groupSize, snrDefinition
	if err := r.write(c.Out); err != nil {
		return err
	}
	if *out != "" {
		if err := r.save(c, filepath.Join(*out, names[0])); err != nil {
			return err
		}
	}
	if *jsonPath != "" {
		return saveJSON(*jsonPath, r)
	}
	return nil
}

// groupSize is N of Fig. 4.
const groupSize = 100

// simulation is one of the figures as data.
type simulation struct {
	Figure     string     `json:"figure"`
	Definition string     `json:"definition"`
	Seed       uint64     `json:"seed"`
	Trials     int        `json:"trials"`
	Neurons    int        `json:"neurons"`
	Cells      []simCell  `json:"cells,omitempty"`
	Points     []simPoint `json:"points,omitempty"`
	Curves     []simCurve `json:"curves"`
	xLabel     string
}

// simCell is one setting of Fig. 4A at its end.
type simCell struct {
	K         int     `json:"k"`
	Gamma     float64 `json:"gamma"`
	LnInvSNR  float64 `json:"ln_inv_snr"`
	LnInvEq6  float64 `json:"ln_inv_snr_eq6"`
	Floor     float64 `json:"floor"`
	MeanRatio float64 `json:"mean_ratio"`
}

// simPoint is one point of Fig. 4B.
type simPoint struct {
	Form      string  `json:"form"` // "paper" or "mean-preserving"
	Inputs    int     `json:"inputs"`
	LnInvSNR  float64 `json:"ln_inv_snr"`
	SD        float64 `json:"ln_inv_snr_sd"` // standard deviation of one trial
	LnInvEq6  float64 `json:"ln_inv_snr_eq6"`
	MeanRatio float64 `json:"mean_ratio"`
}

// simCurve is one line: ln(1/SNR) and the mean's ratio after so many inputs.
type simCurve struct {
	Name      string    `json:"name"`
	Inputs    []int     `json:"inputs"`
	LnInvSNR  []float64 `json:"ln_inv_snr"`
	LnInvEq6  []float64 `json:"ln_inv_snr_eq6"`
	MeanRatio []float64 `json:"mean_ratio"`
	Floor     *float64  `json:"floor,omitempty"`
	squares   []float64 // mean over trials of ln(1/SNR)²
}

// deviation is the standard deviation of ln(1/SNR) over the trials at sample i.
func (c simCurve) deviation(i int) float64 {
	return math.Sqrt(max(0, c.squares[i]-c.LnInvSNR[i]*c.LnInvSNR[i]))
}

// simulateHebbian is Fig. 4A with the authors' settings: 2000 events, rate 0.5/(1000+t), momentum 0.95.
func simulateHebbian(ctx context.Context, seed uint64, trials int) (simulation, error) {
	r := simulation{Figure: "fig4a", xLabel: "events"}
	const events = 2000
	for _, k := range []int{3, 6, 9} {
		for _, gamma := range []float64{0.1, 0.01, 0.001} {
			h := sleep.Hebbian{
				Gamma: gamma, Momentum: 0.95, Batch: 1,
				Rate: sleep.Rate{Base: 0.5 / 1000, Decay: sleep.DecayInverse, Tau: 1000},
			}
			curve, before, err := averaged(ctx, h, k*k, samplesTo(events, 40), seed, trials)
			if err != nil {
				return r, err
			}
			floor := h.Floor(before)
			curve.Name, curve.Floor = fmt.Sprintf("k=%d, γ=%g", k, gamma), &floor
			last := len(curve.Inputs) - 1
			r.Cells = append(r.Cells, simCell{k, gamma, curve.LnInvSNR[last], curve.LnInvEq6[last], floor, curve.MeanRatio[last]})
			r.Curves = append(r.Curves, curve)
		}
	}
	return r, nil
}

// simulateCircuit is the row k=3, γ=0.01 of Fig. 4B: α=10, τ=30 ms, 150 ms an input, rate 5e-4/√(1+t/5 ms), t when the input
// begins.
func simulateCircuit(ctx context.Context, seed uint64, trials int) (simulation, error) {
	r := simulation{Figure: "fig4b", xLabel: "inputs"}
	inputs := []int{100, 500, 1000, 2000, 4000, 7000, 10000}
	for _, form := range []struct {
		name      string
		preserves bool
	}{{"paper", false}, {"mean-preserving", true}} {
		c := sleep.DefaultCircuit()
		c.Rate, c.MeanPreserving = sleep.Rate{Base: 5e-4, Decay: sleep.DecayRoot, Tau: 5}, form.preserves
		at := samplesTo(inputs[len(inputs)-1], 60)
		for _, n := range inputs {
			if i, found := slices.BinarySearch(at, n); !found {
				at = slices.Insert(at, i, n)
			}
		}
		curve, _, err := averaged(ctx, c, 9, at, seed, trials)
		if err != nil {
			return r, err
		}
		curve.Name = form.name
		r.Curves = append(r.Curves, curve)
		for i, n := range curve.Inputs {
			if slices.Contains(inputs, n) {
				r.Points = append(r.Points, simPoint{form.name, n, curve.LnInvSNR[i], curve.deviation(i), curve.LnInvEq6[i], curve.MeanRatio[i]})
			}
		}
	}
	return r, nil
}

// samplesTo are about n numbers of inputs, equally far apart, from 0 to last.
func samplesTo(last, n int) []int {
	var at []int
	for i := range n + 1 {
		at = append(at, i*last/n)
	}
	return at
}

// averaged runs a rule from several starts and averages what is seen at some numbers of inputs; before is the mean
// ln(1/SNR) at the start.
func averaged(ctx context.Context, rule sleep.Rule, m int, at []int, seed uint64, trials int) (curve simCurve, before float64, err error) {
	curve = simCurve{Inputs: at}
	for _, a := range []*[]float64{&curve.LnInvSNR, &curve.LnInvEq6, &curve.MeanRatio, &curve.squares} {
		*a = make([]float64, len(at))
	}
	n := float64(trials)
	for trial := range trials {
		e, err := sleep.Evolve(rule, m)
		if err != nil {
			return curve, 0, err
		}
		weights := rng.New(seed, rng.Init, uint64(trial))
		start := make([]float64, groupSize*m)
		weights.Normals(start, 0)
		for i := range start {
			start[i]++
		}
		patterns, x := rng.New(seed, rng.SleepPattern, uint64(trial)), make([]float64, m)
		shown := 0
		for i, until := range at {
			for ; shown < until; shown++ {
				if ctx.Err() != nil {
					return curve, 0, context.Cause(ctx)
				}
				patterns.Normals(x, uint64(shown*(m+m%2)))
				e.Present(x)
			}
			stats, kept := evolved(e, start, m)
			plotted := math.Log(stats.InverseRatio)
			curve.LnInvSNR[i] += plotted / n
			curve.squares[i] += plotted * plotted / n
			curve.LnInvEq6[i] += stats.LnInverseSNR() / n
			curve.MeanRatio[i] += kept.Ratio / n
		}
		stats, _ := evolved(nil, start, m)
		before += math.Log(stats.InverseRatio) / n
	}
	return curve, before, nil
}

// evolved measures what an evolution, if any, has made of a group's weights, (N, m).
func evolved(e sleep.Evolution, start []float64, m int) (sleep.Stats, sleep.Preservation) {
	n := len(start) / m
	before := make([]float64, m)
	for i, w := range start {
		before[i%m] += w / float64(n)
	}
	w, after := slices.Clone(start), slices.Clone(before)
	if e != nil {
		deviation, mean := e.Maps()
		scratch := make([]float64, m)
		mean.Apply(after, scratch)
		for i := range n {
			row := w[i*m : (i+1)*m]
			for j := range row {
				row[j] -= before[j]
			}
			deviation.Apply(row, scratch)
			for j := range row {
				row[j] += after[j]
			}
		}
	}
	var stats sleep.StatsSum
	var kept sleep.PreservationSum
	stats.AddGroups(1)
	for j := range m {
		var d1, d2 float64
		for i := range n {
			d := w[i*m+j] - w[j]
			d1 += d
			d2 += d * d
		}
		mean, variance := sleep.Central(w[j], d1, d2, n)
		stats.Add(mean, variance)
		kept.Add(before[j], mean)
	}
	return stats.Stats(), kept.Preservation()
}

// write prints the table.
func (r simulation) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	if len(r.Cells) > 0 {
		fmt.Fprint(t, "k\tγ\tln(1/SNR)\tfloor\tEq. 6\tmean kept\t\n")
		for _, c := range r.Cells {
			fmt.Fprintf(t, "%d\t%g\t%.2f\t%.2f\t%.2f\t%.4f\t\n", c.K, c.Gamma, c.LnInvSNR, c.Floor, c.LnInvEq6, c.MeanRatio)
		}
	} else {
		fmt.Fprint(t, "form\tinputs\tln(1/SNR)\tone trial\tEq. 6\tmean kept\t\n")
		for _, p := range r.Points {
			fmt.Fprintf(t, "%s\t%d\t%.2f\t±%.2f\t%.2f\t%.4f\t\n", p.Form, p.Inputs, p.LnInvSNR, p.SD, p.LnInvEq6, p.MeanRatio)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s.\nMean kept: (w̄·w̄0)/(w̄0·w̄0). N = %d neurons, %d trials, seed %d.\n", r.Definition, r.Neurons, r.Trials, r.Seed)
	return err
}

// save writes the figure and the curves.
func (r simulation) save(c console, base string) error {
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return err
	}
	f := figure.Figure{Title: r.Figure + ": how alike weights become", XLabel: r.xLabel, YLabel: "ln(1/SNR)"}
	for _, l := range r.Curves {
		x := floats(l.Inputs)
		f.Series = append(f.Series, figure.Series{Name: l.Name, X: x, Y: l.LnInvSNR})
		if l.Floor != nil {
			f.Series = append(f.Series, figure.Series{X: []float64{x[0], x[len(x)-1]}, Y: []float64{*l.Floor, *l.Floor}, Faint: true})
		}
	}
	if err := f.Save(base); err != nil {
		return err
	}
	if err := model.Replace(base+".csv", r.writeCSV); err != nil {
		return err
	}
	_, err := fmt.Fprintf(c.Out, "figure: %s.svg and .png; curves: %s.csv\n", base, base)
	return err
}

func floats(x []int) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

func (r simulation) writeCSV(w io.Writer) error {
	t := csv.NewWriter(w)
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 8, 64) }
	t.Write([]string{"curve", "inputs", "ln_inv_snr", "ln_inv_snr_eq6", "mean_ratio", "floor"}) // errors stay until Flush
	for _, l := range r.Curves {
		floor := math.NaN()
		if l.Floor != nil {
			floor = *l.Floor
		}
		for i, n := range l.Inputs {
			t.Write([]string{l.Name, strconv.Itoa(n), number(l.LnInvSNR[i]), number(l.LnInvEq6[i]), number(l.MeanRatio[i]), number(floor)})
		}
	}
	t.Flush()
	return t.Error()
}
