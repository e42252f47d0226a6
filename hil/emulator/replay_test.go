package emulator

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// log makes a log of writes of one sector each: place, flags and the byte that the sector is full of. A place below 0 has no data.
func log(entries [][3]int) []byte {
	const sector = 512
	var b bytes.Buffer
	write := func(v any) {
		binary.Write(&b, binary.LittleEndian, v)
		b.Write(make([]byte, (sector-b.Len()%sector)%sector))
	}
	write(struct {
		Magic, Version, Entries uint64
		Sector                  uint32
	}{0x6a736677736872, 1, uint64(len(entries)), sector})
	for _, e := range entries {
		place, length := e[0], 1
		if place < 0 {
			place, length = 0, 0
		}
		write([4]uint64{uint64(place), uint64(length), uint64(e[1]), 0})
		if length > 0 {
			b.Write(bytes.Repeat([]byte{byte(e[2])}, sector))
		}
	}
	return b.Bytes()
}

func TestReplay(t *testing.T) {
	const flush, fua = 1, 2
	for _, x := range []struct {
		name         string
		entries      [][3]int
		want         [3]byte
		lost, writes int
	}{
		{"nothing flushed", [][3]int{{0, 0, 'a'}, {1, 0, 'b'}}, [3]byte{}, 2, 2},
		{"up to the flush", [][3]int{{0, 0, 'a'}, {1, 0, 'b'}, {-1, flush, 0}, {0, 0, 'c'}}, [3]byte{'a', 'b'}, 1, 3},
		{"in order", [][3]int{{0, 0, 'a'}, {0, 0, 'b'}, {-1, flush, 0}}, [3]byte{'b'}, 0, 2},
		{"forced behind the flush", [][3]int{{0, 0, 'a'}, {-1, flush, 0}, {1, 0, 'b'}, {2, fua, 'c'}}, [3]byte{'a', 0, 'c'}, 1, 3},
		{"a write that flushes what was before", [][3]int{{0, 0, 'a'}, {1, flush, 'b'}}, [3]byte{'a'}, 1, 2},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, make([]byte, 3*512), 0o600); err != nil {
			t.Fatal(err)
		}
		disk, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		lost, writes, err := Replay(bytes.NewReader(log(x.entries)), disk)
		disk.Close()
		text, readErr := os.ReadFile(path)
		if err != nil || readErr != nil || lost != x.lost || writes != x.writes {
			t.Errorf("%s: lost %d of %d, want %d of %d: %v, %v", x.name, lost, writes, x.lost, x.writes, err, readErr)
		}
		for i, want := range x.want {
			if text[512*i] != want || text[512*i+511] != want {
				t.Errorf("%s: sector %d has %q, want %q", x.name, i, text[512*i], want)
			}
		}
	}
	if _, _, err := Replay(bytes.NewReader(make([]byte, 512)), nil); err == nil {
		t.Error("an empty log was taken")
	}
}

func TestBoards(t *testing.T) {
	if len(Names()) < 2 {
		t.Errorf("boards %q", Names())
	}
	for _, n := range Names() {
		b, err := ByName(n)
		if err != nil {
			t.Error(err)
			continue
		}
		if b.Arch == "" || b.Model == "" || b.Disk.Device == "" || len(b.Args) < 2 || b.Args[0] != "-M" {
			t.Errorf("%s: %+v", n, b)
		}
		if err := (Tools{t.TempDir()}).Check(b); err == nil {
			t.Errorf("%s: tools were found in an empty folder", n)
		}
	}
	if _, err := ByName("zx81"); err == nil {
		t.Error("there is a zx81")
	}
}
