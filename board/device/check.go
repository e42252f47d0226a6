package device

import (
	"errors"
	"fmt"
)

// Finding is what a look at one device says.
type Finding struct {
	Part   string `json:"part"`   // temperature, power, wake, sleep, led
	Device string `json:"device"` // "tmp102 at 0x48 of /dev/i2c-1"; empty when there is none
	Value  string `json:"value"`  // "41.5 °C", when it works
	Absent bool   `json:"absent"` // it is not there
	Error  string `json:"error"`  // why it is absent, or how it fails
}

// String is one line: "temperature: 41.5 °C (tmp102 at 0x48 of /dev/i2c-1)".
func (f Finding) String() string {
	what := f.Value
	if f.Error != "" {
		what = f.Error
	}
	if f.Device == "" {
		return f.Part + ": " + what
	}
	return fmt.Sprintf("%s: %s (%s)", f.Part, what, f.Device)
}

// Broken tells whether the device is there and fails.
func (f Finding) Broken() bool { return f.Error != "" && !f.Absent }

// Check reads every device once. The light is turned on, and off again.
func (s *Set) Check() []Finding {
	var all []Finding
	note := func(part string, device any, value string, err error) {
		f := Finding{Part: part, Value: value}
		if name, ok := device.(fmt.Stringer); ok {
			if _, none := device.(None); !none {
				f.Device = name.String()
			}
		}
		if err != nil {
			var absent Absent
			f.Value, f.Error, f.Absent = "", err.Error(), errors.As(err, &absent)
		}
		all = append(all, f)
	}
	celsius, err := s.Temperature.Celsius()
	note("temperature", s.Temperature, fmt.Sprintf("%.1f °C", celsius), err)
	power, err := s.Power.Read()
	note("power", s.Power, fmt.Sprintf("%.2f V, %.3f A", power.Volts, power.Amperes), err)
	for _, l := range []struct {
		part string
		line Line
	}{{"wake", s.Wake}, {"sleep", s.Sleep}} {
		active, err := l.line.Active()
		note(l.part, l.line, map[bool]string{true: "active", false: "not active"}[active], err)
	}
	err = s.LED.Set(true)
	if off := s.LED.Set(false); err == nil {
		err = off
	}
	note("led", s.LED, "can be set", err)
	return all
}
