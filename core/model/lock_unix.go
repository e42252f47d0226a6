//go:build unix

package model

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process has the folder.
var ErrLocked = errors.New("another process is using it")

// LockFolder takes an exclusive lock on a folder, which ends when it is closed or the process ends. Nothing is written: a folder on a
// read-only disk can be locked, too.
func LockFolder(path string) (io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, err
	}
	return f, nil
}
