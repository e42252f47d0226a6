package data

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/draw"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	xdraw "golang.org/x/image/draw"

	"hypnos/core/model"
	"hypnos/core/net"
)

// A cache is a folder of three files. pixels holds images one after another, RGB bytes in rows. index has a line an image: the
// CRC-32C of the rest of the line in hexadecimal, a blank, and a cachedImage as JSON; it is written after the pixels, so that what a
// kill leaves half done has no line. done is written when every image of the source is there.
const (
	cachePixels = "pixels"
	cacheIndex  = "index"
	cacheDone   = "done"
)

const cacheFormat = 1

// cachedImage is an image of a cache.
type cachedImage struct {
	Name   string    `json:"name"` // of the file in the source
	Split  string    `json:"split"`
	Class  string    `json:"class"`           // as the folder says; see folders.labelled
	File   string    `json:"sha256"`          // of the file in the source
	H      int       `json:"h"`               // rows
	W      int       `json:"w"`               // columns
	At     int64     `json:"at"`              // in the file of pixels, in bytes
	Sum    uint32    `json:"crc32c"`          // of the pixels
	Total  [3]uint64 `json:"total"`           // of the pixels' values in each channel
	Square [3]uint64 `json:"square"`          // of their squares
	Error  string    `json:"error,omitempty"` // why the file cannot be decoded; then there are no pixels
}

func (v *cachedImage) bytes() int { return 3 * v.H * v.W }

// cacheEnd is the content of done.
type cacheEnd struct {
	Format      int               `json:"format"`
	Size        int               `json:"size"`   // of the shorter sides, in pixels
	Stamp       string            `json:"stamp"`  // of the source, see stamp
	Images      int               `json:"images"` // lines of the index
	Annotated   string            `json:"annotated,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"` // see folders
}

// cache is an open cache.
type cache struct {
	path     string
	source   string
	imageNet bool // the source is ImageNet's archives
	pixels   *os.File
	readOnly error         // why pixels cannot be written; nil where they can
	index    fs.FileInfo   // of the file that says where images are, when it was read or written
	images   []cachedImage // in the order in which they were stored
	end      cacheEnd      // the zero value while images are missing

	mending sync.Mutex        // of what follows, and one image is rewritten at a time
	mended  map[string]Mended // by name, since they were last asked for
}

// where is what messages call an image.
func (c *cache) where(name string) string {
	if c.imageNet {
		return archivedAs(name)
	}
	return name
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenCached opens class folders, an archive of them, or ImageNet's archives, whose decoded images need not fit memory: images are
// decoded once, scaled (bilinear, anti-aliased) until their shorter side has o.Size pixels, and kept as bytes in the folder at path.
// What is there already is not decoded again, so that a build that was killed goes on. progress, which may be nil, gets the number of
// images after each one.
//
// A source whose files have the names, sizes and times of last time is not read at all. Otherwise it is read to the end, and files
// whose SHA-256 is another one than that of the cached image, or that are gone, are an error. Two processes cannot share a cache
// while one of them builds it. The data set holds the pixels' file open until the process ends.
//
// Pixels have checksums, tested whenever they are read. Damaged ones are decoded again from the source and rewritten, see
// Images.Mended; where the source does not give them, a Minibatch has the error.
func OpenCached(ctx context.Context, source, path string, o Options, progress func(images int)) (*Dataset, error) {
	d, err := openCached(ctx, source, path, o, progress)
	if err != nil {
		return nil, fmt.Errorf("data: %s: %w", source, err)
	}
	if d.Test == nil && !o.TrainOnly {
		return nil, fmt.Errorf("data: %s: no test images (hold some training images out instead)", source)
	}
	return d, nil
}

func openCached(ctx context.Context, source, path string, o Options, progress func(images int)) (*Dataset, error) {
	if o.Size < 1 {
		return nil, errors.New("say what size the shorter side of cached images shall have")
	}
	if inside, err := below(source, path); err != nil {
		return nil, err
	} else if inside {
		return nil, fmt.Errorf("cache %s: it must lie outside of the source", path)
	}
	now, err := stamp(source)
	if err != nil {
		return nil, err
	}
	c, err := openCache(path, o.Size)
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", path, err)
	}
	c.source, c.imageNet = source, isImageNet(source)
	var d *Dataset
	if c.end.Stamp == now && c.end.Images == len(c.images) {
		d, err = c.dataset(o, nil)
	} else {
		d, err = c.build(ctx, source, now, o, progress)
	}
	if err != nil {
		return nil, errors.Join(err, c.pixels.Close())
	}
	return d, nil
}

// below tells whether path is a folder or something in it.
func below(folder, path string) (bool, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return false, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return false, err
	}
	rel, err := filepath.Rel(folder, path)
	return err == nil && filepath.IsLocal(rel), nil // no relative path: on another volume
}

// stamp identifies what a source looks like without reading it: the names, sizes and times of its files.
func stamp(source string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Stat(p) // follows links
		if err != nil || info.IsDir() {
			return err
		}
		name, err := filepath.Rel(source, p)
		fmt.Fprintf(h, "%q %d %d\n", filepath.ToSlash(name), info.Size(), info.ModTime().UnixNano())
		return err
	})
	return fmt.Sprintf("%x", h.Sum(nil)), err
}

// openCache opens what there is of a cache, or makes an empty one.
func openCache(path string, size int) (*cache, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, err
	}
	c := &cache{path: path}
	text, err := os.ReadFile(filepath.Join(path, cacheDone))
	if err == nil {
		if err := json.Unmarshal(text, &c.end); err != nil {
			return nil, fmt.Errorf("%s: %w", cacheDone, err)
		}
		switch {
		case c.end.Format != cacheFormat:
			return nil, fmt.Errorf("format %d, want %d: remove it", c.end.Format, cacheFormat)
		case c.end.Size != size:
			return nil, fmt.Errorf("its images have shorter sides of %d pixels, not of %d", c.end.Size, size)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if c.pixels, err = os.OpenFile(filepath.Join(path, cachePixels), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		c.readOnly = err // one that is complete may lie on a read-only disk
		if c.pixels, err = os.Open(filepath.Join(path, cachePixels)); err != nil {
			return nil, c.readOnly
		}
	}
	if err := c.readIndex(size); err != nil {
		return nil, errors.Join(err, c.pixels.Close())
	}
	return c, nil
}

// readIndex reads the lines of the index that are whole and whose pixels are there. The others' images are missing.
func (c *cache) readIndex(size int) error {
	c.images, c.index = nil, nil
	f, err := os.Open(filepath.Join(c.path, cacheIndex))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if c.index, err = f.Stat(); err != nil {
		return err
	}
	st, err := c.pixels.Stat()
	if err != nil {
		return err
	}
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil // what follows the last line end is a line that was not finished
		}
		if err != nil {
			return err
		}
		sum, text, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
		var v cachedImage
		if string(sum) != lineSum(text) || json.Unmarshal(text, &v) != nil {
			continue
		}
		if v.Error == "" && min(v.H, v.W) != size {
			return fmt.Errorf("%s has %dx%d pixels, the shorter side is not %d", v.Name, v.H, v.W, size)
		}
		if v.At+int64(v.bytes()) <= st.Size() {
			c.images = append(c.images, v)
		}
	}
}

func lineSum(text []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(text, castagnoli)) }

// cacheJob is a file on its way into the cache.
type cacheJob struct {
	file  imageFile
	split string
	known *cachedImage // what the cache holds of it; nil if nothing

	done   chan struct{} // closed when the rest is there
	image  cachedImage
	pixels []uint8
	err    error
}

// build reads the whole source and stores the images that are missing.
func (c *cache) build(ctx context.Context, source, now string, o Options, progress func(images int)) (*Dataset, error) {
	lock, err := model.LockFolder(c.path)
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", c.path, err)
	}
	defer lock.Close()
	if err := c.readIndex(o.Size); err != nil { // again: another process may have written it meanwhile
		return nil, fmt.Errorf("cache %s: %w", c.path, err)
	}
	if err := c.intact(ctx); err != nil {
		return nil, err
	}
	w, err := c.writer()
	if err != nil {
		return nil, fmt.Errorf("cache %s: %w", c.path, err)
	}
	files, err := c.fill(ctx, source, o, w, progress)
	if closing := w.close(); err == nil && closing != nil {
		err = fmt.Errorf("cache %s: %w", c.path, closing)
	}
	if err != nil {
		return nil, err
	}
	if c.index, err = os.Stat(filepath.Join(c.path, cacheIndex)); err != nil {
		return nil, fmt.Errorf("cache %s: %w", c.path, err)
	}
	c.end = cacheEnd{Format: cacheFormat, Size: o.Size, Stamp: now, Images: len(c.images), Annotated: files.annotated, Annotations: files.annotations}
	d, err := c.dataset(o, files.named)
	if err != nil {
		return nil, err
	}
	return d, model.Replace(filepath.Join(c.path, cacheDone), func(w io.Writer) error {
		return json.NewEncoder(w).Encode(c.end)
	})
}

// fill decodes on all workers what the source holds, ahead of the one who writes it in the source's order.
func (c *cache) fill(ctx context.Context, source string, o Options, w *cacheWriter, progress func(images int)) (*folders, error) {
	known := map[string]*cachedImage{} // those not met yet
	for i := range c.images {
		known[c.images[i].Name] = &c.images[i]
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	workers := max(1, o.Workers)
	jobs, queue := make(chan *cacheJob), make(chan *cacheJob, 2*workers)
	var wait sync.WaitGroup
	for range workers {
		wait.Go(func() {
			for j := range jobs {
				j.decode(o)
				close(j.done)
			}
		})
	}
	n, stored := 0, c.images
	wait.Go(func() {
		for j := range queue {
			<-j.done
			if ctx.Err() != nil {
				continue
			}
			if j.err != nil {
				stop(j.err)
				continue
			}
			if j.known == nil {
				if err := w.put(&j.image, j.pixels); err != nil {
					stop(fmt.Errorf("cache %s: %w", c.path, err))
					continue
				}
				stored = append(stored, j.image)
			}
			if n++; progress != nil {
				progress(n)
			}
		}
	})
	files, seen := &folders{}, map[string]bool{}
	err := walk(ctx, source, func(e entry) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e.r == nil {
			files.folder(e.name)
			return nil
		}
		file, split, err := files.read(e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.where, err)
		}
		if split == "" {
			return nil
		}
		if seen[e.name] {
			return fmt.Errorf("%s: it is there twice", e.where)
		}
		files.add(imageFile{name: e.name, class: file.class, where: e.where}, split)
		seen[e.name] = true
		j := &cacheJob{file: file, split: split, known: known[e.name], done: make(chan struct{})}
		delete(known, e.name)
		queue <- j
		jobs <- j
		return nil
	})
	close(jobs)
	close(queue)
	wait.Wait()
	c.images = stored
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return nil, cause
	case err != nil:
		return nil, err
	case len(seen) == 0:
		return nil, errors.New("no class folders of images found")
	case len(known) > 0:
		gone := slices.Sorted(maps.Keys(known))[0]
		return nil, fmt.Errorf("%s: cache %s holds it, the source does not: remove the cache to make it anew", gone, c.path)
	}
	return files, nil
}

// intact keeps the images whose pixels are what was stored. A file that could not be decoded is tried again, too.
func (c *cache) intact(ctx context.Context) error {
	whole, buf := c.images[:0], []uint8(nil)
	for _, v := range c.images {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if v.Error != "" {
			continue
		}
		var damage error
		if buf, damage = c.load(&v, buf); damage == nil {
			whole = append(whole, v)
		}
	}
	c.images = whole
	return nil
}

// decode makes image and pixels of a file that the cache does not hold, and compares one that it does.
func (j *cacheJob) decode(o Options) {
	j.image = cachedImage{Name: j.file.name, Split: j.split, Class: j.file.class, File: fmt.Sprintf("%x", sha256.Sum256(j.file.data))}
	if j.known != nil {
		if j.known.File != j.image.File {
			j.err = fmt.Errorf("%s: it has changed since the cache was made: remove the cache to make it anew", j.file.where)
		}
		return
	}
	m, err := shorterSide(j.file.data, o.Size, maxPixels)
	j.file.data = nil
	switch {
	case err != nil && o.SkipCorrupt:
		j.image.Error = err.Error()
		return
	case err != nil:
		j.err = fmt.Errorf("%s: %w", j.file.where, err)
		return
	}
	j.image.H, j.image.W = m.Rect.Dy(), m.Rect.Dx()
	j.pixels = rgb(make([]uint8, j.image.bytes()), m)
	j.image.Sum = crc32.Checksum(j.pixels, castagnoli)
	for i, v := range j.pixels {
		j.image.Total[i%3] += uint64(v)
		j.image.Square[i%3] += uint64(v) * uint64(v)
	}
}

// shorterSide decodes an image and scales it, bilinear and anti-aliased, until its shorter side has size pixels. The longer one is
// rounded down, as by torchvision's Resize.
func shorterSide(file []byte, size int, limit int64) (*image.RGBA, error) {
	m, err := decode(file, limit)
	if err != nil {
		return nil, err
	}
	b := m.Bounds()
	short, long := int64(min(b.Dx(), b.Dy())), int64(max(b.Dx(), b.Dy()))
	if short == 0 || int64(size)*int64(size)*long/short > limit {
		return nil, fmt.Errorf("%w: %dx%d scaled to %d are more than %d", ErrPixels, b.Dx(), b.Dy(), size, limit)
	}
	w, h := int(int64(b.Dx())*int64(size)/short), int(int64(b.Dy())*int64(size)/short)
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(dst, dst.Rect, image.Black, image.Point{}, draw.Src)
	xdraw.BiLinear.Scale(dst, dst.Rect, m, b, draw.Over, nil)
	return dst, nil
}

// cacheWriter appends images: to the pixels at once, to the index when a batch of pixels is synced.
type cacheWriter struct {
	pixels *os.File
	index  *os.File
	at     int64
	lines  bytes.Buffer
	count  int // lines
}

// writer makes index and pixels end with the last whole image.
func (c *cache) writer() (*cacheWriter, error) {
	w := &cacheWriter{pixels: c.pixels}
	name := filepath.Join(c.path, cacheIndex)
	err := model.Replace(name, func(to io.Writer) error {
		for i := range c.images {
			v := &c.images[i]
			w.at = max(w.at, v.At+int64(v.bytes()))
			if err := v.writeLine(to); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := c.pixels.Truncate(w.at); err != nil {
		return nil, err
	}
	w.index, err = os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	return w, err
}

func (v *cachedImage) writeLine(to io.Writer) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(to, "%s %s\n", lineSum(text), text)
	return err
}

// put appends an image and sets its place.
func (w *cacheWriter) put(v *cachedImage, pixels []uint8) error {
	const batch = 256
	v.At = w.at
	if _, err := w.pixels.WriteAt(pixels, w.at); err != nil {
		return err
	}
	w.at += int64(len(pixels))
	if err := v.writeLine(&w.lines); err != nil {
		return err
	}
	if w.count++; w.count%batch == 0 {
		return w.flush()
	}
	return nil
}

// flush makes the pixels durable, then the lines that say where they are.
func (w *cacheWriter) flush() error {
	if err := w.pixels.Sync(); err != nil {
		return err
	}
	if _, err := w.lines.WriteTo(w.index); err != nil {
		return err
	}
	return w.index.Sync()
}

func (w *cacheWriter) close() error { return errors.Join(w.flush(), w.index.Close()) }

// dataset makes a dataset of a cache that is complete. named are the folders of classes, where those are to be checked.
func (c *cache) dataset(o Options, named map[string]string) (*Dataset, error) {
	f := &folders{named: named, annotated: c.end.Annotated, annotations: maps.Clone(c.end.Annotations)}
	images := map[string]*cachedImage{}
	for i := range c.images {
		v := &c.images[i]
		images[v.Name] = v
		f.add(imageFile{name: v.Name, class: v.Class, where: c.where(v.Name)}, v.Split)
	}
	names, err := f.classes()
	if err != nil {
		return nil, err
	}
	d := &Dataset{Name: titleFolders, Classes: names}
	if c.imageNet {
		d.Name = titleImageNet
	}
	for _, part := range []struct {
		to    **Images
		files []imageFile
	}{{&d.Train, f.train}, {&d.Test, f.test}} {
		if len(part.files) == 0 {
			continue
		}
		s := &Images{Shape: net.Shape{H: c.end.Size, W: c.end.Size, C: 3}, cache: c}
		slices.SortFunc(part.files, func(a, b imageFile) int { return cmp.Compare(a.name, b.name) })
		for _, file := range part.files {
			v := images[file.name]
			if v.Error != "" {
				err := fmt.Sprintf("%s: %s", file.where, v.Error)
				if !o.SkipCorrupt {
					return nil, errors.New(err)
				}
				d.Skipped = append(d.Skipped, err)
				continue
			}
			label, _ := slices.BinarySearch(names, file.class)
			s.cached, s.Labels = append(s.cached, v), append(s.Labels, int32(label))
		}
		if s.Len() == 0 {
			return nil, fmt.Errorf("none of %d images can be decoded", len(part.files))
		}
		*part.to = s
	}
	return d, nil
}
