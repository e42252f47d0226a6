package emulator

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// Board describes an emulated board.
type Board struct {
	Model  string   `toml:"model"` // that its device tree tells
	Arch   string   `toml:"arch"`  // of programs
	Args   []string `toml:"args"`  // of QEMU
	Append string   `toml:"append"`
	// Serial is what its serial ports are, and Port the arguments that make the line if none is: see Options.
	Serial  []string `toml:"serial"`
	Port    []string `toml:"port"`
	Pad     int      `toml:"pad"` // line feeds behind what is sent on the line
	Modules []string `toml:"modules"`
	// Restarts is that it starts from nothing each time: a snapshot of it is of no use.
	Restarts bool `toml:"restarts"`
	// Restore are addresses and values that a machine needs when it comes from a snapshot.
	Restore [][2]uint32 `toml:"restore"`
	Disk    struct {
		Device  string   `toml:"device"`  // of Linux
		Args    []string `toml:"args"`    // with {drive} for what it is made of
		Flushes bool     `toml:"flushes"` // whether Linux tells it to make things durable
	} `toml:"disk"`
	Tree  *Tree  `toml:"tree"`
	World *World `toml:"world"`
}

// Tree are changes of one of the kernel's device trees.
type Tree struct {
	File     string              `toml:"file"`
	Places   map[string][]string `toml:"places"` // {name} in paths is the first of these that there is
	Okay     []string            `toml:"okay"`   // nodes that are switched on
	Disabled []string            `toml:"disabled"`
	Delete   []string            `toml:"delete"` // node, property
	Remove   []string            `toml:"remove"` // nodes
}

// World is what is around the board.
type World struct {
	Profile     string  `toml:"profile"`     // of package board, which says how the daemon sees it
	Temperature string  `toml:"temperature"` // device with a property of that name, in thousandths of °C
	Driver      *Driver `toml:"driver"`      // of the thermometer's bus
	Bus         *Pin    `toml:"bus"`         // low has its bus come to a stop
	Wake        Pin     `toml:"wake"`
	Sleep       Pin     `toml:"sleep"`
	LED         Pin     `toml:"led"`
}

// Driver names a device of a bus and Linux's driver of it.
type Driver struct {
	Bus    string `toml:"bus"`
	Driver string `toml:"driver"`
	Device string `toml:"device"`
}

// Pin is a line of a device of QEMU; Lines is the name of its inputs. Of a device that models no inputs, High and Low are an address and
// what is written there.
type Pin struct {
	Device string     `toml:"device"`
	Lines  string     `toml:"lines"`
	Line   int        `toml:"line"`
	High   *[2]uint32 `toml:"high"`
	Low    *[2]uint32 `toml:"low"`
}

// Set sets the level of an input line.
func (p Pin) Set(m *Machine, high bool) error {
	level, write := 0, p.Low
	if high {
		level, write = 1, p.High
	}
	if write != nil {
		return m.Poke(write[0], write[1])
	}
	return m.Drive(p.Device, p.Lines, p.Line, level)
}

//go:embed boards/*.toml
var boards embed.FS

// Names lists the boards.
func Names() []string {
	entries, err := boards.ReadDir("boards")
	if err != nil {
		panic(err) // it is embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".toml"))
	}
	return names
}

// ByName is a board's description.
func ByName(name string) (*Board, error) {
	text, err := boards.ReadFile("boards/" + name + ".toml")
	if err != nil {
		return nil, fmt.Errorf("emulator: no board %q (there are: %s)", name, strings.Join(Names(), ", "))
	}
	b := &Board{}
	m, err := toml.Decode(string(text), b)
	if err == nil && len(m.Undecoded()) > 0 {
		err = fmt.Errorf("unknown key %q", m.Undecoded()[0].String())
	}
	if err != nil {
		return nil, fmt.Errorf("emulator: boards/%s.toml: %w", name, err)
	}
	return b, nil
}

// Tools are programs and kernel as make hil-tools leaves them in a folder.
type Tools struct{ Dir string }

// Kernel is the boards' kernel.
func (t Tools) Kernel() Kernel { return Kernel{filepath.Join(t.Dir, "kernel")} }

func (t Tools) program(name string) string { return filepath.Join(t.Dir, "bin", name) }

// QEMU is the emulator's path.
func (t Tools) QEMU() string { return t.program("qemu-system-aarch64") }

// ErrTools is that tools are missing.
var ErrTools = errors.New("tools are missing")

// Check returns an error that wraps ErrTools and says what to do.
func (t Tools) Check(b *Board) error {
	for _, p := range []string{t.QEMU(), t.program("fdtput"), t.program("mkfs.ext4"), t.Kernel().Image()} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("emulator: %w: no %s; make hil-tools fetches it", ErrTools, p)
		}
	}
	machine := b.Args[1]
	out, err := exec.Command(t.QEMU(), "-M", "help").Output()
	if err != nil {
		return fmt.Errorf("emulator: %s: %w", t.QEMU(), err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, machine+" ") {
			return nil
		}
	}
	return fmt.Errorf("emulator: %w: this QEMU has no machine %s; make hil-tools fetches one that has", ErrTools, machine)
}

// run runs a tool.
func (t Tools) run(name string, args ...string) (string, error) {
	var errs bytes.Buffer
	c := exec.Command(t.program(name), args...)
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("emulator: %s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// WriteTree writes the board's device tree.
func (t Tools) WriteTree(path string, tree *Tree) error {
	text, err := os.ReadFile(filepath.Join(t.Kernel().Dir, "dtb", tree.File))
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	place := map[string]string{}
	for name, candidates := range tree.Places {
		for _, c := range candidates {
			if _, err := t.run("fdtget", "-p", path, c); err == nil {
				place["{"+name+"}"] = c
				break
			}
		}
	}
	resolve := func(node string) string {
		for name, c := range place {
			node = strings.ReplaceAll(node, name, c)
		}
		return node
	}
	for status, nodes := range map[string][]string{"okay": tree.Okay, "disabled": tree.Disabled} {
		for _, node := range nodes {
			if _, err := t.run("fdtput", "-t", "s", path, resolve(node), "status", status); err != nil {
				return err
			}
		}
	}
	for _, node := range tree.Remove {
		if _, err := t.run("fdtput", "-r", path, resolve(node)); err != nil {
			return err
		}
	}
	for _, d := range tree.Delete {
		node, property, _ := strings.Cut(d, " ")
		if _, err := t.run("fdtput", "-d", path, resolve(node), property); err != nil {
			return err
		}
	}
	return nil
}

// WriteDisk makes a disk with an empty file system of a size in bytes.
func (t Tools) WriteDisk(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return err
	}
	_, err = t.run("mkfs.ext4", "-q", "-F", "-O", "^metadata_csum_seed", path)
	return err
}

// Prepared are a board's files: what it starts from, in a folder named after their content.
type Prepared struct {
	Board    *Board
	Tools    Tools
	Dir      string
	args     []string
	Snapshot string // when there is one
}

// Prepare makes a board's files in a cache, unless they are there: init is process 1, files are paths on the device and here.
func Prepare(cache string, t Tools, name string, init string, files map[string]string) (*Prepared, error) {
	b, err := ByName(name)
	if err != nil {
		return nil, err
	}
	if err := t.Check(b); err != nil {
		return nil, err
	}
	var ram bytes.Buffer
	if err := WriteInitramfs(&ram, init, t.Kernel(), b.Modules, files); err != nil {
		return nil, err
	}
	release, err := t.Kernel().Release()
	if err != nil {
		return nil, err
	}
	description, err := boards.ReadFile("boards/" + name + ".toml")
	if err != nil {
		return nil, err
	}
	version, err := t.run("qemu-system-aarch64", "--version")
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %s %q ", release, version, description)
	h.Write(ram.Bytes())
	p := &Prepared{Board: b, Tools: t, Dir: filepath.Join(cache, fmt.Sprintf("%s-%.16x", name, h.Sum(nil)))}
	if err := p.only(name); err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.path("initramfs"), ram.Bytes(), 0o600); err != nil {
		return nil, err
	}
	p.args = append(append([]string{}, b.Args...), "-kernel", t.Kernel().Image(), "-initrd", p.path("initramfs"), "-append", b.Append)
	if b.Tree != nil {
		if err := t.WriteTree(p.path("tree"), b.Tree); err != nil {
			return nil, err
		}
		p.args = append(p.args, "-dtb", p.path("tree"))
	}
	if _, err := os.Stat(p.path("snapshot")); err == nil {
		p.Snapshot = p.path("snapshot")
	}
	return p, nil
}

// only makes the folder, and removes those of other content: a snapshot has some 200 MB.
func (p *Prepared) only(name string) error {
	others, err := filepath.Glob(filepath.Join(filepath.Dir(p.Dir), name+"-*"))
	if err != nil {
		return err
	}
	for _, o := range others {
		if o != p.Dir {
			if err := os.RemoveAll(o); err != nil {
				return err
			}
		}
	}
	return os.MkdirAll(p.Dir, 0o755)
}

func (p *Prepared) path(name string) string { return filepath.Join(p.Dir, name) }

// Start starts a machine with a disk. log, when it is not "", is where what is written to the disk is noted. dir is for sockets, console
// takes what the board prints.
func (p *Prepared) Start(ctx context.Context, dir, disk, log string, console interface{ Write([]byte) (int, error) }) (*Machine, error) {
	drive := "format=raw,file=" + disk
	if log != "" {
		drive = "driver=blklogwrites,file.driver=file,file.filename=" + disk + ",log.driver=file,log.filename=" + log + ",log-super-update-interval=1"
	}
	o := Options{Program: p.Tools.QEMU(), Args: append([]string{}, p.args...), Dir: dir, Serial: p.Board.Serial, Port: p.Board.Port, Console: console, Snapshot: p.Snapshot}
	for _, a := range p.Board.Disk.Args {
		o.Args = append(o.Args, strings.ReplaceAll(a, "{drive}", drive))
	}
	m, err := Start(ctx, o)
	if err != nil || p.Snapshot == "" {
		return m, err
	}
	resume := func() error {
		if err := m.Arrived(ctx); err != nil {
			return err
		}
		for _, r := range p.Board.Restore {
			if err := m.Poke(r[0], r[1]); err != nil {
				return err
			}
		}
		return m.Continue()
	}
	if err := resume(); err != nil {
		m.Kill()
		return nil, err
	}
	return m, nil
}

// Keep makes the state of a machine, which ends with it, what Start begins with from now on. Its disk must not have been looked at.
func (p *Prepared) Keep(ctx context.Context, m *Machine) error {
	defer m.Kill()
	if err := m.Save(ctx, p.path("saving")); err != nil {
		return err
	}
	if err := os.Rename(p.path("saving"), p.path("snapshot")); err != nil {
		return err
	}
	p.Snapshot = p.path("snapshot")
	return nil
}
