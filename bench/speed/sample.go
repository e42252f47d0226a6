package speed

import (
	"context"
	"slices"
	"time"
)

// Spread is the median of a set of measurements and their extremes.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	N      int     `json:"n"` // measurements
}

// spreadOf needs at least one measurement; the median of an even number is the mean of the middle two.
func spreadOf(xs []float64) Spread {
	s := slices.Sorted(slices.Values(xs))
	n := len(s)
	return Spread{Median: (s[(n-1)/2] + s[n/2]) / 2, Min: s[0], Max: s[n-1], N: n}
}

// per is what is reached when amount is done in the measured seconds: the shortest time gives the largest rate.
func (s Spread) per(amount float64) Spread {
	return Spread{Median: amount / s.Median, Min: amount / s.Max, Max: amount / s.Min, N: s.N}
}

const (
	// minSamples is how many samples of anything are taken, whatever the budget.
	minSamples = 3
	// sampleTime is about how long a sample lasts; what is shorter is repeated within it, so that the clock's
	// resolution and the waking of the workers do not count.
	sampleTime = 5 * time.Millisecond
)

// measure times the given functions in alternation, A B A B, until the budget for each of them is spent, and returns
// the seconds a call of each in the order in which they were taken. Each is called before each of its samples,
// unmeasured, so that the caches hold what they hold when it runs again and again.
func measure(ctx context.Context, budget time.Duration, fs ...func()) ([][]float64, error) {
	times, repeat := make([][]float64, len(fs)), make([]int, len(fs))
	for i, f := range fs {
		f()
		repeat[i] = max(1, int(sampleTime/max(1, timed(1, f))))
	}
	for start := time.Now(); len(times[0]) < minSamples || time.Since(start) < budget*time.Duration(len(fs)); {
		for i, f := range fs {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if len(fs) > 1 {
				f()
			}
			times[i] = append(times[i], timed(repeat[i], f).Seconds()/float64(repeat[i]))
		}
	}
	return times, nil
}

func timed(n int, f func()) time.Duration {
	start := time.Now()
	for range n {
		f()
	}
	return time.Since(start)
}

// ratios are a[i]/b[i], pair by pair.
func ratios(a, b []float64) []float64 {
	r := make([]float64, min(len(a), len(b)))
	for i := range r {
		r[i] = a[i] / b[i]
	}
	return r
}
