package edge_test

import (
	"context"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
)

func batches(x ...core.Batch) iter.Seq[core.Batch] { return slices.Values(x) }

func TestCalibrate(t *testing.T) {
	compared := 0
	for _, n := range networks(t) {
		folded, q := fold(t, n, randomParams(n, 1, false))
		e := engine(t, ref.Open(), folded, q)
		x, y := images(n, 2, 3), images(n, 3, 16)
		r, err := edge.Calibrate(context.Background(), folded, e, batches(x, y))
		if err != nil {
			t.Fatal(err)
		}
		want := edge.Ranges{}
		for _, b := range []core.Batch{x, y} {
			for name, v := range trace(t, e, b) {
				for _, a := range v {
					want[name] = max(want[name], math.Abs(a))
				}
			}
		}
		for _, v := range folded.Nodes {
			if r[v.Name] != want[v.Name] || r[v.Name] == 0 {
				t.Errorf("%s: %s up to %g, want %g", n.Name, v.Name, r[v.Name], want[v.Name])
			}
			compared++
		}
		if len(r) != len(folded.Nodes) {
			t.Errorf("%s: %d ranges of %d layers", n.Name, len(r), len(folded.Nodes))
		}
	}
	if compared < 30 {
		t.Errorf("only %d ranges compared", compared)
	}
}

func TestCalibrateRefuses(t *testing.T) {
	n := networks(t)[3]
	folded, q := fold(t, n, randomParams(n, 1, false))
	dead := scaled(t, folded, q, map[string]float64{"layer.weight": 0})
	constant, spoilt := images(n, 1, 2), images(n, 1, 2)
	for i := range constant.Pixels {
		constant.Pixels[i] = float32(i % 3)
	}
	spoilt.Pixels[7] = float32(math.NaN())
	stopped, stop := context.WithCancel(context.Background())
	stop()
	for _, c := range []struct {
		ctx  context.Context
		p    *model.Params
		x    []core.Batch
		want string
	}{
		{context.Background(), q, nil, "no images"},
		{context.Background(), q, []core.Batch{constant, constant}, "constant images: all pixels of all 4 are the same"},
		{context.Background(), q, []core.Batch{spoilt}, `layer "input" are not finite`},
		{context.Background(), dead, []core.Batch{images(n, 1, 2)}, `layer "layer" gives nothing but 0 for 2 images`},
		{stopped, q, []core.Batch{images(n, 1, 2)}, "canceled"},
	} {
		if _, err := edge.Calibrate(c.ctx, folded, engine(t, ref.Open(), folded, c.p), batches(c.x...)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

func fold(t testing.TB, n *net.Network, p *model.Params) (*net.Network, *model.Params) {
	t.Helper()
	folded, q, err := edge.Fold(n, p)
	if err != nil {
		t.Fatal(err)
	}
	return folded, q
}

// scaled multiplies parameters.
func scaled(t testing.TB, n *net.Network, p *model.Params, by map[string]float64) *model.Params {
	t.Helper()
	all := &model.Params{}
	for _, q := range n.Params() {
		x := slices.Clone(float64s(t, p, q.Name))
		if s, ok := by[q.Name]; ok {
			for i := range x {
				x[i] *= s
			}
		}
		all.Add(model.NewTensor(q.Name, q.Shape, x))
	}
	return all
}

// converted is a folded network with its float and its integer parameters.
type converted struct {
	net      *net.Network
	float    *model.Params
	ranges   edge.Ranges
	integer  *model.Params
	formats  edge.Formats
	report   []edge.Conversion
	examples core.Batch
}

func convert(t testing.TB, n *net.Network, o edge.ConvertOptions) converted {
	t.Helper()
	var c converted
	c.net, c.float = fold(t, n, randomParams(n, 1, false))
	return c.convert(t, o)
}

// convert converts the float parameters anew.
func (c converted) convert(t testing.TB, o edge.ConvertOptions) converted {
	t.Helper()
	c.examples = images(c.net, 2, 8)
	var err error
	if c.ranges, err = edge.Calibrate(context.Background(), c.net, engine(t, ref.Open(), c.net, c.float), batches(c.examples)); err != nil {
		t.Fatal(err)
	}
	if c.integer, c.report, err = edge.Convert(c.net, c.float, c.ranges, o); err != nil {
		t.Fatal(err)
	}
	if c.formats, err = edge.FormatsOf(c.integer); err != nil {
		t.Fatal(err)
	}
	if err := c.formats.Check(c.net); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestConvert: every integer is the nearest to its number in a format that leaves the room that Convert promises, and
// sums that are called narrow are.
func TestConvert(t *testing.T) {
	layers := 0
	for _, n := range networks(t) {
		c := convert(t, n, edge.ConvertOptions{})
		for name, f := range c.formats.Activations {
			if f.Bits() > edge.ActivationBits {
				t.Errorf("%s: %s has %v", n.Name, name, f)
			}
			// A rectifier has its input's format, whose range is at least its own.
			if limit := f.Float(int64(f.Max()) + 1); !(edge.Headroom*c.ranges[name] <= limit) {
				t.Errorf("%s: %s up to %g has %v", n.Name, name, c.ranges[name], f)
			}
		}
		for _, l := range c.report {
			i, _ := c.net.Node(l.Layer)
			v := c.net.Nodes[i]
			f := c.formats.Weights[v.Params[0].Name]
			if f != l.Weights || f.Bits() > fixed.WordBits || !(2*l.Largest <= f.Float(int64(f.Max())+1)) {
				t.Errorf("%s: weights up to %g have %v, reported %v", v.Name, l.Largest, f, l.Weights)
			}
			w, err := c.integer.Get(v.Params[0].Name)
			if err != nil {
				t.Fatal(err)
			}
			for j, x := range float64s(t, c.float, v.Params[0].Name) {
				if diff := math.Abs(f.Float(int64(w.Data.([]int16)[j])) - x); !(diff <= f.Unit()/2) {
					t.Fatalf("%s: weight %d is off by %g", v.Name, j, diff)
				}
			}
			if len(v.Params) == 2 {
				b, err := c.integer.Get(v.Params[1].Name)
				if err != nil {
					t.Fatal(err)
				}
				f := fixed.Format{Frac: l.Input.Frac + l.Weights.Frac}
				for j, x := range float64s(t, c.float, v.Params[1].Name) {
					if diff := math.Abs(f.Float(int64(b.Data.([]int32)[j])) - x); !(diff <= f.Unit()/2) {
						t.Fatalf("%s: bias %d is off by %g", v.Name, j, diff)
					}
				}
			}
			if narrow := fixed.NarrowSum(largestNorm(w.Data.([]int16), v), l.Input.Max()); l.Narrow && !narrow || l.Narrow == (l.Why != "") {
				t.Errorf("%s: narrow %t (%s), it is %t", v.Name, l.Narrow, l.Why, narrow)
			}
			layers++
		}
	}
	if layers != 5+5+3+2 {
		t.Errorf("%d layers", layers)
	}
}

// largestNorm is the largest Σ|w| of a layer's neurons.
func largestNorm(w []int16, v net.Node) int64 {
	k := v.Params[0].Len() / v.Out.C
	if _, ok := v.Op.(net.LC2D); ok {
		k /= v.Out.H * v.Out.W
	}
	largest := int64(0)
	for row := range len(w) / k {
		norm := int64(0)
		for _, x := range w[row*k : (row+1)*k] {
			norm += max(int64(x), -int64(x))
		}
		largest = max(largest, norm)
	}
	return largest
}

// TestIntegerOutputs: the integer engine is as near to the float twin as roundings allow. A layer rounds its output by
// at most half a unit and carries an error of its input on by at most the largest Σ|w| of a neuron; sums add up their
// inputs' errors, means, rectifiers, pools and transposes do not enlarge them. Nothing saturates: the images are those
// of the calibration. (The twin's own rounding, in float64, is below 2^-30 of a unit.)
func TestIntegerOutputs(t *testing.T) {
	compared := 0
	for _, n := range networks(t) {
		for _, o := range []edge.ConvertOptions{{}, {Bits: 15}, {Bits: 8, Headroom: 3}, {Int8: true}} {
			c := convert(t, n, o)
			twin, err := edge.Float(c.net, c.integer)
			if err != nil {
				t.Fatal(err)
			}
			p, err := edge.Expand(c.net, c.integer)
			if err != nil {
				t.Fatal(err)
			}
			want := trace(t, engine(t, ref.Open(), c.net, twin), c.examples)
			got := trace(t, engine(t, integers(t), c.net, p), c.examples)
			bounds := make([]float64, len(c.net.Nodes))
			for i, v := range c.net.Nodes {
				for _, from := range v.Inputs {
					bounds[i] += bounds[from]
				}
				if len(v.Params) > 0 {
					w, err := p.Get(v.Params[0].Name)
					if err != nil {
						t.Fatal(err)
					}
					bounds[i] *= c.formats.Weights[w.Name].Float(largestNorm(w.Data.([]int16), v))
				}
				if !edge.Follows(v.Op) {
					bounds[i] += c.formats.Activations[v.Name].Unit() / 2
				}
				for j, x := range want[v.Name] {
					if diff := math.Abs(got[v.Name][j] - x); !(diff <= bounds[i]*(1+0x1p-20)) {
						t.Fatalf("%s, %+v: %s[%d] = %g, want %g, bound %g", n.Name, o, v.Name, j, got[v.Name][j], x, bounds[i])
					}
					compared++
				}
			}
		}
	}
	if compared < 10000 {
		t.Errorf("only %d outputs compared", compared)
	}
}

// TestConvertRefuses: what has no format is an error that names the tensor or the layer.
func TestConvertRefuses(t *testing.T) {
	n := networks(t)[0]
	c := convert(t, n, edge.ConvertOptions{})
	ranges := func(layer string, v float64) edge.Ranges {
		r := edge.Ranges{}
		for name, x := range c.ranges {
			if r[name] = x; name == layer {
				r[name] = v
			}
		}
		return r
	}
	missing := ranges("add", 1)
	delete(missing, "add")
	folded := c.net
	for _, c := range []struct {
		p    *model.Params
		r    edge.Ranges
		want string
	}{
		{scaled(t, c.net, c.float, map[string]float64{"conv1.weight": 1e6}), c.ranges, `"conv1.weight": fixed: numbers up to`},
		{scaled(t, c.net, c.float, map[string]float64{"conv1.weight": math.Inf(1)}), c.ranges, `"conv1.weight" is not finite`},
		{scaled(t, c.net, c.float, map[string]float64{"conv1.bias": 1e9}), c.ranges, `"conv1.bias": biases up to`},
		{c.float, ranges("conv2", 1e6), `activations of layer "conv2"`},
		{c.float, ranges("conv2", math.NaN()), `activations of layer "conv2"`},
		{c.float, missing, `layer "add" has no calibrated range`},
		{&model.Params{}, c.ranges, `tensor "stem.weight" is missing`},
	} {
		if _, _, err := edge.Convert(folded, c.p, c.r, edge.ConvertOptions{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// TestSumsThatDoNotFit: a layer whose sums cannot fit an int32 with fine enough weights keeps them, and says so.
func TestSumsThatDoNotFit(t *testing.T) {
	n := network(t, "long", net.Shape{H: 8, W: 8, C: 64}, func(b *net.Builder, x net.Ref) net.Ref {
		return b.Conv2D("layer", x, net.Window{Out: 2, Kernel: 7, Stride: 1, Bias: true})
	})
	c := convert(t, n, edge.ConvertOptions{})
	if l := c.report[0]; l.Narrow || !strings.Contains(l.Why, "74 units") || l.Weights.Bits() < 14 {
		t.Errorf("%+v", l)
	}
	if l := c.report[1]; !l.Narrow || l.Why != "" {
		t.Errorf("%+v", l)
	}
}

func TestCompare(t *testing.T) {
	n := networks(t)[0]
	c := convert(t, n, edge.ConvertOptions{})
	float, integer := engine(t, ref.Open(), c.net, c.float), engine(t, integers(t), c.net, c.integer)
	d, err := edge.Compare(context.Background(), c.net, c.formats, float, integer, batches(c.examples, c.examples))
	if err != nil {
		t.Fatal(err)
	}
	a, b := trace(t, float, c.examples), trace(t, integer, c.examples)
	for i, v := range c.net.Nodes {
		largest, squares, signal := 0.0, 0.0, 0.0
		for j, x := range a[v.Name] {
			diff := math.Abs(b[v.Name][j] - x)
			largest = max(largest, diff)
			squares += diff * diff / float64(len(a[v.Name]))
			signal += x * x / float64(len(a[v.Name]))
		}
		// Sums of some thousand squares in another order: relative 2^-53 times their number, below 1e-12.
		if d[i].Layer != v.Name || d[i].Largest != largest || d[i].Outputs != int64(2*len(a[v.Name])) || d[i].Saturated != 0 ||
			!(math.Abs(d[i].RMS-math.Sqrt(squares)) <= 1e-12*d[i].RMS) || !(math.Abs(d[i].Signal-math.Sqrt(signal)) <= 1e-12*d[i].Signal) {
			t.Errorf("%s: %+v, want largest %g, rms %g, signal %g", v.Name, d[i], largest, math.Sqrt(squares), math.Sqrt(signal))
		}
	}
	bright := images(n, 2, 8)
	for i := range bright.Pixels {
		bright.Pixels[i] *= 100
	}
	if d, err = edge.Compare(context.Background(), c.net, c.formats, float, integer, batches(bright)); err != nil || d[0].Saturated == 0 {
		t.Errorf("nothing saturates: %+v, %v", d[0], err)
	}
	if _, err := edge.Compare(context.Background(), c.net, c.formats, float, integer, batches()); err == nil || !strings.Contains(err.Error(), "no images") {
		t.Errorf("no images: %v", err)
	}
}
