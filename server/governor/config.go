package governor

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Config says when the network sleeps and when it must not. A limit of 0 is no limit, a reason of 0 is none.
type Config struct {
	Night      []Window      `toml:"night" json:"night"`             // one sleep in each window of wall time: "22:00-06:00", "sat,sun 13:00-15:00"
	Zone       string        `toml:"zone" json:"zone"`               // of the windows, as Europe/Paris; the system's when empty
	AfterSteps int64         `toml:"after_steps" json:"after_steps"` // wake steps since the last sleep
	Idle       time.Duration `toml:"idle" json:"idle"`               // without a request
	MinSNR     float64       `toml:"min_snr" json:"min_snr"`         // of any layer: below it, weights have diverged

	MinInterval time.Duration `toml:"min_interval" json:"min_interval"` // between the end of a sleep and the next, unless asked for
	WakeHold    time.Duration `toml:"wake_hold" json:"wake_hold"`       // after a request; above 0
	StayAwake   time.Duration `toml:"stay_awake" json:"stay_awake"`     // after it was woken, unless asked to sleep
	Retry       time.Duration `toml:"retry" json:"retry"`               // after a sleep that failed; above 0

	MaxTemperature        float64       `toml:"max_temperature" json:"max_temperature"`               // °C
	TemperatureHysteresis float64       `toml:"temperature_hysteresis" json:"temperature_hysteresis"` // °C below it before sleep goes on
	MinSupply             float64       `toml:"min_supply" json:"min_supply"`                         // V
	SupplyHysteresis      float64       `toml:"supply_hysteresis" json:"supply_hysteresis"`           // V above it before sleep goes on
	SensorGrace           time.Duration `toml:"sensor_grace" json:"sensor_grace"`                     // how long a reading holds; above 0, and above the time between two polls

	Latency time.Duration `toml:"latency" json:"latency"` // a reason to stop is acted on within this; above 0
}

// Default sleeps by night, and keeps awake for 10 s after a request.
func Default() Config {
	return Config{
		Night:       []Window{{From: 22 * time.Hour, To: 6 * time.Hour, Days: everyDay}},
		MinInterval: 10 * time.Minute, WakeHold: 10 * time.Second, StayAwake: 10 * time.Minute, Retry: time.Minute,
		TemperatureHysteresis: 5, SupplyHysteresis: 0.1, SensorGrace: 30 * time.Second, Latency: time.Second,
	}
}

// Check returns an error, of one line, that names the keys at fault.
func (c Config) Check() error {
	var errs []string
	note := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Sprintf(format, args...))
		}
	}
	for _, d := range []struct {
		key  string
		d    time.Duration
		zero bool // may be 0
	}{
		{"idle", c.Idle, true}, {"min_interval", c.MinInterval, true}, {"wake_hold", c.WakeHold, false}, {"stay_awake", c.StayAwake, true},
		{"retry", c.Retry, false}, {"sensor_grace", c.SensorGrace, false}, {"latency", c.Latency, false},
	} {
		note(d.d < 0, "%s: %v is below 0", d.key, d.d)
		note(d.d == 0 && !d.zero, "%s: must be above 0", d.key)
	}
	for _, f := range []struct {
		key string
		v   float64
		min float64
	}{
		{"min_snr", c.MinSNR, 0}, {"max_temperature", c.MaxTemperature, -273.15}, {"temperature_hysteresis", c.TemperatureHysteresis, 0},
		{"min_supply", c.MinSupply, 0}, {"supply_hysteresis", c.SupplyHysteresis, 0},
	} {
		note(!(f.v >= f.min) || math.IsInf(f.v, 0), "%s: %g is not a number from %g", f.key, f.v, f.min)
	}
	note(c.MaxTemperature != 0 && c.TemperatureHysteresis == 0, "temperature_hysteresis: 0 lets sleep start and stop at one temperature")
	note(c.MinSupply != 0 && c.SupplyHysteresis == 0, "supply_hysteresis: 0 lets sleep start and stop at one voltage")
	note(c.AfterSteps < 0, "after_steps: %d is below 0", c.AfterSteps)
	for i, w := range c.Night {
		note(w.From == w.To || w.Days == 0, "night: window %d is empty", i+1)
	}
	if _, err := c.location(); err != nil {
		errs = append(errs, "zone: "+err.Error())
	}
	if len(errs) > 0 {
		return errors.New("governor: " + strings.Join(errs, "; "))
	}
	return nil
}

func (c Config) location() (*time.Location, error) {
	if c.Zone == "" {
		return time.Local, nil
	}
	return time.LoadLocation(c.Zone)
}
