package server

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"hypnos/server/brain"
)

// policy forbids pages all that is not their own.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// newMux serves the table of routes, and answers what is not in it.
func (s *Server) newMux() *http.ServeMux {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, r := range s.routes {
		mux.Handle(r.method+" "+r.pattern(), s.guarded(r))
		methods[r.pattern()] = append(methods[r.pattern()], r.method)
	}
	for pattern, allowed := range methods {
		if slices.Contains(allowed, http.MethodGet) {
			allowed = append(allowed, http.MethodHead)
		}
		slices.Sort(allowed)
		mux.Handle(pattern, s.guarded(route{path: "other", open: true, serve: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			return refuse(CodeMethod, "this path takes "+strings.Join(allowed, ", "))
		}}))
	}
	mux.Handle("/", s.guarded(route{path: "other", open: true, serve: func(http.ResponseWriter, *http.Request) error {
		return refuse(CodeNotFound, "no such path: GET /openapi.json lists them")
	}}))
	return mux
}

// guarded checks a request before a route serves it, and counts how that ended.
func (s *Server) guarded(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		a := &answer{ResponseWriter: w}
		s.metrics.inFlight.Add(1)
		defer func() {
			s.metrics.inFlight.Add(-1)
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler {
					panic(p)
				}
				s.log.Error("handler panicked", "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				if a.status != 0 {
					panic(http.ErrAbortHandler) // half an answer must not look whole
				}
				s.fail(a, r, refuse(brain.CodeInternal, "panic"))
			}
			s.metrics.served(rt.path, a.status, time.Since(start))
		}()
		secure(a.Header())
		rc := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody { // without one, the deadline would end the request itself
			rc.SetReadDeadline(start.Add(s.config.ReadTimeout.Duration)) // a recorder in a test has none
		}
		rc.SetWriteDeadline(start.Add(s.config.ReadTimeout.Duration + s.config.AnswerTimeout.Duration + s.config.WriteTimeout.Duration))
		err := s.admit(rt, r)
		if err == nil {
			err = rt.serve(a, r)
		}
		switch {
		case err == nil:
		case a.status != 0:
			s.log.Error("answer broke off", "path", r.URL.Path, "error", err.Error())
			panic(http.ErrAbortHandler)
		default:
			s.fail(a, r, err)
		}
	})
}

func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
}

// admit returns why a request is not served.
func (s *Server) admit(rt route, r *http.Request) error {
	switch {
	case !s.knows(r.Host):
		return refuse(CodeHost, "this server does not go by that name: add it to hosts")
	case !rt.unlimited && !s.clients.take(clientOf(r), time.Now()):
		return refuse(CodeRate, "too many requests: try again later")
	case rt.open:
		return nil
	case foreign(r):
		return refuse(CodeOrigin, "requests of another site's page are refused")
	case s.token != nil && !s.token.is(bearer(r)):
		return refuse(CodeUnauthorized, "send the token: Authorization: Bearer TOKEN")
	case s.isStopping():
		return refuse(brain.CodeStopping, "the daemon ends")
	}
	return nil
}

// knows tells whether a Host is one of the server's. A page that had its own name point here (DNS rebinding) sends that
// name, never an address.
func (s *Server) knows(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	_, err := netip.ParseAddr(host)
	return err == nil || host == "localhost" || slices.ContainsFunc(s.config.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// foreign tells whether a browser sent the request for another site's page. It is asked of reading as well: an export
// takes the board's time.
func foreign(r *http.Request) bool {
	changing := r.Clone(r.Context())
	changing.Method = http.MethodPost
	return http.NewCrossOriginProtection().Check(changing) != nil
}

func bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// clientOf is the address of a client; of an IPv6 one its network, all of which may be one machine's.
func clientOf(r *http.Request) string {
	a, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if ip := a.Addr().Unmap(); ip.Is4() {
		return ip.String()
	}
	p, err := a.Addr().WithZone("").Prefix(64)
	if err != nil {
		return r.RemoteAddr
	}
	return p.String()
}

// answer remembers its status, 0 before there is one.
type answer struct {
	http.ResponseWriter
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
