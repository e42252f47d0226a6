//go:build cuda && cgo && linux && amd64

package kernels

import (
	_ "embed"
	"fmt"
)

//go:embed kernels_75.ptx
var ptx75 string

//go:embed kernels_80.ptx
var ptx80 string

// Version is the CUDA version whose drivers, and all later ones, know this PTX.
const Version = "11.8"

// PTX returns the kernels for a device of a compute capability. Those in bf16 and tf32 need 8.0.
func PTX(major, minor int) (string, error) {
	switch {
	case major >= 8:
		return ptx80, nil
	case major == 7 && minor >= 5:
		return ptx75, nil
	}
	return "", fmt.Errorf("capability %d.%d, the kernels need 7.5 or more", major, minor)
}
