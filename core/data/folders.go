package data

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/draw"
	_ "image/jpeg" // formats of image.Decode
	_ "image/png"
	"io"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
	"sync"

	xdraw "golang.org/x/image/draw"

	"hypnos/core/net"
)

// folders collects image files by split and class: …/train/<class>/…/x.jpg, and test or val in place of train. What
// lies between the class and the file does not matter. Labels are the ranks of the class names in byte order.
//
// TinyImageNet has the test images of all classes in one folder, val/images/, and their classes in val/val_annotations.txt, a line an
// image: its name, its class, and a box; what is in its test/ has no labels, and is passed over.
type folders struct {
	train, test []imageFile
	annotations map[string]string // class by file name; nil without such a file
	annotated   string            // the name of that file
	named       map[string]string // folders of training images by class, empty ones too
	title       string            // of the data set; empty for class folders
}

type imageFile struct {
	name, class string
	where       string // what messages call it
	data        []byte
}

// titles of data sets.
const (
	titleFolders  = "class folders"
	titleImageNet = "ImageNet"
)

// limits on what is taken from outside.
const (
	maxFile   = 64 << 20 // bytes of one image file
	maxPixels = 64 << 20 // of one decoded image
	maxBytes  = 16 << 30 // of all decoded images
)

func (f *folders) found() bool { return len(f.train)+len(f.test) > 0 }

// take reads the file if it is an image in a class folder, or says of which class images are.
func (f *folders) take(e entry) error {
	file, split, err := f.read(e)
	if err == nil && split != "" {
		f.add(file, split)
	}
	return err
}

// add adds an image to train or to what is tested on.
func (f *folders) add(file imageFile, split string) {
	if split == "train" {
		f.train = append(f.train, file)
	} else {
		f.test = append(f.test, file)
	}
}

// folder takes note of a folder, so that a class without images is noticed.
func (f *folders) folder(name string) {
	if path.Base(path.Dir(name)) != "train" || strings.HasPrefix(path.Base(name), ".") {
		return
	}
	if f.named == nil {
		f.named = map[string]string{}
	}
	f.named[path.Base(name)] = name
}

// read reads an image in a class folder, whose split is the folder's above the class. The split is empty for files that are no such
// images; one that says of which class images are is taken.
func (f *folders) read(e entry) (file imageFile, split string, err error) {
	if path.Base(e.name) == "val_annotations.txt" {
		return file, "", f.annotate(e.name, e.r)
	}
	if !isImage(e.name) || strings.HasPrefix(path.Base(e.name), ".") {
		return file, "", nil
	}
	parts := strings.Split(e.name, "/")
	at := slices.IndexFunc(parts, func(p string) bool { return p == "train" || p == "test" || p == "val" })
	if at < 0 || at+2 >= len(parts) {
		return file, "", nil
	}
	data, err := readImage(e.r)
	return imageFile{e.name, parts[at+1], e.where, data}, parts[at], err
}

// readImage reads one image file.
func readImage(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("more than %d bytes", maxFile)
	}
	return data, err
}

// annotate reads the classes of images.
func (f *folders) annotate(name string, r io.Reader) error {
	f.annotations, f.annotated = map[string]string{}, name
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) == 0:
		case len(fields) != 6: // name, class, and the corners of a box
			return fmt.Errorf("line %d: %d fields, want an image, its class and a box of 4 numbers", n, len(fields))
		case f.annotations[fields[0]] != "":
			return fmt.Errorf("line %d: %s has a class already", n, fields[0])
		default:
			f.annotations[fields[0]] = fields[1]
		}
	}
	return lines.Err()
}

// labelled gives the test images the classes of their annotations. Each image must have one, and each annotation its image.
func (f *folders) labelled() error {
	if f.annotations == nil {
		return nil
	}
	beside := path.Join(path.Dir(f.annotated), "images")
	f.test = slices.DeleteFunc(f.test, func(v imageFile) bool { return path.Dir(v.name) != beside })
	for i, v := range f.test {
		class, ok := f.annotations[path.Base(v.name)]
		if !ok {
			return fmt.Errorf("%s: %s does not say its class", v.where, f.annotated)
		}
		f.test[i].class = class
		delete(f.annotations, path.Base(v.name))
	}
	if len(f.annotations) > 0 {
		missing := slices.Sorted(maps.Keys(f.annotations))[0]
		return fmt.Errorf("%s: %d images are missing, among them %s", f.annotated, len(f.annotations), missing)
	}
	return nil
}

// classes checks the files' classes and returns those of the training images in the order of their labels.
func (f *folders) classes() ([]string, error) {
	if err := f.labelled(); err != nil {
		return nil, err
	}
	if len(f.train) == 0 {
		return nil, fmt.Errorf("no images below train/<class>/")
	}
	classes := map[string]bool{}
	for _, file := range f.train {
		classes[file.class] = true
	}
	for _, file := range f.test {
		if !classes[file.class] {
			return nil, fmt.Errorf("%s: class %q has no training images", file.where, file.class)
		}
	}
	for _, class := range slices.Sorted(maps.Keys(f.named)) {
		if !classes[class] {
			return nil, fmt.Errorf("%s: a class folder without images", f.named[class])
		}
	}
	return slices.Sorted(maps.Keys(classes)), nil
}

func (f *folders) dataset(o Options) (*Dataset, error) {
	names, err := f.classes()
	if err != nil {
		return nil, err
	}
	d, classes := &Dataset{Name: cmp.Or(f.title, titleFolders), Classes: names}, map[string]int32{}
	for i, name := range names {
		classes[name] = int32(i)
	}
	size, err := f.size(o)
	if err != nil {
		return nil, err
	}
	if err := fits(len(f.train)+len(f.test), size); err != nil {
		return nil, err
	}
	if d.Train, err = decodeAll(f.train, classes, size, o, d); err != nil {
		return nil, err
	}
	if len(f.test) > 0 {
		d.Test, err = decodeAll(f.test, classes, size, o, d)
	}
	return d, err
}

// fits tells whether so many decoded images may be held in memory.
func fits(images, size int) error {
	limit := float64(min(maxBytes, int64(math.MaxInt)))
	if need := 3 * float64(images) * float64(size) * float64(size); need > limit { // float64: no size wraps around
		return fmt.Errorf("%d images of %dx%d take %.1f GB decoded, the limit is %.1f GB; a cache holds more", images, size, size, need/1e9, limit/1e9)
	}
	return nil
}

// size is the wanted size, or that of the first training image that can be decoded.
func (f *folders) size(o Options) (int, error) {
	if o.Size != 0 {
		return o.Size, nil
	}
	for _, file := range f.train {
		c, _, err := image.DecodeConfig(bytes.NewReader(file.data))
		switch {
		case err != nil && o.SkipCorrupt:
			continue
		case err != nil:
			return 0, fmt.Errorf("%s: %w", file.where, err)
		case c.Width != c.Height:
			return 0, fmt.Errorf("%s: %dx%d pixels are not square: say what size images shall have", file.where, c.Width, c.Height)
		}
		return c.Width, nil
	}
	return 0, fmt.Errorf("no image can be decoded")
}

// decodeAll decodes the files in the order of their names, whichever worker does it.
func decodeAll(files []imageFile, classes map[string]int32, size int, o Options, d *Dataset) (*Images, error) {
	slices.SortFunc(files, func(a, b imageFile) int { return strings.Compare(a.name, b.name) })
	shape := net.Shape{H: size, W: size, C: 3}
	pixels := make([]uint8, len(files)*shape.Len())
	errs := make([]error, len(files))
	var wait sync.WaitGroup
	workers := max(1, o.Workers)
	for w := range workers {
		wait.Go(func() {
			for i := w; i < len(files); i += workers {
				errs[i] = decodeInto(pixels[i*shape.Len():(i+1)*shape.Len()], files[i].data, size, o.Fit, maxPixels)
				files[i].data = nil
			}
		})
	}
	wait.Wait()
	s := &Images{Shape: shape, Pixels: pixels[:0]}
	for i, file := range files {
		if errs[i] != nil {
			err := fmt.Errorf("%s: %w", file.where, errs[i])
			if !o.SkipCorrupt {
				return nil, err
			}
			d.Skipped = append(d.Skipped, err.Error())
			continue
		}
		s.Pixels = append(s.Pixels, pixels[i*shape.Len():(i+1)*shape.Len()]...) // moves it forward, over a skipped one
		s.Labels = append(s.Labels, classes[file.class])
	}
	if s.Len() == 0 {
		return nil, fmt.Errorf("none of %d images can be decoded", len(files))
	}
	return s, nil
}

// decodeInto decodes an image file of at most limit pixels to RGB bytes of size x size.
func decodeInto(dst []uint8, data []byte, size int, fit Fit, limit int64) error {
	m, err := decode(data, limit)
	if err != nil {
		return err
	}
	rgba, err := fitted(m, size, fit)
	if err != nil {
		return err
	}
	rgb(dst, rgba)
	return nil
}

// decode decodes an image file of at most limit pixels.
func decode(data []byte, limit int64) (image.Image, error) {
	c, _, err := image.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	if int64(c.Width)*int64(c.Height) > limit {
		return nil, fmt.Errorf("%w: %dx%d are more than %d", ErrPixels, c.Width, c.Height, limit)
	}
	m, _, err := image.Decode(bytes.NewReader(data))
	return m, err
}

// rgb writes R, G, B of the pixels, row by row.
func rgb(dst []uint8, m *image.RGBA) []uint8 {
	w := m.Rect.Dx()
	for i := range w * m.Rect.Dy() {
		copy(dst[3*i:3*i+3], m.Pix[i/w*m.Stride+4*(i%w):])
	}
	return dst
}

// fitted draws the part of m that is wanted on black. Grey images get three equal channels.
func fitted(m image.Image, size int, fit Fit) (*image.RGBA, error) {
	b := m.Bounds()
	dst := image.NewRGBA(image.Rect(0, 0, size, size))
	draw.Draw(dst, dst.Bounds(), image.Black, image.Point{}, draw.Src)
	short := min(b.Dx(), b.Dy())
	switch {
	case b.Dx() == size && b.Dy() == size:
		draw.Draw(dst, dst.Bounds(), m, b.Min, draw.Over)
	case fit == FitResize && short > 0:
		xdraw.BiLinear.Scale(dst, dst.Bounds(), m, centre(b, short), draw.Over, nil)
	case fit == FitCrop && short >= size:
		draw.Draw(dst, dst.Bounds(), m, centre(b, size).Min, draw.Over)
	default:
		return nil, fmt.Errorf("%dx%d pixels, want %dx%d", b.Dx(), b.Dy(), size, size)
	}
	return dst, nil
}

// centre is the square of the given size in the middle of b.
func centre(b image.Rectangle, size int) image.Rectangle {
	x, y := b.Min.X+(b.Dx()-size)/2, b.Min.Y+(b.Dy()-size)/2
	return image.Rect(x, y, x+size, y+size)
}
