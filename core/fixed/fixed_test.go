package fixed

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// seed is that of every random number in these tests.
const seed = 5

func random() *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// formats are all there are.
func formats() (all []Format) {
	for i := -40; i <= 40; i++ {
		for frac := -40; frac <= 40; frac++ {
			if f := (Format{i, frac}); f.Check() == nil {
				all = append(all, f)
			}
		}
	}
	return all
}

func TestFormats(t *testing.T) {
	if n := len(formats()); n != 31*15 {
		t.Errorf("%d formats, want 31 ranges with 15 numbers of bits", n)
	}
	for _, f := range formats() {
		if f.Bits() < 1 || f.Bits() > 15 || f.Int < -15 || f.Int > 15 {
			t.Errorf("%v is a format", f)
		}
		if want := int16(math.Ldexp(1, f.Bits()) - 1); f.Max() != want {
			t.Errorf("the largest of %v is %d, want %d", f, f.Max(), want)
		}
		if f.Unit()*math.Ldexp(1, f.Bits()) != math.Ldexp(1, f.Int) {
			t.Errorf("%v has units of %g", f, f.Unit())
		}
	}
	if s := (Format{3, 12}).String(); s != "Q3.12" {
		t.Errorf("Q3.12 is called %s", s)
	}
}

// Every number of every format, and what is beyond the ends; in some ranges, since another scales both by a power of two, also the
// midpoints and the floats beside them.
func TestQuantise(t *testing.T) {
	cases := 0
	for _, f := range formats() {
		top := int64(f.Max())
		check := func(v float64, want int64) {
			if got := f.Quantise(v); int64(got) != want {
				t.Fatalf("%v: %v becomes %d, want %d", f, v, got, want)
			}
			cases++
		}
		for n := -top; n <= top; n++ {
			v, half := f.Float(n), f.Unit()/2
			check(v, n)
			if got := f.Saturate(n); int64(got) != n {
				t.Fatalf("%v: %d saturates to %d", f, n, got)
			}
			if f.Int%5 != 0 {
				continue
			}
			check(v+half, min(n+1, top))
			check(math.Nextafter(v+half, math.Inf(-1)), n)
			check(v-half, n)
			check(math.Nextafter(v-half, math.Inf(-1)), max(n-1, -top))
		}
		for _, v := range []float64{f.Float(top + 1), 1e300, math.MaxFloat64, math.Inf(1)} {
			check(v, top)
			check(-v, -top)
		}
		for _, v := range []float64{0, math.Copysign(0, -1), 5e-324, -5e-324} {
			check(v, 0)
		}
		for _, n := range []int64{top + 1, 1 << 15, math.MaxInt64} {
			if f.Saturate(n) != f.Max() || f.Saturate(-n) != -f.Max() {
				t.Fatalf("%v: %d does not saturate", f, n)
			}
		}
	}
	const numbers = 1<<17 - 4 - 15 // of the formats of one range: Σ (2·(2^bits-1) + 1)
	if want := 31*(numbers+15*12) + 7*4*numbers; cases != want {
		t.Errorf("%d cases, want %d", cases, want)
	}
}

func TestQuantiseNaN(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a NaN became an integer")
		}
	}()
	Format{0, 15}.Quantise(math.NaN())
}

// The format holds the number and the next finer one does not.
func TestFormatFor(t *testing.T) {
	r, cases := random(), 0
	var numbers []float64
	for e := -50; e <= 15; e++ {
		p := math.Ldexp(1, e)
		numbers = append(numbers, p, math.Nextafter(p, 0), math.Nextafter(p, 2*p), p*(1+r.Float64()))
	}
	holds := func(f Format, v float64) bool { return math.Ldexp(v, f.Frac) < float64(f.Max())+0.5 } // what is rounded to it
	for wordBits := 1; wordBits <= WordBits; wordBits++ {
		for _, v := range append(numbers, 0) {
			f, err := FormatFor(v, wordBits)
			if coarsest := (Format{15, wordBits - 15}); !holds(coarsest, v) {
				if err == nil {
					t.Fatalf("%g has the format %v", v, f)
				}
				cases++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if f.Bits() != wordBits || !holds(f, v) {
				t.Fatalf("%v is no format of %d bits for %g", f, wordBits, v)
			}
			if finer := (Format{f.Int - 1, f.Frac + 1}); f.Int > -15 && holds(finer, v) {
				t.Fatalf("%v is finer than %v and holds %g", finer, f, v)
			}
			cases++
		}
	}
	if want := 15 * (66*4 + 1); cases != want {
		t.Errorf("%d cases, want %d", cases, want)
	}
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), 1 << 15, 1e300} {
		if f, err := FormatFor(v, 15); err == nil {
			t.Errorf("%g has the format %v", v, f)
		}
	}
	for _, bits := range []int{0, 16} {
		if f, err := FormatFor(0, bits); err == nil {
			t.Errorf("%v has %d bits", f, bits)
		}
	}
}

// floor is ⌊a/b⌋ for b > 0, exactly.
func floor(a, b *big.Int) *big.Int {
	return new(big.Int).Div(a, b) // Euclidean
}

// roundedQuotient is a/b rounded to the nearest, midpoints up: ⌊(2a+b)/2b⌋.
func roundedQuotient(a, b *big.Int) *big.Int {
	twice := new(big.Int).Lsh(a, 1)
	return floor(twice.Add(twice, b), new(big.Int).Lsh(b, 1))
}

// edges are numbers below 2^bits: every power of two with its neighbours, both signs, and as many random ones of all sizes.
func edges(r *rand.Rand, bits int) (all []int64) {
	for b := range bits {
		p := int64(1) << b
		for _, n := range []int64{p - 1, p, p + 1, r.Int64N(p) + p} {
			if n < 1<<bits {
				all = append(all, n, -n)
			}
		}
	}
	return append(all, 1<<bits-1, 1-1<<bits)
}

func TestRoundShift(t *testing.T) {
	cases := 0
	for s := range 63 {
		unit := new(big.Int).Lsh(big.NewInt(1), uint(s))
		for _, x := range edges(random(), 62) {
			if got, want := RoundShift(x, s), roundedQuotient(big.NewInt(x), unit).Int64(); got != want {
				t.Fatalf("%d / 2^%d is %d, want %d", x, s, got, want)
			}
			cases++
		}
	}
	if want := 63 * len(edges(random(), 62)); cases != want || cases < 10000 {
		t.Errorf("%d cases, want %d", cases, want)
	}
	for x := int64(math.MinInt16); x <= math.MaxInt16; x++ {
		for s := range 18 {
			// exact: x and 2^s are below 2^24
			if got, want := RoundShift(x, s), int64(math.Floor(math.Ldexp(float64(x), -s)+0.5)); got != want {
				t.Fatalf("%d / 2^%d is %d, want %d", x, s, got, want)
			}
			if got := RoundShift(x, -s); got != x<<s {
				t.Fatalf("%d · 2^%d is %d", x, s, got)
			}
		}
	}
}

// dithered are numbers for stochastic rounding to s bits less: around 0, the midpoint and the end of a unit, and at the ends
// of the range.
func dithered(r *rand.Rand, s int, end int64) []int64 {
	unit := int64(1) << s
	all := []int64{0, 1, unit / 2, unit/2 + 1, unit - 1, unit, unit + 1, end, end - 1, r.Int64N(end), r.Int64N(unit)}
	for _, x := range all {
		all = append(all, -x)
	}
	return all
}

// The sum over all 2^16 random numbers, exactly: 2^16·x/2^s up to 16 bits, and within 2^16·2^-17 of it beyond.
func TestStochasticShiftMean(t *testing.T) {
	r, cases := random(), 0
	for s := range MaxShift + 1 {
		for _, x := range dithered(r, s, 1<<30) {
			if x > 1<<30 || x < -1<<30 {
				continue
			}
			sum := int64(0)
			for u := range 1 << 16 {
				n := int64(StochasticShift(int32(x), s, uint16(u)))
				if down := x >> s; n != down && (n != down+1 || down<<s == x) {
					t.Fatalf("%d / 2^%d with %d is %d", x, s, u, n)
				}
				sum += n
			}
			bound := int64(0)
			if s > DitherBits {
				bound = 1 << s / 2
			}
			if off := sum<<s - x<<16; off > bound || off < -bound {
				t.Fatalf("the mean of %d / 2^%d is off by %d·2^-%d, bound %d", x, s, off, 16+s, bound)
			}
			cases++
		}
	}
	if cases < 31*20 {
		t.Errorf("only %d cases", cases)
	}
}

// Dithers are in order, from [0, 2^s), each as frequent as any other, and symmetric around the middle beyond 16 bits.
func TestDither(t *testing.T) {
	for s := range MaxShift + 1 {
		sum := int64(0)
		for u := range 1 << 16 {
			d := Dither(uint16(u), s)
			if want := int64(u) << s >> 16; s <= DitherBits && int64(d) != want {
				t.Fatalf("Dither(%d, %d) is %d, want %d", u, s, d, want)
			}
			if s > DitherBits && (int64(d) != int64(u)<<s>>16+1<<(s-17)) {
				t.Fatalf("Dither(%d, %d) = %d is not the middle of a cell", u, s, d)
			}
			if d < 0 || int64(d) >= 1<<s {
				t.Fatalf("Dither(%d, %d) = %d", u, s, d)
			}
			sum += int64(d)
		}
		want := int64(1<<s-1) << 15 // 2^16 times the mean of 0…2^s-1
		if s > DitherBits {
			want = 1 << (s + 15) // of the whole cell
		}
		if sum != want {
			t.Errorf("%d bits: the dithers add up to %d, want %d", s, sum, want)
		}
	}
}

func TestStochasticShift64(t *testing.T) {
	r, cases := random(), 0
	for s := range 63 {
		unit := new(big.Int).Lsh(big.NewInt(1), uint(s))
		for _, x := range append(dithered(r, s, 1<<62-1), edges(r, 62)...) {
			for _, u := range []uint16{0, 1, 1 << 15, math.MaxUint16, uint16(r.Uint32())} {
				// the dither is ⌊(2u+1)·2^s/2^17⌋
				d := new(big.Int).Lsh(big.NewInt(2*int64(u)+1), uint(s))
				want := floor(d.Add(d.Rsh(d, 17), big.NewInt(x)), unit).Int64()
				if x == -1<<62 || x == 1<<62 {
					continue
				}
				if got := StochasticShift64(x, s, u); got != want {
					t.Fatalf("%d / 2^%d with %d is %d, want %d", x, s, u, got, want)
				}
				if s <= MaxShift && x >= -1<<30 && x <= 1<<30 && int64(StochasticShift(int32(x), s, u)) != want {
					t.Fatalf("%d / 2^%d with %d: the two widths differ", x, s, u)
				}
				cases++
			}
		}
	}
	if cases < 63*500*5 {
		t.Errorf("only %d cases", cases)
	}
}

func TestDivideRound(t *testing.T) {
	cases := 0
	check := func(a, n int64) {
		if got, want := DivideRound(a, n), roundedQuotient(big.NewInt(a), big.NewInt(n)).Int64(); got != want {
			t.Fatalf("%d / %d is %d, want %d", a, n, got, want)
		}
		cases++
	}
	for n := int64(1); n <= 130; n++ {
		for a := -5 * n; a <= 5*n; a++ {
			check(a, n)
		}
	}
	for _, n := range edges(random(), 62) {
		for _, a := range edges(random(), 61) {
			if n > 0 && 2*max(a, -a) < math.MaxInt64-n {
				check(a, n)
			}
		}
	}
	if cases < 130*131*5+100000 {
		t.Errorf("only %d cases", cases)
	}
}

// An int32 holds the largest sums that are called narrow, and not those that are not.
func TestNarrow(t *testing.T) {
	for _, c := range []struct {
		norm    int64
		largest int16
		want    bool
	}{
		{0, math.MaxInt16, true}, {math.MaxInt64, 0, true},
		{math.MaxInt32, 1, true}, {math.MaxInt32 + 1, 1, false},
		{65538, 32767, true}, {65539, 32767, false}, // 65538·32767 = 2^31 - 2
		{math.MaxInt64, 2, false}, {math.MaxInt64, math.MaxInt16, false}, {1 << 60, 16, false},
	} {
		if got := NarrowSum(c.norm, c.largest); got != c.want {
			t.Errorf("NarrowSum(%d, %d) is %v", c.norm, c.largest, got)
		}
	}
	r, cases := random(), 0
	for _, a := range edges(r, 15) {
		for _, b := range edges(r, 15) {
			if a < 0 || b < 0 {
				continue
			}
			n := int64(NarrowTerms(int16(a), int16(b)))
			if n*a*b > math.MaxInt32 || a*b > 0 && (n+1)*a*b <= math.MaxInt32 {
				t.Fatalf("%d products of %d and %d", n, a, b)
			}
			if n < 2 {
				t.Fatalf("only %d products of %d and %d", n, a, b)
			}
			if got := NarrowSum(n*a, int16(b)); !got {
				t.Fatalf("NarrowSum(%d, %d) is false", n*a, b)
			}
			cases++
		}
	}
	if cases < 3000 {
		t.Errorf("only %d cases", cases)
	}
	if NarrowTerms(GradientMax, math.MaxInt16) != 8 || NarrowTerms(GradientMax, 1<<12-1) != 64 {
		t.Error("GradientBits promises sums of 2^3 and 2^6 products")
	}
}

// The shift is the smallest at which neither rounding leaves a gradient's integers.
func TestNormalShift(t *testing.T) {
	fits := func(largest int64, s int) bool { // rounded up, the worst
		unit := new(big.Int).Lsh(big.NewInt(1), uint(s))
		up := new(big.Int).Neg(floor(big.NewInt(-largest), unit))
		return up.Cmp(big.NewInt(GradientMax)) <= 0
	}
	cases := 0
	numbers := append(edges(random(), 62), 0, math.MaxInt64)
	for s := range 49 {
		for d := int64(-2); d <= 2; d++ {
			numbers = append(numbers, GradientMax<<s+d, (GradientMax<<s+1<<s)+d)
		}
	}
	for _, n := range numbers {
		if n < 0 {
			continue
		}
		s := NormalShift(n)
		if s < 0 || !fits(n, s) || s > 0 && fits(n, s-1) {
			t.Fatalf("%d has the shift %d", n, s)
		}
		if n < 1<<62 {
			for _, v := range []int64{StochasticShift64(n, s, math.MaxUint16), -StochasticShift64(-n, s, 0), RoundShift(n, s)} {
				if v > GradientMax {
					t.Fatalf("%d becomes %d", n, v)
				}
			}
		}
		cases++
	}
	if cases < 49*10+248 {
		t.Errorf("only %d cases", cases)
	}
	for n := int64(0); n < 1<<17; n++ {
		if s := NormalShift(n); !fits(n, s) || s > 0 && fits(n, s-1) {
			t.Fatalf("%d has the shift %d", n, s)
		}
	}
}

func TestLargest(t *testing.T) {
	for _, c := range []struct {
		x    []int64
		want int64
	}{{nil, 0}, {[]int64{0}, 0}, {[]int64{3, -5, 4}, 5}, {[]int64{-2, 7}, 7}, {[]int64{-math.MaxInt64, 1}, math.MaxInt64}} {
		if got := Largest(c.x); got != c.want {
			t.Errorf("the largest of %d is %d", c.x, got)
		}
	}
}

// The factor is as near as promised, and applied with one rounding.
func TestMultiplier(t *testing.T) {
	r, cases := random(), 0
	factors := []float64{0x1p-30, 0x1p30, math.Nextafter(0x1p30, 0), math.Nextafter(0x1p-30, 1), 1. / 3, 1, 0.75, 1e-3}
	for range 2000 {
		factors = append(factors, math.Ldexp(1+r.Float64(), r.IntN(60)-30))
	}
	for _, v := range factors {
		m, err := NewMultiplier(v)
		if err != nil {
			t.Fatal(err)
		}
		if m.M < 1<<30 || m.Shift < 0 || m.Shift > 62 {
			t.Fatalf("%g is %+v", v, m)
		}
		// Two floats as near as these have an exact difference (Sterbenz).
		if off := math.Abs(math.Ldexp(float64(m.M), -m.Shift) - v); !(off <= math.Ldexp(v, -31)) {
			t.Fatalf("%g is %+v, off by %g", v, m, off)
		}
		unit := new(big.Int).Lsh(big.NewInt(1), uint(m.Shift))
		for _, x := range append(edges(r, 31)[:20], r.Int64N(1<<31), -r.Int64N(1<<31), 1<<31-1, 1-1<<31) {
			product := new(big.Int).Mul(big.NewInt(x), big.NewInt(int64(m.M)))
			if got, want := m.Apply(x), roundedQuotient(product, unit).Int64(); got != want {
				t.Fatalf("%d times %+v is %d, want %d", x, m, got, want)
			}
			cases++
		}
	}
	if want := 2008 * 24; cases != want {
		t.Errorf("%d products, want %d", cases, want)
	}
	for _, v := range []float64{0, -1, math.NaN(), math.Inf(1), math.Nextafter(0x1p30, 1e300), math.Nextafter(0x1p-30, 0)} {
		if m, err := NewMultiplier(v); err == nil {
			t.Errorf("%g is %+v", v, m)
		}
	}
}

// A quarter, rounded once, is 0. Rounded to a half first, which becomes 1, and then to a half again, it would be 1.
func TestSingleRounding(t *testing.T) {
	if got := (Multiplier{1 << 30, 32}).Apply(1); got != 0 {
		t.Errorf("a quarter is %d", got)
	}
	if got := RoundShift(RoundShift(1<<30, 31), 1); got != 1 {
		t.Errorf("rounded twice, a quarter is %d", got)
	}
}

func Example_format() {
	f, err := FormatFor(5.3, WordBits)
	n := f.Quantise(1.0 / 3)
	fmt.Println(f, err, n, f.Float(int64(n)))
	// Output: Q3.12 <nil> 1365 0.333251953125
}
