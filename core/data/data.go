// Package data reads labelled images and serves them in batches.
//
// Sources: CIFAR-10 and CIFAR-100 in the official binary layout, TinyImageNet in its own, and class folders of JPEG and PNG
// files, each as a folder or as a .tar, .tar.gz or .tar.bz2 archive; and a folder with ImageNet's archives as they are downloaded
// (imagenet.go). Open decodes all images and holds them as bytes; OpenCached holds them in a file.
// JPEGs are decoded by Go's image/jpeg, which repeats chroma samples instead of interpolating them.
package data

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"hypnos/core/net"
	"hypnos/core/rng"
)

// Images are labelled images of one size; in a cache, images whose shorter side is Shape's and whose pixels are not in memory.
type Images struct {
	Shape  net.Shape
	Pixels []uint8 // (N, H, W, 3), R, G, B of 0 to 255; none of images in a cache
	Labels []int32

	cache  *cache // nil of images in memory
	cached []*cachedImage
}

// Len is the number of images.
func (s *Images) Len() int { return len(s.Labels) }

// Image is the i-th image, (H, W, 3), of images in memory.
func (s *Images) Image(i int) []uint8 { return s.Pixels[i*s.Shape.Len() : (i+1)*s.Shape.Len()] }

// read gives the pixels of the i-th image and their shape, wherever they are; in a cache they are read into buf.
func (s *Images) read(i int, buf []uint8) ([]uint8, net.Shape, error) {
	if s.cache == nil {
		return s.Image(i), s.Shape, nil
	}
	v := s.cached[i]
	pixels, err := s.cache.read(v, buf)
	return pixels, net.Shape{H: v.H, W: v.W, C: 3}, err
}

// Digest writes what identifies the images to w, a hash: their number, shape, labels and pixels, or the checksums of pixels in a cache.
func (s *Images) Digest(w io.Writer) {
	for _, n := range []int{s.Len(), s.Shape.H, s.Shape.W, s.Shape.C} {
		w.Write(binary.LittleEndian.AppendUint64(nil, uint64(n)))
	}
	labels := make([]byte, 0, 4*s.Len())
	for _, l := range s.Labels {
		labels = binary.LittleEndian.AppendUint32(labels, uint32(l))
	}
	w.Write(labels)
	w.Write(s.Pixels)
	for _, v := range s.cached {
		fmt.Fprintf(w, "%d %d %08x %s\n", v.H, v.W, v.Sum, v.File)
	}
}

// resize gives n elements, those of s where it has room for them.
func resize(s []uint8, n int) []uint8 { return slices.Grow(s[:0], n)[:n] }

// subset takes the images of the given indices: copies of those in memory.
func (s *Images) subset(index []int) *Images {
	if s.cache != nil {
		t := &Images{Shape: s.Shape, cache: s.cache}
		for _, i := range index {
			t.cached, t.Labels = append(t.cached, s.cached[i]), append(t.Labels, s.Labels[i])
		}
		return t
	}
	t := &Images{Shape: s.Shape, Pixels: make([]uint8, 0, len(index)*s.Shape.Len()), Labels: make([]int32, 0, len(index))}
	for _, i := range index {
		t.Pixels = append(t.Pixels, s.Image(i)...)
		t.Labels = append(t.Labels, s.Labels[i])
	}
	return t
}

// Dataset is a training set and a test set over the same classes.
type Dataset struct {
	Name    string
	Classes []string // by label
	Train   *Images
	Test    *Images
	Skipped []string // corrupt files left out, when the options allow it
}

// Holdout replaces the test set by n images drawn from the training set, which loses them: the authors' split for
// choosing hyperparameters (45,000 and 5,000 images of CIFAR-10).
func (d *Dataset) Holdout(n int, seed uint64) error {
	if n < 1 || n >= d.Train.Len() {
		return fmt.Errorf("data: %s: cannot hold out %d of %d training images", d.Name, n, d.Train.Len())
	}
	order := rng.New(seed, rng.Split, 0).Perm(d.Train.Len())
	d.Test = d.Train.subset(order[:n])
	d.Train = d.Train.subset(order[n:])
	return nil
}

// Limit keeps n training and m test images, in their order: the first ones of every class, in equal numbers as far as
// there are so many. (The first of all are of one class, where images lie in folders.) 0 keeps all.
func (d *Dataset) Limit(n, m int) error {
	for _, c := range []struct {
		what string
		set  **Images
		keep int
	}{{"training", &d.Train, n}, {"test", &d.Test, m}} {
		s := *c.set
		switch {
		case c.keep < 0 || c.keep > s.Len():
			return fmt.Errorf("data: %s: cannot keep %d of %d %s images", d.Name, c.keep, s.Len(), c.what)
		case c.keep > 0:
			*c.set = s.subset(s.balanced(c.keep))
		}
	}
	return nil
}

// balanced are the indices of n images, the classes taken in turn, in ascending order.
func (s *Images) balanced(n int) []int {
	order, rank, count := make([]int, s.Len()), make([]int, s.Len()), map[int32]int{}
	for i, label := range s.Labels {
		order[i], rank[i] = i, count[label] // among the images of its class
		count[label]++
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rank[a], rank[b]) })
	slices.Sort(order[:n])
	return order[:n]
}

// Stats are mean and standard deviation of each channel, of pixel values scaled to [0, 1].
type Stats struct {
	Mean [3]float64 `json:"mean" toml:"mean"`
	Std  [3]float64 `json:"std" toml:"std"`
}

// Check returns an error when the statistics cannot normalise: a channel without variance, as in a set of constant
// images, or a number that is not finite.
func (s Stats) Check() error {
	for c := range 3 {
		if !(s.Mean[c] >= 0 && s.Mean[c] <= 1) || !(s.Std[c] > 0 && s.Std[c] <= 1) {
			return fmt.Errorf("data: channel %d has mean %g and standard deviation %g: cannot normalise", c, s.Mean[c], s.Std[c])
		}
	}
	return nil
}
