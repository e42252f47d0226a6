package data

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"unicode/utf16"
)

// This file reads what Hypnos needs of a MATLAB 5 file, ImageNet's meta.mat: two fields of an array of structures. The format is that of
// "MAT-File Format", The MathWorks, Level 5. (Go's libraries for it bring HDF5 along, or know no arrays of structures.)

// types of elements and classes of arrays.
const (
	miINT8, miUINT8, miINT16, miUINT16, miINT32, miUINT32 = 1, 2, 3, 4, 5, 6
	miDOUBLE, miMATRIX, miCOMPRESSED, miUTF8, miUTF16     = 9, 14, 15, 16, 17

	mxSTRUCT, mxCHAR = 2, 4
)

// maxMat bounds what is decompressed; the official meta.mat has 1,860 synsets with their glosses, less than 10 MB.
const maxMat = 64 << 20

// wnids are the WordNet identifiers by ILSVRC2012_ID, from the array `synsets` of a meta.mat.
func wnids(file []byte) (map[int]string, error) {
	if len(file) < 128 {
		return nil, errors.New("no MATLAB 5 file: it is shorter than its header")
	}
	m := mat{binary.LittleEndian}
	switch string(file[126:128]) {
	case "IM":
	case "MI":
		m.order = binary.BigEndian
	default:
		return nil, errors.New("no MATLAB 5 file: it has no mark of byte order")
	}
	for rest := file[128:]; len(rest) > 0; {
		e, after, err := m.element(rest)
		if err != nil {
			return nil, err
		}
		rest = after
		if e.kind == miCOMPRESSED {
			if e, err = m.decompress(e.data); err != nil {
				return nil, err
			}
		}
		if e.kind != miMATRIX {
			continue
		}
		a, err := m.array(e.data)
		if err != nil {
			return nil, err
		}
		if a.name == "synsets" {
			return m.synsets(a)
		}
	}
	return nil, errors.New("it has no array synsets")
}

// mat reads elements of a byte order.
type mat struct{ order binary.ByteOrder }

// matElement is a tag with its data.
type matElement struct {
	kind uint32
	data []byte
}

// element reads the first element of b and gives what follows.
func (m mat) element(b []byte) (e matElement, rest []byte, err error) {
	if len(b) < 8 {
		return e, nil, errors.New("it is cut within an element's tag")
	}
	tag := m.order.Uint32(b)
	if short := tag >> 16; short != 0 { // up to four bytes are in the tag
		if short > 4 {
			return e, nil, fmt.Errorf("a short element has %d bytes, more than 4", short)
		}
		return matElement{tag & 0xffff, b[4 : 4+short]}, b[8:], nil
	}
	n := int64(m.order.Uint32(b[4:]))
	if n > int64(len(b)-8) {
		return e, nil, fmt.Errorf("it is cut: an element of %d bytes has %d", n, len(b)-8)
	}
	e = matElement{tag, b[8 : 8+n]}
	if tag != miCOMPRESSED {
		n = min((n+7)&^7, int64(len(b)-8))
	}
	return e, b[8+n:], nil
}

func (m mat) decompress(b []byte) (matElement, error) {
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return matElement{}, err
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxMat+1))
	if err != nil {
		return matElement{}, err
	}
	if len(plain) > maxMat {
		return matElement{}, fmt.Errorf("an array has more than %d bytes", maxMat)
	}
	e, _, err := m.element(plain)
	return e, err
}

// matArray is an array's head, and the elements behind it.
type matArray struct {
	class  byte
	name   string
	values int64 // product of the dimensions
	rest   []byte
}

func (m mat) array(b []byte) (a matArray, err error) {
	flags, b, err := m.element(b)
	if err != nil {
		return a, err
	}
	dims, b, err := m.element(b)
	if err != nil {
		return a, err
	}
	name, b, err := m.element(b)
	if err != nil {
		return a, err
	}
	if len(flags.data) < 4 || dims.kind != miINT32 || len(dims.data)%4 != 0 {
		return a, errors.New("an array has no flags or no dimensions")
	}
	a = matArray{class: byte(m.order.Uint32(flags.data)), name: string(name.data), values: 1, rest: b}
	for ; len(dims.data) > 0; dims.data = dims.data[4:] {
		n := int64(int32(m.order.Uint32(dims.data)))
		if n < 0 || a.values > maxMat || n > maxMat {
			return a, fmt.Errorf("array %q has a dimension of %d", a.name, n)
		}
		a.values *= n
	}
	return a, nil
}

// synsets reads the fields ILSVRC2012_ID and WNID of an array of structures.
func (m mat) synsets(a matArray) (map[int]string, error) {
	if a.class != mxSTRUCT {
		return nil, errors.New("synsets is no array of structures")
	}
	length, rest, err := m.element(a.rest)
	if err != nil {
		return nil, err
	}
	names, rest, err := m.element(rest)
	if err != nil {
		return nil, err
	}
	if length.kind != miINT32 || len(length.data) != 4 {
		return nil, errors.New("synsets has no length of its fields' names")
	}
	each := int(int32(m.order.Uint32(length.data)))
	if each < 1 || len(names.data)%each != 0 {
		return nil, fmt.Errorf("names of synsets' fields of %d bytes in %d", each, len(names.data))
	}
	fields := len(names.data) / each
	field := func(i int) string {
		name, _, _ := bytes.Cut(names.data[i*each:(i+1)*each], []byte{0})
		return string(name)
	}
	byID := map[int]string{}
	for range a.values {
		id, wnid := 0, ""
		for i := range fields {
			var e matElement
			if e, rest, err = m.element(rest); err != nil {
				return nil, err
			}
			switch field(i) {
			case "ILSVRC2012_ID":
				id, err = m.integer(e)
			case "WNID":
				wnid, err = m.text(e)
			}
			if err != nil {
				return nil, fmt.Errorf("synset %d, %s: %w", len(byID)+1, field(i), err)
			}
		}
		if id == 0 || wnid == "" {
			return nil, fmt.Errorf("synset %d has no ILSVRC2012_ID or no WNID", len(byID)+1)
		}
		if byID[id] != "" {
			return nil, fmt.Errorf("ILSVRC2012_ID %d is there twice", id)
		}
		byID[id] = wnid
	}
	return byID, nil
}

// value reads the one element of values of an array.
func (m mat) value(e matElement) (a matArray, v matElement, err error) {
	if e.kind != miMATRIX {
		return a, v, fmt.Errorf("element of type %d, want an array", e.kind)
	}
	if a, err = m.array(e.data); err == nil {
		v, _, err = m.element(a.rest)
	}
	return a, v, err
}

// integer reads an array of one whole number. Numbers of any class are kept in the smallest type that holds them.
func (m mat) integer(e matElement) (int, error) {
	a, v, err := m.value(e)
	if err != nil {
		return 0, err
	}
	size := map[uint32]int{miINT8: 1, miUINT8: 1, miINT16: 2, miUINT16: 2, miINT32: 4, miUINT32: 4, miDOUBLE: 8}[v.kind]
	if size == 0 || a.values != 1 || len(v.data) != size {
		return 0, fmt.Errorf("%d values of type %d in %d bytes, want one number", a.values, v.kind, len(v.data))
	}
	switch v.kind {
	case miINT8:
		return int(int8(v.data[0])), nil
	case miUINT8:
		return int(v.data[0]), nil
	case miINT16:
		return int(int16(m.order.Uint16(v.data))), nil
	case miUINT16:
		return int(m.order.Uint16(v.data)), nil
	case miINT32, miUINT32:
		return int(int32(m.order.Uint32(v.data))), nil
	}
	x := math.Float64frombits(m.order.Uint64(v.data))
	if !(x == math.Trunc(x) && math.Abs(x) <= math.MaxInt32) {
		return 0, fmt.Errorf("%g is no whole number", x)
	}
	return int(x), nil
}

// text reads an array of characters.
func (m mat) text(e matElement) (string, error) {
	a, v, err := m.value(e)
	if err != nil {
		return "", err
	}
	if a.class != mxCHAR {
		return "", fmt.Errorf("array of class %d, want text", a.class)
	}
	switch v.kind {
	case miINT8, miUINT8, miUTF8:
		return string(v.data), nil
	case miUINT16, miUTF16:
		var units []uint16
		for ; len(v.data) >= 2; v.data = v.data[2:] {
			units = append(units, m.order.Uint16(v.data))
		}
		return string(utf16.Decode(units)), nil
	}
	return "", fmt.Errorf("text of type %d", v.kind)
}
