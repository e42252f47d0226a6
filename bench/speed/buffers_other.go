//go:build !linux

package speed

// buffers are two of n floats, for the measurements of bandwidth.
func buffers(n int) (a, b []float32, free func(), err error) {
	return make([]float32, n), make([]float32, n), func() {}, nil
}
