// Package kernel has the inner loops of the integer backend. The portable Go below is their definition; assembly is chosen
// at run time and gives the same bits, since every function is exact: sums of integers, whatever the order, and roundings
// of package fixed element by element.
//
// Rows of weights, and the inputs that meet them, are padded with zeros to a multiple of Lanes elements. Callers check
// lengths and bounds on sums; kernels trust them. No element of an int16 is -32768.
package kernel

import (
	"hypnos/core/fixed"
	"hypnos/core/rng"
)

// Lanes is the number of elements to whose multiple rows are padded.
const Lanes = 16

// Padded is n rounded up to a multiple of Lanes.
func Padded(n int) int { return (n + Lanes - 1) / Lanes * Lanes }

// Kernels are one version of the inner loops.
type Kernels struct {
	// Name is "avx2", "neon" or "portable".
	Name string
	// Dot sets y[i] = Σ_j w[i·K+j]·x[j] with K = len(x): w is (len(y), K). K is a multiple of Lanes, any sum is allowed.
	Dot func(y []int64, w, x []int16)
	// DotNarrow is Dot where every partial sum fits an int32, in any order (fixed.NarrowSum).
	DotNarrow func(y []int64, w, x []int16)
	// Outputs is DotNarrow and what makes outputs of its sums:
	//
	//	y[i] = (Σ_j w[i·K+j]·x[j] + bias[i]) / 2^shift, rounded to the nearest, midpoints up (fixed.RoundShift), between low and high
	//
	// for 0 ≤ shift ≤ 30, where an int32 holds every partial sum with bias and 2^shift/2 added.
	Outputs func(y, w, x []int16, bias []int32, shift int, low, high int16)
	// Back adds Σ_i w[i·K+j]·d[i] to dx[j], K = len(dx): w is (len(d), K). K is a multiple of Lanes; no partial sum of the
	// products alone leaves an int32, nor does dx with them.
	Back func(dx []int32, w, d []int16)
	// Update learns rows from B inputs each, x (B, K), and what they are to change by, d (B, N): with
	//
	//	p = Σ_b d[b·N+i]·x[b·K+j]
	//	w[i·K+j] += p/2^shift, rounded by random[i·K+j] (fixed.StochasticShift)
	//
	// where the change saturates at the range of an int16 and the weight at ±limit. K is a multiple of Lanes; N·K is the
	// length of w and random; 0 ≤ shift ≤ fixed.MaxShift; no partial sum of p leaves ±2^30; no weight is beyond ±limit
	// before, so that a row of zeros in d changes nothing.
	Update func(w, x, d []int16, random []uint16, rows, shift int, limit int16)
	// Accumulate adds w to sum, element by element. Their length is a multiple of Lanes.
	Accumulate func(sum []int32, w []int16)
	// Norm is the largest Σ_j |w[i·K+j]| of the rows of w, (len(w)/K, K). K is a multiple of Lanes.
	Norm func(w []int16, k int) int64
	// Halves is rng.Stream.Halves; the length of dst is a multiple of Lanes.
	Halves func(dst []uint16, s rng.Stream, first uint64)
}

// Versions are the versions that this processor and build can run, the best first. The last is the portable one.
func Versions() []*Kernels { return append(assembly(), portable()) }

func portable() *Kernels {
	return &Kernels{
		Name: "portable", Dot: dot, DotNarrow: dotNarrow, Outputs: outputs, Back: back, Update: update, Accumulate: accumulate, Norm: norm,
		Halves: func(dst []uint16, s rng.Stream, first uint64) { s.Halves(dst, first) },
	}
}

func dot(y []int64, w, x []int16) {
	for i := range y {
		row, sum := w[i*len(x):(i+1)*len(x)], int64(0)
		for j, v := range x {
			sum += int64(row[j]) * int64(v)
		}
		y[i] = sum
	}
}

func dotNarrow(y []int64, w, x []int16) {
	for i := range y {
		row, sum := w[i*len(x):(i+1)*len(x)], int32(0)
		for j, v := range x {
			sum += int32(row[j]) * int32(v)
		}
		y[i] = int64(sum)
	}
}

func outputs(y, w, x []int16, bias []int32, shift int, low, high int16) {
	half := int32(1) << shift >> 1
	for i := range y {
		row, sum := w[i*len(x):(i+1)*len(x)], bias[i]+half
		for j, v := range x {
			sum += int32(row[j]) * int32(v)
		}
		y[i] = int16(min(max(sum>>shift, int32(low)), int32(high)))
	}
}

func back(dx []int32, w, d []int16) {
	for i, g := range d {
		row := w[i*len(dx) : (i+1)*len(dx)]
		if g == 0 {
			continue
		}
		for j := range dx {
			dx[j] += int32(row[j]) * int32(g)
		}
	}
}

func update(w, x, d []int16, random []uint16, rows, shift int, limit int16) {
	k := len(w) / rows
	for i := range rows {
		row, u := w[i*k:(i+1)*k], random[i*k:(i+1)*k]
		for j := range row {
			p := int32(0)
			for b := range len(d) / rows {
				p += int32(d[b*rows+i]) * int32(x[b*k+j])
			}
			change := min(max(fixed.StochasticShift(p, shift, u[j]), -32768), 32767)
			row[j] = int16(min(max(int32(row[j])+change, -int32(limit)), int32(limit)))
		}
	}
}

func accumulate(sum []int32, w []int16) {
	w = w[:len(sum)]
	for j := range sum {
		sum[j] += int32(w[j])
	}
}

func norm(w []int16, k int) int64 {
	largest := int64(0)
	for i := 0; i < len(w); i += k {
		sum := int64(0)
		for _, v := range w[i : i+k] {
			sum += int64(max(v, -v))
		}
		largest = max(largest, sum)
	}
	return largest
}
