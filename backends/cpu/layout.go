package cpu

import (
	"sync/atomic"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core/net"
)

// filters is the shape of a layer's weights: in the canonical layout (positions, groups·cout, taps, cin), with cin and
// cout counted within a group; here (positions, groups, tiles, rows, up to 16), the rows being (taps, cin) and a tile up
// to 16 of the cout channels (package kernel). Linear layers are one position, one group, one tap.
type filters struct{ positions, groups, taps, cin, cout int }

// rows is K, the number of weights a neuron.
func (f filters) rows() int { return f.taps * f.cin }

// block is the number of weights of one position and group, size that of one position.
func (f filters) block() int { return f.rows() * f.cout }
func (f filters) size() int  { return f.groups * f.block() }

// index is the place here of a weight of group g.
func (f filters) index(position, g, tap, c, n int) int {
	first := n / kernel.Tile * kernel.Tile
	width := min(kernel.Tile, f.cout-first)
	return position*f.size() + g*f.block() + first*f.rows() + (tap*f.cin+c)*width + n - first
}

// width is that of the tile of a channel, counted over all groups.
func (f filters) width(channel int) int {
	n := channel % f.cout
	return min(kernel.Tile, f.cout-n/kernel.Tile*kernel.Tile)
}

// neuron is the inverse of index: the position and the channel, counted over all groups, of the weight at a place here.
func (f filters) neuron(at int) (position, channel int) {
	position, at = at/f.size(), at%f.size()
	g := at / f.block()
	at %= f.block()
	first := at / f.rows() / kernel.Tile * kernel.Tile
	width := min(kernel.Tile, f.cout-first)
	return position, g*f.cout + first + (at-first*f.rows())%width
}

// each calls f with the place of every weight here and in the canonical layout, which it counts up.
func (f filters) each(visit func(here, canonical int)) {
	at := 0
	for p := range f.positions {
		for g := range f.groups {
			for n := range f.cout {
				for t := range f.taps {
					for c := range f.cin {
						visit(f.index(p, g, t, c, n), at)
						at++
					}
				}
			}
		}
	}
}

// filtersOf is the shape of a node's weights; nodes without a weight matrix have none.
func filtersOf(v net.Node) (filters, bool) {
	window := func(w net.Window, positions int) filters {
		return filters{positions, w.Groups, w.Kernel * w.Kernel, v.In.C / w.Groups, w.Out / w.Groups}
	}
	switch op := v.Op.(type) {
	case net.Conv2D:
		return window(op.Window, 1), true
	case net.LC2D:
		return window(op.Window, v.Out.H*v.Out.W), true
	case net.Linear:
		return filters{1, 1, 1, v.In.C, op.Out}, true
	}
	return filters{}, false
}

// param is one parameter: values, gradient and optimiser slots in this backend's layout.
type param struct {
	net.Param
	node        int
	filters     *filters // nil: the layout is the canonical one
	value, grad []float32
	slots       [][]float32
	// finite says that all values are known to be finite. Whoever writes values says so, or takes it back; only the
	// workers of an update write at once.
	finite atomic.Bool
}

// fromCanonical copies a tensor's elements into this backend's layout.
func (p *param) fromCanonical(dst, src []float32) {
	if p.filters == nil {
		copy(dst, src)
		return
	}
	p.filters.each(func(here, canonical int) { dst[here] = src[canonical] })
}

// toCanonical returns a copy in the canonical layout.
func (p *param) toCanonical(src []float32) []float32 {
	dst := make([]float32, len(src))
	if p.filters == nil {
		copy(dst, src)
		return dst
	}
	p.filters.each(func(here, canonical int) { dst[canonical] = src[here] })
	return dst
}

// tile is the block of images and elements that a transposition works on at a time.
const tile = 32

// batchInnermost copies (B, elements) to (elements, B).
func batchInnermost(dst, src []float32, batch, elements int) {
	someInnermost(dst, src, batch, elements, 0, elements)
}

// someInnermost does it for elements lo…hi-1.
func someInnermost(dst, src []float32, batch, elements, lo, hi int) {
	for b0 := 0; b0 < batch; b0 += tile {
		for e0 := lo; e0 < hi; e0 += tile {
			for e := e0; e < min(e0+tile, hi); e++ {
				for b := b0; b < min(b0+tile, batch); b++ {
					dst[e*batch+b] = src[b*elements+e]
				}
			}
		}
	}
}

// batchOutermost copies (elements, B) to (B, elements).
func batchOutermost(dst, src []float32, batch, elements int) {
	batchInnermost(dst, src, elements, batch)
}
