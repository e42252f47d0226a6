package cpu

import (
	"math"

	"hypnos/core/optim"
)

// update applies the optimiser to every trained parameter, all numbers in float32 (package optim has the equations).
func (e *engine) update(lr float64) {
	e.step++
	s := e.opt.Optimizer.At(e.step, lr)
	for _, q := range e.params {
		if q.grad == nil {
			continue
		}
		e.pool.Run(len(q.value), func(_, lo, hi int) {
			if s.Kind == optim.SGD {
				updateSGD(s, q.value[lo:hi], q.grad[lo:hi], q.slots[0][lo:hi])
			} else {
				updateAdam(s, q.value[lo:hi], q.grad[lo:hi], q.slots[0][lo:hi], q.slots[1][lo:hi])
			}
		})
	}
}

func updateSGD(s optim.Step, w, g, m []float32) {
	l2, moment, rate := float32(s.L2), float32(s.Moment), float32(s.Rate)
	for i := range w {
		m[i] = moment*m[i] + (g[i] + l2*w[i])
		w[i] -= rate * m[i]
	}
}

// updateAdam is adam and adamw: one of L2 and Shrink-1 is 0.
func updateAdam(s optim.Step, w, g, m, v []float32) {
	l2, shrink, rate, eps := float32(s.L2), float32(s.Shrink), float32(s.Rate), float32(s.Eps)
	beta1, beta2 := float32(s.Beta1), float32(s.Beta2)
	rest1, rest2 := float32(1-s.Beta1), float32(1-s.Beta2)
	scale := float32(1 / s.RootC2)
	for i := range w {
		d := g[i] + l2*w[i]
		m[i] = beta1*m[i] + rest1*d
		v[i] = beta2*v[i] + rest2*d*d
		w[i] = shrink*w[i] - rate*m[i]/(float32(math.Sqrt(float64(v[i])))*scale+eps)
	}
}
