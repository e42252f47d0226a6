package data

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Options choose how a source is read. The zero value reads images of any one size as they are.
type Options struct {
	// Size is the number of rows and columns that images shall have; 0 takes the source's, which must be square and
	// all the same.
	Size int
	// Fit says how images of class folders get that size: FitExact, FitCrop or FitResize.
	Fit Fit
	// SkipCorrupt leaves out files that cannot be decoded and lists them, instead of failing at the first.
	SkipCorrupt bool
	// Workers decode files; 0 means 1.
	Workers int
	// TrainOnly accepts a source without test images, of which some training images will be held out.
	TrainOnly bool
}

// Fit says how an image gets the wanted size.
type Fit string

const (
	FitExact  Fit = "exact"  // it must have it
	FitCrop   Fit = "crop"   // the centre is cut out, as the authors do with TinyImageNet
	FitResize Fit = "resize" // the shorter side is scaled to it (bilinear, anti-aliased), then the centre is cut out
)

// UnmarshalText reads a Fit.
func (f *Fit) UnmarshalText(text []byte) error {
	switch v := Fit(text); v {
	case FitExact, FitCrop, FitResize:
		*f = v
		return nil
	}
	return fmt.Errorf("data: unknown fit %q (known: %s, %s, %s)", text, FitExact, FitCrop, FitResize)
}

// Open reads a folder or an archive. Errors name the source and the file in it.
func Open(source string, o Options) (*Dataset, error) {
	c := &collector{options: o}
	if _, err := os.Stat(source); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return c.finish(source, c.walk(source))
}

// walk takes the files of the source. Of ImageNet's archives it is known beforehand whether their images fit memory.
func (c *collector) walk(source string) error {
	ctx := context.Background()
	if !isImageNet(source) {
		return walk(ctx, source, c.take)
	}
	if c.options.Size == 0 {
		return errors.New("say what size images shall have")
	}
	n, err := openImageNet(ctx, source)
	if err != nil {
		return err
	}
	defer n.close()
	if err := fits(len(n.files), c.options.Size); err != nil {
		return err
	}
	c.folders.title = titleImageNet
	return n.walk(c.take)
}

// Read reads an archive from r; name is used in messages.
func Read(name string, r io.Reader, o Options) (*Dataset, error) {
	c := &collector{options: o}
	return c.finish(name, walkArchive(r, c.take))
}

// entry is a file of a source.
type entry struct {
	name  string    // with slashes, from the source on
	where string    // what messages call it
	r     io.Reader // nil of a folder
}

// walk calls take for every file of a folder or an archive, and without a reader for every folder in it. ImageNet's archives, in a
// folder, are walked through as the class folders that they stand for.
func walk(ctx context.Context, source string, take func(entry) error) error {
	st, err := os.Stat(source)
	if err != nil {
		return err
	}
	switch base := filepath.Base(source); {
	case st.IsDir() && isImageNet(source):
		n, err := openImageNet(ctx, source)
		if err != nil {
			return err
		}
		defer n.close()
		return n.walk(take)
	case st.IsDir():
		return walkFolder(source, take)
	case base == trainArchive || base == valArchive:
		return errors.New("one of ImageNet's archives: name the folder that holds them")
	}
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer f.Close()
	return walkArchive(f, take)
}

// walkFolder calls take for everything below a folder, in lexical order.
func walkFolder(root string, take func(entry) error) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		info, err := os.Stat(p) // follows links
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return take(entry{name: name, where: name})
		case !info.Mode().IsRegular():
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		return take(entry{name, name, f})
	})
}

// walkArchive calls take for every file and folder of a tar archive, which may be compressed by gzip or bzip2.
func walkArchive(r io.Reader, take func(entry) error) error {
	plain, _, err := decompressed(bufio.NewReaderSize(r, 1<<20))
	if err != nil {
		return err
	}
	t, files := tar.NewReader(plain), 0
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			if files == 0 && errors.Is(err, tar.ErrHeader) {
				err = errors.New("not a tar archive")
			}
			return err
		}
		switch name := path.Clean(h.Name); h.Typeflag {
		case tar.TypeReg:
			files++
			err = take(entry{name, name, t})
		case tar.TypeDir:
			err = take(entry{name: name, where: name})
		}
		if err != nil {
			return err
		}
	}
	// A compressed stream has a checksum behind the archive's end; only reading to the end verifies it.
	_, err = io.Copy(io.Discard, plain)
	return err
}

// decompressed gives what r holds, decompressed where its first bytes are those of gzip or bzip2.
func decompressed(r *bufio.Reader) (plain io.Reader, compressed bool, err error) {
	magic, err := r.Peek(3)
	switch {
	case err != nil && err != io.EOF:
		return nil, false, err
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		plain, err := gzip.NewReader(r)
		return plain, true, err
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(r), true, nil
	}
	return r, false, nil
}

// collector sorts the files of a source by what they are and makes a dataset of them.
type collector struct {
	options Options
	cifar   cifar
	folders folders
}

// take reads one file, or passes it over when it is nothing that belongs to a dataset. A folder has no reader.
func (c *collector) take(e entry) error {
	if e.r == nil {
		c.folders.folder(e.name)
		return nil
	}
	known, err := c.cifar.take(e.name, e.r)
	if !known && err == nil {
		err = c.folders.take(e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", e.where, err)
	}
	return nil
}

// finish makes the dataset, or the error that says why there is none.
func (c *collector) finish(source string, err error) (*Dataset, error) {
	var d *Dataset
	switch {
	case err != nil:
	case c.cifar.found() && c.folders.found():
		err = fmt.Errorf("holds both CIFAR files and class folders")
	case c.cifar.found():
		d, err = c.cifar.dataset(c.options)
	case c.folders.found():
		d, err = c.folders.dataset(c.options)
	default:
		err = fmt.Errorf("no data set found: want data_batch_*.bin and test_batch.bin (CIFAR-10), train.bin and test.bin (CIFAR-100), train/<class>/*.jpg or .png with test/ or val/ beside it, or " +
			trainArchive + " (ImageNet)")
	}
	if err != nil {
		return nil, fmt.Errorf("data: %s: %w", source, err)
	}
	if d.Test == nil && !c.options.TrainOnly {
		return nil, fmt.Errorf("data: %s: no test images (hold some training images out instead)", source)
	}
	return d, nil
}

// isImage tells whether a file name is one of an image.
func isImage(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".jpg", ".jpeg", ".png":
		return true
	}
	return false
}
