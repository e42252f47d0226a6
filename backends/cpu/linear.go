package cpu

import "hypnos/core/net"

// newLinear makes a linear layer, which is a 1x1 convolution with bias on one position.
func newLinear(b base, params []*param) *window {
	w := net.Window{Out: b.v.Out.C, Kernel: 1, Stride: 1, Groups: 1, Bias: true}
	return newWindow(b, w, params)
}
