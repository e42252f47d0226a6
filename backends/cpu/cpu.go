// Package cpu trains and runs networks in float32 on all cores of a processor.
//
// Layouts. Activations are (H, W, C, B), the batch innermost: the row of one channel at one position is a vector over
// the images, so that a receptive field is a list of rows, used where they lie for forward, input gradient and weight
// gradient alike, with no im2col. Weights are (location, group, tile of 16 output channels, tap, input channel, channel
// of the tile): those of one location are contiguous and are met once, in order, in each pass over a locally connected
// layer. Both are converted at Load, Save and Trace; see layout.go and package kernel.
//
// Memory. All large arrays are planned by Compile, allocated at once and used by every pass (plan.go); a learning step
// allocates nothing. Inference applies batch norm, sum and rectifier to the output of a location while it is in the
// cache (fusion.go).
//
// Results. Every sum has an order of its own that does not depend on the number of threads, so that any thread count
// gives the same bits. They do depend on the version of the kernels (AVX-512, AVX2, NEON, portable), by rounding, and so
// does an image's result on whether its batch is so small that it is computed image by image.
package cpu

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"

	"hypnos/backends/cpu/internal/kernel"
	"hypnos/backends/internal/arena"
	"hypnos/backends/internal/workers"
)

// Name is the backend's name.
const Name = "cpu"

// Options of Open.
type Options struct {
	Threads int    // 0 means one a core; more than there are cores are cut, which a note of Caps says
	Kernels string // a version of Versions; "" takes the best
	Memory  int64  // bytes that an engine may take; 0 means what the machine has free when it is compiled
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
	if o.Memory < 0 {
		return nil, fmt.Errorf("cpu: %d bytes of memory are below 0", o.Memory)
	}
	b := backend{kernels: kernel.Versions()[0], memory: o.Memory}
	var err error
	if b.threads, b.notes, err = workers.Count(o.Threads); err != nil {
		return nil, fmt.Errorf("cpu: %w", err)
	}
	if o.Kernels != "" {
		i := slices.Index(Versions(), o.Kernels)
		if i < 0 {
			return nil, fmt.Errorf("cpu: no kernels %q here (there are: %s)", o.Kernels, strings.Join(Versions(), ", "))
		}
		b.kernels = kernel.Versions()[i]
	}
	return b, nil
}

type backend struct {
	threads int
	kernels *kernel.Kernels
	memory  int64 // bytes that an engine may take; 0 is what is free
	notes   []string
}

func (b backend) Name() string { return Name }

func (b backend) Caps() core.Caps {
	return core.Caps{
		Format:     "float32",
		Layers:     []string{"input", "conv2d", "lc2d", "batchnorm", "relu", "add", "maxpool", "globalavgpool", "transpose", "linear"},
		Optimizers: []optim.Kind{optim.AdamW, optim.Adam, optim.SGD},
		WakeRules:  core.WakeRules(),
		Rules:      rules(),
		Notes:      append([]string{fmt.Sprintf("%d threads, %s kernels", b.threads, b.kernels.Name)}, b.notes...),
	}
}

// rules are the sleep rules that the backend runs.
func rules() []string { return sleep.Kinds() }

func (backend) Close() error { return nil }

func (b backend) Compile(n *net.Network, o core.Options) (core.Engine, error) {
	m, err := b.Memory(n, o)
	if err != nil {
		return nil, err
	}
	if !m.Fits() {
		return nil, fmt.Errorf("cpu: %s for batches of %d takes %.0f MB of memory, %.0f MB are free: %w",
			n.Name, o.MaxBatch, float64(m.Total())/1e6, float64(m.Free)/1e6, core.ErrUnsupported)
	}
	return compile(n, o, b.threads, b.kernels)
}

func (b backend) Memory(n *net.Network, o core.Options) (core.Memory, error) {
	if err := core.CheckOptions(o); err != nil {
		return core.Memory{}, err
	}
	m := makePlan(n, o, b.threads).memory
	m.Free = b.free()
	return m, nil
}

// free is how many bytes an engine may take, 0 where that is unknown: on 32 bits never, as addresses end.
func (b backend) free() int64 {
	free := b.memory
	if available, known := arena.Available(); free == 0 && known {
		free = max(1, available)
	}
	if free == 0 && math.MaxInt == math.MaxInt32 {
		free = math.MaxInt
	}
	return min(free, math.MaxInt)
}
