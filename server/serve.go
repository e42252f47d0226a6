package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// ListenAndServe listens where the configuration says and serves until ctx ends: then it takes no further request, ends the
// streams of events, and waits for the last answers.
func (s *Server) ListenAndServe(ctx context.Context) error {
	l, err := net.Listen("tcp", s.config.Listen)
	if err != nil {
		return fmt.Errorf("server: listen: %w", err)
	}
	return s.Serve(ctx, l)
}

// Serve is ListenAndServe on a listener, which it closes.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	certificates, err := s.config.tls()
	if err != nil {
		return errors.Join(err, l.Close())
	}
	l = &limited{Listener: l, places: make(chan struct{}, s.config.MaxConnections)}
	if certificates != nil {
		l = tls.NewListener(l, certificates)
	} else if s.token != nil && !isLoopback(hostOf(l.Addr())) {
		s.log.Warn("the token can be read on the network: set certificate and key")
	}
	h := &http.Server{
		Handler: s, ReadHeaderTimeout: s.config.HeaderTimeout.Duration, IdleTimeout: s.config.IdleTimeout.Duration,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	} // the times for bodies and answers are set by request: guarded
	s.log.Info("serving", "address", l.Addr().String(), "tls", certificates != nil, "token", s.token != nil)
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	select {
	case err := <-failed:
		s.Close()
		return fmt.Errorf("server: %w", err)
	case <-ctx.Done():
	}
	s.Close()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := h.Shutdown(last); err != nil {
		return errors.Join(fmt.Errorf("server: requests were cut off: %w", err), h.Close())
	}
	return nil
}

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// limited accepts a connection only when there is a place for it.
type limited struct {
	net.Listener
	places chan struct{}
}

// Accept waits for a connection first: a Listener that is closed says so.
func (l *limited) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.places <- struct{}{}
	return &placed{Conn: c, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

// placed gives its place back when it is closed.
type placed struct {
	net.Conn
	leave func()
}

func (p *placed) Close() error {
	defer p.leave()
	return p.Conn.Close()
}
