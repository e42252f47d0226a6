package core

import (
	"context"
	"fmt"

	"hypnos/core/net"
)

// Ahead is an Engine that begins to fetch the batch of the next step while it makes one.
type Ahead interface {
	Engine
	// WakeAhead is Wake. When it needs x and y no more it calls next, once unless the step fails before: while the step runs, the
	// engine begins to bring the batch that next returns to where it computes. That batch must stay as it is, for the next
	// WakeAhead is to be given it as x; whatever else is called instead or in between, nothing but the time saved is lost. A batch of
	// no images is none, and one that a step would refuse is refused by that step.
	WakeAhead(ctx context.Context, x Batch, y Labels, lr float64, next func() Batch) (Step, error)
}

// Keeper is an Engine that keeps images where it computes and makes batches of them there, when it was compiled for it
// (Options.Keep): of a batch only the crops cross the line.
type Keeper interface {
	Engine
	// Keep takes a copy of images, in place of those it kept before. More bytes than Options.Keep, or another number of channels
	// than the network's, are an error.
	Keep(Images) error
	// WakeKept is Wake on the batch that the crops cut out of the images kept, one each: the same step to the bit. Crops that
	// CheckCrops refuses are an error.
	WakeKept(ctx context.Context, crops []Crop, y Labels, lr float64) (Step, error)
}

// Images are images of one shape, bytes, and what they stand for.
type Images struct {
	Shape  net.Shape
	Pixels []uint8        // (N, H, W, C)
	Values [][256]float32 // by channel, of every byte
}

// Len is the number of images.
func (m Images) Len() int { return len(m.Pixels) / m.Shape.Len() }

// Check returns an error unless pixels and values are as many as the shape says.
func (m Images) Check() error {
	switch s := m.Shape; {
	case s.H < 1 || s.W < 1 || s.C < 1:
		return fmt.Errorf("core: images of %v", s)
	case len(m.Pixels) == 0 || len(m.Pixels)%s.Len() != 0:
		return fmt.Errorf("core: %d bytes are no whole images of %v", len(m.Pixels), s)
	case len(m.Values) != s.C:
		return fmt.Errorf("core: values of %d channels for images of %v", len(m.Values), s)
	}
	return nil
}

// Crop is one image of a batch: what an image shows from (Row, Col) on, which may lie outside of it, as many rows and columns as
// the batch's images have. What is outside of the image is 0. Mirror turns the result left to right.
type Crop struct {
	Image, Row, Col int
	Mirror          bool
}

// Cut writes a crop of the given size, (H, W, C), to dst.
func (m Images) Cut(dst []float32, size net.Shape, c Crop) {
	s, width := m.Shape, m.Shape.C
	pixels := m.Pixels[c.Image*s.Len() : (c.Image+1)*s.Len()]
	for i := range size.H {
		for j := range size.W {
			at := (i*size.W + j) * width
			if c.Mirror {
				at = (i*size.W + size.W - 1 - j) * width
			}
			to := dst[at : at+width]
			y, x := c.Row+i, c.Col+j
			if y < 0 || y >= s.H || x < 0 || x >= s.W {
				clear(to)
				continue
			}
			from := pixels[(y*s.W+x)*width:]
			for k := range to {
				to[k] = m.Values[k][from[k]]
			}
		}
	}
}

// CheckCrops checks the crops of a batch against the network and so many images of a shape that are kept: each must touch its image
// or its border.
func CheckCrops(n *net.Network, maxBatch, kept int, shape net.Shape, crops []Crop) error {
	if len(crops) < 1 || len(crops) > maxBatch {
		return fmt.Errorf("core: batch of %d images, compiled for 1 to %d", len(crops), maxBatch)
	}
	in := n.Input()
	for i, c := range crops {
		switch {
		case c.Image < 0 || c.Image >= kept:
			return fmt.Errorf("core: crop %d is of image %d, %d are kept", i, c.Image, kept)
		case c.Row < -in.H || c.Row > shape.H || c.Col < -in.W || c.Col > shape.W:
			return fmt.Errorf("core: crop %d at (%d, %d) is far from its image of %v", i, c.Row, c.Col, shape)
		}
	}
	return nil
}

// CheckWakeKept checks the arguments of WakeKept, with so many images of a shape kept.
func CheckWakeKept(n *net.Network, o Options, kept int, shape net.Shape, crops []Crop, y Labels, lr float64) error {
	if err := checkRate(o, lr); err != nil {
		return err
	}
	if err := CheckCrops(n, o.MaxBatch, kept, shape, crops); err != nil {
		return err
	}
	return checkStep(n, Batch{N: len(crops)}, y)
}
