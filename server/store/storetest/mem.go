// Package storetest has a file system that loses what was not synced, and fails when it is told to.
package storetest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"

	"hypnos/server/store"
)

// ErrSkip, of what Before sets, has a sync succeed without an effect.
var ErrSkip = errors.New("nothing is done")

// ErrCrashed is the error of every operation after the one at which the machine lost power.
var ErrCrashed = errors.New("the machine has lost power")

// Mem is a file system in memory. It keeps apart what is durable and what a crash may undo.
type Mem struct {
	mu   sync.Mutex
	dirs map[string]*dir
	ops  int
	// before is asked before each operation that writes, with its number from 1 and what it does.
	before func(n int, op, name string) error
}

// dir is a folder: names as programs see them, names as they are durable, and what led from the latter to the former.
type dir struct {
	names, durable map[string]*file
	pending        []change
	made           bool // durably
}

// change gives a name a file, or none.
type change struct {
	name string
	file *file  // nil removes it
	from string // of a rename: the name that goes in the same step
}

func (c change) apply(names map[string]*file) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.file == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.file
	}
}

// file is a file's bytes: as programs see them, and as they are durable.
type file struct{ data, durable []byte }

// New returns an empty file system.
func New() *Mem {
	m := &Mem{dirs: map[string]*dir{".": newDir()}}
	m.dirs["."].made = true
	return m
}

func newDir() *dir { return &dir{names: map[string]*file{}, durable: map[string]*file{}} }

// Before sets what is asked before each operation that writes; an error fails it, without an effect. An operation is "create",
// "write", "sync", "rename", "remove", "mkdir" or "syncdir".
func (m *Mem) Before(f func(n int, op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before, m.ops = f, 0
}

// Ops counts the operations that wrote, since Before.
func (m *Mem) Ops() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// CrashAt has every operation from the n-th on fail with ErrCrashed.
func (m *Mem) CrashAt(n int) {
	m.Before(func(i int, _, _ string) error {
		if i >= n {
			return ErrCrashed
		}
		return nil
	})
}

// Crashed is the file system after a loss of power: what was synced is there, of the rest anything may be. Of bytes that were
// written after the last sync of a file, a part up to any length is there, and any of its sectors may be as it was not written: zeros.
// Of names that were made, changed or removed since the last sync of a folder, any may be as before. r decides.
func (m *Mem) Crashed(r *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := New()
	crashed := map[*file]*file{}
	lose := func(f *file) *file {
		if g, ok := crashed[f]; ok {
			return g
		}
		g := torn(f, r)
		crashed[f] = g
		return g
	}
	for _, name := range slices.Sorted(maps.Keys(m.dirs)) {
		d := m.dirs[name]
		if !d.made && r.IntN(2) == 0 {
			continue
		}
		names := maps.Clone(d.durable)
		for _, c := range d.pending {
			if r.IntN(2) == 0 {
				c.apply(names)
			}
		}
		to := newDir()
		to.made = true
		for _, n := range slices.Sorted(maps.Keys(names)) {
			to.names[n] = lose(names[n])
		}
		to.durable = maps.Clone(to.names)
		after.dirs[name] = to
	}
	return after
}

// sector is what a disk writes whole or not at all.
const sector = 512

func torn(f *file, r *rand.Rand) *file {
	keep := len(f.durable)
	if more := len(f.data) - keep; more > 0 {
		keep += r.IntN(more + 1)
	}
	b := slices.Clone(f.data[:min(keep, len(f.data))])
	for at := (len(f.durable) + sector - 1) / sector * sector; at < len(b); at += sector {
		if r.IntN(4) == 0 {
			clear(b[at:min(at+sector, len(b))])
		}
	}
	return &file{data: b, durable: slices.Clone(b)}
}

// Flip changes a bit of a file, durably, and tells whether there was one.
func (m *Mem) Flip(name string, bit int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base := m.split(name)
	if d == nil || d.names[base] == nil || bit/8 >= len(d.names[base].data) {
		return false
	}
	f := d.names[base]
	f.data[bit/8] ^= 1 << (bit % 8)
	f.durable = slices.Clone(f.data)
	return true
}

// Files lists all files with their sizes.
func (m *Mem) Files() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]int{}
	for name, d := range m.dirs {
		for n, f := range d.names {
			all[path.Join(name, n)] = len(f.data)
		}
	}
	return all
}

func (m *Mem) split(name string) (*dir, string) { return m.dirs[path.Dir(name)], path.Base(name) }

// writes begins an operation that writes; the lock is held.
func (m *Mem) writes(op, name string) error {
	m.ops++
	if m.before != nil {
		if err := m.before(m.ops, op, name); err != nil {
			return fmt.Errorf("%s %s: %w", op, name, err)
		}
	}
	return nil
}

func unlessSkipped(err error) error {
	if errors.Is(err, ErrSkip) {
		return nil
	}
	return err
}

func missing(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// Open opens a file for reading.
func (m *Mem) Open(name string) (store.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, base := m.split(name)
	if d == nil || d.names[base] == nil {
		return nil, missing("open", name)
	}
	return &handle{m, d.names[base], name}, nil
}

// Create makes a file. One that was there is emptied, which a crash may undo: it is another file of the name.
func (m *Mem) Create(name string) (store.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.writes("create", name); err != nil {
		return nil, err
	}
	d, base := m.split(name)
	if d == nil {
		return nil, missing("create", name)
	}
	f := &file{}
	d.do(change{name: base, file: f})
	return &handle{m, f, name}, nil
}

func (d *dir) do(c change) {
	d.pending = append(d.pending, c)
	c.apply(d.names)
}

// Rename gives a file another name.
func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.writes("rename", from); err != nil {
		return err
	}
	d, base := m.split(from)
	if d == nil || d.names[base] == nil || path.Dir(from) != path.Dir(to) {
		return missing("rename", from)
	}
	d.do(change{name: path.Base(to), file: d.names[base], from: base})
	return nil
}

// Remove removes a file, or a folder that is empty.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.writes("remove", name); err != nil {
		return err
	}
	if d := m.dirs[name]; d != nil {
		if len(d.names) > 0 {
			return fmt.Errorf("remove %s: not empty", name)
		}
		delete(m.dirs, name)
		return nil
	}
	d, base := m.split(name)
	if d == nil || d.names[base] == nil {
		return missing("remove", name)
	}
	d.do(change{name: base})
	return nil
}

// ReadDir lists a folder.
func (m *Mem) ReadDir(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.dirs[name]
	if d == nil {
		return nil, missing("readdir", name)
	}
	names := slices.Collect(maps.Keys(d.names))
	if name == "." {
		for n := range m.dirs {
			if n != "." {
				names = append(names, n)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// MakeDir makes a folder.
func (m *Mem) MakeDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.writes("mkdir", name); err != nil {
		return err
	}
	if m.dirs[name] == nil {
		m.dirs[name] = newDir()
	}
	return nil
}

// SyncDir makes the names in a folder durable.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.writes("syncdir", name); err != nil {
		return unlessSkipped(err)
	}
	d := m.dirs[name]
	if d == nil {
		return missing("syncdir", name)
	}
	d.durable, d.pending = maps.Clone(d.names), nil
	if name == "." {
		for _, d := range m.dirs {
			d.made = true
		}
	}
	return nil
}

// handle is an open file. One that is removed or renamed meanwhile goes on.
type handle struct {
	m    *Mem
	file *file
	name string
}

func (h *handle) Write(b []byte) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	err := h.m.writes("write", h.name)
	if err != nil {
		b = b[:len(b)/2] // a write that fails may have written a part
	}
	h.file.data = append(h.file.data, b...)
	return len(b), err
}

func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if at >= int64(len(h.file.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.file.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) Size() (int64, error) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	return int64(len(h.file.data)), nil
}

func (h *handle) Sync() error {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	if err := h.m.writes("sync", h.name); err != nil {
		return unlessSkipped(err)
	}
	h.file.durable = slices.Clone(h.file.data)
	return nil
}

func (h *handle) Close() error { return nil }
