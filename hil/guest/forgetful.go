package main

import (
	"path"
	"strings"

	"hypnos/server/store"
)

// forgetful is a file system whose files do not get to the disk when they are synced, if their names contain one of some strings
// (with commas between): what a missing fsync in the daemon would be. nil without any.
func forgetful(names string) func(dir string) store.FS {
	if names == "" {
		return nil
	}
	return func(dir string) store.FS { return forgetfulFS{store.Dir(dir), strings.Split(names, ",")} }
}

type forgetfulFS struct {
	store.FS
	names []string
}

func (f forgetfulFS) Create(name string) (store.File, error) {
	file, err := f.FS.Create(name)
	if err != nil {
		return nil, err
	}
	for _, n := range f.names {
		if strings.Contains(path.Base(name), n) {
			return forgetfulFile{file}, nil
		}
	}
	return file, nil
}

type forgetfulFile struct{ store.File }

func (forgetfulFile) Sync() error { return nil }
