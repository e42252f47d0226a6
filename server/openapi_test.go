package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"hypnos/server/brain"
)

// described is what openapi.json says of a method of a path.
type described struct {
	Security  *[]any              `json:"security"`
	Responses map[string]response `json:"responses"`
}

type response struct {
	Description string `json:"description"`
	Content     map[string]struct {
		Schema map[string]any `json:"schema"`
	} `json:"content"`
}

func readDescription(t *testing.T) (map[string]map[string]described, schema) {
	t.Helper()
	var d struct {
		Paths      map[string]map[string]described `json:"paths"`
		Components struct {
			Schemas map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(description, &d); err != nil {
		t.Fatal(err)
	}
	return d.Paths, schema{d.Components.Schemas}
}

// The routes and the description are the same list, with the same statuses and codes.
func TestDescriptionOfRoutes(t *testing.T) {
	paths, schemas := readDescription(t)
	n := 0
	for _, r := range newRig(t).routes {
		if r.page {
			continue
		}
		op, is := paths[r.path][strings.ToLower(r.method)]
		if !is {
			t.Errorf("%s %s is not described", r.method, r.path)
			continue
		}
		n++
		if (op.Security != nil) != r.open {
			t.Errorf("%s %s: open %v", r.method, r.path, r.open)
		}
		want := map[string][]string{"200": {"done"}}
		for _, c := range append(append(r.guards(), r.codes...), brain.CodeInternal) {
			status := strconv.Itoa(statuses()[c])
			if !slices.Contains(want[status], string(c)) {
				want[status] = append(want[status], string(c))
			}
		}
		for status, codes := range want {
			slices.Sort(codes)
			if got := op.Responses[status].Description; got != strings.Join(codes, ", ") {
				t.Errorf("%s %s: status %s is described as %q, want %q", r.method, r.path, status, got, codes)
			}
		}
		if len(op.Responses) != len(want) {
			t.Errorf("%s %s: %d statuses are described, want %d", r.method, r.path, len(op.Responses), len(want))
		}
	}
	all := 0
	for _, methods := range paths {
		all += len(methods)
	}
	if all != n || n < 14 {
		t.Errorf("%d operations are described, %d of them are routes", all, n)
	}
	v := schemas.all["Error"].(map[string]any)["properties"].(map[string]any)["error"].(map[string]any)
	code := v["properties"].(map[string]any)["code"].(map[string]any)
	var enum []string
	for _, c := range code["enum"].([]any) {
		enum = append(enum, c.(string))
		if want := fmt.Sprintf("%s (%d): ", c, statuses()[brain.Code(c.(string))]); !strings.Contains(code["description"].(string), want) {
			t.Errorf("the description of codes has no %q", want)
		}
	}
	var want []string
	for c := range statuses() {
		want = append(want, string(c))
	}
	slices.Sort(want)
	if !slices.Equal(enum, want) {
		t.Errorf("codes %q are described, want %q", enum, want)
	}
}

// probe is a request and what must come of it.
type probe struct {
	name         string
	method, path string
	contentType  string
	body         []byte
	change       func(*rig, *http.Request) // before it is sent
	status       int
	code         brain.Code // of an error
}

// form is a form of parts, each a name, a type and a content.
func form(t *testing.T, parts ...[3]string) (contentType string, body []byte) {
	t.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, p := range parts {
		h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name="%s"; filename="x"`, p[0])}}
		if p[1] != "" {
			h.Set("Content-Type", p[1])
		}
		f, err := w.CreatePart(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, p[2]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return w.FormDataContentType(), b.Bytes()
}

// bodyOf is a body that a route accepts.
func bodyOf(g rig, r route) (contentType string, body []byte, path string) {
	switch r.path {
	case "/v1/classify":
		return brain.Tensor, make([]byte, 12), r.path
	case "/v1/learn":
		return brain.Tensor, make([]byte, 12), r.path + "?label=1"
	case "/v1/model":
		if r.method == "POST" {
			return brain.Tensor, g.brain.Package, r.path
		}
	}
	return "", nil, r.path
}

// brainCodes are those that a brain gives, whatever was sent.
func brainCodes() []brain.Code {
	return []brain.Code{brain.CodeImagePixels, brain.CodeImageBroken, brain.CodeTensor, brain.CodeLabel, brain.CodeBusy, brain.CodeNotDurable,
		brain.CodeNoModel, brain.CodePackage, brain.CodeSignature, brain.CodeKey, brain.CodeDowngrade, brain.CodeBoard, brain.CodeTrial,
		brain.CodeStorage, CodeTimeout}
}

// probes are requests that make every route give every status and code that it can.
func probes(t *testing.T, g rig) []probe {
	image := picture(t, 3, 2)
	small := func(c *rig, _ *http.Request) { c.config.MaxImageBytes, c.config.MaxPackageBytes = 10, 5 }
	unknownLength := func(c *rig, r *http.Request) { small(c, r); r.ContentLength = -1 }
	broken := func(err error) func(*rig, *http.Request) {
		return func(_ *rig, r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(err))), 100
		}
	}
	kind, learned := form(t, [3]string{"image", "image/png", string(image)}, [3]string{"label", "", "2"})
	all := []probe{
		{"png", "POST", "/v1/classify", "image/png", image, nil, 200, ""},
		{"float32", "POST", "/v1/classify", "application/octet-stream", make([]byte, 48), nil, 200, ""},
		{"no type", "POST", "/v1/classify", "", image, nil, 415, brain.CodeImageType},
		{"another type", "POST", "/v1/classify", "image/gif", image, nil, 415, brain.CodeImageType},
		{"form", "POST", "/v1/classify", kind, learned, nil, 415, brain.CodeImageType},
		{"no image", "POST", "/v1/classify", "image/png", []byte("<html>"), nil, 422, brain.CodeImageBroken},
		{"nothing", "POST", "/v1/classify", "image/png", nil, nil, 422, brain.CodeImageBroken},
		{"truncated", "POST", "/v1/classify", "image/png", image[:len(image)-20], nil, 422, brain.CodeImageBroken},
		{"bomb", "POST", "/v1/classify", "image/png", picture(t, 2000, 2000), nil, 413, brain.CodeImagePixels},
		{"tensor of another length", "POST", "/v1/classify", brain.Tensor, make([]byte, 11), nil, 422, brain.CodeTensor},
		{"announced too long", "POST", "/v1/classify", "image/png", image, small, 413, brain.CodeImageTooLong},
		{"too long", "POST", "/v1/classify", "image/png", image, unknownLength, 413, brain.CodeImageTooLong},
		{"parameter", "POST", "/v1/classify?label=1", "image/png", image, nil, 400, CodeParameter},
		{"no places", "POST", "/v1/classify", "image/png", image, func(g *rig, _ *http.Request) { g.images = nil }, 429, brain.CodeBusy},

		{"by number", "POST", "/v1/learn?label=2", "image/png", image, nil, 200, ""},
		{"by name", "POST", "/v1/learn?class=ship", "image/png", image, nil, 200, ""},
		{"form", "POST", "/v1/learn", kind, learned, nil, 200, ""},
		{"another type", "POST", "/v1/learn?label=2", "image/gif", image, nil, 415, brain.CodeImageType},
		{"no label", "POST", "/v1/learn", "image/png", image, nil, 400, CodeParameter},
		{"two labels", "POST", "/v1/learn?label=1&label=2", "image/png", image, nil, 400, CodeParameter},
		{"label and class", "POST", "/v1/learn?label=1&class=cat", "image/png", image, nil, 400, CodeParameter},
		{"unknown parameter", "POST", "/v1/learn?lable=1", "image/png", image, nil, 400, CodeParameter},
		{"half a query", "POST", "/v1/learn?label=%g1", "image/png", image, nil, 400, CodeParameter},
		{"label is a word", "POST", "/v1/learn?label=cat", "image/png", image, nil, 400, CodeParameter},
		{"wrong label", "POST", "/v1/learn?label=3", "image/png", image, nil, 422, brain.CodeLabel},
		{"negative label", "POST", "/v1/learn?label=-1", "image/png", image, nil, 422, brain.CodeLabel},
		{"wrong class", "POST", "/v1/learn?class=cow", "image/png", image, nil, 422, brain.CodeLabel},
		{"form too long", "POST", "/v1/learn", kind, learned, small, 413, brain.CodeImageTooLong},
		{"long", "POST", "/v1/learn?label=1", "image/png", image, unknownLength, 413, brain.CodeImageTooLong},
		{"no places", "POST", "/v1/learn?label=1", "image/png", image, func(g *rig, _ *http.Request) { g.images = nil }, 429, brain.CodeBusy},
		{"half a form", "POST", "/v1/learn", kind, learned[:len(learned)/2], nil, 400, CodeMultipart},

		{"with a reason", "POST", "/v1/sleep", "application/json", []byte(`{"reason": "to show it"}`), nil, 200, ""},
		{"numbers that JSON has not", "GET", "/v1/status", "", nil, func(g *rig, _ *http.Request) {
			g.brain.Set(func(s *brain.Status) { s.Layers[0].After.SNR, s.Layers[0].Mean.Ratio = math.Inf(1), math.NaN() })
		}, 200, ""},
		{"the brain gave up", "POST", "/v1/classify", "image/png", image, func(g *rig, _ *http.Request) {
			g.brain.Fail = func(string) error { return context.Canceled }
		}, 503, brain.CodeStopping},
		{"pages alike", "HEAD", "/v1/status", "", nil, nil, 200, ""},
		{"type", "POST", "/v1/model", "image/png", []byte("x"), nil, 415, CodeMediaType},
		{"announced too long", "POST", "/v1/model", brain.Tensor, g.brain.Package, small, 413, CodeTooLong},
		{"too long", "POST", "/v1/model", brain.Tensor, g.brain.Package, unknownLength, 413, CodeTooLong},
		{"no package", "POST", "/v1/model", brain.Tensor, []byte("x"), nil, 422, brain.CodePackage},
		{"nothing uploaded", "POST", "/v1/model/activate", "", nil, nil, 409, brain.CodeNoModel},
		{"no model", "GET", "/readyz", "", nil, func(g *rig, _ *http.Request) { g.brain.Set(func(s *brain.Status) { s.Model = brain.Model{} }) }, 503, CodeNotReady},
		{"ending", "GET", "/readyz", "", nil, func(g *rig, _ *http.Request) { g.Close() }, 503, brain.CodeStopping},
		{"no places", "GET", "/v1/events", "", nil, func(g *rig, _ *http.Request) { g.streams = nil }, 429, brain.CodeBusy},
		{"id", "GET", "/v1/events", "", nil, func(_ *rig, r *http.Request) { r.Header.Set("Last-Event-ID", "?") }, 400, CodeParameter},
	}
	for _, x := range []struct {
		name  string
		parts [][3]string
		code  brain.Code
	}{
		{"form without image", [][3]string{{"label", "", "1"}}, CodeMultipart},
		{"form of two images", [][3]string{{"image", "image/png", string(image)}, {"image", "image/png", string(image)}}, CodeMultipart},
		{"form of others", [][3]string{{"image", "image/png", string(image)}, {"note", "", "1"}}, CodeMultipart},
		{"form's image of another type", [][3]string{{"image", "image/gif", string(image)}}, brain.CodeImageType},
		{"form without label", [][3]string{{"image", "image/png", string(image)}}, CodeParameter},
	} {
		kind, body := form(t, x.parts...)
		all = append(all, probe{x.name, "POST", "/v1/learn", kind, body, nil, statuses()[x.code], x.code})
	}
	for _, r := range g.routes {
		kind, body, path := bodyOf(g, r)
		change := func(name string, code brain.Code, change func(*rig, *http.Request)) {
			all = append(all, probe{name, r.method, path, kind, body, change, statuses()[code], code})
		}
		if r.path != "/v1/model/activate" {
			all = append(all, probe{"plain", r.method, path, kind, body, ends, 200, ""})
		} else {
			all = append(all, probe{"plain", r.method, path, kind, body, uploaded, 200, ""})
		}
		change("host", CodeHost, func(_ *rig, r *http.Request) { r.Host = "evil.example" })
		if !r.unlimited {
			change("rate", CodeRate, func(g *rig, _ *http.Request) {
				g.clients = newBuckets(0.001, 1)
				g.send(ask("GET", "/v1/status", "", nil))
			})
		}
		if !r.open {
			change("origin", CodeOrigin, func(_ *rig, r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
			change("token", CodeUnauthorized, func(_ *rig, r *http.Request) { r.Header.Set("Authorization", "Bearer x") })
			change("ending", brain.CodeStopping, func(g *rig, _ *http.Request) { g.Close() })
		}
		change("panic", brain.CodeInternal, func(g *rig, _ *http.Request) {
			for i := range g.routes {
				g.routes[i].serve = func(http.ResponseWriter, *http.Request) error { panic("fault") }
			}
			g.mux = g.newMux()
		})
		for _, code := range r.codes {
			if slices.Contains(brainCodes(), code) && r.path != "/v1/events" {
				change("brain", code, func(g *rig, _ *http.Request) {
					g.brain.Fail = func(string) error {
						return &brain.Error{Code: code, Err: errors.New("brain: for a test\nof two lines")}
					}
					if code == CodeTimeout {
						g.brain.Fail = func(string) error { return context.DeadlineExceeded }
					}
				})
			}
		}
		if slices.Contains(r.codes, CodeSlow) {
			change("slow", CodeSlow, broken(os.ErrDeadlineExceeded))
			change("short", CodeBody, broken(io.ErrUnexpectedEOF))
		}
		if !slices.Contains(r.codes, CodeJSON) {
			continue
		}
		for _, x := range []struct {
			kind, text string
			code       brain.Code
		}{
			{"text/plain", `{"reason": "x"}`, CodeMediaType},
			{"application/json", `{"reason": "` + strings.Repeat("x", maxJSON) + `"}`, CodeTooLong},
			{"application/json", `{"reason": "` + strings.Repeat("x", maxReason+1) + `"}`, CodeJSON},
			{"application/json", `{"reason": "two\nlines"}`, CodeJSON},
			{"application/json", `{"reasons": "x"}`, CodeJSON},
			{"application/json", `{"reason": "x"} {}`, CodeJSON},
			{"application/json", `{"reason": `, CodeJSON},
			{"application/json", `[]`, CodeJSON},
		} {
			all = append(all, probe{"JSON", r.method, path, x.kind, []byte(x.text), nil, statuses()[x.code], x.code})
		}
	}
	return all
}

// ends has a stream of events end at once.
func ends(g *rig, r *http.Request) {
	if r.URL.Path == "/v1/events" {
		ctx, cancel := context.WithCancel(r.Context())
		cancel()
		*r = *r.WithContext(ctx)
	}
}

func uploaded(g *rig, _ *http.Request) {
	if _, err := g.brain.Upload(context.Background(), bytes.NewReader(g.brain.Package)); err != nil {
		panic(err)
	}
}

// What handlers answer is described, and everything that is described was answered: each operation's statuses, each code.
func TestAnswersAreDescribed(t *testing.T) {
	paths, schemas := readDescription(t)
	seen, codes := map[string]bool{}, map[string]bool{}
	all := probes(t, newRig(t))
	for _, p := range all {
		name := p.name + ": " + p.method + " " + p.path
		g := newRig(t)
		r := ask(p.method, p.path, p.contentType, p.body)
		if p.change != nil {
			p.change(&g, r)
		}
		before := g.brain.Status()
		w := g.send(r)
		if w.Code != p.status {
			t.Errorf("%s: status %d, want %d: %s", name, w.Code, p.status, w.Body)
			continue
		}
		if p.status != 200 {
			if code := codeOf(t, w); code != p.code || g.metrics.errors[code] != 1 {
				t.Errorf("%s: code %s, want %s; it was counted %d times", name, code, p.code, g.metrics.errors[code])
			}
			if after := g.brain.Status(); after.Step != before.Step || after.State != before.State || after.Model.Slot != before.Model.Slot {
				t.Errorf("%s: something has changed", name)
			}
			if text := w.Header().Get("Retry-After"); (text != "") != (p.status == 429 || p.status == 503) {
				t.Errorf("%s: Retry-After %q", name, text)
			}
		}
		if p.method == "HEAD" {
			continue
		}
		path := r.URL.Path
		op, is := paths[path][strings.ToLower(p.method)]
		if !is {
			continue // a page
		}
		d, is := op.Responses[strconv.Itoa(w.Code)]
		if !is {
			t.Errorf("%s: status %d is not described", name, w.Code)
			continue
		}
		seen[p.method+" "+path+" "+strconv.Itoa(w.Code)] = true
		if p.code != "" {
			codes[p.method+" "+path+" "+string(p.code)] = true
		}
		validate(t, name, schemas, d, w)
	}
	want, n := 0, 0
	for _, r := range newRig(t).routes {
		op := paths[r.path][strings.ToLower(r.method)]
		for status := range op.Responses {
			want++
			if !seen[r.method+" "+r.path+" "+status] {
				t.Errorf("%s %s: status %s was never given", r.method, r.path, status)
			}
		}
		for _, c := range append(r.guards(), r.codes...) {
			n++
			if !r.page && !codes[r.method+" "+r.path+" "+string(c)] {
				t.Errorf("%s %s: code %s was never given", r.method, r.path, c)
			}
		}
	}
	if want < 80 || n < 100 || len(all) < 150 {
		t.Errorf("only %d statuses and %d codes in %d requests", want, n, len(all))
	}
}

// validate checks an answer's type and body.
func validate(t *testing.T, name string, s schema, d response, w *httptest.ResponseRecorder) {
	t.Helper()
	kind, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	content, is := d.Content[kind]
	if !is {
		t.Errorf("%s: type %q is none of %q", name, kind, slices.Sorted(maps.Keys(d.Content)))
		return
	}
	if kind != "application/json" {
		return
	}
	var v any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Errorf("%s: %v", name, err)
	} else if err := s.check("answer", content.Schema, v); err != nil {
		t.Errorf("%s: %v in %s", name, err, w.Body)
	}
}

// Paths and methods that there are not.
func TestElsewhere(t *testing.T) {
	g := newRig(t)
	for _, x := range []struct {
		method, path string
		code         brain.Code
		allow        string
	}{
		{"GET", "/v1/nothing", CodeNotFound, ""},
		{"GET", "/v1", CodeNotFound, ""},
		{"GET", "/v1/classify", CodeMethod, "POST"},
		{"DELETE", "/v1/model", CodeMethod, "GET, HEAD, POST"},
		{"OPTIONS", "/v1/learn", CodeMethod, "POST"},
		{"POST", "/v1/status", CodeMethod, "GET, HEAD"},
	} {
		w := g.send(ask(x.method, x.path, "", nil))
		if code := codeOf(t, w); code != x.code || w.Code != statuses()[x.code] || w.Header().Get("Allow") != x.allow {
			t.Errorf("%s %s: status %d, code %s, Allow %q", x.method, x.path, w.Code, code, w.Header().Get("Allow"))
		}
	}
}
