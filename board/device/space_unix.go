//go:build linux || darwin

package device

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Space returns the bytes that a user may still write in the file system of a path. It is Absent on systems that have no Statfs.
func Space(path string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return 0, fmt.Errorf("device: free space of %s: %w", path, err)
	}
	return s.Bavail * uint64(s.Bsize), nil
}
