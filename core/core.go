// Package core is the contract between networks and the backends that run them.
//
// It is coarse on purpose: a backend compiles a whole network and owns its weights' layout, memory plan and fusion,
// because an integer backend and a GPU need freedom inside. What crosses the line is canonical: images and
// activations (B, H, W, C), weights as package net lays them out. Package core and the packages below it know no
// device, path, clock or backend; package backends opens backends by name.
package core

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"

	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Backend makes engines of one kind.
type Backend interface {
	// Name is the name by which it is opened, for messages and records.
	Name() string
	// Caps tells what it can do; constant after opening.
	Caps() Caps
	// Compile plans a network. What the backend cannot do is an error that wraps ErrUnsupported and names the layer
	// or option. The engine has undefined weights until Load.
	Compile(*net.Network, Options) (Engine, error)
	// Memory tells what Compile would allocate for the engine, and how much there is for it, before it does.
	Memory(*net.Network, Options) (Memory, error)
	// Close releases the backend. Its engines must be closed before.
	Close() error
}

// Caps is what a backend can do.
type Caps struct {
	Format     string       // number format of weights and activations: "float64", "float32"
	Layers     []string     // kinds of package net
	Optimizers []optim.Kind // empty: inference only
	WakeRules  []WakeRule
	Rules      []string // sleep rules, by Kind
	Notes      []string // what the processor or the build makes of it, one line each
}

// Options of Compile.
type Options struct {
	MaxBatch  int        // the largest batch that will be passed, at least 1
	Train     bool       // whether Wake and gradients will be asked for
	Optimizer optim.Spec // used by Wake
	Rule      WakeRule   // by which Wake learns; "" is Backprop
	Seed      uint64     // of what the rule draws, Broadcast's matrices, and of stochastic rounding
	// LearnFrom names the first layer that Wake changes: it and those behind it learn, those before it keep their
	// parameters, and no error is carried back to them. "" is all. (On a board: the classifier, or the last block.)
	LearnFrom string
	// Keep is for how many bytes of images there is to be room where the engine computes, see Keeper. Backends without a Keeper
	// look past it.
	Keep int64
}

// Memory is what an engine takes, in bytes.
type Memory struct {
	Weights     int64 `json:"weights"`     // all parameters, running statistics included
	Gradients   int64 `json:"gradients"`   // of the parameters
	Optimizer   int64 `json:"optimizer"`   // its state
	Activations int64 `json:"activations"` // and their gradients, at the largest batch
	Scratch     int64 `json:"scratch"`
	Images      int64 `json:"images,omitempty"` // kept for training, Options.Keep
	// Free is what the backend may take at the moment; 0 where it does not know.
	Free int64 `json:"free,omitempty"`
}

// Total is the sum of what the engine takes.
func (m Memory) Total() int64 {
	return m.Weights + m.Gradients + m.Optimizer + m.Activations + m.Scratch + m.Images
}

// Fits tells whether the engine may take its memory, as far as the backend knows.
func (m Memory) Fits() bool { return m.Free == 0 || m.Total() <= m.Free }

// FitsAmply tells whether, besides, an eighth of what is free stays so, which it must where images are kept that need not be:
// sleep takes memory for its maps beside the plan. What is free must be known.
func (m Memory) FitsAmply() bool { return m.Free > 0 && m.Total() <= m.Free-m.Free/8 }

// ErrUnsupported is wrapped by Compile, Sleep and Trace when the backend lacks what they ask for.
var ErrUnsupported = errors.New("not supported")

// Engine is a compiled network with its weights and its optimiser's state. It is for one goroutine at a time. Apart
// from an error that says otherwise, a call that fails leaves weights, statistics and optimiser as they were.
type Engine interface {
	// Load takes all parameters of the network, and the optimiser's state where it is there (see SlotTensor); without
	// one the optimiser starts anew. Elements are rounded to the backend's format. A missing tensor, one of another
	// shape and one that belongs to no layer are errors, found before anything changes; only when reading a tensor
	// fails midway are the engine's weights undefined until the next Load.
	Load(*model.Params) error
	// Save returns all parameters and, when compiled for training, the optimiser's state. Loading them into an
	// engine of the same backend restores it exactly. The tensors are read from the engine when they are asked for:
	// read or Snapshot them before the engine is used again.
	Save() (*model.Params, error)
	// Infer classifies with the running statistics of batch norm.
	Infer(context.Context, Batch) (Logits, error)
	// Wake makes one learning step by the rule it was compiled for, down the mean cross-entropy, at the given learning
	// rate, and returns what the network gave before the step. Anything that is not finite is a *NonFiniteError.
	Wake(ctx context.Context, x Batch, y Labels, lr float64) (Step, error)
	// Sleep runs a sleep phase. When ctx ends, it returns within the work of one grid, or of one layer where its grids are
	// shared together (sleep.LayerRunner), with every group untouched or finished, the context's error, and a report whose
	// Next says where to go on.
	Sleep(context.Context, sleep.Stream) (sleep.Report, error)
	// Trace runs one batch without changing anything and yields every layer's activation as "out/<layer>" in order,
	// then, when the probe asks for gradients, "grad/<parameter>" for every trained parameter and "grad/input", as the
	// wake rule has them.
	// Tensors have the backend's format and are valid only until the next one is asked for.
	Trace(context.Context, Batch, Probe) iter.Seq2[model.Tensor, error]
	// Close releases the engine's memory. Nothing may be called afterwards.
	Close() error
}

// Batch is N images, (N, H, W, C) in memory order, normalised.
type Batch struct {
	N      int
	Pixels []float32
}

// Labels are the classes of a batch's images.
type Labels []int32

// Logits are the network's outputs, (N, Classes).
type Logits struct {
	N, Classes int
	Values     []float64
}

// Row is the output for image i.
func (l Logits) Row(i int) []float64 { return l.Values[i*l.Classes : (i+1)*l.Classes] }

// Step is what a wake step saw before it changed the weights.
type Step struct {
	N          int
	Loss       float64 // mean cross-entropy, nats
	Top1, Top5 int     // images whose class was first, or among the first five
}

// Probe says what Trace computes besides the activations.
type Probe struct {
	// Train makes batch norm use the batch's statistics, as Wake does, without moving the running ones.
	Train bool
	// Labels, when set, ask for the gradients of the mean cross-entropy, those that Wake learns from.
	Labels Labels
	// Cotangent, when set, asks for the gradients of the sum of Cotangent × output, both (B, H, W, C), so that a
	// network need not be a classifier; it is the error of the output that Broadcast broadcasts. Only one of Labels and Cotangent may be set; gradients need Train.
	Cotangent []float64
}

// NonFiniteError says where a number that is not finite appeared first.
type NonFiniteError struct {
	Layer string // the layer, or "loss"
	What  string // "weights", "output" or "gradient"
}

func (e *NonFiniteError) Error() string {
	return fmt.Sprintf("%s of layer %q is not finite", e.What, e.Layer)
}

// Names of the optimiser's state among saved parameters.
const (
	// StepTensor is an int64 scalar: learning steps taken.
	StepTensor = "optimizer/step"
	slotPrefix = "optimizer/"
)

// SlotTensor is the name of an optimiser slot's tensor for a parameter, in the parameter's shape:
// "optimizer/m/stem.conv.weight".
func SlotTensor(slot, param string) string { return slotPrefix + slot + "/" + param }

// CheckBatch checks a batch against the network and the engine's limit. Every Engine method calls it.
func CheckBatch(n *net.Network, maxBatch int, x Batch) error {
	switch in := n.Input(); {
	case x.N < 1 || x.N > maxBatch:
		return fmt.Errorf("core: batch of %d images, compiled for 1 to %d", x.N, maxBatch)
	case len(x.Pixels) != x.N*in.Len():
		return fmt.Errorf("core: batch of %d images has %d numbers, want %d for %v", x.N, len(x.Pixels), x.N*in.Len(), in)
	}
	return nil
}

// CheckTraining checks that every batch norm sees at least two values a channel, without which it has no variance.
func CheckTraining(n *net.Network, x Batch) error {
	for _, v := range n.Nodes {
		if _, ok := v.Op.(net.BatchNorm); ok && x.N*v.In.H*v.In.W < 2 {
			return fmt.Errorf("core: layer %q: batch norm cannot learn from one value a channel", v.Name)
		}
	}
	return nil
}

// CheckLabels checks labels against a batch and the network's classes.
func CheckLabels(n *net.Network, x Batch, y Labels) error {
	classes, err := n.Classes()
	if err != nil {
		return err
	}
	if len(y) != x.N {
		return fmt.Errorf("core: %d labels for %d images", len(y), x.N)
	}
	for i, c := range y {
		if c < 0 || int(c) >= classes {
			return fmt.Errorf("core: label %d of image %d is outside 0…%d", c, i, classes-1)
		}
	}
	return nil
}

// CheckWake checks the arguments of Wake.
func CheckWake(n *net.Network, o Options, x Batch, y Labels, lr float64) error {
	if err := checkRate(o, lr); err != nil {
		return err
	}
	if err := CheckBatch(n, o.MaxBatch, x); err != nil {
		return err
	}
	return checkStep(n, x, y)
}

// checkRate checks that the engine learns, and at which rate.
func checkRate(o Options, lr float64) error {
	if !o.Train {
		return errInferenceOnly
	}
	if !(lr >= 0) || math.IsInf(lr, 0) {
		return fmt.Errorf("core: learning rate %g is not a finite number of at least 0", lr)
	}
	return nil
}

// checkStep checks what a step needs of a batch but its pixels.
func checkStep(n *net.Network, x Batch, y Labels) error {
	if err := CheckTraining(n, x); err != nil {
		return err
	}
	return CheckLabels(n, x, y)
}

// Learns tells of every node whether Wake changes its parameters. A LearnFrom that names no layer is an error.
func (o Options) Learns(n *net.Network) ([]bool, error) {
	first := 0
	if o.LearnFrom != "" {
		var ok bool
		if first, ok = n.Node(o.LearnFrom); !ok {
			return nil, fmt.Errorf("core: %s has no layer %q to learn from", n.Name, o.LearnFrom)
		}
	}
	learns := make([]bool, len(n.Nodes))
	for i := range learns {
		learns[i] = i >= first
	}
	return learns, nil
}

var errInferenceOnly = errors.New("core: the engine was compiled for inference only")

// CheckSleep checks that a phase's rule is one of those that a backend lists in its Caps.
func CheckSleep(rules []string, s sleep.Stream) error {
	if s.Rule != nil && !slices.Contains(rules, s.Rule.Kind()) {
		return fmt.Errorf("core: sleep rule %q: %w (this backend has %s)", s.Rule.Kind(), ErrUnsupported, strings.Join(rules, ", "))
	}
	return nil
}

// CheckProbe checks a probe against the network, a batch and the options of Compile.
func CheckProbe(n *net.Network, o Options, x Batch, p Probe) error {
	if err := CheckBatch(n, o.MaxBatch, x); err != nil {
		return err
	}
	switch gradients := p.Labels != nil || p.Cotangent != nil; {
	case p.Labels != nil && p.Cotangent != nil:
		return errors.New("core: a probe has labels or a cotangent, not both")
	case gradients && !p.Train:
		return errors.New("core: gradients need a probe with Train")
	case p.Train && !o.Train:
		return errInferenceOnly
	case p.Train && CheckTraining(n, x) != nil:
		return CheckTraining(n, x)
	case p.Labels != nil:
		return CheckLabels(n, x, p.Labels)
	case p.Cotangent != nil && len(p.Cotangent) != x.N*n.Output().Len():
		return fmt.Errorf("core: cotangent of %d numbers, want %d", len(p.Cotangent), x.N*n.Output().Len())
	}
	return nil
}

// CheckOptions checks the options of Compile that no backend can do without.
func CheckOptions(o Options) error {
	const maxBatch = 1 << 24 // so that sizes in bytes fit an int64 whatever the network
	if o.MaxBatch < 1 {
		return fmt.Errorf("core: batch size %d is below 1", o.MaxBatch)
	}
	if o.MaxBatch > maxBatch {
		return fmt.Errorf("core: batch size %d is above %d", o.MaxBatch, maxBatch)
	}
	if o.Keep < 0 {
		return fmt.Errorf("core: room for %d bytes of images is below 0", o.Keep)
	}
	if !o.Train {
		return nil
	}
	if o.Rule != "" {
		if err := o.Rule.Check(); err != nil {
			return err
		}
	}
	return o.Optimizer.Check()
}

// Parameter reads one parameter of an engine, in the canonical layout of net.Param.
func Parameter(e Engine, name string) ([]float64, error) {
	p, err := e.Save()
	if err != nil {
		return nil, err
	}
	t, err := p.Get(name)
	if err != nil {
		return nil, err
	}
	return t.Float64s()
}

// CheckParams checks, before anything is loaded, that p has every parameter of n in its shape, that an optimiser
// state is whole, and that nothing belongs to another network.
func CheckParams(n *net.Network, o Options, p *model.Params) error {
	want := map[string][]int{}
	for _, q := range n.Params() {
		want[q.Name] = q.Shape
		if err := p.Check(q.Name, q.Shape); err != nil {
			return fmt.Errorf("core: not a checkpoint of %s: %w", n.Name, err)
		}
	}
	for _, info := range p.Infos() {
		if _, ok := want[info.Name]; !ok && !isOptimizerState(info.Name) {
			return fmt.Errorf("core: not a checkpoint of %s: tensor %q belongs to no layer", n.Name, info.Name)
		}
	}
	if !o.Train || !p.Has(StepTensor) {
		return nil
	}
	for _, q := range n.Params() {
		for _, slot := range o.Optimizer.Slots() {
			if !q.Trained() {
				continue
			}
			if err := p.Check(SlotTensor(slot, q.Name), q.Shape); err != nil {
				return fmt.Errorf("core: optimiser state of %s: %w", o.Optimizer.Kind, err)
			}
		}
	}
	return nil
}

// SavedStep reads the number of learning steps from saved parameters.
func SavedStep(p *model.Params) (int64, error) {
	t, err := p.Get(StepTensor)
	if err != nil {
		return 0, err
	}
	step, ok := t.Data.([]int64)
	if !ok || len(step) != 1 || step[0] < 0 {
		return 0, fmt.Errorf("core: tensor %q is not the number of steps", StepTensor)
	}
	return step[0], nil
}

func isOptimizerState(name string) bool { return strings.HasPrefix(name, slotPrefix) }
