package arena

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// hugePage is the size of a huge page on amd64, and on arm64 with pages of 4 kB.
const hugePage = 2 << 20

func allocate(floats int) ([]float32, func() error, error) {
	if floats == 0 {
		return nil, func() error { return nil }, nil
	}
	bytes := 4 * floats
	mapped, err := unix.Mmap(-1, 0, bytes+hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, err
	}
	start := -int(uintptr(unsafe.Pointer(&mapped[0]))) & (hugePage - 1) // to the first border of a huge page
	whole := start + bytes/hugePage*hugePage
	// Errors mean a kernel without huge pages, which serves small ones. What is left behind the last whole one would take as much
	// as one: of an engine with twenty arrays, twenty megabytes.
	if whole > start {
		_ = unix.Madvise(mapped[start:whole], unix.MADV_HUGEPAGE)
	}
	_ = unix.Madvise(mapped[whole:], unix.MADV_NOHUGEPAGE)
	memory := unsafe.Slice((*float32)(unsafe.Pointer(&mapped[start])), floats)
	return memory, func() error { return unix.Munmap(mapped) }, nil
}
