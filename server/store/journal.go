package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// A journal is files of records, each named by the number of its first record. All numbers are little-endian.
//
//	file:   the magic, then records
//	record: length of the payload, uint32; CRC-32C of what follows, uint32; number, uint64; number of the last record that was
//	        durable when it was written, uint64; kind, uint8; payload
//
// Records are numbered without gaps. What a file has at or behind the first record of the next file does not count: after a
// failed write, the next file begins with what had failed.
const (
	magic      = "hypnos journal 1\n"
	recordHead = 4 + 4 + 8 + 8 + 1
	maxPayload = 64 << 20 // bytes; a longer record is damaged
)

// castagnoli makes CRC-32C, for which processors have instructions.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendRecord(b []byte, seq, durable uint64, e Entry) ([]byte, error) {
	at := len(b)
	b = append(b, make([]byte, recordHead)...)
	b, err := e.append(b)
	if err != nil {
		return b[:at], err
	}
	r := b[at:]
	if len(r)-recordHead > maxPayload {
		return b[:at], fmt.Errorf("a record of %d bytes, at most %d", len(r)-recordHead, maxPayload)
	}
	little.PutUint32(r, uint32(len(r)-recordHead))
	little.PutUint64(r[8:], seq)
	little.PutUint64(r[16:], durable)
	r[24] = byte(e.kind())
	little.PutUint32(r[4:], crc32.Checksum(r[8:], castagnoli))
	return b, nil
}

// record is one record as it lies in a file.
type record struct {
	seq     uint64
	durable uint64 // of the last record that was durable when it was written
	kind    kind
	payload []byte
	size    int64 // with its head
}

// errDamaged says that what is at a place in a file is no record.
var errDamaged = errors.New("no record")

// readRecord reads the record at a place. io.EOF is the end of the file, errDamaged anything but a record; other errors are those
// of reading.
func readRecord(f io.ReaderAt, at, size int64) (record, error) {
	var head [recordHead]byte
	if at == size {
		return record{}, io.EOF
	}
	if size-at < recordHead {
		return record{}, errDamaged
	}
	if _, err := f.ReadAt(head[:], at); err != nil && err != io.EOF {
		return record{}, err
	}
	n := int64(little.Uint32(head[:]))
	if n > maxPayload || n > size-at-recordHead {
		return record{}, errDamaged
	}
	b := make([]byte, recordHead+n)
	if _, err := f.ReadAt(b, at); err != nil && err != io.EOF {
		return record{}, err
	}
	return parseRecord(b)
}

// parseRecord reads the record that b begins with, whose payload it keeps.
func parseRecord(b []byte) (record, error) {
	if len(b) < recordHead {
		return record{}, errDamaged
	}
	n := int64(little.Uint32(b))
	if n > maxPayload || n > int64(len(b)-recordHead) {
		return record{}, errDamaged
	}
	b = b[:recordHead+n]
	if crc32.Checksum(b[8:], castagnoli) != little.Uint32(b[4:]) {
		return record{}, errDamaged
	}
	return record{little.Uint64(b[8:]), little.Uint64(b[16:]), kind(b[24]), b[recordHead:], int64(len(b))}, nil
}

// journalFile is a file of a journal.
type journalFile struct {
	name  string
	first uint64 // number of its first record
}

const (
	journalPrefix  = "journal-"
	snapshotPrefix = "snapshot-"
	temporary      = ".tmp" // ends the names of files that are not whole
)

func numbered(prefix string, n uint64) string { return fmt.Sprintf("%s%016x", prefix, n) }

// numberOf reads a name that numbered gives.
func numberOf(prefix, name string) (n uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil
}

// journalFiles lists a folder's, the oldest first.
func journalFiles(f FS, dir string) ([]journalFile, error) {
	names, err := f.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []journalFile
	for _, n := range names {
		if first, ok := numberOf(journalPrefix, n); ok {
			files = append(files, journalFile{n, first})
		}
	}
	slices.SortFunc(files, func(a, b journalFile) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// reader goes through the records of a journal from a number on.
type reader struct {
	fs    FS
	dir   string
	files []journalFile
	next  uint64 // number of the record that comes next
}

// each gives the records in order, as long as one follows the other, and lists what could not be read.
func (j *reader) each(yield func(record) bool) (problems []Problem, err error) {
	for i, f := range j.files {
		end := ^uint64(0)
		if i+1 < len(j.files) {
			end = j.files[i+1].first
		}
		if end <= j.next {
			continue // all of it is in the snapshot
		}
		bad, more := int64(0), true
		if f.first <= j.next {
			if bad, more, err = j.file(f, end, yield); err != nil {
				return problems, fmt.Errorf("%s: %w", f.name, err)
			}
			if !more {
				return problems, nil
			}
			if bad < 0 {
				continue
			}
		}
		p := Problem{File: f.name, Offset: bad, What: "a torn tail, of what was not acknowledged"}
		if end == j.next { // what failed here is in the next file
			problems = append(problems, p)
			continue
		}
		durable, err := j.durable(i, bad)
		if err != nil {
			return problems, err
		}
		if durable >= j.next {
			p.What = fmt.Sprintf("damaged: records %d to %d are lost", j.next, durable)
			p.Lost = durable - j.next + 1
		}
		if problems = append(problems, p); p.Lost > 0 {
			return problems, nil
		}
	}
	return problems, nil
}

// file gives the records of one file that are before the number end. It returns the place of what is no record or does not
// follow, -1 without, and whether more is wanted.
func (j *reader) file(f journalFile, end uint64, yield func(record) bool) (bad int64, more bool, err error) {
	file, size, err := openSized(j.fs, j.dir+"/"+f.name)
	if err != nil {
		return 0, false, err
	}
	defer file.Close()
	head := make([]byte, len(magic))
	if _, err := file.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, false, err
	}
	if !bytes.Equal(head, []byte(magic)) {
		return 0, true, nil
	}
	for at := int64(len(magic)); j.next < end; {
		r, err := readRecord(file, at, size)
		switch {
		case err == io.EOF:
			return -1, true, nil
		case errors.Is(err, errDamaged), err == nil && r.seq > j.next:
			return at, true, nil
		case err != nil:
			return 0, false, err
		}
		if at += r.size; r.seq < j.next {
			continue
		}
		if !yield(r) {
			return 0, false, nil
		}
		j.next++
	}
	return -1, true, nil
}

func openSized(f FS, name string) (File, int64, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, 0, err
	}
	size, err := file.Size()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, size, nil
}

// durable tells which record was durable once, by what lies behind a place in the i-th file. It tells records that are lost from
// a torn tail, which a loss of power leaves of what was not acknowledged.
func (j *reader) durable(i int, at int64) (seq uint64, err error) {
	for _, f := range j.files[i:] {
		seq = max(seq, f.first-1)
		b, err := readFrom(j.fs, j.dir+"/"+f.name, at)
		if err != nil {
			return 0, err
		}
		for at = 0; len(b) >= recordHead; b = b[1:] {
			if n := little.Uint64(b[8:]); n < j.next || n-j.next > maxRecords {
				continue // spares a checksum
			}
			if r, err := parseRecord(b); err == nil {
				seq = max(seq, r.durable)
				b = b[r.size-1:]
			}
		}
	}
	return seq, nil
}

// maxRecords bounds how many records a journal can have behind a damage.
const maxRecords = 1 << 32

func readFrom(f FS, name string, at int64) ([]byte, error) {
	file, size, err := openSized(f, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.NewSectionReader(file, at, size-at))
}

// journal appends.
type journal struct {
	fs   FS
	dir  string
	file File   // nil: the next append begins one
	seq  uint64 // of the last record that was appended, durable or not
	// recovered is the last record that could be recovered. What has higher numbers, of what could not, is still to be cleared.
	recovered uint64
	cleared   bool
	// pending are records that are not durable yet, from the number from on; unknown when there were too many.
	pending []byte
	from    uint64
	lost    error // why pending was given up
}

// maxPending bounds the memory of records that wait for a disk.
const maxPending = 16 << 20

// append makes entries durable, with those that are pending. The sequence goes on whether it fails or not.
func (j *journal) append(entries []Entry) error {
	if j.from == 0 {
		j.from = j.seq + 1
	}
	for _, e := range entries {
		var err error
		j.seq++
		if j.lost != nil {
			continue
		}
		if j.pending, err = appendRecord(j.pending, j.seq, j.from-1, e); err != nil {
			j.lost = err
		}
	}
	if j.lost == nil && len(j.pending) > 0 {
		err := j.write()
		if err == nil {
			j.pending, j.from = j.pending[:0], 0
			return nil
		}
		j.drop()
		if len(j.pending) > maxPending {
			j.pending, j.lost = nil, err
		}
		return err
	}
	return j.lost
}

func (j *journal) write() error {
	created := j.file == nil
	if created {
		if err := j.clear(); err != nil {
			return err
		}
		f, err := j.fs.Create(j.dir + "/" + numbered(journalPrefix, j.from))
		if err != nil {
			return err
		}
		j.file = f
		if _, err := f.Write([]byte(magic)); err != nil {
			return err
		}
	}
	if _, err := j.file.Write(j.pending); err != nil {
		return err
	}
	if err := j.file.Sync(); err != nil {
		return err
	}
	if created {
		return j.fs.SyncDir(j.dir)
	}
	return nil
}

// clear removes files and snapshots whose numbers come after what could be recovered: of damaged ones, or behind a damage. The
// numbers are about to be given anew.
func (j *journal) clear() error {
	if j.cleared {
		return nil
	}
	names, err := j.fs.ReadDir(j.dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		first, isJournal := numberOf(journalPrefix, n)
		seq, isSnapshot := numberOf(snapshotPrefix, n)
		if isJournal && first > j.recovered || isSnapshot && seq > j.recovered {
			if err := j.fs.Remove(j.dir + "/" + n); err != nil {
				return err
			}
		}
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return err
	}
	j.cleared = true
	return nil
}

// drop gives the file up: after a failed write or sync nobody knows what it has.
func (j *journal) drop() {
	if j.file != nil {
		j.file.Close() // what counts is durable or pending
		j.file = nil
	}
}

// saved forgets what a snapshot of record seq has in it.
func (j *journal) saved(seq uint64) {
	if j.from != 0 && seq >= j.seq {
		j.pending, j.from, j.lost = nil, 0, nil
	}
	j.drop() // the next record begins a file, so that this one can go with the snapshot after
}

// prune removes snapshots before the number keep, and files of the journal that have no record behind it.
func prune(f FS, dir string, keep uint64) error {
	names, err := f.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	remove := func(name string) {
		if err := f.Remove(dir + "/" + name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, n := range names {
		if s, ok := numberOf(snapshotPrefix, n); ok && s < keep || strings.HasSuffix(n, temporary) {
			remove(n)
		}
	}
	files, err := journalFiles(f, dir)
	for i := 0; i+1 < len(files) && files[i+1].first <= keep+1; i++ {
		remove(files[i].name)
	}
	return errors.Join(append(errs, err)...)
}
