// Package onnx writes trained networks as ONNX models, in standard operators only, so that programs that know nothing of
// locally connected layers run them: ONNX Runtime, and through it the public benchmarks of other fields.
//
// A model takes "images", float32 (B, C, H, W), any B, and gives "output", (B, classes) of a classifier, else (B, C, H, W).
// The graph is one of inference: batch norms use their running statistics.
//
// A locally connected layer is written as its definition, one product a position: the k² taps of all receptive fields are
// strided slices of the padded image; beside one another, with positions outermost, they are (P, g, B, K), which MatMul
// multiplies by weights (P, g, K, N/g). That takes k² times the memory of the activation, as an unfolding does everywhere.
//
// Source: ONNX, "Operator Schemas" and onnx.proto3, IR version 8, operator set 13.
package onnx

import (
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
)

// IRVersion and OpSet are what a reader must know at least.
const (
	IRVersion = 8
	OpSet     = 13
)

// maxBytes is the largest protocol buffer there can be.
const maxBytes = 1<<31 - 1

// Options of Write.
type Options struct {
	// Stats, when set, are applied first: the model takes pixels in 0…1, and (pixel - mean)/std is the network's input.
	// Without, the model takes what a core.Batch holds but for the order of axes.
	Stats *data.Stats
	// Producer is the program's name and version; Meta are further entries for whoever reads the file.
	Producer, Version string
	Meta              map[string]string
}

// Write writes a network with its parameters. Parameters are rounded to float32 and read one tensor at a time. Missing
// tensors, those of another shape, and models beyond 2 GiB, which no protocol buffer can hold, are errors before anything
// is written.
func Write(w io.Writer, n *net.Network, p *model.Params, o Options) error {
	for _, q := range n.Params() {
		if err := p.Check(q.Name, q.Shape); err != nil {
			return fmt.Errorf("onnx: %s: %w", n.Name, err)
		}
	}
	if o.Stats != nil && n.Input().C != len(o.Stats.Mean) {
		return fmt.Errorf("onnx: %s: statistics of %d channels for an input of %d", n.Name, len(o.Stats.Mean), n.Input().C)
	}
	g := newGraph(n, p, o.Stats)
	if err := g.build(); err != nil {
		return fmt.Errorf("onnx: %s: %w", n.Name, err)
	}
	m := modelOf(g, o)
	if size := m.size(); size > maxBytes {
		return fmt.Errorf("onnx: %s: %d bytes are more than the %d that an ONNX file holds", n.Name, size, maxBytes)
	}
	if err := m.write(w); err != nil {
		return fmt.Errorf("onnx: %s: %w", n.Name, err)
	}
	return nil
}

// modelOf is the ModelProto around a graph.
func modelOf(g *graph, o Options) *message {
	m := &message{}
	m.integer(1, IRVersion)
	m.text(2, o.Producer)
	m.text(3, o.Version)
	m.embed(7, g.message())
	opset := &message{}
	opset.text(1, "")
	opset.integer(2, OpSet)
	m.embed(8, opset)
	for _, key := range sortedKeys(o.Meta) {
		entry := &message{}
		entry.text(1, key)
		entry.text(2, o.Meta[key])
		m.embed(14, entry)
	}
	return m
}

// message is a protocol buffer under construction: bytes, and between them what is read when it is written.
type message struct {
	parts []part
}

// part is bytes that are there, or n bytes that are loaded later.
type part struct {
	bytes []byte
	n     int64
	load  func() ([]byte, error)
}

func (m *message) size() (n int64) {
	for _, p := range m.parts {
		n += int64(len(p.bytes)) + p.n
	}
	return n
}

func (m *message) write(w io.Writer) error {
	for _, p := range m.parts {
		if p.load != nil {
			b, err := p.load()
			if err != nil {
				return err
			}
			if int64(len(b)) != p.n {
				return fmt.Errorf("%d bytes loaded, %d announced", len(b), p.n)
			}
			p.bytes = b
		}
		if _, err := w.Write(p.bytes); err != nil {
			return err
		}
	}
	return nil
}

// append adds bytes to the end.
func (m *message) append(b ...byte) {
	if last := len(m.parts) - 1; last >= 0 && m.parts[last].load == nil {
		m.parts[last].bytes = append(m.parts[last].bytes, b...)
		return
	}
	m.parts = append(m.parts, part{bytes: b})
}

func (m *message) integer(field protowire.Number, v int64) {
	m.append(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), uint64(v))...)
}

func (m *message) float(field protowire.Number, bits uint32) {
	m.append(protowire.AppendFixed32(protowire.AppendTag(nil, field, protowire.Fixed32Type), bits)...)
}

func (m *message) text(field protowire.Number, s string) {
	m.append(protowire.AppendString(protowire.AppendTag(nil, field, protowire.BytesType), s)...)
}

// embed adds a message as a field.
func (m *message) embed(field protowire.Number, inner *message) {
	m.head(field, inner.size())
	for _, p := range inner.parts {
		if p.load != nil {
			m.parts = append(m.parts, p)
		} else {
			m.append(p.bytes...)
		}
	}
}

// later adds n bytes as a field, which are loaded when the message is written.
func (m *message) later(field protowire.Number, n int64, load func() ([]byte, error)) {
	m.head(field, n)
	m.parts = append(m.parts, part{n: n, load: load})
}

func (m *message) head(field protowire.Number, n int64) {
	m.append(protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(n))...)
}
