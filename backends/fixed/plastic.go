package fixed

import (
	"math"

	"hypnos/backends/fixed/internal/kernel"
	"hypnos/core/fixed"
	"hypnos/core/sleep"
)

// integerMap is what a run of events does to the deviations of a grid's neurons of one channel group (sleep.Map), in
// integers: n stands for n·2^-frac. With D the map of deviations, w̄ a group's exact mean, m that mean rounded and w̄' what
// becomes of it,
//
//	w_i(T) = w̄' + D (w_i - w̄) = [w̄' + D (m - w̄)] + D (w_i - m)
//
// The bracket is the same for the whole group and is computed once. In the second term everything is an integer, so that
// its sum is exact, and each weight is rounded once, at random.
type integerMap struct {
	k, m, padded int // weights; weights and bias; k padded
	frac         int
	bias         int      // fraction bits that biases have more than weights
	diagonal     []int64  // (M), or
	dense        []int64  // (M, M)
	high, low    []int16  // (M, padded): dense = high·2^lowBits + low, columns of the weights only
	norms        [2]int64 // of the rows of high and low
	mean         sleep.Map
}

// Bits of a map's integers: below mapBits in all, so that high fits an int16 beside lowBits of low.
const (
	mapBits = 29
	lowBits = 15
)

// newIntegerMap rounds a map to the finest format that holds it.
func newIntegerMap(k *kernel.Kernels, w *weights, deviation, mean sleep.Map) *integerMap {
	d := &integerMap{k: w.k, m: w.k, padded: w.padded, bias: w.input.Frac, mean: mean}
	if w.biases != nil {
		d.m++
	}
	values := deviation.Dense
	if deviation.Diagonal != nil {
		values = deviation.Diagonal
	}
	largest := 0.0
	for _, v := range values {
		largest = max(largest, math.Abs(v))
	}
	_, exponent := math.Frexp(largest) // largest < 2^exponent
	d.frac = mapBits - 1 - max(exponent, 0)
	n := make([]int64, len(values))
	for i, v := range values {
		n[i] = int64(math.Floor(math.Ldexp(v, d.frac) + 0.5))
	}
	if deviation.Diagonal != nil {
		d.diagonal = n
		return d
	}
	d.dense = n
	d.high, d.low = make([]int16, d.m*d.padded), make([]int16, d.m*d.padded)
	for i := range d.m {
		for j := range d.k {
			v := n[i*d.m+j]
			low := (v+1<<(lowBits-1))&(1<<lowBits-1) - 1<<(lowBits-1) // v mod 2^lowBits, from -2^14
			d.low[i*d.padded+j], d.high[i*d.padded+j] = int16(low), int16((v-low)>>lowBits)
		}
	}
	d.norms = [2]int64{k.Norm(d.high, d.padded), k.Norm(d.low, d.padded)}
	return d
}

// group is one group under way. Numbers of weights have the weights' last place as unit, those of biases the biases'.
type group struct {
	*integerMap
	n       int
	sum     []int64 // (M): Σ w, exact
	rounded []int64 // (M): m
	bracket []int64 // (M), with frac fraction bits
	x       []int16 // (padded): w_i - m, where an int16 holds it
	sums    []int64 // (M): D (w_i - m)
	part    []int64 // (M)
}

func (d *integerMap) group() *group {
	return &group{
		integerMap: d, sum: make([]int64, d.m), rounded: make([]int64, d.m), bracket: make([]int64, d.m),
		x: make([]int16, d.padded), sums: make([]int64, d.m), part: make([]int64, d.m),
	}
}

// begin computes what the group has in common from its sums.
func (g *group) begin(n int) {
	g.n = n
	left := g.part // n (m - w̄)
	for j, s := range g.sum {
		g.rounded[j] = fixed.DivideRound(s, int64(n))
		left[j] = g.rounded[j]*int64(n) - s
	}
	after := g.meansAfter()
	g.times(g.sums, left)
	for j := range g.bracket {
		g.bracket[j] = after[j] + fixed.DivideRound(g.sums[j], int64(n))
	}
}

// meansAfter is w̄', with frac fraction bits. Only a circuit that does not preserve means changes them: by a map in float64,
// every product rounded, so that it is the same on every processor.
func (g *group) meansAfter() []int64 {
	after := make([]int64, g.m)
	if g.mean.Identity() {
		for j, s := range g.sum {
			whole := g.rounded[j] // apart, so that sums of many biases times 2^frac fit
			after[j] = whole<<g.frac + fixed.DivideRound((s-whole*int64(g.n))<<g.frac, int64(g.n))
		}
		return after
	}
	w, scratch := make([]float64, g.m), make([]float64, max(g.m, len(g.mean.X)/g.m))
	for j, s := range g.sum {
		w[j] = float64(s) / float64(g.n)
		if j >= g.k {
			w[j] = math.Ldexp(w[j], -g.bias)
		}
	}
	g.mean.Apply(w, scratch)
	for j, v := range w {
		if j >= g.k {
			v = math.Ldexp(v, g.bias)
		}
		after[j] = int64(math.Floor(math.Ldexp(v, g.frac) + 0.5))
	}
	return after
}

// times sets y to D x, exact but for what biases have to do with weights, which is rounded to the last place of y.
func (d *integerMap) times(y, x []int64) {
	if d.diagonal != nil {
		for j, v := range d.diagonal {
			y[j] = v * x[j]
		}
		return
	}
	for i := range y {
		row := d.dense[i*d.m : (i+1)*d.m]
		sum := int64(0)
		for j, v := range x[:d.k] {
			sum += row[j] * v
		}
		y[i] = sum
	}
	d.addBias(y, x)
}

// addBias completes y = D x by the bias's row and column, y having the weights' part of all rows.
func (d *integerMap) addBias(y, x []int64) {
	if d.m == d.k {
		return
	}
	for i := range d.k {
		y[i] += fixed.RoundShift(d.dense[i*d.m+d.k]*x[d.k], d.bias)
	}
	y[d.k] = fixed.RoundShift(y[d.k], -d.bias) + d.dense[d.k*d.m+d.k]*x[d.k]
}

// apply moves one neuron: w are its weights and bias, (M).
func (g *group) apply(k *kernel.Kernels, w []int64) {
	wide := int64(0)
	for j := range w {
		w[j] -= g.rounded[j]
		if j < g.k {
			wide = max(wide, w[j], -w[j])
		}
	}
	if g.diagonal != nil || wide > math.MaxInt16 {
		g.times(g.sums, w)
	} else {
		for j, v := range w[:g.k] {
			g.x[j] = int16(v)
		}
		g.dot(k, g.part, g.high, g.norms[0], int16(wide))
		g.dot(k, g.sums, g.low, g.norms[1], int16(wide))
		for j, v := range g.part {
			g.sums[j] += v << lowBits
		}
		g.addBias(g.sums, w)
	}
	for j, v := range g.sums {
		w[j] = g.bracket[j] + v
	}
}

func (g *group) dot(k *kernel.Kernels, y []int64, rows []int16, norm int64, largest int16) {
	if fixed.NarrowSum(norm, largest) {
		k.DotNarrow(y, rows, g.x)
		return
	}
	k.Dot(y, rows, g.x)
}

// plastic runs a task's map on a grid.
func (s *sleeper) plastic(t *sleep.Task) (kept sleep.PreservationSum, bytes int64) {
	w := s.w
	maps := make([]*integerMap, w.groups)
	for g := range maps {
		deviation, mean := t.Maps(g)
		maps[g] = newIntegerMap(s.kernels, w, deviation, mean)
	}
	parts := make([]sleep.PreservationSum, w.Out)
	s.pool.Run(w.Out, func(_, lo, hi int) {
		for channel := lo; channel < hi; channel++ {
			parts[channel] = s.plasticGroup(maps[channel/w.rows].group(), t.Positions, channel)
		}
	})
	for _, p := range parts {
		kept.Merge(p)
	}
	return kept, 2 * wordBytes * int64(len(t.Positions)*w.Out*w.padded)
}

func (s *sleeper) plasticGroup(g *group, positions []int, channel int) (kept sleep.PreservationSum) {
	w := s.w
	copy(g.sum, s.groupSums(positions, channel))
	if w.biases != nil {
		g.sum[g.k] = s.biasSum(positions, channel)
	}
	g.begin(len(positions))
	before := append([]int64(nil), g.sum[:g.k]...)
	neuron, random := make([]int64, g.m), make([]uint16, w.padded+kernel.Lanes)
	for _, p := range positions {
		row := s.row(p, channel)
		for j, v := range row {
			neuron[j] = int64(v)
		}
		bias := p*w.Out + channel
		if w.biases != nil {
			neuron[g.k] = int64(w.biases[bias])
		}
		g.apply(s.kernels, neuron)
		s.kernels.Halves(random, s.stream, uint64(bias)*uint64(len(random)/8))
		for j := range row {
			row[j] = w.format.Saturate(fixed.StochasticShift64(neuron[j], g.frac, random[j]))
		}
		if w.biases != nil {
			b := fixed.StochasticShift64(neuron[g.k], g.frac, random[w.padded])
			w.biases[bias] = int32(min(max(b, -math.MaxInt32), math.MaxInt32))
		}
	}
	n, unit := float64(len(positions)), w.format.Unit()
	for j, after := range s.groupSums(positions, channel) {
		kept.Add(float64(before[j])/n*unit, float64(after)/n*unit)
	}
	return kept
}
