// Package server offers a board's network over HTTP: classify, learn, sleep, models, events, metrics, a page for people.
//
// A Server is an http.Handler over a Brain. It knows no network and no clock but the wall's: it reads and checks what is sent,
// asks the Brain, and writes the answer as JSON. The list of routes (routes.go) says which errors each can give; openapi.json
// describes them for others, and a test holds both against the handlers.
//
// Whoever is not on this machine needs a token or a certificate: Config.Check refuses an address that others reach without.
package server

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"hypnos/server/brain"
)

// Brain is what the handlers need of brain.Brain, whose package says what each method does.
type Brain interface {
	Classify(context.Context, brain.Image) (brain.Result, error)
	Learn(ctx context.Context, x brain.Image, label int) (brain.Ack, error)
	Sleep(context.Context, brain.SleepRequest) (brain.Mood, error)
	Wake(ctx context.Context, reason string) (brain.Mood, error)
	Status() brain.Status
	Subscribe(buffer int) (events <-chan brain.Event, cancel func())
	Upload(context.Context, io.Reader) (brain.Model, error)
	Activate(context.Context) (brain.Model, error)
	Rollback(ctx context.Context, reason string) (brain.Model, error)
	Export(context.Context, io.Writer) error
}

// Server answers requests. Use New, and Close it in the end.
type Server struct {
	brain  Brain
	config Config
	log    *slog.Logger
	token  *secret // nil: none is asked for
	routes []route
	mux    *http.ServeMux

	clients  *buckets      // requests of each client
	images   chan struct{} // a place for each image that is read or waits
	streams  chan struct{} // a place for each stream of events
	metrics  *metrics
	events   *feed
	history  *history
	leave    func()        // ends the subscription
	stopping chan struct{} // closed by Close: streams end
	close    sync.Once
}

// New returns a server of b. It reads the token's file. The log gets what failed and what changed, never a token.
func New(b Brain, c Config, log *slog.Logger) (*Server, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	token, err := c.readToken()
	if err != nil {
		return nil, err
	}
	s := &Server{
		brain: b, config: c, log: log, token: token,
		clients:  newBuckets(c.Rate, c.Burst),
		images:   make(chan struct{}, c.MaxImages),
		streams:  make(chan struct{}, c.MaxStreams),
		events:   newFeed(b.Status().Started),
		history:  &history{},
		stopping: make(chan struct{}),
	}
	s.routes = s.table()
	s.metrics = newMetrics(s.routes)
	s.mux = s.newMux()
	events, leave := b.Subscribe(maxEvents)
	s.leave = leave
	s.history.measure(b.Status())
	go s.watch(events)
	return s, nil
}

// Close ends the streams of events. Requests after it are refused as stopping.
func (s *Server) Close() {
	s.close.Do(func() {
		close(s.stopping)
		s.leave()
	})
}

func (s *Server) isStopping() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// patience bounds how long the last requests may take when the server ends.
const patience = 10 * time.Second

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }
