// Package table repeats the paper's tables of accuracy: a grid of cells, each one network with one way of learning, each trained from
// several seeds in run directories that can be resumed, with the paper's value beside the measured one.
package table

import (
	"fmt"
	"slices"
	"strings"

	"hypnos/bench/experiment"
	"hypnos/core/sleep"
)

// Cell is one row of a table: what sets it apart from the others.
type Cell struct {
	Name  string // for flags and folders: "lc-ws10"
	Label string // for readers, as in the paper: "LC - ws(10)"
	// Interval is the number of batches between sleeps, 0 without sleep.
	Interval int
	change   func(*experiment.Config)
}

// Cells lists all cells: the rows of the paper's Table 1, then what the paper did not try.
func Cells() []Cell {
	lc := func(change func(*experiment.Config)) func(*experiment.Config) {
		return func(c *experiment.Config) {
			c.Network.Name += "-lc"
			change(c)
		}
	}
	// An epoch of n reps has n times the steps of the others, as in the paper, where these runs take the longest.
	reps := func(n int) Cell {
		return Cell{fmt.Sprintf("lc-reps%d", n), fmt.Sprintf("LC - %d reps", n), 0, lc(func(c *experiment.Config) { c.Data.Reps = n })}
	}
	slept := func(n int, name, label string, change func(*experiment.Config)) Cell {
		return Cell{fmt.Sprintf("lc-ws%d%s", n, name), fmt.Sprintf("LC - ws(%d)%s", n, label), n, lc(func(c *experiment.Config) {
			c.Sleep.Every = n
			change(c)
		})}
	}
	plain := func(*experiment.Config) {}
	return []Cell{
		{"conv", "conv", 0, plain},
		{"lc", "LC", 0, lc(plain)},
		reps(4), reps(8), reps(16),
		slept(1, "", "", plain), slept(10, "", "", plain), slept(100, "", "", plain),
		// Beyond the paper.
		slept(100, "-before-eval", ", asleep before it is tested", func(c *experiment.Config) { c.Sleep.BeforeEval = true }),
		slept(100, "-hebbian", ", Eq. 4", func(c *experiment.Config) { c.Sleep.Rule = sleep.Hebbian{}.Kind() }),
		slept(100, "-circuit", ", Eq. 8, means kept", func(c *experiment.Config) {
			c.Sleep.Rule, c.Sleep.MeanPreserving = sleep.Circuit{}.Kind(), true
		}),
		slept(1, "-below-snr1", ", when the SNR is below 1", func(c *experiment.Config) { c.Sleep.BelowSNR = 1 }),
		slept(100, "-tied", ", begun as a convolution with 10 % noise", func(c *experiment.Config) {
			c.Network.Tied, c.Network.Epsilon = true, 0.1
		}),
	}
}

// Names lists the cells' names.
func Names() []string {
	var names []string
	for _, c := range Cells() {
		names = append(names, c.Name)
	}
	return names
}

// Choose finds cells by name.
func Choose(names []string) ([]Cell, error) {
	var chosen []Cell
	all := Cells()
	for i, name := range names {
		at := slices.IndexFunc(all, func(c Cell) bool { return c.Name == name })
		switch {
		case at < 0:
			return nil, fmt.Errorf("table: no cell %q (known: %s)", name, strings.Join(Names(), ", "))
		case slices.Contains(names[:i], name):
			return nil, fmt.Errorf("table: cell %q is given twice", name)
		}
		chosen = append(chosen, all[at])
	}
	return chosen, nil
}

// Drops puts the drops of the learning rate at one half and three quarters of the epochs, as the paper does (100 and 150 of 200).
func Drops(epochs int) []int {
	if epochs < 4 {
		return []int{}
	}
	return []int{epochs / 2, epochs * 3 / 4}
}

// Paper is what the paper has, in percent.
type Paper struct {
	Top1 float64  `json:"top1"`
	Top5 *float64 `json:"top5,omitempty"`
	Runs int      `json:"runs"` // averaged over
}

// paperOf is the paper's value of a cell: Table 1, for a padding of 4, by the data set's number of classes (CIFAR-10, CIFAR-100,
// TinyImageNet), and Table 2, ImageNet. nil where it has none.
func paperOf(number, classes, pad int, cell string) *Paper {
	type values struct{ top1, top5 float64 }
	var all map[string]values
	switch {
	case number == 2 && classes == 1000:
		all = map[string]values{"conv": {63.5, 84.7}, "lc": {46.7, 70.0}, "lc-ws1": {61.7, 83.1}, "lc-ws10": {59.3, 81.1}, "lc-ws100": {54.5, 77.7}}
	case number == 1 && pad == 4 && classes == 10:
		all = map[string]values{"conv": {88.3, 0}, "lc": {80.9, 0}, "lc-reps4": {82.9, 0}, "lc-reps8": {83.8, 0}, "lc-reps16": {85.0, 0},
			"lc-ws1": {87.4, 0}, "lc-ws10": {85.1, 0}, "lc-ws100": {82.0, 0}}
	case number == 1 && pad == 4 && classes == 100:
		all = map[string]values{"conv": {59.2, 84.9}, "lc": {49.8, 75.5}, "lc-reps4": {52.1, 76.4}, "lc-reps8": {54.3, 77.9}, "lc-reps16": {55.9, 78.8},
			"lc-ws1": {58.7, 83.4}, "lc-ws10": {55.7, 80.9}, "lc-ws100": {52.8, 80.1}}
	case number == 1 && pad == 4 && classes == 200:
		all = map[string]values{"conv": {38.6, 65.1}, "lc": {29.6, 52.7}, "lc-reps4": {31.9, 54.9}, "lc-reps8": {33.0, 55.6}, "lc-reps16": {34.0, 56.2},
			"lc-ws1": {41.6, 66.1}, "lc-ws10": {37.4, 61.8}, "lc-ws100": {37.1, 62.8}}
	}
	v, ok := all[cell]
	if !ok {
		return nil
	}
	p := &Paper{Top1: v.top1, Runs: 5}
	if v.top5 > 0 {
		p.Top5 = &v.top5
	}
	if number == 2 {
		p.Runs = 1
	}
	return p
}
