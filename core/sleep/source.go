package sleep

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"gonum.org/v1/gonum/mat"

	"hypnos/core/rng"
)

// PatternSource makes the input patterns of a sleep phase. A pattern is a tile (k, k, Cin) that the lateral
// connections of the layer's input repeat over the whole map, every k positions (Section 4.1, Fig. 3B): all neurons of
// a grid see the same k·k·Cin numbers, neurons of another grid the same tile from another corner. It repeats over the
// padding too. (A neuron that saw zeros there would lack a part of its response, and Eq. 4 would bend its other
// weights to make up for it.) So with BorderShares a neuron at the border sleeps like any other and a sleep that has
// converged is the authors' instant sharing; BorderRests leaves it alone, as their iterative sharing does.
//
// A tile is exact for a layer if its period is the layer's kernel size k. A bias is the weight of one more input line,
// which is on with every tile, as awake, unless the source says otherwise.
type PatternSource interface {
	// Kind is the name in configurations and reports.
	Kind() string
	// Open prepares the patterns of one layer in one phase. It refuses a layer for which the source is not exact.
	Open(PatternRequest) (Patterns, error)
}

// PatternRequest is what patterns may depend on. They are a function of it and of their number: any backend, in any
// order, and a phase that goes on after an interruption, sees the same ones. (What Propagated makes depends on
// weights, and rounds as they do.)
type PatternRequest struct {
	Layer   Layer
	Key     uint64 // drawn from seed, phase and layer: key of the generator
	State   *State // the network's parameters
	Phase   uint64 // drawn from seed and phase, the same for all layers
	Samples bool   // only statistics will be asked for
}

// Patterns are the patterns of one layer.
type Patterns interface {
	// Tile sets dst to tile number i, (k, k, Cin), and returns what the bias line carries. Several goroutines may call it
	// at a time.
	Tile(dst []float64, i uint64) (bias float64)
	// Strength tells how strong the patterns are and how many directions they can reach.
	Strength() Strength
}

// Strength describes what the patterns of a source do to a neuron of M inputs, the bias line included.
type Strength struct {
	Square  float64 // E|x|⁴/E|x|², which is |x|² where all are of one length
	Largest float64 // the largest eigenvalue of E[x xᵀ]
	Noisy   float64 // input lines that noise is added to: all but the bias
	Rank    int     // directions that the source can reach, of Of
	Of      int     // M
}

// Gaussian draws every number of a tile from the standard normal distribution: the authors' source. It is exact for
// every layer (its period is the layer's own kernel size) and reaches all directions: E[x xᵀ] = I, but for the bias
// line, which carries 1.
type Gaussian struct{}

// Kind is "gaussian".
func (Gaussian) Kind() string { return "gaussian" }

// Open implements PatternSource.
func (Gaussian) Open(q PatternRequest) (Patterns, error) { return gaussian{q}, nil }

type gaussian struct{ PatternRequest }

func (g gaussian) Tile(dst []float64, i uint64) float64 {
	rng.New(g.Key, rng.SleepPattern, 0).Normals(dst, i*uint64(len(dst)+len(dst)%2)) // an even place costs less
	return 1
}

// Strength: |x|² of K standard normal numbers has mean K and E|x|⁴ = K (K+2); with a bias of 1 it has K+1 and
// (K+1)² + 2K.
func (g gaussian) Strength() Strength {
	k, m := float64(g.Layer.K), g.Layer.Inputs()
	return Strength{Square: float64(m) + 2*k/float64(m), Largest: 1, Noisy: k, Rank: m, Of: m}
}

// OneHot activates one input line at a time (Fig. 3B): a line is one place of the tile and one channel (the same of
// every channel group); the bias is a line of its own, active in its turn. Lines follow one another from a place that
// the phase draws; M events reach all. The active line carries √M, so that over a round E[x xᵀ] = I, as with
// Gaussian. It is exact for every layer.
type OneHot struct{}

// Kind is "onehot".
func (OneHot) Kind() string { return "onehot" }

// Open implements PatternSource.
func (OneHot) Open(q PatternRequest) (Patterns, error) {
	m := q.Layer.Inputs()
	return oneHot{q.Layer, rng.New(q.Key, rng.SleepPattern, 0).Intn(0, m)}, nil
}

type oneHot struct {
	layer Layer
	first int
}

func (o oneHot) Tile(dst []float64, i uint64) (bias float64) {
	m, per := o.layer.Inputs(), o.layer.In.C/o.layer.Window.Groups
	line := int((uint64(o.first) + i) % uint64(m))
	clear(dst)
	active := math.Sqrt(float64(m))
	if line == o.layer.K {
		return active
	}
	place, channel := line/per, line%per
	for g := range o.layer.Window.Groups {
		dst[place*o.layer.In.C+g*per+channel] = active
	}
	return 0
}

func (o oneHot) Strength() Strength {
	m := o.layer.Inputs()
	return Strength{Square: float64(m), Largest: 1, Noisy: float64(o.layer.K), Rank: m, Of: m}
}

// Recorded replays activity: a tile is a piece of a layer's recorded input, from an image and a place that the
// generator draws. It is exact for every layer of whose input there is a recording; whether that reaches all
// directions depends on it, and is measured.
type Recorded struct {
	// Inputs are, by the layer's name, its input (B, H, W, C).
	Inputs map[string][]float64
}

// Kind is "recorded".
func (*Recorded) Kind() string { return "recorded" }

// Open implements PatternSource.
func (r *Recorded) Open(q PatternRequest) (Patterns, error) {
	x := r.Inputs[q.Layer.Name]
	if size := q.Layer.In.Len(); len(x) == 0 || len(x)%size != 0 {
		return nil, errors.New("no recorded activity of its input")
	}
	return measured(recorded{q, x}, q)
}

type recorded struct {
	PatternRequest
	x []float64
}

func (r recorded) Tile(dst []float64, i uint64) float64 {
	in, k := r.Layer.In, r.Layer.Window.Kernel
	draw := rng.New(r.Key, rng.SleepPattern, 0)
	image := draw.Intn(4*i, len(r.x)/in.Len())
	row, col := draw.Intn(4*i+1, max(1, in.H-k+1)), draw.Intn(4*i+2, max(1, in.W-k+1))
	for u := range k {
		for v := range k { // a map smaller than the kernel goes round
			from := ((image*in.H+(row+u)%in.H)*in.W + (col+v)%in.W) * in.C
			copy(dst[(u*k+v)*in.C:][:in.C], r.x[from:])
		}
	}
	return 1
}

func (recorded) Strength() Strength { panic("sleep: recorded activity is measured") }

// NeedsRecording tells whether a source replays activity that has not been given to it.
func NeedsRecording(s PatternSource) bool {
	for _, r := range recordings(s) {
		if r.Inputs == nil {
			return true
		}
	}
	return false
}

// SetRecording gives recorded activity (see Recorded) to a source, or to those it chooses from, that replays it.
func SetRecording(s PatternSource, inputs map[string][]float64) {
	for _, r := range recordings(s) {
		r.Inputs = inputs
	}
}

func recordings(s PatternSource) []*Recorded {
	switch s := s.(type) {
	case *Recorded:
		return []*Recorded{s}
	case PerLayer:
		all := recordings(s.Else)
		for _, r := range s.Rules {
			all = append(all, recordings(r.Source)...)
		}
		return all
	}
	return nil
}

// PerLayer chooses a source by the layer's name: the first rule whose pattern (path.Match, "*.shortcut") fits, else
// the first source.
type PerLayer struct {
	Else  PatternSource
	Rules []LayerSource
}

// LayerSource is a source for some layers.
type LayerSource struct {
	Pattern string
	Source  PatternSource
}

// Kind is what ParseSource reads.
func (p PerLayer) Kind() string {
	parts := []string{p.Else.Kind()}
	for _, r := range p.Rules {
		parts = append(parts, r.Pattern+"="+r.Source.Kind())
	}
	return strings.Join(parts, ",")
}

// Open implements PatternSource.
func (p PerLayer) Open(q PatternRequest) (Patterns, error) {
	for _, r := range p.Rules {
		if ok, err := path.Match(r.Pattern, q.Layer.Name); err != nil || ok {
			if err != nil {
				return nil, fmt.Errorf("pattern %q: %w", r.Pattern, err)
			}
			return r.Source.Open(q)
		}
	}
	return p.Else.Open(q)
}

// ParseSource reads a source: "gaussian", "onehot", "propagated" or "recorded" (whose recording is still to be set),
// and behind it, with commas, sources for some layers: "propagated,*.shortcut=gaussian".
func ParseSource(text string) (PatternSource, error) {
	parts := strings.Split(text, ",")
	first, err := sourceByKind(parts[0])
	if err != nil || len(parts) == 1 {
		return first, err
	}
	p := PerLayer{Else: first}
	for _, rule := range parts[1:] {
		pattern, kind, ok := strings.Cut(rule, "=")
		if _, err := path.Match(pattern, ""); !ok || err != nil {
			return nil, outOfRange("", "source", "%q: %q is not LAYER=SOURCE", text, rule)
		}
		s, err := sourceByKind(kind)
		if err != nil {
			return nil, err
		}
		p.Rules = append(p.Rules, LayerSource{pattern, s})
	}
	return p, nil
}

func sourceByKind(kind string) (PatternSource, error) {
	known := []PatternSource{Gaussian{}, OneHot{}, Propagated{}, &Recorded{}}
	i := slices.IndexFunc(known, func(s PatternSource) bool { return s.Kind() == kind })
	if i < 0 {
		var names []string
		for _, s := range known {
			names = append(names, s.Kind())
		}
		return nil, outOfRange("", "source", "%q is unknown (known: %s)", kind, strings.Join(names, ", "))
	}
	return known[i], nil
}

// sampled are patterns whose strength was measured.
type sampled struct {
	Patterns
	strength Strength
}

func (s sampled) Strength() Strength { return s.strength }

// sampleBase is the number of the first tile that statistics are measured on, far behind those that are shown.
const sampleBase = 1 << 32

// measured measures the strength of patterns on 2M tiles. Directions count as reached when their variance is above
// 10⁻¹⁰ of the largest: a hundred thousand times weaker activity is rounding, and nothing that plasticity could use.
func measured(p Patterns, q PatternRequest) (Patterns, error) {
	if !q.Samples {
		return p, nil
	}
	m := q.Layer.Inputs()
	tile, x := make([]float64, q.Layer.TileLen()), make([]float64, q.Layer.Window.Groups*m)
	samples := 2 * m
	s := Strength{Of: m, Rank: m, Noisy: float64(q.Layer.K)}
	covariance := make([]*mat.SymDense, q.Layer.Window.Groups)
	for g := range covariance {
		covariance[g] = mat.NewSymDense(m, nil)
	}
	square, fourth := 0.0, 0.0
	for i := range samples {
		bias := p.Tile(tile, sampleBase+uint64(i))
		q.Layer.split(x, tile, bias)
		for g, c := range covariance {
			row := x[g*m : (g+1)*m]
			n := dot(row, row)
			if !isFinite(n) {
				return nil, errors.New("a pattern is not finite")
			}
			square, fourth = square+n, fourth+n*n
			c.SymRankOne(c, 1/float64(samples), mat.NewVecDense(m, row))
		}
	}
	if square > 0 {
		s.Square = fourth / square
	}
	for _, c := range covariance {
		s.Largest = max(s.Largest, largest(c))
		var chol mat.PivotedCholesky
		chol.Factorize(c, 1e-10*s.Largest)
		s.Rank = min(s.Rank, chol.Rank())
	}
	return sampled{p, s}, nil
}

// largest is the largest eigenvalue of a covariance, by the power iteration, from below, to a per cent or so.
func largest(c *mat.SymDense) float64 {
	n := c.SymmetricDim()
	v, w := mat.NewVecDense(n, nil), mat.NewVecDense(n, nil)
	for i := range n {
		v.SetVec(i, 1+0.5*float64(i%7))
	}
	size := 0.0
	for range 30 {
		w.MulVec(c, v)
		size = mat.Norm(w, 2) / mat.Norm(v, 2)
		if !(size > 0) {
			return 0
		}
		v.ScaleVec(1/mat.Norm(w, 2), w)
	}
	return size
}
