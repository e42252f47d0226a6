package server

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"hypnos/server/brain"
)

// maxEvents is how many events are kept for whoever comes back.
const maxEvents = 256

// feed keeps the last events, for any number of readers, each at its own place.
type feed struct {
	run string // tells the events of this run from those of another, which count from 1 as well

	mu    sync.Mutex
	last  []brain.Event // at most maxEvents, without a gap unless the brain missed some
	fresh chan struct{} // closed when there is another
}

// newFeed is a feed without events, of the run that began at start.
func newFeed(start time.Time) *feed {
	return &feed{run: strconv.FormatInt(start.UnixNano(), 36), fresh: make(chan struct{})}
}

func (f *feed) add(e brain.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = appendLast(f.last, e, maxEvents)
	close(f.fresh)
	f.fresh = make(chan struct{})
}

// after are the events kept whose ID is above id, and a channel that is closed when there is another.
func (f *feed) after(id uint64) ([]brain.Event, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var events []brain.Event
	for _, e := range f.last {
		if e.ID > id {
			events = append(events, e)
		}
	}
	return events, f.fresh
}

// newest is the ID of the last event, 0 before any.
func (f *feed) newest() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.last) == 0 {
		return 0
	}
	return f.last[len(f.last)-1].ID
}

// position is where a stream begins: after the event that Last-Event-ID names, or with what comes from now on. missed
// tells that it names one of another run.
func (f *feed) position(lastEventID string) (id uint64, missed bool, err error) {
	if lastEventID == "" {
		return f.newest(), false, nil
	}
	run, number, _ := strings.Cut(lastEventID, "-")
	if id, err = strconv.ParseUint(number, 10, 64); err != nil {
		return 0, false, refuse(CodeParameter, "Last-Event-ID is not one of this server's")
	}
	if run != f.run || id > f.newest() {
		return 0, true, nil
	}
	return id, false, nil
}

// stream sends events as they happen, in the format of server-sent events (HTML standard, section 9.2): the kind as the
// event's type, the Event as JSON, RUN-ID as its id. An event "missed" says that there were others between.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	release, err := place(s.streams, "streams of events")
	if err != nil {
		return err
	}
	defer release()
	id, missed, err := s.events.position(r.Header.Get("Last-Event-ID"))
	if err != nil {
		return err
	}
	rc := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	out := &patientWriter{w, rc, s.config}
	heartbeat := time.NewTicker(s.config.HeartbeatEvery.Duration)
	defer heartbeat.Stop()
	fmt.Fprint(out, ": hypnos\n\n")
	for {
		events, fresh := s.events.after(id)
		for _, e := range events {
			if missed || e.ID != id+1 {
				writeEvent(out, "missed", "", map[string]uint64{"next": e.ID})
			}
			missed, id = false, e.ID
			writeEvent(out, e.Kind, fmt.Sprintf("%s-%d", s.events.run, e.ID), e)
		}
		if rc.Flush() != nil {
			return nil // the client has gone
		}
		select {
		case <-fresh:
		case <-heartbeat.C:
			if _, err := fmt.Fprint(out, ": still here\n\n"); err != nil {
				return nil
			}
		case <-r.Context().Done():
			return nil
		case <-s.stopping:
			return nil
		}
	}
}

// writeEvent writes one event. That the client has gone shows at the next Flush.
func writeEvent(w io.Writer, kind, id string, v any) {
	text, err := json.Marshal(v) // one line: it escapes line ends
	if err != nil {
		panic("server: an event is no JSON: " + err.Error())
	}
	if id != "" {
		fmt.Fprintf(w, "id: %s\n", id)
	}
	fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, text)
}
