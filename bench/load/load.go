// Package load has many clients of an edge daemon classify and learn at a time, and tells how that went: which errors they
// met, how long they waited, whether every step that was acknowledged is there in the end, and how the daemon's memory went.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hypnos/server/brain"
	"hypnos/server/client"
)

// Config says how to load a board.
type Config struct {
	Clients  int
	Duration time.Duration
	Learn    float64 // share of the requests that learn
	Seed     uint64  // of images, labels and the order of requests
}

// Report is what came of it.
type Report struct {
	Config
	Seconds  float64            `json:"seconds"`
	Classify Kind               `json:"classify"`
	Learns   Kind               `json:"learn"`
	Errors   map[brain.Code]int `json:"errors"` // by code; "" is no answer
	Example  string             `json:"example,omitempty"`
	Steps    Steps              `json:"steps"`
	// Memory is the daemon's resident memory once a second, bytes, where its metrics tell it.
	Memory []float64 `json:"memory"`
}

// Kind is how requests of one kind went.
type Kind struct {
	Answered int `json:"answered"`
	// P50, P99 and Longest are of those that were answered, ms.
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Longest float64 `json:"longest_ms"`
}

// Steps tells whether acknowledged steps are there. Nobody else may have the board learn meanwhile.
type Steps struct {
	Acknowledged int `json:"acknowledged"`
	NotDurable   int `json:"not_durable"` // of them
	Twice        int `json:"twice"`       // numbers that were given to two of them
	// Unanswered are learn requests that got no answer: each may have been carried out.
	Unanswered int `json:"unanswered"`
	// Counted is how many the board has counted.
	Counted int64 `json:"counted"`
}

// Lost tells how many acknowledged steps are missing at least.
func (s Steps) Lost() int64 { return max(int64(s.Twice), int64(s.Acknowledged)-s.Counted) }

// Check returns an error for what must not be: an error other than a documented 429, a step that was lost or made up, nothing
// done.
func (r *Report) Check() error {
	for code, n := range r.Errors {
		if code != brain.CodeBusy && code != "rate_limited" {
			return fmt.Errorf("load: %d errors of code %q: %s", n, code, r.Example)
		}
	}
	s := r.Steps
	switch {
	case s.Lost() > 0:
		return fmt.Errorf("load: %d acknowledged steps are lost", s.Lost())
	case s.Counted > int64(s.Acknowledged+s.Unanswered):
		return fmt.Errorf("load: %d steps of %d acknowledged: does somebody else have the board learn?", s.Counted, s.Acknowledged)
	case r.Classify.Answered == 0 && r.Learn < 1 || r.Learns.Answered == 0 && r.Learn > 0:
		return errors.New("load: nothing was answered")
	}
	return nil
}

// worker is one client's share of a report.
type worker struct {
	classified, learned []time.Duration
	errors              map[brain.Code]int
	example             string
	steps               []int64
	notDurable, silent  int
}

// pause is how long a client waits after a 429.
const pause = 20 * time.Millisecond

// Run loads a board. The report is that of the requests that had ended.
func Run(ctx context.Context, board *client.Client, c Config) (*Report, error) {
	before, err := board.Status(ctx)
	if err != nil {
		return nil, err
	}
	if before.Model.Slot == "" {
		return nil, errors.New("load: the board has no model in use")
	}
	start := time.Now()
	until, cancel := context.WithTimeout(ctx, c.Duration)
	defer cancel()
	workers := make([]*worker, c.Clients)
	var all sync.WaitGroup
	for i := range workers {
		w := &worker{errors: map[brain.Code]int{}}
		workers[i] = w
		r := rand.New(rand.NewPCG(c.Seed, uint64(i)))
		all.Go(func() { w.run(ctx, until, board, before.Model, c.Learn, r) })
	}
	var memory []float64
	all.Go(func() { memory = watch(until, board) })
	all.Wait()
	r := &Report{Config: c, Seconds: time.Since(start).Seconds(), Errors: map[brain.Code]int{}, Memory: memory}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	after, err := board.Status(ctx)
	if err != nil {
		return nil, err
	}
	r.gather(workers)
	r.Steps.Counted = after.Step - before.Step
	return r, nil
}

// run sends requests until the time is over. The last one is waited for: what it was acknowledged counts.
func (w *worker) run(ctx, until context.Context, board *client.Client, m brain.Model, share float64, r *rand.Rand) {
	x := brain.Image{Type: brain.Tensor, Data: make([]byte, m.Input[0]*m.Input[1]*m.Input[2])}
	for until.Err() == nil {
		for i := range x.Data {
			x.Data[i] = byte(r.Uint32())
		}
		start := time.Now()
		var err error
		if r.Float64() < share {
			var ack brain.Ack
			if ack, err = board.Learn(ctx, x, r.IntN(max(1, len(m.Classes)))); err == nil {
				w.learned = append(w.learned, time.Since(start))
				w.steps = append(w.steps, ack.Step)
				if !ack.Durable {
					w.notDurable++
				}
			} else if _, refused := errors.AsType[*client.Error](err); !refused {
				w.silent++
			}
		} else if _, err = board.Classify(ctx, x); err == nil {
			w.classified = append(w.classified, time.Since(start))
		}
		if err != nil {
			w.note(err)
			time.Sleep(pause)
		}
	}
}

func (w *worker) note(err error) {
	var code brain.Code
	if e, refused := errors.AsType[*client.Error](err); refused {
		code = e.Code
	}
	w.errors[code]++
	if w.example == "" && code != brain.CodeBusy {
		w.example = err.Error()
	}
}

// watch reads the daemon's memory once a second.
func watch(until context.Context, board *client.Client) (memory []float64) {
	for {
		if text, err := board.Metrics(until); err == nil {
			if v, known := metric(text, "process_resident_memory_bytes"); known {
				memory = append(memory, v)
			}
		}
		select {
		case <-until.Done():
			return memory
		case <-time.After(time.Second):
		}
	}
}

// metric is the value of a metric without labels.
func metric(text, name string) (v float64, known bool) {
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		if value, is := strings.CutPrefix(lines.Text(), name+" "); is {
			v, err := strconv.ParseFloat(value, 64)
			return v, err == nil
		}
	}
	return 0, false
}

func (r *Report) gather(workers []*worker) {
	var classified, learned []time.Duration
	var steps []int64
	for _, w := range workers {
		classified, learned, steps = append(classified, w.classified...), append(learned, w.learned...), append(steps, w.steps...)
		r.Steps.NotDurable += w.notDurable
		r.Steps.Unanswered += w.silent
		for code, n := range w.errors {
			r.Errors[code] += n
		}
		if r.Example == "" {
			r.Example = w.example
		}
	}
	r.Classify, r.Learns = kindOf(classified), kindOf(learned)
	slices.Sort(steps)
	r.Steps.Acknowledged = len(steps)
	r.Steps.Twice = len(steps) - len(slices.Compact(steps))
}

func kindOf(d []time.Duration) Kind {
	if len(d) == 0 {
		return Kind{}
	}
	slices.Sort(d)
	ms := func(share float64) float64 { return d[min(len(d)-1, int(share*float64(len(d))))].Seconds() * 1e3 }
	return Kind{Answered: len(d), P50: ms(0.5), P99: ms(0.99), Longest: ms(1)}
}

// WriteText writes the report for people.
func (r *Report) WriteText(w io.Writer) error {
	fmt.Fprintf(w, "%d clients for %.1f s, seed %d\n", r.Clients, r.Seconds, r.Seed)
	for _, x := range []struct {
		name string
		k    Kind
	}{{"classify", r.Classify}, {"learn", r.Learns}} {
		fmt.Fprintf(w, "%-9s %8d answered, %7.1f a second   p50 %8.2f ms   p99 %8.2f ms   longest %8.2f ms\n",
			x.name, x.k.Answered, float64(x.k.Answered)/r.Seconds, x.k.P50, x.k.P99, x.k.Longest)
	}
	codes := make([]string, 0, len(r.Errors))
	for code, n := range r.Errors {
		codes = append(codes, fmt.Sprintf("%d %s", n, code))
	}
	slices.Sort(codes)
	fmt.Fprintf(w, "refused   %s\n", strings.Join(append(codes, "nothing else"), ", "))
	s := r.Steps
	_, err := fmt.Fprintf(w, "steps     %d acknowledged (%d not durable), %d counted by the board, %d lost\n", s.Acknowledged, s.NotDurable, s.Counted, s.Lost())
	if m := r.Memory; len(m) > 0 {
		_, err = fmt.Fprintf(w, "memory    %.1f MB at first, %.1f MB at half time, %.1f MB at last, at most %.1f MB\n",
			m[0]/1e6, m[len(m)/2]/1e6, m[len(m)-1]/1e6, slices.Max(m)/1e6)
	}
	return err
}
