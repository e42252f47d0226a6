package fixed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"

	"hypnos/backends/fixed/internal/kernel"
	"hypnos/backends/internal/workers"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// engine is a compiled network.
type engine struct {
	net     *net.Network
	opt     core.Options
	kernels *kernel.Kernels
	pool    *workers.Pool
	workers []*worker
	learns  []bool     // by node
	weights []*weights // by node, nil for layers without
	formats edge.Formats
	loaded  bool
	step    int64 // learning steps taken

	relu   []int          // by node: of the rectifier that alone reads its output and takes it in, 0 without
	out    [][]int16      // by node, (B, H, W, C)
	errors []tensorErrors // by node: of the loss by its output
	wide   [][]int64      // by worker: sums that go back to a layer's input
	scaled []int16        // errors times the learning rate
	sums   []int64        // gradients of weights that positions share

	gridSums, gridParts []int32 // of an instant sleep
}

func compile(n *net.Network, o core.Options, threads int, k *kernel.Kernels) (*engine, error) {
	learns, err := o.Learns(n)
	if err != nil {
		return nil, err
	}
	e := &engine{net: n, opt: o, kernels: k, learns: learns, pool: workers.New(threads)}
	size := largestWorker(n, o)
	for range threads {
		e.workers = append(e.workers, size.make())
	}
	for i, v := range n.Nodes {
		var w *weights
		if g, ok := geometryOf(v); ok {
			w = newWeights(n, i, g)
		}
		e.weights = append(e.weights, w)
		e.out = append(e.out, make([]int16, o.MaxBatch*v.Out.Len()))
	}
	e.relu = rectifiers(n)
	if o.Train {
		e.allocateLearning(makePlan(n, o, threads).scratch, threads)
	}
	return e, nil
}

func (e *engine) allocateLearning(scratch, threads int) {
	e.errors = make([]tensorErrors, len(e.net.Nodes))
	shared := 0
	for i, v := range e.net.Nodes {
		if e.learns[i] || i == 0 {
			e.errors[i].N = make([]int16, e.opt.MaxBatch*v.Out.Len())
		}
		if w := e.weights[i]; w != nil && !w.located {
			shared = max(shared, w.Out*w.padded)
		}
	}
	for range threads {
		e.wide = append(e.wide, make([]int64, scratch))
	}
	e.scaled, e.sums = make([]int16, scratch), make([]int64, shared)
}

// Load takes the parameters of an edge package; formats, forms, shapes and bounds are checked before anything changes.
func (e *engine) Load(p *model.Params) error {
	formats, err := edge.FormatsOf(p)
	if err != nil {
		return err
	}
	if err := e.check(formats, p); err != nil {
		return fmt.Errorf("fixed: %s: %w", e.net.Name, err)
	}
	step := int64(0)
	if e.opt.Train && p.Has(core.StepTensor) {
		if step, err = core.SavedStep(p); err != nil {
			return err
		}
	}
	e.loaded = false
	for i, w := range e.weights {
		if w == nil {
			continue
		}
		v := e.net.Nodes[i]
		w.format = formats.Weights[w.weight.Name]
		w.input, w.output = formats.Activations[e.net.Nodes[v.Inputs[0]].Name], formats.Activations[v.Name]
		if err := w.load(p, e.kernels); err != nil {
			return fmt.Errorf("fixed: %s: %w", e.net.Name, err)
		}
	}
	e.formats, e.step, e.loaded = formats, step, true
	return nil
}

func (e *engine) check(f edge.Formats, p *model.Params) error {
	if err := f.Check(e.net); err != nil {
		return err
	}
	known := map[string]bool{core.StepTensor: true}
	for i, w := range e.weights {
		if w == nil {
			continue
		}
		s, err := w.find(p, w.weight, model.I16)
		if err != nil {
			return err
		}
		known[s.name] = true
		if w.bias.Name != "" {
			b, err := w.find(p, w.bias, model.I32)
			if err != nil {
				return err
			}
			if b.period != s.period {
				return fmt.Errorf("tensors %q and %q are in different forms", s.name, b.name)
			}
			known[b.name] = true
		}
		v := e.net.Nodes[i]
		if err := w.check(f, e.net.Nodes[v.Inputs[0]].Name, v.Name); err != nil {
			return fmt.Errorf("layer %q: %w", v.Name, err)
		}
	}
	for _, t := range p.Infos() {
		if !known[t.Name] {
			return fmt.Errorf("tensor %q belongs to no layer", t.Name)
		}
	}
	return nil
}

func (e *engine) Save() (*model.Params, error) {
	if !e.loaded {
		return nil, errNotLoaded
	}
	p := &model.Params{}
	if err := e.formats.Set(p); err != nil {
		return nil, err
	}
	for _, w := range e.weights {
		if w != nil {
			w.save(p)
		}
	}
	if e.opt.Train {
		p.Add(model.NewTensor(core.StepTensor, nil, []int64{e.step}))
	}
	return p, nil
}

var errNotLoaded = fmt.Errorf("fixed: the engine has no parameters: load some first")

// begin checks a batch and quantises it.
func (e *engine) begin(ctx context.Context, x core.Batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !e.loaded {
		return errNotLoaded
	}
	if err := core.CheckBatch(e.net, e.opt.MaxBatch, x); err != nil {
		return err
	}
	f, out := e.format(0), e.out[0]
	for i, v := range x.Pixels {
		if v != v {
			return fmt.Errorf("fixed: pixel %d of image %d is not a number", i%e.net.Input().Len(), i/e.net.Input().Len())
		}
		out[i] = f.Quantise(float64(v))
	}
	return nil
}

// format is that of a node's output.
func (e *engine) format(node int) fixed.Format { return e.formats.Activations[e.net.Nodes[node].Name] }

func (e *engine) Infer(ctx context.Context, x core.Batch) (core.Logits, error) {
	classes, err := e.net.Classes()
	if err != nil {
		return core.Logits{}, err
	}
	if err := e.begin(ctx, x); err != nil {
		return core.Logits{}, err
	}
	e.forward(x.N, true)
	return e.logits(x.N, classes), nil
}

// logits are the outputs as numbers, exact.
func (e *engine) logits(images, classes int) core.Logits {
	last := len(e.net.Nodes) - 1
	return core.Logits{N: images, Classes: classes, Values: floats(e.out[last][:images*classes], e.format(last).Frac)}
}

// floats are integers with frac fraction bits as numbers, exact.
func floats(n []int16, frac int) []float64 {
	unit, v := math.Ldexp(1, -frac), make([]float64, len(n))
	for i, x := range n {
		v[i] = float64(x) * unit
	}
	return v
}

// Wake makes a step of stochastic gradient descent on the mean cross-entropy. The loss that it returns is that of the
// integer logits, computed as a float for the record; learning takes fixed.SoftmaxGradient.
func (e *engine) Wake(ctx context.Context, x core.Batch, y core.Labels, lr float64) (core.Step, error) {
	if err := core.CheckWake(e.net, e.opt, x, y, lr); err != nil {
		return core.Step{}, err
	}
	if err := e.begin(ctx, x); err != nil {
		return core.Step{}, err
	}
	if err := e.expand(e.learns); err != nil {
		return core.Step{}, err
	}
	for i, w := range e.weights {
		if w != nil && e.learns[i] {
			w.equal = nil
		}
	}
	e.forward(x.N, true)
	logits := e.logits(x.N, e.net.Output().C)
	loss, top1, top5 := core.Score(logits, y)
	e.step++
	e.backward(x.N, e.lossErrors(x.N, y), fixed.SoftmaxFrac, func(node int) { e.learn(node, x.N, lr) })
	return core.Step{N: x.N, Loss: loss / float64(x.N), Top1: top1, Top5: top5}, nil
}

// expand brings layers, told by node, to a block a position; nil stands for all.
func (e *engine) expand(which []bool) error {
	for i, w := range e.weights {
		if w != nil && (which == nil || which[i]) {
			if err := w.expand(); err != nil {
				return fmt.Errorf("fixed: %w", err)
			}
		}
	}
	return nil
}

// lossErrors is the derivative of each image's cross-entropy by its logits, with fixed.SoftmaxFrac fraction bits.
func (e *engine) lossErrors(images int, y core.Labels) []int64 {
	last := len(e.net.Nodes) - 1
	classes := e.net.Output().C
	v := e.wide[0][:images*classes]
	for i, label := range y {
		fixed.SoftmaxGradient(v[i*classes:(i+1)*classes], e.out[last][i*classes:(i+1)*classes], e.format(last), label)
	}
	return v
}

// learn makes the step of one weight layer and carries its errors back, weights and all, in one pass over them.
func (e *engine) learn(node, images int, lr float64) {
	w := e.weights[node]
	d := &e.errors[node]
	l := &lesson{
		images: images, x: e.out[e.net.Nodes[node].Inputs[0]], errors: d.N[:images*w.out.Len()], gradient: e.sums,
		random: e.stream(rng.RoundWeight, node), dither: e.stream(rng.RoundBias, node),
	}
	e.learningRate(w, l, lr, d.Frac)
	carry := e.carries(node) && !e.broadcasts()
	norms := make([]int64, e.pool.Size())
	if w.located {
		wide := e.sumsFor(node, images, carry)
		e.pool.Run(w.positions, func(worker, lo, hi int) {
			var dx []int64
			if carry {
				dx = wide[worker]
			}
			norms[worker] = w.learnLocated(e.kernels, e.workers[worker], l, dx, lo, hi)
		})
		e.carrySums(node, wide, d.Frac, carry)
	} else {
		if carry {
			e.carryBack(node, images)
		}
		e.pool.Run(w.Out, func(worker, lo, hi int) { norms[worker] = w.learnShared(e.kernels, e.workers[worker], l, lo, hi) })
	}
	w.norm = max(w.norm, slices.Max(norms)) // some have not changed
	w.boundBiases()
}

// sumsFor clears and returns every worker's sums for a layer's input.
func (e *engine) sumsFor(node, images int, carry bool) [][]int64 {
	if !carry {
		return nil
	}
	var wide [][]int64
	for _, s := range e.wide {
		s = s[:images*e.net.Nodes[node].In.Len()]
		clear(s)
		wide = append(wide, s)
	}
	return wide
}

// carrySums adds up what the workers have for a layer's input and contributes it.
func (e *engine) carrySums(node int, wide [][]int64, frac int, carry bool) {
	if !carry {
		return
	}
	sum := wide[0]
	for _, s := range wide[1:] {
		for i, v := range s {
			sum[i] += v
		}
	}
	e.contribute(e.net.Nodes[node].Inputs[0], sum, frac+e.weights[node].format.Frac)
}

// carryBack carries the errors of a weight layer to its input.
func (e *engine) carryBack(node, images int) {
	w, d := e.weights[node], &e.errors[node]
	wide := e.sumsFor(node, images, true)
	e.pool.Run(w.positions, func(worker, lo, hi int) {
		w.inputErrors(e.kernels, e.workers[worker], wide[worker], d.N, images, lo, hi)
	})
	e.carrySums(node, wide, d.Frac, true)
}

// Trace yields activations and gradients as float64, exact. A gradient is that of the mean cross-entropy; it needs labels: a
// cotangent is not supported, since learning begins with the loss.
func (e *engine) Trace(ctx context.Context, x core.Batch, probe core.Probe) iter.Seq2[model.Tensor, error] {
	return func(yield func(model.Tensor, error) bool) {
		err := core.CheckProbe(e.net, e.opt, x, probe)
		if err == nil && probe.Cotangent != nil {
			err = fmt.Errorf("fixed: a cotangent is %w: gradients come from labels", core.ErrUnsupported)
		}
		if err == nil {
			err = e.begin(ctx, x)
		}
		if err != nil {
			yield(model.Tensor{}, err)
			return
		}
		e.forward(x.N, false)
		for i, v := range e.net.Nodes {
			out := floats(e.out[i][:x.N*v.Out.Len()], e.format(i).Frac)
			if !yield(model.NewTensor("out/"+v.Name, []int{x.N, v.Out.H, v.Out.W, v.Out.C}, out), nil) {
				return
			}
		}
		if probe.Labels != nil {
			e.traceGradients(x.N, probe.Labels, yield)
		}
	}
}

func (e *engine) traceGradients(images int, y core.Labels, yield func(model.Tensor, error) bool) {
	e.step++ // errors are rounded as the next Wake will
	defer func() { e.step-- }()
	e.backward(images, e.lossErrors(images, y), fixed.SoftmaxFrac, func(node int) {
		if e.carries(node) && !e.broadcasts() {
			e.carryBack(node, images)
		}
	})
	for i, w := range e.weights {
		if w == nil || !e.learns[i] {
			continue
		}
		weight, bias := e.gradients(i, images)
		if !yield(model.NewTensor("grad/"+w.weight.Name, w.weight.Shape, weight), nil) {
			return
		}
		if w.biases != nil && !yield(model.NewTensor("grad/"+w.bias.Name, w.bias.Shape, bias), nil) {
			return
		}
	}
}

// gradients are those of a layer's weights and biases, in the canonical layout.
func (e *engine) gradients(node, images int) (weight, bias []float64) {
	w, d := e.weights[node], &e.errors[node]
	x, s := e.out[e.net.Nodes[node].Inputs[0]], e.workers[0]
	weight, bias = make([]float64, w.weight.Len()), make([]float64, w.blocks()*w.Out)
	unit := math.Ldexp(1, -w.input.Frac-d.Frac) / float64(images)
	biasUnit := math.Ldexp(1, -d.Frac) / float64(images)
	for b := range images {
		for p := range w.positions {
			block := p
			if !w.located {
				block = 0
			}
			for group := range w.groups {
				patch := s.patches[:w.padded]
				w.gather(patch, x[b*w.in.Len():(b+1)*w.in.Len()], p, group)
				for n, g := range w.errorsAt(d.N, b, p, group) {
					row := block*w.Out + group*w.rows + n
					bias[row] += float64(g) * biasUnit
					for j, v := range patch[:w.k] {
						weight[row*w.k+j] += float64(int64(g)*int64(v)) * unit
					}
				}
			}
		}
	}
	return weight, bias
}

func (e *engine) Close() error {
	e.pool.Close()
	var err error
	for _, w := range e.weights {
		if w != nil {
			err = errors.Join(err, w.free())
		}
	}
	return err
}
