package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"

	"hypnos/core/model"
)

// Problem is something that could not be read.
type Problem struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"`
	What   string `json:"what"`
	Lost   uint64 `json:"lost"` // acknowledged records that are lost by it
}

func (p Problem) String() string { return fmt.Sprintf("%s, at byte %d: %s", p.File, p.Offset, p.What) }

// Recovery is what a slot has learned.
type Recovery struct {
	// Params are the parameters of the snapshot with its metadata, nil where there is none: then those of the package. They are
	// read from the file when they are asked for, until Close.
	Params *model.Params
	Seq    uint64 // number of the last record that Params have in them
	// Problems are what could not be read so far. A torn tail is one with Lost 0.
	Problems []Problem

	store *Store
	dir   string
	file  File
}

// Metadata of snapshots.
const (
	snapshotSeq = "hypnos.snapshot.seq"
	snapshotSum = "hypnos.snapshot.sha256" // of the file as it would be without this
)

// Recover finds what the active slot has learned. Replay it before anything is appended.
func (s *Store) Recover() (*Recovery, error) {
	state := s.State()
	slot := state.Active()
	if slot == None {
		return nil, fmt.Errorf("store: no model is in use: %w", ErrNone)
	}
	r := &Recovery{store: s, dir: state.Slots[slot].Folder}
	names, err := s.fs.ReadDir(r.dir)
	if err != nil {
		return nil, storage(err)
	}
	var snapshots []uint64
	for _, n := range names {
		if seq, ok := numberOf(snapshotPrefix, n); ok {
			snapshots = append(snapshots, seq)
		}
	}
	slices.Sort(snapshots)
	for _, seq := range slices.Backward(snapshots) {
		name := r.dir + "/" + numbered(snapshotPrefix, seq)
		p, f, err := s.readSnapshot(name, seq)
		if err == nil {
			r.Params, r.Seq, r.file = p, seq, f
			break
		}
		r.Problems = append(r.Problems, Problem{File: name, What: err.Error()})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal = nil
	return r, nil
}

// Replay gives the records after Seq to do, in order, and prepares the store for appending after the last. An error of do, or
// of reading the disk, ends it.
func (r *Recovery) Replay(do func(seq uint64, e Entry) error) error {
	files, err := journalFiles(r.store.fs, r.dir)
	if err != nil {
		return storage(err)
	}
	j := &reader{fs: r.store.fs, dir: r.dir, files: files, next: r.Seq + 1}
	var doing error
	problems, err := j.each(func(v record) bool {
		e, err := decode(v.kind, v.payload)
		if err == nil {
			err = do(v.seq, e)
		}
		if err != nil {
			doing = fmt.Errorf("store: record %d: %w", v.seq, err)
		}
		return err == nil
	})
	r.Problems = append(r.Problems, problems...)
	if err := errors.Join(doing, storage(err)); err != nil {
		return err
	}
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	r.store.journal = &journal{fs: r.store.fs, dir: r.dir, seq: j.next - 1, recovered: j.next - 1}
	return nil
}

// Close closes the snapshot's file.
func (r *Recovery) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// errNotReady is a mistake of the caller.
var errNotReady = errors.New("store: Append and Snapshot come after Replay")

// Append appends entries, one after the other, and returns the number of the last. Without an error all are durable, and all
// before them. After one, the number counts all the same: they are done, but may be lost; the next call tries again, in a new
// file, and so does a snapshot.
func (s *Store) Append(entries ...Entry) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal == nil {
		return 0, errNotReady
	}
	err := s.journal.append(entries)
	return s.journal.seq, storage(err)
}

// Seq is the number of the last record.
func (s *Store) Seq() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal == nil {
		return 0
	}
	return s.journal.seq
}

// Snapshot writes the parameters as they are after record seq, with their metadata, reads them back, and removes what is older
// than the snapshot before. It reads p twice. Appending may go on meanwhile; changing slots must not.
func (s *Store) Snapshot(p *model.Params, seq uint64) error {
	s.mu.Lock()
	j := s.journal
	s.mu.Unlock()
	if j == nil {
		return errNotReady
	}
	s.mu.Lock()
	err := j.clear()
	s.mu.Unlock()
	if err != nil {
		return storage(err)
	}
	name := j.dir + "/" + numbered(snapshotPrefix, seq)
	if err := s.writeSnapshot(name, p, seq); err != nil {
		s.fs.Remove(name + temporary)
		return storage(err)
	}
	previous, err := s.before(j.dir, seq)
	if err != nil {
		return storage(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.journal == j {
		j.saved(seq)
	}
	prune(s.fs, j.dir, previous) // what stays is in nobody's way, and goes next time
	return nil
}

func (s *Store) writeSnapshot(name string, p *model.Params, seq uint64) error {
	q := withMeta(p, map[string]string{snapshotSeq: strconv.FormatUint(seq, 10)})
	sum, err := sumOfParams(q)
	if err != nil {
		return err
	}
	q = withMeta(q, map[string]string{snapshotSum: sum})
	f, err := s.fs.Create(name + temporary)
	if err != nil {
		return err
	}
	if err := errors.Join(model.Write(f, q), f.Sync(), f.Close()); err != nil {
		return err
	}
	_, back, err := s.readSnapshot(name+temporary, seq)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := back.Close(); err != nil {
		return err
	}
	if err := s.fs.Rename(name+temporary, name); err != nil {
		return err
	}
	return s.fs.SyncDir(dirOf(name))
}

func dirOf(name string) string {
	for i := range name {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return "."
}

// withMeta gives the same tensors with more metadata.
func withMeta(p *model.Params, meta map[string]string) *model.Params {
	q := &model.Params{Meta: map[string]string{}}
	maps.Copy(q.Meta, p.Meta)
	maps.Copy(q.Meta, meta)
	for _, i := range p.Infos() {
		q.AddLazy(i, func() (model.Tensor, error) { return p.Get(i.Name) })
	}
	return q
}

func sumOfParams(p *model.Params) (string, error) {
	h := sha256.New()
	err := model.Write(h, p)
	return hex.EncodeToString(h.Sum(nil)), err
}

// readSnapshot opens a snapshot and verifies all of it.
func (s *Store) readSnapshot(name string, seq uint64) (*model.Params, File, error) {
	f, size, err := openSized(s.fs, name)
	if err != nil {
		return nil, nil, err
	}
	p, err := model.Read(f, size)
	if err == nil {
		err = checkSnapshot(p, seq)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return p, f, nil
}

func checkSnapshot(p *model.Params, seq uint64) error {
	if got := p.Meta[snapshotSeq]; got != strconv.FormatUint(seq, 10) {
		return fmt.Errorf("no snapshot of record %d: its metadata says %q", seq, got)
	}
	want := p.Meta[snapshotSum]
	q := withMeta(p, nil)
	delete(q.Meta, snapshotSum)
	got, err := sumOfParams(q)
	if err == nil && got != want {
		err = errors.New("damaged: its checksum is wrong")
	}
	return err
}

// before is the latest snapshot before a number, 0 without.
func (s *Store) before(dir string, seq uint64) (uint64, error) {
	names, err := s.fs.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	latest := uint64(0)
	for _, n := range names {
		if v, ok := numberOf(snapshotPrefix, n); ok && v < seq {
			latest = max(latest, v)
		}
	}
	return latest, err
}
