package represent

import (
	"context"
	"math"
	"strings"
	"testing"

	"hypnos/backends/ref"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/data/datatest"
	"hypnos/core/net"
	"hypnos/core/rng"
	"hypnos/core/sleep"
)

// rows draws n rows of p standard normal numbers.
func rows(seed uint64, n, p int) [][]float64 {
	s, x := rng.New(seed, rng.Test, 0), make([][]float64, n)
	for i := range x {
		for j := range p {
			x[i] = append(x[i], s.Normal(uint64(i*p+j)))
		}
	}
	return x
}

func compare(t *testing.T, a, b [][]float64) Similarity {
	t.Helper()
	s, err := Compare(newRepresentation("a", a), newRepresentation("b", b))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Of a few numbers the measures are what their definitions give, written out.
func TestDefinitions(t *testing.T) {
	const n = 6
	a, b := rows(1, n, 3), rows(2, n, 4)
	gram := func(x [][]float64) (k [n][n]float64) {
		for i := range n {
			for j := range n {
				for c := range x[i] {
					k[i][j] += x[i][c] * x[j][c]
				}
			}
		}
		return k
	}
	k, l := gram(a), gram(b)
	h := func(i, j int) float64 {
		if i == j {
			return 1 - 1./n
		}
		return -1. / n
	}
	product := func(k, l [n][n]float64) (sum float64) { // tr(K H L H)
		for i := range n {
			for j := range n {
				for u := range n {
					for v := range n {
						sum += k[i][j] * h(j, u) * l[u][v] * h(v, i)
					}
				}
			}
		}
		return sum
	}
	// The mean over all ordered choices of four different images is the unbiased estimator (Song et al., Theorem 2).
	choices := func(k, l [n][n]float64) (sum float64) {
		count := 0.0
		for i := range n {
			for j := range n {
				for q := range n {
					for r := range n {
						if i == j || i == q || i == r || j == q || j == r || q == r {
							continue
						}
						sum += k[i][j]*l[i][j] + k[i][j]*l[q][r] - 2*k[i][j]*l[i][q]
						count++
					}
				}
			}
		}
		return sum / count
	}
	s := compare(t, a, b)
	// Sums of at most 6^4 terms of size 1 in float64: far below 1e-12.
	for name, c := range map[string]struct{ got, want float64 }{
		"CKA":      {s.CKA, product(k, l) / math.Sqrt(product(k, k)*product(l, l))},
		"debiased": {s.Debiased, choices(k, l) / math.Sqrt(choices(k, k)*choices(l, l))},
	} {
		if !(math.Abs(c.got-c.want) <= 1e-12*max(1, math.Abs(c.want))) {
			t.Errorf("%s is %v, want %v", name, c.got, c.want)
		}
	}
}

// A representation is like itself, turned and scaled; unrelated wide ones are told from it only by the unbiased measure and by RSA.
func TestSimilarity(t *testing.T) {
	a := rows(1, 40, 8)
	turned := make([][]float64, len(a))
	for i, x := range a { // a rotation in pairs, and a scale
		for j := 0; j < len(x); j += 2 {
			turned[i] = append(turned[i], 3*(0.6*x[j]-0.8*x[j+1]), 3*(0.8*x[j]+0.6*x[j+1]))
		}
	}
	if s := compare(t, a, turned); !(math.Abs(s.CKA-1) <= 1e-12) || !(math.Abs(s.Debiased-1) <= 1e-12) {
		t.Errorf("turned: %+v", s)
	}
	if s := compare(t, a, a); !(math.Abs(s.RSA-1) <= 1e-12) {
		t.Errorf("itself: %+v", s)
	}
	// 400 independent numbers of 40 images each: the biased measure is near p/(n+p), the others' standard deviation is below 1/40.
	if s := compare(t, rows(3, 40, 400), rows(4, 40, 400)); !(s.CKA > 0.8) || !(math.Abs(s.Debiased) < 0.15) || !(math.Abs(s.RSA) < 0.15) {
		t.Errorf("unrelated: %+v", s)
	}
}

func TestRanks(t *testing.T) {
	want := []float64{3, 0.5, 2, 0.5, 4}
	for i, r := range ranks([]float64{7, 1, 5, 1, 9}) {
		if r != want[i] {
			t.Errorf("rank %d is %v, want %v", i, r, want[i])
		}
	}
}

func TestRefusals(t *testing.T) {
	same := [][]float64{{1, 1}, {1, 1}, {1, 1}, {1, 1}}
	if _, err := Compare(newRepresentation("a", rows(1, 4, 3)), newRepresentation("b", same)); err == nil || !strings.Contains(err.Error(), "not apart") {
		t.Errorf("a constant layer: %v", err)
	}
	if _, err := Compare(newRepresentation("a", rows(1, 4, 3)), newRepresentation("b", rows(1, 5, 3))); err == nil || !strings.Contains(err.Error(), "4 and 5 images") {
		t.Errorf("other images: %v", err)
	}
}

// network is a network with two locally connected layers, its engine and test images.
func network(t *testing.T) (*net.Network, core.Engine, *data.Loader) {
	t.Helper()
	b := net.NewBuilder("shifted")
	x := b.ReLU("relu", b.LC2D("lc1", b.Input(net.Shape{H: 16, W: 16, C: 3}), net.Window{Out: 4, Kernel: 3, Stride: 1, Groups: 1, Bias: true}))
	b.Linear("linear", b.GlobalAvgPool("pool", b.LC2D("lc2", x, net.Window{Out: 4, Kernel: 3, Stride: 2, Groups: 1})), 3)
	n, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	e, err := ref.Open().Compile(n, core.Options{MaxBatch: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	p, err := n.Init(net.InitOptions{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Load(p); err != nil {
		t.Fatal(err)
	}
	d, err := data.Open(datatest.ClassFolders(t, 16, 4, 4), data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return n, e, &data.Loader{Images: d.Test, Size: 16, Batch: 8, Stats: data.ComputeStats(d.Train)}
}

// The paper's point: after sleep every k-th shift gives the same response, before it none does.
func TestShifts(t *testing.T) {
	n, e, images := network(t)
	var x core.Batch
	for m := range images.InOrder(context.Background()) {
		x = core.Batch{N: m.X.N, Pixels: append([]float32(nil), m.X.Pixels...)}
		break
	}
	errors := func() map[string][]float64 {
		shifts, err := Shifts(context.Background(), e, n, x)
		if err != nil {
			t.Fatal(err)
		}
		all := map[string][]float64{}
		for _, s := range shifts {
			all[s.Layer] = append(all[s.Layer], s.Error)
		}
		return all
	}
	for layer, shifts := range errors() {
		if len(shifts) != 3 {
			t.Errorf("%s: %d shifts before sleep", layer, len(shifts))
		}
		for d, v := range shifts {
			if !(v > 0.5) {
				t.Errorf("%s: at %d the error is %v before sleep", layer, d+1, v)
			}
		}
	}
	if _, err := e.Sleep(context.Background(), sleep.Stream{Rule: sleep.Instant{}}); err != nil {
		t.Fatal(err)
	}
	after, checked := errors(), 0
	for layer, shifts := range after {
		if !(shifts[0] > 0.5) || !(shifts[1] > 0.5) || !(shifts[2] <= 1e-20) { // responses' float64 roundings, squared
			t.Errorf("%s: errors %v after sleep", layer, shifts)
		}
		checked++
	}
	if checked != 2 {
		t.Errorf("%d layers checked", checked)
	}
}

// Layers of one network are compared with themselves, whatever batches their images came in.
func TestOf(t *testing.T) {
	n, e, images := network(t)
	layers := DefaultLayers(n)
	a, err := Of(context.Background(), e, n, images, 10, layers)
	if err != nil {
		t.Fatal(err)
	}
	images.Batch = 3
	b, err := Of(context.Background(), e, n, images, 10, layers)
	if err != nil {
		t.Fatal(err)
	}
	if len(a) != 3 || len(b) != 3 {
		t.Fatalf("%d and %d layers, want relu, pool and linear", len(a), len(b))
	}
	for i := range a {
		s, err := Compare(a[i], b[i])
		if err != nil {
			t.Fatal(err)
		}
		if a[i].Layer != layers[i] || a[i].n != 10 || !(math.Abs(s.CKA-1) <= 1e-12) {
			t.Errorf("%+v", s)
		}
	}
	for want, f := range map[string]func() error{
		"3 images":           func() error { _, err := Of(context.Background(), e, n, images, 3, layers); return err },
		`no layer "missing"`: func() error { _, err := Of(context.Background(), e, n, images, 10, []string{"missing"}); return err },
	} {
		if err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
