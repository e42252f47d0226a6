//go:build cuda && cgo && linux && amd64

// Package driver is a CUDA device as Hypnos uses it: memory, kernels, queues of work, and graphs of recorded work.
//
// It stands on gorgonia.org/cu. All calls of a device run on one OS thread of its own with the device's context
// current, in the order in which they were made; what a Queue is given runs later, and its first error waits for
// Synchronize.
package driver

import (
	"errors"
	"fmt"
	"slices"

	"gorgonia.org/cu"

	"hypnos/backends/cuda/internal/shim"
)

// Info describes a device.
type Info struct {
	Ordinal      int
	Name         string
	Major, Minor int   // compute capability
	Driver       int   // the CUDA version of the driver, 1000·major + 10·minor
	Total        int64 // bytes of memory
	Free         int64 // bytes of memory that are free; -1 where the device cannot be used now
}

// String is one line for people.
func (i Info) String() string {
	free := fmt.Sprintf("%d MB free", i.Free>>20)
	if i.Free < 0 {
		free = "in use by another process"
	}
	return fmt.Sprintf("device %d: %s, capability %d.%d, %d MB, %s, driver for CUDA %s",
		i.Ordinal, i.Name, i.Major, i.Minor, i.Total>>20, free, version(i.Driver))
}

func version(v int) string { return fmt.Sprintf("%d.%d", v/1000, v%1000/10) }

// Devices lists the devices of the machine. It is an error if there is no driver or no device.
func Devices() ([]Info, error) {
	if err := shim.Load(); err != nil {
		return nil, fmt.Errorf("driver: %w", err)
	}
	n, err := cu.NumDevices()
	if err == nil && n == 0 {
		err = shim.NoDevice
	}
	if err != nil {
		return nil, failure("counting devices", err)
	}
	infos := make([]Info, n)
	for i := range infos {
		if infos[i], err = info(i); err != nil {
			return nil, err
		}
		if err := onThread(func() error { return free(&infos[i]) }); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// info asks what needs no context. Free is -1.
func info(ordinal int) (Info, error) {
	i := Info{Ordinal: ordinal, Driver: cu.Version(), Free: -1}
	what := fmt.Sprintf("device %d", ordinal)
	dev, err := cu.GetDevice(ordinal)
	if err != nil {
		return i, failure(what, err)
	}
	if i.Name, err = dev.Name(); err != nil {
		return i, failure(what, err)
	}
	if i.Major, i.Minor, err = dev.ComputeCapability(); err != nil {
		return i, failure(what, err)
	}
	if i.Total, err = dev.TotalMem(); err != nil {
		return i, failure(what, err)
	}
	return i, nil
}

// free asks for the free memory, in the device's primary context. A device that is another process's alone keeps -1.
func free(i *Info) error {
	dev := cu.Device(i.Ordinal)
	what := fmt.Sprintf("device %d", i.Ordinal)
	ctx, err := dev.RetainPrimaryCtx()
	if code := shim.CodeOf(err); code == shim.DeviceUnavailable || code == shim.OutOfMemory {
		return nil
	}
	if err != nil {
		return failure(what, err)
	}
	defer dev.ReleasePrimaryCtx()
	if err := cu.SetCurrentContext(ctx); err != nil {
		return failure(what, err)
	}
	i.Free, _, err = cu.MemInfo()
	if err != nil {
		return failure(what, err)
	}
	return nil
}

// ErrLost is wrapped by errors after which the device cannot be used any more: close it. A checkpoint that was taken
// before is what remains of its state.
var ErrLost = errors.New("the device is lost")

// ErrMemory is wrapped by MemoryError.
var ErrMemory = errors.New("out of memory")

// MemoryError says that an allocation does not fit.
type MemoryError struct {
	What         string // what the memory is of: "the device" or "the host"
	Needed, Free int64  // bytes; Free is -1 when it is not known
}

func (e *MemoryError) Error() string {
	if e.Free < 0 {
		return fmt.Sprintf("driver: %v: %d bytes of %s needed", ErrMemory, e.Needed, e.What)
	}
	return fmt.Sprintf("driver: %v: %d bytes of %s needed, %d free", ErrMemory, e.Needed, e.What, e.Free)
}

func (e *MemoryError) Unwrap() error { return ErrMemory }

// lost are the codes after which a context is of no use: CUDA's manual says of each that the process must end or the
// context be made anew.
var lost = []shim.Code{
	shim.Deinitialized, shim.EccUncorrectable, shim.NvlinkError, shim.IllegalAddress, shim.LaunchTimeout, shim.ContextDestroyed,
	shim.Assert, shim.HardwareStack, shim.IllegalInstruction, shim.MisalignedAddress, shim.InvalidSpace, shim.InvalidPC,
	shim.LaunchFailed, shim.Unknown,
}

// failure is an error of cu or the shim, with what was done.
func failure(what string, err error) error {
	code := shim.CodeOf(err)
	switch {
	case code == 0:
		return fmt.Errorf("driver: %s: %w", what, err)
	case slices.Contains(lost, code):
		return fmt.Errorf("driver: %s: %w: %w", what, ErrLost, code)
	case code == shim.OutOfMemory:
		return fmt.Errorf("driver: %s: %w", what, ErrMemory)
	}
	return fmt.Errorf("driver: %s: %w", what, code)
}
