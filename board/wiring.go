package board

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Wiring says which devices a board has and where. What it does not name is absent.
type Wiring struct {
	Temperature *Sensor `toml:"temperature" json:"temperature,omitempty"`
	Power       *Sensor `toml:"power" json:"power,omitempty"`
	Wake        *Line   `toml:"wake" json:"wake,omitempty"`
	Sleep       *Line   `toml:"sleep" json:"sleep,omitempty"`
	LED         *LED    `toml:"led" json:"led,omitempty"`
}

// Bus is the number of an I²C bus, written as a number or as its path: 1, "/dev/i2c-1".
type Bus int

// UnmarshalTOML reads a number or a path.
func (b *Bus) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case int64:
		if v < 0 {
			return fmt.Errorf("bus %d is below 0", v)
		}
		*b = Bus(v)
		return nil
	case string:
		number, found := strings.CutPrefix(v, "/dev/i2c-")
		n, err := strconv.Atoi(number)
		if found && err == nil && n >= 0 {
			*b = Bus(n)
			return nil
		}
	}
	return fmt.Errorf("bus %v is neither a number nor a path like /dev/i2c-1", v)
}

func (b Bus) String() string { return fmt.Sprintf("/dev/i2c-%d", int(b)) }

// Sensor is a thermometer or a power meter.
type Sensor struct {
	// Driver of a thermometer: tmp102, tmp105, lm75, lm75a (I²C), hwmon, thermal (what Linux shows), script.
	// Driver of a power meter: ina219 (I²C), hwmon, script.
	Driver     string        `toml:"driver" json:"driver"`
	Bus        *Bus          `toml:"bus" json:"bus,omitempty"`                 // of I²C
	Address    uint16        `toml:"address" json:"address,omitempty"`         // of I²C, 7 bits
	Extended   bool          `toml:"extended" json:"extended,omitempty"`       // tmp102: 13 bits, to 150 °C
	Shunt      float64       `toml:"shunt" json:"shunt,omitempty"`             // ina219: Ω
	MaxCurrent float64       `toml:"max_current" json:"max_current,omitempty"` // ina219: A
	Chip       string        `toml:"chip" json:"chip,omitempty"`               // hwmon: what its file name says
	Channel    int           `toml:"channel" json:"channel,omitempty"`         // hwmon: the 1 of temp1_input and of curr1_input; 1 when left out
	Zone       string        `toml:"zone" json:"zone,omitempty"`               // thermal: what its file type says
	Script     string        `toml:"script" json:"script,omitempty"`           // script: path of the file of values
	Record     string        `toml:"record" json:"record,omitempty"`           // I²C: file to which traffic is written
	Playback   string        `toml:"playback" json:"playback,omitempty"`       // I²C: file that stands in for the bus
	Every      time.Duration `toml:"every" json:"every,omitempty"`             // between two polls; 1 s when left out
}

// Period is the time between two polls. It is of use for no sensor, too.
func (s *Sensor) Period() time.Duration {
	if s == nil || s.Every == 0 {
		return time.Second
	}
	return s.Every
}

// Line is an input line.
type Line struct {
	Driver    string        `toml:"driver" json:"driver"`                   // gpio, script
	Chip      string        `toml:"chip" json:"chip,omitempty"`             // gpio: name or label, gpiochip0
	Line      *int          `toml:"line" json:"line,omitempty"`             // gpio: number on the chip
	Name      string        `toml:"name" json:"name,omitempty"`             // gpio: the line's name in place of its number, GPIO17
	ActiveLow bool          `toml:"active_low" json:"active_low,omitempty"` // low voltage means asserted
	Pull      string        `toml:"pull" json:"pull,omitempty"`             // gpio: up, down; as it is when left out
	Debounce  time.Duration `toml:"debounce" json:"debounce,omitempty"`     // how long a change must last
	Poll      time.Duration `toml:"poll" json:"poll,omitempty"`             // gpio: look this often, for chips without edge interrupts
	Script    string        `toml:"script" json:"script,omitempty"`         // script: path of the file of values
}

// LED is a light.
type LED struct {
	Driver    string `toml:"driver" json:"driver"`                   // gpio, led (what Linux shows), memory (no light at all)
	Chip      string `toml:"chip" json:"chip,omitempty"`             // gpio: name or label
	Line      *int   `toml:"line" json:"line,omitempty"`             // gpio: number on the chip
	Name      string `toml:"name" json:"name,omitempty"`             // gpio: the line's name; led: its name in /sys/class/leds
	ActiveLow bool   `toml:"active_low" json:"active_low,omitempty"` // low voltage means on
}

// Check returns an error, of one line, that names the key at fault.
func (w Wiring) Check() error {
	var errs []string
	note := func(part string, err error) {
		if err != nil {
			errs = append(errs, "wiring."+part+": "+err.Error())
		}
	}
	if w.Temperature != nil {
		note("temperature", w.Temperature.check(map[string]string{
			"tmp102": "bus address extended record playback", "tmp105": "bus address record playback", "lm75": "bus address record playback",
			"lm75a": "bus address record playback", "hwmon": "chip channel", "thermal": "zone", "script": "script"}))
	}
	if w.Power != nil {
		note("power", w.Power.check(map[string]string{
			"ina219": "bus address shunt max_current record playback", "hwmon": "chip channel", "script": "script"}))
	}
	if w.Wake != nil {
		note("wake", w.Wake.check())
	}
	if w.Sleep != nil {
		note("sleep", w.Sleep.check())
	}
	if w.LED != nil {
		note("led", w.LED.check())
	}
	if len(errs) > 0 {
		return errors.New(strings.Join(errs, "; "))
	}
	return nil
}

// check looks at the keys that a driver needs, and refuses those of other drivers.
func (s *Sensor) check(drivers map[string]string) error {
	given := map[string]bool{"bus": s.Bus != nil, "address": s.Address != 0, "extended": s.Extended, "shunt": s.Shunt != 0,
		"max_current": s.MaxCurrent != 0, "chip": s.Chip != "", "channel": s.Channel != 0, "zone": s.Zone != "",
		"script": s.Script != "", "record": s.Record != "", "playback": s.Playback != ""}
	if err := suit(s.Driver, drivers, given); err != nil {
		return err
	}
	missing := func(keys ...string) error {
		for _, k := range keys {
			if !given[k] {
				return fmt.Errorf("driver %s needs the key %s", s.Driver, k)
			}
		}
		return nil
	}
	if s.Every < 0 {
		return fmt.Errorf("every: %v is below 0", s.Every)
	}
	switch s.Driver {
	case "hwmon":
		if s.Channel < 0 {
			return fmt.Errorf("channel: %d is below 0", s.Channel)
		}
		return missing("chip")
	case "thermal":
		return missing("zone")
	case "script":
		return missing("script")
	}
	if s.Playback == "" {
		if err := missing("bus"); err != nil {
			return err
		}
	}
	if err := missing("address"); err != nil {
		return err
	}
	if s.Address < 0x08 || s.Address > 0x77 { // the others are reserved: UM10204, table 4
		return fmt.Errorf("address: %#x is not within 0x08 and 0x77", s.Address)
	}
	if s.Driver != "ina219" {
		return nil
	}
	if err := missing("shunt", "max_current"); err != nil {
		return err
	}
	for key, v := range map[string]float64{"shunt": s.Shunt, "max_current": s.MaxCurrent} {
		if !(v > 0 && v < 1e6) {
			return fmt.Errorf("%s: %g is not a positive number", key, v)
		}
	}
	return nil
}

func (l *Line) check() error {
	given := map[string]bool{"chip": l.Chip != "", "line": l.Line != nil, "name": l.Name != "", "active_low": l.ActiveLow,
		"pull": l.Pull != "", "debounce": l.Debounce != 0, "poll": l.Poll != 0, "script": l.Script != ""}
	if err := suit(l.Driver, map[string]string{"gpio": "chip line name active_low pull debounce poll", "script": "script"}, given); err != nil {
		return err
	}
	if l.Debounce < 0 || l.Poll < 0 {
		return fmt.Errorf("debounce %v, poll %v: below 0", l.Debounce, l.Poll)
	}
	if l.Driver == "script" {
		if l.Script == "" {
			return errors.New("driver script needs the key script")
		}
		return nil
	}
	if l.Pull != "" && l.Pull != "up" && l.Pull != "down" {
		return fmt.Errorf("pull: %q is neither up nor down", l.Pull)
	}
	return place(l.Chip, l.Name, l.Line)
}

func (l *LED) check() error {
	given := map[string]bool{"chip": l.Chip != "", "line": l.Line != nil, "name": l.Name != "", "active_low": l.ActiveLow}
	if err := suit(l.Driver, map[string]string{"gpio": "chip line name active_low", "led": "name", "memory": ""}, given); err != nil {
		return err
	}
	switch {
	case l.Driver == "gpio":
		return place(l.Chip, l.Name, l.Line)
	case l.Driver == "led" && l.Name == "":
		return errors.New("driver led needs the key name")
	}
	return nil
}

// suit tells whether there is such a driver and whether it knows the keys that are given.
func suit(driver string, drivers map[string]string, given map[string]bool) error {
	known, ok := drivers[driver]
	if !ok {
		return fmt.Errorf("driver %q is none of %s", driver, strings.Join(slices.Sorted(maps.Keys(drivers)), ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(given)) {
		if given[key] && !slices.Contains(strings.Fields(known), key) {
			return fmt.Errorf("%s: driver %s has no such key", key, driver)
		}
	}
	return nil
}

// place tells whether a GPIO line is named once.
func place(chip, name string, line *int) error {
	switch {
	case line != nil && name != "":
		return errors.New("line and name: give one of them")
	case line != nil && *line < 0:
		return fmt.Errorf("line: %d is below 0", *line)
	case line != nil && chip == "":
		return errors.New("line: on which chip? key chip")
	case line == nil && name == "":
		return errors.New("driver gpio needs the keys chip and line, or name")
	}
	return nil
}
