// Package buffers plans where the activations of a network and their gradients lie, for backends that keep them in few
// buffers. Buffers are numbered; sizes are elements an image.
//
// Activations in training: ReLU and Add write over their input where nothing else reads it, so that a block costs the
// output of each spatial layer, which batch norm's gradient needs, and of each rectifier.
//
// Activations in inference live from the node that makes them to the last that reads them, and their buffers are used
// again. Nodes that are computed together count as one.
//
// Gradients: in backpropagation a node's gradient lives from the first of its consumers, walking backwards, to the
// node itself; layers that keep the shape hand the buffer on, others give it back for reuse.
package buffers

import (
	"slices"

	"hypnos/core/net"
)

// Plan is where a network's activations and gradients lie.
type Plan struct {
	Sizes []int    // of each buffer
	Out   []int    // buffer of each node's activation
	Grad  []int    // buffer of each node's gradient; nil without training
	Back  [][]Mode // what backpropagation through each node does to the gradient of each of its inputs
}

// Mode says what backpropagation through a node does to the gradient of one of its inputs.
type Mode uint8

// The modes.
const (
	HandOn     Mode = iota // it takes over the node's own gradient buffer, changed in place
	Overwrite              // it is the first to be written
	Accumulate             // it is added to what other consumers wrote
)

// Train plans activations that all stay until the gradients are computed, and the gradients.
func Train(n *net.Network) Plan {
	p := Plan{}
	p.planActivations(n)
	p.planGradients(n)
	return p
}

// planActivations gives every node a buffer of its own, or one of its inputs'.
func (p *Plan) planActivations(n *net.Network) {
	consumers := Consumers(n)
	for _, v := range n.Nodes {
		var at int
		if from := replaced(v, func(i int) bool { return consumers[i] == 1 && overwritable(n.Nodes[i].Op) }); from != None {
			at = p.Out[from]
		} else {
			at = p.buffer(v.Out.Len())
		}
		p.Out = append(p.Out, at)
	}
}

// Infer plans activations that are needed only until the last node that reads them, where the nodes of a fusion are
// computed together.
func Infer(n *net.Network, then []Fusion, absorbed []bool) Plan {
	p, end := Plan{}, ends(then, absorbed)
	last := make([]int, len(n.Nodes)) // the last node that needs each node's output
	for i, v := range n.Nodes {
		last[i] = i
		for _, from := range v.Inputs {
			last[from] = end(i)
		}
	}
	last[len(n.Nodes)-1] = len(n.Nodes)
	until := map[int]int{} // until which node each buffer is in use
	for i, v := range n.Nodes {
		var at int
		if from := replaced(v, func(j int) bool { return last[j] <= end(i) && end(j) == end(i) }); from != None {
			at = p.Out[from]
		} else {
			at = p.free(v.Out.Len(), func(b int) bool { return until[b] < i })
		}
		p.Out = append(p.Out, at)
		until[at] = max(until[at], last[i], end(i))
	}
	return p
}

// replaced is an input that the node may write over, None without.
func replaced(v net.Node, may func(node int) bool) int {
	if inPlace(v.Op) {
		for _, from := range v.Inputs {
			if may(from) {
				return from
			}
		}
	}
	return None
}

// free is the smallest buffer that is large enough and free, or a new one.
func (p *Plan) free(size int, free func(buffer int) bool) int {
	best := None
	for b, s := range p.Sizes {
		if s >= size && free(b) && (best == None || s < p.Sizes[best]) {
			best = b
		}
	}
	if best == None {
		return p.buffer(size)
	}
	return best
}

// inPlace tells whether the op may write its output over an input.
func inPlace(op net.Op) bool {
	switch op.(type) {
	case net.ReLU, net.Add:
		return true
	}
	return false
}

// overwritable tells whether nobody needs the op's output once its one consumer has read it. A rectifier's gradient
// reads its own output.
func overwritable(op net.Op) bool {
	switch op.(type) {
	case net.Input, net.ReLU:
		return false
	}
	return true
}

// buffer appends a buffer.
func (p *Plan) buffer(size int) int {
	p.Sizes = append(p.Sizes, size)
	return len(p.Sizes) - 1
}

func (p *Plan) planGradients(n *net.Network) {
	p.Grad = make([]int, len(n.Nodes))
	p.Back = make([][]Mode, len(n.Nodes))
	var free []int
	take := func(size int) int {
		for i, b := range free {
			if p.Sizes[b] == size {
				free = slices.Delete(free, i, i+1)
				return b
			}
		}
		return p.buffer(size)
	}
	for i := range p.Grad {
		p.Grad[i] = None
	}
	last := len(n.Nodes) - 1
	p.Grad[last] = take(n.Nodes[last].Out.Len())
	for i, v := range slices.Backward(n.Nodes) {
		handed := false
		for _, from := range v.Inputs {
			m := Overwrite
			switch {
			case p.Grad[from] != None:
				m = Accumulate
			case keepsShape(v.Op) && !handed:
				m, handed = HandOn, true
				p.Grad[from] = p.Grad[i]
			default:
				p.Grad[from] = take(n.Nodes[from].Out.Len())
			}
			p.Back[i] = append(p.Back[i], m)
		}
		if !handed && len(v.Inputs) > 0 {
			free = append(free, p.Grad[i])
		}
	}
}

// keepsShape tells whether backpropagation through the op can work in place.
func keepsShape(op net.Op) bool {
	switch op.(type) {
	case net.ReLU, net.Add, net.BatchNorm:
		return true
	}
	return false
}

// Consumers counts the readers of every node.
func Consumers(n *net.Network) []int {
	consumers := make([]int, len(n.Nodes))
	for _, v := range n.Nodes {
		for _, i := range v.Inputs {
			consumers[i]++
		}
	}
	return consumers
}
