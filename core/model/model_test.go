package model

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// sample holds one tensor of every type that can be held, a scalar, an empty tensor and floats of every kind.
func sample() *Params {
	p := &Params{}
	p.SetMeta("network", `{"name":"x"}`)
	p.SetMeta("step", "42")
	p.Add(NewTensor("f32", []int{2, 3}, []float32{1, -0, float32(math.Inf(1)), float32(math.NaN()), math.MaxFloat32, math.SmallestNonzeroFloat32}))
	p.Add(NewTensor("i8", []int{3}, []int8{-128, 0, 127}))
	p.Add(NewTensor("f64", []int{2, 1, 2}, []float64{math.Pi, math.Inf(-1), math.NaN(), math.SmallestNonzeroFloat64}))
	p.Add(NewTensor("scalar", nil, []int64{math.MinInt64}))
	p.Add(NewTensor("empty", []int{0, 5}, []int32{}))
	p.Add(NewTensor("i16", []int{2}, []int16{-32768, 32767}))
	p.Add(NewTensor("i32", []int{1}, []int32{math.MaxInt32}))
	p.Add(NewTensor("ключ \"q\" 😀", []int{1}, []float32{7}))
	return p
}

func encode(t testing.TB, p *Params) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// equal compares bit by bit, so that NaN equals NaN and -0 differs from 0.
func equal(t *testing.T, got, want *Params) {
	t.Helper()
	if !reflect.DeepEqual(got.Meta, want.Meta) {
		t.Errorf("metadata %v, want %v", got.Meta, want.Meta)
	}
	if got.Len() != want.Len() {
		t.Fatalf("%d tensors, want %d", got.Len(), want.Len())
	}
	for w, err := range want.All() {
		if err != nil {
			t.Fatal(err)
		}
		g, err := got.Get(w.Name)
		if err != nil {
			t.Fatal(err)
		}
		if g.DType != w.DType || fmt.Sprint(g.Shape) != fmt.Sprint(w.Shape) {
			t.Errorf("%s is %s %v, want %s %v", w.Name, g.DType, g.Shape, w.DType, w.Shape)
		}
		var gb, wb bytes.Buffer
		if err := errors.Join(binary.Write(&gb, binary.LittleEndian, g.Data), binary.Write(&wb, binary.LittleEndian, w.Data)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(gb.Bytes(), wb.Bytes()) {
			t.Errorf("%s = %v, want %v", w.Name, g.Data, w.Data)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.safetensors")
	if err := Save(path, sample()); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	equal(t, &f.Params, sample())
	snap, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	equal(t, snap, sample())
	if _, err := f.Get("f32"); err == nil {
		t.Error("a tensor was read from a closed file")
	}
}

// The bytes of a file written by the reference implementation, safetensors 0.8.0 for Python:
// save({"b": float32[[1, 2], [3, 4]], "a": int16[5]}, metadata={"k": "v"}).
func TestReadsReferenceFile(t *testing.T) {
	head := `{"__metadata__":{"k":"v"},"b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"a":{"dtype":"I16","shape":[1],"data_offsets":[16,18]}}`
	head += strings.Repeat(" ", (8-len(head)%8)%8)
	p, err := Read(file18(head))
	if err != nil {
		t.Fatal(err)
	}
	want := &Params{Meta: map[string]string{"k": "v"}}
	want.Add(NewTensor("b", []int{2, 2}, []float32{1, 2, 3, 4}))
	want.Add(NewTensor("a", []int{1}, []int16{5}))
	equal(t, p, want)
}

// file18 is a file of the given header and eighteen bytes of data: float32 1, 2, 3, 4 and int16 5.
func file18(head string) (io.ReaderAt, int64) {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
	b = append(b, head...)
	for _, v := range []float32{1, 2, 3, 4} {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	b = append(b, 5, 0)
	return bytes.NewReader(b), int64(len(b))
}

func TestReadRefuses(t *testing.T) {
	const a, b = `"b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}`, `"a":{"dtype":"I16","shape":[1],"data_offsets":[16,18]}`
	for _, c := range []struct{ name, head, want string }{
		{"no object", `[]`, "does not begin with '{'"},
		{"leading space", ` {` + a + `,` + b + `}`, "does not begin with '{'"},
		{"syntax", `{` + a + `,`, "unexpected end"},
		{"text behind", `{` + a + `,` + b + `} x`, "invalid character"},
		{"not UTF-8", "{" + a + `,"` + "\xff" + `":{"dtype":"I16","shape":[1],"data_offsets":[16,18]}}`, "not UTF-8"},
		{"duplicate tensor", `{` + a + `,` + a + `}`, `"b" occurs twice`},
		{"duplicate field", `{"b":{"dtype":"F32","dtype":"F32","shape":[2,2],"data_offsets":[0,16]},` + b + `}`, `"dtype" occurs twice`},
		{"duplicate metadata", `{"__metadata__":{"k":"v","k":"w"},` + a + `,` + b + `}`, `"k" occurs twice`},
		{"metadata not strings", `{"__metadata__":{"k":1},` + a + `,` + b + `}`, "metadata"},
		{"unknown dtype", `{"b":{"dtype":"F33","shape":[2,2],"data_offsets":[0,16]},` + b + `}`, `unknown dtype "F33"`},
		{"unknown field", `{"b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16],"x":1},` + b + `}`, "4 fields"},
		{"field of another case", `{"b":{"DTYPE":"F32","shape":[2,2],"data_offsets":[0,16]},` + b + `}`, "no dtype"},
		{"no shape", `{"b":{"dtype":"F32","data_offsets":[0,16]},` + b + `}`, "no shape"},
		{"null shape", `{"b":{"dtype":"F32","shape":null,"data_offsets":[0,16]},` + b + `}`, "no shape"},
		{"negative axis", `{"b":{"dtype":"F32","shape":[-2,-2],"data_offsets":[0,16]},` + b + `}`, "negative axis"},
		{"fractional axis", `{"b":{"dtype":"F32","shape":[2.5,2],"data_offsets":[0,16]},` + b + `}`, "shape"},
		{"overflowing shape", `{"b":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]},` + b + `}`, ""},
		{"one offset", `{"b":{"dtype":"F32","shape":[2,2],"data_offsets":[16]},` + b + `}`, "1 data_offsets"},
		{"three offsets", `{"b":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16,18]},` + b + `}`, "3 data_offsets"},
		{"size and shape differ", `{"b":{"dtype":"F32","shape":[2,1],"data_offsets":[0,16]},` + b + `}`, "takes 8 bytes"},
		{"reversed offsets", `{"b":{"dtype":"F32","shape":[2,2],"data_offsets":[16,0]},` + b + `}`, "takes 16 bytes"},
		{"negative offset", `{"b":{"dtype":"F32","shape":[2,2],"data_offsets":[-16,0]},` + b + `}`, "overlap"},
		{"overlap", `{` + a + `,"a":{"dtype":"I16","shape":[2],"data_offsets":[14,18]}}`, "overlap"},
		{"hole", `{` + a + `,"a":{"dtype":"I8","shape":[1],"data_offsets":[17,18]}}`, "belong to no tensor"},
		{"overlong file", `{` + a + `}`, "truncated or overlong"},
		{"truncated file", `{` + a + `,"a":{"dtype":"I16","shape":[2],"data_offsets":[16,20]}}`, "truncated or overlong"},
	} {
		_, err := Read(file18(c.head))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
	}
	for n := range 16 {
		if _, err := Read(bytes.NewReader(make([]byte, n)), int64(n)); err == nil {
			t.Errorf("a file of %d zero bytes was taken", n)
		}
	}
	huge := binary.LittleEndian.AppendUint64(nil, math.MaxUint64)
	if _, err := Read(bytes.NewReader(huge), 8); err == nil || !strings.Contains(err.Error(), "header of") {
		t.Errorf("header of 2^64-1 bytes: %v", err)
	}
}

// Every prefix of a file is refused: there is no truncation that goes unseen.
func TestReadRefusesEveryPrefix(t *testing.T) {
	whole := encode(t, sample())
	for n := range whole {
		if _, err := Read(bytes.NewReader(whole[:n]), int64(n)); err == nil {
			t.Fatalf("the first %d of %d bytes were taken for a file", n, len(whole))
		}
	}
}

func TestCheck(t *testing.T) {
	p := sample()
	if err := p.Check("f32", []int{2, 3}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name  string
		shape []int
		want  string
	}{
		{"nothing", []int{1}, `"nothing" is missing`},
		{"f32", []int{3, 2}, "has shape [2 3], want [3 2]"},
		{"i8", []int{3}, "not a float type"},
	} {
		if err := p.Check(c.name, c.shape); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check(%s, %v): error %v, want one with %q", c.name, c.shape, err, c.want)
		}
	}
}

// Writing must promise and give the same tensor.
func TestWriteRefusesABrokenPromise(t *testing.T) {
	p := &Params{}
	p.AddLazy(Info{"w", F32, []int{2}}, func() (Tensor, error) { return NewTensor("w", []int{3}, make([]float32, 3)), nil })
	if err := Write(io.Discard, p); err == nil || !strings.Contains(err.Error(), "promised") {
		t.Errorf("error %v", err)
	}
}

// faultyFiles fails the n-th operation on the file system, and counts them.
type faultyFiles struct {
	osFiles
	n, at int
}

var errFault = errors.New("no space left on device")

func (f *faultyFiles) fault() error {
	f.n++
	if f.n-1 == f.at {
		return errFault
	}
	return nil
}

func (f *faultyFiles) create(dir, pattern string) (file, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	v, err := f.osFiles.create(dir, pattern)
	return faultyFile{v, f}, err
}

func (f *faultyFiles) rename(from, to string) error {
	if err := f.fault(); err != nil {
		return err
	}
	return f.osFiles.rename(from, to)
}

type faultyFile struct {
	file
	fs *faultyFiles
}

func (f faultyFile) Write(p []byte) (int, error) {
	if err := f.fs.fault(); err != nil {
		n, _ := f.file.Write(p[:len(p)/2])
		return n, err
	}
	return f.file.Write(p)
}

func (f faultyFile) Sync() error {
	if err := f.fs.fault(); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f faultyFile) Close() error {
	err := f.file.Close()
	if fault := f.fs.fault(); fault != nil {
		return fault
	}
	return err
}

// Whatever step of saving fails, the old file survives and no other stays behind.
func TestSaveKeepsTheOldFileWhenAnyStepFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.safetensors")
	if err := Save(path, sample()); err != nil {
		t.Fatal(err)
	}
	other := &Params{}
	other.Add(NewTensor("big", []int{1 << 20}, make([]float32, 1<<20))) // several buffers long
	failed := 0
	for at := 0; ; at++ {
		faulty := &faultyFiles{at: at}
		err := replace(path, func(w io.Writer) error { return Write(w, other) }, faulty)
		if faulty.n <= at {
			if err != nil {
				t.Fatalf("no fault, and yet: %v", err)
			}
			break
		}
		failed++
		if !errors.Is(err, errFault) || !strings.Contains(err.Error(), path) {
			t.Errorf("fault at step %d: error %v", at, err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatalf("fault at step %d: the old file is lost: %v", at, err)
		}
		equal(t, &f.Params, sample())
		f.Close()
		if names, _ := os.ReadDir(dir); len(names) != 1 {
			t.Errorf("fault at step %d leaves %v behind", at, names)
		}
	}
	if failed < 8 { // create, at least four writes of a mebibyte, sync, close, rename
		t.Errorf("only %d steps were made to fail", failed)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	equal(t, &f.Params, other)
}

func TestOpenNamesTheFile(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.safetensors")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{empty, filepath.Join(dir, "missing"), dir} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("Open(%s): error %v does not name the file", path, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file is not recognisable: %v", err)
	}
}

// FuzzRead: whatever the bytes, Read returns an error or parameters that can be read in full, and writing those gives
// a file that reads back equal.
func FuzzRead(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"))
	f.Add([]byte("\x10\x00\x00\x00\x00\x00\x00\x00{\"__metadata__\":{}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		readable := &Params{Meta: p.Meta}
		for _, info := range p.Infos() {
			switch v, err := p.Get(info.Name); info.DType {
			case F64, F32, I64, I32, I16, I8:
				if err != nil {
					t.Fatal(err)
				}
				readable.Add(v)
			default:
				if err == nil {
					t.Fatalf("a tensor of type %s was read", info.DType)
				}
			}
		}
		if len(readable.Meta) == 0 {
			readable.Meta = nil
		}
		again := encode(t, readable)
		back, err := Read(bytes.NewReader(again), int64(len(again)))
		if err != nil {
			t.Fatal(err)
		}
		equal(t, back, readable)
	})
}
