package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"hypnos/backends"
	"hypnos/backends/fixed"
	"hypnos/bench/experiment"
	"hypnos/core"
	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/train"
)

// opened is a network with its parameters, of a checkpoint or of an edge package.
type opened struct {
	experiment.Checkpoint
	path string
	file *model.File   // of a checkpoint
	edge *edge.Package // or a package
}

// defaultBackend is the help of a --backend that is chosen by what is opened.
const defaultBackend = "backend, with settings: cpu, cpu:threads=2, ref, fixed (default: cpu, fixed for an edge package)"

// openModel opens a checkpoint or a package. Of a package the checkpoint's fields are those of its source.
func openModel(path string) (*opened, error) {
	isPackage, err := isPackageFile(path)
	if err != nil {
		return nil, err
	}
	o := &opened{path: path}
	if !isPackage {
		o.Checkpoint, o.file, err = experiment.ReadCheckpoint(path)
		return o, err
	}
	if o.edge, err = edge.OpenPackage(path); err != nil {
		return nil, err
	}
	m := o.edge.Manifest
	c, err := experiment.Parse(m.Source.Config)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), o.edge.Close())
	}
	o.Checkpoint = experiment.Checkpoint{
		Net: m.Network, Config: c, State: train.State{Step: m.Source.Step},
		Data: experiment.DataRecord{Name: m.Source.Data, Classes: m.Classes, Stats: m.Stats},
	}
	return o, nil
}

// Close closes the file.
func (o *opened) Close() error {
	if o.edge != nil {
		return o.edge.Close()
	}
	return o.file.Close()
}

// compile compiles the network for inference and sleep and loads it: a package as integers, or on a float backend as
// the numbers that they stand for. "" is the backend of what it is.
func (o *opened) compile(backend string, options core.Options) (core.Engine, error) {
	if backend == "" {
		backend = "cpu"
		if o.edge != nil {
			backend = fixed.Name
		}
	}
	p, err := o.params(backend)
	if err == nil {
		var e core.Engine
		if e, err = open(backend, o.Net, options, p); err == nil {
			return e, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", o.path, err)
}

func (o *opened) params(backend string) (*model.Params, error) {
	name, _, _ := strings.Cut(backend, ":")
	switch {
	case o.edge == nil:
		return &o.file.Params, nil
	case name == fixed.Name:
		return o.edge.Params()
	}
	return edge.Float(o.Net, o.edge.Stored())
}

// saves returns an error when what an engine of a backend has cannot be saved as a file of this kind.
func (o *opened) saves(backend string) error {
	if name, _, _ := strings.Cut(backend, ":"); o.edge != nil && name != "" && name != fixed.Name {
		return fmt.Errorf("%s: a package is written from integers only, not from the backend %q", o.path, backend)
	}
	return nil
}

// save writes the network as an engine has it, as a file of the kind that it was opened from; a package in its smallest
// form that loses at most so many bits (edge.Residual).
func (o *opened) save(ctx context.Context, path string, e core.Engine, residualBits int) error {
	p, err := e.Save()
	if err != nil {
		return err
	}
	if o.edge == nil {
		for key, v := range o.file.Meta {
			p.SetMeta(key, v)
		}
		return model.Save(path, p)
	}
	if p, err = edge.Consolidate(o.Net, p); err != nil {
		return err
	}
	if p, err = edge.Residual(o.Net, p, residualBits); err != nil {
		return err
	}
	if residualBits > 0 { // golden vectors are of what is written
		if p, err = p.Snapshot(); err != nil {
			return err
		}
		written, err := edge.Loadable(o.Net, p)
		if err == nil {
			err = e.Load(written)
		}
		if err != nil {
			return err
		}
	}
	m, golden := o.edge.Manifest, (*edge.GoldenTensors)(nil)
	if m.Golden, golden, err = o.edge.Golden(ctx, e, 0); err != nil {
		return err
	}
	return edge.WritePackage(path, m, p, edge.PackOptions{Golden: golden})
}

// open compiles a network and loads its parameters. Closing the engine is enough.
func open(backend string, n *net.Network, o core.Options, p *model.Params) (core.Engine, error) {
	b, err := backends.Open(backend)
	if err != nil {
		return nil, err
	}
	e, err := b.Compile(n, o)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	both := closing{e, b}
	if err := e.Load(p); err != nil {
		return nil, errors.Join(err, both.Close())
	}
	return both, nil
}

// closing closes the backend with the engine.
type closing struct {
	core.Engine
	backend core.Backend
}

func (c closing) Close() error { return errors.Join(c.Engine.Close(), c.backend.Close()) }
