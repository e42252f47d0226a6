package data_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hypnos/core/data"
	"hypnos/core/data/datatest"
)

// tiny lays the images of class folders out as TinyImageNet does: train/CLASS/images/, val/images/ with annotations, and a test/ without
// labels.
func tiny(t *testing.T) (root string, annotations []string) {
	t.Helper()
	source := datatest.ClassFolders(t, 8, 3, 2)
	root = t.TempDir()
	for _, class := range datatest.Classes() {
		for _, split := range []string{"train", "test"} {
			files, err := filepath.Glob(filepath.Join(source, split, class, "*"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			for i, file := range files {
				content, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if split == "train" {
					datatest.Write(t, filepath.Join(root, "train", class, "images", filepath.Base(file)), content)
					continue
				}
				name := fmt.Sprintf("val_%s_%d.png", class, i)
				datatest.Write(t, filepath.Join(root, "val", "images", name), content)
				datatest.Write(t, filepath.Join(root, "test", "images", name), content)
				annotations = append(annotations, fmt.Sprintf("%s\t%s\t0\t0\t7\t7", name, class))
			}
		}
	}
	slices.Reverse(annotations) // their order says nothing
	write(t, root, annotations)
	return root, annotations
}

func write(t *testing.T, root string, annotations []string) {
	t.Helper()
	datatest.Write(t, filepath.Join(root, "val", "val_annotations.txt"), []byte(strings.Join(annotations, "\n")+"\n"))
}

func TestTinyImageNet(t *testing.T) {
	root, annotations := tiny(t)
	d, err := data.Open(root, data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(d.Classes, datatest.Classes()) || d.Train.Len() != 9 || d.Test.Len() != 6 {
		t.Fatalf("%v, %d + %d images", d.Classes, d.Train.Len(), d.Test.Len())
	}
	for i, label := range d.Test.Labels { // in the order of their names: by class here
		if int(label) != i/2 {
			t.Errorf("image %d has label %d", i, label)
		}
	}
	for want, lines := range map[string][]string{
		"line 2: 3 fields":           append([]string{annotations[0], "x y z"}, annotations[2:]...),
		"has a class already":        append([]string{annotations[1]}, annotations[1:]...),
		"does not say its class":     annotations[1:],
		"1 images are missing":       append([]string{"gone.png a 0 0 1 1"}, annotations...),
		"has no training images":     append([]string{strings.Replace(annotations[0], "\t"+datatest.Classes()[2]+"\t", "\tother\t", 1)}, annotations[1:]...),
		"val_annotations.txt: line ": {"one"},
	} {
		write(t, root, lines)
		if _, err := data.Open(root, data.Options{}); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// The real TinyImageNet, where it is: 200 classes, grey images among them, brought to the 56 pixels of a padding of 4.
func TestRealTinyImageNet(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short: 110,000 images")
	}
	const source = "../../../shared/data/tiny-imagenet-200-trainval.tar.gz"
	if _, err := os.Stat(source); err != nil {
		t.Skip("SKIPPED: no TinyImageNet beside the repository")
	}
	d, err := data.Open(source, data.Options{Size: 56, Fit: data.FitCrop, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	count := make([]int, len(d.Classes))
	for _, l := range d.Test.Labels {
		count[l]++
	}
	if len(d.Classes) != 200 || d.Train.Len() != 100000 || d.Test.Len() != 10000 || slices.Min(count) != 50 || slices.Max(count) != 50 {
		t.Errorf("%d classes, %d + %d images, %d to %d a class", len(d.Classes), d.Train.Len(), d.Test.Len(), slices.Min(count), slices.Max(count))
	}
	if err := d.Holdout(10000, 1); err != nil || d.Train.Len() != 90000 {
		t.Errorf("held out: %v, %d left", err, d.Train.Len())
	}
}

// From a cache it is the same, when the cache is made and when it is read.
func TestTinyImageNetCached(t *testing.T) {
	root, _ := tiny(t)
	want, err := data.Open(root, data.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	for range 2 {
		d, err := data.OpenCached(t.Context(), root, cache, data.Options{Size: 8}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(d.Classes, want.Classes) || !slices.Equal(d.Train.Labels, want.Train.Labels) || !slices.Equal(d.Test.Labels, want.Test.Labels) {
			t.Errorf("%v, %v, %v", d.Classes, d.Train.Labels, d.Test.Labels)
		}
		if data.ComputeStats(d.Train) != data.ComputeStats(want.Train) || data.ComputeStats(d.Test) != data.ComputeStats(want.Test) {
			t.Error("images differ")
		}
	}
}
