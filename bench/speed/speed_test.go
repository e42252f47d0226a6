package speed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"hypnos/core/sleep"
)

// near tells whether two results of a few float64 operations agree: 16 roundings of 2^-53 each.
func near(got, want float64) bool { return math.Abs(got-want) <= 0x1p-49*math.Abs(want) }

func mustShapes(t testing.TB) []Shape {
	t.Helper()
	shapes, err := Shapes()
	if err != nil {
		t.Fatal(err)
	}
	return shapes
}

func TestShapes(t *testing.T) {
	var names []string
	for _, s := range mustShapes(t) {
		names = append(names, s.Name)
	}
	if got, want := strings.Join(names, " "), "c16x32 c32x16 c64x8 i32x56 i64x28 i128x14 i256x7"; got != want {
		t.Errorf("shapes are %s, want %s", got, want)
	}
	for _, text := range []string{"a 1 1 4 3", "a 1 1 4 3 1 7", "a 1 x 4 3 1", "a 1 1 4 2 1", "a 1 1 4 3 1\na 1 1 8 3 1"} {
		if _, err := parseShapes("bad.txt", text); err == nil || !strings.Contains(err.Error(), "bad.txt: line ") {
			t.Errorf("%q: error %v does not name the line", text, err)
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		xs   []float64
		want Spread
	}{
		{[]float64{3}, Spread{3, 3, 3, 1}},
		{[]float64{3, 1, 2}, Spread{2, 1, 3, 3}},
		{[]float64{4, 1, 2, 8}, Spread{3, 1, 8, 4}},
	} {
		if got := spreadOf(c.xs); got != c.want {
			t.Errorf("spread of %v is %v, want %v", c.xs, got, c.want)
		}
	}
	if got, want := spreadOf([]float64{2, 4, 8}).per(16), (Spread{4, 2, 8, 3}); got != want {
		t.Errorf("rates are %v, want %v", got, want)
	}
}

// A 3x3 layer of 2 to 5 channels on 4x4 positions, computed by hand: 16 positions of 18·5 weights; of the 12·12 taps along
// both axes, (3·4-2)² = 100 fall on inputs.
func TestCost(t *testing.T) {
	const batch = 3
	s := Shape{"s", 2, 5, 4, 3, 1}
	for kind, weights := range map[string]float64{LC: 16 * 18 * 5, Conv: 18 * 5} {
		n, err := s.network(kind)
		if err != nil {
			t.Fatal(err)
		}
		const flop, macs, in, out = 2 * batch * 16 * 18 * 5, batch * 100 * 2 * 5, batch * 16 * 2, batch * 16 * 5
		forward := Work{flop, macs, 4 * (weights + in + out), Read}
		both := Work{3 * flop, 3 * macs, 4 * (3*weights + 3*in + 2*out), Scale}
		for what, want := range map[string]Work{Forward: forward, Both: both} {
			got := Key{kind, "s", batch, what}.works(n)
			if len(got) != 1 || got[0] != want {
				t.Errorf("%s %s: %+v, want %+v", kind, what, got, want)
			}
		}
		if got, want := (Key{kind, "s", batch, Both}).footprint(n), 4*2*(weights+in+out); got != want {
			t.Errorf("%s touches %v bytes, want %v", kind, got, want)
		}
	}
}

// The figures of ResNet20-LC follow from its summary.
func TestNetworkCost(t *testing.T) {
	n, err := network("r20lc")
	if err != nil {
		t.Fatal(err)
	}
	sum := n.Summary()
	var layers int
	for _, l := range sum.Layers {
		if l.Op == "lc2d" || l.Op == "linear" {
			layers++
		}
	}
	works := Key{Net, "r20lc", 64, TrainStep}.works(n)
	if len(works) != 2*layers+1 || layers < 20 {
		t.Fatalf("a training step is %d works for %d layers", len(works), layers)
	}
	var macs float64
	for _, l := range weighted(n) {
		macs += l.macs
	}
	var norms float64
	for _, l := range sum.Layers {
		if l.Op == "batchnorm" {
			norms += float64(l.MACs)
		}
	}
	if want := float64(sum.MACs) - norms; macs != want {
		t.Errorf("layers with weights have %v multiply-adds, the network %v", macs, want)
	}
	if got, want := total(works).MACs, 64*(3*macs-weighted(n)[0].macs); got != want {
		t.Errorf("a step has %v multiply-adds, want %v: no input gradient of the first layer", got, want)
	}
	if got, want := (Key{Net, "r20lc", 0, Sleep}).works(n)[0], (Work{Bytes: 8 * float64(sum.Weights), Traffic: Copy}); got != want {
		t.Errorf("sleep is %+v, want %+v", got, want)
	}
	hebbian := 0.0
	for _, l := range sleep.Layers(n) { // without biases; a map costs K² and its factors of 100 patterns 200 K
		each := 200.0
		if l.K < 200 {
			each = float64(l.K)
		}
		hebbian += each * float64(l.Out.Len()*l.K)
	}
	if got := (Key{Net, "r20lc", 512, Hebbian}).works(n)[0]; got.MACs != hebbian || hebbian == 0 || got.Bytes != 8*float64(sum.Weights) {
		t.Errorf("Hebbian sleep is %+v, want %v multiply-adds", got, hebbian)
	}
	if got, want := (Key{Net, "r20lc", 0, AdamStep}).works(n)[0], (Work{Bytes: 28 * float64(sum.Params), Traffic: Scale}); got != want {
		t.Errorf("AdamW is %+v, want %+v", got, want)
	}
}

func TestBound(t *testing.T) {
	l := limits{FMA: 100, Read: 10, Scale: 20, Copy: 5}
	arithmetic, read := Work{MACs: 500, Bytes: 50, Traffic: Read}, Work{MACs: 50, Bytes: 40, Traffic: Read}
	scale := Work{Bytes: 140, Traffic: Scale}
	for _, c := range []struct {
		works   []Work
		seconds float64
		binds   string
	}{
		{[]Work{arithmetic}, 10, FMA},
		{[]Work{read}, 4, Read},
		{[]Work{scale}, 7, Scale},
		{[]Work{read, scale, arithmetic}, 21, FMA},
		{[]Work{read, read, read, arithmetic}, 22, Read},
	} {
		seconds, binds := bound(c.works, l)
		if !near(seconds, c.seconds) || binds != c.binds {
			t.Errorf("%+v: %v s by %s, want %v by %s", c.works, seconds, binds, c.seconds, c.binds)
		}
	}
}

func TestRow(t *testing.T) {
	s, _ := subjects([]Key{{LC, "c64x8", 64, Forward}}, mustShapes(t))
	k := s[0].keys[0]
	slow, fast := limits{FMA: 1e12, Read: 1e9}, limits{FMA: 1e12, Read: 2e9}
	r := newRow(s[0], k, 2, []float64{0.002, 0.001, 0.004}, []limits{slow, fast, slow}, 1<<20)
	flop, bytes := 2.0*64*64*576*64, 4.0*(64*576*64+64*2*64*64)
	if r.FLOP != flop || !near(r.GFLOPS, flop/0.002/1e9) || r.Bytes != bytes || !near(r.GBs, bytes/0.002/1e9) {
		t.Errorf("rates of %+v do not follow from %v FLOP, %v bytes in 2 ms", r, flop, bytes)
	}
	if !near(r.BoundMS.Median, bytes/1e9*1e3) || r.Binds != Read || !r.InCache {
		t.Errorf("bound of %+v: want %v bytes at 1 GB/s, in a cache of 1 GB", r, bytes)
	}
	if got, least, most := r.Share, bytes/1e9/0.004, bytes/1e9/0.002; !near(got.Min, least) || !near(got.Median, most) || !near(got.Max, most) || got.N != 3 {
		t.Errorf("shares %+v: the second sample was twice as fast as the first when memory was", got)
	}
	if r.MS != (Spread{2, 1, 4, 3}) {
		t.Errorf("ms are %v", r.MS)
	}
}

// Geometric means and the least, by kind, batch size, work and what binds; the speed-up over rows that have one.
func TestSummary(t *testing.T) {
	row := func(layer, what, binds string, share, ratio float64) Row {
		r := Row{Key: Key{LC, layer, 64, what}, Threads: 2, Binds: binds, Share: Spread{Median: share}}
		if ratio > 0 {
			r.OneThread = &Speedup{Ratio: Spread{Median: ratio}}
		}
		return r
	}
	s := summarise([]Row{
		row("a", Forward, FMA, 0.9, 2), row("b", Both, FMA, 0.5, 0.5), row("c", Forward, Read, 0.7, 0), row("d", Forward, Scale, 0.7, 0), row("e", Forward, FMA, 0.4, 1),
	})
	want := []ShareSummary{
		{LC, 64, Forward, FMA, 2, 0.6, 0.4, "lc2d/e/64/fwd"},
		{LC, 64, Both, FMA, 1, 0.5, 0.5, "lc2d/b/64/fwd+bwd"},
		{LC, 64, Forward, "memory", 2, 0.7, 0.7, "lc2d/c/64/fwd"},
	}
	if len(s.Shares) != len(want) {
		t.Fatalf("%+v", s.Shares)
	}
	for i, w := range want {
		got := s.Shares[i]
		if !near(got.Mean, w.Mean) {
			t.Errorf("mean share %v, want %v", got.Mean, w.Mean)
		}
		if got.Mean = w.Mean; got != w {
			t.Errorf("%+v, want %+v", got, w)
		}
	}
	u := s.Speedup
	if u == nil || u.Threads != 2 || u.Rows != 3 || !near(u.Mean, 1) || u.Least != 0.5 || u.LeastOf != "lc2d/b/64/fwd+bwd" {
		t.Errorf("speed-up %+v", u)
	}
	var text bytes.Buffer
	(&table{out: &text}).summary(*s)
	for _, part := range []string{"Summary", "lc2d/e/64/fwd", "40 %", "2 threads by one", "geometric mean 1.00 over 3 rows, least 0.500 of lc2d/b/64/fwd+bwd"} {
		if !strings.Contains(text.String(), part) {
			t.Errorf("no %q in\n%s", part, &text)
		}
	}
	if summarise(nil) != nil || summarise([]Row{row("a", Forward, FMA, 1, 0)}).Speedup != nil {
		t.Error("a summary of nothing")
	}
}

// Every default row has works and a network, and names say what is what.
func TestDefaultKeys(t *testing.T) {
	shapes := mustShapes(t)
	keys := defaultKeys(shapes, nil)
	if want := 2*7*3*2 + 9 + 3 + 1 + 2; len(keys) != want {
		t.Fatalf("%d rows, want %d", len(keys), want)
	}
	keys = slices.DeleteFunc(keys, func(k Key) bool {
		if !apart(k) {
			return false
		}
		if _, err := training(k); err != nil {
			t.Error(err)
		}
		return true
	})
	all, unknown := subjects(keys, shapes)
	if len(unknown) > 0 {
		t.Errorf("unknown: %v", unknown)
	}
	var n int
	for _, s := range all {
		n += len(s.keys)
	}
	if n != len(keys) {
		t.Errorf("%d rows are measured of %d", n, len(keys))
	}
	only := defaultKeys(shapes, regexp.MustCompile("^lc2d/c16x32/64/"))
	if len(only) != 2 || only[1].String() != "lc2d/c16x32/64/fwd+bwd" {
		t.Errorf("--only gives %v", only)
	}
	for _, k := range []Key{{LC, "c9x9", 1, Forward}, {Net, "r99", 1, Inference}, {LC, "c16x32", 1, TrainStep}, {Net, "r20lc", 0, TrainStep}, {Net, "r20lc", 3, Sleep}, {Net, "r20lc", 0, Hebbian}, {LC, "c16x32", -1, Forward}} {
		if _, err := k.network(shapes); err == nil {
			t.Errorf("%v is taken for a row", k)
		}
	}
}

func TestMeasure(t *testing.T) {
	var order strings.Builder
	f := func(name string) func() {
		return func() { order.WriteString(name); time.Sleep(sampleTime) }
	}
	times, err := measure(context.Background(), time.Nanosecond, f("a"), f("b"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := order.String(), "aabb"+strings.Repeat("aabb", minSamples); got != want { // twice each, then one of two is measured
		t.Errorf("order %s, want %s", got, want)
	}
	if len(times) != 2 || len(times[0]) != minSamples || len(times[1]) != minSamples || times[0][0] < sampleTime.Seconds() {
		t.Errorf("times %v", times)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := measure(ctx, time.Hour, func() {}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
}

// tiny is a machine whose memory makes the buffers small.
func tiny() Machine { return Machine{Platform: "test", Cores: 1, AvailableMB: 100} }

func TestRun(t *testing.T) {
	var text bytes.Buffer
	r := Result{Program: "hypnos test", Machine: tiny()}
	o := Options{Threads: 1, Budget: time.Millisecond, Only: regexp.MustCompile("/c64x8/1/")}
	if err := Run(context.Background(), o, &r, &text, io.Discard); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 4 || len(r.Limits) < 4 || r.Threads != 1 || r.Kernels == "" {
		t.Fatalf("result %+v", r)
	}
	for _, l := range r.Limits {
		if !(l.Rate.Median > 0) || l.Rate.N < minSamples || l.Rate.Min > l.Rate.Median || l.Rate.Median > l.Rate.Max {
			t.Errorf("limit %+v", l)
		}
	}
	for _, row := range r.Rows {
		if !(row.MS.Median > 0) || !(row.Share.Min > 0) || row.Share.N != row.MS.N || row.BoundMS.N != row.MS.N {
			t.Errorf("row %+v", row)
		}
	}
	for _, want := range []string{"FMA", "GFLOP/s", "lc2d", "conv2d", "c64x8", "fwd+bwd"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, &text)
		}
	}
	testJSON(t, r)
}

// testJSON checks the names that readers of the file rely on.
func testJSON(t *testing.T, r Result) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	has := func(where string, v any, names ...string) {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("%s is %T", where, v)
		}
		for _, name := range names {
			if _, ok := m[name]; !ok {
				t.Errorf("%s has no %q: %s", where, name, data)
			}
		}
	}
	has("result", got, "program", "date", "go", "machine", "kernels", "threads", "budget_s", "limits", "rows", "summary")
	has("machine", got["machine"], "platform", "cores", "kernel_versions")
	has("limit", got["limits"].([]any)[0], "what", "threads", "unit", "rate")
	row := got["rows"].([]any)[0]
	has("row", row, "kind", "layer", "batch", "threads", "what", "ms", "gflops", "macs", "bytes", "gb_s", "bound_ms", "binds", "share")
	has("ms", row.(map[string]any)["ms"], "median", "min", "max", "n")
}

// What does not fit the memory is skipped with both figures.
func TestRunSkips(t *testing.T) {
	var text bytes.Buffer
	r := Result{Machine: tiny()}
	o := Options{Threads: 1, Budget: time.Millisecond, Only: regexp.MustCompile("r18lc")}
	if err := Run(context.Background(), o, &r, &text, io.Discard); err != nil {
		t.Fatal(err)
	}
	if len(r.Rows) != 0 || len(r.Skipped) != 2 || r.Skipped[0].Name != "net/r18lc/1/inference" ||
		r.Skipped[1].Name != "imagenet/r18lc/64/train_step_AdamW+sleep_instant" {
		t.Fatalf("result %+v", r)
	}
	if s := text.String(); !strings.Contains(s, "Skipped") || !strings.Contains(s, "76 MB are free") {
		t.Errorf("no reason in\n%s", s)
	}
}

func TestRunRefuses(t *testing.T) {
	for want, o := range map[string]Options{
		"no row matches": {Only: regexp.MustCompile("nothing")},
		"no kernels":     {Kernels: "mmx"},
		"below 0":        {Threads: -1},
	} {
		err := Run(context.Background(), o, &Result{Machine: tiny()}, io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v, want %q", o, err, want)
		}
	}
}
