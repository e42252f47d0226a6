package device

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Script is values over time, for fakes. Times are of the monotonic clock. A line of its text is one of
//
//	at 10m temperature = 81
//	from 10m to 20m temperature = 45 to 81
//	at 21m temperature fails: the bus is stuck
//	at 22m temperature absent: it was pulled out
//	at 30m wake = on
//	repeat 24h
//
// with the quantities temperature (°C), volts, amperes, wake and sleep (on, off), and comments from # on.
type Script struct {
	repeat time.Duration
	steps  map[string][]step // by quantity, in order of time
}

// step is what a quantity is from a time on: it goes from one value to another until a time, and stays there.
type step struct {
	at, until time.Duration
	from, to  float64
	err       error
}

// quantities are what a script may name.
var quantities = [...]string{"temperature", "volts", "amperes", "wake", "sleep"}

// OpenScript reads a script from a file.
func OpenScript(path string) (*Script, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("device: script: %w", err)
	}
	defer f.Close()
	s, err := ReadScript(f)
	if err != nil {
		return nil, fmt.Errorf("device: script %s: %w", path, err)
	}
	return s, nil
}

// ReadScript reads a script. An error names the line.
func ReadScript(r io.Reader) (*Script, error) {
	s := &Script{steps: map[string][]step{}}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		if err := s.line(text); err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", n, text, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	for _, steps := range s.steps {
		slices.SortStableFunc(steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
		if last := steps[len(steps)-1]; s.repeat > 0 && last.until > s.repeat {
			return nil, fmt.Errorf("repeat %v: there is a step at %v", s.repeat, last.until)
		}
	}
	return s, nil
}

func (s *Script) line(text string) (err error) {
	word := func() string {
		w, rest, _ := strings.Cut(text, " ")
		text = strings.TrimSpace(rest)
		return w
	}
	duration := func() time.Duration {
		d, e := time.ParseDuration(word())
		if e == nil && d < 0 {
			e = fmt.Errorf("%v is below 0", d)
		}
		err = join(err, e)
		return d
	}
	var st step
	ramp := false
	switch word() {
	case "repeat":
		if s.repeat = duration(); err == nil && (s.repeat == 0 || text != "") {
			err = errors.New("want repeat DURATION")
		}
		return err
	case "at":
		st.at = duration()
		st.until = st.at
	case "from":
		st.at = duration()
		if word() != "to" {
			return errors.New("want from TIME to TIME QUANTITY = VALUE to VALUE")
		}
		st.until, ramp = duration(), true
	default:
		return errors.New("want at, from or repeat")
	}
	if err != nil {
		return err
	}
	quantity := word()
	if !slices.Contains(quantities[:], quantity) {
		return fmt.Errorf("%q is none of %s", quantity, strings.Join(quantities[:], ", "))
	}
	value := func(text string) float64 {
		if quantity == "wake" || quantity == "sleep" {
			if text != "on" && text != "off" {
				err = join(err, fmt.Errorf("%q is neither on nor off", text))
			}
			return map[string]float64{"on": 1}[text]
		}
		v, e := strconv.ParseFloat(text, 64)
		err = join(err, e)
		return v
	}
	switch verb := word(); {
	case verb == "=" && ramp:
		from, to, found := strings.Cut(text, " to ")
		st.from, st.to = value(strings.TrimSpace(from)), value(strings.TrimSpace(to))
		if !found || !(st.until > st.at) || quantity == "wake" || quantity == "sleep" {
			return errors.New("want from TIME to a later TIME QUANTITY = VALUE to VALUE")
		}
	case verb == "=":
		st.from = value(text)
		st.to = st.from
	case verb == "fails:" && !ramp:
		st.err = errors.New(text)
	case verb == "absent:" && !ramp:
		st.err = Absent(text)
	default:
		return errors.New("want = VALUE, fails: WHY or absent: WHY")
	}
	s.steps[quantity] = append(s.steps[quantity], st)
	return err
}

// At returns a quantity at a time. What the script does not name, or not yet, is Absent.
func (s *Script) At(quantity string, t time.Duration) (float64, error) {
	if s.repeat > 0 {
		t %= s.repeat
	}
	v, err := 0.0, error(Absent(fmt.Sprintf("the script does not name %s at %v", quantity, t)))
	for _, st := range s.steps[quantity] {
		switch {
		case st.at > t:
			return v, err
		case st.err != nil:
			v, err = 0, st.err
		case t < st.until:
			v, err = st.from+(st.to-st.from)*float64(t-st.at)/float64(st.until-st.at), nil
		default:
			v, err = st.to, nil
		}
	}
	return v, err
}

// next returns when a step of a quantity begins after a time.
func (s *Script) next(quantity string, t time.Duration) (time.Duration, bool) {
	round := time.Duration(0)
	if s.repeat > 0 {
		round = t - t%s.repeat
	}
	steps := s.steps[quantity]
	for _, st := range steps {
		if round+st.at > t {
			return round + st.at, true
		}
	}
	if s.repeat > 0 && len(steps) > 0 {
		return round + s.repeat + steps[0].at, true
	}
	return 0, false
}

// scripted is every device that follows a script.
type scripted struct {
	script   *Script
	clock    Clock
	quantity string // of a line

	mu     sync.Mutex
	out    edges
	cancel context.CancelFunc
	done   chan struct{}
}

type (
	scriptThermometer struct{ *scripted }
	scriptMeter       struct{ *scripted }
	scriptLine        struct{ *scripted }
)

func (s *scripted) String() string { return "script" }

func (s scriptThermometer) Celsius() (float64, error) {
	return s.script.At("temperature", s.clock.Monotonic())
}

// Read takes 0 A when the script does not name amperes.
func (s scriptMeter) Read() (Power, error) {
	now := s.clock.Monotonic()
	volts, err := s.script.At("volts", now)
	if err != nil {
		return Power{}, err
	}
	amperes, err := s.script.At("amperes", now)
	var absent Absent
	if err != nil && !errors.As(err, &absent) {
		return Power{}, err
	}
	return Power{volts, amperes}, nil
}

func (s scriptLine) Active() (bool, error) { return s.active(s.clock.Monotonic()) }

func (s *scripted) active(t time.Duration) (bool, error) {
	v, err := s.script.At(s.quantity, t)
	return v != 0, err
}

func (s scriptLine) Edges() <-chan Edge {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out == nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.out, s.cancel, s.done = make(edges, edgeBacklog), cancel, make(chan struct{})
		go s.play(ctx, s.clock.Monotonic())
	}
	return s.out
}

// play sends the edges that the script has after a time. A line that fails, or is absent, keeps its level.
func (s *scripted) play(ctx context.Context, t time.Duration) {
	defer close(s.done)
	defer close(s.out)
	was, _ := s.active(t)
	for {
		next, more := s.script.next(s.quantity, t)
		if !more {
			<-ctx.Done()
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-s.clock.After(next - s.clock.Monotonic()):
		}
		t = next
		if is, err := s.active(t); err == nil && is != was {
			was = is
			s.out.send(Edge{is, t})
		}
	}
}

func (s *scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
		<-s.done
		s.cancel = nil
	}
	return nil
}
