package sleep

import (
	"encoding/json"
	"math"
)

// Stats tells how regular weights are: how alike within their groups. mean and var are those of one weight (one
// input of one group) over the group's N neurons; the averages run over all weights of all groups with at least two
// neurons. A layer of equal weights has SNR +Inf.
type Stats struct {
	Groups int // groups with at least two neurons
	// SNR is the average of mean²/var: Eq. 6.
	SNR float64
	// InverseRatio is the average of var/mean²: what the authors' simulation plots. It is not 1/SNR.
	InverseRatio float64
	// AbsRatio is the average of |mean|/std over neurons inside the border: what the authors' training logs.
	AbsRatio float64
}

// LnInverseSNR is ln(1/SNR), the axis of the paper's Fig. 4; -Inf for equal weights.
func (s Stats) LnInverseSNR() float64 { return -math.Log(s.SNR) }

// MarshalJSON writes an infinite value, for which JSON has no number, as null; "equal" tells that the weights of
// every group are equal.
func (s Stats) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Groups       int      `json:"groups"`
		SNR          *float64 `json:"snr"`
		LnInverseSNR *float64 `json:"ln_inv_snr"`
		InverseRatio *float64 `json:"var_over_mean2"`
		AbsRatio     *float64 `json:"abs_mean_over_std"`
		Equal        bool     `json:"equal"`
	}{s.Groups, Finite(s.SNR), Finite(s.LnInverseSNR()), Finite(s.InverseRatio), Finite(s.AbsRatio), s.Groups > 0 && s.InverseRatio == 0}) // one equal weight makes SNR infinite
}

// UnmarshalJSON reads what MarshalJSON wrote. A null ratio of a measured layer is infinite.
func (s *Stats) UnmarshalJSON(text []byte) error {
	var v struct {
		Groups       int      `json:"groups"`
		SNR          *float64 `json:"snr"`
		InverseRatio *float64 `json:"var_over_mean2"`
		AbsRatio     *float64 `json:"abs_mean_over_std"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	infinite := func(p *float64) float64 {
		switch {
		case p != nil:
			return *p
		case v.Groups == 0:
			return math.NaN()
		}
		return math.Inf(1)
	}
	*s = Stats{v.Groups, infinite(v.SNR), infinite(v.InverseRatio), infinite(v.AbsRatio)}
	return nil
}

// Finite returns a pointer to v, or nil when v is infinite or not a number: a value that JSON can hold.
func Finite(v float64) *float64 {
	if math.IsInf(v, 0) || math.IsNaN(v) {
		return nil
	}
	return &v
}

// StatsSum accumulates Stats, weight by weight.
type StatsSum struct {
	groups               int
	all, inner           int
	snr, inverse, absSNR float64
}

// AddGroups counts groups that have at least two neurons.
func (s *StatsSum) AddGroups(n int) { s.groups += n }

// Add takes the mean and variance of one weight over its group. Without variance a ratio is infinite, whatever the
// mean.
func (s *StatsSum) Add(mean, variance float64) {
	s.all++
	s.snr += ratio(mean*mean, variance)
	if variance > 0 {
		s.inverse += variance / (mean * mean)
	} else if variance != 0 { // NaN
		s.inverse += variance
	}
}

// AddInner takes the mean and variance of one weight over the neurons of its group inside the border.
func (s *StatsSum) AddInner(mean, variance float64) {
	s.inner++
	s.absSNR += ratio(math.Abs(mean), math.Sqrt(variance))
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return math.Inf(1)
	}
	return a / b
}

// Merge adds what another sum has accumulated.
func (s *StatsSum) Merge(t StatsSum) {
	s.groups += t.groups
	s.all += t.all
	s.inner += t.inner
	s.snr += t.snr
	s.inverse += t.inverse
	s.absSNR += t.absSNR
}

// Stats are the averages. Without any group SNR is NaN: there is nothing to compare.
func (s *StatsSum) Stats() Stats {
	return Stats{
		Groups:       s.groups,
		SNR:          s.snr / float64(s.all),
		InverseRatio: s.inverse / float64(s.all),
		AbsRatio:     s.absSNR / float64(s.inner),
	}
}

// Preservation tells what a sleep did to the group means: w̄ after against w̄0 before. Eq. 4 keeps them exactly; other
// rules and roundings may not, and SNR alone cannot show it.
type Preservation struct {
	Ratio float64 `json:"ratio"` // (w̄·w̄0)/(w̄0·w̄0) over all groups of a layer; 1 is kept, 0.5 is halved
	Error float64 `json:"error"` // ‖w̄ - w̄0‖ / ‖w̄0‖
}

// PreservationSum accumulates Preservation, weight by weight.
type PreservationSum struct{ cross, before2, diff2 float64 }

// Add takes the mean of one weight over its group before and after.
func (s *PreservationSum) Add(before, after float64) {
	s.cross += before * after
	s.before2 += before * before
	s.diff2 += (after - before) * (after - before)
}

// AddSums takes the means of many weights: Σ before·after, Σ before² and Σ (after-before)².
func (s *PreservationSum) AddSums(cross, before2, diff2 float64) {
	s.cross += cross
	s.before2 += before2
	s.diff2 += diff2
}

// Merge adds what another sum has accumulated.
func (s *PreservationSum) Merge(t PreservationSum) {
	s.cross += t.cross
	s.before2 += t.before2
	s.diff2 += t.diff2
}

// Preservation is the result. Means that were all zero and stayed so are kept.
func (s *PreservationSum) Preservation() Preservation {
	if s.before2 == 0 && s.diff2 == 0 {
		return Preservation{Ratio: 1}
	}
	return Preservation{Ratio: s.cross / s.before2, Error: math.Sqrt(s.diff2 / s.before2)}
}

// Moments returns mean and variance (divided by N, Eq. 6) over the positions of a grid for the weight j of a channel.
// w are the layer's weights (Hout, Wout, N, K). Both are computed around the first member's weight, so that equal
// weights give a variance of exactly 0.
func Moments(w []float64, l Layer, positions []int, channel, j int) (mean, variance float64) {
	at := func(p int) float64 { return w[(p*l.Out.C+channel)*l.K+j] }
	first := at(positions[0])
	var d1, d2 float64
	for _, p := range positions {
		d := at(p) - first
		d1 += d
		d2 += d * d
	}
	return Central(first, d1, d2, len(positions))
}

// Central turns the sums of the deviations d = w - first and of their squares over n weights into mean and variance.
func Central(first, d1, d2 float64, n int) (mean, variance float64) {
	d1 /= float64(n)
	return first + d1, math.Max(0, d2/float64(n)-d1*d1)
}

// Measure computes the Stats of a layer's weights (Hout, Wout, N, K) under a border policy: the definition.
func Measure(w []float64, l Layer, b Border) Stats {
	var s StatsSum
	inner := l.Grids(BorderRests)
	for i, g := range l.Grids(b) {
		for channel := range l.Out.C {
			if len(g.Positions) >= 2 {
				s.AddGroups(1)
				for j := range l.K {
					s.Add(Moments(w, l, g.Positions, channel, j))
				}
			}
			if len(inner[i].Positions) >= 2 {
				for j := range l.K {
					s.AddInner(Moments(w, l, inner[i].Positions, channel, j))
				}
			}
		}
	}
	return s.Stats()
}
