// Package hil proves Hypnos on devices: it runs scenarios on targets that a rig describes, and compares what a device computes, keeps
// and says with what the host knows. docs/HIL.md is the manual.
package hil

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"hypnos/hil/emulator"
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

// TargetConfig describes a device.
type TargetConfig struct {
	Name  string `toml:"name"`
	Kind  string `toml:"kind"`  // "process", "user" or "board"
	Arch  string `toml:"arch"`  // of user: "arm64", "arm" (armv7) or "amd64"
	CPU   string `toml:"cpu"`   // of user: QEMU's name of the processor
	Board string `toml:"board"` // of board: the emulated board
	Disk  int64  `toml:"disk"`  // of board: MiB; 32 when left out

	Scenarios []string `toml:"scenarios"` // names; empty is all
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
	if t.Arch != "" && t.Arch != "arm64" && t.Arch != "arm" && t.Arch != "amd64" {
		return fmt.Errorf("arch: %q is none of arm64, arm, amd64", t.Arch)
	}
	if t.Disk == 0 {
		t.Disk = 32
	}
	if t.Disk < 8 || t.Disk > 4096 {
		return fmt.Errorf("disk: %d MiB is outside 8…4096", t.Disk)
	}
	need := map[string]map[string]bool{
		"process": {},
		"user":    {"arch": t.Arch != "", "cpu": t.CPU != ""},
		"board":   {"board": t.Board != ""},
	}
	keys, ok := need[t.Kind]
	if !ok {
		return fmt.Errorf("kind: %q is none of process, user, board", t.Kind)
	}
	for key, there := range keys {
		if !there {
			return fmt.Errorf("a target of kind %s needs the key %s", t.Kind, key)
		}
	}
	return nil
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
	}
	panic("hil: a kind that check lets pass")
}

// errUnavailable is that something is missing here that a target needs.
var errUnavailable = errors.New("not to be had here")
