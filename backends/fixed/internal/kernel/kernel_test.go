package kernel

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/cpu"

	"hypnos/core/fixed"
	"hypnos/core/rng"
)

// eachVersion runs a test on every version in assembly, and says which this machine cannot run.
func eachVersion(t *testing.T, f func(t *testing.T, k *Kernels)) {
	t.Helper()
	for _, name := range []string{"avx2", "neon"} {
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(Versions(), func(k *Kernels) bool { return k.Name == name })
			if i < 0 {
				t.Skipf("this processor or build has no %s kernels", name)
			}
			f(t, Versions()[i])
		})
	}
}

// A version is offered only where the processor has what its assembly requires.
func TestExtensions(t *testing.T) {
	has := map[string]*bool{"avx2": &cpu.X86.HasAVX2, "neon": &cpu.ARM64.HasASIMD}
	best := Versions()[0].Name
	flag, ok := has[best]
	if !ok {
		t.Skip("this build or processor has no assembly")
	}
	*flag = false
	t.Cleanup(func() { *flag = true })
	if v := Versions(); len(v) != 1 || v[0].Name != "portable" {
		t.Errorf("%s is offered without its extension", best)
	}
}

// area is memory for one buffer of each trial: it ends with the memory, or up to 15 elements before, so that every alignment
// occurs. What is not the buffer's is a guard, and what is behind cannot be touched at all.
type area struct {
	all    []byte
	was    []byte
	lo, hi int // the buffer in bytes; empty where it may not change
}

// guard is a pattern that no kernel would leave behind by computing on it.
const guard = 0xa5

// trial is a call of a kernel on numbers that are a function of its seed.
type trial struct {
	*testing.T
	*rand.Rand
	areas []*area
	used  int // areas in use
	seed  int
}

// bench makes trials with so many buffers of at most so many bytes.
func bench(t *testing.T, buffers, size int) *trial {
	r := &trial{T: t}
	for range buffers {
		r.areas = append(r.areas, &area{all: fenced(t, size)})
	}
	return r
}

// next begins the next trial.
func (r *trial) next() {
	r.used = 0
	r.seed++
	r.Rand = rand.New(rand.NewPCG(uint64(r.seed), 5))
}

type element interface{ int16 | uint16 | int32 | int64 }

// into is a buffer that a kernel may write to.
func into[T element](r *trial, n int) []T {
	a, size := r.areas[r.used], int(unsafe.Sizeof(T(0)))
	for i := range a.all {
		a.all[i] = guard
	}
	a.hi = len(a.all) - (r.seed*(2*r.used+1)+r.used)%16*size
	a.lo = a.hi - n*size
	if a.lo < 64 {
		r.Fatalf("no memory for %d elements of %d bytes", n, size)
	}
	r.used++
	return unsafe.Slice((*T)(unsafe.Pointer(&a.all[a.lo])), n)
}

// from is a buffer that a kernel may only read.
func from[T element](r *trial, xs []T) []T {
	ys := into[T](r, len(xs))
	copy(ys, xs)
	a := r.areas[r.used-1]
	a.lo = a.hi
	return ys
}

// run calls a kernel and fails if it changed anything but the buffers it may write to.
func (r *trial) run(what string, f func()) {
	r.Helper()
	for _, a := range r.areas[:r.used] {
		a.was = append(a.was[:0], a.all...)
	}
	f()
	for i, a := range r.areas[:r.used] {
		if !bytes.Equal(a.all[:a.lo], a.was[:a.lo]) || !bytes.Equal(a.all[a.hi:], a.was[a.hi:]) {
			r.Fatalf("%s (seed %d): buffer %d changed outside of what may change", what, r.seed, i)
		}
	}
}

func compare[T element](r *trial, what string, got, want []T) {
	r.Helper()
	if len(got) != len(want) || len(want) == 0 {
		r.Fatalf("%s: %d results, want %d", what, len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			r.Fatalf("%s (seed %d): [%d] is %d, want %d", what, r.seed, i, got[i], want[i])
		}
	}
}

// kinds are the ways to fill a buffer: random numbers, the ends of the range alone, one end, the other, and zeros with a few others.
const kinds = 5

// numbers are n numbers up to ±limit.
func numbers[T element](r *trial, n int, limit int64, kind int) []T {
	xs := make([]T, n)
	for i := range xs {
		switch kind {
		case 0:
			xs[i] = T(r.Int64N(2*limit+1) - limit)
		case 1:
			xs[i] = T(limit * (1 - 2*r.Int64N(2)))
		case 2:
			xs[i] = T(limit)
		case 3:
			xs[i] = T(-limit)
		default:
			if r.IntN(4) == 0 {
				xs[i] = T(r.Int64N(2*limit+1) - limit)
			}
		}
	}
	return xs
}

// rows are numbers of rows: those around the blocks of every version, and networks'.
func rows() []int { return []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 17, 32, 64} }

// eachShape calls f for rows and their lengths, with kinds for two operands in turn, and returns how often.
func eachShape(r *trial, f func(rows, k, kind, other int)) int {
	calls := 0
	for _, n := range rows() {
		for k := Lanes; k <= 40*Lanes; k += Lanes {
			for i := range 3 {
				r.next()
				f(n, k, (calls+i)%kinds, (calls/kinds+i)%kinds)
				calls++
			}
		}
	}
	return calls
}

const allShapes = 14 * 40 * 3

func checkCount(t *testing.T, what string, got, want int) {
	t.Helper()
	if got != want {
		t.Errorf("%d %s, want %d", got, what, want)
	}
}

// Of every product, the largest sums that its contract allows.
func TestDot(t *testing.T) {
	for _, narrow := range []bool{false, true} {
		t.Run(fmt.Sprintf("narrow=%v", narrow), func(t *testing.T) {
			eachVersion(t, func(t *testing.T, v *Kernels) {
				r, large := bench(t, 3, 2*64*40*Lanes+128), 0
				checkCount(t, "shapes", eachShape(r, func(n, k, kind, other int) {
					bound, wBound := int64([]int{1, 255, 4095, math.MaxInt16}[r.IntN(4)]), int64(math.MaxInt16)
					if narrow {
						wBound = min(wBound, math.MaxInt32/(bound*int64(k)))
					}
					w, x := from(r, numbers[int16](r, n*k, wBound, kind)), from(r, numbers[int16](r, k, bound, other))
					got, want := into[int64](r, n), make([]int64, n)
					of, by := v.Dot, dot
					if narrow {
						of, by = v.DotNarrow, dotNarrow
					}
					by(want, w, x)
					for _, s := range want {
						if fixed.Largest([]int64{s}) > math.MaxInt32*3/4 {
							large++
						}
					}
					what := fmt.Sprintf("%d rows of %d", n, k)
					r.run(what, func() { of(got, w, x) })
					compare(r, what, got, want)
				}), allShapes)
				if large < 1000 {
					t.Errorf("only %d sums were near the end of an int32 or beyond", large)
				}
			})
		})
	}
}

// TestOutputs: sums, biases and shifts over the whole of an int32, and ranges of outputs that cut.
func TestOutputs(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		r, cut := bench(t, 4, 2*64*40*Lanes+128), 0
		checkCount(t, "shapes", eachShape(r, func(n, k, kind, other int) {
			shift := r.IntN(31)
			half := int64(1) << shift >> 1
			bound := int64([]int{1, 255, 4095, math.MaxInt16}[r.IntN(4)])
			space := (math.MaxInt32 - half) / 2 // half for products, half for biases
			w := from(r, numbers[int16](r, n*k, min(math.MaxInt16, space/(bound*int64(k))), kind))
			x := from(r, numbers[int16](r, k, bound, other))
			bias := from(r, numbers[int32](r, n, space, r.IntN(kinds)))
			low, high := int16(-math.MaxInt16), int16(math.MaxInt16)
			if r.IntN(2) == 0 {
				low, high = 0, 8191
			}
			got, want := into[int16](r, n), make([]int16, n)
			outputs(want, w, x, bias, shift, low, high)
			for _, y := range want {
				if y == low || y == high {
					cut++
				}
			}
			what := fmt.Sprintf("%d rows of %d, shift %d", n, k, shift)
			r.run(what, func() { v.Outputs(got, w, x, bias, shift, low, high) })
			compare(r, what, got, want)
			exact := make([]int64, n)
			dot(exact, w, x)
			for i, s := range exact {
				if y := min(max(fixed.RoundShift(s+int64(bias[i]), shift), int64(low)), int64(high)); y != int64(want[i]) {
					t.Fatalf("%s: output %d is %d, by package fixed %d", what, i, want[i], y)
				}
			}
		}), allShapes)
		if cut < 1000 {
			t.Errorf("only %d outputs were cut", cut)
		}
	})
}

// Rows as long as the wide product's partial sums allow, one vector less and one more, of the largest numbers and of those whose
// lower halves are largest.
func TestDotLong(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		r, n := bench(t, 3, 2*2*(1<<17+Lanes)+128), 0
		for _, k := range []int{1<<17 - Lanes, 1 << 17, 1<<17 + Lanes} {
			for _, f := range [][2]int16{{32767, 32767}, {-32767, 32767}, {-1, 1}, {1, 1}, {255, 257}, {-255, 257}, {181, 181}} {
				r.next()
				w, x := make([]int16, 2*k), make([]int16, k)
				for i := range x {
					w[i], w[k+i], x[i] = f[0], f[0], f[1]
				}
				w, x = from(r, w), from(r, x)
				got, sum := into[int64](r, 2), int64(k)*int64(f[0])*int64(f[1])
				what := fmt.Sprintf("%d times %v", k, f)
				r.run(what, func() { v.Dot(got, w, x) })
				compare(r, what, got, []int64{sum, sum})
				n++
			}
		}
		checkCount(t, "rows", n, 3*7)
	})
}

// Whatever the number of rows, their products and the numbers they are added to use the whole int32.
func TestBack(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		r, large := bench(t, 3, 2*64*40*Lanes+128), 0
		checkCount(t, "shapes", eachShape(r, func(n, k, kind, other int) {
			dBound := int64([]int{1, 127, fixed.GradientMax, math.MaxInt16}[r.IntN(4)])
			wBound := min(math.MaxInt16, 1<<30/(dBound*int64(n)))
			w, d := from(r, numbers[int16](r, n*k, wBound, kind)), from(r, numbers[int16](r, n, dBound, other))
			got := into[int32](r, k)
			copy(got, numbers[int32](r, k, 1<<30-1, kind))
			want := slices.Clone(got)
			back(want, w, d)
			for _, s := range want {
				if s > 1<<30 || s < -1<<30 {
					large++
				}
			}
			what := fmt.Sprintf("%d rows of %d", n, k)
			r.run(what, func() { v.Back(got, w, d) })
			compare(r, what, got, want)
		}), allShapes)
		if large < 1000 {
			t.Errorf("only %d sums were large", large)
		}
	})
}

// Every shift, several inputs, rows and lengths, with changes and weights that saturate.
func TestUpdate(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		r, trials, changed, ends := bench(t, 4, 2*17*9*Lanes+128), 0, 0, 0
		for shift := range fixed.MaxShift + 1 {
			for inputs := 1; inputs <= 5; inputs++ {
				for _, n := range []int{1, 2, 5, 16, 17} {
					for _, k := range []int{Lanes, 2 * Lanes, 3 * Lanes, 9 * Lanes} {
						r.next()
						dBound := int64([]int{1, 127, fixed.GradientMax, math.MaxInt16}[r.IntN(4)])
						xBound := min(math.MaxInt16, 1<<30/(dBound*int64(inputs)))
						limit := []int16{1, 127, 4095, math.MaxInt16}[r.IntN(4)]
						x := from(r, numbers[int16](r, inputs*k, xBound, trials%kinds))
						d := from(r, numbers[int16](r, inputs*n, dBound, trials/kinds%kinds))
						random := make([]uint16, n*k)
						for i := range random {
							random[i] = uint16(r.Uint32())
							if e := r.IntN(8); e < 2 {
								random[i] = uint16(-e) // 0 and 2^16 - 1
							}
						}
						random = from(r, random)
						got := into[int16](r, n*k)
						copy(got, numbers[int16](r, n*k, int64(limit), r.IntN(kinds)))
						old, want := slices.Clone(got), slices.Clone(got)
						update(want, x, d, random, n, shift, limit)
						for i, w := range want {
							if w != old[i] {
								changed++
								if w == limit || w == -limit {
									ends++
								}
							}
						}
						what := fmt.Sprintf("shift %d, %d inputs, %d rows of %d, limit %d", shift, inputs, n, k, limit)
						r.run(what, func() { v.Update(got, x, d, random, n, shift, limit) })
						compare(r, what, got, want)
						trials++
					}
				}
			}
		}
		checkCount(t, "updates", trials, 31*5*5*4)
		if changed < 100000 || ends < 10000 {
			t.Errorf("only %d weights changed, %d of them to the end of the range", changed, ends)
		}
	})
}

// A single weight and input, one vector at a time, over every random number and shift: the rounding itself.
func TestUpdateRounding(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		random := make([]uint16, 1<<16)
		for i := range random {
			random[i] = uint16(i)
		}
		x, cases := make([]int16, len(random)), 0
		for shift := range fixed.MaxShift + 1 {
			for _, f := range [][2]int16{{1, 1}, {-1, 1}, {32767, 32767}, {-32767, 32767}, {181, 181}, {-8191, 4099}} {
				for i := range x {
					x[i] = f[0]
				}
				got := make([]int16, len(random))
				v.Update(got, x, f[1:], random, 1, shift, math.MaxInt16)
				for i, w := range got {
					p := int32(f[0]) * int32(f[1])
					if want := fixed.StochasticShift(p, shift, random[i]); int32(w) != min(max(want, -math.MaxInt16), math.MaxInt16) {
						t.Fatalf("%d >> %d with %d is %d, want %d", p, shift, random[i], w, want)
					}
					cases++
				}
			}
		}
		checkCount(t, "roundings", cases, 31*6<<16)
	})
}

func TestAccumulate(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		r, trials := bench(t, 2, 4*40*Lanes+128), 0
		for n := Lanes; n <= 40*Lanes; n += Lanes {
			for kind := range kinds {
				r.next()
				w := from(r, numbers[int16](r, n, math.MaxInt16, kind))
				got := into[int32](r, n)
				copy(got, numbers[int32](r, n, math.MaxInt32-math.MaxInt16, kind))
				want := slices.Clone(got)
				accumulate(want, w)
				what := fmt.Sprintf("%d sums", n)
				r.run(what, func() { v.Accumulate(got, w) })
				compare(r, what, got, want)
				trials++
			}
		}
		checkCount(t, "lengths", trials, 40*kinds)
	})
}

// The largest norm is in any of the rows, and up to that of a row as long as an int32 allows.
func TestNorm(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		r, trials := bench(t, 1, 2*(1<<16+Lanes)+128), 0
		check := func(w []int16, k int) {
			what := fmt.Sprintf("%d rows of %d", len(w)/k, k)
			w = from(r, w)
			got, want := int64(0), norm(w, k)
			r.run(what, func() { got = v.Norm(w, k) })
			compare(r, what, []int64{got}, []int64{want})
			trials++
		}
		checkCount(t, "shapes", eachShape(r, func(n, k, kind, _ int) { check(numbers[int16](r, n*k, math.MaxInt16, kind), k) }), allShapes)
		for _, k := range []int{1<<16 - Lanes, 1 << 16, 1<<16 + Lanes} {
			for kind := range kinds {
				r.next()
				check(numbers[int16](r, k, math.MaxInt16, kind), k)
			}
		}
		checkCount(t, "norms", trials, allShapes+3*kinds)
	})
}

// Also where the number of the block needs its upper half, or wraps.
func TestHalves(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Kernels) {
		r, trials := bench(t, 1, 2*40*Lanes+128), 0
		for n := Lanes; n <= 40*Lanes; n += Lanes {
			for _, first := range []uint64{0, 1, 1<<32 - 1, 1<<32 - 17, 1 << 32, 1<<63 + 5, math.MaxUint64 - 9} {
				r.next()
				s := rng.New(r.Uint64(), rng.RoundWeight, r.Uint64()>>8)
				got, want := into[uint16](r, n), make([]uint16, n)
				s.Halves(want, first)
				what := fmt.Sprintf("%d numbers from block %d", n, first)
				r.run(what, func() { v.Halves(got, s, first) })
				compare(r, what, got, want)
				trials++
			}
		}
		checkCount(t, "lengths", trials, 40*7)
	})
}

// The portable kernels, the definition of the others, on numbers worked out by hand.
func TestPortable(t *testing.T) {
	k := portable()
	w, x := []int16{1, -2, 3, 4, 5, -6}, []int16{100, 10, 1}
	for name, f := range map[string]func([]int64, []int16, []int16){"Dot": k.Dot, "DotNarrow": k.DotNarrow} {
		y := []int64{7, 7}
		if f(y, w, x); !slices.Equal(y, []int64{100 - 20 + 3, 400 + 50 - 6}) {
			t.Errorf("%s gives %d", name, y)
		}
	}
	dx := []int32{1000, 2000, 3000}
	if k.Back(dx, w, []int16{10, -1}); !slices.Equal(dx, []int32{1000 + 10 - 4, 2000 - 20 - 5, 3000 + 30 + 6}) {
		t.Errorf("Back gives %d", dx)
	}
	if k.Accumulate(dx, w); !slices.Equal(dx, []int32{1007, 1973, 3039}) {
		t.Errorf("Accumulate gives %d", dx)
	}
	// Two inputs, two rows: the sums are 3·100+1·7, 3·10+1·8 and -2·100+4·7, -2·10+4·8; in quarters, with dithers 0, 1, 2, 3.
	learnt := []int16{0, 0, 50, -10}
	k.Update(learnt, []int16{100, 10, 7, 8}, []int16{3, -2, 1, 4}, []uint16{0, 1 << 14, 1 << 15, 3 << 14}, 2, 2, 60)
	if want := []int16{60, 9, 50 - 43, -10 + 3}; !slices.Equal(learnt, want) { // 307/4 saturates; (38+1)/4; (-172+2)/4; (12+3)/4
		t.Errorf("Update gives %d, want %d", learnt, want)
	}
	if Padded(1) != 16 || Padded(16) != 16 || Padded(17) != 32 || Padded(0) != 0 {
		t.Error("Padded does not round up to the lanes")
	}
}

// shapes are those of ResNet20-LC's three stages, a shortcut, and the widest.
var shapes = []struct{ rows, k int }{{16, 144}, {32, 288}, {64, 576}, {32, 16}}

// scratch are buffers that the kernels need beside the weights, large enough for every shape.
type scratch struct {
	x, d   [1024]int16
	y      [64]int64
	sum    [64 << 10]int32
	random [64 << 10]uint16
}

// benchmark runs f on arrays of weights, each of several locations of rows times k: one that stays in the caches, one that
// comes from memory, and that by as many goroutines as processors, each with a part of its own.
func benchmark(b *testing.B, bytesPerWeight int, f func(v *Kernels, s *scratch, w []int16, rows, k int)) {
	const large, small = 40 << 20, 1 << 14 // weights
	for _, v := range Versions() {
		for _, shape := range shapes {
			for _, run := range []struct {
				name    string
				weights int
				workers int
			}{{"cache", small, 1}, {"memory", large, 1}, {"memory-parallel", large, runtime.GOMAXPROCS(0)}} {
				if v.Name == "portable" && (shape.rows != 16 || run.weights == large && run.workers > 1) {
					continue
				}
				b.Run(fmt.Sprintf("%s/%dx%d/%s", v.Name, shape.rows, shape.k, run.name), func(b *testing.B) {
					location := shape.rows * shape.k
					each := max(run.weights/location/run.workers, 1) // locations a worker
					w := make([]int16, each*run.workers*location)
					for i := range w {
						w[i] = int16(i%31 - 15)
					}
					buffers := make([]scratch, run.workers)
					for i := range buffers {
						s := &buffers[i]
						for j := range s.x {
							s.x[j], s.d[j] = int16(j%15-7), int16(j%6-2) // one factor of six is 0
						}
					}
					b.SetBytes(int64(len(w) * bytesPerWeight))
					b.ResetTimer()
					var wg sync.WaitGroup
					for worker := range run.workers {
						wg.Go(func() {
							for range b.N {
								for l := worker * each; l < (worker+1)*each; l++ {
									f(v, &buffers[worker], w[l*location:(l+1)*location], shape.rows, shape.k)
								}
							}
						})
					}
					wg.Wait()
					b.ReportMetric(float64(len(w))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
				})
			}
		}
	}
}

func BenchmarkDotNarrow(b *testing.B) {
	benchmark(b, 2, func(v *Kernels, s *scratch, w []int16, rows, k int) { v.DotNarrow(s.y[:rows], w, s.x[:k]) })
}

func BenchmarkDot(b *testing.B) {
	benchmark(b, 2, func(v *Kernels, s *scratch, w []int16, rows, k int) { v.Dot(s.y[:rows], w, s.x[:k]) })
}

func BenchmarkBack(b *testing.B) {
	benchmark(b, 2, func(v *Kernels, s *scratch, w []int16, rows, k int) { v.Back(s.sum[:k], w, s.d[:rows]) })
}

// The weights are read and written, the random numbers read.
func BenchmarkUpdate(b *testing.B) {
	benchmark(b, 6, func(v *Kernels, s *scratch, w []int16, rows, k int) {
		v.Update(w, s.x[:k], s.d[:rows], s.random[:rows*k], rows, 12, math.MaxInt16)
	})
}

// The weights are read, the sums read and written.
func BenchmarkAccumulate(b *testing.B) {
	benchmark(b, 10, func(v *Kernels, s *scratch, w []int16, rows, k int) { v.Accumulate(s.sum[:rows*k], w) })
}

func BenchmarkNorm(b *testing.B) {
	benchmark(b, 2, func(v *Kernels, s *scratch, w []int16, _, k int) { s.y[0] = v.Norm(w, k) })
}

// Numbers for the weights of a location, which are not touched themselves.
func BenchmarkHalves(b *testing.B) {
	stream := rng.New(1, rng.RoundWeight, 2)
	for _, v := range Versions() {
		b.Run(v.Name, func(b *testing.B) {
			dst := make([]uint16, 16*144)
			b.SetBytes(int64(2 * len(dst)))
			for i := range b.N {
				v.Halves(dst, stream, uint64(i))
			}
		})
	}
}
