//go:build cuda && cgo && linux && amd64

package driver

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"unsafe"

	"gorgonia.org/cu"

	"hypnos/backends/cuda/internal/shim"
	"hypnos/backends/cuda/kernels"
)

// Device is an open device. Its methods may be called by several goroutines. After Close they fail.
type Device struct {
	info      Info
	ctx       cu.CUContext
	module    cu.Module
	entries   map[string][]parameter // the kernels' parameters
	shared    int                    // bytes of dynamic shared memory that a block can have
	work      chan command
	done      chan struct{} // closed when the device's thread ends
	closing   atomic.Bool
	memory    map[Ptr]int64 // what is allocated; here and below: of the device's thread
	pinned    map[*HostBuffer]bool
	queues    map[*Queue]bool
	events    map[*Event]bool
	graphs    map[*Graph]bool
	functions map[string]*Function
}

// Ptr is an address in the device's memory. 0 is nowhere.
type Ptr uint64

var errClosed = errors.New("driver: the device is closed")

// Open opens a device. Its errors say in one line what is missing: a driver, the device, a capability of 7.5 or more, a
// driver of CUDA 11.8 or later, or memory; or that another process has the device for itself.
func Open(ordinal int) (*Device, error) {
	if err := shim.Load(); err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	n, err := cu.NumDevices()
	if err != nil && shim.CodeOf(err) != shim.NoDevice {
		return nil, failure("counting devices", err)
	}
	if ordinal < 0 || ordinal >= n {
		return nil, fmt.Errorf("driver: no device %d: there are %d", ordinal, n)
	}
	d := &Device{
		work: make(chan command, 256), done: make(chan struct{}),
		memory: map[Ptr]int64{}, pinned: map[*HostBuffer]bool{}, queues: map[*Queue]bool{}, events: map[*Event]bool{},
		graphs: map[*Graph]bool{}, functions: map[string]*Function{},
	}
	if d.info, err = info(ordinal); err != nil {
		return nil, err
	}
	image, err := kernels.PTX(d.info.Major, d.info.Minor)
	if err != nil {
		return nil, fmt.Errorf("driver: %s: %w", d.info.Name, err)
	}
	if d.entries, err = entries(image); err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	go d.serve()
	if err := d.do(func() error { return d.start(image) }); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// serve is the device's thread.
func (d *Device) serve() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and takes its context along
	defer close(d.done)
	for c := range d.work {
		if c.kind == call {
			c.reply <- c.call()
			if c.last {
				return
			}
			continue
		}
		c.run()
	}
}

// do runs f on the device's thread, after what was asked for before, and waits for it.
func (d *Device) do(f func() error) error {
	reply := make(chan error, 1)
	if !d.send(command{kind: call, call: f, reply: reply}) {
		return errClosed
	}
	return d.wait(reply)
}

func (d *Device) send(c command) bool {
	select {
	case d.work <- c:
		return true
	case <-d.done:
		return false
	}
}

func (d *Device) wait(reply chan error) error {
	select {
	case err := <-reply:
		return err
	case <-d.done:
		select {
		case err := <-reply:
			return err
		default:
			return errClosed
		}
	}
}

// onThread runs f on an OS thread of its own, whose context nobody else sees.
func onThread(f func() error) error {
	reply := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		reply <- f()
	}()
	return <-reply
}

// start makes the context and loads the kernels.
func (d *Device) start(image string) (err error) {
	dev := cu.Device(d.info.Ordinal)
	what := fmt.Sprintf("device %d (%s)", d.info.Ordinal, d.info.Name)
	ctx, err := dev.RetainPrimaryCtx()
	if shim.CodeOf(err) == shim.DeviceUnavailable {
		return fmt.Errorf("driver: %s is in use by another process, which has it for itself: %w", what, shim.DeviceUnavailable)
	}
	if err != nil {
		return failure(what, err)
	}
	d.ctx = ctx
	if err := cu.SetCurrentContext(ctx); err != nil {
		return failure(what, err)
	}
	if d.info.Free, _, err = cu.MemInfo(); err != nil {
		return failure(what, err)
	}
	if d.shared, err = dev.Attribute(shim.SharedLimit); err != nil {
		return failure(what, err)
	}
	log := make([]byte, 1024)
	d.module, err = cu.LoadDataEx(image, &cu.JITErrorLogBuffer{Buffer: log})
	if shim.CodeOf(err) == shim.UnsupportedPTX {
		return fmt.Errorf("driver: the driver is for CUDA %s, and the kernels need one for CUDA %s or later",
			version(d.info.Driver), kernels.Version)
	}
	if err != nil {
		err = failure("compiling the kernels for "+d.info.Name, err)
		if text := strings.Join(strings.Fields(strings.TrimRight(string(log), "\x00")), " "); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return err
	}
	return nil
}

// Close waits for the device and frees all that came from it. A second Close does nothing.
func (d *Device) Close() error {
	if !d.closing.CompareAndSwap(false, true) {
		return nil
	}
	reply := make(chan error, 1)
	d.work <- command{kind: call, call: d.stop, reply: reply, last: true}
	return <-reply
}

// stop frees everything, and goes on after an error: of a lost device the driver frees nothing. The first one is
// returned.
func (d *Device) stop() error {
	if d.ctx == (cu.CUContext{}) {
		return nil
	}
	var first error
	note := func(what string, err error) {
		if err != nil && first == nil {
			first = failure(what, err)
		}
	}
	note("waiting for the device", cu.Synchronize())
	for g := range d.graphs {
		note("freeing a graph", g.graph.Destroy())
	}
	for e := range d.events {
		note("freeing an event", cu.DestroyEvent(&e.event))
	}
	for q := range d.queues {
		note("freeing a queue", q.stream.Destroy())
	}
	for b := range d.pinned {
		note("freeing pinned memory", cu.MemFreeHost(b.p))
		b.p, b.bytes = nil, 0
	}
	for p := range d.memory {
		note("freeing memory", cu.MemFree(cu.DevicePtr(p)))
	}
	if d.module != (cu.Module{}) {
		note("unloading the kernels", d.module.Unload())
	}
	note("leaving the device", cu.Device(d.info.Ordinal).ReleasePrimaryCtx())
	return first
}

// Info describes the device; Free is what was free when it was opened.
func (d *Device) Info() Info { return d.info }

// SharedLimit is how much shared memory a block can have, static and dynamic, in bytes.
func (d *Device) SharedLimit() int { return d.shared }

// Memory returns how many bytes of the device's memory are free now, and how many there are. The rest is that of other
// processes, too.
func (d *Device) Memory() (free, total int64, err error) {
	err = d.do(func() error {
		free, total, err = cu.MemInfo()
		if err != nil {
			return failure("asking for the free memory", err)
		}
		return nil
	})
	return free, total, err
}

// Alloc allocates memory of the device; what is in it is undefined. The address is a multiple of 256. An error is a
// *MemoryError when there is not enough.
func (d *Device) Alloc(bytes int64) (p Ptr, err error) {
	if bytes <= 0 {
		panic("driver: Alloc of no bytes")
	}
	err = d.do(func() error {
		q, err := cu.MemAlloc(bytes)
		if shim.CodeOf(err) == shim.OutOfMemory {
			free, _, infoErr := cu.MemInfo()
			if infoErr != nil {
				free = -1
			}
			return &MemoryError{"the device", bytes, free}
		}
		if err != nil {
			return failure(fmt.Sprintf("allocating %d bytes", bytes), err)
		}
		p = Ptr(q)
		d.memory[p] = bytes
		return nil
	})
	return p, err
}

// Free frees what Alloc returned, when the device has done what was asked for before. Of 0 it does nothing.
func (d *Device) Free(p Ptr) error {
	if p == 0 {
		return nil
	}
	return d.do(func() error {
		if _, ok := d.memory[p]; !ok {
			return fmt.Errorf("driver: Free of %#x, which is not allocated", uint64(p))
		}
		delete(d.memory, p)
		if err := cu.MemFree(cu.DevicePtr(p)); err != nil {
			return failure("freeing memory", err)
		}
		return nil
	})
}

// HostBuffer is page-locked memory of the host: copies between it and the device run beside kernels. While a copy is
// under way its part must not be touched.
type HostBuffer struct {
	device *Device
	p      unsafe.Pointer
	bytes  int64
}

// Pinned allocates a HostBuffer. What is in it is undefined.
func (d *Device) Pinned(bytes int64) (*HostBuffer, error) {
	if bytes <= 0 {
		panic("driver: Pinned of no bytes")
	}
	b := &HostBuffer{device: d, bytes: bytes}
	return b, d.do(func() (err error) {
		if b.p, err = shim.HostAlloc(bytes); shim.CodeOf(err) == shim.OutOfMemory {
			return &MemoryError{"page-locked memory of the host", bytes, -1}
		} else if err != nil {
			return failure(fmt.Sprintf("allocating %d bytes of page-locked memory", bytes), err)
		}
		d.pinned[b] = true
		return nil
	})
}

// Bytes is the memory.
func (b *HostBuffer) Bytes() []byte { return unsafe.Slice((*byte)(b.p), b.bytes) }

// Floats is the memory as float32, as many as there is room for.
func (b *HostBuffer) Floats() []float32 { return unsafe.Slice((*float32)(b.p), b.bytes/4) }

// Int32s is the memory as int32, as many as there is room for.
func (b *HostBuffer) Int32s() []int32 { return unsafe.Slice((*int32)(b.p), b.bytes/4) }

// Free frees the buffer; its slices must not be used any more. Closing the device does so, too.
func (b *HostBuffer) Free() error {
	return b.device.do(func() error {
		if !b.device.pinned[b] {
			return nil
		}
		delete(b.device.pinned, b)
		err := cu.MemFreeHost(b.p)
		b.p, b.bytes = nil, 0
		if err != nil {
			return failure("freeing page-locked memory", err)
		}
		return nil
	})
}

// Function is a kernel, ready to be launched.
type Function struct {
	name       string
	device     *Device
	function   cu.Function
	parameters []parameter
	shared     int // bytes of dynamic shared memory that launches may have
}

// Function returns a kernel by name. One name is always the same Function.
func (d *Device) Function(name string) (f *Function, err error) {
	err = d.do(func() error {
		if f = d.functions[name]; f != nil {
			return nil
		}
		parameters, ok := d.entries[name]
		if !ok {
			return fmt.Errorf("driver: no kernel %s for capability %d.%d", name, d.info.Major, d.info.Minor)
		}
		function, err := d.module.Function(name)
		if err != nil {
			return failure("kernel "+name, err)
		}
		f = &Function{name: name, device: d, function: function, parameters: parameters, shared: usualShared}
		d.functions[name] = f
		return nil
	})
	return f, err
}

// usualShared is how much dynamic shared memory a launch can have without asking, in bytes.
const usualShared = 48 << 10

// allow lets launches have as much dynamic shared memory as there is beside the kernel's static one, if that is enough.
func (f *Function) allow(bytes int) error {
	if bytes <= f.shared {
		return nil
	}
	static, err := f.function.Attribute(cu.SharedSizeBytes)
	if err != nil {
		return err
	}
	most := f.device.shared - static
	if bytes > most {
		return fmt.Errorf("%d bytes of dynamic shared memory needed, a block of %s has %d", bytes, f.device.info.Name, most)
	}
	if err := shim.SetDynamicShared(f.function, most); err != nil {
		return err
	}
	f.shared = most
	return nil
}

// Event is a point in a queue's work that other queues can wait for.
type Event struct {
	device *Device
	event  cu.Event
}

// Event makes an event.
func (d *Device) Event() (*Event, error) {
	e := &Event{device: d}
	return e, d.do(func() (err error) {
		if e.event, err = cu.MakeEvent(cu.DefaultEvent); err != nil {
			return failure("making an event", err)
		}
		d.events[e] = true
		return nil
	})
}

// Free frees the event. Closing the device does so, too.
func (e *Event) Free() error {
	return e.device.do(func() error {
		if !e.device.events[e] {
			return nil
		}
		delete(e.device.events, e)
		if err := cu.DestroyEvent(&e.event); err != nil {
			return failure("freeing an event", err)
		}
		return nil
	})
}

// Since returns the milliseconds from when the device passed start to when it passed e. Both must have been recorded,
// and their queues synchronised.
func (e *Event) Since(start *Event) (ms float64, err error) {
	err = e.device.do(func() error {
		if ms, err = start.event.Elapsed(e.event); err != nil {
			return failure("time between two events", err)
		}
		return nil
	})
	return ms, err
}
