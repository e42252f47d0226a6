// Command gen writes the amd64 assembly of package kernel:
//
//	go run . -out ../kernel_amd64.s -stubs ../kernel_amd64.go -pkg kernel
//
// Names say operation, vectors and processor: productAVX512x4x4 is the product kernel with a tile of 4 rows by 4
// vectors of 16 floats.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	for _, isa := range []isa{avx512{}, avx2{}} {
		for _, rows := range []int{4, 1} {
			for _, vectors := range isa.blocks() {
				product(isa, rows, vectors)
			}
		}
	}
	for _, tiles := range []int{1, 2} {
		weightGradient512(tiles)
	}
	weightGradient2()
	for _, images := range []int{8, 4, 2, 1} {
		column512(images)
	}
	strip("AVX512", 1, false, func() VecVirtual { return ZMM() })
	times512()
	for _, images := range []int{4, 2, 1} { // registers for no more
		column2(images)
	}
	strip("AVX2", 2, true, func() VecVirtual { return YMM() })
	transpose512()
	transpose2()
	limits()
	pointwise()
	Generate()
}

// isa is an instruction set as the product kernel uses it.
type isa interface {
	name() string
	width() int         // floats a vector
	blocks() []int      // vectors a tile
	vector() VecVirtual // a register
	masked() Op         // the mask of the tile of one vector, loaded from the argument
	load(m Mem, mask Op, r VecVirtual)
	store(r VecVirtual, mask Op, m Mem)
}

type avx512 struct{}

func (avx512) name() string       { return "AVX512" }
func (avx512) width() int         { return 16 }
func (avx512) blocks() []int      { return []int{4, 2, 1} }
func (avx512) vector() VecVirtual { return ZMM() }
func (avx512) masked() Op {
	n := arg("lanes")
	m := GP64()
	MOVQ(I32(-1), m)
	BZHIQ(n, m, m)
	k := K()
	KMOVW(m.As32(), k)
	return k
}
func (avx512) load(m Mem, mask Op, r VecVirtual) {
	if mask == nil {
		VMOVUPS(m, r)
	} else {
		VMOVUPS_Z(m, mask, r)
	}
}
func (avx512) store(r VecVirtual, mask Op, m Mem) {
	if mask == nil {
		VMOVUPS(r, m)
	} else {
		VMOVUPS(r, mask, m)
	}
}

type avx2 struct{}

func (avx2) name() string       { return "AVX2" }
func (avx2) width() int         { return 8 }
func (avx2) blocks() []int      { return []int{2, 1} }
func (avx2) vector() VecVirtual { return YMM() }
func (avx2) masked() Op {
	// lane i is on where i < lanes
	n := arg("lanes")
	x := XMM()
	VMOVD(n.As32(), x)
	m := YMM()
	VPBROADCASTD(x, m)
	VPCMPGTD(laneNumbers(), m, m)
	return m
}
func (avx2) load(m Mem, mask Op, r VecVirtual) {
	if mask == nil {
		VMOVUPS(m, r)
	} else {
		VMASKMOVPS(m, mask, r)
	}
}
func (avx2) store(r VecVirtual, mask Op, m Mem) {
	if mask == nil {
		VMOVUPS(r, m)
	} else {
		VMASKMOVPS(r, mask, m)
	}
}

var lanes *Mem

// laneNumbers is the vector 0, 1, …, 7.
func laneNumbers() Mem {
	if lanes == nil {
		m := GLOBL("lanes", RODATA|NOPTR)
		for i := range 8 {
			DATA(4*i, U32(i))
		}
		lanes = &m
	}
	return *lanes
}

// arg loads an argument into a register.
func arg(name string) GPVirtual {
	r := GP64()
	Load(Param(name), r)
	return r
}

func product(s isa, rows, vectors int) {
	masked := vectors == 1
	args, units := "y *float32, ldy int, x, w *float32, list *[2]int32, n, step, keep, ahead int", "ldy, step and ahead in bytes. The weights that lie ahead are asked for."
	wide := s.width() == 16
	if wide {
		args += ", further int"
		units = "ldy, step, ahead and further in bytes. The weights that lie ahead and the activations that lie further are asked for."
	}
	if masked {
		args += ", lanes int"
	}
	TEXT(fmt.Sprintf("product%sx%dx%d", s.name(), rows, vectors), NOSPLIT, "func("+args+")")
	Doc(fmt.Sprintf("product%sx%dx%d is y[t*ldy+b] = keep·y + Σ_i x[list[i][0]+b]·w[list[i][1]+t*step] for t < %d and b < %s; n > 0, keep 0 or 1; %s",
		s.name(), rows, vectors, rows, map[bool]string{false: fmt.Sprint(vectors * s.width()), true: "lanes ≤ " + fmt.Sprint(s.width())}[masked], units))
	Pragma("noescape")
	y := arg("y")
	ldy := arg("ldy")
	x := arg("x")
	w := arg("w")
	list := arg("list")
	n := arg("n")
	step := arg("step")
	ahead := arg("ahead")
	var further GPVirtual
	if wide {
		further = arg("further")
		ADDQ(x, further)
	}
	var mask Op
	if masked {
		mask = s.masked()
	}
	ldy3, step3 := GP64(), GP64()
	if rows == 4 {
		LEAQ(Mem{Base: ldy, Index: ldy, Scale: 2}, ldy3)
		LEAQ(Mem{Base: step, Index: step, Scale: 2}, step3)
	}
	row := func(base, ld, ld3 GPVirtual, t int) Mem {
		switch t {
		case 1:
			return Mem{Base: base, Index: ld, Scale: 1}
		case 2:
			return Mem{Base: base, Index: ld, Scale: 2}
		case 3:
			return Mem{Base: base, Index: ld3, Scale: 1}
		}
		return Mem{Base: base}
	}
	Comment("acc[t][v] is y[t*ldy + v*width ...]")
	acc := make([][]VecVirtual, rows)
	for t := range acc {
		for range vectors {
			acc[t] = append(acc[t], zero(s.vector()))
		}
	}
	Comment("y is on its way while the sums are computed.")
	for t := range acc {
		for line := 0; line < 4*s.width()*vectors; line += 64 {
			PREFETCHT0(row(y, ldy, ldy3, t).Offset(line))
		}
	}
	CMPQ(arg("keep"), Imm(0))
	JE(LabelRef("loop"))
	for t := range acc {
		for v := range vectors {
			s.load(row(y, ldy, ldy3, t).Offset(4*s.width()*v), mask, acc[t][v])
		}
	}
	b := s.vector()
	term := func(i int, ask func(xo, wo GPVirtual)) {
		xo, wo := GP64(), GP64()
		MOVLQSX(Mem{Base: list, Disp: 8 * i}, xo)
		MOVLQSX(Mem{Base: list, Disp: 8*i + 4}, wo)
		LEAQ(Mem{Base: w, Index: wo, Scale: 4}, wo)
		xs := make([]VecVirtual, vectors)
		for v := range xs {
			xs[v] = s.vector()
			s.load(Mem{Base: x, Index: xo, Scale: 4, Disp: 4 * s.width() * v}, mask, xs[v])
		}
		ask(xo, wo)
		for t := range rows {
			VBROADCASTSS(row(wo, step, step3, t), b)
			for v := range vectors {
				VFMADD231PS(b, xs[v], acc[t][v])
			}
		}
	}
	askWeights := func(wo GPVirtual, from, to int) {
		if from == to {
			return
		}
		next := GP64()
		LEAQ(Mem{Base: wo, Index: ahead, Scale: 1}, next)
		for t := from; t < to; t++ {
			PREFETCHT0(row(next, step, step3, t))
		}
	}
	if wide {
		Label("loop")
		term(0, func(xo, wo GPVirtual) {
			askWeights(wo, 0, rows)
			PREFETCHT1(Mem{Base: further, Index: xo, Scale: 4})
		})
		ADDQ(Imm(8), list)
		DECQ(n)
		JNE(LabelRef("loop"))
	} else { // there are no instructions to spare: the other ones of a term take as long as its multiply-adds
		Comment("Of four terms each asks for the weights of one row, in lines that have those of the other terms too.")
		Label("loop")
		CMPQ(n, Imm(4))
		JLT(LabelRef("rest"))
		for i := range 4 {
			term(i, func(_, wo GPVirtual) { askWeights(wo, min(i, rows), min(i+1, rows)) })
		}
		ADDQ(Imm(32), list)
		SUBQ(Imm(4), n)
		JMP(LabelRef("loop"))
		Label("rest")
		TESTQ(n, n)
		JE(LabelRef("done"))
		term(0, func(_, _ GPVirtual) {})
		ADDQ(Imm(8), list)
		DECQ(n)
		JMP(LabelRef("rest"))
		Label("done")
	}
	for t := range acc {
		for v := range vectors {
			s.store(acc[t][v], mask, row(y, ldy, ldy3, t).Offset(4*s.width()*v))
		}
	}
	VZEROUPPER()
	RET()
}

// eachLine begins a loop over the images b of a weight gradient, line by line of the cache: those of the rows that lie
// further are asked for. endLine ends it.
func eachLine(rows []GPVirtual) (b, end GPVirtual) {
	b, further, end := GP64(), arg("further"), GP64()
	XORQ(b, b)
	Label("line")
	for _, row := range rows {
		PREFETCHT1(Mem{Base: row, Index: further, Scale: 4})
	}
	ADDQ(Imm(16), further)
	LEAQ(Mem{Base: b, Disp: 16}, end)
	CMPQ(end, images())
	JLE(LabelRef("loop"))
	MOVQ(images(), end)
	Label("loop")
	return b, end
}

func endLine(b, end GPVirtual) {
	CMPQ(b, end)
	JNE(LabelRef("loop"))
	CMPQ(b, images())
	JNE(LabelRef("line"))
}

// images is the argument b of a weight gradient, which stays in memory: there are no registers to spare.
func images() Mem { return NewParamAddr("b", 32) }

// weightGradient512 handles eight rows at a time, by one tile of up to 16 output channels or two full ones.
func weightGradient512(tiles int) {
	args, lanes := "dw, x *float32, list *[2]int32, dy *float32, b, further, keep, lanes int", "lanes ≤ 16"
	if tiles == 2 {
		args, lanes = "dw, x *float32, list *[2]int32, dy *float32, b, further, keep, dyTile, dwTile int", "16"
	}
	TEXT(fmt.Sprintf("weightGradientAVX512x%d", tiles), NOSPLIT, "func("+args+")")
	Doc(fmt.Sprintf("weightGradientAVX512x%d is dw[list[i][1] + u*dwTile + j] = keep·dw + Σ_b x[list[i][0]+b]·dy[u*dyTile + 16b+j] for i < 8, u < %d, j < %s; b > 0, keep 0 or 1; dyTile and dwTile in bytes, further in elements. The activations that lie further are asked for. Rows may be the same.", tiles, tiles, lanes))
	Pragma("noescape")
	x := arg("x")
	list := arg("list")
	dy := arg("dy")
	var dyTile GPVirtual
	if tiles == 2 {
		dyTile = arg("dyTile")
	}
	var px [8]GPVirtual
	for i := range px {
		px[i] = GP64()
		MOVLQSX(Mem{Base: list, Disp: 8 * i}, px[i])
		LEAQ(Mem{Base: x, Index: px[i], Scale: 4}, px[i])
	}
	Comment("The rows to write are on their way while their sums are computed.")
	to, row := arg("dw"), GP64()
	for i := range px {
		MOVLQSX(Mem{Base: list, Disp: 8*i + 4}, row)
		LEAQ(Mem{Base: to, Index: row, Scale: 4}, row)
		PREFETCHT0(Mem{Base: row})
		if tiles == 2 {
			further := arg("dwTile")
			PREFETCHT0(Mem{Base: row, Index: further, Scale: 1})
		}
	}
	var acc [8][]VecVirtual
	for i := range acc {
		for range tiles {
			acc[i] = append(acc[i], zero(ZMM()))
		}
	}
	b, end := eachLine(px[:])
	g := []VecVirtual{ZMM(), ZMM()}
	VMOVUPS(Mem{Base: dy}, g[0])
	if tiles == 2 {
		VMOVUPS(Mem{Base: dy, Index: dyTile, Scale: 1}, g[1])
	}
	for i := range px {
		m := Mem{Base: px[i], Index: b, Scale: 4}
		if tiles == 1 {
			VFMADD231PS_BCST(m, g[0], acc[i][0])
			continue
		}
		v := ZMM()
		VBROADCASTSS(m, v)
		VFMADD231PS(v, g[0], acc[i][0])
		VFMADD231PS(v, g[1], acc[i][1])
	}
	ADDQ(Imm(64), dy)
	INCQ(b)
	endLine(b, end)
	dw := arg("dw")
	var dwTile GPVirtual
	var mask Op
	if tiles == 2 {
		dwTile = arg("dwTile")
	} else {
		mask = avx512{}.masked()
	}
	at := GP64()
	each := func(f func(m Mem, r VecVirtual)) {
		for i := range acc {
			MOVLQSX(Mem{Base: list, Disp: 8*i + 4}, at)
			LEAQ(Mem{Base: dw, Index: at, Scale: 4}, at)
			f(Mem{Base: at}, acc[i][0])
			if tiles == 2 {
				f(Mem{Base: at, Index: dwTile, Scale: 1}, acc[i][1])
			}
		}
	}
	CMPQ(arg("keep"), Imm(0))
	JE(LabelRef("write"))
	Comment("All sums are read before any is written: rows may be the same.")
	each(func(m Mem, r VecVirtual) {
		old := ZMM()
		avx512{}.load(m, mask, old)
		VADDPS(old, r, r)
	})
	Label("write")
	each(func(m Mem, r VecVirtual) { avx512{}.store(r, mask, m) })
	VZEROUPPER()
	RET()
}

func zero(r VecVirtual) VecVirtual {
	VXORPS(r, r, r)
	return r
}

// halves2 are the masks of the two vectors of a tile of 16.
func halves2() [2]Op {
	n := arg("lanes")
	var masks [2]Op
	for u := range 2 {
		x, m := XMM(), YMM()
		VMOVD(n.As32(), x)
		VPBROADCASTD(x, m)
		VPCMPGTD(laneNumbers(), m, m)
		masks[u] = m
		SUBQ(Imm(8), n)
	}
	return masks
}

// weightGradient2 handles four rows at a time by a tile of up to 16 output channels.
func weightGradient2() {
	TEXT("weightGradientAVX2", NOSPLIT, "func(dw, x *float32, list *[2]int32, dy *float32, b, further, keep, lanes int)")
	Doc("weightGradientAVX2 is dw[list[i][1] + j] = keep·dw + Σ_b x[list[i][0]+b]·dy[16b+j] for i < 4, j < lanes ≤ 16; b > 0, keep 0 or 1; further in elements. The activations that lie further are asked for. Rows may be the same.")
	Pragma("noescape")
	dw := arg("dw")
	x := arg("x")
	list := arg("list")
	dy := arg("dy")
	const rows = 4
	var px [rows]GPVirtual
	var acc [rows][2]VecVirtual
	for i := range px {
		px[i] = GP64()
		MOVLQSX(Mem{Base: list, Disp: 8 * i}, px[i])
		LEAQ(Mem{Base: x, Index: px[i], Scale: 4}, px[i])
		acc[i] = [2]VecVirtual{zero(YMM()), zero(YMM())}
	}
	b, end := eachLine(px[:])
	g := [2]VecVirtual{YMM(), YMM()}
	VMOVUPS(Mem{Base: dy}, g[0])
	VMOVUPS(Mem{Base: dy, Disp: 32}, g[1])
	for i := range px {
		v := YMM()
		VBROADCASTSS(Mem{Base: px[i], Index: b, Scale: 4}, v)
		VFMADD231PS(v, g[0], acc[i][0])
		VFMADD231PS(v, g[1], acc[i][1])
	}
	ADDQ(Imm(64), dy)
	INCQ(b)
	endLine(b, end)
	masks := halves2()
	at := GP64()
	each := func(f func(m Mem, mask Op, r VecVirtual)) {
		for i := range acc {
			MOVLQSX(Mem{Base: list, Disp: 8*i + 4}, at)
			LEAQ(Mem{Base: dw, Index: at, Scale: 4}, at)
			for u := range 2 {
				f(Mem{Base: at, Disp: 32 * u}, masks[u], acc[i][u])
			}
		}
	}
	CMPQ(arg("keep"), Imm(0))
	JE(LabelRef("write"))
	Comment("All sums are read before any is written: rows may be the same.")
	each(func(m Mem, mask Op, r VecVirtual) {
		old := YMM()
		avx2{}.load(m, mask, old)
		VADDPS(old, r, r)
	})
	Label("write")
	each(func(m Mem, mask Op, r VecVirtual) { avx2{}.store(r, mask, m) })
	VZEROUPPER()
	RET()
}

// column is the product for few images: a vector is the output channels of a tile, and the weights are read once and in
// order, because a pass with few images is over when they have been read. asks makes it ask for the lines ahead early, without
// which AVX2 takes twice the time; AVX-512 reads whole lines and is quicker without.
func column(name string, images, vectors int, asks bool, vector func() VecVirtual, masks func() []Op, load func(Mem, Op, VecVirtual), store func(VecVirtual, Op, Mem)) {
	TEXT(fmt.Sprintf("column%sx%d", name, images), NOSPLIT, "func(y, x, w *float32, list *[2]int32, n, lanes int)")
	parts := max(1, 4/images)
	in := ""
	if parts > 1 {
		in = fmt.Sprintf(" %d partial sums take the rows in turn.", parts)
	}
	Doc(fmt.Sprintf("column%sx%d is y[16b+j] += Σ_i x[list[i][0]+b]·w[list[i][1]+j] for b < %d, j < lanes ≤ 16.%s", name, images, images, in))
	Pragma("noescape")
	y := arg("y")
	x := arg("x")
	w := arg("w")
	list := arg("list")
	n := arg("n")
	mask := masks()
	acc := make([][][]VecVirtual, parts) // [part][image][vector]
	for p := range acc {
		for b := range images {
			acc[p] = append(acc[p], nil)
			for range vectors {
				acc[p][b] = append(acc[p][b], zero(vector()))
			}
		}
	}
	step := func(p, disp int) {
		xo, wo := GP64(), GP64()
		MOVLQSX(Mem{Base: list, Disp: disp}, xo)
		MOVLQSX(Mem{Base: list, Disp: disp + 4}, wo)
		if asks {
			PREFETCHT0(Mem{Base: w, Index: wo, Scale: 4, Disp: ahead})
		}
		rows := make([]VecVirtual, vectors)
		for u := range rows {
			rows[u] = vector()
			load(Mem{Base: w, Index: wo, Scale: 4, Disp: 64 / vectors * u}, mask[u], rows[u])
		}
		for b := range images {
			v := vector()
			VBROADCASTSS(Mem{Base: x, Index: xo, Scale: 4, Disp: 4 * b}, v)
			for u := range rows {
				VFMADD231PS(v, rows[u], acc[p][b][u])
			}
		}
	}
	const unrolled = 4
	Label("fours")
	CMPQ(n, Imm(unrolled))
	JLT(LabelRef("rest"))
	for i := range unrolled {
		step(i%parts, 8*i)
	}
	ADDQ(Imm(8*unrolled), list)
	SUBQ(Imm(unrolled), n)
	JMP(LabelRef("fours"))
	Label("rest")
	TESTQ(n, n)
	JE(LabelRef("sum"))
	step(0, 0)
	ADDQ(Imm(8), list)
	DECQ(n)
	JMP(LabelRef("rest"))
	Label("sum")
	for b := range images {
		for u := range vectors {
			for half := parts / 2; half > 0; half /= 2 {
				for p := range half {
					VADDPS(acc[p+half][b][u], acc[p][b][u], acc[p][b][u])
				}
			}
			old := vector()
			m := Mem{Base: y, Disp: 64*b + 64/vectors*u}
			load(m, mask[u], old)
			VADDPS(old, acc[0][b][u], acc[0][b][u])
			store(acc[0][b][u], mask[u], m)
		}
	}
	VZEROUPPER()
	RET()
}

// strip is the column of one image for positions that follow each other, tile after tile, whose rows of weights do so, too. Between
// calls for each of them memory would wait: a location of 144 rows comes in 0.3 µs.
func strip(name string, vectors int, asks bool, vector func() VecVirtual) {
	TEXT("strip"+name, NOSPLIT, "func(y, x, w *float32, list *[2]int32, n, tiles, positions, nextX, nextW int)")
	Doc(fmt.Sprintf("strip%s is y[16(pt+u)+j] = Σ_i x[list[i][0]+p·nextX]·w[(pt+u)·nextW+16i+j] for p < positions, u < t = tiles, j < 16, nextX and nextW in bytes. 4 partial sums take the rows in turn.", name))
	Pragma("noescape")
	y, x, w, list := arg("y"), arg("x"), arg("w"), arg("list")
	positions, nextX, nextW := arg("positions"), arg("nextX"), arg("nextW")
	const parts = 4
	Label("position")
	tiles := arg("tiles")
	Label("tile")
	at, pair, n := GP64(), GP64(), arg("n")
	MOVQ(w, at)
	MOVQ(list, pair)
	acc := make([][]VecVirtual, parts)
	for p := range acc {
		for range vectors {
			acc[p] = append(acc[p], zero(vector()))
		}
	}
	step := func(p, i int) {
		xo := GP64()
		MOVLQSX(Mem{Base: pair, Disp: 8 * i}, xo)
		if asks {
			PREFETCHT0(Mem{Base: at, Disp: 64*i + ahead})
		}
		v := vector()
		VBROADCASTSS(Mem{Base: x, Index: xo, Scale: 4}, v)
		for u := range vectors {
			VFMADD231PS(Mem{Base: at, Disp: 64*i + 64/vectors*u}, v, acc[p][u])
		}
	}
	Label("fours")
	CMPQ(n, Imm(parts))
	JLT(LabelRef("rest"))
	for i := range parts {
		step(i, i)
	}
	ADDQ(Imm(8*parts), pair)
	ADDQ(U32(64*parts), at)
	SUBQ(Imm(parts), n)
	JMP(LabelRef("fours"))
	Label("rest")
	TESTQ(n, n)
	JE(LabelRef("sum"))
	step(0, 0)
	ADDQ(Imm(8), pair)
	ADDQ(Imm(64), at)
	DECQ(n)
	JMP(LabelRef("rest"))
	Label("sum")
	for u := range vectors {
		VADDPS(acc[2][u], acc[0][u], acc[0][u])
		VADDPS(acc[3][u], acc[1][u], acc[1][u])
		VADDPS(acc[1][u], acc[0][u], acc[0][u])
		VMOVUPS(acc[0][u], Mem{Base: y, Disp: 64 / vectors * u})
	}
	ADDQ(Imm(64), y)
	ADDQ(nextW, w)
	DECQ(tiles)
	JNE(LabelRef("tile"))
	ADDQ(nextX, x)
	DECQ(positions)
	JNE(LabelRef("position"))
	VZEROUPPER()
	RET()
}

// ahead is how many bytes of weights ahead of those in use are asked for.
const ahead = 2048

func column512(images int) {
	column("AVX512", images, 1, false, func() VecVirtual { return ZMM() }, func() []Op { return []Op{avx512{}.masked()} }, avx512{}.load, avx512{}.store)
}

func column2(images int) {
	column("AVX2", images, 2, true, func() VecVirtual { return YMM() }, func() []Op { m := halves2(); return m[:] }, avx2{}.load, avx2{}.store)
}

// times512 multiplies two tiles by a panel of a matrix: an element of the matrix is broadcast once for both, and 16 sums
// are under way, twice as many as it takes to hide the latency of a multiply-add.
func times512() {
	TEXT("timesAVX512", NOSPLIT, "func(y, m, x *float32, columns, nextY, nextX int)")
	Doc("timesAVX512 adds a panel of a matrix, (columns, 8), times a tile x, (columns, 16), to a tile y, (8, 16), and the same for the tiles that lie nextX and nextY bytes further.")
	Pragma("noescape")
	y, m, x, n := arg("y"), arg("m"), arg("x"), arg("columns")
	nextY, nextX := arg("nextY"), arg("nextX")
	const rows, tiles = 8, 2
	var acc [rows][tiles]VecVirtual
	for r := range acc {
		acc[r] = [tiles]VecVirtual{zero(ZMM()), zero(ZMM())}
	}
	Label("loop")
	TESTQ(n, n)
	JE(LabelRef("sum"))
	row := [tiles]VecVirtual{ZMM(), ZMM()}
	VMOVUPS(Mem{Base: x}, row[0])
	VMOVUPS(Mem{Base: x, Index: nextX, Scale: 1}, row[1])
	for r := range acc {
		v := ZMM()
		VBROADCASTSS(Mem{Base: m, Disp: 4 * r}, v)
		for t := range row {
			VFMADD231PS(v, row[t], acc[r][t])
		}
	}
	ADDQ(Imm(64), x)
	ADDQ(Imm(4*rows), m)
	DECQ(n)
	JMP(LabelRef("loop"))
	Label("sum")
	for r := range acc {
		for t, at := range [tiles]Mem{{Base: y, Disp: 64 * r}, {Base: y, Index: nextY, Scale: 1, Disp: 64 * r}} {
			VADDPS(at, acc[r][t], acc[r][t])
			VMOVUPS(acc[r][t], at)
		}
	}
	VZEROUPPER()
	RET()
}

// transpose512 turns a block of 16 by 16: pairs, quadruples, then the 128-bit lanes.
func transpose512() {
	TEXT("transposeAVX512", NOSPLIT, "func(dst, src *float32, ld, further int)")
	Doc("transposeAVX512 is dst[16b+j] = src[j*ld+b] for b, j < 16; ld and further in bytes. What lies further than src is asked for.")
	Pragma("noescape")
	dst := arg("dst")
	src := arg("src")
	ld := arg("ld")
	further := arg("further")
	r := make([]VecVirtual, 16)
	for j := range r {
		r[j] = ZMM()
		VMOVUPS(Mem{Base: src}, r[j])
		PREFETCHT1(Mem{Base: src, Index: further, Scale: 1})
		if j < 15 {
			ADDQ(ld, src)
		}
	}
	t := make([]VecVirtual, 16)
	for j := 0; j < 16; j += 2 {
		t[j], t[j+1] = ZMM(), ZMM()
		VUNPCKLPS(r[j+1], r[j], t[j])
		VUNPCKHPS(r[j+1], r[j], t[j+1])
	}
	// u[4q+c] holds, in 128-bit lane l, rows 4q…4q+3 of column 4l+c.
	u := make([]VecVirtual, 16)
	for q := range 4 {
		for c := range 4 {
			u[4*q+c] = ZMM()
			a, b := t[4*q+c/2], t[4*q+2+c/2]
			if c%2 == 0 {
				VUNPCKLPD(b, a, u[4*q+c])
			} else {
				VUNPCKHPD(b, a, u[4*q+c])
			}
		}
	}
	// A 4x4 transposition of lanes for each c.
	for c := range 4 {
		lo01, lo23, hi01, hi23 := ZMM(), ZMM(), ZMM(), ZMM()
		VSHUFF32X4(Imm(0x44), u[4+c], u[c], lo01)    // lanes 0, 1 of q = 0, 1
		VSHUFF32X4(Imm(0x44), u[12+c], u[8+c], lo23) // lanes 0, 1 of q = 2, 3
		VSHUFF32X4(Imm(0xee), u[4+c], u[c], hi01)
		VSHUFF32X4(Imm(0xee), u[12+c], u[8+c], hi23)
		for l := range 4 {
			a, b := lo01, lo23
			if l >= 2 {
				a, b = hi01, hi23
			}
			out := ZMM()
			VSHUFF32X4(Imm(uint64([]int{0x88, 0xdd}[l%2])), b, a, out)
			VMOVUPS(out, Mem{Base: dst, Disp: 64 * (4*l + c)})
		}
	}
	VZEROUPPER()
	RET()
}

// transpose2 turns a block of 8 by 8.
func transpose2() {
	TEXT("transposeAVX2", NOSPLIT, "func(dst, src *float32, ld, further int)")
	Doc("transposeAVX2 is dst[16b+j] = src[j*ld+b] for b, j < 8; ld and further in bytes. What lies further than src is asked for.")
	Pragma("noescape")
	dst := arg("dst")
	src := arg("src")
	ld := arg("ld")
	further := arg("further")
	r := make([]VecVirtual, 8)
	for j := range r {
		r[j] = YMM()
		VMOVUPS(Mem{Base: src}, r[j])
		PREFETCHT1(Mem{Base: src, Index: further, Scale: 1})
		if j < 7 {
			ADDQ(ld, src)
		}
	}
	t := make([]VecVirtual, 8)
	for j := 0; j < 8; j += 2 {
		t[j], t[j+1] = YMM(), YMM()
		VUNPCKLPS(r[j+1], r[j], t[j])
		VUNPCKHPS(r[j+1], r[j], t[j+1])
	}
	// u[4q+c] holds, in 128-bit lane l, rows 4q…4q+3 of column 4l+c.
	u := make([]VecVirtual, 8)
	for q := range 2 {
		for c := range 4 {
			u[4*q+c] = YMM()
			a, b := t[4*q+c/2], t[4*q+2+c/2]
			if c%2 == 0 {
				VUNPCKLPD(b, a, u[4*q+c])
			} else {
				VUNPCKHPD(b, a, u[4*q+c])
			}
		}
	}
	for c := range 4 {
		for l := range 2 {
			out := YMM()
			VPERM2F128(Imm(uint64(0x20+0x11*l)), u[4+c], u[c], out)
			VMOVUPS(out, Mem{Base: dst, Disp: 64 * (4*l + c)})
		}
	}
	VZEROUPPER()
	RET()
}
