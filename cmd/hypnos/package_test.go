package main

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"image"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hypnos/core/data/datatest"
	"hypnos/core/edge"
	"hypnos/core/train"
)

// A package of a trained network: written, compared with float, tested, put to sleep and refused where it must be.
func TestPackage(t *testing.T) {
	t.Parallel()
	source, dir := datatest.ClassFolders(t, 8, 8, 20), t.TempDir()
	run := filepath.Join(dir, "run")
	works(t, trainTiny(run, "resnet8-lc", source, "sleep.every=5", "sleep.before_eval=false"))
	checkpoint := filepath.Join(run, "checkpoint.safetensors")
	file, report := filepath.Join(dir, "edge.hyp"), filepath.Join(dir, "report.json")
	works(t, []string{"package", "-m", checkpoint, "-o", file, "--images", "12", "--batch", "5", "--test", "--json", report},
		"resnet8-lc, calibrated on 12 images", "stem.conv", "int32", "test: top-1", "parameters ")
	var r packageReport
	parseJSON(t, read(t, report), &r)
	if st, err := os.Stat(file); err != nil || r.Bytes != st.Size() || r.Images != 12 || r.Compared != 12 || len(r.Digest) != 64 ||
		len(r.Conversions) != 10 || len(r.Differences) < 20 || r.Float == nil || r.Integer == nil || r.Integer.Images != 60 {
		t.Fatalf("the report is %+v (%v)", r, err)
	}
	for _, d := range r.Differences {
		if d.Outputs == 0 || !(d.RMS > 0) || !(d.RMS < d.Signal) || !(d.Largest >= d.RMS) {
			t.Errorf("%+v", d)
		}
	}
	same := filepath.Join(dir, "same.hyp")
	works(t, []string{"package", "-m", checkpoint, "-o", same, "--images", "12", "--batch", "5"})
	if read(t, same) != read(t, file) {
		t.Error("the same command wrote another file")
	}
	var inIntegers, twin train.Eval
	evaluate := func(e *train.Eval, args ...string) {
		out := filepath.Join(dir, "eval.json")
		works(t, append([]string{"eval", "-m", file, "--batch", "16", "--json", out}, args...), "resnet8-lc")
		parseJSON(t, read(t, out), e)
	}
	evaluate(&inIntegers)
	evaluate(&twin, "--backend", "cpu")
	// The batches differ, and so the order in which 60 losses above 0 are added: by a rounding each at most.
	sameLoss := math.Abs(inIntegers.Loss-r.Integer.Loss) <= 60*0x1p-53*r.Integer.Loss
	if inIntegers.Top1 != r.Integer.Top1 || !sameLoss || inIntegers.Step != 6 || twin.Loss == inIntegers.Loss {
		t.Errorf("eval gives %+v, package %+v, the float twin %+v", inIntegers, *r.Integer, twin)
	}
	slept := filepath.Join(dir, "slept.hyp")
	works(t, []string{"sleep", "-m", file, "--rule", "instant", "--out", slept}, "rule instant", "package: "+slept)
	p, err := edge.OpenPackage(slept)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if small, large := len(read(t, slept)), len(read(t, file)); !p.Stored().Has("stem.conv.weight"+edge.GroupsSuffix) || small >= large {
		t.Errorf("after an instant sleep the package takes %d bytes, before %d", small, large)
	}
	works(t, []string{"eval", "-m", slept}, "SNR inf")
	near := filepath.Join(dir, "near.hyp")
	works(t, []string{"sleep", "-m", file, "--rule", "hebbian", "--events", "20", "--residual", "8", "--out", near}, "rule hebbian")
	works(t, []string{"eval", "-m", near})
	if r, err := edge.OpenPackage(near); err != nil || !r.Stored().Has("stem.conv.weight"+edge.ResidualSuffix) || r.Close() != nil {
		t.Errorf("after a Hebbian sleep the weights are not residuals: %v", err)
	}
	works(t, []string{"package", "-m", checkpoint, "-o", filepath.Join(dir, "int8.hyp"), "--int8"})
	if small, large := len(read(t, filepath.Join(dir, "int8.hyp"))), len(read(t, file)); small >= large {
		t.Errorf("with 8 bits the package takes %d bytes, with 16 %d", small, large)
	}

	maker := filepath.Join(dir, "maker")
	if r := works(t, []string{"keygen", "-o", maker}); !strings.Contains(r.out, "key "+keyOf(t, maker)) {
		t.Errorf("keygen names another key: %s", r.out)
	}
	fails(t, t.TempDir(), exitFailed, []string{"keygen", "-o", maker}, maker+".key", "exists")
	fails(t, t.TempDir(), exitUsage, []string{"keygen"}, "-o NAME")
	signed := filepath.Join(dir, "signed.hyp")
	works(t, []string{"package", "-m", slept, "-o", signed, "--version", "4", "--sign", maker + ".key", "--boards", "raspberry-pi-4"},
		"version 4, the parameters of "+slept)
	for path, want := range map[string]error{file: edge.ErrUnsigned, slept: edge.ErrUnsigned, signed: nil} {
		p, err := edge.OpenPackage(path)
		if err != nil {
			t.Fatal(err)
		}
		public, err := readPublicKey(maker + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		if err := (edge.Policy{Keys: []ed25519.PublicKey{public}, Board: "raspberry-pi-4"}).Check(p.Head); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
		m := p.Manifest
		params, err := p.Params()
		if err != nil {
			t.Fatal(err)
		}
		e, err := open("fixed", m.Network, m.Golden.Options(), params)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckGolden(t.Context(), e); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if err := errors.Join(e.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	}

	damaged := filepath.Join(dir, "damaged.hyp")
	text := read(t, file)
	if err := os.WriteFile(damaged, []byte(text[:len(text)-1]+string(text[len(text)-1]^1)), 0o600); err != nil {
		t.Fatal(err)
	}
	mixer := filepath.Join(dir, "mixer")
	works(t, trainTiny(mixer, "mixer-lc", source, "network.patch=2", "network.depth=1", "network.width=4"))
	var grey bytes.Buffer
	if err := png.Encode(&grey, image.NewGray(image.Rect(0, 0, 8, 8))); err != nil {
		t.Fatal(err)
	}
	constant := filepath.Join(dir, "constant")
	for _, split := range []string{"train", "test"} {
		for _, class := range datatest.Classes() {
			datatest.Write(t, filepath.Join(constant, split, class, "0.png"), grey.Bytes())
		}
	}
	for _, x := range []struct {
		args  []string
		parts []string
	}{
		{[]string{"eval", "-m", damaged}, []string{damaged, `tensor "golden/logits" is damaged`}},
		{[]string{"package", "-m", damaged, "-o", same}, []string{damaged, "is damaged"}},
		{[]string{"package", "-m", file, "-o", same, "--sign", file}, []string{file, "not a key"}},
		{[]string{"package", "-m", filepath.Join(mixer, "checkpoint.safetensors"), "-o", same}, []string{mixer, `batch norm "block1.tokens.bn" cannot be folded`}},
		{[]string{"package", "-m", checkpoint, "--calibrate", constant, "-o", same}, []string{constant, "constant images"}},
		{[]string{"eval", "-m", checkpoint, "--backend", "fixed"}, []string{checkpoint, "batch norm", "hypnos package"}},
		{[]string{"sleep", "-m", file, "--backend", "ref", "--rule", "instant", "--out", same}, []string{"integers only"}},
	} {
		fails(t, dir, exitFailed, x.args, x.parts...)
	}
	for _, args := range [][]string{{}, {"-m", checkpoint}, {"-m", checkpoint, "-o", same, "--images", "0"}, {"-m", checkpoint, "-o", same, "--bits", "16"}, {"-m", checkpoint, "-o", same, "--headroom", "nan"},
		{"-m", checkpoint, "-o", same, "--boards", "toaster"}, {"-m", file, "-o", same, "--test"}} {
		fails(t, dir, exitUsage, append([]string{"package"}, args...))
	}
}

// keyOf is the id of a public key's file.
func keyOf(t *testing.T, name string) string {
	t.Helper()
	k, err := readPublicKey(name + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return edge.KeyID(k)
}
