package cpu

import (
	"hypnos/backends/internal/buffers"
	"hypnos/core/net"
)

// epilogue is what inference does to the output of a window while it is in the cache: the batch norm, sum and rectifier
// behind it, as far as they follow one another at once and nothing else reads what is in between.
type epilogue struct {
	norm  *norm // nil without
	other int   // the node that is added, none without
	relu  bool
	last  int // the node whose output it makes: the window's own without an epilogue
}

// apply sets dst, an output position (C, B) that begins at the given element of the activation, from own, the window's
// output, which it may change.
func (t *epilogue) apply(p pass, dst, own []float32, at int) {
	if t.norm != nil {
		to := dst
		if t.other != none { // which may lie in dst
			to = own
		}
		if p.n == 1 {
			p.kernels.ScaleShift(to, own, t.norm.scale, t.norm.offset)
		} else {
			p.kernels.Normalise(to, own, t.norm.affine, p.n, false)
		}
		own = to
	}
	if t.other != none {
		p.kernels.Sum(dst, own, p.out(t.other)[at:at+len(dst)])
		own = dst
	}
	if t.relu {
		p.kernels.Rectify(dst, own)
	}
}

// epilogues finds them for every node; absorbed tells which nodes are part of one.
func epilogues(n *net.Network) (then []epilogue, absorbed []bool) {
	consumers := buffers.Consumers(n)
	then, absorbed = make([]epilogue, len(n.Nodes)), make([]bool, len(n.Nodes))
	for i, v := range n.Nodes {
		then[i] = epilogue{other: none, last: i}
		if isWindow(v.Op) {
			then[i].extend(n, consumers, absorbed)
		}
	}
	return then, absorbed
}

// extend takes in the nodes behind the last one, in the order batch norm, sum, rectifier, each at most once.
func (t *epilogue) extend(n *net.Network, consumers []int, absorbed []bool) {
	stage := 0
	for next := t.last + 1; next < len(n.Nodes) && consumers[t.last] == 1; next++ {
		v := n.Nodes[next]
		switch v.Op.(type) {
		case net.BatchNorm:
			if stage > 0 || v.Inputs[0] != t.last {
				return
			}
			stage = 1
		case net.Add:
			if stage > 1 || v.Inputs[0] == v.Inputs[1] {
				return
			}
			switch t.last {
			case v.Inputs[0]:
				t.other = v.Inputs[1]
			case v.Inputs[1]:
				t.other = v.Inputs[0]
			default:
				return
			}
			stage = 2
		case net.ReLU:
			if v.Inputs[0] != t.last {
				return
			}
			t.relu = true
			absorbed[next], t.last = true, next
			return
		default:
			return
		}
		absorbed[next], t.last = true, next
	}
}

// isWindow tells whether a node is compiled to a window.
func isWindow(op net.Op) bool {
	switch op.(type) {
	case net.Conv2D, net.LC2D, net.Linear:
		return true
	}
	return false
}
