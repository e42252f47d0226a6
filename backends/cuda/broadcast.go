//go:build cuda && cgo && linux && amd64

package cuda

import (
	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/core"
	"hypnos/core/rng"
)

// keepErrors keeps the error of the output, (B, H, W, C), for the broadcast rule: others will use its buffer.
func (e *engine) keepErrors(p pass) {
	if out := e.net.Output(); e.errors != 0 {
		e.launch("canonical_"+e.element(), kernels.Elements(p.numbers(out)), p.grad(len(e.net.Nodes)-1), e.errors, p.n, out.H*out.W, out.C)
	}
}

// broadcastError sets the gradient of a weight layer's input to B·e, or adds it (core.Broadcast). The device draws the
// signs of B as it needs them, the same as core.Feedback's.
func (e *engine) broadcastError(p pass, l *window, dx driver.Ptr, add int) {
	outputs := e.net.Output().Len()
	key, id := rng.New(e.opt.Seed, rng.Feedback, uint64(l.node)).State()
	word := func(w [2]uint32) uint64 { return uint64(w[1])<<32 | uint64(w[0]) }
	in := l.v.In
	e.launch("feedback_"+e.element(), kernels.Feedback(p.n, in.Len()), e.errors, dx, add, word(key), word(id),
		float32(core.NewFeedback(e.opt.Seed, l.node, outputs).Scale()), p.n, in.H*in.W, in.C, outputs)
}
