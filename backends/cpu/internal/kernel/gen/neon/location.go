package main

import "fmt"

// The kernels here are the products of a location.

func location(f *file) {
	for _, w := range []width{2, 1, 0} {
		product(f, 8, w, true)
	}
	for _, unit := range []bool{true, false} {
		for _, w := range []width{4, 1, 0} {
			product(f, 4, w, unit)
		}
	}
	for _, w := range []width{4, 1, 0} {
		product(f, 1, w, true)
	}
	weightGradient(f)
	for _, w := range []width{4, 1, 0} {
		column(f, w)
	}
	transpose(f)
}

// product keeps a tile of rows by vectors in registers. Where the weights of a term lie one behind the other (step is one
// element) they are loaded as vectors, else one by one.
func product(f *file, rows int, w width, unit bool) {
	name := fmt.Sprintf("productNEON%dx%d", rows, w)
	if w == 0 {
		name = fmt.Sprintf("productNEON%d", rows)
	}
	step := "a step of one element"
	if !unit {
		name += "Strided"
		step = "step in bytes"
	}
	a := f.function(name, "y *float32, ldy int, x, w *float32, list *[2]int32, n, step, keep int", "", fmt.Sprintf(
		"is y[t*ldy+b] = keep·y + Σ_i x[list[i][0]+b]·w[list[i][1]+t*step] for t < %d and b < %d; n > 0, keep 0 or 1; ldy in bytes, %s.",
		rows, w.floats(), step))
	y, ldy, x, weights, list, n := a.arg("y"), a.arg("ldy"), a.arg("x"), a.arg("w"), a.arg("list"), a.arg("n")
	steps := make([]gp, rows) // of the rows behind the first
	if !unit {
		steps[1] = a.arg("step")
		for t := 2; t < rows; t++ {
			steps[t] = a.gp()
			a.op("ADD %s, %s, %s", steps[1], steps[max(t-1, 1)], steps[t])
		}
	}
	acc := make([][]vec, rows)
	for t := range acc {
		acc[t] = a.vectors(w.registers())
		a.zero(acc[t]...)
	}
	at := a.gp()
	a.op("MOVD keep+56(FP), %s", at)
	a.op("CBZ %s, loop", at)
	each := func(f func(r []vec)) { // row by row
		a.op("MOVD %s, %s", y, at)
		for t := range acc {
			f(acc[t])
			if t < rows-1 {
				a.op("ADD %s, %s", ldy, at)
			}
		}
	}
	each(func(r []vec) { w.load(a, at, 0, r) })
	xs := a.vectors(w.registers())
	var scalars func() (v func(t int) (vec, int)) // loads a term's weights and says where that of row t is
	switch {
	case unit && rows == 1:
		s := a.vec()
		scalars = func() func(int) (vec, int) {
			a.op("FMOVS (%s), %s", weightAt, s.f())
			return func(int) (vec, int) { return s, 0 }
		}
	case unit:
		s := a.vectors(rows / 4)
		scalars = func() func(int) (vec, int) {
			a.load(weightAt, 0, s...)
			return func(t int) (vec, int) { return s[t/4], t % 4 }
		}
	default:
		s := a.vectors(rows)
		scalars = func() func(int) (vec, int) {
			a.op("FMOVS (%s), %s", weightAt, s[0].f())
			for t := 1; t < rows; t++ {
				a.op("FMOVS (%s)(%s), %s", weightAt, steps[t], s[t].f())
			}
			return func(t int) (vec, int) { return s[t], 0 }
		}
	}
	a.loop("loop")
	a.op("LDPSW.P 8(%s), (%s, %s)", list, xAt, weightAt)
	a.op("ADD %s<<2, %s, %[1]s", xAt, x)
	a.op("ADD %s<<2, %s, %[1]s", weightAt, weights)
	w.load(a, xAt, 0, xs)
	weight := scalars()
	a.op("SUB $1, %s", n)
	for t := range acc {
		s, lane := weight(t)
		for v := range xs {
			a.fmlaLane(acc[t][v], xs[v], s, lane)
		}
	}
	a.op("CBNZ %s, loop", n)
	each(func(r []vec) { w.store(a, at, 0, r) })
	a.op("RET")
}

// xAt and weightAt are the addresses of a pair's activation and weight.
const (
	xAt      gp = 24
	weightAt gp = 25
)

// weightGradient handles four rows at a time by a tile of 16 output channels, and four images at a time: an activation
// is a lane of a vector of images.
func weightGradient(f *file) {
	a := f.function("weightGradientNEON4x4", "dw, x *float32, list *[2]int32, dy *float32, b, keep int", "",
		"is dw[list[i][1]+j] = keep·dw + Σ_b x[list[i][0]+b]·dy[16b+j] for i < 4, j < 16; b > 0, keep 0 or 1. Rows may be the same.")
	dw, x, list, dy, n, keep := a.arg("dw"), a.arg("x"), a.arg("list"), a.arg("dy"), a.arg("b"), a.arg("keep")
	const rows = 4
	var px, pw [rows]gp
	acc := make([][]vec, rows)
	for i := range rows {
		px[i], pw[i] = a.gp(), a.gp()
		a.op("LDPSW.P 8(%s), (%s, %s)", list, px[i], pw[i])
		a.op("ADD %s<<2, %s, %[1]s", px[i], x)
		a.op("ADD %s<<2, %s, %[1]s", pw[i], dw)
		acc[i] = a.vectors(4)
		a.zero(acc[i]...)
	}
	free := a.vecs
	xs, g := a.vectors(rows), a.vectors(4)
	image := func(lane int) {
		a.load(dy, 64*lane, g...)
		for i := range acc {
			for v := range g {
				a.fmlaLane(acc[i][v], g[v], xs[i], lane)
			}
		}
	}
	a.op("SUBS $4, %s", n)
	a.op("BLT rest")
	a.loop("fours")
	for i := range px {
		a.op("FMOVQ.P 16(%s), %s", px[i], xs[i].f())
	}
	for lane := range 4 {
		image(lane)
	}
	a.op("ADD $256, %s", dy)
	a.op("SUBS $4, %s", n)
	a.op("BGE fours")
	a.label("rest")
	a.op("ADDS $3, %s", n)
	a.op("BLT sums")
	a.loop("ones")
	for i := range px {
		a.op("FMOVS.P 4(%s), %s", px[i], xs[i].f())
	}
	image(0)
	a.op("ADD $64, %s", dy)
	a.op("SUBS $1, %s", n)
	a.op("BGE ones")
	a.label("sums")
	a.op("CBZ %s, write", keep)
	a.op("// All sums are read before any is written: rows may be the same.")
	a.vecs = free
	old := a.vectors(4)
	for i := range acc {
		a.load(pw[i], 0, old...)
		for v := range old {
			a.fadd(acc[i][v], acc[i][v], old[v])
		}
	}
	a.label("write")
	for i := range acc {
		a.store(pw[i], 0, acc[i]...)
	}
	a.op("RET")
}

// column is the product for one image: vectors of output channels, the weights read once and in order.
func column(f *file, w width) {
	name := fmt.Sprintf("columnNEON%d", w.floats())
	a := f.function(name, "y, x, w *float32, list *[2]int32, n int", "", fmt.Sprintf(
		"is y[j] += Σ_i x[list[i][0]]·w[list[i][1]+j] for j < %d. Four partial sums take the rows in turn.", w.floats()))
	y, x, weights, list, n := a.arg("y"), a.arg("x"), a.arg("w"), a.arg("list"), a.arg("n")
	const parts = 4
	acc := make([][]vec, parts)
	for p := range acc {
		acc[p] = a.vectors(w.registers())
		a.zero(acc[p]...)
	}
	values, ws := a.vectors(2), [][]vec{a.vectors(w.registers()), a.vectors(w.registers())} // in turn
	step := func(p int) {
		value, r := values[p%2], ws[p%2]
		a.op("LDPSW.P 8(%s), (%s, %s)", list, xAt, weightAt)
		a.op("ADD %s<<2, %s, %[1]s", weightAt, weights)
		a.op("FMOVS (%s)(%s<<2), %s", x, xAt, value.f())
		w.load(a, weightAt, 0, r)
		for v := range r {
			a.fmlaLane(acc[p][v], r[v], value, 0)
		}
	}
	a.op("SUBS $%d, %s", parts, n)
	a.op("BLT rest")
	a.loop("fours")
	for p := range parts {
		step(p)
	}
	a.op("SUBS $%d, %s", parts, n)
	a.op("BGE fours")
	a.label("rest")
	a.op("ADDS $%d, %s", parts-1, n)
	a.op("BLT sum")
	a.label("ones")
	step(0)
	a.op("SUBS $1, %s", n)
	a.op("BGE ones")
	a.label("sum")
	old := ws[0]
	w.load(a, y, 0, old)
	for v := range old {
		a.fadd(acc[0][v], acc[0][v], acc[1][v])
		a.fadd(acc[2][v], acc[2][v], acc[3][v])
		a.fadd(acc[0][v], acc[0][v], acc[2][v])
		a.fadd(acc[0][v], acc[0][v], old[v])
	}
	w.store(a, y, 0, acc[0])
	a.op("RET")
}

// transpose turns a block of 8 by 8 as four of 4 by 4: pairs of floats, then pairs of pairs.
func transpose(f *file) {
	a := f.function("transposeNEON", "dst, src *float32, ld int", "", "is dst[16b+j] = src[j*ld+b] for b, j < 8; ld in bytes.")
	dst, src, ld := a.arg("dst"), a.arg("src"), a.arg("ld")
	for half := range 2 { // four rows j
		r := [4][]vec{}
		for j := range r {
			r[j] = a.vectors(2)
			a.load(src, 0, r[j]...)
			a.op("ADD %s, %s", ld, src)
		}
		for block := range 2 { // four columns b
			t, out := a.vectors(4), a.vectors(4)
			trn := func(n int, as string, lo, hi, d vec) { a.op("VTRN%d %s, %s, %s", n, hi.as(as), lo.as(as), d.as(as)) }
			for i := range 4 { // t[i] has columns i%2 and i%2+2 of rows 2(i/2) and the next
				trn(1+i%2, "S4", r[i/2*2][block], r[i/2*2+1][block], t[i])
			}
			for b := range 4 {
				trn(1+b/2, "D2", t[b%2], t[2+b%2], out[b])
				a.op("FMOVQ %s, %d(%s)", out[b].f(), 64*(4*block+b)+16*half, dst)
			}
			a.vecs -= 8
		}
	}
	a.op("RET")
}
