package fixed

import (
	"fmt"
	"math"
	"math/big"
	"testing"
)

// precision is the number of bits of the references here; their errors are far below those that are tested.
const precision = 200

func float(v float64) *big.Float { return new(big.Float).SetPrec(precision).SetFloat64(v) }

// ldexp is v·2^e.
func ldexp(v *big.Float, e int) *big.Float { return new(big.Float).SetMantExp(v, e) }

// ln2 is Σ 1/(k·2^k).
func ln2() *big.Float {
	sum := float(0)
	for k := 1; k <= precision; k++ {
		sum.Add(sum, ldexp(new(big.Float).Quo(float(1), float(float64(k))), -k))
	}
	return sum
}

// exp is exp(-x) for 0 ≤ x < 2^6: the power series at x/2^12, squared twelve times.
func exp(x *big.Float) *big.Float {
	const halvings = 12
	small := ldexp(new(big.Float).Neg(x), -halvings)
	sum, term := float(1), float(1)
	for k := 1; k < 50; k++ { // the rest is below 2^-6k/k!
		term.Mul(term, small)
		term.Quo(term, float(float64(k)))
		sum.Add(sum, term)
	}
	for range halvings {
		sum.Mul(sum, sum)
	}
	return sum
}

// Every digit of the constants.
func TestExpConstants(t *testing.T) {
	log2e := new(big.Float).Quo(float(1), ln2())
	if got, _ := ldexp(log2e, 63).Uint64(); got != log2E {
		t.Errorf("log2(e) is %#x, not %#x", got, uint64(log2E))
	}
	root := float(0.5)
	for i, r := range roots {
		root = new(big.Float).SetPrec(precision).Sqrt(root)
		nearest := ldexp(root, 64)
		if got, _ := nearest.Add(nearest, float(0.5)).Uint64(); got != r {
			t.Errorf("2^(-2^-%d) is %#x, not %#x", i+1, got, r)
		}
	}
	if len(roots) != 24 {
		t.Errorf("%d roots", len(roots))
	}
}

// checkExp fails where Exp is off by more than its comment says.
func checkExp(t *testing.T, d int64, frac int) {
	t.Helper()
	x := ldexp(float(float64(d)), -frac) // d is below 2^53
	got := ldexp(float(float64(Exp(d, frac))), -31)
	want := float(0) // below 2^-92
	if x.Cmp(float(64)) < 0 {
		want = exp(x)
	}
	off := new(big.Float).Sub(got, want)
	above := new(big.Float).Mul(want, ldexp(float(0.7), -24))
	below := new(big.Float).Neg(new(big.Float).Add(ldexp(float(1), -31), ldexp(float(1), -57)))
	if off.Cmp(above) > 0 || off.Cmp(below) < 0 {
		t.Fatalf("exp(-%d·2^-%d) is %g, off by %g", d, frac, got, off)
	}
}

func TestExp(t *testing.T) {
	r, cases := random(), 0
	for frac := -30; frac <= 30; frac++ {
		if e := Exp(0, frac); e != 1<<31 {
			t.Errorf("exp(0) is %d·2^-31", e)
		}
		for range 40 {
			checkExp(t, r.Int64N(1<<r.IntN(17)), frac)
			// beside a power of two, where bits of t are all on or all off
			t2, _ := new(big.Float).Mul(ldexp(ln2(), frac), float(float64(r.IntN(33)))).Int64()
			if t2 >= 0 && t2 < 1<<53 {
				checkExp(t, t2, frac)
				checkExp(t, t2+1, frac)
				cases++
			}
			cases++
		}
		for _, d := range []int64{1, 2, 1<<16 - 2, 1<<16 - 1, 1 << 16, 1<<53 - 1} {
			checkExp(t, d, frac)
			cases++
		}
	}
	if cases < 61*80 {
		t.Errorf("only %d cases", cases)
	}
}

// All differences of two int16, in formats from coarse to fine: it never rises.
func TestExpFalls(t *testing.T) {
	for _, frac := range []int{-14, -1, 0, 5, 8, 11, 12, 13, 15, 18, 30} {
		last := Exp(0, frac)
		for d := int64(1); d < 1<<16; d++ {
			e := Exp(d, frac)
			if e > last {
				t.Fatalf("exp(-%d·2^-%d) is %d, above %d", d, frac, e, last)
			}
			last = e
		}
	}
}

// Against float64, whose own error, below N·2^-50, is within what the bound leaves: 2^-24 less 0.85·2^-24. The sum is 0 but for the
// rounding of each element, half a unit at most.
func TestSoftmaxGradient(t *testing.T) {
	r, cases := random(), 0
	for _, n := range []int{1, 2, 3, 10, 100, 1000} {
		for _, f := range []Format{{15, 0}, {7, 8}, {5, 10}, {3, 12}, {0, 15}, {-15, 30}, {15, -14}} {
			for kind := range 5 {
				logits := make([]int16, n)
				top := int(f.Max())
				for i := range logits {
					switch kind {
					case 0: // anywhere
						logits[i] = int16(r.IntN(2*top+1) - top)
					case 1: // all equal
						logits[i] = int16(top)
					case 2: // one far above the others
						logits[i] = int16(-top)
					case 3: // close to each other
						logits[i] = int16(r.IntN(min(top, 5)+1) - 2)
					default: // the most that can be lost: all others just below a unit of Exp, 31 bits under the largest
						logits[i] = int16(max(-top, -int(math.Ceil(31*math.Ln2*math.Ldexp(1, f.Frac)))))
					}
				}
				if kind == 2 || kind == 4 {
					logits[n/2] = int16(top * (4 - kind) / 2)
				}
				label := r.IntN(n)
				got := make([]int64, n)
				SoftmaxGradient(got, logits, f, int32(label))
				largest := math.Inf(-1)
				for _, v := range logits {
					largest = max(largest, f.Float(int64(v)))
				}
				sum := 0.0
				for _, v := range logits {
					sum += math.Exp(f.Float(int64(v)) - largest)
				}
				total := int64(0)
				what := fmt.Sprintf("%d logits of %v, kind %d", n, f, kind)
				for i, v := range logits {
					want := math.Exp(f.Float(int64(v))-largest) / sum
					if i == label {
						want--
					}
					off := math.Abs(math.Ldexp(float64(got[i]), -SoftmaxFrac) - want)
					if bound := 0x1p-24 + float64(n)*0x1p-31; !(off <= bound) {
						t.Fatalf("%s: [%d] is %d, want %g, off by %g, bound %g", what, i, got[i], want, off, bound)
					}
					total += got[i]
				}
				if 2*total > int64(n) || 2*total < -int64(n) {
					t.Fatalf("%s: the sum is %d", what, total)
				}
				cases++
			}
		}
	}
	if cases != 6*7*5 {
		t.Errorf("%d cases", cases)
	}
}
