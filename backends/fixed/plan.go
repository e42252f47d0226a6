package fixed

import (
	"hypnos/backends/fixed/internal/kernel"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// geometry is a weight layer as the kernels see it: at each of its positions, for each of its channel groups, rows·K
// weights meet a gathered row of K inputs.
type geometry struct {
	net.Window
	in, out   net.Shape
	positions int // of outputs
	groups    int // g
	rows      int // N/g, neurons of a group at a position
	k         int // weights a neuron
	padded    int // k, padded
	located   bool
}

// geometryOf describes a conv2d, lc2d or linear node; ok is false for others.
func geometryOf(v net.Node) (g geometry, ok bool) {
	switch op := v.Op.(type) {
	case net.Conv2D:
		g.Window = op.Window
	case net.LC2D:
		g.Window, g.located = op.Window, true
	case net.Linear: // a patch of one position
		g.Window = net.Window{Out: op.Out, Kernel: 1, Stride: 1, Groups: 1, Bias: true, Patches: true}
	default:
		return g, false
	}
	g.in, g.out = v.In, v.Out
	g.positions, g.groups, g.rows = v.Out.H*v.Out.W, g.Groups, g.Out/g.Groups
	g.k = g.Kernel * g.Kernel * v.In.C / g.Groups
	g.padded = kernel.Padded(g.k)
	return g, true
}

// blocks is how many blocks of N rows the full form has.
func (g geometry) blocks() int {
	if g.located {
		return g.positions
	}
	return 1
}

// plan is what an engine will allocate.
type plan struct {
	memory  core.Memory
	scratch int // int64 numbers of the largest input that an error is carried back to, or output, of the largest batch
}

func makePlan(n *net.Network, o core.Options, threads int) plan {
	var p plan
	learns, err := o.Learns(n)
	if err != nil {
		panic(err) // check has been asked
	}
	batch, shared := int64(o.MaxBatch), 0
	for i, v := range n.Nodes {
		p.memory.Activations += 2 * batch * int64(v.Out.Len())
		if o.Train && (learns[i] || i == 0) {
			p.memory.Gradients += 2 * batch * int64(v.Out.Len())
		}
		if o.Train && learns[i] {
			p.scratch = max(p.scratch, o.MaxBatch*v.Out.Len(), o.MaxBatch*v.In.Len())
		}
		g, ok := geometryOf(v)
		if !ok {
			continue
		}
		p.memory.Weights += 2 * int64(g.blocks()) * int64(g.Out) * int64(g.padded)
		if g.Bias {
			p.memory.Weights += 4 * int64(g.blocks()) * int64(g.Out)
		} else {
			p.memory.Weights += 4 * int64(g.Out) // zeros
		}
		if !g.located {
			shared = max(shared, g.Out*g.padded)
		}
	}
	p.memory.Scratch = int64(threads) * largestWorker(n, o).bytes()
	if o.Train {
		p.memory.Scratch += 8*int64(threads)*int64(p.scratch) + 2*int64(p.scratch) + 8*int64(shared) // sums, scaled errors, gradients
	}
	return p
}

// workerSize is the scratch of one worker, in elements.
type workerSize struct{ k, rows, batch int }

func largestWorker(n *net.Network, o core.Options) workerSize {
	s := workerSize{batch: o.MaxBatch}
	for _, v := range n.Nodes {
		if g, ok := geometryOf(v); ok {
			s.k, s.rows = max(s.k, g.padded), max(s.rows, g.Out)
		}
	}
	return s
}

func (s workerSize) bytes() int64 {
	return 2*int64(s.batch)*int64(s.k+2*s.rows) + 8*int64(s.rows) + 4*int64(s.k) + 2*int64(s.randoms())
}

// randoms is how many random numbers are drawn at a time: one a weight of a position, or one a bias and a block more.
func (s workerSize) randoms() int { return max(s.rows*s.k, kernel.Padded(s.rows+rng.HalvesBlock)) }

// worker is what one worker needs.
type worker struct {
	patches []int16  // (B, K): gathered inputs
	errors  []int16  // (B, N): errors of a position
	run     []int16  // (B, N): those of some of its neurons
	sums    []int64  // (N)
	back    []int32  // (K): error of the inputs of one position
	random  []uint16 // (N, K)
}

func (s workerSize) make() *worker {
	return &worker{
		patches: make([]int16, s.batch*s.k), errors: make([]int16, s.batch*s.rows), run: make([]int16, s.batch*s.rows),
		sums: make([]int64, s.rows), back: make([]int32, s.k), random: make([]uint16, s.randoms()),
	}
}
