package device

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/i2c/i2ctest"

	"hypnos/board"
)

// on opens a wiring on a bus that plays ops, and fails the test when they are not the whole traffic.
func on(t *testing.T, w board.Wiring, ops []i2ctest.IO) *Set {
	t.Helper()
	bus := &i2ctest.Playback{Ops: ops, DontPanic: true}
	t.Cleanup(func() {
		if bus.Count != len(ops) {
			t.Errorf("%d of %d transfers were made", bus.Count, len(ops))
		}
	})
	s, err := Open(w, Options{Bus: func(int) (i2c.BusCloser, error) { return keepOpen{bus}, nil }, Wait: noWait})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func noWait(time.Duration) {}

// keepOpen is a bus that Close does not check.
type keepOpen struct{ *i2ctest.Playback }

func (keepOpen) Close() error { return nil }

func bus(n int) *board.Bus { b := board.Bus(n); return &b }

func thermometer(driver string, extended bool) board.Wiring {
	return board.Wiring{Temperature: &board.Sensor{Driver: driver, Bus: bus(1), Address: 0x48, Extended: extended}}
}

const a = 0x48

func TestThermometers(t *testing.T) {
	wake102 := []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0x60, 0xa0}}}
	wakeExtended := append(wake102[:1:1], i2ctest.IO{Addr: a, W: []byte{1, 0x60, 0xb0}})
	wake105 := []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0}}, {Addr: a, W: []byte{1, 0x60}}}
	wake75 := []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0}}}
	n := 0
	for _, c := range []struct {
		driver   string
		extended bool
		setUp    []i2ctest.IO
		raw      uint16
		want     float64
	}{
		// SBOS397C, p. 6, table 5: the value in the upper 12 bits.
		{"tmp102", false, wake102, 0x7ff0, 127.9375}, {"tmp102", false, wake102, 0x6400, 100}, {"tmp102", false, wake102, 0x1900, 25},
		{"tmp102", false, wake102, 0x0040, 0.25}, {"tmp102", false, wake102, 0, 0}, {"tmp102", false, wake102, 0xffc0, -0.25},
		{"tmp102", false, wake102, 0xe700, -25}, {"tmp102", false, wake102, 0xc900, -55},
		// SBOS397B, p. 7, table 6: 13 bits, and bit 0 set.
		{"tmp102", true, wakeExtended, 0x0960<<3 | 1, 150}, {"tmp102", true, wakeExtended, 0x0800<<3 | 1, 128},
		{"tmp102", true, wakeExtended, 0x0190<<3 | 1, 25}, {"tmp102", true, wakeExtended, 0x1ffc<<3&0xffff | 1, -0.25},
		{"tmp102", true, wakeExtended, 0x1c90<<3&0xffff | 1, -55},
		// The chip has not changed its format yet: bit 0 says which it is.
		{"tmp102", true, wakeExtended, 0x1900, 25},
		// SBOS288J, p. 6, table 5.
		{"tmp105", false, wake105, 0x7ff0, 127.9375}, {"tmp105", false, wake105, 0xffc0, -0.25}, {"tmp105", false, wake105, 0xc900, -55},
		// NXP LM75A, p. 8: 11 bits of 0.125 °C, or 9 of 0.5 °C; the others may be anything.
		{"lm75a", false, wake75, 0x7f00, 127}, {"lm75a", false, wake75, 0x193f, 25.125}, {"lm75a", false, wake75, 0xe71f, -25},
		{"lm75", false, wake75, 0x197f, 25}, {"lm75", false, wake75, 0xffff, -0.5}, {"lm75", false, wake75, 0xc900, -55},
	} {
		n++
		read := i2ctest.IO{Addr: a, W: []byte{0}, R: []byte{byte(c.raw >> 8), byte(c.raw)}}
		s := on(t, thermometer(c.driver, c.extended), append(c.setUp[:len(c.setUp):len(c.setUp)], read, read))
		for range 2 { // the second reading needs no set-up
			if got, err := s.Temperature.Celsius(); err != nil || got != c.want {
				t.Errorf("%s %#04x: %v °C, %v; want %v °C", c.driver, c.raw, got, err, c.want)
			}
		}
	}
	if n < 23 {
		t.Fatalf("%d cases", n)
	}
}

func TestThermometersThatLie(t *testing.T) {
	n := 0
	for _, c := range []struct {
		driver, want string
		ops          []i2ctest.IO
	}{
		{"tmp102", "no TMP102: its configuration reads 0x00a0", []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0, 0xa0}}}},
		{"tmp102", "no TMP102: its configuration reads 0xffff", []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0xff, 0xff}}}},
		{"tmp102", "unused bits", []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0x60, 0xa0}}, {Addr: a, W: []byte{0}, R: []byte{0xff, 0xff}}}},
		{"tmp102", "unused bits", []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0x60, 0xa0}}, {Addr: a, W: []byte{0}, R: []byte{0x19, 0x02}}}},
		{"tmp102", "-128 °C is not within -55 °C", []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0x60, 0xa0}}, {Addr: a, W: []byte{0}, R: []byte{0x80, 0}}}},
		{"lm75", "-128 °C is not within -55 °C", []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0}}, {Addr: a, W: []byte{0}, R: []byte{0x80, 0}}}},
	} {
		n++
		_, err := on(t, thermometer(c.driver, false), c.ops).Temperature.Celsius()
		var absent Absent
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "0x48 of /dev/i2c-1") || errors.As(err, &absent) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if n < 6 {
		t.Fatalf("%d cases", n)
	}
}

// A chip in shutdown is woken; its other bits stay.
func TestShutdownEnds(t *testing.T) {
	s := on(t, thermometer("tmp102", false), []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0x6f, 0xa0}}, {Addr: a, W: []byte{1, 0x6e, 0xa0}},
		{Addr: a, W: []byte{0}, R: []byte{0x19, 0}}})
	if c, err := s.Temperature.Celsius(); err != nil || c != 25 {
		t.Error(c, err)
	}
	s = on(t, thermometer("lm75", false), []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0x19}}, {Addr: a, W: []byte{1, 0x18}},
		{Addr: a, W: []byte{0}, R: []byte{0x19, 0}}})
	if c, err := s.Temperature.Celsius(); err != nil || c != 25 {
		t.Error(c, err)
	}
}

func meter(shunt, current float64) board.Wiring {
	return board.Wiring{Power: &board.Sensor{Driver: "ina219", Bus: bus(1), Address: 0x40, Shunt: shunt, MaxCurrent: current}}
}

func TestINA219(t *testing.T) {
	n := 0
	for _, c := range []struct {
		shunt, current float64
		configuration  uint16
		calibration    uint16
		volts, amperes uint16
		want           Power
	}{
		// 0.1 Ω, 3.2 A: 320 mV; cal = trunc(0.04096 / (3.2/32768 · 0.1)) = trunc(4194.304) = 4194.
		{0.1, 3.2, 0x399f, 4194, 0x1f40 << 3 & 0xffff, 0, Power{32, 0}},
		{0.1, 3.2, 0x399f, 4194, 1250 << 3, 10240, Power{5, 10240 * 0.04096 / (4194 * 0.1)}},
		{0.1, 3.2, 0x399f, 4194, 1250<<3 | 2, 0xffff, Power{5, -0.04096 / (4194 * 0.1)}}, // conversion ready; backwards
		// 0.1 Ω, 0.4 A: 40 mV, gain 1; cal = trunc(33554.432), bit 0 is not used.
		{0.1, 0.4, 0x219f, 33554, 1250 << 3, 1, Power{5, 0.04096 / (33554 * 0.1)}},
		// 0.1 Ω, 1 A: 100 mV, gain 1/4; cal = trunc(13421.77), odd.
		{0.1, 1, 0x319f, 13420, 0, 0, Power{}},
		// 1 mΩ, 1 A: 1 mV has no calibration that small; the largest one is taken.
		{0.001, 1, 0x219f, 0xfffe, 1250 << 3, 100, Power{5, 100 * 0.04096 / (0xfffe * 0.001)}},
	} {
		n++
		b := func(v uint16) []byte { return []byte{byte(v >> 8), byte(v)} }
		w := func(reg byte, v uint16) i2ctest.IO { return i2ctest.IO{Addr: 0x40, W: append([]byte{reg}, b(v)...)} }
		r := func(reg byte, v uint16) i2ctest.IO { return i2ctest.IO{Addr: 0x40, W: []byte{reg}, R: b(v)} }
		s := on(t, meter(c.shunt, c.current), []i2ctest.IO{w(0, c.configuration), r(0, c.configuration), w(5, c.calibration),
			r(5, c.calibration), r(2, c.volts), r(4, c.amperes)})
		got, err := s.Power.Read()
		// The amperes of both sides differ by the rounding of three operations at most.
		if err != nil || got.Volts != c.want.Volts || !(math.Abs(got.Amperes-c.want.Amperes) <= 3*0x1p-53*math.Abs(c.want.Amperes)) {
			t.Errorf("%g Ω, %g A: %+v, %v; want %+v", c.shunt, c.current, got, err, c.want)
		}
	}
	if n < 6 {
		t.Fatalf("%d cases", n)
	}
	if _, err := Open(meter(0.1, 4), Options{}); err == nil || !strings.Contains(err.Error(), "above 0.32 V") {
		t.Errorf("0.4 V: %v", err)
	}
}

func TestINA219ThatLies(t *testing.T) {
	setUp := []i2ctest.IO{{Addr: 0x40, W: []byte{0, 0x39, 0x9f}}, {Addr: 0x40, W: []byte{0}, R: []byte{0x39, 0x9f}}, {Addr: 0x40, W: []byte{5, 0x10, 0x62}}}
	cal := i2ctest.IO{Addr: 0x40, W: []byte{5}, R: []byte{0x10, 0x62}}
	n := 0
	for _, c := range []struct {
		want string
		ops  []i2ctest.IO
	}{
		{"no INA219", []i2ctest.IO{setUp[0], {Addr: 0x40, W: []byte{0}, R: []byte{0, 0}}}},
		{"without power", append(setUp[:3:3], i2ctest.IO{Addr: 0x40, W: []byte{5}, R: []byte{0, 0}})},
		{"overflow", append(setUp[:3:3], cal, i2ctest.IO{Addr: 0x40, W: []byte{2}, R: []byte{0x27, 0x11}}, i2ctest.IO{Addr: 0x40, W: []byte{4}, R: []byte{0, 0}})},
		{"above 32 V", append(setUp[:3:3], cal, i2ctest.IO{Addr: 0x40, W: []byte{2}, R: []byte{0xff, 0xf8}}, i2ctest.IO{Addr: 0x40, W: []byte{4}, R: []byte{0, 0}})},
	} {
		n++
		if _, err := on(t, meter(0.1, 3.2), c.ops).Power.Read(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	if n < 4 {
		t.Fatalf("%d cases", n)
	}
}

// A chip that never answered is absent, one that stopped is broken; one that comes back is set up again. Played from the text
// that a recorder wrote, which is read back and is the same.
func TestAbsentBrokenBack(t *testing.T) {
	const traffic = `# a sensor that comes, goes and comes back
48 w 01 r 2 ! remote I/O error
48 w 01 r 60a0
48 w 00 r 1900
48 w 00 r 2 ! remote I/O error
48 w 01 r 60a0
48 w 00 r e700
`
	dir := t.TempDir()
	tape, copied := filepath.Join(dir, "tape"), filepath.Join(dir, "copy")
	if err := os.WriteFile(tape, []byte(traffic), 0o600); err != nil {
		t.Fatal(err)
	}
	play, err := PlaybackFile(tape)
	if err != nil {
		t.Fatal(err)
	}
	w := thermometer("tmp102", false)
	w.Temperature.Record = copied
	s, err := Open(w, Options{Bus: func(int) (i2c.BusCloser, error) { return play() }})
	if err != nil {
		t.Fatal(err)
	}
	clock := NewManual(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	p := Poller[float64]{Read: s.Temperature.Celsius, Every: time.Second, Slowest: 10 * time.Second, Clock: clock}
	p.Poll()
	if r := p.Last(); r.OK() || !strings.HasPrefix(r.Why(), "absent, because nothing answers: tmp102 at 0x48 of /dev/i2c-1") {
		t.Errorf("never answered: %q", r.Why())
	}
	p.Poll()
	if r := p.Last(); !r.OK() || r.Value != 25 {
		t.Errorf("there: %+v", r)
	}
	clock.Advance(time.Second)
	p.Poll()
	if r := p.Last(); r.OK() || r.Absent != "" || r.Err == nil || r.Value != 25 || r.At != 0 {
		t.Errorf("broken: %+v", r)
	}
	p.Poll()
	if r := p.Last(); !r.OK() || r.Value != -25 || r.At != time.Second {
		t.Errorf("back: %+v", r)
	}
	p.Poll()
	if r := p.Last(); r.Err == nil || !strings.Contains(r.Why(), "playback: ends after 6 transfers") {
		t.Errorf("end of the tape: %v", r.Err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(copied)
	if err != nil {
		t.Fatal(err)
	}
	_, want, _ := strings.Cut(traffic, "\n")
	if rest, ok := strings.CutPrefix(string(got), want); !ok || !strings.Contains(rest, "48 w 00 r 2 ! playback: ends") {
		t.Errorf("recorded:\n%s\nplayed:\n%s", got, want)
	}
	for _, bad := range []string{"zz w 01", "48 x 01", "48 w 0", "48 w", "48 r zz", "48 r 9999 ! no", " ! x"} {
		if _, err := ReadTraffic(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// What happened on an emulated board happens again.
func TestRecordedBoard(t *testing.T) {
	s, err := Open(board.Wiring{Temperature: &board.Sensor{Driver: "tmp105", Address: 0x48, Playback: "testdata/imx8mp-evk-tmp105.i2c"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []float64{36.5, 36.5, -10.5, 81} {
		if c, err := s.Temperature.Celsius(); err != nil || c != want {
			t.Errorf("%v °C, %v; want %v °C", c, err, want)
		}
	}
	if _, err := s.Temperature.Celsius(); err == nil || !strings.Contains(err.Error(), "ends after 6 transfers") {
		t.Errorf("after the end: %v", err)
	}
}

func TestBusThatIsNotThere(t *testing.T) {
	there := false
	s, err := Open(thermometer("lm75", false), Options{Bus: func(n int) (i2c.BusCloser, error) {
		if !there {
			return nil, Absent("/dev/i2c-1 does not exist")
		}
		return keepOpen{&i2ctest.Playback{Ops: []i2ctest.IO{{Addr: a, W: []byte{1}, R: []byte{0}}, {Addr: a, W: []byte{0}, R: []byte{0x19, 0}}}, DontPanic: true}}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	var absent Absent
	if _, err := s.Temperature.Celsius(); !errors.As(err, &absent) {
		t.Errorf("no bus: %v", err)
	}
	there = true
	if c, err := s.Temperature.Celsius(); err != nil || c != 25 {
		t.Errorf("bus came: %v, %v", c, err)
	}
	if _, err := s.Temperature.Celsius(); err == nil { // the playback has ended: the bus is closed
		t.Error("no error")
	}
	there = false
	if _, err := s.Temperature.Celsius(); err == nil || errors.As(err, &absent) || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("bus went: %v", err)
	}
}
