package speed

import (
	"fmt"
	"io"
	"math"
	"strings"
	"unicode/utf8"
)

// table writes results as they come, in columns. The first error of a write sticks.
type table struct {
	out, progressTo io.Writer
	section         string
	columns         []column
	err             error
}

type column struct {
	head  string
	width int // negative: to the left
}

func (t *table) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.out, format, args...)
	}
}

// progress says what is going on, apart from the results.
func (t *table) progress(format string, args ...any) {
	fmt.Fprintf(t.progressTo, format+"\n", args...)
}

// begin starts a section, unless it has begun already.
func (t *table) begin(section string, columns []column) {
	if t.section == section {
		return
	}
	t.section, t.columns = section, columns
	t.printf("\n%s\n", section)
	var heads []string
	for _, c := range columns {
		heads = append(heads, c.head)
	}
	t.row(heads...)
}

func (t *table) row(cells ...string) {
	var line strings.Builder
	for i, c := range t.columns {
		cell, pad := cells[i], ""
		if n := max(c.width, -c.width) - utf8.RuneCountInString(cell); n > 0 {
			pad = strings.Repeat(" ", n)
		}
		if c.width < 0 {
			line.WriteString(cell + pad + "  ")
		} else {
			line.WriteString(pad + cell + "  ")
		}
	}
	t.printf("%s\n", strings.TrimRight(line.String(), " "))
}

// digits writes a number with three significant digits, but at least all before the point.
func digits(x float64) string {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return fmt.Sprintf("%g", x)
	}
	return fmt.Sprintf("%.*f", min(5, max(0, 2-int(math.Floor(math.Log10(math.Abs(x)))))), x)
}

func (s Spread) extremes() string { return digits(s.Min) + " … " + digits(s.Max) }

func (s Spread) String() string { return fmt.Sprintf("%s (%s)", digits(s.Median), s.extremes()) }

// batchSize is empty where a work has none.
func batchSize(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (t *table) machine(r *Result) {
	m := r.Machine
	t.printf("%s, %s, %s\n", r.Program, r.Go, m.Platform)
	cpu := m.CPU
	if cpu == "" {
		cpu = "unknown processor"
	}
	t.printf("%s, %s", cpu, plural(m.Cores, "core"))
	if m.CacheKB > 0 {
		t.printf(", last-level cache %d MB", m.CacheKB>>10)
	}
	if m.MemoryMB > 0 {
		t.printf(", memory %d MB (%d MB free)", m.MemoryMB, m.AvailableMB)
	}
	t.printf("\n")
	for _, n := range r.Notes {
		t.printf("%s\n", n)
	}
}

// limits writes the limits, a row each with a column for each number of threads.
func (t *table) limits(all []Limit, threads []int) {
	what := map[string]string{
		FMA: "fused multiply-adds in registers", Read: "sum", Copy: "ordinary stores",
		Stream: "copy with stores past the caches; binds nothing", Scale: "in place",
	}
	columns := []column{{"", -8}}
	for _, n := range threads {
		columns = append(columns, column{plural(n, "thread"), -26})
	}
	t.begin(fmt.Sprintf("Limits of the machine, median (min … max); buffers of %d MB", bytesOf(all)>>20), append(columns, column{"", -9}, column{"", -1}))
	for i := 0; i < len(all); i += len(threads) {
		cells := []string{all[i].What}
		for _, l := range all[i : i+len(threads)] {
			cells = append(cells, l.Rate.String())
		}
		t.row(append(cells, all[i].Unit, what[all[i].What])...)
	}
}

func bytesOf(all []Limit) int64 {
	var most int64
	for _, l := range all {
		most = max(most, l.Bytes)
	}
	return most
}

// measured writes a row.
func (t *table) measured(r Row) {
	batch, gain := batchSize(r.Batch), ""
	if r.OneThread != nil {
		gain = r.OneThread.Ratio.String()
	}
	binds := r.Binds
	if r.InCache {
		binds += ", in cache"
	}
	ms := []string{digits(r.MS.Median), r.MS.extremes()}
	tail := []string{digits(r.Bytes / 1e6), digits(r.GBs), digits(r.BoundMS.Median), fmt.Sprintf("%.0f %%", 100*r.Share.Median), binds, gain}
	tailColumns := []column{{"MB", 6}, {"GB/s", 6}, {"bound ms", 8}, {"share", 6}, {"binds", -15}, {"× 1 thread", -1}}
	if r.Kind == Net {
		t.begin("Networks, everything included", append([]column{
			{"net", -6}, {"batch", 5}, {"what", -16}, {"ms", 7}, {"min … max", -15}, {"images/s", 8}, {"GFLOP/s", 7}}, tailColumns...))
		perS, gflops := "", ""
		if r.ImagesPerS > 0 {
			perS = digits(r.ImagesPerS)
		}
		if r.FLOP > 0 {
			gflops = digits(r.GFLOPS)
		}
		t.row(append([]string{r.Layer, batch, r.What, ms[0], ms[1], perS, gflops}, tail...)...)
		if o := r.OfStep; o != nil {
			percent := func(s Spread) string { return s.times(100).String() + " %" }
			t.printf("       a training step of batch %d beside it: %s ms; Hebbian sleep is %s of it, instant sleep %s\n",
				r.Batch, o.StepMS, percent(o.Ratio), percent(o.Instant))
		}
		return
	}
	t.begin("Single layers, without optimiser", append([]column{
		{"kind", -6}, {"layer", -8}, {"batch", 5}, {"what", -7}, {"ms", 7}, {"min … max", -15}, {"GFLOP/s", 7}, {"GMAC", 6}}, tailColumns...))
	t.row(append([]string{r.Kind, r.Layer, batch, r.What, ms[0], ms[1], digits(r.GFLOPS), digits(r.MACs / 1e9)}, tail...)...)
}

// summary writes what all rows together say.
func (t *table) summary(s Summary) {
	t.begin("Summary: share of the bound", []column{
		{"kind", -6}, {"batch", 5}, {"what", -16}, {"binds", -6}, {"rows", 4}, {"geometric mean", 14}, {"least", 6}, {"of", -1},
	})
	percent := func(x float64) string { return fmt.Sprintf("%.0f %%", 100*x) }
	for _, g := range s.Shares {
		t.row(g.Kind, batchSize(g.Batch), g.What, g.Binds, fmt.Sprint(g.Rows), percent(g.Mean), percent(g.Least), g.LeastOf)
	}
	if u := s.Speedup; u != nil {
		t.printf("\n%s by one, where FMA binds: geometric mean %s over %s, least %s of %s\n",
			plural(u.Threads, "thread"), digits(u.Mean), plural(u.Rows, "row"), digits(u.Least), u.LeastOf)
	}
}

// memory writes a row of resident memory.
func (t *table) memory(r MemoryRow) {
	t.begin("Memory of training, MB: the plan of the engine, buffers of the input pipeline, growth of what is resident", []column{
		{"net", -6}, {"batch", 5}, {"plan", 7}, {"input", 7}, {"peak", 7}, {"peak / plan", 11},
	})
	mb := func(bytes int64) string { return digits(float64(bytes) / 1e6) }
	t.row(r.Layer, batchSize(r.Batch), mb(r.PlanBytes), mb(r.InputBytes), mb(r.PeakBytes), fmt.Sprintf("%.3f", r.Ratio))
}

// input writes a row of the input pipeline.
func (t *table) input(r InputRow) {
	t.begin("Input pipeline, images in memory, one worker: images/s alone, and of training with it", []column{
		{"net", -6}, {"batch", 5}, {"alone", 7}, {"min … max", -15}, {"training", 8}, {"min … max", -15}, {"waits", 6}, {"at most", 7},
	})
	percent := func(x float64) string { return fmt.Sprintf("%.2f %%", 100*x) }
	t.row(r.Layer, batchSize(r.Batch), digits(r.Pipeline.Median), r.Pipeline.extremes(), digits(r.Training.Median), r.Training.extremes(),
		percent(r.Wait.Median), percent(r.Wait.Max))
}

// imageNet writes a row of ImageNet's pipeline.
func (t *table) imageNet(r ImageNetRow) {
	t.begin("ImageNet's input pipeline on one goroutine, images/s, and how many times those of the step alone; "+r.Images, []column{
		{"net", -6}, {"batch", 5}, {"what", -30}, {"step", 6}, {"decode", 6}, {"×", 5}, {"crop", 6}, {"×", 5}, {"resized", 7}, {"×", 5},
		{"training", 8}, {"waits", 7}, {"at most", 7},
	})
	percent := func(x float64) string { return fmt.Sprintf("%.2f %%", 100*x) }
	t.row(r.Layer, batchSize(r.Batch), r.What, digits(r.Step.Median), digits(r.Decode.Median), digits(r.DecodeRatio.Median),
		digits(r.Crop.Median), digits(r.CropRatio.Median), digits(r.Resized.Median), digits(r.ResizedRatio.Median),
		digits(r.Training.Median), percent(r.Wait.Median), percent(r.Wait.Max))
}

// legend explains the columns of rows.
func (t *table) legend(cacheKB int64) {
	t.printf(`
GFLOP/s counts 2·B·L·K·N operations forward and three times that with gradients, padding included, as others count;
GMAC are the multiply-adds on real inputs, by which the bound goes. MB is what has to be read and written at least, GB/s
that by the time. The bound is the longer of GMAC at the FMA peak and MB at the bandwidth, for networks summed over
layers and optimiser, by limits measured between the samples of the row; share is the median of the bound by the time,
sample by sample; binds names the limit, or the one that takes most.
`)
	if cacheKB > 0 {
		t.printf("in cache: weights and activations fit the last-level cache, so that the share may exceed 100 %%.\n")
	} else {
		t.printf("The size of the caches is unknown here: what fits them may exceed 100 %% where memory binds.\n")
	}
}

func (t *table) skipped(all []Skipped) {
	for i, s := range all {
		if i == 0 {
			t.printf("\nSkipped\n")
		}
		t.printf("  %s: %s\n", s.Name, s.Reason)
	}
}

// comparison writes the ratios to a peer.
func (t *table) comparison(c Comparison) {
	t.begin(fmt.Sprintf("Peer, %s: %s\nratio is the time of the peer by the time here, pair by pair; ms are medians over the rounds", plural(c.Rounds, "round"), c.Command), []column{
		{"peer", -34}, {"here", -6}, {"layer", -8}, {"batch", 5}, {"what", -16}, {"peer ms", 8}, {"here ms", 8}, {"ratio", 6}, {"min … max", -15},
	})
	for _, p := range c.Pairs {
		t.row(p.Impl, p.Ours.Kind, p.Ours.Layer, batchSize(p.Ours.Batch), p.Ours.What,
			digits(spreadOf(p.PeerMS).Median), digits(spreadOf(p.OursMS).Median), digits(p.Ratio.Median), p.Ratio.extremes())
	}
	if len(c.Means) > 0 {
		t.begin("Geometric means over the shapes", []column{
			{"peer", -34}, {"here", -6}, {"shapes", -8}, {"batch", 5}, {"what", -16}, {"", 8}, {"", 8}, {"ratio", 6}, {"min … max", -15},
		})
		for _, m := range c.Means {
			t.row(m.Impl, m.Kind, fmt.Sprintf("%d of %d", m.Shapes, m.Of), fmt.Sprint(m.Batch), m.What, "", "", digits(m.Ratio.Median), m.Ratio.extremes())
		}
	}
	for i, u := range c.Unmatched {
		if i == 0 {
			t.printf("\nNot compared\n")
		}
		t.printf("  %s: %s\n", u.Row, u.Reason)
	}
}
