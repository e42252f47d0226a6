package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hypnos/bench/experiment"
	"hypnos/bench/represent"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
)

// activations writes what layers make of images.
type activations struct {
	dir, source, backend string
	images               int
	layers               []string
}

const activationsBatch = 16

func (a activations) export(ctx context.Context, c console, k *opened) (err error) {
	if a.layers == nil {
		a.layers = represent.DefaultLayers(k.Net)
	}
	nodes := make([]net.Node, len(a.layers))
	for i, name := range a.layers {
		at, ok := k.Net.Node(name)
		if !ok {
			return fmt.Errorf("%s: no layer %q", k.path, name)
		}
		nodes[i] = k.Net.Nodes[at]
	}
	d, err := openFor(k.Checkpoint, a.source)
	if err != nil {
		return err
	}
	if d.Test == nil || a.images > d.Test.Len() {
		return fmt.Errorf("%s: fewer than %d test images", d.Name, a.images)
	}
	e, err := k.compile(a.backend, core.Options{MaxBatch: activationsBatch})
	if err != nil {
		return err
	}
	defer e.Close()
	test := experiment.TestLoader(d.Test, k.Net, k.Data.Stats, activationsBatch, k.Config.Data.Workers)
	if err := test.Check(); err != nil {
		return err
	}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return err
	}
	files, err := a.create(nodes)
	defer func() {
		if e := files.close(err == nil); err == nil {
			err = e
		}
	}()
	if err != nil {
		return err
	}
	if err := a.run(ctx, e, test, nodes, files); err != nil {
		return err
	}
	for _, v := range nodes {
		fmt.Fprintf(c.Out, "%s: (%d, %d, %d, %d)\n", filepath.Join(a.dir, v.Name+".npy"), a.images, v.Out.C, v.Out.H, v.Out.W)
	}
	return nil
}

// run writes batch after batch; the last one is cut.
func (a activations) run(ctx context.Context, e core.Engine, test *data.Loader, nodes []net.Node, files npyFiles) error {
	left := a.images
	for m := range test.InOrder(ctx) {
		if m.Err != nil {
			return m.Err
		}
		n := min(m.X.N, left)
		for t, err := range e.Trace(ctx, m.X, core.Probe{}) {
			if err != nil {
				return err
			}
			i := slices.IndexFunc(nodes, func(v net.Node) bool { return "out/"+v.Name == t.Name })
			if i < 0 {
				continue
			}
			x, err := t.Float32s()
			if err != nil {
				return err
			}
			if err := binary.Write(files[i], binary.LittleEndian, channelsFirst(x[:n*nodes[i].Out.Len()], nodes[i].Out)); err != nil {
				return err
			}
		}
		if err := binary.Write(files[len(nodes)], binary.LittleEndian, []int32(m.Labels[:n])); err != nil {
			return err
		}
		if left -= n; left == 0 {
			return nil
		}
	}
	return errors.Join(context.Cause(ctx), io.ErrUnexpectedEOF)
}

// channelsFirst turns (B, H, W, C) into (B, C, H, W).
func channelsFirst(x []float32, s net.Shape) []float32 {
	y := make([]float32, len(x))
	positions := s.H * s.W
	for b := 0; b < len(x); b += s.Len() {
		for p := range positions {
			for c := range s.C {
				y[b+c*positions+p] = x[b+p*s.C+c]
			}
		}
	}
	return y
}

// npyFiles are files under temporary names.
type npyFiles []*npyFile

type npyFile struct {
	*bufio.Writer
	file *os.File
}

const unfinished = ".tmp"

// create begins a file a layer, and one of labels.
func (a activations) create(nodes []net.Node) (files npyFiles, err error) {
	begin := func(name string, t model.DType, shape ...int) error {
		head, err := model.NPYHeader(t, shape)
		if err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(a.dir, name+".npy"+unfinished))
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(f, 1<<16)
		files = append(files, &npyFile{w, f})
		_, err = w.Write(head)
		return err
	}
	for _, v := range nodes {
		if err := begin(v.Name, model.F32, a.images, v.Out.C, v.Out.H, v.Out.W); err != nil {
			return files, err
		}
	}
	return files, begin("labels", model.I32, a.images)
}

// close gives the files their names when they are whole, and removes them when not.
func (files npyFiles) close(whole bool) error {
	var err error
	for _, f := range files {
		err = errors.Join(err, f.Flush(), f.file.Close())
	}
	for _, f := range files {
		name := f.file.Name()
		if !whole || err != nil {
			os.Remove(name)
		} else {
			err = os.Rename(name, strings.TrimSuffix(name, unfinished))
		}
	}
	return err
}
