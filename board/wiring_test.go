package board

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

// wiring reads a wiring as a board's file holds it, keys that are not known refused.
func wiring(text string) (Wiring, error) {
	var file struct {
		Wiring Wiring `toml:"wiring"`
	}
	m, err := toml.Decode(text, &file)
	if err == nil && len(m.Undecoded()) > 0 {
		return Wiring{}, &toml.ParseError{Message: "unknown key " + m.Undecoded()[0].String()}
	}
	if err == nil {
		err = file.Wiring.Check()
	}
	return file.Wiring, err
}

func TestWiring(t *testing.T) {
	w, err := wiring(`
[wiring.temperature]
driver = "tmp102"
bus = "/dev/i2c-1"
address = 0x48
extended = true
every = "2s"
[wiring.power]
driver = "ina219"
bus = 1
address = 0x40
shunt = 0.1
max_current = 3.2
[wiring.wake]
driver = "gpio"
name = "GPIO17"
active_low = true
pull = "up"
debounce = "20ms"
[wiring.sleep]
driver = "gpio"
chip = "gpiochip0"
line = 0
[wiring.led]
driver = "led"
name = "ACT"
`)
	if err != nil {
		t.Fatal(err)
	}
	if *w.Temperature.Bus != 1 || *w.Power.Bus != 1 || w.Temperature.Bus.String() != "/dev/i2c-1" || w.Temperature.Address != 0x48 ||
		w.Temperature.Period() != 2*time.Second || w.Power.Period() != time.Second || w.Wake.Debounce != 20*time.Millisecond || *w.Sleep.Line != 0 {
		t.Errorf("%+v", w)
	}
}

func TestWiringRefuses(t *testing.T) {
	n := 0
	for _, c := range []struct{ text, want string }{
		{"[wiring.fan]\ndriver = \"gpio\"", "fan"},
		{"[wiring.temperature]\ndriver = \"tmp102\"\nbus = 1\naddress = 0x48\npin = 3", "pin"},
		{"[wiring.temperature]\ndriver = \"tmp103\"", `wiring.temperature: driver "tmp103" is none of hwmon, lm75, lm75a, script, thermal, tmp102, tmp105`},
		{"[wiring.temperature]\nbus = 1", `driver "" is none of`},
		{"[wiring.temperature]\ndriver = \"tmp102\"\naddress = 0x48", "driver tmp102 needs the key bus"},
		{"[wiring.temperature]\ndriver = \"tmp102\"\nbus = 1", "driver tmp102 needs the key address"},
		{"[wiring.temperature]\ndriver = \"tmp102\"\nbus = 1\naddress = 0x78", "address: 0x78 is not within"},
		{"[wiring.temperature]\ndriver = \"tmp102\"\nbus = -1\naddress = 0x48", "bus -1 is below 0"},
		{"[wiring.temperature]\ndriver = \"tmp102\"\nbus = \"i2c-1\"\naddress = 0x48", "bus i2c-1 is neither"},
		{"[wiring.temperature]\ndriver = \"tmp102\"\nbus = 1\naddress = 0x48\nevery = \"-1s\"", "every: -1s is below 0"},
		{"[wiring.temperature]\ndriver = \"lm75\"\nbus = 1\naddress = 0x48\nextended = true", "extended: driver lm75 has no such key"},
		{"[wiring.temperature]\ndriver = \"thermal\"", "driver thermal needs the key zone"},
		{"[wiring.temperature]\ndriver = \"hwmon\"\nchip = \"a\"\nchannel = -1", "channel: -1 is below 0"},
		{"[wiring.temperature]\ndriver = \"ina219\"", `driver "ina219" is none of`},
		{"[wiring.power]\ndriver = \"ina219\"\nbus = 1\naddress = 0x40", "driver ina219 needs the key shunt"},
		{"[wiring.power]\ndriver = \"ina219\"\nbus = 1\naddress = 0x40\nshunt = nan\nmax_current = 1.0", "shunt: NaN is not a positive number"},
		{"[wiring.power]\ndriver = \"script\"", "driver script needs the key script"},
		{"[wiring.wake]\ndriver = \"gpio\"", "driver gpio needs the keys chip and line, or name"},
		{"[wiring.wake]\ndriver = \"gpio\"\nline = 3", "line: on which chip? key chip"},
		{"[wiring.wake]\ndriver = \"gpio\"\nchip = \"a\"\nline = -3", "line: -3 is below 0"},
		{"[wiring.wake]\ndriver = \"gpio\"\nchip = \"a\"\nline = 3\nname = \"b\"", "line and name: give one of them"},
		{"[wiring.wake]\ndriver = \"gpio\"\nname = \"b\"\npull = \"left\"", `pull: "left" is neither up nor down`},
		{"[wiring.sleep]\ndriver = \"script\"\nscript = \"s\"\ndebounce = \"1s\"", "wiring.sleep: debounce: driver script has no such key"},
		{"[wiring.led]\ndriver = \"led\"", "wiring.led: driver led needs the key name"},
		{"[wiring.led]\ndriver = \"led\"\nname = \"a\"\nactive_low = true", "active_low: driver led has no such key"},
		{"[wiring.led]\ndriver = \"gpio\"\n[wiring.wake]\ndriver = \"x\"", "; wiring.led:"},
	} {
		n++
		if _, err := wiring(c.text); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: error %v, want %q", c.text, err, c.want)
		}
	}
	if n < 26 {
		t.Fatalf("%d cases", n)
	}
	good, err := profiles.ReadFile("profiles/raspberry-pi-4.toml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parse(strings.Replace(string(good), `zone = "cpu`, `place = "cpu`, 1)); err == nil || !strings.Contains(err.Error(), `unknown key "wiring.temperature.place"`) {
		t.Errorf("a key of a profile's wiring: %v", err)
	}
}

// Every piece of TOML in the page on boards is a wiring, and names of profiles in its table exist.
func TestDocumentedWiring(t *testing.T) {
	page, err := os.ReadFile("../docs/BOARDS.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllSubmatch(page, -1)
	for _, b := range blocks {
		if w, err := wiring(string(b[1])); err != nil || w == (Wiring{}) {
			t.Errorf("%s\n%v", b[1], err)
		}
	}
	if len(blocks) < 4 {
		t.Errorf("%d pieces of TOML", len(blocks))
	}
	for _, name := range Names() {
		if !strings.Contains(string(page), "| `"+name+"` |") {
			t.Errorf("profile %s is not in the table", name)
		}
	}
}
