package data

import "math"

// ComputeStats computes the statistics of a set over all pixels. The sums are exact integers.
func ComputeStats(s *Images) Stats {
	var sum, square [3]uint64
	for i, v := range s.Pixels {
		sum[i%3] += uint64(v)
		square[i%3] += uint64(v) * uint64(v)
	}
	n := float64(len(s.Pixels) / 3)
	for _, v := range s.cached {
		n += float64(v.H * v.W)
		for c := range 3 {
			sum[c] += v.Total[c]
			square[c] += v.Square[c]
		}
	}
	var st Stats
	for c := range 3 {
		mean := float64(sum[c]) / n
		st.Mean[c] = mean / 255
		st.Std[c] = math.Sqrt(math.Max(0, float64(square[c])/n-mean*mean)) / 255
	}
	return st
}

// table is the normalised value of every byte of every channel, the same on every processor.
func (s Stats) table() (t [3][256]float32) {
	for c := range 3 {
		for v := range 256 {
			t[c][v] = float32((float64(v)/255 - s.Mean[c]) / s.Std[c])
		}
	}
	return t
}
