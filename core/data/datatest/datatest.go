// Package datatest makes small sources of images for tests.
package datatest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"image"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/core/rng"
)

// Classes are the classes of ClassFolders.
func Classes() []string { return []string{"blue", "green", "red"} }

// ClassFolders writes a new source of class folders and returns its path: for every class the given numbers of
// training and test images, named train/CLASS/N.png and test/CLASS/N.png, of size x size pixels. An image has noise
// in all channels, brightest in that of its class: a network can learn to tell them apart.
func ClassFolders(t testing.TB, size, train, test int) string {
	t.Helper()
	root := t.TempDir()
	drawn := rng.New(1, rng.Test, 0)
	next := uint64(0)
	for _, split := range []struct {
		name   string
		images int
	}{{"train", train}, {"test", test}} {
		for label, class := range Classes() {
			for i := range split.images {
				m := image.NewNRGBA(image.Rect(0, 0, size, size))
				for p := range m.Pix {
					switch bright := 2 - label; p % 4 {
					case 3:
						m.Pix[p] = 255
					case bright:
						m.Pix[p] = uint8(100 + drawn.Intn(next, 156))
					default:
						m.Pix[p] = uint8(drawn.Intn(next, 156))
					}
					next++
				}
				var b bytes.Buffer
				if err := png.Encode(&b, m); err != nil {
					t.Fatal(err)
				}
				Write(t, filepath.Join(root, split.name, class, fmt.Sprint(i, ".png")), b.Bytes())
			}
		}
	}
	return root
}

// Write writes a file and makes the folders it lies in.
func Write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// File is a member of an archive.
type File struct {
	Name    string
	Content []byte
}

// Tar makes a tar archive.
func Tar(t testing.TB, files ...File) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.Name, Mode: 0o644, Size: int64(len(f.Content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// ImageNet writes a new source of archives as ImageNet is downloaded, with classes n00000001, n00000002 and n00000003, and returns the
// folder: of each class the given numbers of training and validation images, whose classes are in val_labels.txt. Their shorter side
// has size pixels and more.
func ImageNet(t testing.TB, size, train, val int) string {
	t.Helper()
	root, drawn, next := t.TempDir(), rng.New(2, rng.Test, 0), uint64(0)
	photo := func() []byte {
		w, h := size+drawn.Intn(next, size), size+drawn.Intn(next+1, size)
		m := image.NewNRGBA(image.Rect(0, 0, w, h))
		for p := range m.Pix {
			m.Pix[p] = uint8(drawn.Intn(next, 256))
			next++
		}
		var b bytes.Buffer
		if err := jpeg.Encode(&b, m, nil); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var all, tested []File
	var labels strings.Builder
	for c := 1; c <= 3; c++ {
		var images []File
		for i := range train {
			images = append(images, File{fmt.Sprintf("n%08d_%d.JPEG", c, i), photo()})
		}
		all = append(all, File{fmt.Sprintf("n%08d.tar", c), Tar(t, images...)})
	}
	for i := range 3 * val {
		name := fmt.Sprintf("ILSVRC2012_val_%08d.JPEG", i+1)
		tested = append(tested, File{name, photo()})
		fmt.Fprintf(&labels, "%s n%08d\n", name, 1+i*2%3)
	}
	Write(t, filepath.Join(root, "ILSVRC2012_img_train.tar"), Tar(t, all...))
	Write(t, filepath.Join(root, "ILSVRC2012_img_val.tar"), Tar(t, tested...))
	Write(t, filepath.Join(root, "val_labels.txt"), []byte(labels.String()))
	return root
}
