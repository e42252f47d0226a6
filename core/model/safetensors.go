package model

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"unicode/utf8"
)

// The file format, safetensors (specification: the README of huggingface/safetensors): eight bytes of header length,
// little-endian; the header, a JSON object of {"dtype", "shape", "data_offsets"} by tensor name with optional string
// metadata under "__metadata__", padded with spaces; the tensors' bytes, little-endian, without gaps.
const (
	metadataKey = "__metadata__"
	maxHeader   = 100_000_000 // the limit of the reference implementation
	headerAlign = 8
)

// header is one tensor's entry in the file.
type header struct {
	DType   DType    `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"` // first byte and the byte behind the last, counted behind the header
}

// Write writes p in the safetensors format. Every tensor must have the name, type and shape that its Info promised.
func Write(w io.Writer, p *Params) error {
	head, err := encodeHeader(p)
	if err != nil {
		return err
	}
	size := int64(len(head))
	for _, e := range p.entries {
		size += int64(e.info.Len()) * int64(e.info.DType.Size())
	}
	bw := bufio.NewWriterSize(w, int(min(size+8, 1<<20)))
	var length [8]byte
	binary.LittleEndian.PutUint64(length[:], uint64(len(head)))
	bw.Write(length[:]) // a bufio.Writer keeps its first error for Flush
	bw.Write(head)
	for _, e := range p.entries {
		t, err := e.load()
		if err != nil {
			return fmt.Errorf("model: write: %w", err)
		}
		if t.DType != e.info.DType || !slices.Equal(t.Shape, e.info.Shape) {
			return fmt.Errorf("model: write: tensor %q: got %s %v where %s %v was promised", e.info.Name, t.DType, t.Shape, e.info.DType, e.info.Shape)
		}
		if err := writeData(bw, t.Data); err != nil {
			return fmt.Errorf("model: write: tensor %q: %w", e.info.Name, err)
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("model: write: %w", err)
	}
	return nil
}

func encodeHeader(p *Params) ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	if len(p.Meta) > 0 {
		meta, err := json.Marshal(p.Meta)
		if err != nil {
			return nil, fmt.Errorf("model: write: metadata: %w", err)
		}
		fmt.Fprintf(&b, "%q:%s", metadataKey, meta)
	}
	var at int64
	for i, e := range p.entries {
		if e.info.Name == metadataKey {
			return nil, fmt.Errorf("model: write: the tensor name %q is reserved", metadataKey)
		}
		end := at + int64(e.info.Len())*int64(e.info.DType.Size())
		name, err := json.Marshal(e.info.Name)
		if err != nil {
			return nil, fmt.Errorf("model: write: tensor %q: %w", e.info.Name, err)
		}
		shape := e.info.Shape
		if shape == nil {
			shape = []int{}
		}
		entry, err := json.Marshal(header{e.info.DType, shape, [2]int64{at, end}})
		if err != nil {
			return nil, fmt.Errorf("model: write: tensor %q: %w", e.info.Name, err)
		}
		if i > 0 || len(p.Meta) > 0 {
			b.WriteByte(',')
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(entry)
		at = end
	}
	b.WriteByte('}')
	for b.Len()%headerAlign != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > maxHeader {
		return nil, fmt.Errorf("model: write: the header takes %d bytes, the format allows %d", b.Len(), maxHeader)
	}
	return b.Bytes(), nil
}

// writeData writes the elements little-endian.
func writeData(w io.Writer, data any) error {
	switch d := data.(type) {
	case []float64:
		return writeElements(w, d, 8, func(b []byte, v float64) { binary.LittleEndian.PutUint64(b, math.Float64bits(v)) })
	case []float32:
		return writeElements(w, d, 4, func(b []byte, v float32) { binary.LittleEndian.PutUint32(b, math.Float32bits(v)) })
	default:
		return binary.Write(w, binary.LittleEndian, d)
	}
}

// chunk is how many elements are converted at a time.
const chunk = 16 << 10

func writeElements[T float32 | float64](w io.Writer, data []T, size int, put func([]byte, T)) error {
	buf := make([]byte, min(len(data), chunk)*size)
	for part := range slices.Chunk(data, chunk) {
		for i, v := range part {
			put(buf[i*size:], v)
		}
		if _, err := w.Write(buf[:len(part)*size]); err != nil {
			return err
		}
	}
	return nil
}

// File is an open checkpoint; its Params are read from it on demand. Close it when done with them.
type File struct {
	Params
	f *os.File
}

// Open opens a safetensors file and checks its whole header: size, syntax, duplicate keys, element types, and that the
// tensors cover the data without overlap or hole. Errors name the file.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("model: open: %w", err)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	var p *Params
	if err == nil {
		p, err = Read(f, st.Size())
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("model: open %s: %w", path, err)
	}
	return &File{Params: *p, f: f}, nil
}

// Close closes the file. The Params must not be read afterwards.
func (f *File) Close() error { return f.f.Close() }

// Read checks the header of a safetensors file of size bytes and returns its tensors, which stay in r until they are
// read.
func Read(r io.ReaderAt, size int64) (*Params, error) {
	var length [8]byte
	if size < int64(len(length)) {
		return nil, fmt.Errorf("%d bytes are too few for a safetensors file", size)
	}
	if _, err := r.ReadAt(length[:], 0); err != nil {
		return nil, fmt.Errorf("header length: %w", err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeader || int64(n) > size-8 {
		return nil, fmt.Errorf("header of %d bytes in a file of %d: not a safetensors file, or truncated", n, size)
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, 8); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	names, headers, meta, err := parseHeader(text)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	base := 8 + int64(n)
	order, err := checkLayout(names, headers, size-base)
	if err != nil {
		return nil, err
	}
	p := &Params{Meta: meta}
	for _, i := range order {
		h := headers[i]
		info := Info{Name: names[i], DType: h.DType, Shape: h.Shape}
		section := io.NewSectionReader(r, base+h.Offsets[0], h.Offsets[1]-h.Offsets[0])
		p.AddLazy(info, func() (Tensor, error) { return readTensor(info, section) })
	}
	return p, nil
}

// parseHeader reads the JSON object of the header. encoding/json lets a duplicate key replace the first and ignores
// the case of field names, so that both are checked here.
func parseHeader(text []byte) (names []string, headers []header, meta map[string]string, err error) {
	if len(text) == 0 || text[0] != '{' {
		return nil, nil, nil, errors.New("does not begin with '{'")
	}
	if !utf8.Valid(text) {
		return nil, nil, nil, errors.New("not UTF-8")
	}
	if err := checkDuplicateKeys(text); err != nil {
		return nil, nil, nil, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil { // refuses anything but spaces behind the object
		return nil, nil, nil, err
	}
	for key, value := range object {
		if key == metadataKey {
			if err := json.Unmarshal(value, &meta); err != nil {
				return nil, nil, nil, fmt.Errorf("metadata: %w", err)
			}
			continue
		}
		h, err := parseTensor(value)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("tensor %q: %w", key, err)
		}
		names, headers = append(names, key), append(headers, h)
	}
	return names, headers, meta, nil
}

// parseTensor reads one tensor's entry, which has exactly the three fields of header.
func parseTensor(text []byte) (header, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(text, &fields); err != nil {
		return header{}, err
	}
	var h header
	var offsets []int64
	for name, v := range map[string]any{"dtype": &h.DType, "shape": &h.Shape, "data_offsets": &offsets} {
		if fields[name] == nil {
			return header{}, fmt.Errorf("no %s", name)
		}
		if err := json.Unmarshal(fields[name], v); err != nil {
			return header{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(fields) != 3 {
		return header{}, fmt.Errorf("%d fields, want dtype, shape and data_offsets", len(fields))
	}
	if len(offsets) != 2 {
		return header{}, fmt.Errorf("%d data_offsets, want 2", len(offsets))
	}
	h.Offsets = [2]int64(offsets)
	return h, nil
}

// checkDuplicateKeys walks the JSON text and refuses an object, at any depth, in which a key occurs twice.
func checkDuplicateKeys(text []byte) error {
	type level struct {
		keys  map[string]bool // nil in an array
		value bool            // the next token is a value
	}
	var stack []level
	d := json.NewDecoder(bytes.NewReader(text))
	for {
		token, err := d.Token()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		top := len(stack) - 1
		if key, ok := token.(string); ok && top >= 0 && stack[top].keys != nil && !stack[top].value {
			if stack[top].keys[key] {
				return fmt.Errorf("%q occurs twice", key)
			}
			stack[top].keys[key] = true
			stack[top].value = true
			continue
		}
		if token == json.Delim('}') || token == json.Delim(']') {
			stack = stack[:top]
			continue
		}
		if top >= 0 {
			stack[top].value = false // this token is the value, or opens it
		}
		switch token {
		case json.Delim('{'):
			stack = append(stack, level{keys: map[string]bool{}})
		case json.Delim('['):
			stack = append(stack, level{})
		}
	}
}

// checkLayout checks every tensor's type, shape and extent, and that together they cover the data exactly. It returns
// the tensors' indices in the order of their data.
func checkLayout(names []string, headers []header, dataLen int64) (order []int, err error) {
	order = make([]int, len(headers))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if c := slices.Compare(headers[a].Offsets[:], headers[b].Offsets[:]); c != 0 {
			return c
		}
		return cmp.Compare(names[a], names[b]) // empty tensors
	})
	var at int64
	for _, i := range order {
		h, name := headers[i], names[i]
		size, err := h.bytes()
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		from, to := h.Offsets[0], h.Offsets[1]
		switch {
		case from > to || to-from != size:
			return nil, fmt.Errorf("tensor %q: %s %v takes %d bytes, data_offsets are %v", name, h.DType, h.Shape, size, h.Offsets)
		case from < at:
			return nil, fmt.Errorf("tensor %q: data_offsets %v overlap the tensor before", name, h.Offsets)
		case from > at:
			return nil, fmt.Errorf("tensor %q: %d bytes before it belong to no tensor", name, from-at)
		}
		at = to
	}
	if at != dataLen {
		return nil, fmt.Errorf("the tensors take %d bytes, the file holds %d: truncated or overlong", at, dataLen)
	}
	return order, nil
}

// bytes is the size of the tensor by its type and shape.
func (h header) bytes() (int64, error) {
	size := int64(h.DType.Size())
	if size == 0 {
		return 0, fmt.Errorf("unknown dtype %q", string(h.DType))
	}
	if h.Shape == nil {
		return 0, errors.New("no shape")
	}
	n := size
	for _, d := range h.Shape {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative axis", h.Shape)
		}
		if d > 0 && n > math.MaxInt64/int64(d) {
			return 0, fmt.Errorf("shape %v overflows", h.Shape)
		}
		n *= int64(d)
	}
	return n, nil
}

// readTensor reads and decodes a tensor's bytes.
func readTensor(info Info, r *io.SectionReader) (Tensor, error) {
	t := Tensor{Info: info}
	if r.Size() > math.MaxInt {
		return t, fmt.Errorf("model: tensor %q: %d bytes do not fit this machine's memory", info.Name, r.Size())
	}
	n, src := info.Len(), io.NewSectionReader(r, 0, r.Size())
	var err error
	switch info.DType {
	case F64:
		t.Data, err = readElements(src, n, 8, func(b []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b)) })
	case F32:
		t.Data, err = readElements(src, n, 4, func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) })
	case I64:
		t.Data, err = readInts[int64](src, n)
	case I32:
		t.Data, err = readInts[int32](src, n)
	case I16:
		t.Data, err = readInts[int16](src, n)
	case I8:
		t.Data, err = readInts[int8](src, n)
	default:
		err = fmt.Errorf("elements of type %s cannot be read", info.DType)
	}
	if err != nil {
		return t, fmt.Errorf("model: tensor %q: %w", info.Name, err)
	}
	return t, nil
}

func readElements[T float32 | float64](r io.Reader, n, size int, get func([]byte) T) ([]T, error) {
	data := make([]T, n)
	buf := make([]byte, min(n, chunk)*size)
	for part := range slices.Chunk(data, chunk) {
		b := buf[:len(part)*size]
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		for i := range part {
			part[i] = get(b[i*size:])
		}
	}
	return data, nil
}

func readInts[T int64 | int32 | int16 | int8](r io.Reader, n int) ([]T, error) {
	data := make([]T, n)
	return data, binary.Read(r, binary.LittleEndian, data)
}
