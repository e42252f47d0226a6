package device

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"periph.io/x/conn/v3/gpio"
	"periph.io/x/conn/v3/i2c"

	"hypnos/board"
)

// Options is where devices are looked for. The zero value is the machine's own; tests give directories and buses of theirs.
type Options struct {
	Sys   string                                                 // in place of /sys
	Clock Clock                                                  // in place of NewSystem
	Bus   func(number int) (i2c.BusCloser, error)                // in place of /dev/i2c-N
	Wait  func(time.Duration)                                    // in place of time.Sleep, while a chip converts
	Pin   func(chip, name string, line *int) (gpio.PinIO, error) // in place of /dev/gpiochipN; Absent when there is none
}

// Open returns the devices of a wiring. What is not wired, and what is not there, is None, or answers with Absent; the wiring's
// mistakes and files that cannot be read are errors. I²C chips and what Linux shows are looked for at each reading, and may come
// later; GPIO lines are looked for once.
func Open(w board.Wiring, o Options) (*Set, error) {
	if err := w.Check(); err != nil {
		return nil, fmt.Errorf("device: %w", err)
	}
	if o.Sys == "" {
		o.Sys = "/sys"
	}
	if o.Clock == nil {
		o.Clock = NewSystem()
	}
	if o.Bus == nil {
		o.Bus = linuxBus
	}
	if o.Wait == nil {
		o.Wait = time.Sleep
	}
	if o.Pin == nil {
		o.Pin = linuxPin
	}
	unwired := None("the board's wiring does not name it")
	s := &Set{Temperature: unwired, Power: unwired, Wake: unwired, Sleep: unwired, LED: unwired, Clock: o.Clock}
	var errs []error
	note := func(part string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("device: wiring.%s: %w", part, err))
		}
	}
	var err error
	if w.Temperature != nil {
		s.Temperature, err = o.thermometer(w.Temperature)
		note("temperature", err)
	}
	if w.Power != nil {
		s.Power, err = o.meter(w.Power)
		note("power", err)
	}
	if w.Wake != nil {
		s.Wake, err = o.line("wake", w.Wake)
		note("wake", err)
	}
	if w.Sleep != nil {
		s.Sleep, err = o.line("sleep", w.Sleep)
		note("sleep", err)
	}
	if w.LED != nil {
		s.LED = o.led(w.LED)
	}
	if err := join(errs...); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (o Options) thermometer(w *board.Sensor) (Thermometer, error) {
	switch w.Driver {
	case "script":
		s, err := OpenScript(w.Script)
		return scriptThermometer{&scripted{script: s, clock: o.Clock}}, err
	case "hwmon":
		return &linuxThermometer{shown{pattern: filepath.Join(o.Sys, "class/hwmon/hwmon*"), label: "name", name: w.Chip},
			fmt.Sprintf("temp%d_input", max(w.Channel, 1))}, nil
	case "thermal":
		return &linuxThermometer{shown{pattern: filepath.Join(o.Sys, "class/thermal/thermal_zone*"), label: "type", name: w.Zone}, "temp"}, nil
	}
	c, err := o.chip(w)
	if err != nil {
		return nil, err
	}
	switch w.Driver {
	case "tmp102":
		t := tmp102{c, w.Extended}
		c.setup = t.setUp
		return t, nil
	case "tmp105":
		l := lm75{c, maskTMP105}
		c.setup = l.wake
		return l, nil
	case "lm75a":
		l := lm75{c, maskLM75A}
		c.setup = l.wake
		return l, nil
	case "lm75":
		l := lm75{c, maskLM75}
		c.setup = l.wake
		return l, nil
	}
	panic("device: driver " + w.Driver + " has passed the check")
}

func (o Options) meter(w *board.Sensor) (PowerMeter, error) {
	switch w.Driver {
	case "script":
		s, err := OpenScript(w.Script)
		return scriptMeter{&scripted{script: s, clock: o.Clock}}, err
	case "hwmon":
		return &linuxMeter{shown{pattern: filepath.Join(o.Sys, "class/hwmon/hwmon*"), label: "name", name: w.Chip}, max(w.Channel, 1)}, nil
	case "ina219":
		c, err := o.chip(w)
		if err != nil {
			return nil, err
		}
		m := &ina219{chip: c}
		c.setup = m.setUp
		return m, m.program(w.Shunt, w.MaxCurrent)
	}
	panic("device: driver " + w.Driver + " has passed the check")
}

// chip returns a chip on a bus, recorded or played back.
func (o Options) chip(w *board.Sensor) (*chip, error) {
	c := &chip{addr: w.Address, wait: o.Wait}
	if w.Playback != "" {
		c.name = fmt.Sprintf("%s at %#x of %s", w.Driver, w.Address, w.Playback)
		open, err := PlaybackFile(w.Playback)
		c.open, c.wait = open, func(time.Duration) {}
		return c, err
	}
	c.name = fmt.Sprintf("%s at %#x of %v", w.Driver, w.Address, w.Bus)
	c.open = func() (i2c.BusCloser, error) { return o.Bus(int(*w.Bus)) }
	if w.Record != "" {
		f, err := os.Create(w.Record)
		if err != nil {
			return nil, fmt.Errorf("record: %w", err)
		}
		c.open, c.record = Recorded(c.open, f), f
	}
	return c, nil
}

func (o Options) line(quantity string, w *board.Line) (Line, error) {
	if w.Driver == "script" {
		s, err := OpenScript(w.Script)
		return scriptLine{&scripted{script: s, clock: o.Clock, quantity: quantity}}, err
	}
	pin, err := o.Pin(w.Chip, w.Name, w.Line)
	if err != nil {
		return missing{"", pinName(w.Chip, w.Name, w.Line), err}, nil
	}
	pull := map[string]gpio.Pull{"": gpio.PullNoChange, "up": gpio.PullUp, "down": gpio.PullDown}[w.Pull]
	return &pinLine{name: pinName(w.Chip, w.Name, w.Line), pin: pin, low: w.ActiveLow, pull: pull, poll: w.Poll, need: w.Debounce,
		clock: o.Clock}, nil
}

func (o Options) led(w *board.LED) LED {
	switch w.Driver {
	case "led":
		return &linuxLED{dir: filepath.Join(o.Sys, "class/leds", w.Name)}
	case "memory":
		return &FakeLED{}
	}
	pin, err := o.Pin(w.Chip, w.Name, w.Line)
	if err != nil {
		return missing{"", pinName(w.Chip, w.Name, w.Line), err}
	}
	return &pinLED{pinName(w.Chip, w.Name, w.Line), pin, w.ActiveLow}
}

// missing is a line or light that could not be had: Absent, or broken.
type missing struct {
	None
	name string
	err  error
}

func (m missing) Active() (bool, error) { return false, m.err }
func (m missing) Set(bool) error        { return m.err }
func (m missing) String() string        { return m.name }

func pinName(chip, name string, line *int) string {
	if line != nil {
		name = fmt.Sprintf("line %d", *line)
	}
	if chip == "" {
		return name
	}
	return name + " of " + chip
}
