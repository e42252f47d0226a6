//go:build !purego && (amd64 || arm64)

package kernel

import "hypnos/core/rng"

// Every processor has one version in assembly, whose functions have the same names; here is what calls them.

// vectors is the version in assembly.
func vectors(name string) *Kernels {
	return &Kernels{
		Name: name, Dot: dotAll, DotNarrow: dotNarrowAll, Outputs: outputsAll, Back: backAll, Update: updateAll, Accumulate: accumulateAll, Norm: normAll,
		Halves: halvesAll,
	}
}

// group are rows that backVector adds at once, with their factors. Rows whose factor is 0, as it is behind a ReLU that is off, are
// left out: their weights need not be read. Where fewer are left than it holds, factors of 0 fill it.
type group struct {
	at [8]int // of the first weight
	d  [8]int16
}

// fill takes rows from the i-th on and returns the number of the next.
func (g *group) fill(d []int16, i, k int) int {
	n := 0
	for ; i < len(d) && n < len(g.d); i++ {
		if d[i] != 0 {
			g.at[n], g.d[n] = i*k, d[i]
			n++
		}
	}
	for ; n < len(g.d); n++ {
		g.at[n], g.d[n] = g.at[0], 0
	}
	return i
}

// words are the key and the upper half of the counter of a stream.
func words(s rng.Stream) (key, id uint64) {
	k, i := s.State()
	return uint64(k[0]) | uint64(k[1])<<32, uint64(i[0]) | uint64(i[1])<<32
}

// wideTerms is the longest row of dotVector.
const wideTerms = 1 << 17

func dotAll(y []int64, w, x []int16) {
	if len(y) == 0 || len(x) == 0 || len(x) > wideTerms {
		dot(y, w, x)
		return
	}
	_ = w[len(y)*len(x)-1]
	dotVector(&y[0], &w[0], &x[0], len(y), len(x))
}

func dotNarrowAll(y []int64, w, x []int16) {
	if len(y) == 0 || len(x) == 0 {
		clear(y)
		return
	}
	_ = w[len(y)*len(x)-1]
	dotNarrowVector(&y[0], &w[0], &x[0], len(y), len(x))
}

func outputsAll(y, w, x []int16, bias []int32, shift int, low, high int16) {
	if len(y) == 0 || len(x) == 0 {
		outputs(y, w, x, bias, shift, low, high)
		return
	}
	_, _ = w[len(y)*len(x)-1], bias[len(y)-1]
	outputsVector(&y[0], &w[0], &x[0], &bias[0], len(y), len(x), shift, int(low), int(high))
}

func backAll(dx []int32, w, d []int16) {
	k := len(dx)
	if k == 0 || len(d) == 0 {
		return
	}
	_ = w[len(d)*k-1]
	var g group
	for i := 0; i < len(d); {
		next := (len(d) + i) * k // as many rows further: the next call's are expected behind this one's
		i = g.fill(d, i, k)
		backVector(&dx[0], &w[0], &g.at, &g.d, k, next)
	}
}

func updateAll(w, x, d []int16, random []uint16, rows, shift int, limit int16) {
	if len(w) == 0 || len(d) == 0 {
		return
	}
	k, inputs := len(w)/rows, len(d)/rows
	_, _ = x[inputs*k-1], random[rows*k-1]
	updateVector(&w[0], &x[0], &d[0], &random[0], inputs, rows, k, shift, int(limit))
}

func accumulateAll(sum []int32, w []int16) {
	if len(sum) == 0 {
		return
	}
	_ = w[len(sum)-1]
	accumulateVector(&sum[0], &w[0], len(sum))
}

// normTerms is beyond the longest row of normVector.
const normTerms = 1 << 16

func normAll(w []int16, k int) (largest int64) {
	if len(w) == 0 || k >= normTerms {
		return norm(w, k)
	}
	normVector(&largest, &w[0], len(w)/k, k)
	return largest
}

// halvesGroup is how many numbers halvesVector makes at a time.
const halvesGroup = 64

func halvesAll(dst []uint16, s rng.Stream, first uint64) {
	n := len(dst) / halvesGroup
	if n > 0 {
		key, id := words(s)
		halvesVector(&dst[0], n, first, key, id)
	}
	s.Halves(dst[n*halvesGroup:], first+uint64(n*halvesGroup/rng.HalvesBlock))
}
