package hil

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"hypnos/core/edge"
	"hypnos/core/model"
)

// programs are what devices run, built from the source that this program is part of.
type programs struct {
	source string // folder of go.mod
	dir    string
}

// build builds a program for a processor, once; the Go command's own cache makes that quick.
func (p programs) build(name, arch string) (string, error) {
	out := filepath.Join(p.dir, arch, filepath.Base(name))
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, "./"+name)
	c.Dir = p.source
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOARM=7")
	if text, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("hil: go build %s for %s: %w: %s", name, arch, err, oneLine(string(text)))
	}
	return out, nil
}

// files are those of a device: its programs and the packages.
func (p programs) files(arch string, packages map[string]string) (map[string]string, error) {
	all := map[string]string{}
	for name, path := range packages {
		all[name] = path
	}
	for name, source := range map[string]string{"guest": "hil/guest", "hypnosd": "cmd/hypnosd"} {
		path, err := p.build(source, arch)
		if err != nil {
			return nil, err
		}
		all[name] = path
	}
	return all, nil
}

// packagesOf makes the packages that scenarios use, in a folder of the cache that is named after the program that makes them: name → path.
// v1, v2 and v3 are signed by a maker whose key is trusted (maker.pub); stranger is signed by another, sick has golden vectors that no
// device can give, flipped is v1 with one bit of a weight turned around; float.golden is what float32 computes with v1.
func packagesOf(cache, tool string) (map[string]string, error) {
	text, err := os.ReadFile(tool)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, fmt.Sprintf("packages-%.16x", sha256.Sum256(text)))
	names := []string{"v1.hyp", "v2.hyp", "v3.hyp", "stranger.hyp", "sick.hyp", "flipped.hyp", "maker.pub", "float.golden"}
	all := map[string]string{}
	for _, n := range names {
		all[n] = filepath.Join(dir, n)
	}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return all, nil
	}
	others, err := filepath.Glob(filepath.Join(cache, "packages-*"))
	if err != nil {
		return nil, err
	}
	for _, o := range others {
		if err := os.RemoveAll(o); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	run := func(args ...string) error {
		c := exec.Command(tool, args...)
		c.Dir = dir
		if text, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("hil: hypnos %s: %w: %s", strings.Join(args, " "), err, oneLine(string(text)))
		}
		return nil
	}
	steps := [][]string{
		{"keygen", "-o", "maker"}, {"keygen", "-o", "stranger"},
		{"train", "--set", "network.name=resnet8-lc", "--set", "network.width=4", "--set", "train.epochs=1", "--set", "train.steps=4", "--dir", "run"},
	}
	for _, p := range [][3]string{{"v1", "1", "maker"}, {"v2", "2", "maker"}, {"v3", "3", "maker"}, {"stranger", "4", "stranger"}} {
		steps = append(steps, []string{"package", "-m", "run/checkpoint.safetensors", "--images", "16", "--version", p[1], "--sign", p[2] + ".key", "-o", p[0] + ".hyp"})
	}
	for _, s := range steps {
		if err := run(s...); err != nil {
			return nil, err
		}
	}
	if err := run("bench", "golden", "-m", "v1.hyp", "--backend", "cpu", "--steps", "1", "--test", "2", "-o", "float.golden"); err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, "maker.key"))
	if err != nil {
		return nil, err
	}
	maker, err := edge.ParsePrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeSick(all["sick.hyp"], all["v3.hyp"], maker); err != nil {
		return nil, err
	}
	if err := writeFlipped(all["flipped.hyp"], all["v1.hyp"]); err != nil {
		return nil, err
	}
	return all, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o600)
}

// writeSick writes a package whose golden logits are not those of its network.
func writeSick(path, from string, key ed25519.PrivateKey) error {
	p, err := edge.OpenPackage(from)
	if err != nil {
		return err
	}
	defer p.Close()
	f, err := model.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	var g edge.GoldenTensors
	for name, into := range map[string]any{"golden/inputs": &g.Inputs, "golden/labels": &g.Labels, "golden/logits": &g.Logits} {
		t, err := f.Get(name)
		if err != nil {
			return err
		}
		switch into := into.(type) {
		case *[]int16:
			*into = t.Data.([]int16)
		case *[]int32:
			*into = t.Data.([]int32)
		}
	}
	g.Logits[0] ^= 1
	m := p.Manifest
	m.Version = 5
	return edge.WritePackage(path, m, p.Stored(), edge.PackOptions{Key: key, Golden: &g})
}

// writeFlipped writes a package with the lowest bit of one weight turned around.
func writeFlipped(path, from string) error {
	p, err := edge.OpenPackage(from)
	if err != nil {
		return err
	}
	defer p.Close()
	changed := &model.Params{}
	done := false
	for t, err := range p.Stored().All() {
		if err != nil {
			return err
		}
		if w, ok := t.Data.([]int16); ok && !done && len(w) > 0 {
			w[len(w)/2] ^= 1
			done = true
		}
		changed.Add(t)
	}
	if !done {
		return errors.New("hil: the package has no weight of 16 bits")
	}
	if err := p.Manifest.Formats.Set(changed); err != nil {
		return err
	}
	m := p.Manifest
	m.Golden = nil
	return edge.WritePackage(path, m, changed, edge.PackOptions{})
}

func oneLine(s string) string {
	s = string(bytes.TrimSpace([]byte(s)))
	return strings.ReplaceAll(s, "\n", "; ")
}

// CheckSource returns an error unless dir holds the source of Hypnos and there is a Go command to build it.
func CheckSource(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil || !bytes.HasPrefix(text, []byte("module hypnos\n")) {
		return errors.New("hil: this is not the source of Hypnos, from which the devices' programs are built: run it there")
	}
	if _, err := exec.LookPath("go"); err != nil {
		return errors.New("hil: no Go command, which builds the devices' programs")
	}
	return nil
}
