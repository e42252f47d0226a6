// Package farm trains the runs of a table on many workers: processes of this machine or of others that come, go and die as they like.
//
// What lies between the coordinator, which has the table, and its workers is a queue, made of four things of NATS JetStream:
//
//	jobs     a stream with a message a run, which the worker that finished it takes out; one whose worker is not heard of for AckWait
//	         is handed to another
//	states   a key a run: how often it was taken, by whom, which copy of its run directory is the newest, whether it is done
//	files    copies of run directories (checkpoint, metrics, at last the result), and images
//	news     what workers tell about their runs as they go; it may be lost
//
// One writer. A slow worker that is held for dead must not overwrite what its successor did. Taking a run counts up the lease in its
// state, and whatever a worker wants to record (a copy of the run directory, the result) it records in the state, at the revision it has
// read, if the lease is still its own; otherwise it drops the run. So copies and results are never mixed, and a result is recorded once.
//
// The same numbers. A run goes on bit for bit from a copy of its directory (package experiment), on any number of threads. What else the
// bits depend on is compared before a worker works: the program's version and the arithmetic (backends.Pin). How often a run was killed
// and who trained it can then change no number but the times.
//
// Nothing lost. The table's folder is what counts: the coordinator writes each copy that arrives into the run's directory there, in the
// layout of a table that is trained without workers, so that a table can be continued either way. A queue that comes back empty is filled
// again from the folder. Workers go on training while the server is away, and hand in what they have when it is back.
package farm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Identity is what coordinator and workers must have in common for the same numbers.
type Identity struct {
	Program    string `json:"program"`    // version
	Backend    string `json:"backend"`    // with what the coordinator's machine chose for it
	Arithmetic string `json:"arithmetic"` // see backends.Pin
}

// manifest is what a queue is for; the coordinator writes it.
type manifest struct {
	Identity
	Table       string        `json:"table"` // for messages
	UploadEvery time.Duration `json:"upload_every"`
	MaxTries    int           `json:"max_tries"`
	Done        bool          `json:"done"` // workers may go
}

// job is a run to be done, as the queue has it.
type job struct {
	Key    string `json:"key"`
	Label  string `json:"label"`
	Config string `json:"config"` // TOML
	Identity
	Images *images `json:"images,omitempty"` // that the queue has; nil: they are where the configuration says, on every worker
}

// key identifies a run by all that its numbers depend on.
func (j job) key() string {
	h := sha256.New()
	for _, s := range []string{j.Config, j.Program, j.Backend, j.Arithmetic} {
		fmt.Fprintf(h, "%d %s\n", len(s), s)
	}
	if j.Images != nil {
		fmt.Fprint(h, j.Images.Digest)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:12])
}

// state is how far a run is.
type state struct {
	Lease    int      `json:"lease"`  // how often it was taken; only the last taker may write
	Worker   string   `json:"worker"` // the last taker
	Tries    int      `json:"tries"`  // takings since it got further
	Failures []string `json:"failures,omitempty"`
	Copies   []copied `json:"copies,omitempty"` // of its directory, the newest first
	Done     bool     `json:"done"`             // the newest copy has the result
	Failed   string   `json:"failed,omitempty"` // why it is given up
}

// copied is a copy of a run directory.
type copied struct {
	Object string `json:"object"`
	Step   int64  `json:"step"` // of its checkpoint
}

// newCopy names a copy as nobody else does: an object is written once.
func newCopy(key string, step int64) copied { return copied{key + "-" + rand.Text(), step} }

// newest is the newest copy, ok whether there is one.
func (s state) newest() (c copied, ok bool) {
	if len(s.Copies) == 0 {
		return c, false
	}
	return s.Copies[0], true
}

// News is what a worker tells.
type News struct {
	Key    string `json:"key,omitempty"` // of the run
	Label  string `json:"label"`         // of the run
	Worker string `json:"worker"`
	Kind   Kind   `json:"kind"`
	Text   string `json:"text,omitempty"` // of a Note
	// Where the run is.
	From  int64   `json:"from,omitempty"`  // step that this worker began at
	Step  int64   `json:"step,omitempty"`  // learning steps done
	Steps int64   `json:"steps,omitempty"` // of the whole run
	Epoch int     `json:"epoch,omitempty"` // from 0
	Loss  float64 `json:"loss,omitempty"`
	Top1  float64 `json:"top1,omitempty"`  // of the batch, or in an Eval of the test images
	Speed float64 `json:"speed,omitempty"` // images a second
}

// Kind is a kind of News.
type Kind string

// Kinds of News.
const (
	Begun    Kind = "begun"
	Stepped  Kind = "step"     // at most one a second
	Tested   Kind = "eval"     // Epoch, Top1
	Uploaded Kind = "saved"    // the queue has a copy up to Step
	Released Kind = "released" // the worker is through with the run, done or not
	Note     Kind = "note"     // Text, for people; without a Key it is about the worker
)

// Options of Connect.
type Options struct {
	URL   string // nats://host:port, tls://…; several with commas; may hold user and password
	Token string // "" for none
	Name  string // of the queue on the server: letters, digits, - and _; "" is DefaultName
	As    string // who connects, for the server's listings
	Log   func(line string)
	// AckWait is how long a worker may be silent before its run is handed to another; 0 is DefaultAckWait. The coordinator's counts.
	AckWait time.Duration
}

// Defaults of Options.
const (
	DefaultName    = "hypnos"
	DefaultAckWait = 10 * time.Second
)

// Queue is a connection to a server, and a queue on it.
type Queue struct {
	name, where string // where without passwords
	ackWait     time.Duration
	log         func(string)
	conn        *nats.Conn
	js          jetstream.JetStream
	closed      chan struct{} // when the connection is given up
	mu          sync.Mutex
	why         error // it was given up
	last        error // the last error of the connection
	tools
}

// tools are the queue's parts on the server, once they are found or made.
type tools struct {
	jobs     jetstream.Stream
	takers   jetstream.Consumer
	states   jetstream.KeyValue
	files    jetstream.ObjectStore
	silences time.Duration // the AckWait that counts
}

const (
	consumer    = "workers"
	manifestKey = "manifest"
	// answerTime is how long a request of the server may take, and idleTime how long an object's bytes may stay away.
	answerTime = 5 * time.Second
	idleTime   = 20 * time.Second
)

// Connect opens a connection. That nobody answers, or that the token is refused, is an error now; later the connection comes back by
// itself, with a line to Log when it goes and when it is back.
func Connect(o Options) (*Queue, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`).MatchString(o.Name) {
		return nil, fmt.Errorf("farm: queue name %q: 1 to 40 letters, digits, - and _", o.Name)
	}
	if o.AckWait == 0 {
		o.AckWait = DefaultAckWait
	}
	q := &Queue{name: o.Name, where: redact(o.URL), ackWait: o.AckWait, log: o.Log, closed: make(chan struct{})}
	settings := []nats.Option{
		nats.Name(o.As), nats.MaxReconnects(-1), nats.ReconnectWait(500 * time.Millisecond), nats.Timeout(answerTime),
		nats.ReconnectBufSize(-1), // what cannot be sent is an error now, not a surprise later
		nats.DisconnectErrHandler(func(c *nats.Conn, err error) {
			if !c.IsClosed() {
				q.log(fmt.Sprintf("the queue at %s does not answer (%s): waiting for it", q.where, orLeft(err)))
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { q.log(fmt.Sprintf("the queue at %s answers again", q.where)) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { q.remember(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { q.remember(err) }),
		nats.ClosedHandler(func(c *nats.Conn) { q.gone(c.LastError()) }),
	}
	if o.Token != "" {
		settings = append(settings, nats.Token(o.Token))
	}
	var err error
	if q.conn, err = nats.Connect(o.URL, settings...); err != nil {
		return nil, q.refused(err)
	}
	if q.js, err = jetstream.New(q.conn, jetstream.WithDefaultTimeout(answerTime)); err != nil {
		q.conn.Close()
		return nil, fmt.Errorf("farm: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTime)
	defer cancel()
	if _, err = q.js.AccountInfo(ctx); err != nil {
		q.conn.Close()
		return nil, q.refused(err)
	}
	return q, nil
}

// redact takes passwords out of URLs.
func redact(urls string) string {
	all := strings.Split(urls, ",")
	for i, s := range all {
		if u, err := url.Parse(strings.TrimSpace(s)); err == nil {
			if u.User != nil {
				u.User = url.User("…")
			}
			all[i] = strings.ReplaceAll(u.String(), "%E2%80%A6", "…")
		}
	}
	return strings.Join(all, ",")
}

// refused says in one line why there is no connection.
func (q *Queue) refused(err error) error {
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return fmt.Errorf("farm: the server at %s refuses this token, user or password", q.where)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("farm: the server at %s has no JetStream (nats-server -js)", q.where)
	case errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("farm: no NATS server answers at %s", q.where)
	}
	return fmt.Errorf("farm: no NATS server answers at %s: %w", q.where, err)
}

// orLeft is an error's text, or that the server left.
func orLeft(err error) string {
	if err == nil {
		return "it has gone"
	}
	return strings.TrimPrefix(err.Error(), "nats: ")
}

func (q *Queue) remember(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.last = err
}

// gone is called once, when the connection will not come back: it was closed, or the server refuses the token now.
func (q *Queue) gone(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		err = q.last
	}
	if err == nil {
		err = nats.ErrConnectionClosed
	}
	q.why = q.refused(err)
	close(q.closed)
}

// lost is why the connection was given up.
func (q *Queue) lost() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.why
}

// Close sends what is to be sent and ends the connection.
func (q *Queue) Close() {
	_ = q.conn.FlushTimeout(time.Second) // a server that is away gets nothing
	q.conn.Close()
}

// subject is a subject of the queue.
func (q *Queue) subject(parts ...string) string { return q.name + "." + strings.Join(parts, ".") }

// create finds the queue's parts, or makes those that are missing. Parts that were found earlier can be used again when the server has
// lost them and they were made anew.
func (q *Queue) create(ctx context.Context) (t tools, err error) {
	t.silences = q.ackWait
	t.jobs, err = q.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: q.name + "-jobs", Subjects: []string{q.subject("jobs", "*")}, Retention: jetstream.WorkQueuePolicy,
		// A job that is in the queue is refused: it is never there twice.
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
	})
	if err == nil {
		t.takers, err = t.jobs.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: consumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: q.ackWait, MaxAckPending: 10_000, MaxDeliver: -1,
		})
	}
	if err == nil {
		t.states, err = q.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: q.name + "-states", History: 1})
	}
	if err == nil {
		t.files, err = q.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{Bucket: q.name + "-files"})
	}
	if err != nil {
		return t, fmt.Errorf("farm: queue %s at %s: %w", q.name, q.where, err)
	}
	return t, nil
}

// find reads what the queue is for, nil when it is for nothing yet, and finds its parts unless it is done.
func (q *Queue) find(ctx context.Context) (m *manifest, err error) {
	t := tools{}
	if t.states, err = q.js.KeyValue(ctx, q.name+"-states"); err != nil {
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			err = nil
		}
		return nil, err
	}
	q.states = t.states
	if m, err = q.manifest(ctx); err != nil || m == nil || m.Done {
		return m, err
	}
	if t.jobs, err = q.js.Stream(ctx, q.name+"-jobs"); err != nil {
		return nil, err
	}
	if t.takers, err = t.jobs.Consumer(ctx, consumer); err != nil {
		return nil, err
	}
	t.silences = t.takers.CachedInfo().Config.AckWait
	if t.files, err = q.js.ObjectStore(ctx, q.name+"-files"); err != nil {
		return nil, err
	}
	q.tools = t
	return m, nil
}

// manifest reads what the queue is for; nil without one.
func (q *Queue) manifest(ctx context.Context) (*manifest, error) {
	e, err := q.states.Get(ctx, manifestKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := &manifest{}
	if err := json.Unmarshal(e.Value(), m); err != nil {
		return nil, fmt.Errorf("farm: queue %s at %s: manifest: %w", q.name, q.where, err)
	}
	return m, nil
}

// setManifest writes what the queue is for.
func (q *Queue) setManifest(ctx context.Context, m manifest) error {
	text, err := json.Marshal(m)
	if err == nil {
		_, err = q.states.Put(ctx, manifestKey, text)
	}
	return err
}

// state reads a run's state; jetstream.ErrKeyNotFound without one.
func (q *Queue) state(ctx context.Context, key string) (s state, revision uint64, err error) {
	e, err := q.states.Get(ctx, key)
	if err != nil {
		return s, 0, err
	}
	if err := json.Unmarshal(e.Value(), &s); err != nil {
		return s, 0, fmt.Errorf("farm: state of run %s: %w", key, err)
	}
	return s, e.Revision(), nil
}

// setState writes a run's state if nobody has written it since the revision; 0: if there is none.
func (q *Queue) setState(ctx context.Context, key string, s state, revision uint64) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if revision == 0 {
		_, err = q.states.Create(ctx, key, text)
	} else {
		_, err = q.states.Update(ctx, key, text, revision)
	}
	return err
}

// conflict tells whether a state was not written because somebody else wrote it.
func conflict(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

// tell sends news; whether they arrive does not matter.
func (q *Queue) tell(n News) {
	if text, err := json.Marshal(n); err == nil {
		_ = q.conn.Publish(q.subject("news"), text)
	}
}

// pause waits; it is false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
