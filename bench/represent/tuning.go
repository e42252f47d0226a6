package represent

import (
	"context"
	"fmt"
	"math"
	"math/cmplx"
	"slices"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// Tuning is how the neurons of a layer are tuned to the orientation of gratings.
type Tuning struct {
	Layer  string `json:"layer"`
	Units  int    `json:"units"`  // neurons that respond to some grating
	Silent int    `json:"silent"` // neurons that respond to none
	// Selectivity are the quartiles, over Units, of |Σ R(θ) exp(2iθ)| / Σ R(θ): 1 minus the circular variance of Ringach, Shapley and
	// Hawken, Journal of Neuroscience 22 (2002). 0 responds to all orientations alike, 1 to a single one.
	Selectivity [3]float64 `json:"selectivity"`
	// Agreement is |Σ exp(2iφ)| / n over the n neurons of a group (those that lateral connections join; of other layers, all of a
	// channel), φ being the orientation that each prefers, averaged over the groups: 1 where all prefer the same, about 1/√n where
	// each has its own. NaN, null in JSON, without a group of two.
	Agreement nullable `json:"agreement"`
}

// nullable is a number for which JSON has null when it is not finite.
type nullable float64

func (v nullable) MarshalJSON() ([]byte, error) {
	if f := sleep.Finite(float64(v)); f != nil {
		return fmt.Appendf(nil, "%g", *f), nil
	}
	return []byte("null"), nil
}

// Gratings are what neurons are shown: sinusoids on grey, of one standard deviation of pixels, all channels alike.
type Gratings struct {
	Orientations int       // θ = kπ/Orientations, the direction across the bars, from the columns' to the rows'
	Frequencies  []float64 // cycles a pixel
	Phases       int       // 2πk/Phases; at least 3, to tell a modulation from its mean
}

// DefaultGratings have bars of 2 to 8 pixels.
func DefaultGratings() Gratings { return Gratings{16, []float64{1. / 16, 1. / 8, 1. / 4}, 8} }

// pixels are the gratings of one orientation and frequency, a phase an image, (Phases, H, W, C).
func (g Gratings) pixels(in net.Shape, theta, frequency float64) core.Batch {
	x := core.Batch{N: g.Phases}
	for p := range g.Phases {
		for i := range in.H {
			for j := range in.W {
				at := float64(j)*math.Cos(theta) + float64(i)*math.Sin(theta)
				v := float32(math.Sin(2*math.Pi*(frequency*at) + 2*math.Pi*float64(p)/float64(g.Phases)))
				for range in.C {
					x.Pixels = append(x.Pixels, v)
				}
			}
		}
	}
	return x
}

// tuned is what is known of one layer while gratings are shown.
type tuned struct {
	node  net.Node
	blank []float64   // response to grey, by neuron (H, W, C)
	curve [][]float64 // by frequency and orientation, then neuron
}

// Tune shows gratings to a network and gives the tuning of the named layers, in the order of the network. A neuron's response to an
// orientation and frequency is the amplitude of its modulation by the phase, or how much its mean is above the response to grey,
// whichever is larger (simple and complex cells: Skottun et al., Vision Research 31 (1991)); its tuning curve is that at the
// frequency at which it responds most.
func Tune(ctx context.Context, e core.Engine, n *net.Network, layers []string, g Gratings) ([]Tuning, error) {
	var all []*tuned
	for _, v := range n.Nodes {
		if slices.Contains(layers, v.Name) {
			all = append(all, &tuned{node: v})
		}
	}
	if len(all) != len(layers) {
		return nil, fmt.Errorf("represent: not all of the layers %q are in %s", layers, n.Name)
	}
	in := n.Input()
	if err := respond(ctx, e, core.Batch{N: 1, Pixels: make([]float32, in.Len())}, all, func(t *tuned, y []float64) { t.blank = slices.Clone(y) }); err != nil {
		return nil, err
	}
	for _, f := range g.Frequencies {
		for k := range g.Orientations {
			theta := math.Pi * float64(k) / float64(g.Orientations)
			if err := respond(ctx, e, g.pixels(in, theta, f), all, func(t *tuned, y []float64) { t.add(y, g.Phases) }); err != nil {
				return nil, err
			}
		}
	}
	var tunings []Tuning
	for _, t := range all {
		tunings = append(tunings, t.tuning(g))
	}
	return tunings, nil
}

// respond gives each layer's response to a batch.
func respond(ctx context.Context, e core.Engine, x core.Batch, all []*tuned, take func(*tuned, []float64)) error {
	for t, err := range e.Trace(ctx, x, core.Probe{}) {
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(v *tuned) bool { return "out/"+v.node.Name == t.Name })
		if i < 0 {
			continue
		}
		y, err := t.Float64s()
		if err != nil {
			return err
		}
		take(all[i], y)
	}
	return nil
}

// add takes responses to the phases of one orientation and frequency, (Phases, H, W, C).
func (t *tuned) add(y []float64, phases int) {
	n := len(t.blank)
	r := make([]float64, n)
	for i := range r {
		mean, modulation := 0.0, complex(0, 0)
		for p := range phases {
			v := y[p*n+i]
			mean += v / float64(phases)
			modulation += complex(v, 0) * cmplx.Rect(2/float64(phases), -2*math.Pi*float64(p)/float64(phases))
		}
		r[i] = max(cmplx.Abs(modulation), mean-t.blank[i])
	}
	t.curve = append(t.curve, r)
}

// negligible is below what float32 can tell from no response at all: ten thousand roundings of a response of 1.
const negligible = 1e-3

// vector is a neuron's Σ R(θ) exp(2iθ) / Σ R(θ) at the frequency at which it responds most; ok is false when it responds to none.
func (t *tuned) vector(unit int, g Gratings) (v complex128, ok bool) {
	best, largest := 0, 0.0
	for c := range t.curve {
		if r := t.curve[c][unit]; r > largest {
			best, largest = c/g.Orientations, r
		}
	}
	if !(largest > negligible) {
		return 0, false
	}
	total := 0.0
	for k := range g.Orientations {
		r := max(0, t.curve[best*g.Orientations+k][unit])
		v += cmplx.Rect(r, 2*math.Pi*float64(k)/float64(g.Orientations))
		total += r
	}
	return v / complex(total, 0), true
}

func (t *tuned) tuning(g Gratings) Tuning {
	r := Tuning{Layer: t.node.Name}
	s := t.node.Out
	period := 1
	if op, located := t.node.Op.(net.LC2D); located {
		period = sleep.Layer{Window: op.Window}.Period()
	}
	type sum struct {
		directions complex128
		n          int
	}
	groups := map[[3]int]*sum{}
	var selectivity []float64
	for unit := range t.blank {
		v, ok := t.vector(unit, g)
		if !ok {
			r.Silent++
			continue
		}
		selectivity = append(selectivity, cmplx.Abs(v))
		position, channel := unit/s.C, unit%s.C
		key := [3]int{position / s.W % period, position % s.W % period, channel}
		if groups[key] == nil {
			groups[key] = &sum{}
		}
		if a := cmplx.Abs(v); a > 0 {
			groups[key].directions += v / complex(a, 0)
		}
		groups[key].n++
	}
	r.Units = len(selectivity)
	if r.Units > 0 {
		slices.Sort(selectivity)
		for q := range r.Selectivity {
			r.Selectivity[q] = selectivity[(q+1)*(r.Units-1)/4]
		}
	}
	agreement, count := 0.0, 0
	for _, s := range groups {
		if s.n > 1 {
			agreement += cmplx.Abs(s.directions) / float64(s.n)
			count++
		}
	}
	r.Agreement = nullable(agreement / float64(count))
	return r
}
