package target

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"hypnos/hil/agent"
	"hypnos/hil/emulator"
	"hypnos/hil/message"
)

// RealOptions describe a board that is not emulated.
type RealOptions struct {
	// Dial connects to the guest, which runs, or is started. What is said of that is for the console.
	Dial func(ctx context.Context, console io.Writer) (io.ReadWriteCloser, error)
	// Stays is that the guest goes on when the connection is closed.
	Stays bool
	// Model is what the board's device tree says that it is, or begins with; "" takes any board.
	Model   string
	Profile string
	// Startup bounds how long the board takes to answer after its power came; 0 is two minutes.
	Startup time.Duration
	Power   *Switch // nil: power stays on, a cut ends the programs
	Around  *Around // nil: nothing of its sensors and lines can be set
	Storage string  // a device with an ext4 file system of the rig's own, whose content is lost; "" has none
	Clock   bool    // the wall clock may be set
	// Console opens what the board prints, apart from the line; it may be nil.
	Console func() (io.ReadCloser, error)
}

// Switch is how power is taken away and given back: programs of the rig's.
type Switch struct {
	Off []string `toml:"off"`
	On  []string `toml:"on"`
}

// Real is a board that is not emulated.
type Real struct {
	connection
	RealOptions
	files map[string]string // name → path here
	out   console
	watch *watcher
	log   io.Closer // the console, when it is open

	complete bool // the board has the files
	erase    bool // its home is to be made anew, when it answers
	empty    bool // its storage is to be emptied, when it is mounted
}

// NewReal is a board with files (name → path here; guest and hypnosd among them), which it is given when it answers first.
func NewReal(o RealOptions, files map[string]string) (*Real, error) {
	if o.Startup == 0 {
		o.Startup = bootTime
	}
	b := &Real{RealOptions: o, files: files}
	if o.Console != nil {
		in, err := o.Console()
		if err != nil {
			return nil, fmt.Errorf("target: console: %w", err)
		}
		b.log = in
		go io.Copy(&b.out, in) // until it is closed
	}
	return b, nil
}

// Boot gives the board power, if there is a switch, and waits until it answers. One without a switch must answer at once.
func (b *Real) Boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.Startup, fmt.Errorf("after %v", b.Startup))
	defer cancel()
	if b.Power != nil {
		if _, err := runProgram(ctx, b.Power.On, ""); err != nil {
			return fmt.Errorf("target: power: %w", err)
		}
	}
	for {
		err := b.reach(ctx)
		if err == nil {
			break
		}
		b.disconnect()
		if last := emulator.LastLine(b.out.String()); last != "" {
			err = fmt.Errorf("%w: %s", err, last)
		}
		err = fmt.Errorf("target: the board does not answer: %w", err)
		if b.Power == nil {
			return err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return err
		}
	}
	if err := b.give(ctx); err != nil {
		return fmt.Errorf("target: files: %w", err)
	}
	if b.erase {
		if err := b.Call(ctx, message.Fresh, nil, nil); err != nil {
			return err
		}
		b.erase = false
	}
	if b.Around != nil {
		b.watch = watch(b.Around.LED, &b.out)
	}
	return nil
}

// reach connects, and asks for an echo.
func (b *Real) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reachTime, fmt.Errorf("for %v", reachTime))
	defer cancel()
	conn, err := b.Dial(ctx, &b.out)
	if err != nil {
		return err
	}
	b.connect(conn, agent.Options{Session: rand.Uint64(), Noise: b.out.line})
	return b.answers(ctx)
}

// reachTime bounds one try to reach a board.
const reachTime = 20 * time.Second

// give gives the board the files that it does not have. A guest of another version is replaced by its own.
func (b *Real) give(ctx context.Context) error {
	if b.complete {
		return nil
	}
	var have message.Digests
	if err := b.Call(ctx, message.Have, nil, &have); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		text, err := os.ReadFile(b.files[name])
		if err != nil {
			return err
		}
		digest := fmt.Sprintf("%x", sha256.Sum256(text))
		if name == message.Guest && have.Program == digest || have.Files[name] == digest {
			continue
		}
		for at := 0; at == 0 || at < len(text); at += part {
			if err := b.Call(ctx, message.Put, message.File{Path: name, Offset: int64(at), Data: text[at:min(at+part, len(text))]}, nil); err != nil {
				return err
			}
		}
	}
	b.complete = true
	return b.renew(ctx, have.Program)
}

// part is how many bytes of a file are sent at a time.
const part = 128 << 10

// renew has a guest of another version become the one that was sent.
func (b *Real) renew(ctx context.Context, has string) error {
	text, err := os.ReadFile(b.files[message.Guest])
	if err != nil {
		return err
	}
	want := fmt.Sprintf("%x", sha256.Sum256(text))
	if has == want {
		return nil
	}
	if err := b.Call(ctx, message.Renew, nil, nil); err != nil {
		return err
	}
	for {
		var have message.Digests
		if err := b.Call(ctx, message.Have, nil, &have); err != nil {
			return fmt.Errorf("after the guest was replaced: %w", err)
		}
		if have.Program == want {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the guest stays another version: %w", context.Cause(ctx))
		}
	}
}

// Cut takes the power away; without a switch it ends the programs, as they are.
func (b *Real) Cut() error {
	if b.client.Load() == nil {
		return errOff
	}
	b.watch.stop()
	b.watch = nil
	defer b.disconnect()
	switch {
	case b.Power != nil:
		if _, err := runProgram(context.Background(), b.Power.Off, ""); err != nil {
			return fmt.Errorf("target: power: %w", err)
		}
	case b.Stays:
		ctx, cancel := context.WithTimeout(context.Background(), reachTime)
		defer cancel()
		var none *agent.RemoteError // no daemon runs
		if err := b.Call(ctx, message.Stop, true, nil); err != nil && !errors.As(err, &none) {
			return err
		}
	}
	return nil
}

// Erase has the board's home, and its storage, made anew when it answers next.
func (b *Real) Erase() error {
	b.erase, b.empty = true, b.Storage != ""
	return nil
}

// Can tells what the rig says of the board.
func (b *Real) Can(c Capability) error {
	switch {
	case c == Sensors && b.Around == nil:
		return errors.New("the rig does not say what sets its sensors and lines (around)")
	case c == Memory && b.Power == nil:
		return errors.New("the rig has no switch for its power")
	case c == CutLog:
		return errors.New("what a real disk has kept back cannot be taken from it")
	case c == Disk && b.Storage == "":
		return errors.New("the rig names no storage that may be filled and damaged")
	case c == Clock && !b.Clock:
		return errors.New("the rig does not let its clock be set (set_clock)")
	}
	return nil
}

// World is set by programs of the rig's.
func (b *Real) World() World {
	if b.Around == nil {
		return nil
	}
	return around{b}
}

// Mount mounts its storage, if it has one.
func (b *Real) Mount(ctx context.Context, readOnly, again bool) error {
	if b.Storage == "" {
		return nil
	}
	err := b.Call(ctx, message.Mount, message.Disk{Device: b.Storage, Folder: "data", ReadOnly: readOnly, Again: again, Empty: b.empty}, nil)
	if err == nil {
		b.empty = false
	}
	return err
}

// Forget cannot be done.
func (b *Real) Forget() (lost, writes int, err error) { return 0, 0, b.Can(CutLog) }

// Console is what it printed.
func (b *Real) Console() string { return b.out.String() }

// Profile is what the rig says.
func (b *Real) Profile() string { return b.RealOptions.Profile }

// Model is what the rig says.
func (b *Real) Model() string { return b.RealOptions.Model }

// Close leaves it, without power if there is a switch.
func (b *Real) Close() error {
	if b.client.Load() != nil {
		b.Cut()
	}
	if b.log != nil {
		return b.log.Close()
	}
	return nil
}

// runProgram runs a program of the rig's, with {value} in its arguments replaced, and gives what it prints.
func runProgram(ctx context.Context, args []string, value string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, programTime)
	defer cancel()
	filled := make([]string, len(args))
	for i, a := range args {
		filled[i] = strings.ReplaceAll(a, "{value}", value)
	}
	c := exec.CommandContext(ctx, filled[0], filled[1:]...)
	c.WaitDelay = time.Second
	var errs strings.Builder
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(filled, " "), err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// programTime bounds how long a program of the rig's may take.
const programTime = 30 * time.Second
