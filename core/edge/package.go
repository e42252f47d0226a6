package edge

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
)

// FileFormat is the version of the package file's meaning.
const FileFormat = 1

// Metadata of a package file. Beside these there may be a signature (sign.go), and nothing else.
const (
	manifestKey  = "hypnos.package"
	manifestHash = "hypnos.package.sha256"
)

// Manifest is what a package file says of itself. A reader refuses fields that it does not know: what a package asks of
// the runtime is not to be overlooked.
type Manifest struct {
	Format  int          `json:"format"`  // FileFormat
	Version uint64       `json:"version"` // of the package, counted by whoever makes them
	Network *net.Network `json:"network"` // folded
	Formats Formats      `json:"formats"` // with the arithmetic profile
	// Classes name the outputs; Stats normalise pixels.
	Classes     []string    `json:"classes"`
	Stats       data.Stats  `json:"stats"`
	Source      Source      `json:"source"`
	Calibration Calibration `json:"calibration"`
	// Boards are the classes of boards that the package is for, names of profiles; empty is all. MinRuntime is the least Runtime
	// that it needs.
	Boards     []string `json:"boards,omitempty"`
	MinRuntime int      `json:"min_runtime,omitempty"`
	Golden     *Golden  `json:"golden,omitempty"`
	// Tensors are those of the file in their order, Digest is that of the parameters (see the function). WritePackage
	// sets both.
	Tensors []TensorRecord `json:"tensors"`
	Digest  string         `json:"digest"`
}

// Source says where a package comes from.
type Source struct {
	Checkpoint string `json:"checkpoint"` // file name
	Step       int64  `json:"step"`       // learning steps taken
	Data       string `json:"data"`       // what the network was trained on
	Config     string `json:"config"`     // the run's configuration, TOML
}

// Calibration says what the ranges of activations were measured on.
type Calibration struct {
	Data     string  `json:"data"`
	Images   int     `json:"images"`
	Bits     int     `json:"bits"` // of activations
	Headroom float64 `json:"headroom"`
	Ranges   Ranges  `json:"ranges"`
}

// TensorRecord describes a tensor of the file; SHA256 is that of its bytes.
type TensorRecord struct {
	Name   string      `json:"name"`
	DType  model.DType `json:"dtype"`
	Shape  []int       `json:"shape"`
	SHA256 string      `json:"sha256"`
}

// Package is an open package file.
type Package struct {
	Head
	stored *model.Params
	golden *GoldenTensors // nil without
	file   *model.File
}

// WritePackage writes integer parameters, in the form that they are in, as a package file that appears whole or not at
// all. See Pack.
func WritePackage(path string, m Manifest, p *model.Params, o PackOptions) error {
	all, err := Pack(m, p, o)
	if err != nil {
		return fmt.Errorf("edge: package %s: %w", path, err)
	}
	return model.Save(path, all)
}

// PackOptions are what a package may have beside manifest and parameters.
type PackOptions struct {
	Key    ed25519.PrivateKey // signs it
	Golden *GoldenTensors     // of the manifest's Golden; both or none
}

// Pack gives the tensors and metadata of a package file of integer parameters. The manifest's format, formats, tensors and
// digest are set from the parameters; what belongs to no layer is left out. The parameters are read three times, a tensor at a
// time, the last time when the file is written.
func Pack(m Manifest, p *model.Params, o PackOptions) (*model.Params, error) {
	params, err := paramsOf(m.Network, p)
	if err != nil {
		return nil, err
	}
	if m.Formats, err = FormatsOf(p); err != nil {
		return nil, err
	}
	all := &model.Params{}
	for _, s := range params {
		s.copy(all, p)
	}
	if o.Golden != nil {
		o.Golden.add(all)
	}
	m.Format, m.Tensors = FileFormat, nil
	for t, err := range all.All() {
		if err != nil {
			return nil, err
		}
		m.Tensors = append(m.Tensors, recordOf(t))
	}
	digest, err := Digest(m.Network, p)
	if err != nil {
		return nil, err
	}
	m.Digest = hex.EncodeToString(digest[:])
	if err := m.check(); err != nil {
		return nil, err
	}
	if err := m.checkGolden(o.Golden); err != nil {
		return nil, err
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	all.SetMeta(manifestKey, string(text))
	all.SetMeta(manifestHash, sha256Hex(text))
	if o.Key != nil {
		sign(all.Meta, o.Key)
	}
	return all, nil
}

func sha256Hex(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func recordOf(t model.Tensor) TensorRecord {
	h := sha256.New()
	writeIntegers(h, t)
	return TensorRecord{t.Name, t.DType, t.Shape, hex.EncodeToString(h.Sum(nil))}
}

// check returns an error that names the first field that is missing or out of range.
func (m Manifest) check() error {
	if m.Network == nil {
		return errors.New("the manifest has no network")
	}
	if classes, err := m.Network.Classes(); err != nil {
		return err
	} else if len(m.Classes) != classes {
		return fmt.Errorf("%d names of classes for %d outputs", len(m.Classes), classes)
	}
	if err := m.Stats.Check(); err != nil {
		return err
	}
	if m.MinRuntime < 0 {
		return fmt.Errorf("a runtime of %d", m.MinRuntime)
	}
	return m.Formats.Check(m.Network)
}

// IsPackage tells whether a file of parameters is an edge package, intact or not.
func IsPackage(p *model.Params) bool { _, ok := p.Meta[manifestKey]; return ok }

// OpenPackage opens a package file and verifies all of it but the signature, for which see Policy: the manifest by its hash,
// profile, formats, types, shapes and every tensor by its hash, and that every number is within its format. It reads the tensors one at a time, and
// again when they are asked for: so an engine that loads them cannot find a fault when it is half done, at the price of
// reading the file twice. Errors are one line and name the file.
func OpenPackage(path string) (*Package, error) {
	f, err := model.Open(path)
	if err != nil {
		return nil, err
	}
	p, err := ReadPackage(&f.Params)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("edge: package %s: %w", path, err)
	}
	p.file = f
	return p, nil
}

// Close closes the file. Its parameters must not be read afterwards.
func (p *Package) Close() error {
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}

// Stored are the parameters in the form in which they lie in the file, with their formats.
func (p *Package) Stored() *model.Params { return p.stored }

// Params are the parameters as an engine takes them (Loadable).
func (p *Package) Params() (*model.Params, error) { return Loadable(p.Manifest.Network, p.stored) }

// ReadPackage is OpenPackage on the parameters of a package file that somebody else opened, and closes.
func ReadPackage(p *model.Params) (*Package, error) {
	head, err := readHead(p.Meta)
	if err != nil {
		return nil, err
	}
	m := head.Manifest
	infos := p.Infos()
	if len(infos) != len(m.Tensors) {
		return nil, fmt.Errorf("%d tensors, the manifest has %d", len(infos), len(m.Tensors))
	}
	stored := &model.Params{}
	for _, i := range infos {
		if isGolden(i.Name) {
			continue
		}
		stored.AddLazy(i, func() (model.Tensor, error) { return p.Get(i.Name) })
	}
	if err := m.Formats.Set(stored); err != nil {
		return nil, err
	}
	params, err := paramsOf(m.Network, stored)
	if err != nil {
		return nil, err
	}
	known := 0
	for _, s := range params {
		known += len(s.parts())
	}
	if known != stored.Len() {
		return nil, fmt.Errorf("%d tensors belong to no layer", stored.Len()-known)
	}
	for i, want := range m.Tensors {
		t, err := p.Get(infos[i].Name)
		if err != nil {
			return nil, err
		}
		if got := recordOf(t); got.Name != want.Name {
			return nil, fmt.Errorf("tensor %q where the manifest has %q", got.Name, want.Name)
		} else if got.DType != want.DType || !slices.Equal(got.Shape, want.Shape) {
			return nil, fmt.Errorf("tensor %q is %s %v, the manifest has %s %v", got.Name, got.DType, got.Shape, want.DType, want.Shape)
		} else if got.SHA256 != want.SHA256 {
			return nil, fmt.Errorf("tensor %q is damaged: its hash is not the manifest's", want.Name)
		}
	}
	for _, s := range params {
		if err := s.checkNumbers(stored); err != nil {
			return nil, err
		}
	}
	golden, err := readGolden(p)
	if err != nil {
		return nil, err
	}
	if err := m.checkGolden(golden); err != nil {
		return nil, err
	}
	return &Package{Head: head, stored: stored, golden: golden}, nil
}

// maxHead bounds the memory that a package takes before its signature has been verified.
const maxHead = 32 << 20

// ReadHead reads a package file up to its tensors, and nothing beyond: what a Policy needs, before anything of the file is
// kept. The bytes are those that were read, size is that of the whole file.
func ReadHead(r io.Reader) (h Head, bytes []byte, size int64, err error) {
	var length [8]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return h, nil, 0, fmt.Errorf("edge: package: %w", err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHead {
		return h, nil, 0, fmt.Errorf("edge: package: a header of %d bytes: no package, or damaged", n)
	}
	bytes = append(length[:], make([]byte, n)...)
	if _, err := io.ReadFull(r, bytes[8:]); err != nil {
		return h, nil, 0, fmt.Errorf("edge: package: %w", err)
	}
	var header struct {
		Meta map[string]string `json:"__metadata__"`
	}
	if err := json.Unmarshal(bytes[8:], &header); err != nil {
		return h, nil, 0, fmt.Errorf("edge: package: header: %w", err)
	}
	if h, err = readHead(header.Meta); err != nil {
		return h, nil, 0, fmt.Errorf("edge: package: %w", err)
	}
	size = int64(len(bytes))
	for _, t := range h.Manifest.Tensors {
		length := int64(t.DType.Size())
		for _, d := range t.Shape {
			if d < 0 || length > maxTensor/max(int64(d), 1) {
				return h, nil, 0, fmt.Errorf("edge: package: tensor %q has the shape %v", t.Name, t.Shape)
			}
			length *= int64(d)
		}
		size += length
	}
	return h, bytes, size, nil
}

// maxTensor bounds the bytes of a package's tensor, so that no size wraps around: a header has no room for 2^22 tensors.
const maxTensor = 1 << 40

// readHead reads a package's metadata.
func readHead(meta map[string]string) (h Head, err error) {
	h.meta, h.Signer = meta, meta[signerKey]
	if h.Manifest, err = readManifest(meta); err != nil {
		return h, err
	}
	h.Counter = Counter{h.Manifest.Version, meta[manifestHash]}
	return h, nil
}

func readManifest(meta map[string]string) (m Manifest, err error) {
	text, ok := meta[manifestKey]
	if !ok {
		return m, errors.New("not an edge package (hypnos package makes one of a checkpoint)")
	}
	if meta[manifestHash] != sha256Hex([]byte(text)) {
		return m, errors.New("the manifest is damaged: its hash is not the file's")
	}
	for key := range meta {
		if !slices.Contains([]string{manifestKey, manifestHash, signatureKey, signerKey}, key) {
			return m, fmt.Errorf("unknown metadata %q", key)
		}
	}
	// What another version means is not to be guessed from fields that this one does not know.
	var head struct {
		Format  int                      `json:"format"`
		Formats struct{ Profile string } `json:"formats"`
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil { // also where something follows the manifest
		return m, fmt.Errorf("manifest: %w", err)
	}
	if head.Format != FileFormat {
		return m, fmt.Errorf("format %d, this program reads %d", head.Format, FileFormat)
	}
	if head.Formats.Profile != Profile {
		return m, fmt.Errorf("arithmetic profile %q, this program has %q", head.Formats.Profile, Profile)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	return m, m.check()
}

// checkNumbers returns an error when the parameter's numbers are outside its format.
func (s param) checkNumbers(p *model.Params) error {
	if s.Role != net.Weight {
		return nil
	}
	limit := int64(s.format.Max())
	parts := s.parts()
	main, err := p.Get(s.Name + parts[0].suffix)
	if err != nil {
		return err
	}
	var shifts []int8
	switch s.form {
	case eight, residual:
		last := s.Name + parts[len(parts)-1].suffix
		t, err := p.Get(last)
		if err != nil {
			return err
		}
		for i, v := range t.Data.([]int8) {
			if v < 0 || v > maxFormShift {
				return fmt.Errorf("tensor %q: shift %d of %d is outside 0…%d", last, v, i, maxFormShift)
			}
		}
		shifts = t.Data.([]int8)
	}
	outside := func(i int, v int64) error {
		return fmt.Errorf("tensor %q: element %d is %d, beyond its format %v", main.Name, i, v, s.format)
	}
	switch d := main.Data.(type) {
	case []int16:
		for i, w := range d {
			if v := int64(w); v > limit || v < -limit {
				return outside(i, v)
			}
		}
	case []int8:
		k := len(d) / rows(s.Param, s.node)
		for i, w := range d {
			if v := int64(w) << shifts[i/k%len(shifts)]; v > limit || v < -limit {
				return outside(i, v)
			}
		}
	}
	return nil
}
