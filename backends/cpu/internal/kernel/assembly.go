//go:build !purego && (amd64 || arm64)

package kernel

// What the versions in assembly share.

const size = 4 // bytes an element

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// pack copies dy (n, b) to tiles of (b, 16); the last tile is filled with zeros. Blocks of step by step go through
// transpose.
func pack(dst, dy []float32, n, b, step int, transpose func(dst, src *float32, ld int)) []float32 {
	dst = dst[:ScratchLen(n, b)]
	for first := 0; first < n; first += Tile {
		tile := dst[first*b : (first+Tile)*b]
		done := 0 // images that transpose has done
		if n-first >= Tile {
			for ; done+step <= b; done += step {
				for j := 0; j < Tile; j += step {
					transpose(&tile[done*Tile+j], &dy[(first+j)*b+done], b*size)
				}
			}
		}
		for j := range Tile {
			if first+j >= n {
				for i := done; i < b; i++ {
					tile[i*Tile+j] = 0
				}
				continue
			}
			row := dy[(first+j)*b : (first+j+1)*b]
			for i := done; i < b; i++ {
				tile[i*Tile+j] = row[i]
			}
		}
	}
	return dst
}

// at is the address of an element, which must exist, counted from that to which an operand's list is relative.
func at(o Operand, offset int) *float32 { return &o.Data[o.At+offset] }
