//go:build cuda && cgo && linux && amd64

package cuda

import (
	"context"
	"fmt"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/backends/cuda/kernels"
	"hypnos/core"
	"hypnos/core/net"
)

// How batches get to the device. From the host: a copy to page-locked memory, from there to images by the queue of copies, and from
// images to where activations begin by the queue of the work. Events order the two queues: what is in images is read after it has
// come (uploaded), and the next batch comes after it has been read (laid), while the rest of the step runs. Or the images are kept
// on the device, and the step begins with crops of them.

// putImages sends a batch to images, a part while the next one is copied into page-locked memory.
//
// That memory is free: of the two buffers it is the one whose batch was read by a step, or a pass, that the host has waited for; or
// it was fetched for a step that did not come, and whatever still arrives of it is written over by this one.
func (e *engine) putImages(x core.Batch) {
	const parts = 4
	from := e.batch[e.turn]
	e.turn = 1 - e.turn
	e.fetched = core.Batch{}
	e.copies.Wait(e.laid)
	for i := range parts {
		lo, hi := len(x.Pixels)*i/parts, len(x.Pixels)*(i+1)/parts
		if lo == hi {
			continue
		}
		copy(from.Floats()[lo:hi], x.Pixels[lo:hi])
		e.copies.Upload(e.images+driver.Ptr(4*lo), from, 4*int64(lo), 4*int64(hi-lo))
	}
	e.copies.Record(e.uploaded)
}

// layImages brings the batch into the layout of activations.
func (e *engine) layImages(p pass) {
	in := e.net.Input()
	n := int64(p.n) * int64(in.Len())
	e.launch(e.laying, kernels.Elements(n), e.images, p.out(0), p.n, in.H*in.W, in.C)
}

// has tells whether a batch is the one that was fetched.
func (e *engine) has(x core.Batch) bool {
	return x.N > 0 && x.N == e.fetched.N && &x.Pixels[0] == &e.fetched.Pixels[0]
}

func (e *engine) WakeAhead(ctx context.Context, x core.Batch, y core.Labels, lr float64, next func() core.Batch) (core.Step, error) {
	if err := e.ready(ctx); err != nil {
		return core.Step{}, err
	}
	if err := core.CheckWake(e.net, e.opt, x, y, lr); err != nil {
		return core.Step{}, err
	}
	p := pass{engine: e, n: x.N, train: true, from: e.from}
	g, err := e.graph(chain{"wake", x.N}, p, e.onWake)
	if err != nil {
		return core.Step{}, err
	}
	if !e.has(x) {
		e.putImages(x)
	}
	e.fetched = core.Batch{}
	e.putOrders(y, e.opt.Optimizer.At(e.step+1, lr))
	e.queue.Wait(e.uploaded)
	e.layImages(p)
	e.queue.Record(e.laid)
	e.start(g, p, e.onWake)
	if next != nil {
		e.fetch(next())
	}
	return e.finishStep(x.N)
}

// fetch begins to bring the batch of the next step, unless that will refuse it.
func (e *engine) fetch(x core.Batch) {
	if core.CheckBatch(e.net, e.opt.MaxBatch, x) == nil {
		e.putImages(x)
		e.fetched = x
	}
}

// keptImages are the images on the device.
type keptImages struct {
	n     int
	shape net.Shape
}

func (e *engine) Keep(m core.Images) error {
	if err := e.ready(context.Background()); err != nil {
		return err
	}
	if err := m.Check(); err != nil {
		return err
	}
	room := e.opt.Keep
	if e.pixels == 0 {
		room = 0
	}
	switch in := e.net.Input(); {
	case int64(len(m.Pixels)) > room:
		return fmt.Errorf("cuda: %.1f MB of images are to be kept, there is room for %.1f MB: %w",
			float64(len(m.Pixels))/1e6, float64(room)/1e6, core.ErrUnsupported)
	case m.Shape.C != in.C || in.H != in.W:
		return fmt.Errorf("cuda: images of %v are to be kept for an input of %v: %w", m.Shape, in, core.ErrUnsupported)
	}
	e.kept = keptImages{}
	err := pieces(len(m.Pixels), 1, func(lo, hi int) error {
		copy(e.pieces.Bytes(), m.Pixels[lo:hi])
		e.queue.Upload(e.pixels+driver.Ptr(lo), e.pieces, 0, int64(hi-lo))
		return e.wait()
	})
	if err != nil {
		return err
	}
	for c, values := range m.Values {
		if err := e.upload(e.table+driver.Ptr(c*len(values)*4), values[:]); err != nil {
			return err
		}
	}
	for c, g := range e.graphs { // they have the shape of those kept before
		if c.kind != keptChain {
			continue
		}
		delete(e.graphs, c)
		if err := g.Free(); err != nil {
			return e.fault(err)
		}
	}
	e.kept = keptImages{m.Len(), m.Shape}
	return nil
}

// keptChain is the kind of the steps on images that are kept.
const keptChain = "wake kept"

func (e *engine) WakeKept(ctx context.Context, crops []core.Crop, y core.Labels, lr float64) (core.Step, error) {
	if err := e.ready(ctx); err != nil {
		return core.Step{}, err
	}
	if err := core.CheckWakeKept(e.net, e.opt, e.kept.n, e.kept.shape, crops, y, lr); err != nil {
		return core.Step{}, err
	}
	p := pass{engine: e, n: len(crops), train: true, from: e.from}
	g, err := e.graph(chain{keptChain, len(crops)}, p, e.onKept)
	if err != nil {
		return core.Step{}, err
	}
	e.putOrders(y, e.opt.Optimizer.At(e.step+1, lr))
	e.putCrops(crops)
	e.start(g, p, e.onKept)
	return e.finishStep(len(crops))
}

// putCrops puts crops where wakeKept finds them.
func (e *engine) putCrops(crops []core.Crop) {
	all := e.orders.Int32s()[controlBytes(e.opt.MaxBatch)/4:]
	images, places := all[:e.opt.MaxBatch], all[e.opt.MaxBatch:]
	for i, c := range crops {
		images[i], places[3*i], places[3*i+1], places[3*i+2] = int32(c.Image), int32(c.Row), int32(c.Col), 0
		if c.Mirror {
			places[3*i+2] = 1
		}
	}
}

// wakeKept is a learning step's work on crops of the images kept.
func (e *engine) wakeKept(p pass) {
	size, offset := e.net.Input().H, controlBytes(e.opt.MaxBatch)
	e.queue.Upload(e.cropImages(), e.orders, offset, cropBytes(e.opt.MaxBatch))
	e.launch("augment_"+e.element(), kernels.Elements(int64(p.n*size*size)), e.pixels, e.cropImages(), e.cropPlaces(), e.table, p.out(0),
		p.n, e.kept.shape.H, e.kept.shape.W, e.kept.shape.C, size, 0)
	e.wake(p)
}
