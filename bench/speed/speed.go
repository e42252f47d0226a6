// Package speed measures how fast the CPU backend is, against the machine's own limits and against other programs.
//
// First the limits: the peak of fused multiply-adds and the bandwidth of memory, on one and on all threads, by loops in
// the vectors of the backend's kernels. Then layers of the paper's networks and whole networks, each with the bound
// that follows from its arithmetic (cost.go) and the share of it that is reached. A peer is a program that prints its
// own timings as JSON lines (peer.go); it runs in alternation with the same work here, because only ratios of
// measurements that lie close together mean anything on a machine that does other things besides.
package speed

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"time"

	"hypnos/backends/cpu"
)

// Options of Run.
type Options struct {
	Threads int            // 0: one a core
	Kernels string         // a version of cpu.Versions; "" takes the best
	Budget  time.Duration  // time to measure each row
	Only    *regexp.Regexp // rows by Name; nil: all
	Peers   []string       // commands of peers; with any, only what they measure is measured
	Rounds  int            // how often each peer runs
	Images  string         // source of JPEGs for the rows of ImageNet's pipeline, all of which are decoded again and again; "" makes some
}

// Machine is where a result was measured, as far as the caller could find out; zero values are unknown.
type Machine struct {
	CPU         string   `json:"cpu,omitempty"`
	Platform    string   `json:"platform"`
	Cores       int      `json:"cores"`
	MemoryMB    int64    `json:"memory_mb,omitempty"`
	AvailableMB int64    `json:"memory_available_mb,omitempty"`
	CacheKB     int64    `json:"last_level_cache_kb,omitempty"`
	Versions    []string `json:"kernel_versions"` // of cpu.Versions: what the processor's features allow
}

// Result is everything that was measured.
type Result struct {
	Program     string        `json:"program"` // name and commit
	Date        time.Time     `json:"date"`
	Go          string        `json:"go"`
	Machine     Machine       `json:"machine"`
	Kernels     string        `json:"kernels"`
	Threads     int           `json:"threads"`
	Notes       []string      `json:"notes,omitempty"`
	Budget      float64       `json:"budget_s"` // for each row
	Limits      []Limit       `json:"limits"`
	Rows        []Row         `json:"rows"`
	Memory      []MemoryRow   `json:"memory,omitempty"`
	Inputs      []InputRow    `json:"input,omitempty"`
	Edge        []EdgeRow     `json:"edge,omitempty"`
	ImageNet    []ImageNetRow `json:"imagenet,omitempty"`
	Summary     *Summary      `json:"summary,omitempty"`
	Skipped     []Skipped     `json:"skipped,omitempty"`
	Comparisons []Comparison  `json:"comparisons,omitempty"`
}

// Skipped is a row that was not measured.
type Skipped struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// Run measures, and writes tables to out as it goes and what it is at to progress. It fills in r, which comes with
// Program, Date, Go and Machine.
func Run(ctx context.Context, o Options, r *Result, out, progress io.Writer) error {
	shapes, err := Shapes()
	if err != nil {
		return err
	}
	keys := defaultKeys(shapes, o.Only)
	if len(keys) == 0 {
		return fmt.Errorf("speed: no row matches %q (rows are like %s and %s)", o.Only, Key{LC, shapes[0].Name, 64, Both}, Key{Net, "r20lc", 64, TrainStep})
	}
	options := cpu.Options{Threads: o.Threads, Kernels: o.Kernels}
	loops, err := cpu.LimitsOf(options)
	if err != nil {
		return err
	}
	r.Kernels, r.Threads, r.Notes, r.Budget = loops.Kernels, loops.Threads, loops.Notes, o.Budget.Seconds()
	if !loops.Own {
		r.Notes = append(r.Notes, fmt.Sprintf("the limits are those of portable Go, as %s kernels have no loops for them: the machine's are higher", loops.Kernels))
	}
	t := &table{out: out, progressTo: progress}
	t.machine(r)
	b := bench{cpu: options, threads: loops.Threads, budget: o.Budget, machine: r.Machine}
	if b.loops, err = openLoops(loops, bufferBytes(b.machine.AvailableMB)); err != nil {
		return err
	}
	defer b.loops.free()
	b.machine.AvailableMB = max(0, b.machine.AvailableMB-2*b.loops.bytes>>20)
	if err := b.limits(ctx, r, t); err != nil {
		return err
	}
	if len(o.Peers) > 0 {
		err = b.peers(ctx, o, shapes, r, t)
	} else {
		err = b.rows(ctx, keys, shapes, o.Images, r, t)
	}
	if err != nil {
		return err
	}
	t.skipped(r.Skipped)
	return t.err
}

// limits measures the machine's limits.
func (b *bench) limits(ctx context.Context, r *Result, t *table) error {
	threads := []int{1}
	if b.threads > 1 {
		threads = append(threads, b.threads)
	}
	t.progress("measuring the limits of the machine")
	var err error
	if r.Limits, err = b.loops.measure(ctx, threads, min(limitTime, b.budget)); err != nil {
		return err
	}
	b.all = limitsFor(r.Limits, b.threads)
	t.limits(r.Limits, threads)
	return t.err
}

// rows measures the rows of the keys.
func (b *bench) rows(ctx context.Context, keys []Key, shapes []Shape, images string, r *Result, t *table) error {
	var trainings, edges, imageNets []Key
	keys = slices.DeleteFunc(keys, func(k Key) bool {
		switch {
		case k.Kind == Edge:
			edges = append(edges, k)
		case k.Kind == ImageNet:
			imageNets = append(imageNets, k)
		case apart(k):
			trainings = append(trainings, k)
		}
		return apart(k)
	})
	all, unknown := subjects(keys, shapes)
	for _, err := range unknown {
		return err
	}
	for _, s := range all {
		t.progress("measuring %s %s", s.kind, s.layer)
		done := func(row Row) {
			r.Rows = append(r.Rows, row)
			t.measured(row)
		}
		if err := b.measure(ctx, s, true, done, func(s Skipped) { r.Skipped = append(r.Skipped, s) }); err != nil {
			return err
		}
	}
	if r.Summary = summarise(r.Rows); r.Summary != nil {
		t.legend(b.machine.CacheKB)
	}
	if err := b.trainings(ctx, trainings, r, t); err != nil {
		return err
	}
	if err := b.imageNets(ctx, imageNets, images, r, t); err != nil {
		return err
	}
	if err := b.edges(ctx, edges, r, t); err != nil {
		return err
	}
	if r.Summary != nil {
		t.summary(*r.Summary)
	}
	return t.err
}

// peers compares with each peer.
func (b *bench) peers(ctx context.Context, o Options, shapes []Shape, r *Result, t *table) error {
	wanted := func(k Key) bool { return o.Only == nil || o.Only.MatchString(k.String()) }
	for _, command := range o.Peers {
		c, skipped, err := b.compare(ctx, command, o.Rounds, shapes, wanted, t)
		if err != nil {
			return err
		}
		r.Comparisons, r.Skipped = append(r.Comparisons, c), append(r.Skipped, skipped...)
		t.comparison(c)
	}
	return t.err
}
