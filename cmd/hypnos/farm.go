package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"hypnos/bench/experiment"
	"hypnos/bench/farm"
	"hypnos/bench/table"
)

// farmSettings are the flags of table that say who trains.
type farmSettings struct {
	queueSettings
	workers *int
	listen  *string
	upload  *time.Duration
}

func farmFlags(f flags) farmSettings {
	return farmSettings{
		queueFlags(f),
		f.Int("workers", 0, "processes of this machine that train runs, each on its part of the cores (default: this process, one run after the other)"),
		f.String("listen", "", "`ADDRESS` HOST:PORT at which workers of other machines join; 0.0.0.0:4222 for all that reach this one"),
		f.Duration("upload-every", 30*time.Second, "time between copies of a run that another worker could go on from"),
	}
}

// wanted tells whether anybody but this process trains.
func (s farmSettings) wanted() bool { return *s.workers > 0 || *s.listen != "" || *s.url != "" }

func (s farmSettings) check() error {
	switch {
	case *s.workers < 0:
		return usageError{fmt.Errorf("--workers %d is below 0", *s.workers)}
	case *s.upload < 0:
		return usageError{fmt.Errorf("--upload-every %v is below 0", *s.upload)}
	case *s.listen != "" && *s.url != "":
		return usageError{errors.New("--listen is of the server in this process, --queue of another: give one")}
	case *s.url == "" && *s.name != farm.DefaultName:
		return usageError{errors.New("--queue-name is for a server with several queues: give --queue")}
	case *s.listen == "" && *s.url == "" && *s.tokenFile != "":
		return usageError{errors.New("--token-file is for workers of other machines: give --listen or --queue")}
	}
	return nil
}

// farm has workers train the cells. What it starts it ends in this order: the workers, which hand over what they have; the coordinator,
// which installs it; the server.
func (c console) farm(ctx context.Context, o table.Options, s farmSettings) (result *table.Table, err error) {
	program, err := identity()
	if err != nil {
		return nil, err
	}
	if o.Base.Data.Cache != "" { // which two workers cannot make at a time
		fmt.Fprintf(c.Err, "decoding %s\n", o.Base.Data.Path)
		if _, err := experiment.OpenData(o.Base.Data, o.Seeds[0]); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(storeOf(o.Dir)) // all of it is in the runs' folders
		}
	}()
	view := newFleet(c.Err, o.Runs())
	defer view.Close()
	connection, err := s.options("table", func(line string) { view.line("%s", line) })
	if err != nil {
		return nil, err
	}
	if *s.url == "" {
		server, err := s.serve(o.Dir, view)
		if err != nil {
			return nil, err
		}
		defer func() {
			if result == nil {
				server.Close(0)
			} else {
				server.Close(leaveTime)
			}
		}()
		connection.URL, connection.Token = server.URL, server.Token
	}
	q, err := farm.Connect(connection)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	coordinator, err := farm.NewCoordinator(ctx, q, farm.CoordinatorOptions{
		Program: program, Backend: o.Base.Backend, Table: fmt.Sprintf("table %d in %s", o.Number, o.Dir), Dir: storeOf(o.Dir),
		Share: *s.listen != "" || *s.url != "", Own: *s.url == "", UploadEvery: *s.upload, Observe: view.observe,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, coordinator.Close()) }()
	if *s.workers > 0 {
		crew, err := s.crew(o.Dir, connection, coordinator.Fail, view)
		if err != nil {
			return nil, err
		}
		defer crew.Stop(time.Minute)
	}
	o.Dispatch = coordinator.Train
	o.Done = func(label string, r table.Result) { view.result(resultLine(label, r)) }
	return table.Run(ctx, o, program)
}

// leaveTime is how long a server waits for workers to see that the table is done.
const leaveTime = 3 * time.Second

// storeOf is where a table keeps its queue, its workers, and what is on its way.
func storeOf(dir string) string { return filepath.Join(dir, "queue") }

// serve starts a server of this table, and says how workers of other machines join if they can.
func (s farmSettings) serve(dir string, view *fleet) (*farm.Server, error) {
	if *s.listen == "" {
		return farm.Serve(storeOf(dir), "", farm.NewToken())
	}
	file := *s.tokenFile
	if file == "" {
		file = filepath.Join(dir, "queue.token")
	}
	token, err := keptToken(file)
	if err != nil {
		return nil, err
	}
	server, err := farm.Serve(storeOf(dir), *s.listen, token)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "nats://"))
	if err != nil {
		return nil, err
	}
	if asked, _, _ := net.SplitHostPort(*s.listen); asked == "" || net.ParseIP(asked).IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			host = "HOST"
		}
	}
	view.line("workers join with: hypnos worker --queue nats://%s --token-file %s", net.JoinHostPort(host, port), file)
	return server, nil
}

// keptToken reads a token, or makes one and keeps it, so that workers find their table again after it was stopped.
func keptToken(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil {
		if token := strings.TrimSpace(string(text)); token != "" {
			return token, nil
		}
		return "", fmt.Errorf("token file %s: it is empty", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	token := farm.NewToken()
	return token, os.WriteFile(path, []byte(token+"\n"), 0o600)
}

// crew starts the workers of this machine, each with its part of the cores.
func (s farmSettings) crew(dir string, to farm.Options, fail func(error), view *fleet) (*farm.Crew, error) {
	program, err := executable()
	if err != nil {
		return nil, err
	}
	threads := max(1, runtime.GOMAXPROCS(0) / *s.workers)
	start := func(i int) *exec.Cmd {
		name := strconv.Itoa(i + 1)
		cmd := exec.Command(program, "worker", "--child", "--name", name, "--dir", filepath.Join(storeOf(dir), "worker-"+name), "--queue", to.URL, "--queue-name", *s.name)
		cmd.Env = append(os.Environ(), tokenVariable+"="+to.Token, "GOMAXPROCS="+strconv.Itoa(threads))
		return cmd
	}
	return farm.StartCrew(*s.workers, start, func(i int, line string) { view.line("worker %d: %s", i+1, line) }, fail), nil
}
