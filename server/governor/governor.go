// Package governor decides when a network on a board sleeps, and when it must not.
//
// It is a state machine without a clock, a log or a device: everything that it knows is in Inputs, and the same inputs in the
// same state give the same decision. Who owns it calls Decide whenever something happened (a request, a step, an edge, a
// reading, the end of a sleep), and no later than Decision.Next, and does what the decision says.
package governor

import (
	"fmt"
	"math"
	"strings"
	"time"

	"hypnos/board/device"
)

// State is what the network is in.
type State string

const (
	Awake  State = "awake"
	Drowsy State = "drowsy" // a sleep is due, and put off
	Asleep State = "asleep"
)

// Action is what is to be done now.
type Action string

const (
	None   Action = "none"
	Start  Action = "start"
	Stop   Action = "stop"
	Resume Action = "resume" // go on from the token of the sleep that was stopped
)

// Code is a reason for programs: metrics, tests.
type Code string

const (
	CodeStarted     Code = "started"     // the governor is new
	CodeDone        Code = "done"        // slept to the end
	CodeNotDue      Code = "not_due"     // what the sleep was due for has passed
	CodeAsked       Code = "asked"       // sleep was asked for
	CodeUnfinished  Code = "unfinished"  // a sleep was stopped, and goes on
	CodeNight       Code = "night"       // a night window
	CodeSteps       Code = "steps"       // enough wake steps
	CodeSNR         Code = "snr"         // weights have diverged
	CodeIdle        Code = "idle"        // nobody asks for anything
	CodeWoken       Code = "woken"       // it was woken
	CodeRequest     Code = "request"     // a request came in
	CodeTemperature Code = "temperature" // too hot, or nobody knows
	CodeSupply      Code = "supply"      // too low, or nobody knows
	CodeInterval    Code = "interval"    // too soon after the last sleep
	CodeFailed      Code = "failed"      // the last sleep failed
)

// Order is what a user, or a pin, may ask for.
type Order string

const (
	OrderSleep Order = "sleep"
	OrderWake  Order = "wake"
)

// Request is an order and where it is from.
type Request struct {
	Order  Order
	Source string // "api", "pin"
}

// Layer is the signal-to-noise ratio of a layer's weights. NaN, of a layer without a signal, is never a reason to sleep.
type Layer struct {
	Name string
	SNR  float64
}

// Never is a duration since what has not happened.
const Never = time.Duration(math.MaxInt64)

// Inputs is everything that is known.
type Inputs struct {
	Now  time.Time     // wall time, for windows of the night; it may jump
	Mono time.Duration // monotonic, for intervals; since the daemon's start

	StepsSinceSleep int64         // wake steps since the last sleep that ended
	SinceRequest    time.Duration // monotonic, since the last classification or learning step was asked for; or Never
	SinceSleep      time.Duration // monotonic, since a sleep last ended; or Never
	SNR             []Layer       // as last measured; may be empty

	Temperature device.Reading[float64]      // °C
	Supply      device.Reading[device.Power] // V, A

	Requests   []Request // since the last decision, the oldest first
	Sleeping   bool      // a sleep runs: true from the decision that starts it on, until it has ended or stopped
	Unfinished bool      // a sleep was stopped, and its token is kept
	Failure    string    // why the last sleep failed; empty when it did not
}

// Decision is what is so, what to do, and why.
type Decision struct {
	State  State         `json:"state"`
	Action Action        `json:"action"`
	Code   Code          `json:"code"`
	Reason string        `json:"reason"` // one line, never empty
	Next   time.Duration `json:"next"`   // of the monotonic clock: decide again then, at the latest
}

// maxWait is how long a decision holds while awake: the wall clock may jump into a night.
const maxWait = time.Minute

type why struct {
	code Code
	text string
}

// Governor is the state machine. Use New.
type Governor struct {
	config   Config
	location *time.Location

	state    State
	why      why           // of the state
	cause    why           // of the sleep that runs or is unfinished
	asked    why           // sleep was asked for, and is still owed; no code when not
	askedAt  time.Duration // monotonic
	woken    why           // it was woken a short time ago; no code when not
	wokenAt  time.Duration // monotonic
	failed   why           // the last sleep failed; no code when not
	failedAt time.Duration // monotonic
	night    time.Time     // start of the last window in which a sleep ended
	running  bool          // a sleep ran at the last decision
	stopping bool          // it was to stop
	hot, low bool          // with hysteresis
}

// New returns a governor that is awake.
func New(c Config) (*Governor, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	location, err := c.location()
	if err != nil {
		return nil, fmt.Errorf("governor: zone: %w", err)
	}
	return &Governor{config: c, location: location, state: Awake, why: why{CodeStarted, "started"}}, nil
}

// Decide returns what to do now. State and Code change only for a reason; the text of a reason may hold a reading that is newer.
func (g *Governor) Decide(in Inputs) Decision {
	g.listen(in)
	g.feel(in)
	action := None
	if g.running && !in.Sleeping {
		g.ended(in)
	}
	switch {
	case !in.Sleeping:
		action = g.rest(in)
	case g.stopping: // nothing is to be done before it has stopped
	default:
		if !g.running {
			g.cause = why{CodeAsked, "begun without being asked"}
			g.state, g.why = Asleep, g.cause
		}
		g.running = true
		if w, stop := g.mustStop(in); stop {
			g.state, g.why, g.stopping, action = Drowsy, w, true, Stop
		}
	}
	return Decision{g.state, action, g.why.code, g.why.text, in.Mono + g.wait(in)}
}

// listen takes what was asked for.
func (g *Governor) listen(in Inputs) {
	if in.Mono-g.wokenAt >= g.config.StayAwake {
		g.woken = why{}
	}
	for _, r := range in.Requests {
		switch r.Order {
		case OrderSleep:
			g.asked, g.askedAt = why{CodeAsked, "asked for by " + r.Source}, in.Mono
			g.woken, g.failed = why{}, why{}
		case OrderWake:
			g.woken, g.wokenAt = why{CodeWoken, "woken by " + r.Source}, in.Mono
			g.asked = why{}
			if g.state == Awake {
				g.why = g.woken
			}
		}
	}
}

// feel keeps whether it is too hot and whether the supply is too low.
func (g *Governor) feel(in Inputs) {
	c := g.config
	if t, ok := held(in.Temperature, in.Mono, c.SensorGrace); ok {
		g.hot = !(t < c.MaxTemperature) || g.hot && !(t <= c.MaxTemperature-c.TemperatureHysteresis)
	}
	if p, ok := held(in.Supply, in.Mono, c.SensorGrace); ok {
		g.low = !(p.Volts > c.MinSupply) || g.low && !(p.Volts >= c.MinSupply+c.SupplyHysteresis)
	}
}

// held returns a value that is not older than grace, whether its sensor fails or hangs.
func held[T any](r device.Reading[T], now, grace time.Duration) (T, bool) {
	return r.Value, r.Known && now-r.At <= grace
}

// unknown says why there is no value.
func unknown[T any](what string, r device.Reading[T]) string {
	if why := r.Why(); why != "" {
		return what + " unknown: " + why
	}
	return what + " unknown: its sensor hangs"
}

// ended notes how a sleep ended. It may have reached its end although it was to stop.
func (g *Governor) ended(in Inputs) {
	g.running, g.stopping = false, false
	switch {
	case in.Failure != "":
		g.failed, g.failedAt = why{CodeFailed, "sleep failed: " + in.Failure}, in.Mono
		g.asked = why{}
		g.state, g.why = Awake, g.failed
	case in.Unfinished:
	default:
		g.asked, g.cause, g.failed = why{}, why{}, why{}
		g.state, g.why = Awake, why{CodeDone, "slept to the end"}
		if start, isNight := g.window(in.Now); isNight {
			g.night = start
		}
	}
}

// rest decides while no sleep runs.
func (g *Governor) rest(in Inputs) Action {
	due, is := g.due(in)
	if !is {
		if g.state != Awake {
			g.state = Awake
			if g.why.code != CodeNotDue {
				g.why = why{CodeNotDue, "no reason to sleep any more"}
			}
		}
		return None
	}
	if w, put := g.putOff(in, due); put {
		g.state, g.why = Drowsy, w
		return None
	}
	action := Start
	if in.Unfinished {
		action = Resume
	}
	switch {
	case due.code != CodeUnfinished:
		g.cause = due
	case g.cause.code == "":
		g.cause = why{CodeUnfinished, "begun before the start"}
	}
	g.state, g.why, g.running = Asleep, due, true
	return action
}

// due tells what there is to sleep for.
func (g *Governor) due(in Inputs) (why, bool) {
	c := g.config
	night, isNight := g.window(in.Now)
	switch {
	case g.asked.code != "":
		return g.asked, true
	case in.Unfinished && (isNight || g.cause.code != CodeNight):
		return why{CodeUnfinished, strings.TrimSuffix("unfinished, "+g.cause.text, ", ")}, true
	case in.StepsSinceSleep <= 0: // nothing was learned since
		return why{}, false
	case isNight && !night.Equal(g.night):
		return why{CodeNight, "night since " + night.Format("15:04")}, true
	case c.AfterSteps > 0 && in.StepsSinceSleep >= c.AfterSteps:
		return why{CodeSteps, fmt.Sprintf("%d wake steps, sleeps after %d", in.StepsSinceSleep, c.AfterSteps)}, true
	}
	for _, l := range in.SNR {
		if l.SNR < c.MinSNR {
			return why{CodeSNR, fmt.Sprintf("SNR %.3g of layer %s, at least %.3g", l.SNR, l.Name, c.MinSNR)}, true
		}
	}
	if c.Idle > 0 && idle(in) >= c.Idle {
		return why{CodeIdle, fmt.Sprintf("no request for %v", c.Idle)}, true
	}
	return why{}, false
}

// idle is the time without a request; the daemon's start counts as one.
func idle(in Inputs) time.Duration { return min(in.SinceRequest, in.Mono) }

// window returns the start of the night window that now is in.
func (g *Governor) window(now time.Time) (start time.Time, in bool) {
	for _, w := range g.config.Night {
		if start, in = w.at(now.In(g.location)); in {
			return start, true
		}
	}
	return time.Time{}, false
}

// putOff tells why a sleep that is due does not begin.
func (g *Governor) putOff(in Inputs, due why) (why, bool) {
	if w, must := g.forbidden(in); must {
		return w, true
	}
	c := g.config
	switch {
	case g.failed.code != "" && in.Mono-g.failedAt < c.Retry:
		return g.failed, true
	case due.code != CodeAsked && due.code != CodeUnfinished && in.SinceSleep < c.MinInterval:
		return why{CodeInterval, fmt.Sprintf("slept less than %v ago", c.MinInterval)}, true
	}
	return why{}, false
}

// mustStop tells why a sleep that runs stops.
func (g *Governor) mustStop(in Inputs) (why, bool) {
	if w, must := g.forbidden(in); must {
		return w, true
	}
	if _, isNight := g.window(in.Now); g.cause.code == CodeNight && !isNight {
		w, other := g.due(in)
		if !other {
			return why{CodeNotDue, "the night is over"}, true
		}
		g.cause, g.why = w, w
	}
	return why{}, false
}

// forbidden tells why there must be no sleep now, due or not.
func (g *Governor) forbidden(in Inputs) (why, bool) {
	c := g.config
	if c.MaxTemperature != 0 && in.Temperature.Absent == "" {
		t, ok := held(in.Temperature, in.Mono, c.SensorGrace)
		switch {
		case !ok:
			return why{CodeTemperature, unknown("temperature", in.Temperature)}, true
		case g.hot:
			return why{CodeTemperature, fmt.Sprintf("%.1f °C, too hot from %.1f °C on, cool again at %.1f °C",
				t, c.MaxTemperature, c.MaxTemperature-c.TemperatureHysteresis)}, true
		}
	}
	if c.MinSupply != 0 && in.Supply.Absent == "" {
		p, ok := held(in.Supply, in.Mono, c.SensorGrace)
		switch {
		case !ok:
			return why{CodeSupply, unknown("supply", in.Supply)}, true
		case g.low:
			return why{CodeSupply, fmt.Sprintf("%.2f V, too low from %.2f V on, good again at %.2f V",
				p.Volts, c.MinSupply, c.MinSupply+c.SupplyHysteresis)}, true
		}
	}
	if g.woken.code != "" {
		return g.woken, true
	}
	// A request before sleep was asked for does not keep awake who asks.
	if in.SinceRequest < c.WakeHold && (g.asked.code == "" || in.SinceRequest < in.Mono-g.askedAt) {
		return why{CodeRequest, fmt.Sprintf("a request less than %v ago", c.WakeHold)}, true
	}
	return why{}, false
}

// wait is how long the decision holds.
func (g *Governor) wait(in Inputs) time.Duration {
	c := g.config
	if g.state != Awake || in.Sleeping {
		return c.Latency
	}
	wait := maxWait
	if left := c.Idle - idle(in); c.Idle > 0 && left > 0 {
		wait = min(wait, left)
	}
	return wait
}

// Light is how a state is shown: awake steady, drowsy blinking, asleep dark but alive.
func (s State) Light() device.Pattern {
	switch s {
	case Awake:
		return device.Steady
	case Drowsy:
		return device.SlowBlink
	case Asleep:
		return device.Breath
	}
	return device.Off
}
