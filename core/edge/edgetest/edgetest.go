// Package edgetest makes integer parameters and package files for tests.
package edgetest

import (
	"bytes"
	"testing"

	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/rng"
)

// Params draws parameters for a folded network, normal numbers of mean and deviation 1/8, and converts them with formats for
// activations up to largest.
func Params(t testing.TB, n *net.Network, largest float64) *model.Params {
	t.Helper()
	p, ranges := &model.Params{}, edge.Ranges{}
	for i, v := range n.Nodes {
		s := rng.New(1, rng.Test, uint64(i))
		ranges[v.Name] = largest
		for k, q := range v.Params {
			w := make([]float64, q.Len())
			for j := range w {
				w[j] = (s.Normal(uint64(k<<20+j)) + 1) / 8
			}
			p.Add(model.NewTensor(q.Name, q.Shape, w))
		}
	}
	converted, _, err := edge.Convert(n, p, ranges, edge.ConvertOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if converted, err = converted.Snapshot(); err != nil {
		t.Fatal(err)
	}
	return converted
}

// File is a package file.
func File(t testing.TB, m edge.Manifest, p *model.Params, o edge.PackOptions) []byte {
	t.Helper()
	all, err := edge.Pack(m, p, o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := model.Write(&b, all); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
