// Command gen writes the amd64 assembly of package kernel:
//
//	go run . -out ../kernel_amd64.s -stubs ../stubs_amd64.go -pkg kernel
//
// All vectors are of AVX2: 16 numbers of 16 bits, 8 of 32.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// vectorBytes is the size of a vector; rows are whole vectors long.
const vectorBytes = 32

func main() {
	ConstraintExpr("!purego")
	dot("dotNarrowVector", false)
	dot("dotVector", true)
	outputs()
	back()
	update()
	accumulate()
	norm()
	halves()
	Generate()
}

// function begins a function.
func function(name, args, doc string) {
	TEXT(name, NOSPLIT, "func("+args+")")
	Doc(name + " " + doc)
	Pragma("noescape")
}

// end closes a function.
func end() {
	VZEROUPPER()
	RET()
}

// arg loads an argument into a register.
func arg(name string) GPVirtual {
	r := GP64()
	Load(Param(name), r)
	return r
}

func zero() VecVirtual {
	r := YMM()
	VPXOR(r, r, r)
	return r
}

func add(p GPVirtual, bytes int) { ADDQ(U32(uint32(bytes)), p) }

// rowBytes is the size of a row of k numbers.
func rowBytes(k GPVirtual) GPVirtual {
	ld := GP64()
	LEAQ(Mem{Base: k, Index: k, Scale: 1}, ld)
	return ld
}

// dotRows is the number of rows whose sums over the lanes are taken together.
const dotRows = 4

// dot sums products of pairs. The wide one keeps two sums of them, t: that of t modulo 2^32, and that of the upper halves, t>>16.
// The lower halves are at most 2^16-1 each, so that up to 2^16 of them add up to the difference modulo 2^32 of the
// first sum and 2^16 times the second, exactly; the upper halves are at most 2^15 in size, so that as many add up in an int32.
func dot(name string, wide bool) {
	doc := "Every partial sum fits an int32."
	if wide {
		doc = "k is at most 2^17."
	}
	function(name, "y *int64, w, x *int16, rows, k int", "is y[i] = Σ_j w[i*k+j]·x[j] for i < rows, j < k; k > 0 is a multiple of 16. "+doc)
	y := arg("y")
	products(wide, func(s sums) {
		s.store(y)
		add(y, 8*len(s.low))
	})
}

// outputs ends the narrow sums of products with biases, one rounding and the output's range.
func outputs() {
	function("outputsVector", "y, w, x *int16, bias *int32, rows, k, shift, low, high int",
		"is y[i] = (Σ_j w[i*k+j]·x[j] + bias[i]) / 2^shift, rounded, between low and high, for i < rows, j < k; k > 0 is a multiple of 16. An int32 holds all sums.")
	y, bias, shift := arg("y"), arg("bias"), XMM()
	s, half, low, high := arg("shift"), XMM(), XMM(), XMM()
	VMOVQ(s, shift)
	one := XMM()
	VPCMPEQD(one, one, one)
	VPSRLD(Imm(31), one, one)
	VPSLLD(shift, one, half)
	VPSRLD(Imm(1), half, half) // 2^shift/2: 0 for 0
	for _, b := range []struct {
		name string
		to   VecVirtual
	}{{"low", low}, {"high", high}} {
		VMOVQ(arg(b.name), b.to)
		VPBROADCASTD(b.to, b.to)
	}
	VPBROADCASTD(half, half)
	products(false, func(s sums) {
		t, b := lanes(s.low), XMM()
		if len(s.low) > 1 {
			VPADDD(Mem{Base: bias}, t, t)
		} else {
			VMOVD(Mem{Base: bias}, b)
			VPADDD(b, t, t)
		}
		VPADDD(half, t, t)
		VPSRAD(shift, t, t)
		VPMAXSD(low, t, t)
		VPMINSD(high, t, t)
		VPACKSSDW(t, t, t)
		if len(s.low) > 1 {
			VMOVQ(t, Mem{Base: y})
		} else {
			VPEXTRW(Imm(0), t, Mem{Base: y})
		}
		add(y, 2*len(s.low))
		add(bias, 4*len(s.low))
	})
}

// products sums the products of rows of w with x, and hands the sums of dotRows rows, or of one, to done.
//
// Rows are read one behind the other, the order in which a processor reads memory ahead. Four at a time would share the loads of x,
// but two threads that read locations of 16 rows of 144 from memory (BenchmarkDotNarrow) then get 25 to 32 GB/s, even with
// prefetching, and 36 to 40 so; inference of ResNet20-LC is 2.1 times as fast as in float32 so, 1.83 with four and prefetching
// 4 kB ahead into the second cache (bench speed --only edge).
func products(wide bool, done func(s sums)) {
	w, x, rows, k := arg("w"), arg("x"), arg("rows"), arg("k")
	ld := rowBytes(k)
	block := func(n int) {
		s := newSums(n, wide)
		for i := range n {
			j, row := GP64(), fmt.Sprintf("%dof%d", i+1, n)
			XORQ(j, j)
			vectors := func(n int) {
				for u := range n {
					v := YMM()
					VMOVDQU(Mem{Base: x, Index: j, Scale: 1, Disp: vectorBytes * u}, v)
					s.add(i, v, Mem{Base: w, Index: j, Scale: 1, Disp: vectorBytes * u})
				}
				add(j, n*vectorBytes)
				CMPQ(j, ld)
			}
			TESTQ(U32(vectorBytes), ld)
			JE(LabelRef("pairs" + row))
			vectors(1) // of an odd number
			JE(LabelRef("end" + row))
			Label("pairs" + row)
			vectors(2)
			JB(LabelRef("pairs" + row))
			Label("end" + row)
			ADDQ(ld, w)
		}
		done(s)
	}
	SUBQ(Imm(dotRows), rows)
	JL(LabelRef("rest"))
	Label("rows")
	block(dotRows)
	SUBQ(Imm(dotRows), rows)
	JGE(LabelRef("rows"))
	Label("rest")
	ADDQ(Imm(dotRows-1), rows)
	JL(LabelRef("end"))
	Label("row")
	block(1)
	DECQ(rows)
	JGE(LabelRef("row"))
	Label("end")
	end()
}

// sums are those of 1 or dotRows rows: low modulo 2^32, and, of a wide product, high in units of 2^16.
type sums struct{ low, high []VecVirtual }

func newSums(rows int, wide bool) sums {
	var s sums
	for range rows {
		s.low = append(s.low, zero())
		if wide {
			s.high = append(s.high, zero())
		}
	}
	return s
}

// add adds the products of x and a vector of weights to those of row i.
func (s sums) add(i int, x VecVirtual, w Mem) {
	t := YMM()
	VPMADDWD(w, x, t)
	VPADDD(t, s.low[i], s.low[i])
	if s.high != nil {
		VPSRAD(Imm(16), t, t)
		VPADDD(t, s.high[i], s.high[i])
	}
}

// store writes the sums over all lanes.
func (s sums) store(y GPVirtual) {
	low := lanes(s.low)
	r, put := Op(XMM()), func(r Op) { VMOVQ(r, Mem{Base: y}) }
	if len(s.low) > 1 {
		r, put = YMM(), func(r Op) { VMOVDQU(r, Mem{Base: y}) }
	}
	if s.high == nil {
		VPMOVSXDQ(low, r)
		put(r)
		return
	}
	high, t := lanes(s.high), XMM()
	VPSLLD(Imm(16), high, t)
	VPSUBD(t, low, low)
	VPMOVSXDQ(high, r)
	VPSLLQ(Imm(16), r, r)
	var l Op = XMM()
	if len(s.low) > 1 {
		l = YMM()
	}
	VPMOVZXDQ(low, l)
	VPADDQ(l, r, r)
	put(r)
}

// lanes sums each vector over its lanes: the sums are the first elements of the result.
func lanes(v []VecVirtual) VecVirtual {
	t := v[0]
	if len(v) == dotRows {
		VPHADDD(v[1], v[0], v[0])
		VPHADDD(v[3], v[2], v[2])
		VPHADDD(v[2], v[0], v[0])
	} else {
		VPHADDD(t, t, t)
		VPHADDD(t, t, t)
	}
	h := XMM()
	VEXTRACTI128(Imm(1), t, h)
	VPADDD(t.AsX(), h, h)
	return h
}

// backRows is the number of rows that share the loads and stores of dx. Side by side they are not in the order in which memory is
// read ahead; so what the next call needs is fetched meanwhile. Two threads that read locations of 16 rows of 144 from memory
// (BenchmarkBack) get 25 GB/s so, 15 without.
const backRows = 8

// pairs interleaves two vectors: element j of a is the lower half of a pair, that of b the upper. The first result has
// pairs 0…3 and 8…11, the second the others, as VPACKSSDW wants them.
func pairs(a, b Op) (VecVirtual, VecVirtual) {
	lo, hi := YMM(), YMM()
	VPUNPCKLWD(b, a, lo)
	VPUNPCKHWD(b, a, hi)
	return lo, hi
}

func back() {
	function("backVector", "dx *int32, w *int16, at *[8]int, d *[8]int16, k, next int",
		"adds Σ_i w[at[i]+j]·d[i] to dx[j] for i < 8, j < k; k > 0 is a multiple of 16. It fetches 8k weights from w[next] on to the second cache; they need not exist.")
	dx, w, at, d, k, next := arg("dx"), arg("w"), arg("at"), arg("d"), arg("k"), arg("next")
	LEAQ(Mem{Base: w, Index: next, Scale: 2}, next)
	var row [backRows]GPVirtual
	var factor [backRows / 2]VecVirtual
	for i := range row {
		row[i] = GP64()
		MOVQ(Mem{Base: at, Disp: 8 * i}, row[i])
		LEAQ(Mem{Base: w, Index: row[i], Scale: 2}, row[i])
	}
	for i := range factor {
		factor[i] = YMM()
		VPBROADCASTD(Mem{Base: d, Disp: 4 * i}, factor[i])
	}
	j := GP64()
	XORQ(j, j)
	Label("terms")
	for line := 0; line < backRows*vectorBytes; line += 64 {
		PREFETCHT1(Mem{Base: next, Disp: line})
	}
	add(next, backRows*vectorBytes)
	var lo, hi VecVirtual
	for i := range factor {
		a := YMM()
		VMOVDQU(Mem{Base: row[2*i], Index: j, Scale: 2}, a)
		l, h := pairs(a, Mem{Base: row[2*i+1], Index: j, Scale: 2})
		VPMADDWD(factor[i], l, l)
		VPMADDWD(factor[i], h, h)
		if i == 0 {
			lo, hi = l, h
			continue
		}
		VPADDD(l, lo, lo)
		VPADDD(h, hi, hi)
	}
	for i, half := range []uint64{0x20, 0x31} { // the lower halves of both, the upper halves
		m, v := Mem{Base: dx, Disp: vectorBytes * i}, YMM()
		VPERM2I128(Imm(half), hi, lo, v)
		VPADDD(m, v, v)
		VMOVDQU(v, m)
	}
	add(dx, 2*vectorBytes)
	add(j, vectorBytes/2)
	CMPQ(j, k)
	JB(LabelRef("terms"))
	end()
}

// updater are the constants of an update.
type updater struct {
	middle       VecVirtual // 2^15: half a unit of the random bits
	right, down  VecVirtual // the shift, and what is left of 32
	upper, lower VecVirtual // ±limit
}

func newUpdater() updater {
	u := updater{YMM(), XMM(), XMM(), YMM(), YMM()}
	g := GP64()
	MOVL(U32(1<<15), g.As32())
	VMOVD(g.As32(), u.middle.AsX())
	VPBROADCASTW(u.middle.AsX(), u.middle)
	shift := arg("shift")
	VMOVQ(shift, u.right)
	MOVL(U32(32), g.As32())
	SUBQ(shift, g)
	VMOVQ(g, u.down)
	limit := arg("limit")
	VMOVD(limit.As32(), u.upper.AsX())
	VPBROADCASTW(u.upper.AsX(), u.upper)
	VPXOR(u.lower, u.lower, u.lower)
	VPSUBW(u.upper, u.lower, u.lower)
	return u
}

// apply learns a vector of weights from the sums of pairs. Of the random bits u, fixed.Dither is (2u+1)·2^15 >> 32-shift, whether
// the shift has more bits than u or fewer: u in the upper half of 32 bits, 2^15 in the lower.
func (u updater) apply(lo, hi VecVirtual, w, random Mem) {
	bits := YMM()
	VMOVDQU(random, bits)
	dl, dh := pairs(u.middle, bits)
	for _, s := range [][2]VecVirtual{{lo, dl}, {hi, dh}} {
		VPSRLD(u.down, s[1], s[1])
		VPADDD(s[1], s[0], s[0])
		VPSRAD(u.right, s[0], s[0])
	}
	VPACKSSDW(hi, lo, lo)
	VPADDSW(w, lo, lo)
	VPMINSW(u.upper, lo, lo)
	VPMAXSW(u.lower, lo, lo)
	VMOVDQU(lo, w)
}

// updateOne emits the update with one input; a row whose factor is 0 does not change.
func updateOne(u updater, w, x, d, random, rows, ld GPVirtual) {
	Label("oneRow")
	g := GP32()
	MOVWLZX(Mem{Base: d}, g)
	TESTL(g, g)
	JE(LabelRef("oneNext"))
	factor := YMM() // pairs of the factor and 0
	VMOVD(g, factor.AsX())
	VPBROADCASTD(factor.AsX(), factor)
	j := GP64()
	XORQ(j, j)
	Label("oneTerms")
	v := YMM()
	at := func(base GPVirtual) Mem { return Mem{Base: base, Index: j, Scale: 1} }
	VMOVDQU(at(x), v)
	lo, hi := pairs(v, v)
	VPMADDWD(factor, lo, lo)
	VPMADDWD(factor, hi, hi)
	u.apply(lo, hi, at(w), at(random))
	add(j, vectorBytes)
	CMPQ(j, ld)
	JB(LabelRef("oneTerms"))
	Label("oneNext")
	ADDQ(ld, w)
	ADDQ(ld, random)
	add(d, 2)
	DECQ(rows)
	JNE(LabelRef("oneRow"))
	end()
}

func update() {
	function("updateVector", "w, x, d *int16, random *uint16, inputs, rows, k, shift, limit int",
		"is Update with x (inputs, k) and d (inputs, rows), all above 0; k is a multiple of 16.")
	w, x, d, random := arg("w"), arg("x"), arg("d"), arg("random")
	u := newUpdater()
	ld, ldd := GP64(), GP64()
	Load(Param("k"), ld)
	Load(Param("rows"), ldd)
	ADDQ(ld, ld)
	ADDQ(ldd, ldd)
	rows, left := arg("rows"), arg("inputs")
	CMPQ(left, Imm(1))
	JNE(LabelRef("row"))
	updateOne(u, w, x, d, random, rows, ld)
	Label("row")
	j := GP64()
	XORQ(j, j)
	Label("terms")
	lo, hi := zero(), zero()
	accumulate := func(v VecVirtual, second Op, factors VecVirtual) {
		l, h := pairs(v, second)
		VPMADDWD(factors, l, l)
		VPMADDWD(factors, h, h)
		VPADDD(l, lo, lo)
		VPADDD(h, hi, hi)
	}
	at, p := GP64(), GP64()
	Load(Param("inputs"), left)
	LEAQ(Mem{Base: x, Index: j, Scale: 1}, at)
	MOVQ(d, p)
	SUBQ(Imm(2), left)
	JL(LabelRef("last"))
	Label("pair")
	v, factors, second := YMM(), YMM(), YMM()
	VPBROADCASTW(Mem{Base: p}, factors)
	VPBROADCASTW(Mem{Base: p, Index: ldd, Scale: 1}, second)
	VPBLENDW(Imm(0b10101010), second, factors, factors)
	VMOVDQU(Mem{Base: at}, v)
	accumulate(v, Mem{Base: at, Index: ld, Scale: 1}, factors)
	LEAQ(Mem{Base: at, Index: ld, Scale: 2}, at)
	LEAQ(Mem{Base: p, Index: ldd, Scale: 2}, p)
	SUBQ(Imm(2), left)
	JGE(LabelRef("pair"))
	Label("last") // of an odd number: with a factor of 0 for the second
	INCQ(left)
	JNE(LabelRef("apply"))
	one, factor, none := YMM(), YMM(), zero()
	VPBROADCASTW(Mem{Base: p}, factor)
	VPBLENDW(Imm(0b10101010), none, factor, factor)
	VMOVDQU(Mem{Base: at}, one)
	accumulate(one, one, factor)
	Label("apply")
	u.apply(lo, hi, Mem{Base: w}, Mem{Base: random})
	add(w, vectorBytes)
	add(random, vectorBytes)
	add(j, vectorBytes)
	CMPQ(j, ld)
	JB(LabelRef("terms"))
	add(d, 2)
	DECQ(rows)
	JNE(LabelRef("row"))
	end()
}

func accumulate() {
	function("accumulateVector", "sum *int32, w *int16, n int", "adds w to sum, element by element; n > 0 is a multiple of 16.")
	sum, w, n := arg("sum"), arg("w"), arg("n")
	Label("loop")
	for i := range 2 {
		m, v := Mem{Base: sum, Disp: vectorBytes * i}, YMM()
		VPMOVSXWD(Mem{Base: w, Disp: vectorBytes / 2 * i}, v)
		VPADDD(m, v, v)
		VMOVDQU(v, m)
	}
	add(sum, 2*vectorBytes)
	add(w, vectorBytes)
	SUBQ(Imm(vectorBytes/2), n)
	JNE(LabelRef("loop"))
	end()
}

// norm sums a row's absolute values in pairs, as products with 1; a row below 2^16 elements stays below 2^31.
func norm() {
	function("normVector", "largest *int64, w *int16, rows, k int",
		"sets largest to the largest Σ_j |w[i*k+j]| of the rows; rows > 0, k > 0 is a multiple of 16 and below 2^16.")
	w, rows, k := arg("w"), arg("rows"), arg("k")
	ones := YMM()
	VPCMPEQW(ones, ones, ones)
	VPABSW(ones, ones)
	best, left := zero(), GP64()
	Label("row")
	sum := zero()
	MOVQ(k, left)
	Label("loop")
	v := YMM()
	VPABSW(Mem{Base: w}, v)
	VPMADDWD(ones, v, v)
	VPADDD(v, sum, sum)
	add(w, vectorBytes)
	SUBQ(Imm(vectorBytes/2), left)
	JNE(LabelRef("loop"))
	// Eight lanes to their sum in each.
	other := YMM()
	VPERM2I128(Imm(1), sum, sum, other)
	VPADDD(other, sum, sum)
	VPSHUFD(Imm(0b01001110), sum, other)
	VPADDD(other, sum, sum)
	VPSHUFD(Imm(0b10110001), sum, other)
	VPADDD(other, sum, sum)
	VPMAXSD(sum, best, best)
	DECQ(rows)
	JNE(LabelRef("row"))
	result, n := arg("largest"), GP32()
	VMOVD(best.AsX(), n)
	MOVQ(n.As64(), Mem{Base: result})
	end()
}

// constants is a table of four 64-bit numbers.
func constants(name string, v ...uint64) Mem {
	m := GLOBL(name, RODATA|NOPTR)
	for i := range 4 {
		DATA(8*i, U64(v[i%len(v)]))
	}
	return m
}

// groups is how many vectors of four blocks halves computes side by side.
const groups = 2

// halves computes four blocks a vector, a word of each in the lower half of 64 bits: what is above does not count, since VPMULUDQ
// multiplies the lower halves.
func halves() {
	const mulA, mulB, weylA, weylB = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85    // those of package rng
	order := []Mem{constants("blocks0", 0, 2, 1, 3), constants("blocks1", 4, 6, 5, 7)} // so that the last step interleaves in order
	factorA, factorB := constants("factorA", mulA), constants("factorB", mulB)
	stepA, stepB := constants("stepA", weylA), constants("stepB", weylB)
	function("halvesVector", "dst *uint16, n int, first, key, id uint64", fmt.Sprintf(
		"sets n > 0 times %d numbers of 16 bits to those of the blocks from first on.", 8*4*groups))
	dst, n, first, key, id := arg("dst"), arg("n"), arg("first"), arg("key"), arg("id")
	half := func(g GPVirtual) (lower, upper VecVirtual) { // the halves of a number, in every lane
		lower, upper = YMM(), YMM()
		VMOVQ(g, lower.AsX())
		VPBROADCASTQ(lower.AsX(), lower)
		VPSRLQ(Imm(32), lower, upper)
		return lower, upper
	}
	Label("loop")
	k0, k1 := half(key)
	var c [groups][4]VecVirtual
	for g := range c {
		for i := range c[g] {
			c[g][i] = YMM()
		}
		VMOVQ(first, c[g][0].AsX())
		VPBROADCASTQ(c[g][0].AsX(), c[g][0])
		VPADDQ(order[g], c[g][0], c[g][0])
		VPSRLQ(Imm(32), c[g][0], c[g][1])
		VMOVQ(id, c[g][2].AsX())
		VPBROADCASTQ(c[g][2].AsX(), c[g][2])
		VPSRLQ(Imm(32), c[g][2], c[g][3])
	}
	for round := range 10 {
		for g := range c {
			s := &c[g]
			low0, low1 := YMM(), YMM()
			VPMULUDQ(factorA, s[0], low0)
			VPMULUDQ(factorB, s[2], low1)
			VPXOR(k0, s[1], s[1]) // while the products are under way
			VPXOR(k1, s[3], s[3])
			VPSRLQ(Imm(32), low1, s[0])
			VPXOR(s[1], s[0], s[0])
			VPSRLQ(Imm(32), low0, s[2])
			VPXOR(s[3], s[2], s[2])
			s[1], s[3] = low1, low0
		}
		if round < 9 {
			VPADDD(stepA, k0, k0)
			VPADDD(stepB, k1, k1)
		}
	}
	for g := range c {
		const upper = 0b10101010 // of each 64 bits
		for i := 0; i < 4; i += 2 {
			VPSLLQ(Imm(32), c[g][i+1], c[g][i+1])
			VPBLENDD(Imm(upper), c[g][i+1], c[g][i], c[g][i])
		}
		a, b := c[g][0], c[g][2]
		v := YMM()
		VPUNPCKLQDQ(b, a, v)
		VMOVDQU(v, Mem{Base: dst, Disp: 2 * vectorBytes * g})
		VPUNPCKHQDQ(b, a, v)
		VMOVDQU(v, Mem{Base: dst, Disp: 2*vectorBytes*g + vectorBytes})
	}
	add(dst, 2*vectorBytes*groups)
	add(first, 4*groups)
	DECQ(n)
	JNE(LabelRef("loop"))
	end()
}
