//go:build cuda && cgo && linux && amd64

package cuda

import (
	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
)

// constants is the room for the optimiser's constants, in float32.
const constants = 16

// controlBytes is what changes from step to step: the constants, then a label an image.
func controlBytes(maxBatch int) int64 { return 4 * (constants + int64(maxBatch)) }

// cropBytes is what comes behind it when batches are cut out of images that are kept: the number of an image each, then the place
// and the mirror of a crop each.
func cropBytes(maxBatch int) int64 { return 4 * (1 + 3) * int64(maxBatch) }

// labels, and images and places of crops, are where they lie.
func (e *engine) labels() driver.Ptr     { return e.control + 4*constants }
func (e *engine) cropImages() driver.Ptr { return e.control + driver.Ptr(controlBytes(e.opt.MaxBatch)) }
func (e *engine) cropPlaces() driver.Ptr { return e.cropImages() + driver.Ptr(4*e.opt.MaxBatch) }

// outcomeBytes is what a step reports: a flag for every node whose gradient is not finite and one for the loss, then a loss
// and a rank for every image.
func outcomeBytes(nodes, maxBatch int) int64 { return 4 * (int64(flags(nodes)) + 2*int64(maxBatch)) }

// flags is how many there are; the last is the loss's.
func flags(nodes int) int { return nodes + 1 }

// losses and ranks are where they lie.
func (e *engine) losses() driver.Ptr { return e.outcome + driver.Ptr(4*flags(len(e.net.Nodes))) }
func (e *engine) ranks() driver.Ptr  { return e.losses() + driver.Ptr(4*e.opt.MaxBatch) }

// outcome is a step's report as the host has it.
type outcome struct {
	flags  []int32
	losses []float32
	ranks  []int32
}

func outcomeOf(b *driver.HostBuffer, nodes, maxBatch int) outcome {
	first := flags(nodes)
	return outcome{b.Int32s()[:first], b.Floats()[first : first+maxBatch], b.Int32s()[first+maxBatch : first+2*maxBatch]}
}

// putOrders puts labels and the optimiser's constants where sendOrders finds them.
func (e *engine) putOrders(y core.Labels, s optim.Step) {
	copy(e.orders.Int32s()[constants:], y)
	c := e.orders.Floats()[:constants]
	if s.Kind == optim.SGD {
		c[0], c[1], c[2] = float32(s.L2), float32(s.Moment), float32(s.Rate)
		return
	}
	c[0], c[1], c[2], c[3] = float32(s.L2), float32(s.Shrink), float32(s.Rate), float32(s.Eps)
	c[4], c[5], c[6], c[7] = float32(s.Beta1), float32(s.Beta2), float32(1-s.Beta1), float32(1-s.Beta2)
	c[8] = float32(1 / s.RootC2)
}

// sendOrders brings them to the device, and clears the flags.
func (e *engine) sendOrders() {
	e.queue.Upload(e.control, e.orders, 0, controlBytes(e.opt.MaxBatch))
	e.queue.Set(e.outcome, 0, 4*int64(flags(len(e.net.Nodes))))
}

// lossGradient computes losses and ranks, and the gradient of the last node.
func (e *engine) lossGradient(p pass) {
	last, nodes := len(e.net.Nodes)-1, len(e.net.Nodes)
	e.launch("softmax_cross_entropy_"+e.element(), kernels.Loss(p.n), p.out(last), e.labels(), p.grad(last), e.losses(), e.ranks(),
		p.n, e.net.Output().C, 1/float64(p.n), e.outcome, flags(nodes)-1)
}

// wake is a learning step's work on a batch that is where activations begin.
func (e *engine) wake(p pass) {
	e.sendOrders()
	e.forward(p)
	e.lossGradient(p)
	e.backward(p)
	e.update(p)
	e.queue.Download(e.report, 0, e.outcome, outcomeBytes(len(e.net.Nodes), e.opt.MaxBatch))
}

// update moves the parameters that learn, and the running statistics of their layers, unless a flag is set.
func (e *engine) update(p pass) {
	n := flags(len(e.net.Nodes))
	if count := e.plan.trained - e.plan.learned; count > 0 {
		from := driver.Ptr(4 * e.plan.learned)
		size := kernels.Elements(count)
		if e.opt.Optimizer.Kind == optim.SGD {
			e.launch("momentum", size, e.weights+from, e.gradients+from, e.slots[0]+from, count, e.control, e.outcome, n)
		} else {
			e.launch("adam", size, e.weights+from, e.gradients+from, e.slots[0]+from, e.slots[1]+from, count, e.control, e.outcome, n)
		}
	}
	for i, l := range e.layers {
		if l, ok := l.(*norm); ok && e.learns[i] {
			l.move(p)
		}
	}
}

// infer is an inference's work.
func (e *engine) infer(p pass) {
	e.layImages(p)
	e.forward(p)
}

// mostGraphs is how many chains are recorded. More sizes of batches than that are not worth the host's memory.
const mostGraphs = 8

// run gives a chain to the queue and waits for it.
func (e *engine) run(c chain, p pass, f func(pass)) error {
	g, err := e.graph(c, p, f)
	if err != nil {
		return err
	}
	e.start(g, p, f)
	return e.wait()
}

// start gives a chain to the queue: its graph, where it has one.
func (e *engine) start(g *driver.Graph, p pass, f func(pass)) {
	if g != nil {
		e.queue.Run(g)
		return
	}
	f(p)
}

// graph is a chain's graph, recorded the first time; nil of chains that have none. The pass must be the same for one chain.
func (e *engine) graph(c chain, p pass, f func(pass)) (*driver.Graph, error) {
	if g, ok := e.graphs[c]; ok || len(e.graphs) == mostGraphs {
		return g, nil
	}
	if err := e.wait(); err != nil { // a batch may be on its way by another queue; the graph is of this one
		return nil, err
	}
	g, err := e.queue.Capture(func() { f(p) })
	if err != nil {
		return nil, e.fault(err)
	}
	e.graphs[c] = g
	return g, nil
}

// finite sets a flag of the outcome unless n numbers of an element type are finite.
func (e *engine) finite(x driver.Ptr, n int64, element string, flag int) {
	e.launch("finite_"+element, kernels.Elements(n), x, n, e.outcome, flag)
}

// element names the type of activations.
func (e *engine) element() string {
	if e.precision == BF16 {
		return "bf16"
	}
	return "f32"
}

// launch launches a kernel by name. Names that no kernel has are found by the first test, and told by wait.
func (e *engine) launch(name string, size kernels.Launch, args ...any) {
	f, ok := e.functions[name]
	if !ok {
		var err error
		if f, err = e.device.Function(name); err != nil {
			e.missing = err
			return
		}
		e.functions[name] = f
	}
	g, b := size.Grid, size.Block
	e.queue.Launch(f, driver.Grid{X: g[0], Y: g[1], Z: g[2]}, driver.Block{X: b[0], Y: b[1], Z: b[2]}, size.Shared, args...)
}

// numbers of an activation.
func (p pass) numbers(s net.Shape) int64 { return int64(p.n) * int64(s.Len()) }
