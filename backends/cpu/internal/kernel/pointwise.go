package kernel

import "math"

// Pointwise are the loops over whole activations and parameters, which memory limits, in one version.
//
// Those of batch norm go over (c, b) numbers, the c rows of b of one position, with coefficients and sums by channel.
// Sums are float64 in eight lanes that the caller adds up; lane assignments differ between versions.
type Pointwise struct {
	// MomentSums adds, channel by channel, Σ x to the first Lanes sums of a channel and Σ x² to the next.
	MomentSums func(sums []float64, x []float32, c, b int)
	// Normalise is y = (x-centre)·scale + shift with a channel's Affine, with relu max(0, that).
	Normalise func(y, x []float32, coef []Affine, b int, relu bool)
	// GradientSums adds, channel by channel, Σ h to the first Lanes sums and Σ h·x to the next, where h is g, or, with
	// relu, g where the rectifier lets it through.
	GradientSums func(sums []float64, g, x []float32, coef []Gradient, b int, relu bool)
	// NormaliseGradient is dx = scale·(h - mean - (x-centre)·slope), or with keep that is added to dx.
	NormaliseGradient func(dx, g, x []float32, coef []Gradient, b int, relu, keep bool)
	// Rectify is y = max(0, x). A NaN stays.
	Rectify func(y, x []float32)
	// RectifyGradient is dx = g where y > 0 and 0 elsewhere, or with keep that is added to dx.
	RectifyGradient func(dx, g, y []float32, keep bool)
	// Sum is y = a + b.
	Sum func(y, a, b []float32)
	// ScaleShift is y = x·scale + shift, element by element.
	ScaleShift func(y, x, scale, shift []float32)
	// Adam and Momentum are updates of package optim.
	Adam     func(w, g, m, v []float32, k *AdamConstants)
	Momentum func(w, g, m []float32, k *MomentumConstants)
	// AddRows adds rows of len(sums) numbers, ld apart in x, to the sums, element by element. Sums of up to 2^29 equal
	// numbers are exact.
	AddRows func(sums []float64, x []float32, ld, rows int)
	// AddRow adds x to the sums, element by element, and may ask for next, a row as long, to be in the cache soon.
	AddRow func(sums []float64, x, next []float32)
	// AddMoments adds x - first to d1 and its square to d2, element by element.
	AddMoments func(d1, d2 []float64, x, first []float32)
	// Means is dst = m rounded, with m = sums/count, and adds Σ m·dst, Σ m² and Σ (dst-m)² to the Lanes of kept.
	Means func(dst []float32, sums []float64, count float64, kept *Kept)
	// Finite tells whether all numbers are.
	Finite func(x []float32) bool
}

// Lanes is the number of partial sums of one sum.
const Lanes = 8

// Kept tells what rounding did to means: partial sums of Means.
type Kept struct{ Cross, Before, Diff [Lanes]float64 }

// Affine is a channel's batch norm.
type Affine struct{ Centre, Scale, Shift float32 }

// Gradient is what the gradient of a channel's batch norm needs.
type Gradient struct {
	Affine
	Mean, Slope float32 // of h, and of h by x
	_           float32 // the assembly steps by 24 bytes
}

// AdamConstants are those of one step: package optim names them.
type AdamConstants struct {
	L2, Shrink, Rate, Eps, Beta1, Beta2, Rest1, Rest2 float32
	Scale                                             float32 // 1/√(1-β2^t)
}

// MomentumConstants are those of one step of sgd.
type MomentumConstants struct{ L2, Moment, Rate float32 }

func portablePointwise() Pointwise {
	return Pointwise{
		MomentSums: momentSumsGo, Normalise: normaliseGo, GradientSums: gradientSumsGo, NormaliseGradient: normaliseGradientGo,
		Rectify: rectifyGo, RectifyGradient: rectifyGradientGo, Sum: sumGo, ScaleShift: scaleShiftGo,
		Adam: adamGo, Momentum: momentumGo, AddRows: addRowsGo, AddRow: addRowGo, AddMoments: addMomentsGo, Means: meansGo, Finite: finiteGo,
	}
}

func momentSumsGo(sums []float64, x []float32, c, b int) {
	for ch := range c {
		var s, q float64
		for _, v := range x[ch*b : (ch+1)*b] {
			s += float64(v)
			q += float64(v) * float64(v)
		}
		sums[2*Lanes*ch] += s
		sums[2*Lanes*ch+Lanes] += q
	}
}

func normaliseGo(y, x []float32, coef []Affine, b int, relu bool) {
	for ch, k := range coef {
		src, dst := x[ch*b:(ch+1)*b], y[ch*b:(ch+1)*b]
		for i, v := range src {
			v = (v-k.Centre)*k.Scale + k.Shift
			if relu && v <= 0 {
				v = 0
			}
			dst[i] = v
		}
	}
}

// through is g where the rectifier behind the batch norm lets it through.
func through(g, x float32, k *Affine, relu bool) float32 {
	if relu && !((x-k.Centre)*k.Scale+k.Shift > 0) {
		return 0
	}
	return g
}

func gradientSumsGo(sums []float64, g, x []float32, coef []Gradient, b int, relu bool) {
	for ch := range coef {
		var s, q float64
		xs := x[ch*b : (ch+1)*b]
		for i, v := range g[ch*b : (ch+1)*b] {
			h := float64(through(v, xs[i], &coef[ch].Affine, relu))
			s += h
			q += h * float64(xs[i])
		}
		sums[2*Lanes*ch] += s
		sums[2*Lanes*ch+Lanes] += q
	}
}

func normaliseGradientGo(dx, g, x []float32, coef []Gradient, b int, relu, keep bool) {
	for ch := range coef {
		k := &coef[ch]
		xs, dst := x[ch*b:(ch+1)*b], dx[ch*b:(ch+1)*b]
		for i, v := range g[ch*b : (ch+1)*b] {
			d := k.Scale * (through(v, xs[i], &k.Affine, relu) - k.Mean - (xs[i]-k.Centre)*k.Slope)
			if keep {
				d += dst[i]
			}
			dst[i] = d
		}
	}
}

func rectifyGo(y, x []float32) {
	y = y[:len(x)]
	for i, v := range x {
		if v <= 0 { // false for NaN
			v = 0
		}
		y[i] = v
	}
}

func rectifyGradientGo(dx, g, y []float32, keep bool) {
	dx, g = dx[:len(y)], g[:len(y)]
	for i, v := range y {
		d := g[i]
		if !(v > 0) {
			d = 0
		}
		if keep {
			d += dx[i]
		}
		dx[i] = d
	}
}

func sumGo(y, a, b []float32) {
	y, b = y[:len(a)], b[:len(a)]
	for i, v := range a {
		y[i] = v + b[i]
	}
}

func scaleShiftGo(y, x, scale, shift []float32) {
	y, scale, shift = y[:len(x)], scale[:len(x)], shift[:len(x)]
	for i, v := range x {
		y[i] = v*scale[i] + shift[i]
	}
}

func adamGo(w, g, m, v []float32, k *AdamConstants) {
	g, m, v = g[:len(w)], m[:len(w)], v[:len(w)]
	for i := range w {
		d := g[i] + k.L2*w[i]
		m[i] = k.Beta1*m[i] + k.Rest1*d
		v[i] = k.Beta2*v[i] + k.Rest2*(d*d)
		root := float32(math.Sqrt(float64(v[i])))
		w[i] = k.Shrink*w[i] - k.Rate*m[i]/(root*k.Scale+k.Eps)
	}
}

func momentumGo(w, g, m []float32, k *MomentumConstants) {
	g, m = g[:len(w)], m[:len(w)]
	for i := range w {
		m[i] = k.Moment*m[i] + (g[i] + k.L2*w[i])
		w[i] -= k.Rate * m[i]
	}
}

func addRowsGo(sums []float64, x []float32, ld, rows int) {
	for r := range rows {
		for i, v := range x[r*ld : r*ld+len(sums)] {
			sums[i] += float64(v)
		}
	}
}

func addRowGo(sums []float64, x, next []float32) {
	x, _ = x[:len(sums)], next[:len(sums)]
	for i, v := range x {
		sums[i] += float64(v)
	}
}

func addMomentsGo(d1, d2 []float64, x, first []float32) {
	d2, x, first = d2[:len(d1)], x[:len(d1)], first[:len(d1)]
	for i := range d1 {
		d := float64(x[i]) - float64(first[i])
		d1[i] += d
		d2[i] += d * d
	}
}

func meansGo(dst []float32, sums []float64, count float64, kept *Kept) {
	dst = dst[:len(sums)]
	for i, s := range sums {
		m := s / count
		dst[i] = float32(m)
		after, lane := float64(dst[i]), i%Lanes
		kept.Cross[lane] += m * after
		kept.Before[lane] += m * m
		kept.Diff[lane] += (after - m) * (after - m)
	}
}

// finiteGo uses that x - x is 0 for a finite x and NaN otherwise, and that NaN survives a sum.
func finiteGo(x []float32) bool {
	var s float32
	for _, v := range x {
		s += v - v
	}
	return s == 0
}
