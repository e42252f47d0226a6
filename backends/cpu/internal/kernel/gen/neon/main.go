// Command neon writes the arm64 assembly of package kernel:
//
//	go run ./neon -out ../kernel_arm64.s -stubs ../stubs_arm64.go
//
// Names say operation, processor and tile: productNEON8x2 is the product kernel with a tile of 8 rows by 2 vectors of 4
// floats.
package main

import (
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
	location(f)
	pointwise(f)
}

type (
	gp  = neon.GP
	vec = neon.Vec
)

// function is an assembly function with the instructions that these kernels need.
type function struct{ *neon.Function }

func begin(f *neon.File, name, args, result, doc string) *function {
	return &function{f.Function(name, args, result, doc)}
}

// Instructions on vectors of four floats: the Arm Architecture Reference Manual for A-profile (DDI 0487), Section C7.2.
func (a *function) fadd(d, n, m vec) { a.Three(0x4e20d400, "fadd", "4s", d, n, m) }
func (a *function) fsub(d, n, m vec) { a.Three(0x4ea0d400, "fsub", "4s", d, n, m) }
func (a *function) fmul(d, n, m vec) { a.Three(0x6e20dc00, "fmul", "4s", d, n, m) }
func (a *function) fdiv(d, n, m vec) { a.Three(0x6e20fc00, "fdiv", "4s", d, n, m) }

// fmax is NaN where either is.
func (a *function) fmax(d, n, m vec)  { a.Three(0x4e20f400, "fmax", "4s", d, n, m) }
func (a *function) faddp(d, n, m vec) { a.Three(0x6e20d400, "faddp", "4s", d, n, m) }
func (a *function) fmla(d, n, m vec)  { a.Op("VFMLA %s, %s, %s", m.As("S4"), n.As("S4"), d.As("S4")) }
func (a *function) fmls(d, n, m vec)  { a.Op("VFMLS %s, %s, %s", m.As("S4"), n.As("S4"), d.As("S4")) }

func (a *function) fsqrt(d, n vec) {
	a.Encoded(0x6ea1f800, d, n, 0, "fsqrt v%d.4s, v%d.4s", d, n)
}

func (a *function) fneg(d, n vec) {
	a.Encoded(0x6ea0f800, d, n, 0, "fneg v%d.4s, v%d.4s", d, n)
}

// positive sets all bits of d where n > 0, none elsewhere and where it is NaN.
func (a *function) positive(d, n vec) {
	a.Encoded(0x4ea0c800, d, n, 0, "fcmgt v%d.4s, v%d.4s, #0.0", d, n)
}

// fmlaLane is d += n·m[lane].
func (a *function) fmlaLane(d, n, m vec, lane int) {
	word := 0x4f801000 | uint32(lane&1)<<21 | uint32(lane>>1)<<11
	a.Encoded(word, d, n, m, "fmla v%d.4s, v%d.4s, v%d.s[%d]", d, n, m, lane)
}

// Instructions on vectors of two doubles.
func (a *function) faddDouble(d, n, m vec) { a.Three(0x4e60d400, "fadd", "2d", d, n, m) }
func (a *function) fsubDouble(d, n, m vec) { a.Three(0x4ee0d400, "fsub", "2d", d, n, m) }
func (a *function) fmlaDouble(d, n, m vec) {
	a.Op("VFMLA %s, %s, %s", m.As("D2"), n.As("D2"), d.As("D2"))
}

// widen converts the lower or the upper two floats of n to doubles.
func (a *function) widen(d, n vec, upper bool) {
	if upper {
		a.Encoded(0x4e617800, d, n, 0, "fcvtl2 v%d.2d, v%d.4s", d, n)
	} else {
		a.Encoded(0x0e617800, d, n, 0, "fcvtl v%d.2d, v%d.2s", d, n)
	}
}

// width is how many floats a kernel takes at once: full vectors, or one number in the lowest lane of a vector, whose
// other lanes are 0 when it is loaded.
type width int // vectors, 0 for one number

func (w width) registers() int { return max(1, int(w)) }
func (w width) floats() int    { return max(1, 4*int(w)) }

// load reads so many floats.
func (w width) load(a *function, base gp, offset int, vs []vec) {
	if w == 0 {
		a.Op("FMOVS %d(%s), %s", offset, base, vs[0].F())
		return
	}
	a.Load(base, offset, vs...)
}

func (w width) store(a *function, base gp, offset int, vs []vec) {
	if w == 0 {
		a.Op("FMOVS %s, %d(%s)", vs[0].F(), offset, base)
		return
	}
	a.Store(base, offset, vs...)
}
