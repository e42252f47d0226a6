package onnx_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// array is a tensor in row-major order, all numbers as float64.
type array struct {
	shape []int
	data  []float64
}

// field is one field of a protocol buffer.
type field struct {
	number protowire.Number
	varint uint64
	bits   uint32
	bytes  []byte
}

func fields(t *testing.T, b []byte) (all []field) {
	t.Helper()
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		f := field{number: number}
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			f.bits, n = protowire.ConsumeFixed32(b)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b)
		default:
			t.Fatalf("field %d of wire type %d", number, kind)
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		b = b[n:]
		all = append(all, f)
	}
	return all
}

// operation is a NodeProto.
type operation struct {
	op, name string
	in       []string
	out      string
	ints     map[string][]int
	floats   map[string]float64
}

// parsed is a model as an independent reader sees it.
type parsed struct {
	ir, opset    uint64
	operations   []operation
	initializers map[string]array
	meta         map[string]string
}

func parse(t *testing.T, b []byte) parsed {
	t.Helper()
	m := parsed{initializers: map[string]array{}, meta: map[string]string{}}
	for _, f := range fields(t, b) {
		switch f.number {
		case 1:
			m.ir = f.varint
		case 7:
			m.graph(t, f.bytes)
		case 8:
			for _, o := range fields(t, f.bytes) {
				if o.number == 2 {
					m.opset = o.varint
				}
			}
		case 14:
			entry := fields(t, f.bytes)
			m.meta[string(entry[0].bytes)] = string(entry[1].bytes)
		}
	}
	return m
}

func (m *parsed) graph(t *testing.T, b []byte) {
	for _, f := range fields(t, b) {
		switch f.number {
		case 1:
			o := operation{ints: map[string][]int{}, floats: map[string]float64{}}
			for _, v := range fields(t, f.bytes) {
				switch v.number {
				case 1:
					o.in = append(o.in, string(v.bytes))
				case 2:
					o.out = string(v.bytes)
				case 3:
					o.name = string(v.bytes)
				case 4:
					o.op = string(v.bytes)
				case 5:
					o.attribute(t, v.bytes)
				}
			}
			m.operations = append(m.operations, o)
		case 5:
			name, x := initializer(t, f.bytes)
			if _, twice := m.initializers[name]; twice {
				t.Fatalf("initializer %q twice", name)
			}
			m.initializers[name] = x
		}
	}
}

func (o *operation) attribute(t *testing.T, b []byte) {
	name := ""
	for _, f := range fields(t, b) {
		switch f.number {
		case 1:
			name = string(f.bytes)
		case 2:
			o.floats[name] = float64(math.Float32frombits(f.bits))
		case 3, 8:
			o.ints[name] = append(o.ints[name], int(int64(f.varint)))
		}
	}
}

func initializer(t *testing.T, b []byte) (name string, x array) {
	kind := uint64(0)
	var raw []byte
	for _, f := range fields(t, b) {
		switch f.number {
		case 1:
			x.shape = append(x.shape, int(f.varint))
		case 2:
			kind = f.varint
		case 8:
			name = string(f.bytes)
		case 9:
			raw = f.bytes
		}
	}
	switch kind {
	case 1:
		for ; len(raw) >= 4; raw = raw[4:] {
			x.data = append(x.data, float64(math.Float32frombits(binary.LittleEndian.Uint32(raw))))
		}
	case 7:
		for ; len(raw) >= 8; raw = raw[8:] {
			x.data = append(x.data, float64(int64(binary.LittleEndian.Uint64(raw))))
		}
	default:
		t.Fatalf("initializer %q of type %d", name, kind)
	}
	if len(raw) != 0 || len(x.data) != product(x.shape) {
		t.Fatalf("initializer %q has %d elements and %d bytes more for shape %v", name, len(x.data), len(raw), x.shape)
	}
	return name, x
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// run interprets the model on images.
func (m *parsed) run(t *testing.T, images array) array {
	t.Helper()
	values := map[string]array{"images": images}
	for name, x := range m.initializers {
		values[name] = x
	}
	for _, o := range m.operations {
		var in []array
		for _, name := range o.in {
			x, ok := values[name]
			if !ok {
				t.Fatalf("%s %q reads %q, which nothing has made yet", o.op, o.name, name)
			}
			in = append(in, x)
		}
		if _, twice := values[o.out]; twice {
			t.Fatalf("%s %q makes %q again", o.op, o.name, o.out)
		}
		y, err := o.run(in)
		if err != nil {
			t.Fatalf("%s %q: %v", o.op, o.name, err)
		}
		values[o.out] = y
	}
	return values["output"]
}

// run is one operation, as the operator set defines it.
func (o operation) run(in []array) (array, error) {
	x := in[0]
	switch o.op {
	case "Identity":
		return x, nil
	case "Relu":
		return x.each(func(v float64) float64 { return max(v, 0) }), nil
	case "Add":
		return broadcast(x, in[1], func(a, b float64) float64 { return a + b }), nil
	case "Sub":
		return broadcast(x, in[1], func(a, b float64) float64 { return a - b }), nil
	case "Div":
		return broadcast(x, in[1], func(a, b float64) float64 { return a / b }), nil
	case "Flatten":
		return array{[]int{x.shape[0], len(x.data) / x.shape[0]}, x.data}, nil
	case "Reshape":
		return reshape(x, in[1].data)
	case "Transpose":
		return transpose(x, o.ints["perm"]), nil
	case "Concat":
		return concat(in, o.ints["axis"][0]), nil
	case "Pad":
		return pad(x, in[1].data), nil
	case "Slice":
		return slice(x, in[1:]), nil
	case "MatMul":
		return matMul(x, in[1])
	case "Conv":
		return o.conv(in)
	case "MaxPool":
		return o.maxPool(x), nil
	case "GlobalAveragePool":
		n := x.shape[2] * x.shape[3]
		y := array{[]int{x.shape[0], x.shape[1], 1, 1}, make([]float64, len(x.data)/n)}
		for i, v := range x.data {
			y.data[i/n] += v / float64(n)
		}
		return y, nil
	case "BatchNormalization":
		y, n := array{x.shape, make([]float64, len(x.data))}, x.shape[2]*x.shape[3]
		for i, v := range x.data {
			c := i / n % x.shape[1]
			y.data[i] = in[1].data[c]*(v-in[3].data[c])/math.Sqrt(in[4].data[c]+o.floats["epsilon"]) + in[2].data[c]
		}
		return y, nil
	}
	return array{}, fmt.Errorf("no operator of this name")
}

func (x array) each(f func(float64) float64) array {
	y := array{x.shape, make([]float64, len(x.data))}
	for i, v := range x.data {
		y.data[i] = f(v)
	}
	return y
}

// offset is where an index is in memory.
func (x array) offset(index []int) int {
	at := 0
	for axis, i := range index {
		at = at*x.shape[axis] + i
	}
	return at
}

// fill makes an array element by element.
func fill(shape []int, f func(index []int) float64) array {
	y, index := array{shape, make([]float64, product(shape))}, make([]int, len(shape))
	for at := range y.data {
		rest := at
		for axis := len(shape) - 1; axis >= 0; axis-- {
			index[axis], rest = rest%shape[axis], rest/shape[axis]
		}
		y.data[at] = f(index)
	}
	return y
}

// broadcast repeats b, of the same rank, along axes where it has length 1.
func broadcast(a, b array, f func(a, b float64) float64) array {
	return fill(a.shape, func(index []int) float64 {
		there := make([]int, len(index))
		for axis, i := range index {
			if b.shape[axis] > 1 {
				there[axis] = i
			}
		}
		return f(a.data[a.offset(index)], b.data[b.offset(there)])
	})
}

func reshape(x array, lengths []float64) (array, error) {
	shape, left := make([]int, len(lengths)), -1
	known := 1
	for i, v := range lengths {
		switch shape[i] = int(v); shape[i] {
		case 0:
			shape[i] = x.shape[i]
		case -1:
			left = i
			continue
		}
		known *= shape[i]
	}
	if left >= 0 {
		shape[left] = len(x.data) / known
	}
	if product(shape) != len(x.data) {
		return x, fmt.Errorf("%v becomes %v", x.shape, shape)
	}
	return array{shape, x.data}, nil
}

func transpose(x array, perm []int) array {
	shape := make([]int, len(perm))
	for i, axis := range perm {
		shape[i] = x.shape[axis]
	}
	return fill(shape, func(index []int) float64 {
		there := make([]int, len(index))
		for i, axis := range perm {
			there[axis] = index[i]
		}
		return x.data[x.offset(there)]
	})
}

func concat(in []array, axis int) array {
	shape := append([]int(nil), in[0].shape...)
	for _, x := range in[1:] {
		shape[axis] += x.shape[axis]
	}
	return fill(shape, func(index []int) float64 {
		there := append([]int(nil), index...)
		for _, x := range in {
			if there[axis] < x.shape[axis] {
				return x.data[x.offset(there)]
			}
			there[axis] -= x.shape[axis]
		}
		panic("beyond the last part")
	})
}

func pad(x array, pads []float64) array {
	rank := len(x.shape)
	shape := make([]int, rank)
	for i := range shape {
		shape[i] = x.shape[i] + int(pads[i]) + int(pads[rank+i])
	}
	return fill(shape, func(index []int) float64 {
		there := make([]int, rank)
		for i := range there {
			if there[i] = index[i] - int(pads[i]); there[i] < 0 || there[i] >= x.shape[i] {
				return 0
			}
		}
		return x.data[x.offset(there)]
	})
}

// slice takes first, last, axes and steps.
func slice(x array, in []array) array {
	first, step, shape := make([]int, len(x.shape)), make([]int, len(x.shape)), append([]int(nil), x.shape...)
	for i := range step {
		step[i] = 1
	}
	for i, v := range in[2].data {
		axis := int(v)
		first[axis], step[axis] = int(in[0].data[i]), int(in[3].data[i])
		last := min(int(in[1].data[i]), x.shape[axis])
		shape[axis] = (last - first[axis] + step[axis] - 1) / step[axis]
	}
	return fill(shape, func(index []int) float64 {
		there := make([]int, len(index))
		for i := range there {
			there[i] = first[i] + index[i]*step[i]
		}
		return x.data[x.offset(there)]
	})
}

// matMul multiplies matrices on the last two axes of arrays whose other axes are the same.
func matMul(a, b array) (array, error) {
	rank := len(a.shape)
	rows, inner, columns := a.shape[rank-2], a.shape[rank-1], b.shape[rank-1]
	if b.shape[rank-2] != inner || product(a.shape[:rank-2]) != product(b.shape[:rank-2]) {
		return a, fmt.Errorf("%v times %v", a.shape, b.shape)
	}
	shape := append(append([]int(nil), a.shape[:rank-1]...), columns)
	return fill(shape, func(index []int) float64 {
		at := 0
		for axis, i := range index[:rank-2] {
			at = at*a.shape[axis] + i
		}
		sum := 0.0
		for k := range inner {
			sum += a.data[(at*rows+index[rank-2])*inner+k] * b.data[(at*inner+k)*columns+index[rank-1]]
		}
		return sum
	}), nil
}

func (o operation) conv(in []array) (array, error) {
	x, w := in[0], in[1]
	groups := 1
	if g, ok := o.ints["group"]; ok {
		groups = g[0]
	}
	stride, padding := 1, 0
	if s, ok := o.ints["strides"]; ok {
		stride = s[0]
	}
	if p, ok := o.ints["pads"]; ok {
		padding = p[0]
	}
	k, c, n := w.shape[2], w.shape[1], w.shape[0]
	if k != o.ints["kernel_shape"][0] || x.shape[1] != groups*c {
		return x, fmt.Errorf("weights %v in %d groups for %v", w.shape, groups, x.shape)
	}
	side := func(size int) int { return (size+2*padding-k)/stride + 1 }
	return fill([]int{x.shape[0], n, side(x.shape[2]), side(x.shape[3])}, func(index []int) float64 {
		sum := 0.0
		if len(in) > 2 {
			sum = in[2].data[index[1]]
		}
		for tap := range k * k {
			row, column := index[2]*stride-padding+tap/k, index[3]*stride-padding+tap%k
			if row < 0 || column < 0 || row >= x.shape[2] || column >= x.shape[3] {
				continue
			}
			for j := range c {
				from := index[1]/(n/groups)*c + j
				sum += w.data[w.offset([]int{index[1], j, tap / k, tap % k})] * x.data[x.offset([]int{index[0], from, row, column})]
			}
		}
		return sum
	}), nil
}

func (o operation) maxPool(x array) array {
	k, stride, padding := o.ints["kernel_shape"][0], o.ints["strides"][0], o.ints["pads"][0]
	side := func(size int) int { return (size+2*padding-k)/stride + 1 }
	return fill([]int{x.shape[0], x.shape[1], side(x.shape[2]), side(x.shape[3])}, func(index []int) float64 {
		best := math.Inf(-1)
		for tap := range k * k {
			row, column := index[2]*stride-padding+tap/k, index[3]*stride-padding+tap%k
			if row >= 0 && column >= 0 && row < x.shape[2] && column < x.shape[3] {
				best = max(best, x.data[x.offset([]int{index[0], index[1], row, column})])
			}
		}
		return best
	})
}
