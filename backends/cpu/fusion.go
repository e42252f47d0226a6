package cpu

import (
	"hypnos/backends/internal/buffers"
	"hypnos/core/net"
)

// epilogue is what inference does to the output of a window while it is in the cache.
type epilogue struct {
	buffers.Fusion
	norm *norm // nil without
}

// apply sets dst, an output position (C, B) that begins at the given element of the activation, from own, the window's
// output, which it may change.
func (t *epilogue) apply(p pass, dst, own []float32, at int) {
	if t.norm != nil {
		to := dst
		if t.Other != buffers.None { // which may lie in dst
			to = own
		}
		if p.n == 1 {
			p.kernels.ScaleShift(to, own, t.norm.scale, t.norm.offset)
		} else {
			p.kernels.Normalise(to, own, t.norm.affine, p.n, false)
		}
		own = to
	}
	if t.Other != buffers.None {
		p.kernels.Sum(dst, own, p.out(t.Other)[at:at+len(dst)])
		own = dst
	}
	if t.ReLU {
		p.kernels.Rectify(dst, own)
	}
}

// fusions are the nodes that inference computes together.
func fusions(n *net.Network) ([]buffers.Fusion, []bool) { return buffers.Fusions(n, isWindow) }

// isWindow tells whether a node is compiled to a window.
func isWindow(op net.Op) bool {
	switch op.(type) {
	case net.Conv2D, net.LC2D, net.Linear:
		return true
	}
	return false
}
