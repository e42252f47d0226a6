//go:build cuda && cgo && linux && amd64

package driver

import (
	"fmt"
	"math"
	"unsafe"

	"gorgonia.org/cu"

	"hypnos/backends/cuda/internal/shim"
)

// Queue is a sequence of work for the device, a CUDA stream. Its methods return at once, and what they ask for runs in
// that order. After an error the rest is left out until Synchronize returns it. A queue is for one goroutine at a time.
//
// A launch, a copy, an event or a run of a graph allocates no memory of Go.
type Queue struct {
	device *Device
	stream cu.Stream
	reply  chan error
	finish func() error // synchronize, as a value that is made once
	first  func() error // take, too
	err    error        // the first; of the device's thread, as is what follows
	last   string       // the kernel that was launched last
	slots  [maxParameters]uint64
	args   [maxParameters]unsafe.Pointer
}

// maxParameters is more than any kernel has.
const maxParameters = 32

// Grid and Block are the sizes of a launch: blocks of the grid, threads of a block. 0 counts as 1.
type (
	Grid  struct{ X, Y, Z int }
	Block struct{ X, Y, Z int }
)

// command is work for the device's thread: a call that somebody waits for, or work of a queue.
type command struct {
	kind  kind
	queue *Queue

	// call
	call  func() error
	reply chan error
	last  bool

	// the others
	dst, src   Ptr
	host       unsafe.Pointer
	bytes      int64
	value      byte
	event      *Event
	graph      *Graph
	function   *Function
	grid       Grid
	block      Block
	shared     int
	parameters [maxParameters]uint64
}

type kind int

const (
	call kind = iota
	upload
	download
	set
	copyDevice
	launch
	record
	wait
	runGraph
)

// Queue makes a queue.
func (d *Device) Queue() (*Queue, error) {
	q := &Queue{device: d, reply: make(chan error, 1)}
	q.finish, q.first = q.synchronize, q.take
	for i := range q.args {
		q.args[i] = unsafe.Pointer(&q.slots[i])
	}
	return q, d.do(func() (err error) {
		if q.stream, err = cu.MakeStream(cu.NonBlocking); err != nil {
			return failure("making a queue", err)
		}
		d.queues[q] = true
		return nil
	})
}

// Free frees the queue, when its work is done. Closing the device does so, too.
func (q *Queue) Free() error {
	return q.device.do(func() error {
		if !q.device.queues[q] {
			return nil
		}
		delete(q.device.queues, q)
		err := q.stream.Synchronize()
		if destroyed := q.stream.Destroy(); err == nil {
			err = destroyed
		}
		if err != nil {
			return failure("freeing a queue", err)
		}
		return nil
	})
}

// Upload copies n bytes of src, from offset on, to dst.
func (q *Queue) Upload(dst Ptr, src *HostBuffer, offset, n int64) {
	q.send(command{kind: upload, dst: dst, host: src.at(offset, n), bytes: n})
}

// Download copies n bytes of src to dst, from offset on. They are there after Synchronize.
func (q *Queue) Download(dst *HostBuffer, offset int64, src Ptr, n int64) {
	q.send(command{kind: download, src: src, host: dst.at(offset, n), bytes: n})
}

func (b *HostBuffer) at(offset, n int64) unsafe.Pointer {
	if offset < 0 || n < 0 || n > b.bytes-offset {
		panic("driver: a copy beyond the end of a HostBuffer")
	}
	return unsafe.Add(b.p, offset)
}

// Set fills n bytes from dst on.
func (q *Queue) Set(dst Ptr, value byte, n int64) {
	q.send(command{kind: set, dst: dst, value: value, bytes: n})
}

// Copy copies n bytes of the device's memory.
func (q *Queue) Copy(dst, src Ptr, n int64) {
	q.send(command{kind: copyDevice, dst: dst, src: src, bytes: n})
}

// Launch launches a kernel with so many bytes of dynamic shared memory. The
// arguments are those of the kernel: Ptr, int64 and uint64 where it has 64 bits, int where it has an int, float32 and
// float64. It panics when they are not, for that is a mistake in the program.
func (q *Queue) Launch(f *Function, grid Grid, block Block, shared int, args ...any) {
	c := command{kind: launch, function: f, grid: grid, block: block, shared: shared}
	if len(args) != len(f.parameters) {
		panic(fmt.Sprintf("driver: kernel %s has %d parameters, not %d", f.name, len(f.parameters), len(args)))
	}
	for i, arg := range args {
		value, bytes, float := encode(arg)
		if p := f.parameters[i]; bytes != p.bytes || float != p.float {
			panic(fmt.Sprintf("driver: kernel %s: argument %d is not of type .%s", f.name, i, p.name))
		}
		c.parameters[i] = value
	}
	q.send(c)
}

// encode is an argument as it lies in memory, its size, and whether it is a floating-point number. Bytes are 0 for what
// no kernel takes.
func encode(arg any) (value uint64, bytes int, float bool) {
	switch v := arg.(type) {
	case Ptr:
		return uint64(v), 8, false
	case int64:
		return uint64(v), 8, false
	case uint64:
		return v, 8, false
	case int:
		if v != int(int32(v)) {
			panic(fmt.Sprintf("driver: %d is too large for an int of a kernel", v))
		}
		return uint64(uint32(v)), 4, false
	case float32:
		return uint64(math.Float32bits(v)), 4, true
	case float64:
		return math.Float64bits(v), 8, true
	}
	return 0, 0, false
}

// Record marks the end of what the queue was given so far.
func (q *Queue) Record(e *Event) { q.send(command{kind: record, event: e}) }

// Wait makes what follows wait for an event that was recorded in another queue.
func (q *Queue) Wait(e *Event) { q.send(command{kind: wait, event: e}) }

// Synchronize waits for all that the queue was given and returns the first error, which is forgotten then. Calls that
// other goroutines make meanwhile wait, too: what is to run beside must have been given to its queue before.
func (q *Queue) Synchronize() error {
	if !q.send(command{kind: call, call: q.finish, reply: q.reply}) {
		return errClosed
	}
	return q.device.wait(q.reply)
}

// Err returns the first error of giving the queue's work to the device, which is forgotten then. It does not wait for the work:
// what goes wrong in it is an error of what is given afterwards, to any queue.
func (q *Queue) Err() error {
	if !q.send(command{kind: call, call: q.first, reply: q.reply}) {
		return errClosed
	}
	return q.device.wait(q.reply)
}

func (q *Queue) take() error {
	err := q.err
	q.err = nil
	return err
}

func (q *Queue) synchronize() error {
	err := q.stream.Synchronize()
	if first := q.take(); first != nil {
		return first
	}
	if err != nil {
		return failure(q.after("waiting for the queue"), err)
	}
	return nil
}

// after names the kernel that was launched last: an error may be of any work before.
func (q *Queue) after(what string) string {
	if q.last == "" {
		return what
	}
	return what + " after kernel " + q.last
}

// Graph is recorded work that runs again as a whole.
type Graph struct {
	device *Device
	graph  shim.Graph
}

// Capture records what f gives to the queue, which does not run then, as a graph. Another queue joins in when f makes
// it wait for an event that the captured queue recorded; it must be joined again, the same way round, before f returns.
// f must not call Synchronize. The addresses and numbers that it passes are those of every run.
func (q *Queue) Capture(f func()) (*Graph, error) {
	g := &Graph{device: q.device}
	err := q.device.do(func() error {
		if q.err != nil {
			return nil
		}
		if err := shim.BeginCapture(q.stream); err != nil {
			return failure("beginning to record a graph", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	f()
	err = q.device.do(func() (err error) {
		first := q.err
		q.err = nil
		g.graph, err = shim.EndCapture(q.stream)
		if err == nil {
			q.device.graphs[g] = true
		}
		if first != nil {
			return first
		}
		if err != nil {
			return failure(q.after("recording a graph"), err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// Free frees the graph, when its runs are finished. Closing the device does so, too.
func (g *Graph) Free() error {
	return g.device.do(func() error {
		if !g.device.graphs[g] {
			return nil
		}
		delete(g.device.graphs, g)
		if err := g.graph.Destroy(); err != nil {
			return failure("freeing a graph", err)
		}
		return nil
	})
}

// Run runs a graph.
func (q *Queue) Run(g *Graph) { q.send(command{kind: runGraph, graph: g}) }

func (q *Queue) send(c command) bool {
	if c.bytes == 0 && (c.kind == upload || c.kind == download || c.kind == set || c.kind == copyDevice) {
		return true
	}
	c.queue = q
	return q.device.send(c)
}

// run does what the command says, on the device's thread.
func (c *command) run() {
	q := c.queue
	if q.err != nil {
		return
	}
	var err error
	var what string
	switch c.kind {
	case upload:
		what = "copying to the device"
		err = cu.MemcpyHtoDAsync(cu.DevicePtr(c.dst), c.host, c.bytes, q.stream)
	case download:
		what = "copying from the device"
		err = cu.MemcpyDtoHAsync(c.host, cu.DevicePtr(c.src), c.bytes, q.stream)
	case set:
		what = "filling memory"
		err = cu.MemsetD8Async(cu.DevicePtr(c.dst), c.value, c.bytes, q.stream)
	case copyDevice:
		what = "copying on the device"
		err = cu.MemcpyDtoDAsync(cu.DevicePtr(c.dst), cu.DevicePtr(c.src), c.bytes, q.stream)
	case launch:
		what = "launching"
		q.last = c.function.name
		err = q.launch(c)
	case record:
		what = "recording an event"
		err = c.event.event.Record(q.stream)
	case wait:
		what = "waiting for an event"
		err = q.stream.Wait(c.event.event, 0)
	case runGraph:
		what = "running a graph"
		err = c.graph.graph.Launch(q.stream)
	}
	if err != nil {
		q.err = failure(q.after(what), err)
	}
}

func (q *Queue) launch(c *command) error {
	if err := c.function.allow(c.shared); err != nil {
		return err
	}
	n := len(c.function.parameters)
	copy(q.slots[:n], c.parameters[:n])
	g, b := c.grid, c.block
	return c.function.function.Launch(max(1, g.X), max(1, g.Y), max(1, g.Z), max(1, b.X), max(1, b.Y), max(1, b.Z), c.shared, q.stream, q.args[:n])
}
