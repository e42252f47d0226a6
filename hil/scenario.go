package hil

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"hypnos/hil/compute"
	"hypnos/hil/target"
)

// Scenario is what is done to a device, step by step, and what must come of it. It is a TOML file; docs/HIL.md lists the steps.
type Scenario struct {
	Name  string              `toml:"-"`
	About string              `toml:"about"`
	Needs []target.Capability `toml:"needs"`
	// Daemon is what its configuration has in place of the usual.
	Daemon map[string]any `toml:"daemon"`
	// Off leaves the daemon for a step to start.
	Off bool `toml:"off"`
	// Fails has it pass when it fails, with these words in the reason: it is there to show that what it breaks is noticed.
	Fails string `toml:"fails"`
	Steps []Step `toml:"step"`
}

// Step is one thing to do: exactly one of the fields is set, Package and Against apart.
type Step struct {
	Compute   *compute.Life `toml:"compute"`   // the same digests as here
	Package   string        `toml:"package"`   // of Compute; empty is v1.hyp
	Against   string        `toml:"against"`   // what is computed with here, if that is another package
	Golden    string        `toml:"golden"`    // golden file (bench/golden) with which the device compares what it computes
	Start     *Start        `toml:"start"`     // the daemon
	Stop      string        `toml:"stop"`      // the daemon: "in order" or "at once"
	Cut       bool          `toml:"cut"`       // the power, and start it all again
	Learn     int           `toml:"learn"`     // from so many images, each acknowledged as durable
	Classify  int           `toml:"classify"`  // so many images, with the logits that there are here
	Same      bool          `toml:"same"`      // the weights are those that there are here
	Sleep     bool          `toml:"sleep"`     // asks for a sleep, and waits for its end
	Ask       string        `toml:"ask"`       // the API for "sleep" or "wake", without waiting
	Expect    *Expect       `toml:"expect"`    // of the status
	Heat      *float64      `toml:"heat"`      // °C of the thermometer
	Ramp      *Ramp         `toml:"ramp"`      // of the temperature
	Line      *Line         `toml:"line"`      // level of an input
	Wait      Duration      `toml:"wait"`      // nothing
	WakeEdge  int           `toml:"wake_edge"` // measures so often how long an edge in a sleep takes to the first logits
	Cuts      *Cuts         `toml:"cuts"`      // of power at random moments
	File      *File         `toml:"file"`      // is written
	Fill      bool          `toml:"fill"`      // the disk
	Remove    string        `toml:"remove"`    // a file of the device
	ReadOnly  *bool         `toml:"read_only"` // the disk
	Flip      *Flip         `toml:"flip"`      // a bit of a file
	Clock     Duration      `toml:"clock"`     // is set forward
	Sensor    string        `toml:"sensor"`    // "away" or "back" for its bus, "silent" or "answers" for itself
	Refused   *Refused      `toml:"refused"`   // a request that must be
	Update    *Update       `toml:"update"`    // to another package
	Rollback  bool          `toml:"rollback"`
	Soak      *Soak         `toml:"soak"`
	LineNoise *float64      `toml:"line_noise"` // share of frames on the line to the device that are damaged from now on
}

// Start says how the daemon starts.
type Start struct {
	Drop  string `toml:"drop"`  // parts of names of files whose syncs are left out
	Fails string `toml:"fails"` // what it must say, if it must not start
}

// Expect is what the daemon's status must come to show within a time.
type Expect struct {
	State   string   `toml:"state"`
	Reason  string   `toml:"reason"` // a part of it
	Sleeps  int64    `toml:"sleeps"` // at least so many whole ones since the daemon started
	Version uint64   `toml:"version"`
	Before  string   `toml:"before"`  // a part of why a model was returned from
	LED     string   `toml:"led"`     // "on", "off" or "blinks"
	Reading string   `toml:"reading"` // a part of the line of the thermometer
	Durable *bool    `toml:"durable"`
	Within  Duration `toml:"within"` // 10 s when left out
}

// Ramp changes the temperature in steps of a degree.
type Ramp struct {
	From float64  `toml:"from"`
	To   float64  `toml:"to"`
	Over Duration `toml:"over"`
}

// Line is an input line's level.
type Line struct {
	Name string `toml:"name"`
	High bool   `toml:"high"`
}

// Cuts are losses of power at random moments while the device does something.
type Cuts struct {
	Count  int      `toml:"count"`
	During []string `toml:"during"` // "learning", "sleeping", "updating", by turns
	Forget bool     `toml:"forget"` // takes away what was written after the last flush
	Within Duration `toml:"within"` // the moment is within this time
}

// File is a small file of the device's home.
type File struct {
	Path string `toml:"path"`
	Text string `toml:"text"`
}

// Flip is a bit of a file, at a share of its length.
type Flip struct {
	Path  string  `toml:"path"`
	Where float64 `toml:"where"`
}

// Refused is a request with the code of its refusal.
type Refused struct {
	What string `toml:"what"` // "learn", "upload FILE"
	Code string `toml:"code"`
}

// Update uploads and activates a package.
type Update struct {
	Package string   `toml:"package"`
	Code    string   `toml:"code"`   // of the refusal, if it must be refused
	Commit  Duration `toml:"commit"` // within which the trial must end well; 0 does not wait
}

// Soak repeats learning and sleeping, and compares what the daemon takes in the last half with the first.
type Soak struct {
	Rounds int     `toml:"rounds"`
	Learn  int     `toml:"learn"`  // images a round
	Growth float64 `toml:"growth"` // of memory, as a share, that is let pass
}

// Duration is a time in TOML.
type Duration struct{ time.Duration }

// UnmarshalText reads 1.5s.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

//go:embed scenarios/*.toml
var scenarioFiles embed.FS

// Scenarios are those that come with the program, by name in order.
func Scenarios() ([]Scenario, error) {
	sub, err := fs.Sub(scenarioFiles, "scenarios")
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(sub, ".")
	if err != nil {
		return nil, err
	}
	var all []Scenario
	for _, e := range entries {
		text, err := fs.ReadFile(sub, e.Name())
		if err != nil {
			return nil, err
		}
		s, err := parseScenario(strings.TrimSuffix(e.Name(), ".toml"), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// ReadScenario reads a file.
func ReadScenario(path string) (Scenario, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Scenario{}, fmt.Errorf("hil: scenario: %w", err)
	}
	return parseScenario(strings.TrimSuffix(filepath.Base(path), ".toml"), string(text))
}

func parseScenario(name, text string) (s Scenario, err error) {
	m, err := toml.Decode(text, &s)
	s.Name = name
	if err == nil && len(m.Undecoded()) > 0 {
		for _, k := range m.Undecoded() {
			if k[0] != "daemon" {
				err = fmt.Errorf("unknown key %q", k.String())
			}
		}
	}
	if err == nil {
		err = s.check()
	}
	if err != nil {
		return s, fmt.Errorf("hil: scenario %s: %s", name, oneLine(err.Error()))
	}
	return s, nil
}

func (s Scenario) check() error {
	if s.About == "" {
		return errors.New("about: what does it show?")
	}
	for _, n := range s.Needs {
		if err := n.Check(); err != nil {
			return err
		}
	}
	if len(s.Steps) == 0 {
		return errors.New("no step")
	}
	for i, step := range s.Steps {
		name, err := step.name()
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		for _, n := range step.needs() {
			if !slices.Contains(s.Needs, n) {
				return fmt.Errorf("step %d, %s: needs must have %q", i+1, name, n)
			}
		}
	}
	return nil
}

// beside are keys that say more of what a step does.
func beside() map[string]bool { return map[string]bool{"package": true, "against": true} }

// needs are capabilities without which a step cannot be done, or would do harm: a process has no disk of its own that could be filled,
// and no clock.
func (s Step) needs() (all []target.Capability) {
	add := func(is bool, c target.Capability) {
		if is {
			all = append(all, c)
		}
	}
	add(s.Heat != nil || s.Ramp != nil || s.Line != nil || s.Sensor != "" || s.WakeEdge > 0 || s.Expect != nil && s.Expect.LED != "", target.Sensors)
	add(s.Fill || s.ReadOnly != nil, target.Disk)
	add(s.Clock.Duration != 0, target.Clock)
	add(s.Cut || s.Cuts != nil, target.PowerCut)
	add(s.Cuts != nil && s.Cuts.Forget, target.CutLog)
	return all
}

// stepNames lists what a step can be.
func stepNames() (all []string) {
	t, more := reflect.TypeFor[Step](), beside()
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("toml"); !more[key] {
			all = append(all, key)
		}
	}
	return all
}

// name is the key of the field that is set.
func (s Step) name() (string, error) {
	var set []string
	v, more := reflect.ValueOf(s), beside()
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("toml")
		if !v.Field(i).IsZero() && !more[key] {
			set = append(set, key)
		}
	}
	switch {
	case len(set) == 0:
		return "", errors.New("it does nothing")
	case len(set) > 1:
		return "", fmt.Errorf("%s: one at a time", strings.Join(set, ", "))
	case s.Package+s.Against != "" && s.Compute == nil:
		return "", errors.New("package, against: only with compute")
	}
	return set[0], nil
}
