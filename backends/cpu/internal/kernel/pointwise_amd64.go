//go:build !purego

package kernel

func pointwise512() Pointwise {
	return Pointwise{
		MomentSums: func(sums []float64, x []float32, c, b int) {
			if c*b > 0 {
				_, _ = sums[2*Lanes*c-1], x[c*b-1]
				momentSumsAVX512(&sums[0], &x[0], c, b)
			}
		},
		Normalise: func(y, x []float32, coef []Affine, b int, relu bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _ = y[n-1], x[n-1]
			if relu {
				normaliseReLUAVX512(&y[0], &x[0], &coef[0].Centre, len(coef), b)
			} else {
				normaliseAVX512(&y[0], &x[0], &coef[0].Centre, len(coef), b)
			}
		},
		GradientSums: func(sums []float64, g, x []float32, coef []Gradient, b int, relu bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _, _ = sums[2*Lanes*len(coef)-1], g[n-1], x[n-1]
			if relu {
				gradientSumsReLUAVX512(&sums[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			} else {
				gradientSumsAVX512(&sums[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			}
		},
		NormaliseGradient: func(dx, g, x []float32, coef []Gradient, b int, relu, keep bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _, _ = dx[n-1], g[n-1], x[n-1]
			if relu {
				normaliseGradientReLUAVX512(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b, flag(keep))
			} else {
				normaliseGradientAVX512(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b, flag(keep))
			}
		},
		Rectify: func(y, x []float32) {
			if n := len(x); n > 0 {
				_ = y[n-1]
				rectifyAVX512(&y[0], &x[0], n)
			}
		},
		RectifyGradient: func(dx, g, y []float32, keep bool) {
			if n := len(y); n > 0 {
				_, _ = dx[n-1], g[n-1]
				rectifyGradientAVX512(&dx[0], &g[0], &y[0], n, flag(keep))
			}
		},
		Sum: func(y, a, b []float32) {
			if n := len(a); n > 0 {
				_, _ = y[n-1], b[n-1]
				sumAVX512(&y[0], &a[0], &b[0], n)
			}
		},
		ScaleShift: func(y, x, scale, shift []float32) {
			if n := len(x); n > 0 {
				_, _, _ = y[n-1], scale[n-1], shift[n-1]
				scaleShiftAVX512(&y[0], &x[0], &scale[0], &shift[0], n)
			}
		},
		Adam: func(w, g, m, v []float32, k *AdamConstants) {
			if n := len(w); n > 0 {
				_, _, _ = g[n-1], m[n-1], v[n-1]
				adamAVX512(&w[0], &g[0], &m[0], &v[0], &k.L2, n)
			}
		},
		Momentum: func(w, g, m []float32, k *MomentumConstants) {
			if n := len(w); n > 0 {
				_, _ = g[n-1], m[n-1]
				momentumAVX512(&w[0], &g[0], &m[0], &k.L2, n)
			}
		},
		AddRows: func(sums []float64, x []float32, ld, rows int) {
			n := len(sums) &^ 15
			if n > 0 && rows > 0 {
				_ = x[(rows-1)*ld+n-1]
				r := 0
				for ; r+4 <= rows; r += 4 {
					add4RowsAVX512(&sums[0], &x[r*ld], ld*size, n)
				}
				for ; r < rows; r++ {
					add1RowsAVX512(&sums[0], &x[r*ld], ld*size, n)
				}
			}
			if n < len(sums) && rows > 0 {
				addRowsGo(sums[n:], x[n:], ld, rows)
			}
		},
		AddRow: func(sums []float64, x, next []float32) {
			n := len(sums) &^ 15
			if n > 0 {
				_, _ = x[n-1], next[n-1]
				addRowAVX512(&sums[0], &x[0], &next[0], n)
			}
			addRowGo(sums[n:], x[n:], next[n:])
		},
		AddMoments: func(d1, d2 []float64, x, first []float32) {
			n := len(d1) &^ 15
			if n > 0 {
				_, _, _ = d2[n-1], x[n-1], first[n-1]
				addMomentsAVX512(&d1[0], &d2[0], &x[0], &first[0], n)
			}
			addMomentsGo(d1[n:], d2[n:], x[n:], first[n:])
		},
		Means: func(dst []float32, sums []float64, count float64, kept *Kept) {
			n := len(sums) &^ 15
			if n > 0 {
				_ = dst[n-1]
				meansAVX512(&dst[0], &sums[0], &kept.Cross[0], count, n)
			}
			meansGo(dst[n:], sums[n:], count, kept)
		},
		Finite: func(x []float32) bool {
			n := len(x) &^ 15
			return (n == 0 || differencesAVX512(&x[0], n) == 0) && finiteGo(x[n:])
		},
	}
}

func pointwise2() Pointwise {
	return Pointwise{
		MomentSums: func(sums []float64, x []float32, c, b int) {
			if c*b > 0 {
				_, _ = sums[2*Lanes*c-1], x[c*b-1]
				momentSumsAVX2(&sums[0], &x[0], c, b)
			}
		},
		Normalise: func(y, x []float32, coef []Affine, b int, relu bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _ = y[n-1], x[n-1]
			if relu {
				normaliseReLUAVX2(&y[0], &x[0], &coef[0].Centre, len(coef), b)
			} else {
				normaliseAVX2(&y[0], &x[0], &coef[0].Centre, len(coef), b)
			}
		},
		GradientSums: func(sums []float64, g, x []float32, coef []Gradient, b int, relu bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _, _ = sums[2*Lanes*len(coef)-1], g[n-1], x[n-1]
			if relu {
				gradientSumsReLUAVX2(&sums[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			} else {
				gradientSumsAVX2(&sums[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			}
		},
		NormaliseGradient: func(dx, g, x []float32, coef []Gradient, b int, relu, keep bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _, _ = dx[n-1], g[n-1], x[n-1]
			if relu {
				normaliseGradientReLUAVX2(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b, flag(keep))
			} else {
				normaliseGradientAVX2(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b, flag(keep))
			}
		},
		Rectify: func(y, x []float32) {
			if n := len(x); n > 0 {
				_ = y[n-1]
				rectifyAVX2(&y[0], &x[0], n)
			}
		},
		RectifyGradient: func(dx, g, y []float32, keep bool) {
			if n := len(y); n > 0 {
				_, _ = dx[n-1], g[n-1]
				rectifyGradientAVX2(&dx[0], &g[0], &y[0], n, flag(keep))
			}
		},
		Sum: func(y, a, b []float32) {
			if n := len(a); n > 0 {
				_, _ = y[n-1], b[n-1]
				sumAVX2(&y[0], &a[0], &b[0], n)
			}
		},
		ScaleShift: func(y, x, scale, shift []float32) {
			if n := len(x); n > 0 {
				_, _, _ = y[n-1], scale[n-1], shift[n-1]
				scaleShiftAVX2(&y[0], &x[0], &scale[0], &shift[0], n)
			}
		},
		Adam: func(w, g, m, v []float32, k *AdamConstants) {
			if n := len(w); n > 0 {
				_, _, _ = g[n-1], m[n-1], v[n-1]
				adamAVX2(&w[0], &g[0], &m[0], &v[0], &k.L2, n)
			}
		},
		Momentum: func(w, g, m []float32, k *MomentumConstants) {
			if n := len(w); n > 0 {
				_, _ = g[n-1], m[n-1]
				momentumAVX2(&w[0], &g[0], &m[0], &k.L2, n)
			}
		},
		AddRows: func(sums []float64, x []float32, ld, rows int) {
			n := len(sums) &^ 15
			if n > 0 && rows > 0 {
				_ = x[(rows-1)*ld+n-1]
				r := 0
				for ; r+4 <= rows; r += 4 {
					add4RowsAVX2(&sums[0], &x[r*ld], ld*size, n)
				}
				for ; r < rows; r++ {
					add1RowsAVX2(&sums[0], &x[r*ld], ld*size, n)
				}
			}
			if n < len(sums) && rows > 0 {
				addRowsGo(sums[n:], x[n:], ld, rows)
			}
		},
		AddRow: func(sums []float64, x, next []float32) {
			n := len(sums) &^ 15
			if n > 0 {
				_, _ = x[n-1], next[n-1]
				addRowAVX2(&sums[0], &x[0], &next[0], n)
			}
			addRowGo(sums[n:], x[n:], next[n:])
		},
		AddMoments: func(d1, d2 []float64, x, first []float32) {
			n := len(d1) &^ 15
			if n > 0 {
				_, _, _ = d2[n-1], x[n-1], first[n-1]
				addMomentsAVX2(&d1[0], &d2[0], &x[0], &first[0], n)
			}
			addMomentsGo(d1[n:], d2[n:], x[n:], first[n:])
		},
		Means: func(dst []float32, sums []float64, count float64, kept *Kept) {
			n := len(sums) &^ 15
			if n > 0 {
				_ = dst[n-1]
				meansAVX2(&dst[0], &sums[0], &kept.Cross[0], count, n)
			}
			meansGo(dst[n:], sums[n:], count, kept)
		},
		Finite: func(x []float32) bool {
			n := len(x) &^ 15
			return (n == 0 || differencesAVX2(&x[0], n) == 0) && finiteGo(x[n:])
		},
	}
}
