package speed

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// buffers are two of n floats, for the measurements of bandwidth. They ask for huge pages, as the limit is the
// memory's, not that of address translation, and lie at an odd distance: a copy over a power of two meets the same
// memory banks in both and is a fifth slower.
func buffers(n int) (a, b []float32, free func(), err error) {
	const hugePage, odd = 2 << 20, 17 * 64
	size := (4*n + hugePage - 1) / hugePage * hugePage
	m, err := unix.Mmap(-1, 0, 2*size+3*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("speed: %d MB for buffers: %w", 2*size>>20, err)
	}
	unix.Madvise(m, unix.MADV_HUGEPAGE) // a kernel without them says so here; then the pages are small
	skip := -int(uintptr(unsafe.Pointer(&m[0]))) & (hugePage - 1)
	at := func(offset int) []float32 { return unsafe.Slice((*float32)(unsafe.Pointer(&m[skip+offset])), n) }
	return at(0), at(size + hugePage + odd), func() { unix.Munmap(m) }, nil
}
