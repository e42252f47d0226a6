//go:build cuda && cgo && linux && amd64

package cuda

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/internal/buffers"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
)

// engine is a compiled network.
type engine struct {
	*backend
	net    *net.Network
	opt    core.Options
	learns []bool // by node
	from   int    // the first that learns, but never the images
	plan   *plan
	layers []layer // by node
	step   int64

	functions map[string]*driver.Function
	queue     *driver.Queue // the work
	copies    *driver.Queue // of batches on their way to the device
	uploaded  *driver.Event // the batch is in images
	laid      *driver.Event // and is not needed there any more
	fetched   core.Batch    // that is in images, or on its way, for the next WakeAhead
	kept      keptImages
	graphs    map[chain]*driver.Graph
	failed    error  // the device is lost
	missing   error  // a kernel could not be had
	laying    string // the kernel of layImages
	onWake    func(pass)
	onKept    func(pass)
	onInfer   func(pass)

	// In device memory.
	allocated []driver.Ptr
	weights   driver.Ptr
	gradients driver.Ptr
	slots     []driver.Ptr
	bufs      []driver.Ptr // by plan.Sizes
	images    driver.Ptr
	pixels    driver.Ptr // of the images that are kept
	table     driver.Ptr // of their values
	control   driver.Ptr
	outcome   driver.Ptr
	norms     driver.Ptr
	errors    driver.Ptr // of the network's output, for the broadcast rule
	scratch   driver.Ptr

	// Page-locked memory of the host.
	batch  [2]*driver.HostBuffer // in turn: one may be on its way while the next is filled
	turn   int
	orders *driver.HostBuffer // control
	report *driver.HostBuffer // outcome
	pieces *driver.HostBuffer // through which arrays go
}

// chain names a recorded chain of launches.
type chain struct {
	kind  string
	batch int
}

// layer is one node compiled: forward and backward give its work to the queue.
type layer interface {
	forward(p pass)
	backward(p pass)
}

// pass is one batch on its way through the network.
type pass struct {
	*engine
	n     int  // images
	train bool // batch norm uses the batch's statistics
	// from is the first node whose gradients are needed: none is carried back to those before.
	from int
	// unfused makes every layer leave its own output behind.
	unfused bool
}

// out is where a node's activation lies.
func (p pass) out(node int) driver.Ptr { return p.bufs[p.plan.Out[node]] }

// grad is where the gradient of a node's activation lies.
func (p pass) grad(node int) driver.Ptr { return p.bufs[p.plan.Grad[node]] }

// inGrad is where the gradient of a node's i-th input lies, and what to do to it. It is not needed where wanted is false.
func (p pass) inGrad(node, i int) (dx driver.Ptr, m buffers.Mode, wanted bool) {
	from := p.net.Nodes[node].Inputs[i]
	return p.grad(from), p.plan.Back[node][i], from >= p.from
}

// value is where a parameter lies, gradient where its gradient does.
func (e *engine) value(q *param) driver.Ptr    { return e.weights + driver.Ptr(4*q.offset) }
func (e *engine) gradient(q *param) driver.Ptr { return e.gradients + driver.Ptr(4*q.offset) }

func compile(b *backend, n *net.Network, o core.Options, p *plan) (e *engine, err error) {
	e = &engine{backend: b, net: n, opt: o, plan: p, functions: map[string]*driver.Function{}, graphs: map[chain]*driver.Graph{}}
	if e.learns, err = o.Learns(n); err != nil {
		return nil, err
	}
	e.from = max(slices.Index(e.learns, true), 1)
	defer func() {
		if err != nil {
			err = errors.Join(err, e.release())
		}
	}()
	if err = e.allocate(); err != nil {
		return nil, err
	}
	for i, v := range n.Nodes {
		e.layers = append(e.layers, e.newLayer(i, v))
	}
	e.laying = "images_" + e.element()
	e.onWake, e.onKept, e.onInfer = e.wake, e.wakeKept, e.infer
	return e, e.clear()
}

// allocate gives every array its place, as planned.
func (e *engine) allocate() (err error) {
	d, p := e.device, e.plan
	take := func(bytes int64) (at driver.Ptr) {
		if err != nil || bytes == 0 {
			return 0
		}
		if at, err = d.Alloc(bytes); err == nil {
			e.allocated = append(e.allocated, at)
		}
		return at
	}
	e.weights = take(p.memory.Weights)
	if e.opt.Train {
		e.gradients = take(p.memory.Gradients)
		for range e.opt.Optimizer.Slots() {
			e.slots = append(e.slots, take(padded(4*p.trained)))
		}
	}
	for _, size := range p.Sizes {
		e.bufs = append(e.bufs, take(padded(e.precision.elementSize()*int64(e.opt.MaxBatch)*int64(size))))
	}
	e.images, e.control, e.outcome = take(p.images), take(p.control), take(p.outcome)
	e.pixels, e.table = take(p.pixels), take(p.table)
	e.norms, e.errors, e.scratch = take(p.norms), take(p.errors), take(p.scratch)
	pinned := func(bytes int64) (b *driver.HostBuffer) {
		if err == nil {
			b, err = d.Pinned(bytes)
		}
		return b
	}
	e.batch = [2]*driver.HostBuffer{pinned(p.images), pinned(p.images)}
	e.orders, e.report, e.pieces = pinned(p.control), pinned(p.outcome), pinned(pieceBytes)
	if err != nil {
		return err
	}
	if e.queue, err = d.Queue(); err != nil {
		return err
	}
	if e.copies, err = d.Queue(); err != nil {
		return err
	}
	if e.uploaded, err = d.Event(); err != nil {
		return err
	}
	e.laid, err = d.Event()
	return err
}

// clear sets the parameters' arena, its gaps with it, and all that is as long to zero.
func (e *engine) clear() error {
	e.queue.Set(e.weights, 0, e.plan.memory.Weights)
	for _, at := range append(slices.Clone(e.slots), e.gradients) {
		if at != 0 {
			e.queue.Set(at, 0, padded(4*e.plan.trained))
		}
	}
	return e.wait()
}

// wait waits for all that the queues were given. An error is that of the device, and kept where it is lost.
func (e *engine) wait() error {
	err := e.queue.Synchronize()
	if copying := e.copies.Synchronize(); err == nil {
		err = copying
	}
	return e.settled(err)
}

// waitForStep waits for the queue of the work alone: the next batch may be on its way.
func (e *engine) waitForStep() error {
	err := e.queue.Synchronize()
	if copying := e.copies.Err(); err == nil {
		err = copying
	}
	return e.settled(err)
}

// settled is an error of a queue, or else of the kernels asked for.
func (e *engine) settled(err error) error {
	if err == nil {
		err = e.missing
	}
	e.missing = nil
	return e.fault(err)
}

// fault is an error of the device with the backend's name; one that tells that the device is lost is kept.
func (e *engine) fault(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("cuda: %w", err)
	if errors.Is(err, driver.ErrLost) {
		e.failed = err
	}
	return err
}

// ready is an error after the device was lost, or the context's.
func (e *engine) ready(ctx context.Context) error {
	if e.failed != nil {
		return e.failed
	}
	return ctx.Err()
}

func (e *engine) Load(p *model.Params) error {
	if err := e.ready(context.Background()); err != nil {
		return err
	}
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
	for _, q := range e.plan.params {
		if err := e.read(e.value(q), p, q.Name); err != nil {
			return err
		}
		for i, slot := range e.slotsOf(q) {
			if !resume {
				e.queue.Set(slot, 0, 4*int64(q.Len()))
				continue
			}
			if err := e.read(slot, p, core.SlotTensor(e.opt.Optimizer.Slots()[i], q.Name)); err != nil {
				return err
			}
		}
	}
	if err := e.wait(); err != nil {
		return err
	}
	e.step = step
	return nil
}

// slotsOf are where the optimiser's numbers of a parameter lie; of one that is not trained there are none.
func (e *engine) slotsOf(q *param) (all []driver.Ptr) {
	if !q.Trained() {
		return nil
	}
	for _, slot := range e.slots {
		all = append(all, slot+driver.Ptr(4*q.offset))
	}
	return all
}

// read copies a tensor to the device.
func (e *engine) read(dst driver.Ptr, from *model.Params, name string) error {
	t, err := from.Get(name)
	if err != nil {
		return err
	}
	v, err := t.Float32s()
	if err != nil {
		return err
	}
	return e.upload(dst, v)
}

func (e *engine) Save() (*model.Params, error) {
	if err := e.ready(context.Background()); err != nil {
		return nil, err
	}
	saved := &model.Params{}
	addLazy := func(name string, q *param, at driver.Ptr) {
		info := model.Info{Name: name, DType: model.F32, Shape: q.Shape}
		saved.AddLazy(info, func() (model.Tensor, error) {
			v := make([]float32, q.Len())
			if err := e.download(v, at); err != nil {
				return model.Tensor{}, err
			}
			return model.NewTensor(name, q.Shape, v), nil
		})
	}
	for _, q := range e.plan.params {
		addLazy(q.Name, q, e.value(q))
	}
	if !e.opt.Train {
		return saved, nil
	}
	saved.Add(model.NewTensor(core.StepTensor, nil, []int64{e.step}))
	for _, q := range e.plan.params {
		for i, slot := range e.slotsOf(q) {
			addLazy(core.SlotTensor(e.opt.Optimizer.Slots()[i], q.Name), q, slot)
		}
	}
	return saved, nil
}

// forward gives the layers' work to the queue.
func (e *engine) forward(p pass) {
	for i, l := range e.layers {
		if p.unfused || !e.plan.absorbed[i] {
			l.forward(p)
		}
	}
}

// backward propagates the gradient of the last node to all parameters and nodes from p.from on.
func (e *engine) backward(p pass) {
	e.keepErrors(p)
	for i, l := range slices.Backward(e.layers) {
		if i < p.from {
			break
		}
		l.backward(p)
	}
}

func (e *engine) Infer(ctx context.Context, x core.Batch) (core.Logits, error) {
	if err := e.ready(ctx); err != nil {
		return core.Logits{}, err
	}
	if _, err := e.net.Classes(); err != nil {
		return core.Logits{}, err
	}
	if err := core.CheckBatch(e.net, e.opt.MaxBatch, x); err != nil {
		return core.Logits{}, err
	}
	e.putImages(x)
	e.queue.Wait(e.uploaded)
	p := pass{engine: e, n: x.N}
	if err := e.run(chain{"infer", x.N}, p, e.onInfer); err != nil {
		return core.Logits{}, err
	}
	values, err := e.activation(p.out(len(e.net.Nodes)-1), x.N, e.net.Output())
	l := core.Logits{N: x.N, Classes: e.net.Output().C, Values: make([]float64, len(values))}
	for i, v := range values {
		l.Values[i] = float64(v)
	}
	return l, err
}

func (e *engine) Wake(ctx context.Context, x core.Batch, y core.Labels, lr float64) (core.Step, error) {
	e.fetched = core.Batch{}
	return e.WakeAhead(ctx, x, y, lr, nil)
}

// finishStep waits for a step on n images and reads what it reported. Where something was not finite nothing has moved.
func (e *engine) finishStep(n int) (core.Step, error) {
	if err := e.waitForStep(); err != nil {
		return core.Step{}, err
	}
	s, err := e.readOutcome(n)
	if err != nil {
		return core.Step{}, err
	}
	e.step++
	return s, nil
}

func (e *engine) readOutcome(n int) (core.Step, error) {
	o := outcomeOf(e.report, len(e.net.Nodes), e.opt.MaxBatch)
	s := core.Step{N: n}
	for i := range n {
		s.Loss += float64(o.losses[i])
		if o.ranks[i] < 1 {
			s.Top1++
		}
		if o.ranks[i] < 5 {
			s.Top5++
		}
	}
	s.Loss /= float64(n)
	if math.IsNaN(s.Loss) || math.IsInf(s.Loss, 0) {
		return core.Step{}, e.locate(n)
	}
	for i, v := range slices.Backward(e.net.Nodes) {
		if o.flags[i] != 0 {
			return core.Step{}, &core.NonFiniteError{Layer: v.Name, What: "gradient"}
		}
	}
	return s, nil
}

// locate runs a step's batch of n images again, layer by layer, and names the first whose weights or output are not finite. The
// batch is where activations begin: a step writes over no activation.
func (e *engine) locate(n int) error {
	p := pass{engine: e, n: n, train: true, unfused: true}
	for i, l := range e.layers {
		l.forward(p)
		e.queue.Set(e.outcome, 0, 8)
		for _, q := range e.plan.byNode[i] {
			e.finite(e.value(q), int64(q.Len()), "f32", 0)
		}
		e.finite(p.out(i), int64(n)*int64(e.net.Nodes[i].Out.Len()), e.element(), 1)
		e.queue.Download(e.report, 0, e.outcome, 8)
		if err := e.wait(); err != nil {
			return err
		}
		found := e.report.Int32s()[:2]
		switch {
		case found[0] != 0:
			return &core.NonFiniteError{Layer: e.net.Nodes[i].Name, What: "weights"}
		case found[1] != 0:
			return &core.NonFiniteError{Layer: e.net.Nodes[i].Name, What: "output"}
		}
	}
	return &core.NonFiniteError{Layer: "loss", What: "output"}
}

func (e *engine) Trace(ctx context.Context, x core.Batch, probe core.Probe) iter.Seq2[model.Tensor, error] {
	return func(yield func(model.Tensor, error) bool) {
		if err := e.trace(ctx, x, probe, yield); err != nil {
			yield(model.Tensor{}, err)
		}
	}
}

// trace yields the tensors until yield has seen enough.
func (e *engine) trace(ctx context.Context, x core.Batch, probe core.Probe, yield func(model.Tensor, error) bool) error {
	if err := e.ready(ctx); err != nil {
		return err
	}
	if err := core.CheckProbe(e.net, e.opt, x, probe); err != nil {
		return err
	}
	e.putImages(x)
	e.queue.Wait(e.uploaded)
	p := pass{engine: e, n: x.N, train: probe.Train, unfused: true}
	e.layImages(p)
	for i, l := range e.layers { // a later layer may write over the activation
		l.forward(p)
		t, err := e.canonical("out/", i, p.n, p.out(i))
		if err != nil || !yield(t, nil) {
			return err
		}
	}
	last := len(e.net.Nodes) - 1
	switch {
	case probe.Labels != nil:
		e.putOrders(probe.Labels, e.opt.Optimizer.At(1, 0))
		e.sendOrders()
		e.lossGradient(p)
	case probe.Cotangent != nil:
		if err := e.uploadActivation(p.grad(last), probe.Cotangent, p.n, e.net.Output()); err != nil {
			return err
		}
	default:
		return nil
	}
	e.backward(p)
	for _, q := range e.plan.params {
		if !q.Trained() {
			continue
		}
		v := make([]float32, q.Len())
		if err := e.download(v, e.gradient(q)); err != nil {
			return err
		}
		if !yield(model.NewTensor("grad/"+q.Name, q.Shape, v), nil) {
			return nil
		}
	}
	t, err := e.canonical("grad/", 0, p.n, p.grad(0))
	if err == nil {
		yield(t, nil)
	}
	return err
}

// canonical copies a node's activation or gradient to (B, H, W, C).
func (e *engine) canonical(prefix string, node, n int, at driver.Ptr) (model.Tensor, error) {
	s := e.net.Nodes[node].Out
	v, err := e.activation(at, n, s)
	if err != nil {
		return model.Tensor{}, err
	}
	return model.NewTensor(prefix+e.net.Nodes[node].Name, []int{n, s.H, s.W, s.C}, v), nil
}

func (e *engine) Close() error {
	if err := e.release(); err != nil {
		return fmt.Errorf("cuda: %s: %w", e.net.Name, err)
	}
	return nil
}

// release frees all that the engine has of the device, and goes on after an error: a lost device frees nothing.
func (e *engine) release() (first error) {
	note := func(err error) {
		if first == nil && !errors.Is(err, driver.ErrLost) {
			first = err
		}
	}
	for _, g := range e.graphs {
		note(g.Free())
	}
	for _, at := range e.allocated {
		note(e.device.Free(at))
	}
	for _, b := range []*driver.HostBuffer{e.batch[0], e.batch[1], e.orders, e.report, e.pieces} {
		if b != nil {
			note(b.Free())
		}
	}
	for _, event := range []*driver.Event{e.uploaded, e.laid} {
		if event != nil {
			note(event.Free())
		}
	}
	for _, q := range []*driver.Queue{e.copies, e.queue} {
		if q != nil {
			note(q.Free())
		}
	}
	e.graphs, e.allocated, e.layers = nil, nil, nil
	e.batch, e.orders, e.report, e.pieces = [2]*driver.HostBuffer{}, nil, nil, nil
	e.uploaded, e.laid, e.copies, e.queue = nil, nil, nil, nil
	return first
}
