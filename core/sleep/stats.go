package sleep

import (
	"encoding/json"
	"math"
)

// Stats tells how regular weights are: how alike within their groups. mean and var are those of one weight (one
// input of one group) over the group's N neurons; the averages run over the weights of all groups with at least two
// neurons.
//
// Eq. 6 has no value for a weight that is the same in its whole group, var = 0: literally, one of them makes the
// average infinite, whatever the others are. Weights of dead inputs are such once they have been shared, since no
// gradient moves them apart again. They are counted by themselves, and SNR and AbsRatio average those that differ:
// how alike is what can be told apart. Only a layer all of whose weights are equal has SNR +Inf.
type Stats struct {
	Groups  int // groups with at least two neurons
	Weights int // of these groups, one for all neurons of a group: what SNR and InverseRatio are about
	Equal   int // of Weights, those with var = 0
	// SNR is the average of mean²/var over the weights that are not equal: Eq. 6.
	SNR float64
	// InverseRatio is the average of var/mean² over all weights, equal ones being 0: what the authors' simulation
	// plots. It is not 1/SNR.
	InverseRatio float64
	// AbsRatio is the average of |mean|/std over neurons inside the border: what the authors' training logs.
	AbsRatio float64
}

// AllEqual tells whether there are groups and all weights of all of them are equal.
func (s Stats) AllEqual() bool { return s.Equal > 0 && s.Equal == s.Weights }

// LnInverseSNR is ln(1/SNR), the axis of the paper's Fig. 4; -Inf for equal weights.
func (s Stats) LnInverseSNR() float64 { return -math.Log(s.SNR) }

// MarshalJSON writes an infinite value, for which JSON has no number, as null; "equal" tells that the weights of
// every group are equal.
func (s Stats) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Groups       int      `json:"groups"`
		Weights      int      `json:"weights"`
		EqualWeights int      `json:"equal_weights"`
		SNR          *float64 `json:"snr"`
		LnInverseSNR *float64 `json:"ln_inv_snr"`
		InverseRatio *float64 `json:"var_over_mean2"`
		AbsRatio     *float64 `json:"abs_mean_over_std"`
		Equal        bool     `json:"equal"`
	}{s.Groups, s.Weights, s.Equal, Finite(s.SNR), Finite(s.LnInverseSNR()), Finite(s.InverseRatio), Finite(s.AbsRatio), s.AllEqual()})
}

// UnmarshalJSON reads what MarshalJSON wrote. A null ratio of a measured layer is infinite.
func (s *Stats) UnmarshalJSON(text []byte) error {
	var v struct {
		Groups       int      `json:"groups"`
		Weights      int      `json:"weights"`
		EqualWeights int      `json:"equal_weights"`
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
	*s = Stats{
		Groups: v.Groups, Weights: v.Weights, Equal: v.EqualWeights,
		SNR: infinite(v.SNR), InverseRatio: infinite(v.InverseRatio), AbsRatio: infinite(v.AbsRatio),
	}
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
	groups   int
	snr, abs ratioSum
	inverse  float64 // var/mean²
}

// ratioSum sums the ratios of the weights that are not equal.
type ratioSum struct {
	weights, equal int
	sum            float64
}

// add takes a weight's ratio a/b, where b = 0 is that of equal weights.
func (s *ratioSum) add(a, b float64) {
	s.weights++
	if b == 0 {
		s.equal++
		return
	}
	s.sum += a / b
}

func (s *ratioSum) merge(t ratioSum) {
	s.weights += t.weights
	s.equal += t.equal
	s.sum += t.sum
}

// average is NaN without weights and +Inf when all are equal.
func (s *ratioSum) average() float64 {
	if s.equal > 0 && s.equal == s.weights {
		return math.Inf(1)
	}
	return s.sum / float64(s.weights-s.equal)
}

// AddGroups counts groups that have at least two neurons.
func (s *StatsSum) AddGroups(n int) { s.groups += n }

// Add takes the mean and variance of one weight over its group.
func (s *StatsSum) Add(mean, variance float64) {
	s.snr.add(mean*mean, variance)
	if variance != 0 { // 0 also where the mean is 0
		s.inverse += variance / (mean * mean)
	}
}

// AddInner takes the mean and variance of one weight over the neurons of its group inside the border.
func (s *StatsSum) AddInner(mean, variance float64) {
	s.abs.add(math.Abs(mean), math.Sqrt(variance))
}

// Merge adds what another sum has accumulated.
func (s *StatsSum) Merge(t StatsSum) {
	s.groups += t.groups
	s.snr.merge(t.snr)
	s.abs.merge(t.abs)
	s.inverse += t.inverse
}

// Stats are the averages. Without any group SNR is NaN: there is nothing to compare.
func (s *StatsSum) Stats() Stats {
	return Stats{
		Groups: s.groups, Weights: s.snr.weights, Equal: s.snr.equal,
		SNR:          s.snr.average(),
		InverseRatio: s.inverse / float64(s.snr.weights),
		AbsRatio:     s.abs.average(),
	}
}

// Preservation tells what a sleep did to the group means: w̄ after against w̄0 before. Eq. 4 keeps them exactly; other
// rules and roundings may not, and SNR alone cannot show it.
type Preservation struct {
	Ratio float64 `json:"ratio"` // (w̄·w̄0)/(w̄0·w̄0) over all groups of a layer; 1 is kept, 0.5 is halved
	Error float64 `json:"error"` // ‖w̄ - w̄0‖ / ‖w̄0‖
}

// MarshalJSON writes what is not finite, of means that were all zero and are no longer, as null.
func (p Preservation) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Ratio *float64 `json:"ratio"`
		Error *float64 `json:"error"`
	}{Finite(p.Ratio), Finite(p.Error)})
}

// UnmarshalJSON reads what MarshalJSON wrote; null is NaN.
func (p *Preservation) UnmarshalJSON(text []byte) error {
	v := struct {
		Ratio *float64 `json:"ratio"`
		Error *float64 `json:"error"`
	}{}
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	*p = Preservation{math.NaN(), math.NaN()}
	if v.Ratio != nil {
		p.Ratio = *v.Ratio
	}
	if v.Error != nil {
		p.Error = *v.Error
	}
	return nil
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
