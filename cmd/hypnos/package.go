package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"hypnos/backends/fixed"
	"hypnos/bench/experiment"
	"hypnos/board"
	"hypnos/core"
	"hypnos/core/data"
	"hypnos/core/edge"
	corefixed "hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/train"
)

func packageCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "package", "-m CHECKPOINT -o PACKAGE [flags]", `
Makes an edge package of a checkpoint: batch norm folded into the layers before it, ranges of activations measured on
training images, weights and activations as integers (docs/EDGE.md). Prints each layer's number formats and how far its
output is from float on calibration images. Layers whose weights are all shared, after an instant sleep, are stored once a group.

Boards take packages signed by a key that they trust, of a version above those that they had (hypnos keygen makes keys). Of an
edge package, as hypnos pull brings one, only the version, the boards, the golden vectors and the signature are made anew.

Examples:
  hypnos package -m runs/sample-resnet8-lc-ws10/checkpoint.safetensors -o edge.hyp
  hypnos package -m a.safetensors --calibrate cifar-10-binary.tar.gz --images 512 --test -o edge.hyp
  hypnos package -m a.safetensors --int8 --json report.json -o edge.hyp
  hypnos package -m a.safetensors --version 4 --sign maker.key --boards raspberry-pi-4,raspberry-pi-5 -o edge.hyp
  hypnos package -m learned.hyp --version 5 --sign maker.key -o edge.hyp`)
	o := packager{console: c}
	f.StringVar(&o.checkpoint, "m", "", "checkpoint `file`")
	f.StringVar(&o.out, "o", "", "package `file` to write")
	f.StringVar(&o.source, "calibrate", "", "folder or archive of images, whose training images calibrate (default: the checkpoint's)")
	f.IntVar(&o.images, "images", 256, "calibration `images`, the first of every class")
	f.IntVar(&o.batch, "batch", 64, "images a batch")
	f.IntVar(&o.convert.Bits, "bits", edge.ActivationBits, "bits of activations beside the sign")
	f.Float64Var(&o.convert.Headroom, "headroom", edge.Headroom, "`factor` by which activations may outgrow their range")
	f.BoolVar(&o.convert.Int8, "int8", false, "round the weights of each output channel to 8 bits, half the size")
	f.Uint64Var(&o.version, "version", 1, "version `number` of the package")
	keyPath := f.String("sign", "", "`file` of the private key to sign with")
	boards := f.String("boards", "", "`names` of the board profiles that the package is for, with commas (default: all)")
	f.StringVar(&o.backend, "backend", "cpu", "float backend, with settings: cpu, cpu:threads=2, ref")
	f.BoolVar(&o.test, "test", false, "test both, float and integers, on the test images")
	jsonPath := f.String("json", "", "write the report to a `file` as JSON")
	if _, err := f.parse(args); err != nil {
		return err
	}
	switch {
	case o.checkpoint == "":
		return usageError{errors.New("which checkpoint? -m FILE")}
	case o.out == "":
		return usageError{errors.New("which package? -o FILE")}
	case o.images < 1:
		return usageError{fmt.Errorf("%d calibration images are below 1", o.images)}
	case o.convert.Bits < 4 || o.convert.Bits > corefixed.WordBits:
		return usageError{fmt.Errorf("%d bits of activations are outside 4…%d", o.convert.Bits, corefixed.WordBits)}
	case !(o.convert.Headroom >= 0.01 && o.convert.Headroom <= 100):
		return usageError{fmt.Errorf("headroom %g is outside 0.01…100", o.convert.Headroom)}
	}
	var err error
	if o.pack.Key, err = readPrivateKey(*keyPath); err != nil {
		return err
	}
	if o.boards, err = boardNames(*boards); err != nil {
		return usageError{err}
	}
	if isPackage, err := isPackageFile(o.checkpoint); err != nil {
		return err
	} else if isPackage {
		if o.test || *jsonPath != "" || o.source != "" {
			return usageError{errors.New("--test, --json and --calibrate are for a checkpoint, not for a package")}
		}
		return o.renew(ctx)
	}
	r, err := o.run(ctx)
	if err != nil {
		return err
	}
	if err := r.writeText(c.Out); err != nil {
		return err
	}
	if *jsonPath != "" {
		return saveJSON(*jsonPath, r)
	}
	return nil
}

// packager is one run of the command.
type packager struct {
	console
	checkpoint, out, source, backend string
	images, batch                    int
	version                          uint64
	boards                           []string
	pack                             edge.PackOptions
	convert                          edge.ConvertOptions
	test                             bool
}

// packageReport is what the command did.
type packageReport struct {
	Package     string            `json:"package"`
	Network     string            `json:"network"`
	Bytes       int64             `json:"bytes"`
	Digest      string            `json:"digest"`
	Calibration string            `json:"calibration"` // images
	Images      int               `json:"images"`
	Compared    int               `json:"compared"` // images of the differences
	Conversions []edge.Conversion `json:"conversions"`
	Differences []edge.Difference `json:"differences"`
	Float       *train.Eval       `json:"float,omitempty"`
	Integer     *train.Eval       `json:"integer,omitempty"`
}

// comparedImages is how many of the calibration images differences are measured on.
const comparedImages = 64

func (o packager) run(ctx context.Context) (*packageReport, error) {
	k, file, err := experiment.ReadCheckpoint(o.checkpoint)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	n, params, err := edge.Fold(k.Net, &file.Params)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.checkpoint, err)
	}
	d, err := openFor(k, o.source)
	if err != nil {
		return nil, err
	}
	if err := d.Limit(min(o.images, d.Train.Len()), 0); err != nil {
		return nil, err
	}
	float, err := open(o.backend, n, core.Options{MaxBatch: o.batch}, params)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.checkpoint, err)
	}
	defer float.Close()
	images := experiment.TestLoader(d.Train, n, k.Data.Stats, o.batch, k.Config.Data.Workers)
	if err := images.Check(); err != nil {
		return nil, err
	}
	var unread error
	ranges, err := edge.Calibrate(ctx, n, float, batches(ctx, images, d.Train.Len(), &unread))
	if err = cmp.Or(unread, err); err != nil {
		return nil, fmt.Errorf("%s: %w", cmp.Or(o.source, d.Name), err)
	}
	r := &packageReport{Package: o.out, Network: n.Name, Calibration: d.Name, Images: d.Train.Len()}
	converted, conversions, err := edge.Convert(n, params, ranges, o.convert)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.checkpoint, err)
	}
	r.Conversions = conversions
	if converted, err = edge.Consolidate(n, converted); err != nil {
		return nil, err
	}
	m := edge.Manifest{
		Version: o.version, Network: n, Classes: k.Data.Classes, Stats: k.Data.Stats, Boards: o.boards,
		Source:      edge.Source{Checkpoint: filepath.Base(o.checkpoint), Step: k.State.Step, Data: k.Data.Name, Config: k.Config.Text()},
		Calibration: edge.Calibration{Data: d.Name, Images: d.Train.Len(), Bits: o.convert.Bits, Headroom: o.convert.Headroom, Ranges: ranges},
	}
	if err := o.golden(ctx, &m, converted, images); err != nil {
		return nil, err
	}
	if err := edge.WritePackage(o.out, m, converted, o.pack); err != nil {
		return nil, err
	}
	return r, o.measure(ctx, r, float, images, experiment.TestLoader(d.Test, n, k.Data.Stats, o.batch, k.Config.Data.Workers))
}

// Golden vectors of a package: few images, as they are part of it; a step on each changes every layer.
const (
	goldenImages = 4
	goldenRate   = 0.01
	goldenSeed   = 1
)

// golden makes the golden vectors of calibration images.
func (o *packager) golden(ctx context.Context, m *edge.Manifest, converted *model.Params, images *data.Loader) error {
	f, err := edge.FormatsOf(converted)
	if err != nil {
		return err
	}
	params, err := edge.Loadable(m.Network, converted)
	if err != nil {
		return err
	}
	g := edge.Golden{Rate: goldenRate, Seed: goldenSeed}
	e, err := open(fixed.Name, m.Network, g.Options(), params)
	if err != nil {
		return err
	}
	defer e.Close()
	first := *images
	first.Batch = min(goldenImages, images.Images.Len())
	for b := range first.InOrder(ctx) {
		if b.Err != nil {
			return b.Err
		}
		g, o.pack.Golden, err = edge.MakeGolden(ctx, m.Network, f, e, g, b.X, b.Labels)
		m.Golden = &g
		return err
	}
	return context.Cause(ctx)
}

// renew makes a package of a package.
func (o packager) renew(ctx context.Context) error {
	p, err := edge.OpenPackage(o.checkpoint)
	if err != nil {
		return err
	}
	defer p.Close()
	m := p.Manifest
	m.Version, m.Boards = o.version, o.boards
	params, err := p.Params()
	if err != nil {
		return err
	}
	e, err := open(fixed.Name, m.Network, edge.Golden{Rate: goldenRate, Seed: goldenSeed}.Options(), params)
	if err != nil {
		return err
	}
	defer e.Close()
	if m.Golden, o.pack.Golden, err = p.Golden(ctx, e, goldenRate); err != nil {
		return err
	}
	if err := edge.WritePackage(o.out, m, p.Stored(), o.pack); err != nil {
		return err
	}
	_, err = fmt.Fprintf(o.console.Out, "%s: %s, version %d, the parameters of %s: %s\n", o.out, m.Network.Name, m.Version, o.checkpoint, m.Digest)
	return err
}

// boardNames are the names of a list with commas, each of a profile.
func boardNames(list string) ([]string, error) {
	if list == "" {
		return nil, nil
	}
	names := strings.Split(list, ",")
	for _, n := range names {
		if !slices.Contains(board.Names(), n) {
			return nil, fmt.Errorf("no board profile %q (known: %s)", n, strings.Join(board.Names(), ", "))
		}
	}
	return names, nil
}

func isPackageFile(path string) (bool, error) {
	f, err := model.Open(path)
	if err != nil {
		return false, err
	}
	return edge.IsPackage(&f.Params), f.Close()
}

// measure compares what was written with float.
func (o packager) measure(ctx context.Context, r *packageReport, float core.Engine, images, test *data.Loader) error {
	p, err := edge.OpenPackage(o.out)
	if err != nil {
		return err
	}
	defer p.Close()
	st, err := os.Stat(o.out)
	if err != nil {
		return err
	}
	r.Bytes, r.Digest = st.Size(), p.Manifest.Digest
	params, err := p.Params()
	if err != nil {
		return err
	}
	n := p.Manifest.Network
	integer, err := open(fixed.Name, n, core.Options{MaxBatch: o.batch}, params)
	if err != nil {
		return err
	}
	defer integer.Close()
	r.Compared = min(comparedImages, images.Images.Len())
	var unread error
	r.Differences, err = edge.Compare(ctx, n, p.Manifest.Formats, float, integer, batches(ctx, images, r.Compared, &unread))
	if err = cmp.Or(unread, err); err != nil || !o.test {
		return err
	}
	if err := test.Check(); err != nil {
		return err
	}
	inFloat, err := train.Evaluate(ctx, float, test)
	if err != nil {
		return err
	}
	inIntegers, err := train.Evaluate(ctx, integer, test)
	r.Float, r.Integer = &inFloat, &inIntegers
	return err
}

// batches are the first images of a loader, up to one that cannot be read, which failed then says.
func batches(ctx context.Context, l *data.Loader, images int, failed *error) iter.Seq[core.Batch] {
	return func(yield func(core.Batch) bool) {
		for m := range l.InOrder(ctx) {
			if *failed = m.Err; m.Err != nil {
				return
			}
			x := m.X
			x.N = min(x.N, images)
			x.Pixels = x.Pixels[:len(x.Pixels)/m.X.N*x.N]
			if images -= x.N; x.N == 0 || !yield(x) {
				return
			}
		}
	}
}

func (r *packageReport) writeText(w io.Writer) error {
	fmt.Fprintf(w, "%s: %s, calibrated on %d images of %s\n", r.Package, r.Network, r.Images, r.Calibration)
	weights := map[string]edge.Conversion{}
	for _, v := range r.Conversions {
		weights[v.Layer] = v
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "layer\tinput\tweights\toutput\tsums\tlargest error\trms error\trelative\tsaturated\t\n")
	for _, d := range r.Differences {
		v, ok := weights[d.Layer]
		if !ok {
			continue
		}
		sums := "int32"
		if !v.Narrow {
			sums = "int64"
		}
		fmt.Fprintf(t, "%s\t%v\t%v\t%v\t%s\t%.3g\t%.3g\t%.5f\t%d\t\n", d.Layer, v.Input, v.Weights, v.Output, sums, d.Largest, d.RMS, d.RMS/d.Signal, d.Saturated)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	outputs, saturated := int64(0), int64(0)
	for _, d := range r.Differences {
		outputs, saturated = outputs+d.Outputs, saturated+d.Saturated
	}
	fmt.Fprintf(w, "errors against float on %d calibration images, those of the layers before included; of all %d outputs %d at an end of their range\n", r.Compared, outputs, saturated)
	for _, v := range r.Conversions {
		if v.Why != "" {
			fmt.Fprintf(w, "%s: sums take int64: %s\n", v.Layer, v.Why)
		}
	}
	if r.Float != nil {
		fmt.Fprintf(w, "test: top-1 %.2f%% in float, %.2f%% in integers (%d images)\n", 100*r.Float.Top1, 100*r.Integer.Top1, r.Float.Images)
	}
	_, err := fmt.Fprintf(w, "%.2f MB, parameters %s\n", float64(r.Bytes)/1e6, r.Digest)
	return err
}
