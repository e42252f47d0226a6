//go:build cuda && cgo && linux && amd64

package kernels

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"sync"
)

//go:embed kernels_75.ptx.gz
var ptx75 []byte

//go:embed kernels_80.ptx.gz
var ptx80 []byte

// Version is the CUDA version whose drivers, and all later ones, know this PTX.
const Version = "11.8"

// The texts, each decompressed when it is asked for first.
var (
	text75 = sync.OnceValues(func() (string, error) { return decompressed(ptx75) })
	text80 = sync.OnceValues(func() (string, error) { return decompressed(ptx80) })
)

// PTX returns the kernels for a device of a compute capability. Those in bf16 and tf32 need 8.0.
func PTX(major, minor int) (string, error) {
	switch {
	case major >= 8:
		return text80()
	case major == 7 && minor >= 5:
		return text75()
	}
	return "", fmt.Errorf("capability %d.%d, the kernels need 7.5 or more", major, minor)
}

func decompressed(packed []byte) (string, error) {
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", fmt.Errorf("kernels: %w", err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return "", fmt.Errorf("kernels: %w", err)
	}
	return string(text), nil
}
