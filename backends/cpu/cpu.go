// Package cpu trains and runs networks in float32 on all cores of a processor.
//
// Layouts. Activations are (H, W, C, B), the batch innermost: the row of one channel at one position is a vector over
// the images, so that a receptive field is a list of rows, used where they lie for forward, input gradient and weight
// gradient alike, with no im2col. Weights are (location, group, tap, input channel, output channel): those of one
// location are contiguous and are met once, in order, in each pass over a locally connected layer. Both are converted
// at Load, Save and Trace; see layout.go.
//
// Results. Every sum has an order of its own that does not depend on the number of threads or on the batch around an
// image, so that any thread count gives the same bits, and a batch of N the same logits as N batches of one.
package cpu

import (
	"fmt"
	"runtime"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"

	"hypnos/backends/cpu/internal/workers"
)

// Name is the backend's name.
const Name = "cpu"

// Open returns the backend with the given number of threads; 0 means one a core. More threads than cores are cut to
// the cores, which a note of Caps says.
func Open(threads int) (core.Backend, error) {
	cores := runtime.GOMAXPROCS(0)
	b := backend{threads: threads}
	switch {
	case threads < 0:
		return nil, fmt.Errorf("cpu: %d threads are below 0", threads)
	case threads == 0:
		b.threads = cores
	case threads > cores:
		b.threads = cores
		b.notes = append(b.notes, fmt.Sprintf("%d threads asked for, cut to the %d cores", threads, cores))
	}
	return b, nil
}

type backend struct {
	threads int
	notes   []string
}

func (b backend) Name() string { return Name }

func (b backend) Caps() core.Caps {
	return core.Caps{
		Format:     "float32",
		Layers:     []string{"input", "conv2d", "lc2d", "batchnorm", "relu", "add", "maxpool", "globalavgpool", "linear"},
		Optimizers: []optim.Kind{optim.AdamW, optim.Adam, optim.SGD},
		Rules:      []string{sleep.Observe{}.Kind(), sleep.Instant{}.Kind()},
		Notes:      append([]string{fmt.Sprintf("%d threads, portable kernels", b.threads)}, b.notes...),
	}
}

func (backend) Close() error { return nil }

func (b backend) Compile(n *net.Network, o core.Options) (core.Engine, error) {
	if err := core.CheckOptions(o); err != nil {
		return nil, err
	}
	return compile(n, o, workers.New(b.threads)), nil
}
