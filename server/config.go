package server

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// Config says where and for whom a Server serves.
type Config struct {
	Listen string `toml:"listen"` // host:port; ":port" is every address of the machine
	// TokenFile holds the token that requests show: Authorization: Bearer TOKEN. 16 characters at least, one line.
	TokenFile string `toml:"token_file"`
	// Certificate and Key, PEM files, serve TLS. ClientCA asks for clients' certificates, signed by one of its own.
	Certificate string `toml:"certificate"`
	Key         string `toml:"key"`
	ClientCA    string `toml:"client_ca"`
	// Hosts are names that clients may call the server by, beside its addresses and localhost.
	Hosts []string `toml:"hosts"`

	MaxImageBytes   int64   `toml:"max_image_bytes"`
	MaxPackageBytes int64   `toml:"max_package_bytes"`
	MaxImages       int     `toml:"max_images"`      // that are read or wait at a time; further ones are refused as busy
	MaxStreams      int     `toml:"max_streams"`     // of events, at a time
	MaxConnections  int     `toml:"max_connections"` // at a time; further ones wait
	Rate            float64 `toml:"rate"`            // requests a second of one client, by its address; 0 is no limit
	Burst           int     `toml:"burst"`           // requests that a client may send at once

	HeaderTimeout  Duration `toml:"header_timeout"`  // to send a header
	ReadTimeout    Duration `toml:"read_timeout"`    // to send a body; of a package, to send any part of it
	AnswerTimeout  Duration `toml:"answer_timeout"`  // for the network to answer
	WriteTimeout   Duration `toml:"write_timeout"`   // to take an answer; of a package or events, any part of it
	IdleTimeout    Duration `toml:"idle_timeout"`    // between requests
	HeartbeatEvery Duration `toml:"heartbeat_every"` // a comment in a stream of events in which nothing happens
}

// Duration is a time.Duration, written as "1.5s".
type Duration struct{ time.Duration }

// UnmarshalText reads a Duration.
func (d *Duration) UnmarshalText(text []byte) (err error) {
	d.Duration, err = time.ParseDuration(string(text))
	return err
}

// Defaults are the settings of what a configuration leaves out.
func Defaults() Config {
	seconds := func(n int) Duration { return Duration{time.Duration(n) * time.Second} }
	return Config{
		Listen: "127.0.0.1:8470", MaxImageBytes: 4 << 20, MaxPackageBytes: 512 << 20,
		MaxImages: 128, MaxStreams: 16, MaxConnections: 256, Rate: 100, Burst: 200,
		HeaderTimeout: seconds(5), ReadTimeout: seconds(15), AnswerTimeout: seconds(30), WriteTimeout: seconds(15),
		IdleTimeout: seconds(60), HeartbeatEvery: seconds(15),
	}
}

// Check returns an error that names the first key that is wrong.
func (c Config) Check() error {
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("server: listen: %w", err)
	}
	for _, x := range []struct {
		key string
		ok  bool
	}{
		{"max_image_bytes", c.MaxImageBytes > 0}, {"max_package_bytes", c.MaxPackageBytes > 0}, {"max_images", c.MaxImages > 0},
		{"max_streams", c.MaxStreams > 0}, {"max_connections", c.MaxConnections > 0}, {"rate", c.Rate >= 0},
		{"burst", c.Burst > 0}, {"header_timeout", c.HeaderTimeout.Duration > 0}, {"read_timeout", c.ReadTimeout.Duration > 0},
		{"answer_timeout", c.AnswerTimeout.Duration > 0}, {"write_timeout", c.WriteTimeout.Duration > 0},
		{"idle_timeout", c.IdleTimeout.Duration > 0}, {"heartbeat_every", c.HeartbeatEvery.Duration > 0},
	} {
		if !x.ok {
			return fmt.Errorf("server: %s: out of range", x.key)
		}
	}
	switch {
	case (c.Certificate == "") != (c.Key == ""):
		return errors.New("server: certificate and key go together")
	case c.ClientCA != "" && c.Certificate == "":
		return errors.New("server: client_ca: needs certificate and key")
	case c.TokenFile == "" && c.ClientCA == "" && !isLoopback(host):
		return fmt.Errorf("server: listen: %s is reached by others: set token_file or client_ca, or listen on 127.0.0.1", c.Listen)
	}
	return nil
}

// Ready returns an error when the files that the configuration names cannot be used.
func (c Config) Ready() error {
	if _, err := c.readToken(); err != nil {
		return err
	}
	_, err := c.tls()
	return err
}

// isLoopback tells whether a host is this machine's alone, without asking a name server.
func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// secret is a token, as its hash.
type secret [sha256.Size]byte

// is compares in a time that does not depend on the token.
func (s *secret) is(token string) bool {
	sum := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(s[:], sum[:]) == 1
}

// minToken is the length of the shortest token.
const minToken = 16

// readToken reads the token's file; nil without one.
func (c Config) readToken() (*secret, error) {
	if c.TokenFile == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("server: token_file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < minToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, fmt.Errorf("server: token_file: %s must hold one line of %d or more visible ASCII characters", c.TokenFile, minToken)
	}
	sum := secret(sha256.Sum256([]byte(token)))
	return &sum, nil
}

// tls reads the certificates; nil without them.
func (c Config) tls() (*tls.Config, error) {
	if c.Certificate == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
	if err != nil {
		return nil, fmt.Errorf("server: certificate: %w", err)
	}
	t := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if c.ClientCA == "" {
		return t, nil
	}
	text, err := os.ReadFile(c.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("server: client_ca: %w", err)
	}
	t.ClientCAs, t.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
	if !t.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("server: client_ca: no certificate in %s", c.ClientCA)
	}
	return t, nil
}
