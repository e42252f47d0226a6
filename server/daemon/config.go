package daemon

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/BurntSushi/toml"

	"hypnos/board"
	"hypnos/server"
	"hypnos/server/brain"
	"hypnos/server/governor"
)

// config is the daemon's configuration file.
type config struct {
	Board    string          `toml:"board"` // a profile's name, or a file that ends in .toml
	Log      logging         `toml:"log"`
	Brain    brain.Config    `toml:"brain"`
	Governor governor.Config `toml:"governor"`
	Server   server.Config   `toml:"server"`
	Wiring   board.Wiring    `toml:"wiring"` // each table in place of the profile's

	profile *board.Profile // with the wiring as it is
}

// logging says what the log has and how.
type logging struct {
	Level  slog.Level `toml:"level"`  // "debug", "info", "warn" or "error"
	Format string     `toml:"format"` // "text" or "json"
}

func (l logging) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// load reads and checks a configuration file. Errors name the file and the key at fault.
func load(path string) (*config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &config{Log: logging{Format: "text"}, Brain: brain.DefaultConfig(), Governor: governor.Default(), Server: server.Defaults()}
	if err := c.parse(string(text)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *config) parse(text string) error {
	m, err := toml.Decode(text, c)
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
	}
	if keys := m.Undecoded(); len(keys) > 0 {
		return fmt.Errorf("unknown key %q", keys[0].String())
	}
	if c.Board == "" {
		return fmt.Errorf("board: which one? (known: %s; or a file that ends in .toml)", strings.Join(board.Names(), ", "))
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		return fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format)
	}
	if c.profile, err = board.Open(c.Board); err != nil {
		return err
	}
	c.profile.Wiring = wired(c.profile.Wiring, c.Wiring)
	for _, check := range []func() error{c.profile.Wiring.Check, c.Brain.Check, c.Governor.Check, c.Server.Check} {
		if err := check(); err != nil {
			return err
		}
	}
	for part, s := range map[string]*board.Sensor{"temperature": c.profile.Wiring.Temperature, "power": c.profile.Wiring.Power} {
		if s.Period() >= c.Governor.SensorGrace {
			return fmt.Errorf("wiring.%s.every: %v is not below governor.sensor_grace, %v", part, s.Period(), c.Governor.SensorGrace)
		}
	}
	return nil
}

// wired is the profile's wiring with what a configuration has in its place.
func wired(w, instead board.Wiring) board.Wiring {
	if instead.Temperature != nil {
		w.Temperature = instead.Temperature
	}
	if instead.Power != nil {
		w.Power = instead.Power
	}
	if instead.Wake != nil {
		w.Wake = instead.Wake
	}
	if instead.Sleep != nil {
		w.Sleep = instead.Sleep
	}
	if instead.LED != nil {
		w.LED = instead.LED
	}
	return w
}
