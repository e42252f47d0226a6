package server

import (
	"errors"
	"io"
	"mime"
	"net/http"

	"strconv"
	"time"

	"hypnos/server/brain"
)

// upload hands a package to the brain as it comes. It may take long, as long as something comes.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != brain.Tensor {
		return refuse(CodeMediaType, "Content-Type must be "+brain.Tensor)
	}
	if r.ContentLength > s.config.MaxPackageBytes {
		return s.packageTooLong()
	}
	rc := http.NewResponseController(w)
	body := &patientReader{r: http.MaxBytesReader(w, r.Body, s.config.MaxPackageBytes), rc: rc, limits: s.config}
	m, err := s.brain.Upload(r.Context(), body)
	if err != nil {
		if _, is := errors.AsType[*http.MaxBytesError](body.err); is {
			return s.packageTooLong()
		}
		if body.err != nil {
			return body.err // the brain says that a package is not whole; this is why
		}
		io.Copy(io.Discard, body) // many clients hear of a refusal only when they have sent all
		return err
	}
	s.log.Info("model uploaded", "client", clientOf(r), "slot", m.Slot, "version", m.Version)
	writeJSON(w, http.StatusOK, m)
	return nil
}

func (s *Server) packageTooLong() error {
	return refuse(CodeTooLong, "the package is longer than "+strconv.FormatInt(s.config.MaxPackageBytes, 10)+" bytes")
}

// export sends the model with what it learned. When that breaks off so does the connection.
func (s *Server) export(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", brain.Tensor)
	h.Set("Content-Disposition", `attachment; filename="learned.hyp"`)
	err := s.brain.Export(r.Context(), &patientWriter{w, http.NewResponseController(w), s.config})
	if err != nil {
		h.Del("Content-Disposition")
	}
	return err
}

// patientReader gives every read, and the answer after it, its time anew.
type patientReader struct {
	r      io.Reader
	rc     *http.ResponseController
	limits Config
	err    error // of the last read, other than io.EOF
}

func (p *patientReader) Read(b []byte) (int, error) {
	now := time.Now()
	p.rc.SetReadDeadline(now.Add(p.limits.ReadTimeout.Duration))
	p.rc.SetWriteDeadline(now.Add(p.limits.ReadTimeout.Duration + p.limits.AnswerTimeout.Duration + p.limits.WriteTimeout.Duration))
	n, err := p.r.Read(b)
	switch err {
	case nil:
	case io.EOF:
		p.rc.SetReadDeadline(time.Time{}) // were it to pass now, the connection would count as lost
	default:
		p.err = err
	}
	return n, err
}

// patientWriter gives every write its time anew.
type patientWriter struct {
	w      io.Writer
	rc     *http.ResponseController
	limits Config
}

func (p *patientWriter) Write(b []byte) (int, error) {
	if err := p.rc.SetWriteDeadline(time.Now().Add(p.limits.WriteTimeout.Duration)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return p.w.Write(b)
}
