package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The kernels here go over (c, b) numbers, channel by channel: c rows of b, one behind the other.

// vectors is an instruction set as these kernels use it. Masks are for the last vector of a row.
type vectors struct {
	isa
	tail func(lanes GPVirtual) Op
}

func both() []vectors {
	return []vectors{
		{avx512{}, func(n GPVirtual) Op {
			m := GP64()
			MOVQ(I32(-1), m)
			BZHIQ(n, m, m)
			k := K()
			KMOVW(m.As32(), k)
			return k
		}},
		{avx2{}, func(n GPVirtual) Op {
			x, m := XMM(), YMM()
			VMOVD(n.As32(), x)
			VPBROADCASTD(x, m)
			VPCMPGTD(laneNumbers(), m, m)
			return m
		}},
	}
}

// rows emits the loops over c channels and b numbers. begin is emitted at the start of each channel, each for a vector
// at offset i, with the mask of the last one or nil, and end at the end of the channel.
func (s vectors) rows(c, b GPVirtual, begin func(), each func(i GPVirtual, mask Op), end func()) {
	i := GP64()
	XORQ(i, i)
	full, rest := GP64(), GP64()
	MOVQ(b, full)
	MOVQ(b, rest)
	ANDQ(Imm(uint64(s.width()-1)), rest)
	SUBQ(rest, full)
	mask := s.tail(rest)
	Label("channel")
	TESTQ(c, c)
	JE(LabelRef("done"))
	begin()
	left := GP64()
	MOVQ(full, left)
	Label("vector")
	TESTQ(left, left)
	JE(LabelRef("tail"))
	each(i, nil)
	ADDQ(Imm(uint64(4*s.width())), i)
	SUBQ(Imm(uint64(s.width())), left)
	JMP(LabelRef("vector"))
	Label("tail")
	TESTQ(rest, rest)
	JE(LabelRef("end"))
	each(i, mask)
	LEAQ(Mem{Base: i, Index: rest, Scale: 4}, i)
	Label("end")
	end()
	DECQ(c)
	JMP(LabelRef("channel"))
	Label("done")
	VZEROUPPER()
	RET()
}

func (s vectors) text(name, args, doc string) {
	TEXT(name+s.name(), NOSPLIT, "func("+args+")")
	Doc(name + s.name() + " " + doc)
	Pragma("noescape")
}

func at(base, i GPVirtual) Mem { return Mem{Base: base, Index: i, Scale: 1} }

// loaded loads a vector.
func (s vectors) loaded(base, i GPVirtual, mask Op) VecVirtual {
	r := s.vector()
	s.load(at(base, i), mask, r)
	return r
}

// broadcast fills a vector with the float at an address.
func (s vectors) broadcast(m Mem) VecVirtual {
	r := s.vector()
	VBROADCASTSS(m, r)
	return r
}

// doubles are the sums of a channel in float64, eight lanes: two vectors of four, or two of eight that are added up at
// the end, so that neither half of a vector of floats waits for the other.
type doubles struct {
	s vectors
	r [2]VecVirtual
}

func (s vectors) loadDoubles(m Mem) doubles {
	d := doubles{s, [2]VecVirtual{s.vector(), s.vector()}}
	VMOVUPD(m, d.r[0])
	if s.width() == 16 {
		zero(d.r[1])
	} else {
		VMOVUPD(m.Offset(32), d.r[1])
	}
	return d
}

func (d doubles) store(m Mem) {
	if d.s.width() == 16 {
		VADDPD(d.r[1], d.r[0], d.r[0])
	} else {
		VMOVUPD(d.r[1], m.Offset(32))
	}
	VMOVUPD(d.r[0], m)
}

// widen converts a vector of floats to two of doubles.
func (s vectors) widen(v VecVirtual) [2]VecVirtual {
	lo, hi := s.vector(), s.vector()
	if s.width() == 16 {
		h := YMM()
		VCVTPS2PD(v.(VecVirtual).AsY(), lo)
		VEXTRACTF64X4(Imm(1), v, h)
		VCVTPS2PD(h, hi)
	} else {
		h := XMM()
		VCVTPS2PD(v.AsX(), lo)
		VEXTRACTF128(Imm(1), v, h)
		VCVTPS2PD(h, hi)
	}
	return [2]VecVirtual{lo, hi}
}

func (d doubles) add(v [2]VecVirtual) {
	for u, r := range d.r {
		VADDPD(v[u], r, r)
	}
}

func (d doubles) addProduct(v, w [2]VecVirtual) {
	for u, r := range d.r {
		VFMADD231PD(v[u], w[u], r)
	}
}

// momentSums adds up x and x².
func momentSums(s vectors) {
	s.text("momentSums", "sums *float64, x *float32, c, b int", "adds, channel by channel, Σ x to the first eight sums and Σ x² to the next eight.")
	sums, x, c, b := arg("sums"), arg("x"), arg("c"), arg("b")
	var one, two doubles
	s.rows(c, b, func() {
		one, two = s.loadDoubles(Mem{Base: sums}), s.loadDoubles(Mem{Base: sums, Disp: 64})
	}, func(i GPVirtual, mask Op) {
		v := s.widen(s.loaded(x, i, mask))
		one.add(v)
		two.addProduct(v, v)
	}, func() {
		one.store(Mem{Base: sums})
		two.store(Mem{Base: sums, Disp: 64})
		ADDQ(Imm(128), sums)
	})
}

// affine are the coefficients of a channel: (x-centre)*scale + shift.
type affine struct{ centre, scale, shift VecVirtual }

func (s vectors) loadAffine(coef GPVirtual) affine {
	return affine{s.broadcast(Mem{Base: coef}), s.broadcast(Mem{Base: coef, Disp: 4}), s.broadcast(Mem{Base: coef, Disp: 8})}
}

// apply returns x-centre and the affine function.
func (s vectors) apply(a affine, x VecVirtual) (d, y VecVirtual) {
	d, y = s.vector(), s.vector()
	VSUBPS(a.centre, x, d)
	VMOVAPS(a.shift, y)
	VFMADD231PS(d, a.scale, y)
	return d, y
}

// rectified is max(x, 0), where a NaN stays: VMAXPS returns its second source when either is a NaN.
func (s vectors) rectified(zero, x VecVirtual) {
	VMAXPS(x, zero, x)
}

// coefficients a channel of normalise and of its gradient.
const (
	normBytes = 12
	gradBytes = 24
)

func normalise(s vectors, relu bool) {
	name, formula := "normalise", "(x-coef[0])*coef[1] + coef[2]"
	if relu {
		name, formula = "normaliseReLU", "max(0, (x-coef[0])*coef[1] + coef[2])"
	}
	s.text(name, "y, x, coef *float32, c, b int", "is y = "+formula+", three coefficients a channel.")
	y, x, coef, c, b := arg("y"), arg("x"), arg("coef"), arg("c"), arg("b")
	z := zero(s.vector())
	var a affine
	s.rows(c, b, func() { a = s.loadAffine(coef) }, func(i GPVirtual, mask Op) {
		_, r := s.apply(a, s.loaded(x, i, mask))
		if relu {
			s.rectified(z, r)
		}
		s.store(r, mask, at(y, i))
	}, func() { ADDQ(Imm(normBytes), coef) })
}

// gate sets g to 0 where y is not above 0.
func (s vectors) gate(zero, y, g VecVirtual) {
	if s.width() == 16 {
		k := K()
		VCMPPS(Imm(0x1e), zero, y, k) // y > 0, ordered
		VMOVAPS_Z(g, k, g)
		return
	}
	m := s.vector()
	VCMPPS(Imm(0x1e), zero, y, m)
	VANDPS(m, g, g)
}

func gradientSums(s vectors, relu bool) {
	name, what := "gradientSums", "grad"
	if relu {
		name, what = "gradientSumsReLU", "grad where (x-coef[0])*coef[1] + coef[2] > 0"
	}
	s.text(name, "sums *float64, grad, x, coef *float32, c, b int", fmt.Sprintf("adds, channel by channel, Σ h to the first eight sums and Σ h·x to the next eight, h being %s; six coefficients a channel.", what))
	sums, g, x, coef, c, b := arg("sums"), arg("grad"), arg("x"), arg("coef"), arg("c"), arg("b")
	z := zero(s.vector())
	var one, two doubles
	var a affine
	s.rows(c, b, func() {
		one, two = s.loadDoubles(Mem{Base: sums}), s.loadDoubles(Mem{Base: sums, Disp: 64})
		a = s.loadAffine(coef)
	}, func(i GPVirtual, mask Op) {
		xs, gs := s.loaded(x, i, mask), s.loaded(g, i, mask)
		if relu {
			_, y := s.apply(a, xs)
			s.gate(z, y, gs)
		}
		gd := s.widen(gs)
		one.add(gd)
		two.addProduct(gd, s.widen(xs))
	}, func() {
		one.store(Mem{Base: sums})
		two.store(Mem{Base: sums, Disp: 64})
		ADDQ(Imm(128), sums)
		ADDQ(Imm(gradBytes), coef)
	})
}

func normaliseGradient(s vectors, relu bool) {
	name, what := "normaliseGradient", "grad"
	if relu {
		name, what = "normaliseGradientReLU", "grad where (x-coef[0])*coef[1] + coef[2] > 0, else 0,"
	}
	s.text(name, "dx, grad, x, coef *float32, c, b, keep int", fmt.Sprintf("is dx = keep·dx + coef[1]*(h - coef[3] - (x-coef[0])*coef[4]) with h = %s, six coefficients a channel, keep 0 or 1.", what))
	dx, g, x, coef, c, b := arg("dx"), arg("grad"), arg("x"), arg("coef"), arg("c"), arg("b")
	z := zero(s.vector())
	keep := zero(s.vector())
	CMPQ(arg("keep"), Imm(0))
	JE(LabelRef("overwrite"))
	all(s, keep)
	Label("overwrite")
	var a affine
	var mean, slope VecVirtual
	s.rows(c, b, func() {
		a = s.loadAffine(coef)
		mean, slope = s.broadcast(Mem{Base: coef, Disp: 12}), s.broadcast(Mem{Base: coef, Disp: 16})
	}, func(i GPVirtual, mask Op) {
		xs, gs, old := s.loaded(x, i, mask), s.loaded(g, i, mask), s.loaded(dx, i, mask)
		d, y := s.apply(a, xs)
		if relu {
			s.gate(z, y, gs)
		}
		VSUBPS(mean, gs, gs)
		VFNMADD231PS(d, slope, gs)
		and(s, keep, old)
		VFMADD231PS(a.scale, gs, old)
		s.store(old, mask, at(dx, i))
	}, func() { ADDQ(Imm(gradBytes), coef) })
}

// all sets every bit.
func all(s vectors, r VecVirtual) {
	if s.width() == 16 {
		VPTERNLOGD(Imm(0xff), r, r, r)
	} else {
		VPCMPEQD(r, r, r)
	}
}

// and is r &= m.
func and(s vectors, m, r VecVirtual) {
	if s.width() == 16 {
		VPANDD(m, r, r)
	} else {
		VPAND(m, r, r)
	}
}

func rectify(s vectors) {
	s.text("rectify", "y, x *float32, n int", "is y = max(0, x).")
	y, x, n := arg("y"), arg("x"), arg("n")
	z := zero(s.vector())
	s.rows(onePass(), n, func() {}, func(i GPVirtual, mask Op) {
		v := s.loaded(x, i, mask)
		s.rectified(z, v)
		s.store(v, mask, at(y, i))
	}, func() {})
}

func onePass() GPVirtual {
	c := GP64()
	MOVQ(U32(1), c)
	return c
}

func rectifyGradient(s vectors) {
	s.text("rectifyGradient", "dx, grad, y *float32, n, keep int", "is dx = keep·dx + (grad where y > 0), keep 0 or 1.")
	dx, g, y, n := arg("dx"), arg("grad"), arg("y"), arg("n")
	z, keep := zero(s.vector()), zero(s.vector())
	CMPQ(arg("keep"), Imm(0))
	JE(LabelRef("overwrite"))
	all(s, keep)
	Label("overwrite")
	s.rows(onePass(), n, func() {}, func(i GPVirtual, mask Op) {
		gs, ys, old := s.loaded(g, i, mask), s.loaded(y, i, mask), s.loaded(dx, i, mask)
		s.gate(z, ys, gs)
		and(s, keep, old)
		VADDPS(gs, old, old)
		s.store(old, mask, at(dx, i))
	}, func() {})
}

func sum2(s vectors) {
	s.text("sum", "y, a, b *float32, n int", "is y = a + b.")
	y, a, b, n := arg("y"), arg("a"), arg("b"), arg("n")
	s.rows(onePass(), n, func() {}, func(i GPVirtual, mask Op) {
		v, w := s.loaded(a, i, mask), s.loaded(b, i, mask)
		VADDPS(w, v, v)
		s.store(v, mask, at(y, i))
	}, func() {})
}

func scaleShift(s vectors) {
	s.text("scaleShift", "y, x, scale, shift *float32, n int", "is y = x*scale + shift, element by element.")
	y, x, scale, shift, n := arg("y"), arg("x"), arg("scale"), arg("shift"), arg("n")
	s.rows(onePass(), n, func() {}, func(i GPVirtual, mask Op) {
		v, a, b := s.loaded(x, i, mask), s.loaded(scale, i, mask), s.loaded(shift, i, mask)
		VFMADD213PS(b, a, v)
		s.store(v, mask, at(y, i))
	}, func() {})
}

// adam loads AdamConstants in memory order.
func adam(s vectors) {
	s.text("adam", "w, grad, m, v, k *float32, n int", "is the update of adam and adamw with the constants k of AdamConstants.")
	w, g, m, v, k, n := arg("w"), arg("grad"), arg("m"), arg("v"), arg("k"), arg("n")
	constant := func(i int) VecVirtual { return s.broadcast(Mem{Base: k, Disp: 4 * i}) }
	l2, shrink, rate, eps := constant(0), constant(1), constant(2), constant(3)
	beta1, beta2, rest1, rest2, scale := constant(4), constant(5), constant(6), constant(7), constant(8)
	s.rows(onePass(), n, func() {}, func(i GPVirtual, mask Op) {
		ws, gs := s.loaded(w, i, mask), s.loaded(g, i, mask)
		VFMADD231PS(ws, l2, gs)
		ms := s.loaded(m, i, mask)
		VMULPS(beta1, ms, ms)
		VFMADD231PS(rest1, gs, ms)
		s.store(ms, mask, at(m, i))
		VMULPS(gs, gs, gs)
		vs := s.loaded(v, i, mask)
		VMULPS(beta2, vs, vs)
		VFMADD231PS(rest2, gs, vs)
		s.store(vs, mask, at(v, i))
		VSQRTPS(vs, vs)
		VFMADD213PS(eps, scale, vs)
		VMULPS(rate, ms, ms)
		VDIVPS(vs, ms, ms)
		VFMSUB213PS(ms, shrink, ws)
		s.store(ws, mask, at(w, i))
	}, func() {})
}

func momentum(s vectors) {
	s.text("momentum", "w, grad, m, k *float32, n int", "is the update of sgd with the constants k = {l2, moment, rate}.")
	w, g, m, k, n := arg("w"), arg("grad"), arg("m"), arg("k"), arg("n")
	l2, moment, rate := s.broadcast(Mem{Base: k}), s.broadcast(Mem{Base: k, Disp: 4}), s.broadcast(Mem{Base: k, Disp: 8})
	s.rows(onePass(), n, func() {}, func(i GPVirtual, mask Op) {
		ws, gs, ms := s.loaded(w, i, mask), s.loaded(g, i, mask), s.loaded(m, i, mask)
		VFMADD231PS(ws, l2, gs)
		VFMADD213PS(gs, moment, ms)
		s.store(ms, mask, at(m, i))
		VFNMADD231PS(ms, rate, ws)
		s.store(ws, mask, at(w, i))
	}, func() {})
}

// addRows adds one row, or four, to sums of doubles, element by element.
func addRows(s vectors, rows int) {
	s.text(fmt.Sprintf("add%dRows", rows), "sums *float64, x *float32, ld, n int", fmt.Sprintf("adds Σ_r x[r*ld+i] to sums[i] for r < %d; ld in bytes, n a multiple of 16.", rows))
	sums, x, ld, n := arg("sums"), arg("x"), arg("ld"), arg("n")
	ld3 := GP64()
	LEAQ(Mem{Base: ld, Index: ld, Scale: 2}, ld3)
	all := []Mem{{Base: x}, {Base: x, Index: ld, Scale: 1}, {Base: x, Index: ld, Scale: 2}, {Base: x, Index: ld3, Scale: 1}}
	i := GP64()
	XORQ(i, i)
	Label("loop")
	TESTQ(n, n)
	JE(LabelRef("done"))
	for u := range 2 {
		// acc are the doubles of half a vector of floats
		acc := s.vector()
		m := Mem{Base: sums, Index: i, Scale: 2, Disp: 4 * s.width() * u}
		VMOVUPD(m, acc)
		for _, row := range all[:rows] {
			v := s.vector()
			VCVTPS2PD(row.Offset(2*s.width()*u), v)
			VADDPD(v, acc, acc)
		}
		VMOVUPD(acc, m)
	}
	ADDQ(Imm(uint64(4*s.width())), x)
	ADDQ(Imm(uint64(4*s.width())), i)
	SUBQ(Imm(uint64(s.width())), n)
	JMP(LabelRef("loop"))
	Label("done")
	VZEROUPPER()
	RET()
}

// addRow adds one row to sums of doubles, element by element, and asks for another.
func addRow(s vectors) {
	s.text("addRow", "sums *float64, x, next *float32, n int", "adds x[i] to sums[i] and asks for next[i]; n is a multiple of 16.")
	sums, x, next, n := arg("sums"), arg("x"), arg("next"), arg("n")
	i := GP64()
	XORQ(i, i)
	Label("loop")
	TESTQ(n, n)
	JE(LabelRef("done"))
	PREFETCHT0(Mem{Base: next, Index: i, Scale: 1})
	for u := range 2 {
		v := s.vector()
		VCVTPS2PD(Mem{Base: x, Index: i, Scale: 1, Disp: 2 * s.width() * u}, v)
		m := Mem{Base: sums, Index: i, Scale: 2, Disp: 4 * s.width() * u}
		VADDPD(m, v, v)
		VMOVUPD(v, m)
	}
	ADDQ(Imm(uint64(4*s.width())), i)
	SUBQ(Imm(uint64(s.width())), n)
	JMP(LabelRef("loop"))
	Label("done")
	VZEROUPPER()
	RET()
}

// addMoments adds the deviations of a row from another, and their squares, to sums of doubles, element by element.
func addMoments(s vectors) {
	s.text("addMoments", "d1, d2 *float64, x, first *float32, n int", "adds x - first to d1 and its square to d2; n is a multiple of 16.")
	d1, d2, x, first, n := arg("d1"), arg("d2"), arg("x"), arg("first"), arg("n")
	i := GP64()
	XORQ(i, i)
	Label("loop")
	TESTQ(n, n)
	JE(LabelRef("done"))
	for u := range 2 {
		half := func(base GPVirtual) VecVirtual {
			v := s.vector()
			VCVTPS2PD(Mem{Base: base, Index: i, Scale: 1, Disp: 2 * s.width() * u}, v)
			return v
		}
		sum := func(base GPVirtual) (Mem, VecVirtual) {
			v, m := s.vector(), Mem{Base: base, Index: i, Scale: 2, Disp: 4 * s.width() * u}
			VMOVUPD(m, v)
			return m, v
		}
		v, f := half(x), half(first)
		VSUBPD(f, v, v)
		m, acc := sum(d1)
		VADDPD(v, acc, acc)
		VMOVUPD(acc, m)
		m, acc = sum(d2)
		VFMADD231PD(v, v, acc)
		VMOVUPD(acc, m)
	}
	ADDQ(Imm(uint64(4*s.width())), i)
	SUBQ(Imm(uint64(s.width())), n)
	JMP(LabelRef("loop"))
	Label("done")
	VZEROUPPER()
	RET()
}

// means divides sums of doubles, rounds the quotients to floats and adds up what the rounding did to them.
func means(s vectors) {
	s.text("means", "dst *float32, sums *float64, kept *float64, count float64, n int", "is dst = float32(m) with m = sums/count; it adds Σ m·dst, Σ m² and Σ (dst-m)² to kept[0…7], kept[8…15] and kept[16…23]; n is a multiple of 16.")
	dst, sums, kept, n := arg("dst"), arg("sums"), arg("kept"), arg("n")
	count := s.vector()
	VBROADCASTSD(NewParamAddr("count", 24), count)
	cross, before, diff := s.loadDoubles(Mem{Base: kept}), s.loadDoubles(Mem{Base: kept, Disp: 64}), s.loadDoubles(Mem{Base: kept, Disp: 128})
	Label("loop")
	TESTQ(n, n)
	JE(LabelRef("done"))
	for u := range 2 {
		m, back := s.vector(), s.vector()
		VMOVUPD(Mem{Base: sums, Disp: 4 * s.width() * u}, m)
		VDIVPD(count, m, m)
		half := Mem{Base: dst, Disp: 2 * s.width() * u}
		if s.width() == 16 {
			f := YMM()
			VCVTPD2PS(m, f)
			VMOVUPS(f, half)
			VCVTPS2PD(f, back)
		} else {
			f := XMM()
			VCVTPD2PSY(m, f)
			VMOVUPS(f, half)
			VCVTPS2PD(f, back)
		}
		VFMADD231PD(m, back, cross.r[u])
		VFMADD231PD(m, m, before.r[u])
		VSUBPD(m, back, back)
		VFMADD231PD(back, back, diff.r[u])
	}
	ADDQ(Imm(uint64(4*s.width())), dst)
	ADDQ(Imm(uint64(8*s.width())), sums)
	SUBQ(Imm(uint64(s.width())), n)
	JMP(LabelRef("loop"))
	Label("done")
	cross.store(Mem{Base: kept})
	before.store(Mem{Base: kept, Disp: 64})
	diff.store(Mem{Base: kept, Disp: 128})
	VZEROUPPER()
	RET()
}

// notFinite sums x - x: 0 when all are finite, NaN otherwise.
func notFinite(s vectors) {
	TEXT("differences"+s.name(), NOSPLIT, "func(x *float32, n int) float32")
	Doc("differences" + s.name() + " is Σ (x - x): 0 when all numbers are finite, NaN otherwise; n is a multiple of 16.")
	Pragma("noescape")
	x, n := arg("x"), arg("n")
	acc := [4]VecVirtual{}
	for i := range acc {
		acc[i] = zero(s.vector())
	}
	differences := func(acc []VecVirtual) {
		for i, r := range acc {
			v := s.vector()
			VMOVUPS(Mem{Base: x, Disp: 4 * s.width() * i}, v)
			VSUBPS(v, v, v)
			VADDPS(v, r, r)
		}
		ADDQ(U32(4*s.width()*len(acc)), x)
		SUBQ(Imm(uint64(s.width()*len(acc))), n)
	}
	Label("fours")
	CMPQ(n, Imm(uint64(s.width()*len(acc))))
	JLT(LabelRef("rest"))
	differences(acc[:])
	JMP(LabelRef("fours"))
	Label("rest")
	TESTQ(n, n)
	JE(LabelRef("done"))
	differences(acc[:1])
	JMP(LabelRef("rest"))
	Label("done")
	addAll(acc[:])
	if s.width() == 16 {
		h := YMM()
		VEXTRACTF64X4(Imm(1), acc[0], h)
		VADDPS(acc[0].AsY(), h, acc[0].AsY())
	}
	h := XMM()
	VEXTRACTF128(Imm(1), acc[0].AsY(), h)
	VADDPS(acc[0].AsX(), h, h)
	t := XMM()
	VMOVHLPS(h, h, t)
	VADDPS(t, h, h)
	VMOVSHDUP(h, t)
	VADDSS(t, h, h)
	VZEROUPPER()
	Store(h, ReturnIndex(0))
	RET()
}

func pointwise() {
	for _, s := range both() {
		momentSums(s)
		for _, relu := range []bool{false, true} {
			normalise(s, relu)
			gradientSums(s, relu)
			normaliseGradient(s, relu)
		}
		rectify(s)
		rectifyGradient(s)
		sum2(s)
		scaleShift(s)
		adam(s)
		momentum(s)
		addRows(s, 4)
		addRows(s, 1)
		addRow(s)
		addMoments(s)
		means(s)
		notFinite(s)
	}
}
