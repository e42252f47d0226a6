// Package backends opens backends by name. Which there are is the explicit table below; what each can do it says
// itself (core.Caps).
package backends

import (
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"

	xcpu "golang.org/x/sys/cpu"

	"hypnos/backends/cpu"
	"hypnos/backends/cuda"
	"hypnos/backends/fixed"
	"hypnos/backends/ref"
	"hypnos/core"
)

// entry is one backend: its name, the settings it knows and how it is opened with them.
type entry struct {
	name     string
	settings []string
	open     func(settings map[string]string) (core.Backend, error)
}

func table() []entry {
	return []entry{
		{ref.Name, nil, func(map[string]string) (core.Backend, error) { return ref.Open(), nil }},
		{cpu.Name, []string{"threads", "kernels", "memory"}, openCPU},
		{fixed.Name, []string{"threads", "kernels"}, openFixed},
		{cuda.Name, []string{"device", "precision", "images"}, openCUDA},
	}
}

func openFixed(settings map[string]string) (core.Backend, error) {
	threads, err := threadsOf(settings)
	if err != nil {
		return nil, err
	}
	return fixed.Open(fixed.Options{Kernels: settings["kernels"], Threads: threads})
}

// threadsOf is the setting "threads", 0 without.
func threadsOf(settings map[string]string) (int, error) {
	v, ok := settings["threads"]
	if !ok {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		return 0, fmt.Errorf("threads=%q is not a whole number", v)
	}
	return n, nil
}

func openCPU(settings map[string]string) (core.Backend, error) {
	threads, err := threadsOf(settings)
	if err != nil {
		return nil, err
	}
	o := cpu.Options{Kernels: settings["kernels"], Threads: threads}
	if v, ok := settings["memory"]; ok {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 1 || n > math.MaxInt64/1_000_000 {
			return nil, fmt.Errorf("memory=%q is not a whole number of megabytes above 0", v)
		}
		o.Memory = n * 1e6
	}
	return cpu.Open(o)
}

func openCUDA(settings map[string]string) (core.Backend, error) {
	o := cuda.Options{Precision: cuda.Precision(settings["precision"])}
	if v, ok := settings["device"]; ok {
		n, err := strconv.Atoi(v)
		if err != nil {
			return nil, fmt.Errorf("device=%q is not a whole number", v)
		}
		o.Device = n
	}
	switch v := settings["images"]; v {
	case "", "device":
	case "host":
		o.HostImages = true
	default:
		return nil, fmt.Errorf("images=%q is neither device nor host", v)
	}
	return cuda.Open(o)
}

// Names lists the backends, those that this build or machine cannot open included.
func Names() []string {
	var names []string
	for _, e := range table() {
		names = append(names, e.name)
	}
	return names
}

// Open opens a backend from "name" or "name:key=value,key=value", for example "cpu:threads=2". An unknown name or
// setting is an error that lists the known ones.
func Open(spec string) (core.Backend, error) {
	name, rest, _ := strings.Cut(spec, ":")
	for _, e := range table() {
		if e.name != name {
			continue
		}
		settings, err := parse(rest, e.settings)
		if err == nil {
			var b core.Backend
			if b, err = e.open(settings); err == nil {
				return b, nil
			}
		}
		return nil, fmt.Errorf("backends: %q: %w", spec, err)
	}
	return nil, fmt.Errorf("backends: unknown backend %q (known: %s)", name, strings.Join(Names(), ", "))
}

// parse reads "key=value,…" and refuses keys that are not known.
func parse(text string, known []string) (map[string]string, error) {
	settings := map[string]string{}
	if text == "" {
		return settings, nil
	}
next:
	for _, pair := range strings.Split(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("setting %q is not key=value", pair)
		}
		for _, k := range known {
			if k == key {
				settings[key] = value
				continue next
			}
		}
		if len(known) == 0 {
			return nil, fmt.Errorf("unknown setting %q (there are none)", key)
		}
		return nil, fmt.Errorf("unknown setting %q (known: %s)", key, strings.Join(known, ", "))
	}
	return settings, nil
}

// Pin writes out what this machine chooses for a backend, so that another machine opens the same, and names all that the bits of its
// results depend on beside what it is given and the version of this program: where that text is equal, results are.
func Pin(spec string) (pinned, arithmetic string, err error) {
	b, err := Open(spec)
	if err != nil {
		return "", "", err
	}
	defer b.Close()
	name, rest, _ := strings.Cut(spec, ":")
	processor := runtime.GOARCH
	if runtime.GOARCH == "amd64" && !xcpu.X86.HasFMA {
		processor += " without FMA" // on which package math's results depend
	}
	switch name {
	case cpu.Name:
		settings, _ := parse(rest, []string{"threads", "kernels", "memory"}) // Open has read them
		kernels := settings["kernels"]
		if kernels == "" {
			kernels = cpu.Versions()[0]
			spec = name + ":kernels=" + kernels
			if rest != "" {
				spec += "," + rest
			}
		}
		return spec, fmt.Sprintf("%s, %s, kernels %s", processor, name, kernels), nil
	case cuda.Name:
		return spec, fmt.Sprintf("%s, %s, %s", processor, name, strings.Join(b.Caps().Notes, ", ")), nil
	}
	return spec, processor + ", " + name, nil
}
