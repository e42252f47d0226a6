package model

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Save writes p as a safetensors file that appears whole or not at all: see Replace.
func Save(path string, p *Params) error {
	return Replace(path, func(w io.Writer) error { return Write(w, p) })
}

// Replace writes a file beside path, syncs it, renames it to path and syncs the directory. After an error, or a crash
// at any moment, path is what it was before, or complete; nothing else is left behind except by a crash.
func Replace(path string, write func(io.Writer) error) error {
	return replace(path, write, osFiles{})
}

// files is the part of the file system that replace needs; tests make each call of it fail.
type files interface {
	create(dir, pattern string) (file, error)
	rename(from, to string) error
	remove(name string) error
	syncDir(dir string) error
}

type file interface {
	io.Writer
	Name() string
	Chmod(os.FileMode) error
	Sync() error
	Close() error
}

type osFiles struct{}

func (osFiles) create(dir, pattern string) (file, error) { return os.CreateTemp(dir, pattern) }
func (osFiles) rename(from, to string) error             { return os.Rename(from, to) }
func (osFiles) remove(name string) error                 { return os.Remove(name) }
func (osFiles) syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func replace(path string, write func(io.Writer) error, fs files) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("model: save %s: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	f, err := fs.create(dir, "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	if err := fill(f, write); err != nil {
		fs.remove(f.Name())
		return err
	}
	if err := fs.rename(f.Name(), path); err != nil {
		fs.remove(f.Name())
		return err
	}
	return fs.syncDir(dir)
}

// fill writes the content and makes it durable. The file is closed in any case.
func fill(f file, write func(io.Writer) error) error {
	err := write(f)
	if err == nil {
		err = f.Chmod(0o644) // CreateTemp makes it private
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}
