//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

//go:generate sh -c "cd gen && go run . -out ../kernel_amd64.s -stubs ../stubs_amd64.go -pkg kernel"

// assembly lists the versions in assembly that the processor can run.
func assembly() []*Kernels {
	var versions []*Kernels
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasBMI2 {
		versions = append(versions, &Kernels{
			Name: "avx512", thin: 15, block: 64,
			product: product512, column: column512, strip: stripOf(stripAVX512), weightGradient: weightGradient512, times: times512,
			Pointwise: pointwise512(),
		})
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		versions = append(versions, &Kernels{
			Name: "avx2", thin: 7, block: 64,
			product: product2, column: column2, strip: stripOf(stripAVX2), weightGradient: weightGradient2,
			Pointwise: pointwise2(),
		})
	}
	return versions
}

// weights is how far the weights lie that will be wanted after those of four rows from t on.
func (n Next) weights(rows, t, step int) int {
	switch {
	case step == 1: // all rows have theirs in one line
		return n.W
	case rows-t > 4:
		return 4 * step
	}
	return n.W - t*step
}

func product512(y []float32, ldy int, x, w Operand, list *List, rows, step int, next Next, n int, keep bool) {
	list.check(x.Data, x.At, n, w.Data, w.At, (rows-1)*step+1)
	_ = y[(rows-1)*ldy+n-1]
	if len(list.Pairs) == 0 {
		clearRows(y, ldy, rows, n, keep)
		return
	}
	pairs, count := &list.Pairs[0], len(list.Pairs)
	for lo := 0; lo < n; {
		left := n - lo
		xp := at(x, lo)
		for t := 0; t < rows; {
			yp, wp := &y[t*ldy+lo], at(w, t*step)
			four := rows-t >= 4
			ahead := next.weights(rows, t, step)
			further := (next.X + t/4%4*16) * size // each four rows ask for another line of the four
			switch {
			case left >= 64 && four:
				productAVX512x4x4(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, further)
			case left >= 64:
				productAVX512x1x4(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, further)
			case left >= 32 && four:
				productAVX512x4x2(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, further)
			case left >= 32:
				productAVX512x1x2(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, further)
			case four:
				productAVX512x4x1(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, further, min(left, 16))
			default:
				productAVX512x1x1(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, further, min(left, 16))
			}
			if four {
				t += 4
			} else {
				t++
			}
		}
		switch {
		case left >= 64:
			lo += 64
		case left >= 32:
			lo += 32
		default:
			lo += 16
		}
	}
}

func product2(y []float32, ldy int, x, w Operand, list *List, rows, step int, next Next, n int, keep bool) {
	list.check(x.Data, x.At, n, w.Data, w.At, (rows-1)*step+1)
	_ = y[(rows-1)*ldy+n-1]
	if len(list.Pairs) == 0 {
		clearRows(y, ldy, rows, n, keep)
		return
	}
	pairs, count := &list.Pairs[0], len(list.Pairs)
	for lo := 0; lo < n; {
		left := n - lo
		xp := at(x, lo)
		for t := 0; t < rows; {
			yp, wp := &y[t*ldy+lo], at(w, t*step)
			four := rows-t >= 4
			ahead := 0
			if lo == 0 && (t == 0 || step > 1) { // else they are on their way already
				ahead = next.weights(rows, t, step)
			}
			switch {
			case left >= 16 && four:
				productAVX2x4x2(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size)
			case left >= 16:
				productAVX2x1x2(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size)
			case four:
				productAVX2x4x1(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, min(left, 8))
			default:
				productAVX2x1x1(yp, ldy*size, xp, wp, pairs, count, step*size, flag(keep), ahead*size, min(left, 8))
			}
			if four {
				t += 4
			} else {
				t++
			}
		}
		if left >= 16 {
			lo += 16
		} else {
			lo += 8
		}
	}
}

func column512(y []float32, x, w Operand, list *List, lanes, images int) {
	list.check(x.Data, x.At, images, w.Data, w.At, lanes)
	if len(list.Pairs) == 0 || images == 0 {
		return
	}
	_ = y[(images-1)*Tile+lanes-1]
	wp, pairs, n := at(w, 0), &list.Pairs[0], len(list.Pairs)
	for b := 0; b < images; {
		yp, xp := &y[b*Tile], at(x, b)
		switch left := images - b; {
		case left >= 8:
			columnAVX512x8(yp, xp, wp, pairs, n, lanes)
			b += 8
		case left >= 4:
			columnAVX512x4(yp, xp, wp, pairs, n, lanes)
			b += 4
		case left >= 2:
			columnAVX512x2(yp, xp, wp, pairs, n, lanes)
			b += 2
		default:
			columnAVX512x1(yp, xp, wp, pairs, n, lanes)
			b++
		}
	}
}

// stripOf is a strip by the assembly, behind its checks.
func stripOf(kernel func(y, x, w *float32, list *Pair, n, tiles, positions, nextX, nextW int)) func([]float32, Operand, Operand, *List, int, int, int, int) {
	return func(y []float32, x, w Operand, list *List, tiles, positions, nextX, nextW int) {
		list.check(x.Data, x.At, 1, w.Data, w.At, Tile)
		last := positions - 1
		list.check(x.Data, x.At+last*nextX, 1, w.Data, w.At+(positions*tiles-1)*nextW, Tile)
		_ = y[positions*tiles*Tile-1]
		kernel(&y[0], at(x, 0), at(w, int(list.Pairs[0][1])), &list.Pairs[0], len(list.Pairs), tiles, positions, nextX*size, nextW*size)
	}
}

func times512(y []float32, m *Matrix, x []float32) {
	if m.Columns == 0 {
		return
	}
	nextY, nextX := len(y)/2, len(x)/2
	_, _ = y[nextY-1:][len(m.data)/m.Columns*Tile], x[nextX-1:][m.Columns*Tile] // either half is long enough
	for at := 0; at < len(m.data); at += panel * m.Columns {
		timesAVX512(&y[at/m.Columns*Tile], &m.data[at], &x[0], m.Columns, nextY*size, nextX*size)
	}
}

func column2(y []float32, x, w Operand, list *List, lanes, images int) {
	list.check(x.Data, x.At, images, w.Data, w.At, lanes)
	if len(list.Pairs) == 0 || images == 0 {
		return
	}
	_ = y[(images-1)*Tile+lanes-1]
	wp, pairs, n := at(w, 0), &list.Pairs[0], len(list.Pairs)
	for b := 0; b < images; {
		yp, xp := &y[b*Tile], at(x, b)
		switch left := images - b; {
		case left >= 4:
			columnAVX2x4(yp, xp, wp, pairs, n, lanes)
			b += 4
		case left >= 2:
			columnAVX2x2(yp, xp, wp, pairs, n, lanes)
			b += 2
		default:
			columnAVX2x1(yp, xp, wp, pairs, n, lanes)
			b++
		}
	}
}

func weightGradient512(dw, x Operand, list *List, dy []float32, n, b, tileSize int, next Next, keep bool, scratch []float32) {
	width := min(n, Tile)
	list.check(x.Data, x.At, b, dw.Data, dw.At, (n-1)/Tile*tileSize+width)
	if len(list.Pairs) == 0 || b == 0 {
		weightGradientGo(dw, x, list, dy, n, b, tileSize, next, keep, scratch)
		return
	}
	packed := pack(scratch, dy, n, b, 16, func(dst, src *float32, ld int) { transposeAVX512(dst, src, ld, n*b*size) })
	xp := at(x, 0)
	padded := list.Pairs[:(len(list.Pairs)+7)/8*8]
	for tile := 0; tile*Tile < n; {
		wp, gp := at(dw, tile*tileSize), &packed[tile*Tile*b]
		if two := n-tile*Tile >= 2*Tile; two {
			for i := 0; i < len(padded); i += 8 {
				weightGradientAVX512x2(wp, xp, &padded[i], gp, b, next.X, flag(keep), Tile*b*size, tileSize*size)
			}
			tile += 2
			continue
		}
		for i := 0; i < len(padded); i += 8 {
			weightGradientAVX512x1(wp, xp, &padded[i], gp, b, next.X, flag(keep), width)
		}
		tile++
	}
}

func weightGradient2(dw, x Operand, list *List, dy []float32, n, b, tileSize int, next Next, keep bool, scratch []float32) {
	width := min(n, Tile)
	list.check(x.Data, x.At, b, dw.Data, dw.At, (n-1)/Tile*tileSize+width)
	if len(list.Pairs) == 0 || b == 0 {
		weightGradientGo(dw, x, list, dy, n, b, tileSize, next, keep, scratch)
		return
	}
	packed := pack(scratch, dy, n, b, 8, func(dst, src *float32, ld int) { transposeAVX2(dst, src, ld, n*b*size) })
	xp := at(x, 0)
	padded := list.Pairs[:(len(list.Pairs)+3)/4*4]
	for tile := 0; tile*Tile < n; tile++ {
		wp, gp := at(dw, tile*tileSize), &packed[tile*Tile*b]
		for i := 0; i < len(padded); i += 4 {
			weightGradientAVX2(wp, xp, &padded[i], gp, b, next.X, flag(keep), width)
		}
	}
}
