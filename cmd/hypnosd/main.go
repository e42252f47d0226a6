// Command hypnosd serves a network on a board: it classifies, goes on learning from labelled feedback, sleeps when it should, and
// keeps what it learned.
//
//	hypnosd -c board.toml          serve
//	hypnosd check -c board.toml    look at configuration, wiring, keys and models, and say what is absent
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	_ "time/tzdata" // zones of night windows, on boards without them

	"hypnos/server/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the program at once
	}()
	os.Exit(daemon.Run(ctx, os.Args[1:], os.Stdout, os.Stderr, nil))
}
