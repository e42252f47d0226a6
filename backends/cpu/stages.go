package cpu

import (
	"fmt"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/core"
)

// Stages takes the learning step of an engine apart, for measurements. Apart from Put it checks nothing.
type Stages struct {
	engine *engine
	pass   pass
}

// StagesOf gives the stages of an engine of this backend that was compiled for training.
func StagesOf(e core.Engine) (*Stages, error) {
	x, ok := e.(*engine)
	if !ok {
		return nil, fmt.Errorf("cpu: %T is no engine of this backend", e)
	}
	if !x.opt.Train {
		return nil, fmt.Errorf("cpu: %s was compiled for inference only: %w", x.net.Name, core.ErrUnsupported)
	}
	return &Stages{engine: x}, nil
}

// Put lays out a batch, and the gradient of the output, (B, H, W, C), for the other stages.
func (s *Stages) Put(x core.Batch, cotangent []float32) error {
	e := s.engine
	if err := core.CheckBatch(e.net, e.opt.MaxBatch, x); err != nil {
		return err
	}
	out := e.net.Output()
	if len(cotangent) != x.N*out.Len() {
		return fmt.Errorf("cpu: cotangent of %d numbers, want %d", len(cotangent), x.N*out.Len())
	}
	s.pass = e.begin(x, true)
	batchInnermost(s.pass.grad(len(e.net.Nodes)-1), cotangent, x.N, out.Len())
	return nil
}

// Forward computes all activations, as Wake does.
func (s *Stages) Forward() {
	for _, l := range s.engine.layers {
		l.forward(s.pass)
	}
}

// Backward computes the gradients of all parameters and of the images, for which Wake has no use. It may overwrite the
// output's gradient; in a network of one spatial layer it does not, so that it can be called again.
func (s *Stages) Backward() { s.engine.backward(s.pass) }

// Update applies the optimiser to all parameters, with the gradients that are there.
func (s *Stages) Update(lr float64) { s.engine.update(lr) }

// Limits are loops that load the machine as far as the instructions of the kernels can.
type Limits struct {
	kernel.Limits
	Kernels string // the version of the kernels
	Own     bool   // false: the version has no such loops, these are portable Go and do not reach the machine's limits
	Threads int    // that a backend opened with the same options works with
	Notes   []string
}

// LimitsOf gives the loops that belong to a backend opened with these options.
func LimitsOf(o Options) (Limits, error) {
	b, err := Open(o)
	if err != nil {
		return Limits{}, err
	}
	x := b.(backend)
	l, own := x.kernels.Limits()
	return Limits{l, x.kernels.Name, own, x.threads, b.Caps().Notes}, nil
}
