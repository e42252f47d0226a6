// Package hil proves Hypnos on devices: it runs scenarios on targets that a rig describes, and compares what a device computes, keeps
// and says with what the host knows. docs/HIL.md is the manual.
package hil

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"hypnos/board"
	"hypnos/hil/emulator"
	"hypnos/hil/message"
	"hypnos/hil/target"
)

// Rig says which devices there are, and what is to be run on them. It is a TOML file.
type Rig struct {
	Name    string         `toml:"-"`
	Cache   string         `toml:"cache"`   // folder of what is prepared once
	Tools   string         `toml:"tools"`   // folder of make hil-tools
	Seed    uint64         `toml:"seed"`    // of random moments
	Timeout Duration       `toml:"timeout"` // of a scenario
	Wait    Duration       `toml:"wait"`    // for another run on this rig to end; 0 does not wait
	Targets []TargetConfig `toml:"target"`
}

// TargetConfig describes a device. Which keys a kind has is in kinds.
type TargetConfig struct {
	Name      string   `toml:"name"`
	Kind      string   `toml:"kind"`      // "process", "user", "board", "ssh" or "serial"
	Scenarios []string `toml:"scenarios"` // names; empty is all

	Arch  string `toml:"arch"`  // "arm64", "arm" (armv7) or "amd64"
	CPU   string `toml:"cpu"`   // QEMU's name of the processor
	Board string `toml:"board"` // the emulated board
	Disk  int64  `toml:"disk"`  // of an emulated board: MiB; 32 when left out

	// Of real boards.
	Host     string         `toml:"host"`    // as ssh takes it
	Options  []string       `toml:"options"` // of ssh
	Home     string         `toml:"home"`    // a folder of the board, of the rig's own
	Port     string         `toml:"port"`    // the serial line to the guest
	Baud     int            `toml:"baud"`    // of both lines; 115200 when left out
	Console  string         `toml:"console"` // a serial line on which the board prints
	Model    string         `toml:"model"`   // what its device tree says that it is, or begins with
	Profile  string         `toml:"profile"` // of package board; "generic-linux" when left out
	Startup  Duration       `toml:"startup"` // until it answers after its power came; two minutes when left out
	Storage  string         `toml:"storage"` // a device with ext4 whose content may be lost
	SetClock bool           `toml:"set_clock"`
	Power    *target.Switch `toml:"power"`
	Around   *target.Around `toml:"around"`
}

// keys of a kind of target.
type keys struct{ needs, takes []string }

func kinds() map[string]keys {
	real := []string{"console", "baud", "model", "profile", "startup", "storage", "set_clock", "power", "around"}
	return map[string]keys{
		"process": {},
		"user":    {[]string{"arch", "cpu"}, nil},
		"board":   {[]string{"board"}, []string{"disk"}},
		"ssh":     {[]string{"arch", "host", "home"}, append([]string{"options"}, real...)},
		"serial":  {[]string{"arch", "port"}, real},
	}
}

// ReadRig reads a rig's description. Paths in it are relative to the working directory.
func ReadRig(path string) (*Rig, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("hil: rig: %w", err)
	}
	r := &Rig{
		Name: strings.TrimSuffix(filepath.Base(path), ".toml"), Cache: ".tools/hil/cache", Tools: ".tools/hil", Seed: 1, Timeout: Duration{10 * time.Minute},
	}
	m, err := toml.Decode(string(text), r)
	if err == nil && len(m.Undecoded()) > 0 {
		err = fmt.Errorf("unknown key %q", m.Undecoded()[0].String())
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, fmt.Errorf("hil: %s: %s", path, oneLine(err.Error()))
	}
	return r, nil
}

func (r *Rig) check() error {
	if len(r.Targets) == 0 {
		return errors.New("no target")
	}
	if r.Timeout.Duration <= 0 {
		return fmt.Errorf("timeout: %v must be above 0", r.Timeout)
	}
	scenarios, err := Scenarios()
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Name == "" {
			return fmt.Errorf("target %d: name: how is it called?", i+1)
		}
		if seen[t.Name] {
			return fmt.Errorf("target %s: there are two", t.Name)
		}
		seen[t.Name] = true
		if err := t.check(); err != nil {
			return fmt.Errorf("target %s: %w", t.Name, err)
		}
		for _, n := range t.Scenarios {
			if !slices.ContainsFunc(scenarios, func(s Scenario) bool { return s.Name == n }) {
				return fmt.Errorf("target %s: no scenario %q (there are: %s)", t.Name, n, strings.Join(names(scenarios), ", "))
			}
		}
	}
	return nil
}

func names(all []Scenario) (n []string) {
	for _, s := range all {
		n = append(n, s.Name)
	}
	return n
}

func (t *TargetConfig) check() error {
	k, ok := kinds()[t.Kind]
	if !ok {
		return fmt.Errorf("kind: %q is none of %s", t.Kind, strings.Join(slices.Sorted(maps.Keys(kinds())), ", "))
	}
	given := t.given()
	for _, key := range k.needs {
		if !slices.Contains(given, key) {
			return fmt.Errorf("a target of kind %s needs the key %s", t.Kind, key)
		}
	}
	for _, key := range given {
		if !slices.Contains(slices.Concat(k.needs, k.takes, []string{"name", "kind", "scenarios"}), key) {
			return fmt.Errorf("%s: a target of kind %s has no such key", key, t.Kind)
		}
	}
	if t.Arch != "" && t.Arch != "arm64" && t.Arch != "arm" && t.Arch != "amd64" {
		return fmt.Errorf("arch: %q is none of arm64, arm, amd64", t.Arch)
	}
	t.Disk, t.Baud, t.Profile = cmp.Or(t.Disk, 32), cmp.Or(t.Baud, 115200), cmp.Or(t.Profile, "generic-linux")
	if t.Disk < 8 || t.Disk > 4096 {
		return fmt.Errorf("disk: %d MiB is outside 8…4096", t.Disk)
	}
	if t.Baud < 1200 || t.Startup.Duration < 0 {
		return fmt.Errorf("baud, startup: %d, %v: too little", t.Baud, t.Startup)
	}
	if _, err := board.Open(t.Profile); err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if p := t.Power; p != nil && (len(p.On) == 0 || len(p.Off) == 0) {
		return errors.New("power: needs on and off")
	}
	if a := t.Around; a != nil && (len(a.Temperature) == 0 || len(a.Wake) == 0 || len(a.Sleep) == 0 || len(a.LED) == 0) {
		return errors.New("around: needs temperature, wake, sleep and led")
	}
	if t.Kind == "ssh" {
		return t.ssh("").Check()
	}
	return nil
}

// given are the keys that are set.
func (t *TargetConfig) given() (all []string) {
	v := reflect.ValueOf(*t)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			all = append(all, v.Type().Field(i).Tag.Get("toml"))
		}
	}
	return all
}

func (t *TargetConfig) ssh(guest string) target.SSH {
	return target.SSH{Host: t.Host, Options: t.Options, Home: t.Home, Arch: t.Arch, Guest: guest}
}

// real are the options of a board that is not emulated.
func (t *TargetConfig) real(files map[string]string) target.RealOptions {
	o := target.RealOptions{
		Model: t.Model, Profile: t.Profile, Startup: t.Startup.Duration, Power: t.Power, Around: t.Around, Storage: t.Storage, Clock: t.SetClock,
	}
	if t.Kind == "ssh" {
		o.Dial = t.ssh(files[message.Guest]).Dial
	} else {
		o.Dial, o.Stays = target.Serial{Port: t.Port, Baud: t.Baud}.Dial, true
	}
	if t.Console != "" {
		o.Console = target.Serial{Port: t.Console, Baud: t.Baud}.Console
	}
	return o
}

// open makes the target. An error that wraps errUnavailable is a reason to skip it.
func (r *Rig) open(ctx context.Context, t TargetConfig, p programs, packages map[string]string) (target.Target, error) {
	switch t.Kind {
	case "process":
		files, err := p.files(hostArch(), packages)
		if err != nil {
			return nil, err
		}
		return target.NewProcess(r.Cache, nil, files)
	case "user":
		files, err := p.files(t.Arch, packages)
		if err != nil {
			return nil, err
		}
		run := []string{map[string]string{"arm64": "qemu-aarch64-static", "arm": "qemu-arm-static", "amd64": "qemu-x86_64-static"}[t.Arch], "-cpu", t.CPU}
		if err := target.HasEmulator(run[0]); err != nil {
			return nil, fmt.Errorf("%w: %w", errUnavailable, err)
		}
		return target.NewProcess(r.Cache, run, files)
	case "board":
		b, err := emulator.ByName(t.Board)
		if err != nil {
			return nil, err
		}
		tools := emulator.Tools{Dir: r.Tools}
		if err := tools.Check(b); errors.Is(err, emulator.ErrTools) {
			return nil, fmt.Errorf("%w: %w", errUnavailable, err)
		} else if err != nil {
			return nil, err
		}
		files, err := p.files(b.Arch, packages)
		if err != nil {
			return nil, err
		}
		return target.NewBoard(ctx, r.Cache, tools, t.Board, t.Disk<<20, files)
	case "ssh", "serial":
		files, err := p.files(t.Arch, packages)
		if err != nil {
			return nil, err
		}
		return target.NewReal(t.real(files), files)
	}
	panic("hil: a kind that check lets pass")
}

// errUnavailable is that something is missing here that a target needs.
var errUnavailable = errors.New("not to be had here")
