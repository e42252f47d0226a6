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
	s = &Server{Token: token}
	if s.lock, err = model.LockFolder(dir); err != nil {
		return nil, fmt.Errorf("farm: store of the queue %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	s.server, err = server.NewServer(&server.Options{
		ServerName: "hypnos", Host: host, Port: port, Authorization: token, JetStream: true, StoreDir: dir,
		NoSigs: true, NoLog: true, DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("farm: NATS server: %w", err)
	}
	log := &serverLog{}
	s.server.SetLoggerV2(log, false, false, false)
	s.server.Start()
	for waited := time.Duration(0); !s.server.ReadyForConnections(50 * time.Millisecond); waited += 50 * time.Millisecond {
		if fatal := log.fatal(); fatal != "" || waited > 10*time.Second {
			return nil, fmt.Errorf("farm: NATS server on %s: %s", net.JoinHostPort(host, strconv.Itoa(port)), orUnready(fatal))
		}
	}
	at, ok := s.server.Addr().(*net.TCPAddr)
	if !ok {
		return nil, errors.New("farm: NATS server: it has no address")
	}
	reach := "127.0.0.1"
	if at.IP != nil && !at.IP.IsUnspecified() {
		reach = at.IP.String()
	}
	s.URL = "nats://" + net.JoinHostPort(reach, strconv.Itoa(at.Port))
	return s, nil
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

func orUnready(fatal string) string {
	if fatal == "" {
		return "it did not start in 10 s"
	}
	return fatal
}

// Close stops the server. What it stored stays.
func (s *Server) Close() {
	if s.server != nil {
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
