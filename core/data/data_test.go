package data

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hypnos/core/net"
	"hypnos/core/rng"
)

// member is one file of a made-up source.
type member struct {
	name string
	data []byte
}

// records are CIFAR records with the given labels; pixel p of plane c of record i has the value of pixelOf.
func records(labelBytes int, labels ...byte) []byte {
	var b []byte
	for i, l := range labels {
		if labelBytes == 2 {
			b = append(b, l/5)
		}
		b = append(b, l)
		for c := range 3 {
			for p := range 32 * 32 {
				b = append(b, pixelOf(i, c, p))
			}
		}
	}
	return b
}

func pixelOf(image, channel, pixel int) byte { return byte(image*31 + channel*7 + pixel) }

func cifar10(change func(files []member) []member) []member {
	files := []member{
		{"cifar-10-batches-bin/batches.meta.txt", []byte("airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n")},
		{"cifar-10-batches-bin/data_batch_2.bin", records(1, 3, 4)},
		{"cifar-10-batches-bin/data_batch_1.bin", records(1, 9, 0, 1)},
		{"cifar-10-batches-bin/readme.html", []byte("passed over")},
		{"cifar-10-batches-bin/test_batch.bin", records(1, 5)},
	}
	if change != nil {
		files = change(files)
	}
	return files
}

func encodePNG(m image.Image) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// plain is an image of one colour.
func plain(w, h int, c color.Color) image.Image {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		m.Set(i%w, i/w, c)
	}
	return m
}

func grey(w, h int, v uint8) image.Image {
	m := image.NewGray(image.Rect(0, 0, w, h))
	for i := range m.Pix {
		m.Pix[i] = v
	}
	return m
}

func folderFiles() []member {
	return []member{
		{"set/train/dog/2.png", encodePNG(plain(4, 4, color.RGBA{20, 0, 0, 255}))},
		{"set/train/dog/1.png", encodePNG(plain(4, 4, color.RGBA{10, 0, 0, 255}))},
		{"set/train/cat/deep/folder/1.PNG", encodePNG(grey(4, 4, 77))},
		{"set/train/cat/.hidden.png", []byte("not an image")},
		{"set/val/dog/x.png", encodePNG(plain(4, 4, color.RGBA{1, 2, 3, 255}))},
		{"set/readme.txt", []byte("passed over")},
	}
}

// pack makes a tar archive.
func pack(t *testing.T, files []member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: "./" + f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zip(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sources lays the files out in every form that can be opened, and returns the paths.
func sources(t *testing.T, files []member) []string {
	t.Helper()
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	for _, f := range files {
		path := filepath.Join(folder, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	plain, zipped := filepath.Join(dir, "a.tar"), filepath.Join(dir, "a.tar.gz")
	tarred := pack(t, files)
	for path, data := range map[string][]byte{plain: tarred, zipped: zip(t, tarred)} {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return []string{folder, plain, zipped}
}

func TestCIFAR10(t *testing.T) {
	for _, source := range sources(t, cifar10(nil)) {
		d, err := Open(source, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Name != "CIFAR-10" || len(d.Classes) != 10 || d.Classes[6] != "frog" {
			t.Errorf("%s: %s, classes %v", source, d.Name, d.Classes)
		}
		if !slices.Equal(d.Train.Labels, []int32{9, 0, 1, 3, 4}) || !slices.Equal(d.Test.Labels, []int32{5}) {
			t.Errorf("%s: labels %v, %v", source, d.Train.Labels, d.Test.Labels)
		}
		compared := 0
		for i, record := range []int{0, 1, 2, 0, 1} { // place in its file
			for p := range 32 * 32 {
				for c := range 3 {
					if got, want := d.Train.Image(i)[3*p+c], pixelOf(record, c, p); got != want {
						t.Fatalf("%s: image %d pixel %d channel %d = %d, want %d", source, i, p, c, got, want)
					}
					compared++
				}
			}
		}
		if compared != 5*3072 {
			t.Errorf("%d pixels compared", compared)
		}
	}
}

func TestCIFAR100(t *testing.T) {
	files := []member{{"cifar-100-binary/train.bin", records(2, 99, 3)}, {"cifar-100-binary/test.bin", records(2, 7)}}
	for _, source := range sources(t, files) {
		d, err := Open(source, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if d.Name != "CIFAR-100" || len(d.Classes) != 100 || !slices.Equal(d.Train.Labels, []int32{99, 3}) || !slices.Equal(d.Test.Labels, []int32{7}) {
			t.Errorf("%s: %s, %d classes, labels %v, %v", source, d.Name, len(d.Classes), d.Train.Labels, d.Test.Labels)
		}
		if got, want := d.Train.Image(1)[3*5+2], pixelOf(1, 2, 5); got != want {
			t.Errorf("%s: a pixel is %d, want %d", source, got, want)
		}
	}
}

func TestClassFolders(t *testing.T) {
	for _, source := range sources(t, folderFiles()) {
		for _, workers := range []int{1, 3} {
			d, err := Open(source, Options{Workers: workers})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(d.Classes, []string{"cat", "dog"}) || !slices.Equal(d.Train.Labels, []int32{0, 1, 1}) || !slices.Equal(d.Test.Labels, []int32{1}) {
				t.Errorf("%s: classes %v, labels %v, %v", source, d.Classes, d.Train.Labels, d.Test.Labels)
			}
			for i, want := range [][]uint8{{77, 77, 77}, {10, 0, 0}, {20, 0, 0}} { // the grey one is expanded
				if got := d.Train.Image(i); !slices.Equal(got[:3], want) || !slices.Equal(got[45:], want) {
					t.Errorf("%s: image %d is %v, want all %v", source, i, got, want)
				}
			}
			if got := d.Test.Image(0)[:3]; !slices.Equal(got, []uint8{1, 2, 3}) {
				t.Errorf("%s: test image %v", source, got)
			}
		}
	}
}

// An 8x6 image whose columns tell their number: cutting 4x4 from the centre leaves columns 2 to 5; scaling the shorter
// side, 6, to 4 and cutting leaves a mean of the columns in the middle.
func TestFit(t *testing.T) {
	m := image.NewRGBA(image.Rect(0, 0, 8, 6))
	for i := range 48 {
		m.Set(i%8, i/8, color.RGBA{uint8(i % 8 * 10), uint8(i / 8 * 10), 0, 255})
	}
	open := func(fit Fit) (*Dataset, error) {
		return Read("x", bytes.NewReader(pack(t, []member{{"train/a/1.png", encodePNG(m)}})), Options{Size: 4, Fit: fit, TrainOnly: true})
	}
	if _, err := open(FitExact); err == nil || !strings.Contains(err.Error(), "train/a/1.png: 8x6 pixels, want 4x4") {
		t.Errorf("exact fit of 8x6: %v", err)
	}
	d, err := open(FitCrop)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Train.Image(0); got[0] != 20 || got[1] != 10 || got[45] != 50 || got[46] != 40 {
		t.Errorf("crop: corners %v and %v, want columns 2 and 5, rows 1 and 4", got[:3], got[45:])
	}
	if d, err = open(FitResize); err != nil {
		t.Fatal(err)
	}
	got, mean := d.Train.Image(0), 0.0
	for i := 0; i < len(got); i += 3 {
		mean += float64(got[i]) / 16
	}
	if math.Abs(mean-35) > 1 || !(got[0] > 10 && got[0] < 25) { // columns 1 to 6: mean 35, the first about 10 to 20
		t.Errorf("resize: mean column %g, want 35; pixels %v", mean, got)
	}
	small, err := Read("x", bytes.NewReader(pack(t, []member{{"train/a/1.png", encodePNG(grey(3, 3, 1))}})), Options{Size: 4, Fit: FitCrop, TrainOnly: true})
	if err == nil {
		t.Errorf("a 3x3 image was cut to 4x4: %v", small)
	}
	var f Fit
	if err := f.UnmarshalText([]byte("stretch")); err == nil || !strings.Contains(err.Error(), "known: exact, crop, resize") {
		t.Errorf("fit stretch: %v", err)
	}
}

func TestCorruptImages(t *testing.T) {
	var whole bytes.Buffer
	if err := jpeg.Encode(&whole, plain(4, 4, color.White), nil); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"empty": {}, "text": []byte("hello"), "truncated": whole.Bytes()[:whole.Len()/2],
	} {
		files := append(folderFiles(), member{"set/train/cat/bad.jpg", data})
		source := sources(t, files)[2]
		if _, err := Open(source, Options{}); err == nil || !strings.Contains(err.Error(), "set/train/cat/bad.jpg") || !strings.Contains(err.Error(), source) {
			t.Errorf("%s: error %v does not name source and file", name, err)
		}
		d, err := Open(source, Options{SkipCorrupt: true})
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Skipped) != 1 || !strings.Contains(d.Skipped[0], "bad.jpg") || d.Train.Len() != 3 || d.Train.Labels[2] != 1 || d.Train.Image(1)[0] != 10 {
			t.Errorf("%s: skipped %v, %d images left with labels %v", name, d.Skipped, d.Train.Len(), d.Train.Labels)
		}
	}
}

// A bad source is one line that names the file at fault.
func TestBadSources(t *testing.T) {
	with := func(name string, data []byte) func([]member) []member {
		return func(files []member) []member {
			for i := range files {
				if strings.HasSuffix(files[i].name, name) {
					files[i].data = data
				}
			}
			return files
		}
	}
	without := func(part string) func([]member) []member {
		return func(files []member) []member {
			return slices.DeleteFunc(files, func(f member) bool { return strings.Contains(f.name, part) })
		}
	}
	for _, c := range []struct {
		name  string
		files []member
		o     Options
		want  string
	}{
		{"truncated record", cifar10(with("data_batch_2.bin", records(1, 3)[:3000])), Options{}, "data_batch_2.bin: 3000 bytes are no whole number of CIFAR-10 records of 3073"},
		{"empty file", cifar10(with("data_batch_2.bin", nil)), Options{}, "data_batch_2.bin: 0 bytes"},
		{"label out of range", cifar10(with("data_batch_1.bin", records(1, 1, 10))), Options{}, "data_batch_1.bin: record 1 has label 10"},
		{"no training files", cifar10(without("data_batch")), Options{}, "CIFAR-10 without data_batch_*.bin"},
		{"no test file", cifar10(without("test_batch")), Options{}, "no test images"},
		{"another size", cifar10(nil), Options{Size: 48}, "32x32 pixels, not 48x48"},
		{"both", append(cifar10(nil), folderFiles()...), Options{}, "both CIFAR files and class folders"},
		{"both CIFARs", append(cifar10(nil), member{"train.bin", records(2, 1)}), Options{}, "both CIFAR-10 and CIFAR-100"},
		{"nothing", []member{{"readme.txt", nil}}, Options{}, "no data set found"},
		{"class without training images", append(folderFiles(), member{"set/test/cow/1.png", encodePNG(grey(4, 4, 1))}), Options{}, `set/test/cow/1.png: class "cow" has no training images`},
		{"only test images", []member{{"test/cow/1.png", encodePNG(grey(4, 4, 1))}}, Options{}, "no images below train"},
		{"not square", []member{{"train/a/1.png", encodePNG(grey(4, 3, 1))}}, Options{TrainOnly: true}, "train/a/1.png: 4x3 pixels are not square"},
		{"different sizes", append(folderFiles(), member{"set/train/dog/3.png", encodePNG(grey(5, 5, 1))}), Options{}, "set/train/dog/3.png: 5x5 pixels, want 4x4"},
		{"too large decoded", folderFiles(), Options{Size: 50_000, Fit: FitResize}, "take 30.0 GB decoded"},
	} {
		for _, source := range sources(t, c.files) {
			_, err := Open(source, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), source) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: error %v, want one line with %q and the source", c.name, err, c.want)
			}
		}
	}
	dir := t.TempDir()
	whole := zip(t, pack(t, cifar10(nil)))
	for name, data := range map[string][]byte{
		"truncated.tar.gz": whole[:len(whole)-9], "damaged.tar.gz": append(slices.Clone(whole[:len(whole)-8]), "01234567"...),
		"text.tar": bytes.Repeat([]byte("hello "), 200), "empty.tar": nil,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v does not name the file", name, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "missing"), Options{}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("missing: %v", err)
	}
}

// Mean and standard deviation by hand: channel 0 has 0 and 255, channel 1 only 51, channel 2 0, 0, 0, 255.
func TestComputeStats(t *testing.T) {
	s := &Images{Shape: net.Shape{H: 1, W: 2, C: 3}, Labels: []int32{0, 0}, Pixels: []uint8{0, 51, 0, 255, 51, 0, 0, 51, 0, 255, 51, 255}}
	got := ComputeStats(s)
	want := Stats{Mean: [3]float64{0.5, 0.2, 0.25}, Std: [3]float64{0.5, 0, math.Sqrt(3) / 4}}
	for c := range 3 {
		if !(math.Abs(got.Mean[c]-want.Mean[c]) <= 1e-15) || !(math.Abs(got.Std[c]-want.Std[c]) <= 1e-15) {
			t.Errorf("channel %d: %g ± %g, want %g ± %g", c, got.Mean[c], got.Std[c], want.Mean[c], want.Std[c])
		}
	}
	if err := got.Check(); err == nil || !strings.Contains(err.Error(), "channel 1") {
		t.Errorf("a constant channel can be normalised? %v", err)
	}
}

func TestHoldoutAndLimit(t *testing.T) {
	d := &Dataset{Name: "x", Train: numbered(10, 2), Test: numbered(3, 2)}
	if err := d.Holdout(4, 1); err != nil {
		t.Fatal(err)
	}
	seen := append(slices.Clone(d.Train.Labels), d.Test.Labels...)
	slices.Sort(seen)
	if !slices.Equal(seen, []int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) || d.Test.Len() != 4 {
		t.Errorf("held out %v of %v", d.Test.Labels, seen)
	}
	for i, l := range d.Test.Labels {
		if d.Test.Image(i)[0] != uint8(l) {
			t.Errorf("image %d has another's label", i)
		}
	}
	if err := d.Limit(2, 3); err != nil || d.Train.Len() != 2 || d.Test.Len() != 3 || len(d.Train.Pixels) != 2*12 {
		t.Errorf("limited to %d and %d (%v)", d.Train.Len(), d.Test.Len(), err)
	}
	sorted := &Images{Shape: net.Shape{H: 1, W: 1, C: 3}, Pixels: make([]uint8, 3*9), Labels: []int32{0, 0, 0, 0, 1, 1, 1, 1, 2}}
	few := &Dataset{Name: "y", Train: sorted, Test: sorted}
	if err := few.Limit(5, 7); err != nil || !slices.Equal(few.Train.Labels, []int32{0, 0, 1, 1, 2}) || !slices.Equal(few.Test.Labels, []int32{0, 0, 0, 1, 1, 1, 2}) {
		t.Errorf("limited to labels %v and %v (%v), want all classes", few.Train.Labels, few.Test.Labels, err)
	}
	for _, err := range []error{d.Holdout(2, 1), d.Holdout(0, 1), d.Limit(3, 0), d.Limit(-1, 0), d.Limit(0, 4)} {
		if err == nil {
			t.Error("an impossible split was accepted")
		}
	}
}

// numbered makes images that show their number.
func numbered(n, size int) *Images {
	s := &Images{Shape: net.Shape{H: size, W: size, C: 3}}
	for i := range n {
		for range s.Shape.Len() {
			s.Pixels = append(s.Pixels, uint8(i))
		}
		s.Labels = append(s.Labels, int32(i))
	}
	return s
}

// unit are statistics that leave bytes as they are, divided by 255.
func unit() Stats { return Stats{Std: [3]float64{1, 1, 1}} }

// batch is a copy of a Minibatch.
type batch struct {
	index  int
	pixels []float32
	labels []int32
}

func collect(t *testing.T, l *Loader, epoch, from int) []batch {
	t.Helper()
	if err := l.Check(); err != nil {
		t.Fatal(err)
	}
	var all []batch
	for m := range l.Epoch(context.Background(), epoch, from) {
		if m.X.N != len(m.Labels) || len(m.X.Pixels) != m.X.N*l.Size*l.Size*3 {
			t.Fatalf("batch of %d with %d labels and %d numbers", m.X.N, len(m.Labels), len(m.X.Pixels))
		}
		all = append(all, batch{m.Index, slices.Clone(m.X.Pixels), slices.Clone(m.Labels)})
	}
	return all
}

// An epoch shows every image the given number of times, repetitions next to each other; the last batch is smaller.
func TestEpochShowsEveryImage(t *testing.T) {
	for _, reps := range []int{1, 2, 4} {
		l := &Loader{Images: numbered(10, 2), Size: 2, Batch: 4, Reps: reps, Stats: unit(), Seed: 3}
		var labels []int32
		for i, b := range collect(t, l, 0, 0) {
			if b.index != i {
				t.Errorf("batch %d has index %d", i, b.index)
			}
			if len(b.labels) != min(4, 10*reps-4*i) {
				t.Errorf("batch %d has %d images", i, len(b.labels))
			}
			labels = append(labels, b.labels...)
			for j, l := range b.labels {
				if want := float32(float64(l) / 255); b.pixels[j*12] != want {
					t.Errorf("an image of class %d shows %g, want %g", l, b.pixels[j*12], want)
				}
			}
		}
		if len(labels) != 10*reps {
			t.Fatalf("%d repetitions: %d images shown", reps, len(labels))
		}
		for i, v := range labels {
			if v != labels[i/reps*reps] {
				t.Errorf("%d repetitions: %v are not next to each other", reps, labels)
				break
			}
		}
		distinct := slices.Compact(slices.Clone(labels))
		slices.Sort(distinct)
		if len(slices.Compact(distinct)) != 10 {
			t.Errorf("%d repetitions: only %d images shown", reps, len(distinct))
		}
		if got := (10*reps + 3) / 4; l.Batches() != got {
			t.Errorf("%d batches, want %d", l.Batches(), got)
		}
	}
}

// The batches are the same whatever the number of workers, and entering an epoch later gives what comes there;
// epochs and seeds differ.
func TestEpochIsAFunctionOfSeedAndEpoch(t *testing.T) {
	loader := func(workers, ahead int, seed uint64) *Loader {
		return &Loader{Images: numbered(50, 6), Size: 5, Batch: 4, Reps: 2, Augment: Augment{Pad: 2, Flip: true}, Stats: unit(), Seed: seed, Workers: workers, Ahead: ahead}
	}
	want := fmt.Sprint(collect(t, loader(1, 1, 7), 3, 0))
	for _, workers := range []int{1, 2, 5} {
		for _, ahead := range []int{0, 1, 7} {
			if got := fmt.Sprint(collect(t, loader(workers, ahead, 7), 3, 0)); got != want {
				t.Errorf("%d workers, %d ahead: other batches", workers, ahead)
			}
		}
	}
	whole := collect(t, loader(1, 1, 7), 3, 0)
	for _, from := range []int{1, 13, len(whole)} {
		if got, rest := fmt.Sprint(collect(t, loader(2, 2, 7), 3, from)), fmt.Sprint(whole[from:]); got != rest {
			t.Errorf("from batch %d: other batches", from)
		}
	}
	for _, other := range []string{fmt.Sprint(collect(t, loader(1, 1, 7), 4, 0)), fmt.Sprint(collect(t, loader(1, 1, 8), 3, 0))} {
		if other == want {
			t.Error("another epoch or seed gives the same batches")
		}
	}
}

// Crops, cut out of the images that are kept, are the batches of Epoch to the bit, from any batch on; images of a cache and resized
// crops are not kept.
func TestCropsAreTheBatches(t *testing.T) {
	compared := 0
	for _, c := range []struct {
		size, reps int
		Augment
	}{{6, 1, Augment{}}, {6, 2, Augment{Pad: 2}}, {5, 1, Augment{Flip: true}}, {8, 4, Augment{Pad: 1, Flip: true}}} {
		images := numbered(11, 6)
		for i := range images.Pixels {
			images.Pixels[i] = uint8(rng.New(5, rng.Test, 0).Intn(uint64(i), 256))
		}
		l := &Loader{Images: images, Size: c.size, Batch: 4, Reps: c.reps, Augment: c.Augment, Stats: ComputeStats(images), Seed: 9}
		kept, ok := l.Kept()
		if err := kept.Check(); err != nil || !ok || kept.Len() != 11 {
			t.Fatalf("%d images kept: %v, %v", kept.Len(), ok, err)
		}
		for _, from := range []int{0, 1, l.Batches()} {
			want := collect(t, l, 3, from)
			var got []batch
			for m := range l.Crops(context.Background(), 3, from) {
				b := batch{m.Index, make([]float32, m.X.N*l.shape().Len()), slices.Clone(m.Labels)}
				for i, crop := range m.Crops {
					kept.Cut(b.pixels[i*l.shape().Len():], l.shape(), crop)
				}
				got = append(got, b)
			}
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%+v from batch %d: other batches", c, from)
			}
			compared += len(got)
		}
	}
	if compared != 2*(3+6+3+11)-4 {
		t.Errorf("%d batches compared", compared)
	}
	stopped, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := &Loader{Images: numbered(9, 2), Size: 2, Batch: 1, Stats: unit()}
	n := 0
	for range l.Crops(stopped, 0, 0) {
		if n++; n == 3 {
			cancel()
		}
	}
	if n != 3 {
		t.Errorf("%d batches after the context ended at 3", n)
	}
	l.Augment.Resized = true
	if _, ok := l.Kept(); ok {
		t.Error("resized crops are kept")
	}
}

// Crops of an image padded with the mean: every offset occurs, what lies outside is 0, flips mirror.
func TestCropsAndFlips(t *testing.T) {
	s := &Images{Shape: net.Shape{H: 3, W: 3, C: 3}, Labels: []int32{0}}
	for p := range 9 {
		s.Pixels = append(s.Pixels, uint8(p+1), uint8(p+1), uint8(p+1))
	}
	l := &Loader{Images: s, Size: 3, Batch: 1000, Reps: 1000, Augment: Augment{Pad: 1, Flip: true}, Stats: unit(), Seed: 1}
	want := map[string]bool{}
	for row := range 3 {
		for col := range 3 {
			for _, mirror := range []bool{false, true} {
				var crop [9]float32
				for i := range 3 {
					for j := range 3 {
						y, x := row+i-1, col+j-1
						to := 3*i + j
						if mirror {
							to = 3*i + 2 - j
						}
						if y >= 0 && y < 3 && x >= 0 && x < 3 {
							crop[to] = float32(float64(3*y+x+1) / 255)
						}
					}
				}
				want[fmt.Sprint(crop)] = true
			}
		}
	}
	if len(want) != 18 {
		t.Fatalf("%d different crops expected", len(want))
	}
	got := map[string]int{}
	b := collect(t, l, 0, 0)[0]
	for i := range 1000 {
		var crop [9]float32
		for p := range crop {
			crop[p] = b.pixels[i*27+3*p]
		}
		got[fmt.Sprint(crop)]++
	}
	for crop, n := range got {
		if !want[crop] {
			t.Fatalf("crop %s is none", crop)
		}
		// 1000/18 = 55.6 expected, standard deviation 7.2: five of them on either side
		if n < 20 || n > 92 {
			t.Errorf("crop %s drawn %d times of 1000", crop, n)
		}
	}
	if len(got) != 18 {
		t.Errorf("%d of 18 crops drawn", len(got))
	}
}

// Normalising is (value/255 - mean)/std, and the mean itself, with which crops are padded, becomes 0.
func TestNormalise(t *testing.T) {
	l := &Loader{Images: numbered(256, 1), Size: 1, Batch: 256, Stats: Stats{Mean: [3]float64{0.2, 0.4, 1}, Std: [3]float64{0.5, 0.25, 1}}}
	n := 0
	for m := range l.InOrder(context.Background()) {
		for i, v := range m.X.Pixels {
			value, c := float64(i/3)/255, i%3
			if want := float32((value - l.Stats.Mean[c]) / l.Stats.Std[c]); v != want {
				t.Errorf("byte %d of channel %d becomes %g, want %g", i/3, c, v, want)
			}
			n++
		}
	}
	if n != 768 {
		t.Errorf("%d values", n)
	}
}

// Evaluation goes through the images in order and cuts from the centre, or pads around it.
func TestInOrder(t *testing.T) {
	for _, c := range []struct{ size, first, last int }{{4, 0, 15}, {2, 5, 10}, {6, -1, -1}} {
		s := &Images{Shape: net.Shape{H: 4, W: 4, C: 3}, Labels: []int32{3, 1, 4, 1, 5}}
		for range s.Labels {
			for p := range 16 {
				s.Pixels = append(s.Pixels, uint8(p), uint8(p), uint8(p))
			}
		}
		l := &Loader{Images: s, Size: c.size, Batch: 2, Reps: 2, Augment: Augment{Pad: 1, Flip: true}, Stats: unit(), Seed: 1, Workers: 2}
		var labels []int32
		for m := range l.InOrder(context.Background()) {
			labels = append(labels, m.Labels...)
			value := func(p int) float32 { return float32(float64(max(0, p)) / 255) }
			if first, last := m.X.Pixels[0], m.X.Pixels[c.size*c.size*3-1]; first != value(c.first) || last != value(c.last) {
				t.Errorf("size %d: corners %g and %g, want pixels %d and %d", c.size, first*255, last*255, c.first, c.last)
			}
		}
		if !slices.Equal(labels, s.Labels) {
			t.Errorf("size %d: labels %v, want %v", c.size, labels, s.Labels)
		}
	}
}

func TestLoaderStops(t *testing.T) {
	l := &Loader{Images: numbered(100, 2), Size: 2, Batch: 1, Stats: unit(), Workers: 3}
	n := 0
	for range l.Epoch(context.Background(), 0, 0) {
		if n++; n == 5 {
			break
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n = 0
	for range l.Epoch(ctx, 0, 0) {
		if n++; n == 5 {
			cancel()
		}
	}
	if n != 5 {
		t.Errorf("%d batches after the context ended at 5", n)
	}
}

// The batch in use and those ahead, pixels and labels.
func TestBufferBytes(t *testing.T) {
	for ahead, want := range map[int]int64{0: 3, 1: 2, 5: 6} {
		l := &Loader{Images: numbered(10, 4), Size: 4, Batch: 8, Stats: unit(), Ahead: ahead}
		if got := l.BufferBytes(); got != want*8*(4*4*3+1)*4 {
			t.Errorf("%d ahead: %d bytes", ahead, got)
		}
	}
}

func TestLoaderRefuses(t *testing.T) {
	good := func() *Loader { return &Loader{Images: numbered(10, 4), Size: 4, Batch: 4, Stats: unit()} }
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Loader)
		want   string
	}{
		{func(l *Loader) { l.Batch = 0 }, "batch size 0"},
		{func(l *Loader) { l.Reps = 3 }, "3 repetitions do not divide a batch of 4"},
		{func(l *Loader) { l.Reps = -1 }, "-1 repetitions"},
		{func(l *Loader) { l.Augment.Pad = -1 }, "padding -1"},
		{func(l *Loader) { l.Size = 5 }, "cannot crop 5x5 from images of 4x4 padded by 0"},
		{func(l *Loader) { l.Images = &Images{} }, "no images"},
		{func(l *Loader) { l.Augment = Augment{Pad: 1, Resized: true} }, "resized crops do not reach into a padding of 1"},
		{func(l *Loader) { l.Stats.Std[1] = 0 }, "cannot normalise"},
		{func(l *Loader) { l.Stats.Mean[1] = math.NaN() }, "cannot normalise"},
	} {
		l := good()
		c.change(l)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
	}
}

// FuzzRead: no archive makes the reader panic, and what it accepts is consistent.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range folderFiles() {
		w.WriteHeader(&tar.Header{Name: m.name, Mode: 0o644, Size: int64(len(m.data))})
		w.Write(m.data)
	}
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Read("fuzz", io.LimitReader(bytes.NewReader(data), 1<<20), Options{TrainOnly: true, SkipCorrupt: true, Size: 8, Fit: FitResize})
		if err != nil {
			return
		}
		if d.Train.Len() == 0 || len(d.Train.Pixels) != d.Train.Len()*d.Train.Shape.Len() {
			t.Errorf("%d images with %d bytes", d.Train.Len(), len(d.Train.Pixels))
		}
		for _, l := range d.Train.Labels {
			if int(l) >= len(d.Classes) || l < 0 {
				t.Errorf("label %d of %d classes", l, len(d.Classes))
			}
		}
	})
}

// BenchmarkEpoch is the throughput of the pipeline on one worker: images of 32 pixels, padding 4, batches of 128.
func BenchmarkEpoch(b *testing.B) {
	l := &Loader{Images: numbered(200, 32), Size: 32, Batch: 128, Augment: Augment{Pad: 4}, Stats: unit()}
	for b.Loop() {
		for range l.Epoch(context.Background(), 0, 0) {
		}
	}
	b.ReportMetric(float64(b.N*200)/b.Elapsed().Seconds(), "images/s")
}
