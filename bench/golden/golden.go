// Package golden keeps what a backend computed in a file, so that other backends, elsewhere and later, are compared with it: a
// GPU's numbers with those of a workstation without one, a workstation's with those of a board.
//
// A golden file holds all that a comparison of bench/equivalence needs: network, integer parameters, images and labels, the
// script (learning steps at batch 1, sleeps, rates, seed), and the answers of the backend to everything that was asked of it:
// logits, every layer's activations and gradients, weights after steps and after sleeps, reports. Read again, it is a
// backend whose engine replays the answers, so that checking a backend is a run of bench/equivalence against it, with all its
// bounds. The file is a safetensors file; what was asked, and on which device, is in its metadata.
package golden

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"hypnos/bench/equivalence"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/sleep"
)

// FileFormat is the version of the file's meaning.
const FileFormat = 1

const (
	manifestKey  = "hypnos.golden"
	paramsPrefix = "params/"
	stepPixels   = "steps/pixels"
	testPixels   = "test/pixels"
)

// Manifest is what a golden file says of itself.
type Manifest struct {
	Format  int       `json:"format"` // FileFormat
	Program string    `json:"program"`
	Date    time.Time `json:"date"`
	Backend string    `json:"backend"` // as it was opened
	Numbers string    `json:"numbers"` // core.Caps.Format
	Notes   []string  `json:"notes"`   // what the backend says of its device, kernels and threads
	Origin  string    `json:"origin"`  // of the parameters
	Data    string    `json:"data"`

	Network    *net.Network `json:"network"`
	Steps      int          `json:"steps"`
	Every      int          `json:"sleep_every"`
	Check      int          `json:"checked_steps"`
	Rate       float64      `json:"rate"`
	Seed       uint64       `json:"seed"`
	Sleep      sleep.Spec   `json:"sleep"`
	Border     sleep.Border `json:"border"`
	StepLabels []int32      `json:"step_labels"`
	Test       TestImages   `json:"test"`
	Answers    []answer     `json:"answers"`
}

// TestImages are the images that are classified before and after.
type TestImages struct {
	Shape  net.Shape  `json:"shape"` // of the images, from whose centre the network's input is cut
	Labels []int32    `json:"labels"`
	Batch  int        `json:"batch"`
	Stats  data.Stats `json:"stats"`
}

// Record runs the script of o on a subject, beside the reference backend, and writes the golden file at path, whole or not at
// all. A subject that is not equivalent to the reference is an error, and nothing is written. The manifest comes with
// Program, Date, Origin, Data and Sleep, of which o.Phase must have been made; the rest is set here.
func Record(ctx context.Context, path string, s, reference equivalence.Subject, o equivalence.Options, m Manifest) (*equivalence.Result, error) {
	caps := s.Backend.Caps()
	m.Format, m.Backend, m.Numbers, m.Notes = FileFormat, s.Name, caps.Format, caps.Notes
	m.Network, m.Steps, m.Every, m.Check = o.Net, o.Steps, o.Every, o.Check
	m.Rate, m.Seed, m.Border = o.Rate, o.Seed, o.Phase.Border
	images := o.Test.Images
	m.Test = TestImages{Shape: images.Shape, Labels: images.Labels, Batch: o.Test.Batch, Stats: o.Test.Stats}

	t := &tape{params: &model.Params{}}
	if o.Feed == nil {
		o.Feed = o.Images(ctx)
	}
	var pixels []float32
	for _, b := range o.Feed {
		pixels = append(pixels, b.X.Pixels...)
		m.StepLabels = append(m.StepLabels, b.Labels...)
	}
	r, err := equivalence.Run(ctx, []equivalence.Subject{{Name: s.Name, Backend: recorder{s.Backend, t}}, reference}, o, func(string) {})
	if err != nil {
		return nil, err
	}
	if err := r.Err(); err != nil {
		return r, fmt.Errorf("golden: %s is not what it is to be recorded as: %w", s.Name, err)
	}
	m.Answers = t.answers
	in := o.Net.Input()
	all := &model.Params{}
	all.Add(model.NewTensor(stepPixels, []int{len(o.Feed), in.H, in.W, in.C}, pixels))
	bytes := make([]float32, len(images.Pixels)) // 0 to 255, which safetensors files need not hold as bytes
	for i, v := range images.Pixels {
		bytes[i] = float32(v)
	}
	all.Add(model.NewTensor(testPixels, []int{images.Len(), images.Shape.H, images.Shape.W, images.Shape.C}, bytes))
	for tensor, err := range o.Params.All() {
		if err != nil {
			return nil, fmt.Errorf("golden: %w", err)
		}
		tensor.Name = paramsPrefix + tensor.Name
		all.Add(tensor)
	}
	for tensor, err := range t.params.All() {
		if err != nil {
			return nil, fmt.Errorf("golden: %w", err)
		}
		all.Add(tensor)
	}
	for key, v := range o.Params.Meta {
		all.SetMeta(key, v)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("golden: %w", err)
	}
	all.SetMeta(manifestKey, string(text))
	return r, model.Save(path, all)
}

// File is an open golden file.
type File struct {
	Manifest Manifest
	file     *model.File
}

// Open opens a golden file and checks that everything that the manifest speaks of is there. Close it after use.
func Open(path string) (*File, error) {
	file, err := model.Open(path)
	if err != nil {
		return nil, err
	}
	f := &File{file: file}
	if err := f.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("golden: %s: %w", path, err), file.Close())
	}
	return f, nil
}

func (f *File) read() error {
	text, ok := f.file.Meta[manifestKey]
	if !ok {
		return errors.New("not a golden file")
	}
	if err := json.Unmarshal([]byte(text), &f.Manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	m := &f.Manifest
	switch {
	case m.Format != FileFormat:
		return fmt.Errorf("format %d, this program reads %d", m.Format, FileFormat)
	case m.Network == nil:
		return errors.New("the manifest has no network")
	case len(m.StepLabels) != m.Steps:
		return fmt.Errorf("%d labels for %d steps", len(m.StepLabels), m.Steps)
	}
	in, s := m.Network.Input(), m.Test.Shape
	if err := f.file.Check(stepPixels, []int{m.Steps, in.H, in.W, in.C}); err != nil {
		return err
	}
	if err := f.file.Check(testPixels, []int{len(m.Test.Labels), s.H, s.W, s.C}); err != nil {
		return err
	}
	for _, a := range m.Answers {
		for _, name := range a.Tensors {
			if !f.file.Has(a.tensor(name)) {
				return fmt.Errorf("no tensor %q", a.tensor(name))
			}
		}
	}
	return nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Options are those of a comparison with the file's backend.
func (f *File) Options() (equivalence.Options, error) {
	m := f.Manifest
	o := equivalence.Options{Net: m.Network, Params: &model.Params{}, Steps: m.Steps, Every: m.Every, Check: m.Check, Rate: m.Rate, Seed: m.Seed}
	phase, err := m.Sleep.Stream()
	if err != nil {
		return o, fmt.Errorf("golden: %w", err)
	}
	o.Phase = phase
	o.Phase.Border = m.Border
	for key, v := range f.file.Meta {
		if key != manifestKey {
			o.Params.SetMeta(key, v)
		}
	}
	for _, info := range f.file.Infos() {
		if name, ok := strings.CutPrefix(info.Name, paramsPrefix); ok {
			o.Params.AddLazy(model.Info{Name: name, DType: info.DType, Shape: info.Shape}, func() (model.Tensor, error) {
				t, err := f.file.Get(info.Name)
				t.Name = name
				return t, err
			})
		}
	}
	pixels, err := f.file.Get(stepPixels)
	if err != nil {
		return o, err
	}
	x, err := pixels.Float32s()
	if err != nil {
		return o, err
	}
	n := m.Network.Input().Len()
	for i, label := range m.StepLabels {
		o.Feed = append(o.Feed, data.Minibatch{Index: i, X: core.Batch{N: 1, Pixels: x[i*n : (i+1)*n]}, Labels: core.Labels{label}})
	}
	images := &data.Images{Shape: m.Test.Shape, Labels: m.Test.Labels}
	t, err := f.file.Get(testPixels)
	if err != nil {
		return o, err
	}
	bytes, err := t.Float32s()
	if err != nil {
		return o, err
	}
	for i, v := range bytes {
		if !(v >= 0 && v <= 255) {
			return o, fmt.Errorf("golden: tensor %q: element %d, %g, is outside 0…255", testPixels, i, v)
		}
		images.Pixels = append(images.Pixels, uint8(v))
	}
	o.Test = &data.Loader{Images: images, Size: m.Network.Input().H, Batch: m.Test.Batch, Stats: m.Test.Stats}
	return o, nil
}

// Subject is the file's backend, whose engine gives the answers that it gave.
func (f *File) Subject() equivalence.Subject {
	return equivalence.Subject{Name: "golden " + f.Manifest.Backend, Backend: replayer{f}}
}

// Check compares backends with the file's.
func (f *File) Check(ctx context.Context, subjects []equivalence.Subject, progress func(string)) (*equivalence.Result, error) {
	o, err := f.Options()
	if err != nil {
		return nil, err
	}
	return equivalence.Run(ctx, append([]equivalence.Subject{f.Subject()}, subjects...), o, progress)
}

// WriteText says what the file holds.
func (f *File) WriteText(w io.Writer) error {
	m := f.Manifest
	_, err := fmt.Fprintf(w, "golden file of %s (%s), %s, %s\n%s (%s); %d steps, %s sleep every %d, seed %d\n",
		m.Backend, m.Numbers, m.Program, m.Date.Format(time.DateOnly), m.Network.Name, m.Origin, m.Steps, m.Sleep.Rule, m.Every, m.Seed)
	for _, note := range m.Notes {
		if err == nil {
			_, err = fmt.Fprintf(w, "  %s\n", note)
		}
	}
	return err
}
