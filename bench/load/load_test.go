package load

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hypnos/server"
	"hypnos/server/brain"
	"hypnos/server/client"
	"hypnos/server/servertest"
)

// board is an API over a brain whose queue is short.
func board(t *testing.T) (*servertest.Brain, *client.Client) {
	t.Helper()
	b, c := servertest.New(), server.Defaults()
	c.Rate = 0
	s, err := server.New(b, c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); web.Close() })
	k, err := client.New(client.Config{URL: web.URL})
	if err != nil {
		t.Fatal(err)
	}
	return b, k
}

// Sixty-four clients: nothing but 429, no acknowledged step lost.
func TestLoad(t *testing.T) {
	b, k := board(t)
	b.Delay = 2 * time.Millisecond
	r, err := Run(context.Background(), k, Config{Clients: 64, Duration: time.Second, Learn: 0.4, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if r.Errors[brain.CodeBusy] == 0 || r.Steps.Acknowledged < 64 || r.Classify.Answered < 64 || !(r.Classify.P50 >= 2) || !(r.Classify.P99 >= r.Classify.P50) {
		t.Errorf("%+v", r)
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil || !strings.Contains(text.String(), fmt.Sprintf("%d counted by the board, 0 lost", r.Steps.Acknowledged)) {
		t.Errorf("%s %v", &text, err)
	}
}

// What must not be is found: a lost step, one given twice, other errors, others who have the board learn.
func TestCheck(t *testing.T) {
	good := func() *Report {
		return &Report{Config: Config{Learn: 0.5}, Classify: Kind{Answered: 5}, Learns: Kind{Answered: 5}, Errors: map[brain.Code]int{brain.CodeBusy: 3}, Steps: Steps{Acknowledged: 5, Counted: 5}}
	}
	if err := good().Check(); err != nil {
		t.Error(err)
	}
	for want, spoil := range map[string]func(*Report){
		"1 acknowledged steps are lost":         func(r *Report) { r.Steps.Counted = 4 },
		"2 acknowledged steps are lost":         func(r *Report) { r.Steps.Twice = 2 },
		"somebody else":                         func(r *Report) { r.Steps.Counted = 6 },
		`2 errors of code "internal": an error`: func(r *Report) { r.Errors[brain.CodeInternal], r.Example = 2, "an error" },
		`1 errors of code ""`:                   func(r *Report) { r.Errors[""] = 1 },
		"nothing was answered":                  func(r *Report) { r.Classify.Answered = 0 },
	} {
		r := good()
		spoil(r)
		if err := r.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// A brain that loses a step is caught by the run itself.
func TestLostStep(t *testing.T) {
	b, k := board(t)
	go func() {
		time.Sleep(50 * time.Millisecond)
		b.Set(func(s *brain.Status) { s.Step-- })
	}()
	r, err := Run(context.Background(), k, Config{Clients: 4, Duration: 200 * time.Millisecond, Learn: 1, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("%v: %+v", err, r.Steps)
	}
}
