// Command neon writes the arm64 assembly of package kernel:
//
//	go run ./neon -out ../kernel_arm64.s -stubs ../stubs_arm64.go
//
// A vector has 8 numbers of 16 bits, 4 of 32; a step of a loop takes 16 columns.
package main

import (
	"fmt"
	"log"

	"hypnos/backends/internal/neon"
)

func main() {
	log.SetFlags(0)
	if err := neon.Write(generate); err != nil {
		log.Fatal(err)
	}
}

func generate(f *neon.File) {
	dot(f, "dotNarrowVector", false)
	dot(f, "dotVector", true)
	outputs(f)
	back(f)
	update(f)
	accumulate(f)
	norm(f)
	halves(f)
}

type (
	gp  = neon.GP
	vec = neon.Vec
)

// function is an assembly function with the instructions that these kernels need: the Arm Architecture Reference Manual for
// A-profile (DDI 0487), Section C7.2.
type function struct{ *neon.Function }

func begin(f *neon.File, name, args, doc string) *function {
	return &function{f.Function(name, args, "", doc)}
}

// columns is how many columns a step takes, and stepBytes their size in a row of 16 bits each.
const columns, stepBytes = 16, 32

// halved is an instruction on the lower or the upper half of n, 4 lanes of 16 bits, as "4h" or "8h" says.
func halved(word uint32, name string, upper bool) (uint32, string, string) {
	if upper {
		return word | 1<<30, name + "2", "8h"
	}
	return word, name, "4h"
}

// smull is d = n·m, lane by lane of half the vectors.
func (a *function) smull(d, n, m vec, upper bool) {
	word, name, as := halved(0x0e60c000, "smull", upper)
	a.Encoded(word, d, n, m, "%s v%d.4s, v%d.%s, v%d.%s", name, d, n, as, m, as)
}

// smlal is d += n·m.
func (a *function) smlal(d, n, m vec, upper bool) {
	word, name, as := halved(0x0e608000, "smlal", upper)
	a.Encoded(word, d, n, m, "%s v%d.4s, v%d.%s, v%d.%s", name, d, n, as, m, as)
}

// smlalLane is d += n·m[lane]; m is one of the lower 16 registers.
func (a *function) smlalLane(d, n, m vec, lane int, upper bool) {
	word, name, as := halved(0x0f402000, "smlal", upper)
	word |= uint32(lane>>2)<<11 | uint32(lane>>1&1)<<21 | uint32(lane&1)<<20
	a.Encoded(word, d, n, m, "%s v%d.4s, v%d.%s, v%d.h[%d]", name, d, n, as, m, lane)
}

// saddw is d += m, 32 bits and 16.
func (a *function) saddw(d, m vec, upper bool) {
	word, name, as := halved(0x0e601000, "saddw", upper)
	a.Encoded(word, d, d, m, "%s v%d.4s, v%d.4s, v%d.%s", name, d, d, m, as)
}

// sqxtn saturates the lanes of n to 16 bits: the lower or the upper half of d.
func (a *function) sqxtn(d, n vec, upper bool) {
	word, name, as := halved(0x0e614800, "sqxtn", upper)
	a.Encoded(word, d, n, 0, "%s v%d.%s, v%d.4s", name, d, as, n)
}

// sadalp adds pairs of 32 bits to lanes of 64.
func (a *function) sadalp(d, n vec) { a.Encoded(0x4ea06800, d, n, 0, "sadalp v%d.2d, v%d.4s", d, n) }

// sxtl widens the lower or the upper two lanes of n to 64 bits.
func (a *function) sxtl(d, n vec, upper bool) {
	if upper {
		a.Encoded(0x4f20a400, d, n, 0, "sxtl2 v%d.2d, v%d.4s", d, n)
	} else {
		a.Encoded(0x0f20a400, d, n, 0, "sxtl v%d.2d, v%d.2s", d, n)
	}
}

// umull is d = n·m of the lower or the upper two lanes, 64 bits each.
func (a *function) umull(d, n, m vec, upper bool) {
	if upper {
		a.Encoded(0x6ea0c000, d, n, m, "umull2 v%d.2d, v%d.4s, v%d.4s", d, n, m)
	} else {
		a.Encoded(0x2ea0c000, d, n, m, "umull v%d.2d, v%d.2s, v%d.2s", d, n, m)
	}
}

// ushl and sshl shift d by the lanes of m, to the right where they are negative.
func (a *function) ushl(d, m vec) { a.Three(0x6ea04400, "ushl", "4s", d, d, m) }
func (a *function) sshl(d, m vec) { a.Three(0x4ea04400, "sshl", "4s", d, d, m) }

func (a *function) sqadd(d, m vec) { a.Three(0x4e600c00, "sqadd", "8h", d, d, m) }
func (a *function) smin(d, m vec)  { a.Three(0x4e606c00, "smin", "8h", d, d, m) }
func (a *function) smax(d, m vec)  { a.Three(0x4e606400, "smax", "8h", d, d, m) }
func (a *function) smin4(d, m vec) { a.Three(0x4ea06c00, "smin", "4s", d, d, m) }
func (a *function) smax4(d, m vec) { a.Three(0x4ea06400, "smax", "4s", d, d, m) }
func (a *function) neg(d, n vec)   { a.Encoded(0x6e60b800, d, n, 0, "neg v%d.8h, v%d.8h", d, n) }

// abs is d = |n|, and uadalp adds pairs of 16 bits to lanes of 32.
func (a *function) abs(d, n vec)    { a.Encoded(0x4e60b800, d, n, 0, "abs v%d.8h, v%d.8h", d, n) }
func (a *function) uadalp(d, n vec) { a.Encoded(0x6e606800, d, n, 0, "uadalp v%d.4s, v%d.8h", d, n) }

// two is an instruction of Go's assembler on three vectors; it names the second operand first.
func (a *function) two(name, as string, d, n, m vec) {
	a.Op("%s %s, %s, %s", name, m.As(as), n.As(as), d.As(as))
}

func (a *function) add(d, m vec)      { a.two("VADD", "S4", d, d, m) }
func (a *function) add2(d, m vec)     { a.two("VADD", "D2", d, d, m) }
func (a *function) addp(d, n, m vec)  { a.two("VADDP", "S4", d, n, m) }
func (a *function) addp2(d, n, m vec) { a.two("VADDP", "D2", d, n, m) }
func (a *function) xor(d, n, m vec)   { a.two("VEOR", "B16", d, n, m) }

// loadStep reads the columns of a step and moves on.
func (a *function) loadStep(p gp, vs []vec) {
	a.Load(p, 0, vs...)
	a.Op("ADD $%d, %s", 16*len(vs), p)
}

// dotRows is the number of rows whose sums over the lanes are taken together.
const dotRows = 4

// dot reads the rows one behind the other, as the amd64 kernel does, and keeps two vectors of sums a row. The wide one adds pairs of
// products, which fit an int32, to them in 64 bits.
func dot(f *neon.File, name string, wide bool) {
	doc := " Every partial sum fits an int32."
	if wide {
		doc = ""
	}
	a := begin(f, name, "y *int64, w, x *int16, rows, k int",
		"is y[i] = Σ_j w[i*k+j]·x[j] for i < rows, j < k; k > 0 is a multiple of 16."+doc)
	y, out := a.Arg("y"), a.Vectors(2)
	a.products(wide, func(sums [][]vec) {
		s := a.lanes(wide, sums)
		if len(sums) == 1 {
			if !wide {
				a.sxtl(s[0], s[0], false)
			}
			a.Op("FMOVD %s, (%s)", s[0].F(), y)
			a.Op("ADD $8, %s", y)
			return
		}
		if !wide {
			a.sxtl(out[0], s[0], false)
			a.sxtl(out[1], s[0], true)
			s = out
		}
		a.Store(y, 0, s...)
		a.Op("ADD $%d, %s", 8*dotRows, y)
	})
}

// outputs ends the narrow sums with biases, one rounding and the output's range.
func outputs(f *neon.File) {
	a := begin(f, "outputsVector", "y, w, x *int16, bias *int32, rows, k, shift, low, high int",
		"is y[i] = (Σ_j w[i*k+j]·x[j] + bias[i]) / 2^shift, rounded, between low and high, for i < rows, j < k; k > 0 is a multiple of 16. An int32 holds all sums.")
	y, bias, t, u := a.Arg("y"), a.Arg("bias"), a.GP(), a.GP()
	half, right, low, high, b := a.Vec(), a.Vec(), a.Vec(), a.Vec(), a.Vec()
	a.Op("MOVD %s, %s", a.Param("shift"), t)
	a.Op("MOVD $1, %s", u)
	a.Op("LSL %s, %s", t, u)
	a.Op("LSR $1, %s", u) // 2^shift/2: 0 for 0
	a.Op("VDUP %s, %s", u, half.As("S4"))
	a.Op("NEG %s, %s", t, t)
	a.Op("VDUP %s, %s", t, right.As("S4"))
	a.Op("MOVD %s, %s", a.Param("low"), t)
	a.Op("VDUP %s, %s", t, low.As("S4"))
	a.Op("MOVD %s, %s", a.Param("high"), t)
	a.Op("VDUP %s, %s", t, high.As("S4"))
	a.products(false, func(sums [][]vec) {
		s := a.lanes(false, sums)[0]
		if len(sums) == 1 {
			a.Op("FMOVS.P 4(%s), %s", bias, b.F())
		} else {
			a.Op("FMOVQ.P 16(%s), %s", bias, b.F())
		}
		a.add(s, b)
		a.add(s, half)
		a.sshl(s, right)
		a.smax4(s, low)
		a.smin4(s, high)
		a.sqxtn(s, s, false)
		if len(sums) == 1 {
			a.Op("VMOV %s[0], %s", s.As("H"), t)
			a.Op("MOVH.P %s, 2(%s)", t, y)
		} else {
			a.Op("FMOVD.P %s, 8(%s)", s.F(), y)
		}
	})
}

// products sums the products of rows of w with x, and hands the sums of dotRows rows, or of one, to done.
func (a *function) products(wide bool, done func(sums [][]vec)) {
	w, x, rows, k := a.Arg("w"), a.Arg("x"), a.Arg("rows"), a.Arg("k")
	px, left := a.GP(), a.GP()
	xs, ws, products := a.Vectors(2), a.Vectors(2), a.Vectors(2)
	sums := make([][]vec, dotRows)
	for i := range sums {
		sums[i] = a.Vectors(2)
	}
	block := func(n int) {
		for i := range n {
			label := fmt.Sprintf("row%dof%d", i+1, n)
			a.Zero(sums[i]...)
			a.Op("MOVD %s, %s", x, px)
			a.Op("MOVD %s, %s", k, left)
			a.Loop(label)
			a.loadStep(px, xs)
			a.loadStep(w, ws)
			for h := range ws {
				if wide {
					a.smull(products[h], ws[h], xs[h], false)
					a.smlal(products[h], ws[h], xs[h], true)
					a.sadalp(sums[i][h], products[h])
				} else {
					a.smlal(sums[i][h], ws[h], xs[h], false)
					a.smlal(sums[i][h], ws[h], xs[h], true)
				}
			}
			a.Op("SUBS $%d, %s", columns, left)
			a.Op("BNE %s", label)
		}
		done(sums[:n])
	}
	a.Op("SUBS $%d, %s", dotRows, rows)
	a.Op("BLT rest")
	a.Label("rows")
	block(dotRows)
	a.Op("SUBS $%d, %s", dotRows, rows)
	a.Op("BGE rows")
	a.Label("rest")
	a.Op("ADDS $%d, %s", dotRows-1, rows)
	a.Op("BLT end")
	a.Label("row")
	block(1)
	a.Op("SUBS $1, %s", rows)
	a.Op("BGE row")
	a.Label("end")
	a.Op("RET")
}

// lanes sums each row's vectors over their lanes: the sums are the first elements of the result, four of 32 bits in a vector or two of
// 64.
func (a *function) lanes(wide bool, sums [][]vec) []vec {
	add, pair := a.add, a.addp
	if wide {
		add, pair = a.add2, a.addp2
	}
	for _, s := range sums {
		add(s[0], s[1])
	}
	if len(sums) == 1 {
		v := sums[0][0]
		pair(v, v, v)
		if !wide {
			pair(v, v, v)
		}
		return []vec{v}
	}
	v := [dotRows]vec{sums[0][0], sums[1][0], sums[2][0], sums[3][0]}
	pair(v[0], v[0], v[1])
	pair(v[2], v[2], v[3])
	if wide {
		return []vec{v[0], v[2]}
	}
	pair(v[0], v[0], v[2])
	return []vec{v[0]}
}

// back has the factors of all rows in one vector.
func back(f *neon.File) {
	const rows = 8
	a := begin(f, "backVector", "dx *int32, w *int16, at *[8]int, d *[8]int16, k, next int",
		"adds Σ_i w[at[i]+j]·d[i] to dx[j] for i < 8, j < k; k > 0 is a multiple of 16. It fetches 8k weights from w[next] on to the second cache; they need not exist.")
	dx, w, at, d, k, next := a.Arg("dx"), a.Arg("w"), a.Arg("at"), a.Arg("d"), a.Arg("k"), a.Arg("next")
	a.Op("ADD %s<<1, %s, %[1]s", next, w)
	factors, sums, ws := a.Vec(), a.Vectors(4), [][]vec{a.Vectors(2), a.Vectors(2)}
	var p [rows]gp
	for i := range p {
		p[i] = a.GP()
		a.Op("MOVD %d(%s), %s", 8*i, at, p[i])
		a.Op("ADD %s<<1, %s, %[1]s", p[i], w)
	}
	a.Load(d, 0, factors)
	a.Loop("terms")
	for line := 0; line < rows*stepBytes; line += 64 {
		a.Op("PRFM %d(%s), PLDL2KEEP", line, next)
	}
	a.Op("ADD $%d, %s", rows*stepBytes, next)
	a.Load(dx, 0, sums...)
	for i := range p {
		row := ws[i%2]
		a.loadStep(p[i], row)
		for q := range sums {
			a.smlalLane(sums[q], row[q/2], factors, i, q%2 == 1)
		}
	}
	a.Store(dx, 0, sums...)
	a.Op("ADD $%d, %s", 16*len(sums), dx)
	a.Op("SUBS $%d, %s", columns, k)
	a.Op("BNE terms")
	a.Op("RET")
}

// update rounds as the amd64 kernel does: of the random bits u, fixed.Dither is (2u+1)·2^15 >> 32-shift, with u in the upper half of
// 32 bits and 2^15 in the lower. A row whose only factor is 0 does not change.
func update(f *neon.File) {
	a := begin(f, "updateVector", "w, x, d *int16, random *uint16, inputs, rows, k, shift, limit int",
		"is Update with x (inputs, k) and d (inputs, rows), all above 0; k is a multiple of 16.")
	w, x, d, random := a.Arg("w"), a.Arg("x"), a.Arg("d"), a.Arg("random")
	inputs, ldd, ld := a.Arg("inputs"), a.Arg("rows"), a.Arg("k")
	rows, left, px, pd, j, t := a.GP(), a.GP(), a.GP(), a.GP(), a.GP(), a.GP()
	middle, right, down, upper, lower := a.Vec(), a.Vec(), a.Vec(), a.Vec(), a.Vec()
	sums, xs, ws, bits, dither, factor := a.Vectors(4), a.Vectors(2), a.Vectors(2), a.Vectors(2), a.Vectors(4), a.Vec()
	a.Op("MOVD $0x8000, %s", t)
	a.Op("VDUP %s, %s", t, middle.As("H8"))
	a.Op("MOVD %s, %s", a.Param("shift"), t)
	a.Op("SUB $32, %s, %s", t, j)
	a.Op("VDUP %s, %s", j, down.As("S4"))
	a.Op("NEG %s, %s", t, t)
	a.Op("VDUP %s, %s", t, right.As("S4"))
	a.Op("MOVD %s, %s", a.Param("limit"), t)
	a.Op("VDUP %s, %s", t, upper.As("H8"))
	a.neg(lower, upper)
	a.Op("MOVD %s, %s", ldd, rows)
	a.Op("LSL $1, %s", ldd)
	a.Op("LSL $1, %s", ld)
	a.Label("row")
	a.Op("CMP $1, %s", inputs)
	a.Op("BNE columns")
	a.Op("MOVH (%s), %s", d, t)
	a.Op("CBNZ %s, columns", t)
	a.Op("ADD %s, %s", ld, w)
	a.Op("ADD %s, %s", ld, random)
	a.Op("B next")
	a.Label("columns")
	a.Op("MOVD $0, %s", j)
	a.Loop("terms")
	a.Zero(sums...)
	a.Op("ADD %s, %s, %s", j, x, px)
	a.Op("MOVD %s, %s", d, pd)
	a.Op("MOVD %s, %s", inputs, left)
	a.Loop("input")
	a.Op("VLD1R (%s), [%s]", pd, factor.As("H8"))
	a.Load(px, 0, xs...)
	for q := range sums {
		a.smlal(sums[q], xs[q/2], factor, q%2 == 1)
	}
	a.Op("ADD %s, %s", ld, px)
	a.Op("ADD %s, %s", ldd, pd)
	a.Op("SUBS $1, %s", left)
	a.Op("BNE input")
	a.loadStep(random, bits)
	a.Load(w, 0, ws...)
	for q := range sums {
		a.two(fmt.Sprintf("VZIP%d", 1+q%2), "H8", dither[q], middle, bits[q/2])
		a.ushl(dither[q], down)
		a.add(sums[q], dither[q])
		a.sshl(sums[q], right)
	}
	for h := range ws {
		change := sums[2*h]
		a.sqxtn(xs[h], change, false)
		a.sqxtn(xs[h], sums[2*h+1], true)
		a.sqadd(ws[h], xs[h])
		a.smin(ws[h], upper)
		a.smax(ws[h], lower)
	}
	a.Store(w, 0, ws...)
	a.Op("ADD $%d, %s", stepBytes, w)
	a.Op("ADD $%d, %s", stepBytes, j)
	a.Op("CMP %s, %s", ld, j)
	a.Op("BLT terms")
	a.Label("next")
	a.Op("ADD $2, %s", d)
	a.Op("SUBS $1, %s", rows)
	a.Op("BNE row")
	a.Op("RET")
}

func accumulate(f *neon.File) {
	a := begin(f, "accumulateVector", "sum *int32, w *int16, n int", "adds w to sum, element by element; n > 0 is a multiple of 16.")
	sum, w, n := a.Arg("sum"), a.Arg("w"), a.Arg("n")
	sums, ws := a.Vectors(4), a.Vectors(2)
	a.Loop("loop")
	a.loadStep(w, ws)
	a.Load(sum, 0, sums...)
	for q := range sums {
		a.saddw(sums[q], ws[q/2], q%2 == 1)
	}
	a.Store(sum, 0, sums...)
	a.Op("ADD $%d, %s", 16*len(sums), sum)
	a.Op("SUBS $%d, %s", columns, n)
	a.Op("BNE loop")
	a.Op("RET")
}

// norm sums a row's absolute values in pairs; a row below 2^16 elements stays below 2^31.
func norm(f *neon.File) {
	a := begin(f, "normVector", "largest *int64, w *int16, rows, k int",
		"sets largest to the largest Σ_j |w[i*k+j]| of the rows; rows > 0, k > 0 is a multiple of 16 and below 2^16.")
	largest, w, rows, k := a.Arg("largest"), a.Arg("w"), a.Arg("rows"), a.Arg("k")
	best, left, n := a.GP(), a.GP(), a.GP()
	sums, ws := a.Vectors(2), a.Vectors(2)
	a.Op("MOVD $0, %s", best)
	a.Label("row")
	a.Zero(sums...)
	a.Op("MOVD %s, %s", k, left)
	a.Loop("terms")
	a.loadStep(w, ws)
	for h := range ws {
		a.abs(ws[h], ws[h])
		a.uadalp(sums[h], ws[h])
	}
	a.Op("SUBS $%d, %s", columns, left)
	a.Op("BNE terms")
	a.add(sums[0], sums[1])
	a.Op("VADDV %s, V%d", sums[0].As("S4"), sums[0])
	a.Op("VMOV %s[0], %s", sums[0].As("S"), n)
	a.Op("CMP %s, %s", best, n)
	a.Op("CSEL HI, %s, %s, %s", n, best, best)
	a.Op("SUBS $1, %s", rows)
	a.Op("BNE row")
	a.Op("MOVD %s, (%s)", best, largest)
	a.Op("RET")
}

// halves computes four blocks side by side, a word of each in a vector, and two such groups.
func halves(f *neon.File) {
	const mulA, mulB, weylA, weylB = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85 // those of package rng
	const groups = 2
	a := begin(f, "halvesVector", "dst *uint16, n int, first, key, id uint64",
		fmt.Sprintf("sets n > 0 times %d numbers of 16 bits to those of the blocks from first on.", 8*4*groups))
	dst, n, first, key, id := a.Arg("dst"), a.Arg("n"), a.Arg("first"), a.Arg("key"), a.Arg("id")
	k0, k1, stepA, stepB, t := a.GP(), a.GP(), a.GP(), a.GP(), a.GP()
	var c [groups][]vec // one behind the other, for the store
	for g := range c {
		c[g] = a.Vectors(4)
	}
	factorA, factorB, one, key0, key1 := a.Vec(), a.Vec(), a.Vec(), a.Vec(), a.Vec()
	id0, id1, low, high := a.Vec(), a.Vec(), a.Vectors(2), a.Vectors(2)
	dup := func(value uint32, v vec) {
		a.Op("MOVD $%#x, %s", value, t)
		a.Op("VDUP %s, %s", t, v.As("S4"))
	}
	dup(mulA, factorA)
	dup(mulB, factorB)
	a.Op("MOVD $%#x, %s", uint32(weylA), stepA)
	a.Op("MOVD $%#x, %s", uint32(weylB), stepB)
	a.Zero(one) // 0 and 1: the two blocks of 64 bits each
	a.Op("MOVD $1, %s", t)
	a.Op("VMOV %s, %s[1]", t, one.As("D"))
	a.Op("VDUP %s, %s", id, id0.As("S4"))
	a.Op("LSR $32, %s", id)
	a.Op("VDUP %s, %s", id, id1.As("S4"))
	a.Loop("loop")
	a.Op("MOVWU %s, %s", key, k0)
	a.Op("LSR $32, %s, %s", key, k1)
	for g := range c {
		for h := range low {
			a.Op("VDUP %s, %s", first, low[h].As("D2"))
			a.two("VADD", "D2", low[h], low[h], one)
			a.Op("ADD $2, %s", first)
		}
		a.two("VUZP1", "S4", c[g][0], low[0], low[1])
		a.two("VUZP2", "S4", c[g][1], low[0], low[1])
		a.Move(c[g][2], id0)
		a.Move(c[g][3], id1)
	}
	for round := range 10 {
		if round > 0 {
			a.Op("ADDW %s, %s", stepA, k0)
			a.Op("ADDW %s, %s", stepB, k1)
		}
		a.Op("VDUP %s, %s", k0, key0.As("S4"))
		a.Op("VDUP %s, %s", k1, key1.As("S4"))
		for g := range c {
			s := c[g]
			for h, upper := range []bool{false, true} {
				a.umull(low[h], s[0], factorA, upper)
				a.umull(high[h], s[2], factorB, upper)
			}
			a.xor(s[1], s[1], key0) // while the products are under way
			a.xor(s[3], s[3], key1)
			a.two("VUZP2", "S4", s[0], high[0], high[1])
			a.xor(s[0], s[0], s[1])
			a.two("VUZP1", "S4", s[1], high[0], high[1])
			a.two("VUZP2", "S4", s[2], low[0], low[1])
			a.xor(s[2], s[2], s[3])
			a.two("VUZP1", "S4", s[3], low[0], low[1])
		}
	}
	for g := range c {
		s := c[g]
		a.Op("VST4.P [%s, %s, %s, %s], 64(%s)", s[0].As("S4"), s[1].As("S4"), s[2].As("S4"), s[3].As("S4"), dst)
	}
	a.Op("SUBS $1, %s", n)
	a.Op("BNE loop")
	a.Op("RET")
}
