// Command make writes the tar archive of package sample to standard output:
//
//	go run ./core/data/sample/make cifar-10-lossless-excerpt.tar.gz | bzip2 -9 > core/data/sample/cifar10-sample.tar.bz2
//
// The argument is a CIFAR-10 archive or folder in the official binary layout. It takes the first 200 training images of
// each class, in the order of the official files, and the first 1,000 test images.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"hypnos/core/data"
)

const (
	perClass = 200
	tests    = 1000
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

func run(args []string, w io.Writer) error {
	if len(args) != 1 {
		return errors.New("want one argument, the CIFAR-10 source")
	}
	d, err := data.Open(args[0], data.Options{})
	if err != nil {
		return err
	}
	taken := map[int32]int{}
	train := records(d.Train, func(_ int, label int32) bool {
		taken[label]++
		return taken[label] <= perClass
	})
	test := records(d.Test, func(i int, _ int32) bool { return i < tests })
	t := tar.NewWriter(w)
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"batches.meta.txt", []byte(strings.Join(d.Classes, "\n") + "\n")},
		{"data_batch_1.bin", train},
		{"test_batch.bin", test},
	} {
		h := &tar.Header{Name: "cifar-10-batches-bin/" + f.name, Mode: 0o644, Size: int64(len(f.data)), Format: tar.FormatUSTAR}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(f.data); err != nil {
			return err
		}
	}
	return t.Close()
}

// records writes the images that keep chooses in the official layout: label, then the R, G and B planes.
func records(s *data.Images, keep func(i int, label int32) bool) []byte {
	var b bytes.Buffer
	for i, label := range s.Labels {
		if !keep(i, label) {
			continue
		}
		b.WriteByte(byte(label))
		for c := range 3 {
			for px, v := range s.Image(i) {
				if px%3 == c {
					b.WriteByte(v)
				}
			}
		}
	}
	return b.Bytes()
}
