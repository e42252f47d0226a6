package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"hypnos/bench/experiment"
	"hypnos/core/data"
	"hypnos/core/train"
)

// progress shows a run as it goes: a bar on a terminal, plain lines otherwise. It is an experiment.Observer.
type progress struct {
	w     io.Writer
	label string // before each plain line
	every time.Duration
	bars  *mpb.Progress // nil when not on a terminal
	bar   *mpb.Bar

	mu     sync.Mutex // the bar draws on a goroutine of its own
	total  int64
	from   train.State
	step   train.Step
	loss   average
	top1   average
	images float64 // in this session
	shown  time.Time
}

// newProgress shows progress on w.
func newProgress(w io.Writer) *progress {
	p := &progress{w: w, every: 10 * time.Second}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40))
	}
	return p
}

// average is a running mean over about the last fifty values.
type average struct {
	sum, weight float64
}

func (a *average) add(v float64) {
	const keep = 0.98
	a.sum, a.weight = keep*a.sum+v, keep*a.weight+1
}

func (a *average) mean() float64 { return a.sum / a.weight }

// Begin is called before the first step.
func (p *progress) Begin(steps int64, from train.State) {
	p.total, p.from, p.shown = steps, from, time.Now()
	p.step.Step = from.Step
	if from.Step > 0 {
		p.line("going on at step %d of %d (epoch %d)\n", from.Step, steps, from.Epoch+1)
	}
	if p.bars == nil {
		return
	}
	p.bar = p.bars.New(steps, mpb.BarStyle(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return p.position() })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + p.numbers() })),
	)
	p.bar.SetRefill(from.Step)
	p.bar.SetCurrent(from.Step)
}

// Observe takes a metric.
func (p *progress) Observe(metric any) {
	switch m := metric.(type) {
	case experiment.Decoded:
		if now := time.Now(); now.Sub(p.shown) >= p.every {
			p.shown = now
			p.line("%d images decoded\n", m.Images)
		}
	case data.Mended:
		p.line("cache: %v\n", m)
	case experiment.Feed:
		p.line("%v\n", m)
	case train.Step:
		p.mu.Lock()
		p.step = m
		p.loss.add(m.Loss)
		p.top1.add(m.Top1)
		p.images += float64(m.Images)
		p.mu.Unlock()
		if p.bar != nil {
			p.bar.SetCurrent(m.Step)
		} else if now := time.Now(); now.Sub(p.shown) >= p.every || m.Step == p.total || m.Step == p.from.Step+1 {
			p.shown = now
			p.line("%s %s\n", p.position(), p.numbers())
		}
	case train.Eval:
		snr := ""
		if len(m.Weights.Layers) > 0 {
			snr = fmt.Sprintf("  SNR %s", formatSNR(m.Weights.SNR()))
		}
		p.line("epoch %d: test top-1 %.2f%%  top-5 %.2f%%  loss %.4f%s\n", m.Epoch+1, 100*m.Top1, 100*m.Top5, m.Loss, snr)
	}
}

// line prints a line, above the bar where there is one.
func (p *progress) line(format string, args ...any) {
	text := p.label + fmt.Sprintf(format, args...)
	if p.bars != nil && p.bar != nil {
		p.bars.Write([]byte(text)) // fails only when the bars are done; the line is then not missed
		return
	}
	fmt.Fprint(p.w, text)
}

// position says where the run is.
func (p *progress) position() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("epoch %d step %d/%d", p.step.Epoch+1, p.step.Step, p.total)
}

// numbers says how it goes.
func (p *progress) numbers() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.step.Step - p.from.Step
	spent := p.step.Seconds - p.from.Seconds
	if done < 1 || !(spent > 0) {
		return "starting"
	}
	left := spent / float64(done) * float64(p.total-p.step.Step)
	return fmt.Sprintf("loss %.3f  top-1 %.1f%%  %.0f images/s  %s left",
		p.loss.mean(), 100*p.top1.mean(), p.images/spent, clock(left))
}

// Close ends the bar.
func (p *progress) Close() {
	if p.bar == nil {
		return
	}
	if !p.bar.Completed() {
		p.bar.Abort(false)
	}
	p.bars.Wait()
}

// clock prints seconds as a person would say them.
func clock(seconds float64) string {
	switch s := int64(seconds + 0.5); {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	default:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
}
