package kernel

import (
	"math"
	"slices"
	"testing"
)

// lengths are numbers of numbers below, at and above some vectors.
func lengths() (ns []int) {
	for n := range 36 {
		ns = append(ns, n)
	}
	return append(ns, 63, 64, 65, 127, 200)
}

// eachLength runs f for every length, on clean and on dirty numbers, with and without old values.
func eachLength(t *testing.T, f func(r *trial, n int, keep bool)) {
	t.Helper()
	var c tally
	for _, n := range lengths() {
		for flags := range 64 { // 16 times each, with other numbers
			keep, dirty := flags&1 > 0, flags&2 > 0
			f(newTrial(t, &c, dirty, "%d numbers, keep=%v dirty=%v", n, keep, dirty), n, keep)
		}
	}
	c.check(t, 41*64)
}

// eachRows runs f for several channels and batch sizes, on clean and on dirty numbers, with and without old values,
// with and without a rectifier.
func eachRows(t *testing.T, f func(r *trial, channels, b int, relu, keep bool)) {
	t.Helper()
	var c tally
	for _, channels := range []int{0, 1, 2, 5} {
		for _, b := range lengths() {
			for flags := range 8 {
				keep, relu, dirty := flags&1 > 0, flags&2 > 0, flags&4 > 0
				r := newTrial(t, &c, dirty, "(%d, %d) numbers, relu=%v keep=%v dirty=%v", channels, b, relu, keep, dirty)
				f(r, channels, b, relu, keep)
			}
		}
	}
	c.check(t, 4*41*8)
}

// exact is the bound of what is rounded once from numbers that are exact in float64: a sum of two float32.
func exact(int) float64 { return 0 }

// once rounds a float64 result to float32.
func once(v float64) float64 { return float64(float32(v)) }

// rectified is max(0, v), as the reference backend has it: a NaN stays.
func rectified(v float64) float64 {
	if v <= 0 {
		return 0
	}
	return v
}

// table applies f to 0…n-1.
func table(n int, f func(i int) float64) []float64 {
	values := make([]float64, n)
	for i := range values {
		values[i] = f(i)
	}
	return values
}

func TestRectify(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, inPlace bool) {
			y := onto[float32](r, n, inPlace)
			x := y
			if !inPlace {
				x = from[float32](r, n)
			}
			want := table(n, func(i int) float64 { return rectified(float64(x[i])) })
			r.run(func() { k.Rectify(y, x) })
			compare(r, "y", y, want, exact)
		})
	})
}

func TestRectifyGradient(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, keep bool) {
			y, dx := from[float32](r, n), onto[float32](r, n, true)
			g := dx // in place
			if keep || n%2 == 0 {
				g = from[float32](r, n)
			}
			want := table(n, func(i int) (d float64) {
				if y[i] > 0 { // not where it is NaN
					d = float64(g[i])
				}
				if keep {
					d += float64(dx[i])
				}
				return once(d)
			})
			r.run(func() { k.RectifyGradient(dx, g, y, keep) })
			compare(r, "dx", dx, want, exact)
		})
	})
}

func TestSum(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, inPlace bool) {
			a, b := from[float32](r, n), from[float32](r, n)
			y := onto[float32](r, n, inPlace)
			switch {
			case inPlace && n%2 == 0:
				a = y
			case inPlace:
				b = y
			}
			want := table(n, func(i int) float64 { return once(float64(a[i]) + float64(b[i])) })
			r.run(func() { k.Sum(y, a, b) })
			compare(r, "y", y, want, exact)
		})
	})
}

// Any single number that is not finite is found, wherever it is; those around the buffer are not.
// ScaleShift rounds a product and a sum, or both once: off by at most 2 roundoffs of |x·scale| + |shift|, and the third
// covers the higher order.
func TestScaleShift(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, inPlace bool) {
			y, scale, shift := onto[float32](r, n, inPlace), from[float32](r, n), from[float32](r, n)
			x := y
			if !inPlace {
				x = from[float32](r, n)
			}
			product := table(n, func(i int) float64 { return float64(x[i]) * float64(scale[i]) })
			want := table(n, func(i int) float64 { return product[i] + float64(shift[i]) })
			bound := func(i int) float64 { return 3 * roundoff * (math.Abs(product[i]) + math.Abs(float64(shift[i]))) }
			r.run(func() { k.ScaleShift(y, x, scale, shift) })
			compare(r, "y", y, want, bound)
		})
	})
}

func TestFinite(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		found := 0
		for _, n := range lengths() {
			r := newTrial(t, &tally{}, false, "%d numbers", n)
			x := into[float32](r, n)
			fill(r, x)
			for i := range x {
				if i%3 == 0 {
					x[i] = math.MaxFloat32 * float32(i%2*2-1) // a sum of them would overflow
				}
			}
			r.run(func() {
				if !k.Finite(x) {
					t.Errorf("%d finite numbers are not", n)
				}
				for i, was := range slices.Clone(x) {
					for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
						if x[i] = float32(v); k.Finite(x) {
							t.Errorf("%g at %d of %d is finite", v, i, n)
						}
						found++
					}
					x[i] = was
				}
			})
		}
		if want := 3 * (35*36/2 + 63 + 64 + 65 + 127 + 200); found != want {
			t.Errorf("%d cases, want %d", found, want)
		}
	})
}

// What sleep sums over the positions of a group, element by element, is the plain loop's to the last bit, because every
// version adds row by row in float64.
func TestAddRows(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, _ bool) {
			rows, gap := r.IntN(7), r.IntN(3)
			sums, x := onto[float64](r, n, true), from[float32](r, max(0, rows*(n+gap)-gap))
			want := table(n, func(i int) float64 {
				s := sums[i]
				for row := range rows {
					s += float64(x[row*(n+gap)+i])
				}
				return s
			})
			r.run(func() { k.AddRows(sums, x, n+gap, rows) })
			compare(r, "sums", sums, want, exact)
		})
	})
}

// One row is added as many are, whatever comes next.
func TestAddRow(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, _ bool) {
			sums, x, next := onto[float64](r, n, true), from[float32](r, n), from[float32](r, n)
			want := table(n, func(i int) float64 { return sums[i] + float64(x[i]) })
			r.run(func() { k.AddRow(sums, x, next) })
			compare(r, "sums", sums, want, exact)
		})
	})
}

// The deviations are the plain loop's to the last bit. Their squares are rounded or not before they are added, so that a
// sum of two terms is off by at most two roundoffs of float64.
func TestAddMoments(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, fromItself bool) {
			d1, d2, x := onto[float64](r, n, true), onto[float64](r, n, true), from[float32](r, n)
			first := x
			if !fromItself {
				first = from[float32](r, n)
			}
			d := func(i int) float64 { return float64(x[i]) - float64(first[i]) }
			want1 := table(n, func(i int) float64 { return d1[i] + d(i) })
			want2 := table(n, func(i int) float64 { return d2[i] + d(i)*d(i) })
			bound2 := table(n, func(i int) float64 { return 2 * 0x1p-53 * (math.Abs(d2[i]) + d(i)*d(i)) })
			r.run(func() { k.AddMoments(d1, d2, x, first) })
			compare(r, "sums", d1, want1, exact)
			compare(r, "sums of squares", d2, want2, func(i int) float64 { return bound2[i] })
		})
	})
}

// The means are the quotients rounded twice, like the plain loop's, and what that did to them adds up to the same.
func TestMeans(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, _ bool) {
			dst, sums, count := into[float32](r, n), from[float64](r, n), float64(1+r.IntN(200))
			kept := onto[float64](r, 3*Lanes, true)
			value, size := make([]float64, 3), make([]float64, 3)
			add := func(i int, v float64) {
				value[i] += v
				size[i] += math.Abs(v)
			}
			for i, v := range kept {
				add(i/Lanes, v)
			}
			want := table(n, func(i int) float64 { return float64(float32(sums[i] / count)) })
			for i, after := range want {
				m := sums[i] / count
				add(0, m*after)
				add(1, m*m)
				add(2, (after-m)*(after-m))
			}
			r.run(func() { k.Means(dst, sums, count, &view[Kept](kept)[0]) })
			compare(r, "means", dst, want, exact)
			got := make([]float64, 3)
			for i, v := range kept {
				got[i/Lanes] += v
			}
			// As for rowSums; a product here is rounded too, or fused.
			compare(r, "sums", got, value, func(i int) float64 { return 2 * float64(n+Lanes+2) * 0x1p-53 * size[i] })
		})
	})
}

// totals adds up the lanes of each channel's two sums.
func totals(sums []float64) []float64 {
	return table(len(sums)/Lanes, func(i int) (s float64) {
		for _, v := range sums[i*Lanes : (i+1)*Lanes] {
			s += v
		}
		return s
	})
}

// rowSums are a plain loop's two sums of each channel, from the old ones on, of terms a and a·x.
func rowSums(sums []float64, channels, b int, term func(i int) (a, x float64)) ([]float64, func(i int) float64) {
	value := totals(sums)
	size := table(len(value), func(i int) (s float64) {
		for _, v := range sums[i*Lanes : (i+1)*Lanes] {
			s += math.Abs(v)
		}
		return s
	})
	for ch := range channels {
		for i := range b {
			a, x := term(ch*b + i)
			value[2*ch] += a
			size[2*ch] += math.Abs(a)
			value[2*ch+1] += a * x
			size[2*ch+1] += math.Abs(a * x)
		}
	}
	// Products of two float32 are exact in float64, so that every term goes through at most b + Lanes additions, here as
	// in the kernel: twice γ(b+Lanes) with the roundoff of float64, the second order covered by one more.
	return value, func(i int) float64 { return 2 * float64(b+Lanes+1) * 0x1p-53 * size[i] }
}

func TestMomentSums(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachRows(t, func(r *trial, channels, b int, _, _ bool) {
			sums, x := onto[float64](r, channels*2*Lanes, true), from[float32](r, channels*b)
			want, bound := rowSums(sums, channels, b, func(i int) (a, v float64) { return float64(x[i]), float64(x[i]) })
			r.run(func() { k.MomentSums(sums, x, channels, b) })
			compare(r, "sums", totals(sums), want, bound)
		})
	})
}

// Normalise rounds a difference, a product and a sum, or the last two once: off by at most 3 roundoffs of
// |x-centre|·|scale| + |shift|, and the fourth covers the higher orders. A rectifier does not enlarge errors.
func TestNormalise(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachRows(t, func(r *trial, channels, b int, relu, inPlace bool) {
			coef := view[Affine](from[float32](r, channels*3))
			y := onto[float32](r, channels*b, inPlace)
			x := y
			if !inPlace {
				x = from[float32](r, channels*b)
			}
			size := make([]float64, len(x))
			want := table(len(x), func(i int) float64 {
				c := coef[i/b]
				product, shift := (float64(x[i])-float64(c.Centre))*float64(c.Scale), float64(c.Shift)
				size[i] = math.Abs(product) + math.Abs(shift)
				if relu {
					return rectified(product + shift)
				}
				return product + shift
			})
			r.run(func() { k.Normalise(y, x, coef, b, relu) })
			compare(r, "y", y, want, func(i int) float64 { return 4 * roundoff * size[i] })
		})
	})
}

// gates makes the activations and coefficients of a batch norm before a rectifier, such that all versions agree on
// where it lets the gradient through: x and centre are multiples of 1/2 up to 2 and the scale up to 1, the shift is one
// of 1/4 up to 1, so that (x-centre)·scale + shift is exact with and without fused multiplication; and often 0.
func gates(r *trial, channels, b int) (x []float32, coef []Gradient, open func(i int) bool) {
	x = from[float32](r, channels*b)
	numbers := from[float32](r, channels*6)
	coef = view[Gradient](numbers)
	coarse := func(v *float32, unit float32, limit int) {
		*v = unit * float32(r.IntN(2*limit+1)-limit)
		if r.dirty && r.IntN(20) == 0 {
			*v = float32([]float64{math.NaN(), math.Inf(1), math.Inf(-1)}[r.IntN(3)])
		}
	}
	for i := range x {
		coarse(&x[i], 0.5, 4)
	}
	for ch := range coef {
		k := &coef[ch]
		coarse(&k.Centre, 0.5, 4)
		coarse(&k.Scale, 0.5, 2)
		coarse(&k.Shift, 0.25, 4)
		fillGuards(numbers[ch*6+5:ch*6+6], 0) // nobody reads it
	}
	return x, coef, func(i int) bool {
		k := coef[i/b].Affine
		return (float64(x[i])-float64(k.Centre))*float64(k.Scale)+float64(k.Shift) > 0
	}
}

// The gates of the tests below are open, closed, and closed by a 0, often enough to tell.
func TestGates(t *testing.T) {
	var c tally
	var open, closed, zero int
	for range 100 {
		r := newTrial(t, &c, false, "gates")
		x, coef, let := gates(r, 5, 40)
		for i := range x {
			k := coef[i/40].Affine
			switch v := (x[i]-k.Centre)*k.Scale + k.Shift; {
			case let(i) != (v > 0):
				t.Fatalf("the gate of %g is not exact", v)
			case v > 0:
				open++
			case v < 0:
				closed++
			default:
				zero++
			}
		}
	}
	if min(open, closed, zero) < 500 {
		t.Errorf("%d gates open, %d closed, %d at 0", open, closed, zero)
	}
}

func TestGradientSums(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachRows(t, func(r *trial, channels, b int, relu, _ bool) {
			sums, g := onto[float64](r, channels*2*Lanes, true), from[float32](r, channels*b)
			x, coef, open := gates(r, channels, b)
			want, bound := rowSums(sums, channels, b, func(i int) (h, v float64) {
				if !relu || open(i) {
					h = float64(g[i])
				}
				return h, float64(x[i])
			})
			r.run(func() { k.GradientSums(sums, g, x, coef, b, relu) })
			compare(r, "sums", totals(sums), want, bound)
		})
	})
}

// NormaliseGradient: a term of scale·(h - mean - (x-centre)·slope) + dx goes through at most six operations: two
// differences for h, a difference more and two products for the last, the scale and the sum. Seven roundoffs of the sum
// of their sizes cover the higher orders too.
func TestNormaliseGradient(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachRows(t, func(r *trial, channels, b int, relu, keep bool) {
			x, coef, open := gates(r, channels, b)
			dx := onto[float32](r, channels*b, true)
			g := dx // in place
			if keep || channels != 1 {
				g = from[float32](r, channels*b)
			}
			size := make([]float64, len(x))
			want := table(len(x), func(i int) float64 {
				c, h, old := coef[i/b], 0.0, 0.0
				if !relu || open(i) {
					h = float64(g[i])
				}
				if keep {
					old = float64(dx[i])
				}
				scale, mean := float64(c.Scale), float64(c.Mean)
				last := (float64(x[i]) - float64(c.Centre)) * float64(c.Slope)
				size[i] = math.Abs(scale)*(math.Abs(h)+math.Abs(mean)+math.Abs(last)) + math.Abs(old)
				return scale*(h-mean-last) + old
			})
			r.run(func() { k.NormaliseGradient(dx, g, x, coef, b, relu, keep) })
			compare(r, "dx", dx, want, func(i int) float64 { return 7 * roundoff * size[i] })
		})
	})
}

// decayed is the gradient with L2 penalty, d = g + λw, and its error: the product is rounded, and the sum.
func decayed(g, w, l2 float64) (d, err float64) {
	d = g + l2*w
	return d, roundoff * (math.Abs(l2*w) + math.Abs(d))
}

// Momentum against the plain loop. m' = μm + d is off by the error of d and two roundoffs of its terms, w' = w - ηm' by
// η times that and two roundoffs of its terms. A factor of 2 covers the higher orders.
func TestMomentum(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, decay bool) {
			w, m, g := onto[float32](r, n, true), onto[float32](r, n, true), from[float32](r, n)
			c := &MomentumConstants{Moment: 0.9, Rate: 0.125}
			if decay {
				c.L2 = 0.01
			}
			wErr, mErr := make([]float64, n), make([]float64, n)
			mWant := make([]float64, n)
			wWant := table(n, func(i int) float64 {
				old, rate := float64(w[i]), float64(c.Rate)
				d, err := decayed(float64(g[i]), old, float64(c.L2))
				moved := float64(c.Moment) * float64(m[i])
				mWant[i] = moved + d
				mErr[i] = err + 2*roundoff*(math.Abs(moved)+math.Abs(d))
				wErr[i] = rate*mErr[i] + 2*roundoff*(math.Abs(old)+math.Abs(rate*mWant[i]))
				return old - rate*mWant[i]
			})
			r.run(func() { k.Momentum(w, g, m, c) })
			compare(r, "m", m, mWant, func(i int) float64 { return 2 * mErr[i] })
			compare(r, "w", w, wWant, func(i int) float64 { return 2 * wErr[i] })
		})
	})
}

// Adam against the plain loop, in the first step, where m and v are 0, and in a later one. No version approximates:
// roots and quotients are rounded once like the rest. With e the error of d, to first order:
//
//	m' = β1 m + (1-β1) d          (1-β1) e + 2u of its terms
//	v' = β2 v + (1-β2) d²         (1-β2) 2|d| e + 3u of its terms, which is the fraction ρ of v'
//	q  = η m' / (√v'·scale + ε)   |q| (ρ/2 + 3u) from below (a root, a product, a sum), η err(m')/(√v'·scale + ε) from
//	                              above, and 2u|q|
//	w' = shrink·w - q             err(q) + 2u of its terms
//
// A factor of 2 covers the higher orders.
func TestAdam(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		eachLength(t, func(r *trial, n int, first bool) {
			w, m, v := onto[float32](r, n, true), onto[float32](r, n, !first), onto[float32](r, n, !first)
			g := from[float32](r, n)
			c := &AdamConstants{
				Shrink: 0.999, Rate: 0.01, Eps: 1e-8, Beta1: 0.9, Beta2: 0.999, Rest1: 0.1, Rest2: 0.001, Scale: 3,
			}
			if n%2 == 0 {
				c.Shrink, c.L2 = 1, 0.01
			}
			for i := range v {
				v[i] *= v[i]
			}
			if first {
				clear(m)
				clear(v)
			}
			wErr, mErr, vErr := make([]float64, n), make([]float64, n), make([]float64, n)
			mWant, vWant := make([]float64, n), make([]float64, n)
			wWant := table(n, func(i int) float64 {
				const u = roundoff
				d, err := decayed(float64(g[i]), float64(w[i]), float64(c.L2))
				m1, m2 := float64(c.Beta1)*float64(m[i]), float64(c.Rest1)*d
				v1, v2 := float64(c.Beta2)*float64(v[i]), float64(c.Rest2)*d*d
				mWant[i], vWant[i] = m1+m2, v1+v2
				mErr[i] = float64(c.Rest1)*err + 2*u*(math.Abs(m1)+math.Abs(m2))
				vErr[i] = float64(c.Rest2)*2*math.Abs(d)*err + 3*u*(v1+v2)
				below := math.Sqrt(vWant[i])*float64(c.Scale) + float64(c.Eps)
				q, kept := float64(c.Rate)*mWant[i]/below, float64(c.Shrink)*float64(w[i])
				rho := 0.0
				if vWant[i] > 0 && !math.IsInf(vWant[i], 1) { // else v' is exact
					rho = vErr[i] / vWant[i]
				}
				qErr := math.Abs(q)*(rho/2+5*u) + float64(c.Rate)*mErr[i]/below
				wErr[i] = qErr + 2*u*(math.Abs(kept)+math.Abs(q))
				return kept - q
			})
			r.run(func() { k.Adam(w, g, m, v, c) })
			compare(r, "m", m, mWant, func(i int) float64 { return 2 * mErr[i] })
			compare(r, "v", v, vWant, func(i int) float64 { return 2 * vErr[i] })
			compare(r, "w", w, wWant, func(i int) float64 { return 2 * wErr[i] })
		})
	})
}

// A buffer that is one number too short panics, and nothing outside of the buffers is touched.
func TestPointwiseOutOfRange(t *testing.T) {
	const channels, b = 3, 7
	const n = channels * b
	eachVersion(t, func(t *testing.T, k *Kernels) {
		calls := 0
		for name, c := range map[string]struct {
			buffers int // of n numbers, all but the first of which may be too short
			call    func(sums []float64, xs [][]float32)
		}{
			"Normalise": {2, func(_ []float64, xs [][]float32) {
				k.Normalise(xs[1], xs[0], make([]Affine, channels), b, true)
			}},
			"GradientSums": {3, func(sums []float64, xs [][]float32) {
				k.GradientSums(sums, xs[1], xs[2], make([]Gradient, channels), b, true)
			}},
			"NormaliseGradient": {3, func(_ []float64, xs [][]float32) {
				k.NormaliseGradient(xs[0], xs[1], xs[2], make([]Gradient, channels), b, false, true)
			}},
			"MomentSums":      {2, func(sums []float64, xs [][]float32) { k.MomentSums(sums, xs[1], channels, b) }},
			"Rectify":         {2, func(_ []float64, xs [][]float32) { k.Rectify(xs[1], xs[0]) }},
			"RectifyGradient": {3, func(_ []float64, xs [][]float32) { k.RectifyGradient(xs[1], xs[2], xs[0], true) }},
			"Sum":             {3, func(_ []float64, xs [][]float32) { k.Sum(xs[2], xs[0], xs[1]) }},
			"ScaleShift":      {4, func(_ []float64, xs [][]float32) { k.ScaleShift(xs[1], xs[0], xs[2], xs[3]) }},
			"Adam":            {4, func(_ []float64, xs [][]float32) { k.Adam(xs[0], xs[1], xs[2], xs[3], &AdamConstants{}) }},
			"Momentum":        {3, func(_ []float64, xs [][]float32) { k.Momentum(xs[0], xs[1], xs[2], &MomentumConstants{}) }},
			"AddRows":         {2, func(sums []float64, xs [][]float32) { k.AddRows(sums[:b], xs[1], b, channels) }},
			"AddRow":          {3, func(sums []float64, xs [][]float32) { k.AddRow(sums[:n], xs[1], xs[2]) }},
			"AddMoments":      {3, func(sums []float64, xs [][]float32) { k.AddMoments(sums[:n], sums[n:2*n], xs[1], xs[2]) }},
			"Means":           {1, func(sums []float64, xs [][]float32) { k.Means(xs[0], sums[:n], 2, &Kept{}) }},
		} {
			for short := range c.buffers { // 0: none
				r := newTrial(t, &tally{}, false, "%s, buffer %d short", name, short)
				sums := onto[float64](r, channels*2*Lanes, true)
				var xs [][]float32
				for i := range c.buffers {
					size := n
					if i == short && i > 0 {
						size--
					}
					xs = append(xs, onto[float32](r, size, true))
				}
				r.run(func() {
					if got := panics(func() { c.call(sums, xs) }); got != (short > 0) {
						t.Errorf("%s: panic is %v", r.name, got)
					}
				})
				calls++
			}
		}
		if calls != 2+3+3+2+2+3+3+4+4+3+2+3+3+1 {
			t.Errorf("%d calls", calls)
		}
	})
}
