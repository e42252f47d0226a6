package sleep

import (
	"fmt"
	"slices"
	"strings"
)

// Spec is a phase as configurations and flags write it.
type Spec struct {
	Rule           string  // "observe", "instant", "hebbian" or "circuit"
	Source         string  // see ParseSource
	Events         int     // a grid
	Gamma          float64 // γ of hebbian and circuit
	Momentum       float64
	Rate           float64 // 0 chooses it for each layer
	Decay          string  // of the rate: "constant", "inverse" or "root"
	DecayTime      float64 // in events (hebbian) or ms (circuit)
	Batch          int     // hebbian: patterns an event
	Noise          float64 // hebbian: σ of each neuron's own noise on the pattern
	Alpha          float64 // circuit: strength of inhibition
	Tau            float64 // circuit: ms
	Dt             float64 // circuit: Euler step, ms
	Presentation   float64 // circuit: of a pattern, ms
	Settle         float64 // circuit: without plasticity at the start, ms
	MeanPreserving bool    // circuit
	Execution      Execution
}

// DefaultSpec is instant sharing; the settings of the other rules are those that suit any layer.
func DefaultSpec() Spec {
	c := DefaultCircuit()
	return Spec{
		Rule: Instant{}.Kind(), Source: Gaussian{}.Kind(), Events: 100, Gamma: 1e-3, Decay: string(DecayNone), DecayTime: 1000,
		Batch: 1, Alpha: c.Alpha, Tau: c.Tau, Dt: c.Dt, Presentation: c.Presentation, Settle: c.Settle, MeanPreserving: true,
	}
}

// Kinds lists the rules.
func Kinds() []string {
	var kinds []string
	for _, r := range []Rule{Observe{}, Instant{}, Hebbian{}, Circuit{}} {
		kinds = append(kinds, r.Kind())
	}
	return kinds
}

// SettingError is a setting out of range.
type SettingError struct {
	Rule    string // whose setting it is; "" is the phase's own
	Key     string // its name in configurations: "gamma"
	Problem string // with the value: "-1 is not …"
}

func (e *SettingError) Error() string {
	if e.Rule == "" {
		return fmt.Sprintf("sleep: %s %s", e.Key, e.Problem)
	}
	return fmt.Sprintf("sleep: %s: %s %s", e.Rule, e.Key, e.Problem)
}

func outOfRange(rule, key, format string, args ...any) error {
	return &SettingError{rule, key, fmt.Sprintf(format, args...)}
}

func checkEvents(rule string, n int) error {
	if n < 1 {
		return outOfRange(rule, "events", "%d are below 1 a grid", n)
	}
	return nil
}

// Stream is the phase that the spec describes; border, seed and number are the caller's. Settings that are out of
// range are refused by a SettingError, those of rules that are not chosen, too: a bad value is a mistake, and would
// come to light only with the rule.
func (s Spec) Stream() (Stream, error) {
	var err error
	stream := Stream{Events: s.Events, Execution: s.Execution}
	if stream.Source, err = ParseSource(s.Source); err != nil {
		return stream, err
	}
	rate := Rate{Base: s.Rate, Decay: Decay(s.Decay), Tau: s.DecayTime}
	rules := []Rule{
		Observe{}, Instant{},
		Hebbian{Gamma: s.Gamma, Momentum: s.Momentum, Rate: rate, Batch: s.Batch, Noise: s.Noise},
		Circuit{
			Gamma: s.Gamma, Alpha: s.Alpha, B: DefaultCircuit().B, Tau: s.Tau, Dt: s.Dt, Presentation: s.Presentation,
			Settle: s.Settle, Rate: rate, Momentum: s.Momentum, MeanPreserving: s.MeanPreserving,
		},
	}
	chosen := slices.IndexFunc(rules, func(r Rule) bool { return r.Kind() == s.Rule })
	if chosen < 0 {
		return stream, outOfRange("", "rule", "%q is unknown (known: %s)", s.Rule, strings.Join(Kinds(), ", "))
	}
	stream.Rule = rules[chosen]
	for _, r := range append([]Rule{stream.Rule}, rules...) { // the chosen rule's faults before the others'
		if r, ok := r.(plastic); ok {
			if err := r.Check(); err != nil {
				return stream, err
			}
		}
	}
	return stream, checkEvents(s.Rule, s.Events)
}
