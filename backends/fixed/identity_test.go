package fixed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

var update = flag.Bool("update", false, "write the digests of TestIdentity as the ones to expect")

// golden holds what TestIdentity expects. It was written by the portable kernels on amd64:
//
//	go test -tags purego -run TestIdentity ./backends/fixed -update
const golden = "testdata/identity.txt"

// TestIdentity: logits, weights after learning and weights after sleep are the same bytes on every processor, with every
// version of the kernels and 1, 2 and 3 threads. It logs a line "digest NAME SHA-256" a stage; .ci/identity compares those of
// several processors. Bytes are the int16 of the logits, (B, Classes), and the weights row by row with each row's bias
// (int32) behind it, little-endian.
func TestIdentity(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3)) // no more threads than processors are opened
	var first []stage
	for _, version := range Versions() {
		for _, threads := range []int{1, 2, 3} {
			got := identityStages(t, Options{Threads: threads, Kernels: version})
			if first == nil {
				first = got
			}
			for i, s := range got {
				if s != first[i] {
					t.Errorf("%s, %d threads: %v, others have %v", version, threads, s, first[i])
				}
			}
		}
	}
	var text bytes.Buffer
	for _, s := range first {
		fmt.Fprintln(&text, s)
		t.Logf("digest %v", s)
	}
	t.Logf("kernels %s; 1, 2, 3 threads", strings.Join(Versions(), ", "))
	if len(first) < 50 {
		t.Errorf("only %d stages", len(first))
	}
	if *update {
		if err := os.WriteFile(golden, text.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(want)), "\n")
	if len(lines) != len(first) {
		t.Fatalf("%d stages, %s has %d", len(first), golden, len(lines))
	}
	for i, line := range lines {
		if first[i].String() != line {
			t.Errorf("got %v, want %s", first[i], line)
		}
	}
}

// stage is the digest of one stage's result.
type stage struct{ name, digest string }

func (s stage) String() string { return s.name + " " + s.digest }

// identityStages takes networks with every kind of layer through everything that the backend does.
func identityStages(t *testing.T, o Options) []stage {
	t.Helper()
	var all []stage
	for _, n := range append(testNets(t), plasticNet(t)) {
		for _, rule := range core.WakeRules() {
			for _, batch := range []int{1, 3} {
				c := training(batch)
				c.Rule = rule
				e := openEngine(t, o, n, c, randomParams(t, n, 1, 0.5))
				all = append(all, lifeStages(t, e, fmt.Sprintf("%s/%s/batch%d/", n.Name, rule, batch), batch)...)
			}
		}
	}
	return all
}

// lifeStages is one engine's life: it infers, learns, sleeps by every rule, and learns again after each sleep.
func lifeStages(t *testing.T, e *engine, prefix string, batch int) (all []stage) {
	t.Helper()
	note := func(what, digest string) { all = append(all, stage{prefix + what, digest}) }
	note("infer", logitsDigest(t, e, batch))
	wakes(t, e, 5, batch)
	note("wake", digest(t, e))
	for _, p := range []struct {
		name   string
		stream sleep.Stream
	}{
		{"instant", sleep.Stream{Rule: sleep.Instant{}}},
		{"onehot", sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 1}, Source: sleep.OneHot{}, Events: 40}},
		{"gaussian", sleep.Stream{Rule: sleep.Hebbian{Gamma: 1e-3, Batch: 2, Momentum: 0.5}, Events: 10}},
		{"circuit", sleep.Stream{Rule: circuit(true), Events: 4}},
		{"inhibited", sleep.Stream{Rule: circuit(false), Events: 4}},
	} {
		p.stream.Seed, p.stream.Phase = 5, uint64(e.step)
		if _, err := e.Sleep(context.Background(), p.stream); err != nil {
			t.Fatal(err)
		}
		note(p.name, digest(t, e))
		wakes(t, e, 2, batch)
		note(p.name+"/wake", digest(t, e))
	}
	note("infer/end", logitsDigest(t, e, batch))
	return all
}

// logitsDigest is the SHA-256 of the logits of a few images.
func logitsDigest(t *testing.T, e *engine, batch int) string {
	t.Helper()
	if _, err := e.Infer(context.Background(), images(e.net, 8, batch)); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	binary.Write(h, binary.LittleEndian, e.out[len(e.out)-1][:batch*e.net.Output().C])
	return fmt.Sprintf("%x", h.Sum(nil))
}

// The suite must meet every kind of layer that the backend has.
func TestIdentityMeetsEveryLayer(t *testing.T) {
	met := map[string]bool{}
	for _, n := range testNets(t) {
		for _, v := range n.Nodes {
			met[v.Op.Kind()] = true
		}
	}
	for _, kind := range []net.Op{net.Conv2D{}, net.LC2D{}, net.ReLU{}, net.Add{}, net.MaxPool{}, net.GlobalAvgPool{}, net.Transpose{}, net.Linear{}} {
		if !met[kind.Kind()] {
			t.Errorf("no network with a layer of kind %s", kind.Kind())
		}
	}
}
