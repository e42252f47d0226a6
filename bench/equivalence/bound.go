package equivalence

import (
	"math"
	"slices"

	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/net"
)

// arithmetic is a backend's: floats of a unit roundoff, or integers of formats.
type arithmetic struct {
	roundoff float64       // u; of integers 2^-53, with which their exact sums are handled here
	factors  float64       // f, the roundoff of a product's factors, 0 where they are not rounded
	stored   float64       // s, that of activations and errors where they are stored in fewer bits than sums have, otherwise 0
	formats  *edge.Formats // nil: floats
	single   bool          // float32 or integers: what a layer got is a float32's number
}

// gamma is γ(n), +Inf where nu reaches 1.
func (a arithmetic) gamma(n int) float64 {
	nu := float64(n) * (a.roundoff + 0x1p-53) // the exact formulas are evaluated in float64
	if nu >= 1 {
		return math.Inf(1)
	}
	return nu / (1 - nu)
}

// sum is by what share of Σ|a| a sum of n numbers, stored, may be off.
func (a arithmetic) sum(n int) float64 {
	g := a.gamma(n)
	return g + a.stored*(1+g)
}

// products is by what share of Σ|a||b| a sum of n products, stored, may be off.
func (a arithmetic) products(n int) float64 {
	g := a.factors*(2+a.factors) + (1+a.factors)*(1+a.factors)*a.gamma(n)
	return g + a.stored*(1+g)
}

// trace are the tensors of one image by name.
type trace map[string][]float64

// exam is one backend's pass over one image beside the exact one of the same weights.
type exam struct {
	arithmetic
	net    *net.Network
	layers []*layer
	got    trace // the backend's
	exact  trace
	pixels []float64
	label  int32

	bound     [][]float64 // by node: |got - exact| of its output
	local     [][]float64 // by node: bound of what the node itself adds
	formula   [][]float64 // by node: the exact formula of what the node got; nil where it is not evaluated
	saturated [][]bool    // by node, integers only
}

func (e *exam) out(i int) []float64   { return e.got["out/"+e.net.Nodes[i].Name] }
func (e *exam) ideal(i int) []float64 { return e.exact["out/"+e.net.Nodes[i].Name] }

// forward computes bounds and exact formulas of all activations.
func (e *exam) forward() error {
	n := len(e.net.Nodes)
	e.bound, e.local, e.formula, e.saturated = make([][]float64, n), make([][]float64, n), make([][]float64, n), make([][]bool, n)
	for i, v := range e.net.Nodes {
		size, carried, err := e.propagate(i, v)
		if err != nil {
			return err
		}
		y := e.out(i)
		local := make([]float64, len(y))
		if e.formats == nil {
			copy(local, size)
		} else {
			e.integerLocal(i, v, local)
		}
		e.local[i], e.bound[i] = local, plus(carried, 1, local)
	}
	return nil
}

// propagate returns the float rounding of a node and what the bounds of its inputs become, and sets its exact formula.
func (e *exam) propagate(i int, v net.Node) (size, carried []float64, err error) {
	size, carried = make([]float64, v.Out.Len()), make([]float64, v.Out.Len())
	if len(v.Inputs) == 0 {
		e.formula[i] = e.pixels
		return mapped(e.pixels, func(v float64) float64 { return e.stored * math.Abs(v) }), carried, nil
	}
	x, in := e.out(v.Inputs[0]), e.bound[v.Inputs[0]]
	l := e.layers[i]
	switch v.Op.(type) {
	case net.ReLU:
		e.formula[i] = mapped(x, func(v float64) float64 { return max(v, 0) })
		copy(carried, in)
		return size, carried, nil
	case net.Add:
		z := e.out(v.Inputs[1])
		e.formula[i] = plus(x, 1, z)
		for j := range size {
			size[j] = e.sum(2) * (math.Abs(x[j]) + math.Abs(z[j]))
		}
		return size, plus(in, 1, e.bound[v.Inputs[1]]), nil
	}
	if e.single {
		if e.formula[i], err = forward(l.exact, x); err != nil {
			return nil, nil, err
		}
	}
	if carried, err = forward(l.abs, up(in)); err != nil { // |W| e
		return nil, nil, err
	}
	switch v.Op.(type) {
	case net.MaxPool, net.Transpose:
	default:
		if size, err = forward(l.abs, up(x)); err != nil {
			return nil, nil, err
		}
		by := e.products(l.terms + 2)
		if _, ok := v.Op.(net.GlobalAvgPool); ok {
			by = e.sum(l.terms + 2)
		}
		for j := range size {
			if l.bias != nil {
				size[j] += l.bias[j%len(l.bias)]
			}
			size[j] *= by
		}
	}
	return size, carried, nil
}

// integerLocal is half a unit where a node rounds, and the whole excess of what it saturates.
func (e *exam) integerLocal(i int, v net.Node, local []float64) {
	if edge.Follows(v.Op) {
		return
	}
	f := e.formats.Activations[v.Name]
	y, limit := e.out(i), f.Float(int64(f.Max()))
	e.saturated[i] = make([]bool, len(y))
	for j, exact := range e.formula[i] {
		local[j] = f.Unit() / 2
		if _, ok := v.Op.(net.GlobalAvgPool); ok {
			local[j] += 0x1p-30 * math.Abs(exact) // fixed.Multiplier, and the quotient here
		}
		if math.Abs(y[j]) == limit && exact*y[j] > 0 && math.Abs(exact) > limit {
			e.saturated[i][j] = true
			local[j] = max(local[j], math.Abs(exact-y[j]))
		}
	}
}

// rounded is the exact formula of a node as integers have it: rounded once, midpoints up, and saturated. A pool's mean, whose
// quotient is no dyadic number, is left out.
func (e *exam) rounded(i int, v net.Node) ([]float64, bool) {
	if e.formats == nil {
		return e.formula[i], false
	}
	if _, ok := v.Op.(net.GlobalAvgPool); ok {
		return e.formula[i], false
	}
	f := e.formats.Activations[v.Name]
	return mapped(e.formula[i], func(x float64) float64 {
		if math.IsNaN(x) {
			return x
		}
		return f.Float(int64(f.Quantise(x)))
	}), true
}

// saturatedAt counts the elements of a node that saturated.
func (e *exam) saturatedAt(i int) (n int) {
	for _, s := range e.saturated[i] {
		if s {
			n++
		}
	}
	return n
}

// back is what backward finds.
type back struct {
	bound     map[string][]float64 // by parameter: of the gradient, |got - exact|
	own       map[string][]float64 // by parameter: what a step adds besides, in units of lr: a rounding of the errors
	local     map[string][]float64 // by parameter: the gradient by the formula of the errors that the backend had
	localBy   map[string][]float64 // its bound
	otherwise int                  // rectifiers and pools that decided otherwise than the exact ones
}

// errorsBack are the errors of one node's output on their way: exact, and by how much the backend's may differ.
type errorsBack struct {
	g, e []float64
	unit float64 // at most the integers' last place
}

// backward bounds gradients. With teach it goes from layer to layer by what the backend had: activations and, where a bias
// tells them, errors.
func (e *exam) backward(teach bool) (*back, error) {
	b := &back{bound: map[string][]float64{}, own: map[string][]float64{}, local: map[string][]float64{}, localBy: map[string][]float64{}}
	all := make([]errorsBack, len(e.net.Nodes))
	for i, v := range e.net.Nodes {
		all[i].g, all[i].e = make([]float64, v.Out.Len()), make([]float64, v.Out.Len())
	}
	ideal := e.ideal
	if teach {
		ideal = e.out
	}
	last := len(e.net.Nodes) - 1
	e.lossErrors(&all[last], ideal(last), teach)
	for i, v := range slices.Backward(e.net.Nodes) {
		if i == 0 {
			break
		}
		d, from := &all[i], v.Inputs[0]
		give := func(to int, g, by []float64) {
			if to > 0 {
				e.contribute(&all[to], g, by)
			}
		}
		switch op := v.Op.(type) {
		case net.Add:
			for _, to := range v.Inputs {
				give(to, d.g, d.e)
			}
		case net.ReLU:
			g, by := make([]float64, len(d.g)), make([]float64, len(d.g))
			for j, y := range e.out(i) {
				b.otherwise += gate(&g[j], &by[j], d.g[j], d.e[j], ideal(i)[j] > 0, y > 0)
			}
			give(from, g, by)
		case net.MaxPool:
			g, by := make([]float64, v.In.Len()), make([]float64, v.In.Len())
			mine := winners(op, v, e.out(from))
			for j, w := range winners(op, v, ideal(from)) {
				g[w] += d.g[j]
				if by[w] += d.e[j]; mine[j] != w {
					by[w] += math.Abs(d.g[j])
					by[mine[j]] += math.Abs(d.g[j]) + d.e[j]
					b.otherwise++
				}
			}
			give(from, g, by)
		default:
			if err := e.weighted(b, i, v, d, ideal(from), teach); err != nil {
				return nil, err
			}
			x := make([]float64, v.In.Len())
			_, exact, err := through(e.layers[i].exact, x, d.g)
			if err != nil {
				return nil, err
			}
			by, err := e.errorsThrough(e.layers[i], d)
			if err != nil {
				return nil, err
			}
			give(from, exact["input"], by)
		}
	}
	return b, nil
}

// gate passes an error through a rectifier that is on or off in the exact network and in the backend's.
func gate(g, by *float64, d, e float64, exact, mine bool) (otherwise int) {
	switch {
	case exact && mine:
		*g, *by = d, e
	case exact:
		*g, *by = d, math.Abs(d)
	case mine:
		*by = math.Abs(d) + e
	}
	if exact != mine {
		return 1
	}
	return 0
}

// lossErrors are softmax - onehot.
func (e *exam) lossErrors(d *errorsBack, logits []float64, teach bool) {
	g := make([]float64, len(logits))
	core.SoftmaxGradient(g, logits, e.label, 1)
	start := e.sum(len(logits) + 4) // of numbers that add up to 1
	if !teach {
		start += slices.Max(e.bound[len(e.bound)-1]) / 2
	}
	if e.formats != nil {
		start += 0x1p-23
	}
	e.contribute(d, g, mapped(g, func(float64) float64 { return start }))
}

// contribute adds to a node's errors, and rounds the sum as the backend does.
func (e *exam) contribute(d *errorsBack, g, by []float64) {
	d.g, d.e = plus(d.g, 1, g), plus(d.e, 1, by)
	largest := 0.0
	for j := range d.g {
		size := math.Abs(d.g[j]) + d.e[j]
		largest = max(largest, size)
		d.e[j] += e.sum(2) * size
	}
	if e.formats == nil {
		return
	}
	d.unit = largest / (fixed.GradientMax/2 - 0.5) * (1 + 0x1p-20) // alignment of two contributions is far finer
	for j := range d.e {
		d.e[j] += d.unit
	}
}

// errorsThrough is |W|ᵀ e and what summing rounds.
func (e *exam) errorsThrough(l *layer, d *errorsBack) ([]float64, error) {
	g := make([]float64, len(d.e))
	for j := range g {
		g[j] = d.e[j] + e.products(l.terms+2)*(math.Abs(d.g[j])+d.e[j])
		if _, ok := l.node.Op.(net.GlobalAvgPool); ok && e.formats != nil {
			g[j] += d.unit * float64(l.terms) * 0x1p-16 // a quotient of 16 more bits, before it is divided
		}
	}
	_, grads, err := through(l.abs, make([]float64, l.node.In.Len()), g)
	return grads["input"], err
}

// weighted bounds the gradients of a layer's parameters.
func (e *exam) weighted(b *back, i int, v net.Node, d *errorsBack, ideal []float64, teach bool) error {
	if len(v.Params) == 0 {
		return nil
	}
	l, from := e.layers[i], v.Inputs[0]
	x := e.out(from)
	if teach {
		return e.taught(b, l, v, d, x)
	}
	moved := make([]float64, len(d.e))
	for j := range moved {
		moved[j] = d.e[j] + e.products(l.terms+2)*(math.Abs(d.g[j])+d.e[j])
	}
	_, byErrors, err := through(l.abs, up(x), moved)
	if err != nil {
		return err
	}
	_, byInputs, err := through(l.abs, up(e.bound[from]), mapped(d.g, math.Abs))
	if err != nil {
		return err
	}
	_, byUnit, err := through(l.abs, up(x), mapped(d.g, func(float64) float64 { return d.unit }))
	if err != nil {
		return err
	}
	b.bound[v.Params[0].Name] = plus(byErrors["weight"], 1, byInputs["weight"])
	b.own[v.Params[0].Name] = byUnit["weight"]
	if l.bias != nil {
		b.bound[v.Params[1].Name] = byErrors["bias"]
		b.own[v.Params[1].Name] = make([]float64, len(byErrors["bias"]))
	}
	return nil
}

// taught compares a layer whose biases' gradients are its errors, and goes on from them.
func (e *exam) taught(b *back, l *layer, v net.Node, d *errorsBack, x []float64) error {
	if _, shared := v.Op.(net.Conv2D); shared || l.bias == nil || !e.single {
		return nil
	}
	bias := v.Params[1].Name
	mine := e.got["grad/"+bias]
	if len(mine) != len(d.g) {
		return nil
	}
	b.local[bias], b.localBy[bias] = d.g, d.e
	_, grads, err := through(l.exact, x, mine)
	if err != nil {
		return err
	}
	_, size, err := through(l.abs, up(x), mapped(mine, math.Abs))
	if err != nil {
		return err
	}
	weight := v.Params[0].Name
	b.local[weight] = grads["weight"]
	b.localBy[weight] = mapped(size["weight"], func(s float64) float64 { return e.products(3) * s })
	d.g, d.e = mine, make([]float64, len(mine))
	d.unit = slices.Max(append(mapped(mine, math.Abs), 0)) / (fixed.GradientMax/2 - 0.5)
	return nil
}
