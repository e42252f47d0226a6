package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"hypnos/bench/farm"
	"hypnos/core/data/datatest"
)

// TestMain is the tests, or the program that they start as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// asProgram is an environment variable that makes the program of the tests the tool.
const asProgram = "HYPNOS_TEST_AS_PROGRAM"

// figures is the JSON of a table without times, machines and programs.
func figures(t *testing.T, path string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(read(t, path)), &v); err != nil {
		t.Fatal(err)
	}
	count := 0
	var strip func(any)
	strip = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range []string{"seconds", "duration_ns", "machine", "program"} {
				delete(v, k)
			}
			for _, x := range v {
				strip(x)
			}
		case []any:
			for _, x := range v {
				strip(x)
			}
		case float64:
			count++
		}
	}
	strip(v)
	if count < 20 {
		t.Fatalf("%s has %d numbers", path, count)
	}
	return v
}

// A table trained by processes has the numbers of one that is trained here; one that is interrupted goes on, with workers or without.
func TestTableWorkers(t *testing.T) {
	program, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(program, "-test.run", "^$").Run(); errors.Is(err, syscall.ENOEXEC) {
		t.Skipf("SKIPPED: this program cannot be started as a process, as on an emulated processor: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Setenv(asProgram, "1")
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	args := func(name string, more ...string) []string {
		return append([]string{"table", "1", "--data", source, "--scale", "sample", "--cells", "conv,lc-ws1", "--seeds", "1,2", "--epochs", "4", "--out", filepath.Join(dir, name),
			"--json", filepath.Join(dir, name+".json"), "--set", "network.width=2", "--set", "network.input=8", "--set", "train.batch=12", "--set", "train.eval_every=10"}, more...)
	}
	works(t, args("here"))
	want := figures(t, filepath.Join(dir, "here.json"))
	r := works(t, args("two", "--workers", "2", "--upload-every", "0s"), "| LC - ws(1) |")
	if got := figures(t, filepath.Join(dir, "two.json")); !reflect.DeepEqual(got, want) {
		t.Errorf("with two workers %v, want %v", got, want)
	}
	if !strings.Contains(r.err, "LC - ws(1), seed 2: 8 steps") {
		t.Errorf("said\n%s", r.err)
	}
	if _, err := os.Stat(filepath.Join(dir, "two", "queue")); err == nil {
		t.Error("the queue is still there")
	}

	ctx, stop := context.WithCancel(t.Context())
	interrupted := args("stopped", "--workers", "1", "--upload-every", "0s", "--epochs", "20")
	go func() {
		defer stop()
		for range 1000 { // until something was trained
			if found, _ := filepath.Glob(filepath.Join(dir, "stopped", "*", "seed-*", "checkpoint.safetensors")); len(found) > 0 {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	if r := hypnos(ctx, interrupted...); r.code != exitInterrupted || !strings.Contains(r.err, "the same command goes on") {
		t.Errorf("interrupted: exit code %d, %s", r.code, r.err)
	}
	r = works(t, args("stopped", "--epochs", "20"))
	if !strings.Contains(r.err, "going on at step") {
		t.Errorf("nothing was left of what the worker did:\n%s", r.err)
	}
	works(t, args("whole", "--epochs", "20"))
	if got, want := figures(t, filepath.Join(dir, "stopped.json")), figures(t, filepath.Join(dir, "whole.json")); !reflect.DeepEqual(got, want) {
		t.Errorf("interrupted with a worker and gone on without %v, want %v", got, want)
	}
}

// Workers that join by address, of this version and of none.
func TestWorkerJoins(t *testing.T) {
	t.Setenv(asProgram, "1")
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	free, err := farm.Serve(filepath.Join(dir, "free"), "", "t") // for a port that is free
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimPrefix(free.URL, "nats://")
	free.Close(0)
	out := filepath.Join(dir, "out")
	done := make(chan result)
	go func() {
		done <- hypnos(t.Context(), "table", "1", "--data", source, "--scale", "sample", "--cells", "conv", "--epochs", "2", "--out", out, "--listen", address,
			"--set", "network.width=2", "--set", "network.input=8", "--set", "train.batch=12")
	}()
	token := filepath.Join(out, "queue.token")
	for range 1000 {
		if _, err := farm.Connect(farm.Options{URL: "nats://" + address, Token: tokenIn(token), Log: func(string) {}}); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	wrong := filepath.Join(dir, "wrong.token")
	if err := os.WriteFile(wrong, []byte("no\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails(t, dir+"/free", exitFailed, []string{"worker", "--queue", "nats://" + address, "--token-file", wrong, "--dir", filepath.Join(dir, "w")}, address, "refuses this token")
	works(t, []string{"worker", "--queue", "nats://" + address, "--token-file", token, "--dir", filepath.Join(dir, "w")})
	if r := <-done; r.code != exitOK || !strings.Contains(r.out, "| conv |") || !strings.Contains(r.err, "workers join with: hypnos worker --queue nats://"+address+" --token-file "+token) {
		t.Errorf("the table: exit code %d\n%s%s", r.code, r.out, r.err)
	}
}

func tokenIn(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

func TestWorkerArguments(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	table := []string{"table", "1", "--out", dir}
	for _, bad := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"worker"}, exitUsage, "which queue?"},
		{[]string{"worker", "--queue", "nats://127.0.0.1:1"}, exitFailed, "no NATS server answers at nats://127.0.0.1:1"},
		{[]string{"worker", "--queue", "nats://127.0.0.1:1", "--token-file", empty}, exitFailed, "empty: it is empty"},
		{[]string{"worker", "--queue", "nats://127.0.0.1:1", "--token-file", empty + "x"}, exitFailed, "emptyx"},
		{[]string{"worker", "--queue", "nats://127.0.0.1:1", "--queue-name", "a.b"}, exitFailed, `queue name "a.b"`},
		{append(table, "--workers", "-1"), exitUsage, "--workers -1"},
		{append(table, "--listen", "x"), exitFailed, "want HOST:PORT"},
		{append(table, "--listen", ":1", "--queue", "nats://x"), exitUsage, "give one"},
		{append(table, "--workers", "1", "--queue-name", "x"), exitUsage, "give --queue"},
		{append(table, "--workers", "1", "--token-file", empty), exitUsage, "--token-file is for"},
		{append(table, "--upload-every", "-1s"), exitUsage, "--upload-every"},
		{append(table, "--queue", "nats://127.0.0.1:1"), exitFailed, "no NATS server answers at nats://127.0.0.1:1"},
	} {
		fails(t, dir, bad.code, bad.args, bad.want)
	}
}

// A program says which it is, also one that was not built from a commit.
func TestIdentity(t *testing.T) {
	a, err := identity()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := identity(); a != b || err != nil || !strings.HasPrefix(a, "hypnos ") {
		t.Errorf("%q, then %q, %v", a, b, err)
	}
	for v, want := range map[string]bool{"0123456789ab": true, "0123456789ab+": false, "(devel)": false, "v1.2.3": false, "0123456789ag": false} {
		if isCommit(v) != want {
			t.Errorf("%s: %v", v, !want)
		}
	}
}

// All runs in one view, as lines: who has what, how far it is, what is done.
func TestFleet(t *testing.T) {
	var out bytes.Buffer
	f := newFleet(&out, 3)
	f.every = 0
	for _, n := range []farm.News{
		{Key: "b", Label: "LC, seed 1", Worker: "2", Kind: farm.Begun, Step: 40, From: 40, Steps: 100},
		{Key: "a", Label: "conv, seed 1", Worker: "1", Kind: farm.Stepped, Step: 10, Steps: 100, Loss: 2.5, Speed: 300}, // begun before this view
		{Key: "b", Label: "LC, seed 1", Worker: "2", Kind: farm.Stepped, Step: 50, From: 40, Steps: 100, Epoch: 1, Loss: 1.25, Speed: 200},
		{Key: "a", Label: "conv, seed 1", Worker: "1", Kind: farm.Tested, Epoch: 2, Top1: 0.5},
		{Key: "a", Label: "conv, seed 1", Worker: "1", Kind: farm.Note, Text: "let go"},
		{Key: "a", Label: "conv, seed 1", Worker: "1", Kind: farm.Released},
		{Kind: farm.Note, Text: "putting images"},
	} {
		f.observe(n)
	}
	f.result("conv, seed 1: done")
	f.observe(farm.News{Key: "b", Label: "LC, seed 1", Worker: "2", Kind: farm.Stepped, Step: 60, From: 40, Steps: 100, Epoch: 1, Loss: 1, Speed: 200})
	f.Close()
	for _, want := range []string{
		"LC, seed 1: going on at step 40 of 100, worker 2\n",
		"0 of 3 runs done, 2 being trained\n  LC, seed 1: epoch 2 step 50/100, worker 2  loss 1.250  200 images/s  0s left\n  conv, seed 1: epoch 1 step 10/100, worker 1 ",
		"conv, seed 1: epoch 3: test top-1 50.00%\n", "conv, seed 1, worker 1: let go\n", "queue: putting images\n",
		"1 of 3 runs done, 1 being trained\n  LC, seed 1: epoch 2 step 60/100",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// The page of the tables has the times and numbers of the farm as they are.
func TestFarmPage(t *testing.T) {
	text := read(t, "../../docs/TABLES.md")
	f := farmFlags(newFlags(console{io.Discard, io.Discard}, "", "", ""))
	for _, want := range []string{
		fmt.Sprintf("after %.0f seconds of silence", farm.DefaultAckWait.Seconds()),
		fmt.Sprintf("`--upload-every` (%.0f s)", f.upload.Seconds()),
		fmt.Sprintf("after %d in turn that did not get further", farm.DefaultMaxTries),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q on the page", want)
		}
	}
}
