package ref

import (
	"math"
	"slices"

	"hypnos/core"
	"hypnos/core/net"
)

// pass is one batch on its way through the network.
type pass struct {
	n     int
	out   [][]float64 // activation of each node, (B, H, W, C)
	grad  [][]float64 // its gradient, set by backward
	stats []moments   // of each batch norm in training
}

func (p *pass) output() []float64 { return p.out[len(p.out)-1] }

// moments are a batch's statistics, by channel.
type moments struct{ mean, variance []float64 } // variance divided by m, the number of values

// forward computes every node's activation. train makes batch norm use the batch's statistics.
func (e *engine) forward(x core.Batch, train bool) *pass {
	p := &pass{n: x.N, out: make([][]float64, len(e.net.Nodes)), stats: make([]moments, len(e.net.Nodes))}
	for i, node := range e.net.Nodes {
		y := make([]float64, x.N*node.Out.Len())
		switch op := node.Op.(type) {
		case net.Input:
			for j, v := range x.Pixels {
				y[j] = float64(v)
			}
		case net.Conv2D:
			e.window(i, op.Window).forward(y, p.out[node.Inputs[0]])
		case net.LC2D:
			e.window(i, op.Window).forward(y, p.out[node.Inputs[0]])
		case net.BatchNorm:
			if train {
				p.stats[i] = batchMoments(p.out[node.Inputs[0]], node.In.C)
			} else {
				p.stats[i] = moments{e.params[i][2].value, e.params[i][3].value}
			}
			e.norm(i, op, p.stats[i]).forward(y, p.out[node.Inputs[0]])
		case net.ReLU:
			for j, v := range p.out[node.Inputs[0]] {
				y[j] = v
				if v <= 0 {
					y[j] = 0
				}
			}
		case net.Add:
			a, b := p.out[node.Inputs[0]], p.out[node.Inputs[1]]
			for j := range y {
				y[j] = a[j] + b[j]
			}
		case net.MaxPool:
			x := p.out[node.Inputs[0]]
			for j, from := range winners(op, node, p.n, x) {
				y[j] = x[from]
			}
		case net.GlobalAvgPool:
			averagePool(y, p.out[node.Inputs[0]], node.In)
		case net.Transpose:
			x := p.out[node.Inputs[0]]
			for j := range y {
				y[j] = x[transposed(j, node)]
			}
		case net.Linear:
			e.linear(i).forward(y, p.out[node.Inputs[0]])
		}
		p.out[i] = y
	}
	return p
}

// backward computes the gradients of the sum of cotangent × output as the wake rule has them: every node's into p.grad,
// every parameter's into its grad, replacing what was there.
func (e *engine) backward(p *pass, cotangent []float64) {
	p.grad = make([][]float64, len(p.out))
	for i := range p.grad {
		p.grad[i] = make([]float64, len(p.out[i]))
	}
	for q := range e.all() {
		clear(q.grad)
	}
	copy(p.grad[len(p.grad)-1], cotangent)
	for i, node := range slices.Backward(e.net.Nodes) {
		g := p.grad[i]
		switch op := node.Op.(type) {
		case net.Conv2D:
			e.carryBack(i, e.window(i, op.Window), p, cotangent)
		case net.LC2D:
			e.carryBack(i, e.window(i, op.Window), p, cotangent)
		case net.BatchNorm:
			from := node.Inputs[0]
			e.norm(i, op, p.stats[i]).backward(p.grad[from], g, p.out[from])
		case net.ReLU:
			dx := p.grad[node.Inputs[0]]
			for j, y := range p.out[i] {
				if y > 0 {
					dx[j] += g[j]
				}
			}
		case net.Add:
			for _, from := range node.Inputs {
				for j := range g {
					p.grad[from][j] += g[j]
				}
			}
		case net.MaxPool:
			from := node.Inputs[0]
			for j, w := range winners(op, node, p.n, p.out[from]) {
				p.grad[from][w] += g[j]
			}
		case net.GlobalAvgPool:
			averagePoolBackward(p.grad[node.Inputs[0]], g, node.In)
		case net.Transpose:
			dx := p.grad[node.Inputs[0]]
			for j := range g {
				dx[transposed(j, node)] += g[j]
			}
		case net.Linear:
			e.carryBack(i, e.linear(i), p, cotangent)
		}
	}
}

// weightLayer is a conv2d, lc2d or linear layer on the way back.
type weightLayer interface {
	// parameterGradients adds to the gradients of weights and biases, from that of the output, g, and the input x.
	parameterGradients(g, x []float64)
	// inputGradient adds to the gradient of the input, through the weights.
	inputGradient(dx, g []float64)
}

// carryBack adds to the gradients of a weight layer's parameters, and to that of its input what the wake rule carries
// back: the gradient through the weights, or the error of the network's output times the layer's feedback matrix.
func (e *engine) carryBack(i int, l weightLayer, p *pass, outputError []float64) {
	from := e.net.Nodes[i].Inputs[0]
	l.parameterGradients(p.grad[i], p.out[from])
	if e.opt.Rule == core.Broadcast {
		e.broadcast(i, p, outputError)
	} else {
		l.inputGradient(p.grad[from], p.grad[i])
	}
}

// broadcast adds B·e to the gradient of the i-th node's input for every image (core.Broadcast).
func (e *engine) broadcast(i int, p *pass, outputError []float64) {
	from, in, outputs := e.net.Nodes[i].Inputs[0], e.net.Nodes[i].In.Len(), e.net.Output().Len()
	b := core.NewFeedback(e.opt.Seed, i, outputs)
	for j := range in {
		for c := range outputs {
			v := b.At(j, c)
			for image := range p.n {
				p.grad[from][image*in+j] += v * outputError[image*outputs+c]
			}
		}
	}
}

// window is a conv2d or lc2d layer: z = Σ_u Σ_v Σ_c w[u, v, c] x[i·s-pad+u, j·s-pad+v, c] + bias at each position
// (i, j) and channel n (Eq. 1 and 3), c over the channels of n's group.
type window struct {
	net.Window
	node    net.Node
	weight  *param
	bias    *param // nil without
	located bool   // weights of their own at every position
}

func (e *engine) window(i int, w net.Window) window {
	l := window{Window: w, node: e.net.Nodes[i], weight: e.params[i][0]}
	if w.Bias {
		l.bias = e.params[i][1]
	}
	_, l.located = l.node.Op.(net.LC2D)
	return l
}

// neuron is the index of the kernel, and of the bias, of channel n at output position l.
func (l window) neuron(position, n int) int {
	if l.located {
		return position*l.Out + n
	}
	return n
}

// each calls f for every product of the layer with so many output numbers: output index o, weight index w, input index x.
func (l window) each(outputs int, f func(o, w, x int)) {
	in, out := l.node.In, l.node.Out
	perGroup, perOut := in.C/l.Groups, l.Out/l.Groups
	for b := range outputs / out.Len() {
		for i := range out.H {
			for j := range out.W {
				for n := range l.Out {
					q := l.neuron(i*out.W+j, n)
					o := ((b*out.H+i)*out.W+j)*out.C + n
					rowLo, rowHi := l.Span(i, in.H)
					colLo, colHi := l.Span(j, in.W)
					for u := rowLo; u < rowHi; u++ {
						for v := colLo; v < colHi; v++ {
							row, col := i*l.Stride-l.Pad()+u, j*l.Stride-l.Pad()+v
							w := ((q*l.Kernel+u)*l.Kernel + v) * perGroup
							x := ((b*in.H+row)*in.W+col)*in.C + n/perOut*perGroup
							for c := range perGroup {
								f(o, w+c, x+c)
							}
						}
					}
				}
			}
		}
	}
}

func (l window) forward(y, x []float64) {
	w := l.weight.value
	l.each(len(y), func(o, wi, xi int) { y[o] += w[wi] * x[xi] })
	if l.bias == nil {
		return
	}
	for o := range y {
		y[o] += l.bias.value[l.biasOf(o)]
	}
}

func (l window) parameterGradients(g, x []float64) {
	dw := l.weight.grad
	l.each(len(g), func(o, wi, xi int) { dw[wi] += g[o] * x[xi] })
	if l.bias == nil {
		return
	}
	for o := range g {
		l.bias.grad[l.biasOf(o)] += g[o]
	}
}

func (l window) inputGradient(dx, g []float64) {
	w := l.weight.value
	l.each(len(g), func(o, wi, xi int) { dx[xi] += g[o] * w[wi] })
}

// biasOf is the index of the bias that output index o gets.
func (l window) biasOf(o int) int {
	within := o % l.node.Out.Len()
	return l.neuron(within/l.Out, within%l.Out)
}

// batchMoments are mean and variance of each of c channels over batch and positions.
func batchMoments(x []float64, c int) moments {
	m := float64(len(x) / c)
	s := moments{make([]float64, c), make([]float64, c)}
	for j, v := range x {
		s.mean[j%c] += v / m
	}
	for j, v := range x {
		d := v - s.mean[j%c]
		s.variance[j%c] += d * d / m
	}
	return s
}

// norm is a batch norm with the statistics it uses.
type norm struct {
	net.BatchNorm
	moments
	gain, shift *param
}

func (e *engine) norm(i int, op net.BatchNorm, s moments) norm {
	return norm{op, s, e.params[i][0], e.params[i][1]}
}

// inverse is 1/√(var+ε) of a channel.
func (b norm) inverse(c int) float64 { return 1 / math.Sqrt(b.variance[c]+b.Eps) }

func (b norm) forward(y, x []float64) {
	channels := len(b.mean)
	for j, v := range x {
		c := j % channels
		y[j] = b.gain.value[c]*(v-b.mean[c])*b.inverse(c) + b.shift.value[c]
	}
}

// backward is the derivative through the batch's statistics (Ioffe and Szegedy 2015, Section 3), with x̂ the
// normalised input and m values a channel: dx = gain/√(var+ε) · (g - mean(g) - x̂·mean(g·x̂)).
func (b norm) backward(dx, g, x []float64) {
	channels := len(b.mean)
	m := float64(len(x) / channels)
	hat := func(j int) float64 { return (x[j] - b.mean[j%channels]) * b.inverse(j%channels) }
	for j, v := range g {
		b.shift.grad[j%channels] += v
		b.gain.grad[j%channels] += v * hat(j)
	}
	for j, v := range g {
		c := j % channels
		dx[j] += b.gain.value[c] * b.inverse(c) * (v - b.shift.grad[c]/m - hat(j)*b.gain.grad[c]/m)
	}
}

// moveStatistics moves the running statistics of every batch norm that learns towards the batch's, the variance made unbiased.
func (e *engine) moveStatistics(p *pass) {
	for i, node := range e.net.Nodes {
		op, ok := node.Op.(net.BatchNorm)
		if !ok || !e.learns[i] {
			continue
		}
		m := float64(p.n * node.In.H * node.In.W)
		mean, variance := e.params[i][2].value, e.params[i][3].value
		for c := range mean {
			mean[c] += op.Momentum * (p.stats[i].mean[c] - mean[c])
			variance[c] += op.Momentum * (p.stats[i].variance[c]*m/(m-1) - variance[c])
		}
	}
}

// winners lists for every output of a max pool the index of the input that wins.
func winners(op net.MaxPool, node net.Node, batch int, x []float64) []int {
	in, out := node.In, node.Out
	pad := (op.Kernel - 1) / 2
	from := make([]int, 0, batch*out.Len())
	for b := range batch {
		for i := range out.H {
			for j := range out.W {
				for c := range out.C {
					best := -1
					rowLo, rowHi := op.Span(i, in.H)
					colLo, colHi := op.Span(j, in.W)
					for u := rowLo; u < rowHi; u++ {
						for v := colLo; v < colHi; v++ {
							at := ((b*in.H+i*op.Stride-pad+u)*in.W+j*op.Stride-pad+v)*in.C + c
							if best < 0 || x[at] > x[best] || math.IsNaN(x[at]) && !math.IsNaN(x[best]) {
								best = at
							}
						}
					}
					from = append(from, best)
				}
			}
		}
	}
	return from
}

func averagePool(y, x []float64, in net.Shape) {
	m := float64(in.H * in.W)
	for j, v := range x {
		y[j/in.Len()*in.C+j%in.C] += v / m
	}
}

func averagePoolBackward(dx, g []float64, in net.Shape) {
	m := float64(in.H * in.W)
	for j := range dx {
		dx[j] += g[j/in.Len()*in.C+j%in.C] / m
	}
}

// transposed is the index of the input that output j of a transpose shows: position and channel exchanged.
func transposed(j int, node net.Node) int {
	b, within := j/node.Out.Len(), j%node.Out.Len()
	position, channel := within/node.Out.C, within%node.Out.C
	return b*node.In.Len() + channel*node.In.C + position
}

// linear is y = W x + b.
type linear struct {
	in, out      int
	weight, bias *param
}

func (e *engine) linear(i int) linear {
	node := e.net.Nodes[i]
	return linear{node.In.C, node.Out.C, e.params[i][0], e.params[i][1]}
}

func (l linear) forward(y, x []float64) {
	for j := range y {
		b, n := j/l.out, j%l.out
		y[j] = l.bias.value[n]
		for c := range l.in {
			y[j] += l.weight.value[n*l.in+c] * x[b*l.in+c]
		}
	}
}

func (l linear) parameterGradients(g, x []float64) {
	for j, v := range g {
		b, n := j/l.out, j%l.out
		l.bias.grad[n] += v
		for c := range l.in {
			l.weight.grad[n*l.in+c] += v * x[b*l.in+c]
		}
	}
}

func (l linear) inputGradient(dx, g []float64) {
	for j, v := range g {
		b, n := j/l.out, j%l.out
		for c := range l.in {
			dx[b*l.in+c] += v * l.weight.value[n*l.in+c]
		}
	}
}
