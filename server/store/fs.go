package store

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// FS is the part of a file system that the store needs. Names are relative, with slashes; folders are one deep. What a
// crash may undo: everything written to a file since its last Sync, and every name made, changed or removed in a folder
// since the folder's last SyncDir.
type FS interface {
	// Open opens a file for reading. A file that is not there is an error that wraps fs.ErrNotExist.
	Open(name string) (File, error)
	// Create makes a new file for writing from its beginning; what was there under the name is gone.
	Create(name string) (File, error)
	// Rename gives a file another name, in its folder, in one step; what was there under the name is gone.
	Rename(from, to string) error
	Remove(name string) error
	// ReadDir lists the names in a folder, in any order; "." is the root.
	ReadDir(dir string) ([]string, error)
	// MakeDir makes a folder, unless it is there.
	MakeDir(name string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(dir string) error
}

// File is an open file.
type File interface {
	io.Writer
	io.ReaderAt
	Size() (int64, error)
	// Sync makes what was written durable.
	Sync() error
	Close() error
}

// Dir is a folder of the operating system.
func Dir(path string) FS { return osFS(path) }

type osFS string

func (d osFS) path(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

func (d osFS) Open(name string) (File, error) { return openOS(os.Open(d.path(name))) }

func (d osFS) Create(name string) (File, error) {
	return openOS(os.OpenFile(d.path(name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600))
}

func openOS(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err // not a nil *os.File in an interface
	}
	return osFile{f}, nil
}

func (d osFS) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }
func (d osFS) Remove(name string) error     { return os.Remove(d.path(name)) }

func (d osFS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(d.path(dir))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (d osFS) MakeDir(name string) error {
	if err := os.Mkdir(d.path(name), 0o700); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (d osFS) SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // a folder cannot be synced there: names are durable when the file system says so
	}
	f, err := os.Open(d.path(dir))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
