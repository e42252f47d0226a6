package speed

import (
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// Work is a piece of work that a machine does at one of its limits, whichever binds.
//
// The arithmetic, for a layer with K = k·k·Cin weights a neuron, N output channels, L positions, batch B:
//
//	forward            B·L·K·N multiply-adds, fewer by the taps on the padding, which MACs leaves out and FLOP counts
//	forward, backward  three times as many: input gradient and weight gradient are a forward each
//	bytes, forward     weights and input are read, output is written, each once
//	bytes, backward    weights, input and output gradient are read, weight and input gradient are written, each once
//	AdamW              4 numbers of 4 bytes are read and 3 are written for each parameter
//	sleep              each weight is read once and written once; by Eq. 4 see hebbianSleep
//
// So bytes are what an engine moves at least when it does one layer after the other and caches keep nothing between
// passes. Batch norm, rectifiers and sums are not counted: they can be done while a layer's output is there.
type Work struct {
	FLOP    float64 // operations as they are commonly counted: 2·B·L·K·N, padding included
	MACs    float64 // multiply-adds on real inputs, by which the bound is computed
	Bytes   float64
	Traffic string // the kind of traffic that bounds the bytes: Read, Copy or Scale
}

// seconds is the least time that the work takes at the limits, and which of them binds.
func (w Work) seconds(l limits) (seconds float64, binds string) {
	memory := w.Bytes / l[w.Traffic]
	if w.MACs == 0 {
		return memory, w.Traffic
	}
	if arithmetic := 2 * w.MACs / l[FMA]; arithmetic >= memory {
		return arithmetic, FMA
	}
	return memory, w.Traffic
}

// bound sums the least times of works that are done one after the other; what binds is what takes most of it.
func bound(works []Work, l limits) (seconds float64, binds string) {
	by := map[string]float64{}
	for _, w := range works {
		s, b := w.seconds(l)
		seconds += s
		by[b] += s
		if binds == "" || by[b] > by[binds] {
			binds = b
		}
	}
	return seconds, binds
}

// total sums works; its Traffic is that of the first.
func total(works []Work) Work {
	t := Work{Traffic: works[0].Traffic}
	for _, w := range works {
		t.FLOP += w.FLOP
		t.MACs += w.MACs
		t.Bytes += w.Bytes
	}
	return t
}

const float32Bytes = 4

// layer is the size of a node with weights.
type layer struct {
	flop, macs             float64 // of one image's forward pass
	weights, input, output float64 // numbers; of one image
	first                  bool    // its input is the network's
}

// weighted lists the nodes of a network that have a weight matrix.
func weighted(n *net.Network) []layer {
	var all []layer
	for i, s := range n.Summary().Layers {
		v := n.Nodes[i]
		if len(v.Params) == 0 || v.Params[0].Role != net.Weight {
			continue
		}
		l := layer{macs: float64(s.MACs), input: float64(v.In.Len()), output: float64(v.Out.Len()), first: v.Inputs[0] == 0}
		for _, p := range v.Params {
			l.weights += float64(p.Len())
		}
		k := v.Params[0].Shape // …, N, k, k, Cin/g for a spatial layer, N, Cin for a linear one
		neuron := v.Params[0].Len()
		if _, ok := v.Op.(net.LC2D); ok {
			neuron /= k[0] * k[1]
		}
		l.flop = 2 * float64(v.Out.H*v.Out.W) * float64(neuron)
		all = append(all, l)
	}
	return all
}

func (l layer) forward(batch int) Work {
	b := float64(batch)
	return Work{FLOP: b * l.flop, MACs: b * l.macs, Bytes: float32Bytes * (l.weights + b*(l.input+l.output)), Traffic: Read}
}

// backward is the weight gradient and, where asked for, the input gradient.
func (l layer) backward(batch int, inputGradient bool) Work {
	b := float64(batch)
	w := Work{FLOP: b * l.flop, MACs: b * l.macs, Bytes: float32Bytes * (l.weights + b*(l.input+l.output)), Traffic: Scale}
	if inputGradient {
		w.FLOP, w.MACs, w.Bytes = 2*w.FLOP, 2*w.MACs, w.Bytes+float32Bytes*(l.weights+b*l.input)
	}
	return w
}

// both is forward and backward as one piece of work.
func (l layer) both(batch int) Work {
	w := total([]Work{l.forward(batch), l.backward(batch, true)})
	w.Traffic = Scale
	return w
}

// adamW is the optimiser's step.
func adamW(n *net.Network) Work {
	return Work{Bytes: 7 * float32Bytes * float64(n.Summary().Params), Traffic: Scale}
}

// sleepEvents is how many events a grid a Hebbian sleep has, one pattern each.
const sleepEvents = 100

// hebbianSleep is the sleep of all locally connected layers by Eq. 4: for each neuron of M inputs the cheaper of a map's
// M² multiply-adds and 2RM by its factors, R patterns. Making the maps, which no neuron's weight enters, is not counted.
func hebbianSleep(n *net.Network) Work {
	w := instantSleep(n)
	for _, l := range sleep.Layers(n) {
		m := float64(l.Inputs())
		w.MACs += float64(l.Out.Len()) * min(m*m, 2*sleepEvents*m)
	}
	w.FLOP = 2 * w.MACs
	return w
}

// instantSleep is the sleep of all locally connected layers.
func instantSleep(n *net.Network) Work {
	w := Work{Traffic: Copy}
	for _, v := range n.Nodes {
		if _, ok := v.Op.(net.LC2D); ok {
			for _, p := range v.Params {
				w.Bytes += 2 * float32Bytes * float64(p.Len())
			}
		}
	}
	return w
}
