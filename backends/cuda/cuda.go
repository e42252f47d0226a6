// Package cuda trains and runs networks on an NVIDIA GPU, in float32, or with products of tensor cores in tf32 or bf16.
//
// It is part of builds with the tag cuda (make cuda), on Linux and amd64. In others Open says so.
//
// Layouts. Activations and their gradients are (P, B, C), positions outermost: a tap of a receptive field is a (B, C) matrix
// as it lies. They are float32, or bf16 in that precision. Parameters, gradients and the optimiser's slots are float32 in the
// canonical layout of package net, all of a network in one arena, so that one launch updates everything (plan.go).
//
// A learning step is a chain of launches on one stream, recorded once for each batch size as a graph. What changes from step
// to step - images, or crops of those that are kept on the device, labels, the optimiser's constants - lies in device memory,
// so that the graph stays valid; feed.go has how images get there. The step allocates nothing and waits for the device once,
// at its end: whether all numbers are finite is decided there, by a flag without which the update does nothing.
//
// Results. Every sum has one order, whatever the device does at the same time, so that the same calls give the same bits on
// one kind of device.
package cuda

import (
	"fmt"
	"slices"
	"strings"
)

// Name is the backend's name.
const Name = "cuda"

// Precision says in which numbers products are computed. Sums, parameters, the optimiser and statistics are float32 at least.
type Precision string

// The precisions.
const (
	F32  Precision = "f32"  // float32 throughout: checked against the reference like backend cpu
	TF32 Precision = "tf32" // factors rounded to 11 bits, for tensor cores
	BF16 Precision = "bf16" // factors and activations in bf16, 8 bits
)

// Precisions lists them.
func Precisions() []Precision { return []Precision{F32, TF32, BF16} }

// Options of Open.
type Options struct {
	Device    int       // the device's number as the driver counts
	Precision Precision // "" is F32
	// HostImages leaves training images on the host: engines keep none.
	HostImages bool
}

// withDefaults fills what an empty field stands for and refuses what is out of range.
func (o Options) withDefaults() (Options, error) {
	if o.Precision == "" {
		o.Precision = F32
	}
	if !slices.Contains(Precisions(), o.Precision) {
		var known []string
		for _, p := range Precisions() {
			known = append(known, string(p))
		}
		return o, fmt.Errorf("cuda: unknown precision %q (known: %s)", o.Precision, strings.Join(known, ", "))
	}
	if o.Device < 0 {
		return o, fmt.Errorf("cuda: device %d is below 0", o.Device)
	}
	return o, nil
}
