package device

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// labelled finds the directory of a pattern whose file label holds name, as /sys/class/hwmon/hwmon*/name. It is Absent when
// there is none, with those that there are.
func labelled(pattern, label, name string) (string, error) {
	dirs, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	slices.Sort(dirs)
	var have []string
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, label))
		if err != nil {
			continue
		}
		if have = append(have, strings.TrimSpace(string(text))); have[len(have)-1] == name {
			return dir, nil
		}
	}
	if len(have) == 0 {
		return "", Absent(fmt.Sprintf("there is no %s/%s", pattern, label))
	}
	return "", Absent(fmt.Sprintf("no %s/%s says %s, but %s", pattern, label, name, strings.Join(have, ", ")))
}

// shown is a value that Linux shows: a file with a whole number, in a directory that is found by its label, anew each time.
// Numbers of kernel drivers change from boot to boot, and while they are loaded.
type shown struct {
	pattern, label, name string

	mu    sync.Mutex
	known bool // it was there once: no longer absent
}

// read returns the numbers of files divided by 1000: Linux shows m°C, mV and mA.
func (s *shown) read(files ...string) ([]float64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	values, err := s.numbers(files)
	var absent Absent
	switch {
	case err == nil:
		s.known = true
	case errors.As(err, &absent) && s.known:
		err = plain(err)
	case !errors.As(err, &absent):
		s.known = true
	}
	return values, err
}

func (s *shown) numbers(files []string) ([]float64, error) {
	dir, err := labelled(s.pattern, s.label, s.name)
	if err != nil {
		return nil, err
	}
	values := make([]float64, len(files))
	for i, f := range files {
		path := filepath.Join(dir, f)
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, Absent(path + " does not exist")
		}
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %q is no whole number", path, strings.TrimSpace(string(text)))
		}
		values[i] = float64(n) / 1000
	}
	return values, nil
}

func (s *shown) String() string { return fmt.Sprintf("%s of %s", s.name, s.pattern) }

// linuxThermometer is a temperature in m°C: temp1_input of hwmon, temp of a thermal zone. Documentation/hwmon/sysfs-interface.rst and
// Documentation/driver-api/thermal/sysfs-api.rst of Linux.
type linuxThermometer struct {
	shown
	file string
}

func (t *linuxThermometer) Celsius() (float64, error) {
	v, err := t.read(t.file)
	if err != nil {
		return 0, err
	}
	if err := within(v[0], -100, 250); err != nil { // what no part of a board survives
		return 0, fmt.Errorf("%s: %w", t.String(), err)
	}
	return v[0], nil
}

// linuxMeter is a voltage in mV and a current in mA: in1_input and curr1_input of hwmon.
type linuxMeter struct {
	shown
	channel int
}

func (m *linuxMeter) Read() (Power, error) {
	v, err := m.read(fmt.Sprintf("in%d_input", m.channel), fmt.Sprintf("curr%d_input", m.channel))
	if err != nil {
		return Power{}, err
	}
	return Power{Volts: v[0], Amperes: v[1]}, nil
}

// linuxLED is a light of /sys/class/leds. It is taken from its trigger when it is first set, and given back by Close:
// Documentation/leds/leds-class.rst of Linux.
type linuxLED struct {
	dir string

	mu      sync.Mutex
	trigger string // that it had; empty until it is taken
	full    string // brightness
}

func (l *linuxLED) Set(on bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trigger == "" {
		if err := l.take(); err != nil {
			return err
		}
	}
	value := "0"
	if on {
		value = l.full
	}
	return os.WriteFile(filepath.Join(l.dir, "brightness"), []byte(value), 0)
}

// take notes the trigger, which is in brackets, and the full brightness.
func (l *linuxLED) take() error {
	full, err := os.ReadFile(filepath.Join(l.dir, "max_brightness"))
	if errors.Is(err, fs.ErrNotExist) {
		return Absent(l.dir + " does not exist")
	}
	if err != nil {
		return err
	}
	triggers, err := os.ReadFile(filepath.Join(l.dir, "trigger"))
	if err != nil {
		return err
	}
	was := "none"
	for _, t := range strings.Fields(string(triggers)) {
		if name, ok := strings.CutPrefix(t, "["); ok {
			was = strings.TrimSuffix(name, "]")
		}
	}
	if err := os.WriteFile(filepath.Join(l.dir, "trigger"), []byte("none"), 0); err != nil {
		return err
	}
	l.trigger, l.full = was, strings.TrimSpace(string(full))
	return nil
}

// Close gives the light back.
func (l *linuxLED) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trigger == "" {
		return nil
	}
	err := os.WriteFile(filepath.Join(l.dir, "trigger"), []byte(l.trigger), 0)
	l.trigger = ""
	return err
}

func (l *linuxLED) String() string { return l.dir }
