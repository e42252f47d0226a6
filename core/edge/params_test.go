package edge_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// drifted gives every position of a locally connected layer its group's first row, and noise of at most so many units
// in the last place on the weights.
func drifted(t testing.TB, n *net.Network, p *model.Params, noise int) *model.Params {
	t.Helper()
	all := &model.Params{Meta: p.Meta}
	for i, v := range n.Nodes {
		for _, q := range v.Params {
			x, err := p.Get(q.Name)
			if err != nil {
				t.Fatal(err)
			}
			op, lc := v.Op.(net.LC2D)
			if !lc {
				all.Add(x)
				continue
			}
			per := q.Len() / (v.Out.H * v.Out.W)
			for _, g := range (sleep.Layer{Node: i, Window: op.Window, In: v.In, Out: v.Out}).Grids(sleep.BorderShares) {
				for _, at := range g.Positions {
					switch d := x.Data.(type) {
					case []int32:
						copy(d[at*per:(at+1)*per], d[g.Positions[0]*per:])
					case []int16:
						limit := formats(t, p).Weights[q.Name].Max() - int16(noise)
						for j := range per {
							d[at*per+j] = min(max(d[g.Positions[0]*per+j], -limit), limit)
						}
					}
				}
			}
			if d, ok := x.Data.([]int16); ok && noise > 0 {
				for j := range d {
					d[j] += int16((j*7919)%(2*noise+1) - noise)
				}
			}
			all.Add(x)
		}
	}
	return all
}

func formats(t testing.TB, p *model.Params) edge.Formats {
	t.Helper()
	f, err := edge.FormatsOf(p)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// must ends the test at an error.
func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func snapshot(t testing.TB, p *model.Params) *model.Params {
	t.Helper()
	s, err := p.Snapshot()
	return must(t, s, err)
}

func expanded(t testing.TB, n *net.Network, p *model.Params) *model.Params {
	t.Helper()
	full, err := edge.Expand(n, p)
	return snapshot(t, must(t, full, err))
}

// sameNumbers compares full parameters.
func sameNumbers(t *testing.T, n *net.Network, what string, got, want *model.Params) {
	t.Helper()
	for _, q := range n.Params() {
		a, err := got.Get(q.Name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := want.Get(q.Name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.Shape, b.Shape) || !bytes.Equal(littleEndian(t, a), littleEndian(t, b)) {
			t.Errorf("%s: %s: %s differs", n.Name, what, q.Name)
		}
	}
}

func littleEndian(t testing.TB, v model.Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, v.Data); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// digest is Digest by its definition.
func digest(t testing.TB, n *net.Network, full *model.Params) [sha256.Size]byte {
	t.Helper()
	var b bytes.Buffer
	for _, q := range n.Params() {
		v, err := full.Get(q.Name)
		if err != nil {
			t.Fatal(err)
		}
		head := []any{uint32(len(q.Name)), []byte(q.Name), uint32(len(q.Shape))}
		for _, d := range q.Shape {
			head = append(head, uint32(d))
		}
		for _, h := range append(head, v.Data) {
			if err := binary.Write(&b, binary.LittleEndian, h); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sha256.Sum256(b.Bytes())
}

func digestOf(t testing.TB, n *net.Network, p *model.Params) [sha256.Size]byte {
	t.Helper()
	d, err := edge.Digest(n, p)
	return must(t, d, err)
}

func has(p *model.Params, suffix string) int {
	return len(slices.DeleteFunc(p.Infos(), func(i model.Info) bool { return !strings.HasSuffix(i.Name, suffix) }))
}

// TestConsolidate: layers whose groups are equal take one row a group, the numbers, the digest and what the engine
// computes stay the same; other layers stay as they are.
func TestConsolidate(t *testing.T) {
	layers := 0
	for _, n := range networks(t) {
		c := convert(t, n, edge.ConvertOptions{})
		equal := drifted(t, c.net, c.integer, 0)
		small, err := edge.Consolidate(c.net, equal)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range sleep.Layers(c.net) {
			period := l.Period()
			info := slices.IndexFunc(small.Infos(), func(i model.Info) bool { return i.Name == l.Name+".weight"+edge.GroupsSuffix })
			if info < 0 || small.Infos()[info].Len() != period*period*l.Out.C*l.K {
				t.Errorf("%s: %s is not consolidated", n.Name, l.Name)
			}
			layers++
		}
		sameNumbers(t, c.net, "consolidated", expanded(t, c.net, small), equal)
		if got, want := digestOf(t, c.net, small), digest(t, c.net, equal); got != want || digestOf(t, c.net, equal) != want {
			t.Errorf("%s: digest %x, want %x", n.Name, got, want)
		}
		loadable, err := edge.Loadable(c.net, small)
		if err != nil {
			t.Fatal(err)
		}
		if has(loadable, edge.GroupsSuffix) != has(small, edge.GroupsSuffix) {
			t.Errorf("%s: Loadable expands", n.Name)
		}
		a := trace(t, engine(t, integers(t), c.net, equal), c.examples)
		b := trace(t, engine(t, integers(t), c.net, loadable), c.examples)
		for name := range a {
			if !slices.Equal(a[name], b[name]) {
				t.Errorf("%s: %s differs", n.Name, name)
			}
		}
		again, err := edge.Consolidate(c.net, small)
		if err != nil || has(again, edge.GroupsSuffix) != has(small, edge.GroupsSuffix) {
			t.Errorf("%s: consolidated twice: %v", n.Name, err)
		}
		for _, l := range sleep.Layers(c.net) { // one weight that differs, and the layer stays
			other := snapshot(t, equal)
			w, err := other.Get(l.Name + ".weight")
			if err != nil {
				t.Fatal(err)
			}
			last := w.Data.([]int16)[w.Len()-1:]
			last[0] ^= 1
			mixed, err := edge.Consolidate(c.net, other)
			if err != nil {
				t.Fatal(err)
			}
			alone := l.Out.H <= l.Period() && l.Out.W <= l.Period() // a group of one
			if mixed.Has(l.Name+".weight") == alone {
				t.Errorf("%s: %s consolidated: %t, groups of one: %t", n.Name, l.Name, !mixed.Has(l.Name+".weight"), alone)
			}
			sameNumbers(t, c.net, "mixed", expanded(t, c.net, mixed), other)
		}
	}
	if layers != 4+2+1 {
		t.Errorf("%d layers", layers)
	}
}

// TestResidual: the numbers come back within 2^(shift-1), the same where the shift is 0.
func TestResidual(t *testing.T) {
	layers, lossless := 0, 0
	for _, n := range networks(t) {
		for _, noise := range []int{0, 5, 60, 200, 900} {
			c := convert(t, n, edge.ConvertOptions{})
			p := drifted(t, c.net, c.integer, noise)
			r, err := edge.Residual(c.net, p, 3)
			if err != nil {
				t.Fatal(err)
			}
			full := expanded(t, c.net, r)
			for _, l := range sleep.Layers(c.net) {
				name := l.Name + ".weight"
				got, err := full.Get(name)
				if err != nil {
					t.Fatal(err)
				}
				want, err := p.Get(name)
				if err != nil {
					t.Fatal(err)
				}
				bound := int64(0)
				if r.Has(name + edge.ResidualSuffix) {
					s, err := r.Get(name + edge.ResidualShiftSuffix)
					if err != nil {
						t.Fatal(err)
					}
					shift := s.Data.([]int8)[0]
					if shift > 3 || r.Has(name) || !r.Has(name+edge.GroupsSuffix) {
						t.Errorf("%s: shift %d", name, shift)
					}
					if shift > 0 {
						bound = 1 << (shift - 1)
					} else {
						lossless++
					}
					layers++
				}
				for i, v := range want.Data.([]int16) {
					if d := int64(got.Data.([]int16)[i]) - int64(v); d > bound || d < -bound {
						t.Fatalf("%s: weight %d is off by %d, bound %d", name, i, d, bound)
					}
				}
			}
			loadable, err := edge.Loadable(c.net, r)
			if err != nil {
				t.Fatal(err)
			}
			engine(t, integers(t), c.net, loadable)
			if digestOf(t, c.net, r) != digest(t, c.net, full) {
				t.Errorf("%s: the digest is not that of the expanded numbers", n.Name)
			}
		}
	}
	if layers < 15 || lossless < 8 || lossless == layers {
		t.Errorf("%d layers in residual form, %d of them without loss", layers, lossless)
	}
}

// TestInt8: 8 bits and a shift are int16 weights, each within half of 2^shift units of the float weight.
func TestInt8(t *testing.T) {
	weights := 0
	for _, n := range networks(t) {
		c := convert(t, n, edge.ConvertOptions{Int8: true})
		full := expanded(t, c.net, c.integer)
		if digestOf(t, c.net, c.integer) != digest(t, c.net, full) {
			t.Errorf("%s: the digest depends on the form", n.Name)
		}
		for _, v := range c.net.Nodes {
			if len(v.Params) == 0 {
				continue
			}
			name := v.Params[0].Name
			s, err := c.integer.Get(name + edge.ShiftsSuffix)
			if err != nil {
				t.Fatal(err)
			}
			got, err := full.Get(name)
			if err != nil {
				t.Fatal(err)
			}
			shifts, f := s.Data.([]int8), c.formats.Weights[name]
			k := got.Len() / v.Out.C
			if _, ok := v.Op.(net.LC2D); ok {
				k /= v.Out.H * v.Out.W
			}
			report := c.report[slices.IndexFunc(c.report, func(l edge.Conversion) bool { return l.Layer == v.Name })]
			if report.Narrow && !fixed.NarrowSum(largestNorm(got.Data.([]int16), v), report.Input.Max()) {
				t.Errorf("%s: sums do not fit an int32", v.Name)
			}
			for i, x := range float64s(t, c.float, name) {
				shift := shifts[i/k%v.Out.C]
				w := got.Data.([]int16)[i]
				if diff := math.Abs(f.Float(int64(w)) - x); !(diff <= math.Ldexp(f.Unit()/2, int(shift))) || w%(1<<shift) != 0 || w > f.Max() || w < -f.Max() {
					t.Fatalf("%s: weight %d is %d, shift %d, off by %g", name, i, w, shift, diff)
				}
				weights++
			}
		}
	}
	if weights < 10000 {
		t.Errorf("only %d weights", weights)
	}
}

// TestFloat: the float twin has the numbers that the integers stand for.
func TestFloat(t *testing.T) {
	for _, n := range networks(t) {
		c := convert(t, n, edge.ConvertOptions{})
		twin, err := edge.Float(c.net, c.integer)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range c.report {
			i, _ := c.net.Node(l.Layer)
			for _, q := range c.net.Nodes[i].Params {
				x := float64s(t, twin, q.Name)
				w, err := c.integer.Get(q.Name)
				if err != nil {
					t.Fatal(err)
				}
				for j := range x {
					var want float64
					switch d := w.Data.(type) {
					case []int16:
						want = l.Weights.Float(int64(d[j]))
					case []int32:
						want = fixed.Format{Frac: l.Input.Frac + l.Weights.Frac}.Float(int64(d[j]))
					}
					if x[j] != want {
						t.Fatalf("%s[%d] = %g, want %g", q.Name, j, x[j], want)
					}
				}
			}
		}
		if _, err := engine(t, integers(t), c.net, c.integer).Infer(context.Background(), c.examples); err != nil {
			t.Error(err)
		}
	}
}

// TestFormsRefused: tensors of another type or shape, and layers in two forms at once, are named.
func TestFormsRefused(t *testing.T) {
	c := convert(t, networks(t)[0], edge.ConvertOptions{})
	equal := drifted(t, c.net, c.integer, 0)
	small, err := edge.Consolidate(c.net, equal)
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(p *model.Params, name string, with ...model.Tensor) *model.Params {
		all := &model.Params{Meta: p.Meta}
		for v, err := range p.All() {
			if err != nil {
				t.Fatal(err)
			}
			if v.Name != name {
				all.Add(v)
			}
		}
		for _, v := range with {
			all.Add(v)
		}
		return all
	}
	bias, err := equal.Get("stem.bias")
	if err != nil {
		t.Fatal(err)
	}
	plain := networks(t)[0]
	for _, x := range []struct {
		n    *net.Network
		p    *model.Params
		want string
	}{
		{c.net, replaced(equal, "stem.weight"), `tensor "stem.weight" is missing`},
		{c.net, replaced(equal, "stem.weight", model.NewTensor("stem.weight", []int{3}, []int16{1, 2, 3})), `tensor "stem.weight" is I16 [3], want I16 [6 6 8 3 3 3]`},
		{c.net, replaced(equal, "linear.bias", model.NewTensor("linear.bias", []int{5}, make([]float64, 5))), `tensor "linear.bias" is F64 [5], want I32 [5]`},
		{c.net, replaced(small, "stem.bias.groups", bias), `layer "stem": weights and biases are not in one form`},
		{c.net, replaced(equal, "stem.weight", model.NewTensor("stem.weight.int8", bias.Shape, make([]int8, bias.Len()))), `tensor "stem.weight.int8" is I8`},
		{c.net, &model.Params{}, "no number formats"},
		{plain, equal, `layer "stem.bn" has no number format`},
	} {
		if _, err := edge.Expand(x.n, x.p); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("error %v, want %q", err, x.want)
		}
	}
}
