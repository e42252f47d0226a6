// Package ref is the reference backend: float64, one thread, plain loops. It is the definition that the other backends
// are compared with, so that every choice here is for plainness: each layer is the sum or the statistic of its
// equation, activations are (B, H, W, C) and parameters have the canonical layout of package net.
package ref

import (
	"context"
	"iter"
	"math"
	"slices"

	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Name is the backend's name.
const Name = "ref"

// Open returns the backend.
func Open() core.Backend { return backend{} }

type backend struct{}

func (backend) Name() string { return Name }

func (backend) Caps() core.Caps {
	return core.Caps{
		Format:     "float64",
		Layers:     []string{"input", "conv2d", "lc2d", "batchnorm", "relu", "add", "maxpool", "globalavgpool", "transpose", "linear"},
		Optimizers: []optim.Kind{optim.AdamW, optim.Adam, optim.SGD},
		WakeRules:  core.WakeRules(),
		Rules:      sleep.Kinds(),
		Notes:      []string{"one thread; for checking, not for speed"},
	}
}

func (backend) Close() error { return nil }

// Memory counts float64 numbers. Every pass makes its activations, and their gradients, anew.
func (backend) Memory(n *net.Network, o core.Options) (core.Memory, error) {
	if err := core.CheckOptions(o); err != nil {
		return core.Memory{}, err
	}
	var m core.Memory
	const size = 8
	copies := int64(1)
	if o.Train {
		copies = 2
	}
	for _, v := range n.Nodes {
		m.Activations += copies * size * int64(o.MaxBatch) * int64(v.Out.Len())
		for _, q := range v.Params {
			m.Weights += size * int64(q.Len())
			if o.Train && q.Trained() {
				m.Gradients += size * int64(q.Len())
				m.Optimizer += size * int64(len(o.Optimizer.Slots())*q.Len())
			}
		}
	}
	return m, nil
}

func (backend) Compile(n *net.Network, o core.Options) (core.Engine, error) {
	if err := core.CheckOptions(o); err != nil {
		return nil, err
	}
	learns, err := o.Learns(n)
	if err != nil {
		return nil, err
	}
	e := &engine{net: n, opt: o, learns: learns, params: make([][]*param, len(n.Nodes))}
	for i, node := range n.Nodes {
		for _, p := range node.Params {
			q := &param{Param: p, learns: learns[i], value: make([]float64, p.Len())}
			if o.Train && p.Trained() {
				q.grad = make([]float64, p.Len())
				for range o.Optimizer.Slots() {
					q.slots = append(q.slots, make([]float64, p.Len()))
				}
			}
			e.params[i] = append(e.params[i], q)
		}
	}
	return e, nil
}

// engine holds the network's parameters node by node.
type engine struct {
	net    *net.Network
	opt    core.Options
	learns []bool     // by node
	params [][]*param // by node, in the order of net.Node.Params
	step   int64      // learning steps taken
}

// param is one parameter with its gradient and optimiser slots, all in the canonical layout.
type param struct {
	net.Param
	learns      bool
	value, grad []float64
	slots       [][]float64
}

func (e *engine) all() iter.Seq[*param] {
	return func(yield func(*param) bool) {
		for _, ps := range e.params {
			for _, p := range ps {
				if !yield(p) {
					return
				}
			}
		}
	}
}

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
	for q := range e.all() {
		if err := read(q.value, p, q.Name); err != nil {
			return err
		}
		for i, slot := range q.slots {
			clear(slot)
			if !resume {
				continue
			}
			if err := read(slot, p, core.SlotTensor(e.opt.Optimizer.Slots()[i], q.Name)); err != nil {
				return err
			}
		}
	}
	e.step = step
	return nil
}

// read copies a tensor into dst.
func read(dst []float64, p *model.Params, name string) error {
	t, err := p.Get(name)
	if err != nil {
		return err
	}
	v, err := t.Float64s()
	copy(dst, v)
	return err
}

func (e *engine) Save() (*model.Params, error) {
	p := &model.Params{}
	for q := range e.all() {
		p.Add(model.NewTensor(q.Name, q.Shape, q.value))
	}
	if !e.opt.Train {
		return p, nil
	}
	p.Add(model.NewTensor(core.StepTensor, nil, []int64{e.step}))
	for q := range e.all() {
		for i, slot := range q.slots {
			p.Add(model.NewTensor(core.SlotTensor(e.opt.Optimizer.Slots()[i], q.Name), q.Shape, slot))
		}
	}
	return p, nil
}

func (e *engine) Infer(ctx context.Context, x core.Batch) (core.Logits, error) {
	if err := ctx.Err(); err != nil {
		return core.Logits{}, err
	}
	classes, err := e.net.Classes()
	if err != nil {
		return core.Logits{}, err
	}
	if err := core.CheckBatch(e.net, e.opt.MaxBatch, x); err != nil {
		return core.Logits{}, err
	}
	p := e.forward(x, false)
	return core.Logits{N: x.N, Classes: classes, Values: p.output()}, nil
}

func (e *engine) Wake(ctx context.Context, x core.Batch, y core.Labels, lr float64) (core.Step, error) {
	if err := ctx.Err(); err != nil {
		return core.Step{}, err
	}
	if err := core.CheckWake(e.net, e.opt, x, y, lr); err != nil {
		return core.Step{}, err
	}
	p := e.forward(x, true)
	if err := e.checkForward(p); err != nil {
		return core.Step{}, err
	}
	logits := core.Logits{N: x.N, Classes: e.net.Output().C, Values: p.output()}
	loss, top1, top5 := core.Score(logits, y)
	loss /= float64(x.N)
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return core.Step{}, &core.NonFiniteError{Layer: "loss", What: "output"}
	}
	e.backward(p, lossGradient(logits, y))
	if err := e.checkBackward(p); err != nil {
		return core.Step{}, err
	}
	e.update(lr)
	e.moveStatistics(p)
	return core.Step{N: x.N, Loss: loss, Top1: top1, Top5: top5}, nil
}

// lossGradient is the derivative of the mean cross-entropy by the logits, (N, Classes).
func lossGradient(l core.Logits, y core.Labels) []float64 {
	g := make([]float64, len(l.Values))
	for i, label := range y {
		core.SoftmaxGradient(g[i*l.Classes:(i+1)*l.Classes], l.Row(i), label, 1/float64(l.N))
	}
	return g
}

// update applies the optimiser to every trained parameter of the layers that learn (package optim).
func (e *engine) update(lr float64) {
	e.step++
	s := e.opt.Optimizer.At(e.step, lr)
	for q := range e.all() {
		if !q.Trained() || !q.learns {
			continue
		}
		m, v := q.slots[0], q.slots[len(q.slots)-1]
		for i, g := range q.grad {
			if len(q.slots) == 1 {
				q.value[i], m[i], _ = s.Update(q.value[i], g, m[i], 0)
			} else {
				q.value[i], m[i], v[i] = s.Update(q.value[i], g, m[i], v[i])
			}
		}
	}
}

// checkForward names the first layer whose weights or output are not finite.
func (e *engine) checkForward(p *pass) error {
	for i, node := range e.net.Nodes {
		for _, q := range e.params[i] {
			if !finite(q.value) {
				return &core.NonFiniteError{Layer: node.Name, What: "weights"}
			}
		}
		if !finite(p.out[i]) {
			return &core.NonFiniteError{Layer: node.Name, What: "output"}
		}
	}
	return nil
}

// checkBackward names the last layer, the first that backpropagation reaches, whose gradients are not finite.
func (e *engine) checkBackward(p *pass) error {
	for i, node := range slices.Backward(e.net.Nodes) {
		for _, q := range e.params[i] {
			if !finite(q.grad) {
				return &core.NonFiniteError{Layer: node.Name, What: "gradient"}
			}
		}
		if !finite(p.grad[i]) {
			return &core.NonFiniteError{Layer: node.Name, What: "gradient"}
		}
	}
	return nil
}

func finite(xs []float64) bool {
	for _, x := range xs {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return false
		}
	}
	return true
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
		p := e.forward(x, probe.Train)
		for i, node := range e.net.Nodes {
			if !yield(model.NewTensor("out/"+node.Name, shape(x.N, node.Out), p.out[i]), nil) {
				return
			}
		}
		cotangent := probe.Cotangent
		if probe.Labels != nil {
			cotangent = lossGradient(core.Logits{N: x.N, Classes: e.net.Output().C, Values: p.output()}, probe.Labels)
		}
		if cotangent == nil {
			return
		}
		e.backward(p, cotangent)
		for q := range e.all() {
			if q.Trained() && !yield(model.NewTensor("grad/"+q.Name, q.Shape, q.grad), nil) {
				return
			}
		}
		yield(model.NewTensor("grad/"+e.net.Nodes[0].Name, shape(x.N, e.net.Input()), p.grad[0]), nil)
	}
}

func shape(n int, s net.Shape) []int { return []int{n, s.H, s.W, s.C} }

func (e *engine) Close() error { return nil }
