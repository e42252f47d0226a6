package torch_test

import (
	"fmt"
	"reflect"
	"testing"

	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/torch"
)

// TestLayout: every element of every parameter stands where PyTorch looks for it, by indices in both layouts.
func TestLayout(t *testing.T) {
	b := net.NewBuilder("all kinds")
	x := b.Conv2D("conv", b.Input(net.Shape{H: 4, W: 6, C: 6}), net.Window{Out: 4, Kernel: 3, Stride: 1, Groups: 2, Bias: true})
	x = b.LC2D("lc", b.BatchNorm("bn", x), net.Window{Out: 6, Kernel: 3, Stride: 2, Groups: 2, Bias: true})
	b.Linear("linear", b.GlobalAvgPool("pool", x), 3)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	p := &model.Params{}
	for _, q := range n.Params() {
		v := make([]float64, q.Len())
		for i := range v {
			v[i] = float64(i) + 0.5
		}
		p.Add(model.NewTensor(q.Name, q.Shape, v))
	}
	all, err := torch.Params(n, p, data.Stats{}, []string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]int{
		"conv.weight": {4, 3, 3, 3}, "conv.bias": {4}, "bn.weight": {4}, "bn.bias": {4}, "bn.running_mean": {4}, "bn.running_var": {4},
		"lc.weight": {6, 6, 18}, "lc.bias": {6, 6}, "linear.weight": {3, 6}, "linear.bias": {3},
	}
	got := map[string][]int{}
	for _, i := range all.Infos() {
		if got[i.Name] = i.Shape; i.DType != model.F32 {
			t.Errorf("%s is %s", i.Name, i.DType)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("tensors %v, want %v", got, want)
	}
	values := func(name string) []float32 {
		v, err := all.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		return v.Data.([]float32)
	}
	checked := 0
	check := func(name string, at, from int) {
		if v := values(name)[at]; v != float32(from)+0.5 {
			t.Fatalf("%s[%d] is element %g, want %d", name, at, v-0.5, from)
		}
		checked++
	}
	const k, c = 3, 3 // of conv: channels a group; of lc 2
	for o := range 4 {
		for ch := range c {
			for r := range k {
				for s := range k {
					check("conv.weight", ((o*c+ch)*k+r)*k+s, ((o*k+r)*k+s)*c+ch)
				}
			}
		}
	}
	for l := range 6 {
		for o := range 6 {
			check("lc.bias", l*6+o, l*6+o)
			for ch := range 2 {
				for r := range k {
					for s := range k {
						check("lc.weight", (l*6+o)*18+(ch*k+r)*k+s, (((l*6+o)*k+r)*k+s)*2+ch)
					}
				}
			}
		}
	}
	for i := range 18 {
		check("linear.weight", i, i)
	}
	if checked < 700 {
		t.Errorf("only %d elements", checked)
	}
	if _, err := torch.Params(n, &model.Params{}, data.Stats{}, nil); err == nil {
		t.Error("parameters that are missing are not missed")
	}
	if m := all.Meta["hypnos.classes"]; m != fmt.Sprintf("%q", []string{"a", "b", "c"}) && m != `["a","b","c"]` {
		t.Errorf("classes %s", m)
	}
}
