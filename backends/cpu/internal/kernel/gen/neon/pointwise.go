package main

import "hypnos/backends/internal/neon"

// The kernels here go over (c, b) numbers, channel by channel: c rows of b, one behind the other; or over n numbers.

func pointwise(f *neon.File) {
	momentSums(f)
	for _, relu := range []bool{false, true} {
		normalise(f, relu)
		gradientSums(f, relu)
		for _, keep := range []bool{false, true} {
			normaliseGradient(f, relu, keep)
		}
	}
	rectify(f)
	for _, keep := range []bool{false, true} {
		rectifyGradient(f, keep)
	}
	sum(f)
	adam(f)
	momentum(f)
	addRow(f)
	finite(f)
}

// array is a pointer that moves along as the numbers go by.
type array struct {
	gp
	size int // bytes an element
}

// array loads a pointer to floats.
func (a *function) array(name string) array { return array{a.Arg(name), 4} }

// each emits the loops over n > 0 numbers: several vectors at a time, then one vector, then one number. n is lost.
// Registers that body reserves are free again behind it.
func (a *function) each(n gp, vectors width, body func(w width), arrays ...array) {
	free := a.Vecs
	once := func(w width) {
		body(w)
		for _, p := range arrays {
			a.Op("ADD $%d, %s", p.size*w.floats(), p.gp)
		}
		a.Vecs = free
		a.Op("SUBS $%d, %s", w.floats(), n)
	}
	a.Op("SUBS $%d, %s", vectors.floats(), n)
	a.Op("BLT vector")
	a.Loop("vectors")
	once(vectors)
	a.Op("BGE vectors")
	a.Label("vector")
	a.Op("ADDS $%d, %s", vectors.floats()-4, n)
	a.Op("BLT number")
	a.Loop("four")
	once(1)
	a.Op("BGE four")
	a.Label("number")
	a.Op("ADDS $3, %s", n)
	a.Op("BLT end")
	a.Label("one")
	once(0)
	a.Op("BGE one")
	a.Label("end")
}

// channels emits the loop over c > 0 channels, with each over the b > 0 numbers of one, and what is before and behind
// that.
func (a *function) channels(vectors width, before func(), body func(w width), behind func(), arrays ...array) {
	c, b, left := a.Arg("c"), a.Arg("b"), a.GP()
	a.Label("channel")
	a.Op("MOVD %s, %s", b, left)
	before()
	a.each(left, vectors, body, arrays...)
	behind()
	a.Op("SUB $1, %s", c)
	a.Op("CBNZ %s, channel", c)
	a.Op("RET")
}

// numbers emits a function over n > 0 numbers.
func (a *function) numbers(vectors width, body func(w width), arrays ...array) {
	a.each(a.Arg("n"), vectors, body, arrays...)
	a.Op("RET")
}

// loaded loads the numbers of a turn of a loop.
func (a *function) loaded(p array, w width) []vec {
	vs := a.Vectors(w.registers())
	w.load(a, p.gp, 0, vs)
	return vs
}

// constants fills a vector each with the floats at an address, which moves on.
func (a *function) constants(base gp, vs ...vec) {
	for _, v := range vs {
		a.Op("VLD1R.P 4(%s), [%s]", base, v.As("S4"))
	}
}

// doubles are two sums in eight lanes each, in four vectors.
type doubles struct{ one, two []vec }

func (a *function) doubles() doubles { return doubles{a.Vectors(4), a.Vectors(4)} }

func (d doubles) all() []vec { return append(append([]vec{}, d.one...), d.two...) }

// widened converts floats to doubles, two a vector; of a single number there are one vector and a 0.
func (a *function) widened(vs []vec, w width) (ds []vec) {
	for _, v := range vs {
		for u := range 2 {
			if u == 1 && w == 0 {
				break
			}
			d := a.Vec()
			a.widen(d, v, u == 1)
			ds = append(ds, d)
		}
	}
	return ds
}

// add adds terms a to the first sum and a·x to the second.
func (d doubles) add(f *function, a, x []vec) {
	for i := range a {
		f.faddDouble(d.one[i], d.one[i], a[i])
		f.fmlaDouble(d.two[i], a[i], x[i])
	}
}

const twoSums = 2 * 8 * 8 // bytes of the sums of a channel

func momentSums(f *neon.File) {
	a := begin(f, "momentSumsNEON", "sums *float64, x *float32, c, b int", "",
		"adds, channel by channel, Σ x to the first eight sums and Σ x² to the next eight; c, b > 0.")
	sums, x := a.Arg("sums"), a.array("x")
	d := a.doubles()
	a.channels(2, func() { a.Load(sums, 0, d.all()...) }, func(w width) {
		v := a.widened(a.loaded(x, w), w)
		d.add(a, v, v)
	}, func() {
		a.Store(sums, 0, d.all()...)
		a.Op("ADD $%d, %s", twoSums, sums)
	}, x)
}

// affine are the coefficients of a channel: (x-centre)*scale + shift.
type affine struct{ centre, scale, shift vec }

func (a *function) affine() affine { return affine{a.Vec(), a.Vec(), a.Vec()} }

// apply returns x-centre and the affine function; x-centre may be in place.
func (a *function) apply(k affine, x []vec, inPlace bool) (d, y []vec) {
	d = x
	if !inPlace {
		d = a.Vectors(len(x))
	}
	y = a.Vectors(len(x))
	for i := range x {
		a.fsub(d[i], x[i], k.centre)
		a.Move(y[i], k.shift)
	}
	for i := range x {
		a.fmla(y[i], d[i], k.scale)
	}
	return d, y
}

func normalise(f *neon.File, relu bool) {
	name, formula := "normaliseNEON", "(x-coef[0])*coef[1] + coef[2]"
	if relu {
		name, formula = "normaliseReLUNEON", "max(0, "+formula+")"
	}
	a := begin(f, name, "y, x, coef *float32, c, b int", "", "is y = "+formula+", three coefficients a channel; c, b > 0.")
	y, x, coef := a.array("y"), a.array("x"), a.Arg("coef")
	k, zero := a.affine(), a.Vec()
	a.Zero(zero)
	a.channels(4, func() { a.constants(coef, k.centre, k.scale, k.shift) }, func(w width) {
		_, r := a.apply(k, a.loaded(x, w), true)
		if relu {
			a.rectified(r, zero)
		}
		w.store(a, y.gp, 0, r)
	}, func() {}, y, x)
}

// rectified is v = max(v, 0).
func (a *function) rectified(vs []vec, zero vec) {
	for _, v := range vs {
		a.fmax(v, v, zero)
	}
}

// gate sets g to 0 where y is not above 0. y is lost.
func (a *function) gate(y, g []vec) {
	for i := range g {
		a.positive(y[i], y[i])
		a.Op("VAND %s, %s, %[2]s", y[i].As("B16"), g[i].As("B16"))
	}
}

const throughReLU = "grad where (x-coef[0])*coef[1] + coef[2] > 0, else 0"

func gradientSums(f *neon.File, relu bool) {
	name, what := "gradientSumsNEON", "grad"
	if relu {
		name, what = "gradientSumsReLUNEON", throughReLU
	}
	a := begin(f, name, "sums *float64, grad, x, coef *float32, c, b int", "",
		"adds, channel by channel, Σ h to the first eight sums and Σ h·x to the next eight, h being "+what+"; six coefficients a channel; c, b > 0.")
	sums, g, x, coef := a.Arg("sums"), a.array("grad"), a.array("x"), a.Arg("coef")
	d, k := a.doubles(), a.affine()
	a.channels(2, func() {
		a.Load(sums, 0, d.all()...)
		if relu {
			a.constants(coef, k.centre, k.scale, k.shift)
			a.Op("ADD $12, %s", coef)
		}
	}, func(w width) {
		xs, gs := a.loaded(x, w), a.loaded(g, w)
		if relu {
			_, y := a.apply(k, xs, false)
			a.gate(y, gs)
		}
		d.add(a, a.widened(gs, w), a.widened(xs, w))
	}, func() {
		a.Store(sums, 0, d.all()...)
		a.Op("ADD $%d, %s", twoSums, sums)
	}, g, x)
}

func normaliseGradient(f *neon.File, relu, keep bool) {
	name, what, is := "normaliseGradient", "grad", "is dx = "
	if relu {
		name, what = "normaliseGradientReLU", throughReLU
	}
	if keep {
		name, is = name+"Add", "is dx += "
	}
	a := begin(f, name+"NEON", "dx, grad, x, coef *float32, c, b int", "",
		is+"coef[1]*(h - coef[3] - (x-coef[0])*coef[4]) with h = "+what+"; six coefficients a channel; c, b > 0.")
	dx, g, x, coef := a.array("dx"), a.array("grad"), a.array("x"), a.Arg("coef")
	k, mean, slope := a.affine(), a.Vec(), a.Vec()
	a.channels(4, func() {
		a.constants(coef, k.centre, k.scale, k.shift, mean, slope)
		a.Op("ADD $4, %s", coef)
	}, func(w width) {
		xs, gs := a.loaded(x, w), a.loaded(g, w)
		d := xs
		if relu {
			var y []vec
			d, y = a.apply(k, xs, true)
			a.gate(y, gs)
		} else {
			for i := range xs {
				a.fsub(d[i], xs[i], k.centre)
			}
		}
		for i := range gs {
			a.fsub(gs[i], gs[i], mean)
		}
		for i := range gs {
			a.fmls(gs[i], d[i], slope)
		}
		if keep {
			old := a.loaded(dx, w)
			for i := range old {
				a.fmla(old[i], gs[i], k.scale)
			}
			gs = old
		} else {
			for i := range gs {
				a.fmul(gs[i], gs[i], k.scale)
			}
		}
		w.store(a, dx.gp, 0, gs)
	}, func() {}, dx, g, x)
}

func rectify(f *neon.File) {
	a := begin(f, "rectifyNEON", "y, x *float32, n int", "", "is y = max(0, x); n > 0.")
	y, x, zero := a.array("y"), a.array("x"), a.Vec()
	a.Zero(zero)
	a.numbers(4, func(w width) {
		v := a.loaded(x, w)
		a.rectified(v, zero)
		w.store(a, y.gp, 0, v)
	}, y, x)
}

func rectifyGradient(f *neon.File, keep bool) {
	name, is := "rectifyGradientNEON", "is dx = "
	if keep {
		name, is = "rectifyGradientAddNEON", "is dx += "
	}
	a := begin(f, name, "dx, grad, y *float32, n int", "", is+"grad where y > 0, else 0; n > 0.")
	dx, g, y := a.array("dx"), a.array("grad"), a.array("y")
	a.numbers(4, func(w width) {
		gs, ys := a.loaded(g, w), a.loaded(y, w)
		a.gate(ys, gs)
		if keep {
			old := a.loaded(dx, w)
			for i := range old {
				a.fadd(gs[i], gs[i], old[i])
			}
		}
		w.store(a, dx.gp, 0, gs)
	}, dx, g, y)
}

func sum(f *neon.File) {
	a := begin(f, "sumNEON", "y, a, b *float32, n int", "", "is y = a + b; n > 0.")
	y, p, q := a.array("y"), a.array("a"), a.array("b")
	a.numbers(4, func(w width) {
		v, u := a.loaded(p, w), a.loaded(q, w)
		for i := range v {
			a.fadd(v[i], v[i], u[i])
		}
		w.store(a, y.gp, 0, v)
	}, y, p, q)
}

// adam loads AdamConstants in memory order. Roots and quotients are those of IEEE 754, not estimates.
func adam(f *neon.File) {
	a := begin(f, "adamNEON", "w, grad, m, v, k *float32, n int", "", "is the update of adam and adamw with the constants k of AdamConstants; n > 0.")
	w, g, m, v, k := a.array("w"), a.array("grad"), a.array("m"), a.array("v"), a.Arg("k")
	c := a.Vectors(9)
	a.constants(k, c...)
	l2, shrink, rate, eps, beta1, beta2, rest1, rest2, scale := c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
	a.fneg(rate, rate)
	a.numbers(2, func(wide width) {
		ws, gs, ms, vs := a.loaded(w, wide), a.loaded(g, wide), a.loaded(m, wide), a.loaded(v, wide)
		below := a.Vectors(len(ws))
		for i := range ws {
			a.fmla(gs[i], ws[i], l2)
			a.fmul(ms[i], ms[i], beta1)
			a.fmul(vs[i], vs[i], beta2)
			a.Move(below[i], eps)
		}
		for i := range ws {
			a.fmla(ms[i], gs[i], rest1)
			a.fmul(gs[i], gs[i], gs[i])
		}
		for i := range ws {
			a.fmla(vs[i], gs[i], rest2)
		}
		wide.store(a, m.gp, 0, ms)
		wide.store(a, v.gp, 0, vs)
		for i := range ws {
			a.fsqrt(vs[i], vs[i])
			a.fmul(ms[i], ms[i], rate)
		}
		for i := range ws {
			a.fmla(below[i], vs[i], scale)
		}
		for i := range ws {
			a.fdiv(ms[i], ms[i], below[i])
		}
		for i := range ws {
			a.fmla(ms[i], ws[i], shrink)
		}
		wide.store(a, w.gp, 0, ms)
	}, w, g, m, v)
}

func momentum(f *neon.File) {
	a := begin(f, "momentumNEON", "w, grad, m, k *float32, n int", "", "is the update of sgd with the constants k = {l2, moment, rate}; n > 0.")
	w, g, m, k := a.array("w"), a.array("grad"), a.array("m"), a.Arg("k")
	l2, moment, rate := a.Vec(), a.Vec(), a.Vec()
	a.constants(k, l2, moment, rate)
	a.numbers(4, func(wide width) {
		ws, gs, ms := a.loaded(w, wide), a.loaded(g, wide), a.loaded(m, wide)
		for i := range ws {
			a.fmla(gs[i], ws[i], l2)
		}
		for i := range ws {
			a.fmla(gs[i], ms[i], moment)
		}
		wide.store(a, m.gp, 0, gs)
		for i := range ws {
			a.fmls(ws[i], gs[i], rate)
		}
		wide.store(a, w.gp, 0, ws)
	}, w, g, m)
}

func addRow(f *neon.File) {
	a := begin(f, "addRowNEON", "sums *float64, x *float32, n int", "", "adds x to the sums; n > 0.")
	sums, x := array{a.Arg("sums"), 8}, a.array("x")
	a.numbers(2, func(w width) {
		p := a.widened(a.loaded(x, w), w)
		old := a.Vectors(len(p))
		if w == 0 {
			a.Op("FMOVD (%s), %s", sums.gp, old[0].F())
		} else {
			a.Load(sums.gp, 0, old...)
		}
		for i := range p {
			a.faddDouble(old[i], old[i], p[i])
		}
		if w == 0 {
			a.Op("FMOVD %s, (%s)", old[0].F(), sums.gp)
		} else {
			a.Store(sums.gp, 0, old...)
		}
	}, sums, x)
}

// finite sums x·0, to four partial sums.
func finite(f *neon.File) {
	a := begin(f, "zeroesNEON", "x *float32, n int", "float32", "is Σ x·0: 0 when all numbers are finite, NaN otherwise; n > 0.")
	x, n := a.array("x"), a.Arg("n")
	acc, zero := a.Vectors(4), a.Vec()
	a.Zero(append(acc, zero)...)
	a.each(n, 4, func(w width) {
		for i, v := range a.loaded(x, w) {
			a.fmla(acc[i], v, zero)
		}
	}, x)
	a.fadd(acc[0], acc[0], acc[1])
	a.fadd(acc[2], acc[2], acc[3])
	a.fadd(acc[0], acc[0], acc[2])
	a.faddp(acc[0], acc[0], acc[0])
	a.faddp(acc[0], acc[0], acc[0])
	a.Op("FMOVS %s, ret+16(FP)", acc[0].F())
	a.Op("RET")
}
