package kernel

// portable is the version in plain Go.
func portable() *Kernels {
	return &Kernels{
		Name: "portable", thin: 7, block: 128,
		product: productGo, column: columnGo, weightGradient: weightGradientGo,
		Pointwise: portablePointwise(),
	}
}

func productGo(y []float32, ldy int, x, w Operand, list *List, rows, step int, _ Next, n int, keep bool) {
	list.check(x.Data, x.At, n, w.Data, w.At, (rows-1)*step+1)
	clearRows(y, ldy, rows, n, keep)
	row := func(p Pair) []float32 {
		at := x.At + int(p[0])
		return x.Data[at : at+n]
	}
	for t := range rows {
		dst := y[t*ldy : t*ldy+n]
		weight := func(p Pair) float32 { return w.Data[w.At+int(p[1])+t*step] }
		pairs := list.Pairs
		for ; len(pairs) >= 4; pairs = pairs[4:] {
			p, q, r, s := pairs[0], pairs[1], pairs[2], pairs[3]
			axpy4(dst, row(p), row(q), row(r), row(s), weight(p), weight(q), weight(r), weight(s))
		}
		for _, p := range pairs {
			axpy(dst, row(p), weight(p))
		}
	}
}

func columnGo(y []float32, x, w Operand, list *List, lanes, images int) {
	list.check(x.Data, x.At, images, w.Data, w.At, lanes)
	row := func(p Pair) []float32 {
		at := w.At + int(p[1])
		return w.Data[at : at+lanes]
	}
	for b := range images {
		dst := y[b*Tile : b*Tile+lanes]
		value := func(p Pair) float32 { return x.Data[x.At+int(p[0])+b] }
		pairs := list.Pairs
		for ; len(pairs) >= 4; pairs = pairs[4:] {
			p, q, r, s := pairs[0], pairs[1], pairs[2], pairs[3]
			axpy4(dst, row(p), row(q), row(r), row(s), value(p), value(q), value(r), value(s))
		}
		for _, p := range pairs {
			axpy(dst, row(p), value(p))
		}
	}
}

func weightGradientGo(dw, x Operand, list *List, dy []float32, n, b, tileSize int, _ Next, keep bool, _ []float32) {
	width := min(n, Tile)
	list.check(x.Data, x.At, b, dw.Data, dw.At, (n-1)/Tile*tileSize+width)
	for _, p := range list.Pairs {
		at := x.At + int(p[0])
		src := x.Data[at : at+b]
		for first := 0; first < n; first += Tile {
			to := dw.At + int(p[1]) + first/Tile*tileSize
			row := dw.Data[to : to+width]
			if !keep {
				clear(row)
			}
			of := func(j int) []float32 { return dy[(first+j)*b : (first+j+1)*b] }
			j := 0
			for ; j+4 <= width; j += 4 {
				d0, d1, d2, d3 := dot4(src, of(j), of(j+1), of(j+2), of(j+3))
				row[j] += d0
				row[j+1] += d1
				row[j+2] += d2
				row[j+3] += d3
			}
			for ; j < width; j++ {
				row[j] += dot(src, of(j))
			}
		}
	}
}

// axpy4 is y += a0 x0 + a1 x1 + a2 x2 + a3 x3.
func axpy4(y, x0, x1, x2, x3 []float32, a0, a1, a2, a3 float32) {
	x0, x1, x2, x3 = x0[:len(y)], x1[:len(y)], x2[:len(y)], x3[:len(y)]
	for i := range y {
		y[i] += a0*x0[i] + a1*x1[i] + a2*x2[i] + a3*x3[i]
	}
}

// axpy is y += a x.
func axpy(y, x []float32, a float32) {
	x = x[:len(y)]
	for i := range y {
		y[i] += a * x[i]
	}
}

// dot4 returns the products of x with four rows.
func dot4(x, y0, y1, y2, y3 []float32) (d0, d1, d2, d3 float32) {
	y0, y1, y2, y3 = y0[:len(x)], y1[:len(x)], y2[:len(x)], y3[:len(x)]
	for i, v := range x {
		d0 += v * y0[i]
		d1 += v * y1[i]
		d2 += v * y2[i]
		d3 += v * y3[i]
	}
	return d0, d1, d2, d3
}

func dot(x, y []float32) (d float32) {
	y = y[:len(x)]
	for i, v := range x {
		d += v * y[i]
	}
	return d
}
