// Package fixed runs edge packages (core/edge) in integers, as core/fixed defines them: it infers, learns awake and
// sleeps, and gives the same bytes on every processor, with any number of threads, with assembly or without.
//
// Layouts. Activations are (B, H, W, C), int16. The weights of a layer are blocks of rows, a block a position (one for all
// of a convolution), a row a neuron, padded to kernel.Lanes elements: a batch of one meets them once, in order, as they lie
// in memory. The receptive field of a position is gathered into a row of the same padding, which costs 1/N of the products.
//
// A layer whose groups are equal, after an instant sleep, may hold one block a group instead of one a position
// (core/edge: the consolidated form): inference differs in where it finds a block and in nothing else. Learning expands it.
//
// Learning is stochastic gradient descent. Errors go back in block floating point (fixed.Gradient), as int16 with an exponent a
// tensor; a weight of a locally connected layer changes, in place, by its input times its error times the learning rate,
// rounded at random. Neither gradients nor an optimiser's state exist in memory. Batch norm is folded: its statistics do not
// move.
package fixed

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"hypnos/backends/fixed/internal/kernel"
	"hypnos/backends/internal/workers"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Name is the backend's name.
const Name = "fixed"

// Options of Open.
type Options struct {
	Threads int    // 0 means one a core; more than there are cores are cut, which a note of Caps says
	Kernels string // a version of Versions; "" takes the best
}

// Versions names the versions of the kernels that this processor and build can run, the best first.
func Versions() []string {
	var names []string
	for _, k := range kernel.Versions() {
		names = append(names, k.Name)
	}
	return names
}

// Open returns the backend.
func Open(o Options) (core.Backend, error) {
	b := backend{kernels: kernel.Versions()[0]}
	var err error
	if b.threads, b.notes, err = workers.Count(o.Threads); err != nil {
		return nil, fmt.Errorf("fixed: %w", err)
	}
	if o.Kernels != "" {
		i := slices.Index(Versions(), o.Kernels)
		if i < 0 {
			return nil, fmt.Errorf("fixed: no kernels %q here (there are: %s)", o.Kernels, strings.Join(Versions(), ", "))
		}
		b.kernels = kernel.Versions()[i]
	}
	return b, nil
}

type backend struct {
	threads int
	kernels *kernel.Kernels
	notes   []string
}

func (b backend) Name() string { return Name }

func (b backend) Caps() core.Caps {
	return core.Caps{
		Format:     "int16",
		Layers:     []string{"input", "conv2d", "lc2d", "relu", "add", "maxpool", "globalavgpool", "transpose", "linear"},
		Optimizers: []optim.Kind{optim.SGD},
		WakeRules:  core.WakeRules(),
		Rules:      sleep.Kinds(),
		Notes: append([]string{
			fmt.Sprintf("%d threads, %s kernels", b.threads, b.kernels.Name),
			"loads edge packages: batch norm folded, weights and activations int16 (hypnos package)",
			"sgd without momentum and weight decay",
		}, b.notes...),
	}
}

func (backend) Close() error { return nil }

// check refuses what the backend cannot do.
func check(n *net.Network, o core.Options) error {
	if err := core.CheckOptions(o); err != nil {
		return err
	}
	for _, v := range n.Nodes {
		if _, ok := v.Op.(net.BatchNorm); ok {
			return fmt.Errorf("fixed: layer %q: batch norm is %w: it is folded into the layer before it (hypnos package)", v.Name, core.ErrUnsupported)
		}
	}
	for _, l := range sleep.Layers(n) {
		if positions := l.Out.H * l.Out.W; positions > maxPositions {
			return fmt.Errorf("fixed: layer %q: %d positions of locally connected neurons are %w: at most %d", l.Name, positions, core.ErrUnsupported, maxPositions)
		}
	}
	if _, err := o.Learns(n); err != nil {
		return err
	}
	if !o.Train {
		return nil
	}
	switch s := o.Optimizer; {
	case s.Kind != optim.SGD:
		return fmt.Errorf("fixed: optimiser %q is %w: sgd only", s.Kind, core.ErrUnsupported)
	case s.Momentum != 0 || s.WeightDecay != 0:
		return fmt.Errorf("fixed: momentum %g and weight decay %g are %w: both must be 0", s.Momentum, s.WeightDecay, core.ErrUnsupported)
	case o.MaxBatch > maxLearning:
		return fmt.Errorf("fixed: learning with batches of %d is %w: at most %d", o.MaxBatch, core.ErrUnsupported, maxLearning)
	}
	return nil
}

// maxLearning is the largest batch to learn from: fixed errors keep 15-8 bits then (see learningRate).
const maxLearning = 256

// Memory counts full weights; a layer in the consolidated form takes less until it learns.
func (b backend) Memory(n *net.Network, o core.Options) (core.Memory, error) {
	if err := check(n, o); err != nil {
		return core.Memory{}, err
	}
	m := makePlan(n, o, b.threads).memory
	if math.MaxInt == math.MaxInt32 {
		m.Free = math.MaxInt
	}
	return m, nil
}

func (b backend) Compile(n *net.Network, o core.Options) (core.Engine, error) {
	m, err := b.Memory(n, o)
	if err != nil {
		return nil, err
	}
	if !m.Fits() {
		return nil, fmt.Errorf("fixed: %s takes %.0f MB, %.0f MB can be addressed: %w", n.Name, float64(m.Total())/1e6, float64(m.Free)/1e6, core.ErrUnsupported)
	}
	return compile(n, o, b.threads, b.kernels)
}
