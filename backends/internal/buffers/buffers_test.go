package buffers

import (
	"testing"

	"hypnos/core/net"
)

// In every built-in network, whatever is fused, a node that is computed finds its inputs in their buffers, not yet written
// over, and the buffers are large enough.
func TestInferenceFindsItsInputs(t *testing.T) {
	checked, fused := 0, 0
	for _, name := range net.Names() {
		n, err := net.ByName(name, net.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for what, begins := range map[string]func(net.Op) bool{
			"nothing":     func(net.Op) bool { return false },
			"batch norms": func(op net.Op) bool { _, ok := op.(net.BatchNorm); return ok },
			"spatial layers": func(op net.Op) bool {
				_, conv := op.(net.Conv2D)
				_, lc := op.(net.LC2D)
				return conv || lc
			},
		} {
			then, absorbed := Fusions(n, begins)
			p := Infer(n, then, absorbed)
			owner := map[int]int{} // by buffer: the node whose output is there
			for i, v := range n.Nodes {
				if absorbed[i] {
					fused++
					continue
				}
				reads := append([]int(nil), v.Inputs...)
				if then[i].Other != None {
					reads = append(reads, then[i].Other)
				}
				for _, from := range reads {
					if at := p.Out[from]; owner[at] != from {
						t.Errorf("%s, %s fused: layer %q finds the output of %q instead of %q", name, what, v.Name, n.Nodes[owner[at]].Name, n.Nodes[from].Name)
					}
					checked++
				}
				last := then[i].Last
				if owner[p.Out[last]] = last; p.Sizes[p.Out[last]] < n.Nodes[last].Out.Len() {
					t.Errorf("%s, %s fused: the output of %q does not fit its buffer", name, what, n.Nodes[last].Name)
				}
			}
		}
	}
	if checked < 500 || fused < 100 {
		t.Errorf("only %d inputs checked, %d nodes fused", checked, fused)
	}
}

// Fusions end where something else reads what is in between, and take batch norm, sum and rectifier in that order only.
func TestFusions(t *testing.T) {
	b := net.NewBuilder("fusions")
	x := b.Input(net.Shape{H: 2, W: 2, C: 3})
	norm := b.BatchNorm("norm", x)
	relu := b.ReLU("relu", b.Sum("sum", norm, x))
	shared := b.BatchNorm("shared", relu) // read twice
	b.Sum("out", b.ReLU("relu2", shared), shared)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	then, absorbed := Fusions(n, func(op net.Op) bool { _, ok := op.(net.BatchNorm); return ok })
	if want := (Fusion{Norm: int(norm), Other: int(x), ReLU: true, Last: int(relu)}); then[norm] != want {
		t.Errorf("%+v behind the first batch norm, want %+v", then[norm], want)
	}
	if want := (Fusion{Norm: int(shared), Other: None, Last: int(shared)}); then[shared] != want {
		t.Errorf("%+v behind a batch norm that two layers read, want %+v", then[shared], want)
	}
	for i, is := range absorbed {
		if want := i == int(norm)+1 || i == int(relu); is != want {
			t.Errorf("layer %q: absorbed %v, want %v", n.Nodes[i].Name, is, want)
		}
	}
}
