package target

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"hypnos/hil/emulator"
)

// SSH reaches a board by the system's ssh, which has the user's keys, known hosts and jump hosts.
type SSH struct {
	Host    string   // as ssh takes it
	Options []string // of ssh
	Home    string   // a folder of the board, of the rig's own, which is made
	Arch    string   // that the board must have, as Go names it
	Guest   string   // the guest's path here
}

// Check returns an error when the description cannot be meant.
func (s SSH) Check() error {
	if strings.HasPrefix(s.Host, "-") {
		return fmt.Errorf("host: %q is an option, not a host", s.Host)
	}
	if !regexp.MustCompile(`^(/[A-Za-z0-9._-]+){2,}$`).MatchString(s.Home) || path.Clean(s.Home) != s.Home {
		return fmt.Errorf("home: %q must be a whole path, two folders deep or more, of letters, digits and ._-", s.Home)
	}
	return nil
}

// command runs a shell's line on the board. ssh asks nothing: there is nobody to answer.
func (s SSH) command(ctx context.Context, line string) *exec.Cmd {
	args := append([]string{"-T"}, s.Options...)
	for _, o := range []string{"BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3"} {
		args = append(args, "-o", o)
	}
	return exec.CommandContext(ctx, "ssh", append(args, s.Host, line)...)
}

// Dial puts the guest on the board, unless it is there, and runs it.
func (s SSH) Dial(ctx context.Context, console io.Writer) (io.ReadWriteCloser, error) {
	if err := s.install(ctx); err != nil {
		return nil, err
	}
	c := s.command(context.WithoutCancel(ctx), fmt.Sprintf("exec %s/guest serve -depot %s", s.Home, s.Home))
	c.Stderr, c.SysProcAttr = console, ownGroup()
	in, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return &remote{pipes{out, in}, c}, nil
}

// remote is a program that runs on a board.
type remote struct {
	pipes
	ssh *exec.Cmd
}

// Close ends ssh. The server closes the program's standard input then, by which it ends.
func (r *remote) Close() error {
	killGroup(r.ssh)
	err := r.pipes.Close()
	r.ssh.Wait()
	return err
}

// install makes the guest the board's, in one piece.
func (s SSH) install(ctx context.Context) error {
	text, err := os.ReadFile(s.Guest)
	if err != nil {
		return err
	}
	has, err := s.run(ctx, fmt.Sprintf("uname -m && mkdir -p %s && cd %s && if [ -e guest ]; then sha256sum guest; fi", s.Home, s.Home), "")
	if err != nil {
		return err
	}
	machine, has, _ := strings.Cut(has, "\n")
	if !slices.Contains(machines(s.Arch), machine) {
		return fmt.Errorf("its processor is %s, want %s: is this the board that is meant?", machine, s.Arch)
	}
	if strings.HasPrefix(has, fmt.Sprintf("%x ", sha256.Sum256(text))) {
		return nil
	}
	_, err = s.run(ctx, fmt.Sprintf("cd %s && cat >guest.new && chmod 700 guest.new && mv guest.new guest", s.Home), string(text))
	return err
}

// machines are Linux's names of processors that run programs of an architecture.
func machines(arch string) []string {
	return map[string][]string{"arm64": {"aarch64"}, "arm": {"armv7l", "armv8l", "aarch64"}, "amd64": {"x86_64"}}[arch]
}

// run runs a shell's line on the board to its end.
func (s SSH) run(ctx context.Context, line, in string) (string, error) {
	c := s.command(ctx, line)
	c.WaitDelay = time.Second
	var errs strings.Builder
	c.Stdin, c.Stderr = strings.NewReader(in), &errs
	out, err := c.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("no ssh here: install OpenSSH's client")
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("ssh %s: %w: %s", s.Host, err, emulator.LastLine(errs.String()))
	}
	return string(out), nil
}
