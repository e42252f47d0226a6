package brain

import (
	"encoding/binary"
	"errors"
	"math"
	"net/http"

	"hypnos/core/data"
	"hypnos/core/net"
)

// pixels decodes an image for a network's input, normalised.
func (x Image) pixels(in net.Shape, stats data.Stats, limit int64) ([]float32, error) {
	switch x.Type {
	case Tensor:
		return tensor(x.Data, in, stats)
	case JPEG, PNG:
		if kind := http.DetectContentType(x.Data); kind != x.Type {
			return nil, refuse(CodeImageBroken, "the body is no %s", x.Type)
		}
		b, err := data.Decode(x.Data, in.H, data.FitResize, limit)
		switch {
		case errors.Is(err, data.ErrPixels):
			return nil, refuse(CodeImagePixels, "%w", err)
		case err != nil:
			return nil, refuse(CodeImageBroken, "%w", err)
		}
		return stats.Normalised(b), nil
	}
	return nil, refuse(CodeImageType, "the type %.64q is none of %s, %s and %s", x.Type, JPEG, PNG, Tensor)
}

// tensor reads bytes, or float32 that are normalised already.
func tensor(b []byte, in net.Shape, stats data.Stats) ([]float32, error) {
	switch n := in.Len(); len(b) {
	case n:
		return stats.Normalised(b), nil
	case 4 * n:
		x := make([]float32, n)
		for i := range x {
			x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
			if v := float64(x[i]); math.IsNaN(v) || math.IsInf(v, 0) {
				return nil, refuse(CodeTensor, "element %d of the tensor is not finite", i)
			}
		}
		return x, nil
	default:
		return nil, refuse(CodeTensor, "a tensor of %d bytes: the network's input, %v, takes %d, or %d as float32", len(b), in, n, 4*n)
	}
}
