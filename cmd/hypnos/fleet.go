package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"hypnos/bench/farm"
)

// fleet shows the runs of a table that workers train: a bar a run on a terminal, otherwise now and then a line for each.
type fleet struct {
	w     io.Writer
	every time.Duration
	bars  *mpb.Progress // nil when not on a terminal

	out sync.Mutex // of w, without bars

	mu    sync.Mutex // bars draw on a goroutine of their own; nothing of mpb is called with it held
	runs  map[string]*afoot
	shown time.Time
	all   int // runs of the table
	done  int
	total *mpb.Bar // of all runs, below the others
}

// afoot is a run that a worker has.
type afoot struct {
	farm.News // the last about a step
	begun     time.Time
	bar       *mpb.Bar
}

func newFleet(w io.Writer, runs int) *fleet {
	f := &fleet{w: w, every: 10 * time.Second, runs: map[string]*afoot{}, shown: time.Now(), all: runs}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		f.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(30))
		f.total = f.bars.New(int64(runs), mpb.BarStyle(), mpb.BarPriority(math.MaxInt),
			mpb.PrependDecorators(decor.Any(func(s decor.Statistics) string { return fmt.Sprintf("%d of %d runs done", s.Current, s.Total) })))
	}
	return f
}

// line prints a line, above the bars where there are some.
func (f *fleet) line(format string, args ...any) {
	text := fmt.Sprintf(format, args...) + "\n"
	if f.bars != nil {
		_, _ = f.bars.Write([]byte(text)) // fails only when the bars are done; the line is then not missed
		return
	}
	f.out.Lock()
	defer f.out.Unlock()
	_, _ = io.WriteString(f.w, text)
}

// observe takes news of a worker.
func (f *fleet) observe(n farm.News) {
	switch n.Kind {
	case farm.Begun:
		f.begin(n)
	case farm.Stepped:
		f.step(n)
	case farm.Tested:
		f.line("%s: epoch %d: test top-1 %.2f%%", n.Label, n.Epoch+1, 100*n.Top1)
	case farm.Released:
		f.end(n.Key)
	case farm.Note:
		about := n.Label
		if n.Worker != "" {
			about = fmt.Sprintf("%s, worker %s", n.Label, n.Worker)
		}
		if n.Label == "" {
			about = "queue"
		}
		f.line("%s: %s", about, n.Text)
	}
}

func (f *fleet) begin(n farm.News) {
	f.end(n.Key)
	r := &afoot{News: n, begun: time.Now()}
	f.mu.Lock()
	f.runs[n.Key] = r
	f.mu.Unlock()
	if n.Step > 0 {
		f.line("%s: going on at step %d of %d, worker %s", n.Label, n.Step, n.Steps, n.Worker)
	}
	if f.bars != nil {
		bar := f.bars.New(n.Steps, mpb.BarStyle(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return f.describe(r, false) })),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return f.numbers(r) })),
		)
		bar.SetRefill(n.Step)
		bar.SetCurrent(n.Step)
		f.mu.Lock()
		r.bar = bar
		f.mu.Unlock()
	}
}

func (f *fleet) step(n farm.News) {
	f.mu.Lock()
	r := f.runs[n.Key]
	if r == nil { // begun before this coordinator
		f.mu.Unlock()
		f.begin(n)
		return
	}
	r.News = n
	bar := r.bar
	var lines []*afoot
	if now := time.Now(); f.bars == nil && now.Sub(f.shown) >= f.every {
		f.shown = now
		for _, r := range f.runs {
			lines = append(lines, r)
		}
	}
	f.mu.Unlock()
	if bar != nil {
		bar.SetCurrent(n.Step)
	}
	if len(lines) > 0 {
		f.line("%d of %d runs done, %d being trained", f.finished(), f.all, len(lines))
		slices.SortFunc(lines, func(a, b *afoot) int { return strings.Compare(a.Label, b.Label) })
		for _, r := range lines {
			f.line("  %s %s", f.describe(r, true), f.numbers(r))
		}
	}
}

// describe says which run it is, where it is and who has it.
func (f *fleet) describe(r *afoot, worker bool) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := fmt.Sprintf("%s: epoch %d step %d/%d", r.Label, r.Epoch+1, r.Step, r.Steps)
	if worker {
		text += ", worker " + r.Worker
	}
	return text
}

// numbers says how it goes.
func (f *fleet) numbers(r *afoot) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	done := r.Step - r.From
	if done < 1 {
		return " starting"
	}
	left := time.Since(r.begun).Seconds() / float64(done) * float64(r.Steps-r.Step)
	return fmt.Sprintf(" loss %.3f  %.0f images/s  %s left", r.Loss, r.Speed, clock(left))
}

// end takes a run away that nobody has now.
func (f *fleet) end(key string) {
	f.mu.Lock()
	var bar *mpb.Bar
	if r := f.runs[key]; r != nil {
		bar = r.bar
	}
	delete(f.runs, key)
	f.mu.Unlock()
	if bar != nil {
		bar.Abort(true)
	}
}

// result counts a run as done and prints its line.
func (f *fleet) result(line string) {
	f.mu.Lock()
	f.done++
	f.mu.Unlock()
	f.line("%s", line)
	if f.total != nil {
		f.total.Increment()
	}
}

func (f *fleet) finished() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done
}

// Close takes the bars away.
func (f *fleet) Close() {
	f.mu.Lock()
	var keys []string
	for key := range f.runs {
		keys = append(keys, key)
	}
	f.mu.Unlock()
	for _, key := range keys {
		f.end(key)
	}
	if f.bars != nil {
		f.total.Abort(false)
		f.bars.Wait()
	}
}
