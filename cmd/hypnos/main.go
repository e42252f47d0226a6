// Command hypnos trains networks that do not share weights, lets them sleep, and measures what sleep does.
//
//	hypnos demo        the paper's effect on an embedded sample
//	hypnos train       train a network as a TOML file says
//	hypnos eval        test a checkpoint
//	hypnos sleep       let a checkpoint's network sleep
//	hypnos package     make integers of a checkpoint, for the edge
//	hypnos keygen      make keys that packages are signed with
//	hypnos represent   compare what networks make of images
//	hypnos export      write a network for other programs
//	hypnos deploy      bring an edge package to a board
//	hypnos pull        bring what a board has learned back
//	hypnos hil         prove it on boards, emulated or real
//	hypnos table       repeat a table of the paper
//	hypnos worker      train runs of a table that another process has
//	hypnos simulate    the simulations of the paper's Fig. 4
//	hypnos summary     sizes of a network
//	hypnos bench       speed against limits and other programs; backends against each other
//	hypnos doctor      what this machine and build can do
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"hypnos/core/train"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	os.Exit(run(ctx, os.Args[1:], console{os.Stdout, os.Stderr}))
}

// console is where a command writes: results to Out, progress and errors to Err.
type console struct{ Out, Err io.Writer }

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130 // as a shell reports SIGINT
)

// command is one subcommand.
type command struct {
	name, summary string
	run           func(ctx context.Context, c console, args []string) error
}

func commands() []command {
	return []command{
		{"demo", "the paper's effect on the embedded sample: a table and a figure", demo},
		{"train", "train a network as a TOML file says; resumes", trainCommand},
		{"eval", "test a checkpoint", eval},
		{"sleep", "let a checkpoint's network sleep, and measure it", sleepCommand},
		{"package", "make an edge package of a checkpoint: integers, in one file", packageCommand},
		{"keygen", "make keys that packages are signed with", keygenCommand},
		{"plan", "what an edge package takes on a board, before it is there", planCommand},
		{"represent", "what networks make of images, compared layer by layer; shifts", representCommand},
		{"export", "write a network for other programs: ONNX, PyTorch, activations", exportCommand},
		{"deploy", "bring an edge package to a board, and follow its trial", deployCommand},
		{"pull", "bring what a board has learned back, as an edge package", pullCommand},
		{"hil", "hardware in the loop: scenarios on emulated and real boards", hilCommand},
		{"table", "repeat a table of the paper: cells, seeds, the paper's values beside", tableCommand},
		{"worker", "train runs of a table that another process hands out", workerCommand},
		{"simulate", "the simulations of the paper's Fig. 4", simulate},
		{"summary", "sizes of a built-in network or of a checkpoint", summary},
		{"bench", "speed against limits and other programs; backends against each other", bench},
		{"doctor", "what this machine and build can do", doctor},
	}
}

// run finds and runs a command and returns the exit code.
func run(ctx context.Context, args []string, c console) int {
	if len(args) == 0 {
		usage(c.Err)
		return exitUsage
	}
	name := args[0]
	switch name {
	case "help", "-h", "-help", "--help":
		usage(c.Out)
		return exitOK
	}
	for _, cmd := range commands() {
		if cmd.name == name {
			return report(c, name, cmd.run(ctx, c, args[1:]))
		}
	}
	fmt.Fprintf(c.Err, "hypnos: unknown command %q (see hypnos help)\n", name)
	return exitUsage
}

// report prints an error as one line and chooses the exit code.
func report(c console, name string, err error) int {
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(c.Err, "hypnos %s: %s (see hypnos %s --help)\n", name, oneLine(err), name)
		return exitUsage
	case errors.Is(err, train.ErrInterrupted), errors.Is(err, context.Canceled):
		fmt.Fprintf(c.Err, "hypnos %s: %s\n", name, oneLine(err))
		return exitInterrupted
	}
	fmt.Fprintf(c.Err, "hypnos %s: %s\n", name, oneLine(err))
	return exitFailed
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func usage(w io.Writer) {
	fmt.Fprint(w, "hypnos trains networks that do not share weights and lets them sleep.\n\nUsage: hypnos COMMAND [flags]\n\nCommands:\n")
	for _, cmd := range commands() {
		fmt.Fprintf(w, "  %-9s %s\n", cmd.name, cmd.summary)
	}
	fmt.Fprint(w, "\nhypnos COMMAND --help shows the flags of a command, with examples.\n")
}

// errUsage is wrapped by errors in the arguments.
var errUsage = errors.New("usage")

type usageError struct{ error }

func (usageError) Is(target error) bool { return target == errUsage }

// flags are a command's flags and its help.
type flags struct {
	*flag.FlagSet
	help func()
}

// newFlags makes the flags of a command. usage is what follows its name; text says what it does, with examples.
func newFlags(c console, name, usage, text string) flags {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard) // report prints errors
	f.Usage = func() {}     // which the flag package calls after an error, too
	help := func() {
		fmt.Fprintf(c.Out, "Usage: hypnos %s %s\n\n%s\n\nFlags:\n", name, usage, strings.TrimSpace(text))
		f.SetOutput(c.Out)
		f.PrintDefaults()
		f.SetOutput(io.Discard)
	}
	return flags{f, help}
}

// parse reads flags and positional arguments in any order; want is the number of positional arguments, for which names
// are used in messages.
func (f flags) parse(args []string, names ...string) ([]string, error) {
	var positional []string
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				f.help()
				return nil, err
			}
			return nil, usageError{err}
		}
		if f.NArg() == 0 {
			break
		}
		positional = append(positional, f.Arg(0))
		args = f.Args()[1:]
	}
	if len(positional) > len(names) {
		return nil, usageError{fmt.Errorf("unexpected argument %q", positional[len(names)])}
	}
	if len(positional) < len(names) {
		return nil, usageError{fmt.Errorf("missing argument %s", names[len(positional)])}
	}
	return positional, nil
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }
