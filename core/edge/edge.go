// Package edge makes of a trained network what a board runs: batch norm folded into the layers before it (Fold), ranges of
// activations measured on calibration images (Calibrate), weights and biases rounded to the integers of package fixed
// (Convert), all in one file with hashes (Package).
//
// The folded network is an ordinary one, without batch norms and with biases, so that any backend runs it: the float twin
// of a package is the folded network with Float's parameters.
//
// Integer parameters. Weights are int16 in the canonical layout of package net, in the Format of their tensor; biases are
// int32 with the fraction bits of the layer's sums, those of its input plus those of its weights. The formats travel with
// the parameters, as metadata (Formats).
package edge

import (
	"encoding/json"
	"fmt"

	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
)

// Profile names the arithmetic: package fixed as it is, and the meaning of Formats. A package of another profile is
// refused.
const Profile = "hypnos-int16/1"

// formatsKey is the metadata of integer parameters.
const formatsKey = "hypnos.formats"

// Formats are the number formats of a network.
type Formats struct {
	Profile string `json:"profile"`
	// Activations are the formats of the nodes' outputs, by node. Rectifiers, max pools and transposes have their input's.
	Activations map[string]fixed.Format `json:"activations"`
	// Weights are the formats of weight tensors, by parameter.
	Weights map[string]fixed.Format `json:"weights"`
}

// FormatsOf reads the formats that parameters carry. Parameters without, which are no integers, and those of another
// profile are errors.
func FormatsOf(p *model.Params) (Formats, error) {
	var f Formats
	text, ok := p.Meta[formatsKey]
	if !ok {
		return f, fmt.Errorf("edge: the parameters have no number formats: no edge package (hypnos package makes one)")
	}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return f, fmt.Errorf("edge: number formats: %w", err)
	}
	if f.Profile != Profile {
		return f, fmt.Errorf("edge: arithmetic profile %q, this program has %q", f.Profile, Profile)
	}
	return f, nil
}

// Set makes the formats travel with parameters.
func (f Formats) Set(p *model.Params) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	p.SetMeta(formatsKey, string(text))
	return nil
}

// Check returns an error that names the first node or weight whose format is missing or out of range, or is not its
// input's where it must be.
func (f Formats) Check(n *net.Network) error {
	for _, v := range n.Nodes {
		out, ok := f.Activations[v.Name]
		if !ok {
			return fmt.Errorf("edge: layer %q has no number format", v.Name)
		}
		if err := out.Check(); err != nil {
			return fmt.Errorf("edge: layer %q: %w", v.Name, err)
		}
		if in := v.Inputs; Follows(v.Op) && out != f.Activations[n.Nodes[in[0]].Name] {
			return fmt.Errorf("edge: layer %q: format %v is not its input's, %v", v.Name, out, f.Activations[n.Nodes[in[0]].Name])
		}
		for _, p := range v.Params {
			if p.Role != net.Weight {
				continue
			}
			w, ok := f.Weights[p.Name]
			if !ok {
				return fmt.Errorf("edge: %q has no number format", p.Name)
			}
			if err := w.Check(); err != nil {
				return fmt.Errorf("edge: %q: %w", p.Name, err)
			}
		}
	}
	return nil
}

// Follows tells whether an operation only chooses among its input's numbers, and so has its input's format.
func Follows(op net.Op) bool {
	switch op.(type) {
	case net.ReLU, net.MaxPool, net.Transpose:
		return true
	}
	return false
}

// Forms of a locally connected layer's weights, or biases, among integer parameters, beside the full tensor of the
// parameter's name.
const (
	// GroupsSuffix marks the consolidated form: one row a group, (Period, Period, N, k, k, Cin/g) instead of
	// (Hout, Wout, N, k, k, Cin/g), and (Period, Period, N) instead of (Hout, Wout, N). Position (i, j) has row
	// (i mod Period, j mod Period).
	GroupsSuffix = ".groups"
)
