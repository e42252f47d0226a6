package sleep

import (
	"fmt"
	"slices"
	"strings"
)

// Execution is how a run of events is computed. All give the same result but for rounding.
type Execution string

// The executions.
const (
	Auto      Execution = ""          // the cheapest by the cost model
	Direct    Execution = "direct"    // event by event, all neurons of a group together: the definition
	Streaming Execution = "streaming" // neuron by neuron, its weights read once and written once
	DenseMap  Execution = "map"       // one (M, M) map for all neurons that see the same patterns
	Factored  Execution = "factored"  // the same map as I + XᵀY, of the rank of the patterns
)

// Executions lists those that can be forced.
func Executions() []Execution { return []Execution{Direct, Streaming, DenseMap, Factored} }

func (e Execution) String() string {
	if e == Auto {
		return "auto"
	}
	return string(e)
}

// MarshalText writes the name used in configurations.
func (e Execution) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads "auto" or the name of an execution.
func (e *Execution) UnmarshalText(text []byte) error {
	x := Execution(text)
	if x == "auto" {
		x = Auto
	}
	if x != Auto && !slices.Contains(Executions(), x) {
		var names []string
		for _, k := range Executions() {
			names = append(names, string(k))
		}
		return fmt.Errorf("sleep: unknown execution %q (known: auto, %s)", text, strings.Join(names, ", "))
	}
	*e = x
	return nil
}

// Cost is an estimate of what the run of one layer takes.
type Cost struct {
	Prepare float64 // operations (multiply-adds) before a weight is touched, once a layer
	Apply   float64 // operations on weights
	Bytes   float64 // weights, and what belongs to each, read and written
	Memory  float64 // bytes held for patterns and maps
}

// total weighs a byte like a multiply-add: a core that does 10⁹ to 10¹¹ of these a second moves about 10¹⁰ bytes.
// Executions differ by factors where it matters.
func (c Cost) total() float64 { return c.Prepare + c.Apply + c.Bytes }

// Size is what the cost of a layer's run depends on.
type Size struct {
	Neurons   int // that sleep, all groups together
	M         int // weights a neuron, bias included
	Events    int // T
	Batch     int // B patterns an event; R = T·B
	Sets      int // different sets of patterns: the channel groups of the layer
	Steps     int // Euler steps an event, 1 for a rule without time
	WordBytes int // of a weight
}

// Cost counts, with R = T·B patterns of M numbers:
//
//	direct     N·T·(2BM + 4M), circuit N·T·steps·5M     bytes: weight, start and velocity, every event
//	streaming  N·T·(2BM + 4M)                           bytes: every weight once in and once out
//	map        N·M²        after 5·T·M² + R·M²·2, or from the factors in R²M + R·M²
//	factored   N·2RM       after R²M
func (s Size) Cost(e Execution) Cost {
	n, m, t, r, q := float64(s.Neurons), float64(s.M), float64(s.Events), float64(s.Events)*float64(s.Batch), float64(s.Sets)
	word := float64(s.WordBytes)
	scalar := q * t * float64(s.Steps-1) * 40 // a circuit's presentations: 40 operations a step
	once := 2 * n * m * word
	patterns := 8 * q * r * m
	switch e {
	case Direct:
		return Cost{Apply: n * (2*r*m + 4*t*m*float64(s.Steps)), Bytes: 5 * n * t * m * word, Memory: patterns}
	case Streaming:
		return Cost{Prepare: scalar, Apply: n * (2*r*m + 4*t*m), Bytes: once, Memory: patterns}
	case DenseMap:
		return Cost{Prepare: scalar + q*min(s.recurrence(), s.factors()+r*m*m), Apply: n * m * m, Bytes: once, Memory: 8 * q * 3 * m * m}
	case Factored:
		return Cost{Prepare: scalar + q*s.factors(), Apply: n * 2 * r * m, Bytes: once, Memory: 2 * patterns}
	}
	panic("sleep: no cost of execution " + e.String())
}

// recurrence is what the dense map costs event by event, factors what its factors cost.
func (s Size) recurrence() float64 {
	m, t := float64(s.M), float64(s.Events)
	return (2*float64(s.Batch) + 3) * t * m * m
}

func (s Size) factors() float64 {
	r := float64(s.Events) * float64(s.Batch)
	return r * r * float64(s.M)
}

// patternMemory is how many bytes of patterns are held at most; where there are more they are drawn anew whenever they
// are needed, and executions that need them all together are not chosen.
const patternMemory = 64 << 20

// forcedMemory is how many bytes of patterns an execution may hold that was not chosen by the cost model.
const forcedMemory = 1 << 30

// Choose picks the cheapest execution.
func (s Size) Choose() Execution {
	best := Direct
	for _, e := range []Execution{Streaming, DenseMap, Factored} {
		if e != DenseMap && s.Cost(e).Memory > patternMemory {
			continue
		}
		if s.Cost(e).total() < s.Cost(best).total() {
			best = e
		}
	}
	return best
}
