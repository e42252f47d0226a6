package backendtest

import (
	"context"
	"fmt"
	"testing"

	"hypnos/core"
	"hypnos/core/net"
)

// learnsFrom: with Options.LearnFrom a step leaves what is before that layer as it is, bit for bit, and changes what is
// from it on as it does without.
func (c Config) learnsFrom(t *testing.T) {
	b := c.open(t)
	n, err := net.ByName("resnet8-lc", net.Options{Input: 8, Width: 4, Classes: 3})
	if err != nil {
		t.Fatal(err)
	}
	p := randomParams(n, 21)
	x, y := Batch(4, numbers(22, 4*n.Input().Len())), core.Labels{0, 1, 2, 0}
	learned := func(from string) map[string][]float64 {
		o := training(4)
		o.LearnFrom = from
		e := compile(t, b, n, o, p)
		if _, err := e.Wake(context.Background(), x, y, 0.01); err != nil {
			t.Fatal(err)
		}
		return state(t, n, e)
	}
	all, before := learned(""), state(t, n, compile(t, b, n, training(4), p))
	for _, from := range []string{"linear", "stage3.block1.conv1", "stem.conv"} {
		first, _ := n.Node(from)
		kept, changed := 0, 0
		part := learned(from)
		for i, v := range n.Nodes {
			for _, q := range v.Params {
				if i < first {
					same(t, fmt.Sprintf("from %s: %s", from, q.Name), part[q.Name], before[q.Name])
					kept++
				} else {
					same(t, fmt.Sprintf("from %s: %s", from, q.Name), part[q.Name], all[q.Name])
					changed++
				}
			}
		}
		if changed == 0 || kept == 0 && first > 1 {
			t.Errorf("from %s: %d parameters kept, %d changed", from, kept, changed)
		}
	}
	o := training(4)
	o.LearnFrom = "nowhere"
	if _, err := b.Compile(n, o); err == nil {
		t.Error("a layer that is not there was taken to learn from")
	}
}

// state is every parameter of an engine.
func state(t *testing.T, n *net.Network, e core.Engine) map[string][]float64 {
	t.Helper()
	p, err := e.Save()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]float64{}
	for _, q := range n.Params() {
		all[q.Name] = values(t, p, q.Name)
	}
	return all
}
