package edge

import (
	"fmt"
	"math"
	"slices"

	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
)

// Defaults and constants of Convert.
const (
	// ActivationBits are the bits of activations beside the sign: with 13, the sums of ResNet20's layers
	// fit an int32; with 14 not all do (docs/EDGE.md).
	ActivationBits = 13
	// Headroom is by how much activations may outgrow the calibrated range before they saturate, at least; on the average
	// over layers the next power of two gives them 1.4 times more.
	Headroom = 1.25
	// weightHeadroom is the same for weights, which learning changes.
	weightHeadroom = 2
	// sumHeadroom is by how much the largest Σ|w| of a layer's neurons may grow before its sums need an int64.
	sumHeadroom = 1.25
	// coarsest is the least a layer's weights may be, root mean square in units of the last place, for its sums to be
	// made to fit an int32: rounding them then is noise 48 dB below them (1/√12 to 74 units).
	coarsest = 74
)

// ConvertOptions choose among the integer forms of a network. The zero value has the defaults.
type ConvertOptions struct {
	Bits     int     // of activations beside the sign; 0 means ActivationBits
	Headroom float64 // of activations; 0 means Headroom
	// Int8 rounds the weights of each output channel to 8 bits, a shift apart from those of the layer's format, and
	// stores them so (Int8Suffix).
	Int8 bool
}

// Conversion is what became of one layer with weights.
type Conversion struct {
	Layer   string       `json:"layer"`
	Weights fixed.Format `json:"weights"`
	Input   fixed.Format `json:"input"`
	Output  fixed.Format `json:"output"`
	// Largest and RMS are those of the float weights, Norm is the largest Σ|w| of a neuron.
	Largest float64 `json:"largest"`
	RMS     float64 `json:"rms"`
	Norm    float64 `json:"norm"`
	// Narrow tells that sums fit an int32; Why says why not.
	Narrow bool   `json:"narrow"`
	Why    string `json:"why,omitempty"`
}

// Convert rounds the float parameters of a folded network to integers, in formats that ranges of activations and the
// weights themselves give, and lets the formats travel with them. Tensors are converted when they are asked for: p must
// live as long.
//
// Activations get the finest format that holds their range times the headroom; one format for the whole network's input
// and for each node that is not its input's choice (Follows). Weights get the finest format of a layer in which the
// largest of them may double. Where the sums of the layer do not fit an int32 then, the format loses fraction bits
// until they do, with a quarter to spare, as long as the weights stay at least 74 units large in root mean square;
// otherwise the layer is left to sums of int64. Biases are rounded to the fraction bits of the sums, and must double
// within an int32, too. A range that is missing, and weights, biases or ranges that no format holds, are errors that
// name the tensor or layer.
func Convert(n *net.Network, p *model.Params, r Ranges, o ConvertOptions) (*model.Params, []Conversion, error) {
	if o.Bits == 0 {
		o.Bits = ActivationBits
	}
	if o.Headroom == 0 {
		o.Headroom = Headroom
	}
	f := Formats{Profile: Profile, Activations: map[string]fixed.Format{}, Weights: map[string]fixed.Format{}}
	all := &model.Params{}
	var report []Conversion
	for _, v := range n.Nodes {
		if Follows(v.Op) {
			f.Activations[v.Name] = f.Activations[n.Nodes[v.Inputs[0]].Name]
			continue
		}
		largest, ok := r[v.Name]
		if !ok {
			return nil, nil, fmt.Errorf("edge: layer %q has no calibrated range", v.Name)
		}
		format, err := fixed.FormatFor(o.Headroom*largest, o.Bits)
		if err != nil {
			return nil, nil, fmt.Errorf("edge: activations of layer %q: %w", v.Name, err)
		}
		f.Activations[v.Name] = format
		if len(v.Params) == 0 {
			continue
		}
		c := Conversion{Layer: v.Name, Input: f.Activations[n.Nodes[v.Inputs[0]].Name], Output: format}
		s, err := statisticsOf(v, p)
		if err != nil {
			return nil, nil, err
		}
		if err := c.choose(v, s, o.Int8); err != nil {
			return nil, nil, err
		}
		f.Weights[v.Params[0].Name] = c.Weights
		c.convert(all, v, p, s, o.Int8)
		report = append(report, c)
	}
	return all, report, f.Set(all)
}

// statistics are what a layer's formats depend on.
type statistics struct {
	k                  int
	largest, norm, rms float64
	bias               float64   // the largest
	channels           []float64 // the largest weight of each output channel, (N)
}

func statisticsOf(v net.Node, p *model.Params) (s statistics, err error) {
	for _, q := range v.Params {
		if err := p.Check(q.Name, q.Shape); err != nil {
			return s, fmt.Errorf("edge: convert: %w", err)
		}
		x, err := float64s(p, q.Name)
		if err != nil {
			return s, err
		}
		if largest := largestOf(x); !finite(largest) {
			return s, fmt.Errorf("edge: %q is not finite", q.Name)
		} else if q.Role == net.Bias {
			s.bias = largest
			continue
		}
		s.k = len(x) / rows(q, v)
		s.channels = make([]float64, v.Out.C)
		squares := 0.0
		for row := 0; row*s.k < len(x); row++ {
			norm := 0.0
			for _, w := range x[row*s.k : (row+1)*s.k] {
				norm += math.Abs(w)
				squares += w * w
			}
			s.norm = max(s.norm, norm)
			c := &s.channels[row%v.Out.C]
			*c = max(*c, largestOf(x[row*s.k:(row+1)*s.k]))
		}
		s.largest = largestOf(s.channels)
		s.rms = math.Sqrt(squares / float64(len(x)))
	}
	return s, nil
}

// choose finds the format of a layer's weights.
func (c *Conversion) choose(v net.Node, s statistics, eight bool) error {
	c.Largest, c.RMS, c.Norm = s.largest, s.rms, s.norm
	f, err := fixed.FormatFor(weightHeadroom*s.largest, fixed.WordBits)
	if err != nil {
		return fmt.Errorf("edge: %q: %w", v.Params[0].Name, err)
	}
	for ; math.Ldexp(weightHeadroom*s.bias, c.Input.Frac+f.Frac) > math.MaxInt32; f.Frac-- {
		if f.Bits() == 1 {
			return fmt.Errorf("edge: %q: biases up to %g are beyond an int32 with the %d fraction bits of the input", v.Params[1].Name, s.bias, c.Input.Frac)
		}
	}
	c.Weights = f
	for ; f.Bits() > 0; f.Frac-- {
		if fixed.NarrowSum(s.normIn(f, eight), c.Input.Max()) {
			c.Weights, c.Narrow = f, true
			return nil
		}
		if math.Ldexp(s.rms, f.Frac-1) < coarsest {
			break
		}
	}
	c.Why = fmt.Sprintf("for int32 its weights would be below %d units in the last place, root mean square", coarsest)
	return nil
}

// normIn bounds the largest Σ|w| in integers of a format, with its headroom: each of the K weights is rounded by at
// most half a unit, or half of what 8 bits leave of one.
func (s statistics) normIn(f fixed.Format, eight bool) int64 {
	step := int64(1)
	if eight {
		step <<= slices.Max(shifts(f, s.channels))
	}
	return int64(math.Ceil(sumHeadroom*math.Ldexp(s.norm, f.Frac))) + (int64(s.k)*step+1)/2
}

// convert adds a layer's integer parameters.
func (c Conversion) convert(all *model.Params, v net.Node, p *model.Params, s statistics, eight bool) {
	add := func(suffix string, q net.Param, t model.DType, quantise func(x []float64) any) {
		i := model.Info{Name: q.Name + suffix, DType: t, Shape: q.Shape}
		all.AddLazy(i, func() (model.Tensor, error) {
			x, err := float64s(p, q.Name)
			if err != nil {
				return model.Tensor{}, err
			}
			return model.Tensor{Info: i, Data: quantise(x)}, nil
		})
	}
	for _, q := range v.Params {
		switch {
		case q.Role == net.Bias:
			add("", q, model.I32, func(x []float64) any {
				return each(x, func(_ int, b float64) int32 { return int32(fixed.Nearest(math.Ldexp(b, c.Input.Frac+c.Weights.Frac))) })
			})
		case eight:
			shift := shifts(c.Weights, s.channels)
			add(Int8Suffix, q, model.I8, func(x []float64) any {
				return each(x, func(i int, w float64) int8 {
					return int8(fixed.Nearest(math.Ldexp(w, c.Weights.Frac-int(shift[i/s.k%v.Out.C]))))
				})
			})
			all.Add(model.NewTensor(q.Name+ShiftsSuffix, []int{v.Out.C}, shift))
		default:
			add("", q, model.I16, func(x []float64) any {
				return each(x, func(_ int, w float64) int16 { return c.Weights.Quantise(w) })
			})
		}
	}
}

// shifts are the smallest by which 8 bits hold the largest weight of each channel.
func shifts(f fixed.Format, channels []float64) []int8 {
	return each(channels, func(_ int, largest float64) int8 {
		s := int8(0)
		for fixed.Nearest(math.Ldexp(largest, f.Frac-int(s))) > math.MaxInt8 {
			s++
		}
		return s
	})
}

// each maps numbers with their index.
func each[T model.Number](x []float64, f func(i int, v float64) T) []T {
	y := make([]T, len(x))
	for i, v := range x {
		y[i] = f(i, v)
	}
	return y
}
