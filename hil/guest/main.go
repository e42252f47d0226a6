// Command guest is the device's side of a hardware-in-the-loop test. It carries out what the host asks for by the protocol of package
// agent: computes, runs the daemon, passes requests on to it, and breaks things.
//
//	guest serve -home DIR              on standard input and output
//	guest serve -depot DIR             the same on a board that keeps its files, which the host sends
//	guest serve -depot DIR -tty DEVICE -baud N   on a serial line, until it is ended
//	guest daemon -drop NAMES -c FILE   the daemon on a disk that does not sync files of some names
//
// As process 1 of an emulated board it first makes a system of the machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata"

	"hypnos/hil/agent"
	"hypnos/server/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if os.Getpid() == 1 {
		boot(ctx)
		return
	}
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: guest serve|daemon …")
	}
	f := flag.NewFlagSet("guest "+args[0], flag.ContinueOnError)
	switch args[0] {
	case "serve":
		home := f.String("home", "", "folder of programs and packages, in which data is kept")
		keep := f.String("depot", "", "folder in which a host puts programs and packages, in place of a home")
		tty := f.String("tty", "", "serial line in place of standard input and output")
		baud := f.Int("baud", 115200, "of the serial line")
		run := f.String("run", "", "emulator by which programs are run, with its arguments")
		if err := f.Parse(args[1:]); err != nil {
			return err
		}
		handlers := map[string]agent.Handler{}
		if *keep != "" {
			s, err := openDepot(ctx, *keep)
			if err != nil {
				return err
			}
			defer s.close()
			handlers = s.handlers()
		} else {
			g, err := newGuest(*home, *run)
			if err != nil {
				return err
			}
			defer g.close()
			handlers = g.handlers()
		}
		if *tty == "" {
			return agent.Serve(ctx, standard{os.Stdin, os.Stdout}, handlers, nil)
		}
		line, err := openTTY(*tty, *baud)
		if err != nil {
			return err
		}
		defer context.AfterFunc(ctx, func() { line.Close() })()
		return agent.Serve(ctx, line, handlers, nil)
	case "daemon":
		drop := f.String("drop", "", "ends of the names of files that are not synced")
		path := f.String("c", "", "configuration")
		if err := f.Parse(args[1:]); err != nil {
			return err
		}
		if code := daemon.Run(ctx, []string{"-c", *path}, os.Stdout, os.Stderr, forgetful(*drop)); code != 0 {
			os.Exit(code)
		}
		return nil
	}
	return fmt.Errorf("unknown command %q", args[0])
}

type standard struct {
	io.Reader
	io.Writer
}
