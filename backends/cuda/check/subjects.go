//go:build cuda && cgo && linux && amd64

package main

import (
	"math"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/core/optim"
)

// half is half a unit in the last place of 1 in float32: the error of a rounding, of what is rounded.
const half = 1.0 / (1 << 24)

// layer is an LC layer of the paper's networks: side x side positions, and weights of each.
type layer struct {
	name     string
	side     int
	elements int64
}

func (l layer) positions() int64 { return int64(l.side) * int64(l.side) }
func (l layer) weights() int64   { return l.positions() * l.elements }

// layers are one LC layer of every stage of ResNet20 on 32x32 images and of half-width ResNet18 on 224x224 images:
// channels in and out, and positions.
func (b *bench) layers() []layer {
	if b.small {
		return []layer{{"small", 4, 36}, {"odd", 5, 27}}
	}
	return []layer{
		{"cifar 16x32x32", 32, 16 * 9 * 16}, {"cifar 32x16x16", 16, 32 * 9 * 32}, {"cifar 64x8x8", 8, 64 * 9 * 64},
		{"imagenet 32x56x56", 56, 32 * 9 * 32}, {"imagenet 64x28x28", 28, 64 * 9 * 64},
		{"imagenet 128x14x14", 14, 128 * 9 * 128}, {"imagenet 256x7x7", 7, 256 * 9 * 256},
	}
}

// grids are the positions of 3x3 interleaved grids, one grid after the other, and where each begins.
func (l layer) grids() (positions, starts []int32) {
	const stride = 3
	starts = []int32{0}
	for grid := range stride * stride {
		for y := grid / stride; y < l.side; y += stride {
			for x := grid % stride; x < l.side; x += stride {
				positions = append(positions, int32(y*l.side+x))
			}
		}
		starts = append(starts, int32(len(positions)))
	}
	return positions, starts
}

// subjects lists what is measured.
func (b *bench) subjects() []subject {
	var all []subject
	for _, l := range b.layers() {
		all = append(all, b.adam(l), b.sleep("instant_sleep", l), b.sleep("naive_instant_sleep", l))
	}
	return append(all, b.windows()...)
}

// adam is a step of AdamW on a layer's weights: four arrays read, three written.
func (b *bench) adam(l layer) subject {
	n := l.weights()
	s := subject{kernel: "adam", size: l.name, bytes: 28 * float64(n)}
	s.prepare = func() (job, error) {
		at := optim.Default(optim.AdamW, 1e-2).At(3, 1e-3)
		constants := []float32{float32(at.L2), float32(at.Shrink), float32(at.Rate), float32(at.Eps), float32(at.Beta1), float32(at.Beta2),
			float32(1 - at.Beta1), float32(1 - at.Beta2), float32(1 / at.RootC2)}
		launch, err := b.function("adam", kernels.Elements(n))
		if err != nil {
			return job{}, err
		}
		j := job{sets: b.sets(16 * n)}
		before := [4][]float32{b.floats(n, -1, 1), b.floats(n, -1e-2, 1e-2), b.floats(n, -1e-2, 1e-2), b.floats(n, 0, 1e-4)} // w, g, m, v
		var arrays [4][]driver.Ptr
		for i, v := range before {
			if arrays[i], err = b.put(v, j.sets); err != nil {
				return job{}, err
			}
		}
		c, err := b.put(constants, 1)
		if err != nil {
			return job{}, err
		}
		flags, err := b.putInts([]int32{0})
		if err != nil {
			return job{}, err
		}
		j.launch = func(i int) {
			launch(arrays[0][i], arrays[1][i], arrays[2][i], arrays[3][i], n, c[0], flags, 1)
		}
		j.worst = func() (worst float64, err error) {
			var after [4][]float32
			for _, i := range []int{0, 2, 3} {
				if after[i], err = b.get(arrays[i][0], n); err != nil {
					return 0, err
				}
			}
			for i := range n {
				w, g, m, v := float64(before[0][i]), float64(before[1][i]), float64(before[2][i]), float64(before[3][i])
				wantW, wantM, wantV := at.Update(w, g, m, v)
				// A moment is the sum of two products of rounded constants: at most 4 roundings of each. The update is
				// m over the root of v and ε, 12 roundings on its way (v's count half below the root); the weight,
				// times its constant, has 3.
				update := math.Abs(at.Rate * wantM / (math.Sqrt(wantV)/at.RootC2 + at.Eps))
				boundM := 4 * half * (math.Abs(at.Beta1*m) + math.Abs((1-at.Beta1)*g))
				boundW := half*(3*math.Abs(w)+12*update) + at.Rate*boundM/(math.Sqrt(wantV)/at.RootC2+at.Eps)
				worst = worse(worst, after[0][i], wantW, boundW)
				worst = worse(worst, after[2][i], wantM, boundM)
				worst = worse(worst, after[3][i], wantV, 5*half*wantV)
			}
			return worst, nil
		}
		return j, nil
	}
	return s
}

// sleep is an instant sleep of a layer: every weight is read and written once.
func (b *bench) sleep(kernel string, l layer) subject {
	n := l.weights()
	s := subject{kernel: kernel, size: l.name, bytes: 8 * float64(n)}
	s.prepare = func() (job, error) {
		positions, starts := l.grids()
		size := kernels.Groups(l.elements, len(starts)-1)
		if kernel == "naive_instant_sleep" {
			size = kernels.NaiveGroups(l.elements, len(starts)-1)
		}
		launch, err := b.function(kernel, size)
		if err != nil {
			return job{}, err
		}
		j := job{sets: b.sets(4 * n)}
		before := b.floats(n, -1, 1)
		w, err := b.put(before, j.sets)
		if err != nil {
			return job{}, err
		}
		at, err := b.putInts(positions)
		if err != nil {
			return job{}, err
		}
		from, err := b.putInts(starts)
		if err != nil {
			return job{}, err
		}
		j.launch = func(i int) {
			if kernel == "naive_instant_sleep" {
				launch(w[i], l.elements, at, from)
			} else {
				launch(w[i], l.elements, at, from, driver.Ptr(0))
			}
		}
		j.worst = func() (worst float64, err error) {
			after, err := b.get(w[0], n)
			if err != nil {
				return 0, err
			}
			for g, lo := range starts[:len(starts)-1] {
				grid := positions[lo:starts[g+1]]
				for e := range l.elements {
					mean := 0.0
					for _, p := range grid {
						mean += float64(before[int64(p)*l.elements+e]) / float64(len(grid))
					}
					// One rounding to float32; a sum of so many numbers below 1 in float64 adds next to nothing.
					bound := half*math.Abs(mean) + float64(len(grid))/(1<<52)
					for _, p := range grid {
						worst = worse(worst, after[int64(p)*l.elements+e], mean, bound)
					}
				}
			}
			return worst, nil
		}
		return j, nil
	}
	return s
}

// worse is the larger of worst and an error as a share of its bound; NaN makes it infinite.
func worse(worst float64, got float32, want, bound float64) float64 {
	e := math.Abs(float64(got)-want) / bound
	switch {
	case math.IsNaN(e) && float64(got) == want:
		return worst // an error of 0 where none is allowed
	case math.IsNaN(e):
		return math.Inf(1)
	}
	return max(worst, e)
}
