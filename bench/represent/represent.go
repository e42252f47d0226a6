// Package represent compares what networks make of images: the similarity of their layers' representations, and how far a
// layer's response moves along when its input is shifted.
//
// With X (n, p) a layer's activations for n images, K = XXᵀ and HKH its centred form, the measures are
//
//	CKA       ⟨HKH, HLH⟩ / (‖HKH‖·‖HLH‖), linear: Kornblith et al., ICML 2019, Eq. 3 with Eq. 5's kernel XXᵀ
//	debiased  the same with the unbiased estimator of Song et al., JMLR 13 (2012), Eq. 5, in place of each product: the first is
//	          above 0 for unrelated layers wherever p is not small beside n
//	RSA       Spearman's correlation of the dissimilarities 1 - r of all pairs of images, r being Pearson's correlation of their
//	          activations: Kriegeskorte, Mur and Bandettini, Frontiers in Systems Neuroscience 2 (2008)
package represent

import (
	"context"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/stat"

	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/net"
)

// Representation is a layer's view of n images.
type Representation struct {
	Layer string
	n     int
	gram  []float64 // XXᵀ, (n, n)
	ranks []float64 // of the dissimilarities of the pairs i < j
}

// LeastImages is the smallest number of images that the unbiased estimator takes.
const LeastImages = 4

// Of returns the representations of the named layers for the first n images of a loader, in the order of the network. Batch norm uses
// its running statistics. Activations are held for all n images until their layer's products are made.
func Of(ctx context.Context, e core.Engine, n *net.Network, images *data.Loader, count int, layers []string) ([]*Representation, error) {
	if count < LeastImages || count > images.Images.Len() {
		return nil, fmt.Errorf("represent: %d images are outside %d…%d", count, LeastImages, images.Images.Len())
	}
	for _, name := range layers {
		if _, ok := n.Node(name); !ok {
			return nil, fmt.Errorf("represent: %s has no layer %q", n.Name, name)
		}
	}
	rows := map[string][][]float64{}
	seen := 0
	for m := range images.InOrder(ctx) {
		if m.Err != nil {
			return nil, m.Err
		}
		for t, err := range e.Trace(ctx, m.X, core.Probe{}) {
			if err != nil {
				return nil, err
			}
			name := t.Name[len("out/"):]
			if !slices.Contains(layers, name) {
				continue
			}
			v, err := t.Float64s()
			if err != nil {
				return nil, err
			}
			width := len(v) / m.X.N
			for i := range min(m.X.N, count-seen) {
				rows[name] = append(rows[name], slices.Clone(v[i*width:(i+1)*width]))
			}
		}
		if seen += min(m.X.N, count-seen); seen == count {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var all []*Representation
	for _, v := range n.Nodes {
		if x := rows[v.Name]; x != nil {
			all = append(all, newRepresentation(v.Name, x))
			delete(rows, v.Name)
		}
	}
	return all, nil
}

// newRepresentation makes the products of the rows of X.
func newRepresentation(layer string, x [][]float64) *Representation {
	n := len(x)
	r := &Representation{Layer: layer, n: n, gram: make([]float64, n*n)}
	var apart []float64
	for i := range n {
		for j := range i + 1 {
			r.gram[i*n+j] = floats.Dot(x[i], x[j])
			r.gram[j*n+i] = r.gram[i*n+j]
		}
		for j := range i {
			apart = append(apart, 1-correlation(x[i], x[j]))
		}
	}
	r.ranks = ranks(apart)
	return r
}

// correlation is Pearson's; of activations that are all equal it is 0.
func correlation(x, y []float64) float64 {
	if r := stat.Correlation(x, y, nil); !math.IsNaN(r) {
		return r
	}
	return 0
}

// ranks gives every number its place among all, equal ones the mean of theirs.
func ranks(x []float64) []float64 {
	order := make([]int, len(x))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		switch {
		case x[a] < x[b]:
			return -1
		case x[a] > x[b]:
			return 1
		}
		return a - b
	})
	r := make([]float64, len(x))
	for lo := 0; lo < len(order); {
		hi := lo + 1
		for hi < len(order) && x[order[hi]] == x[order[lo]] {
			hi++
		}
		for _, i := range order[lo:hi] {
			r[i] = float64(lo+hi-1) / 2
		}
		lo = hi
	}
	return r
}

// Similarity is how alike two layers' representations are.
type Similarity struct {
	A        string  `json:"a"` // layer of the first network
	B        string  `json:"b"`
	CKA      float64 `json:"cka"`
	Debiased float64 `json:"cka_debiased"`
	RSA      float64 `json:"rsa"`
}

// Compare compares two representations of the same images. A layer that gives the same for every image is like none: NaN
// becomes an error.
func Compare(a, b *Representation) (Similarity, error) {
	s := Similarity{A: a.Layer, B: b.Layer}
	if a.n != b.n {
		return s, fmt.Errorf("represent: layers %q and %q have seen %d and %d images", a.Layer, b.Layer, a.n, b.n)
	}
	x, y := centred(a.gram, a.n), centred(b.gram, b.n)
	s.CKA = floats.Dot(x, y) / math.Sqrt(floats.Dot(x, x)*floats.Dot(y, y))
	s.Debiased = unbiased(a.gram, b.gram, a.n) / math.Sqrt(unbiased(a.gram, a.gram, a.n)*unbiased(b.gram, b.gram, b.n))
	s.RSA = stat.Correlation(a.ranks, b.ranks, nil)
	for _, v := range []float64{s.CKA, s.Debiased, s.RSA} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return s, fmt.Errorf("represent: layers %q and %q: one tells the images not apart", a.Layer, b.Layer)
		}
	}
	return s, nil
}

// centred is HKH with H = I - 11ᵀ/n.
func centred(k []float64, n int) []float64 {
	means, all := make([]float64, n), 0.0
	for i := range n {
		means[i] = floats.Sum(k[i*n:(i+1)*n]) / float64(n)
		all += means[i] / float64(n)
	}
	c := make([]float64, len(k))
	for i := range n {
		for j := range n {
			c[i*n+j] = k[i*n+j] - means[i] - means[j] + all
		}
	}
	return c
}

// unbiased is the estimator of ⟨HKH, HLH⟩/(n-1)² from K̃ and L̃, K and L without their diagonals:
//
//	1/(n(n-3))·(tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n-1)(n-2)) - 2/(n-2)·1ᵀK̃L̃1)
func unbiased(k, l []float64, n int) float64 {
	var trace, both, sumK, sumL float64
	for i := range n {
		var rowK, rowL float64
		for j := range n {
			if i != j {
				trace += k[i*n+j] * l[i*n+j]
				rowK += k[i*n+j]
				rowL += l[i*n+j]
			}
		}
		both += rowK * rowL
		sumK, sumL = sumK+rowK, sumL+rowL
	}
	m := float64(n)
	return (trace + sumK*sumL/((m-1)*(m-2)) - 2/(m-2)*both) / (m * (m - 3))
}

// DefaultLayers are the sums, behind which blocks end, the mean over positions and the classifier; of a network without sums
// its rectifiers.
func DefaultLayers(n *net.Network) []string {
	var sums, rectifiers, last []string
	for _, v := range n.Nodes {
		switch v.Op.(type) {
		case net.Add:
			sums = append(sums, v.Name)
		case net.ReLU:
			rectifiers = append(rectifiers, v.Name)
		case net.GlobalAvgPool, net.Linear:
			last = append(last, v.Name)
		}
	}
	if len(sums) == 0 {
		sums = rectifiers
	}
	return append(sums, last...)
}
