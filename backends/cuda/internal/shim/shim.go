//go:build cuda && cgo && linux && amd64

// Package shim stands in for libcuda, the library of the NVIDIA driver, so that a program starts where there is none.
//
// gorgonia.org/cu is linked against libcuda, and its init function ends the process when cuInit fails. Here are all
// functions of libcuda that cu and this package call: each jumps to where the slot of its name points
// (trampolines_amd64.S, made by generate.sh from symbols.txt). cuInit does nothing; Load opens the real library. Until
// then, or when there is none, every function returns CUDA_ERROR_NOT_INITIALIZED.
//
// It also has what cu lacks: pinned host memory, dynamic shared memory above 48 KB, names of errors, graphs by capture.
// As with cu, a call is for the context that is current on the calling thread.
package shim

// #cgo LDFLAGS: -L${SRCDIR}/lib -Wl,--as-needed -ldl
// #include <cuda.h>
// int hypnos_shim_load(const char* library, char* message, int size);
import "C"

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"sync"
	"unsafe"

	"gorgonia.org/cu"
)

// Library is the environment variable that names another driver library than libcuda.so.1.
const Library = "HYPNOS_CUDA_DRIVER"

// Load opens the driver's library and initialises it, once in a process. Its error says in one line why there is no
// driver.
var Load = sync.OnceValue(func() error {
	library := os.Getenv(Library)
	if library == "" {
		library = "libcuda.so.1"
	}
	name := C.CString(library)
	defer C.free(unsafe.Pointer(name))
	var message [256]C.char
	code := Code(C.hypnos_shim_load(name, &message[0], C.int(len(message))))
	if code == noLibrary {
		return errors.New("no NVIDIA driver: " + C.GoString(&message[0]))
	}
	if code != 0 {
		return fmt.Errorf("the NVIDIA driver does not start: %w", code)
	}
	return nil
})

// noLibrary is what hypnos_shim_load returns when there is no library; the driver's own codes are not negative.
const noLibrary Code = -1

// Code is a CUresult: what the driver says went wrong.
type Code int

// The codes that package driver tells apart.
const (
	OutOfMemory        Code = C.CUDA_ERROR_OUT_OF_MEMORY
	Deinitialized      Code = C.CUDA_ERROR_DEINITIALIZED
	DeviceUnavailable  Code = C.CUDA_ERROR_DEVICE_UNAVAILABLE
	NoDevice           Code = C.CUDA_ERROR_NO_DEVICE
	EccUncorrectable   Code = C.CUDA_ERROR_ECC_UNCORRECTABLE
	NvlinkError        Code = C.CUDA_ERROR_NVLINK_UNCORRECTABLE
	UnsupportedPTX     Code = C.CUDA_ERROR_UNSUPPORTED_PTX_VERSION
	IllegalAddress     Code = C.CUDA_ERROR_ILLEGAL_ADDRESS
	LaunchTimeout      Code = C.CUDA_ERROR_LAUNCH_TIMEOUT
	ContextDestroyed   Code = C.CUDA_ERROR_CONTEXT_IS_DESTROYED
	Assert             Code = C.CUDA_ERROR_ASSERT
	HardwareStack      Code = C.CUDA_ERROR_HARDWARE_STACK_ERROR
	IllegalInstruction Code = C.CUDA_ERROR_ILLEGAL_INSTRUCTION
	MisalignedAddress  Code = C.CUDA_ERROR_MISALIGNED_ADDRESS
	InvalidSpace       Code = C.CUDA_ERROR_INVALID_ADDRESS_SPACE
	InvalidPC          Code = C.CUDA_ERROR_INVALID_PC
	LaunchFailed       Code = C.CUDA_ERROR_LAUNCH_FAILED
	Unknown            Code = C.CUDA_ERROR_UNKNOWN
)

// Error is the code's name and what the driver says about it.
func (c Code) Error() string {
	var name, text *C.char
	if C.cuGetErrorName(C.CUresult(c), &name) != 0 || C.cuGetErrorString(C.CUresult(c), &text) != 0 {
		return fmt.Sprintf("CUDA error %d", int(c))
	}
	return C.GoString(name) + " (" + C.GoString(text) + ")"
}

// CodeOf is the code of an error of cu or of this package, 0 of others. cu does not export its type.
func CodeOf(err error) Code {
	for ; err != nil; err = errors.Unwrap(err) {
		if c, ok := err.(Code); ok {
			return c
		}
		if v := reflect.ValueOf(err); v.Kind() == reflect.Int && v.Type().PkgPath() == reflect.TypeFor[cu.Stream]().PkgPath() {
			return Code(v.Int())
		}
	}
	return 0
}

func result(r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	return Code(r)
}

// handle is the driver's pointer in one of cu's structures, which hold nothing else.
func handle[T cu.Function | cu.Stream](v T) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&v))
}

func stream(s cu.Stream) C.CUstream { return C.CUstream(handle(s)) }

// HostAlloc returns page-locked memory of the host, which copies that run beside kernels need. cu.MemFreeHost frees it.
func HostAlloc(bytes int64) (unsafe.Pointer, error) {
	var p unsafe.Pointer
	err := result(C.cuMemHostAlloc(&p, C.size_t(bytes), C.CU_MEMHOSTALLOC_PORTABLE))
	return p, err
}

// SetDynamicShared lets launches of f ask for up to so many bytes of dynamic shared memory; without, 48 KB are the
// most.
func SetDynamicShared(f cu.Function, bytes int) error {
	return result(C.cuFuncSetAttribute(C.CUfunction(handle(f)), C.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, C.int(bytes)))
}

// SharedLimit is the attribute of a device that tells how much shared memory a block can have when SetDynamicShared
// asks for it, in bytes.
const SharedLimit = cu.DeviceAttribute(C.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)

// BeginCapture makes what is put on a stream part of a graph, from now to EndCapture, instead of running it. Other
// calls of the thread, such as an allocation, are as allowed as otherwise.
func BeginCapture(s cu.Stream) error {
	return result(C.cuStreamBeginCapture(stream(s), C.CU_STREAM_CAPTURE_MODE_RELAXED))
}

// Graph is a captured graph, ready to run.
type Graph struct{ exec C.CUgraphExec }

// EndCapture ends what BeginCapture began and makes the graph.
func EndCapture(s cu.Stream) (Graph, error) {
	var g C.CUgraph
	if err := result(C.cuStreamEndCapture(stream(s), &g)); err != nil {
		return Graph{}, err
	}
	defer C.cuGraphDestroy(g)
	var made Graph
	err := result(C.cuGraphInstantiateWithFlags(&made.exec, g, 0))
	return made, err
}

// Launch puts a run of the graph on a stream.
func (g Graph) Launch(s cu.Stream) error { return result(C.cuGraphLaunch(g.exec, stream(s))) }

// Destroy frees the graph; a run under way is finished first.
func (g Graph) Destroy() error { return result(C.cuGraphExecDestroy(g.exec)) }
