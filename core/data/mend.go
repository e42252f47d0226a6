package data

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"

	"hypnos/core/model"
)

// Mended is an image whose pixels in a cache were damaged: it was decoded again from its source.
type Mended struct {
	Kind   string `json:"kind"` // "mended"
	Image  string `json:"image"`
	Damage string `json:"damage"`
	// Unwritten says why the cache still has the damage; empty where the pixels were rewritten.
	Unwritten string `json:"unwritten,omitempty"`
}

func (m Mended) String() string {
	s := fmt.Sprintf("%s: %s; it was decoded anew", m.Image, m.Damage)
	if m.Unwritten != "" {
		s += ", and its cache is still damaged: " + m.Unwritten
	}
	return s
}

// Mended gives the images that were mended since it was last called, by name, of these images and of all others in the same cache.
func (s *Images) Mended() (all []Mended) {
	if s.cache == nil {
		return nil
	}
	s.cache.mending.Lock()
	defer s.cache.mending.Unlock()
	for _, name := range slices.Sorted(maps.Keys(s.cache.mended)) {
		all = append(all, s.cache.mended[name])
	}
	clear(s.cache.mended)
	return all
}

// read reads the pixels of an image into buf, which it makes larger where that is needed, and checks them. Damaged ones are decoded
// again and rewritten. Any number of goroutines may read at a time: what one finds half rewritten by another has a wrong checksum,
// and is decoded once more, to the same bytes.
func (c *cache) read(v *cachedImage, buf []uint8) ([]uint8, error) {
	buf, damage := c.load(v, buf)
	if damage == nil {
		return buf, nil
	}
	pixels, err := c.again(v, buf)
	if err != nil {
		return buf, fmt.Errorf("data: cache %s: %s: %w, and %s does not give it again: %w", c.path, c.where(v.Name), damage, c.source, err)
	}
	c.mending.Lock()
	defer c.mending.Unlock()
	m := Mended{Kind: "mended", Image: c.where(v.Name), Damage: damage.Error()}
	if err := c.rewrite(v, pixels); err != nil {
		m.Unwritten = err.Error()
	}
	if c.mended == nil {
		c.mended = map[string]Mended{}
	}
	c.mended[v.Name] = m
	return pixels, nil
}

// load reads the pixels of an image into buf, and tells what is wrong with them.
func (c *cache) load(v *cachedImage, buf []uint8) ([]uint8, error) {
	buf = resize(buf, v.bytes())
	if _, err := c.pixels.ReadAt(buf, v.At); err != nil {
		return buf, fmt.Errorf("its pixels cannot be read: %w", err)
	}
	if crc32.Checksum(buf, castagnoli) != v.Sum {
		return buf, errors.New("the checksum of its pixels is wrong")
	}
	return buf, nil
}

// again decodes an image from its source once more. It must be the file that it was, and give the pixels that it gave.
func (c *cache) again(v *cachedImage, buf []uint8) ([]uint8, error) {
	file, err := readSource(c.source, v.Name)
	if err != nil {
		return nil, err
	}
	if fmt.Sprintf("%x", sha256.Sum256(file)) != v.File {
		return nil, errors.New("the file has changed since the cache was made")
	}
	m, err := shorterSide(file, c.end.Size, maxPixels)
	if err != nil {
		return nil, err
	}
	pixels := rgb(resize(buf, 3*m.Rect.Dx()*m.Rect.Dy()), m)
	if m.Rect.Dy() != v.H || m.Rect.Dx() != v.W || crc32.Checksum(pixels, castagnoli) != v.Sum {
		return nil, errors.New("its pixels are others now, as by another decoder: remove the cache to make it anew")
	}
	return pixels, nil
}

// rewrite puts pixels where they were. The folder is locked meanwhile: a process that makes the cache anew has other images there.
func (c *cache) rewrite(v *cachedImage, pixels []uint8) error {
	if c.readOnly != nil {
		return c.readOnly
	}
	lock, err := model.LockFolder(c.path)
	if err != nil {
		return err
	}
	defer lock.Close()
	index, err := os.Stat(filepath.Join(c.path, cacheIndex))
	if err != nil {
		return err
	}
	if !os.SameFile(index, c.index) || index.Size() != c.index.Size() || !index.ModTime().Equal(c.index.ModTime()) {
		return errors.New("another process has changed the cache")
	}
	_, err = c.pixels.WriteAt(pixels, v.At)
	return err
}

// readSource reads one image file of a source that walk knows.
func readSource(source, name string) ([]byte, error) {
	st, err := os.Stat(source)
	switch {
	case err != nil:
		return nil, err
	case st.IsDir() && isImageNet(source):
		return readArchived(source, name)
	case !st.IsDir():
		return readMember(source, name)
	}
	f, err := os.Open(filepath.Join(source, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readImage(f)
}

// readMember reads one file of a tar archive. A compressed one is decompressed up to it, of another only headers are read.
func readMember(archive, name string) ([]byte, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plain, compressed, err := decompressed(bufio.NewReaderSize(f, 1<<20))
	if err == nil && !compressed {
		_, err = f.Seek(0, io.SeekStart)
		plain = f
	}
	if err != nil {
		return nil, err
	}
	for t := tar.NewReader(plain); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg && path.Clean(h.Name) == name {
			return readImage(t)
		}
	}
}
