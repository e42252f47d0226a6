package speed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// peer is a command that prints the text, by the shell's own means, so that it works on emulated processors too.
func peer(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "peer.txt")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "windows" {
		return "type " + file
	}
	return "cat '" + file + "'"
}

const peerText = `warming up
{"impl": "fast", "layer": "c64x8", "batch": 1, "threads": 1, "what": "fwd", "ms": 1000, "gflops": 1}
{"impl": "conv", "layer": "c64x8", "batch": 1, "what": "fwd", "ms": 2000}
{"impl": "fast", "layer": "c9x9", "batch": 1, "threads": 1, "what": "fwd", "ms": 1}
{"impl": "fast", "layer": "c64x8", "batch": 8, "threads": 7, "what": "fwd", "ms": 1}
{"impl": "fast", "layer": "c16x32", "batch": 1, "threads": 1, "what": "fwd", "ms": 1}
{"impl": "fast", "net": "r20lc", "threads": 1, "what": "AdamW_step_only", "ms": 1}`

func TestPeer(t *testing.T) {
	var text bytes.Buffer
	r := Result{Machine: tiny()}
	o := Options{
		Threads: 1, Budget: time.Millisecond, Only: regexp.MustCompile("c64x8|c9x9|r20lc"), Rounds: 2,
		Peers: []string{peer(t, peerText)},
	}
	if err := Run(context.Background(), o, &r, &text, io.Discard); err != nil {
		t.Fatal(err)
	}
	if len(r.Comparisons) != 1 {
		t.Fatalf("%d comparisons", len(r.Comparisons))
	}
	c := r.Comparisons[0]
	want := []struct {
		impl string
		ours Key
		ms   float64
	}{
		{"fast", Key{LC, "c64x8", 1, Forward}, 1000},
		{"conv", Key{LC, "c64x8", 1, Forward}, 2000},
		{"conv", Key{Conv, "c64x8", 1, Forward}, 2000},
	}
	if len(c.Pairs) != len(want) {
		t.Fatalf("pairs %+v", c.Pairs)
	}
	for i, w := range want {
		p := c.Pairs[i]
		if p.Impl != w.impl || p.Ours != w.ours || len(p.OursMS) != 2 || len(p.PeerMS) != 2 || p.Ratio.N != 2 {
			t.Errorf("pair %+v, want %+v twice", p, w)
			continue
		}
		for round := range 2 {
			if p.PeerMS[round] != w.ms || !(p.OursMS[round] > 0) {
				t.Errorf("pair %+v, want %v ms of the peer", p, w.ms)
			}
		}
		if want := spreadOf([]float64{w.ms / p.OursMS[0], w.ms / p.OursMS[1]}); p.Ratio != want {
			t.Errorf("ratio %v, want %v", p.Ratio, want)
		}
	}
	reasons := map[string]string{
		"fast c9x9/1/fwd":            `no layer "c9x9"`,
		"fast c64x8/8/fwd":           "measured with 7 threads, here are 1",
		"fast c16x32/1/fwd":          "lc2d/c16x32/1/fwd is not asked for",
		"fast r20lc/AdamW_step_only": "net/r20lc/AdamW_step_only was skipped", // by the 100 MB of the machine
	}
	if len(c.Unmatched) != len(reasons) {
		t.Errorf("unmatched: %+v", c.Unmatched)
	}
	for _, u := range c.Unmatched {
		if reasons[u.Row] != u.Reason || !strings.Contains(text.String(), u.Reason) {
			t.Errorf("%q: reason %q, want %q", u.Row, u.Reason, reasons[u.Row])
		}
	}
	if len(c.Means) != 3 || c.Means[0].Shapes != 1 || c.Means[0].Of != 7 {
		t.Errorf("means %+v", c.Means)
	}
}

// Geometric means of 2 and 8 are 4, round by round.
func TestMeans(t *testing.T) {
	shapes := mustShapes(t)
	c := Comparison{Rounds: 2}
	rows := []peerRow{{Impl: "a", Layer: "c16x32", Batch: 1, What: Forward, MS: 2}, {Impl: "a", Layer: "c64x8", Batch: 1, What: Forward, MS: 8}}
	matched := c.match(rows, 2, shapes, func(Key) bool { return true })
	first, second := Key{LC, "c16x32", 1, Forward}, Key{LC, "c64x8", 1, Forward}
	c.add(rows, matched, map[Key]float64{first: 1, second: 1})
	c.add(rows, matched, map[Key]float64{first: 2, second: 0.5})
	c.summarise(len(shapes))
	if len(c.Means) != 1 || len(c.Unmatched) != 0 {
		t.Fatalf("%+v", c)
	}
	m := c.Means[0]
	if m.Impl != "a" || m.Kind != LC || m.Batch != 1 || m.What != Forward || m.Shapes != 2 || m.Of != 7 || m.Ratio.N != 2 {
		t.Errorf("mean %+v", m)
	}
	for _, got := range []float64{m.Ratio.Min, m.Ratio.Max} {
		// exp and log are good to about a unit in the last place each
		if !(math.Abs(got-4) <= 4*0x1p-48) {
			t.Errorf("mean %v, want 4", got)
		}
	}
}

func TestParsePeer(t *testing.T) {
	rows, err := parsePeer(`{"impl": "cpp", "layer": "c64x8", "batch": 64, "threads": 2, "ms": 1.5}`)
	if err != nil || len(rows) != 1 || rows[0].What != Forward {
		t.Errorf("a line without what: %+v, %v", rows, err)
	}
	for text, want := range map[string]string{
		"":               "no lines of JSON",
		"a table\n1 2 3": "no lines of JSON",
		`{"impl": "a", "layer": "c64x8", "ms": NaN}`:       "line 1",
		`{"impl": "a", "layer": "c64x8", "ms": 0}`:         "not above 0",
		`{"impl": "a", "layer": "c64x8", "what": "fwd"}`:   "not above 0",
		`{"layer": "c64x8", "ms": 1}`:                      "no impl",
		`{"impl": "a", "ms": 1}`:                           "a layer or a net",
		`{"impl": "a", "layer": "x", "net": "y", "ms": 1}`: "a layer or a net",
		"{\"impl\": \"a\", \"layer\": \"x\", \"ms\": 1}\n{\"impl\": \"a\", \"layer\": \"x\", \"ms\": 2}": "line 2: a x/fwd is there twice",
	} {
		if _, err := parsePeer(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
}

// A peer that fails, prints nothing or measures other things is an error that names it.
func TestPeerErrors(t *testing.T) {
	for command, want := range map[string]string{
		"echo no such module>&2 && exit 3": "exit status 3: no such module",
		peer(t, "hello"):                   "no lines of JSON",
		peer(t, `{"impl": "a", "layer": "c9x9", "batch": 1, "what": "fwd", "ms": 1}`): "none of its rows",
	} {
		o := Options{Threads: 1, Budget: time.Millisecond, Rounds: 1, Peers: []string{command}}
		err := Run(context.Background(), o, &Result{Machine: tiny()}, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "peer "+fmt.Sprintf("%q", command)) {
			t.Errorf("%s: error %v, want %q and the command", command, err, want)
		}
	}
}
