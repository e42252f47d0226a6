//go:build !purego && (amd64 || arm64)

package kernel

import "hypnos/core/rng"

// What the versions in assembly share.

// group are rows that back adds at once, with their factors: those whose factor is not 0, since half of a network's are
// behind its ReLUs, and their weights need not be read. Where fewer are left than it holds, factors of 0 fill it.
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
