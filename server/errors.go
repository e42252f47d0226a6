package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"

	"hypnos/server/brain"
)

// Codes of errors beside those of package brain.
const (
	CodeUnauthorized brain.Code = "unauthorized"       // no token, or a wrong one
	CodeHost         brain.Code = "host_refused"       // a name that this server does not go by: DNS rebinding
	CodeOrigin       brain.Code = "origin_refused"     // sent by another site's page
	CodeNotFound     brain.Code = "not_found"          // no such path
	CodeMethod       brain.Code = "method_not_allowed" // not on this path
	CodeParameter    brain.Code = "parameter_invalid"  // a query parameter is missing, wrong or unknown
	CodeJSON         brain.Code = "json_invalid"       // not the JSON that was asked for
	CodeMultipart    brain.Code = "multipart_invalid"  // not the form that was asked for
	CodeMediaType    brain.Code = "media_type"         // a Content-Type that the path does not take
	CodeTooLong      brain.Code = "body_too_large"     // of JSON, or of a package
	CodeBody         brain.Code = "body_incomplete"    // the client sent less than it announced
	CodeSlow         brain.Code = "body_timeout"       // the client sent too slowly
	CodeRate         brain.Code = "rate_limited"       // too many requests of one client
	CodeTimeout      brain.Code = "timeout"            // the network was not free in time
	CodeNotReady     brain.Code = "not_ready"          // no network is in use yet
)

// statuses gives the HTTP status of every code.
func statuses() map[brain.Code]int {
	return map[brain.Code]int{
		CodeParameter: http.StatusBadRequest, CodeJSON: http.StatusBadRequest, CodeMultipart: http.StatusBadRequest,
		CodeBody:         http.StatusBadRequest,
		CodeUnauthorized: http.StatusUnauthorized,
		CodeHost:         http.StatusForbidden, CodeOrigin: http.StatusForbidden, brain.CodeKey: http.StatusForbidden,
		CodeNotFound:  http.StatusNotFound,
		CodeMethod:    http.StatusMethodNotAllowed,
		CodeSlow:      http.StatusRequestTimeout,
		CodeMediaType: http.StatusUnsupportedMediaType, brain.CodeImageType: http.StatusUnsupportedMediaType,
		CodeTooLong: http.StatusRequestEntityTooLarge, brain.CodeImageTooLong: http.StatusRequestEntityTooLarge,
		brain.CodeImagePixels: http.StatusRequestEntityTooLarge,
		brain.CodeImageBroken: http.StatusUnprocessableEntity, brain.CodeTensor: http.StatusUnprocessableEntity,
		brain.CodeLabel: http.StatusUnprocessableEntity, brain.CodePackage: http.StatusUnprocessableEntity,
		brain.CodeSignature: http.StatusUnprocessableEntity, brain.CodeBoard: http.StatusUnprocessableEntity,
		brain.CodeNoModel: http.StatusConflict, brain.CodeDowngrade: http.StatusConflict, brain.CodeTrial: http.StatusConflict,
		CodeRate: http.StatusTooManyRequests, brain.CodeBusy: http.StatusTooManyRequests,
		brain.CodeInternal: http.StatusInternalServerError,
		CodeTimeout:        http.StatusServiceUnavailable, CodeNotReady: http.StatusServiceUnavailable,
		brain.CodeStopping: http.StatusServiceUnavailable, brain.CodeNotDurable: http.StatusServiceUnavailable,
		brain.CodeStorage: http.StatusInsufficientStorage,
	}
}

// failure is the body of every error.
type failure struct {
	Error struct {
		Code    brain.Code `json:"code"`
		Message string     `json:"message"`
	} `json:"error"`
}

func refuse(code brain.Code, message string) error {
	return &brain.Error{Code: code, Err: errors.New(message)}
}

// maxMessage bounds the messages of errors, in bytes.
const maxMessage = 300

// fail writes an error. Whoever has gone gets nothing.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	code, message := s.explain(r, err)
	if code == "" {
		return
	}
	s.metrics.fail(code)
	status := statuses()[code]
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="hypnos"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	if status >= http.StatusInternalServerError {
		s.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "code", string(code), "error", err.Error())
	}
	var f failure
	f.Error.Code, f.Error.Message = code, message
	writeJSON(w, status, f)
}

// explain gives an error's code and message; "" when the client has gone.
func (s *Server) explain(r *http.Request, err error) (brain.Code, string) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return CodeSlow, "the body came too slowly"
	case errors.Is(err, context.DeadlineExceeded):
		return CodeTimeout, "the network was not free in time; what was to be learned may be learned yet"
	case r.Context().Err() != nil:
		return "", ""
	case errors.Is(err, context.Canceled): // not by the client
		return brain.CodeStopping, "the daemon ends"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return CodeBody, "the body is shorter than announced"
	}
	code := brain.CodeOf(err)
	if _, known := statuses()[code]; !known || code == brain.CodeInternal {
		return brain.CodeInternal, "internal error: the log says more"
	}
	message := strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", "; "), "brain: ")
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return code, message
}

// writeJSON writes an answer. Its status says that all went well, unless the connection breaks.
func writeJSON(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		panic("server: an answer is no JSON: " + err.Error())
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(text, '\n')) // nobody is left to tell
}
