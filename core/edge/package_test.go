package edge_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"hypnos/core/data"
	"hypnos/core/edge"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
)

func manifest(c converted) edge.Manifest {
	return edge.Manifest{
		Version: 3, Network: c.net, Classes: []string{"a", "b", "c", "d", "e"},
		Stats:       data.Stats{Mean: [3]float64{0.5, 0.25, 0.125}, Std: [3]float64{0.25, 0.25, 0.5}},
		Source:      edge.Source{Checkpoint: "x.safetensors", Step: 7, Data: "noise", Config: "seed = 1\n"},
		Calibration: edge.Calibration{Data: "noise", Images: 8, Bits: 13, Headroom: 1.25, Ranges: c.ranges},
	}
}

// forms are integer parameters of a network in every form.
func forms(t testing.TB, n *net.Network) map[string]converted {
	t.Helper()
	plain := convert(t, n, edge.ConvertOptions{})
	all := map[string]converted{"full": plain, "int8": convert(t, n, edge.ConvertOptions{Int8: true})}
	var err error
	small := plain
	if small.integer, err = edge.Consolidate(plain.net, drifted(t, plain.net, plain.integer, 0)); err != nil {
		t.Fatal(err)
	}
	all["consolidated"] = small
	near := plain
	if near.integer, err = edge.Residual(plain.net, drifted(t, plain.net, plain.integer, 300), 3); err != nil {
		t.Fatal(err)
	}
	all["residual"] = near
	return all
}

func TestPackage(t *testing.T) {
	packages := 0
	for _, n := range networks(t) {
		for form, c := range forms(t, n) {
			path := filepath.Join(t.TempDir(), "edge.hyp")
			m := manifest(c)
			if err := edge.WritePackage(path, m, c.integer, edge.PackOptions{}); err != nil {
				t.Fatal(err)
			}
			p, err := edge.OpenPackage(path)
			if err != nil {
				t.Fatal(err)
			}
			m.Format, m.Formats, m.Tensors = edge.FileFormat, formats(t, c.integer), p.Manifest.Tensors
			sum := digestOf(t, c.net, c.integer)
			m.Digest = hex.EncodeToString(sum[:])
			if !reflect.DeepEqual(p.Manifest, m) {
				t.Errorf("%s: the manifest is %+v, want %+v", form, p.Manifest, m)
			}
			if digestOf(t, c.net, p.Stored()) != sum || len(m.Tensors) != p.Stored().Len() {
				t.Errorf("%s: the parameters changed", form)
			}
			loadable, err := p.Params()
			if err != nil {
				t.Fatal(err)
			}
			engine(t, integers(t), c.net, loadable)
			if !edge.IsPackage(open(t, path)) {
				t.Errorf("%s: not recognised as a package", form)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			packages++
		}
	}
	if packages != 4*4 {
		t.Errorf("%d packages", packages)
	}
}

func open(t testing.TB, path string) *model.Params {
	t.Helper()
	f, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &f.Params
}

// small is the smallest package, for tests that try much.
func small(t testing.TB) converted { return convert(t, networks(t)[3], edge.ConvertOptions{}) }

// TestDamage: a package that is cut anywhere, or in which a single bit is flipped, in places all over it, is refused,
// in one line that names the file.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "edge.hyp")
	c := small(t)
	if err := edge.WritePackage(path, manifest(c), c.integer, edge.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, b []byte) error {
		p, err := model.Read(bytes.NewReader(b), int64(len(b)))
		if err == nil {
			_, err = edge.ReadPackage(p)
		}
		if err == nil {
			t.Errorf("%s was not seen", what)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: more than one line: %v", what, err)
		}
		return err
	}
	damaged := 0
	const step = 61 // a prime, so that all places of a byte are met; with 1, too, nothing passes, in a minute
	for bit := 0; bit < 8*len(whole); bit += step {
		b := bytes.Clone(whole)
		b[bit/8] ^= 1 << (bit % 8)
		if err := refused("a flipped bit", b); err != nil && strings.Contains(err.Error(), "is damaged: its hash") {
			damaged++
		}
	}
	if tensors := 8 * 2 * 100; damaged < tensors/step {
		t.Errorf("hashes found %d damages of %d bits", damaged, 8*len(whole))
	}
	for n := 0; n < len(whole); n += step {
		refused("a cut", whole[:n])
	}
	for what, b := range map[string][]byte{
		"truncated or overlong": whole[:len(whole)-1],
		`tensor "linear.bias" is damaged: its hash is not the manifest's`: append(bytes.Clone(whole[:len(whole)-1]), whole[len(whole)-1]^1),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := edge.OpenPackage(path); err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v, want %q and the file's name", err, what)
		}
	}
}

// TestPackageRefuses: packages that are whole and yet not fit are refused with what is wrong.
func TestPackageRefuses(t *testing.T) {
	c := small(t)
	// edited is the package with a manifest changed as JSON, hash and all.
	edited := func(change func(m map[string]any)) *model.Params {
		p, err := edge.Pack(manifest(c), c.integer, edge.PackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(p.Meta[edge.ManifestKey]), &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		p.SetMeta(edge.ManifestKey, string(text))
		p.SetMeta(edge.ManifestHash, edge.SHA256Hex(text))
		return p
	}
	set := func(value any, path ...string) *model.Params {
		return edited(func(m map[string]any) {
			for _, key := range path[:len(path)-1] {
				m = m[key].(map[string]any)
			}
			m[path[len(path)-1]] = value
		})
	}
	// beyond has a weight outside its format, or another tensor changed.
	changed := func(name string, change func(v *model.Tensor)) *model.Params {
		q := &model.Params{Meta: c.integer.Meta}
		for v, err := range snapshot(t, c.integer).All() {
			if err != nil {
				t.Fatal(err)
			}
			if v.Name == name {
				change(&v)
			}
			q.Add(v)
		}
		p, err := edge.Pack(manifest(c), q, edge.PackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	extra := edited(func(map[string]any) {})
	extra.Add(model.NewTensor("other", []int{1}, []int16{1}))
	meta := edited(func(map[string]any) {})
	meta.SetMeta("hypnos.other", "1")
	trailing := edited(func(map[string]any) {})
	text := trailing.Meta[edge.ManifestKey] + "{}"
	trailing.SetMeta(edge.ManifestKey, text)
	trailing.SetMeta(edge.ManifestHash, edge.SHA256Hex([]byte(text)))
	wide := fixed.Format{Int: 10, Frac: 10}
	for _, x := range []struct {
		p    *model.Params
		want string
	}{
		{randomParams(c.net, 1, true), "not an edge package"},
		{c.integer, "not an edge package"},
		{set(2, "format"), "format 2, this program reads 1"},
		{set("hypnos-int8/1", "formats", "profile"), `arithmetic profile "hypnos-int8/1", this program has "hypnos-int16/1"`},
		{set(wide, "formats", "activations", "layer"), `layer "layer": fixed: Q10.10 is no format`},
		{set(wide, "formats", "weights", "layer.weight"), `"layer.weight": fixed: Q10.10 is no format`},
		{set(map[string]any{}, "formats", "weights"), `"layer.weight" has no number format`},
		{set(1, "surprise"), `unknown field "surprise"`},
		{set("x", "version"), "manifest: "},
		{set(nil, "network"), "no network"},
		{set([]string{"a"}, "classes"), "1 names of classes for 5 outputs"},
		{set([]float64{0, 0, 0}, "stats", "std"), "cannot normalise"},
		{set([]any{}, "tensors"), "the manifest has 0"},
		{extra, "4 tensors, the manifest has 3"},
		{meta, `unknown metadata "hypnos.other"`},
		{trailing, "after top-level value"},
		{changed("layer.weight", func(v *model.Tensor) { v.Data.([]int16)[5] = -32768 }), `tensor "layer.weight": element 5 is -32768, beyond its format`},
	} {
		if _, err := edge.ReadPackage(x.p); err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v, want %q", err, x.want)
		}
	}
	path := filepath.Join(t.TempDir(), "float.safetensors")
	if err := model.Save(path, randomParams(c.net, 1, true)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{path, filepath.Dir(path), path + ".missing"} {
		if _, err := edge.OpenPackage(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: error %v", file, err)
		}
	}
	m := manifest(c)
	m.Classes = nil
	if err := edge.WritePackage(path, m, c.integer, edge.PackOptions{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a package without classes: %v", err)
	}
}

// FuzzOpenPackage: whatever the bytes, opening gives an error of one line or a package whose parameters can be read in
// full and whose network an engine loads or refuses.
func FuzzOpenPackage(f *testing.F) {
	for _, c := range forms(f, networks(f)[3]) {
		p, err := edge.Pack(manifest(c), c.integer, edge.PackOptions{})
		if err != nil {
			f.Fatal(err)
		}
		var b bytes.Buffer
		if err := model.Write(&b, p); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), true)
		f.Add([]byte(p.Meta[edge.ManifestKey]), false)
	}
	whole := small(f)
	f.Fuzz(func(t *testing.T, b []byte, file bool) {
		var p *model.Params
		var err error
		if file {
			p, err = model.Read(bytes.NewReader(b), int64(len(b)))
		} else { // a manifest whose hash is right, above the tensors of a package
			if p, err = edge.Pack(manifest(whole), whole.integer, edge.PackOptions{}); err == nil {
				p.SetMeta(edge.ManifestKey, string(b))
				p.SetMeta(edge.ManifestHash, edge.SHA256Hex(b))
			}
		}
		if err != nil {
			return
		}
		pack, err := edge.ReadPackage(p)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			return
		}
		if _, err := edge.Digest(pack.Manifest.Network, pack.Stored()); err != nil {
			t.Error(err)
		}
	})
}
