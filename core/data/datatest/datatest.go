// Package datatest makes small sources of images for tests.
package datatest

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
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
