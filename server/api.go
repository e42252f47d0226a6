package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"hypnos/server/brain"
)

func (s *Server) classify(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	release, err := place(s.images, "images wait")
	if err != nil {
		return err
	}
	defer release()
	x, err := s.image(w, r, r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.config.AnswerTimeout.Duration)
	defer cancel()
	result, err := s.brain.Classify(ctx, x)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, result)
	return nil
}

func (s *Server) learn(w http.ResponseWriter, r *http.Request) error {
	values, err := query(r, "label", "class")
	if err != nil {
		return err
	}
	release, err := place(s.images, "images wait")
	if err != nil {
		return err
	}
	defer release()
	kind, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	var x brain.Image
	if kind == "multipart/form-data" {
		x, err = s.form(w, r, params["boundary"], values)
	} else {
		x, err = s.image(w, r, r.Header.Get("Content-Type"))
	}
	if err != nil {
		return err
	}
	label, err := s.label(values)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.config.AnswerTimeout.Duration)
	defer cancel()
	ack, err := s.brain.Learn(ctx, x, label)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, ack)
	return nil
}

// query are the query parameters, each at most once. Others than known are refused: a typo is not to be overlooked.
func query(r *http.Request, known ...string) (url.Values, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(CodeParameter, "the query cannot be read")
	}
	for key, v := range values {
		if !slices.Contains(known, key) {
			return nil, refuse(CodeParameter, "unknown parameter "+strconv.Quote(key))
		}
		if len(v) != 1 {
			return nil, refuse(CodeParameter, "parameter "+key+" is given more than once")
		}
	}
	return values, nil
}

// label is the label that the parameters give: its number, or its class's name.
func (s *Server) label(values url.Values) (int, error) {
	switch {
	case values.Has("label") && values.Has("class"):
		return 0, refuse(CodeParameter, "label or class, not both")
	case values.Has("class"):
		label := slices.Index(s.brain.Status().Model.Classes, values.Get("class"))
		if label < 0 {
			return 0, refuse(brain.CodeLabel, "no class has this name: GET /v1/status lists them under model")
		}
		return label, nil
	case values.Has("label"):
		label, err := strconv.Atoi(values.Get("label"))
		if err != nil {
			return 0, refuse(CodeParameter, "label is no whole number")
		}
		return label, nil
	}
	return 0, refuse(CodeParameter, "which label? label=NUMBER or class=NAME")
}

// place takes a place of those that there are, or none: who waits for one holds a connection and memory.
func place(places chan struct{}, what string) (release func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, refuse(brain.CodeBusy, "too many "+what+": try again later")
	}
}

// image reads a body that is an image.
func (s *Server) image(w http.ResponseWriter, r *http.Request, contentType string) (brain.Image, error) {
	kind, err := imageType(contentType)
	if err != nil {
		return brain.Image{}, err
	}
	data, err := s.read(w, r, s.config.MaxImageBytes, brain.CodeImageTooLong)
	return brain.Image{Type: kind, Data: data}, err
}

func imageType(contentType string) (string, error) {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil || !slices.Contains([]string{brain.JPEG, brain.PNG, brain.Tensor}, kind) {
		return "", refuse(brain.CodeImageType, "Content-Type must be "+brain.JPEG+", "+brain.PNG+" or "+brain.Tensor)
	}
	return kind, nil
}

// read reads the whole body. What is longer than limit is not read.
func (s *Server) read(w http.ResponseWriter, r *http.Request, limit int64, tooLong brain.Code) ([]byte, error) {
	long := func() error { return refuse(tooLong, "the body is longer than "+strconv.FormatInt(limit, 10)+" bytes") }
	if r.ContentLength > limit {
		return nil, long()
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(r.ContentLength) + bytes.MinRead) // or the buffer grows once more to meet the end
	}
	_, err := b.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	if _, is := errors.AsType[*http.MaxBytesError](err); is {
		return nil, long()
	}
	if err != nil {
		return nil, err // the deadline stands: what is left of the body is not waited for
	}
	// It was for the body; were it to pass later, the connection would count as lost.
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	return b.Bytes(), nil
}

// formSlack is what a form may be longer than its image.
const formSlack = 4 << 10

// form reads a form of one image and one of label and class, and adds those to values.
func (s *Server) form(w http.ResponseWriter, r *http.Request, boundary string, values url.Values) (brain.Image, error) {
	body, err := s.read(w, r, s.config.MaxImageBytes+formSlack, brain.CodeImageTooLong)
	if err != nil {
		return brain.Image{}, err
	}
	var x brain.Image
	parts := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		p, err := parts.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return x, refuse(CodeMultipart, "the form cannot be read")
		}
		data, err := io.ReadAll(p)
		if err != nil {
			return x, refuse(CodeMultipart, "the form cannot be read")
		}
		switch name := p.FormName(); {
		case name == "image" && x.Type == "":
			if x.Type, err = imageType(p.Header.Get("Content-Type")); err != nil {
				return x, err
			}
			if int64(len(data)) > s.config.MaxImageBytes {
				return x, refuse(brain.CodeImageTooLong, "the image is longer than "+strconv.FormatInt(s.config.MaxImageBytes, 10)+" bytes")
			}
			x.Data = data
		case (name == "label" || name == "class") && !values.Has(name):
			values.Set(name, string(data))
		default:
			return x, refuse(CodeMultipart, "a form has one image, and label or class, each once")
		}
	}
	if x.Type == "" {
		return x, refuse(CodeMultipart, "the form has no image")
	}
	return x, nil
}

// why is the optional body of what changes the state.
type why struct {
	Reason string `json:"reason"`
}

// maxReason is the length of the longest reason, and maxJSON that of the longest body that is JSON, in bytes.
const (
	maxReason = 200
	maxJSON   = 4 << 10
)

// reason reads a body {"reason": TEXT}, or none.
func (s *Server) reason(w http.ResponseWriter, r *http.Request) (string, error) {
	text, err := s.read(w, r, maxJSON, CodeTooLong)
	if err != nil || len(text) == 0 {
		return "", err
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return "", refuse(CodeMediaType, "Content-Type must be application/json")
	}
	return parseReason(text)
}

func parseReason(text []byte) (string, error) {
	var v why
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if d.Decode(&v) != nil || d.Decode(&struct{}{}) != io.EOF {
		return "", refuse(CodeJSON, `the body must be {"reason": "TEXT"}`)
	}
	if len(v.Reason) > maxReason || strings.ContainsFunc(v.Reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", refuse(CodeJSON, "reason must be one line of at most "+strconv.Itoa(maxReason)+" bytes")
	}
	return v.Reason, nil
}

// change asks the brain for a change, with a reason, and answers with what came of it.
func change[T any](s *Server, w http.ResponseWriter, r *http.Request, ask func(ctx context.Context, reason string) (T, error)) error {
	reason, err := s.reason(w, r)
	if err != nil {
		return err
	}
	by := "api"
	if reason != "" {
		by += ": " + reason
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.config.AnswerTimeout.Duration)
	defer cancel()
	v, err := ask(ctx, by)
	if err != nil {
		return err
	}
	s.log.Info("changed by request", "path", r.URL.Path, "client", clientOf(r), "reason", reason)
	writeJSON(w, http.StatusOK, v)
	return nil
}

func (s *Server) sleep(w http.ResponseWriter, r *http.Request) error {
	return change(s, w, r, func(ctx context.Context, by string) (brain.Mood, error) {
		return s.brain.Sleep(ctx, brain.SleepRequest{Source: by})
	})
}

func (s *Server) wake(w http.ResponseWriter, r *http.Request) error {
	return change(s, w, r, s.brain.Wake)
}

func (s *Server) activate(w http.ResponseWriter, r *http.Request) error {
	return change(s, w, r, func(ctx context.Context, _ string) (brain.Model, error) { return s.brain.Activate(ctx) })
}

func (s *Server) rollback(w http.ResponseWriter, r *http.Request) error {
	return change(s, w, r, s.brain.Rollback)
}

func (s *Server) status(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, s.brain.Status())
	return nil
}

func (s *Server) healthy(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	return nil
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) error {
	switch {
	case s.isStopping():
		return refuse(brain.CodeStopping, "the daemon ends")
	case s.brain.Status().Model.Slot == "":
		return refuse(CodeNotReady, "no network is in use yet")
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
	return nil
}
