//go:build cuda && cgo && linux && amd64

package cuda

import (
	"hypnos/backends/cuda/kernels"
	"hypnos/backends/internal/buffers"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// plan says where everything lies in device memory. It allocates nothing; its sizes are those that the engine allocates.
//
// Parameters lie in one arena, those that are trained first, in the order of the nodes, then the running statistics; each
// begins at a multiple of alignment, and what is between them is zero and stays so. Gradients and the optimiser's slots lie in
// arenas of the same offsets, as long as the trained part.
type plan struct {
	buffers.Plan
	then     []buffers.Fusion // by node: what is computed together with a batch norm
	absorbed []bool           // by node: computed as part of an earlier one

	params  []*param // in the order of the nodes
	byNode  [][]*param
	normAt  []int64 // by node: where in norms a batch norm's begin
	all     int64   // floats of the arena
	trained int64   // floats of its part that is trained
	learned int64   // where the part begins that Wake changes

	// Bytes of the other arrays.
	images  int64 // a batch as it comes
	pixels  int64 // of images that are kept
	table   int64 // of what their bytes stand for
	control int64 // what changes from step to step
	outcome int64 // what a step reports
	norms   int64 // of batch norms: statistics of a pass
	errors  int64 // of the output, for the broadcast rule
	scratch int64
	memory  core.Memory
}

// param is a parameter's place.
type param struct {
	net.Param
	node   int
	offset int64 // in floats
}

// alignment is that of a parameter in the arena, in floats.
const alignment = 64

func makePlan(n *net.Network, o core.Options, precision Precision) (*plan, error) {
	learns, err := o.Learns(n)
	if err != nil {
		return nil, err
	}
	p := &plan{byNode: make([][]*param, len(n.Nodes))}
	p.then, p.absorbed = buffers.Fusions(n, func(op net.Op) bool { _, ok := op.(net.BatchNorm); return ok })
	if o.Train {
		p.Plan = buffers.Train(n)
	} else {
		p.Plan = buffers.Infer(n, p.then, p.absorbed)
	}
	p.place(n, learns)
	p.measure(n, o, precision)
	return p, nil
}

// place gives every parameter its offset.
func (p *plan) place(n *net.Network, learns []bool) {
	put := func(q *param) {
		q.offset = p.all
		p.all += int64(q.Len()+alignment-1) / alignment * alignment
	}
	p.learned = -1
	for i, v := range n.Nodes {
		if learns[i] && p.learned < 0 {
			p.learned = p.all
		}
		for _, q := range v.Params {
			x := &param{Param: q, node: i}
			p.byNode[i] = append(p.byNode[i], x)
			p.params = append(p.params, x)
			if q.Trained() {
				put(x)
			}
		}
	}
	p.trained = p.all
	for _, q := range p.params {
		if !q.Trained() {
			put(q)
		}
	}
}

// padded is a size as it is allocated.
func padded(bytes int64) int64 {
	const least = 512
	return (bytes + least - 1) / least * least
}

// measure adds up what the engine's arrays take.
func (p *plan) measure(n *net.Network, o core.Options, precision Precision) {
	batch, element := int64(o.MaxBatch), precision.elementSize()
	m := &p.memory
	m.Weights = padded(4 * p.all)
	if o.Train && p.trained > 0 {
		m.Gradients = padded(4 * p.trained)
		m.Optimizer = int64(len(o.Optimizer.Slots())) * padded(4*p.trained)
	}
	for _, size := range p.Sizes {
		m.Activations += padded(element * batch * int64(size))
	}
	p.images = padded(4 * batch * int64(n.Input().Len()))
	p.control = controlBytes(o.MaxBatch)
	if o.Train && o.Keep > 0 {
		p.control += cropBytes(o.MaxBatch)
		p.pixels, p.table = padded(o.Keep), padded(4*256*int64(n.Input().C))
	}
	p.control = padded(p.control)
	p.outcome = padded(outcomeBytes(len(n.Nodes), o.MaxBatch))
	if o.Train && o.Rule == core.Broadcast {
		p.errors = padded(4 * batch * int64(n.Output().Len()))
	}
	p.normAt = make([]int64, len(n.Nodes))
	for i, v := range n.Nodes {
		if _, ok := v.Op.(net.BatchNorm); ok {
			p.normAt[i] = p.norms
			p.norms += normBytes(v.In.C)
		}
		p.scratch = max(p.scratch, scratchBytes(v, o, precision))
	}
	for _, l := range sleep.Layers(n) {
		p.scratch = max(p.scratch, sleepBytes(l))
	}
	p.scratch = padded(p.scratch)
	m.Images = p.pixels + p.table
	m.Scratch = p.images + p.control + p.outcome + p.norms + p.errors + p.scratch
}

// scratchBytes is what a node's kernels need beside: sums of parts.
func scratchBytes(v net.Node, o core.Options, precision Precision) int64 {
	if !o.Train {
		return 0
	}
	if _, ok := v.Op.(net.BatchNorm); ok {
		rows := int64(o.MaxBatch) * int64(v.In.H*v.In.W)
		return 8 * 2 * int64(kernels.NormSums(rows, v.In.C, int(precision.elementSize())).Grid[0]) * int64(v.In.C)
	}
	if g, ok := windowOfNode(v, o.MaxBatch); ok {
		return windowScratch(g)
	}
	return 0
}

// elementSize is that of activations, in bytes.
func (p Precision) elementSize() int64 {
	if p == BF16 {
		return 2
	}
	return 4
}
