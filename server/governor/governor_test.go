package governor

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests know zones on systems that do not

	"github.com/BurntSushi/toml"

	"hypnos/board/device"
)

// day is a scripted board: what it feels, and a sleep of a length that can be stopped and gone on with.
type day struct {
	t      *testing.T
	g      *Governor
	wall   time.Time
	mono   time.Duration
	sleeps time.Duration // how long a whole sleep takes

	steps       int64
	request     time.Duration // when the last one was; -1: never
	slept       time.Duration // when the last sleep ended; -1: never
	temperature device.Reading[float64]
	supply      device.Reading[device.Power]
	snr         []Layer
	orders      []Request
	hang        bool // readings come no more

	sleeping bool
	slow     time.Duration // how long a sleep takes to stop
	stopAt   time.Duration // when it has, while stopping; 0: not stopping
	left     time.Duration // of the sleep that runs or is unfinished; 0: none
	failure  string
	fail     string // how the next sleep fails
	last     Decision
	log      []string
}

func newDay(t *testing.T, c Config, wall time.Time) *day {
	t.Helper()
	g, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	d := &day{t: t, g: g, wall: wall, sleeps: 10 * time.Minute, request: -1, slept: -1}
	d.feels(40, 5)
	return d
}

func (d *day) feels(celsius, volts float64) {
	d.temperature = device.Reading[float64]{Value: celsius, At: d.mono, Known: true}
	d.supply = device.Reading[device.Power]{Value: device.Power{Volts: volts}, At: d.mono, Known: true}
}

func since(now, then time.Duration) time.Duration {
	if then < 0 {
		return Never
	}
	return now - then
}

// decide asks the governor and does what it says, as the daemon does.
func (d *day) decide() Decision {
	in := Inputs{Now: d.wall, Mono: d.mono, StepsSinceSleep: d.steps, SinceRequest: since(d.mono, d.request), SinceSleep: since(d.mono, d.slept),
		SNR: d.snr, Temperature: d.temperature, Supply: d.supply, Requests: d.orders, Sleeping: d.sleeping, Unfinished: !d.sleeping && d.left > 0, Failure: d.failure}
	d.orders = nil
	got := d.g.Decide(in)
	if got.Reason == "" || got.Code == "" || strings.Contains(got.Reason, "\n") {
		d.t.Fatalf("%v: no reason: %+v", d.mono, got)
	}
	if got.Next <= d.mono {
		d.t.Fatalf("%v: to decide again at %v", d.mono, got.Next)
	}
	if got.State != d.last.State || got.Action != None || got.Code != d.last.Code {
		d.log = append(d.log, fmt.Sprintf("%s %s/%s %s: %s", d.wall.Format("15:04:05"), got.State, got.Action, got.Code, got.Reason))
	}
	switch got.Action {
	case Start, Resume:
		if d.sleeping {
			d.t.Fatalf("%v: %s while a sleep runs", d.mono, got.Action)
		}
		if (got.Action == Resume) != (d.left > 0) {
			d.t.Fatalf("%v: %s with %v left", d.mono, got.Action, d.left)
		}
		if d.left == 0 {
			d.left = d.sleeps
		}
		d.sleeping, d.failure = true, ""
	case Stop:
		if !d.sleeping {
			d.t.Fatalf("%v: stop without a sleep", d.mono)
		}
		if d.stopAt = d.mono + d.slow; d.slow == 0 {
			d.sleeping, d.stopAt = false, 0
		}
	}
	d.last = got
	return got
}

// pass lets time pass, up to the next decision at the most, and decides.
func (d *day) pass(t time.Duration) Decision {
	for end := d.mono + t; ; {
		step := min(end-d.mono, max(d.last.Next-d.mono, time.Millisecond))
		if d.sleeping {
			step = min(step, d.left)
			if d.stopAt > 0 {
				step = min(step, d.stopAt-d.mono)
			}
		}
		d.mono, d.wall = d.mono+step, d.wall.Add(step)
		if d.temperature.OK() && !d.hang {
			d.temperature.At = d.mono
		}
		if d.supply.OK() {
			d.supply.At = d.mono
		}
		if d.sleeping {
			d.left -= step
			switch {
			case d.fail != "":
				d.sleeping, d.stopAt, d.failure, d.left, d.fail = false, 0, d.fail, 0, ""
			case d.left == 0:
				d.sleeping, d.stopAt, d.steps, d.slept = false, 0, 0, d.mono
			case d.stopAt > 0 && d.mono >= d.stopAt:
				d.sleeping, d.stopAt = false, 0
			}
		}
		got := d.decide()
		if d.mono >= end {
			return got
		}
	}
}

func (d *day) want(state State, code Code) {
	d.t.Helper()
	if d.last.State != state || d.last.Code != code {
		d.t.Errorf("%s: %s, %s (%s); want %s, %s; so far:\n%s", d.wall.Format(time.DateTime), d.last.State, d.last.Code, d.last.Reason, state, code, strings.Join(d.log, "\n"))
	}
}

func at(t *testing.T, zone, text string) time.Time {
	t.Helper()
	loc, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	wall, err := time.ParseInLocation("2006-01-02 15:04", text, loc)
	if err != nil {
		t.Fatal(err)
	}
	return wall
}

func night(text string) Window {
	var w Window
	if err := w.UnmarshalText([]byte(text)); err != nil {
		panic(err)
	}
	return w
}

// dayConfig limits everything.
func dayConfig() Config {
	c := Default()
	c.Zone, c.AfterSteps, c.Idle, c.MinSNR = "Europe/Paris", 1000, time.Hour, 2
	c.MaxTemperature, c.MinSupply = 80, 4.7
	return c
}

// A day on a board: a sleep by night across midnight, a hot noon, a dip of the supply, a wake edge in the middle of a sleep.
func TestDay(t *testing.T) {
	c := dayConfig()
	c.Idle = 0
	d := newDay(t, c, at(t, "Europe/Paris", "2026-06-01 20:00"))
	d.decide()
	d.want(Awake, CodeStarted)

	d.steps = 10
	d.pass(2*time.Hour - time.Minute)
	d.want(Awake, CodeStarted)
	d.pass(3 * time.Minute) // 22:02
	d.want(Asleep, CodeNight)
	d.pass(10 * time.Minute)
	d.want(Awake, CodeDone)
	d.steps = 20
	d.pass(3 * time.Hour) // one sleep a night, also after midnight
	d.want(Awake, CodeDone)

	d.pass(11 * time.Hour) // noon; enough was learned, but it is hot
	d.steps = 1000
	d.feels(80, 5)
	d.pass(time.Second)
	d.want(Drowsy, CodeTemperature)
	d.feels(76, 5) // within the hysteresis
	d.pass(time.Minute)
	d.want(Drowsy, CodeTemperature)
	d.feels(75, 5)
	d.pass(time.Second)
	d.want(Asleep, CodeSteps)

	d.pass(time.Minute) // it warms up by sleeping
	d.feels(81, 5)
	d.decide()
	d.want(Drowsy, CodeTemperature)
	if d.last.Action != Stop || d.sleeping {
		t.Errorf("%+v", d.last)
	}
	left := d.left
	d.feels(70, 5)
	d.pass(time.Second)
	d.want(Asleep, CodeUnfinished)
	if d.last.Action != Resume || d.left != left {
		t.Errorf("%v left, was %v: %+v", d.left, left, d.last)
	}

	d.pass(time.Minute) // the supply dips
	d.feels(70, 4.7)
	d.decide()
	d.want(Drowsy, CodeSupply)
	d.feels(70, 4.75)
	d.pass(time.Minute)
	d.want(Drowsy, CodeSupply)
	d.feels(70, 4.8)
	d.pass(time.Second)
	d.want(Asleep, CodeUnfinished)

	d.pass(time.Minute) // somebody asks for something
	d.request = d.mono
	d.decide()
	d.want(Drowsy, CodeRequest)
	d.pass(c.WakeHold - 1)
	d.want(Drowsy, CodeRequest)
	d.pass(1)
	d.want(Asleep, CodeUnfinished)

	d.pass(time.Minute) // the wake edge
	d.orders = []Request{{OrderWake, "pin"}}
	d.decide()
	d.want(Drowsy, CodeWoken)
	if d.last.Reason != "woken by pin" {
		t.Error(d.last.Reason)
	}
	d.pass(c.StayAwake - 1)
	d.want(Drowsy, CodeWoken)
	d.pass(1)
	d.want(Asleep, CodeUnfinished)
	d.pass(d.left)
	d.want(Awake, CodeDone)
	if d.steps != 0 {
		t.Error("the sleep did not end")
	}
	total := time.Duration(0)
	for range d.log {
		total++
	}
	if total > 20 { // it does not flap
		t.Errorf("%d changes:\n%s", total, strings.Join(d.log, "\n"))
	}
}

// Reasons to sleep, one by one, and what keeps each of them away.
func TestReasons(t *testing.T) {
	n := 0
	for _, c := range []struct {
		name  string
		set   func(*day, *Config)
		wait  time.Duration
		state State
		code  Code
	}{
		{"nothing", func(d *day, c *Config) {}, 24 * time.Hour, Awake, CodeStarted},
		{"night", func(d *day, c *Config) { c.Night = []Window{night("12:30-13:00")}; d.steps = 1 }, 31 * time.Minute, Asleep, CodeNight},
		{"night, nothing learned", func(d *day, c *Config) { c.Night = []Window{night("12:30-13:00")} }, 31 * time.Minute, Awake, CodeStarted},
		{"night of another day", func(d *day, c *Config) { c.Night = []Window{night("tue,sun 12:30-13:00")}; d.steps = 1 }, 31 * time.Minute, Awake, CodeStarted},
		{"steps", func(d *day, c *Config) { c.AfterSteps = 10; d.steps = 10 }, 0, Asleep, CodeSteps},
		{"too few steps", func(d *day, c *Config) { c.AfterSteps = 10; d.steps = 9 }, 24 * time.Hour, Awake, CodeStarted},
		{"idle since the start", func(d *day, c *Config) { c.Idle = time.Hour; d.steps = 1 }, time.Hour, Asleep, CodeIdle},
		{"not idle for long enough", func(d *day, c *Config) { c.Idle = time.Hour; d.steps = 1 }, time.Hour - 1, Awake, CodeStarted},
		{"idle after a request", func(d *day, c *Config) { c.Idle = time.Hour; d.steps, d.request = 1, 0 }, time.Hour, Asleep, CodeIdle},
		{"idle, nothing learned", func(d *day, c *Config) { c.Idle = time.Hour }, 2 * time.Hour, Awake, CodeStarted},
		{"SNR", func(d *day, c *Config) { c.MinSNR = 2; d.steps, d.snr = 1, []Layer{{"a", 3}, {"b", 1.9}} }, 0, Asleep, CodeSNR},
		{"good SNR", func(d *day, c *Config) { c.MinSNR = 2; d.steps, d.snr = 1, []Layer{{"a", 2}} }, time.Hour, Awake, CodeStarted},
		{"asked", func(d *day, c *Config) { d.orders = []Request{{OrderSleep, "api"}} }, 0, Asleep, CodeAsked},
		{"asked, after a request", func(d *day, c *Config) { d.request = 0; d.orders = []Request{{OrderSleep, "api"}} }, 0, Asleep, CodeAsked},
		{"asked, then woken", func(d *day, c *Config) { d.orders = []Request{{OrderSleep, "api"}, {OrderWake, "pin"}} }, 0, Awake, CodeWoken},
		{"woken, then asked", func(d *day, c *Config) { d.orders = []Request{{OrderWake, "pin"}, {OrderSleep, "api"}} }, 0, Asleep, CodeAsked},
		{"woken: no sleep by itself", func(d *day, c *Config) { c.AfterSteps = 10; d.steps = 10; d.orders = []Request{{OrderWake, "pin"}} }, 9 * time.Minute, Drowsy, CodeWoken},
		{"woken: later it sleeps", func(d *day, c *Config) { c.AfterSteps = 10; d.steps = 10; d.orders = []Request{{OrderWake, "pin"}} }, 10 * time.Minute, Asleep, CodeSteps},
		{"after a restart, unfinished", func(d *day, c *Config) { d.left = time.Minute * 5 }, 0, Asleep, CodeUnfinished},
		{"too soon", func(d *day, c *Config) { c.AfterSteps = 10; d.steps, d.slept = 10, 0 }, 9 * time.Minute, Drowsy, CodeInterval},
		{"soon enough", func(d *day, c *Config) { c.AfterSteps = 10; d.steps, d.slept = 10, 0 }, 10 * time.Minute, Asleep, CodeSteps},
		{"asked too soon", func(d *day, c *Config) { d.slept = 0; d.orders = []Request{{OrderSleep, "api"}} }, 0, Asleep, CodeAsked},
		{"thermometer absent", func(d *day, c *Config) {
			c.MaxTemperature, d.temperature = 80, device.Reading[float64]{Absent: "no"}
			d.orders = []Request{{OrderSleep, "api"}}
		}, 0, Asleep, CodeAsked},
		{"thermometer broken from the start", func(d *day, c *Config) {
			c.MaxTemperature, d.temperature = 80, device.Reading[float64]{Err: errors.New("stuck")}
			d.orders = []Request{{OrderSleep, "api"}}
		}, time.Hour, Drowsy, CodeTemperature},
		{"thermometer not read yet", func(d *day, c *Config) {
			c.MaxTemperature, d.temperature = 80, device.Reading[float64]{}
			d.orders = []Request{{OrderSleep, "api"}}
		}, 0, Drowsy, CodeTemperature},
		{"thermometer just broken", func(d *day, c *Config) {
			c.MaxTemperature, d.temperature = 80, device.Reading[float64]{Value: 40, Known: true, Err: errors.New("stuck")}
			d.orders = []Request{{OrderSleep, "api"}}
		}, 30 * time.Second, Asleep, CodeAsked},
		{"thermometer broken for long", func(d *day, c *Config) {
			c.MaxTemperature, d.temperature = 80, device.Reading[float64]{Value: 40, Known: true, Err: errors.New("stuck")}
			d.orders = []Request{{OrderSleep, "api"}}
		}, 31 * time.Second, Drowsy, CodeTemperature},
		{"thermometer hangs", func(d *day, c *Config) {
			c.MaxTemperature, d.hang = 80, true
			d.orders = []Request{{OrderSleep, "api"}}
		}, 31 * time.Second, Drowsy, CodeTemperature},
		{"meter broken", func(d *day, c *Config) {
			c.MinSupply, d.supply = 4.7, device.Reading[device.Power]{Err: errors.New("stuck")}
			d.orders = []Request{{OrderSleep, "api"}}
		}, 0, Drowsy, CodeSupply},
		{"a thermometer without a limit may be broken", func(d *day, c *Config) {
			d.temperature = device.Reading[float64]{Err: errors.New("stuck")}
			d.orders = []Request{{OrderSleep, "api"}}
		}, 0, Asleep, CodeAsked},
	} {
		n++
		config := Default()
		config.Night, config.Zone = nil, "UTC"
		d := newDay(t, config, at(t, "UTC", "2026-06-01 12:00")) // a Monday
		d.sleeps = 24 * time.Hour
		c.set(d, &config)
		g, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		d.g = g
		d.decide()
		if c.wait > 0 {
			d.pass(c.wait)
		}
		if d.last.State != c.state || d.last.Code != c.code {
			t.Errorf("%s: %s, %s (%s); want %s, %s", c.name, d.last.State, d.last.Code, d.last.Reason, c.state, c.code)
		}
	}
	if n < 30 {
		t.Fatalf("%d cases", n)
	}
}

// A sleep by night stops when the night is over and goes on in the next one, or at once when there is another reason.
func TestNightIsOver(t *testing.T) {
	c := Default()
	c.Night, c.Zone = []Window{night("22:00-23:00")}, "UTC"
	d := newDay(t, c, at(t, "UTC", "2026-06-01 21:59"))
	d.sleeps, d.steps = 90*time.Minute, 1
	d.decide()
	d.pass(2 * time.Minute)
	d.want(Asleep, CodeNight)
	d.pass(time.Hour)
	d.want(Awake, CodeNotDue)
	if d.last.Reason != "the night is over" {
		t.Error(d.last.Reason)
	}
	d.pass(24 * time.Hour)
	d.want(Awake, CodeDone)
	if d.steps != 0 || d.slept < 0 {
		t.Error("the sleep was not gone on with")
	}
	d.steps = 1
	d.pass(22 * time.Hour) // 21:01; the next night but one has begun at the end
	d.pass(time.Hour)
	d.want(Asleep, CodeNight)
	d.orders = []Request{{OrderSleep, "api"}}
	d.pass(time.Hour)
	d.want(Asleep, CodeAsked)
}

// The wall clock jumps: a night is entered and left by wall time, one sleep each, intervals go on as they were.
func TestClockJumps(t *testing.T) {
	c := Default()
	c.Night, c.Zone, c.Idle = []Window{night("22:00-06:00")}, "UTC", time.Hour
	d := newDay(t, c, at(t, "UTC", "2026-06-01 12:00"))
	d.steps = 1
	d.decide()
	d.wall = d.wall.Add(10 * time.Hour) // 22:00
	d.pass(time.Minute)
	d.want(Asleep, CodeNight)
	d.pass(time.Minute)
	d.wall = d.wall.Add(-10 * time.Hour) // by day again
	d.pass(time.Second)
	d.want(Drowsy, CodeNotDue)
	d.pass(time.Second)
	d.want(Awake, CodeNotDue)
	d.wall = d.wall.Add(10 * time.Hour)
	d.pass(time.Minute)
	d.want(Asleep, CodeUnfinished)
	d.pass(d.left)
	d.want(Awake, CodeDone)
	d.steps, d.request = 1, d.mono
	d.wall = d.wall.Add(-30 * time.Minute)
	d.pass(time.Second)
	d.wall = d.wall.Add(time.Hour) // the same night
	d.pass(59 * time.Minute)
	d.want(Awake, CodeDone)
	d.pass(time.Minute) // an hour after the request by the monotonic clock, whatever the wall clock says
	d.want(Asleep, CodeIdle)
}

func TestWindows(t *testing.T) {
	n := 0
	for _, c := range []struct{ window, zone, now, start string }{
		{"22:00-06:00", "UTC", "2026-06-01 21:59", ""}, {"22:00-06:00", "UTC", "2026-06-01 22:00", "2026-06-01 22:00"},
		{"22:00-06:00", "UTC", "2026-06-02 00:00", "2026-06-01 22:00"}, {"22:00-06:00", "UTC", "2026-06-02 05:59", "2026-06-01 22:00"},
		{"22:00-06:00", "UTC", "2026-06-02 06:00", ""}, {"01:00-02:00", "UTC", "2026-06-02 01:30", "2026-06-02 01:00"},
		{"01:00-02:00", "UTC", "2026-06-02 02:00", ""}, {"22:00-06:00", "UTC", "2026-03-01 03:00", "2026-02-28 22:00"},
		{"22:00-06:00", "UTC", "2027-01-01 03:00", "2026-12-31 22:00"},
		{"fri,sat 22:00-06:00", "UTC", "2026-06-07 03:00", "2026-06-06 22:00"}, // Sunday morning, of Saturday's night
		{"fri,sat 22:00-06:00", "UTC", "2026-06-07 23:00", ""}, {"sun 22:00-06:00", "UTC", "2026-06-08 03:00", "2026-06-07 22:00"},
		// Paris: 2 h become 3 h on 29 March 2026, 3 h become 2 h on 25 October.
		{"22:00-06:00", "Europe/Paris", "2026-03-29 03:30", "2026-03-28 22:00"}, {"22:00-06:00", "Europe/Paris", "2026-03-29 05:59", "2026-03-28 22:00"},
		{"22:00-06:00", "Europe/Paris", "2026-03-29 06:00", ""}, {"22:00-06:00", "Europe/Paris", "2026-10-25 05:59", "2026-10-24 22:00"},
		{"22:00-06:00", "Europe/Paris", "2026-10-25 06:00", ""},
	} {
		n++
		w := night(c.window)
		start, in := w.at(at(t, c.zone, c.now))
		if in != (c.start != "") || in && !start.Equal(at(t, c.zone, c.start)) {
			t.Errorf("%s of %s: %v, since %v; want %q", c.now, c.window, in, start, c.start)
		}
		if w.String() != c.window {
			t.Errorf("%q is written as %q", c.window, w)
		}
	}
	if n < 17 {
		t.Fatalf("%d cases", n)
	}
	// The night in which clocks change is an hour shorter or longer, and one night.
	for _, c := range []struct {
		eve   string
		hours int
	}{{"2026-03-28 12:00", 7}, {"2026-06-01 12:00", 8}, {"2026-10-24 12:00", 9}} {
		in, starts := 0, map[int64]bool{}
		for m := range 24 * 60 {
			if start, is := night("22:00-06:00").at(at(t, "Europe/Paris", c.eve).Add(time.Duration(m) * time.Minute)); is {
				in++
				starts[start.Unix()] = true
			}
		}
		if in != c.hours*60 || len(starts) != 1 {
			t.Errorf("night after %s: %d minutes, %d starts", c.eve, in, len(starts))
		}
	}
	for _, bad := range []string{"", "22:00", "22:00-22:00", "22:00-25:00", "22-6", "mon", "caturday 22:00-06:00", "mon,tue", "22:00 - 06:00"} {
		var w Window
		if err := w.UnmarshalText([]byte(bad)); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// In the night in which an hour comes twice, there is one sleep.
func TestDaylightSaving(t *testing.T) {
	for _, eve := range []string{"2026-03-28 21:00", "2026-10-24 21:00"} {
		c := Default()
		c.Zone = "Europe/Paris"
		d := newDay(t, c, at(t, c.Zone, eve))
		d.decide()
		starts := 0
		for range 12 * 60 {
			d.steps++ // it goes on learning
			if before := d.sleeping; d.pass(time.Minute).State == Asleep && !before {
				starts++
			}
		}
		if starts != 1 {
			t.Errorf("%d sleeps in the night after %s:\n%s", starts, eve, strings.Join(d.log, "\n"))
		}
	}
}

// A sleep that was left by the program's last run goes on, also after it was interrupted again.
func TestRestart(t *testing.T) {
	d := newDay(t, Default(), at(t, "UTC", "2026-06-01 12:00"))
	d.left = time.Minute
	d.decide()
	d.want(Asleep, CodeUnfinished)
	d.request = d.mono
	d.decide()
	d.want(Drowsy, CodeRequest)
	d.pass(10 * time.Second)
	d.want(Asleep, CodeUnfinished)
	if d.last.Action != Resume || d.last.Reason != "unfinished, begun before the start" {
		t.Errorf("%+v", d.last)
	}
	d.pass(time.Minute)
	d.want(Awake, CodeDone)
}

func TestStopsSlowly(t *testing.T) {
	c := Default()
	c.Night, c.Zone = nil, "UTC"
	d := newDay(t, c, at(t, "UTC", "2026-06-01 12:00"))
	d.slow = 5 * time.Second
	d.orders = []Request{{OrderSleep, "api"}}
	d.decide()
	d.pass(time.Minute)
	d.orders = []Request{{OrderWake, "api"}}
	if got := d.decide(); got.Action != Stop {
		t.Errorf("%+v", got)
	}
	if got := d.decide(); got.Action != None || got.Code != CodeWoken { // it is told once
		t.Errorf("%+v", got)
	}
	d.orders = []Request{{OrderSleep, "api"}} // before it has stopped
	if got := d.decide(); got.Action != None || got.State != Drowsy {
		t.Errorf("%+v", got)
	}
	d.pass(5 * time.Second)
	d.want(Asleep, CodeAsked)
	if d.last.Action != Resume {
		t.Errorf("%+v", d.last)
	}
	// Stopped by its owner, for a request, before the governor knew: it goes on after the hold.
	d.sleeping, d.request = false, d.mono+time.Second
	d.pass(time.Second)
	d.want(Drowsy, CodeRequest)
	d.pass(c.WakeHold)
	d.want(Asleep, CodeAsked)
	// It ends although it was to stop.
	d.left = time.Second
	d.orders = []Request{{OrderWake, "api"}}
	d.decide()
	d.pass(2 * time.Second)
	d.want(Awake, CodeDone)
}

func TestFailures(t *testing.T) {
	c := Default()
	c.Night, c.Zone, c.AfterSteps, c.MinInterval = nil, "UTC", 1, 0
	d := newDay(t, c, at(t, "UTC", "2026-06-01 12:00"))
	d.steps, d.fail = 1, "no space left"
	d.decide()
	d.want(Asleep, CodeSteps)
	d.pass(time.Second)
	d.want(Drowsy, CodeFailed)
	if d.last.Reason != "sleep failed: no space left" {
		t.Error(d.last.Reason)
	}
	d.pass(c.Retry - time.Second)
	d.want(Drowsy, CodeFailed)
	d.pass(time.Second)
	d.want(Asleep, CodeSteps)
	d.pass(d.left)
	d.want(Awake, CodeDone)
	d.fail, d.orders = "no space left", []Request{{OrderSleep, "api"}}
	d.decide()
	d.pass(time.Second)
	d.want(Awake, CodeFailed) // who asked for it is told; it is not tried for ever
	d.pass(time.Hour)
	d.want(Awake, CodeFailed)
	for range 2 { // who asks again does not wait
		d.fail, d.orders = "no space left", []Request{{OrderSleep, "api"}}
		d.decide()
		d.want(Asleep, CodeAsked)
		d.pass(time.Second)
	}
}

// The next decision is due before anything can become due by the passing of time.
func TestNext(t *testing.T) {
	c := Default()
	c.Night, c.Zone, c.Idle = nil, "UTC", 70*time.Second
	d := newDay(t, c, at(t, "UTC", "2026-06-01 12:00"))
	d.steps = 1
	if got := d.decide(); got.Next != time.Minute {
		t.Errorf("awake: %+v", got)
	}
	d.mono = time.Minute
	if got := d.decide(); got.Next != 70*time.Second {
		t.Errorf("soon idle: %+v", got)
	}
	d.mono = 70 * time.Second
	if got := d.decide(); got.State != Asleep || got.Next != d.mono+c.Latency {
		t.Errorf("asleep: %+v", got)
	}
	d.orders = []Request{{OrderWake, "pin"}}
	if got := d.decide(); got.State != Drowsy || got.Next != d.mono+c.Latency {
		t.Errorf("drowsy: %+v", got)
	}
	for s, p := range map[State]device.Pattern{Awake: device.Steady, Drowsy: device.SlowBlink, Asleep: device.Breath, "": device.Off} {
		if s.Light() != p {
			t.Errorf("%s shows %s", s, s.Light())
		}
	}
}

// Over random inputs: no sleep above the temperature or below the supply for longer than the latency; every change has a reason
// (decide looks); a sleep that was started ends or is gone on with; it goes on only after the hysteresis.
func TestRandomInputs(t *testing.T) {
	sequences := 10_000
	if testing.Short() { // the race detector makes them slow
		sequences = 1000
	}
	const seed = 20261125
	t.Logf("seed %d", seed)
	starts, stops, resumes, ends := 0, 0, 0, 0
	for i := range sequences {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		c := dayConfig()
		c.Zone, c.Latency = "UTC", time.Duration(300+r.IntN(3000))*time.Millisecond
		c.AfterSteps, c.Idle = int64(r.IntN(20)), time.Duration(r.IntN(60))*time.Second
		c.WakeHold, c.StayAwake = time.Duration(1+r.IntN(20))*time.Second, time.Duration(r.IntN(30))*time.Second
		c.MinInterval = time.Duration(r.IntN(60)) * time.Second
		d := newDay(t, c, time.Date(2026, 6, 1, r.IntN(24), r.IntN(60), 0, 0, time.UTC))
		d.sleeps, d.slow = time.Duration(1+r.IntN(60))*time.Second, 0
		d.decide()
		var bad time.Duration // since when it was too hot, or low, while asleep
		hot, cooled := false, true
		celsius, volts := 60.0, 5.0
		for range 30 {
			switch r.IntN(8) {
			case 0, 1:
				celsius = 60 + 30*r.Float64()
			case 2:
				volts = 4.5 + r.Float64()/2
			case 3:
				d.request = d.mono
			case 4:
				d.orders = append(d.orders, Request{OrderSleep, "api"})
			case 5:
				d.orders = append(d.orders, Request{OrderWake, "pin"})
			case 6:
				d.wall = d.wall.Add(time.Duration(r.IntN(48)-24) * time.Hour)
			case 7:
				d.fail = []string{"", "", "", "broken"}[r.IntN(4)]
			}
			d.steps += int64(r.IntN(4))
			d.feels(celsius, volts)
			if !(celsius < c.MaxTemperature) {
				hot, cooled = true, false
			}
			if celsius <= c.MaxTemperature-c.TemperatureHysteresis {
				cooled = true
			}
			// The daemon decides no later than it was told to; the reading came at any time before.
			bad = d.mono
			for wait := time.Duration(r.IntN(12_000)) * time.Millisecond; ; {
				step := min(wait, d.last.Next-d.mono)
				before := d.sleeping
				got := d.pass(max(step, 1))
				switch got.Action {
				case Start:
					starts++
				case Stop:
					stops++
				case Resume:
					resumes++
				}
				if before && !d.sleeping && d.left == 0 && d.failure == "" {
					ends++
				}
				forbidden := !(celsius < c.MaxTemperature) || !(volts > c.MinSupply)
				if forbidden && before && d.mono-bad > c.Latency { // it slept until this decision
					t.Fatalf("sequence %d of seed %d: asleep at %.1f °C, %.2f V for %v", i, seed, celsius, volts, d.mono-bad)
				}
				if (got.Action == Start || got.Action == Resume) && (forbidden || hot && !cooled) {
					t.Fatalf("sequence %d of seed %d: %s at %.1f °C, %.2f V, cooled: %v", i, seed, got.Action, celsius, volts, cooled)
				}
				if cooled {
					hot = false
				}
				if got.State == Asleep != d.sleeping && got.Action != Stop {
					t.Fatalf("sequence %d of seed %d: %s, but a sleep runs: %v", i, seed, got.State, d.sleeping)
				}
				if wait -= step; wait <= 0 {
					break
				}
			}
		}
		// Left in peace, in the cool, an unfinished sleep ends. One of the night goes on by night.
		d.fail = ""
		d.feels(20, 5)
		if d.left > 0 {
			d.wall = time.Date(2026, 6, 1, 22, 0, 0, 0, time.UTC)
			d.pass(c.StayAwake + c.WakeHold + c.Retry + maxWait + d.left)
			if d.left > 0 {
				t.Fatalf("sequence %d of seed %d: a sleep is left unfinished: %+v\n%s", i, seed, d.last, strings.Join(d.log, "\n"))
			}
		}
	}
	t.Logf("%d sequences: %d starts, %d stops, %d resumed, %d ended", sequences, starts, stops, resumes, ends)
	if starts == 0 || stops == 0 || resumes == 0 || ends == 0 {
		t.Fatal("the sequences miss an action")
	}
}

func TestConfig(t *testing.T) {
	c := Default()
	const text = `
night = ["22:00-06:00", "sat,sun 13:00-15:00"]
zone = "Europe/Paris"
after_steps = 512
idle = "30m"
min_snr = 4.0
max_temperature = 80.0
min_supply = 4.7
`
	m, err := toml.Decode(text, &c)
	if err != nil || len(m.Undecoded()) > 0 {
		t.Fatal(err, m.Undecoded())
	}
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	if len(c.Night) != 2 || c.Night[1].Days != 1<<time.Saturday|1<<time.Sunday || c.Idle != 30*time.Minute || c.WakeHold != 10*time.Second {
		t.Errorf("%+v", c)
	}
	n := 0
	for _, bad := range []struct {
		set  func(*Config)
		want string
	}{
		{func(c *Config) { c.Idle = -1 }, "idle:"}, {func(c *Config) { c.WakeHold = 0 }, "wake_hold: must be above 0"},
		{func(c *Config) { c.SensorGrace = 0 }, "sensor_grace: must be above 0"},
		{func(c *Config) { c.Latency = 0 }, "latency: must be above 0"}, {func(c *Config) { c.Retry = 0 }, "retry:"},
		{func(c *Config) { c.MinSNR = -1 }, "min_snr:"}, {func(c *Config) { c.MaxTemperature = nan() }, "max_temperature: NaN"},
		{func(c *Config) { c.TemperatureHysteresis = 0 }, "temperature_hysteresis:"}, {func(c *Config) { c.SupplyHysteresis = 0 }, "supply_hysteresis:"},
		{func(c *Config) { c.AfterSteps = -1 }, "after_steps:"}, {func(c *Config) { c.Zone = "Mars/Olympus" }, "zone:"},
		{func(c *Config) { c.Night = []Window{{}} }, "night: window 1 is empty"},
		{func(c *Config) { c.Idle, c.AfterSteps = -1, -1 }, "idle: -1ns is below 0; after_steps: -1 is below 0"},
	} {
		n++
		c := dayConfig()
		bad.set(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want %q", err, bad.want)
		}
	}
	if n < 13 {
		t.Fatalf("%d cases", n)
	}
}

func nan() float64 { zero := 0.0; return zero / zero }
