package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hypnos/core/data/datatest"
	"hypnos/server"
	"hypnos/server/brain"
	"hypnos/server/client"
	"hypnos/server/servertest"
)

// testBoard is a board's API on loopback, with a token, and a package that it accepts.
func testBoard(t *testing.T) (b *servertest.Brain, url, token, file string) {
	t.Helper()
	dir := t.TempDir()
	source, run := datatest.ClassFolders(t, 8, 8, 20), filepath.Join(dir, "run")
	works(t, trainTiny(run, "resnet8-lc", source, "train.epochs=1"))
	file = filepath.Join(dir, "edge.hyp")
	works(t, []string{"package", "-m", filepath.Join(run, "checkpoint.safetensors"), "-o", file, "--images", "6"})
	token = filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("a-token-for-tests"), 0o600); err != nil {
		t.Fatal(err)
	}
	b = servertest.New()
	b.Package = []byte(read(t, file))
	c := server.Defaults()
	c.TokenFile = token
	s, err := server.New(b, c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); web.Close() })
	return b, web.URL, token, file
}

// afterTrial has the board end a trial, once there is one, in a state.
func afterTrial(b *servertest.Brain, state, reason string) {
	go func() {
		for range 2000 {
			time.Sleep(5 * time.Millisecond)
			done := false
			b.Set(func(s *brain.Status) {
				for i := range s.Models {
					if m := &s.Models[i]; m.State == brain.Trial {
						m.State, m.Reason, done = state, reason, true
					}
				}
			})
			if done {
				return
			}
		}
	}()
}

// A package goes to a board and is committed to, or returned from with the reason; a rollback; and the way back.
func TestDeployAndPull(t *testing.T) {
	t.Parallel()
	b, url, token, file := testBoard(t)
	to := []string{"--to", url, "--token-file", token}
	maker := filepath.Join(t.TempDir(), "maker")
	works(t, []string{"keygen", "-o", maker})
	fails(t, t.TempDir(), exitFailed, append([]string{"deploy", "-m", file, "--key", maker + ".pub"}, to...), file, "not signed")
	afterTrial(b, brain.Active, "")
	works(t, append([]string{"deploy", "-m", file}, to...), "version 4 is in use, in slot b", "before: resnet8-lc, version 3")
	works(t, append([]string{"deploy", "--rollback", "--reason", "for a test"}, to...), "version 3 is in use again, in slot a")
	if m := b.Status().Models[1]; m.State != brain.Returned || m.Reason != "api: for a test" {
		t.Errorf("%+v", m)
	}
	out := filepath.Join(t.TempDir(), "learned.hyp")
	works(t, []string{"pull", "--from", url, "--token-file", token, "-o", out}, out, "parameters ")
	if read(t, out) != read(t, file) {
		t.Error("what was pulled is not what the board has")
	}

	dir := filepath.Dir(out)
	refusal := func(method string, code brain.Code) {
		b.Fail = func(m string) error {
			if m == method {
				return &brain.Error{Code: code, Err: errors.New("brain: for a test")}
			}
			return nil
		}
	}
	afterTrial(b, brain.Returned, "a golden vector differs in layer stem.conv")
	fails(t, dir, exitFailed, append([]string{"deploy", "-m", file}, to...), "returned from resnet8-lc, version 4", "a golden vector differs in layer stem.conv")
	refusal("Rollback", brain.CodeNoModel)
	fails(t, dir, exitFailed, append([]string{"deploy", "--rollback"}, to...), "for a test", "no_model")
	for _, code := range []brain.Code{brain.CodeKey, brain.CodeDowngrade, brain.CodePackage, brain.CodeBusy} {
		refusal("Upload", code)
		fails(t, dir, exitFailed, append([]string{"deploy", "-m", file}, to...), "for a test", string(code))
	}
	refusal("Activate", brain.CodeTrial)
	fails(t, dir, exitFailed, append([]string{"deploy", "-m", file}, to...), "for a test", "package_trial")
	refusal("Export", brain.CodeNoModel)
	fails(t, dir, exitFailed, []string{"pull", "--from", url, "--token-file", token, "-o", out}, "for a test", "no_model")
	b.Fail = nil

	whole := b.Package
	b.Package = whole[:len(whole)-1]
	fails(t, dir, exitFailed, []string{"pull", "--from", url, "--token-file", token, "-o", out}, url, "no whole package", "bytes")
	b.Package = whole
	damaged := filepath.Join(dir, "damaged.hyp")
	if err := os.WriteFile(damaged, whole[:len(whole)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(dir, "wrong")
	if err := os.WriteFile(wrong, []byte("another-token-for-tests"), 0o600); err != nil {
		t.Fatal(err)
	}
	elsewhere := httptest.NewServer(nil)
	defer elsewhere.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	b.Fail = func(method string) error { return fmt.Errorf("%s was called", method) }
	for _, x := range []struct {
		args  []string
		parts []string
	}{
		{append([]string{"deploy", "-m", damaged}, to...), []string{damaged}},
		{append([]string{"deploy", "-m", filepath.Join(dir, "none")}, to...), []string{"none"}},
		{[]string{"deploy", "-m", file, "--to", url}, []string{"send the token", "unauthorized"}},
		{[]string{"deploy", "-m", file, "--to", url, "--token-file", wrong}, []string{"unauthorized"}},
		{[]string{"deploy", "-m", file, "--to", url, "--token-file", filepath.Join(dir, "none")}, []string{"token", "none"}},
		{[]string{"deploy", "-m", file, "--to", elsewhere.URL}, []string{"404", "no edge daemon?"}},
		{[]string{"deploy", "-m", file, "--to", gone.URL}, []string{gone.URL, "refused"}},
		{[]string{"deploy", "-m", file, "--to", strings.Replace(url, "http:", "https:", 1)}, []string{"https:", "HTTP response to HTTPS client"}},
		{[]string{"deploy", "-m", file, "--to", "board:8470"}, []string{"want http://HOST:PORT"}},
		{[]string{"deploy", "-m", file, "--to", "http://a:secret@board:8470"}, []string{"a host and a port only"}},
		{[]string{"deploy", "-m", file, "--to", url, "--ca", wrong}, []string{"no certificate in"}},
		{[]string{"deploy", "-m", file, "--to", url, "--cert", wrong}, []string{"go together"}},
		{[]string{"pull", "--from", gone.URL, "-o", out}, []string{"refused"}},
		{[]string{"pull", "--from", url, "-o", filepath.Join(dir, "none", "x")}, []string{"none"}},
	} {
		fails(t, dir, exitFailed, x.args, x.parts...)
	}
	for _, args := range [][]string{
		{"deploy"}, {"deploy", "-m", file}, {"deploy", "--to", url}, {"deploy", "-m", file, "--rollback", "--to", url}, {"deploy", "-m", file, "--reason", "x", "--to", url},
		{"deploy", "-m", file, "--to", url, "--wait", "0s"}, {"pull", "--from", url}, {"pull", "-o", out},
	} {
		fails(t, dir, exitUsage, args)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}
}

// A trial that does not end, a board that goes away, and somebody else's deployment.
func TestFollow(t *testing.T) {
	t.Parallel()
	b := servertest.New()
	c := server.Defaults()
	s, err := server.New(b, c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	web := httptest.NewServer(s)
	defer web.Close()
	board, err := client.New(client.Config{URL: web.URL})
	if err != nil {
		t.Fatal(err)
	}
	trial := b.Status().Model
	trial.State = brain.Trial
	set := func(state string, version uint64) {
		b.Set(func(s *brain.Status) { s.Models[0].State, s.Models[0].Version = state, version })
	}
	follow := func(ctx context.Context, wait time.Duration) error {
		_, err := deployment{c: console{io.Discard, io.Discard}, board: board, every: 5 * time.Millisecond, wait: wait}.follow(ctx, trial)
		return err
	}
	set(brain.Trial, 3)
	if err := follow(context.Background(), 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "still on trial after 50ms") {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := follow(ctx, time.Minute); err == nil || !strings.Contains(err.Error(), "the board goes on") {
		t.Error(err)
	}
	set(brain.Active, 9)
	if err := follow(context.Background(), time.Minute); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Error(err)
	}
	set(brain.Active, 3)
	if err := follow(context.Background(), time.Minute); err != nil {
		t.Error(err)
	}
	web.Close()
	if err := follow(context.Background(), 50*time.Millisecond); err == nil || !strings.Contains(err.Error(), "still on trial") {
		t.Error(err)
	}
}

// A load that goes well, and one whose board loses a step.
func TestBenchLoad(t *testing.T) {
	t.Parallel()
	b := servertest.New()
	c := server.Defaults()
	c.Rate = 0
	s, err := server.New(b, c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(s)
	t.Cleanup(func() { s.Close(); web.Close() })
	out := filepath.Join(t.TempDir(), "load.json")
	args := []string{"bench", "load", "--to", web.URL, "--clients", "3", "--duration", "100ms"}
	works(t, append(args, "--json", out), "3 clients for", "p99", "0 lost")
	if !strings.Contains(read(t, out), `"acknowledged"`) {
		t.Error("no report")
	}
	b.Fail = func(method string) error { return errors.New(method + " fails") }
	if r := hypnos(context.Background(), args...); r.code != exitFailed || !strings.Contains(r.err, `errors of code "internal"`) {
		t.Errorf("exit code %d, %s", r.code, r.err)
	}
	for _, more := range [][]string{{"--clients", "0"}, {"--learn", "nan"}, {"--to", ""}, {"--duration", "0s"}} {
		fails(t, t.TempDir(), exitUsage, append(args[:len(args):len(args)], more...))
	}
}
