package rng

import (
	"math"
	"testing"
)

// A sign is one bit of a block, by the letter; signs drawn together are the same, wherever they begin and end.
func TestSigns(t *testing.T) {
	s := New(5, Test, 3)
	bits := make([]float64, 0, 4*128)
	for block := range uint64(4) {
		for _, word := range s.Block(block) {
			for range 32 {
				bits = append(bits, 1-2*float64(word&1))
				word >>= 1
			}
		}
	}
	for i, want := range bits {
		if got := s.Sign(uint64(i)); got != want {
			t.Fatalf("sign %d is %g, want %g", i, got, want)
		}
	}
	ranges := 0
	for _, first := range []int{0, 1, 31, 127, 128, 200} {
		for _, n := range []int{0, 1, 2, 127, 128, 129, 300} {
			dst := make([]float32, n)
			s.Signs(dst, uint64(first), 0.75)
			for i, got := range dst {
				if want := float32(0.75 * bits[first+i]); got != want {
					t.Fatalf("signs from %d on: number %d is %g, want %g", first, i, got, want)
				}
			}
			ranges++
		}
	}
	if ranges != 6*7 {
		t.Errorf("%d ranges compared, want 42", ranges)
	}
	// The sum of m independent signs has standard deviation √m.
	const m = 1 << 16
	many, sum := make([]float32, m), 0.0
	s.Signs(many, 0, 1)
	for _, v := range many {
		sum += float64(v)
	}
	if !(math.Abs(sum) <= 4*math.Sqrt(m)) {
		t.Errorf("%d signs add up to %g", m, sum)
	}
}
