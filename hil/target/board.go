package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"hypnos/hil/agent"
	"hypnos/hil/emulator"
	"hypnos/hil/message"
)

// Board is an emulated board.
type Board struct {
	connection
	prepared *emulator.Prepared
	dir      string // its disk and its sockets
	size     int64
	logs     bool // writes to the disk are noted
	out      console
	machine  *emulator.Machine
	boots    uint64
}

// NewBoard prepares a board whose files are in files (name → path here; guest is process 1). cache keeps what is prepared for the next
// time; diskSize is in bytes.
func NewBoard(ctx context.Context, cache string, tools emulator.Tools, name string, diskSize int64, files map[string]string) (*Board, error) {
	inside := map[string]string{}
	for n, path := range files {
		inside["hil/"+n] = path
	}
	p, err := emulator.Prepare(cache, tools, name, files["guest"], inside)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "hil") // short, as sockets must be
	if err != nil {
		return nil, err
	}
	b := &Board{prepared: p, dir: dir, size: diskSize, logs: p.Board.Disk.Flushes}
	if err := b.first(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("target: %s: %w", name, err), b.Close())
	}
	return b, nil
}

// first makes an empty disk, and a snapshot of the board as it answers.
func (b *Board) first(ctx context.Context) error {
	empty := b.path("empty")
	if err := b.prepared.Tools.WriteDisk(empty, b.size); err != nil {
		return err
	}
	if err := b.Erase(); err != nil || b.prepared.Snapshot != "" || b.prepared.Board.Restarts {
		return err
	}
	if err := b.Boot(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	m := b.machine
	b.machine = nil
	defer b.disconnect() // not before the machine stands still: the guest would see its line end
	return b.prepared.Keep(ctx, m)
}

func (b *Board) path(name string) string { return filepath.Join(b.dir, name) }

// Boot starts the board. One that comes from a snapshot and does not answer is started again, which its console shows: emulated serial
// ports do not always come out of a snapshot alive. Its disk has not been touched then.
func (b *Board) Boot(ctx context.Context) (err error) {
	if b.logs {
		if err := copyFile(b.path("before"), b.path("disk")); err != nil {
			return err
		}
	}
	for range 3 {
		patience := bootTime
		if b.prepared.Snapshot != "" {
			patience = wakeTime
		}
		if err = b.start(ctx, patience); err == nil || b.prepared.Snapshot == "" || ctx.Err() != nil {
			return err
		}
		fmt.Fprintln(&b.out, "hil: started again:", err)
		if b.machine != nil {
			b.Cut()
		}
	}
	return err
}

// wakeTime is how long a board from a snapshot may take to answer.
const wakeTime = 20 * time.Second

func (b *Board) start(ctx context.Context, patience time.Duration) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("after %v", patience))
	defer cancel()
	log := ""
	if b.logs {
		log = b.path("log")
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			return err
		}
	}
	if b.machine, err = b.prepared.Start(ctx, b.dir, b.path("disk"), log, &b.out); err != nil {
		return fmt.Errorf("%w: %s", err, emulator.LastLine(b.out.String()))
	}
	if w := b.prepared.Board.World; w != nil {
		if err := b.machine.Watch(w.LED.Device); err != nil {
			return err
		}
	}
	b.boots++
	b.connect(b.machine.Line(), agent.Options{
		Session: uint64(os.Getpid())<<32 | b.boots, Pad: bytes.Repeat([]byte("\n"), b.prepared.Board.Pad), Noise: b.out.line,
	})
	if err := b.answers(ctx); err != nil {
		return fmt.Errorf("target: the board does not answer: %w: %s", err, emulator.LastLine(b.out.String()))
	}
	return nil
}

// Cut kills the emulator.
func (b *Board) Cut() error {
	if b.machine == nil {
		return errOff
	}
	b.machine.Kill()
	b.machine = nil
	b.disconnect()
	return nil
}

// Erase puts an empty disk in.
func (b *Board) Erase() error { return copyFile(b.path("disk"), b.path("empty")) }

// Can tells what the board has.
func (b *Board) Can(c Capability) error {
	switch {
	case c == Sensors && b.prepared.Board.World == nil:
		return errors.New("this board has no sensors and no lines")
	case (c == PowerCut || c == Memory) && b.prepared.Board.Restarts:
		return errors.New("it starts anew each time, which takes too long for losses of power")
	case c == CutLog && !b.logs:
		return errors.New("Linux never tells this disk to make things durable: there is no cache that could be lost")
	}
	return nil
}

// World is what the emulator shows the board.
func (b *Board) World() World {
	if b.prepared.Board.World == nil {
		return nil
	}
	return world{b}
}

type world struct{ *Board }

func (w world) SetTemperature(celsius float64) error {
	if w.machine == nil {
		return errOff
	}
	return w.machine.SetProperty(w.prepared.Board.World.Temperature, "temperature", int(math.Round(celsius*1000)))
}

func (w world) SetLine(name string, high bool) error {
	if w.machine == nil {
		return errOff
	}
	pin, ok := map[string]emulator.Pin{"wake": w.prepared.Board.World.Wake, "sleep": w.prepared.Board.World.Sleep}[name]
	if !ok {
		return fmt.Errorf("target: no line %q", name)
	}
	return pin.Set(w.machine, high)
}

func (w world) LED() (bool, int) {
	if w.machine == nil {
		return false, 0
	}
	return w.machine.Level(w.prepared.Board.World.LED.Line)
}

// Mount mounts the disk.
func (b *Board) Mount(ctx context.Context, readOnly, again bool) error {
	return b.Call(ctx, message.Mount, message.Disk{Device: b.prepared.Board.Disk.Device, Folder: "data", ReadOnly: readOnly, Again: again}, nil)
}

// Forget puts the disk in the state of the last flush.
func (b *Board) Forget() (lost, writes int, err error) {
	if b.machine != nil {
		return 0, 0, errors.New("target: the board is on")
	}
	if err := b.Can(CutLog); err != nil {
		return 0, 0, err
	}
	log, err := os.Open(b.path("log"))
	if err != nil {
		return 0, 0, err
	}
	defer log.Close()
	if err := copyFile(b.path("disk"), b.path("before")); err != nil {
		return 0, 0, err
	}
	disk, err := os.OpenFile(b.path("disk"), os.O_RDWR, 0)
	if err != nil {
		return 0, 0, err
	}
	defer disk.Close()
	return emulator.Replay(log, disk)
}

// Console is what the board printed.
func (b *Board) Console() string { return b.out.String() }

// Profile is the board's.
func (b *Board) Profile() string {
	if w := b.prepared.Board.World; w != nil {
		return w.Profile
	}
	return "generic-linux"
}

// Thermometer is the driver that the thermometer depends on.
func (b *Board) Thermometer() *emulator.Driver {
	if w := b.prepared.Board.World; w != nil {
		return w.Driver
	}
	return nil
}

// Silence has transfers on the thermometer's bus come to no end, or go on again.
func (b *Board) Silence(on bool) error {
	w := b.prepared.Board.World
	if w == nil || w.Bus == nil {
		return errors.New("target: this board's thermometer cannot be silenced")
	}
	if b.machine == nil {
		return errOff
	}
	return w.Bus.Set(b.machine, !on)
}

// Arch is that of its programs.
func (b *Board) Arch() string { return b.prepared.Board.Arch }

// Model is what the board's device tree says that it is.
func (b *Board) Model() string { return b.prepared.Board.Model }

// Close switches the board off and removes its disk.
func (b *Board) Close() error {
	if b.machine != nil {
		b.Cut()
	}
	return os.RemoveAll(b.dir)
}

func copyFile(to, from string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o600)
}
