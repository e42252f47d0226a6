package target

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"hypnos/hil/agent"
)

// Process is the device's programs on this machine, or under an emulator of another processor.
type Process struct {
	connection
	// Run is the emulator with its arguments, or nothing.
	run  []string
	home string
	all  map[string]string
	out  console

	command *exec.Cmd
	boots   uint64
	ended   chan struct{}
}

// NewProcess is a target with files (name → path here; guest and hypnosd among them) in a folder of its own below dir.
func NewProcess(dir string, run []string, files map[string]string) (*Process, error) {
	home, err := os.MkdirTemp(dir, "process")
	if err != nil {
		return nil, err
	}
	p := &Process{run: run, home: home, all: files}
	return p, p.Erase()
}

// HasEmulator returns an error when a program that emulates a processor is not there.
func HasEmulator(program string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("no %s; make arm-tools installs it", program)
	}
	return nil
}

// Boot starts the guest.
func (p *Process) Boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	args := append(append([]string{}, p.run...), filepath.Join(p.home, "guest"), "serve", "-home", p.home)
	if len(p.run) > 0 {
		args = append(args, "-run", strings.Join(p.run, " "))
	}
	p.command = exec.Command(args[0], args[1:]...)
	p.command.Stderr = &p.out
	p.command.SysProcAttr = ownGroup()
	in, err := p.command.StdinPipe()
	if err != nil {
		return err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.command.Start(); err != nil {
		return fmt.Errorf("target: %w", err)
	}
	p.boots++
	p.connect(pipes{out, in}, agent.Options{Session: p.boots, Noise: p.out.line})
	return p.answers(ctx)
}

type pipes struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipes) Write(b []byte) (int, error) { return p.w.Write(b) }

func (p pipes) Close() error {
	p.w.Close()
	return p.ReadCloser.Close()
}

// Cut kills all its processes. What they had written to files is with the system, and is not lost.
func (p *Process) Cut() error {
	if p.command == nil {
		return errOff
	}
	killGroup(p.command)
	p.disconnect()
	p.command.Wait()
	p.command = nil
	return nil
}

// Erase empties its folder of all but the files.
func (p *Process) Erase() error {
	if err := os.RemoveAll(p.home); err != nil {
		return err
	}
	if err := os.MkdirAll(p.home, 0o755); err != nil {
		return err
	}
	for name, path := range p.all { // copies: scenarios damage them
		to := filepath.Join(p.home, name)
		if err := copyFile(to, path); err != nil {
			return err
		}
		if err := os.Chmod(to, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// Can tells that it has nothing of its own.
func (p *Process) Can(c Capability) error {
	if c == PowerCut {
		return nil
	}
	return fmt.Errorf("a process has no %s of its own", c)
}

// World is nil.
func (p *Process) World() World { return nil }

// Console is what its programs printed.
func (p *Process) Console() string { return p.out.String() }

// Profile is that of any Linux.
func (p *Process) Profile() string { return "generic-linux" }

// Close ends it and removes its folder.
func (p *Process) Close() error {
	if p.command != nil {
		p.Cut()
	}
	return os.RemoveAll(p.home)
}
