package farm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"hypnos/backends"
	"hypnos/bench/experiment"
	"hypnos/bench/table"
	"hypnos/core/train"
)

// Coordinator has the runs of one table trained by workers.
type Coordinator struct {
	settings CoordinatorOptions
	queue    *Queue
	identity Identity
	news     *nats.Subscription
	claim    *nats.Subscription

	ctx    context.Context // until Close, or something is wrong with the whole
	fail   context.CancelCauseFunc
	mu     sync.Mutex
	runs   map[string]*dispatched
	share  sync.Mutex         // one puts images there, or parts, at a time
	images map[string]*images // in the queue, by path
}

// CoordinatorOptions of NewCoordinator.
type CoordinatorOptions struct {
	Program string // version
	Backend string // of the table's runs
	Table   string // for people: which it is
	Dir     string // copies on their way lie in it
	// Share puts images into the queue, for workers on other machines.
	Share bool
	// Own says that the queue's server belongs to this table: what another version left there is taken out, the table's folder has it.
	Own         bool
	UploadEvery time.Duration // how much of a run a dead worker may cost, about; 0 is every save
	MaxTries    int           // workers that may take up a run in turn without getting further; 0 is DefaultMaxTries
	Observe     func(News)    // may be called at any time, by one goroutine
}

// DefaultMaxTries of CoordinatorOptions.
const DefaultMaxTries = 30

// dispatched is a run that is not done yet.
type dispatched struct {
	job       job
	conf      experiment.Config
	dir       *experiment.RunDir
	wake      chan struct{} // there is something to look at
	installed copied        // in the directory
	done      bool
}

// NewCoordinator makes the queue, or goes on with the one that is there. A queue that has another coordinator, or unfinished runs of
// another version, is an error.
func NewCoordinator(ctx context.Context, q *Queue, o CoordinatorOptions) (*Coordinator, error) {
	if o.MaxTries == 0 {
		o.MaxTries = DefaultMaxTries
	}
	c := &Coordinator{settings: o, queue: q, runs: map[string]*dispatched{}, images: map[string]*images{}}
	c.identity.Program = o.Program
	var err error
	if c.identity.Backend, c.identity.Arithmetic, err = backends.Pin(o.Backend); err != nil {
		return nil, err
	}
	if q.tools, err = q.create(ctx); err != nil {
		return nil, err
	}
	if err := c.claimQueue(ctx); err != nil {
		return nil, err
	}
	if err := c.announce(ctx); err != nil {
		c.claim.Unsubscribe()
		return nil, err
	}
	c.ctx, c.fail = context.WithCancelCause(context.Background())
	go func() {
		select {
		case <-q.closed:
			c.fail(q.lost())
		case <-c.ctx.Done():
		}
	}()
	if c.news, err = q.conn.Subscribe(q.subject("news"), c.hear); err != nil {
		c.claim.Unsubscribe()
		return nil, fmt.Errorf("farm: %w", err)
	}
	return c, nil
}

// claimQueue asks whether the queue has a coordinator, and answers from now on that it has.
func (c *Coordinator) claimQueue(ctx context.Context) (err error) {
	q := c.queue
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	if reply, err := q.conn.RequestWithContext(ctx, q.subject("coordinator"), nil); err == nil {
		return fmt.Errorf("farm: queue %s at %s is in use by %s: choose another queue name", q.name, q.where, reply.Data)
	} else if !errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("farm: queue %s at %s: %w", q.name, q.where, err)
	}
	host, _ := os.Hostname() // for people
	who := fmt.Sprintf("%s (process %d on %s)", c.settings.Table, os.Getpid(), host)
	c.claim, err = q.conn.Subscribe(q.subject("coordinator"), func(m *nats.Msg) { _ = m.Respond([]byte(who)) })
	return err
}

// announce writes the manifest, after it has dealt with what is left in the queue.
func (c *Coordinator) announce(ctx context.Context) error {
	q := c.queue
	old, err := q.manifest(ctx)
	if err != nil {
		return err
	}
	info, err := q.jobs.Info(ctx)
	if err != nil {
		return fmt.Errorf("farm: queue %s at %s: %w", q.name, q.where, err)
	}
	switch left := info.State.Msgs; {
	case c.settings.Own: // whatever is still wanted is published again
		if err := q.jobs.Purge(ctx); err != nil {
			return fmt.Errorf("farm: queue %s at %s: %w", q.name, q.where, err)
		}
	case left > 0 && old != nil && old.Identity != c.identity:
		return fmt.Errorf("farm: queue %s at %s has %d unfinished runs of %s, %s (this is %s, %s): finish them with that, or choose another queue name",
			q.name, q.where, left, old.Program, old.Arithmetic, c.identity.Program, c.identity.Arithmetic)
	}
	return q.setManifest(ctx, c.manifest())
}

func (c *Coordinator) manifest() manifest {
	return manifest{Identity: c.identity, Table: c.settings.Table, UploadEvery: c.settings.UploadEvery, MaxTries: c.settings.MaxTries}
}

// hear takes news.
func (c *Coordinator) hear(m *nats.Msg) {
	var n News
	if err := json.Unmarshal(m.Data, &n); err != nil {
		return // from somebody who is no worker
	}
	if n.Kind == Uploaded || n.Kind == Released {
		c.mu.Lock()
		if r := c.runs[n.Key]; r != nil {
			select {
			case r.wake <- struct{}{}:
			default: // it will look
			}
		}
		c.mu.Unlock()
	}
	c.settings.Observe(n)
}

// Fail ends all runs with an error.
func (c *Coordinator) Fail(err error) { c.fail(err) }

// Train has a run trained and installs what comes in its directory: copies as it goes, at last the result. When ctx ends it returns at
// once with an error that wraps train.ErrInterrupted. It is table.Options.Dispatch.
func (c *Coordinator) Train(ctx context.Context, t table.Task) (result table.Result, err error) {
	r, err := c.dispatch(ctx, t)
	if err != nil {
		return result, err
	}
	poll := time.NewTicker(time.Second)
	defer poll.Stop()
	for published := false; ; {
		s, err := c.look(ctx, r)
		switch {
		case err == nil && s.Done:
			return c.take(r)
		case errors.Is(err, jetstream.ErrKeyNotFound) || err == nil && !published: // at first, or the queue has lost what it had
			if err = c.publish(ctx, r); err == nil {
				published = true
			}
		case err == nil && s.Failed != "":
			return result, errors.New(s.Failed)
		}
		switch {
		case local(err):
			return result, err
		case err != nil && c.repair(ctx) == nil:
			published = false
		}
		select {
		case <-ctx.Done():
			return result, fmt.Errorf("farm: %w", train.ErrInterrupted)
		case <-c.ctx.Done():
			return result, context.Cause(c.ctx)
		case <-r.wake:
		case <-poll.C:
		}
	}
}

// take reads the result that was installed in a run's directory, which is free then.
func (c *Coordinator) take(r *dispatched) (result table.Result, err error) {
	text, err := os.ReadFile(r.dir.File(table.ResultFile))
	if err != nil {
		return result, err
	}
	if err := json.Unmarshal(text, &result); err != nil {
		return result, fmt.Errorf("%s: %w", r.dir.File(table.ResultFile), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	r.done = true
	return result, r.dir.Close()
}

// repair makes what is missing of the queue, when the server has come back without it. An error is one of a server that is away.
func (c *Coordinator) repair(ctx context.Context) error {
	c.share.Lock()
	defer c.share.Unlock()
	if !c.queue.conn.IsConnected() {
		return nats.ErrConnectionClosed
	}
	if _, err := c.queue.create(ctx); err != nil {
		return err
	}
	m, err := c.queue.manifest(ctx)
	if err != nil || m != nil {
		return err
	}
	clear(c.images) // they are put there again
	return c.queue.setManifest(ctx, c.manifest())
}

// local tells whether an error is of this machine: the server's pass.
func local(err error) bool {
	var path *os.PathError
	var here *localError
	return errors.As(err, &path) || errors.As(err, &here)
}

type localError struct{ error }

// dispatch prepares a run.
func (c *Coordinator) dispatch(ctx context.Context, t table.Task) (r *dispatched, err error) {
	r = &dispatched{conf: t.Config, wake: make(chan struct{}, 1)}
	r.job = job{Label: t.Label, Config: t.Config.Text(), Identity: c.identity}
	if c.settings.Share && t.Config.Data.Path != "" {
		if r.job.Images, err = c.shareImages(ctx, t.Config.Data.Path); err != nil {
			return nil, err
		}
	}
	r.job.Key = r.job.key()
	if r.dir, err = experiment.OpenDir(t.Dir); err != nil {
		return nil, err
	}
	if _, err := r.dir.State(r.conf); err != nil {
		return nil, errors.Join(err, r.dir.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs[r.job.Key] = r
	return r, nil
}

// publish puts a run into the queue: its state, with a copy of what its directory has, and the job.
func (c *Coordinator) publish(ctx context.Context, r *dispatched) error {
	here, err := r.dir.State(r.conf)
	if err != nil {
		return &localError{err}
	}
	q := c.queue
	s, revision, err := q.state(ctx, r.job.Key)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return err
	}
	if at, _ := s.newest(); !s.Done && (revision == 0 || here.Step > at.Step || s.Failed != "") {
		s.Lease++ // who has an older copy has lost the run
		s.Failures, s.Failed, s.Tries = nil, "", 0
		if here.Step > at.Step {
			first := newCopy(r.job.Key, here.Step)
			if err := q.put(ctx, first.Object, func(w io.Writer) error { return packRun(w, r.dir.Path) }); err != nil {
				return err
			}
			s.Copies = append([]copied{first}, s.Copies[:min(len(s.Copies), 1)]...)
			r.installed = first
		}
		if err := q.setState(ctx, r.job.Key, s, revision); err != nil {
			return err
		}
	}
	if r.job.Images != nil { // there, unless the queue has lost them
		if _, err := c.shareImages(ctx, r.conf.Data.Path); err != nil {
			return err
		}
	}
	text, err := json.Marshal(r.job)
	if err != nil {
		return err
	}
	_, err = q.js.Publish(ctx, q.subject("jobs", r.job.Key), text)
	if inQueue(err) {
		return nil
	}
	return err
}

// inQueue tells whether a job was refused because it is in the queue already.
func inQueue(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && strings.Contains(api.Description, "maximum messages per subject")
}

// look reads a run's state and installs the newest copy of its directory.
func (c *Coordinator) look(ctx context.Context, r *dispatched) (state, error) {
	s, _, err := c.queue.state(ctx, r.job.Key)
	if err != nil {
		return s, err
	}
	newest, ok := s.newest()
	if !ok || newest == r.installed {
		return s, nil
	}
	way := filepath.Join(c.settings.Dir, "arriving-"+r.job.Key)
	defer os.RemoveAll(way)
	err = c.queue.fetchRun(ctx, newest, way, r.conf)
	if err == nil {
		err = install(way, r.dir)
	}
	switch {
	case err == nil:
		r.installed = newest
	case damaged(err) && s.Done: // the result is lost: once more, from what is left
		s.Done = false
		return s, c.again(ctx, r, newest)
	case damaged(err): // the next worker finds out, and the next copy is another
		return s, nil
	}
	return s, err
}

// again takes the newest copy of a run that was done out of its state, and publishes it anew.
func (c *Coordinator) again(ctx context.Context, r *dispatched, lost copied) error {
	s, revision, err := c.queue.state(ctx, r.job.Key)
	if err != nil {
		return err
	}
	if newest, ok := s.newest(); !ok || newest != lost {
		return nil
	}
	note := fmt.Sprintf("the result is damaged in the queue: going on from step %d", s.before())
	c.settings.Observe(News{Key: r.job.Key, Label: r.job.Label, Kind: Note, Text: note})
	s.Copies, s.Done = s.Copies[1:], false
	s.Lease++
	if err := c.queue.setState(ctx, r.job.Key, s, revision); err != nil {
		return err
	}
	return c.publish(ctx, r)
}

// before is the step of the copy before the newest, 0 without one.
func (s state) before() int64 {
	if len(s.Copies) < 2 {
		return 0
	}
	return s.Copies[1].Step
}

// shareImages puts images into the queue, once.
func (c *Coordinator) shareImages(ctx context.Context, path string) (*images, error) {
	c.share.Lock()
	defer c.share.Unlock()
	if i := c.images[path]; i != nil {
		return i, nil
	}
	i, err := identify(path)
	if err != nil {
		return nil, err
	}
	if _, err := c.queue.files.GetInfo(ctx, i.object()); errors.Is(err, jetstream.ErrObjectNotFound) {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return nil, err
		}
		c.settings.Observe(News{Kind: Note, Text: "putting the images " + i.Name + " into the queue"})
		if err := c.queue.put(ctx, i.object(), func(w io.Writer) error { return packImages(w, absolute) }); err != nil {
			return nil, fmt.Errorf("farm: images %s: %w", path, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("farm: images %s: %w", path, err)
	}
	c.images[path] = i
	return i, nil
}

// Close, after every Train has returned, installs what workers have handed in last, lets workers go if every run is done, and takes what
// is done out of the queue. Runs that are not done stay in it: workers on other machines go on with them. The queue stays connected.
func (c *Coordinator) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c.fail(nats.ErrConnectionClosed)
	c.mu.Lock()
	defer c.mu.Unlock()
	var failed []error
	open := 0
	for _, r := range c.runs {
		if r.done {
			continue
		}
		s, err := c.look(ctx, r)
		if local(err) {
			failed = append(failed, err)
		}
		if err != nil || !s.Done {
			open++
		}
		r.dir.Close()
	}
	if open == 0 {
		c.clear(ctx)
	}
	c.news.Unsubscribe()
	c.claim.Unsubscribe()
	return errors.Join(failed...)
}

// clear takes all that this table had out of the queue. It is in the table's folder; what fails here is only not cleared up.
func (c *Coordinator) clear(ctx context.Context) {
	q := c.queue
	m := c.manifest()
	m.Done = true
	_ = q.setManifest(ctx, m)
	for key := range c.runs {
		_ = q.jobs.Purge(ctx, jetstream.WithPurgeSubject(q.subject("jobs", key)))
		_ = q.states.Purge(ctx, key)
	}
	if keys, err := q.states.Keys(ctx); err == nil && len(keys) == 1 { // only the manifest: nobody else has something here
		_ = q.js.DeleteObjectStore(ctx, q.name+"-files") // with the pieces that dead workers left
		return
	}
	all, _ := q.files.List(ctx)
	for _, o := range all {
		if run, _, _ := strings.Cut(o.Name, "-"); c.runs[run] != nil {
			_ = q.files.Delete(ctx, o.Name)
		}
	}
}
