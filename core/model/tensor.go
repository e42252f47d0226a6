// Package model holds the state of a network outside a backend: named tensors in the canonical layout (package net)
// with metadata, and their file format, safetensors.
//
// Params are read one tensor at a time, from a file or from a backend, so that saving or loading a network needs
// memory for its largest tensor and not for all of them twice.
package model

import (
	"fmt"
	"iter"
	"slices"
)

// DType is the element type of a tensor, named as in the safetensors format.
type DType string

// The element types that tensors in memory can have. Files may hold others (see DType.Size); they can be listed but
// not read.
const (
	F64 DType = "F64"
	F32 DType = "F32"
	I64 DType = "I64"
	I32 DType = "I32"
	I16 DType = "I16"
	I8  DType = "I8"
)

// Size is the number of bytes an element takes, 0 for an unknown type.
func (d DType) Size() int {
	switch d {
	case F64, I64, "U64":
		return 8
	case F32, I32, "U32":
		return 4
	case I16, "U16", "F16", "BF16":
		return 2
	case I8, "U8", "BOOL", "F8_E4M3", "F8_E5M2":
		return 1
	}
	return 0
}

// Info describes a tensor.
type Info struct {
	Name  string
	DType DType
	Shape []int // axes in memory order, the last one contiguous
}

// Len is the number of elements.
func (i Info) Len() int {
	n := 1
	for _, d := range i.Shape {
		n *= d
	}
	return n
}

// Tensor is a tensor in memory. Data is a []float64, []float32, []int64, []int32, []int16 or []int8 of Len elements.
type Tensor struct {
	Info
	Data any
}

// Number is an element type of a Tensor.
type Number interface {
	float64 | float32 | int64 | int32 | int16 | int8
}

// NewTensor makes a tensor that refers to data. It panics when shape and data disagree in length.
func NewTensor[T Number](name string, shape []int, data []T) Tensor {
	t := Tensor{Info: Info{Name: name, DType: dtypeOf[T](), Shape: slices.Clone(shape)}, Data: data}
	if t.Len() != len(data) {
		panic("model: tensor shape and data differ in length")
	}
	return t
}

func dtypeOf[T Number]() DType {
	switch any(*new(T)).(type) {
	case float64:
		return F64
	case float32:
		return F32
	case int64:
		return I64
	case int32:
		return I32
	case int16:
		return I16
	default:
		return I8
	}
}

// Float64s returns the elements of a float tensor as float64, which is exact. The result may be the tensor's own
// data. A tensor of another type is an error.
func (t Tensor) Float64s() ([]float64, error) {
	switch d := t.Data.(type) {
	case []float64:
		return d, nil
	case []float32:
		return convert[float64](d), nil
	}
	return nil, fmt.Errorf("model: tensor %q: %s is not a float type", t.Name, t.DType)
}

// Float32s returns the elements of a float tensor as float32; float64 elements are rounded to nearest. The result
// may be the tensor's own data. A tensor of another type is an error.
func (t Tensor) Float32s() ([]float32, error) {
	switch d := t.Data.(type) {
	case []float32:
		return d, nil
	case []float64:
		return convert[float32](d), nil
	}
	return nil, fmt.Errorf("model: tensor %q: %s is not a float type", t.Name, t.DType)
}

func convert[To, From float32 | float64](from []From) []To {
	to := make([]To, len(from))
	for i, v := range from {
		to[i] = To(v)
	}
	return to
}

// Params is an ordered set of tensors with unique names, and metadata. The zero value is empty and ready to use.
type Params struct {
	Meta    map[string]string
	entries []entry
	index   map[string]int
}

type entry struct {
	info Info
	load func() (Tensor, error)
}

// Add appends a tensor. It panics when the name is taken.
func (p *Params) Add(t Tensor) {
	p.AddLazy(t.Info, func() (Tensor, error) { return t, nil })
}

// AddLazy appends a tensor that load produces whenever it is read. It panics when the name is taken.
func (p *Params) AddLazy(info Info, load func() (Tensor, error)) {
	if p.Has(info.Name) {
		panic("model: tensor name added twice: " + info.Name)
	}
	if p.index == nil {
		p.index = map[string]int{}
	}
	p.index[info.Name] = len(p.entries)
	p.entries = append(p.entries, entry{info, load})
}

// SetMeta sets one metadata entry.
func (p *Params) SetMeta(key, value string) {
	if p.Meta == nil {
		p.Meta = map[string]string{}
	}
	p.Meta[key] = value
}

// Len is the number of tensors.
func (p *Params) Len() int { return len(p.entries) }

// Has tells whether there is a tensor of that name.
func (p *Params) Has(name string) bool { _, ok := p.index[name]; return ok }

// Infos lists the tensors in order without reading them.
func (p *Params) Infos() []Info {
	infos := make([]Info, len(p.entries))
	for i, e := range p.entries {
		infos[i] = e.info
	}
	return infos
}

// Get reads the tensor of that name. The caller may keep but not change its data.
func (p *Params) Get(name string) (Tensor, error) {
	i, ok := p.index[name]
	if !ok {
		return Tensor{}, fmt.Errorf("model: no tensor %q", name)
	}
	return p.entries[i].load()
}

// All reads the tensors in order, one at a time.
func (p *Params) All() iter.Seq2[Tensor, error] {
	return func(yield func(Tensor, error) bool) {
		for _, e := range p.entries {
			t, err := e.load()
			if !yield(t, err) || err != nil {
				return
			}
		}
	}
}

// Check tells whether there is a float tensor of that name and shape, without reading it.
func (p *Params) Check(name string, shape []int) error {
	i, ok := p.index[name]
	if !ok {
		return fmt.Errorf("tensor %q is missing", name)
	}
	info := p.entries[i].info
	if !slices.Equal(info.Shape, shape) {
		return fmt.Errorf("tensor %q has shape %v, want %v", name, info.Shape, shape)
	}
	if info.DType != F32 && info.DType != F64 {
		return fmt.Errorf("tensor %q: %s is not a float type", name, info.DType)
	}
	return nil
}

// Snapshot reads every tensor and returns a copy that no longer depends on where p came from.
func (p *Params) Snapshot() (*Params, error) {
	c := &Params{}
	for k, v := range p.Meta {
		c.SetMeta(k, v)
	}
	for t, err := range p.All() {
		if err != nil {
			return nil, err
		}
		t.Data = cloneData(t.Data)
		c.Add(t)
	}
	return c, nil
}

func cloneData(data any) any {
	switch d := data.(type) {
	case []float64:
		return slices.Clone(d)
	case []float32:
		return slices.Clone(d)
	case []int64:
		return slices.Clone(d)
	case []int32:
		return slices.Clone(d)
	case []int16:
		return slices.Clone(d)
	case []int8:
		return slices.Clone(d)
	}
	panic("model: tensor data of an unknown type")
}
