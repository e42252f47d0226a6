package fixed

import (
	"math"
	"slices"

	"hypnos/core"
	"hypnos/core/fixed"
	"hypnos/core/net"
)

// rectifiers tells of every weight layer and sum, by node, which rectifier takes its output in; 0 of others. Nothing else
// may read that output.
func rectifiers(n *net.Network) []int {
	into, readers := make([]int, len(n.Nodes)), make([]int, len(n.Nodes))
	for _, v := range n.Nodes {
		for _, from := range v.Inputs {
			readers[from]++
		}
	}
	for i, v := range n.Nodes {
		if _, ok := v.Op.(net.ReLU); !ok || readers[v.Inputs[0]] > 1 {
			continue
		}
		from := v.Inputs[0]
		_, weighted := geometryOf(n.Nodes[from])
		if _, sum := n.Nodes[from].Op.(net.Add); weighted || sum {
			into[from] = i
		}
	}
	return into
}

// forward computes the nodes' outputs from the first one's. fused lets weight layers and sums do the work of the rectifier
// behind them, and leave nothing behind themselves.
func (e *engine) forward(images int, fused bool) {
	for i, v := range e.net.Nodes {
		if i == 0 {
			continue
		}
		to, low := i, -e.format(i).Max()
		if fused && e.relu[i] > 0 {
			to, low = e.relu[i], 0
		}
		y, from := e.out[to][:images*v.Out.Len()], v.Inputs[0]
		x := e.out[from][:images*v.In.Len()]
		switch op := v.Op.(type) {
		case net.ReLU:
			if fused && e.relu[from] == i {
				continue
			}
			for j, n := range x {
				y[j] = max(n, 0)
			}
		case net.Add:
			e.add(i, y, x, e.out[v.Inputs[1]], low)
		case net.MaxPool:
			eachWinner(op, v, x, images, func(to, at int) { y[to] = x[at] })
		case net.GlobalAvgPool:
			e.average(i, y, x)
		case net.Transpose:
			for j := range y {
				y[j] = x[transposed(j, v)]
			}
		default:
			w := e.weights[i]
			e.pool.Run(w.positions, func(worker, lo, hi int) {
				w.forward(e.kernels, e.workers[worker], y, x, images, low, lo, hi)
			})
		}
	}
}

// add brings both summands to the finer format, exactly, and their sum to the output's with one rounding; low is its least.
func (e *engine) add(node int, y, a, b []int16, low int16) {
	v := e.net.Nodes[node]
	to, fa, fb := e.format(node), e.format(v.Inputs[0]).Frac, e.format(v.Inputs[1]).Frac
	frac := max(fa, fb)
	high, shift := to.Max(), frac-to.Frac
	e.pool.Run(len(y), func(_, lo, hi int) {
		a, b, y := a[lo:hi], b[lo:hi], y[lo:hi]
		b = b[:len(a)]
		for j, v := range a {
			sum := fixed.RoundShift(int64(v)<<(frac-fa)+int64(b[j])<<(frac-fb), shift)
			y[j] = int16(min(max(sum, int64(low)), int64(high)))
		}
	})
}

// average is the mean over positions: the exact sum times 2^(fy-fx)/positions, rounded once.
func (e *engine) average(node int, y, x []int16) {
	v := e.net.Nodes[node]
	to, positions := e.format(node), v.In.H*v.In.W
	mean := multiplier(math.Ldexp(1, to.Frac-e.format(v.Inputs[0]).Frac) / float64(positions))
	for j := range y {
		image, c := x[j/v.In.C*v.In.Len():], j%v.In.C
		sum := int64(0)
		for p := range positions {
			sum += int64(image[p*v.In.C+c])
		}
		y[j] = to.Saturate(mean.Apply(sum))
	}
}

// multiplier is a factor between formats; these are at most 30 bits apart and maps have fewer than 2^16 positions, or
// Load refuses the network.
func multiplier(v float64) fixed.Multiplier {
	m, err := fixed.NewMultiplier(v)
	if err != nil {
		panic(err)
	}
	return m
}

// eachWinner calls f for every output of a max pool with the index of the input that wins, the first of equals in row-major
// order.
func eachWinner[T int16 | float64](op net.MaxPool, v net.Node, x []T, images int, f func(to, at int)) {
	in, out, pad := v.In, v.Out, (op.Kernel-1)/2
	for j := range images * out.Len() {
		b, within := j/out.Len(), j%out.Len()
		row, col, c := within/(out.W*out.C), within/out.C%out.W, within%out.C
		rowLo, rowHi := op.Span(row, in.H)
		colLo, colHi := op.Span(col, in.W)
		best := -1
		for u := rowLo; u < rowHi; u++ {
			for t := colLo; t < colHi; t++ {
				at := ((b*in.H+row*op.Stride-pad+u)*in.W+col*op.Stride-pad+t)*in.C + c
				if best < 0 || x[at] > x[best] {
					best = at
				}
			}
		}
		f(j, best)
	}
}

// transposed is the index of the input that output j of a transpose shows: position and channel exchanged.
func transposed(j int, v net.Node) int {
	b, within := j/v.Out.Len(), j%v.Out.Len()
	position, channel := within/v.Out.C, within%v.Out.C
	return b*v.In.Len() + channel*v.In.C + position
}

// carries tells whether an error goes back to the node's first input: whether anything before learns.
func (e *engine) carries(node int) bool {
	in := e.net.Nodes[node].Inputs
	return len(in) > 0 && in[0] > 0 && slices.Contains(e.learns[:in[0]+1], true)
}

func (e *engine) broadcasts() bool { return e.opt.Rule == core.Broadcast }

// backward takes the errors of the output, with frac fraction bits, back through the network, as far as anything learns. It
// calls weighted at weight layers that learn, which carries their errors on unless the rule broadcasts.
func (e *engine) backward(images int, output []int64, frac int, weighted func(node int)) {
	for i := range e.errors {
		e.errors[i].contributions = 0
	}
	last := len(e.net.Nodes) - 1
	e.contribute(last, output, frac)
	for i, v := range slices.Backward(e.net.Nodes) {
		if i == 0 || !e.learns[i] {
			break
		}
		d, from := &e.errors[i], v.Inputs[0]
		n := d.N[:images*v.Out.Len()]
		if e.weights[i] != nil {
			weighted(i)
			if e.broadcasts() && e.carries(i) {
				e.broadcast(i, images)
			}
			continue
		}
		if _, ok := v.Op.(net.Add); ok {
			for _, to := range v.Inputs {
				if to > 0 && slices.Contains(e.learns[:to+1], true) {
					e.contribute(to, wide(e.wide[0], n), d.Frac)
				}
			}
			continue
		}
		if !e.carries(i) {
			continue
		}
		dx, to := e.wide[0][:images*v.In.Len()], d.Frac
		switch op := v.Op.(type) {
		case net.ReLU:
			for j, y := range e.out[i][:len(n)] {
				dx[j] = 0
				if y > 0 {
					dx[j] = int64(n[j])
				}
			}
		case net.MaxPool:
			clear(dx)
			eachWinner(op, v, e.out[from], images, func(j, at int) { dx[at] += int64(n[j]) })
		case net.Transpose:
			for j, g := range n {
				dx[transposed(j, v)] = int64(g)
			}
		case net.GlobalAvgPool:
			const more = 16 // fraction bits, so that the quotient's rounding is nothing beside the errors' own
			mean := multiplier(math.Ldexp(1, more) / float64(v.In.H*v.In.W))
			for j := range dx {
				dx[j] = mean.Apply(int64(n[j/v.In.Len()*v.In.C+j%v.In.C]))
			}
			to += more
		}
		e.contribute(from, dx, to)
	}
}

func wide(dst []int64, n []int16) []int64 {
	dst = dst[:len(n)]
	for i, v := range n {
		dst[i] = int64(v)
	}
	return dst
}

// broadcast gives a weight layer's input B·e instead of what would come back through the weights (core.Broadcast): e is the
// error of the network's output and B the layer's feedback matrix, whose signs make an exact sum and whose scale is a factor.
func (e *engine) broadcast(node, images int) {
	const more = 8 // fraction bits
	v, last := e.net.Nodes[node], len(e.net.Nodes)-1
	outputs := e.net.Output().Len()
	feedback := core.NewFeedback(e.opt.Seed, node, outputs)
	scale := multiplier(math.Ldexp(feedback.Scale(), more))
	d := &e.errors[last]
	dx, row := e.wide[0][:images*v.In.Len()], make([]float32, outputs)
	for j := range v.In.Len() {
		feedback.Rows(row, j)
		for b := range images {
			sum := int64(0)
			for c, s := range row {
				if s > 0 {
					sum += int64(d.N[b*outputs+c])
				} else {
					sum -= int64(d.N[b*outputs+c])
				}
			}
			dx[b*v.In.Len()+j] = scale.Apply(sum)
		}
	}
	e.contribute(v.Inputs[0], dx, d.Frac+more)
}
