package emulator

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Replay writes to disk what a log of QEMU's blklogwrites says was written to it, in order, up to the last flush: the rest may have been in
// the disk's cache when the power went. It tells how many writes those were, and of how many.
//
// The format is that of Linux's dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst): a sector with magic number,
// version, number of entries and size of a sector; of each entry a sector with place, length and flags, and what was written.
func Replay(log io.ReaderAt, disk io.WriterAt) (lost, writes int, err error) {
	const (
		magic = 0x6a736677736872

		flagFlush   = 1 << 0
		flagFUA     = 1 << 1 // this write is made durable
		flagDiscard = 1 << 2
	)
	var super struct {
		Magic, Version, Entries uint64
		Sector                  uint32
	}
	if err := binary.Read(io.NewSectionReader(log, 0, 28), binary.LittleEndian, &super); err != nil {
		return 0, 0, fmt.Errorf("emulator: log of writes: %w", err)
	}
	size := int64(super.Sector)
	if super.Magic != magic || super.Version != 1 || size < 512 || size > 1<<16 {
		return 0, 0, errors.New("emulator: this is no log of writes")
	}
	type write struct {
		from, to, length int64 // in bytes; from the log, to the disk
		discard          bool
	}
	var all []write
	durable, at := 0, size
	var forced []write
	for i := range super.Entries {
		var e struct{ Place, Length, Flags, Data uint64 }
		if err := binary.Read(io.NewSectionReader(log, at, 32), binary.LittleEndian, &e); err != nil {
			return 0, 0, fmt.Errorf("emulator: log of writes: entry %d: %w", i, err)
		}
		at += size
		w := write{from: at, to: int64(e.Place) * size, length: int64(e.Length) * size, discard: e.Flags&flagDiscard != 0}
		if !w.discard {
			at += w.length
		}
		if w.length > 0 {
			all = append(all, w)
		}
		switch {
		case e.Flags&flagFlush != 0:
			durable = len(all)
			if e.Flags&flagFUA == 0 && w.length > 0 {
				durable-- // what comes with a flush comes after it
			}
			forced = nil
		case e.Flags&flagFUA != 0:
			forced = append(forced, w)
		}
	}
	for _, w := range append(all[:durable:durable], forced...) {
		if w.discard {
			continue // what is read there afterwards is not told
		}
		b := make([]byte, w.length)
		if _, err := log.ReadAt(b, w.from); err != nil {
			return 0, 0, fmt.Errorf("emulator: log of writes: %w", err)
		}
		if _, err := disk.WriteAt(b, w.to); err != nil {
			return 0, 0, err
		}
	}
	return len(all) - durable - len(forced), len(all), nil
}
