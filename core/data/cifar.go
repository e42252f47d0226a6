package data

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"hypnos/core/net"
)

// cifar collects the files of CIFAR-10 and CIFAR-100 in the official binary layout (Krizhevsky 2009,
// www.cs.toronto.edu/~kriz/cifar.html): records of label bytes and 3,072 pixel bytes, the R, G and B planes of 32 rows
// of 32. CIFAR-10 has one label byte a record, CIFAR-100 a coarse and a fine one.
type cifar struct {
	train10, test10, train100, test100 []file
	names                              []string // class names, from the file that lists them
}

// file is one file's content.
type file struct {
	name string
	data []byte
}

const cifarPixels = 32 * 32 * 3

func (c *cifar) found() bool {
	return len(c.train10)+len(c.test10)+len(c.train100)+len(c.test100) > 0
}

// take reads the file if it is one of CIFAR's and tells whether it was.
func (c *cifar) take(name string, r io.Reader) (bool, error) {
	base := path.Base(name)
	batch, _ := path.Match("data_batch_[0-9].bin", base)
	var to *[]file
	switch {
	case batch:
		to = &c.train10
	case base == "test_batch.bin":
		to = &c.test10
	case base == "train.bin":
		to = &c.train100
	case base == "test.bin":
		to = &c.test100
	case base == "batches.meta.txt", base == "fine_label_names.txt":
		return true, c.readNames(r)
	default:
		return false, nil
	}
	data, err := io.ReadAll(r)
	*to = append(*to, file{name, data})
	return true, err
}

// readNames reads class names, one a line; empty lines are padding.
func (c *cifar) readNames(r io.Reader) error {
	s := bufio.NewScanner(r)
	c.names = nil
	for s.Scan() {
		if name := strings.TrimSpace(s.Text()); name != "" {
			c.names = append(c.names, name)
		}
	}
	return s.Err()
}

// layout is one of the two record layouts.
type layout struct {
	name        string
	classes     int
	labels      int // label bytes, the last one the class
	train, test []file
	missing     string // what is missing when there are no training or test files
}

func (c *cifar) dataset(o Options) (*Dataset, error) {
	l := layout{"CIFAR-10", 10, 1, c.train10, c.test10, "data_batch_*.bin"}
	if len(c.train100)+len(c.test100) > 0 {
		if len(c.train10)+len(c.test10) > 0 {
			return nil, fmt.Errorf("holds both CIFAR-10 and CIFAR-100 files")
		}
		l = layout{"CIFAR-100", 100, 2, c.train100, c.test100, "train.bin"}
	}
	if len(l.train) == 0 {
		return nil, fmt.Errorf("%s without %s", l.name, l.missing)
	}
	if o.Size != 0 && o.Size != 32 {
		return nil, fmt.Errorf("%s images have 32x32 pixels, not %dx%d", l.name, o.Size, o.Size)
	}
	d := &Dataset{Name: l.name, Classes: c.classNames(l.classes)}
	var err error
	if d.Train, err = l.images(l.train); err != nil {
		return nil, err
	}
	if len(l.test) > 0 {
		d.Test, err = l.images(l.test)
	}
	return d, err
}

// classNames are those of the data set, or numbers where it does not name them all.
func (c *cifar) classNames(n int) []string {
	if len(c.names) == n {
		return c.names
	}
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	return names
}

// images decodes records, from files in the order of their names.
func (l layout) images(files []file) (*Images, error) {
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	s := &Images{Shape: net.Shape{H: 32, W: 32, C: 3}}
	record := l.labels + cifarPixels
	for _, f := range files {
		if len(f.data) == 0 || len(f.data)%record != 0 {
			return nil, fmt.Errorf("%s: %d bytes are no whole number of %s records of %d: truncated, or another layout", f.name, len(f.data), l.name, record)
		}
		for at := 0; at < len(f.data); at += record {
			label := f.data[at+l.labels-1]
			if int(label) >= l.classes {
				return nil, fmt.Errorf("%s: record %d has label %d, %s has %d classes", f.name, at/record, label, l.name, l.classes)
			}
			s.Labels = append(s.Labels, int32(label))
			s.Pixels = appendPlanes(s.Pixels, f.data[at+l.labels:at+record])
		}
	}
	return s, nil
}

// appendPlanes appends an image given as three planes, pixel by pixel.
func appendPlanes(dst, planes []uint8) []uint8 {
	n := len(planes) / 3
	for i := range n {
		dst = append(dst, planes[i], planes[n+i], planes[2*n+i])
	}
	return dst
}
