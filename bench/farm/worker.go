package farm

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"hypnos/backends"
	"hypnos/bench/experiment"
	"hypnos/bench/table"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/train"
)

// Worker takes runs from a queue and trains them, one at a time.
type Worker struct {
	Queue   *Queue
	Program string // version
	Machine string // its processor, for results
	Name    string // for messages: unique among the workers
	Dir     string // its own: a run directory, and images of the queue
	// Local says that this is the coordinator's machine: images lie where configurations say.
	Local bool
	Log   func(line string)

	here   Identity
	images map[string]*images // sources of this machine that were read, by path
}

// Reasons why a run is let go, beside the end of the worker's context.
var (
	errTaken   = errors.New("another worker has taken it up")
	errOver    = errors.New("the table is done")
	errNothing = errors.New("there is nothing to do")
)

// Work waits for a table, joins, and trains until the table is done (nil), ctx ends (an error that wraps train.ErrInterrupted; what was
// done of a run is in the queue), or something is wrong with this worker: another version of the program, another arithmetic, a run that
// fails here. The run is then left to the others.
func (w *Worker) Work(ctx context.Context) error {
	if err := os.MkdirAll(w.Dir, 0o755); err != nil {
		return fmt.Errorf("farm: worker: %w", err)
	}
	lock, err := model.LockFolder(w.Dir)
	if err != nil {
		return fmt.Errorf("farm: worker's folder %s: %w", w.Dir, err)
	}
	defer lock.Close()
	w.images = map[string]*images{}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-w.Queue.closed:
			cancel(w.Queue.lost())
		case <-ctx.Done():
		}
	}()
	err = w.work(ctx)
	if lost := w.Queue.lost(); lost != nil {
		return lost
	}
	return err
}

func (w *Worker) work(ctx context.Context) error {
	joined, said := false, false
	for {
		if ctx.Err() != nil {
			return fmt.Errorf("farm: worker: %w", train.ErrInterrupted)
		}
		m, err := w.Queue.find(ctx)
		switch {
		case err != nil: // the server is away, or the queue is being made
		case m == nil: // not yet, or not yet again
		case m.Done:
			if joined {
				return nil
			}
		default:
			if err := w.fit(*m); err != nil {
				return err
			}
			if !joined {
				w.Log(fmt.Sprintf("joined %s at %s: %s", w.Queue.name, w.Queue.where, m.Table))
			}
			joined = true
			msg, err := w.next(ctx)
			if err == nil {
				if err := w.take(ctx, *m, msg); err != nil {
					return err
				}
				continue
			}
			if errors.Is(err, jetstream.ErrNoMessages) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
				continue // to look whether the table is done
			}
		}
		if !joined && !said {
			w.Log(fmt.Sprintf("waiting for a table at %s", w.Queue.where))
			said = true
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// next waits a second for a job.
func (w *Worker) next(ctx context.Context) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return w.Queue.takers.Next(jetstream.FetchContext(ctx))
}

// fit tells why this worker must not work for a queue.
func (w *Worker) fit(m manifest) error {
	if m.Identity == w.here {
		return nil
	}
	where := fmt.Sprintf("queue %s at %s", w.Queue.name, w.Queue.where)
	if m.Program != w.Program {
		return fmt.Errorf("farm: this program is %s, the %s is for %s: workers must be of the same version", w.Program, where, m.Program)
	}
	_, arithmetic, err := backends.Pin(m.Backend)
	if err != nil {
		return fmt.Errorf("farm: the %s wants another machine: %w", where, err)
	}
	if arithmetic != m.Arithmetic {
		return fmt.Errorf("farm: this machine computes with %s, the %s with %s: numbers would differ by rounding", arithmetic, where, m.Arithmetic)
	}
	w.here = m.Identity
	return nil
}

// lease is the right to write a run's state.
type lease struct {
	q           *Queue
	key, worker string
	number      int
}

// good tells whether the lease is the last one.
func (l lease) good(s state) bool { return s.Lease == l.number && s.Worker == l.worker }

// write changes the run's state, if the lease is still good; errTaken otherwise.
func (l lease) write(ctx context.Context, change func(*state)) error {
	for {
		s, revision, err := l.q.state(ctx, l.key)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			return errTaken
		case err != nil:
			return err
		case !l.good(s):
			return errTaken
		}
		change(&s)
		if err = l.q.setState(ctx, l.key, s, revision); !conflict(err) {
			return err
		}
	}
}

// acquire takes a run: errNothing when it is done or withdrawn, errTaken when somebody else took it at the same moment.
func (w *Worker) acquire(ctx context.Context, j job, tries int) (l lease, s state, err error) {
	s, revision, err := w.Queue.state(ctx, j.Key)
	switch {
	case errors.Is(err, jetstream.ErrKeyNotFound): // which the coordinator makes before the job
		return l, s, errNothing
	case err != nil:
		return l, s, err
	case s.Done || s.Failed != "":
		return l, s, errNothing
	}
	last := s.Worker
	s.Lease, s.Tries, s.Worker = s.Lease+1, s.Tries+1, w.Name
	if s.Tries > tries {
		at, _ := s.newest()
		s.Failed = fmt.Sprintf("%d workers in turn did not get beyond step %d, the last was %s", tries, at.Step, last)
	}
	err = w.Queue.setState(ctx, j.Key, s, revision)
	switch {
	case conflict(err):
		return l, s, errTaken
	case err == nil && s.Failed != "":
		return l, s, errNothing
	}
	return lease{w.Queue, j.Key, w.Name, s.Lease}, s, err
}

// take does a run that the queue has handed out. An error ends the worker.
func (w *Worker) take(ctx context.Context, m manifest, msg jetstream.Msg) error {
	var j job
	if err := json.Unmarshal(msg.Data(), &j); err != nil {
		_ = msg.Term()
		w.Log(fmt.Sprintf("a job that is none is taken out of the queue: %v", err))
		return nil
	}
	if j.Identity != m.Identity { // left by a table of another version
		_ = msg.NakWithDelay(w.Queue.silences)
		return nil
	}
	l, s, err := w.acquire(ctx, j, m.MaxTries)
	switch {
	case errors.Is(err, errNothing):
		w.release(j, msg.Ack)
		return nil
	case err != nil:
		_ = msg.NakWithDelay(w.Queue.silences)
		return nil
	}
	r := &running{Worker: w, job: j, lease: l, manifest: m}
	ctx, r.drop = context.WithCancelCause(ctx)
	defer r.drop(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.keepAlive(ctx, msg)
	}()
	err = r.run(ctx, s)
	why := context.Cause(ctx)
	r.drop(nil)
	<-done
	switch {
	case err == nil:
		w.release(j, msg.Ack) // when it does not arrive, the next worker finds that the run is done
		return nil
	case errors.Is(why, errTaken), errors.Is(err, errTaken):
		w.note(j, "let go: "+errTaken.Error())
		return nil
	case errors.Is(why, errOver):
		return nil
	case errors.Is(err, train.ErrInterrupted), errors.Is(err, context.Canceled):
		w.release(j, msg.Nak) // for the others, at once
		return nil
	}
	r.fail(err)
	w.release(j, msg.Nak)
	return fmt.Errorf("farm: %s: %w", j.Label, err)
}

// release hands a job back and tells the coordinator to look.
func (w *Worker) release(j job, how func() error) {
	_ = how()
	w.Queue.tell(News{Key: j.Key, Label: j.Label, Worker: w.Name, Kind: Released})
}

// note tells people.
func (w *Worker) note(j job, text string) {
	w.Queue.tell(News{Key: j.Key, Label: j.Label, Worker: w.Name, Kind: Note, Text: text})
	w.Log(j.Label + ": " + text)
}

// running is a run that this worker has. It is the experiment's observer.
type running struct {
	*Worker
	job      job
	lease    lease
	manifest manifest
	drop     context.CancelCauseFunc
	ctx      context.Context
	dir      string

	total    int64
	from     train.State
	told     time.Time
	seen     int       // images, by this worker
	uploaded int64     // step of the newest copy
	next     time.Time // of an upload
	refused  bool      // the queue did not take a copy, which was told
}

// keepAlive tells the queue that the run is being worked on, until ctx ends, and drops it when it is not this worker's any more.
func (r *running) keepAlive(ctx context.Context, msg jetstream.Msg) {
	for pause(ctx, r.Queue.silences/4) {
		_ = msg.InProgress() // when the server is away, the run may be handed to another, and this worker finds out
		s, _, err := r.Queue.state(ctx, r.job.Key)
		if errors.Is(err, jetstream.ErrKeyNotFound) || err == nil && !r.lease.good(s) {
			r.drop(errTaken)
			return
		}
		if m, err := r.Queue.manifest(ctx); err == nil && m != nil && m.Done {
			r.drop(errOver)
			return
		}
	}
}

// run trains from the newest copy that can be used, and hands in the result.
func (r *running) run(ctx context.Context, s state) error {
	conf, err := experiment.Parse(r.job.Config)
	if err != nil {
		return err
	}
	place := experiment.Place{Backend: r.job.Backend}
	if r.job.Images != nil && !r.Local {
		if place.DataPath, err = r.findImages(ctx, *r.job.Images, conf.Data.Path); err != nil {
			return err
		}
		place.DataCache = filepath.Join(r.Dir, "decoded-"+r.job.Images.Digest)
	}
	r.ctx, r.dir = ctx, filepath.Join(r.Dir, "run")
	if err := r.restore(ctx, s, conf); err != nil {
		return err
	}
	d, err := experiment.OpenDir(r.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	result, err := table.Train(ctx, conf, place, d, r)
	if errors.Is(err, train.ErrInterrupted) {
		if handing := r.handOver(ctx); handing != nil {
			r.Log(fmt.Sprintf("%s: %v", r.job.Label, handing))
		}
		return err
	}
	if err != nil {
		return err
	}
	result.Program, result.Machine = r.Program, fmt.Sprintf("%s (%s)", r.Machine, r.here.Arithmetic)
	if err := result.Save(r.dir); err != nil {
		return err
	}
	return r.finish(ctx)
}

// restore gets the newest copy of the run's directory that is not damaged, or makes an empty one.
func (r *running) restore(ctx context.Context, s state, conf experiment.Config) error {
	for i, c := range s.Copies {
		err := r.retry(ctx, func() error { return r.Queue.fetchRun(ctx, c, r.dir, conf) })
		if err == nil {
			r.uploaded = c.Step
			return nil
		}
		if !damaged(err) {
			return err
		}
		then := "begun anew"
		if i+1 < len(s.Copies) {
			then = fmt.Sprintf("going on from step %d", s.Copies[i+1].Step)
		}
		r.note(r.job, fmt.Sprintf("the checkpoint of step %d is damaged in the queue (%v): %s", c.Step, err, then))
	}
	return empty(r.dir)
}

// retry does something with the server until it works, cannot work, or ctx ends. What the server refuses while it is there is told once.
func (r *running) retry(ctx context.Context, do func() error) error {
	told := ""
	for {
		err := do()
		var path *os.PathError // of this machine, not of the server
		if err == nil || damaged(err) || errors.Is(err, errTaken) || errors.As(err, &path) {
			return err
		}
		if text := err.Error(); r.Queue.conn.IsConnected() && text != told {
			told = text
			r.note(r.job, fmt.Sprintf("the queue says %q: trying again", text))
		}
		if !pause(ctx, 500*time.Millisecond) {
			return fmt.Errorf("%w: %w", train.ErrInterrupted, err)
		}
	}
}

// copyNow uploads while the run stands still: no oftener than asked for, and not for more than a twentieth of the time, unless every save
// is asked for. While the server is away nothing is uploaded; the next time will do.
func (r *running) copyNow(step int64) {
	begin := time.Now()
	ctx := context.WithoutCancel(r.ctx) // half a copy would be waste
	switch err := r.upload(ctx, step, false); {
	case errors.Is(err, errTaken):
		r.drop(errTaken)
	case err != nil && r.Queue.conn.IsConnected() && !r.refused:
		r.refused = true
		r.note(r.job, fmt.Sprintf("the queue does not take a copy of step %d: %v", step, err))
	}
	if every := r.manifest.UploadEvery; every > 0 {
		r.next = time.Now().Add(max(every, 20*time.Since(begin)))
	}
}

// Begin is called by the experiment.
func (r *running) Begin(steps int64, from train.State) {
	r.total, r.from = steps, from
	r.next = time.Now().Add(r.manifest.UploadEvery)
	r.tell(News{Kind: Begun, Step: from.Step, Epoch: from.Epoch})
}

// Observe is called by the experiment.
func (r *running) Observe(metric any) {
	switch m := metric.(type) {
	case train.Step:
		r.seen += m.Images
		if now := time.Now(); now.Sub(r.told) >= time.Second || m.Step == r.total {
			r.told = now
			speed := 0.0
			if spent := m.Seconds - r.from.Seconds; spent > 0 {
				speed = float64(r.seen) / spent
			}
			r.tell(News{Kind: Stepped, Step: m.Step, Epoch: m.Epoch, Loss: m.Loss, Top1: m.Top1, Speed: speed})
		}
	case train.Eval:
		r.tell(News{Kind: Tested, Step: m.Step, Epoch: m.Epoch, Loss: m.Loss, Top1: m.Top1})
	case data.Mended:
		r.tell(News{Kind: Note, Text: m.String()})
	case experiment.Saved:
		if !m.State.Done && !time.Now().Before(r.next) {
			r.copyNow(m.State.Step)
		}
	}
}

func (r *running) tell(n News) {
	n.Key, n.Label, n.Worker, n.From, n.Steps = r.job.Key, r.job.Label, r.Name, r.from.Step, r.total
	r.Queue.tell(n)
}

// upload puts a copy of the run directory into the queue and records it, keeping the one before.
func (r *running) upload(ctx context.Context, step int64, done bool) error {
	c := newCopy(r.job.Key, step)
	if err := r.Queue.put(ctx, c.Object, func(w io.Writer) error { return packRun(w, r.dir) }); err != nil {
		return err
	}
	var old []copied
	err := r.lease.write(ctx, func(s *state) {
		all := append([]copied{c}, s.Copies...)
		keep := min(len(all), 2)
		s.Copies, old = all[:keep], all[keep:]
		s.Tries, s.Done = 0, done
	})
	if errors.Is(err, errTaken) {
		old = []copied{c}
	} else if err == nil {
		r.uploaded = step
		r.tell(News{Kind: Uploaded, Step: step})
	}
	for _, o := range old {
		_ = r.Queue.files.Delete(context.WithoutCancel(ctx), o.Object) // the coordinator clears up what is left
	}
	return err
}

// handOver uploads what an interrupted run has saved, so that another worker goes on from there. The context of the run has ended.
func (r *running) handOver(ctx context.Context) error {
	if errors.Is(context.Cause(ctx), errTaken) || errors.Is(context.Cause(ctx), errOver) {
		return nil
	}
	d := experiment.RunDir{Path: r.dir}
	conf, err := experiment.Parse(r.job.Config)
	if err != nil {
		return err
	}
	s, err := d.State(conf)
	if err != nil || s.Step <= r.uploaded {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := r.upload(ctx, s.Step, false); err != nil {
		return fmt.Errorf("step %d is not handed over: %w", s.Step, err)
	}
	return nil
}

// finish hands in the result. It is waited for until the server takes it: nothing else in the run remains to be done.
func (r *running) finish(ctx context.Context) error {
	d := experiment.RunDir{Path: r.dir}
	conf, err := experiment.Parse(r.job.Config)
	if err != nil {
		return err
	}
	s, err := d.State(conf) // of a run that diverged: before that
	if err != nil {
		return err
	}
	whole := context.WithoutCancel(ctx) // a worker that is stopped now still hands it in
	return r.retry(ctx, func() error { return r.upload(whole, s.Step, true) })
}

// maxFailures is how many workers may fail with a run before it is given up.
const maxFailures = 3

// fail records that the run failed here.
func (r *running) fail(cause error) {
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	err := r.lease.write(ctx, func(s *state) {
		s.Failures = append(s.Failures, r.Name+": "+cause.Error())
		if len(s.Failures) >= maxFailures {
			s.Failed = fmt.Sprintf("%d workers failed, the last %s", maxFailures, s.Failures[len(s.Failures)-1])
		}
	})
	if err == nil {
		r.note(r.job, "failed: "+cause.Error())
	}
}

// findImages is where the images of a run lie on this machine: where the configuration says if they are the same, else in the worker's
// folder, into which they are brought once.
func (r *running) findImages(ctx context.Context, want images, path string) (string, error) {
	if _, err := os.Stat(path); err == nil {
		have, read := r.images[path]
		if !read {
			have, _ = identify(path) // nil: what cannot be read is not the same
			r.images[path] = have
		}
		if have != nil && have.Digest == want.Digest {
			return path, nil
		}
	}
	folder := filepath.Join(r.Dir, "images-"+want.Digest)
	target := filepath.Join(folder, want.Name)
	if _, err := os.Stat(target); err == nil {
		return target, nil
	}
	r.note(r.job, "fetching the images "+want.Name)
	part := folder + ".part"
	err := r.retry(ctx, func() error {
		if err := empty(part); err != nil {
			return err
		}
		h := sha256.New()
		err := r.Queue.get(ctx, want.object(), func(from io.Reader) error {
			from = io.TeeReader(from, h)
			if err := unpackImages(from, part); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, from)
			return err
		})
		if err == nil && fmt.Sprintf("%x", h.Sum(nil)) != want.Digest {
			err = fmt.Errorf("%w: SHA-256 %x, want %s", errContent, h.Sum(nil), want.Digest)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("images %s: %w", want.Name, err)
	}
	return target, os.Rename(part, folder)
}
