// Package daemon is hypnosd, the edge daemon, as a function: arguments, configuration, and all parts joined.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strings"
	_ "time/tzdata" // zones of night windows, on boards without them

	"hypnos/board/device"
	"hypnos/server"
	"hypnos/server/brain"
	"hypnos/server/store"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

const help = `Usage: hypnosd -c FILE
       hypnosd check -c FILE

Serves a network on a board, as the configuration FILE says: docs/DAEMON.md lists its keys. Ends in order on SIGTERM, after the last
answers, with all that was learned in a snapshot; what was acknowledged outlives a loss of power at any moment.

check serves nothing: it reads configuration and keys, looks at every wired device once, and says what is absent. Its exit code is 1
when something is broken.

Examples:
  hypnosd -c configs/board-dev.toml
  hypnosd check -c /etc/hypnos/board.toml
`

// Run is the command with its arguments, until ctx ends. It returns the exit code. files, when it is not nil, stands in for a folder
// of the operating system: tests of what the daemon keeps have it fail.
func Run(ctx context.Context, args []string, out, errs io.Writer, files func(dir string) store.FS) int {
	check := len(args) > 0 && args[0] == "check"
	if check {
		args = args[1:]
	}
	f := flag.NewFlagSet("hypnosd", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	path := f.String("c", "", "configuration")
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(out, help)
		return exitOK
	case err == nil && f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	case err == nil && *path == "":
		err = errors.New("which configuration? -c FILE")
	}
	if err != nil {
		fmt.Fprintf(errs, "hypnosd: %v (see hypnosd --help)\n", err)
		return exitUsage
	}
	c, err := load(*path)
	if err == nil {
		if check {
			err = checkBoard(c, out)
		} else {
			err = serve(ctx, c, c.Log.logger(errs), files)
		}
	}
	if err != nil {
		fmt.Fprintf(errs, "hypnosd: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return exitFailed
	}
	return exitOK
}

// serve runs until ctx ends: the server first, so that the brain outlives the last request.
func serve(ctx context.Context, c *config, log *slog.Logger, files func(dir string) store.FS) error {
	devices, err := device.Open(c.profile.Wiring, device.Options{})
	if err != nil {
		return err
	}
	defer devices.Close()
	b, err := brain.New(c.Brain, c.Governor, brain.Board{Name: c.profile.Name, Wiring: c.profile.Wiring, Devices: devices, Files: files}, log)
	if err != nil {
		return err
	}
	s, err := server.New(b, c.Server, log)
	if err != nil {
		return err
	}
	alive, rest := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- b.Run(alive) }()
	err = s.ListenAndServe(ctx)
	log.Info("stopping")
	rest()
	err = errors.Join(err, <-ended)
	log.Info("stopped")
	return err
}

// checkBoard looks at everything once.
func checkBoard(c *config, out io.Writer) error {
	devices, err := device.Open(c.profile.Wiring, device.Options{})
	if err != nil {
		return err
	}
	defer devices.Close()
	fmt.Fprintf(out, "board: %s (%s)\n", c.profile.Title, c.profile.Name)
	var broken []string
	for _, f := range devices.Check() {
		fmt.Fprintln(out, f)
		if f.Broken() {
			broken = append(broken, f.Part)
		}
	}
	report, err := brain.Inspect(c.Brain)
	for _, line := range report {
		fmt.Fprintln(out, line)
	}
	if err == nil {
		err = c.Server.Ready()
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "serves on %s\n", c.Server.Listen)
	if len(broken) > 0 {
		return fmt.Errorf("broken: %s", strings.Join(broken, ", "))
	}
	return nil
}
