package fixed

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"hypnos/backends/backendtest"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/rng"
)

// ways are the ways of opening the backend that must give the same bytes.
func ways() map[string]Options {
	all := map[string]Options{}
	for _, v := range Versions() {
		for _, threads := range []int{1, 2} {
			all[fmt.Sprintf("%s, %d threads", v, threads)] = Options{Threads: threads, Kernels: v}
		}
	}
	return all
}

// testNets are small networks with every kind of layer.
func testNets(t *testing.T) []*net.Network {
	t.Helper()
	build := func(name string, in net.Shape, add func(b *net.Builder, x net.Ref) net.Ref) *net.Network {
		b := net.NewBuilder(name)
		x := add(b, b.Input(in))
		b.Linear("linear", b.GlobalAvgPool("pool", x), 5)
		n, err := b.Build()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	block := func(name string, spatial func(b *net.Builder, name string, x net.Ref, w net.Window) net.Ref) *net.Network {
		return build(name, net.Shape{H: 6, W: 6, C: 3}, func(b *net.Builder, x net.Ref) net.Ref {
			x = b.ReLU("relu1", spatial(b, "stem", x, net.Window{Out: 8, Kernel: 3, Stride: 1, Bias: true}))
			y := b.ReLU("relu2", spatial(b, "conv1", x, net.Window{Out: 12, Kernel: 3, Stride: 2, Bias: true, Groups: 2}))
			y = spatial(b, "conv2", y, net.Window{Out: 12, Kernel: 3, Stride: 1})
			z := spatial(b, "shortcut", x, net.Window{Out: 12, Kernel: 1, Stride: 2, Bias: true})
			return b.ReLU("relu3", b.Sum("add", y, z))
		})
	}
	return []*net.Network{
		block("lc", func(b *net.Builder, name string, x net.Ref, w net.Window) net.Ref { return b.LC2D(name, x, w) }),
		block("conv", func(b *net.Builder, name string, x net.Ref, w net.Window) net.Ref { return b.Conv2D(name, x, w) }),
		build("mixed", net.Shape{H: 6, W: 4, C: 2}, func(b *net.Builder, x net.Ref) net.Ref {
			x = b.LC2D("patches", x, net.Window{Out: 20, Kernel: 2, Stride: 2, Bias: true, Patches: true})
			x = b.MaxPool("maxpool", x, 3, 1)
			x = b.LC2D("tokens", b.Transpose("t", x), net.Window{Out: 6, Kernel: 1, Stride: 1, Bias: true})
			return b.TransposeBack("back", x, net.Shape{H: 3, W: 2})
		}),
	}
}

// activation and weight are the formats of test networks: of different lengths, so that every shift is met.
var (
	activation = []fixed.Format{{Int: 3, Frac: 10}, {Int: 2, Frac: 9}, {Int: 4, Frac: 11}}
	weight     = []fixed.Format{{Int: 1, Frac: 12}, {Int: 0, Frac: 15}, {Int: 2, Frac: 9}}
)

// randomParams draws the parameters of an edge package; mean is the weights' mean in units of their deviation.
func randomParams(t testing.TB, n *net.Network, seed uint64, mean float64) *model.Params {
	t.Helper()
	f := edge.Formats{Profile: edge.Profile, Activations: map[string]fixed.Format{}, Weights: map[string]fixed.Format{}}
	p := &model.Params{}
	for i, v := range n.Nodes {
		f.Activations[v.Name] = activation[i%len(activation)]
		if len(v.Inputs) > 0 && edge.Follows(v.Op) {
			f.Activations[v.Name] = f.Activations[n.Nodes[v.Inputs[0]].Name]
		}
		s := rng.New(seed, rng.Test, uint64(i))
		for _, q := range v.Params {
			if q.Role == net.Bias {
				b := make([]int32, q.Len())
				for j := range b {
					b[j] = int32(s.Intn(1<<40+uint64(j), 1<<20)) - 1<<19
				}
				p.Add(model.NewTensor(q.Name, q.Shape, b))
				continue
			}
			format := weight[i%len(weight)]
			f.Weights[q.Name] = format
			w := make([]int16, q.Len())
			for j := range w {
				w[j] = format.Quantise((s.Normal(uint64(j)) + mean) / 8)
			}
			p.Add(model.NewTensor(q.Name, q.Shape, w))
		}
	}
	if err := f.Set(p); err != nil {
		t.Fatal(err)
	}
	return p
}

func images(n *net.Network, seed uint64, count int) core.Batch {
	s, b := rng.New(seed, rng.Test, 99), core.Batch{N: count, Pixels: make([]float32, count*n.Input().Len())}
	for i := range b.Pixels {
		b.Pixels[i] = float32(s.Normal(uint64(i)))
	}
	return b
}

func training(batch int) core.Options {
	o := core.Options{MaxBatch: batch, Train: true, Optimizer: optim.Default(optim.SGD, 0), Seed: 7}
	o.Optimizer.Momentum = 0
	return o
}

func openEngine(t testing.TB, o Options, n *net.Network, c core.Options, p *model.Params) *engine {
	t.Helper()
	b, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	e, err := b.Compile(n, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	return e.(*engine)
}

// TestLayersAreTheirDefinition computes every node's output from its inputs' outputs, in exact integers by plain loops, and
// compares with ==.
func TestLayersAreTheirDefinition(t *testing.T) {
	compared := 0
	for _, n := range testNets(t) {
		for name, o := range ways() {
			t.Run(n.Name+", "+name, func(t *testing.T) {
				p := randomParams(t, n, 1, 0.5)
				e := openEngine(t, o, n, core.Options{MaxBatch: 3}, p)
				x := images(n, 2, 3)
				backendtest.Trace(t, e, x, core.Probe{}) // which leaves every output behind; Infer skips some
				logits := e.logits(x.N, n.Output().C)
				for i, v := range n.Nodes {
					if i == 0 {
						continue
					}
					for j, want := range definition(t, e, i, p, x.N) {
						if got := e.out[i][j]; got != want {
							t.Fatalf("%s[%d] = %d, want %d", v.Name, j, got, want)
						}
						compared++
					}
				}
				fused, err := e.Infer(context.Background(), x)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(fused.Values, logits.Values) {
					t.Error("inference gives other logits than the trace")
				}
			})
		}
	}
	if compared < 1000 {
		t.Errorf("only %d outputs compared", compared)
	}
}

// definition is a node's output from its inputs' by the plainest loops.
func definition(t *testing.T, e *engine, node int, p *model.Params, batch int) []int16 {
	v := e.net.Nodes[node]
	x, in := e.out[v.Inputs[0]], v.In
	to, from := e.format(node), e.format(v.Inputs[0])
	y := make([]int16, 0, batch*v.Out.Len())
	round := func(sum int64, frac int) int16 { return to.Saturate(fixed.RoundShift(sum, frac-to.Frac)) }
	for b := range batch {
		for i := range v.Out.H {
			for j := range v.Out.W {
				for c := range v.Out.C {
					at := func(row, col, channel int) int64 {
						return int64(x[((b*in.H+row)*in.W+col)*in.C+channel])
					}
					switch op := v.Op.(type) {
					case net.Conv2D:
						y = append(y, round(windowSum(t, op.Window, v, 0, c, i, j, at, p), from.Frac+e.formats.Weights[v.Params[0].Name].Frac))
					case net.LC2D:
						y = append(y, round(windowSum(t, op.Window, v, i*v.Out.W+j, c, i, j, at, p), from.Frac+e.formats.Weights[v.Params[0].Name].Frac))
					case net.Linear:
						sum := int64(ints32(t, p, v.Params[1].Name)[c])
						for k := range in.C {
							sum += int64(ints16(t, p, v.Params[0].Name)[c*in.C+k]) * at(0, 0, k)
						}
						y = append(y, round(sum, from.Frac+e.formats.Weights[v.Params[0].Name].Frac))
					case net.ReLU:
						y = append(y, int16(max(at(i, j, c), 0)))
					case net.Add:
						other := int64(e.out[v.Inputs[1]][len(y)])
						fb := e.format(v.Inputs[1]).Frac
						y = append(y, round(at(i, j, c)<<(20-from.Frac)+other<<(20-fb), 20))
					case net.MaxPool:
						best := int64(math.MinInt64)
						rowLo, rowHi := op.Span(i, in.H)
						colLo, colHi := op.Span(j, in.W)
						for u := rowLo; u < rowHi; u++ {
							for w := colLo; w < colHi; w++ {
								best = max(best, at(i*op.Stride-(op.Kernel-1)/2+u, j*op.Stride-(op.Kernel-1)/2+w, c))
							}
						}
						y = append(y, int16(best))
					case net.GlobalAvgPool:
						sum := int64(0)
						for u := range in.H {
							for w := range in.W {
								sum += at(u, w, c)
							}
						}
						// Exact rounding of the quotient; the multiplier's error of 2^-31 could tip a midpoint, which no quotient
						// by these sizes comes near without being one.
						n := int64(in.H * in.W)
						if shift := to.Frac - from.Frac; shift >= 0 {
							y = append(y, to.Saturate(fixed.DivideRound(sum<<shift, n)))
						} else {
							y = append(y, to.Saturate(fixed.DivideRound(sum, n<<-shift)))
						}
					case net.Transpose:
						position, channel := i*v.Out.W+j, c
						y = append(y, int16(at(channel/in.W, channel%in.W, position)))
					}
				}
			}
		}
	}
	return y
}

func windowSum(t *testing.T, w net.Window, v net.Node, position, channel, i, j int, at func(row, col, c int) int64, p *model.Params) int64 {
	sum := int64(0)
	row := position*w.Out + channel
	if w.Bias {
		sum = int64(ints32(t, p, v.Params[1].Name)[row])
	}
	per := v.In.C / w.Groups
	weights := ints16(t, p, v.Params[0].Name)
	for u := range w.Kernel {
		for s := range w.Kernel {
			r, c := i*w.Stride-w.Pad()+u, j*w.Stride-w.Pad()+s
			if r < 0 || r >= v.In.H || c < 0 || c >= v.In.W {
				continue
			}
			for k := range per {
				sum += int64(weights[((row*w.Kernel+u)*w.Kernel+s)*per+k]) * at(r, c, channel/(w.Out/w.Groups)*per+k)
			}
		}
	}
	return sum
}

func ints16(t *testing.T, p *model.Params, name string) []int16 {
	v, err := p.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return v.Data.([]int16)
}

func ints32(t *testing.T, p *model.Params, name string) []int32 {
	v, err := p.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return v.Data.([]int32)
}
