package hil

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hypnos/hil/emulator"
)

// Every scenario and every rig that comes with the program can be read; the boards that rigs name are there.
func TestFilesThatComeWithTheProgram(t *testing.T) {
	scenarios, err := Scenarios()
	if err != nil {
		t.Fatal(err)
	}
	if len(scenarios) < 10 || len(selfTest(scenarios)) < 3 {
		t.Errorf("%d scenarios, %d that must fail", len(scenarios), len(selfTest(scenarios)))
	}
	rigs, err := filepath.Glob("rigs/*.toml")
	if err != nil || len(rigs) < 3 {
		t.Fatalf("%d rigs, %v", len(rigs), err)
	}
	for _, path := range rigs {
		r, err := ReadRig(path)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, c := range r.Targets {
			if c.Kind == "board" {
				if _, err := emulator.ByName(c.Board); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
		}
	}
}

// docs/HIL.md names every step and every scenario.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../docs/HIL.md")
	if err != nil {
		t.Fatal(err)
	}
	scenarios, err := Scenarios()
	if err != nil {
		t.Fatal(err)
	}
	words := append(names(scenarios), stepNames()...)
	for _, w := range words {
		if !strings.Contains(string(text), "`"+w+"`") {
			t.Errorf("docs/HIL.md does not have `%s`", w)
		}
	}
	if len(words) < 30 {
		t.Errorf("%d words", len(words))
	}
	costs, err := ReadCosts("baseline.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range costs.Costs {
		if n := fmt.Sprintf("| %s | %d |", c.Work, c.Took); !strings.Contains(string(text), n) {
			t.Errorf("docs/HIL.md does not have %q", n)
		}
	}
	if len(costs.Costs) != 4 {
		t.Errorf("%d costs", len(costs.Costs))
	}
}

func TestBadScenarios(t *testing.T) {
	for _, x := range []struct{ text, want string }{
		{"about = \"x\"", "no step"},
		{"[[step]]\nlearn = 1", "about"},
		{"about = \"x\"\n[[step]]\nlaern = 1", `unknown key "step.laern"`},
		{"about = \"x\"\n[[step]]", "it does nothing"},
		{"about = \"x\"\n[[step]]\nlearn = 1\nsame = true", "learn, same: one at a time"},
		{"about = \"x\"\nneeds = [\"wings\"]\n[[step]]\nlearn = 1", `unknown capability "wings"`},
		{"about = \"x\"\n[[step]]\nfill = true", `step 1, fill: needs must have "disk"`},
		{"about = \"x\"\nneeds = [\"power cut\"]\n[[step]]\ncuts = { forget = true }", `needs must have "cut log"`},
		{"about = \"x\"\n[[step]]\nlearn = 1\nagainst = \"v1.hyp\"", "only with compute"},
		{"about = \"x\"\n[[step]]\nwait = \"5 parsecs\"", "parsecs"},
	} {
		if _, err := parseScenario("bad", x.text); err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v, want %q", x.text, err, x.want)
		}
	}
}

func TestBadRigs(t *testing.T) {
	for _, x := range []struct{ text, want string }{
		{"", "no target"},
		{"[[target]]\nkind = \"process\"", "how is it called"},
		{"[[target]]\nname = \"a\"\nkind = \"rocket\"", `"rocket" is none of`},
		{"[[target]]\nname = \"a\"\nkind = \"board\"", "needs the key board"},
		{"[[target]]\nname = \"a\"\nkind = \"process\"\nwings = 2", `unknown key "target.wings"`},
		{"[[target]]\nname = \"a\"\nkind = \"process\"\n[[target]]\nname = \"a\"\nkind = \"process\"", "there are two"},
		{"[[target]]\nname = \"a\"\nkind = \"process\"\nhost = \"pi\"", "host: a target of kind process has no such key"},
		{"[[target]]\nname = \"a\"\nkind = \"ssh\"\narch = \"arm64\"\nhost = \"pi\"", "needs the key home"},
		{"[[target]]\nname = \"a\"\nkind = \"ssh\"\narch = \"arm64\"\nhost = \"pi\"\nhome = \"/\"", `home: "/" must be`},
		{"[[target]]\nname = \"a\"\nkind = \"serial\"\narch = \"sparc\"\nport = \"/dev/ttyS0\"", `"sparc" is none of`},
		{"[[target]]\nname = \"a\"\nkind = \"serial\"\narch = \"arm64\"\nport = \"/dev/ttyS0\"\nprofile = \"toaster\"", "toaster"},
		{"[[target]]\nname = \"a\"\nkind = \"serial\"\narch = \"arm64\"\nport = \"/dev/ttyS0\"\npower = { on = [\"x\"] }", "power: needs on and off"},
		{"[[target]]\nname = \"a\"\nkind = \"serial\"\narch = \"arm64\"\nport = \"/dev/ttyS0\"\naround = { led = [\"x\"] }", "around: needs temperature"},
		{"[[target]]\nname = \"a\"\nkind = \"process\"\nscenarios = [\"none\"]", `no scenario "none"`},
	} {
		path := filepath.Join(t.TempDir(), "rig.toml")
		if err := os.WriteFile(path, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRig(path); err == nil || !strings.Contains(err.Error(), x.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, want %q", x.text, err, x.want)
		}
	}
}

// Two runs do not share a rig; the second is told who has it.
func TestRigIsHeld(t *testing.T) {
	r := &Rig{Cache: t.TempDir()}
	unlock, err := r.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.lock(t.Context()); err == nil || !strings.Contains(err.Error(), "another run has the rig (process ") {
		t.Errorf("the second: %v", err)
	}
	unlock()
	again, err := r.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestReports(t *testing.T) {
	warm, snr := 41.5, 3.0
	r := Report{Rig: "test", Began: time.Unix(0, 0), Results: []Result{
		{Target: "a", Scenario: "one", Outcome: Passed, Compared: 2, Notes: []string{"<b>"}, Samples: []Sample{
			{0, "awake", &warm, nil}, {1, "asleep", nil, &snr}, {2, "awake", &warm, &snr}}},
		{Target: "a", Scenario: "two", Outcome: Failed, Reason: "it <broke>", Console: "bell\a & ESC\x1b"},
		{Target: "b", Scenario: "one", Outcome: Skipped, Reason: "no wings"},
	}}
	if err := r.Err(); err == nil || err.Error() != "1 of 3 failed" {
		t.Errorf("error %v", err)
	}
	if err := (Report{Results: r.Results[2:]}).Err(); err == nil || err.Error() != "nothing was compared" {
		t.Errorf("a run that compared nothing: %v", err)
	}
	var junit, page, text bytes.Buffer
	if err := errors.Join(r.WriteJUnit(&junit), r.WriteHTML(&page), r.WriteJSON(&text)); err != nil {
		t.Fatal(err)
	}
	var read junitSuites
	if err := xml.Unmarshal(junit.Bytes(), &read); err != nil {
		t.Fatal(err)
	}
	if read.Tests != 3 || read.Failures != 1 || read.Skipped != 1 || len(read.Suites) != 2 || read.Suites[0].Cases[1].Failure.Message != "it <broke>" {
		t.Errorf("JUnit: %+v", read)
	}
	for _, want := range []string{"it &lt;broke&gt;", "<polyline", "&lt;b&gt;", "no wings"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page has no %q", want)
		}
	}
}

// What a scenario says stands in place of the usual, table by table.
func TestTables(t *testing.T) {
	a := merged(map[string]any{"x": map[string]any{"p": 1, "q": 2}, "y": 3}, map[string]any{"x": map[string]any{"q": 4}})
	x := a["x"].(map[string]any)
	if x["p"] != 1 || x["q"] != 4 || a["y"] != 3 {
		t.Errorf("%v", a)
	}
	if n := stepNames(); !slices.Contains(n, "learn") || slices.Contains(n, "package") {
		t.Errorf("steps %q", n)
	}
}
