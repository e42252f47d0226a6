package cpu

import (
	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core/optim"
)

// updater applies the optimiser, all numbers in float32 (package optim has the equations).
type updater struct {
	param    *param // that is updated now
	kind     optim.Kind
	adam     kernel.AdamConstants
	momentum kernel.MomentumConstants
}

// update makes a step of the optimiser on every trained parameter of the layers that learn.
func (e *engine) update(lr float64) {
	e.step++
	s := e.opt.Optimizer.At(e.step, lr)
	e.updater = updater{
		kind: s.Kind,
		adam: kernel.AdamConstants{
			L2: float32(s.L2), Shrink: float32(s.Shrink), Rate: float32(s.Rate), Eps: float32(s.Eps),
			Beta1: float32(s.Beta1), Beta2: float32(s.Beta2), Rest1: float32(1 - s.Beta1), Rest2: float32(1 - s.Beta2),
			Scale: float32(1 / s.RootC2),
		},
		momentum: kernel.MomentumConstants{L2: float32(s.L2), Moment: float32(s.Moment), Rate: float32(s.Rate)},
	}
	for _, q := range e.params {
		if q.grad != nil && e.learns[q.node] {
			e.updater.param = q
			q.finite.Store(true) // as long as no worker objects
			e.pool.Run(len(q.value), e.onUpdate)
		}
	}
}

// updateBlock is how many numbers are updated together, such that those of all arrays stay in a core's first cache.
const updateBlock = 1 << 10

func (e *engine) updatePart(_, lo, hi int) {
	u, q := &e.updater, e.updater.param
	for ; lo < hi; lo += updateBlock {
		end := min(lo+updateBlock, hi)
		if u.kind == optim.SGD {
			e.kernels.Momentum(q.value[lo:end], q.grad[lo:end], q.slots[0][lo:end], &u.momentum)
		} else {
			e.kernels.Adam(q.value[lo:end], q.grad[lo:end], q.slots[0][lo:end], q.slots[1][lo:end], &u.adam)
		}
		if !e.kernels.Finite(q.value[lo:end]) { // they are in the cache now; sleep need not read them again to find out
			q.finite.Store(false)
		}
	}
}
