package sleep

import (
	"errors"
	"fmt"
	"math"

	"hypnos/core/net"
	"hypnos/core/rng"
)

// Propagated is Section 4.1 over a whole network: one pattern enters at the input, and each layer makes the pattern of
// the next.
//
//   - The network's input is a Gaussian tile of period k, repeated (the paper's LGN).
//   - A neuron of a locally connected layer answers its grid's pattern; its lateral connections equalise the answers of
//     a group, and what goes on is their mean z̄ = w̄·x + the mean bias. As neurons of one grid are k apart, the output
//     repeats, too.
//   - Batch norm (with the running statistics), rectifiers, sums, convolutions and max pools act on the repeated
//     pattern as on a map without end: there is no padding in sleep.
//
// Eq. 4 and the mean-preserving circuit do not move w̄, so that the patterns are the same before, during and after the
// sleep of the layers behind them: as the paper says, deeper layers need not wait.
//
// For a layer with kernel size k the tile at its input must have period k: exact if each locally connected layer on
// the way has a grid spacing that divides the period there, in short, if filters have the same size (or are 1x1
// on the way to it). Others are refused by name. Whether a tile of k·k·3 numbers, bent by rectifiers,
// reaches all k·k·Cin directions of a deep layer depends on the network and is measured.
type Propagated struct{}

// Kind is "propagated".
func (Propagated) Kind() string { return "propagated" }

// Open implements PatternSource.
func (Propagated) Open(q PatternRequest) (Patterns, error) {
	if q.State == nil {
		return nil, errors.New("it needs the network's parameters")
	}
	n := q.State.net
	k := q.Layer.Window.Kernel
	p := propagated{key: q.Phase, nodes: n.Nodes, ops: make([]func(in []tile) tile, q.Layer.Node)}
	p.target = n.Nodes[q.Layer.Node].Inputs[0]
	needed := ancestors(n, p.target)
	period := make([]int, q.Layer.Node)
	for i := range p.ops {
		if !needed[i] {
			continue
		}
		v := n.Nodes[i]
		if len(v.Inputs) > 0 {
			period[i] = period[v.Inputs[0]]
		} else {
			period[i] = k
		}
		var err error
		if p.ops[i], err = q.State.tileOp(i, &period[i], period); err != nil {
			return nil, fmt.Errorf("not exact for kernel %dx%d: layer %q: %w", k, k, v.Name, err)
		}
	}
	if period[p.target] != k {
		return nil, fmt.Errorf("not exact for kernel %dx%d: the pattern that reaches it repeats every %d positions", k, k, period[p.target])
	}
	return measured(p, q)
}

// ancestors marks node i and all that it depends on.
func ancestors(n *net.Network, i int) []bool {
	needed := make([]bool, len(n.Nodes))
	needed[i] = true
	for j := i; j >= 0; j-- {
		if needed[j] {
			for _, from := range n.Nodes[j].Inputs {
				needed[from] = true
			}
		}
	}
	return needed
}

// tile is one period of an activation that repeats, (p, p, C).
type tile struct {
	p, c int
	x    []float64
}

func newTile(p, c int) tile { return tile{p, c, make([]float64, p*p*c)} }

// at is the activation of all channels at a row and column, whatever their sign.
func (t tile) at(row, col int) []float64 {
	i := (mod(row, t.p)*t.p + mod(col, t.p)) * t.c
	return t.x[i : i+t.c]
}

func mod(a, b int) int { return (a%b + b) % b }

type propagated struct {
	key    uint64
	nodes  []net.Node
	ops    []func(in []tile) tile
	target int
}

func (p propagated) Tile(dst []float64, i uint64) float64 {
	out := make([]tile, len(p.ops))
	for j, op := range p.ops {
		switch v := p.nodes[j]; {
		case op == nil:
		case len(v.Inputs) == 0:
			t := op(nil)
			rng.New(p.key, rng.SleepPattern, 2).Normals(t.x, i*uint64(len(t.x)+len(t.x)%2))
			out[j] = t
		default:
			var in []tile
			for _, from := range v.Inputs {
				in = append(in, out[from])
			}
			out[j] = op(in)
		}
	}
	copy(dst, out[p.target].x)
	return 1
}

func (propagated) Strength() Strength { panic("sleep: propagated patterns are measured") }

// tileOp is what node i does to repeated activations. period is that of its first input, replaced by that of its
// output; periods are those of all nodes before.
func (s *State) tileOp(i int, period *int, periods []int) (func(in []tile) tile, error) {
	v := s.net.Nodes[i]
	switch op := v.Op.(type) {
	case net.Input:
		p, c := *period, v.Out.C
		return func([]tile) tile { return newTile(p, c) }, nil
	case net.LC2D:
		l := layerOf(v, i, op)
		*period /= gcd(*period, op.Stride)
		if *period%l.Period() != 0 {
			return nil, fmt.Errorf("filters of unequal size: its lateral connections, %d apart, do not fit a pattern that repeats every %d positions (choose another source for the layer)", l.Period(), *period)
		}
		return s.lateral(l, *period), nil
	case net.Conv2D:
		*period /= gcd(*period, op.Stride)
		w, err := s.host.Param(v.Params[0].Name)
		if err != nil {
			return nil, err
		}
		var bias []float64
		if op.Bias {
			if bias, err = s.host.Param(v.Params[1].Name); err != nil {
				return nil, err
			}
		}
		p, k := *period, op.Kernel*op.Kernel*v.In.C/op.Groups
		return windowOp(op.Window, p, func(_, _, n int) ([]float64, float64) {
			if bias == nil {
				return w[n*k : (n+1)*k], 0
			}
			return w[n*k : (n+1)*k], bias[n]
		}), nil
	case net.BatchNorm:
		var q [4][]float64
		for j := range q {
			var err error
			if q[j], err = s.host.Param(v.Params[j].Name); err != nil {
				return nil, err
			}
		}
		return pointwise(func(x float64, c int) float64 {
			return q[0][c]*(x-q[2][c])/math.Sqrt(q[3][c]+op.Eps) + q[1][c]
		}), nil
	case net.ReLU:
		return pointwise(func(x float64, _ int) float64 { return max(x, 0) }), nil
	case net.Add:
		if periods[v.Inputs[0]] != periods[v.Inputs[1]] {
			return nil, fmt.Errorf("its summands repeat every %d and %d positions", periods[v.Inputs[0]], periods[v.Inputs[1]])
		}
		return func(in []tile) tile {
			t := newTile(in[0].p, in[0].c)
			copy(t.x, in[0].x)
			axpy(t.x, 1, in[1].x)
			return t
		}, nil
	case net.MaxPool:
		*period /= gcd(*period, op.Stride)
		return maxPool(op, *period), nil
	}
	return nil, fmt.Errorf("a repeated pattern does not pass through %s", v.Op.Kind())
}

func pointwise(f func(x float64, channel int) float64) func([]tile) tile {
	return func(in []tile) tile {
		t := newTile(in[0].p, in[0].c)
		for i, x := range in[0].x {
			t.x[i] = f(x, i%t.c)
		}
		return t
	}
}

func maxPool(op net.MaxPool, p int) func([]tile) tile {
	return func(in []tile) tile {
		t := newTile(p, in[0].c)
		pad := (op.Kernel - 1) / 2
		for i := range p * p {
			for c := range t.c {
				best := math.Inf(-1)
				for u := range op.Kernel {
					for v := range op.Kernel {
						best = max(best, in[0].at(i/p*op.Stride-pad+u, i%p*op.Stride-pad+v)[c])
					}
				}
				t.x[i*t.c+c] = best
			}
		}
		return t
	}
}

// lateral is a locally connected layer whose groups answer alike, with their mean weights.
func (s *State) lateral(l Layer, p int) func([]tile) tile {
	m, period := l.Inputs(), l.Period()
	means := s.means(l)
	return windowOp(l.Window, p, func(row, col, n int) ([]float64, float64) {
		w := means[row%period*period+col%period][n*m : (n+1)*m]
		if l.Window.Bias {
			return w[:l.K], w[l.K]
		}
		return w, 0
	})
}

// windowOp is a spatial layer on a repeated activation; neuron gives the kernel (k, k, Cin/g) and bias of channel n at
// an output position.
func windowOp(w net.Window, p int, neuron func(row, col, n int) ([]float64, float64)) func([]tile) tile {
	return func(in []tile) tile {
		t := newTile(p, w.Out)
		per, perOut := in[0].c/w.Groups, w.Out/w.Groups
		for i := range p * p {
			row, col := i/p, i%p
			for n := range w.Out {
				kernel, z := neuron(row, col, n)
				for u := range w.Kernel {
					for v := range w.Kernel {
						x := in[0].at(row*w.Stride-w.Pad()+u, col*w.Stride-w.Pad()+v)[n/perOut*per:][:per]
						z += dot(kernel[(u*w.Kernel+v)*per:][:per], x)
					}
				}
				t.x[i*t.c+n] = z
			}
		}
		return t
	}
}

// State is the network's parameters as a phase sees them.
type State struct {
	net    *net.Network
	border Border
	host   Host
	known  map[int][][]float64 // mean weights of the layers, by node
}

// NewState begins a state: means are read when they are first needed, and then kept.
func NewState(n *net.Network, b Border, h Host) *State {
	return &State{n, b, h, map[int][][]float64{}}
}

// means are the mean weights of a layer's groups, by grid, (N, M). A grid without neurons has zeros.
func (s *State) means(l Layer) [][]float64 {
	if m, ok := s.known[l.Node]; ok {
		return m
	}
	runner, everywhere := s.host.Open(l), l.Grids(BorderShares)
	var all [][]float64
	for i, g := range l.Grids(s.border) {
		if len(g.Positions) == 0 {
			g = everywhere[i]
		}
		m := make([]float64, l.Out.C*l.Inputs())
		if len(g.Positions) > 0 {
			m = runner.Means(g)
		}
		all = append(all, m)
	}
	s.known[l.Node] = all
	return all
}
