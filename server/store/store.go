// Package store keeps what a board has learned, and the packages it learned from, so that a loss of power at any moment
// loses nothing that was acknowledged.
//
// There are two slots for models, a and b. One is committed: the daemon starts with it. A new package is written to the
// other, tried, and committed or returned from; a trial that ends without either, by a crash, has been returned from. What
// a model has learned belongs to its slot, and is there when it is returned to.
//
// The learned weights of a slot are those of its package or of a snapshot, and a journal of what came after: wake steps and
// sleeps, by their inputs. As backends/fixed gives the same bytes whenever it is given the same, doing them again restores
// the weights. An image is some hundred times shorter than the weights that it changes, and a sleep needs no bytes at all; nor
// can there be a mix of groups that slept and groups that did not.
//
// Files, in the store's folder:
//
//	state-0, state-1     the slots (State), twice, each with a checksum: the newer one that is whole counts
//	model-N/package.hyp  a package
//	model-N/snapshot-S   what it had learned by record S, the two latest ones
//	model-N/journal-S    records from S on
package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"

	"hypnos/core/edge"
	"hypnos/core/model"
)

// Slot names a place for a model.
type Slot string

// The slots.
const (
	None Slot = ""
	A    Slot = "a"
	B    Slot = "b"
)

// other is the other slot; A of none.
func (s Slot) other() Slot {
	if s == A {
		return B
	}
	return A
}

// Options of Open.
type Options struct {
	// Policy says which packages are accepted; its Counter is the store's own.
	Policy edge.Policy
	// MaxPackage is the largest package that Install takes, in bytes; 0 is 1 GiB.
	MaxPackage int64
}

// Role is what a slot's model is.
type Role string

// Roles.
const (
	Uploaded  Role = "uploaded"  // verified, never in use
	Trial     Role = "trial"     // in use on trial
	Committed Role = "committed" // the daemon starts with it
	Previous  Role = "previous"  // was committed
	Returned  Role = "returned"  // was on trial, or committed, and returned from
)

// Filled is a slot with a package.
type Filled struct {
	Folder  string       `json:"folder"`
	Counter edge.Counter `json:"counter"` // of the package
	Signer  string       `json:"signer,omitempty"`
	Role    Role         `json:"role"`
	Reason  string       `json:"reason,omitempty"` // why it was returned from
}

// State is what the store knows of its slots.
type State struct {
	Number  uint64          `json:"number"`  // counts changes
	Models  uint64          `json:"models"`  // counts packages that were ever installed
	Counter edge.Counter    `json:"counter"` // the highest version that was ever committed
	Slots   map[Slot]Filled `json:"slots"`
}

// Find is the slot of a role, or None.
func (s State) Find(r Role) Slot {
	for _, slot := range []Slot{A, B} {
		if s.Slots[slot].Role == r {
			return slot
		}
	}
	return None
}

// Active is the slot in use: the trial's, or the committed one.
func (s State) Active() Slot {
	if t := s.Find(Trial); t != None {
		return t
	}
	return s.Find(Committed)
}

func (s State) clone() State {
	c := s
	c.Slots = map[Slot]Filled{}
	for k, v := range s.Slots {
		c.Slots[k] = v
	}
	return c
}

// Errors that callers tell apart.
var (
	ErrTrial   = errors.New("a trial is under way")
	ErrNone    = errors.New("there is no such model")
	ErrTooLong = errors.New("the package is too large")
	ErrRead    = errors.New("reading the package") // from whom it comes
)

// StorageError is a failure of the file system, not of what was to be stored.
type StorageError struct{ Err error }

func (e *StorageError) Error() string { return "store: " + e.Err.Error() }
func (e *StorageError) Unwrap() error { return e.Err }

func storage(err error) error {
	if err == nil {
		return nil
	}
	return &StorageError{err}
}

// Store is an open store. All methods may be called from any goroutine.
type Store struct {
	fs      FS
	options Options

	mu      sync.Mutex
	state   State
	copies  [2]State // as they lie in the two files
	journal *journal // of the slot that Recover was called for
	changes sync.Mutex
}

// Open opens a store, new or not. A trial under way when the last process ended has been returned from. Problems are what could
// not be read, and is done without.
func Open(f FS, o Options) (*Store, []Problem, error) {
	if o.MaxPackage == 0 {
		o.MaxPackage = 1 << 30
	}
	s := &Store{fs: f, options: o}
	problems, err := s.readState()
	if err != nil {
		return nil, problems, err
	}
	if t := s.state.Find(Trial); t != None {
		if err := s.end(t, "the daemon ended during its trial"); err != nil {
			return nil, problems, err
		}
	}
	return s, problems, s.clean()
}

func stateFile(i int) string { return fmt.Sprintf("state-%d", i) }

// readState takes the newer copy that is whole, and writes both anew unless both are. That both are damaged where there are models
// is an error.
func (s *Store) readState() (problems []Problem, err error) {
	s.state = State{Slots: map[Slot]Filled{}}
	whole := 0
	for i := range s.copies {
		text, err := readFrom(s.fs, stateFile(i), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return problems, storage(err)
		}
		c, err := parseState(text)
		if err != nil {
			problems = append(problems, Problem{File: stateFile(i), What: err.Error()})
			continue
		}
		if s.copies[i] = c; whole == 0 || c.Number > s.state.Number {
			s.state = c.clone()
		}
		whole++
	}
	names, err := s.fs.ReadDir(".")
	if err != nil {
		return problems, storage(err)
	}
	isModel := func(name string) bool { return strings.HasPrefix(name, modelPrefix) }
	if whole == 0 {
		if slices.ContainsFunc(names, isModel) {
			return problems, fmt.Errorf("store: both copies of the state of the slots are damaged or gone: %s: %s", problems[0].File, problems[0].What)
		}
		problems = nil
	}
	if whole < len(s.copies) {
		err = s.change(s.state)
	}
	return problems, err
}

// parseState reads a line with the checksum of the JSON behind it.
func parseState(text []byte) (c State, err error) {
	sum, body, _ := strings.Cut(string(text), "\n")
	if sum != sumOf([]byte(body)) {
		return c, errors.New("damaged: its checksum is wrong")
	}
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		return c, err
	}
	if c.Slots == nil {
		c.Slots = map[Slot]Filled{}
	}
	return c, nil
}

func sumOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// change makes another state durable: one copy after the other, so that one of them is whole at any moment, and afterwards both.
// The lock s.changes is held, or nobody else has the store yet.
func (s *Store) change(next State) error {
	next.Number = s.State().Number + 1
	body, err := json.Marshal(next)
	if err != nil {
		return err
	}
	text := []byte(sumOf(body) + "\n" + string(body))
	first := 0
	if s.copies[0].Number > s.copies[1].Number {
		first = 1 // the older one, or what is damaged
	}
	if err := s.writeState(first, text); err != nil {
		return storage(err)
	}
	s.mu.Lock()
	s.state, s.copies[first] = next, next.clone()
	s.mu.Unlock()
	if s.writeState(1-first, text) == nil { // if not, it is written first the next time, or when the store is opened
		s.copies[1-first] = next.clone()
	} else {
		s.copies[1-first] = State{}
	}
	return nil
}

func (s *Store) writeState(i int, text []byte) error {
	f, err := s.fs.Create(stateFile(i))
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close(), s.fs.SyncDir("."))
}

// State is that of the slots, now.
func (s *Store) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.clone()
}

const (
	modelPrefix = "model-"
	packageFile = "package.hyp"
)

// clean removes the folders of models that neither copy of the state names.
func (s *Store) clean() error {
	names, err := s.fs.ReadDir(".")
	if err != nil {
		return storage(err)
	}
	used := map[string]bool{}
	for _, c := range s.copies {
		for _, f := range c.Slots {
			used[f.Folder] = true
		}
	}
	for _, n := range names {
		if strings.HasPrefix(n, modelPrefix) && !used[n] {
			s.removeFolder(n) // on a disk that cannot be written, it stays
		}
	}
	return nil
}

func (s *Store) removeFolder(dir string) error {
	names, err := s.fs.ReadDir(dir)
	for _, n := range names {
		err = errors.Join(err, s.fs.Remove(dir+"/"+n))
	}
	return errors.Join(err, s.fs.Remove(dir))
}

// Package opens and verifies the package in a slot. Close it.
func (s *Store) Package(slot Slot) (*Package, error) {
	f, ok := s.State().Slots[slot]
	if !ok {
		return nil, fmt.Errorf("store: slot %q: %w", slot, ErrNone)
	}
	return s.open(f.Folder + "/" + packageFile)
}

// Head reads what the package in a slot says of itself, without verifying the rest.
func (s *Store) Head(slot Slot) (edge.Head, error) {
	f, ok := s.State().Slots[slot]
	if !ok {
		return edge.Head{}, fmt.Errorf("store: slot %q: %w", slot, ErrNone)
	}
	file, size, err := openSized(s.fs, f.Folder+"/"+packageFile)
	if err != nil {
		return edge.Head{}, storage(err)
	}
	defer file.Close()
	h, _, _, err := edge.ReadHead(io.NewSectionReader(file, 0, size))
	return h, err
}

// Package is an open package of the store.
type Package struct {
	*edge.Package
	file File
}

// Close closes the file. Its parameters must not be read afterwards.
func (p *Package) Close() error { return p.file.Close() }

func (s *Store) open(name string) (*Package, error) {
	f, size, err := openSized(s.fs, name)
	if err != nil {
		return nil, storage(err)
	}
	params, err := model.Read(f, size)
	if err == nil {
		var p *edge.Package
		if p, err = edge.ReadPackage(params); err == nil {
			return &Package{p, f}, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("store: %s: %w", name, err), f.Close())
}

// Install reads a package and puts it into the slot that is not in use. The manifest with its signature is verified before
// anything is written, and has hashes of the rest, which goes to a file that is verified whole before the slot has it. An error
// leaves both slots as they were: one of edge.Policy, ErrTrial, ErrTooLong, ErrRead when the reader fails, a *StorageError, or
// else the package is damaged or none.
func (s *Store) Install(r io.Reader) (Slot, error) {
	s.changes.Lock()
	defer s.changes.Unlock()
	state := s.State()
	if state.Find(Trial) != None {
		return None, fmt.Errorf("store: %w", ErrTrial)
	}
	in := &source{r: r}
	head, start, size, err := edge.ReadHead(in)
	if in.err != nil {
		return None, fmt.Errorf("store: %w: %w", ErrRead, in.err)
	}
	if err != nil {
		return None, err
	}
	policy := s.options.Policy
	policy.Counter = state.Counter
	if err := policy.Check(head); err != nil {
		return None, err
	}
	if size > s.options.MaxPackage {
		return None, fmt.Errorf("store: %w: %d bytes, at most %d", ErrTooLong, size, s.options.MaxPackage)
	}
	slot := state.Active().other()
	next := state.clone()
	next.Models++
	filled := Filled{Folder: modelPrefix + strconv.FormatUint(next.Models, 10), Counter: head.Counter, Signer: head.Signer, Role: Uploaded}
	if err := s.receive(filled.Folder, in, start, size); err != nil {
		s.removeFolder(filled.Folder)
		return None, err
	}
	next.Slots[slot] = filled
	if err := s.change(next); err != nil {
		return None, err
	}
	return slot, s.clean()
}

// receive writes a package to a new folder, and reads it back.
func (s *Store) receive(dir string, in *source, start []byte, size int64) error {
	if err := s.fs.MakeDir(dir); err != nil {
		return storage(err)
	}
	name := dir + "/" + packageFile
	f, err := s.fs.Create(name)
	if err != nil {
		return storage(err)
	}
	defer f.Close()
	if _, err := f.Write(start); err != nil {
		return storage(err)
	}
	n, err := io.Copy(f, io.LimitReader(in, size-int64(len(start))+1))
	switch rest := size - int64(len(start)); {
	case in.err != nil:
		return fmt.Errorf("store: %w: %w", ErrRead, in.err)
	case err != nil:
		return storage(err)
	case n < rest:
		return fmt.Errorf("store: the package ends after %d of %d bytes", size-rest+n, size)
	case n > rest:
		return fmt.Errorf("store: more than the package's %d bytes", size)
	}
	if err := f.Sync(); err != nil {
		return storage(err)
	}
	p, err := s.open(name)
	if err != nil {
		return err
	}
	return storage(errors.Join(p.Close(), s.fs.SyncDir(dir)))
}

// source keeps the error of whoever sends.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// alter changes the state by what f does to a copy.
func (s *Store) alter(f func(next *State) error) error {
	s.changes.Lock()
	defer s.changes.Unlock()
	next := s.State()
	if err := f(&next); err != nil {
		return err
	}
	return s.change(next)
}

func (s *State) set(slot Slot, r Role, reason string) {
	f := s.Slots[slot]
	f.Role, f.Reason = r, reason
	s.Slots[slot] = f
}

// Reject keeps a package that was uploaded from being tried.
func (s *Store) Reject(slot Slot, reason string) error {
	return s.alter(func(next *State) error {
		if next.Slots[slot].Role != Uploaded {
			return fmt.Errorf("store: slot %q is not uploaded: %w", slot, ErrNone)
		}
		next.set(slot, Returned, reason)
		return nil
	})
}

// StartTrial makes the package that was installed last active. What it has learned is nothing; call Recover.
func (s *Store) StartTrial() error {
	return s.alter(func(next *State) error {
		slot := next.Find(Uploaded)
		if slot == None {
			return fmt.Errorf("store: nothing was uploaded: %w", ErrNone)
		}
		next.set(slot, Trial, "")
		return nil
	})
}

// Commit ends the trial: the tried package is the committed one.
func (s *Store) Commit() error {
	return s.alter(func(next *State) error {
		slot := next.Find(Trial)
		if slot == None {
			return fmt.Errorf("store: no trial: %w", ErrNone)
		}
		if old := next.Find(Committed); old != None {
			next.set(old, Previous, "")
		}
		next.set(slot, Committed, "")
		if c := next.Slots[slot].Counter; c.Version >= next.Counter.Version {
			next.Counter = c
		}
		return nil
	})
}

// Return ends the trial: the committed package is active again, with what it had learned. Call Recover.
func (s *Store) Return(reason string) error {
	t := s.State().Find(Trial)
	if t == None {
		return fmt.Errorf("store: no trial: %w", ErrNone)
	}
	return s.end(t, reason)
}

func (s *Store) end(trial Slot, reason string) error {
	return s.alter(func(next *State) error {
		next.set(trial, Returned, reason)
		return nil
	})
}

// Rollback commits the previous package, with what it had learned, or ends a trial. Call Recover.
func (s *Store) Rollback(reason string) error {
	if s.State().Find(Trial) != None {
		return s.Return(reason)
	}
	return s.alter(func(next *State) error {
		previous, now := next.Find(Previous), next.Find(Committed)
		if previous == None {
			return fmt.Errorf("store: no model to return to: %w", ErrNone)
		}
		next.set(previous, Committed, "")
		if now != None {
			next.set(now, Returned, reason)
		}
		return nil
	})
}
