package sleep

import (
	"fmt"
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

// Stream is the phase that the spec describes; border, seed and number are the caller's. Settings that are out of
// range are refused.
func (s Spec) Stream() (Stream, error) {
	var err error
	stream := Stream{Events: s.Events, Execution: s.Execution}
	if stream.Source, err = ParseSource(s.Source); err != nil {
		return stream, err
	}
	rate := Rate{Base: s.Rate, Decay: Decay(s.Decay), Tau: s.DecayTime}
	switch s.Rule {
	case Observe{}.Kind():
		stream.Rule = Observe{}
	case Instant{}.Kind():
		stream.Rule = Instant{}
	case Hebbian{}.Kind():
		stream.Rule = Hebbian{Gamma: s.Gamma, Momentum: s.Momentum, Rate: rate, Batch: s.Batch, Noise: s.Noise}
	case Circuit{}.Kind():
		stream.Rule = Circuit{
			Gamma: s.Gamma, Alpha: s.Alpha, B: DefaultCircuit().B, Tau: s.Tau, Dt: s.Dt, Presentation: s.Presentation,
			Settle: s.Settle, Rate: rate, Momentum: s.Momentum, MeanPreserving: s.MeanPreserving,
		}
	default:
		return stream, fmt.Errorf("sleep: unknown rule %q (known: %s)", s.Rule, strings.Join(Kinds(), ", "))
	}
	if r, ok := stream.Rule.(plastic); ok {
		if s.Events < 1 {
			return stream, fmt.Errorf("sleep: %s: %d events a grid are below 1", s.Rule, s.Events)
		}
		return stream, r.Check()
	}
	return stream, nil
}
