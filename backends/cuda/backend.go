//go:build cuda && cgo && linux && amd64

package cuda

import (
	"errors"
	"fmt"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/core"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Open returns the backend.
func Open(o Options) (core.Backend, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	d, err := driver.Open(o.Device)
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	if info := d.Info(); o.Precision != F32 && info.Major < 8 {
		return nil, errors.Join(fmt.Errorf("cuda: precision %s needs capability 8.0, %s has %d.%d: %w",
			o.Precision, info.Name, info.Major, info.Minor, core.ErrUnsupported), d.Close())
	}
	return &backend{device: d, precision: o.Precision, hostImages: o.HostImages}, nil
}

type backend struct {
	device     *driver.Device
	precision  Precision
	hostImages bool
}

func (b *backend) Name() string { return Name }

func (b *backend) Caps() core.Caps {
	format := "float32"
	if b.precision != F32 {
		format = string(b.precision)
	}
	return core.Caps{
		Format:     format,
		Layers:     []string{"input", "conv2d", "lc2d", "batchnorm", "relu", "add", "maxpool", "globalavgpool", "transpose", "linear"},
		Optimizers: []optim.Kind{optim.AdamW, optim.Adam, optim.SGD},
		WakeRules:  core.WakeRules(),
		Rules:      rules(),
		Notes:      []string{b.device.Info().String(), fmt.Sprintf("products in %s, sums and parameters in float32", b.precision)},
	}
}

// rules are the sleep rules that the backend runs.
func rules() []string { return sleep.Kinds() }

func (b *backend) Close() error {
	if err := b.device.Close(); err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	return nil
}

func (b *backend) Memory(n *net.Network, o core.Options) (core.Memory, error) {
	p, err := b.plan(n, o)
	if err != nil {
		return core.Memory{}, err
	}
	return p.memory, nil
}

// plan makes the plan, with the memory that is free now.
func (b *backend) plan(n *net.Network, o core.Options) (*plan, error) {
	if err := core.CheckOptions(o); err != nil {
		return nil, err
	}
	if b.hostImages {
		o.Keep = 0
	}
	p, err := makePlan(n, o, b.precision)
	if err != nil {
		return nil, err
	}
	free, _, err := b.device.Memory()
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	p.memory.Free = max(1, free) // 0 would be unknown
	return p, nil
}

func (b *backend) Compile(n *net.Network, o core.Options) (core.Engine, error) {
	p, err := b.plan(n, o)
	if err != nil {
		return nil, err
	}
	if m := p.memory; !m.Fits() {
		return nil, fmt.Errorf("cuda: %s for batches of %d takes %.0f MB of the device's memory, %.0f MB are free: %w",
			n.Name, o.MaxBatch, float64(m.Total())/1e6, float64(m.Free)/1e6, core.ErrUnsupported)
	}
	e, err := compile(b, n, o, p)
	if err != nil {
		return nil, fmt.Errorf("cuda: %s: %w", n.Name, err)
	}
	return e, nil
}
