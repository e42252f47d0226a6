//go:build !unix

package model

import (
	"errors"
	"io"
	"os"
)

// ErrLocked says that another process has the folder.
var ErrLocked = errors.New("another process is using it")

// LockFolder only opens the folder: this system has no such locks.
func LockFolder(path string) (io.Closer, error) { return os.Open(path) }
