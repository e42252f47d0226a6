package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"hypnos/core/model"
	"hypnos/hil/agent"
	"hypnos/hil/message"
)

// depot is the folder of a board that keeps its files, in which a host puts programs and packages once:
//
//	files   as the host sent them
//	home    the guest's home, made anew from files for every scenario
//	mark    by which the folder is known to be the guest's own
//
// It is held by one guest at a time.
type depot struct {
	dir   string
	guest *guest
	held  interface{ Close() error }
}

// markFile is the mark. Without it a folder with something in it is somebody's, and is left alone.
const markFile = "hypnos-hil"

func openDepot(ctx context.Context, dir string) (*depot, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &depot{dir: dir}
	if err := s.hold(ctx); err != nil {
		return nil, err
	}
	if err := s.mark(); err != nil {
		return nil, errors.Join(err, s.held.Close())
	}
	if s.guest, err = newGuest(s.path("home"), ""); err != nil {
		return nil, errors.Join(err, s.held.Close())
	}
	return s, nil
}

func (s *depot) path(name ...string) string {
	return filepath.Join(append([]string{s.dir}, name...)...)
}

// hold waits for another guest to end: that of a connection that was cut a moment ago.
func (s *depot) hold(ctx context.Context) error {
	for end := time.Now().Add(holdTime); ; {
		held, err := model.LockFolder(s.dir)
		if err == nil {
			s.held = held
			return nil
		}
		if !errors.Is(err, model.ErrLocked) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("another run has this device (%s): wait for it, or give the target another home", s.dir)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const holdTime = 10 * time.Second

func (s *depot) mark() error {
	_, err := os.Stat(s.path(markFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range []string{"files", "home"} {
		if _, err := os.Lstat(s.path(name)); err == nil {
			return fmt.Errorf("%s is not a test's own, and would be removed: give the target another home", s.path(name))
		}
	}
	if err := os.Mkdir(s.path("files"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(s.path(markFile), []byte("This folder is of hypnos hil, which removes what is in files and home.\n"), 0o600)
}

// close ends the daemon, lets go of the storage, and lets the next guest have the depot.
func (s *depot) close() {
	s.guest.close()
	s.unmount(context.Background())
	s.held.Close()
}

func (s *depot) handlers() map[string]agent.Handler {
	all := s.guest.handlers()
	all[message.Have] = agent.Handle(s.have)
	all[message.Put] = agent.Handle(s.put)
	all[message.Fresh] = agent.Handle(s.fresh)
	all[message.Renew] = agent.Handle(s.renew)
	return all
}

func digest(path string) (string, error) {
	text, err := os.ReadFile(path)
	return fmt.Sprintf("%x", sha256.Sum256(text)), err
}

func (s *depot) have(context.Context, struct{}) (any, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := message.Digests{Files: map[string]string{}}
	if d.Program, err = digest(self); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.path("files"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if d.Files[e.Name()], err = digest(s.path("files", e.Name())); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (s *depot) put(_ context.Context, q message.File) (any, error) {
	if !filepath.IsLocal(q.Path) || filepath.Base(q.Path) != q.Path {
		return nil, fmt.Errorf("%q is no file's name", q.Path)
	}
	path := s.path("files", q.Path)
	if q.Offset == 0 { // not written over: the guest itself may be run from there
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, writeAt(path, q.Offset, q.Data)
}

// fresh makes the home anew.
func (s *depot) fresh(ctx context.Context, _ struct{}) (any, error) {
	home := s.path("home")
	if err := s.unmount(ctx); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(home); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(home, "data"), 0o755); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.path("files"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries { // copies: scenarios damage them
		text, err := os.ReadFile(s.path("files", e.Name()))
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(home, e.Name()), text, 0o700); err != nil {
			return nil, err
		}
	}
	syncAll()
	return nil, nil
}

func (s *depot) unmount(ctx context.Context) error {
	if !mounted(s.path("home", "data")) {
		return nil
	}
	_, err := s.guest.unmount(ctx, "data")
	return err
}

// renew has this process become the depot's guest, once the answer has been sent. The host asks again if that is lost.
func (s *depot) renew(context.Context, struct{}) (any, error) {
	path := s.path("files", message.Guest)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return nil, err
	}
	s.guest.close()
	time.AfterFunc(300*time.Millisecond, func() {
		fmt.Fprintln(os.Stderr, "guest: replaced:", become(path))
	})
	return nil, nil
}
