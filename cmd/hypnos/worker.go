package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"hypnos/backends"
	"hypnos/bench/farm"
)

func workerCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "worker", "--queue URL [--token-file FILE] [flags]", `
Trains runs of a table that hypnos table --listen or --queue hands out, until the table is done. Ctrl-C hands over what was done of a run;
a worker that dies costs what it did since the last copy. The program must be of the same version as the table's, and the processor must
compute the same bits; otherwise it says so and ends. Images that are not there are fetched into the worker's folder. docs/TABLES.md has
more.

Examples:
  hypnos worker --queue nats://workstation:4222 --token-file queue.token
  hypnos worker --queue tls://nats.example.org --token-file queue.token --queue-name imagenet --dir /tmp/worker`)
	queue := queueFlags(f)
	dir := f.String("dir", filepath.Join("runs", "worker"), "`folder` of this worker: the run that it has, images")
	name := f.String("name", "", "`name` of this worker in messages (default: the machine's, with the process)")
	child := f.Bool("child", false, "of a table's own worker: on its machine, and until standard input ends")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *queue.url == "" {
		return usageError{errors.New("which queue? --queue URL")}
	}
	if *name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "worker"
		}
		*name = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	log := func(line string) { fmt.Fprintln(c.Err, line) }
	if *child {
		log = func(string) {} // the coordinator tells
		var stop context.CancelFunc
		ctx, stop = context.WithCancel(ctx)
		defer stop()
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			stop()
		}()
	}
	program, err := identity()
	if err != nil {
		return err
	}
	o, err := queue.options(*name, log)
	if err != nil {
		return err
	}
	q, err := farm.Connect(o)
	if err != nil {
		return err
	}
	defer q.Close()
	w := farm.Worker{Queue: q, Program: program, Machine: processor(), Name: *name, Dir: *dir, Local: *child, Log: log}
	return w.Work(ctx)
}

// queueSettings are the flags that say where a queue is.
type queueSettings struct{ url, tokenFile, name *string }

func queueFlags(f flags) queueSettings {
	return queueSettings{
		f.String("queue", "", "`URL` of a NATS server with JetStream: nats://host:4222, tls://host; several with commas"),
		f.String("token-file", "", "`file` with the server's token; without one, the environment's "+tokenVariable),
		f.String("queue-name", farm.DefaultName, "`name` of the queue on the server, one a table"),
	}
}

// tokenVariable is an environment variable: command lines can be read by everybody on a machine.
const tokenVariable = "HYPNOS_QUEUE_TOKEN"

// options of a connection for somebody.
func (s queueSettings) options(as string, log func(string)) (farm.Options, error) {
	o := farm.Options{URL: *s.url, Name: *s.name, Token: os.Getenv(tokenVariable), As: "hypnos " + as, Log: log}
	if *s.tokenFile != "" {
		text, err := os.ReadFile(*s.tokenFile)
		if err != nil {
			return o, fmt.Errorf("--token-file: %w", err)
		}
		if o.Token = strings.TrimSpace(string(text)); o.Token == "" {
			return o, fmt.Errorf("--token-file %s: it is empty", *s.tokenFile)
		}
	}
	return o, nil
}

// executable is a path of this program, also when the file was replaced meanwhile.
func executable() (string, error) {
	if runtime.GOOS == "linux" {
		const self = "/proc/self/exe"
		if _, err := os.Stat(self); err == nil {
			return self, nil
		}
	}
	return os.Executable()
}

// identity tells programs apart that may compute other numbers: the version and Go's, and where the version does not say what was built,
// a hash of the program.
func identity() (string, error) {
	v := version()
	if strings.HasSuffix(v, "+") || !isCommit(v) {
		path, err := executable()
		if err != nil {
			return "", err
		}
		file, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer file.Close()
		h := sha256.New()
		if _, err := io.Copy(h, file); err != nil {
			return "", err
		}
		v += fmt.Sprintf(" build %x", h.Sum(nil)[:6])
	}
	return "hypnos " + v + " " + runtime.Version(), nil
}

// isCommit tells whether a version is the beginning of a commit's hash.
func isCommit(v string) bool { return len(v) == 12 && strings.Trim(v, "0123456789abcdef") == "" }

// processor is the name of this machine's.
func processor() string { return orUnknown(lineOf("/proc/cpuinfo", "model name")) }

// machine says what results are computed on with a backend.
func machine(backend string) string {
	_, arithmetic, err := backends.Pin(backend)
	if err != nil {
		return processor() // whoever opens the backend tells why it cannot be
	}
	return fmt.Sprintf("%s (%s)", processor(), arithmetic)
}
