package farm

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hypnos/backends"
	"hypnos/bench/experiment"
	"hypnos/bench/table"
	"hypnos/core/data/datatest"
	"hypnos/core/train"
)

// queue is a queue on a server of its own, for the kernels of this machine.
func queue(t *testing.T) (*Queue, manifest) {
	t.Helper()
	s, err := Serve(t.TempDir(), "", "token")
	if err != nil {
		t.Fatal(err)
	}
	q, err := Connect(Options{URL: s.URL, Token: s.Token, Log: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		q.Close()
		s.Close(0)
	})
	if q.tools, err = q.create(t.Context()); err != nil {
		t.Fatal(err)
	}
	m := manifest{Identity: Identity{Program: "hypnos test"}, Table: "a table"}
	if m.Backend, m.Arithmetic, err = backends.Pin("cpu"); err != nil {
		t.Fatal(err)
	}
	return q, m
}

// another is a connection of its own to a queue's server: a worker's.
func another(t *testing.T, q *Queue) *Queue {
	t.Helper()
	own, err := Connect(Options{URL: q.conn.ConnectedUrl(), Token: "token", Log: func(string) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	return own
}

// TestLease: who was held for dead writes nothing any more, whatever the order; who has the run does.
func TestLease(t *testing.T) {
	t.Parallel()
	q, _ := queue(t)
	ctx := t.Context()
	slow, quick, j := &Worker{Queue: q, Name: "slow"}, &Worker{Queue: q, Name: "quick"}, job{Key: "run"}
	if _, _, err := slow.acquire(ctx, j, 9); !errors.Is(err, errNothing) {
		t.Fatalf("a run without state: %v", err)
	}
	if err := q.setState(ctx, j.Key, state{}, 0); err != nil {
		t.Fatal(err)
	}
	first, _, err := slow.acquire(ctx, j, 9)
	if err != nil {
		t.Fatal(err)
	}
	record := func(l lease, object string) error {
		return l.write(ctx, func(s *state) { s.Copies = append([]copied{{object, 1}}, s.Copies...) })
	}
	if err := record(first, "a"); err != nil {
		t.Fatal(err)
	}
	second, s, err := quick.acquire(ctx, j, 9)
	if at, _ := s.newest(); err != nil || at.Object != "a" {
		t.Fatalf("taken up from %+v, %v", s, err)
	}
	for _, object := range []string{"b", "c"} {
		if err := record(first, "late"); !errors.Is(err, errTaken) {
			t.Errorf("the slow worker: %v", err)
		}
		if err := record(second, object); err != nil {
			t.Error(err)
		}
	}
	if err := first.write(ctx, func(s *state) { s.Done = true }); !errors.Is(err, errTaken) {
		t.Errorf("the slow worker's result: %v", err)
	}
	// Between reading and writing somebody else takes the run.
	sneaked := false
	err = second.write(ctx, func(*state) {
		if !sneaked {
			sneaked = true
			if _, _, err := slow.acquire(ctx, j, 9); err != nil {
				t.Error(err)
			}
		}
	})
	if !errors.Is(err, errTaken) {
		t.Errorf("taken in the middle of a write: %v", err)
	}
	if s, _, err = q.state(ctx, j.Key); err != nil || s.Lease != 3 || len(s.Copies) != 3 || s.Copies[0].Object != "c" || s.Done {
		t.Errorf("state %+v, %v", s, err)
	}
}

// TestTries: a run that workers die of is given up, with who had it last.
func TestTries(t *testing.T) {
	t.Parallel()
	q, _ := queue(t)
	if err := q.setState(t.Context(), "run", state{Copies: []copied{{"a", 7}}}, 0); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"a", "b", "c"} {
		w := &Worker{Queue: q, Name: name}
		if _, _, err := w.acquire(t.Context(), job{Key: "run"}, 2); (err == nil) != (i < 2) {
			t.Errorf("worker %s: %v", name, err)
		}
	}
	if s, _, err := q.state(t.Context(), "run"); err != nil || s.Failed != "2 workers in turn did not get beyond step 7, the last was b" {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestFit: a machine whose numbers would differ by rounding does not join, nor one without the backend.
func TestFit(t *testing.T) {
	t.Parallel()
	q, m := queue(t)
	w := func() *Worker { return &Worker{Queue: q, Program: m.Program} }
	if err := w().fit(m); err != nil {
		t.Error(err)
	}
	other, absent, older := m, m, m
	other.Arithmetic = "another processor"
	absent.Backend = "cpu:kernels=abacus"
	older.Program = "hypnos older"
	for want, m := range map[string]manifest{"the queue hypnos at " + q.where + " with another processor": other, "abacus": absent, "is for hypnos older": older} {
		if err := w().fit(m); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// TestNoJob: what is no job is taken out of the queue, and the worker goes on.
func TestNoJob(t *testing.T) {
	t.Parallel()
	q, m := queue(t)
	if err := q.setManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := q.js.Publish(t.Context(), q.subject("jobs", "x"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	said := make(chan string, 10)
	w := &Worker{Queue: q, Program: m.Program, Dir: t.TempDir(), Log: func(line string) { said <- line }}
	go func() {
		for line := range said {
			if strings.Contains(line, "a job that is none") {
				stop()
			}
		}
	}()
	if err := w.Work(ctx); !errors.Is(err, train.ErrInterrupted) {
		t.Error(err)
	}
	close(said)
	for tries := 0; ; tries++ {
		info, err := q.jobs.Info(t.Context())
		if err == nil && info.State.Msgs == 0 {
			return
		}
		if err != nil || tries == 500 {
			t.Fatalf("%+v, %v", info, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestUnpack: names that lead out of a folder are refused.
func TestUnpack(t *testing.T) {
	t.Parallel()
	packed := func(name string) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		w.Close()
		return &b
	}
	for _, name := range []string{"../x", "/x", "a/../../x", ".hidden"} {
		dir := filepath.Join(t.TempDir(), "in")
		if err := unpackRun(packed(name), dir); err == nil {
			t.Errorf("%q in a run", name)
		}
		if name != ".hidden" {
			if err := unpackImages(packed(name), dir); err == nil {
				t.Errorf("%q in images", name)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "..", "x")); err == nil {
			t.Errorf("%q was written outside", name)
		}
	}
}

// TestIdentify: images are the same when names and contents are, wherever they lie; a link to a file is the file.
func TestIdentify(t *testing.T) {
	t.Parallel()
	source := datatest.ClassFolders(t, 8, 2, 1)
	first, err := identify(source)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), filepath.Base(source))
	if err := os.CopyFS(elsewhere, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	if second, err := identify(elsewhere); err != nil || *second != *first {
		t.Errorf("%+v, want %+v, %v", second, first, err)
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "train", "red", "0.png"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if second, err := identify(elsewhere); err != nil || second.Digest == first.Digest {
		t.Errorf("another image, and the same digest: %v", err)
	}
}

// TestInstall: a copy of a run that was begun anew takes the place of one that has gone further, and the run goes on to the same end.
func TestInstall(t *testing.T) {
	t.Parallel()
	conf := experiment.Default()
	conf.Data.Path, conf.Data.Pad = datatest.ClassFolders(t, 8, 8, 4), 1
	conf.Network.Name, conf.Network.Width, conf.Network.Input = "resnet8", 2, 8
	conf.Backend, conf.Train.Batch, conf.Train.Drops, conf.Train.EvalEvery = "cpu:threads=1", 8, []int{}, 0
	trained := func(epochs int) *experiment.RunDir {
		conf.Train.Epochs = epochs
		d, err := experiment.OpenDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		if _, err := table.Train(t.Context(), conf, experiment.Place{}, d, slowly{}); err != nil {
			t.Fatal(err)
		}
		return d
	}
	far, anew := trained(3), trained(2)
	if err := dropForeign(anew.Path, far); err != nil {
		t.Fatal(err)
	}
	if s, err := far.State(conf); err != nil || s.Step != 0 {
		t.Errorf("the checkpoint whose metrics are gone is still there: %+v, %v", s, err)
	}
	if err := install(anew.Path, far); err != nil {
		t.Fatal(err)
	}
	if s, err := far.State(conf); err != nil || s.Step != 6 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := dropForeign(anew.Path, far); err != nil {
		t.Fatal(err)
	}
	if s, err := far.State(conf); err != nil || s.Step != 6 {
		t.Errorf("a checkpoint with its own metrics was removed: %+v, %v", s, err)
	}
}

// slowly is an observer that lets time pass, so that two runs differ in their seconds.
type slowly struct{}

func (slowly) Begin(int64, train.State) { time.Sleep(10 * time.Millisecond) }
func (slowly) Observe(any)              { time.Sleep(time.Millisecond) }

// TestLostResult: a run that is done, whose result cannot be read in the queue, is done once more.
func TestLostResult(t *testing.T) {
	t.Parallel()
	q, m := queue(t)
	conf := experiment.Default()
	conf.Data.Path, conf.Data.Pad = datatest.ClassFolders(t, 8, 8, 4), 1
	conf.Network.Name, conf.Network.Width, conf.Network.Input = "resnet8", 2, 8
	conf.Train.Batch, conf.Train.Drops, conf.Train.EvalEvery, conf.Train.Epochs = 8, []int{}, 0, 1
	notes := make(chan string, 10)
	c, err := NewCoordinator(t.Context(), q, CoordinatorOptions{Program: m.Program, Backend: "cpu", Dir: t.TempDir(), Observe: func(n News) {
		if n.Kind == Note {
			notes <- n.Text
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	j := job{Config: conf.Text(), Identity: c.identity}
	if err := q.setState(t.Context(), j.key(), state{Lease: 1, Done: true, Copies: []copied{{"lost", 3}}}, 0); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	w := &Worker{Queue: another(t, q), Program: m.Program, Name: "a", Dir: t.TempDir(), Log: func(string) {}}
	go func() { ended <- w.Work(ctx) }()
	r, err := c.Train(t.Context(), table.Task{Label: "a run", Dir: t.TempDir(), Config: conf})
	if err != nil || r.Steps != 3 {
		t.Errorf("%d steps, %v", r.Steps, err)
	}
	if text := <-notes; !strings.Contains(text, "the result is damaged in the queue: going on from step 0") {
		t.Errorf("note %q", text)
	}
	stop()
	if err := <-ended; !errors.Is(err, train.ErrInterrupted) {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
