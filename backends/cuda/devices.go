//go:build cuda && cgo && linux && amd64

package cuda

import (
	"fmt"

	"hypnos/backends/cuda/internal/driver"
)

// Devices describes the devices of this machine, a line each: name, compute capability, memory, and the driver's CUDA
// version. It is an error if there is no driver or no device.
func Devices() ([]string, error) {
	infos, err := driver.Devices()
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	var lines []string
	for _, info := range infos {
		lines = append(lines, info.String())
	}
	return lines, nil
}
