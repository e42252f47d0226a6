//go:build !purego

package kernel

func pointwiseNEON() Pointwise {
	return Pointwise{
		MomentSums: func(sums []float64, x []float32, c, b int) {
			if c*b > 0 {
				_, _ = sums[2*Lanes*c-1], x[c*b-1]
				momentSumsNEON(&sums[0], &x[0], c, b)
			}
		},
		Normalise: func(y, x []float32, coef []Affine, b int, relu bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _ = y[n-1], x[n-1]
			if relu {
				normaliseReLUNEON(&y[0], &x[0], &coef[0].Centre, len(coef), b)
			} else {
				normaliseNEON(&y[0], &x[0], &coef[0].Centre, len(coef), b)
			}
		},
		GradientSums: func(sums []float64, g, x []float32, coef []Gradient, b int, relu bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _, _ = sums[2*Lanes*len(coef)-1], g[n-1], x[n-1]
			if relu {
				gradientSumsReLUNEON(&sums[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			} else {
				gradientSumsNEON(&sums[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			}
		},
		NormaliseGradient: func(dx, g, x []float32, coef []Gradient, b int, relu, keep bool) {
			n := len(coef) * b
			if n == 0 {
				return
			}
			_, _, _ = dx[n-1], g[n-1], x[n-1]
			switch {
			case relu && keep:
				normaliseGradientReLUAddNEON(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			case relu:
				normaliseGradientReLUNEON(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			case keep:
				normaliseGradientAddNEON(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			default:
				normaliseGradientNEON(&dx[0], &g[0], &x[0], &coef[0].Centre, len(coef), b)
			}
		},
		Rectify: func(y, x []float32) {
			if n := len(x); n > 0 {
				_ = y[n-1]
				rectifyNEON(&y[0], &x[0], n)
			}
		},
		RectifyGradient: func(dx, g, y []float32, keep bool) {
			n := len(y)
			if n == 0 {
				return
			}
			_, _ = dx[n-1], g[n-1]
			if keep {
				rectifyGradientAddNEON(&dx[0], &g[0], &y[0], n)
			} else {
				rectifyGradientNEON(&dx[0], &g[0], &y[0], n)
			}
		},
		Sum: func(y, a, b []float32) {
			if n := len(a); n > 0 {
				_, _ = y[n-1], b[n-1]
				sumNEON(&y[0], &a[0], &b[0], n)
			}
		},
		Adam: func(w, g, m, v []float32, k *AdamConstants) {
			if n := len(w); n > 0 {
				_, _, _ = g[n-1], m[n-1], v[n-1]
				adamNEON(&w[0], &g[0], &m[0], &v[0], &k.L2, n)
			}
		},
		Momentum: func(w, g, m []float32, k *MomentumConstants) {
			if n := len(w); n > 0 {
				_, _ = g[n-1], m[n-1]
				momentumNEON(&w[0], &g[0], &m[0], &k.L2, n)
			}
		},
		AddRows: func(sums []float64, x []float32, ld, rows int) {
			n := len(sums)
			if n == 0 || rows == 0 {
				return
			}
			_ = x[(rows-1)*ld+n-1]
			for r := range rows {
				addRowNEON(&sums[0], &x[r*ld], n)
			}
		},
		AddRow: func(sums []float64, x, next []float32) {
			if n := len(sums); n > 0 {
				_, _ = x[n-1], next[n-1]
				addRowNEON(&sums[0], &x[0], n)
			}
		},
		ScaleShift: scaleShiftGo, AddMoments: addMomentsGo, Means: meansGo,
		Finite: func(x []float32) bool { return len(x) == 0 || zeroesNEON(&x[0], len(x)) == 0 },
	}
}
