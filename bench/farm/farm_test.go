package farm_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"hypnos/bench/experiment"
	"hypnos/bench/farm"
	"hypnos/bench/table"
	"hypnos/core/data/datatest"
	"hypnos/core/train"
)

const program = "hypnos test"

// TestMain is the tests, or a worker process of one of them.
func TestMain(m *testing.M) {
	if os.Getenv("FARM_TEST_WORKER") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	log := func(line string) { fmt.Fprintln(os.Stderr, line) }
	q, err := farm.Connect(farm.Options{URL: os.Getenv("FARM_TEST_URL"), Token: os.Getenv("FARM_TEST_TOKEN"), Log: log})
	if err == nil {
		w := farm.Worker{Queue: q, Program: program, Name: os.Getenv("FARM_TEST_WORKER"), Dir: os.Getenv("FARM_TEST_DIR"), Log: log}
		err = w.Work(ctx)
		q.Close()
	}
	if err != nil {
		log(err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// small is a table of few steps on small images: two cells, two seeds.
func small(t *testing.T, dir string, epochs int) table.Options {
	t.Helper()
	o := table.Options{Number: 1, Dir: dir, Seeds: []uint64{1, 2}, Done: func(string, table.Result) {}}
	var err error
	if o.Base, _, err = table.Protocol(1, "sample"); err != nil {
		t.Fatal(err)
	}
	o.Base.Network.Width, o.Base.Network.Input = 4, 8
	o.Base.Data.Path = datatest.ClassFolders(t, 8, 32, 20)
	o.Base.Train.Batch, o.Base.Train.Epochs, o.Base.Train.Drops = 12, epochs, []int{epochs / 2}
	if o.Cells, err = table.Choose([]string{"conv", "lc-ws10"}); err != nil {
		t.Fatal(err)
	}
	return o
}

type quiet struct{}

func (quiet) Begin(int64, train.State) {}
func (quiet) Observe(any)              {}

// undisturbed trains a table in this process, run by run.
func undisturbed(t *testing.T, o table.Options) *table.Table {
	t.Helper()
	o.Dir, o.Dispatch = t.TempDir(), nil
	o.Observe = func(string) experiment.Observer { return quiet{} }
	r, err := table.Run(t.Context(), o, program)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// numbers is the JSON of a table as a value, without what must differ between two tables of the same numbers: times, and the machine.
func numbers(t *testing.T, r *table.Table) any {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	count := 0
	var strip func(v any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range []string{"seconds", "machine", "duration_ns", "took"} {
				delete(v, k)
			}
			for _, x := range v {
				strip(x)
			}
		case []any:
			for _, x := range v {
				strip(x)
			}
		case float64:
			count++
		}
	}
	strip(v)
	if count < 50 {
		t.Fatalf("a table of %d numbers", count)
	}
	return v
}

func same(t *testing.T, got, want *table.Table) {
	t.Helper()
	if g, w := numbers(t, got), numbers(t, want); !reflect.DeepEqual(g, w) {
		gt, _ := json.MarshalIndent(g, "", " ")
		wt, _ := json.MarshalIndent(w, "", " ")
		gl, wl := strings.Split(string(gt), "\n"), strings.Split(string(wt), "\n")
		for i := range min(len(gl), len(wl)) {
			if gl[i] != wl[i] {
				t.Errorf("numbers differ, first in line %d: %s, want %s", i, gl[i], wl[i])
				return
			}
		}
		t.Errorf("%d lines, want %d", len(gl), len(wl))
	}
}

// site is a table's queue on a server of its own.
type site struct {
	t      *testing.T
	dir    string // of the table
	server *farm.Server
	queue  *farm.Queue
	*farm.Coordinator
	mu   sync.Mutex
	news []farm.News
	heed func(farm.News) // called with each
}

// ackWait is how long the tests wait for a worker that is dead.
const ackWait = 1 * time.Second

func (s *site) log(line string) { s.t.Log("coordinator:", line) }

func (s *site) observe(n farm.News) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.news = append(s.news, n)
	if s.heed != nil {
		s.heed(n)
	}
}

func open(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{t: t, dir: dir}
	var err error
	if s.server, err = farm.Serve(filepath.Join(dir, "queue"), "", farm.NewToken()); err != nil {
		t.Fatal(err)
	}
	s.connect()
	t.Cleanup(func() {
		s.queue.Close()
		s.server.Close()
	})
	return s
}

func (s *site) options() farm.Options {
	return farm.Options{URL: s.server.URL, Token: s.server.Token, AckWait: ackWait, Log: s.log}
}

func (s *site) connect() {
	s.t.Helper()
	var err error
	if s.queue, err = farm.Connect(s.options()); err != nil {
		s.t.Fatal(err)
	}
	s.Coordinator, err = farm.NewCoordinator(s.t.Context(), s.queue, s.coordinator())
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) coordinator() farm.CoordinatorOptions {
	return farm.CoordinatorOptions{Program: program, Backend: "cpu", Table: "a table", Dir: s.dir, Own: true, MaxTries: 100, Observe: s.observe}
}

// worker is a worker in this process.
type worker struct {
	name string
	stop context.CancelFunc
	end  chan error
	log  func() string
}

func (s *site) worker(name string, change ...func(*farm.Worker)) *worker {
	s.t.Helper()
	var mu sync.Mutex
	var lines []string
	log := func(line string) {
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, line)
	}
	o := s.options()
	o.Log = log
	q, err := farm.Connect(o)
	if err != nil {
		s.t.Fatal(err)
	}
	w := &farm.Worker{Queue: q, Program: program, Name: name, Dir: s.t.TempDir(), Log: log}
	for _, c := range change {
		c(w)
	}
	ctx, stop := context.WithCancel(s.t.Context())
	r := &worker{name: name, stop: stop, end: make(chan error, 1), log: func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(lines, "\n")
	}}
	go func() {
		err := w.Work(ctx)
		q.Close()
		r.end <- err
	}()
	return r
}

func (s *site) run(o table.Options) (*table.Table, error) {
	o.Dispatch = s.Train
	return table.Run(s.t.Context(), o, program)
}

// process starts a worker process.
func (s *site) process(name, dir string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "FARM_TEST_WORKER="+name, "FARM_TEST_URL="+s.server.URL, "FARM_TEST_TOKEN="+s.server.Token, "FARM_TEST_DIR="+dir)
	return c
}

// TestFarm: two workers train a table with the numbers of one that is trained here, into the same layout; they go when it is done. The
// folder then needs no worker, and can be gone on with here.
func TestFarm(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := small(t, dir, 4)
	s := open(t, dir)
	a, b := s.worker("a"), s.worker("b")
	got, err := s.run(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, w := range []*worker{a, b} {
		if err := <-w.end; err != nil {
			t.Errorf("worker %s: %v", w.name, err)
		}
	}
	same(t, got, undisturbed(t, o))
	for _, file := range []string{"result.json", "checkpoint.safetensors", "metrics.jsonl", "config.toml", "data.json", "accuracy.svg"} {
		if _, err := os.Stat(filepath.Join(dir, "lc-ws10", "seed-2", file)); err != nil {
			t.Error(err)
		}
	}
	longer := o
	longer.Base.Train.Epochs = 5
	longer.Observe = func(string) experiment.Observer { return quiet{} }
	if r, err := table.Run(t.Context(), longer, program); err != nil || len(r.Rows[0].Runs[0].Evals) != 5 {
		t.Errorf("gone on with here: %v", err)
	}
}

// TestKilled: two worker processes, one of which is killed again and again at random moments, change no number. The delays are from the
// last news that a run has got further, so that the table gets done.
func TestKilled(t *testing.T) {
	kills := 20
	if testing.Short() {
		kills = 4
	}
	const seed = 20261125
	t.Logf("%d kills, seed %d", kills, seed)
	dir, folders := t.TempDir(), []string{t.TempDir(), t.TempDir()}
	o := small(t, dir, kills+4)
	o.Base.Train.EvalEvery = 4 // which draws figures, and takes longer than an epoch
	s := open(t, dir)
	further := make(chan struct{}, 1000)
	s.heed = func(n farm.News) {
		if n.Kind == farm.Uploaded {
			select {
			case further <- struct{}{}:
			default:
			}
		}
	}
	crew := farm.StartCrew(2, func(i int) *exec.Cmd { return s.process(fmt.Sprintf("worker %d", i), folders[i]) },
		func(i int, line string) { t.Logf("worker %d: %s", i, line) }, s.Fail)
	killed := make(chan int)
	end := make(chan struct{})
	go func() {
		random := rand.New(rand.NewPCG(seed, 0))
		done := 0
		defer func() { killed <- done }()
		for done < kills {
			for range 1 + random.IntN(2) {
				select {
				case <-further:
				case <-end:
					return
				}
			}
			time.Sleep(time.Duration(random.IntN(40)) * time.Millisecond)
			for len(further) > 0 { // what came while this slept
				<-further
			}
			if crew.Kill(random.IntN(2)) {
				done++
			}
		}
	}()
	got, err := s.run(o)
	close(end)
	if n := <-killed; n < kills {
		t.Errorf("%d kills before the table was done, want %d", n, kills)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	crew.Stop(10 * time.Second)
	same(t, got, undisturbed(t, o))
	resumed := 0
	for _, n := range s.news {
		if n.Kind == farm.Begun && n.Step > 0 {
			resumed++
		}
	}
	t.Logf("%d times a run was gone on with from a checkpoint", resumed)
	if resumed < kills/2 {
		t.Errorf("of %d kills %d were gone on from a checkpoint", kills, resumed)
	}
}
