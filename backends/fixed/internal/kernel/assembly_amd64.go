//go:build !purego

package kernel

import (
	"golang.org/x/sys/cpu"

	"hypnos/core/rng"
)

//go:generate sh -c "cd gen && go run . -out ../kernel_amd64.s -stubs ../stubs_amd64.go -pkg kernel"

// assembly lists the versions in assembly that the processor can run.
func assembly() []*Kernels {
	if !cpu.X86.HasAVX2 {
		return nil
	}
	return []*Kernels{{
		Name: "avx2", Dot: dot2, DotNarrow: dotNarrow2, Back: back2, Update: update2, Accumulate: accumulate2, Norm: norm2, Halves: halves2,
	}}
}

// wideTerms is the longest row of dotAVX2.
const wideTerms = 1 << 17

func dot2(y []int64, w, x []int16) {
	if len(y) == 0 || len(x) == 0 || len(x) > wideTerms {
		dot(y, w, x)
		return
	}
	_ = w[len(y)*len(x)-1]
	dotAVX2(&y[0], &w[0], &x[0], len(y), len(x))
}

func dotNarrow2(y []int64, w, x []int16) {
	if len(y) == 0 || len(x) == 0 {
		clear(y)
		return
	}
	_ = w[len(y)*len(x)-1]
	dotNarrowAVX2(&y[0], &w[0], &x[0], len(y), len(x))
}

func back2(dx []int32, w, d []int16) {
	k := len(dx)
	if k == 0 || len(d) == 0 {
		return
	}
	_ = w[len(d)*k-1]
	var g group
	for i := 0; i < len(d); {
		i = g.fill(d, i, k)
		backAVX2(&dx[0], &w[0], &g.at, &g.d, k)
	}
}

func update2(w, x, d []int16, random []uint16, rows, shift int, limit int16) {
	if len(w) == 0 || len(d) == 0 {
		return
	}
	k, inputs := len(w)/rows, len(d)/rows
	_, _ = x[inputs*k-1], random[rows*k-1]
	if inputs == 1 {
		updateOneAVX2(&w[0], &x[0], &d[0], &random[0], rows, k, shift, int(limit))
		return
	}
	updateAVX2(&w[0], &x[0], &d[0], &random[0], inputs, rows, k, shift, int(limit))
}

func accumulate2(sum []int32, w []int16) {
	if len(sum) == 0 {
		return
	}
	_ = w[len(sum)-1]
	accumulateAVX2(&sum[0], &w[0], len(sum))
}

func norm2(w []int16, k int) (largest int64) {
	if len(w) > 0 {
		normAVX2(&largest, &w[0], len(w)/k, k)
	}
	return largest
}

// halvesGroup is how many numbers halvesAVX2 makes at a time.
const halvesGroup = 64

func halves2(dst []uint16, s rng.Stream, first uint64) {
	n := len(dst) / halvesGroup
	if n > 0 {
		key, id := words(s)
		halvesAVX2(&dst[0], n, first, key, id)
	}
	s.Halves(dst[n*halvesGroup:], first+uint64(n*halvesGroup/rng.HalvesBlock))
}
