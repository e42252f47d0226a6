package fixed

import (
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// Work is what a layer does at a time: bytes of weights, activations and errors, each read or written once in a pass; integer
// multiply-adds, as the kernels do them, rows padded; and 16-bit random numbers.
type Work struct {
	Bytes  int64 `json:"bytes"`
	MACs   int64 `json:"macs"`
	Random int64 `json:"random,omitempty"`
}

func (w Work) plus(v Work) Work { return Work{w.Bytes + v.Bytes, w.MACs + v.MACs, w.Random + v.Random} }

// Cost is what one layer takes and does.
type Cost struct {
	Layer        string `json:"layer"`
	Kind         string `json:"kind"`
	Weights      int64  `json:"weights"`      // bytes, biases included
	Consolidated int64  `json:"consolidated"` // the same after an instant sleep
	Activations  int64  `json:"activations"`  // bytes of its output, at the largest batch
	Errors       int64  `json:"errors"`       // of its output, bytes
	Scratch      int64  `json:"scratch"`      // bytes of a worker
	Asleep       int64  `json:"asleep"`       // bytes that a sleep holds while it is at the layer, whichever rule takes more
	Infer        Work   `json:"inference"`
	Small        Work   `json:"inference_consolidated"`
	Wake         Work   `json:"wake"`
	Instant      Work   `json:"instant"`
	Hebbian      Work   `json:"hebbian"`
}

// Costs lists what every layer of a network costs with batches of MaxBatch on so many threads; a Hebbian sleep has so many
// events a grid. Making a grid's map takes 2·M² multiply-adds an event, M = K inputs and a bias; applying it M² a neuron.
func Costs(n *net.Network, o core.Options, events, threads int) ([]Cost, error) {
	if err := check(n, o); err != nil {
		return nil, err
	}
	learns, err := o.Learns(n)
	if err != nil {
		return nil, err
	}
	layers := map[int]sleep.Layer{}
	for _, l := range sleep.Layers(n) {
		layers[l.Node] = l
	}
	carried := &engine{net: n, opt: o, learns: learns}
	batch := int64(o.MaxBatch)
	var all []Cost
	for i, v := range n.Nodes {
		in, out := batch*int64(v.In.Len()), batch*int64(v.Out.Len())
		c := Cost{Layer: v.Name, Kind: v.Op.Kind(), Activations: 2 * out}
		if i > 0 {
			c.Infer.Bytes = 2 * (in*int64(len(v.Inputs)) + out)
		}
		if o.Train && (learns[i] || i == 0) {
			c.Errors = 2 * out
		}
		g, weighted := geometryOf(v)
		if weighted {
			c.Weights = g.bytes(g.blocks())
			c.Consolidated = c.Weights
			if g.located {
				c.Consolidated = g.bytes((&weights{geometry: g}).grids() * (&weights{geometry: g}).grids())
			}
			c.Scratch = workerSize{g.padded, g.Out, o.MaxBatch}.bytes()
			c.Infer.MACs = batch * int64(g.positions) * int64(g.Out) * int64(g.padded)
		}
		c.Small = c.Infer
		c.Infer.Bytes += c.Weights
		c.Small.Bytes += c.Consolidated
		c.Wake = c.Infer
		if o.Train && learns[i] && i > 0 {
			c.Wake = c.Wake.plus(g.learning(c, in, out, weighted, carried.carries(i) && !carried.broadcasts()))
		}
		if l, ok := layers[i]; ok {
			c.sleeps(g, l, events, threads)
		}
		all = append(all, c)
	}
	return all, nil
}

// bytes of so many blocks of weights and biases.
func (g geometry) bytes(blocks int) int64 {
	per := 2 * int64(g.Out) * int64(g.padded)
	if g.Bias {
		per += 4 * int64(g.Out)
	}
	return int64(blocks) * per
}

// learning is what a layer does in a wake step beside inference: errors are read and written back, through sums of 8 bytes;
// weights are read once for going back and changing, and written once.
func (g geometry) learning(c Cost, in, out int64, weighted, carry bool) Work {
	w := Work{Bytes: 2 * (in + out)}
	if !weighted {
		return w
	}
	w.Bytes += 2 * c.Weights
	w.MACs, w.Random = c.Infer.MACs, int64(g.blocks())*int64(g.Out)*int64(g.padded)
	if carry {
		w.MACs += c.Infer.MACs
		w.Bytes += 2 * 8 * in
	}
	return w
}

// sleeps adds what the layer does asleep. An instant sleep reads all weights and writes a mean a group; it holds the sums of
// all grids and each worker's part of them. A Hebbian sleep reads and writes all weights; it holds, for each channel group,
// the patterns and the map's factors, (events, M) each, and (M, M) maps: of the layer, as a grid sees it, and in integers,
// whole and in two halves.
func (c *Cost) sleeps(g geometry, l sleep.Layer, events, threads int) {
	elements, m := int64(g.blocks())*int64(g.Out)*int64(g.padded), int64(l.Inputs())
	neurons, grids := int64(g.positions)*int64(g.Out), int64(len(l.Grids(sleep.BorderShares)))
	c.Instant = Work{Bytes: c.Weights + c.Consolidated, MACs: elements}
	c.Hebbian = Work{Bytes: 2 * c.Weights, MACs: neurons*m*m + grids*2*int64(events)*m*m, Random: elements}
	const number, sum, half = 8, 4, 2 // bytes
	instant := sum * grids * (int64(g.Out)*int64(g.padded) + int64(threads)*instantBlock)
	hebbian := int64(g.groups) * (2*number*int64(events)*m + m*m*(3*number+2*half))
	c.Asleep = max(instant, hebbian)
}

// MemoryOf is what an engine with so many threads takes, on a board that may have more cores than this machine.
func MemoryOf(n *net.Network, o core.Options, threads int) (core.Memory, error) {
	return backend{threads: threads}.Memory(n, o)
}
