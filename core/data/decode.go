package data

import (
	"errors"
	"fmt"
)

// ErrPixels is wrapped by the error of Decode for an image that is too large.
var ErrPixels = errors.New("more pixels than allowed")

// Decode decodes a JPEG or PNG file to RGB bytes of size x size pixels, (size, size, 3), fitted as the images of a source are. An
// image of more than limit pixels, by its header, is refused before it is decoded.
func Decode(file []byte, size int, fit Fit, limit int64) ([]uint8, error) {
	pixels := make([]uint8, 3*size*size)
	if err := decodeInto(pixels, file, size, fit, limit); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return pixels, nil
}

// Normalised gives bytes of pixels, (…, 3), as a network takes them: as a Loader does.
func (s Stats) Normalised(pixels []uint8) []float32 {
	t := s.table()
	x := make([]float32, len(pixels))
	for i, v := range pixels {
		x[i] = t[i%3][v]
	}
	return x
}
