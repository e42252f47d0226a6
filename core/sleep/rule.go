package sleep

// Rule says what a sleep does to the weights. The set is closed: Observe, Instant, Hebbian and Circuit.
type Rule interface {
	// Kind is the rule's name in configurations and capability tables.
	Kind() string
}

// Observe changes nothing: the report tells how regular the weights are.
type Observe struct{}

// Instant sets the weights of every group to their mean, w_i ← (1/N) Σ_j w_j: the limit of Eq. 5 for γ → 0 and a
// covariance C of full rank, which the authors use in all their training runs. A bias, being the weight of a constant
// input, is averaged likewise.
type Instant struct{}

func (Observe) Kind() string { return "observe" }
func (Instant) Kind() string { return "instant" }

// Share applies Instant to one group. w are the layer's weights (Hout, Wout, N, K), or its biases with K = 1; the
// mean is computed around the first member, so that equal weights stay exactly as they are. mean is scratch of K.
func (Instant) Share(w []float64, l Layer, g Grid, channel, k int, mean []float64) {
	if len(g.Positions) == 0 {
		return
	}
	member := func(p int) []float64 {
		at := (p*l.Out.C + channel) * k
		return w[at : at+k]
	}
	first := member(g.Positions[0])
	n := float64(len(g.Positions))
	clear(mean[:k])
	for _, p := range g.Positions {
		for j, v := range member(p) {
			mean[j] += v - first[j]
		}
	}
	for j := range mean[:k] {
		mean[j] = first[j] + mean[j]/n
	}
	for _, p := range g.Positions {
		copy(member(p), mean[:k])
	}
}
