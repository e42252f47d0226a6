package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"hypnos/backends"
	"hypnos/backends/cuda"
	"hypnos/core"
	"hypnos/core/data/sample"
	"hypnos/core/net"
)

// diagnosis is what doctor finds.
type diagnosis struct {
	Program  string             `json:"program"`
	Go       string             `json:"go"`
	Platform string             `json:"platform"`
	CPU      string             `json:"cpu,omitempty"`
	Cores    int                `json:"cores"`
	MemoryMB int64              `json:"memory_mb,omitempty"`
	FreeMB   int64              `json:"memory_free_mb,omitempty"`
	Backends []backendDiagnosis `json:"backends"`
	Devices  []string           `json:"cuda_devices,omitempty"`
	Sample   string             `json:"sample"`
	Networks []string           `json:"networks"`
}

type backendDiagnosis struct {
	Name  string     `json:"name"`
	Error string     `json:"error,omitempty"`
	Caps  *core.Caps `json:"caps,omitempty"`
}

func doctor(_ context.Context, c console, args []string) error {
	f := newFlags(c, "doctor", "[--json]", `
Prints what this machine and build can do: processor, memory, and what each backend supports. Nothing is changed.

Examples:
  hypnos doctor
  hypnos doctor --json`)
	asJSON := f.Bool("json", false, "print JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	d := diagnose()
	if *asJSON {
		return writeJSON(c.Out, d)
	}
	return d.print(c)
}

func diagnose() diagnosis {
	d := diagnosis{
		Program: "hypnos " + version(), Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		CPU: lineOf("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(),
		MemoryMB: kilobytesOf("/proc/meminfo", "MemTotal") / 1024, FreeMB: kilobytesOf("/proc/meminfo", "MemAvailable") / 1024,
		Networks: net.Names(),
	}
	for _, name := range backends.Names() {
		b, err := backends.Open(name)
		if err != nil {
			d.Backends = append(d.Backends, backendDiagnosis{Name: name, Error: err.Error()})
			continue
		}
		caps := b.Caps()
		d.Backends = append(d.Backends, backendDiagnosis{Name: name, Caps: &caps})
		b.Close()
	}
	d.Devices, _ = cuda.Devices() // why there are none, backend cuda says
	if s, err := sample.Open(); err != nil {
		d.Sample = err.Error()
	} else {
		d.Sample = fmt.Sprintf("%s: %d + %d images, %d classes", s.Name, s.Train.Len(), s.Test.Len(), len(s.Classes))
	}
	return d
}

func (d diagnosis) print(c console) error {
	t := tabwriter.NewWriter(c.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "program\t%s, %s, %s\n", d.Program, d.Go, d.Platform)
	fmt.Fprintf(t, "processor\t%s, %d cores\n", orUnknown(d.CPU), d.Cores)
	fmt.Fprintf(t, "memory\t%d MB, %d MB free\n", d.MemoryMB, d.FreeMB)
	fmt.Fprintf(t, "sample\t%s\n", d.Sample)
	fmt.Fprintf(t, "networks\t%s\n", strings.Join(d.Networks, ", "))
	for _, b := range d.Backends {
		if b.Caps == nil {
			fmt.Fprintf(t, "%s\tnot available: %s\n", b.Name, b.Error)
			continue
		}
		fmt.Fprintf(t, "%s\t%s; %s\n", b.Name, b.Caps.Format, strings.Join(b.Caps.Notes, "; "))
		fmt.Fprintf(t, "\tlayers: %s\n", strings.Join(b.Caps.Layers, ", "))
		commas := func(list any) string { return strings.ReplaceAll(strings.Trim(fmt.Sprint(list), "[]"), " ", ", ") }
		fmt.Fprintf(t, "\toptimisers: %s; wake rules: %s; sleep: %s\n", commas(b.Caps.Optimizers), commas(b.Caps.WakeRules), commas(b.Caps.Rules))
	}
	for _, device := range d.Devices {
		fmt.Fprintf(t, "cuda\t%s\n", device)
	}
	return t.Flush()
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// version is the commit that the program was built from, with a + when files had changed since, or the module's version.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	commit, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			commit = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	if commit == "" {
		return info.Main.Version
	}
	return commit + changed
}

// lineOf returns what follows the colon on the first line of a file that begins with a key, "" where there is none, as
// on other systems than Linux.
func lineOf(path, key string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func kilobytesOf(path, key string) int64 {
	var n int64
	fmt.Sscanf(lineOf(path, key), "%d", &n) // 0 where there is no such line
	return n
}
