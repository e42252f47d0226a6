package fixed

import (
	"hypnos/backends/fixed/internal/kernel"
	"hypnos/core/fixed"
	"hypnos/core/rng"
)

// runs calls f for the stretches of channel group g's inputs that position p sees: n elements from at of a gathered row are
// n elements from x of one image, (H, W, Cin).
func (g *geometry) runs(position, group int, f func(at, x, n int)) {
	per := g.in.C / g.groups
	i, j := position/g.out.W, position%g.out.W
	rowLo, rowHi := g.Span(i, g.in.H)
	colLo, colHi := g.Span(j, g.in.W)
	row, col := i*g.Stride-g.Pad(), j*g.Stride-g.Pad()
	for u := rowLo; u < rowHi; u++ {
		at, x := (u*g.Kernel+colLo)*per, ((row+u)*g.in.W+col+colLo)*g.in.C+group*per
		if g.groups == 1 { // columns follow one another without a gap
			f(at, x, (colHi-colLo)*per)
			continue
		}
		for v := range colHi - colLo {
			f(at+v*per, x+v*g.in.C, per)
		}
	}
}

// gather sets row, of padded K, to what position p sees of an image; 0 for the padding.
func (g *geometry) gather(row, image []int16, position, group int) {
	top, left := position/g.out.W*g.Stride-g.Pad(), position%g.out.W*g.Stride-g.Pad()
	if g.groups > 1 || top < 0 || left < 0 || top+g.Kernel > g.in.H || left+g.Kernel > g.in.W {
		clear(row)
		g.runs(position, group, func(at, x, n int) { copy(row[at:at+n], image[x:]) })
		return
	}
	n, line := g.Kernel*g.in.C, g.in.W*g.in.C // inside, rows of the kernel are whole
	from := image[top*line+left*g.in.C:]
	for u := range g.Kernel {
		copy(row[u*n:(u+1)*n], from[u*line:])
	}
	clear(row[g.Kernel*n:])
}

// scatter adds a row to where gather takes it from.
func (g *geometry) scatter(image []int64, row []int32, position, group int) {
	g.runs(position, group, func(at, x, n int) {
		to := image[x : x+n]
		for i, v := range row[at : at+n] {
			to[i] += int64(v)
		}
	})
}

// forward computes positions lo…hi-1 of all images; low is the least output, 0 with a rectifier behind the layer.
func (w *weights) forward(k *kernel.Kernels, s *worker, y, x []int16, images int, low int16, lo, hi int) {
	dot, shift, high, narrow := w.dot(k), w.shift(), w.output.Max(), w.narrowOutputs()
	patch, sums := s.patches[:w.padded], s.sums[:w.rows]
	for p := lo; p < hi; p++ {
		block := w.block(p)
		for group := range w.groups {
			first := group * w.rows
			rows, bias := w.rowsOf(block, group), w.biasesOf(block)[first:first+w.rows]
			for b := range images {
				w.gather(patch, x[b*w.in.Len():(b+1)*w.in.Len()], p, group)
				to := y[(b*w.positions+p)*w.Out+first:][:w.rows]
				if narrow {
					k.Outputs(to, rows, patch, bias, shift, low, high)
					continue
				}
				dot(sums, rows, patch)
				for n, sum := range sums {
					to[n] = max(low, w.output.Saturate(fixed.RoundShift(sum+int64(bias[n]), shift)))
				}
			}
		}
	}
}

// inputErrors adds to dx, (B, H, W, Cin), what the errors d, (B, H, W, N), of positions lo…hi-1 mean for the input.
func (w *weights) inputErrors(k *kernel.Kernels, s *worker, dx []int64, d []int16, images, lo, hi int) {
	for p := lo; p < hi; p++ {
		for group := range w.groups {
			for b := range images {
				w.positionErrors(k, s, dx[b*w.in.Len():(b+1)*w.in.Len()], w.errorsAt(d, b, p, group), p, group)
			}
		}
	}
}

// errorsAt are the errors of a position's neurons.
func (w *weights) errorsAt(d []int16, image, position, group int) []int16 {
	at := (image*w.positions+position)*w.Out + group*w.rows
	return d[at : at+w.rows]
}

// positionErrors goes back from one position of one image. As many neurons at a time are added up as an int32 holds.
func (w *weights) positionErrors(k *kernel.Kernels, s *worker, image []int64, d []int16, position, group int) {
	rows, back := w.rowsOf(w.block(position), group), s.back[:w.padded]
	together := min(len(d), fixed.NarrowTerms(w.largest(), fixed.GradientMax))
	for first := 0; first < len(d); first += together {
		end := min(first+together, len(d))
		clear(back)
		k.Back(back, rows[first*w.padded:end*w.padded], d[first:end])
		w.scatter(image, back, position, group)
	}
}

// largest is a bound on a weight's absolute value.
func (w *weights) largest() int16 { return int16(min(int64(w.format.Max()), w.norm)) }

// learnLocated changes the weights and biases of positions lo…hi-1 of a locally connected layer, each by its own errors: d
// for biases, scaled d (see learningRate) for weights. With dx it goes back to the input first. It returns the largest
// Σ|w| of a neuron that has changed.
func (w *weights) learnLocated(k *kernel.Kernels, s *worker, l *lesson, dx []int64, lo, hi int) (norm int64) {
	patches, errors := s.patches[:l.images*w.padded], s.errors[:l.images*w.rows]
	for p := lo; p < hi; p++ {
		for group := range w.groups {
			rows := w.rowsOf(p, group)
			for b := range l.images {
				if dx != nil {
					w.positionErrors(k, s, dx[b*w.in.Len():(b+1)*w.in.Len()], w.errorsAt(l.errors, b, p, group), p, group)
				}
				w.gather(patches[b*w.padded:(b+1)*w.padded], l.x[b*w.in.Len():(b+1)*w.in.Len()], p, group)
				copy(errors[b*w.rows:], w.errorsAt(l.scaled, b, p, group))
			}
			norm = max(norm, w.learnRows(k, s, l, rows, patches, errors, p*w.Out+group*w.rows))
		}
		if w.biases != nil {
			w.learnBiases(k, s, l, p)
		}
	}
	return norm
}

// learnRows changes rows, of which the first is the layer's neuron number first. A row whose errors are all 0, as half of
// them are behind a rectifier, does not change, and is neither read nor written.
func (w *weights) learnRows(k *kernel.Kernels, s *worker, l *lesson, rows, patches, errors []int16, first int) (norm int64) {
	silent := func(n int) bool {
		for b := range l.images {
			if errors[b*w.rows+n] != 0 {
				return false
			}
		}
		return true
	}
	for n := 0; n < w.rows; n++ {
		if silent(n) {
			continue
		}
		end := n + 1
		for end < w.rows && !silent(end) {
			end++
		}
		run, random := rows[n*w.padded:end*w.padded], s.random[:(end-n)*w.padded]
		d := errors[n:end]
		if l.images > 1 {
			d = s.run[:0]
			for b := range l.images {
				d = append(d, errors[b*w.rows+n:b*w.rows+end]...)
			}
		}
		k.Halves(random, l.random, uint64((first+n)*w.padded/rng.HalvesBlock))
		k.Update(run, patches, d, random, end-n, l.shift, w.format.Max())
		norm = max(norm, k.Norm(run, w.padded))
		n = end
	}
	return norm
}

// learnBiases changes the biases of one position.
func (w *weights) learnBiases(k *kernel.Kernels, s *worker, l *lesson, p int) {
	block := p * w.Out / rng.HalvesBlock
	skip := p*w.Out - block*rng.HalvesBlock
	random := s.random[:kernel.Padded(skip+w.Out)]
	k.Halves(random, l.dither, uint64(block))
	for n := range w.Out {
		sum := int64(0)
		for b := range l.images {
			sum += int64(l.errors[(b*w.positions+p)*w.Out+n])
		}
		l.changeBias(w.biases, p*w.Out+n, sum, random[skip+n])
	}
}

// learnShared changes neurons lo…hi-1 of a layer that has the same weights at all positions.
func (w *weights) learnShared(k *kernel.Kernels, s *worker, l *lesson, lo, hi int) (norm int64) {
	gradient := l.gradient
	for n := lo; n < hi; n++ {
		sums := gradient[n*w.padded : (n+1)*w.padded]
		w.rowGradient(s, sums, l.x, l.errors, l.images, n)
		row := w.value[n*w.padded : (n+1)*w.padded]
		random := s.random[:w.padded]
		k.Halves(random, l.random, uint64(n*w.padded/rng.HalvesBlock))
		for j, sum := range sums {
			row[j] = w.format.Saturate(int64(row[j]) - l.shared.apply(sum, random[j]))
		}
		norm = max(norm, k.Norm(row, w.padded))
		if w.biases != nil {
			sum := int64(0)
			for p := range l.images * w.positions {
				sum += int64(l.errors[p*w.Out+n])
			}
			var u [rng.HalvesBlock]uint16
			l.dither.Halves(u[:], uint64(n/len(u)))
			l.changeBias(w.biases, n, sum, u[n%len(u)])
		}
	}
	return norm
}

// rowGradient sets sums to Σ x·d over images and positions, for the weights that neuron n has at all of them.
func (w *weights) rowGradient(s *worker, sums []int64, x, d []int16, images, n int) {
	clear(sums)
	patch := s.patches[:w.padded]
	for b := range images {
		for p := range w.positions {
			g := int64(d[(b*w.positions+p)*w.Out+n])
			if g == 0 {
				continue
			}
			w.gather(patch, x[b*w.in.Len():(b+1)*w.in.Len()], p, n/w.rows)
			for j, v := range patch {
				sums[j] += g * int64(v)
			}
		}
	}
}
