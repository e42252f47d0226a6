package fixed

import (
	"math"

	"hypnos/core/fixed"
	"hypnos/core/sleep"
)

// instantBlock is how many elements of a position are summed at a time, such that the sums of all grids stay in a core's cache.
const instantBlock = 4096

// maxPositions is how many int16 an int32 holds the sum of; no locally connected layer has more positions.
const maxPositions = math.MaxInt32 / math.MaxInt16

// gridSums are Σ w over the positions of each grid, (grids, N, padded K), made when the first grid asks for them, in one pass
// over the weights in the order of memory: the positions of one grid lie apart, and would be read three times as slowly. Each
// worker sums the positions of its part; integers add up to the same. A layer's weights do not change between its grids but
// by the grids themselves.
func (s *sleeper) gridSums() []int32 {
	if s.sums != nil {
		return s.sums
	}
	w, size := s.w, s.w.Out*s.w.padded
	grids := s.layer.Grids(s.border)
	gridOf := make([]int, w.positions)
	for i := range gridOf {
		gridOf[i] = -1 // rests
	}
	for i, g := range grids {
		for _, p := range g.Positions {
			gridOf[p] = i
		}
	}
	s.sums = room(&s.engine.gridSums, len(grids)*size)
	others := s.pool.Size() - 1 // the first worker sums where the result is to be
	parts := room(&s.engine.gridParts, others*len(grids)*instantBlock)
	for first := 0; first < size; first += instantBlock {
		n := min(instantBlock, size-first)
		clear(parts)
		s.pool.Run(w.positions, func(worker, lo, hi int) {
			sums, stride := s.sums[first:], size
			if worker > 0 {
				sums, stride = parts[(worker-1)*len(grids)*instantBlock:], instantBlock
			}
			for p := lo; p < hi; p++ {
				if g := gridOf[p]; g >= 0 {
					from := w.block(p)*size + first
					s.kernels.Accumulate(sums[g*stride:g*stride+n], w.value[from:from+n])
				}
			}
		})
		s.pool.Run(len(grids), func(_, lo, hi int) {
			for g := lo; g < hi; g++ {
				to := s.sums[g*size+first:][:n]
				for other := range others {
					for i, v := range parts[(other*len(grids)+g)*instantBlock:][:n] {
						to[i] += v
					}
				}
			}
		})
	}
	return s.sums
}

// room is n numbers, all 0, in memory that is kept for the next time.
func room(kept *[]int32, n int) []int32 {
	if n > len(*kept) {
		*kept = make([]int32, n)
	}
	clear((*kept)[:n])
	return (*kept)[:n]
}

// instant sets the weights of every group of a grid to their mean. Elements of a position, (N, K), are the groups' weights. The
// mean is written once, and all positions share it.
func (s *sleeper) instant(t *sleep.Task) (kept sleep.PreservationSum, bytes int64) {
	w, size := s.w, s.w.Out*s.w.padded
	sums := s.gridSums()[t.Index*size : (t.Index+1)*size]
	mean := w.value[t.Positions[0]*size : (t.Positions[0]+1)*size]
	const block = 1024 // of which preservation is summed, the same for any number of workers
	parts := make([]sleep.PreservationSum, (size+block-1)/block)
	s.pool.Run(len(parts), func(_, lo, hi int) {
		for i := lo; i < hi; i++ {
			from, to := i*block, min((i+1)*block, size)
			parts[i] = meansOf(mean[from:to], sums[from:to], len(t.Positions))
		}
	})
	for _, p := range parts {
		kept.Merge(p)
	}
	bytes = wordBytes * int64((len(t.Positions)+1)*size)
	if w.biases != nil {
		bytes += s.instantBiases(t.Positions)
	}
	w.share(t.Positions)
	return kept, bytes
}

// meansOf rounds sums over n members to means, as fixed.DivideRound does, by a multiplication in float64: the quotient q of
// 2t+n by 2n, both whole, is an integer or 1/2n at least from the next, and n is at most maxPositions, below 2^17,
// so that q + 1/4n, off by less than 2^-34, has the same whole part. (|q| is below 2^15+1; the product rounds by 2^-37 at most, twice,
// and sums up to 2^17 by 2^-37.)
func meansOf(mean []int16, sum []int32, n int) sleep.PreservationSum {
	const above = 1 << 16 // makes q positive, so that conversion cuts downwards
	scale, count := 1/float64(2*n), 1/float64(n)
	middle := above + scale/2
	var cross, before2, diff2 float64
	for i, t := range sum {
		m := int64(float64(float64(2*int64(t)+int64(n))*scale)+middle) - above
		mean[i] = int16(m)
		before, after := float64(t)*count, float64(m)
		cross += before * after
		before2 += before * before
		diff2 += (after - before) * (after - before)
	}
	var kept sleep.PreservationSum
	kept.AddSums(cross, before2, diff2)
	return kept
}

func (s *sleeper) instantBiases(positions []int) (bytes int64) {
	sums := make([]int64, s.w.Out)
	for _, p := range positions {
		for channel, b := range s.w.biasesOf(s.w.block(p)) {
			sums[channel] += int64(b)
		}
	}
	mean := s.w.biasesOf(positions[0])
	for channel, t := range sums {
		mean[channel] = int32(fixed.DivideRound(t, int64(len(positions))))
	}
	return 4 * int64((len(positions)+1)*s.w.Out)
}
