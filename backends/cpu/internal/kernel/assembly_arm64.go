//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// The NEON kernels have 32 vector registers of four floats. A core like the Cortex-A76 multiplies and adds in two of
// them a cycle, four cycles each, and loads two; so a tile has eight sums or more that do not wait for each other, and
// more multiplications than loads. Counted in the main loops, four multiplications an instruction (FMA) and registers
// loaded, the list not counted:
//
//	kernel                          sums   FMA   loads   FMA a load   in all instructions
//	productNEON8x2                    16    16       4          4.0                    23
//	productNEON4x4                    16    16       5          3.2                    24
//	productNEON4x4Strided             16    16       8          2.0                    27
//	weightGradientNEON4x4, 4 images   16    64      20          3.2                    79
//	columnNEON16, 4 rows              16    16      20          0.8                    38
//
// An activation or a weight that multiplies a vector stays a lane of another (FMLA by element), which saves the
// broadcasts. The column of one image reads each weight once, whatever the tile; memory limits it.

//go:generate sh -c "cd gen && go run ./neon -out ../kernel_arm64.s -stubs ../stubs_arm64.go"

// assembly lists the versions in assembly that the processor can run.
func assembly() []*Kernels {
	if !cpu.ARM64.HasASIMD {
		return nil
	}
	return []*Kernels{{
		Name: "neon", thin: 3, block: 64, byRows: true,
		product: productNEON, column: columnNEON, weightGradient: weightGradientNEON,
		Pointwise: pointwiseNEON(),
	}}
}

// productTile is a product kernel in assembly, for a tile of one size.
type productTile func(y *float32, ldy int, x, w *float32, list *Pair, n, step, keep int)

// productTiles are those of a number of rows: of wide columns, of one vector of 4, and of one column.
type productTiles struct {
	rows, wide               int
	vectors, vector, numbers productTile
}

// tilesFor chooses the tiles for the rows that are left. The tallest loads its weights as vectors.
func tilesFor(rows, step int) productTiles {
	switch {
	case rows >= 8 && step == 1:
		return productTiles{8, 8, productNEON8x2, productNEON8x1, productNEON8}
	case rows >= 4 && step == 1:
		return productTiles{4, 16, productNEON4x4, productNEON4x1, productNEON4}
	case rows >= 4:
		return productTiles{4, 16, productNEON4x4Strided, productNEON4x1Strided, productNEON4Strided}
	}
	return productTiles{1, 16, productNEON1x4, productNEON1x1, productNEON1}
}

// productNEON goes through the rows of 16 images at a time, a line of the cache each.
func productNEON(y []float32, ldy int, x, w Operand, list *List, rows, step int, _ Next, n int, keep bool) {
	list.check(x.Data, x.At, n, w.Data, w.At, (rows-1)*step+1)
	_ = y[(rows-1)*ldy+n-1]
	if len(list.Pairs) == 0 {
		clearRows(y, ldy, rows, n, keep)
		return
	}
	const images = 16
	for first := 0; first < n; first += images {
		end := min(first+images, n)
		for t := 0; t < rows; {
			tiles := tilesFor(rows-t, step)
			wp := at(w, t*step)
			for lo := first; lo < end; {
				tile, columns := tiles.numbers, 1
				switch left := end - lo; {
				case left >= tiles.wide:
					tile, columns = tiles.vectors, tiles.wide
				case left >= 4:
					tile, columns = tiles.vector, 4
				}
				tile(&y[t*ldy+lo], ldy*size, at(x, lo), wp, &list.Pairs[0], len(list.Pairs), step*size, flag(keep))
				lo += columns
			}
			t += tiles.rows
		}
	}
}

func columnNEON(y []float32, x, w Operand, list *List, lanes, images int) {
	list.check(x.Data, x.At, images, w.Data, w.At, lanes)
	if len(list.Pairs) == 0 || images == 0 {
		return
	}
	_ = y[(images-1)*Tile+lanes-1]
	pairs, n := &list.Pairs[0], len(list.Pairs)
	for b := range images {
		xp := at(x, b)
		for j := 0; j < lanes; {
			yp, wp := &y[b*Tile+j], at(w, j)
			switch left := lanes - j; {
			case left >= 16:
				columnNEON16(yp, xp, wp, pairs, n)
				j += 16
			case left >= 4:
				columnNEON4(yp, xp, wp, pairs, n)
				j += 4
			default:
				columnNEON1(yp, xp, wp, pairs, n)
				j++
			}
		}
	}
}

func weightGradientNEON(dw, x Operand, list *List, dy []float32, n, b, tileSize int, next Next, keep bool, scratch []float32) {
	width := min(n, Tile)
	list.check(x.Data, x.At, b, dw.Data, dw.At, (n-1)/Tile*tileSize+width)
	if len(list.Pairs) == 0 || b == 0 {
		weightGradientGo(dw, x, list, dy, n, b, tileSize, next, keep, scratch)
		return
	}
	packed := pack(scratch, dy, n, b, 8, transposeNEON)
	const rows = 4
	padded := list.Pairs[:(len(list.Pairs)+rows-1)/rows*rows]
	for tile := 0; tile*Tile < n; tile++ {
		gp := &packed[tile*Tile*b]
		if width == Tile {
			for i := 0; i < len(padded); i += rows {
				weightGradientNEON4x4(at(dw, tile*tileSize), at(x, 0), &padded[i], gp, b, flag(keep))
			}
			continue
		}
		for i := 0; i < len(padded); i += rows {
			weightGradientNarrow(dw, x, list.Pairs[i:min(i+rows, len(list.Pairs))], gp, b, width, keep)
		}
	}
}

// weightGradientNarrow is for up to four rows of a tile that is narrower than 16: the assembly fills a whole tile beside
// dw.
func weightGradientNarrow(dw, x Operand, pairs []Pair, packed *float32, b, width int, keep bool) {
	var sums [4 * Tile]float32
	var list [4]Pair
	for i := range list {
		list[i] = Pair{pairs[min(i, len(pairs)-1)][0], int32(i * Tile)}
	}
	weightGradientNEON4x4(&sums[0], at(x, 0), &list[0], packed, b, 0)
	for i, p := range pairs {
		to := dw.At + int(p[1])
		row := dw.Data[to : to+width]
		if !keep {
			clear(row)
		}
		for j := range row {
			row[j] += sums[i*Tile+j]
		}
	}
}
