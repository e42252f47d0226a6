package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/hil/message"
)

// A device may be a user's machine: nothing outside of its home is written, damaged or removed.
func TestNothingOutsideOfHome(t *testing.T) {
	dir := t.TempDir()
	g, err := newGuest(filepath.Join(dir, "home"), "")
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, p := range []string{outside, "../outside", "data/../../outside", ""} {
		for what, err := range map[string]error{
			"write":     second(g.write(ctx, message.File{Path: p, Data: []byte("yours")})),
			"flip":      second(g.flip(ctx, message.Bit{Path: p})),
			"remove":    second(g.remove(ctx, p)),
			"copy to":   second(g.copy(ctx, message.Copying{From: "data", To: p})),
			"copy from": second(g.copy(ctx, message.Copying{From: p, To: "copy"})),
		} {
			if err == nil || !strings.Contains(err.Error(), "not below the device's home") {
				t.Errorf("%s %q: %v", what, p, err)
			}
		}
	}
	if text, err := os.ReadFile(outside); err != nil || string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := g.write(ctx, message.File{Path: "inside", Data: []byte("yours")}); err != nil {
		t.Error(err)
	}
	if got, err := g.flip(ctx, message.Bit{Path: "in*", Where: 1}); err != nil || got != "inside" {
		t.Errorf("flip: %v, %v", got, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "home", "inside")); err != nil || string(text) != "yourr" {
		t.Errorf("flipped: %q, %v", text, err)
	}
}

func second(_ any, err error) error { return err }
