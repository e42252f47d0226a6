// Package sample holds a small part of CIFAR-10 inside the program: the first 200 training images of each class and
// 1,000 test images, with their original pixels, in the official binary layout.
//
// Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", University of Toronto, 2009. The
// archive is made by the command in the folder make from the first 1,000 records of each official file.
package sample

import (
	"bytes"
	_ "embed" // the archive

	"hypnos/core/data"
)

//go:embed cifar10-sample.tar.bz2
var archive []byte

// Name is how results on the sample are to be labelled.
const Name = "CIFAR-10 sample (2,000 train, 1,000 test)"

// Open decodes the sample.
func Open() (*data.Dataset, error) {
	d, err := data.Read("embedded sample", bytes.NewReader(archive), data.Options{})
	if err != nil {
		return nil, err
	}
	d.Name = Name
	return d, nil
}
