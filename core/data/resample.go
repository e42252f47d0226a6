package data

import (
	"math"
	"slices"

	"hypnos/core/net"
)

// rectangle is a part of an image, in pixels.
type rectangle struct{ row, col, h, w int }

// part is what a random-resized-crop shows: of 8 to 100 % of the image's area, its width 3/4 to 4/3 of its height, as torchvision's
// RandomResizedCrop.get_params draws it; where ten draws do not fit into the image, the largest such part in its middle.
func (v *view) part(draw uint64, s net.Shape) rectangle {
	const tries, numbers = 10, 4
	for t := range uint64(tries) {
		at := (draw*tries + t) * numbers
		area := float64(s.H*s.W) * (0.08 + float64(0.92*v.crop.Float64(at)))
		aspect := exp((float64(2*v.crop.Float64(at+1)) - 1) * logFourThirds)
		w, h := int(math.RoundToEven(math.Sqrt(area*aspect))), int(math.RoundToEven(math.Sqrt(area/aspect)))
		if w > 0 && w <= s.W && h > 0 && h <= s.H {
			return rectangle{v.crop.Intn(at+2, s.H-h+1), v.crop.Intn(at+3, s.W-w+1), h, w}
		}
	}
	h, w := min(s.H, int(math.RoundToEven(float64(s.W)*4/3))), min(s.W, int(math.RoundToEven(float64(s.H)*4/3)))
	return rectangle{(s.H - h) / 2, (s.W - w) / 2, h, w}
}

const logFourThirds = 0.28768207245178090

// exp is the exponential of |x| < 0.3, the same on every processor, which math.Exp is not: Taylor's series, whose next term is below
// 0.3^15/15! = 1e-20.
func exp(x float64) float64 {
	e := 1.0
	for k := 14; k >= 1; k-- {
		e = 1 + float64(x/float64(k)*e)
	}
	return e
}

// taps are the source pixels of a scaled one and their weights, which sum to 1.
type taps struct {
	first  int
	weight []float64
}

// bilinear are the taps of m pixels made of n: triangles that are as wide as a pixel of the coarser of the two, so that scaling
// down does not alias.
func bilinear(n, m int) []taps {
	scale := float64(n) / float64(m)
	reach := max(1, scale)
	all := make([]taps, m)
	for i := range all {
		centre := float64((float64(i) + 0.5) * scale)
		t, sum := taps{first: max(0, int(centre-reach+0.5))}, 0.0
		for x := t.first; x < n && float64(x)+0.5 < centre+reach; x++ {
			w := max(0, 1-float64(math.Abs(float64(x)+0.5-centre)/reach))
			t.weight = append(t.weight, w)
			sum += w
		}
		for k := range t.weight {
			t.weight[k] /= sum
		}
		all[i] = t
	}
	return all
}

// resized writes a part of the image, scaled to the batch's size (bilinear, anti-aliased), normalised. Products are rounded before
// they are added, so that it is the same on every processor.
func (v *view) resized(dst []float32, src []uint8, s net.Shape, r rectangle, mirror bool) {
	line := v.Size * 3
	rows := make([]float64, r.h*line) // (r.h, Size, 3): scaled along rows
	across := bilinear(r.w, v.Size)
	if mirror {
		slices.Reverse(across)
	}
	for y := range r.h {
		from := src[((r.row+y)*s.W+r.col)*3:][:3*r.w]
		to := rows[y*line:][:line]
		for j, t := range across {
			var red, green, blue float64
			p := from[3*t.first:]
			for k, w := range t.weight {
				q := p[3*k:][:3]
				red += float64(w * float64(q[0]))
				green += float64(w * float64(q[1]))
				blue += float64(w * float64(q[2]))
			}
			to[3*j], to[3*j+1], to[3*j+2] = red, green, blue
		}
	}
	sum, mean, std := make([]float64, line), v.Stats.Mean, v.Stats.Std
	for i, t := range bilinear(r.h, v.Size) {
		clear(sum)
		for k, w := range t.weight {
			row := rows[(t.first+k)*line:][:len(sum)]
			for x, value := range row {
				sum[x] += float64(w * value)
			}
		}
		to := dst[i*line:][:len(sum)]
		for x := 0; x+2 < len(sum); x += 3 {
			to[x] = float32((sum[x]/255 - mean[0]) / std[0])
			to[x+1] = float32((sum[x+1]/255 - mean[1]) / std[1])
			to[x+2] = float32((sum[x+2]/255 - mean[2]) / std[2])
		}
	}
}
