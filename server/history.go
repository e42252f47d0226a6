package server

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"hypnos/core/sleep"
	"hypnos/server/brain"
)

// How much of the past is kept: a sample a minute of one day, and as many measurements of layers.
const (
	sampleEvery     = time.Minute
	maxSamples      = 24 * 60
	maxMeasurements = 256
)

// past is what the page draws against time.
type past struct {
	Samples []sample `json:"samples"`
	// Layers name the elements of a measurement.
	Layers       []string      `json:"layers"`
	Measurements []measurement `json:"measurements"`
}

// sample is the board at a moment. What is unknown is null.
type sample struct {
	Time        time.Time `json:"time"`
	State       string    `json:"state"`
	Step        int64     `json:"step"`
	Share       *float64  `json:"share"` // of recent feedback that was right
	Temperature *float64  `json:"temperature"`
	Voltage     *float64  `json:"voltage"`
	Current     *float64  `json:"current"`
}

// measurement is the layers at a moment: by layer, the SNR, nil where infinite, and after a sleep how it
// kept the means, nil where they were zero.
type measurement struct {
	Time      time.Time  `json:"time"`
	SNR       []*float64 `json:"snr"`
	MeanRatio []*float64 `json:"mean_ratio,omitempty"`
}

// history collects the past.
type history struct {
	mu   sync.Mutex
	past past
}

// sample adds what a status tells of its moment.
func (h *history) sample(st brain.Status) {
	s := sample{Time: st.Time, State: st.State, Step: st.Step}
	if st.Feedback.Recent > 0 {
		share := st.Feedback.Share // a pointer into st would keep all of it
		s.Share = &share
	}
	for _, r := range st.Readings {
		switch r.Name {
		case "temperature":
			s.Temperature = r.Value
		case "voltage":
			s.Voltage = r.Value
		case "current":
			s.Current = r.Value
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.past.Samples = appendLast(h.past.Samples, s, maxSamples)
}

// measure adds the measurements of a status that are newer than the last one: before and after each whole sleep, and those
// between. A sleep that is not whole may have measured some layers only.
func (h *history) measure(st brain.Status) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range st.Sleeps {
		if !s.Complete {
			continue
		}
		h.add(s.Began, s.Layers, false)
		h.add(s.Ended, s.Layers, true)
	}
	if !slices.ContainsFunc(st.Layers, func(l sleep.LayerReport) bool { return l.After != nil }) {
		h.add(st.Measured, st.Layers, false)
	}
}

func (h *history) add(at time.Time, layers []sleep.LayerReport, after bool) {
	p := &h.past
	if at.IsZero() || len(p.Measurements) > 0 && !at.After(p.Measurements[len(p.Measurements)-1].Time) {
		return
	}
	m, names := measurement{Time: at}, []string(nil)
	for _, l := range layers {
		stats := l.Before
		if after {
			stats = l.After
			m.MeanRatio = append(m.MeanRatio, sleep.Finite(l.Mean.Ratio))
		}
		if stats == nil || stats.Groups == 0 {
			return // not measured, or a layer without groups, of which nothing can be told
		}
		names = append(names, l.Layer)
		m.SNR = append(m.SNR, sleep.Finite(stats.SNR))
	}
	if len(names) == 0 {
		return
	}
	if !slices.Equal(names, p.Layers) {
		p.Layers, p.Measurements = names, nil // another network
	}
	p.Measurements = appendLast(p.Measurements, m, maxMeasurements)
}

// appendLast appends to a list of which only the last n are kept.
func appendLast[T any](list []T, v T, n int) []T {
	if len(list) == n {
		list = append(list[:0], list[1:]...)
	}
	return append(list, v)
}

func (s *Server) showHistory(w http.ResponseWriter, _ *http.Request) error {
	h := s.history
	h.mu.Lock()
	p := h.past
	p.Samples, p.Measurements = slices.Clone(p.Samples), slices.Clone(p.Measurements)
	h.mu.Unlock()
	writeJSON(w, http.StatusOK, p)
	return nil
}

// watch keeps events and the past until the subscription ends.
func (s *Server) watch(events <-chan brain.Event) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	remember := func() {
		st := s.brain.Status()
		s.history.sample(st)
		s.history.measure(st)
	}
	for {
		select {
		case e, more := <-events:
			if !more {
				return
			}
			if e.Kind == brain.EventSleep {
				remember() // before who hears of it asks
			}
			s.events.add(e)
		case <-tick.C:
			remember()
		}
	}
}
