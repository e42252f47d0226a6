//go:build !linux

package speed

import (
	"fmt"
	"runtime"
)

func resetPeak() (int64, error) {
	return 0, fmt.Errorf("speed: the peak of resident memory is not known on %s", runtime.GOOS)
}

func peak() (int64, error) { return resetPeak() }
