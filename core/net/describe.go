package net

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// nodeJSON is the description of one node: its kind, its inputs by name, and the op's own fields beside them.
type nodeJSON struct {
	Name string          `json:"name"`
	Kind string          `json:"op"`
	In   []string        `json:"in,omitempty"`
	Args json.RawMessage `json:"args,omitempty"`
}

type networkJSON struct {
	Name  string     `json:"name"`
	Input Shape      `json:"input"`
	Nodes []nodeJSON `json:"nodes"`
}

// MarshalJSON writes the description from which UnmarshalJSON builds an equal network. Shapes other than the
// input's are not written: they follow.
func (n *Network) MarshalJSON() ([]byte, error) {
	d := networkJSON{Name: n.Name, Input: n.Input()}
	for _, v := range n.Nodes[1:] {
		j := nodeJSON{Name: v.Name, Kind: v.Op.Kind()}
		for _, i := range v.Inputs {
			j.In = append(j.In, n.Nodes[i].Name)
		}
		args, err := json.Marshal(v.Op)
		if err != nil {
			return nil, fmt.Errorf("net: describe %s: %w", v.Name, err)
		}
		if string(args) != "{}" {
			j.Args = args
		}
		d.Nodes = append(d.Nodes, j)
	}
	return json.Marshal(d)
}

// UnmarshalJSON builds the network that a description names. Unknown fields, unknown kinds and impossible shapes are
// errors.
func (n *Network) UnmarshalJSON(text []byte) error {
	var d networkJSON
	if err := strict(text, &d); err != nil {
		return fmt.Errorf("net: description: %w", err)
	}
	b := NewBuilder(d.Name)
	refs := map[string]Ref{inputName: b.Input(d.Input)}
	for _, j := range d.Nodes {
		op, err := decodeOp(j.Kind, j.Args)
		if err != nil {
			return fmt.Errorf("net: %s: layer %q: %w", d.Name, j.Name, err)
		}
		var in []Ref
		for _, name := range j.In {
			r, ok := refs[name]
			if !ok {
				return fmt.Errorf("net: %s: layer %q: no layer %q before it", d.Name, j.Name, name)
			}
			in = append(in, r)
		}
		refs[j.Name] = b.Add(j.Name, op, in...)
	}
	built, err := b.Build()
	if err != nil {
		return err
	}
	*n = *built
	return nil
}

// decodeOp reads the op of a kind from its fields.
func decodeOp(kind string, args json.RawMessage) (Op, error) {
	if len(args) == 0 {
		args = []byte("{}")
	}
	switch kind {
	case Conv2D{}.Kind():
		return decode[Conv2D](args)
	case LC2D{}.Kind():
		return decode[LC2D](args)
	case BatchNorm{}.Kind():
		return decode[BatchNorm](args)
	case ReLU{}.Kind():
		return decode[ReLU](args)
	case Add{}.Kind():
		return decode[Add](args)
	case MaxPool{}.Kind():
		return decode[MaxPool](args)
	case GlobalAvgPool{}.Kind():
		return decode[GlobalAvgPool](args)
	case Transpose{}.Kind():
		return decode[Transpose](args)
	case Linear{}.Kind():
		return decode[Linear](args)
	}
	return nil, fmt.Errorf("unknown op %q (known: conv2d, lc2d, batchnorm, relu, add, maxpool, globalavgpool, transpose, linear)", kind)
}

func decode[T Op](args []byte) (Op, error) {
	var op T
	err := strict(args, &op)
	return op, err
}

func strict(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	return d.Decode(v)
}
