package cpu

import (
	"slices"

	"hypnos/core/net"
)

// plan says where activations and gradients lie. Buffers are numbered; sizes are elements an image.
//
// Activations: ReLU and Add write over their input where nothing else reads it, so that a block costs the output of
// each spatial layer, which batch norm's gradient needs, and of each rectifier.
//
// Gradients: in backpropagation a node's gradient lives from the first of its consumers, walking backwards, to the
// node itself; layers that keep the shape hand the buffer on, others give it back for reuse.
type plan struct {
	sizes []int // of each buffer
	out   []int // buffer of each node's activation
	grad  []int // buffer of each node's gradient; nil without training
	back  [][]mode
}

// mode says what backpropagation through a node does to the gradient of one of its inputs.
type mode uint8

const (
	handOn     mode = iota // it takes over the node's own gradient buffer, changed in place
	overwrite              // it is the first to be written
	accumulate             // it is added to what other consumers wrote
)

const none = -1

func makePlan(n *net.Network, train bool) plan {
	p := plan{out: make([]int, len(n.Nodes))}
	consumers := make([]int, len(n.Nodes))
	for _, v := range n.Nodes {
		for _, i := range v.Inputs {
			consumers[i]++
		}
	}
	for i, v := range n.Nodes {
		p.out[i] = none
		if inPlace(v.Op) {
			for _, from := range v.Inputs {
				if consumers[from] == 1 && overwritable(n.Nodes[from].Op) {
					p.out[i] = p.out[from]
					break
				}
			}
		}
		if p.out[i] == none {
			p.out[i] = p.buffer(v.Out.Len())
		}
	}
	if train {
		p.planGradients(n)
	}
	return p
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
func (p *plan) buffer(size int) int {
	p.sizes = append(p.sizes, size)
	return len(p.sizes) - 1
}

func (p *plan) planGradients(n *net.Network) {
	p.grad = make([]int, len(n.Nodes))
	p.back = make([][]mode, len(n.Nodes))
	var free []int
	take := func(size int) int {
		for i, b := range free {
			if p.sizes[b] == size {
				free = slices.Delete(free, i, i+1)
				return b
			}
		}
		return p.buffer(size)
	}
	for i := range p.grad {
		p.grad[i] = none
	}
	last := len(n.Nodes) - 1
	p.grad[last] = take(n.Nodes[last].Out.Len())
	for i, v := range slices.Backward(n.Nodes) {
		handed := false
		for _, from := range v.Inputs {
			m := overwrite
			switch {
			case p.grad[from] != none:
				m = accumulate
			case keepsShape(v.Op) && !handed:
				m, handed = handOn, true
				p.grad[from] = p.grad[i]
			default:
				p.grad[from] = take(n.Nodes[from].Out.Len())
			}
			p.back[i] = append(p.back[i], m)
		}
		if !handed && len(v.Inputs) > 0 {
			free = append(free, p.grad[i])
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

// elements is the number of float32 an image that activations and gradients take together.
func (p *plan) elements() int {
	sum := 0
	for _, s := range p.sizes {
		sum += s
	}
	return sum
}
