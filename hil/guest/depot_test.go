package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hypnos/hil/message"
)

// A home is made anew from the depot's files, whatever was done to it; the files are as they were sent.
func TestDepot(t *testing.T) {
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "board")
	d, err := openDepot(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []message.File{{Path: "v1.hyp", Data: []byte("net")}, {Path: "v1.hyp", Offset: 3, Data: []byte("work")}} {
		if _, err := d.put(ctx, part); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := d.fresh(ctx, struct{}{}); err != nil {
			t.Fatal(err)
		}
		home := filepath.Join(dir, "home")
		if text, err := os.ReadFile(filepath.Join(home, "v1.hyp")); err != nil || string(text) != "network" {
			t.Errorf("%q, %v", text, err)
		}
		if left, err := os.ReadDir(filepath.Join(home, "data")); err != nil || len(left) != 0 {
			t.Errorf("data: %v, %v", left, err)
		}
		if _, err := d.guest.flip(ctx, message.Bit{Path: "v1.hyp"}); err != nil {
			t.Fatal(err)
		}
		if _, err := d.guest.write(ctx, message.File{Path: "data/x", Data: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"", ".", "../x", "/etc/x", "a/b"} {
		if _, err := d.put(ctx, message.File{Path: name}); err == nil {
			t.Errorf("%q was put", name)
		}
	}
	go func() { time.Sleep(100 * time.Millisecond); d.close() }()
	next, err := openDepot(ctx, dir) // waits for the one before
	if err != nil {
		t.Fatal(err)
	}
	next.close()
}

// A folder that has something else in it is left as it is.
func TestDepotOfSomebody(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "home", "thesis.tex")
	if err := errors.Join(os.Mkdir(filepath.Dir(mine), 0o755), os.WriteFile(mine, []byte("mine"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := openDepot(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "is not a test's own") {
			t.Errorf("%v", err)
		}
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
}
