package cpu

import (
	"slices"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/internal/arena"
	"hypnos/core"
	"hypnos/core/net"
)

// plan says where activations and gradients lie, and how much memory an engine takes. Buffers are numbered; sizes are
// elements an image.
//
// Activations in training: ReLU and Add write over their input where nothing else reads it, so that a block costs the
// output of each spatial layer, which batch norm's gradient needs, and of each rectifier.
//
// Activations in inference live from the node that makes them to the last that reads them, and their buffers are used
// again. A window and its epilogue count as one node.
//
// Gradients: in backpropagation a node's gradient lives from the first of its consumers, walking backwards, to the
// node itself; layers that keep the shape hand the buffer on, others give it back for reuse.
type plan struct {
	sizes []int // of each buffer
	out   []int // buffer of each node's activation
	grad  []int // buffer of each node's gradient; nil without training
	back  [][]mode

	scratch int64 // floats a worker
	floats  int64 // all arrays together; what does not fit an int does not fit the memory either
	memory  core.Memory
}

// mode says what backpropagation through a node does to the gradient of one of its inputs.
type mode uint8

const (
	handOn     mode = iota // it takes over the node's own gradient buffer, changed in place
	overwrite              // it is the first to be written
	accumulate             // it is added to what other consumers wrote
)

const none = -1

func makePlan(n *net.Network, o core.Options, threads int) plan {
	p := plan{}
	if o.Train {
		p.planActivations(n)
		p.planGradients(n)
	} else {
		p.planInference(n)
	}
	p.measure(n, o, threads)
	return p
}

// planActivations gives every node a buffer of its own, or one of its inputs'.
func (p *plan) planActivations(n *net.Network) {
	consumers := consumersOf(n)
	for _, v := range n.Nodes {
		var at int
		if from := p.replaced(v, func(i int) bool { return consumers[i] == 1 && overwritable(n.Nodes[i].Op) }); from != none {
			at = p.out[from]
		} else {
			at = p.buffer(v.Out.Len())
		}
		p.out = append(p.out, at)
	}
}

// planInference gives every node a buffer, which another has when nothing reads it any more.
func (p *plan) planInference(n *net.Network) {
	then, absorbed := epilogues(n)
	end := func(i int) int { // of the node and its epilogue
		for absorbed[i] {
			i--
		}
		return then[i].last
	}
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
		if from := p.replaced(v, func(j int) bool { return last[j] <= end(i) && end(j) == end(i) }); from != none {
			at = p.out[from]
		} else {
			at = p.free(v.Out.Len(), func(b int) bool { return until[b] < i })
		}
		p.out = append(p.out, at)
		until[at] = max(until[at], last[i], end(i))
	}
}

// replaced is an input that the node may write over, none without.
func (p *plan) replaced(v net.Node, may func(node int) bool) int {
	if inPlace(v.Op) {
		for _, from := range v.Inputs {
			if may(from) {
				return from
			}
		}
	}
	return none
}

// free is the smallest buffer that is large enough and free, or a new one.
func (p *plan) free(size int, free func(buffer int) bool) int {
	best := none
	for b, s := range p.sizes {
		if s >= size && free(b) && (best == none || s < p.sizes[best]) {
			best = b
		}
	}
	if best == none {
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

// measure adds up what the engine's arrays take.
func (p *plan) measure(n *net.Network, o core.Options, threads int) {
	add := func(bytes *int64, floats int64, times int) {
		all := int64(times) * arena.Padded(floats)
		p.floats += all
		*bytes += 4 * all
	}
	for _, q := range n.Params() {
		add(&p.memory.Weights, int64(q.Len()), 1)
		if o.Train && q.Trained() {
			add(&p.memory.Gradients, int64(q.Len()), 1)
			add(&p.memory.Optimizer, int64(q.Len()), len(o.Optimizer.Slots()))
		}
	}
	for _, size := range p.sizes {
		add(&p.memory.Activations, int64(size)*int64(o.MaxBatch), 1)
	}
	for _, v := range n.Nodes {
		if f, ok := filtersOf(v); ok {
			p.scratch = max(p.scratch, int64(f.groups*f.cout)*int64(o.MaxBatch)) // an output position before its epilogue
			if o.Train {
				p.scratch = max(p.scratch, int64(kernel.ScratchLen(f.cout, 1))*int64(o.MaxBatch))
			}
		}
	}
	p.scratch += kernel.ThinScratchLen
	add(&p.memory.Scratch, p.scratch, threads)
}
