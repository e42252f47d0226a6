//go:build cuda && cgo && linux && amd64

package cuda

import (
	"encoding/binary"
	"math"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/core/net"
)

// pieceBytes is how much of an array is on its way between host and device at a time.
const pieceBytes = 4 << 20

// pieces calls f for an array of so many elements of a size piece by piece: elements lo…hi-1.
func pieces(n int, size int64, f func(lo, hi int) error) error {
	each := int(pieceBytes / size)
	for lo := 0; lo < n; lo += each {
		if err := f(lo, min(lo+each, n)); err != nil {
			return err
		}
	}
	return nil
}

// upload copies src to the device.
func (e *engine) upload(dst driver.Ptr, src []float32) error {
	return pieces(len(src), 4, func(lo, hi int) error {
		copy(e.pieces.Floats(), src[lo:hi])
		e.queue.Upload(dst+driver.Ptr(4*lo), e.pieces, 0, 4*int64(hi-lo))
		return e.wait()
	})
}

// download copies from the device.
func (e *engine) download(dst []float32, src driver.Ptr) error {
	return pieces(len(dst), 4, func(lo, hi int) error {
		e.queue.Download(e.pieces, 0, src+driver.Ptr(4*lo), 4*int64(hi-lo))
		err := e.wait()
		copy(dst[lo:hi], e.pieces.Floats())
		return err
	})
}

// downloadDoubles copies float64 numbers from the device.
func (e *engine) downloadDoubles(dst []float64, src driver.Ptr) error {
	return pieces(len(dst), 8, func(lo, hi int) error {
		e.queue.Download(e.pieces, 0, src+driver.Ptr(8*lo), 8*int64(hi-lo))
		err := e.wait()
		from := e.pieces.Bytes()
		for i := range dst[lo:hi] {
			dst[lo+i] = math.Float64frombits(binary.LittleEndian.Uint64(from[8*i:]))
		}
		return err
	})
}

// activation copies an activation, (P, B, C), to (B, P, C).
func (e *engine) activation(at driver.Ptr, n int, s net.Shape) ([]float32, error) {
	raw := make([]float32, n*s.Len())
	var err error
	if e.precision == BF16 {
		err = pieces(len(raw), 2, func(lo, hi int) error {
			e.queue.Download(e.pieces, 0, at+driver.Ptr(2*lo), 2*int64(hi-lo))
			err := e.wait()
			from := e.pieces.Bytes()
			for i := range raw[lo:hi] {
				raw[lo+i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(from[2*i:])) << 16)
			}
			return err
		})
	} else {
		err = e.download(raw, at)
	}
	if s.H*s.W == 1 {
		return raw, err
	}
	y := make([]float32, len(raw))
	eachRow(n, s, func(canonical, here int) { copy(y[canonical:canonical+s.C], raw[here:]) })
	return y, err
}

// uploadActivation copies numbers (B, P, C) to an activation's place, rounded to its type.
func (e *engine) uploadActivation(at driver.Ptr, x []float64, n int, s net.Shape) error {
	raw := make([]float32, len(x))
	eachRow(n, s, func(canonical, here int) {
		for c := range s.C {
			raw[here+c] = float32(x[canonical+c])
		}
	})
	if e.precision != BF16 {
		return e.upload(at, raw)
	}
	return pieces(len(raw), 2, func(lo, hi int) error {
		to := e.pieces.Bytes()
		for i, v := range raw[lo:hi] {
			binary.LittleEndian.PutUint16(to[2*i:], bfloat16(v))
		}
		e.queue.Upload(at+driver.Ptr(2*lo), e.pieces, 0, 2*int64(hi-lo))
		return e.wait()
	})
}

// eachRow calls f with the places of every image's channels at a position, in (B, P, C) and in (P, B, C).
func eachRow(n int, s net.Shape, f func(canonical, here int)) {
	for position := range s.H * s.W {
		for image := range n {
			f((image*s.H*s.W+position)*s.C, (position*n+image)*s.C)
		}
	}
}

// bfloat16 rounds to the nearest, of two equally near ones to the even. A NaN stays one.
func bfloat16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16 | 1<<6)
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}
