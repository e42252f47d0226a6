package cpu

import (
	"context"
	"fmt"
	"iter"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/internal/arena"
	"hypnos/backends/internal/buffers"
	"hypnos/backends/internal/workers"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// engine is a compiled network.
type engine struct {
	net      *net.Network
	opt      core.Options
	learns   []bool // by node
	pool     *workers.Pool
	kernels  *kernel.Kernels
	plan     plan
	arena    *arena.Arena
	bufs     [][]float32 // by plan.Sizes, for MaxBatch images
	scratch  [][]float32 // by worker
	layers   []layer     // by node
	absorbed []bool      // by node: inference computes it as part of an earlier one
	params   []*param    // in the order of the nodes
	byNode   [][]*param
	spoiled  []atomic.Bool // by node: the gradient of its weights is not finite
	step     int64

	outputs  core.Logits // of the last training pass
	gradient []float64   // of the loss, by one image's logits
	updater  updater
	onUpdate workers.Task
	images   core.Batch // on their way into their place
	onImages workers.Task

	broadcast *broadcast // nil: errors go back through the weights
}

// layer is one node compiled. y, x, dy, dx are (H, W, C, B) with the batch size of the pass.
type layer interface {
	forward(p pass)
	backward(p pass)
}

// pass is one batch on its way through the network.
type pass struct {
	*engine
	n     int  // images
	train bool // batch norm uses the batch's statistics
	// skipInput leaves out the gradient of the images, which learning does not need.
	skipInput bool
	// unfused makes every layer leave its own output behind, for Trace.
	unfused bool
}

// fusing tells whether windows do the work of the layers behind them.
func (p pass) fusing() bool { return !p.train && !p.unfused }

// out is the activation of a node.
func (p pass) out(node int) []float32 {
	return p.bufs[p.plan.Out[node]][:p.n*p.net.Nodes[node].Out.Len()]
}

// grad is the gradient of a node's activation.
func (p pass) grad(node int) []float32 {
	return p.bufs[p.plan.Grad[node]][:p.n*p.net.Nodes[node].Out.Len()]
}

// inGrad is the gradient of a node's i-th input, and what to do to it.
func (p pass) inGrad(node, i int) ([]float32, buffers.Mode) {
	return p.grad(p.net.Nodes[node].Inputs[i]), p.plan.Back[node][i]
}

func compile(n *net.Network, o core.Options, threads int, k *kernel.Kernels) (*engine, error) {
	learns, err := o.Learns(n)
	if err != nil {
		return nil, err
	}
	e := &engine{
		net: n, opt: o, learns: learns, kernels: k, plan: makePlan(n, o, threads), byNode: make([][]*param, len(n.Nodes)),
		spoiled: make([]atomic.Bool, len(n.Nodes)),
	}
	e.onUpdate, e.onImages = e.updatePart, e.imagesPart
	for i, v := range n.Nodes {
		for _, q := range v.Params {
			e.byNode[i] = append(e.byNode[i], newParam(v, i, q))
		}
		e.params = append(e.params, e.byNode[i]...)
		e.layers = append(e.layers, e.newLayer(i, v))
		if l, ok := e.layers[i].(*window); ok {
			if err := l.check(o.MaxBatch); err != nil {
				return nil, err
			}
		}
	}
	if e.broadcast, err = e.newBroadcast(threads); err != nil {
		return nil, err
	}
	e.fuse()
	if err := e.allocate(threads); err != nil {
		return nil, err
	}
	e.pool = workers.New(threads)
	return e, nil
}

// allocate gives every array its place, as planned.
func (e *engine) allocate(threads int) (err error) {
	if e.arena, err = arena.New(int(e.plan.floats)); err != nil {
		return fmt.Errorf("cpu: %s: %w", e.net.Name, err)
	}
	for _, q := range e.params {
		q.value = e.arena.Floats(q.Len())
		if e.opt.Train && q.Trained() {
			q.grad = e.arena.Floats(q.Len())
			for range e.opt.Optimizer.Slots() {
				q.slots = append(q.slots, e.arena.Floats(q.Len()))
			}
		}
	}
	for _, size := range e.plan.Sizes {
		e.bufs = append(e.bufs, e.arena.Floats(size*e.opt.MaxBatch))
	}
	for range threads {
		e.scratch = append(e.scratch, e.arena.Floats(int(e.plan.scratch)))
	}
	if left := e.arena.Left(); left != 0 {
		panic(fmt.Sprintf("cpu: %d floats more planned than taken", left))
	}
	return nil
}

// fuse joins every batch norm with the rectifier that works in its place, for training, and every window with what
// follows it, for inference.
func (e *engine) fuse() {
	for i, v := range e.net.Nodes {
		if r, ok := e.layers[i].(*relu); ok {
			from := v.Inputs[0]
			if b, ok := e.layers[from].(*norm); ok && e.plan.Out[i] == e.plan.Out[from] {
				b.rectified, r.fused = true, true
			}
		}
	}
	var then []buffers.Fusion
	then, e.absorbed = fusions(e.net)
	for i, l := range e.layers {
		if l, ok := l.(*window); ok {
			l.then.Fusion = then[i]
			if then[i].Norm != buffers.None {
				l.then.norm = e.layers[then[i].Norm].(*norm)
			}
		}
	}
}

func newParam(v net.Node, node int, q net.Param) *param {
	p := &param{Param: q, node: node}
	if f, ok := filtersOf(v); ok && q.Role == net.Weight {
		p.filters = &f
	}
	return p
}

func (e *engine) newLayer(i int, v net.Node) layer {
	base := base{node: i, v: v}
	switch op := v.Op.(type) {
	case net.Conv2D:
		return newWindow(base, op.Window, e.byNode[i])
	case net.LC2D:
		return newWindow(base, op.Window, e.byNode[i])
	case net.Linear:
		return newLinear(base, e.byNode[i])
	case net.BatchNorm:
		return newNorm(base, op, e.byNode[i])
	case net.ReLU:
		return newReLU(base)
	case net.Add:
		return newAdd(base)
	case net.MaxPool:
		return newMaxPool(base, op)
	case net.GlobalAvgPool:
		return newAvgPool(base)
	case net.Transpose:
		return newTranspose(base)
	default:
		return input{}
	}
}

// base is what every layer knows: its place, and the pass under way.
type base struct {
	pass
	node int
	v    net.Node
}

// in is the activation of the layer's i-th input.
func (b *base) in(i int) []float32 { return b.out(b.v.Inputs[i]) }

// input is the network's first node; its activation is filled before the pass.
type input struct{}

func (input) forward(pass)  {}
func (input) backward(pass) {}

func (e *engine) Load(p *model.Params) error {
	if err := core.CheckParams(e.net, e.opt, p); err != nil {
		return err
	}
	step, resume := int64(0), e.opt.Train && p.Has(core.StepTensor)
	if resume {
		var err error
		if step, err = core.SavedStep(p); err != nil {
			return err
		}
	}
	for _, q := range e.params {
		q.finite.Store(false)
		if err := q.read(q.value, p, q.Name); err != nil {
			return err
		}
		for i, slot := range q.slots {
			clear(slot)
			if !resume {
				continue
			}
			if err := q.read(slot, p, core.SlotTensor(e.opt.Optimizer.Slots()[i], q.Name)); err != nil {
				return err
			}
		}
	}
	e.step = step
	return nil
}

// read copies a tensor of the parameter's shape into dst.
func (p *param) read(dst []float32, from *model.Params, name string) error {
	t, err := from.Get(name)
	if err != nil {
		return err
	}
	v, err := t.Float32s()
	if err != nil {
		return err
	}
	p.fromCanonical(dst, v)
	return nil
}

func (e *engine) Save() (*model.Params, error) {
	saved := &model.Params{}
	addLazy := func(name string, q *param, data []float32) {
		info := model.Info{Name: name, DType: model.F32, Shape: q.Shape}
		saved.AddLazy(info, func() (model.Tensor, error) {
			return model.NewTensor(name, q.Shape, q.toCanonical(data)), nil
		})
	}
	for _, q := range e.params {
		addLazy(q.Name, q, q.value)
	}
	if !e.opt.Train {
		return saved, nil
	}
	saved.Add(model.NewTensor(core.StepTensor, nil, []int64{e.step}))
	for _, q := range e.params {
		for i, slot := range q.slots {
			addLazy(core.SlotTensor(e.opt.Optimizer.Slots()[i], q.Name), q, slot)
		}
	}
	return saved, nil
}

// forward runs the batch through the network.
func (e *engine) forward(x core.Batch, train bool) pass {
	p := e.begin(x, train)
	for i, l := range e.layers {
		if !(p.fusing() && e.absorbed[i]) {
			l.forward(p)
		}
	}
	return p
}

// begin puts the images in place.
func (e *engine) begin(x core.Batch, train bool) pass {
	p := pass{engine: e, n: x.N, train: train}
	e.images = x
	e.pool.Run(e.net.Input().Len(), e.onImages)
	e.images = core.Batch{}
	return p
}

// imagesPart puts some of their numbers in place.
func (e *engine) imagesPart(_, lo, hi int) {
	n, x := e.net.Input().Len(), e.images
	someInnermost(e.bufs[e.plan.Out[0]][:x.N*n], x.Pixels, x.N, n, lo, hi)
}

// readLogits copies the last node's activation, (classes, B), to (B, classes).
func (e *engine) readLogits(p pass, l *core.Logits) {
	l.N, l.Classes = p.n, e.net.Output().C
	l.Values = slices.Grow(l.Values[:0], p.n*l.Classes)[:p.n*l.Classes]
	for j, v := range p.out(len(e.net.Nodes) - 1) {
		l.Values[j%p.n*l.Classes+j/p.n] = float64(v)
	}
}

func (e *engine) Infer(ctx context.Context, x core.Batch) (core.Logits, error) {
	if err := ctx.Err(); err != nil {
		return core.Logits{}, err
	}
	if _, err := e.net.Classes(); err != nil {
		return core.Logits{}, err
	}
	if err := core.CheckBatch(e.net, e.opt.MaxBatch, x); err != nil {
		return core.Logits{}, err
	}
	var l core.Logits
	e.readLogits(e.forward(x, false), &l)
	return l, nil
}

func (e *engine) Wake(ctx context.Context, x core.Batch, y core.Labels, lr float64) (core.Step, error) {
	if err := ctx.Err(); err != nil {
		return core.Step{}, err
	}
	if err := core.CheckWake(e.net, e.opt, x, y, lr); err != nil {
		return core.Step{}, err
	}
	p := e.forward(x, true)
	e.readLogits(p, &e.outputs)
	loss, top1, top5 := core.Score(e.outputs, y)
	loss /= float64(x.N)
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return core.Step{}, e.locate(x)
	}
	p.skipInput = true
	e.setLossGradient(p, e.outputs, y)
	e.backward(p)
	if err := e.checkGradients(); err != nil {
		return core.Step{}, err
	}
	e.update(lr)
	e.moveStatistics(p)
	return core.Step{N: x.N, Loss: loss, Top1: top1, Top5: top5}, nil
}

// setLossGradient puts the derivative of the mean cross-entropy into the gradient of the last node.
func (e *engine) setLossGradient(p pass, l core.Logits, y core.Labels) {
	g := p.grad(len(e.net.Nodes) - 1)
	e.gradient = slices.Grow(e.gradient[:0], l.Classes)[:l.Classes]
	row := e.gradient
	for i, label := range y {
		core.SoftmaxGradient(row, l.Row(i), label, 1/float64(l.N))
		for j, v := range row {
			g[j*p.n+i] = float32(v)
		}
	}
}

// backward propagates the gradient of the last node to all parameters and nodes as the wake rule has it.
func (e *engine) backward(p pass) {
	for i := range e.spoiled {
		e.spoiled[i].Store(false)
	}
	if e.broadcast != nil {
		e.broadcast.begin(p)
	}
	for _, l := range slices.Backward(e.layers) {
		l.backward(p)
	}
}

// locate runs the batch again, layer by layer, and names the first whose weights or output are not finite.
func (e *engine) locate(x core.Batch) error {
	p := e.begin(x, true)
	p.unfused = true
	for i, l := range e.layers {
		l.forward(p)
		for _, q := range e.byNode[i] {
			if !e.kernels.Finite(q.value) {
				return &core.NonFiniteError{Layer: e.net.Nodes[i].Name, What: "weights"}
			}
		}
		if !e.kernels.Finite(p.out(i)) {
			return &core.NonFiniteError{Layer: e.net.Nodes[i].Name, What: "output"}
		}
	}
	return &core.NonFiniteError{Layer: "loss", What: "output"}
}

// checkGradients names the last layer, the first that backpropagation reaches, with a gradient that is not finite.
// Weight gradients were looked at when they were made.
func (e *engine) checkGradients() error {
	for i, v := range slices.Backward(e.net.Nodes) {
		bad := e.spoiled[i].Load()
		for _, q := range e.byNode[i] {
			bad = bad || q.grad != nil && q.filters == nil && !e.kernels.Finite(q.grad)
		}
		if bad {
			return &core.NonFiniteError{Layer: v.Name, What: "gradient"}
		}
	}
	return nil
}

func (e *engine) Sleep(ctx context.Context, s sleep.Stream) (sleep.Report, error) {
	if err := core.CheckSleep(rules(), s); err != nil {
		return sleep.Report{}, err
	}
	return sleep.Run(ctx, e.net, s, sleep.Host{
		Now:   time.Now,
		Open:  func(l sleep.Layer) sleep.Runner { return newSleeper(e, l) },
		Param: func(name string) ([]float64, error) { return core.Parameter(e, name) },
		Word:  4,
		Each:  func(n int, f func(lo, hi int)) { e.pool.Run(n, func(_, lo, hi int) { f(lo, hi) }) },
	})
}

func (e *engine) Trace(ctx context.Context, x core.Batch, probe core.Probe) iter.Seq2[model.Tensor, error] {
	return func(yield func(model.Tensor, error) bool) {
		err := ctx.Err()
		if err == nil {
			err = core.CheckProbe(e.net, e.opt, x, probe)
		}
		if err != nil {
			yield(model.Tensor{}, err)
			return
		}
		p := e.begin(x, probe.Train)
		p.unfused = true
		for i, l := range e.layers { // a later layer may write over the activation
			l.forward(p)
			if !yield(e.canonical("out/", i, p.n, p.out(i)), nil) {
				return
			}
		}
		switch last := len(e.net.Nodes) - 1; {
		case probe.Labels != nil:
			e.readLogits(p, &e.outputs)
			e.setLossGradient(p, e.outputs, probe.Labels)
		case probe.Cotangent != nil:
			g, c := p.grad(last), make([]float32, len(probe.Cotangent))
			for i, v := range probe.Cotangent {
				c[i] = float32(v)
			}
			batchInnermost(g, c, p.n, e.net.Output().Len())
		default:
			return
		}
		e.backward(p)
		for _, q := range e.params {
			if q.grad != nil && !yield(model.NewTensor("grad/"+q.Name, q.Shape, q.toCanonical(q.grad)), nil) {
				return
			}
		}
		yield(e.canonical("grad/", 0, p.n, p.grad(0)), nil)
	}
}

// canonical copies a node's activation or gradient to (B, H, W, C).
func (e *engine) canonical(prefix string, node, n int, data []float32) model.Tensor {
	s := e.net.Nodes[node].Out
	dst := make([]float32, len(data))
	batchOutermost(dst, data, n, s.Len())
	return model.NewTensor(prefix+e.net.Nodes[node].Name, []int{n, s.H, s.W, s.C}, dst)
}

func (e *engine) Close() error {
	e.pool.Close()
	e.bufs, e.scratch, e.params, e.layers, e.byNode, e.broadcast = nil, nil, nil, nil, nil, nil
	return e.arena.Close()
}
