package server

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hypnos/server/brain"
)

// metrics counts what the server did.
type metrics struct {
	inFlight atomic.Int64

	mu       sync.Mutex
	errors   map[brain.Code]int64
	requests map[request]int64
	seconds  map[string]*histogram // by path
}

type request struct {
	path   string
	status int
}

// histogram counts durations; counts[i] are those up to bounds()[i] and above the one before.
type histogram struct {
	counts [11]int64 // the last one is for what is above all bounds
	sum    float64
}

// bounds are the upper ends of a histogram's buckets, in seconds. The one of 50 ms is what pre-emption is held against.
func bounds() [10]float64 { return [10]float64{.001, .0025, .005, .01, .025, .05, .1, .5, 2, 10} }

func newMetrics(routes []route) *metrics {
	m := &metrics{errors: map[brain.Code]int64{}, requests: map[request]int64{}, seconds: map[string]*histogram{}}
	for code := range statuses() {
		m.errors[code] = 0 // a counter that is not there is not 0
	}
	for _, r := range routes {
		m.seconds[r.path] = &histogram{}
	}
	return m
}

func (m *metrics) fail(code brain.Code) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errors[code]++
}

func (m *metrics) served(path string, status int, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests[request{path, status}]++
	h := m.seconds[path]
	if h == nil {
		return // no route
	}
	b := bounds()
	i, _ := slices.BinarySearch(b[:], d.Seconds())
	h.counts[i]++
	h.sum += d.Seconds()
}

// showMetrics writes all metrics in Prometheus' text format, version 0.0.4.
func (s *Server) showMetrics(w http.ResponseWriter, _ *http.Request) error {
	t := &exposition{}
	s.metrics.write(t)
	writeStatus(t, s.brain.Status())
	h := w.Header()
	h.Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.Write(t.Bytes()) // nobody is left to tell
	return nil
}

func (m *metrics) write(t *exposition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n, known := resident(); known {
		t.one("process_resident_memory_bytes", "gauge", "Memory of the daemon that is in RAM.", n)
	}
	t.one("hypnos_http_in_flight", "gauge", "Requests that are being served.", float64(m.inFlight.Load()))
	t.head("hypnos_errors_total", "counter", "Errors by their code.")
	for _, code := range slices.Sorted(maps.Keys(m.errors)) {
		t.value("hypnos_errors_total", float64(m.errors[code]), "code", string(code))
	}
	t.head("hypnos_http_requests_total", "counter", "Requests by path and status; status 0 is a client that went before its answer.")
	for _, r := range slices.SortedFunc(maps.Keys(m.requests), func(a, b request) int {
		return cmp.Or(strings.Compare(a.path, b.path), cmp.Compare(a.status, b.status))
	}) {
		t.value("hypnos_http_requests_total", float64(m.requests[r]), "path", r.path, "status", strconv.Itoa(r.status))
	}
	const seconds = "hypnos_http_request_seconds"
	t.head(seconds, "histogram", "Time from a request's header to the end of its answer.")
	for _, path := range slices.Sorted(maps.Keys(m.seconds)) {
		h, n := m.seconds[path], int64(0)
		for i, bound := range bounds() {
			n += h.counts[i]
			t.value(seconds+"_bucket", float64(n), "path", path, "le", number(bound))
		}
		n += h.counts[len(h.counts)-1]
		t.value(seconds+"_bucket", float64(n), "path", path, "le", "+Inf")
		t.value(seconds+"_sum", h.sum, "path", path)
		t.value(seconds+"_count", float64(n), "path", path)
	}
}

// resident is the memory of this process that is in RAM, in bytes, where Linux tells it.
func resident() (bytes float64, known bool) {
	text, err := os.ReadFile("/proc/self/statm") // in pages: size, resident, …
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0, false
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return float64(pages) * float64(os.Getpagesize()), err == nil
}

// writeStatus writes what the brain tells. What is not known is left out.
func writeStatus(t *exposition, st brain.Status) {
	t.head("hypnos_state", "gauge", "1 for the state that the network is in.")
	for _, state := range []string{"awake", "drowsy", "asleep"} {
		t.value("hypnos_state", bit(st.State == state), "state", state)
	}
	c := st.Counters
	for _, x := range []struct {
		name, kind, help string
		v                float64
	}{
		{"hypnos_start_time_seconds", "gauge", "When the daemon started, Unix time.", float64(st.Started.UnixMilli()) / 1000},
		{"hypnos_step", "gauge", "Images that the model learned from.", float64(st.Step)},
		{"hypnos_steps_since_sleep", "gauge", "Of these, those after the last whole sleep.", float64(st.StepsSinceSleep)},
		{"hypnos_learn_queue", "gauge", "Learn requests that wait.", float64(st.Queued)},
		{"hypnos_learn_queue_limit", "gauge", "Learn requests that may wait.", float64(st.QueueLimit)},
		{"hypnos_classified_total", "counter", "Images classified.", float64(c.Classified)},
		{"hypnos_learned_total", "counter", "Images learned from.", float64(c.Learned)},
		{"hypnos_sleeps_total", "counter", "Sleeps that came to their end.", float64(c.Sleeps)},
		{"hypnos_sleeps_interrupted_total", "counter", "Interruptions of sleeps.", float64(c.Interrupted)},
		{"hypnos_snapshots_total", "counter", "Snapshots written.", float64(c.Snapshots)},
		{"hypnos_store_errors_total", "counter", "Errors of the store.", float64(c.StoreErrors)},
		{"hypnos_events_missed_total", "counter", "Events missed by subscribers that were too slow.", float64(c.EventsMissed)},
		{"hypnos_feedback_total", "counter", "Labels given.", float64(st.Feedback.Count)},
		{"hypnos_feedback_correct_total", "counter", "Labels given that the network had right before.", float64(st.Feedback.Correct)},
		{"hypnos_durable", "gauge", "1 when what is learned outlives a loss of power.", bit(st.Durability.Durable)},
		{"hypnos_journal_records", "gauge", "Records since the last snapshot.", float64(st.Durability.Journal)},
	} {
		t.one(x.name, x.kind, x.help, x.v)
	}
	t.head("hypnos_refused_total", "counter", "Requests that the brain refused, by code.")
	for _, code := range slices.Sorted(maps.Keys(c.Refused)) {
		t.value("hypnos_refused_total", float64(c.Refused[code]), "code", code)
	}
	if st.Durability.Free != nil {
		t.one("hypnos_data_free_bytes", "gauge", "Free space of the data directory.", *st.Durability.Free)
	}
	t.head("hypnos_reading", "gauge", "What sensors give.")
	for _, r := range st.Readings {
		if r.Value != nil {
			t.value("hypnos_reading", *r.Value, "sensor", r.Name, "unit", r.Unit)
		}
	}
	t.head("hypnos_layer_snr", "gauge", "Signal-to-noise ratio of a layer's weights, Eq. 6, as last measured.")
	for _, l := range st.Layers {
		if now := cmp.Or(l.After, l.Before); now != nil {
			t.value("hypnos_layer_snr", now.SNR, "layer", l.Layer)
		}
	}
	t.head("hypnos_layer_mean_ratio", "gauge", "How far the last sleep kept a layer's group means; 1 is kept.")
	for _, l := range st.Layers {
		if l.After != nil {
			t.value("hypnos_layer_mean_ratio", l.Mean.Ratio, "layer", l.Layer)
		}
	}
	t.head("hypnos_model", "gauge", "1 for each slot that is filled.")
	for _, m := range st.Models {
		t.value("hypnos_model", 1, "slot", m.Slot, "state", m.State, "version", strconv.FormatUint(m.Version, 10), "network", m.Network)
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// exposition is a text in Prometheus' format.
type exposition struct{ bytes.Buffer }

func (t *exposition) head(name, kind, help string) {
	fmt.Fprintf(t, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (t *exposition) one(name, kind, help string, v float64) {
	t.head(name, kind, help)
	t.value(name, v)
}

// value writes a sample; labels are names and values in turn.
func (t *exposition) value(name string, v float64, labels ...string) {
	t.WriteString(name)
	for i := 0; i < len(labels); i += 2 {
		t.WriteByte("{,"[min(i, 1)])
		fmt.Fprintf(t, `%s="%s"`, labels[i], strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		t.WriteByte('}')
	}
	fmt.Fprintf(t, " %s\n", number(v))
}

func number(v float64) string {
	switch {
	case math.IsInf(v, 1):
		return "+Inf"
	case math.IsInf(v, -1):
		return "-Inf"
	}
	return strconv.FormatFloat(v, 'g', -1, 64) // NaN as well
}
