package data

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ImageNet as it is downloaded is a folder with
//
//	ILSVRC2012_img_train.tar      an archive a class, n01440764.tar, with its JPEGs
//	ILSVRC2012_img_val.tar        JPEGs, ILSVRC2012_val_00000001.JPEG and so on
//	ILSVRC2012_devkit_t12.tar.gz  what says of which classes those are
//
// or, in place of the last, val_labels.txt: a line an image, its name and its class, n01751748, or the class alone, in the order of
// the images' numbers. Nothing is unpacked: the archives' headers are read once, images by their places.
const (
	trainArchive  = "ILSVRC2012_img_train.tar"
	valArchive    = "ILSVRC2012_img_val.tar"
	devkitArchive = "ILSVRC2012_devkit_t12.tar.gz"
	valLabels     = "val_labels.txt"

	// in the development kit
	groundTruth = "ILSVRC2012_validation_ground_truth.txt"
	metaMat     = "meta.mat"
)

// imageNet is an index of ImageNet's archives. Images have the names that they would have in class folders, train/CLASS/NAME and
// val/CLASS/NAME, so that a data set is the same in both forms, and so are its cache and a run's data.
type imageNet struct {
	train, val *os.File // val is nil without such an archive
	classes    map[string]bool
	files      []archived
}

// archived is the place of an image in an archive.
type archived struct {
	name     string
	at, size int64
}

// isImageNet tells whether a source is a folder with ImageNet's archives.
func isImageNet(source string) bool {
	for _, name := range []string{trainArchive, valArchive} {
		if st, err := os.Stat(filepath.Join(source, name)); err == nil && st.Mode().IsRegular() {
			return true
		}
	}
	return false
}

// archivedAs says where the image with a name of class folders lies, for messages.
func archivedAs(name string) string {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return name
	}
	if parts[0] == "train" {
		return trainArchive + ": " + parts[1] + ".tar: " + parts[2]
	}
	return valArchive + ": " + parts[2]
}

// openImageNet indexes the archives. Whatever can be wrong with them but an image's content is found here. The caller closes the index.
func openImageNet(ctx context.Context, folder string) (*imageNet, error) {
	n := &imageNet{classes: map[string]bool{}}
	if err := n.index(ctx, folder); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

func (n *imageNet) close() {
	for _, f := range []*os.File{n.train, n.val} {
		if f != nil {
			f.Close() // was only read
		}
	}
}

func (n *imageNet) index(ctx context.Context, folder string) error {
	for _, name := range []string{"train", "val"} {
		if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
			return fmt.Errorf("both archives of ImageNet and %s/: move one of them elsewhere", name)
		}
	}
	var err error
	if n.train, err = os.Open(filepath.Join(folder, trainArchive)); err != nil {
		return err
	}
	if err := n.indexTrain(ctx); err != nil {
		return fmt.Errorf("%s: %w", trainArchive, err)
	}
	n.val, err = os.Open(filepath.Join(folder, valArchive))
	if errors.Is(err, fs.ErrNotExist) {
		n.val = nil
		return nil
	}
	if err != nil {
		return err
	}
	images, err := n.listVal(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", valArchive, err)
	}
	return n.indexVal(folder, images)
}

// indexTrain lists the images of all classes.
func (n *imageNet) indexTrain(ctx context.Context) error {
	err := listTar(n.train, 0, sizeOf(n.train), func(name string, at, size int64) error {
		class, isTar := strings.CutSuffix(name, ".tar")
		switch {
		case !isTar || !isWNID(class):
			return fmt.Errorf("%s: not the archive of a class, as n01440764.tar is", name)
		case n.classes[class]:
			return fmt.Errorf("%s: the class is there twice", name)
		}
		n.classes[class] = true
		if err := n.indexClass(ctx, class, at, size); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err == nil && len(n.classes) == 0 {
		err = errors.New("no classes")
	}
	return err
}

// indexClass lists the images of a class, whose archive lies in that of all classes.
func (n *imageNet) indexClass(ctx context.Context, class string, at, size int64) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	before, seen := len(n.files), map[string]bool{}
	err := listTar(n.train, at, size, func(name string, at, size int64) error {
		if err := checkImage(name, seen); err != nil {
			return err
		}
		n.files = append(n.files, archived{"train/" + class + "/" + name, at, size})
		return nil
	})
	if err == nil && len(n.files) == before {
		err = errors.New("a class without images")
	}
	return err
}

// listVal lists the validation images, by their own names.
func (n *imageNet) listVal(ctx context.Context) ([]archived, error) {
	var images []archived
	seen := map[string]bool{}
	err := listTar(n.val, 0, sizeOf(n.val), func(name string, at, size int64) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		images = append(images, archived{name, at, size})
		return checkImage(name, seen)
	})
	if err == nil && len(images) == 0 {
		err = errors.New("no images")
	}
	return images, err
}

func checkImage(name string, seen map[string]bool) error {
	switch {
	case !isImage(name):
		return fmt.Errorf("%s: not an image, by its name", name)
	case seen[name]:
		return fmt.Errorf("%s: it is there twice", name)
	}
	seen[name] = true
	return nil
}

// indexVal gives the validation images their classes.
func (n *imageNet) indexVal(folder string, images []archived) error {
	list, err := readValClasses(folder)
	if err != nil {
		return err
	}
	classes, err := list.of(images)
	if err != nil {
		return fmt.Errorf("%s: %w", list.file, err)
	}
	for i, v := range images {
		if !n.classes[classes[i]] {
			return fmt.Errorf("%s: %s: class %q is none of %s", list.file, v.name, classes[i], trainArchive)
		}
		n.files = append(n.files, archived{"val/" + classes[i] + "/" + v.name, v.at, v.size})
	}
	return nil
}

// walk calls take for every image, in the order in which they lie in the archives.
func (n *imageNet) walk(take func(entry) error) error {
	for _, v := range n.files {
		f := n.train
		if strings.HasPrefix(v.name, "val/") {
			f = n.val
		}
		if err := take(entry{v.name, archivedAs(v.name), io.NewSectionReader(f, v.at, v.size)}); err != nil {
			return err
		}
	}
	return nil
}

// errFound ends a search.
var errFound = errors.New("found")

// readArchived reads one image by its name in class folders. Only headers before it are read.
func readArchived(folder, name string) ([]byte, error) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	archive, way := valArchive, parts[2:]
	if parts[0] == "train" {
		archive, way = trainArchive, []string{parts[1] + ".tar", parts[2]}
	}
	f, err := os.Open(filepath.Join(folder, archive))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	from, size := int64(0), sizeOf(f)
	for _, step := range way {
		err := listTar(f, from, size, func(name string, at, n int64) error {
			if name == step {
				from, size = at, n
				return errFound
			}
			return nil
		})
		if err == nil {
			err = fs.ErrNotExist
		}
		if err != errFound {
			return nil, fmt.Errorf("%s: %w", archivedAs(name), err)
		}
	}
	return readImage(io.NewSectionReader(f, from, size))
}

// sizeOf is the size of an open file; 0 where it cannot be told, which no archive has.
func sizeOf(f *os.File) int64 {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}

// listTar calls take for every regular file of the tar archive that lies in size bytes of f from `from` on, with its name without
// folders and its place in f. Only headers are read. An archive that is cut anywhere is an error: it must have an end mark.
func listTar(f io.ReaderAt, from, size int64, take func(name string, at, size int64) error) error {
	const block = 512
	section := io.NewSectionReader(f, from, size)
	t, end, last := tar.NewReader(section), int64(0), ""
	for {
		h, err := t.Next()
		at, seeking := section.Seek(0, io.SeekCurrent) // the reader takes whole blocks, and none ahead
		switch {
		case seeking != nil:
			return seeking
		case err == io.EOF && at-end < block:
			return cutAfter(last, errors.New("no end mark"))
		case err == io.EOF:
			return nil
		case err != nil && last == "":
			return notTar(f, from, err)
		case err != nil:
			return cutAfter(last, err)
		}
		if h.Typeflag == tar.TypeDir || h.Typeflag == tar.TypeXGlobalHeader {
			end = at
			continue
		}
		name := path.Base(path.Clean(h.Name))
		if h.Typeflag != tar.TypeReg || sparse(h) {
			return fmt.Errorf("%s: not an ordinary file", h.Name)
		}
		if h.Size > size-at {
			return fmt.Errorf("it is cut within %s: %d of its %d bytes are there", name, size-at, h.Size)
		}
		end, last = (at+h.Size+block-1)/block*block, name
		if strings.HasPrefix(name, ".") { // what other systems add
			continue
		}
		if err := take(name, from+at, h.Size); err != nil {
			return err
		}
	}
}

func cutAfter(last string, err error) error {
	if last == "" {
		return fmt.Errorf("it is cut: %w", err)
	}
	return fmt.Errorf("it is cut or damaged after %s: %w", last, err)
}

// notTar says what may be there in place of an archive.
func notTar(f io.ReaderAt, at int64, err error) error {
	magic := make([]byte, 3)
	f.ReadAt(magic, at) // fewer bytes are no magic number
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}), string(magic) == "BZh":
		return errors.New("compressed: decompress it, images are read at their places")
	case errors.Is(err, tar.ErrHeader):
		return errors.New("not a tar archive")
	}
	return cutAfter("", err)
}

// sparse tells whether a file's bytes in the archive are not those of the file.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// isWNID tells whether a name is that of a class: n and eight digits.
func isWNID(s string) bool {
	return len(s) == 9 && s[0] == 'n' && strings.Trim(s[1:], "0123456789") == ""
}

// valClasses is a list of the validation images' classes.
type valClasses struct {
	file    string   // for messages
	names   []string // of images; nil in a list of classes alone
	classes []string // line by line
}

// readValClasses reads the list beside the archives.
func readValClasses(folder string) (v valClasses, err error) {
	var found []string
	for _, name := range []string{devkitArchive, valLabels} {
		if _, err := os.Stat(filepath.Join(folder, name)); err == nil {
			found = append(found, name)
		}
	}
	switch {
	case len(found) == 0:
		return v, fmt.Errorf("%s: nothing says its images' classes: put %s beside it, or %s with lines as %s",
			valArchive, devkitArchive, valLabels, "ILSVRC2012_val_00000001.JPEG n01751748")
	case len(found) == 2:
		return v, fmt.Errorf("both %s and %s say the classes of %s: move one of them elsewhere", found[0], found[1], valArchive)
	}
	f, err := os.Open(filepath.Join(folder, found[0]))
	if err != nil {
		return v, err
	}
	defer f.Close()
	if found[0] == devkitArchive {
		v, err = readDevkit(f)
	} else {
		v, err = readValLabels(f)
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", found[0], err)
	}
	return v, nil
}

// readValLabels reads lines of an image's name and its class, or of classes alone.
func readValLabels(r io.Reader) (valClasses, error) {
	v := valClasses{file: valLabels}
	err := eachLine(r, func(fields []string) error {
		if want := 1 + min(1, len(v.names)); len(v.classes) > 0 && len(fields) != want {
			return fmt.Errorf("%d fields, the lines before have %d", len(fields), want)
		}
		if len(fields) > 2 {
			return fmt.Errorf("%d fields, want an image and its class, or a class", len(fields))
		}
		if len(fields) == 2 {
			v.names = append(v.names, fields[0])
		}
		class := fields[len(fields)-1]
		if !isWNID(class) {
			return fmt.Errorf("%q is no class, as n01751748 is", class)
		}
		v.classes = append(v.classes, class)
		return nil
	})
	return v, err
}

// readDevkit reads the classes of the development kit: identifiers from 1, a line an image, and what WordNet calls them.
func readDevkit(r io.Reader) (valClasses, error) {
	v := valClasses{file: devkitArchive + ": " + groundTruth}
	var truth, meta []byte
	err := walkArchive(r, func(e entry) error {
		to := map[string]*[]byte{groundTruth: &truth, metaMat: &meta}[path.Base(e.name)]
		if to == nil || e.r == nil {
			return nil
		}
		var err error
		if *to, err = io.ReadAll(io.LimitReader(e.r, maxMat)); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		return nil
	})
	switch {
	case err != nil:
		return v, err
	case truth == nil:
		return v, fmt.Errorf("no %s in it", groundTruth)
	case meta == nil:
		return v, fmt.Errorf("no %s in it", metaMat)
	}
	byID, err := wnids(meta)
	if err != nil {
		return v, fmt.Errorf("%s: %w", metaMat, err)
	}
	err = eachLine(bytes.NewReader(truth), func(fields []string) error {
		id, err := strconv.Atoi(fields[0])
		if err != nil || len(fields) != 1 || byID[id] == "" {
			return fmt.Errorf("%q is no ILSVRC2012_ID of %s", strings.Join(fields, " "), metaMat)
		}
		v.classes = append(v.classes, byID[id])
		return nil
	})
	if err != nil {
		return v, fmt.Errorf("%s: %w", groundTruth, err)
	}
	return v, nil
}

// eachLine calls take for the fields of every line. Only the end may have empty lines.
func eachLine(r io.Reader, take func(fields []string) error) error {
	lines, empty := bufio.NewScanner(r), 0
	for n := 1; lines.Scan(); n++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			empty = n
			continue
		}
		if empty > 0 {
			return fmt.Errorf("line %d is empty", empty)
		}
		if err := take(fields); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return lines.Err()
}

// of are the classes of images, one by one: each must have one, and each line its image.
func (v valClasses) of(images []archived) ([]string, error) {
	if len(v.classes) != len(images) {
		return nil, fmt.Errorf("%d lines, but %s has %d images", len(v.classes), valArchive, len(images))
	}
	classes := make([]string, len(images))
	if taken := map[int]bool{}; v.names == nil {
		for i, image := range images {
			number, err := numberOf(image.name)
			if err != nil {
				return nil, err
			}
			if number < 1 || number > len(v.classes) {
				return nil, fmt.Errorf("%s of %s has no line: there are %d", image.name, valArchive, len(v.classes))
			}
			if taken[number] {
				return nil, fmt.Errorf("%s of %s: another image has its number", image.name, valArchive)
			}
			taken[number], classes[i] = true, v.classes[number-1]
		}
		return classes, nil
	}
	byName := map[string]string{}
	for i, name := range v.names {
		if byName[name] != "" {
			return nil, fmt.Errorf("line %d: %s has a class already", i+1, name)
		}
		byName[name] = v.classes[i]
	}
	for i, image := range images {
		if classes[i] = byName[image.name]; classes[i] == "" {
			return nil, fmt.Errorf("%s of %s has no line", image.name, valArchive)
		}
		delete(byName, image.name)
	}
	if len(byName) > 0 {
		return nil, fmt.Errorf("%s is not in %s", slices.Sorted(maps.Keys(byName))[0], valArchive)
	}
	return classes, nil
}

// numberOf is the number in the name of a validation image.
func numberOf(name string) (int, error) {
	digits := strings.TrimPrefix(strings.TrimSuffix(name, path.Ext(name)), "ILSVRC2012_val_")
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || len(digits) != 8 {
		return 0, fmt.Errorf("%s of %s: its name has no number, as ILSVRC2012_val_00000001.JPEG has: the list must name the images",
			name, valArchive)
	}
	return int(n), nil
}
