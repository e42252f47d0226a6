// Package rng is the random number generator of every backend: Philox4x32-10, a counter-based generator.
//
// A number is a pure function of (seed, purpose, index, position): nothing is carried from one draw to the next.
// Hence the state of a run is its step counters, a resumed run continues bit for bit, the order in which workers
// draw does not matter, and a backend in integers or on a GPU computes the same stream without sharing anything.
//
// The 64-bit key is the seed; the 128-bit counter is (block number, purpose and index). Integers and uniform
// floats are exact on every processor. Normal draws use only rounded +, -, ×, / and sqrt (see normal.go), so they
// are exact too.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. The round constants
// and the known answers in the test are those of its Random123 library.
package rng

import (
	"math"
	"math/bits"
)

// Purpose separates the uses of one seed, so that no two of them share numbers.
type Purpose uint8

// The purposes in use. A number, once given, is never reused for another purpose: checkpoints depend on it.
const (
	Init    Purpose = 1 // initial weights; index = node number in the network
	Shuffle Purpose = 2 // order of the training images; index = epoch
	Crop    Purpose = 3 // crop offsets; index = epoch, position = drawn image
	Flip    Purpose = 4 // horizontal flips; index = epoch, position = drawn image
	Split   Purpose = 5 // train/validation split; index = 0
	Epsilon Purpose = 6 // per-position noise of the conv-plus-ε initialisation; index = node number
	// Feedback is the broadcast rule's matrices; index = node number.
	Feedback Purpose = 16
	// Patterns of a sleep phase and the noise on them; keyed anew from the seed, see package sleep.
	SleepPattern Purpose = 20
	SleepNoise   Purpose = 21
	// Stochastic rounding in integers (package fixed): of weights and biases, of gradients, of a gradient times the
	// learning rate, and of weights in sleep.
	RoundWeight   Purpose = 30
	RoundBias     Purpose = 31
	RoundGradient Purpose = 32
	RoundRate     Purpose = 33
	RoundSleep    Purpose = 34
	// Condition is the noise on images of package bench/continual; index = number of the set.
	Condition Purpose = 40
	Test      Purpose = 255
)

const (
	mulA, mulB   = 0xD2511F53, 0xCD9E8D57 // Philox4x32 round multipliers
	weylA, weylB = 0x9E3779B9, 0xBB67AE85 // key increments
	rounds       = 10
)

// philox is the Philox4x32-10 bijection of counter c under key k.
func philox(c [4]uint32, k [2]uint32) [4]uint32 {
	for range rounds {
		h0, l0 := bits.Mul32(mulA, c[0])
		h1, l1 := bits.Mul32(mulB, c[2])
		c = [4]uint32{h1 ^ c[1] ^ k[0], l1, h0 ^ c[3] ^ k[1], l0}
		k[0] += weylA
		k[1] += weylB
	}
	return c
}

// Stream is one sequence of numbers. It is a value without hidden state: At(i) is always the same number.
// The zero Stream is the stream of seed 0, purpose 0, index 0.
type Stream struct {
	key [2]uint32
	id  [2]uint32
}

// New returns the stream of a seed, a purpose and an index. Only the low 56 bits of index count; it panics when
// more are set, since two streams would then coincide.
func New(seed uint64, purpose Purpose, index uint64) Stream {
	if index>>56 != 0 {
		panic("rng: index needs more than 56 bits")
	}
	id := uint64(purpose)<<56 | index
	return Stream{
		key: [2]uint32{uint32(seed), uint32(seed >> 32)},
		id:  [2]uint32{uint32(id), uint32(id >> 32)},
	}
}

// Block returns the i-th block of four 32-bit numbers.
func (s Stream) Block(i uint64) [4]uint32 {
	return philox([4]uint32{uint32(i), uint32(i >> 32), s.id[0], s.id[1]}, s.key)
}

// State is what Block(i) is a function of beside i: the key, and the upper half of the counter, whose lower half is i. Kernels
// that draw several blocks at a time begin with it.
func (s Stream) State() (key, id [2]uint32) { return s.key, s.id }

// HalvesBlock is how many 16-bit numbers a block has.
const HalvesBlock = 8

// Halves sets dst to 16-bit numbers from block first on, HalvesBlock of each: the low half of each word, then the high.
func (s Stream) Halves(dst []uint16, first uint64) {
	for i := 0; i < len(dst); i += HalvesBlock {
		var halves [HalvesBlock]uint16
		for w, v := range s.Block(first + uint64(i/HalvesBlock)) {
			halves[2*w], halves[2*w+1] = uint16(v), uint16(v>>16)
		}
		copy(dst[i:], halves[:])
	}
}

// Uint64 returns the i-th 64-bit number: words 0,1 of block i/2 for even i, words 2,3 for odd i.
func (s Stream) Uint64(i uint64) uint64 {
	b := s.Block(i / 2)
	h := 2 * (i % 2)
	return uint64(b[h]) | uint64(b[h+1])<<32
}

// Float64 returns the i-th number of [0, 1), a multiple of 2^-53.
func (s Stream) Float64(i uint64) float64 {
	return float64(s.Uint64(i)>>11) * 0x1p-53
}

// Sign returns the i-th number of {+1, -1}: -1 where bit i%128 of block i/128 is set, the lowest bit of the first word
// being bit 0.
func (s Stream) Sign(i uint64) float64 {
	return 1 - 2*float64(s.Block(i / 128)[i%128/32]>>(i%32)&1)
}

// Signs sets dst to the signs from the first-th on, times scale; 128 of them share a block, so that it costs far less
// than they would.
func (s Stream) Signs(dst []float32, first uint64, scale float32) {
	positive := math.Float32bits(scale)
	for len(dst) > 0 {
		block, at := s.Block(first/128), first%128
		n := min(uint64(len(dst)), 128-at)
		for i := range dst[:n] {
			j := at + uint64(i)
			dst[i] = math.Float32frombits(positive ^ block[j/32]>>(j%32)<<31)
		}
		dst, first = dst[n:], first+n
	}
}

// Intn returns the i-th number of {0, …, n-1}: the high word of n·Uint64(i). Its bias is below n·2^-64.
// It panics unless n > 0.
func (s Stream) Intn(i uint64, n int) int {
	if n <= 0 {
		panic("rng: Intn needs n > 0")
	}
	h, _ := bits.Mul64(s.Uint64(i), uint64(n))
	return int(h)
}

// Perm returns a permutation of {0, …, n-1} (Fisher-Yates, using numbers 1 to n-1 of the stream).
func (s Stream) Perm(n int) []int {
	p := make([]int, n)
	for i := range p {
		j := s.Intn(uint64(i), i+1)
		p[i] = p[j]
		p[j] = i
	}
	return p
}
