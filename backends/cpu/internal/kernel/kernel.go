// Package kernel has the inner products of locally connected and convolutional layers for one location.
//
// Activations have the batch innermost: a row is one channel at one position, b numbers, one an image. A kernel's
// weights are (K, N): row r = (tap, input channel) in order, the N output channels innermost. So a receptive field is a
// list of rows that are read where they lie, nothing is gathered or copied, and the three products of a location are
//
//	forward          y[n]  += Σ_r w[r, n] x[r]      rows of y from rows of x
//	input gradient   dx[c] += Σ_n w[c, n] dy[n]     rows of dx from rows of dy
//	weight gradient  dw[r, n] += x[r] · dy[n]       dot products over the batch
//
// Each sum is taken in a fixed order that depends neither on the batch size nor on the thread that takes it.
package kernel

// block is how many images are worked on at a time: rows of 128 floats leave room in a 32 kB cache for the rows of a
// receptive field of several channels.
const block = 128

// thin is the batch size below which rows are too short for vector loops over the batch.
const thin = 8

// Rows are the rows of one receptive field: X[i] is the offset of an activation row, W[i] that of its weights.
type Rows struct{ X, W []int }

// Forward adds the products of the rows to y (n, b), the output channels at one location.
func Forward(y, x, w []float32, rows Rows, n, b int) {
	if b < thin {
		forwardThin(y, x, w, rows, n, b)
		return
	}
	for lo := 0; lo < b; lo += block {
		hi := min(lo+block, b)
		for j := range n {
			dst := y[j*b+lo : j*b+hi]
			r := 0
			for ; r+4 <= len(rows.X); r += 4 {
				x0, x1, x2, x3 := rows.X[r], rows.X[r+1], rows.X[r+2], rows.X[r+3]
				axpy4(dst, x[x0+lo:x0+hi], x[x1+lo:x1+hi], x[x2+lo:x2+hi], x[x3+lo:x3+hi],
					w[rows.W[r]+j], w[rows.W[r+1]+j], w[rows.W[r+2]+j], w[rows.W[r+3]+j])
			}
			for ; r < len(rows.X); r++ {
				axpy(dst, x[rows.X[r]+lo:rows.X[r]+hi], w[rows.W[r]+j])
			}
		}
	}
}

// forwardThin is Forward with the loop over output channels innermost, image by image.
func forwardThin(y, x, w []float32, rows Rows, n, b int) {
	var scratch [256]float32
	for lo := 0; lo < n; lo += len(scratch) {
		hi := min(lo+len(scratch), n)
		acc := scratch[:hi-lo]
		for i := range b {
			for j := range acc {
				acc[j] = y[(lo+j)*b+i]
			}
			r := 0
			for ; r+4 <= len(rows.X); r += 4 {
				w0, w1, w2, w3 := rows.W[r], rows.W[r+1], rows.W[r+2], rows.W[r+3]
				axpy4(acc, w[w0+lo:w0+hi], w[w1+lo:w1+hi], w[w2+lo:w2+hi], w[w3+lo:w3+hi],
					x[rows.X[r]+i], x[rows.X[r+1]+i], x[rows.X[r+2]+i], x[rows.X[r+3]+i])
			}
			for ; r < len(rows.X); r++ {
				axpy(acc, w[rows.W[r]+lo:rows.W[r]+hi], x[rows.X[r]+i])
			}
			for j := range acc {
				y[(lo+j)*b+i] = acc[j]
			}
		}
	}
}

// InputGradient adds to dx (c, b), the input channels at one position, the products of the weights w (c, ldw), of which
// the first n of each row count, with dy (n, b), the output channels at one location.
func InputGradient(dx, dy, w []float32, c, n, ldw, b int) {
	for lo := 0; lo < b; lo += block {
		hi := min(lo+block, b)
		for i := range c {
			dst, row := dx[i*b+lo:i*b+hi], w[i*ldw:i*ldw+n]
			j := 0
			for ; j+4 <= n; j += 4 {
				axpy4(dst, dy[j*b+lo:j*b+hi], dy[(j+1)*b+lo:(j+1)*b+hi], dy[(j+2)*b+lo:(j+2)*b+hi], dy[(j+3)*b+lo:(j+3)*b+hi],
					row[j], row[j+1], row[j+2], row[j+3])
			}
			for ; j < n; j++ {
				axpy(dst, dy[j*b+lo:j*b+hi], row[j])
			}
		}
	}
}

// WeightGradient adds to dw (c, ldw), n of each row, the dot products of x (c, b) and dy (n, b).
func WeightGradient(dw, x, dy []float32, c, n, ldw, b int) {
	for lo := 0; lo < b; lo += block {
		hi := min(lo+block, b)
		for i := range c {
			src, row := x[i*b+lo:i*b+hi], dw[i*ldw:i*ldw+n]
			j := 0
			for ; j+4 <= n; j += 4 {
				d0, d1, d2, d3 := dot4(src, dy[j*b+lo:j*b+hi], dy[(j+1)*b+lo:(j+1)*b+hi], dy[(j+2)*b+lo:(j+2)*b+hi], dy[(j+3)*b+lo:(j+3)*b+hi])
				row[j] += d0
				row[j+1] += d1
				row[j+2] += d2
				row[j+3] += d3
			}
			for ; j < n; j++ {
				row[j] += dot(src, dy[j*b+lo:j*b+hi])
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
