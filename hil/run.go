package hil

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"hypnos/core/model"
	"hypnos/hil/message"
	"hypnos/hil/target"
)

func hostArch() string { return runtime.GOARCH }

func goVersion() string { return runtime.Version() }

// Outcomes of a scenario.
const (
	Passed  = "passed"
	Failed  = "failed"
	Skipped = "skipped"
)

// Result is a scenario on a target.
type Result struct {
	Target   string   `json:"target"`
	Scenario string   `json:"scenario"`
	About    string   `json:"about"`
	Outcome  string   `json:"outcome"`
	Reason   string   `json:"reason,omitempty"` // why it failed or was skipped
	Seconds  float64  `json:"seconds"`
	Compared int      `json:"compared"` // with what the host knows
	Notes    []string `json:"notes,omitempty"`
	Samples  []Sample `json:"samples,omitempty"`
	Console  string   `json:"console,omitempty"` // of a failure
	Log      string   `json:"log,omitempty"`     // the daemon's, of a failure
}

// Sample is a device at a moment, in seconds since its scenario began.
type Sample struct {
	At      float64  `json:"at"`
	State   string   `json:"state"`
	Celsius *float64 `json:"celsius,omitempty"`
	SNR     *float64 `json:"snr,omitempty"` // the least of any layer
}

// Report is a run.
type Report struct {
	Rig      string    `json:"rig"`
	Seed     uint64    `json:"seed"`
	Began    time.Time `json:"began"`
	Seconds  float64   `json:"seconds"`
	Host     string    `json:"host"`
	Results  []Result  `json:"results"`
	Compared int       `json:"compared"`
}

// Count is how many results have an outcome.
func (r Report) Count(outcome string) (n int) {
	for _, x := range r.Results {
		if x.Outcome == outcome {
			n++
		}
	}
	return n
}

// Err is nil when nothing failed and something was compared.
func (r Report) Err() error {
	if n := r.Count(Failed); n > 0 {
		return fmt.Errorf("%d of %d failed", n, len(r.Results))
	}
	if r.Compared == 0 {
		return errors.New("nothing was compared")
	}
	return nil
}

// Options of Run.
type Options struct {
	Source   string     // folder of the source of Hypnos, from which devices' programs are built
	Targets  []string   // names; empty is all
	Only     []string   // names of scenarios; empty is all
	Extra    []Scenario // beside those that come with the program
	SelfTest bool       // only what shows that the rig notices mistakes
	Progress io.Writer  // a line for each result
}

// selfTest are the scenarios that must fail.
func selfTest(all []Scenario) []Scenario {
	return slices.DeleteFunc(slices.Clone(all), func(s Scenario) bool { return s.Fails == "" })
}

// Run runs a rig's scenarios on its targets, one after the other. An error means that it could not; failures are in the report. The rig is
// held against other runs meanwhile.
func Run(ctx context.Context, r *Rig, o Options) (*Report, error) {
	scenarios, err := Scenarios()
	if err != nil {
		return nil, err
	}
	scenarios = append(scenarios, o.Extra...)
	if o.SelfTest {
		scenarios = selfTest(scenarios)
	}
	for _, n := range o.Only {
		if !slices.Contains(names(scenarios), n) {
			return nil, fmt.Errorf("hil: no scenario %q (there are: %s)", n, strings.Join(names(scenarios), ", "))
		}
	}
	for _, n := range o.Targets {
		if !slices.ContainsFunc(r.Targets, func(t TargetConfig) bool { return t.Name == n }) {
			return nil, fmt.Errorf("hil: the rig has no target %q", n)
		}
	}
	if err := os.MkdirAll(r.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("hil: %w", err)
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	dir, err := os.MkdirTemp(r.Cache, "programs")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	p := programs{source: o.Source, dir: dir}
	tool, err := p.build("cmd/hypnos", hostArch())
	if err != nil {
		return nil, err
	}
	cache, err := filepath.Abs(r.Cache)
	if err != nil {
		return nil, err
	}
	packages, err := packagesOf(cache, tool)
	if err != nil {
		return nil, err
	}
	report := &Report{Rig: r.Name, Seed: r.Seed, Began: time.Now(), Host: runtime.GOOS + "/" + runtime.GOARCH}
	for _, t := range r.Targets {
		if len(o.Targets) > 0 && !slices.Contains(o.Targets, t.Name) {
			continue
		}
		chosen := slices.DeleteFunc(slices.Clone(scenarios), func(s Scenario) bool {
			return len(o.Only) > 0 && !slices.Contains(o.Only, s.Name) || len(t.Scenarios) > 0 && !slices.Contains(t.Scenarios, s.Name) && s.Fails == ""
		})
		r.runTarget(ctx, t, chosen, p, packages, report, o)
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
	}
	report.Seconds = time.Since(report.Began).Seconds()
	for _, x := range report.Results {
		report.Compared += x.Compared
	}
	return report, nil
}

// lock holds the rig; who holds it is in a file beside the lock.
func (r *Rig) lock(ctx context.Context) (unlock func(), err error) {
	dir := filepath.Join(r.Cache, "rig")
	owner := filepath.Join(dir, "owner")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	for end := time.Now().Add(r.Wait.Duration); ; {
		held, err := model.LockFolder(dir)
		if err == nil {
			host, _ := os.Hostname()
			text := fmt.Sprintf("process %d on %s since %s", os.Getpid(), host, time.Now().Format(time.DateTime))
			if err := os.WriteFile(owner, []byte(text), 0o600); err != nil {
				held.Close()
				return nil, err
			}
			return func() { os.Remove(owner); held.Close() }, nil
		}
		if !errors.Is(err, model.ErrLocked) {
			return nil, fmt.Errorf("hil: %s: %w", dir, err)
		}
		if !time.Now().Before(end) {
			text, _ := os.ReadFile(owner)
			return nil, fmt.Errorf("hil: another run has the rig (%s): wait for it, or give the rig another cache", text)
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// runTarget runs scenarios on one target, after it has shown that it is what the rig says.
func (r *Rig) runTarget(ctx context.Context, c TargetConfig, scenarios []Scenario, p programs, packages map[string]string, report *Report, o Options) {
	add := func(x Result) {
		x.Target = c.Name
		report.Results = append(report.Results, x)
		if o.Progress != nil {
			fmt.Fprintln(o.Progress, x.line())
		}
	}
	begin := time.Now()
	t, err := r.open(ctx, c, p, packages)
	check := Result{Scenario: "rig", About: "The device is what the rig says, its clock goes, its line carries what is sent.", Outcome: Passed}
	if err == nil {
		defer t.Close()
		check.Compared, err = r.selfCheck(ctx, t, c, packages)
	}
	check.Seconds = time.Since(begin).Seconds()
	if err != nil {
		check.Outcome, check.Reason = Failed, oneLine(err.Error())
		if errors.Is(err, errUnavailable) {
			check.Outcome = Skipped
		}
		if t != nil {
			check.Console = t.Console()
		}
		add(check)
		for _, s := range scenarios {
			add(Result{Scenario: s.Name, About: s.About, Outcome: Skipped, Reason: "the target: " + check.Reason})
		}
		return
	}
	add(check)
	for _, s := range scenarios {
		if ctx.Err() != nil {
			return
		}
		add(r.runScenario(ctx, t, s, packages))
	}
}

// selfCheck compares a device with its description.
func (r *Rig) selfCheck(ctx context.Context, t target.Target, c TargetConfig, packages map[string]string) (compared int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := t.Boot(ctx); err != nil {
		return 0, err
	}
	defer t.Cut()
	asked := time.Now()
	id, err := target.Identify(ctx, t)
	if err != nil {
		return 0, err
	}
	answered := time.Now()
	arch := c.Arch
	if c.Kind == "process" {
		arch = hostArch()
	}
	if b, ok := t.(*target.Board); ok {
		arch = b.Arch()
	}
	if b, ok := t.(interface{ Model() string }); ok && !strings.HasPrefix(id.Board, b.Model()) {
		return 0, fmt.Errorf("the board says that it is %q, want %q: is this the board that is meant?", id.Board, b.Model())
	}
	if id.Arch != arch {
		return 0, fmt.Errorf("its programs run on %s, want %s", id.Arch, arch)
	}
	for n := range 20 {
		sent, got := strings.Repeat(fmt.Sprintf("%d ÿ\n\x00~hil q ", n), n+1), ""
		if err := t.Call(ctx, message.Echo, sent, &got); err != nil {
			return compared, err
		}
		if got != sent {
			return compared, fmt.Errorf("its line makes %q of %q", got, sent)
		}
		compared++
	}
	if err := pause(ctx, 300*time.Millisecond); err != nil {
		return compared, err
	}
	least := time.Since(answered)
	later, err := target.Identify(ctx, t)
	if err != nil {
		return compared, err
	}
	// It looked at its clock twice, each time between a question and its answer. Clocks of computers differ by less than a thousandth.
	most, there := time.Since(asked), later.Monotonic-id.Monotonic
	if slack := most / 1000; there < least-slack || there > most+slack {
		return compared, fmt.Errorf("its clock went %v while %v to %v passed here", there, least, most)
	}
	compared += 3
	if t.World() == nil {
		return compared, nil
	}
	t.Cut()
	more, err := r.checkWiring(ctx, t, packages)
	if err != nil {
		err = fmt.Errorf("wiring: %w", err)
	}
	return compared + more, err
}

// checkWiring runs the scenario that has the device see what the rig sets.
func (r *Rig) checkWiring(ctx context.Context, t target.Target, packages map[string]string) (compared int, err error) {
	all, err := Scenarios()
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == "wiring" })
	if i < 0 {
		return 0, errors.New("no such scenario")
	}
	var x Result
	err = r.attempt(ctx, t, all[i], packages, &x)
	return x.Compared, err
}

// runScenario runs one scenario. The device is off before and after.
func (r *Rig) runScenario(ctx context.Context, t target.Target, s Scenario, packages map[string]string) (x Result) {
	begin := time.Now()
	x = Result{Scenario: s.Name, About: s.About, Outcome: Passed}
	defer func() { x.Seconds = time.Since(begin).Seconds() }()
	for _, n := range s.Needs {
		if err := t.Can(n); err != nil {
			x.Outcome, x.Reason = Skipped, err.Error()
			return x
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout.Duration, fmt.Errorf("it takes longer than %v", r.Timeout.Duration))
	defer cancel()
	err := r.attempt(ctx, t, s, packages, &x)
	if _, emulated := t.(*target.Board); emulated && errors.Is(err, target.ErrDead) {
		t.Cut()
		x.Compared, x.Samples = 0, nil
		x.Notes = []string{"run twice: the emulated board came to a stop the first time, with " + oneLine(err.Error())}
		err = r.attempt(ctx, t, s, packages, &x)
	}
	switch {
	case s.Fails == "":
	case err == nil:
		err = fmt.Errorf("it must fail, and does not: a mistake would not be noticed")
	case strings.Contains(err.Error(), s.Fails):
		x.Notes = append(x.Notes, "noticed: "+oneLine(err.Error()))
		err = nil
	}
	if err != nil {
		x.Outcome, x.Reason, x.Console = Failed, oneLine(err.Error()), t.Console()
		logs, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		t.Call(logs, message.Log, 8000, &x.Log)
		cancel()
	}
	t.Cut() // it may be off
	return x
}

// attempt runs a scenario once.
func (r *Rig) attempt(ctx context.Context, t target.Target, s Scenario, packages map[string]string, x *Result) error {
	a, err := newSession(t, s, packages, r.Seed)
	if err != nil {
		return err
	}
	defer a.close()
	err = a.run(ctx)
	x.Compared, x.Notes, x.Samples = a.compared, append(x.Notes, a.notes...), a.samples
	return err
}

// line is a result for people.
func (x Result) line() string {
	text := fmt.Sprintf("%-8s %6.1fs  %-22s %s", x.Outcome, x.Seconds, x.Target, x.Scenario)
	if x.Outcome == Passed {
		text += fmt.Sprintf("  (%d compared)", x.Compared)
	}
	if x.Reason != "" {
		text += ": " + x.Reason
	}
	for _, n := range x.Notes {
		text += "\n" + strings.Repeat(" ", 18) + n
	}
	return text
}
