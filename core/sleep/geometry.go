// Package sleep defines the sleep phase: which neurons are connected laterally, what a rule does to their weights,
// how regular the weights are, and when a network sleeps. Backends run it in their own layouts; what is here are the
// definitions they are compared with.
//
// A neuron is one output (position, channel) of an lc2d layer; its incoming weights are w_i, K = k²·Cin/g numbers, and
// its bias where there is one. A grid is the set of positions that see the same input when the input repeats every k
// pixels (Section 4.1, Fig. 3B); a group is one channel of one grid, N neurons whose weights sleep pulls to their
// mean. Numbers of equations are those of Pogodin, Mehta, Lillicrap and Latham, "Towards biologically plausible
// convolutional networks", NeurIPS 2021.
package sleep

import (
	"fmt"

	"hypnos/core/net"
)

// Layer is one locally connected layer as sleep sees it.
type Layer struct {
	Name    string
	Node    int // index in the network
	Window  net.Window
	In, Out net.Shape
	K       int // weights a neuron, k·k·Cin/g
}

// Layers lists the locally connected layers of a network in order.
func Layers(n *net.Network) []Layer {
	var ls []Layer
	for i, v := range n.Nodes {
		if op, ok := v.Op.(net.LC2D); ok {
			ls = append(ls, layerOf(v, i, op))
		}
	}
	return ls
}

func layerOf(v net.Node, i int, op net.LC2D) Layer {
	return Layer{
		Name: v.Name, Node: i, Window: op.Window, In: v.In, Out: v.Out,
		K: op.Kernel * op.Kernel * v.In.C / op.Groups,
	}
}

// Border says what becomes of neurons whose receptive field reaches into the padding.
type Border uint8

const (
	// BorderShares treats them like any other neuron: the authors' instant sharing.
	BorderShares Border = iota
	// BorderRests leaves them alone: the authors' iterative sharing.
	BorderRests
)

func (b Border) String() string {
	if b == BorderRests {
		return "rests"
	}
	return "shares"
}

// MarshalText writes the name used in configurations.
func (b Border) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads "shares" or "rests".
func (b *Border) UnmarshalText(text []byte) error {
	switch string(text) {
	case "shares":
		*b = BorderShares
	case "rests":
		*b = BorderRests
	default:
		return fmt.Errorf("sleep: unknown border policy %q (known: shares, rests)", text)
	}
	return nil
}

// Grid is a set of output positions that are connected laterally.
type Grid struct {
	Row, Col  int   // phase: the positions have row ≡ Row and column ≡ Col modulo the layer's Period
	Positions []int // row·Wout + column, ascending
}

// Period is the distance between neurons of one grid, along rows and columns: k/gcd(k, stride), the smallest output
// shift whose input shift, stride times it, is a multiple of the pattern's period k. It is k for stride 1 and for 1x1
// kernels 1 (one grid); with stride = k, non-overlapping patches, it is 1 (Appendix A.4).
func (l Layer) Period() int {
	return l.Window.Kernel / gcd(l.Window.Kernel, l.Window.Stride)
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Grids lists the layer's Period² grids in row-major order of their phases. A grid may have one position or none,
// where the map is small or border neurons rest.
func (l Layer) Grids(b Border) []Grid {
	period := l.Period()
	grids := make([]Grid, 0, period*period)
	for r := range period {
		for c := range period {
			g := Grid{Row: r, Col: c}
			for i := r; i < l.Out.H; i += period {
				for j := c; j < l.Out.W; j += period {
					if b == BorderShares || l.interior(i, j) {
						g.Positions = append(g.Positions, i*l.Out.W+j)
					}
				}
			}
			grids = append(grids, g)
		}
	}
	return grids
}

// interior tells whether the receptive field of output position (i, j) lies inside the input.
func (l Layer) interior(i, j int) bool {
	k := l.Window.Kernel
	rowLo, rowHi := l.Window.Span(i, l.In.H)
	colLo, colHi := l.Window.Span(j, l.In.W)
	return rowLo == 0 && rowHi == k && colLo == 0 && colHi == k
}

// Inputs is M, the number of input lines of a neuron: its K weights and the bias where there is one.
func (l Layer) Inputs() int {
	if l.Window.Bias {
		return l.K + 1
	}
	return l.K
}

// TileLen is the number of elements of a pattern's tile, (k, k, Cin).
func (l Layer) TileLen() int { return l.Window.Kernel * l.Window.Kernel * l.In.C }

// split takes a tile (k, k, Cin) apart by channel groups: x is (g, M), each row (k, k, Cin/g) and the bias line.
func (l Layer) split(x, tile []float64, bias float64) {
	per, m := l.In.C/l.Window.Groups, l.Inputs()
	for g := range l.Window.Groups {
		row := x[g*m : (g+1)*m]
		for place := range l.Window.Kernel * l.Window.Kernel {
			copy(row[place*per:(place+1)*per], tile[place*l.In.C+g*per:])
		}
		if l.Window.Bias {
			row[l.K] = bias
		}
	}
}

// Seen lists, for weight j of a grid's neurons, the element of a channel group's part of the tile that it gets: the
// tile lies at the map's corner, and the receptive field of output row i begins at input row i·stride - pad.
func (l Layer) Seen(g Grid) []int {
	k, per := l.Window.Kernel, l.In.C/l.Window.Groups
	corner := func(phase int) int { return ((phase*l.Window.Stride-l.Window.Pad())%k + k) % k }
	row, col := corner(g.Row), corner(g.Col)
	seen := make([]int, l.Inputs())
	for u := range k {
		for v := range k {
			for c := range per {
				seen[(u*k+v)*per+c] = ((row+u)%k*k+(col+v)%k)*per + c
			}
		}
	}
	if l.Window.Bias {
		seen[l.K] = l.K
	}
	return seen
}
