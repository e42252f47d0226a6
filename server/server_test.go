package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hypnos/server/brain"
	"hypnos/server/servertest"
)

const token = "a-token-for-tests"

// rig is a server with its brain and log.
type rig struct {
	*Server
	brain *servertest.Brain
	log   *bytes.Buffer
}

// newRig makes a server that asks for a token.
func newRig(t *testing.T, set ...func(*Config)) rig {
	t.Helper()
	c := Defaults()
	c.TokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(c.TokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range set {
		s(&c)
	}
	b, log := servertest.New(), &bytes.Buffer{}
	s, err := New(b, c, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return rig{s, b, log}
}

// ask makes a request with the token, as curl would send it.
func ask(method, path, contentType string, body []byte) *http.Request {
	r := httptest.NewRequest(method, "http://localhost:8470"+path, bytes.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+token)
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

// send gives the answer.
func (g rig) send(r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

// codeOf is the code of an error's body.
func codeOf(t *testing.T, w *httptest.ResponseRecorder) brain.Code {
	t.Helper()
	var f failure
	if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
		t.Fatalf("status %d, body %q: %v", w.Code, w.Body, err)
	}
	if f.Error.Message == "" || len(f.Error.Message) > maxMessage+len("…") || strings.Contains(f.Error.Message, "\n") {
		t.Errorf("message %q", f.Error.Message)
	}
	return f.Error.Code
}

// picture is a PNG image.
func picture(t testing.TB, width, height int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, width, height))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Every code has a status, and every status is one of an error.
func TestCodes(t *testing.T) {
	s := statuses()
	for _, r := range newRig(t).routes {
		for _, c := range append(r.guards(), r.codes...) {
			if s[c] < 400 {
				t.Errorf("%s %s: code %s has the status %d", r.method, r.path, c, s[c])
			}
		}
	}
	if len(s) < 30 {
		t.Errorf("only %d codes", len(s))
	}
}

// What a configuration must not be is refused by the name of its key.
func TestConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", token)
	for _, x := range []struct {
		name string
		set  func(*Config)
		want string // "" is accepted
	}{
		{"defaults", func(*Config) {}, ""},
		{"localhost", func(c *Config) { c.Listen = "localhost:1" }, ""},
		{"IPv6 loopback", func(c *Config) { c.Listen = "[::1]:1" }, ""},
		{"all addresses, open", func(c *Config) { c.Listen = ":8470" }, "token_file or client_ca"},
		{"another address, open", func(c *Config) { c.Listen = "192.0.2.1:8470" }, "token_file or client_ca"},
		{"a name, open", func(c *Config) { c.Listen = "board.example:8470" }, "token_file or client_ca"},
		{"all addresses, token", func(c *Config) { c.Listen, c.TokenFile = ":8470", good }, ""},
		{"no port", func(c *Config) { c.Listen = "localhost" }, "listen"},
		{"no token's file", func(c *Config) { c.TokenFile = filepath.Join(dir, "none") }, "token_file"},
		{"short token", func(c *Config) { c.TokenFile = write("short", "abc") }, "16 or more"},
		{"two lines", func(c *Config) { c.TokenFile = write("lines", token+"\n"+token) }, "one line"},
		{"certificate alone", func(c *Config) { c.Certificate = good }, "go together"},
		{"clients' CA alone", func(c *Config) { c.ClientCA = good }, "client_ca"},
		{"no images", func(c *Config) { c.MaxImages = 0 }, "max_images"},
		{"rate that is not a number", func(c *Config) { c.Rate = -1 }, "rate"},
		{"no time", func(c *Config) { c.ReadTimeout.Duration = 0 }, "read_timeout"},
	} {
		c := Defaults()
		x.set(&c)
		s, err := New(servertest.New(), c, slog.New(slog.DiscardHandler))
		if err == nil {
			s.Close()
		}
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: error %v, want %q", x.name, err, x.want)
		}
	}
}

// Who may not come in: wrong token, wrong host, another site's page, too often. Nothing reaches the brain, a counter is raised,
// and no token is logged.
func TestGuards(t *testing.T) {
	for _, x := range []struct {
		name   string
		change func(*http.Request)
		code   brain.Code
	}{
		{"no token", func(r *http.Request) { r.Header.Del("Authorization") }, CodeUnauthorized},
		{"wrong token", func(r *http.Request) { r.Header.Set("Authorization", "Bearer wrong secret") }, CodeUnauthorized},
		{"another scheme", func(r *http.Request) { r.Header.Set("Authorization", "Basic "+token) }, CodeUnauthorized},
		{"DNS rebinding", func(r *http.Request) { r.Host = "evil.example:8470" }, CodeHost},
		{"no host", func(r *http.Request) { r.Host = "" }, CodeHost},
		{"another site", func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }, CodeOrigin},
		{"another origin", func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") }, CodeOrigin},
		{"another port's page", func(r *http.Request) { r.Header.Set("Origin", "http://localhost:1") }, CodeOrigin},
	} {
		g := newRig(t)
		g.brain.Fail = func(method string) error { t.Errorf("%s: %s was called", x.name, method); return nil }
		for _, rt := range g.routes {
			if rt.open {
				continue
			}
			r := ask(rt.method, rt.path, brain.Tensor, make([]byte, 12))
			x.change(r)
			w := g.send(r)
			if code := codeOf(t, w); code != x.code || w.Code != statuses()[x.code] {
				t.Errorf("%s: %s %s: status %d, code %s, want %s", x.name, rt.method, rt.path, w.Code, code, x.code)
			}
		}
		if n := g.metrics.errors[x.code]; n < 10 {
			t.Errorf("%s: counted %d times", x.name, n)
		}
		if strings.Contains(g.log.String(), "secret") || strings.Contains(g.log.String(), token) {
			t.Errorf("%s: the log has the token: %s", x.name, g.log)
		}
	}
}

// Who may come in.
func TestAdmitted(t *testing.T) {
	g := newRig(t, func(c *Config) { c.Hosts = []string{"board.local"} })
	n := 0
	for _, x := range []struct{ host, origin, site string }{
		{"localhost", "", ""}, {"127.0.0.1:8470", "", ""}, {"[::1]:8470", "", ""}, {"192.0.2.7:1", "", ""},
		{"Board.Local:8470", "http://board.local:8470", ""}, {"board.local.", "", "none"}, {"localhost:8470", "http://localhost:8470", "same-origin"},
	} {
		r := ask("POST", "/v1/classify", brain.Tensor, make([]byte, 12))
		r.Host = x.host
		if x.origin != "" {
			r.Header.Set("Origin", strings.ToLower(x.origin))
			r.Host = strings.ToLower(r.Host)
		}
		if x.site != "" {
			r.Header.Set("Sec-Fetch-Site", x.site)
		}
		w := g.send(r)
		if w.Code != http.StatusOK {
			t.Errorf("%+v: status %d: %s", x, w.Code, w.Body)
		}
		if w.Header().Get("Content-Security-Policy") == "" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%+v: headers %v", x, w.Header())
		}
		n++
	}
	if g.brain.Status().Counters.Classified != int64(n) {
		t.Errorf("%d were admitted", g.brain.Status().Counters.Classified)
	}
}

// A client that asks too often is refused, another one is not.
func TestRate(t *testing.T) {
	g := newRig(t, func(c *Config) { c.Rate, c.Burst = 0.001, 3 })
	from := func(address string) int {
		r := ask("GET", "/v1/status", "", nil)
		r.RemoteAddr = address
		return g.send(r).Code
	}
	var got []int
	for _, a := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8::4]:1"} {
		got = append(got, from(a))
	}
	if want := []int{200, 200, 200, 429, 200, 200, 200, 200, 429}; !slices.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
}

// Buckets fill again, and take no memory without bound.
func TestBuckets(t *testing.T) {
	b, now := newBuckets(10, 2), time.Unix(1000, 0)
	take := func(after time.Duration) bool { now = now.Add(after); return b.take("a", now) }
	for i, want := range []struct {
		after time.Duration
		ok    bool
	}{{0, true}, {0, true}, {0, false}, {50 * time.Millisecond, false}, {50 * time.Millisecond, true}, {-time.Hour, false}, {2 * time.Hour, true}, {0, true}, {0, false}} {
		if ok := take(want.after); ok != want.ok {
			t.Errorf("request %d: %v", i, ok)
		}
	}
	for i := range 3 * maxClients {
		b.take(string(rune('b'+i)), now)
	}
	if len(b.all) > maxClients {
		t.Errorf("%d clients are remembered", len(b.all))
	}
}

// Events come as they happen, with their ids; who comes back gets what it missed; who missed too much is told.
func TestEvents(t *testing.T) {
	g := newRig(t, func(c *Config) { c.HeartbeatEvery.Duration = 20 * time.Millisecond })
	web := httptest.NewServer(g)
	defer web.Close()
	open := func(last string) (*bufio.Scanner, func()) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		r, err := http.NewRequestWithContext(ctx, "GET", web.URL+"/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		if last != "" {
			r.Header.Set("Last-Event-ID", last)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil || answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%v %v", answer, err)
		}
		return bufio.NewScanner(answer.Body), func() { cancel(); answer.Body.Close() }
	}
	until := func(s *bufio.Scanner, want string) string {
		var id string
		for s.Scan() {
			if v, is := strings.CutPrefix(s.Text(), "id: "); is {
				id = v
			}
			if strings.Contains(s.Text(), want) {
				return id
			}
		}
		t.Fatalf("the stream ended before %q: %v", want, s.Err())
		return ""
	}
	s, stop := open("")
	until(s, ": still here")
	if _, err := g.brain.Sleep(context.Background(), brain.SleepRequest{Source: "api"}); err != nil {
		t.Fatal(err)
	}
	id := until(s, `"text":"asleep: asked for by api"`)
	stop()
	g.brain.Emit(brain.Event{Kind: brain.EventStore, Text: "while away"})
	s, stop = open(id)
	next := until(s, "while away")
	stop()
	if !strings.HasSuffix(id, "-1") || !strings.HasSuffix(next, "-2") {
		t.Errorf("ids %q, %q", id, next)
	}
	for i := range maxEvents + 5 {
		g.brain.Emit(brain.Event{Kind: brain.EventLearn, Text: "more"})
		for sent := uint64(i + 3); g.events.newest() < sent; {
			time.Sleep(time.Millisecond)
		}
	}
	for _, last := range []string{next, "anotherrun-1"} {
		s, stop = open(last)
		until(s, "event: missed")
		stop()
	}
	w := g.send(func() *http.Request {
		r := ask("GET", "/v1/events", "", nil)
		r.Header.Set("Last-Event-ID", "nonsense")
		return r
	}())
	if code := codeOf(t, w); code != CodeParameter {
		t.Errorf("code %s", code)
	}
}

// A server that ends lets running requests finish, ends streams, and takes nothing more.
func TestShutdown(t *testing.T) {
	g := newRig(t)
	g.brain.Delay = 300 * time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, l) }()
	fetch := func(method, path string) (*http.Response, error) {
		r, err := http.NewRequest(method, "http://"+l.Addr().String()+path, bytes.NewReader(make([]byte, 12)))
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", brain.Tensor)
		return http.DefaultClient.Do(r)
	}
	stream, err := fetch("GET", "/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		w, err := fetch("POST", "/v1/learn?label=1")
		if err == nil && w.StatusCode != 200 {
			err = errors.New(w.Status)
		}
		answered <- err
	}()
	for g.brain.Status().Queued == 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	if err := <-answered; err != nil {
		t.Errorf("the running request: %v", err)
	}
	if _, err := io.ReadAll(stream.Body); err != nil {
		t.Errorf("the stream of events: %v", err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := fetch("GET", "/v1/status"); err == nil {
		t.Error("it serves on")
	}
}
