package data

import (
	"encoding/binary"
	"maps"
	"math"
	"os"
	"strings"
	"testing"
)

// What scipy wrote (testdata/meta.py).
func TestSynsetsOfSciPy(t *testing.T) {
	file, err := os.ReadFile("testdata/meta.mat")
	if err != nil {
		t.Fatal(err)
	}
	got, err := wnids(file)
	want := map[int]string{3: "n00000001", 1: "n00000002", 2: "n00000003", 4: "n00000009"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	for n := range file {
		if _, err := wnids(file[:n]); err == nil || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%d of %d bytes: %v", n, len(file), err)
		}
	}
}

// matWriter writes elements as MATLAB does: short ones in their tag, numbers in the smallest type that holds them.
type matWriter struct{ binary.AppendByteOrder }

func (w matWriter) element(kind uint32, data ...byte) []byte {
	if len(data) > 0 && len(data) <= 4 {
		return append(w.AppendUint32(nil, uint32(len(data))<<16|kind), append(data, make([]byte, 4-len(data))...)...)
	}
	b := append(w.AppendUint32(w.AppendUint32(nil, kind), uint32(len(data))), data...)
	return append(b, make([]byte, (8-len(b)%8)%8)...)
}

// array is of dimensions rows x columns.
func (w matWriter) array(class, rows, columns uint32, name string, values []byte) []byte {
	b := w.element(miUINT32, w.AppendUint32(w.AppendUint32(nil, class), 0)...)
	b = append(b, w.element(miINT32, w.AppendUint32(w.AppendUint32(nil, rows), columns)...)...)
	b = append(b, w.element(miINT8, []byte(name)...)...)
	return w.element(miMATRIX, append(b, values...)...)
}

func (w matWriter) file(mark string, arrays ...[]byte) []byte {
	b := append(make([]byte, 126), mark...)
	for _, a := range arrays {
		b = append(b, a...)
	}
	return b
}

// synsets are two structures, whose numbers and texts are given as elements.
func (w matWriter) synsets(numbers, texts [2][]byte) []byte {
	const length = 32
	names := make([]byte, 2*length)
	copy(names, "WNID")
	copy(names[length:], "ILSVRC2012_ID")
	b := append(w.element(miINT32, w.AppendUint32(nil, length)...), w.element(miINT8, names...)...)
	for i := range 2 {
		b = append(b, w.array(mxCHAR, 1, 9, "", texts[i])...)
		b = append(b, w.array(6, 1, 1, "", numbers[i])...) // mxDOUBLE
	}
	return w.array(mxSTRUCT, 2, 1, "synsets", b)
}

func TestSynsetsInEveryType(t *testing.T) {
	for _, c := range []struct {
		mark  string
		order binary.AppendByteOrder
	}{{"IM", binary.LittleEndian}, {"MI", binary.BigEndian}} {
		w := matWriter{c.order}
		double := w.AppendUint64(nil, math.Float64bits(1000))
		var units []byte
		for _, r := range "n00000007" {
			units = w.AppendUint16(units, uint16(r))
		}
		plain := []byte("n00000008")
		read := 0
		for _, number := range [][]byte{
			w.element(miUINT16, w.AppendUint16(nil, 1000)...), w.element(miINT16, w.AppendUint16(nil, 1000)...),
			w.element(miINT32, w.AppendUint32(nil, 1000)...), w.element(miUINT32, w.AppendUint32(nil, 1000)...), w.element(miDOUBLE, double...),
		} {
			for _, texts := range [][2][]byte{
				{w.element(miUINT16, units...), w.element(miUTF8, plain...)}, {w.element(miUTF16, units...), w.element(miINT8, plain...)},
			} {
				other := w.array(6, 1, 1, "other", w.element(miUINT8, 5))
				got, err := wnids(w.file(c.mark, other, w.synsets([2][]byte{number, w.element(miUINT8, 200)}, texts)))
				if want := map[int]string{1000: "n00000007", 200: "n00000008"}; err != nil || !maps.Equal(got, want) {
					t.Errorf("%s: %v, %v, want %v", c.mark, got, err, want)
				}
				read++
			}
		}
		if read != 10 {
			t.Errorf("%d files read", read)
		}
	}
}

func TestBadSynsets(t *testing.T) {
	w := matWriter{binary.LittleEndian}
	one, text := w.element(miUINT8, 1), w.element(miUTF8, []byte("n00000008")...)
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"text", []byte("# meta"), "shorter than its header"},
		{"no mark", make([]byte, 200), "byte order"},
		{"no synsets", w.file("IM", w.array(6, 1, 1, "x", one)), "no array synsets"},
		{"numbers", w.file("IM", w.array(6, 1, 1, "synsets", one)), "no array of structures"},
		{"twice", w.file("IM", w.synsets([2][]byte{one, one}, [2][]byte{text, text})), "ILSVRC2012_ID 1 is there twice"},
		{"a half", w.file("IM", w.synsets([2][]byte{w.element(miDOUBLE, w.AppendUint64(nil, math.Float64bits(0.5))...), one}, [2][]byte{text, text})),
			"synset 1, ILSVRC2012_ID: 0.5 is no whole number"},
		{"number as text", w.file("IM", w.synsets([2][]byte{one, w.element(miUINT8, 2)}, [2][]byte{text, w.element(miDOUBLE, make([]byte, 8)...)})),
			"synset 2, WNID: text of type 9"},
	} {
		if _, err := wnids(c.file); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func FuzzSynsets(f *testing.F) {
	file, err := os.ReadFile("testdata/meta.mat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	w := matWriter{binary.LittleEndian}
	one, text := w.element(miUINT8, 1), w.element(miUTF8, []byte("n00000008")...)
	f.Add(w.file("IM", w.synsets([2][]byte{one, w.element(miUINT8, 2)}, [2][]byte{text, text})))
	f.Fuzz(func(t *testing.T, file []byte) {
		got, err := wnids(file)
		for id, wnid := range got {
			if err != nil || id == 0 || wnid == "" {
				t.Errorf("%d %q, %v", id, wnid, err)
			}
		}
	})
}
