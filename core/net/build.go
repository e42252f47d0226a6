package net

import (
	"fmt"
	"regexp"
)

// Ref names a node to the Builder that made it.
type Ref int

// Builder makes a Network node by node and resolves shapes as it goes. The first fault sticks: later calls do
// nothing and Build returns it, so that a network reads as a list of layers.
type Builder struct {
	name  string
	nodes []Node
	used  map[string]bool
	err   error
}

// NewBuilder starts a network.
func NewBuilder(name string) *Builder {
	return &Builder{name: name, used: map[string]bool{}}
}

// nodeName keeps names fit for tensor names and file names.
var nodeName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// Add appends a node that applies op to the given nodes and returns its reference.
func (b *Builder) Add(name string, op Op, in ...Ref) Ref {
	if b.err != nil {
		return 0
	}
	n, err := b.resolve(name, op, in)
	if err != nil {
		b.err = fmt.Errorf("net: %s: layer %q (%s): %w", b.name, name, op.Kind(), err)
		return 0
	}
	b.used[name] = true
	b.nodes = append(b.nodes, n)
	return Ref(len(b.nodes) - 1)
}

func (b *Builder) resolve(name string, op Op, in []Ref) (Node, error) {
	op = withDefaults(op)
	switch {
	case !nodeName.MatchString(name):
		return Node{}, fmt.Errorf("a name has lower-case letters, digits, '.', '_' and '-' only")
	case b.used[name]:
		return Node{}, fmt.Errorf("the name is taken")
	case len(in) != inputs(op):
		return Node{}, fmt.Errorf("%d inputs, want %d", len(in), inputs(op))
	}
	if _, isInput := op.(Input); isInput != (len(b.nodes) == 0) {
		return Node{}, fmt.Errorf("a network has one input, its first node")
	}
	n := Node{Name: name, Op: op}
	var shapes []Shape
	for _, r := range in {
		if int(r) < 0 || int(r) >= len(b.nodes) {
			return Node{}, fmt.Errorf("input %d does not exist yet", r)
		}
		n.Inputs = append(n.Inputs, int(r))
		shapes = append(shapes, b.nodes[r].Out)
	}
	out, err := op.resolve(shapes)
	if err != nil {
		return Node{}, err
	}
	if err := out.check(); err != nil {
		return Node{}, fmt.Errorf("output: %w", err)
	}
	n.Out = out
	if len(shapes) > 0 {
		n.In = shapes[0]
	}
	n.Params = op.params(n.In, out)
	for i := range n.Params {
		p := &n.Params[i]
		if product(p.Shape...) > maxElements {
			return Node{}, fmt.Errorf("%s %v has more than %d elements", p.Name, p.Shape, maxElements)
		}
		p.Name = name + "." + p.Name
	}
	return n, nil
}

// withDefaults fills what a zero field stands for.
func withDefaults(op Op) Op {
	switch o := op.(type) {
	case Conv2D:
		o.Groups = orOne(o.Groups)
		return o
	case LC2D:
		o.Groups = orOne(o.Groups)
		return o
	}
	return op
}

func orOne(groups int) int {
	if groups == 0 {
		return 1
	}
	return groups
}

// Build returns the network, or the first fault met while it was put together.
func (b *Builder) Build() (*Network, error) {
	if b.err != nil {
		return nil, b.err
	}
	if len(b.nodes) < 2 {
		return nil, fmt.Errorf("net: %s: no layers", b.name)
	}
	read := make([]bool, len(b.nodes))
	for _, n := range b.nodes {
		for _, i := range n.Inputs {
			read[i] = true
		}
	}
	for i, n := range b.nodes[:len(b.nodes)-1] {
		if !read[i] {
			return nil, fmt.Errorf("net: %s: layer %q: nothing reads its output", b.name, n.Name)
		}
	}
	return &Network{Name: b.name, Nodes: b.nodes}, nil
}
