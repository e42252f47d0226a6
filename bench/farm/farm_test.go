package farm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	o.Base.Backend = "cpu:threads=1" // several workers on one machine
	o.Base.Network.Width, o.Base.Network.Input = 4, 8
	o.Base.Data.Path = datatest.ClassFolders(t, 8, 32, 20)
	o.Base.Train.Batch, o.Base.Train.Epochs, o.Base.Train.Drops = 12, epochs, []int{epochs / 2}
	o.Base.Train.EvalEvery = 0 // which draws figures, and takes longer than an epoch
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
	if count < 30 {
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
	// share has the coordinator put images into the queue.
	share bool
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

func open(t *testing.T, dir string, change ...func(*site)) *site {
	t.Helper()
	s := &site{t: t, dir: dir}
	for _, c := range change {
		c(s)
	}
	var err error
	if s.server, err = farm.Serve(filepath.Join(dir, "queue"), "", farm.NewToken()); err != nil {
		t.Fatal(err)
	}
	s.connect()
	t.Cleanup(func() {
		s.queue.Close()
		s.server.Close(0)
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
	return farm.CoordinatorOptions{Program: program, Backend: "cpu:threads=1", Table: "a table", Dir: s.dir, Own: true, MaxTries: 100, Observe: s.observe, Share: s.share}
}

// restart stops the server, loses its store if asked to, and starts it again a while later where it was.
func (s *site) restart(lose bool) {
	s.t.Helper()
	s.server.Close(0)
	if lose {
		if err := os.RemoveAll(filepath.Join(s.dir, "queue")); err != nil {
			s.t.Fatal(err)
		}
	}
	time.Sleep(ackWait)
	var err error
	s.server, err = farm.Serve(filepath.Join(s.dir, "queue"), strings.TrimPrefix(s.server.URL, "nats://"), s.server.Token)
	if err != nil {
		s.t.Fatal(err)
	}
}

// until waits for news of a kind, so many times.
func (s *site) until(kind farm.Kind, times int) {
	s.t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); ; { // emulated processors are slow
		n := 0
		for _, news := range s.told() {
			if news.Kind == kind {
				n++
			}
		}
		switch {
		case n >= times:
			return
		case time.Now().After(deadline):
			s.t.Fatalf("%d news of kind %q in 5 minutes, want %d", n, kind, times)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// told is all news so far.
func (s *site) told() []farm.News {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.news)
}

// notes are what people are told.
func (s *site) notes() string {
	var all []string
	for _, n := range s.told() {
		if n.Kind == farm.Note {
			all = append(all, n.Text)
		}
	}
	return strings.Join(all, "\n")
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

// started is a table that is being trained.
type started struct {
	stop   context.CancelFunc
	result chan *table.Table
	err    chan error
}

func (s *site) start(o table.Options) *started {
	ctx, stop := context.WithCancel(s.t.Context())
	r := &started{stop, make(chan *table.Table, 1), make(chan error, 1)}
	o.Dispatch = s.Train
	go func() {
		got, err := table.Run(ctx, o, program)
		r.result <- got
		r.err <- err
	}()
	return r
}

func (r *started) wait(t *testing.T) *table.Table {
	t.Helper()
	got := <-r.result
	if err := <-r.err; err != nil {
		t.Fatal(err)
	}
	return got
}

// one makes the table one of a single run.
func one(o table.Options) table.Options {
	o.Cells, o.Seeds = o.Cells[1:], o.Seeds[:1]
	return o
}

// needProcesses skips a test where this program cannot be started, as on an emulated processor that the kernel knows nothing of.
func needProcesses(t *testing.T) {
	t.Helper()
	c := exec.Command(os.Args[0], "-test.run", "^$")
	if err := c.Run(); errors.Is(err, syscall.ENOEXEC) {
		t.Skipf("SKIPPED: this program cannot be started as a process: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
}

// process is a worker process.
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
	if r, err := table.Run(t.Context(), longer, program); err != nil || r.Rows[0].Runs[0].Steps != 5*8 {
		t.Errorf("gone on with here: %v", err)
	}
}

// TestKilled: two worker processes, one of which is killed again and again at random moments, change no number. The delays are from the
// last news that a run has got further, so that the table gets done.
func TestKilled(t *testing.T) {
	needProcesses(t)
	t.Parallel()
	kills := 20
	if testing.Short() {
		kills = 4
	}
	const seed = 20261125
	t.Logf("%d kills, seed %d", kills, seed)
	dir, folders := t.TempDir(), []string{t.TempDir(), t.TempDir()}
	o := small(t, dir, kills+4)
	o.Base.Train.EvalEvery = 4
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
	for _, n := range s.told() {
		if n.Kind == farm.Begun && n.Step > 0 {
			resumed++
		}
	}
	t.Logf("%d times a run was gone on with from a checkpoint", resumed)
	if resumed < kills/4 {
		t.Errorf("after %d kills only %d times", kills, resumed)
	}
}

// TestServer: a server that goes away and comes back, with what it had or empty, costs no number.
func TestServer(t *testing.T) {
	for name, lose := range map[string]bool{"as it was": false, "empty": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := one(small(t, dir, 12))
			s := open(t, dir)
			w := s.worker("a")
			r := s.start(o)
			s.until(farm.Uploaded, 2)
			s.restart(lose)
			same(t, r.wait(t), undisturbed(t, o))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-w.end; err != nil {
				t.Error(err)
			}
			if log := w.log(); strings.Count(log, "does not answer") != 1 || !strings.Contains(log, "answers again") {
				t.Errorf("the worker said\n%s", log)
			}
		})
	}
}

// TestToken: a server that comes back with another token is an error of the worker and of the coordinator.
func TestToken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := one(small(t, dir, 200))
	s := open(t, dir)
	w := s.worker("a")
	r := s.start(o)
	s.until(farm.Uploaded, 1)
	s.server.Token = farm.NewToken()
	s.restart(false)
	if err := <-w.end; err == nil || !strings.Contains(err.Error(), "refuses this token") {
		t.Errorf("the worker ended with %v", err)
	}
	<-r.result
	if err := <-r.err; err == nil || !strings.Contains(err.Error(), "refuses this token") {
		t.Errorf("the coordinator ended with %v", err)
	}
}

// TestVersions: a worker of another version is refused with both, and the table's runs stay for the others.
func TestVersions(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := one(small(t, dir, 2))
	s := open(t, dir)
	r := s.start(o)
	old := s.worker("old", func(w *farm.Worker) { w.Program = "hypnos older" })
	if err := <-old.end; err == nil || !strings.Contains(err.Error(), "hypnos older") || !strings.Contains(err.Error(), program) || strings.Contains(err.Error(), "\n") {
		t.Errorf("another version: %v", err)
	}
	s.worker("new")
	same(t, r.wait(t), undisturbed(t, o))
}

// TestLeave: a worker that leaves hands over what it has; a coordinator that leaves finds its runs again, also without workers.
func TestLeave(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := one(small(t, dir, 12))
	s := open(t, dir)
	w := s.worker("a")
	r := s.start(o)
	s.until(farm.Uploaded, 2)
	w.stop()
	if err := <-w.end; !errors.Is(err, train.ErrInterrupted) {
		t.Errorf("the worker ended with %v", err)
	}
	b := s.worker("b")
	s.until(farm.Begun, 2)
	r.stop()
	<-r.result
	if err := <-r.err; !errors.Is(err, train.ErrInterrupted) {
		t.Errorf("the coordinator ended with %v", err)
	}
	b.stop()
	<-b.end
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	d := experiment.RunDir{Path: filepath.Join(dir, "lc-ws10", "seed-1")}
	state, err := d.State(o.Configure(o.Cells[0], 1))
	if err != nil || state.Step == 0 || state.Done {
		t.Errorf("the folder has state %+v, %v", state, err)
	}
	here := o
	here.Dir = filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(here.Dir, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	here.Observe = func(string) experiment.Observer { return quiet{} }
	want := undisturbed(t, o)
	got, err := table.Run(t.Context(), here, program)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)

	s.queue.Close()
	s.connect()
	s.worker("c")
	if got, err = s.run(o); err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	began := int64(-1)
	for _, n := range s.told() {
		if n.Kind == farm.Begun {
			began = n.Step
		}
	}
	if began < state.Step {
		t.Errorf("gone on with from step %d, the folder had %d", began, state.Step)
	}
}

// TestDamaged: copies that are damaged in the queue are told of, and the run goes on from what is left.
func TestDamaged(t *testing.T) {
	for copies := 1; copies <= 2; copies++ {
		t.Run(fmt.Sprint(copies), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := one(small(t, dir, 12))
			s := open(t, dir)
			w := s.worker("a")
			r := s.start(o)
			s.until(farm.Uploaded, 3)
			w.stop()
			<-w.end
			damage(t, s, copies)
			s.worker("b")
			same(t, r.wait(t), undisturbed(t, o))
			notes, want := s.notes(), map[int]string{1: "going on from step", 2: "begun anew"}[copies]
			if strings.Count(notes, "is damaged in the queue") != copies || !strings.Contains(notes, want) {
				t.Errorf("notes\n%s", notes)
			}
		})
	}
}

// jetStream is the queue's server without this package.
func (s *site) jetStream() jetstream.JetStream {
	s.t.Helper()
	c, err := nats.Connect(s.server.URL, nats.Token(s.server.Token))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	js, err := jetstream.New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	return js
}

// queued waits until so many jobs are in the queue.
func (s *site) queued(jobs uint64) {
	s.t.Helper()
	js := s.jetStream()
	for deadline := time.Now().Add(5 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		stream, err := js.Stream(s.t.Context(), "hypnos-jobs")
		if err != nil {
			s.t.Fatal(err)
		}
		switch n := stream.CachedInfo().State.Msgs; {
		case n == jobs:
			return
		case time.Now().After(deadline):
			s.t.Fatalf("%d jobs in the queue after 5 minutes, want %d", n, jobs)
		}
	}
}

// damage adds a piece to the newest copies in the queue, as a disk that errs might.
func damage(t *testing.T, s *site, copies int) {
	t.Helper()
	js := s.jetStream()
	files, err := js.ObjectStore(t.Context(), "hypnos-files")
	if err != nil {
		t.Fatal(err)
	}
	all, err := files.List(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d copies, %v", len(all), err)
	}
	slices.SortFunc(all, func(a, b *jetstream.ObjectInfo) int { return b.ModTime.Compare(a.ModTime) })
	for _, o := range all[:copies] {
		if _, err := js.Publish(t.Context(), "$O.hypnos-files.C."+o.NUID, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
}

// TestImages: a worker that does not have the images gets them from the queue, once.
func TestImages(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := small(t, dir, 2)
	s := open(t, dir, func(s *site) { s.share = true })
	o.Cells = o.Cells[1:]
	r := s.start(o)
	source := o.Base.Data.Path
	s.queued(2)
	if err := os.Rename(source, source+"-away"); err != nil {
		t.Fatal(err)
	}
	s.worker("a")
	got := r.wait(t)
	if err := os.Rename(source+"-away", source); err != nil {
		t.Fatal(err)
	}
	same(t, got, undisturbed(t, o))
	if n := strings.Count(s.notes(), "fetching the images"); n != 1 {
		t.Errorf("fetched %d times:\n%s", n, s.notes())
	}
}

// TestFails: a run that cannot be trained ends the workers that try, and then the table, with the reason.
func TestFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := one(small(t, dir, 2))
	o.Base.Data.Path = filepath.Join(dir, "missing")
	s := open(t, dir)
	r := s.start(o)
	for i := range 3 {
		w := s.worker(fmt.Sprint("worker ", i))
		if err := <-w.end; err == nil || !strings.Contains(err.Error(), "missing") {
			t.Errorf("worker %d ended with %v", i, err)
		}
	}
	<-r.result
	if err := <-r.err; err == nil || !strings.Contains(err.Error(), "lc-ws10, seed 1: 3 workers failed") || !strings.Contains(err.Error(), "missing") {
		t.Errorf("the table ended with %v", err)
	}
}

// TestOther: a folder with another run is refused before anything is published, a queue with another coordinator, or with what another
// version has left, before anything is changed.
func TestOther(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	o := one(small(t, dir, 1))
	s := open(t, dir)
	w := s.worker("a")
	if _, err := s.run(o); err != nil {
		t.Fatal(err)
	}
	padded := o
	padded.Base.Data.Pad = 2
	if _, err := s.run(padded); err == nil || !strings.Contains(err.Error(), "data.pad") || !strings.Contains(err.Error(), "holds another run") {
		t.Errorf("another run: %v", err)
	}
	q, err := farm.Connect(s.options())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	second := s.coordinator()
	second.Own = false
	if _, err := farm.NewCoordinator(t.Context(), q, second); err == nil || !strings.Contains(err.Error(), "in use by a table") {
		t.Errorf("a second coordinator: %v", err)
	}
	w.stop()
	<-w.end
	longer := o
	longer.Base.Train.Epochs = 3
	r := s.start(longer)
	s.queued(1)
	r.stop()
	<-r.result
	<-r.err
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	second.Program = "hypnos newer"
	if _, err := farm.NewCoordinator(t.Context(), q, second); err == nil || !strings.Contains(err.Error(), "1 unfinished runs of hypnos test") || !strings.Contains(err.Error(), "hypnos newer") {
		t.Errorf("another version: %v", err)
	}
}

// TestConnect: what can be wrong with an address is one line that names it.
func TestConnect(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	deaf, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	deaf.Start()
	defer deaf.Shutdown()
	if !deaf.ReadyForConnections(10 * time.Second) {
		t.Fatal("no server")
	}
	host := strings.TrimPrefix(s.server.URL, "nats://")
	for _, bad := range []struct {
		farm.Options
		want string
	}{
		{farm.Options{URL: "nats://127.0.0.1:1"}, "no NATS server answers at nats://127.0.0.1:1"},
		{farm.Options{URL: s.server.URL}, "refuses this token"},
		{farm.Options{URL: s.server.URL, Token: "wrong"}, "refuses this token"},
		{farm.Options{URL: "nats://me:secret@" + host}, "nats://…@" + host + " refuses this token, user or password"},
		{farm.Options{URL: deaf.ClientURL()}, "has no JetStream"},
		{farm.Options{URL: s.server.URL, Name: "a b"}, `queue name "a b"`},
		{farm.Options{URL: "http://%"}, "http://%"},
	} {
		bad.Log = s.log
		q, err := farm.Connect(bad.Options)
		if err == nil {
			q.Close()
		}
		if err == nil || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", bad.Options, err)
		}
	}
	for listen, want := range map[string]string{host: "in use", "nowhere": "want HOST:PORT", "127.0.0.1:x": "want HOST:PORT", "127.0.0.1:70000": "want HOST:PORT"} {
		other, err := farm.Serve(t.TempDir(), listen, "token")
		if err == nil {
			other.Close(0)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("listening on %s: %v", listen, err)
		}
	}
	if _, err := farm.Serve(filepath.Join(s.dir, "queue"), "", "token"); err == nil || !strings.Contains(err.Error(), "another process is using it") {
		t.Errorf("a second server in the folder: %v", err)
	}
}
