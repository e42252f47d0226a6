// Package net describes networks: a graph of layers whose shapes are all resolved when it is built.
//
// A Network holds no weights and does no arithmetic. It says which layers there are, how they connect, what shape
// flows between them and which parameters they have; a backend compiles it. Axis letters, here and in the backends:
//
//	B batch   H, W rows and columns of an activation   C channels
//	k kernel size   s stride   g groups   N output channels of a spatial layer
//
// Activations are (B, H, W, C) in memory order; Shape leaves B out. The canonical layout of weights, on disk and
// between backends, is location-major:
//
//	lc2d    weight (Hout, Wout, N, k, k, Cin/g)   bias (Hout, Wout, N)
//	conv2d  weight (N, k, k, Cin/g)               bias (N)
//	linear  weight (N, Cin)                       bias (N)
//	batchnorm  gain, shift, mean, var (C)
package net

import (
	"fmt"
	"slices"
)

// Shape is the shape of one image's activation, (H, W, C) in memory order.
type Shape struct {
	H int `json:"h"`
	W int `json:"w"`
	C int `json:"c"`
}

// Len is the number of elements.
func (s Shape) Len() int { return s.H * s.W * s.C }

func (s Shape) String() string { return fmt.Sprintf("%dx%dx%d", s.H, s.W, s.C) }

// maxElements bounds the size of an activation and of a parameter, so that no product of sizes overflows an int
// where an int has 32 bits.
const maxElements = 1<<31 - 1

func (s Shape) check() error {
	if s.H < 1 || s.W < 1 || s.C < 1 {
		return fmt.Errorf("shape %v has an axis below 1", s)
	}
	if product(s.H, s.W, s.C) > maxElements {
		return fmt.Errorf("shape %v has more than %d elements", s, maxElements)
	}
	return nil
}

// product multiplies positive sizes and stays at the largest int64 instead of overflowing.
func product(sizes ...int) int64 {
	p := int64(1)
	for _, n := range sizes {
		if n != 0 && p > (1<<63-1)/int64(n) {
			return 1<<63 - 1
		}
		p *= int64(n)
	}
	return p
}

// Role says what a parameter is to its layer.
type Role uint8

// The roles. RunningMean and RunningVar are statistics, not trained.
const (
	Weight Role = iota
	Bias
	Gain
	Shift
	RunningMean
	RunningVar
)

// Param is one parameter tensor of a node. Its name is the node's name and a suffix: "stem.conv.weight".
type Param struct {
	Name  string
	Role  Role
	Shape []int // canonical layout, see the package comment
}

// Trained tells whether the optimiser changes the parameter.
func (p Param) Trained() bool { return p.Role != RunningMean && p.Role != RunningVar }

// Len is the number of elements.
func (p Param) Len() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// Node is one layer in its place: what it computes, from which nodes, and the resolved shapes.
type Node struct {
	Name   string
	Op     Op
	Inputs []int // indices into Network.Nodes, all smaller than the node's own
	In     Shape // shape of the first input
	Out    Shape
	Params []Param
}

// Network is a directed graph without cycles. Nodes are in an order in which they can be computed: node 0 is the
// Input, the last node is the output. Build one with a Builder; the fields are to be read only.
type Network struct {
	Name  string
	Nodes []Node
}

// Input is the shape of one image.
func (n *Network) Input() Shape { return n.Nodes[0].Out }

// Output is the shape of what the last node gives for one image.
func (n *Network) Output() Shape { return n.Nodes[len(n.Nodes)-1].Out }

// Classes is the number of classes of a classifier. A network whose output is not 1x1xC is no classifier.
func (n *Network) Classes() (int, error) {
	if o := n.Output(); o.H == 1 && o.W == 1 {
		return o.C, nil
	}
	return 0, fmt.Errorf("net: %s: no classifier: its output %v is not 1x1xC", n.Name, n.Output())
}

// Params lists all parameters in the order of the nodes.
func (n *Network) Params() []Param {
	var all []Param
	for i := range n.Nodes {
		all = append(all, n.Nodes[i].Params...)
	}
	return all
}

// Node returns the index of the node of that name.
func (n *Network) Node(name string) (int, bool) {
	i := slices.IndexFunc(n.Nodes, func(v Node) bool { return v.Name == name })
	return i, i >= 0
}
