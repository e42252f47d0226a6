// Package board knows boards: profiles of what they have, with where each figure is from.
package board

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

//go:embed profiles/*.toml
var profiles embed.FS

// Figure is one figure of a profile.
type Figure struct {
	Value    float64 `toml:"value" json:"value"`
	Source   string  `toml:"source" json:"source"`     // a document, or what an estimate is derived from
	Estimate bool    `toml:"estimate" json:"estimate"` // not of a data sheet and not measured
}

// Profile is a board, or a class of boards.
type Profile struct {
	Name         string `toml:"name" json:"name"`
	Title        string `toml:"title" json:"title"`
	Architecture string `toml:"architecture" json:"architecture"` // of the program: arm64, armv7, amd64
	Cores        Figure `toml:"cores" json:"cores"`
	Clock        Figure `toml:"clock" json:"clock"`   // MHz
	Memory       Figure `toml:"memory" json:"memory"` // MB, 10^6
	Free         Figure `toml:"free" json:"free"`     // MB that the program may take
	Read         Figure `toml:"read" json:"read"`     // GB/s, all cores together
	Copy         Figure `toml:"copy" json:"copy"`     // GB/s, bytes read and bytes written
	MACs         Figure `toml:"macs" json:"macs"`     // 10^9 integer multiply-adds a second and core, of the kernels
	Random       Figure `toml:"random" json:"random"` // 10^9 16-bit random numbers a second and core
	Layer        Figure `toml:"layer" json:"layer"`   // µs that a layer takes beside its work
	Wiring       Wiring `toml:"wiring" json:"wiring"` // devices of the board
}

// Figures lists the figures by name.
func (p *Profile) Figures() map[string]*Figure {
	return map[string]*Figure{
		"cores": &p.Cores, "clock": &p.Clock, "memory": &p.Memory, "free": &p.Free, "read": &p.Read, "copy": &p.Copy,
		"macs": &p.MACs, "random": &p.Random, "layer": &p.Layer,
	}
}

// Estimated names the figures that are estimates, in order.
func (p *Profile) Estimated() []string {
	var names []string
	for name, f := range p.Figures() {
		if f.Estimate {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Names lists the embedded profiles.
func Names() []string {
	entries, err := fs.ReadDir(profiles, "profiles")
	if err != nil {
		panic(err) // they are part of the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	return names
}

// Open reads the embedded profile of a name, or the file of a path that ends in .toml. Unknown keys, figures without a source
// and figures out of range are errors.
func Open(name string) (*Profile, error) {
	var text []byte
	var err error
	switch {
	case strings.HasSuffix(name, ".toml"):
		text, err = os.ReadFile(name)
	case slices.Contains(Names(), name):
		text, err = profiles.ReadFile(path.Join("profiles", name+".toml"))
	default:
		err = fmt.Errorf("unknown board %q (known: %s; or a file that ends in .toml)", name, strings.Join(Names(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("board: %w", err)
	}
	p, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("board: %s: %w", name, err)
	}
	return p, nil
}

func parse(text string) (*Profile, error) {
	p := &Profile{}
	m, err := toml.Decode(text, p)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if keys := m.Undecoded(); len(keys) > 0 {
		return nil, fmt.Errorf("unknown key %q", keys[0])
	}
	if p.Name == "" {
		return nil, errors.New("no name")
	}
	if !slices.Contains([]string{"amd64", "arm64", "armv7"}, p.Architecture) {
		return nil, fmt.Errorf("architecture %q is none of amd64, arm64, armv7", p.Architecture)
	}
	for name, f := range p.Figures() {
		if !(f.Value > 0) || math.IsInf(f.Value, 0) {
			return nil, fmt.Errorf("%s: %g is not a positive number", name, f.Value)
		}
		if f.Source == "" {
			return nil, fmt.Errorf("%s: no source", name)
		}
	}
	if p.Free.Value > p.Memory.Value {
		return nil, fmt.Errorf("free: %g MB of %g", p.Free.Value, p.Memory.Value)
	}
	if err := p.Wiring.Check(); err != nil {
		return nil, err
	}
	if p.Cores.Value != math.Trunc(p.Cores.Value) {
		return nil, fmt.Errorf("cores: %g is not whole", p.Cores.Value)
	}
	return p, nil
}
