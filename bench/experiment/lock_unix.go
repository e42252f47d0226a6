//go:build unix

package experiment

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lockPath takes an exclusive lock on a file, which ends when it is closed or the process ends.
func lockPath(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another run is using it")
		}
		return nil, err
	}
	return f, nil
}
