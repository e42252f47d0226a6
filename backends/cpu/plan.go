package cpu

import (
	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/internal/arena"
	"hypnos/backends/internal/buffers"
	"hypnos/core"
	"hypnos/core/net"
)

// plan says where activations and gradients lie, and how much memory an engine takes. In inference a window and its
// epilogue are computed together.
type plan struct {
	buffers.Plan

	scratch int64 // floats a worker
	floats  int64 // all arrays together; what does not fit an int does not fit the memory either
	memory  core.Memory
}

func makePlan(n *net.Network, o core.Options, threads int) plan {
	p := plan{}
	if o.Train {
		p.Plan = buffers.Train(n)
	} else {
		then, absorbed := fusions(n)
		p.Plan = buffers.Infer(n, then, absorbed)
	}
	p.measure(n, o, threads)
	return p
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
	for _, size := range p.Sizes {
		add(&p.memory.Activations, int64(size)*int64(o.MaxBatch), 1)
	}
	for _, v := range n.Nodes {
		if f, ok := filtersOf(v); ok {
			p.scratch = max(p.scratch, int64(f.groups*f.cout)*int64(max(o.MaxBatch, v.Out.W))) // an output position before its epilogue, or of one image a row
			if o.Train {
				p.scratch = max(p.scratch, int64(kernel.ScratchLen(f.cout, 1))*int64(o.MaxBatch))
			}
		}
	}
	p.scratch += kernel.ThinScratchLen
	add(&p.memory.Scratch, p.scratch, threads)
}
