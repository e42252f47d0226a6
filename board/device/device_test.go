package device

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"periph.io/x/conn/v3/gpio"

	"hypnos/board"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// tree writes files below a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLinuxSensors(t *testing.T) {
	root := tree(t, map[string]string{
		"class/hwmon/hwmon0/name": "cpu_thermal\n", "class/hwmon/hwmon0/temp1_input": "51123\n",
		"class/hwmon/hwmon1/name": "tmp102\n", "class/hwmon/hwmon1/temp1_input": "-10500\n",
		"class/hwmon/hwmon2/name": "ina219\n", "class/hwmon/hwmon2/in1_input": "5004\n", "class/hwmon/hwmon2/curr1_input": "-12\n",
		"class/hwmon/hwmon3/name": "odd\n", "class/hwmon/hwmon3/temp1_input": "warm\n", "class/hwmon/hwmon3/temp2_input": "9000000\n",
		"class/thermal/thermal_zone0/type": "cpu-thermal\n", "class/thermal/thermal_zone0/temp": "48312\n",
	})
	n := 0
	for _, c := range []struct {
		sensor board.Sensor
		want   float64
		wrong  string
		absent bool
	}{
		{board.Sensor{Driver: "hwmon", Chip: "tmp102"}, -10.5, "", false},
		{board.Sensor{Driver: "hwmon", Chip: "cpu_thermal", Channel: 1}, 51.123, "", false},
		{board.Sensor{Driver: "thermal", Zone: "cpu-thermal"}, 48.312, "", false},
		{board.Sensor{Driver: "hwmon", Chip: "lm75"}, 0, "says lm75, but cpu_thermal, tmp102, ina219, odd", true},
		{board.Sensor{Driver: "hwmon", Chip: "tmp102", Channel: 2}, 0, "temp2_input does not exist", true},
		{board.Sensor{Driver: "thermal", Zone: "gpu"}, 0, "says gpu, but cpu-thermal", true},
		{board.Sensor{Driver: "hwmon", Chip: "odd"}, 0, `"warm" is no whole number`, false},
		{board.Sensor{Driver: "hwmon", Chip: "odd", Channel: 2}, 0, "9000 °C is not within", false},
	} {
		n++
		s, err := Open(board.Wiring{Temperature: &c.sensor}, Options{Sys: root})
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Temperature.Celsius()
		var absent Absent
		if c.wrong == "" && (err != nil || got != c.want) || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) || errors.As(err, &absent) != c.absent {
			t.Errorf("%+v: %v °C, %v", c.sensor, got, err)
		}
	}
	if n < 8 {
		t.Fatalf("%d cases", n)
	}
	s, err := Open(board.Wiring{Power: &board.Sensor{Driver: "hwmon", Chip: "ina219"}, Temperature: &board.Sensor{Driver: "hwmon", Chip: "tmp102"}}, Options{Sys: root})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.Power.Read(); err != nil || p != (Power{5.004, -0.012}) {
		t.Errorf("%+v, %v", p, err)
	}
	// A sensor that was there is broken when it goes, not absent, and comes back under another number.
	if _, err := s.Temperature.Celsius(); err != nil {
		t.Fatal(err)
	}
	from, to := filepath.Join(root, "class/hwmon/hwmon1"), filepath.Join(root, "class/hwmon/hwmon9")
	if err := os.Rename(from, filepath.Join(root, "gone")); err != nil {
		t.Fatal(err)
	}
	var absent Absent
	if _, err := s.Temperature.Celsius(); err == nil || errors.As(err, &absent) {
		t.Errorf("gone: %v", err)
	}
	if err := os.Rename(filepath.Join(root, "gone"), to); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Temperature.Celsius(); err != nil || c != -10.5 {
		t.Errorf("back: %v, %v", c, err)
	}
}

func TestLinuxLED(t *testing.T) {
	root := tree(t, map[string]string{"class/leds/ACT/max_brightness": "255\n", "class/leds/ACT/brightness": "0\n", "class/leds/ACT/trigger": "none kbd [mmc0] timer\n"})
	s, err := Open(board.Wiring{LED: &board.LED{Driver: "led", Name: "ACT"}}, Options{Sys: root})
	if err != nil {
		t.Fatal(err)
	}
	shows := func(file, want string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(root, "class/leds/ACT", file)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", file, got, err, want)
		}
	}
	if err := s.LED.Set(true); err != nil {
		t.Fatal(err)
	}
	shows("brightness", "255")
	shows("trigger", "none")
	if err := s.LED.Set(false); err != nil {
		t.Fatal(err)
	}
	shows("brightness", "0")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	shows("trigger", "mmc0")
	s, err = Open(board.Wiring{LED: &board.LED{Driver: "led", Name: "PWR"}}, Options{Sys: root})
	if err != nil {
		t.Fatal(err)
	}
	var absent Absent
	if err := s.LED.Set(true); !errors.As(err, &absent) {
		t.Errorf("no such light: %v", err)
	}
}

func TestNothingIsWired(t *testing.T) {
	s, err := Open(board.Wiring{}, Options{Sys: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, temperature := s.Temperature.Celsius()
	_, power := s.Power.Read()
	_, wake := s.Wake.Active()
	_, sleep := s.Sleep.Active()
	for part, err := range map[string]error{"temperature": temperature, "power": power, "wake": wake, "sleep": sleep, "led": s.LED.Set(true)} {
		if err == nil || err.Error() != "absent, because the board's wiring does not name it" {
			t.Errorf("%s: %v", part, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Space(t.TempDir()); err != nil {
		t.Error(err)
	}
	var absent Absent
	if _, err := Space(filepath.Join(t.TempDir(), "no")); err == nil || errors.As(err, &absent) {
		t.Errorf("free space of nothing: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := tree(t, map[string]string{"bad": "at noon temperature = 1\n", "traffic": "zz\n"})
	n := 0
	for _, c := range []struct {
		w    board.Wiring
		want string
	}{
		{board.Wiring{Temperature: &board.Sensor{Driver: "tmp103"}}, `wiring.temperature: driver "tmp103" is none of hwmon, lm75`},
		{board.Wiring{Temperature: &board.Sensor{Driver: "script", Script: filepath.Join(dir, "no")}}, "wiring.temperature: device: script: open"},
		{board.Wiring{Wake: &board.Line{Driver: "script", Script: filepath.Join(dir, "bad")}}, `wiring.wake: device: script ` + filepath.Join(dir, "bad") + `: line 1`},
		{board.Wiring{Temperature: &board.Sensor{Driver: "lm75", Address: 0x48, Playback: filepath.Join(dir, "traffic")}}, `line 1: "zz"`},
		{board.Wiring{Wake: &board.Line{Driver: "script", Script: dir}, Sleep: &board.Line{Driver: "script", Script: dir}}, "; device: wiring.sleep:"},
		{board.Wiring{Temperature: &board.Sensor{Driver: "lm75", Address: 0x48, Bus: bus(1), Record: filepath.Join(dir, "no", "x")}}, "wiring.temperature: record:"},
	} {
		n++
		if _, err := Open(c.w, Options{}); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if n < 6 {
		t.Fatalf("%d cases", n)
	}
}

func TestPollerBacksOff(t *testing.T) {
	var sensor FakeThermometer
	sensor.Set(40)
	var seen []string
	clock := NewManual(start)
	p := Poller[float64]{Read: sensor.Celsius, Every: time.Second, Slowest: 10 * time.Second, Clock: clock,
		Changed: func(r Reading[float64]) { seen = append(seen, r.Why()) }}
	if r := p.Last(); r.OK() || r.Why() != "not read yet" {
		t.Errorf("before: %+v", r)
	}
	var waits []time.Duration
	poll := func() { waits = append(waits, p.Poll()) }
	poll()
	sensor.Fail(errors.New("stuck"))
	for range 6 {
		clock.Advance(time.Second)
		poll()
	}
	if r := p.Last(); r.OK() || !r.Known || r.Value != 40 || r.At != 0 || r.Why() != "stuck" {
		t.Errorf("broken: %+v", r)
	}
	sensor.Fail(Absent("pulled out"))
	poll()
	sensor.Set(41)
	poll()
	if r := p.Last(); !r.OK() || r.Value != 41 || r.At != 6*time.Second {
		t.Errorf("back: %+v", r)
	}
	want := []time.Duration{1, 1, 2, 4, 8, 10, 10, 10, 1}
	for i := range want {
		if want[i] *= time.Second; waits[i] != want[i] {
			t.Errorf("poll %d waits %v, want %v", i+1, waits[i], want[i])
		}
	}
	if len(seen) != len(want) || seen[0] != "" || seen[1] != "stuck" || seen[7] != "absent, because pulled out" {
		t.Errorf("changes: %q", seen)
	}
}

func TestPollerRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sensor FakeThermometer
		ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		p := Poller[float64]{Read: sensor.Celsius, Every: time.Second, Slowest: time.Minute, Clock: NewSystem()}
		p.Run(ctx)
		if sensor.Reads() != 5 { // at 0, 1, 2, 3, 4 s
			t.Errorf("%d reads in 4.5 s", sensor.Reads())
		}
	})
}

func TestSettle(t *testing.T) {
	type sample struct {
		ms          int
		level, edge bool
	}
	const ms = time.Millisecond
	n := 0
	for _, c := range []struct {
		name    string
		need    time.Duration
		samples []sample
		want    []Edge
	}{
		{"without debouncing at once", 0, []sample{{5, true, true}, {6, false, true}}, []Edge{{true, 5 * ms}, {false, 6 * ms}}},
		{"lasts", 20 * ms, []sample{{5, true, true}, {24, true, false}, {25, true, false}}, []Edge{{true, 5 * ms}}},
		{"a glitch", 20 * ms, []sample{{5, true, true}, {10, false, true}, {40, false, false}}, nil},
		{"bounces, then lasts", 20 * ms, []sample{{0, true, true}, {3, false, true}, {5, true, true}, {24, true, false}, {25, true, false}}, []Edge{{true, 5 * ms}}},
		{"a glitch between two looks", 20 * ms, []sample{{0, true, true}, {15, true, true}, {20, true, false}, {35, true, false}}, []Edge{{true, 15 * ms}}},
		{"both ways", 10 * ms, []sample{{0, true, false}, {10, true, false}, {50, false, false}, {60, false, false}}, []Edge{{true, 0}, {false, 50 * ms}}},
	} {
		n++
		s := settle{need: c.need}
		var got []Edge
		for _, x := range c.samples {
			if e, ok := s.sample(x.level, x.edge, time.Duration(x.ms)*ms); ok {
				got = append(got, e)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
		}
	}
	if n < 6 {
		t.Fatalf("%d cases", n)
	}
}

// testPin is a pin whose level a test sets.
type testPin struct {
	gpio.PinIO // what lines and lights do not use
	mu         sync.Mutex
	level      gpio.Level
	pull       gpio.Pull
	changed    chan struct{}
}

func (p *testPin) set(l gpio.Level, edge bool) {
	p.mu.Lock()
	p.level = l
	p.mu.Unlock()
	if edge {
		p.changed <- struct{}{}
	}
}

func (p *testPin) In(pull gpio.Pull, edge gpio.Edge) error { p.pull = pull; return nil }
func (p *testPin) Out(l gpio.Level) error                  { p.set(l, false); return nil }
func (p *testPin) Halt() error                             { return nil }

func (p *testPin) Read() gpio.Level {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.level
}

func (p *testPin) WaitForEdge(d time.Duration) bool {
	select {
	case <-p.changed:
		return true
	case <-time.After(d):
		return false
	}
}

// pinWiring is a line and a light on pins of a test.
func pinWiring(pin *testPin, err error) Options {
	return Options{Pin: func(string, string, *int) (gpio.PinIO, error) { return pin, err }}
}

func TestPinLine(t *testing.T) {
	five := 5
	for _, poll := range []time.Duration{0, time.Millisecond} {
		pin := &testPin{level: gpio.High, changed: make(chan struct{})}
		s, err := Open(board.Wiring{Wake: &board.Line{Driver: "gpio", Chip: "gpiochip2", Line: &five, ActiveLow: true, Pull: "up", Poll: poll, Debounce: 2 * time.Millisecond}},
			pinWiring(pin, nil))
		if err != nil {
			t.Fatal(err)
		}
		if active, err := s.Wake.Active(); err != nil || active {
			t.Errorf("released: %v, %v", active, err)
		}
		if pin.pull != gpio.PullUp {
			t.Errorf("pull %v", pin.pull)
		}
		edges := s.Wake.Edges()
		for _, active := range []bool{true, false} {
			level := gpio.Level(!active)
			pin.set(level, poll == 0)
			select {
			case e := <-edges:
				if e.Active != active {
					t.Errorf("edge %+v, want %v", e, active)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no edge to %v, poll %v", active, poll)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, open := <-edges; open {
			t.Error("an edge after Close")
		}
	}
}

func TestPinThatIsNotThere(t *testing.T) {
	w := board.Wiring{Wake: &board.Line{Driver: "gpio", Name: "GPIO5"}, LED: &board.LED{Driver: "gpio", Name: "GPIO6"}}
	for _, c := range []struct {
		err    error
		absent bool
	}{{Absent("no line has the name GPIO5"), true}, {errors.New("permission denied"), false}} {
		s, err := Open(w, pinWiring(nil, c.err))
		if err != nil {
			t.Fatal(err)
		}
		_, wake := s.Wake.Active()
		for _, err := range []error{wake, s.LED.Set(true)} {
			var absent Absent
			if err == nil || errors.As(err, &absent) != c.absent || !strings.Contains(err.Error(), plain(c.err).Error()) {
				t.Errorf("error %v, absent %v", err, c.absent)
			}
		}
		if s.Wake.Edges() != nil {
			t.Error("edges of nothing")
		}
	}
}

func TestPinLED(t *testing.T) {
	pin := &testPin{}
	s, err := Open(board.Wiring{LED: &board.LED{Driver: "gpio", Name: "GPIO6", ActiveLow: true}}, pinWiring(pin, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, on := range []bool{true, false} {
		if err := s.LED.Set(on); err != nil || bool(pin.Read()) == on {
			t.Errorf("on %v: level %v, %v", on, pin.Read(), err)
		}
	}
}

func TestPatterns(t *testing.T) {
	const s = time.Second
	n := 0
	for _, c := range []struct {
		p  Pattern
		t  time.Duration
		on bool
	}{
		{Off, 0, false}, {Off, 99 * s, false}, {Steady, 0, true}, {Steady, 99 * s, true}, {"", 0, false},
		{SlowBlink, 0, true}, {SlowBlink, s - 1, true}, {SlowBlink, s, false}, {SlowBlink, 2*s - 1, false}, {SlowBlink, 2 * s, true},
		{Breath, 0, true}, {Breath, s / 10, false}, {Breath, 4*s - 1, false}, {Breath, 4 * s, true},
	} {
		n++
		on, hold := c.p.At(c.t)
		if on != c.on || hold <= 0 {
			t.Errorf("%s at %v: %v for %v", c.p, c.t, on, hold)
		}
		if before, _ := c.p.At(c.t + hold - 1); before != on {
			t.Errorf("%s at %v does not hold for %v", c.p, c.t, hold)
		}
	}
	if n < 14 {
		t.Fatalf("%d cases", n)
	}
}

func TestBlinker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		led := &FakeLED{}
		b := NewBlinker(led, NewSystem())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.Run(ctx); close(done) }()
		shows := func(after time.Duration, want bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if led.On() != want {
				t.Errorf("light is %v", led.On())
			}
		}
		shows(0, false)
		b.Show(Steady)
		shows(0, true)
		b.Show(SlowBlink)
		shows(0, true)
		shows(1100*time.Millisecond, false)
		shows(time.Second, true)
		b.Show(Off)
		shows(0, false)
		led.Fail(errors.New("burnt"))
		b.Show(Steady)
		shows(0, false)
		if err := b.Err(); err == nil || err.Error() != "burnt" {
			t.Error(err)
		}
		led.Fail(nil)
		b.Show(Breath)
		shows(0, true)
		cancel()
		<-done
		shows(0, false)
	})
}

func TestScript(t *testing.T) {
	s, err := ReadScript(strings.NewReader(`# a short day
at 0s temperature = 45
from 10m to 20m temperature = 45 to 81   # a ramp
at 21m temperature fails: the bus is stuck
at 22m temperature absent: it was pulled out
at 23m temperature = 40
at 1m volts = 5
at 30m wake = on
at 31m wake = off
`))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, c := range []struct {
		quantity string
		at       time.Duration
		want     float64
		wrong    string
	}{
		{"temperature", 0, 45, ""}, {"temperature", 10 * time.Minute, 45, ""}, {"temperature", 15 * time.Minute, 63, ""},
		{"temperature", 20 * time.Minute, 81, ""}, {"temperature", 20*time.Minute + 59*time.Second, 81, ""},
		{"temperature", 21 * time.Minute, 0, "the bus is stuck"}, {"temperature", 22 * time.Minute, 0, "absent, because it was pulled out"},
		{"temperature", 99 * time.Hour, 40, ""}, {"volts", 0, 0, "absent, because the script does not name volts at 0s"},
		{"volts", time.Minute, 5, ""}, {"amperes", time.Hour, 0, "absent"}, {"wake", 30 * time.Minute, 1, ""}, {"wake", 31 * time.Minute, 0, ""},
	} {
		n++
		got, err := s.At(c.quantity, c.at)
		if got != c.want || c.wrong == "" && err != nil || c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%s at %v: %v, %v", c.quantity, c.at, got, err)
		}
	}
	if n < 13 {
		t.Fatalf("%d cases", n)
	}
	for _, bad := range []string{"at 1m", "at -1s volts = 1", "at 1m height = 1", "at 1m volts = x", "at 1m wake = 1", "from 1m to 1m volts = 1 to 2",
		"from 1m till 2m volts = 1 to 2", "from 1m to 2m wake = on to off", "from 1m to 2m volts = 1", "soon", "repeat 0s", "repeat 1h x", "at 1m volts is 1",
		"repeat 1m\nat 2m volts = 1", "from 1m to 2m volts = x to y"} {
		if _, err := ReadScript(strings.NewReader(bad)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestScriptedDevices(t *testing.T) {
	path := filepath.Join(tree(t, map[string]string{"s": "repeat 1h\nat 0s temperature = 45\nat 30m temperature = 50\nat 0s volts = 5\nat 10m wake = on\nat 11m wake = off\n"}), "s")
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(board.Wiring{Temperature: &board.Sensor{Driver: "script", Script: path}, Power: &board.Sensor{Driver: "script", Script: path},
			Wake: &board.Line{Driver: "script", Script: path}, Sleep: &board.Line{Driver: "script", Script: path}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for _, at := range []time.Duration{10 * time.Minute, 11 * time.Minute, 70 * time.Minute, 71 * time.Minute} {
			e := <-s.Wake.Edges()
			if now := time.Since(began); now != at || e.At != at || e.Active != (at%(20*time.Minute) == 10*time.Minute) {
				t.Errorf("edge %+v at %v, want one at %v", e, now, at)
			}
		}
		if c, err := s.Temperature.Celsius(); err != nil || c != 45 {
			t.Error(c, err)
		}
		time.Sleep(20 * time.Minute)
		if c, err := s.Temperature.Celsius(); err != nil || c != 50 {
			t.Error(c, err)
		}
		if p, err := s.Power.Read(); err != nil || p != (Power{5, 0}) {
			t.Error(p, err)
		}
		if _, err := s.Sleep.Active(); err == nil {
			t.Error("a line that the script does not name")
		}
		s.Sleep.Edges()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestFakeLine(t *testing.T) {
	f := &FakeLine{}
	edges := f.Edges()
	for i := range 2*edgeBacklog + 1 { // the oldest are dropped
		f.Press(i%2 == 0, time.Duration(i))
	}
	first := <-edges
	if first.At != edgeBacklog+1 {
		t.Errorf("first of the backlog: %+v", first)
	}
	if active, err := f.Active(); err != nil || !active {
		t.Error(active, err)
	}
	f.Fail(errors.New("cut"))
	if _, err := f.Active(); err == nil {
		t.Error("no failure")
	}
	f.Close()
	f.Press(false, 0)
}

func TestManualClock(t *testing.T) {
	c := NewManual(start)
	late, now := c.After(time.Minute), c.After(0)
	<-now
	c.Advance(59 * time.Second)
	select {
	case <-late:
		t.Error("early")
	default:
	}
	c.Jump(-time.Hour)
	if c.Waiting() != 1 || c.Monotonic() != 59*time.Second || !c.Now().Equal(start.Add(59*time.Second-time.Hour)) {
		t.Error(c.Waiting(), c.Monotonic(), c.Now())
	}
	c.Advance(time.Second)
	<-late
}

func TestCheck(t *testing.T) {
	root := tree(t, map[string]string{"class/thermal/thermal_zone0/type": "cpu-thermal", "class/thermal/thermal_zone0/temp": "48312"})
	five := 5
	o := pinWiring(&testPin{}, nil)
	o.Sys = root
	s, err := Open(board.Wiring{Temperature: &board.Sensor{Driver: "thermal", Zone: "cpu-thermal"}, Power: &board.Sensor{Driver: "hwmon", Chip: "ina219"},
		Sleep: &board.Line{Driver: "gpio", Chip: "gpiochip0", Line: &five}, LED: &board.LED{Driver: "gpio", Name: "GPIO6"}}, o)
	if err != nil {
		t.Fatal(err)
	}
	zones, hwmon := filepath.Join(root, "class/thermal/thermal_zone*"), filepath.Join(root, "class/hwmon/hwmon*")
	got := s.Check()
	want := []string{
		"temperature: 48.3 °C (cpu-thermal of " + zones + ")",
		"power: absent, because there is no " + hwmon + "/name (ina219 of " + hwmon + ")",
		"wake: absent, because the board's wiring does not name it",
		"sleep: not active (line 5 of gpiochip0)",
		"led: can be set (GPIO6)",
	}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i, f := range got {
		if f.String() != want[i] || f.Broken() || f.Absent != strings.Contains(want[i], "absent") {
			t.Errorf("%q, want %q", f, want[i])
		}
	}
	s.Temperature = &FakeThermometer{}
	s.Temperature.(*FakeThermometer).Fail(errors.New("stuck"))
	if f := s.Check()[0]; !f.Broken() || f.String() != "temperature: stuck" {
		t.Errorf("%+v", f)
	}
}
