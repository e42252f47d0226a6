package sleep

import (
	"fmt"
	"math"
)

// Count is what a Schedule counts.
type Count uint8

const (
	// CountBatches counts as the authors do: sleep follows a batch whose index in its epoch, from 0, is a multiple of
	// n. The first batch of every epoch is one. With the 98 batches of CIFAR-10 ws(100) sleeps once an epoch, after
	// the first batch, and the evaluation sees 97 steps without sleep.
	CountBatches Count = iota
	// CountSteps counts optimiser steps from 1 over all epochs: sleep follows step n, 2n, …
	CountSteps
)

func (c Count) String() string {
	if c == CountSteps {
		return "steps"
	}
	return "batches"
}

// MarshalText writes the name used in configurations.
func (c Count) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads "batches" or "steps".
func (c *Count) UnmarshalText(text []byte) error {
	switch string(text) {
	case "batches":
		*c = CountBatches
	case "steps":
		*c = CountSteps
	default:
		return fmt.Errorf("sleep: unknown count %q (known: batches, steps)", text)
	}
	return nil
}

// Schedule says when a network sleeps during training.
type Schedule struct {
	Every      int   // n of the paper's ws(n); 0 means never
	Count      Count // what n counts
	BeforeEval bool  // sleep before every evaluation too
	// BelowSNR, when above 0, has the network sleep only when its SNR is below (Report.SNR: Eq. 6, the layers' geometric mean), and look
	// as often as it else would sleep. The sleep before an evaluation does not depend on it.
	BelowSNR float64
}

// Check returns an error when n or the SNR is out of range.
func (s Schedule) Check() error {
	if s.Every < 0 {
		return fmt.Errorf("sleep: sleep every %d is below 0", s.Every)
	}
	if !(s.BelowSNR >= 0) || math.IsInf(s.BelowSNR, 1) {
		return fmt.Errorf("sleep: sleep below an SNR of %g, which is no number from 0", s.BelowSNR)
	}
	return nil
}

// Due tells whether the network sleeps after a step: batch is the index of the step's batch in its epoch, from 0;
// step counts optimiser steps from 1.
func (s Schedule) Due(batch int, step int64) bool {
	if s.Every < 1 {
		return false
	}
	if s.Count == CountSteps {
		return step%int64(s.Every) == 0
	}
	return batch%s.Every == 0
}
