package board

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	names := Names()
	if len(names) < 5 {
		t.Fatalf("%d profiles: %v", len(names), names)
	}
	for _, name := range names {
		p, err := Open(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if p.Name != name {
			t.Errorf("profile %s has the name %q", name, p.Name)
		}
	}
}

func TestRefusals(t *testing.T) {
	good, err := profiles.ReadFile("profiles/raspberry-pi-4.toml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(good)
	for _, c := range []struct{ text, want string }{
		{text + "\n[fan]\nvalue = 1\n", `unknown key "fan`},
		{strings.Replace(text, "value = 1500", "value = nan", 1), "clock"},
		{strings.Replace(text, "value = 1500", "value = -1", 1), "clock"},
		{strings.Replace(text, `source = "starting`, `# "starting`, 1), "layer: no source"},
		{strings.Replace(text, `"arm64"`, `"z80"`, 1), "z80"},
		{strings.Replace(text, "value = 1200", "value = 9000", 1), "free"},
		{"name = ", "toml"},
	} {
		path := filepath.Join(t.TempDir(), "b.toml")
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if _, err := Open("toaster"); err == nil || !strings.Contains(err.Error(), "raspberry-pi-4") {
		t.Errorf("unknown board: %v", err)
	}
}
