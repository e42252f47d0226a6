package kernel

import (
	"slices"
	"testing"
	"unsafe"
)

// TestLimits counts what the loops of every version do. All sums are of whole numbers below 2^24, hence exact.
func TestLimits(t *testing.T) {
	versions := Versions()
	if len(versions) == 0 {
		t.Fatal("no versions")
	}
	for _, k := range versions {
		t.Run(k.Name, func(t *testing.T) {
			l, own := k.Limits()
			if want := k.Name != "neon"; own != want { // whose loops are portable Go
				t.Fatalf("the limits are the version's own: %v, want %v", own, want)
			}
			const rounds = 7
			x := [16]float32{1, 1, 5, 5}
			l.FMA(&x, rounds)
			var sum float32
			for _, v := range x {
				sum += v
			}
			if want := float32(l.Flop / 2 * rounds); sum != want {
				t.Errorf("FMA made %v multiply-adds, said %v", sum, want)
			}
			const n, guard = 3 * LimitBlock, 64
			src := make([]float32, n+guard)
			for i := range src {
				src[i] = float32(i + 1)
			}
			if got, want := l.Read(src[:n]), float32(n*(n+1)/2); got != want {
				t.Errorf("Read summed to %v, want %v", got, want)
			}
			for name, f := range map[string]func(dst, src []float32){"Copy": l.Copy, "Stream": l.Stream} {
				if f == nil {
					if name == "Stream" && (!own || k.Name == "portable") { // portable Go has none
						continue
					}
					t.Fatalf("no %s", name)
				}
				dst := aligned(n + guard)
				f(dst[:n], src)
				if !slices.Equal(dst[:n], src[:n]) || !slices.Equal(dst[n:], make([]float32, guard)) {
					t.Errorf("%s is no copy of %d floats", name, n)
				}
			}
			l.Scale(src[:n], 2)
			for i, v := range src {
				want := float32(i + 1)
				if i < n {
					want *= 2
				}
				if v != want {
					t.Fatalf("Scale: element %d is %v, want %v", i, v, want)
				}
			}
		})
	}
}

// aligned returns n zeros that begin on a multiple of 64 bytes.
func aligned(n int) []float32 {
	x := make([]float32, n+16)
	skip := (-int(uintptr(unsafe.Pointer(&x[0]))) & 63) / 4
	return x[skip : skip+n]
}
