package server

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"hypnos/server/brain"
)

func manual(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/API.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The tables of docs/API.md have every key with its default and every code with its status, and no others.
func TestManual(t *testing.T) {
	limits, errors, is := strings.Cut(manual(t), "\n## Errors\n")
	if !is {
		t.Fatal("no section of errors")
	}
	got := map[brain.Code]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| ([0-9]{3}) \\| .+ \\|$").FindAllStringSubmatch(errors, -1) {
		got[brain.Code(m[1])] = m[2]
	}
	want := map[brain.Code]string{}
	for c, status := range statuses() {
		want[c] = fmt.Sprint(status)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("codes\n%v, want\n%v", got, want)
	}
	defaults := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| (`[a-z_`, ]+) \\| (.*?) ?\\|.*\\|$").FindAllStringSubmatch(limits, -1) {
		values := strings.Split(m[2], ", ")
		for i, key := range strings.Split(m[1], ", ") {
			if key = strings.Trim(key, "`"); i < len(values) {
				defaults[key] = strings.Trim(values[i], "`")
			} else {
				defaults[key] = ""
			}
		}
	}
	c := reflect.ValueOf(Defaults())
	for i := range c.NumField() {
		key, v := c.Type().Field(i).Tag.Get("toml"), c.Field(i).Interface()
		value := fmt.Sprint(v)
		if d, is := v.(Duration); is {
			value = fmt.Sprintf("%gs", d.Seconds())
		}
		if list, is := v.([]string); is {
			value = strings.Join(list, ",")
		}
		if documented, is := defaults[key]; !is || documented != value {
			t.Errorf("%s: documented as %q, is %q", key, documented, value)
		}
	}
	if c.NumField() < 18 {
		t.Errorf("only %d keys", c.NumField())
	}
}

// The commands of docs/API.md do what they say: each is answered with 200.
func TestManualCommands(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("SKIPPED: no curl")
	}
	g := newRig(t, func(c *Config) { c.TokenFile = "" })
	address, dir := g.serve(t), t.TempDir()
	for name, text := range map[string][]byte{"cat.png": picture(t, 3, 2), "edge.hyp": g.brain.Package} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^    curl (.*localhost:8470(/[a-z0-9/]*).*)$`).FindAllStringSubmatch(manual(t), -1) {
		used[m[2]] = true
		sh := exec.Command("sh", "-c", `curl --silent --show-error --fail-with-body --max-time 1 --write-out '\n%{http_code}' `+strings.ReplaceAll(m[1], "localhost:8470", address))
		sh.Dir = dir
		out, err := sh.CombinedOutput()
		endless := m[2] == "/v1/events"
		if endless && (sh.ProcessState.ExitCode() != 28 || !strings.Contains(string(out), ": hypnos")) || !endless && err != nil || !strings.HasSuffix(string(out), "\n200") {
			t.Errorf("curl %s: %v: %s", m[1], err, out)
		}
	}
	for _, r := range g.routes {
		if !r.page && !used[r.path] && r.path != "/openapi.json" {
			t.Errorf("no example of %s", r.path)
		}
	}
	if text, err := os.ReadFile(filepath.Join(dir, "learned.hyp")); err != nil || string(text) != string(g.brain.Package) {
		t.Errorf("learned.hyp: %q %v", text, err)
	}
	if s := g.brain.Status(); s.Counters.Learned != 3 || s.Counters.Classified != 1 || s.State != "awake" {
		t.Errorf("%+v", s.Counters)
	}
}
