package data

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hypnos/core/data/datatest"
)

// archives are ImageNet's, as tests lay them out.
type archives struct {
	train []datatest.File // n00000001.tar and so on
	val   []datatest.File
	text  map[string]string // other files by name
}

func smallJPEG(w, h int, v uint8) []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, grey(w, h, v), nil); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// smallArchives have two classes of two and one images, and two validation images. The grey of an image tells which one it is.
func smallArchives(t *testing.T) *archives {
	return &archives{
		train: []datatest.File{
			{Name: "n00000002.tar", Content: datatest.Tar(t,
				datatest.File{Name: "n00000002_9.JPEG", Content: smallJPEG(8, 8, 40)}, datatest.File{Name: "n00000002_10.JPEG", Content: smallJPEG(10, 8, 20)})},
			{Name: "n00000001.tar", Content: datatest.Tar(t, datatest.File{Name: "n00000001_1.JPEG", Content: smallJPEG(8, 11, 60)})},
		},
		val: []datatest.File{
			{Name: "ILSVRC2012_val_00000002.JPEG", Content: smallJPEG(8, 8, 80)}, {Name: "ILSVRC2012_val_00000001.JPEG", Content: smallJPEG(8, 8, 100)},
		},
		text: map[string]string{valLabels: "n00000002\nn00000001\n"},
	}
}

// write lays the archives out in a new folder.
func (a *archives) write(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if a.train != nil {
		datatest.Write(t, filepath.Join(folder, trainArchive), datatest.Tar(t, a.train...))
	}
	if a.val != nil {
		datatest.Write(t, filepath.Join(folder, valArchive), datatest.Tar(t, a.val...))
	}
	for name, text := range a.text {
		datatest.Write(t, filepath.Join(folder, name), []byte(text))
	}
	return folder
}

// devkit is a development kit with the given truth; its meta.mat numbers n00000002 as 1 and n00000001 as 3.
func devkit(t *testing.T, truth string) string {
	t.Helper()
	meta, err := os.ReadFile("testdata/meta.mat")
	if err != nil {
		t.Fatal(err)
	}
	const folder = "ILSVRC2012_devkit_t12/data/"
	files := []datatest.File{{Name: folder + metaMat, Content: meta}, {Name: folder + groundTruth, Content: []byte(truth)}}
	return string(zip(t, datatest.Tar(t, files...)))
}

// Whatever says the classes of the validation images, labels are the ranks of the classes' names.
func TestImageNetArchives(t *testing.T) {
	for name, text := range map[string]map[string]string{
		"list of classes":    {valLabels: "n00000002\nn00000001\n\n"},
		"list of images":     {valLabels: "ILSVRC2012_val_00000002.JPEG n00000001\r\nILSVRC2012_val_00000001.JPEG\tn00000002"},
		"development kit":    {devkitArchive: devkit(t, "1\n3\n")},
		"files of no matter": {valLabels: "n00000002\nn00000001\n", "readme.txt": "", "test/x/1.png": "not an image"},
	} {
		a := smallArchives(t)
		a.text = text
		source := a.write(t)
		o := Options{Size: 8, Fit: FitResize, Workers: 2}
		memory, err := Open(source, o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		cached, err := OpenCached(context.Background(), source, t.TempDir(), o, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, d := range []*Dataset{memory, cached} {
			if d.Name != "ImageNet" || !slices.Equal(d.Classes, []string{"n00000001", "n00000002"}) ||
				!slices.Equal(d.Train.Labels, []int32{0, 1, 1}) || !slices.Equal(d.Test.Labels, []int32{0, 1}) {
				t.Errorf("%s: %s, classes %v, labels %v and %v", name, d.Name, d.Classes, d.Train.Labels, d.Test.Labels)
			}
			// In the order of names, text that they are: classes first, then n00000002_10 before _9.
			for part, want := range map[*Images][]uint8{d.Train: {60, 20, 40}, d.Test: {80, 100}} {
				for i := range part.Len() {
					if p, _, err := part.read(i, nil); err != nil || p[0] != want[i] {
						t.Errorf("%s: image %d is of grey %v, want %d (%v)", name, i, p[0], want[i], err)
					}
				}
			}
		}
	}
}

// A data set is the same from archives and from class folders, a cache and what identifies the images too.
func TestImageNetArchivesAreClassFolders(t *testing.T) {
	source := datatest.ImageNet(t, 9, 4, 2)
	unpacked := t.TempDir()
	n, err := openImageNet(context.Background(), source)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	if err := n.walk(func(e entry) error {
		content, err := io.ReadAll(e.r)
		datatest.Write(t, filepath.Join(unpacked, filepath.FromSlash(e.name)), content)
		files++
		return err
	}); err != nil || files != 3*4+3*2 {
		t.Fatalf("%d files: %v", files, err)
	}
	n.close()
	o, cache := Options{Size: 8, Workers: 2}, t.TempDir()
	digests, index := []string{}, []byte(nil)
	for _, from := range []string{unpacked, source, source, unpacked} {
		d, err := OpenCached(context.Background(), from, cache, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		d.Train.Digest(h)
		d.Test.Digest(h)
		digests = append(digests, fmt.Sprintf("%x", h.Sum(nil)))
		text, err := os.ReadFile(filepath.Join(cache, cacheIndex))
		if err != nil {
			t.Fatal(err)
		}
		if index != nil && !bytes.Equal(index, text) {
			t.Errorf("%s was decoded again", from)
		}
		index = text
	}
	if len(slices.Compact(digests)) != 1 {
		t.Errorf("digests differ: %v", digests)
	}
}

// The real images give from archives what they give from their own.
func TestImageNetSampleArchives(t *testing.T) {
	files := sampleFiles(t)
	source := t.TempDir()
	var classes []datatest.File
	for _, name := range slices.Sorted(maps.Keys(files)) {
		class := filepath.Base(filepath.Dir(name))
		classes = append(classes, datatest.File{Name: class + ".tar", Content: datatest.Tar(t, datatest.File{Name: filepath.Base(name), Content: files[name]})})
	}
	datatest.Write(t, filepath.Join(source, trainArchive), datatest.Tar(t, classes...))
	o := Options{Size: 256, TrainOnly: true, Workers: 2}
	var digests []string
	for _, s := range []string{source, imagenetSample} {
		d, err := OpenCached(context.Background(), s, t.TempDir(), o, nil)
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		d.Train.Digest(h)
		digests = append(digests, fmt.Sprintf("%d images %x", d.Train.Len(), h.Sum(nil)))
	}
	if digests[0] != digests[1] || !strings.HasPrefix(digests[0], "36 ") {
		t.Errorf("%v", digests)
	}
}

func TestBadImageNetArchives(t *testing.T) {
	with := func(files []datatest.File, name string, content []byte) []datatest.File {
		return append(slices.Clone(files), datatest.File{Name: name, Content: content})
	}
	image := smallJPEG(8, 8, 1)
	images := func(names ...string) []byte {
		var files []datatest.File
		for _, name := range names {
			files = append(files, datatest.File{Name: name, Content: image})
		}
		return datatest.Tar(t, files...)
	}
	labels := func(text string) func(a *archives) {
		return func(a *archives) { a.text = map[string]string{valLabels: text} }
	}
	kit := func(truth string) func(a *archives) {
		return func(a *archives) { a.text = map[string]string{devkitArchive: devkit(t, truth)} }
	}
	train := func(name string, content []byte) func(a *archives) {
		return func(a *archives) { a.train = with(a.train, name, content) }
	}
	cases := []struct {
		name   string
		change func(a *archives)
		want   string
	}{
		{"no training images", func(a *archives) { a.train = nil }, trainArchive + ": no such file"},
		{"no classes", func(a *archives) { a.train = []datatest.File{} }, trainArchive + ": no classes"},
		{"no validation images", func(a *archives) { a.val = nil }, "no test images (hold some training images out instead)"},
		{"empty validation archive", func(a *archives) { a.val = []datatest.File{} }, valArchive + ": no images"},
		{"class without images", train("n00000003.tar", datatest.Tar(t)), trainArchive + ": n00000003.tar: a class without images"},
		{"class twice", train("n00000001.tar", images("a.JPEG")), trainArchive + ": n00000001.tar: the class is there twice"},
		{"class in a folder twice", train("x/n00000001.tar", images("a.JPEG")), trainArchive + ": n00000001.tar: the class is there twice"},
		{"image twice", train("n00000003.tar", images("a.JPEG", "b.JPEG", "c/a.JPEG")), trainArchive + ": n00000003.tar: a.JPEG: it is there twice"},
		{"image outside of a class", train("a.JPEG", image), trainArchive + ": a.JPEG: not the archive of a class"},
		{"something else in a class", train("n00000003.tar", images("a.JPEG", "readme")), trainArchive + ": n00000003.tar: readme: not an image, by its name"},
		{"class of no archive", train("n00000003.tar", bytes.Repeat([]byte("x"), 2048)), trainArchive + ": n00000003.tar: not a tar archive"},
		{"compressed class", train("n00000003.tar", zip(t, images("a.JPEG"))), trainArchive + ": n00000003.tar: compressed: decompress it"},
		{"class that is cut", train("n00000003.tar", images("a.JPEG", "b.JPEG")[:1300]), trainArchive + ": n00000003.tar: it is cut"},
		{"a class more", train("n00000003.tar", images("a.JPEG")), ""},
		{"unreadable training image", train("n00000003.tar", datatest.Tar(t, datatest.File{Name: "n00000003_7.JPEG", Content: image[:200]})),
			trainArchive + ": n00000003.tar: n00000003_7.JPEG: unexpected EOF"},
		{"unreadable validation image", func(a *archives) { a.val[1].Content = []byte("none") },
			valArchive + ": ILSVRC2012_val_00000001.JPEG: image: unknown format"},
		{"no labels", func(a *archives) { a.text = nil }, valArchive + ": nothing says its images' classes: put " + devkitArchive},
		{"two sources of labels", func(a *archives) { a.text[devkitArchive] = devkit(t, "1\n3\n") },
			"both " + devkitArchive + " and " + valLabels},
		{"too few lines", labels("n00000001\n"), valLabels + ": 1 lines, but " + valArchive + " has 2 images"},
		{"too many lines", labels("n00000001\nn00000001\nn00000002\n"), valLabels + ": 3 lines, but " + valArchive + " has 2 images"},
		{"empty line", labels("n00000001\n\nn00000001\n"), valLabels + ": line 2 is empty"},
		{"no class", labels("n00000001\ncat\n"), valLabels + `: line 2: "cat" is no class`},
		{"class without training images", labels("n00000001\nn00000004\n"), valLabels + `: ILSVRC2012_val_00000002.JPEG: class "n00000004" is none of ` + trainArchive},
		{"mixed lines", labels("n00000001\nx n00000001\n"), valLabels + ": line 2: 2 fields, the lines before have 1"},
		{"boxes", labels("x n00000001 0 0 1 1\n"), valLabels + ": line 1: 6 fields"},
		{"image named twice", labels("ILSVRC2012_val_00000001.JPEG n00000001\nILSVRC2012_val_00000001.JPEG n00000001\n"),
			valLabels + ": line 2: ILSVRC2012_val_00000001.JPEG has a class already"},
		{"image not named", labels("ILSVRC2012_val_00000001.JPEG n00000001\nx.JPEG n00000001\n"),
			valLabels + ": ILSVRC2012_val_00000002.JPEG of " + valArchive + " has no line"},
		{"image without number", func(a *archives) { a.val[0].Name = "x.JPEG" }, valLabels + ": x.JPEG of " + valArchive + ": its name has no number"},
		{"number behind the end", func(a *archives) { a.val[0].Name = "ILSVRC2012_val_00000003.JPEG" },
			valLabels + ": ILSVRC2012_val_00000003.JPEG of " + valArchive + " has no line: there are 2"},
		{"number twice", func(a *archives) { a.val[0].Name = "ILSVRC2012_val_00000001.jpg" },
			valLabels + ": ILSVRC2012_val_00000001.JPEG of " + valArchive + ": another image has its number"},
		{"kit of other identifiers", kit("1\n5\n"), devkitArchive + ": " + groundTruth + `: line 2: "5" is no ILSVRC2012_ID of meta.mat`},
		{"kit of a node above the classes", kit("1\n4\n"), devkitArchive + ": " + groundTruth + `: ILSVRC2012_val_00000002.JPEG: class "n00000009" is none of`},
		{"kit of too few lines", kit("1\n"), devkitArchive + ": " + groundTruth + ": 1 lines, but"},
		{"kit of nothing", func(a *archives) { a.text = map[string]string{devkitArchive: string(datatest.Tar(t))} }, devkitArchive + ": no " + groundTruth + " in it"},
		{"kit that is cut", func(a *archives) { a.text = map[string]string{devkitArchive: devkit(t, "1\n3\n")[:300]} }, "unexpected EOF"},
		{"class folders beside", func(a *archives) { a.text["train/n00000001/1.JPEG"] = string(image) }, "both archives of ImageNet and train/"},
	}
	for _, c := range cases {
		a := smallArchives(t)
		c.change(a)
		source := a.write(t)
		for _, cached := range []bool{false, true} {
			o := Options{Size: 8, Fit: FitResize}
			var err error
			if cached {
				_, err = OpenCached(context.Background(), source, t.TempDir(), o, nil)
			} else {
				_, err = Open(source, o)
			}
			if c.want == "" {
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				continue
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), source) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s, cached %t: got %v, want one line with %q and the source", c.name, cached, err, c.want)
			}
		}
	}
	source := smallArchives(t).write(t)
	for _, c := range []struct {
		source, want string
		o            Options
	}{
		{filepath.Join(source, trainArchive), "name the folder that holds them", Options{Size: 8}},
		{source, "say what size", Options{}},
		{source, "5 images of 50000x50000 take 37.5 GB decoded", Options{Size: 50_000}},
	} {
		if _, err := Open(c.source, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.source, err, c.want)
		}
	}
	d, err := Open(source, Options{Size: 8, Fit: FitResize})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Holdout(3, 1); err == nil || !strings.Contains(err.Error(), "ImageNet: cannot hold out 3 of 3 training images") {
		t.Errorf("a validation split of all images: %v", err)
	}
}

// An archive that was cut anywhere, even between two members, is no smaller data set.
func TestImageNetArchivesCut(t *testing.T) {
	source := smallArchives(t).write(t)
	for _, name := range []string{trainArchive, valArchive} {
		path := filepath.Join(source, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		cut := 0
		for n := 0; n < len(whole)-512; n += 256 { // of the two empty blocks at the end one is enough
			if err := os.WriteFile(path, whole[:n], 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := openImageNet(context.Background(), source)
			if err == nil || !strings.HasPrefix(err.Error(), name+": ") || !strings.Contains(err.Error(), "cut") {
				t.Errorf("%s, %d of %d bytes: %v", name, n, len(whole), err)
			}
			cut++
		}
		if cut < 10 {
			t.Errorf("%s was cut %d times", name, cut)
		}
		if err := os.WriteFile(path, whole[:len(whole)-512], 0o644); err != nil {
			t.Fatal(err)
		}
		n, err := openImageNet(context.Background(), source)
		if err != nil {
			t.Fatal(err)
		}
		n.close()
	}
}

// Names longer than a header holds come before it, in one of two forms; members that are no files are passed over or refused.
func TestImageNetHeaders(t *testing.T) {
	long := "n00000001_" + strings.Repeat("9", 180) + ".JPEG"
	image := smallJPEG(8, 8, 33)
	archive := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if h.Typeflag == tar.TypeReg {
				h.Size = int64(len(image))
			}
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Typeflag == tar.TypeReg {
				if _, err := w.Write(image); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	file := func(name string, f tar.Format) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Format: f}
	}
	for _, c := range []struct {
		name    string
		headers []tar.Header
		want    string // in the error
	}{
		{"GNU", []tar.Header{file(long, tar.FormatGNU), file("x.JPEG", tar.FormatGNU)}, ""},
		{"PAX", []tar.Header{file(long, tar.FormatPAX), file("x.JPEG", tar.FormatPAX)}, ""},
		{"folder and hidden file", []tar.Header{{Typeflag: tar.TypeDir, Name: "d/"}, file("d/"+long, tar.FormatPAX), file("d/._x", 0), file("x.JPEG", 0)}, ""},
		{"global header", []tar.Header{{Typeflag: tar.TypeXGlobalHeader, Name: "g", PAXRecords: map[string]string{"comment": "x"}}, file(long, tar.FormatPAX), file("x.JPEG", 0)}, ""},
		{"link", []tar.Header{file(long, tar.FormatPAX), {Typeflag: tar.TypeSymlink, Name: "x.JPEG", Linkname: "y"}}, "x.JPEG: not an ordinary file"},
	} {
		a := smallArchives(t)
		a.train[1].Content = archive(c.headers...)
		source := a.write(t)
		d, err := Open(source, Options{Size: 8, Fit: FitResize})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), "n00000001.tar: "+c.want) {
				t.Errorf("%s: got %v", c.name, err)
			}
			continue
		}
		if err == nil && d.Train.Len() != 4 {
			err = fmt.Errorf("%d images", d.Train.Len())
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		got, err := readArchived(source, "train/n00000001/"+long)
		if err != nil || !bytes.Equal(got, image) {
			t.Errorf("%s: read %d bytes of %d: %v", c.name, len(got), len(image), err)
		}
	}
}

// One image is read without an index.
func TestReadArchived(t *testing.T) {
	source := smallArchives(t).write(t)
	n, err := openImageNet(context.Background(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	read := 0
	if err := n.walk(func(e entry) error {
		want, err := io.ReadAll(e.r)
		if err != nil {
			return err
		}
		got, err := readArchived(source, e.name)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", e.name, len(got), len(want), err)
		}
		if _, _, err := image.Decode(bytes.NewReader(got)); err != nil {
			t.Errorf("%s: %v", e.name, err)
		}
		read++
		return nil
	}); err != nil || read != 5 {
		t.Errorf("%d images read: %v", read, err)
	}
	for _, name := range []string{"train/n00000001/x.JPEG", "train/n00000003/n00000003_1.JPEG", "val/n00000001/x.JPEG", "x.JPEG"} {
		if _, err := readArchived(source, name); err == nil || !strings.Contains(err.Error(), "file does not exist") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What the index costs an image: ImageNet has 1,331,167. Headers are in the page cache.
func BenchmarkImageNetIndex(b *testing.B) {
	const classes, images = 20, 500
	source := b.TempDir()
	var all []datatest.File
	for c := range classes {
		var files []datatest.File
		for i := range images {
			files = append(files, datatest.File{Name: fmt.Sprintf("n%08d_%d.JPEG", c, i), Content: make([]byte, 4000)})
		}
		all = append(all, datatest.File{Name: fmt.Sprintf("n%08d.tar", c), Content: datatest.Tar(b, files...)})
	}
	datatest.Write(b, filepath.Join(source, trainArchive), datatest.Tar(b, all...))
	for b.Loop() {
		n, err := openImageNet(context.Background(), source)
		if err != nil || len(n.files) != classes*images {
			b.Fatal(err)
		}
		n.close()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*classes*images), "µs/image")
}

// Whatever an archive holds, the places of its members lie in it.
func FuzzListTar(f *testing.F) {
	whole, err := os.ReadFile(filepath.Join(datatest.ImageNet(f, 4, 1, 1), valArchive))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:700])
	f.Fuzz(func(t *testing.T, archive []byte) {
		const from = 3
		end := int64(0)
		listTar(bytes.NewReader(append(make([]byte, from), archive...)), from, int64(len(archive)), func(name string, at, size int64) error {
			if at < from+end || size < 0 || at+size > int64(from+len(archive)) || strings.Contains(strings.TrimPrefix(name, "/"), "/") {
				t.Errorf("%q at %d of %d bytes, behind %d, in %d", name, at, size, end, len(archive))
			}
			end = at + size - from
			return nil
		})
	})
}

// Whoever is tired of waiting for the index is told so.
func TestImageNetIndexIsStopped(t *testing.T) {
	ctx, stop := context.WithCancelCause(context.Background())
	tired := errors.New("tired")
	stop(tired)
	source := smallArchives(t).write(t)
	if _, err := openImageNet(ctx, source); !errors.Is(err, tired) {
		t.Errorf("got %v", err)
	}
	if _, err := OpenCached(ctx, source, t.TempDir(), Options{Size: 8}, nil); !errors.Is(err, tired) {
		t.Errorf("got %v", err)
	}
}
