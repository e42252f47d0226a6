package kernel

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/cpu"
)

// roundoff is that of float32.
const roundoff = 0x1p-24

// eachVersion runs a test on every version of the kernels, and says which this machine cannot run.
func eachVersion(t *testing.T, f func(t *testing.T, k *Kernels)) {
	t.Helper()
	for _, name := range []string{"avx512", "avx2", "neon", "portable"} {
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(Versions(), func(k *Kernels) bool { return k.Name == name })
			if i < 0 {
				t.Skipf("this processor or build has no %s kernels", name)
			}
			f(t, Versions()[i])
		})
	}
}

// trial is one call of a kernel on random numbers. Its buffers lie between guards, and so do the rows of activations:
// NaNs that would spoil a result if they were read and that must be there afterwards.
type trial struct {
	*testing.T
	*rand.Rand
	name   string
	dirty  bool // some of the numbers are NaN, ±Inf and ±0
	offset int  // shifts buffers by different numbers of elements
	zones  []zone
	count  *tally
}

// zone is a buffer with its guards, in bytes. The numbers of a source lie in [lo, lo); a target's may change.
type zone struct {
	all, was []byte
	lo, hi   int
}

// tally counts what was compared.
type tally struct{ trials, finite, infinite, nan int }

// check fails unless there were so many trials, and results of every class.
func (c *tally) check(t *testing.T, trials int) {
	t.Helper()
	if c.trials != trials || min(c.finite, c.infinite, c.nan) < 300 {
		t.Errorf("%+v, want %d trials and at least 300 results of each class", *c, trials)
	}
}

func newTrial(t *testing.T, c *tally, dirty bool, format string, args ...any) *trial {
	c.trials++
	seed := uint64(c.trials)
	return &trial{
		T: t, Rand: rand.New(rand.NewPCG(seed, 1)), name: fmt.Sprintf(format, args...), dirty: dirty, offset: c.trials % 16,
		count: c,
	}
}

type number interface{ float32 | float64 }

// fillGuards fills xs with a signalling NaN that has the number of the buffer. No operation's result is one, not even
// that of an operation on guards, and a guard that is copied from another buffer differs.
func fillGuards[T number](xs []T, buffer int) {
	switch xs := any(xs).(type) {
	case []float32:
		for i := range xs {
			xs[i] = math.Float32frombits(0x7fa0de00 + uint32(buffer))
		}
	case []float64:
		for i := range xs {
			xs[i] = math.Float64frombits(0x7ff4deadbeefde00 + uint64(buffer))
		}
	}
}

// view is the same memory as numbers, or structs of numbers, of another type.
func view[To, From any](xs []From) []To {
	var to To
	var from From
	n := len(xs) * int(unsafe.Sizeof(from)) / int(unsafe.Sizeof(to))
	return unsafe.Slice((*To)(unsafe.Pointer(unsafe.SliceData(xs))), n)
}

// into makes a buffer of guards that a kernel may write to.
func into[T number](r *trial, n int) []T {
	const margin = 48 // more than two vectors
	all := make([]T, margin+15+n+margin)
	fillGuards(all, len(r.zones))
	lo := margin + r.offset*(len(r.zones)+1)%16
	size := int(unsafe.Sizeof(all[0]))
	r.zones = append(r.zones, zone{all: view[byte](all), lo: lo * size, hi: (lo + n) * size})
	return all[lo : lo+n : lo+n]
}

// from makes a buffer of random numbers that a kernel may only read.
func from[T number](r *trial, n int) []T {
	xs := into[T](r, n)
	z := &r.zones[len(r.zones)-1]
	z.hi = z.lo
	fill(r, xs)
	return xs
}

// onto makes a buffer that a kernel may write to: random numbers where the old ones count.
func onto[T number](r *trial, n int, keep bool) []T {
	xs := into[T](r, n)
	if keep {
		fill(r, xs)
	}
	return xs
}

func fill[T number](r *trial, xs []T) {
	special := []float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, math.Copysign(0, -1)}
	for i := range xs {
		xs[i] = T(r.NormFloat64())
		if r.dirty && r.IntN(20) == 0 {
			xs[i] = T(special[r.IntN(len(special))])
		}
	}
}

// run calls a kernel and fails if it changed anything but the numbers of targets.
func (r *trial) run(f func()) {
	r.Helper()
	for i := range r.zones {
		r.zones[i].was = bytes.Clone(r.zones[i].all)
	}
	f()
	r.intact()
}

func (r *trial) intact() {
	r.Helper()
	for i, z := range r.zones {
		if !bytes.Equal(z.all[:z.lo], z.was[:z.lo]) || !bytes.Equal(z.all[z.hi:], z.was[z.hi:]) {
			r.Fatalf("%s: buffer %d changed outside of [%d, %d) of %d bytes", r.name, i, z.lo, z.hi, len(z.all))
		}
	}
}

// compare fails where a number is further from the plain loop's than the bound, or is not NaN or infinite where that
// is.
func compare[T number](r *trial, what string, got []T, want []float64, bound func(i int) float64) {
	r.Helper()
	if len(got) != len(want) {
		r.Fatalf("%s: %d %s, want %d", r.name, len(got), what, len(want))
	}
	for i, w := range want {
		g := float64(got[i])
		ok := false
		switch {
		case math.IsNaN(w):
			ok = math.IsNaN(g)
			r.count.nan++
		case math.IsInf(w, 0):
			ok = g == w
			r.count.infinite++
		default:
			ok = math.Abs(g-w) <= bound(i)
			r.count.finite++
		}
		if !ok {
			r.Fatalf("%s: %s[%d] = %.9g, want %.9g ± %.3g", r.name, what, i, g, w, bound(i))
		}
	}
}

// sums are those of a plain loop in float64.
type sums struct {
	value, size []float64 // size is Σ|a b|
	terms       int
}

// newSums begins with the old values where they count.
func newSums(old []float32, keep bool, terms int) sums {
	s := sums{make([]float64, len(old)), make([]float64, len(old)), terms}
	for i, v := range old {
		if keep {
			s.value[i], s.size[i] = float64(v), math.Abs(float64(v))
		}
	}
	return s
}

func (s *sums) add(i int, a, b float32) {
	p := float64(a) * float64(b)
	s.value[i] += p
	s.size[i] += math.Abs(p)
}

// bound: in a sum of n products and an old value, in whatever order and with fused multiplications or without, a term
// goes through at most one multiplication and n additions, so that the sum is off by at most γ(n+1)·Σ|a b| (Higham,
// "Accuracy and stability of numerical algorithms", 2nd ed., Section 3.1). One more roundoff covers γ's second order,
// (n+1)²·2^-48, and the errors of the plain loop, n·2^-53, for the n < 2^11 here.
func (s *sums) bound(i int) float64 { return float64(s.terms+2) * roundoff * s.size[i] }

// activations makes an operand of rows of b numbers: in random order, with guards in between, and around the element to
// which their offsets are relative.
func (r *trial) activations(count, b int) (x Operand, rows []int) {
	const gap = 3
	x.Data = from[float32](r, count*(b+gap))
	x.At = count / 2 * (b + gap)
	for _, slot := range r.Perm(count) {
		rows = append(rows, slot*(b+gap)-x.At)
		fillGuards(x.Data[slot*(b+gap)+b:(slot+1)*(b+gap)], 0)
	}
	return x, rows
}

// weightAt is the offset of row r and output channel c in weights of a location with k rows and n output channels.
func weightAt(k, n, r, c int) int {
	first := c / Tile * Tile
	return first*k + r*min(Tile, n-first) + c - first
}

// onInput lists the rows of a receptive field of k whose taps are not on the padding: here all but every fifth.
func onInput(k int) (rows []int) {
	for r := range k {
		if r%5 != 1 {
			rows = append(rows, r)
		}
	}
	return rows
}

// fieldLists are the lists of a receptive field, from the weights' rows and where their activations are.
func fieldLists(rows, activations []int, n int) *Lists {
	var full, part []Pair
	for i, r := range rows {
		full = append(full, Pair{int32(activations[i]), int32(r * Tile)})
		part = append(part, Pair{int32(activations[i]), int32(r * (n % Tile))})
	}
	if n < Tile {
		full = nil
	}
	if n%Tile == 0 {
		part = nil
	}
	return &Lists{NewList(full), NewList(part)}
}

// far is beyond any operand here: what is asked for early may not exist.
var far = Next{1 << 20, 1 << 20}

// forward compares Forward with the plain loop, and returns its result.
func forward(r *trial, k *Kernels, rows, n, b int, keep bool) []float32 {
	r.Helper()
	used := onInput(rows)
	x, at := r.activations(len(used), b)
	w := Operand{from[float32](r, 5+rows*n), 5}
	y, scratch := onto[float32](r, n*b, keep), into[float32](r, ThinScratchLen)
	want := newSums(y, keep, len(used))
	for i, row := range used {
		for c := range n {
			for image := range b {
				want.add(c*b+image, x.Data[x.At+at[i]+image], w.Data[w.At+weightAt(rows, n, row, c)])
			}
		}
	}
	r.run(func() { k.Forward(y, x, w, fieldLists(used, at, n), rows, n, b, far, keep, scratch) })
	compare(r, "y", y, want.value, want.bound)
	return y
}

// weightGradient compares WeightGradient with the plain loop, and returns its result. Rows that the lists do not name
// stay as they are.
func weightGradient(r *trial, k *Kernels, rows, n, b int, keep bool) []float32 {
	r.Helper()
	used := onInput(rows)
	x, at := r.activations(len(used), b)
	dy := from[float32](r, n*b)
	dw := Operand{into[float32](r, 5+rows*n), 5}
	scratch := into[float32](r, ScratchLen(n, b))
	named := make([]int, 0, len(used)*n)
	for _, row := range used {
		for c := range n {
			named = append(named, dw.At+weightAt(rows, n, row, c))
		}
	}
	old := make([]float32, len(named))
	if keep {
		fill(r, old)
		for i, p := range named {
			dw.Data[p] = old[i]
		}
	}
	was := slices.Clone(dw.Data)
	want := newSums(old, keep, b)
	for i := range used {
		for c := range n {
			for image := range b {
				want.add(i*n+c, x.Data[x.At+at[i]+image], dy[c*b+image])
			}
		}
	}
	r.run(func() { k.WeightGradient(dw, x, fieldLists(used, at, n), dy, rows, n, b, far, keep, scratch) })
	got := make([]float32, len(named))
	for i, p := range named {
		got[i], dw.Data[p] = dw.Data[p], was[p]
	}
	compare(r, "dw", got, want.value, want.bound)
	if !bytes.Equal(view[byte](dw.Data), view[byte](was)) {
		r.Fatalf("%s: changed a row of dw that no list names", r.name)
	}
	return got
}

// inputGradient compares InputGradient with the plain loop, and returns its result: c input channels, each use through
// another tap of three and with weights of its own.
func inputGradient(r *trial, k *Kernels, uses, c, n, b int, keep bool) []float32 {
	r.Helper()
	const taps = 3
	rows := taps * c
	dy, at := r.activations(uses*n, b) // use by use
	w := Operand{from[float32](r, uses*rows*n), uses / 2 * rows * n}
	dx := onto[float32](r, c*b, keep)
	want := newSums(dx, keep, uses*n)
	var full, part []Pair
	for u := range uses {
		for j := range n {
			row := at[u*n+j]
			weight := func(ch int) int { return u*rows*n - w.At + weightAt(rows, n, u%taps*c+ch, j) }
			if pair := (Pair{int32(row), int32(weight(0))}); j < n-n%Tile {
				full = append(full, pair)
			} else {
				part = append(part, pair)
			}
			for ch := range c {
				for image := range b {
					want.add(ch*b+image, dy.Data[dy.At+row+image], w.Data[w.At+weight(ch)])
				}
			}
		}
	}
	r.run(func() { k.InputGradient(dx, dy, w, &Lists{NewList(full), NewList(part)}, c, n, b, far, keep) })
	compare(r, "dx", dx, want.value, want.bound)
	return dx
}

// channels are numbers of output channels: below, at and above a tile, with an odd and an even number of full tiles.
func channels() []int { return []int{1, 7, 15, 16, 17, 32, 50} }

// batches are none, those few that are done by vectors of channels, and those below, at and above the vectors and blocks
// of every version.
func batches() []int {
	return []int{0, 1, 2, 3, 4, 6, 7, 8, 9, 13, 15, 16, 17, 31, 33, 47, 64, 101, 130}
}

// fields are numbers of rows of a receptive field: none, below and above what is unrolled and padded.
func fields() []int { return []int{0, 1, 4, 5, 11, 20} }

// eachTrial runs a location's kernel with and without old values, on clean and on dirty numbers, and returns how many
// trials that were.
func eachTrial(t *testing.T, c *tally, first, n []int, f func(r *trial, first, n, b int, keep bool)) int {
	t.Helper()
	for _, first := range first {
		for _, n := range n {
			for _, b := range batches() {
				for flags := range 4 {
					keep, dirty := flags&1 > 0, flags&2 > 0
					f(newTrial(t, c, dirty, "%d, %d, B=%d keep=%v dirty=%v", first, n, b, keep, dirty), first, n, b, keep)
				}
			}
		}
	}
	return len(first) * len(n) * len(batches()) * 4
}

// The three products of a location against plain loops in float64.
func TestForward(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		var c tally
		c.check(t, eachTrial(t, &c, fields(), channels(), func(r *trial, rows, n, b int, keep bool) {
			forward(r, k, rows, n, b, keep)
		}))
	})
}

// TestStrip compares Strip with the plain loop at positions that follow each other, with rows of the field that begin anywhere and are
// whole otherwise; it does nothing for lists with gaps and for tiles that are not full, and stays within its operands.
func TestStrip(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		if k.strip == nil {
			t.Skip("this version has none")
		}
		var c tally
		trials := 0
		for _, rows := range []int{1, 3, 4, 5, 20, 145} {
			for _, first := range []int{0, rows / 3} { // what lies on the padding above is left out
				for _, tiles := range []int{1, 2, 3} {
					for _, positions := range []int{1, 2, 7} {
						for flags := range 2 {
							const nextX, spare = 5, 3
							r := newTrial(t, &c, flags > 0, "%d rows from %d, %d tiles, %d positions", rows, first, tiles, positions)
							n := tiles * Tile
							x := Operand{from[float32](r, 2*rows+positions*nextX+spare), spare}
							w := Operand{from[float32](r, spare+positions*n*rows), spare}
							y := into[float32](r, positions*n)
							want := newSums(y, false, rows)
							var pairs []Pair
							for i := first; i < rows; i++ {
								at := 2*i%rows + i%2
								pairs = append(pairs, Pair{int32(at), int32(i * Tile)})
								for p := range positions {
									for channel := range n {
										want.add(p*n+channel, x.Data[x.At+at+p*nextX], w.Data[w.At+p*n*rows+weightAt(rows, n, i, channel)])
									}
								}
							}
							lists, done := &Lists{Full: NewList(pairs)}, false
							r.run(func() { done = k.Strip(y, x, w, lists, rows, n, positions, nextX) })
							if !done {
								t.Fatalf("%s: not done", r.name)
							}
							compare(r, "y", y, want.value, want.bound)
							for name, call := range map[string]func(){
								"short y": func() { k.Strip(y[:len(y)-1], x, w, lists, rows, n, positions, nextX) },
								"short x": func() {
									k.Strip(y, Operand{x.Data[:x.At+(positions-1)*nextX], x.At}, w, lists, rows, n, positions, nextX)
								},
								"short w": func() { k.Strip(y, x, Operand{w.Data[:len(w.Data)-1], w.At}, lists, rows, n, positions, nextX) },
							} {
								if !panics(call) {
									t.Errorf("%s: %s is taken", r.name, name)
								}
							}
							if len(pairs) > 2 {
								gap := append(slices.Clone(pairs[:1]), pairs[2:]...)
								if k.Strip(y, x, w, &Lists{Full: NewList(gap)}, rows, n, positions, nextX) || k.Strip(y, x, w, lists, rows, n+1, positions, nextX) {
									t.Errorf("%s: a list with a gap, or part of a tile, is taken", r.name)
								}
							}
							trials++
						}
					}
				}
			}
		}
		c.check(t, trials)
	})
}

func TestWeightGradient(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		var c tally
		c.check(t, eachTrial(t, &c, fields(), channels(), func(r *trial, rows, n, b int, keep bool) {
			weightGradient(r, k, rows, n, b, keep)
		}))
	})
}

func TestInputGradient(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		var c tally
		trials := 0
		for _, uses := range []int{0, 1, 2, 5} {
			trials += eachTrial(t, &c, []int{1, 4, 7}, []int{1, 16, 21}, func(r *trial, channels, n, b int, keep bool) {
				inputGradient(r, k, uses, channels, n, b, keep)
			})
		}
		c.check(t, trials)
	})
}

// product compares the product kernel with the plain loop, for any distance of the results' rows and of the weights.
func product(r *trial, k *Kernels, rows, n, terms, step, gap int, keep bool) {
	r.Helper()
	ldy := n + gap
	x, at := r.activations(terms, n)
	extent := terms + (rows-1)*step
	w := Operand{from[float32](r, extent), terms / 2}
	y := into[float32](r, rows*ldy)
	for t := range rows {
		if keep {
			fill(r, y[t*ldy:t*ldy+n])
		}
	}
	was := slices.Clone(y)
	want := newSums(y, keep, terms)
	var pairs []Pair
	for i, weight := range r.Perm(terms) {
		pairs = append(pairs, Pair{int32(at[i]), int32(weight - w.At)})
		for t := range rows {
			for j := range n {
				want.add(t*ldy+j, x.Data[x.At+at[i]+j], w.Data[weight+t*step])
			}
		}
	}
	list := NewList(pairs)
	r.run(func() { k.product(y, ldy, x, w, &list, rows, step, far, n, keep) })
	for t := range rows {
		lo, hi := t*ldy, t*ldy+n
		compare(r, "y", y[lo:hi], want.value[lo:hi], func(i int) float64 { return want.bound(lo + i) })
		if end := lo + ldy; !bytes.Equal(view[byte](y[hi:end]), view[byte](was[hi:end])) {
			r.Fatalf("%s: changed between rows %d and %d", r.name, t, t+1)
		}
	}
}

func TestProduct(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		var c tally
		for rows := 1; rows <= 9; rows++ {
			for _, n := range []int{1, 5, 8, 13, 16, 31, 32, 45, 64, 111, 200} {
				for _, step := range []int{0, 1, 16} {
					for gap := range 3 {
						for flags := range 4 {
							keep, dirty := flags&1 > 0, flags&2 > 0
							r := newTrial(t, &c, dirty, "%d rows of %d+%d, step %d, keep=%v dirty=%v", rows, n, gap, step, keep, dirty)
							product(r, k, rows, n, int(c.trials%10), step, gap, keep)
						}
					}
				}
			}
		}
		c.check(t, 9*11*3*3*4)
	})
}

// The product kernel of every version against the plain loop, for shapes and numbers that the fuzzer chooses.
func FuzzProduct(f *testing.F) {
	f.Add(uint64(1), uint8(0), uint8(0), uint8(0), uint8(0), uint8(0), false, false)
	f.Add(uint64(2), uint8(3), uint8(63), uint8(9), uint8(1), uint8(0), true, false)
	f.Add(uint64(3), uint8(16), uint8(100), uint8(27), uint8(16), uint8(5), false, true)
	f.Add(uint64(4), uint8(6), uint8(14), uint8(1), uint8(7), uint8(1), true, true)
	f.Fuzz(func(t *testing.T, seed uint64, rows, n, terms, step, gap uint8, keep, dirty bool) {
		for _, k := range Versions() {
			r := newTrial(t, &tally{}, dirty, "%s", k.Name)
			r.Rand, r.offset = rand.New(rand.NewPCG(seed, 2)), int(seed%16)
			product(r, k, int(rows%20)+1, int(n)+1, int(terms%64), int(step%32), int(gap%32), keep)
		}
	})
}

// Where the buffers lie does not change a bit: sums are taken in a fixed order, whatever the alignment.
func TestAlignment(t *testing.T) {
	eachVersion(t, func(t *testing.T, k *Kernels) {
		for _, b := range []int{2, 27, 101} {
			var first [3][]float32
			for offset := range 16 {
				for i, f := range []func(r *trial) []float32{
					func(r *trial) []float32 { return forward(r, k, 11, 50, b, true) },
					func(r *trial) []float32 { return weightGradient(r, k, 11, 50, b, true) },
					func(r *trial) []float32 { return inputGradient(r, k, 3, 7, 21, b, true) },
				} {
					r := newTrial(t, &tally{}, false, "kernel %d, B=%d at %d", i, b, offset) // always the same numbers
					r.offset = offset
					got := f(r)
					if offset == 0 {
						first[i] = got
					} else if !slices.Equal(got, first[i]) {
						t.Errorf("%s: results differ from those at 0", r.name)
					}
				}
			}
		}
	})
}

// A list is padded behind its end with its last pair, in memory of its own, and knows the extent of its offsets.
func TestNewList(t *testing.T) {
	for n := range 20 {
		pairs := make([]Pair, 32)
		for i := range pairs {
			pairs[i] = Pair{int32(3*i - 7), int32(5 - i)}
		}
		was := slices.Clone(pairs)
		l := NewList(pairs[:n])
		if !slices.Equal(pairs, was) {
			t.Errorf("a list of %d changed the pairs it was made from, or those behind them", n)
		}
		if !slices.Equal(l.Pairs, was[:n]) {
			t.Errorf("a list of %d has the pairs %v", n, l.Pairs)
		}
		for i, p := range l.Pairs[:(n+7)/8*8] {
			if p != was[min(i, max(n-1, 0))] {
				t.Errorf("pair %d behind a list of %d is %v", i, n, p)
			}
		}
		if n > 0 && (l.xLo != -7 || l.xHi != 3*n-10 || l.wLo != 6-n || l.wHi != 5) {
			t.Errorf("a list of %d has the extent %d…%d, %d…%d", n, l.xLo, l.xHi, l.wLo, l.wHi)
		}
	}
}

// panics tells whether a function does.
func panics(f func()) (did bool) {
	defer func() { did = recover() != nil }()
	f()
	return false
}

// What does not fit panics before anything outside of the buffers is touched: the assembly itself checks nothing.
func TestOutOfRange(t *testing.T) {
	const rows, n, c = 5, 21, 3
	eachVersion(t, func(t *testing.T, k *Kernels) {
		cases := 0
		for _, b := range []int{1, 40} {
			lists := func(x0, w0 int) *Lists { // rows at x0, x0+b, …
				var at, used []int
				for r := range rows {
					used, at = append(used, r), append(at, x0+r*b)
				}
				l := fieldLists(used, at, n)
				for _, list := range []*List{&l.Full, &l.Part} {
					for i := range list.Pairs {
						list.Pairs[i][1] += int32(w0)
					}
					*list = NewList(list.Pairs)
				}
				return l
			}
			good := lists(0, 0)
			for _, bad := range []struct {
				name           string
				x, w, y, spare int // elements that are missing
				lists          *Lists
			}{
				{"activations end early", 1, 0, 0, 0, good},
				{"weights end early", 0, 1, 0, 0, good},
				{"results end early", 0, 0, 1, 0, good},
				{"scratch ends early", 0, 0, 0, ScratchLen(n, b) - ScratchLen(Tile, b) + 1, good}, // than the full tile needs
				{"an activation before the first", 0, 0, 0, 0, lists(-1, 0)},
				{"an activation behind the last", 0, 0, 0, 0, lists(1, 0)},
				{"a weight before the first", 0, 0, 0, 0, lists(0, -1)},
				{"a weight behind the last", 0, 0, 0, 0, lists(0, 1)},
				{"all fits", 0, 0, 0, 0, good},
			} {
				for i, call := range []func(r *trial) func(){
					func(r *trial) func() {
						y := into[float32](r, n*b-bad.y)
						x, w := from[float32](r, rows*b-bad.x), from[float32](r, rows*n-bad.w)
						scratch := into[float32](r, ThinScratchLen)
						return func() { k.Forward(y, Operand{x, 0}, Operand{w, 0}, bad.lists, rows, n, b, far, false, scratch) }
					},
					func(r *trial) func() {
						dw, scratch := into[float32](r, rows*n-bad.w), into[float32](r, ScratchLen(n, b)-bad.spare)
						x, dy := from[float32](r, rows*b-bad.x), from[float32](r, n*b-bad.y)
						return func() {
							k.WeightGradient(Operand{dw, 0}, Operand{x, 0}, bad.lists, dy, rows, n, b, far, false, scratch)
						}
					},
					func(r *trial) func() { // the last weight is that of the last row for the last of c input channels
						dx := into[float32](r, c*b-bad.y)
						dy, w := from[float32](r, rows*b-bad.x), from[float32](r, (rows+c-2)*Tile+1-bad.w)
						return func() { k.InputGradient(dx, Operand{dy, 0}, Operand{w, 0}, good, c, n, b, far, false) }
					},
				} {
					want := bad.name != "all fits"
					switch {
					case i == 2 && bad.lists != good: // the same check as in Forward
						continue
					case bad.spare > 0:
						want = i == 1 && k.Name != "portable"
					}
					r := newTrial(t, &tally{}, false, "kernel %d, B=%d: %s", i, b, bad.name)
					run, got := call(r), false
					r.run(func() { got = panics(run) })
					if got != want {
						t.Errorf("%s: panic is %v, want %v", r.name, got, want)
					}
					cases++
				}
			}
		}
		if cases != 2*(9*3-4) {
			t.Errorf("%d cases", cases)
		}
	})
}

// A version is offered only where the processor has every extension that its assembly requires, as the generated file
// says. AVX comes with the others, SSE and MMX+, which is prefetching and the fence of stores, with amd64. NEON requires nothing
// but itself.
func TestExtensions(t *testing.T) {
	has := map[string]*bool{
		"AVX512F": &cpu.X86.HasAVX512F, "AVX512DQ": &cpu.X86.HasAVX512DQ, "BMI2": &cpu.X86.HasBMI2,
		"AVX2": &cpu.X86.HasAVX2, "FMA3": &cpu.X86.HasFMA,
	}
	was := cpu.X86
	t.Cleanup(func() { cpu.X86 = was })
	for _, flag := range has {
		*flag = true
	}
	if len(Versions()) == 1 {
		t.Skip("this build has no assembly")
	}
	if runtime.GOARCH == "arm64" {
		wasARM := cpu.ARM64
		t.Cleanup(func() { cpu.ARM64 = wasARM })
		for _, has := range []bool{true, false} {
			cpu.ARM64.HasASIMD = has
			if offered := Versions()[0].Name == "neon"; offered != has {
				t.Errorf("neon is offered: %v, want %v", offered, has)
			}
		}
		return
	}
	source, err := os.ReadFile("kernel_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	checked := map[string]bool{}
	functions := regexp.MustCompile(`// func \w+?(AVX512|AVX2).*\n// Requires: (.*)`)
	for _, f := range functions.FindAllStringSubmatch(string(source), -1) {
		version := strings.ToLower(f[1])
		for _, extension := range strings.Split(f[2], ", ") {
			if slices.Contains([]string{"AVX", "SSE", "MMX+"}, extension) || checked[version+extension] {
				continue
			}
			checked[version+extension] = true
			flag, ok := has[extension]
			if !ok {
				t.Errorf("%s requires %s, which this test does not know", version, extension)
				continue
			}
			*flag = false
			if slices.ContainsFunc(Versions(), func(k *Kernels) bool { return k.Name == version }) {
				t.Errorf("%s is offered without %s", version, extension)
			}
			*flag = true
		}
	}
	if len(checked) != 5 { // AVX512F, AVX512DQ and BMI2; AVX2 and FMA3
		t.Errorf("%d requirements: %v", len(checked), checked)
	}
}

// Times, in every version, adds the product of a matrix and a tile in the lanes asked for, and leaves the others.
func TestTimes(t *testing.T) {
	compared := 0
	for _, k := range Versions() {
		for _, rows := range []int{1, 7, 8, 20} {
			for _, columns := range []int{0, 1, 5, 8, 33} {
				for _, lanes := range []int{1, 5, 8, 16} {
					at := func(i, j int) float64 { return float64((i*7+j*5)%13) - 6 }
					m := k.Matrix(rows, columns, at)
					x, y := make([]float32, columns*Tile), make([]float32, PaddedRows(rows)*Tile)
					for i := range x {
						x[i] = float32(i%11) - 5
					}
					for i := range y {
						y[i] = float32(i % 3)
					}
					k.Times(y, &m, x, lanes)
					for i := range rows {
						for lane := range Tile {
							want := float64((i*Tile + lane) % 3)
							for j := range columns {
								if lane < lanes {
									want += at(i, j) * float64(x[j*Tile+lane])
								}
							}
							if got := float64(y[i*Tile+lane]); got != want { // small integers: every sum is exact
								t.Fatalf("%s: %dx%d, %d lanes: [%d, %d] is %v, want %v", k.Name, rows, columns, lanes, i, lane, got, want)
							}
							compared++
						}
					}
				}
			}
		}
	}
	if compared < 1000 {
		t.Errorf("only %d elements compared", compared)
	}
}

// TimesTwo gives the bits of Times, whatever lies between the tiles, and panics where a tile is too short.
func TestTimesTwo(t *testing.T) {
	compared := 0
	for _, k := range Versions() {
		r := rand.New(rand.NewPCG(1, 2))
		random := func(n int) []float32 {
			x := make([]float32, n)
			for i := range x {
				x[i] = float32(r.NormFloat64())
			}
			return x
		}
		for _, rows := range []int{1, 7, 8, 20, 145} {
			for _, columns := range []int{0, 1, 5, 33, 145} {
				for _, gap := range []int{0, 3, 16} {
					m := k.Matrix(rows, columns, func(int, int) float64 { return r.NormFloat64() })
					x, y := random(2*(columns*Tile+gap)), random(2*(PaddedRows(rows)*Tile+gap))
					want := slices.Clone(y)
					for i := range 2 {
						k.Times(want[i*len(want)/2:(i+1)*len(want)/2], &m, x[i*len(x)/2:(i+1)*len(x)/2], Tile)
					}
					k.TimesTwo(y, &m, x)
					if !slices.Equal(y, want) {
						t.Errorf("%s: %dx%d, gap %d: not the bits of Times", k.Name, rows, columns, gap)
					}
					compared++
					if columns == 0 || gap > 0 {
						continue
					}
					if !panics(func() { k.TimesTwo(y[2:], &m, x) }) || !panics(func() { k.TimesTwo(y, &m, x[2:]) }) {
						t.Errorf("%s: %dx%d: a short tile is accepted", k.Name, rows, columns)
					}
				}
			}
		}
	}
	if compared != 75*len(Versions()) {
		t.Errorf("%d cases compared", compared)
	}
}
