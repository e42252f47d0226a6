package cpu

import (
	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core/optim"
)

// update applies the optimiser to every trained parameter, all numbers in float32 (package optim has the equations).
func (e *engine) update(lr float64) {
	e.step++
	s := e.opt.Optimizer.At(e.step, lr)
	adam := kernel.AdamConstants{
		L2: float32(s.L2), Shrink: float32(s.Shrink), Rate: float32(s.Rate), Eps: float32(s.Eps),
		Beta1: float32(s.Beta1), Beta2: float32(s.Beta2), Rest1: float32(1 - s.Beta1), Rest2: float32(1 - s.Beta2),
		Scale: float32(1 / s.RootC2),
	}
	momentum := kernel.MomentumConstants{L2: float32(s.L2), Moment: float32(s.Moment), Rate: float32(s.Rate)}
	for _, q := range e.params {
		if q.grad == nil {
			continue
		}
		e.pool.Run(len(q.value), func(_, lo, hi int) {
			if s.Kind == optim.SGD {
				e.kernels.Momentum(q.value[lo:hi], q.grad[lo:hi], q.slots[0][lo:hi], &momentum)
			} else {
				e.kernels.Adam(q.value[lo:hi], q.grad[lo:hi], q.slots[0][lo:hi], q.slots[1][lo:hi], &adam)
			}
		})
	}
}
