package main

import (
	"fmt"

	"hypnos/backends/internal/neon"
)

// The kernels here are the products of a location.

func location(f *neon.File) {
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
func product(f *neon.File, rows int, w width, unit bool) {
	name := fmt.Sprintf("productNEON%dx%d", rows, w)
	if w == 0 {
		name = fmt.Sprintf("productNEON%d", rows)
	}
	step := "a step of one element"
	if !unit {
		name += "Strided"
		step = "step in bytes"
	}
	a := begin(f, name, "y *float32, ldy int, x, w *float32, list *[2]int32, n, step, keep int", "", fmt.Sprintf(
		"is y[t*ldy+b] = keep·y + Σ_i x[list[i][0]+b]·w[list[i][1]+t*step] for t < %d and b < %d; n > 0, keep 0 or 1; ldy in bytes, %s.",
		rows, w.floats(), step))
	y, ldy, x, weights, list, n := a.Arg("y"), a.Arg("ldy"), a.Arg("x"), a.Arg("w"), a.Arg("list"), a.Arg("n")
	steps := make([]gp, rows) // of the rows behind the first
	if !unit {
		steps[1] = a.Arg("step")
		for t := 2; t < rows; t++ {
			steps[t] = a.GP()
			a.Op("ADD %s, %s, %s", steps[1], steps[max(t-1, 1)], steps[t])
		}
	}
	acc := make([][]vec, rows)
	for t := range acc {
		acc[t] = a.Vectors(w.registers())
		a.Zero(acc[t]...)
	}
	at := a.GP()
	a.Op("MOVD keep+56(FP), %s", at)
	a.Op("CBZ %s, loop", at)
	each := func(f func(r []vec)) { // row by row
		a.Op("MOVD %s, %s", y, at)
		for t := range acc {
			f(acc[t])
			if t < rows-1 {
				a.Op("ADD %s, %s", ldy, at)
			}
		}
	}
	each(func(r []vec) { w.load(a, at, 0, r) })
	xs := a.Vectors(w.registers())
	var scalars func() (v func(t int) (vec, int)) // loads a term's weights and says where that of row t is
	switch {
	case unit && rows == 1:
		s := a.Vec()
		scalars = func() func(int) (vec, int) {
			a.Op("FMOVS (%s), %s", weightAt, s.F())
			return func(int) (vec, int) { return s, 0 }
		}
	case unit:
		s := a.Vectors(rows / 4)
		scalars = func() func(int) (vec, int) {
			a.Load(weightAt, 0, s...)
			return func(t int) (vec, int) { return s[t/4], t % 4 }
		}
	default:
		s := a.Vectors(rows)
		scalars = func() func(int) (vec, int) {
			a.Op("FMOVS (%s), %s", weightAt, s[0].F())
			for t := 1; t < rows; t++ {
				a.Op("FMOVS (%s)(%s), %s", weightAt, steps[t], s[t].F())
			}
			return func(t int) (vec, int) { return s[t], 0 }
		}
	}
	a.Loop("loop")
	a.Op("LDPSW.P 8(%s), (%s, %s)", list, xAt, weightAt)
	a.Op("ADD %s<<2, %s, %[1]s", xAt, x)
	a.Op("ADD %s<<2, %s, %[1]s", weightAt, weights)
	w.load(a, xAt, 0, xs)
	weight := scalars()
	a.Op("SUB $1, %s", n)
	for t := range acc {
		s, lane := weight(t)
		for v := range xs {
			a.fmlaLane(acc[t][v], xs[v], s, lane)
		}
	}
	a.Op("CBNZ %s, loop", n)
	each(func(r []vec) { w.store(a, at, 0, r) })
	a.Op("RET")
}

// xAt and weightAt are the addresses of a pair's activation and weight.
const (
	xAt      = neon.Spare
	weightAt = neon.Spare + 1
)

// weightGradient handles four rows at a time by a tile of 16 output channels, and four images at a time: an activation
// is a lane of a vector of images.
func weightGradient(f *neon.File) {
	a := begin(f, "weightGradientNEON4x4", "dw, x *float32, list *[2]int32, dy *float32, b, keep int", "",
		"is dw[list[i][1]+j] = keep·dw + Σ_b x[list[i][0]+b]·dy[16b+j] for i < 4, j < 16; b > 0, keep 0 or 1. Rows may be the same.")
	dw, x, list, dy, n, keep := a.Arg("dw"), a.Arg("x"), a.Arg("list"), a.Arg("dy"), a.Arg("b"), a.Arg("keep")
	const rows = 4
	var px, pw [rows]gp
	acc := make([][]vec, rows)
	for i := range rows {
		px[i], pw[i] = a.GP(), a.GP()
		a.Op("LDPSW.P 8(%s), (%s, %s)", list, px[i], pw[i])
		a.Op("ADD %s<<2, %s, %[1]s", px[i], x)
		a.Op("ADD %s<<2, %s, %[1]s", pw[i], dw)
		acc[i] = a.Vectors(4)
		a.Zero(acc[i]...)
	}
	free := a.Vecs
	xs, g := a.Vectors(rows), a.Vectors(4)
	image := func(lane int) {
		a.Load(dy, 64*lane, g...)
		for i := range acc {
			for v := range g {
				a.fmlaLane(acc[i][v], g[v], xs[i], lane)
			}
		}
	}
	a.Op("SUBS $4, %s", n)
	a.Op("BLT rest")
	a.Loop("fours")
	for i := range px {
		a.Op("FMOVQ.P 16(%s), %s", px[i], xs[i].F())
	}
	for lane := range 4 {
		image(lane)
	}
	a.Op("ADD $256, %s", dy)
	a.Op("SUBS $4, %s", n)
	a.Op("BGE fours")
	a.Label("rest")
	a.Op("ADDS $3, %s", n)
	a.Op("BLT sums")
	a.Loop("ones")
	for i := range px {
		a.Op("FMOVS.P 4(%s), %s", px[i], xs[i].F())
	}
	image(0)
	a.Op("ADD $64, %s", dy)
	a.Op("SUBS $1, %s", n)
	a.Op("BGE ones")
	a.Label("sums")
	a.Op("CBZ %s, write", keep)
	a.Op("// All sums are read before any is written: rows may be the same.")
	a.Vecs = free
	old := a.Vectors(4)
	for i := range acc {
		a.Load(pw[i], 0, old...)
		for v := range old {
			a.fadd(acc[i][v], acc[i][v], old[v])
		}
	}
	a.Label("write")
	for i := range acc {
		a.Store(pw[i], 0, acc[i]...)
	}
	a.Op("RET")
}

// column is the product for one image: vectors of output channels, the weights read once and in order.
func column(f *neon.File, w width) {
	name := fmt.Sprintf("columnNEON%d", w.floats())
	a := begin(f, name, "y, x, w *float32, list *[2]int32, n int", "", fmt.Sprintf(
		"is y[j] += Σ_i x[list[i][0]]·w[list[i][1]+j] for j < %d. Four partial sums take the rows in turn.", w.floats()))
	y, x, weights, list, n := a.Arg("y"), a.Arg("x"), a.Arg("w"), a.Arg("list"), a.Arg("n")
	const parts = 4
	acc := make([][]vec, parts)
	for p := range acc {
		acc[p] = a.Vectors(w.registers())
		a.Zero(acc[p]...)
	}
	values, ws := a.Vectors(2), [][]vec{a.Vectors(w.registers()), a.Vectors(w.registers())} // in turn
	step := func(p int) {
		value, r := values[p%2], ws[p%2]
		a.Op("LDPSW.P 8(%s), (%s, %s)", list, xAt, weightAt)
		a.Op("ADD %s<<2, %s, %[1]s", weightAt, weights)
		a.Op("FMOVS (%s)(%s<<2), %s", x, xAt, value.F())
		w.load(a, weightAt, 0, r)
		for v := range r {
			a.fmlaLane(acc[p][v], r[v], value, 0)
		}
	}
	a.Op("SUBS $%d, %s", parts, n)
	a.Op("BLT rest")
	a.Loop("fours")
	for p := range parts {
		step(p)
	}
	a.Op("SUBS $%d, %s", parts, n)
	a.Op("BGE fours")
	a.Label("rest")
	a.Op("ADDS $%d, %s", parts-1, n)
	a.Op("BLT sum")
	a.Label("ones")
	step(0)
	a.Op("SUBS $1, %s", n)
	a.Op("BGE ones")
	a.Label("sum")
	old := ws[0]
	w.load(a, y, 0, old)
	for v := range old {
		a.fadd(acc[0][v], acc[0][v], acc[1][v])
		a.fadd(acc[2][v], acc[2][v], acc[3][v])
		a.fadd(acc[0][v], acc[0][v], acc[2][v])
		a.fadd(acc[0][v], acc[0][v], old[v])
	}
	w.store(a, y, 0, acc[0])
	a.Op("RET")
}

// transpose turns a block of 8 by 8 as four of 4 by 4: pairs of floats, then pairs of pairs.
func transpose(f *neon.File) {
	a := begin(f, "transposeNEON", "dst, src *float32, ld int", "", "is dst[16b+j] = src[j*ld+b] for b, j < 8; ld in bytes.")
	dst, src, ld := a.Arg("dst"), a.Arg("src"), a.Arg("ld")
	for half := range 2 { // four rows j
		r := [4][]vec{}
		for j := range r {
			r[j] = a.Vectors(2)
			a.Load(src, 0, r[j]...)
			a.Op("ADD %s, %s", ld, src)
		}
		for block := range 2 { // four columns b
			t, out := a.Vectors(4), a.Vectors(4)
			trn := func(n int, as string, lo, hi, d vec) { a.Op("VTRN%d %s, %s, %s", n, hi.As(as), lo.As(as), d.As(as)) }
			for i := range 4 { // t[i] has columns i%2 and i%2+2 of rows 2(i/2) and the next
				trn(1+i%2, "S4", r[i/2*2][block], r[i/2*2+1][block], t[i])
			}
			for b := range 4 {
				trn(1+b/2, "D2", t[b%2], t[2+b%2], out[b])
				a.Op("FMOVQ %s, %d(%s)", out[b].F(), 64*(4*block+b)+16*half, dst)
			}
			a.Vecs -= 8
		}
	}
	a.Op("RET")
}
