package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"hypnos/core/sleep"
	"hypnos/server/brain"
	"hypnos/server/servertest"
)

// serve serves on a port of loopback until the test ends.
func (g rig) serve(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// authority issues certificates.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue writes NAME.pem and NAME.key.
func (a *authority) issue(t *testing.T, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert == nil {
		a.key = key
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			t.Fatal(err)
		}
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(a.dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// With a clients' authority, who has no certificate of it is not served, nor who has one of another.
func TestMutualTLS(t *testing.T) {
	dir := t.TempDir()
	ours, others := &authority{dir: dir}, &authority{dir: dir}
	ours.issue(t, "ca")
	ours.issue(t, "server")
	ours.issue(t, "client")
	others.issue(t, "otherca")
	others.issue(t, "other")
	at := func(name string) string { return filepath.Join(dir, name) }
	g := newRig(t, func(c *Config) {
		c.TokenFile, c.Certificate, c.Key, c.ClientCA = "", at("server.pem"), at("server.key"), at("ca.pem")
		c.Listen = ":0" // not loopback alone: the certificate is enough
	})
	address := g.serve(t)
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	n := 0
	for _, x := range []struct {
		scheme, client string
		ok             bool
	}{{"https", "client", true}, {"https", "", false}, {"https", "other", false}, {"http", "", false}} {
		config := &tls.Config{RootCAs: roots}
		if x.client != "" {
			pair, err := tls.LoadX509KeyPair(at(x.client+".pem"), at(x.client+".key"))
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		answer, err := client.Get(x.scheme + "://" + address + "/v1/status")
		if ok := err == nil && answer.StatusCode == 200; ok != x.ok {
			t.Errorf("%+v: %v %v", x, answer, err)
		}
		client.CloseIdleConnections()
		n++
	}
	if n != 4 {
		t.Errorf("%d cases", n)
	}
	for name, set := range map[string]func(*Config){
		"certificate": func(c *Config) { c.Certificate = at("none") },
		"client_ca":   func(c *Config) { c.ClientCA = at("client.key") },
	} {
		c := g.config
		set(&c)
		if _, err := c.tls(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A body that comes too slowly is given up; a package may take longer, as long as something comes; and so may an answer.
func TestSlowBodies(t *testing.T) {
	g := newRig(t, func(c *Config) { c.ReadTimeout.Duration = 250 * time.Millisecond })
	address := g.serve(t)
	send := func(method, path string, length int, parts int, pause time.Duration) string {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Fprintf(c, "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", method, path, token, length)
		for range parts {
			time.Sleep(pause)
			if _, err := c.Write([]byte("x")); err != nil {
				break
			}
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		text, _ := io.ReadAll(io.LimitReader(c, 12)) // the status line
		return string(text)
	}
	g.brain.Package = []byte("xxxx")
	for _, x := range []struct {
		method, path  string
		length, parts int
		pause         time.Duration
		delay         time.Duration // of the brain
		want          string
	}{
		{"POST", "/v1/classify", 12, 1, 0, 0, "HTTP/1.1 408"},
		{"POST", "/v1/classify", 12, 4, 100 * time.Millisecond, 0, "HTTP/1.1 408"},
		{"POST", "/v1/classify", 12, 12, 0, 400 * time.Millisecond, "HTTP/1.1 200"},
		{"POST", "/v1/model", 4, 4, 100 * time.Millisecond, 400 * time.Millisecond, "HTTP/1.1 200"},
		{"POST", "/v1/model", 4, 1, 0, 0, "HTTP/1.1 408"},
		{"GET", "/v1/model", 0, 0, 0, 400 * time.Millisecond, "HTTP/1.1 200"},
	} {
		g.brain.Delay = x.delay
		if got := send(x.method, x.path, x.length, x.parts, x.pause); got != x.want {
			t.Errorf("%+v: %q", x, got)
		}
	}
}

// A connection too many waits until another one ends.
func TestConnections(t *testing.T) {
	g := newRig(t, func(c *Config) { c.MaxConnections = 1 })
	address := g.serve(t)
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		answer, err := http.Get("http://" + address + "/healthz")
		if err == nil && answer.StatusCode != 200 {
			err = fmt.Errorf("status %s", answer.Status)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Errorf("served beside another one: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	first.Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

// Metrics keep to the text format, and say what happened.
func TestMetrics(t *testing.T) {
	g := newRig(t)
	g.brain.Set(func(s *brain.Status) {
		s.Model.Network = "a \"name\"\\\nof two lines"
		s.Models[0].Network = s.Model.Network
		s.Layers[0].After.SNR = s.Layers[0].After.SNR / 0 // equal weights
	})
	for range 3 {
		g.send(ask("POST", "/v1/classify", brain.Tensor, make([]byte, 12)))
	}
	g.send(ask("POST", "/v1/classify", brain.Tensor, make([]byte, 11)))
	g.send(ask("GET", "/nothing", "", nil))
	w := g.send(ask("GET", "/metrics", "", nil))
	line := regexp.MustCompile(`^([a-z_]+)(\{[a-z]+="([^"\\]|\\["\\n])*"(,[a-z]+="([^"\\]|\\["\\n])*")*\})? (NaN|[+-]Inf|-?[0-9.]+(e[+-][0-9]+)?)$`)
	typed, n := "", 0
	for _, l := range strings.Split(strings.TrimSuffix(w.Body.String(), "\n"), "\n") {
		switch {
		case strings.HasPrefix(l, "# HELP "):
		case strings.HasPrefix(l, "# TYPE "):
			name, kind, _ := strings.Cut(strings.TrimPrefix(l, "# TYPE "), " ")
			typed = name
			if strings.HasSuffix(name, "_total") != (kind == "counter") {
				t.Errorf("%s is a %s", name, kind)
			}
		default:
			m := line.FindStringSubmatch(l)
			if m == nil || !strings.HasPrefix(m[1], typed) {
				t.Errorf("%q, in %s", l, typed)
			}
			n++
		}
	}
	if n < 100 {
		t.Errorf("only %d samples", n)
	}
	for _, want := range []string{
		`hypnos_http_requests_total{path="/v1/classify",status="200"} 3`, `hypnos_http_requests_total{path="/v1/classify",status="422"} 1`,
		`hypnos_http_requests_total{path="other",status="404"} 1`, `hypnos_errors_total{code="tensor_shape"} 1`, `hypnos_errors_total{code="busy"} 0`,
		`hypnos_http_request_seconds_count{path="/v1/classify"} 4`, `hypnos_http_request_seconds_bucket{path="/v1/classify",le="+Inf"} 4`,
		`hypnos_classified_total 3`, `hypnos_state{state="awake"} 1`, `hypnos_state{state="asleep"} 0`, `hypnos_step 120`,
		`hypnos_reading{sensor="temperature",unit="°C"} 48.5`, `hypnos_layer_snr{layer="stem.conv"} +Inf`, `hypnos_layer_mean_ratio{layer="stem.conv"} 0.999`,
		`hypnos_model{slot="a",state="active",version="3",network="a \"name\"\\\nof two lines"} 1`,
	} {
		if !strings.Contains(w.Body.String(), want+"\n") {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), `sensor="current"`) {
		t.Error("an absent sensor has a value")
	}
}

// The past: measurements around whole sleeps, once each and in order; another network begins anew; a bounded number.
func TestHistory(t *testing.T) {
	h, b := &history{}, servertest.New()
	st := b.Status()
	h.measure(st)
	h.measure(st)
	began := st.Sleeps[0].Began
	if m := h.past.Measurements; len(m) != 2 || !m[0].Time.Equal(began) || *m[0].SNR[0] != 1.2 || m[0].MeanRatio != nil || *m[1].SNR[1] != 1.6 || *m[1].MeanRatio[1] != 0.999 {
		t.Fatalf("measurements %+v", m)
	}
	equal := *st.Sleeps[0].Layers[0].After
	equal.SNR = equal.SNR / 0
	report := func(names ...string) (layers []sleep.LayerReport) {
		for _, name := range names {
			layers = append(layers, sleep.LayerReport{Layer: name, Before: &equal, After: &equal, Mean: sleep.Preservation{Ratio: 1}})
		}
		return layers
	}
	later := began.Add(time.Hour)
	st.Sleeps = append(st.Sleeps, brain.Sleep{Began: later, Ended: later.Add(time.Second), Layers: report("stem.conv")})
	h.measure(st)
	if len(h.past.Measurements) != 2 {
		t.Error("a sleep that is not whole was taken")
	}
	st.Sleeps[1].Complete, st.Sleeps[1].Layers = true, report("stem.conv", "stage1.block1.conv1")
	h.measure(st)
	if m := h.past.Measurements; len(m) != 4 || m[3].SNR[0] != nil {
		t.Errorf("measurements %+v", m)
	}
	st.Sleeps = []brain.Sleep{{Began: later.Add(time.Hour), Ended: later.Add(2 * time.Hour), Complete: true, Layers: report("other.conv")}}
	h.measure(st)
	if len(h.past.Measurements) != 2 || len(h.past.Layers) != 1 {
		t.Errorf("after another network: %+v", h.past)
	}
	for i := range maxSamples + 10 {
		st.Step = int64(i)
		h.sample(st)
	}
	if s := h.past.Samples; len(s) != maxSamples || s[maxSamples-1].Step != maxSamples+9 || *s[0].Temperature != 48.5 || s[0].Current != nil || s[0].Share != nil {
		t.Errorf("%d samples", len(s))
	}
}

// The page's files ask for nothing from elsewhere, have nothing inline, and are not sent again when they are known.
func TestPageFiles(t *testing.T) {
	g := newRig(t)
	outside := regexp.MustCompile(`(https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	inline := regexp.MustCompile(`(?i)<script>|<style|\sstyle=|\son[a-z]+=|javascript:|\beval\(|innerHTML`)
	n := 0
	for _, r := range g.routes {
		if !r.page {
			continue
		}
		n++
		request := ask("GET", r.path, "", nil)
		request.Header.Del("Authorization")
		w := g.send(request)
		text := strings.ReplaceAll(w.Body.String(), "http://www.w3.org/2000/svg", "")
		if w.Code != 200 || strings.HasPrefix(w.Header().Get("Content-Type"), ";") || w.Header().Get("Content-Security-Policy") != policy {
			t.Errorf("%s: status %d, headers %v", r.path, w.Code, w.Header())
		}
		if found := outside.FindString(text) + inline.FindString(strings.ReplaceAll(text, ".onclick", "")); found != "" && !strings.HasSuffix(r.path, ".js") {
			t.Errorf("%s has %q", r.path, found)
		}
		request = ask("GET", r.path, "", nil)
		request.Header.Set("If-None-Match", w.Header().Get("ETag"))
		if w := g.send(request); w.Code != http.StatusNotModified {
			t.Errorf("%s: status %d though it is known", r.path, w.Code)
		}
	}
	if n != 6 {
		t.Errorf("%d files", n)
	}
}

// fuzzed is a server for fuzz targets.
func fuzzed(f *testing.F) (*Server, *servertest.Brain) {
	b := servertest.New()
	c := Defaults()
	c.Rate = 0
	s, err := New(b, c, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	return s, b
}

// settled fails unless an answer is 200, or an error that is documented, is no fault of the server and changed nothing.
func settled(t *testing.T, g rig, r *http.Request) {
	t.Helper()
	before := g.brain.Status().Step
	w := g.send(r)
	step := g.brain.Status().Step - before
	if w.Code == 200 {
		return
	}
	code := codeOf(t, w)
	if statuses()[code] != w.Code || w.Code >= 500 || step != 0 {
		t.Errorf("status %d, code %s, %d steps", w.Code, code, step)
	}
}

func FuzzImage(f *testing.F) {
	for _, image := range [][]byte{nil, picture(f, 3, 2), picture(f, 3, 2)[:40], make([]byte, 12), []byte("\xff\xd8\xff\xe0")} {
		for _, kind := range []string{brain.PNG, brain.JPEG, brain.Tensor, "multipart/form-data; boundary=x"} {
			f.Add("/v1/learn?label=1", kind, image)
		}
	}
	f.Add("/v1/classify", "multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"label\"\r\n\r\n1\r\n--x--\r\n"))
	s, b := fuzzed(f)
	f.Fuzz(func(t *testing.T, path, kind string, body []byte) {
		r := ask("POST", "/v1/learn", kind, body)
		if _, query, is := strings.Cut(path, "?"); is {
			r.URL.RawQuery = query
		} else {
			r.URL.Path = "/v1/classify"
		}
		settled(t, rig{Server: s, brain: b}, r)
	})
}

func FuzzJSON(f *testing.F) {
	for _, text := range []string{`{"reason": "x"}`, `{}`, `null`, `[]`, `{"reason": 1}`, `{"reason": "\u0000"}`, "\xff", `{"Reason": "x", "reason": "y"}`} {
		f.Add([]byte(text))
	}
	s, b := fuzzed(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		settled(t, rig{Server: s, brain: b}, ask("POST", "/v1/wake", "application/json", text))
		reason, err := parseReason(text)
		if err == nil && (len(reason) > maxReason || bytes.ContainsAny([]byte(reason), "\n\r\x00")) {
			t.Errorf("reason %q", reason)
		}
	})
}
