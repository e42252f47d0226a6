// Package kernels holds the CUDA kernels as PTX, which the driver compiles for the device that it finds (make ptx makes it of
// kernels.cu), and the sizes of their launches.
package kernels

// Launch is the size of a launch: blocks of the grid and threads of a block, by dimension, and bytes of dynamic shared memory.
type Launch struct {
	Grid, Block [3]int
	Shared      int
}

// ceil is n/size, rounded up.
func ceil[T int | int64](n, size T) T { return (n + size - 1) / size }
