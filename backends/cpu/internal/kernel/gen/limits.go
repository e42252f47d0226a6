package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The kernels here compute nothing of use: they load the processor and the memory as far as the instruction set can.

// block is the number of floats that a loop of these kernels handles at once.
const block = 128

func limits() {
	for _, s := range []isa{avx512{}, avx2{}} {
		fmaPeak(s)
		readBlocks(s)
		copyBlocks(s, "copy", "with ordinary stores", func(r VecVirtual, m Mem) { VMOVUPS(r, m) })
		copyBlocks(s, "stream", "with stores past the caches, dst on a multiple of 64 bytes", func(r VecVirtual, m Mem) { VMOVNTPS(r, m) })
		scaleBlocks(s)
	}
}

// limit begins a kernel.
func limit(s isa, name, args, doc string) {
	TEXT(name+s.name(), NOSPLIT, "func("+args+")")
	Doc(name + s.name() + " " + doc)
	Pragma("noescape")
}

// eachBlock emits a loop over n blocks: body handles one, whose vectors it gets as groups of eight.
func eachBlock(s isa, n GPVirtual, pointers []GPVirtual, body func(vectors [8]int)) {
	Label("block")
	for first := 0; first < block/s.width(); first += 8 {
		var disp [8]int
		for i := range disp {
			disp[i] = 4 * s.width() * (first + i)
		}
		body(disp)
	}
	for _, p := range pointers {
		ADDQ(U32(4*block), p)
	}
	DECQ(n)
	JNE(LabelRef("block"))
}

// end closes a kernel.
func end() {
	VZEROUPPER()
	RET()
}

// addAll adds all vectors to the first.
func addAll(acc []VecVirtual) {
	for _, r := range acc[1:] {
		VADDPS(r, acc[0], acc[0])
	}
}

func fmaPeak(s isa) {
	const accumulators, rounds = 12, 2 // enough to hide the latency of two units, with room for the factors
	limit(s, "fmaPeak", "x *float32, n int", fmt.Sprintf(
		"adds x[0]·x[1] to each number of %d vectors, %d times in each of n > 0 rounds, and leaves the vectors' sum in x[:%d].",
		accumulators, rounds, s.width()))
	x, n := arg("x"), arg("n")
	a, b := s.vector(), s.vector()
	VBROADCASTSS(Mem{Base: x}, a)
	VBROADCASTSS(Mem{Base: x, Disp: 4}, b)
	acc := make([]VecVirtual, accumulators)
	for i := range acc {
		acc[i] = zero(s.vector())
	}
	Label("round")
	for range rounds {
		for _, r := range acc {
			VFMADD231PS(a, b, r)
		}
	}
	DECQ(n)
	JNE(LabelRef("round"))
	addAll(acc)
	VMOVUPS(acc[0], Mem{Base: x})
	end()
}

func readBlocks(s isa) {
	limit(s, "read", "sum, x *float32, n int", fmt.Sprintf(
		"leaves in sum[:%d] the sums of every %d-th number of n > 0 blocks of %d.", s.width(), s.width(), block))
	sum, x, n := arg("sum"), arg("x"), arg("n")
	acc := make([]VecVirtual, 8)
	for i := range acc {
		acc[i] = zero(s.vector())
	}
	eachBlock(s, n, []GPVirtual{x}, func(disp [8]int) {
		for i, d := range disp {
			VADDPS(Mem{Base: x, Disp: d}, acc[i], acc[i])
		}
	})
	addAll(acc)
	VMOVUPS(acc[0], Mem{Base: sum})
	end()
}

func copyBlocks(s isa, name, how string, store func(VecVirtual, Mem)) {
	limit(s, name, "dst, src *float32, n int", fmt.Sprintf("copies n > 0 blocks of %d %s.", block, how))
	dst, src, n := arg("dst"), arg("src"), arg("n")
	r := make([]VecVirtual, 8)
	for i := range r {
		r[i] = s.vector()
	}
	eachBlock(s, n, []GPVirtual{dst, src}, func(disp [8]int) {
		for i, d := range disp {
			VMOVUPS(Mem{Base: src, Disp: d}, r[i])
		}
		for i, d := range disp {
			store(r[i], Mem{Base: dst, Disp: d})
		}
	})
	SFENCE()
	end()
}

func scaleBlocks(s isa) {
	limit(s, "scale", "x *float32, n int, factor float32", fmt.Sprintf("multiplies n > 0 blocks of %d in place.", block))
	x, n := arg("x"), arg("n")
	f := XMM()
	Load(Param("factor"), f)
	c := s.vector()
	VBROADCASTSS(f, c)
	r := make([]VecVirtual, 8)
	for i := range r {
		r[i] = s.vector()
	}
	eachBlock(s, n, []GPVirtual{x}, func(disp [8]int) {
		for i, d := range disp {
			VMULPS(Mem{Base: x, Disp: d}, c, r[i])
		}
		for i, d := range disp {
			VMOVUPS(r[i], Mem{Base: x, Disp: d})
		}
	})
	end()
}
