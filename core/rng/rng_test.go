package rng

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"gonum.org/v1/gonum/mathext"
	"gonum.org/v1/gonum/stat"
)

// The known answers of Random123 1.14, file tests/kat_vectors, lines "philox4x32 10".
func TestPhiloxKnownAnswers(t *testing.T) {
	for _, c := range []struct {
		counter [4]uint32
		key     [2]uint32
		want    [4]uint32
	}{
		{[4]uint32{}, [2]uint32{}, [4]uint32{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
		{
			[4]uint32{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
			[2]uint32{0xffffffff, 0xffffffff},
			[4]uint32{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
		},
		{
			[4]uint32{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
			[2]uint32{0xa4093822, 0x299f31d0},
			[4]uint32{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1},
		},
	} {
		if got := philox(c.counter, c.key); got != c.want {
			t.Errorf("philox(%x, %x) = %x, want %x", c.counter, c.key, got, c.want)
		}
	}
}

func TestStreamsDiffer(t *testing.T) {
	seen := map[uint64]string{}
	for seed := range uint64(4) {
		for _, p := range []Purpose{Init, Shuffle, Crop, Test} {
			for index := range uint64(4) {
				s := New(seed, p, index)
				for i := range uint64(4) {
					at := fmt.Sprint(seed, p, index, i)
					if was, twice := seen[s.Uint64(i)]; twice {
						t.Errorf("%s repeats %s", at, was)
					}
					seen[s.Uint64(i)] = at
				}
			}
		}
	}
	if len(seen) != 4*4*4*4 {
		t.Errorf("saw %d numbers, want %d", len(seen), 4*4*4*4)
	}
}

func TestIndexOutOfRangePanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("an index of 57 bits was taken")
		}
	}()
	New(1, Init, 1<<56)
}

func TestPerm(t *testing.T) {
	for _, n := range []int{0, 1, 2, 10, 1000} {
		p := New(7, Shuffle, 3).Perm(n)
		seen := make([]bool, n)
		for _, v := range p {
			if v < 0 || v >= n || seen[v] {
				t.Fatalf("Perm(%d) is no permutation: %v", n, p)
			}
			seen[v] = true
		}
		if len(p) != n {
			t.Fatalf("Perm(%d) has %d elements", n, len(p))
		}
	}
}

// Each of the n values has probability 1/n: over m draws a count is binomial, its standard deviation below
// sqrt(m/n); five of them fail by chance less than once in 10^6, and the seed is fixed.
func TestIntnIsUniform(t *testing.T) {
	const n, m = 10, 100_000
	s, count := New(1, Test, 0), [n]int{}
	for i := range uint64(m) {
		count[s.Intn(i, n)]++
	}
	for v, c := range count {
		if d := math.Abs(float64(c) - m/n); !(d <= 5*math.Sqrt(m/n)) {
			t.Errorf("value %d drawn %d times of %d, expected %d", v, c, m, m/n)
		}
	}
}

// The standard errors of mean, variance and excess kurtosis of m normal draws are 1/√m, √(2/m) and √(24/m).
func TestNormalMoments(t *testing.T) {
	const m = 200_000
	s, x := New(2, Test, 0), make([]float64, m)
	for i := range x {
		x[i] = s.Normal(uint64(i))
	}
	mean, variance := stat.MeanVariance(x, nil)
	kurtosis := stat.ExKurtosis(x, nil)
	for _, c := range []struct {
		name           string
		got, want, err float64
	}{
		{"mean", mean, 0, math.Sqrt(1. / m)},
		{"variance", variance, 1, math.Sqrt(2. / m)},
		{"excess kurtosis", kurtosis, 0, math.Sqrt(24. / m)},
	} {
		if d := math.Abs(c.got - c.want); !(d <= 4*c.err) {
			t.Errorf("%s = %g, want %g ± %g", c.name, c.got, c.want, 4*c.err)
		}
	}
}

// gonum's quantile is an implementation of its own (Cephes); both state about 1e-15 relative.
func TestQuantileAgainstGonum(t *testing.T) {
	n := 0
	for _, scale := range []float64{1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15} {
		for u := 0.0005; u < 1; u += 0.001 {
			p := u * scale
			want := mathext.NormalQuantile(p)
			if d := math.Abs(quantile(p) - want); !(d <= 4e-15*math.Max(1, math.Abs(want))) {
				t.Errorf("quantile(%g) = %.17g, gonum has %.17g", p, quantile(p), want)
			}
			n++
		}
	}
	if n < 6000 {
		t.Errorf("only %d quantiles compared", n)
	}
	lowest, highest := quantile(0x1p-53), quantile(1-0x1p-53)
	if lowest != -highest || !(lowest > -8.3 && lowest < -8.2) {
		t.Errorf("the extreme draws are %g and %g", lowest, highest)
	}
}

func TestLogarithm(t *testing.T) {
	n := 0
	for x := 1e-300; x < 1e300; x *= 1.37 {
		want := math.Log(x)
		if d := math.Abs(logarithm(x) - want); !(d <= 3e-16*math.Max(1, math.Abs(want))) {
			t.Errorf("logarithm(%g) = %.17g, want %.17g", x, logarithm(x), want)
		}
		n++
	}
	if n < 1000 {
		t.Errorf("only %d logarithms compared", n)
	}
}

// One digest for every processor: it was computed by this test on amd64 and must come out on arm64 and armv7 too
// (make test-arm runs it there under emulation).
func TestNormalIsTheSameOnEveryProcessor(t *testing.T) {
	const want = "a18c04c2e3cd0e04"
	s, h := New(3, Test, 9), sha256.New()
	for i := range uint64(20_000) {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], math.Float64bits(s.Normal(i)))
		h.Write(b[:])
	}
	if got := fmt.Sprintf("%x", h.Sum(nil)[:8]); got != want {
		t.Errorf("digest of 20,000 normal draws = %s, want %s", got, want)
	}
}

// Many draws at once are the draws one by one, from even and odd places and in odd numbers.
func TestNormals(t *testing.T) {
	s := New(7, Test, 1)
	for first := range uint64(3) {
		for n := range 6 {
			got := make([]float64, n)
			s.Normals(got, first)
			for i, v := range got {
				if want := s.Normal(first + uint64(i)); !(v == want) {
					t.Errorf("draw %d of %d from %d on: %g, want %g", i, n, first, v, want)
				}
			}
		}
	}
}

func BenchmarkNormal(b *testing.B) {
	s, i := New(1, Test, 0), uint64(0)
	for b.Loop() {
		s.Normal(i)
		i++
	}
}

// Each block gives eight halves, the low one of each word first; a length that is no multiple of them cuts the last block.
func TestHalves(t *testing.T) {
	lengths := 0
	for _, s := range []Stream{New(1, RoundWeight, 2), New(math.MaxUint64, RoundSleep, 1<<56-1)} {
		for _, first := range []uint64{0, 7, 1<<32 - 2, math.MaxUint64 - 1} {
			for n := range 40 {
				dst := make([]uint16, n+1)
				dst[n] = 12345
				s.Halves(dst[:n], first)
				for i, h := range dst[:n] {
					word := s.Block(first + uint64(i/8))[i%8/2]
					if want := uint16(word >> (16 * (i % 2))); h != want {
						t.Fatalf("number %d of %d from block %d is %#x, want %#x", i, n, first, h, want)
					}
				}
				if dst[n] != 12345 {
					t.Fatalf("a number behind the last of %d was set", n)
				}
				lengths++
			}
		}
	}
	if lengths != 2*4*40 {
		t.Errorf("%d lengths", lengths)
	}
}

// The state is all that a block depends on beside its number.
func TestState(t *testing.T) {
	s := New(0x0123456789abcdef, RoundRate, 0x00fedcba98765432)
	key, id := s.State()
	if key != [2]uint32{0x89abcdef, 0x01234567} || id != [2]uint32{0x98765432, uint32(RoundRate)<<24 | 0xfedcba} {
		t.Errorf("the state is %#x, %#x", key, id)
	}
	if got, want := philox([4]uint32{5, 1, id[0], id[1]}, key), s.Block(1<<32+5); got != want {
		t.Errorf("from the state comes the block %#x, want %#x", got, want)
	}
}
