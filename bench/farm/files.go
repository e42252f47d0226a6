package farm

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"hypnos/bench/experiment"
	"hypnos/bench/table"
	"hypnos/core/model"
)

// put stores what write writes as an object, whole or not at all.
func (q *Queue) put(ctx context.Context, name string, write func(io.Writer) error) error {
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(w)) }()
	_, err := q.files.Put(ctx, jetstream.ObjectMeta{Name: name}, whole{r})
	r.CloseWithError(errors.New("farm: upload ended")) // of a writer that goes on
	return err
}

// whole fills every read as far as there is something: the store makes a message of each.
type whole struct{ r io.Reader }

func (w whole) Read(p []byte) (int, error) {
	n, err := io.ReadFull(w.r, p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// get hands an object's bytes to read. The store's SHA-256 is compared at the end: bytes that came before may be wrong when the error is
// not nil. Bytes behind what read takes are read, too.
func (q *Queue) get(ctx context.Context, name string, read func(io.Reader) error) error {
	connections := q.conn.Stats().Reconnects
	err := q.getOnce(ctx, name, read)
	if err != nil && (!q.conn.IsConnected() || q.conn.Stats().Reconnects != connections) {
		return fmt.Errorf("%w: %v", errAway, err) // which says nothing about the object
	}
	return err
}

func (q *Queue) getOnce(ctx context.Context, name string, read func(io.Reader) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	late := time.AfterFunc(answerTime, cancel)
	r, err := q.files.Get(patient{ctx}, name)
	inTime := late.Stop()
	if err != nil && inTime {
		return err
	}
	if err == nil {
		defer r.Close()
	}
	if !inTime {
		return errAway
	}
	if err := read(r); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return err
}

// patient is a context whose deadline is always idleTime ahead, which the store asks for at every read: an object may take as long as it
// likes as long as bytes come.
type patient struct{ context.Context }

func (patient) Deadline() (time.Time, bool) { return time.Now().Add(idleTime), true }

// errAway: the server did not answer, or went away meanwhile.
var errAway = errors.New("the queue does not answer")

// damaged tells whether a stored object cannot be used, today and tomorrow.
func damaged(err error) bool {
	return errors.Is(err, jetstream.ErrObjectNotFound) || errors.Is(err, jetstream.ErrDigestMismatch) || errors.Is(err, os.ErrDeadlineExceeded) ||
		errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errContent)
}

var errContent = errors.New("damaged")

// packRun writes the files of a run directory as a tar.
func packRun(w io.Writer, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") { // such are being written
			if err := packFile(t, filepath.Join(dir, e.Name()), e.Name()); err != nil {
				return err
			}
		}
	}
	return t.Close()
}

// packFile adds a file under a name.
func packFile(t *tar.Writer, path, name string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: 0o644}); err != nil {
		return err
	}
	_, err = io.CopyN(t, f, info.Size())
	return err
}

// unpackRun writes a copy of a run directory into a folder that is new or empty.
func unpackRun(r io.Reader, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || h.Name != filepath.Base(h.Name) || strings.HasPrefix(h.Name, ".") {
			return fmt.Errorf("%w: file %q in a copy of a run", errContent, h.Name)
		}
		f, err := os.OpenFile(filepath.Join(dir, h.Name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, t)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}

// fetchRun gets a copy of a run into a folder, which is emptied first, and checks that a run can go on from it.
func (q *Queue) fetchRun(ctx context.Context, c copied, dir string, conf experiment.Config) error {
	if err := empty(dir); err != nil {
		return err
	}
	if err := q.get(ctx, c.Object, func(r io.Reader) error { return unpackRun(r, dir) }); err != nil {
		return err
	}
	d := experiment.RunDir{Path: dir}
	s, err := d.State(conf)
	if err != nil || s.Step != c.Step {
		return fmt.Errorf("%w: its checkpoint is of step %d, not %d (%v)", errContent, s.Step, c.Step, err)
	}
	return nil
}

// empty makes a folder that has nothing in it.
func empty(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o755)
}

// install moves a fetched copy of a run into its directory, file by file, in an order in which the directory can be gone on with after a
// crash at any moment: the checkpoint behind what belongs to it, the result last.
func install(from string, to *experiment.RunDir) error {
	if err := dropForeign(from, to); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	var late []string
	for _, e := range entries {
		switch e.Name() {
		case experiment.CheckpointFile, table.ResultFile:
			late = append(late, e.Name()) // in this order, that of the alphabet
		default:
			if err := replaceFile(filepath.Join(from, e.Name()), to.File(e.Name())); err != nil {
				return err
			}
		}
	}
	for _, name := range late {
		if err := replaceFile(filepath.Join(from, name), to.File(name)); err != nil {
			return err
		}
	}
	return nil
}

// dropForeign removes a checkpoint whose metrics are not the beginning of those that come, as when the run was begun anew: between the
// two files, the checkpoint would cut the metrics in the wrong place.
func dropForeign(from string, to *experiment.RunDir) error {
	k, f, err := experiment.ReadCheckpoint(to.File(experiment.CheckpointFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.Close()
	have, err := os.ReadFile(to.File(experiment.MetricsFile))
	if err != nil {
		return err
	}
	come, err := os.ReadFile(filepath.Join(from, experiment.MetricsFile))
	if err != nil {
		return err
	}
	if n := min(int64(len(have)), k.Metrics); int64(len(come)) >= n && bytes.Equal(have[:n], come[:n]) {
		return nil
	}
	return os.Remove(to.File(experiment.CheckpointFile))
}

func replaceFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return model.Replace(to, func(w io.Writer) error { _, err := io.Copy(w, f); return err })
}

// images are a source of images as the queue has it: a folder or an archive, as a tar with its name as the root.
type images struct {
	Digest string `json:"digest"` // SHA-256 of the tar
	Name   string `json:"name"`
}

func (i images) object() string { return "images-" + i.Digest }

// packImages writes a source of images, a folder or a file, as a tar that depends on names and contents only.
func packImages(w io.Writer, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	root := filepath.Base(source)
	if !info.IsDir() {
		if err := packFile(t, source, root); err != nil {
			return err
		}
		return t.Close()
	}
	err = filepath.WalkDir(source, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, p)
		if err != nil {
			return err
		}
		name := root + "/" + filepath.ToSlash(rel)
		info, err := os.Stat(p) // follows links, as reading images does
		switch {
		case err != nil:
			return err
		case info.IsDir():
			return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755})
		case info.Mode().IsRegular():
			return packFile(t, p, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return t.Close()
}

// identify reads a source of images to its end.
func identify(source string) (*images, error) {
	absolute, err := filepath.Abs(source) // "." has a name, too
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	if err := packImages(h, absolute); err != nil {
		return nil, fmt.Errorf("farm: images: %w", err)
	}
	return &images{fmt.Sprintf("%x", h.Sum(nil)), filepath.Base(absolute)}, nil
}

// unpackImages writes images into a folder, and nothing beside it.
func unpackImages(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			if err := root.MkdirAll(strings.TrimSuffix(h.Name, "/"), 0o755); err != nil {
				return err
			}
			continue
		}
		f, err := root.Create(h.Name)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, t)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
}
