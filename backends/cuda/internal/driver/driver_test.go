//go:build cuda && cgo && linux && amd64

package driver

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gorgonia.org/cu"

	"hypnos/backends/cuda/internal/shim"
)

// TestMain opens a device and prints the error when a test calls the test program so; the driver's library is loaded
// once in a process.
func TestMain(m *testing.M) {
	if ordinal := os.Getenv("HYPNOS_TEST_OPEN"); ordinal != "" {
		var n int
		fmt.Sscan(ordinal, &n)
		infos, err := Devices()
		fmt.Println("devices:", infos, err)
		d, err := Open(n)
		fmt.Println("open:", err)
		if err == nil {
			d.Close()
			fmt.Println("left:", live())
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// needDriver skips a test where there is no driver; with emulated only the one that stands in for it will do.
func needDriver(t *testing.T, emulated bool) {
	t.Helper()
	if err := shim.Load(); err != nil {
		t.Skipf("SKIPPED: %v; make cuda-emu has one that stands in", err)
	}
	if emulated && os.Getenv(shim.Library) == "" {
		t.Skip("SKIPPED: only for the library that stands in for the driver's; make cuda-emu has it")
	}
}

// live counts what the library that stands in for the driver's holds.
func live() int {
	n, err := cu.Device(0).Attribute(10001)
	if err != nil {
		return -1
	}
	return n
}

// open opens device 0, and checks at the end of the test that closing it leaves nothing.
func open(t *testing.T) *Device {
	t.Helper()
	needDriver(t, false)
	d, err := Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, ErrLost) {
			t.Error(err)
		}
		if os.Getenv(shim.Library) != "" && live() != 0 {
			t.Errorf("%d objects left after Close", live())
		}
	})
	return d
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestDevices(t *testing.T) {
	needDriver(t, false)
	infos, err := Devices()
	check(t, err)
	for i, info := range infos {
		t.Log(info)
		if info.Ordinal != i || info.Name == "" || info.Major < 7 || info.Total <= 0 || info.Free <= 0 || info.Free > info.Total || info.Driver < 11080 {
			t.Errorf("%+v", info)
		}
	}
}

// scaled runs y = by·x on a queue, n floats of pinned memory each way.
func scaled(d *Device, q *Queue, in, out *HostBuffer, x, y Ptr, by float32, n int) {
	f := must(d.Function("scale"))
	q.Upload(x, in, 0, int64(n)*4)
	q.Launch(f, Grid{X: 3}, Block{X: 256}, 0, x, y, by, int64(n))
	q.Download(out, 0, y, int64(n)*4)
}

// Several goroutines share a device, each with a queue.
func TestQueues(t *testing.T) {
	d := open(t)
	const n, goroutines = 1000, 4
	var wait sync.WaitGroup
	for g := range goroutines {
		wait.Go(func() {
			q := must(d.Queue())
			in, out := must(d.Pinned(n*4)), must(d.Pinned(n*4))
			x, y := must(d.Alloc(n*4)), must(d.Alloc(n*4))
			for round := range 3 {
				for i := range n {
					in.Floats()[i] = float32(i + 10*g + round)
				}
				scaled(d, q, in, out, x, y, 0.5, n)
				if err := q.Synchronize(); err != nil {
					t.Error(err)
					return
				}
				for i, got := range out.Floats() {
					if want := 0.5 * float32(i+10*g+round); got != want {
						t.Errorf("goroutine %d, round %d: y[%d] = %g, not %g", g, round, i, got, want)
						return
					}
				}
			}
			if err := errors.Join(d.Free(x), d.Free(y), in.Free(), out.Free()); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
}

// Set and Copy, and parts of buffers.
func TestMemory(t *testing.T) {
	d := open(t)
	q := must(d.Queue())
	b := must(d.Pinned(64))
	p, r := must(d.Alloc(64)), must(d.Alloc(64))
	free, total, err := d.Memory()
	check(t, err)
	if free <= 0 || free > total {
		t.Errorf("%d bytes of %d free", free, total)
	}
	for i := range b.Bytes() {
		b.Bytes()[i] = byte(i)
	}
	q.Set(p, 0xab, 64)
	q.Upload(p+8, b, 16, 4) // 16 17 18 19
	q.Copy(r, p, 32)
	q.Copy(r+32, p, 32)
	q.Download(b, 1, r+40, 5)
	check(t, q.Synchronize())
	want := []byte{0, 16, 17, 18, 19, 0xab, 6}
	if got := b.Bytes()[:len(want)]; string(got) != string(want) {
		t.Errorf("%v, not %v", got, want)
	}
	q.Set(0, 1, 0) // of nothing, nothing
	q.Upload(0, b, 64, 0)
	check(t, q.Synchronize())
	check(t, d.Free(p))
	if err := d.Free(p); err == nil {
		t.Error("memory was freed twice")
	}
	check(t, d.Free(0))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a copy beyond the end of a HostBuffer")
			}
		}()
		q.Upload(r, b, 60, 8)
	}()
}

// A graph runs again with what the memory then holds; two queues take part in it.
func TestGraph(t *testing.T) {
	d := open(t)
	const n = 300
	q, side := must(d.Queue()), must(d.Queue())
	forked, joined := must(d.Event()), must(d.Event())
	in, out := must(d.Pinned(n*4)), must(d.Pinned(n*4))
	x, y, z := must(d.Alloc(n*4)), must(d.Alloc(n*4)), must(d.Alloc(n*4))
	scale := must(d.Function("scale"))
	g, err := q.Capture(func() {
		q.Upload(x, in, 0, n*4)
		q.Record(forked)
		side.Wait(forked)
		side.Launch(scale, Grid{X: 1}, Block{X: 256}, 0, x, y, float32(3), int64(n))
		side.Record(joined)
		q.Wait(joined)
		q.Launch(scale, Grid{X: 2}, Block{X: 256}, 0, y, z, float32(2), int64(n))
		q.Download(out, 0, z, n*4)
	})
	check(t, err)
	for round := range 3 {
		for i := range n {
			in.Floats()[i], out.Floats()[i] = float32(i-round), float32(math.NaN())
		}
		q.Run(g)
		check(t, q.Synchronize())
		for i, got := range out.Floats() {
			if want := 6 * float32(i-round); got != want {
				t.Fatalf("round %d: z[%d] = %g, not %g", round, i, got, want)
			}
		}
	}
	check(t, g.Free())

	// What goes wrong while recording is Capture's error, and the queue goes on.
	if _, err := q.Capture(func() {
		q.Record(forked)
		side.Wait(forked)
		side.Set(y, 0, 4)
	}); err == nil || !strings.Contains(err.Error(), "UNJOINED") {
		t.Errorf("a queue that is not joined again: %v", err)
	}
	if _, err := q.Capture(func() { q.Launch(scale, Grid{}, Block{X: 2000}, 0, x, y, float32(1), int64(n)) }); err == nil {
		t.Error("a graph with a launch of 2000 threads a block")
	}
	if _, err := q.Capture(func() { q.Synchronize() }); err == nil {
		t.Error("a graph with a Synchronize")
	}
	scaled(d, q, in, out, x, y, 1, n)
	check(t, q.Synchronize())
}

func TestEvents(t *testing.T) {
	d := open(t)
	q := must(d.Queue())
	p := must(d.Alloc(1 << 20))
	start, end := must(d.Event()), must(d.Event())
	q.Record(start)
	q.Set(p, 0, 1<<20)
	q.Record(end)
	check(t, q.Synchronize())
	if ms, err := end.Since(start); err != nil || !(ms >= 0) {
		t.Errorf("%g ms, %v", ms, err)
	}
}

// Everything can be freed one by one, and a second time without harm; a queue's work is done before.
func TestFree(t *testing.T) {
	d := open(t)
	needDriver(t, true)
	before := live()
	q, e, b, p := must(d.Queue()), must(d.Event()), must(d.Pinned(4)), must(d.Alloc(4))
	g := must(q.Capture(func() { q.Set(p, 7, 4) }))
	q.Run(g)
	q.Record(e)
	q.Download(b, 0, p, 4)
	check(t, q.Free())
	if b.Bytes()[0] != 7 {
		t.Error("a queue was freed before its work was done")
	}
	check(t, errors.Join(e.Free(), g.Free(), b.Free(), d.Free(p)))
	check(t, errors.Join(e.Free(), g.Free(), b.Free(), q.Free()))
	if live() != before {
		t.Errorf("%d objects, %d before", live(), before)
	}
}

// Above 48 KB a launch must be allowed to have its shared memory, and is where the device has it.
func TestSharedMemory(t *testing.T) {
	d := open(t)
	q := must(d.Queue())
	p := must(d.Alloc(4))
	scale := must(d.Function("scale"))
	launch := func(bytes int) error {
		q.Set(p, 0, 4)
		q.Launch(scale, Grid{X: 1}, Block{X: 32}, bytes, p, p, float32(1), int64(1))
		return q.Synchronize()
	}
	check(t, launch(56_000))
	check(t, launch(d.SharedLimit()))
	err := launch(d.SharedLimit() + 1)
	if err == nil || !strings.Contains(err.Error(), "bytes of dynamic shared memory needed, a block of") || !strings.Contains(err.Error(), "scale") {
		t.Errorf("more shared memory than there is: %v", err)
	}
	check(t, launch(0))
}

func TestOutOfMemory(t *testing.T) {
	d := open(t)
	free, total, err := d.Memory()
	check(t, err)
	_, err = d.Alloc(total + 1)
	var m *MemoryError
	if !errors.Is(err, ErrMemory) || !errors.As(err, &m) || m.Needed != total+1 || m.Free > total || m.Free <= 0 {
		t.Errorf("%v (free before: %d)", err, free)
	}
	must(d.Alloc(4)) // the device goes on
	t.Log(err)
}

// The first error of a queue is what Synchronize returns; what comes after it is left out, and then the queue goes on.
func TestFirstError(t *testing.T) {
	d := open(t)
	needDriver(t, true)
	q := must(d.Queue())
	b := must(d.Pinned(8))
	p := must(d.Alloc(8))
	scale := must(d.Function("scale"))
	q.Set(p, 1, 8)
	q.Launch(scale, Grid{X: 1}, Block{X: 32}, 0, p, p, float32(1), int64(0))
	q.Download(b, 0, p+4, 8) // 4 bytes too many
	q.Set(p, 2, 8)
	q.Launch(scale, Grid{X: 1}, Block{X: 2000}, 0, p, p, float32(1), int64(2))
	if err := q.Synchronize(); err == nil || err.Error() != "driver: copying from the device after kernel scale: CUDA_ERROR_INVALID_VALUE (invalid argument)" {
		t.Errorf("error %v", err)
	}
	q.Download(b, 0, p, 8)
	check(t, q.Synchronize())
	if b.Bytes()[0] != 1 {
		t.Errorf("work behind an error was done: %d", b.Bytes()[0])
	}
}

func TestLaunchOfWrongArguments(t *testing.T) {
	d := open(t)
	q := must(d.Queue())
	scale, chains := must(d.Function("scale")), must(d.Function("ceiling_fma"))
	p := must(d.Alloc(4))
	cases := []struct {
		f    *Function
		args []any
	}{
		{scale, []any{p, p, float32(1)}},
		{scale, []any{p, p, float32(1), 1}},
		{scale, []any{p, p, 1, int64(1)}},
		{scale, []any{p, float32(1), float32(1), int64(1)}},
		{scale, []any{p, p, "1", int64(1)}},
		{chains, []any{p, float32(1), float32(1), int64(1)}},
		{chains, []any{p, float32(1), float32(1), 1 << 31}},
	}
	panics := 0
	for _, c := range cases {
		func() {
			defer func() {
				if recover() != nil {
					panics++
				}
			}()
			q.Launch(c.f, Grid{}, Block{}, 0, c.args...)
		}()
	}
	if panics != len(cases) {
		t.Errorf("%d of %d launches panicked", panics, len(cases))
	}
	if _, err := d.Function("none"); err == nil || !strings.Contains(err.Error(), "no kernel none") {
		t.Errorf("a kernel that there is not: %v", err)
	}
}

// What a step does allocates nothing of Go.
func TestNoAllocation(t *testing.T) {
	d := open(t)
	q, side := must(d.Queue()), must(d.Queue())
	e := must(d.Event())
	b := must(d.Pinned(256))
	p, r := must(d.Alloc(256)), must(d.Alloc(256))
	scale := must(d.Function("scale"))
	g := must(q.Capture(func() { q.Set(p, 1, 256) }))
	n, by := 64, float32(2)
	if allocated := testing.AllocsPerRun(20, func() {
		side.Upload(p, b, 0, 256)
		side.Record(e)
		q.Wait(e)
		for range 10 {
			q.Launch(scale, Grid{X: 1}, Block{X: 32}, 0, p, r, by, int64(n))
		}
		q.Copy(p, r, 256)
		q.Set(p, 0, 256)
		q.Run(g)
		q.Download(b, 0, p, 256)
		if err := q.Synchronize(); err != nil {
			t.Error(err)
		}
		if err := side.Err(); err != nil {
			t.Error(err)
		}
	}); allocated != 0 {
		t.Errorf("%g allocations", allocated)
	}
}

// Two devices work beside each other, each with memory of its own.
func TestTwoDevices(t *testing.T) {
	needDriver(t, true)
	t.Setenv("HYPNOS_EMU_DEVICES", "2")
	const n = 100
	devices := []*Device{open(t), must(Open(1))}
	defer devices[1].Close() // before the first one, whose end looks for what is left
	var wait sync.WaitGroup
	for i, d := range devices {
		wait.Go(func() {
			q, in, out := must(d.Queue()), must(d.Pinned(4*n)), must(d.Pinned(4*n))
			x, y := must(d.Alloc(4*n)), must(d.Alloc(4*n))
			for k := range n {
				in.Floats()[k] = float32(k)
			}
			scaled(d, q, in, out, x, y, float32(i+2), n)
			if err := q.Synchronize(); err != nil {
				t.Error(err)
			}
			for k, got := range out.Floats() {
				if want := float32((i + 2) * k); got != want {
					t.Errorf("device %d: y[%d] = %g, not %g", i, k, got, want)
					return
				}
			}
			free, total, err := d.Memory()
			if err != nil || total-free != 8*n {
				t.Errorf("device %d: %d bytes of %d free, %v", i, free, total, err)
			}
		})
	}
	wait.Wait()
	if _, err := devices[1].Alloc(4); err != nil {
		t.Error(err)
	}
}

// A lost device fails every call until it is closed; nothing is left of it then, and it can be opened again.
func TestLostDevice(t *testing.T) {
	needDriver(t, true)
	t.Setenv("HYPNOS_EMU_LAUNCHES", "2")
	d := open(t)
	q := must(d.Queue())
	in, out := must(d.Pinned(64)), must(d.Pinned(64))
	x, y := must(d.Alloc(64)), must(d.Alloc(64))
	for range 2 {
		scaled(d, q, in, out, x, y, 1, 16)
		check(t, q.Synchronize())
	}
	must(q.Capture(func() { q.Set(x, 0, 64) }))
	scaled(d, q, in, out, x, y, 1, 16)
	err := q.Synchronize()
	if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "scale") || strings.Contains(err.Error(), "\n") {
		t.Fatalf("error %v", err)
	}
	t.Log(err)
	if _, err := d.Alloc(4); !errors.Is(err, ErrLost) {
		t.Errorf("Alloc: %v", err)
	}
	if _, err := d.Queue(); !errors.Is(err, ErrLost) {
		t.Errorf("Queue: %v", err)
	}
	q.Set(x, 0, 4)
	if err := q.Synchronize(); !errors.Is(err, ErrLost) {
		t.Errorf("Synchronize: %v", err)
	}
	if err := d.Close(); !errors.Is(err, ErrLost) {
		t.Errorf("Close: %v", err)
	}
	open(t)
}

// A kernel that writes beyond its memory loses the device.
func TestWriteOutOfBounds(t *testing.T) {
	d := open(t)
	needDriver(t, true)
	q := must(d.Queue())
	x, y := must(d.Alloc(400)), must(d.Alloc(396))
	q.Set(x, 0, 400)
	q.Launch(must(d.Function("scale")), Grid{X: 1}, Block{X: 128}, 0, x, y, float32(1), int64(100))
	if err := q.Synchronize(); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "ILLEGAL_ADDRESS") {
		t.Errorf("error %v", err)
	}
}

// Queues run beside each other. The library that stands in finds work on the same memory which nothing puts in an order, even
// where it comes out right; an event, whichever way round, and a Synchronize put it in one, and readers need none.
func TestOrderOfQueues(t *testing.T) {
	needDriver(t, true)
	type rig struct {
		q, side *Queue
		e       *Event
		b, c    *HostBuffer
		p, r    Ptr
		scale   *Function
		again   *Graph // p = 0
	}
	launch := func(q *Queue, r *rig, x, y Ptr) {
		q.Launch(r.scale, Grid{X: 1}, Block{X: 32}, 0, x, y, float32(1), int64(1))
	}
	for _, c := range []struct {
		name          string
		first, second func(*rig, *Queue)
		free          bool // of order
	}{
		{"write, read", func(r *rig, q *Queue) { q.Set(r.p, 1, 4) }, func(r *rig, q *Queue) { q.Download(r.b, 0, r.p, 4) }, false},
		{"write, write", func(r *rig, q *Queue) { q.Set(r.p, 1, 4) }, func(r *rig, q *Queue) { q.Upload(r.p, r.b, 0, 4) }, false},
		{"kernel reads, write", func(r *rig, q *Queue) { launch(q, r, r.p, r.r) }, func(r *rig, q *Queue) { q.Upload(r.p, r.b, 0, 4) }, false},
		{"write, kernel reads", func(r *rig, q *Queue) { q.Upload(r.p, r.b, 0, 4) }, func(r *rig, q *Queue) { launch(q, r, r.p, r.r) }, false},
		{"kernel writes, read", func(r *rig, q *Queue) { launch(q, r, r.p, r.r) }, func(r *rig, q *Queue) { q.Download(r.b, 0, r.r, 4) }, false},
		{"memory of the host", func(r *rig, q *Queue) { q.Upload(r.p, r.b, 0, 4) }, func(r *rig, q *Queue) { q.Download(r.b, 0, r.r, 4) }, false},
		{"graph writes, read", func(r *rig, q *Queue) { q.Run(r.again) }, func(r *rig, q *Queue) { q.Copy(r.r, r.p, 4) }, false},
		{"read, graph writes", func(r *rig, q *Queue) { q.Copy(r.r, r.p, 4) }, func(r *rig, q *Queue) { q.Run(r.again) }, false},
		{"kernel reads, read", func(r *rig, q *Queue) { launch(q, r, r.p, r.r) }, func(r *rig, q *Queue) { q.Download(r.b, 0, r.p, 4) }, true},
		{"two arrays", func(r *rig, q *Queue) { q.Upload(r.p, r.b, 0, 4) }, func(r *rig, q *Queue) { q.Download(r.c, 0, r.r, 4) }, true},
	} {
		orders := map[string]func(r *rig){
			"none":        func(*rig) {},
			"event":       func(r *rig) { r.q.Record(r.e); r.side.Wait(r.e) },
			"synchronize": func(r *rig) { r.q.Synchronize() },
			"other event": func(r *rig) { r.side.Record(r.e); r.q.Wait(r.e) },
		}
		for name, order := range orders {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				d := open(t)
				r := &rig{q: must(d.Queue()), side: must(d.Queue()), e: must(d.Event()), b: must(d.Pinned(4)), c: must(d.Pinned(4)),
					p: must(d.Alloc(4)), r: must(d.Alloc(4)), scale: must(d.Function("scale"))}
				r.again = must(r.q.Capture(func() { r.q.Set(r.p, 0, 4) }))
				c.first(r, r.q)
				order(r)
				c.second(r, r.side)
				err := errors.Join(r.q.Synchronize(), r.side.Synchronize())
				if wrong := !c.free && (name == "none" || name == "other event"); wrong != errors.Is(err, ErrLost) {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

// Err tells of what could not be given to the device, once, and waits for nothing.
func TestErr(t *testing.T) {
	d := open(t)
	needDriver(t, true)
	q := must(d.Queue())
	b, p := must(d.Pinned(8)), must(d.Alloc(4))
	q.Set(p, 1, 4)
	q.Download(b, 0, p, 4)
	check(t, q.Err())
	if b.Bytes()[0] != 0xff {
		t.Error("Err has waited")
	}
	q.Upload(p, b, 0, 8)
	if err := q.Err(); err == nil || !strings.Contains(err.Error(), "copying to the device") {
		t.Errorf("error %v", err)
	}
	check(t, q.Err())
	check(t, q.Synchronize())
	if b.Bytes()[0] != 1 {
		t.Error("what was given before the error was not done")
	}
}

func TestClosed(t *testing.T) {
	d := open(t)
	q := must(d.Queue())
	b := must(d.Pinned(4))
	check(t, d.Close())
	check(t, d.Close())
	for range 1000 { // more than the device's thread would take
		q.Set(0, 0, 4)
	}
	_, err := d.Alloc(4)
	_, _, memory := d.Memory()
	if !errors.Is(err, errClosed) || !errors.Is(memory, errClosed) || !errors.Is(q.Synchronize(), errClosed) || !errors.Is(b.Free(), errClosed) {
		t.Error("a closed device answers")
	}
}

// What is missing, and what the error says. Each case is a process of its own.
func TestOpenErrors(t *testing.T) {
	needDriver(t, true)
	noLibrary := filepath.Join(t.TempDir(), "libcuda.so.1")
	notOne := must(os.Executable())
	cases := []struct {
		name    string
		env     []string
		ordinal int
		open    string // what Open's error has, "" for none
		devices string
	}{
		{"none missing", nil, 0, "<nil>", "device 0: CPU emulation, capability 8.0, 2048 MB, 2048 MB free, driver for CUDA 13.0"},
		{"second of two", []string{"HYPNOS_EMU_DEVICES=2", "HYPNOS_EMU_CAPABILITY=75"}, 1, "<nil>", "device 1: CPU emulation, capability 7.5"},
		{"no library", []string{shim.Library + "=" + noLibrary}, 0, "driver: no NVIDIA driver: ", "driver: no NVIDIA driver: "},
		{"another library", []string{shim.Library + "=" + notOne}, 0, "driver: no NVIDIA driver: ", "driver: no NVIDIA driver: "},
		{"driver does not start", []string{"HYPNOS_EMU_INIT=803"}, 0, "driver: the NVIDIA driver does not start: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "does not start"},
		{"no device", []string{"HYPNOS_EMU_DEVICES=0"}, 0, "driver: no device 0: there are 0", "CUDA_ERROR_NO_DEVICE"},
		{"ordinal out of range", nil, 3, "driver: no device 3: there are 1", "device 0"},
		{"old device", []string{"HYPNOS_EMU_CAPABILITY=70"}, 0, "driver: CPU emulation: capability 7.0, the kernels need 7.5 or more", "capability 7.0"},
		{"old driver", []string{"HYPNOS_EMU_VERSION=11040"}, 0, "driver: the driver is for CUDA 11.4, and the kernels need one for CUDA 11.8 or later", "CUDA 11.4"},
		{"another process", []string{"HYPNOS_EMU_BUSY=1"}, 0, "is in use by another process", "in use by another process"},
	}
	ran := 0
	for _, c := range cases {
		cmd := exec.Command(notOne)
		cmd.Env = append(append(os.Environ(), c.env...), fmt.Sprintf("HYPNOS_TEST_OPEN=%d", c.ordinal), "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		text := string(out)
		if err != nil {
			t.Errorf("%s: %v: %s", c.name, err, text)
			continue
		}
		_, after, _ := strings.Cut(text, "open: ")
		opened, left, _ := strings.Cut(after, "\n")
		if !strings.Contains(opened, c.open) || !strings.Contains(text, "devices: ") || !strings.Contains(text, c.devices) {
			t.Errorf("%s: %s", c.name, text)
		}
		if c.open == "<nil>" && left != "left: 0\n" || c.open != "<nil>" && left != "" {
			t.Errorf("%s: after one line: %q", c.name, left)
		}
		ran++
	}
	if ran != len(cases) {
		t.Errorf("%d of %d cases ran", ran, len(cases))
	}
}

func TestEntries(t *testing.T) {
	const ptx = ".visible .entry first(\n\t.param .u64 first_param_0,\n\t.param .u32 first_param_1,\n\t.param .f32 first_param_2,\n" +
		"\t.param .f64 first_param_3\n)\n.maxntid 256, 1, 1\n{\n}\n.visible .entry second(\n\n)\n{\n}\n"
	got, err := entries(ptx)
	check(t, err)
	want := []parameter{{"u64", 8, false}, {"u32", 4, false}, {"f32", 4, true}, {"f64", 8, true}}
	if len(got) != 2 || len(got["second"]) != 0 || fmt.Sprint(got["first"]) != fmt.Sprint(want) {
		t.Errorf("%v", got)
	}
	many := strings.TrimSuffix(strings.Repeat(".param .u64 p,", maxParameters+1), ",")
	for _, bad := range []string{
		"", ".entry f(\n.param .align 8 .b8 f_param_0[16]\n)", ".entry f", ".entry (.param .u64 p)", ".entry f(.param .u64)", ".entry f(.param .uxx p)",
		".entry f(.reg .u64 p)", ".entry f(" + many + ")",
	} {
		if _, err := entries(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
