package edge

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// Suffixes of the other forms of weights (see GroupsSuffix).
const (
	// Int8Suffix marks weights of 8 bits, int8 in the canonical shape. Output channel n's are w8·2^shift of the
	// format's last place, with shift n of ShiftsSuffix, int8 (N).
	Int8Suffix   = ".int8"
	ShiftsSuffix = ".shifts"
	// ResidualSuffix marks, beside the consolidated form, what the weights of a locally connected layer differ from
	// their group's row by, int8 in the canonical shape, times 2^shift with the one shift of ResidualShiftSuffix, an
	// int8 scalar.
	ResidualSuffix      = ".residual"
	ResidualShiftSuffix = ".residual.shift"
)

// maxFormShift is the largest shift of 8 bits in a number of 15.
const maxFormShift = fixed.WordBits - 7

// form is how a parameter lies among integer parameters.
type form uint8

const (
	full form = iota
	groups
	residual
	eight
)

// part is one tensor of a form.
type part struct {
	suffix string
	dtype  model.DType
	shape  []int
}

// param is a parameter of a layer in its form.
type param struct {
	net.Param
	node   net.Node
	period int // of a locally connected layer's grids, 0 for others
	form   form
	format fixed.Format // of weights
}

// paramsOf lists the parameters of a network in the order of net.Params, each in the form that p has it in. Formats out
// of range, missing tensors and those of another type or shape are errors.
func paramsOf(n *net.Network, p *model.Params) ([]param, error) {
	f, err := FormatsOf(p)
	if err != nil {
		return nil, err
	}
	if err := f.Check(n); err != nil {
		return nil, err
	}
	infos := map[string]model.Info{}
	for _, i := range p.Infos() {
		infos[i.Name] = i
	}
	var all []param
	for _, v := range n.Nodes {
		for _, q := range v.Params {
			s := param{Param: q, node: v, format: f.Weights[q.Name]}
			switch op := v.Op.(type) {
			case net.BatchNorm:
				return nil, fmt.Errorf("edge: batch norm %q is not folded", v.Name)
			case net.LC2D:
				s.period = sleep.Layer{Window: op.Window}.Period()
			}
			s.form = s.find(p)
			for _, t := range s.parts() {
				i, ok := infos[q.Name+t.suffix]
				if !ok {
					return nil, fmt.Errorf("edge: tensor %q is missing", q.Name+t.suffix)
				}
				if i.DType != t.dtype || !slices.Equal(i.Shape, t.shape) {
					return nil, fmt.Errorf("edge: tensor %q is %s %v, want %s %v", i.Name, i.DType, i.Shape, t.dtype, t.shape)
				}
			}
			all = append(all, s)
		}
		if last := len(all) - 1; len(v.Params) == 2 && (all[last].form == groups) != (all[last-1].form == groups) {
			return nil, fmt.Errorf("edge: layer %q: weights and biases are not in one form", v.Name)
		}
	}
	return all, nil
}

// find tells the form by the tensors that there are.
func (s param) find(p *model.Params) form {
	lc := s.period > 0
	switch weight := s.Role == net.Weight; {
	case p.Has(s.Name):
		return full
	case weight && p.Has(s.Name+Int8Suffix):
		return eight
	case weight && lc && p.Has(s.Name+ResidualSuffix):
		return residual
	case lc && p.Has(s.Name+GroupsSuffix):
		return groups
	}
	return full
}

// parts are the tensors of the parameter's form.
func (s param) parts() []part {
	switch s.form {
	case groups:
		return []part{{GroupsSuffix, s.dtype(), s.groupShape()}}
	case residual:
		return []part{{GroupsSuffix, s.dtype(), s.groupShape()}, {ResidualSuffix, model.I8, s.Shape}, {ResidualShiftSuffix, model.I8, []int{}}}
	case eight:
		return []part{{Int8Suffix, model.I8, s.Shape}, {ShiftsSuffix, model.I8, []int{s.node.Out.C}}}
	}
	return []part{{"", s.dtype(), s.Shape}}
}

// dtype is that of the parameter's numbers.
func (s param) dtype() model.DType {
	if s.Role == net.Bias {
		return model.I32
	}
	return model.I16
}

// groupShape is the shape of one row a group.
func (s param) groupShape() []int { return append([]int{s.period, s.period}, s.Shape[2:]...) }

// perPosition is the number of elements that each position of a locally connected layer has.
func (s param) perPosition() int { return s.Len() / (s.node.Out.H * s.node.Out.W) }

// group is the group row of a position, in elements.
func (s param) group(position int) int {
	w := s.node.Out.W
	return (position/w%s.period*s.period + position%w%s.period) * s.perPosition()
}

// expand reads the parameter as a full tensor.
func (s param) expand(p *model.Params) (model.Tensor, error) {
	var data [3]any
	for i, t := range s.parts() {
		v, err := p.Get(s.Name + t.suffix)
		if err != nil {
			return v, err
		}
		if s.form == full {
			return v, nil
		}
		data[i] = v.Data
	}
	switch s.form {
	case eight:
		w, shifts := make([]int16, s.Len()), data[1].([]int8)
		k := len(w) / rows(s.Param, s.node)
		for i, v := range data[0].([]int8) {
			w[i] = int16(v) << shifts[i/k%len(shifts)]
		}
		return model.NewTensor(s.Name, s.Shape, w), nil
	case residual:
		w, shift := spread(s, data[0].([]int16)), data[2].([]int8)[0]
		for i, v := range data[1].([]int8) {
			w[i] = s.format.Saturate(int64(w[i]) + int64(v)<<shift)
		}
		return model.NewTensor(s.Name, s.Shape, w), nil
	}
	if s.Role == net.Bias {
		return model.NewTensor(s.Name, s.Shape, spread(s, data[0].([]int32))), nil
	}
	return model.NewTensor(s.Name, s.Shape, spread(s, data[0].([]int16))), nil
}

// spread gives every position its group's row.
func spread[T model.Number](s param, rows []T) []T {
	all := make([]T, s.Len())
	per := s.perPosition()
	for at := 0; at < len(all); at += per {
		copy(all[at:at+per], rows[s.group(at/per):])
	}
	return all
}

// gather is the row of each group's first position; 0 for the groups of small maps that have none.
func gather[T model.Number](s param, all []T) []T {
	per, first := s.perPosition(), map[int]bool{}
	rows := make([]T, s.period*s.period*per)
	for at := 0; at < len(all); at += per {
		if g := s.group(at / per); !first[g] {
			copy(rows[g:g+per], all[at:])
			first[g] = true
		}
	}
	return rows
}

// Expand gives integer parameters of any form as full tensors, int16 weights and int32 biases, each when it is asked for.
// What belongs to no layer is left out.
func Expand(n *net.Network, p *model.Params) (*model.Params, error) {
	return expand(n, p, func(param) bool { return false })
}

// Loadable gives integer parameters of any form as an engine takes them: as full tensors, or consolidated where they are.
func Loadable(n *net.Network, p *model.Params) (*model.Params, error) {
	return expand(n, p, func(s param) bool { return s.form == groups })
}

func expand(n *net.Network, p *model.Params, keep func(param) bool) (*model.Params, error) {
	params, err := paramsOf(n, p)
	if err != nil {
		return nil, err
	}
	all := &model.Params{}
	for _, s := range params {
		if keep(s) {
			s.copy(all, p)
			continue
		}
		all.AddLazy(model.Info{Name: s.Name, DType: s.dtype(), Shape: s.Shape}, func() (model.Tensor, error) { return s.expand(p) })
	}
	return all, copyFormats(all, p)
}

// copy adds the parameter as it is.
func (s param) copy(all, p *model.Params) {
	for _, t := range s.parts() {
		name := s.Name + t.suffix
		all.AddLazy(model.Info{Name: name, DType: t.dtype, Shape: t.shape}, func() (model.Tensor, error) { return p.Get(name) })
	}
}

func copyFormats(to, from *model.Params) error {
	f, err := FormatsOf(from)
	if err != nil {
		return err
	}
	return f.Set(to)
}

// Consolidate gives the layers whose groups are equal, weights and biases, as after an instant sleep, in the consolidated
// form, and the others as they are. It reads every full tensor of a locally connected layer, one at a time.
func Consolidate(n *net.Network, p *model.Params) (*model.Params, error) {
	params, err := paramsOf(n, p)
	if err != nil {
		return nil, err
	}
	all := &model.Params{}
	for len(params) > 0 {
		layer := params[:len(params[0].node.Params)]
		params = params[len(layer):]
		equal := true
		for _, s := range layer {
			if equal {
				if equal, err = s.equal(p); err != nil {
					return nil, err
				}
			}
		}
		for _, s := range layer {
			if !equal {
				s.copy(all, p)
				continue
			}
			i := model.Info{Name: s.Name + GroupsSuffix, DType: s.dtype(), Shape: s.groupShape()}
			all.AddLazy(i, func() (model.Tensor, error) {
				t, err := s.expand(p)
				if err != nil {
					return t, err
				}
				if s.Role == net.Bias {
					return model.NewTensor(i.Name, i.Shape, gather(s, t.Data.([]int32))), nil
				}
				return model.NewTensor(i.Name, i.Shape, gather(s, t.Data.([]int16))), nil
			})
		}
	}
	return all, copyFormats(all, p)
}

// equal tells whether all positions of each group of a locally connected layer have the same numbers.
func (s param) equal(p *model.Params) (bool, error) {
	if s.period == 0 {
		return false, nil
	}
	t, err := s.expand(p)
	if err != nil {
		return false, err
	}
	if s.Role == net.Bias {
		b := t.Data.([]int32)
		return slices.Equal(b, spread(s, gather(s, b))), nil
	}
	w := t.Data.([]int16)
	return slices.Equal(w, spread(s, gather(s, w))), nil
}

// Residual gives the weights of locally connected layers as rounded means of their groups and int8 residuals, which
// takes half the bytes, where that takes less and a shift of at most maxShift holds the largest residual; other
// parameters stay as they are. Expanded, a weight is within 2^(shift-1) units in the last place of what it was, and is
// the same for shift 0. It is for layers whose groups a Hebbian sleep has pulled together.
func Residual(n *net.Network, p *model.Params, maxShift int) (*model.Params, error) {
	params, err := paramsOf(n, p)
	if err != nil {
		return nil, err
	}
	all := &model.Params{}
	for _, s := range params {
		const half = 2 // of the bytes of a weight are left
		if s.Role != net.Weight || s.form != full || s.period == 0 || half*s.period*s.period >= s.node.Out.H*s.node.Out.W {
			s.copy(all, p)
			continue
		}
		t, err := s.expand(p)
		if err != nil {
			return nil, err
		}
		w := t.Data.([]int16)
		means := s.means(w)
		shift := s.residualShift(w, means)
		if shift > min(maxShift, maxFormShift) {
			s.copy(all, p)
			continue
		}
		all.Add(model.NewTensor(s.Name+GroupsSuffix, s.groupShape(), means))
		i := model.Info{Name: s.Name + ResidualSuffix, DType: model.I8, Shape: s.Shape}
		all.AddLazy(i, func() (model.Tensor, error) {
			t, err := s.expand(p)
			if err != nil {
				return t, err
			}
			return model.NewTensor(i.Name, i.Shape, s.residuals(t.Data.([]int16), means, shift)), nil
		})
		all.Add(model.NewTensor(s.Name+ResidualShiftSuffix, []int{}, []int8{int8(shift)}))
	}
	return all, copyFormats(all, p)
}

// means are the groups' means, rounded to the nearest.
func (s param) means(w []int16) []int16 {
	per := s.perPosition()
	sums, counts := make([]int64, s.period*s.period*per), make([]int64, s.period*s.period)
	for at := 0; at < len(w); at += per {
		g := s.group(at / per)
		counts[g/per]++
		for i, v := range w[at : at+per] {
			sums[g+i] += int64(v)
		}
	}
	means := make([]int16, len(sums))
	for i, sum := range sums {
		means[i] = int16(fixed.DivideRound(sum, max(1, counts[i/per])))
	}
	return means
}

// residualShift is the smallest shift by which an int8 holds every weight's distance from its mean.
func (s param) residualShift(w, means []int16) int {
	largest, m := int64(0), spread(s, means)
	for i, v := range w {
		largest = max(largest, int64(v)-int64(m[i]), int64(m[i])-int64(v))
	}
	shift := 0
	for fixed.RoundShift(largest, shift) > 127 {
		shift++
	}
	return shift
}

func (s param) residuals(w, means []int16, shift int) []int8 {
	r, m := make([]int8, len(w)), spread(s, means)
	for i, v := range w {
		r[i] = int8(fixed.RoundShift(int64(v)-int64(m[i]), shift))
	}
	return r
}

// Float gives the parameters that integer ones stand for, as float64, exact: those of the float twin of a package. Each
// is converted when it is asked for.
func Float(n *net.Network, p *model.Params) (*model.Params, error) {
	params, err := paramsOf(n, p)
	if err != nil {
		return nil, err
	}
	f, err := FormatsOf(p)
	if err != nil {
		return nil, err
	}
	all := &model.Params{}
	for _, s := range params {
		frac := f.Weights[s.node.Params[0].Name].Frac
		if s.Role == net.Bias {
			i, _ := n.Node(s.node.Name)
			frac += f.Activations[n.Nodes[n.Nodes[i].Inputs[0]].Name].Frac
		}
		unit := fixed.Format{Frac: frac}
		all.AddLazy(model.Info{Name: s.Name, DType: model.F64, Shape: s.Shape}, func() (model.Tensor, error) {
			t, err := s.expand(p)
			if err != nil {
				return t, err
			}
			x := make([]float64, s.Len())
			switch d := t.Data.(type) {
			case []int16:
				for i, v := range d {
					x[i] = unit.Float(int64(v))
				}
			case []int32:
				for i, v := range d {
					x[i] = unit.Float(int64(v))
				}
			}
			return model.NewTensor(s.Name, s.Shape, x), nil
		})
	}
	return all, nil
}

// Digest is the SHA-256 of integer parameters, the same for every form and processor: for each parameter, in the order
// of net.Params, the length of its name as uint32 and the name, the number of axes and each axis as uint32, and the
// elements of the full tensor, int16 or int32; all little-endian.
func Digest(n *net.Network, p *model.Params) (sum [sha256.Size]byte, err error) {
	params, err := paramsOf(n, p)
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	for _, s := range params {
		head := binary.LittleEndian.AppendUint32(nil, uint32(len(s.Name)))
		head = binary.LittleEndian.AppendUint32(append(head, s.Name...), uint32(len(s.Shape)))
		for _, d := range s.Shape {
			head = binary.LittleEndian.AppendUint32(head, uint32(d))
		}
		h.Write(head)
		t, err := s.expand(p)
		if err != nil {
			return sum, err
		}
		writeIntegers(h, t)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// writeIntegers writes a tensor's elements to a hash, little-endian, a few at a time.
func writeIntegers(w io.Writer, t model.Tensor) {
	buf := make([]byte, 0, 1<<16)
	flush := func(most int) {
		if len(buf) > most {
			w.Write(buf) // a hash never fails
			buf = buf[:0]
		}
	}
	switch d := t.Data.(type) {
	case []int32:
		for _, v := range d {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(v))
			flush(cap(buf) - 4)
		}
	case []int16:
		for _, v := range d {
			buf = binary.LittleEndian.AppendUint16(buf, uint16(v))
			flush(cap(buf) - 4)
		}
	case []int8:
		for _, v := range d {
			buf = append(buf, byte(v))
			flush(cap(buf) - 4)
		}
	}
	flush(0)
}
