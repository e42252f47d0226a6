// Package client talks to an edge daemon (package server) from a workstation.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"hypnos/server/brain"
)

// Config says which board, and how to show who one is.
type Config struct {
	URL string // http://HOST:PORT or https://
	// TokenFile holds the board's token; "" for a board that asks for none.
	TokenFile string
	// CA is a PEM file of the authority that signed the board's certificate; "" takes the system's.
	CA string
	// Certificate and Key are PEM files that are shown to a board that asks for a certificate.
	Certificate, Key string
}

// Client is a board as seen from here.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// Error is a refusal by the board.
type Error struct {
	Status  int
	Code    brain.Code // "" when the answer is not one of the API
	Message string
}

func (e *Error) Error() string {
	if e.Code == "" {
		return e.Message
	}
	return fmt.Sprintf("%s (%s)", e.Message, e.Code)
}

// New reads the files that the configuration names. It does not talk to the board.
func New(c Config) (*Client, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return nil, errors.New("client: the URL cannot be read")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("client: URL %s: want http://HOST:PORT or https://HOST:PORT", u.Redacted())
	case u.User != nil || u.RawQuery != "" || strings.Trim(u.Path, "/") != "":
		return nil, fmt.Errorf("client: URL %s: want a host and a port only", u.Redacted())
	}
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 256, // a load has many at a time
		// A board that refuses a package by its header says so before all of it is sent.
		ExpectContinueTimeout: 5 * time.Second,
	}
	if t.TLSClientConfig, err = c.tls(); err != nil {
		return nil, err
	}
	client := &Client{base: &url.URL{Scheme: u.Scheme, Host: u.Host}, http: &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for this host
	}}
	if c.TokenFile != "" {
		text, err := os.ReadFile(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("client: token: %w", err)
		}
		if client.token = strings.TrimSpace(string(text)); client.token == "" || strings.ContainsAny(client.token, " \r\n") {
			return nil, fmt.Errorf("client: token: %s must hold one line", c.TokenFile)
		}
	}
	return client, nil
}

func (c Config) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fmt.Errorf("client: authority: %w", err)
		}
		if t.RootCAs = x509.NewCertPool(); !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("client: authority: no certificate in %s", c.CA)
		}
	}
	switch {
	case (c.Certificate == "") != (c.Key == ""):
		return nil, errors.New("client: a certificate and its key go together")
	case c.Certificate != "":
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, fmt.Errorf("client: certificate: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// String is the board's URL.
func (c *Client) String() string { return c.base.String() }

// Exposed tells whether a token would go over a network unencrypted.
func (c *Client) Exposed() bool {
	ip := net.ParseIP(c.base.Hostname())
	return c.token != "" && c.base.Scheme == "http" && c.base.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// Status asks how the board is.
func (c *Client) Status(ctx context.Context) (s brain.Status, err error) {
	return s, c.call(ctx, "GET", "/v1/status", nil, &s)
}

// Classify asks what the network says of an image.
func (c *Client) Classify(ctx context.Context, x brain.Image) (result brain.Result, err error) {
	return result, c.image(ctx, "/v1/classify", nil, x, &result)
}

// Learn has the network learn from an image and its label.
func (c *Client) Learn(ctx context.Context, x brain.Image, label int) (ack brain.Ack, err error) {
	return ack, c.image(ctx, "/v1/learn", url.Values{"label": {strconv.Itoa(label)}}, x, &ack)
}

func (c *Client) image(ctx context.Context, path string, query url.Values, x brain.Image, result any) error {
	r, err := c.request(ctx, "POST", path, bytes.NewReader(x.Data))
	if err != nil {
		return err
	}
	r.URL.RawQuery = query.Encode()
	r.Header.Set("Content-Type", x.Type)
	return c.do(r, result)
}

// Metrics are the board's, in Prometheus' text format.
func (c *Client) Metrics(ctx context.Context) (string, error) {
	var b strings.Builder
	err := c.get(ctx, "/metrics", &b)
	return b.String(), err
}

// Upload sends a package of size bytes. The board verifies it; Activate takes it into use.
func (c *Client) Upload(ctx context.Context, text io.Reader, size int64) (m brain.Model, err error) {
	r, err := c.request(ctx, "POST", "/v1/model", text)
	if err != nil {
		return m, err
	}
	r.ContentLength = size
	r.Header.Set("Content-Type", brain.Tensor)
	r.Header.Set("Expect", "100-continue")
	return m, c.do(r, &m)
}

// Activate takes what was uploaded on trial.
func (c *Client) Activate(ctx context.Context) (m brain.Model, err error) {
	return m, c.call(ctx, "POST", "/v1/model/activate", nil, &m)
}

// Rollback returns to the model before. The reason, which may be empty, is shown on the board.
func (c *Client) Rollback(ctx context.Context, reason string) (m brain.Model, err error) {
	return m, c.call(ctx, "POST", "/v1/model/rollback", map[string]string{"reason": reason}, &m)
}

// Export writes the model with what it learned, a package, to w. After an error what was written is not whole.
func (c *Client) Export(ctx context.Context, w io.Writer) error {
	return c.get(ctx, "/v1/model", w)
}

// get copies what a path gives.
func (c *Client) get(ctx context.Context, path string, w io.Writer) error {
	r, err := c.request(ctx, "GET", path, nil)
	if err != nil {
		return err
	}
	answer, err := c.send(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(w, answer.Body); err != nil {
		return fmt.Errorf("client: the board broke off: %w", err)
	}
	return nil
}

// call sends v, when there is one, as JSON and reads the answer into result.
func (c *Client) call(ctx context.Context, method, path string, v, result any) error {
	var body io.Reader
	if v != nil {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		body = bytes.NewReader(text)
	}
	r, err := c.request(ctx, method, path, body)
	if err != nil {
		return err
	}
	if v != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return c.do(r, result)
}

func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, method, c.base.JoinPath(path).String(), body)
	if err == nil && c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	return r, err
}

// maxAnswer bounds an answer that is JSON, in bytes.
const maxAnswer = 16 << 20

func (c *Client) do(r *http.Request, result any) error {
	answer, err := c.send(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(result); err != nil {
		return fmt.Errorf("client: the answer of %s cannot be read: %w", r.URL.Path, err)
	}
	return nil
}

// send returns an answer of status 200, or an error.
func (c *Client) send(r *http.Request) (*http.Response, error) {
	answer, err := c.http.Do(r)
	if err != nil {
		if cause, is := errors.AsType[*url.Error](err); is {
			err = cause.Err
		}
		return nil, fmt.Errorf("client: %s: %w", c.base, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	var f struct {
		Error struct {
			Code    brain.Code `json:"code"`
			Message string     `json:"message"`
		} `json:"error"`
	}
	if json.NewDecoder(io.LimitReader(answer.Body, 1<<16)).Decode(&f) != nil || f.Error.Code == "" {
		return nil, &Error{Status: answer.StatusCode, Message: fmt.Sprintf("%s answers %s: no edge daemon?", c.base, answer.Status)}
	}
	return nil, &Error{Status: answer.StatusCode, Code: f.Error.Code, Message: f.Error.Message}
}
