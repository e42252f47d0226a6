package experiment_test

import (
	"strings"
	"testing"

	"hypnos/bench/experiment"
	"hypnos/core/train"
)

// A run that sleeps below an SNR sleeps wherever it is below, and nowhere else: at a bound that is never reached, as often as one
// without a bound; at lower ones less often. (Never below 1e-300 but where a layer's weights have means of 0: its SNR is 0.)
func TestBelowSNR(t *testing.T) {
	sleeps := func(settings ...string) (at []int64) {
		c := tiny(t, append([]string{"network.name=resnet8-lc", "sleep.every=1", "sleep.count=steps"}, settings...)...)
		d, err := experiment.OpenData(c.Data, c.Seed)
		if err != nil {
			t.Fatal(err)
		}
		x, err := experiment.Open(c, d)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		x.Loop.Save = func(train.State) error { return nil }
		x.Loop.Observe = func(metric any) error {
			if s, is := metric.(train.Sleep); is {
				at = append(at, s.Step)
			}
			return nil
		}
		if _, err := x.Loop.Run(t.Context(), train.State{}); err != nil {
			t.Fatal(err)
		}
		return at
	}
	always, high, low, between := sleeps(), sleeps("sleep.below_snr=1e300"), sleeps("sleep.below_snr=1e-300"), sleeps("sleep.below_snr=10")
	if len(always) < 4 || len(high) != len(always) || len(low) > len(between) {
		t.Errorf("%d sleeps without a bound, %d below 1e300, %d below 1e-300", len(always), len(high), len(low))
	}
	if len(between) == 0 || len(between) >= len(always) || between[0] != 1 {
		t.Errorf("below 10 it sleeps after steps %v, without a bound after %v", between, always)
	}
	if c := tiny(t, "sleep.below_snr=2.5"); !strings.Contains(c.Text(), "below_snr = 2.5") {
		t.Error("the configuration does not keep it")
	}
}
