package farm

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"hypnos/core/model"
)

// Server is a NATS server in this process, with its store in a folder.
type Server struct {
	URL    string // of this machine's workers
	Token  string
	server *server.Server
	lock   io.Closer
}

// NewToken makes a token that nobody can guess.
func NewToken() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Serve starts a server with its store in a folder, which it locks. listen is HOST:PORT, "" a free port that only this machine reaches.
// There is no encryption: beyond this machine it is for networks that are trusted.
func Serve(dir, listen, token string) (s *Server, err error) {
	host, port := "127.0.0.1", server.RANDOM_PORT
	if listen != "" {
		if host, port, err = address(listen); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("farm: store of the queue: %w", err)
	}
	lock, err := model.LockFolder(dir)
	if err != nil {
		return nil, fmt.Errorf("farm: store of the queue %s: %w", dir, err)
	}
	s = &Server{Token: token, lock: lock}
	if err := s.start(dir, host, port); err != nil {
		s.Close(0)
		return nil, fmt.Errorf("farm: NATS server on %s: %w", net.JoinHostPort(host, strconv.Itoa(max(port, 0))), err)
	}
	return s, nil
}

// start starts the server and waits until it listens.
func (s *Server) start(dir, host string, port int) (err error) {
	s.server, err = server.NewServer(&server.Options{
		ServerName: "hypnos", Host: host, Port: port, Authorization: s.Token, JetStream: true, StoreDir: dir,
		NoSigs: true, NoLog: true, DisableJetStreamBanner: true,
	})
	if err != nil {
		return err
	}
	log := &serverLog{}
	s.server.SetLoggerV2(log, false, false, false)
	s.server.Start()
	for deadline := time.Now().Add(10 * time.Second); !s.server.ReadyForConnections(50 * time.Millisecond); {
		if fatal := log.fatal(); fatal != "" {
			return errors.New(fatal)
		}
		if time.Now().After(deadline) {
			return errors.New("it did not start in 10 s")
		}
	}
	at, ok := s.server.Addr().(*net.TCPAddr)
	if !ok {
		return errors.New("it has no address")
	}
	reach := "127.0.0.1"
	if at.IP != nil && !at.IP.IsUnspecified() {
		reach = at.IP.String()
	}
	s.URL = "nats://" + net.JoinHostPort(reach, strconv.Itoa(at.Port))
	return nil
}

// address splits HOST:PORT.
func address(listen string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err == nil {
		port, err = strconv.Atoi(text)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("farm: address %q: want HOST:PORT, for example 0.0.0.0:4222", listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	if host == "" {
		host = server.DEFAULT_HOST
	}
	return host, port, nil
}

// Close stops the server, when all have left it or after a time. What it stored stays.
func (s *Server) Close(patience time.Duration) {
	if s.server != nil {
		for end := time.Now().Add(patience); s.server.NumClients() > 0 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		s.server.Shutdown()
		s.server.WaitForShutdown()
	}
	s.lock.Close()
}

// serverLog keeps what the server says last before it gives up.
type serverLog struct {
	mu   sync.Mutex
	last string
}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// Fatalf is called by the server, as are the others.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fmt.Sprintf(format, v...)
}
func (*serverLog) Noticef(string, ...any) {}
func (*serverLog) Warnf(string, ...any)   {}
func (*serverLog) Errorf(string, ...any)  {}
func (*serverLog) Debugf(string, ...any)  {}
func (*serverLog) Tracef(string, ...any)  {}
