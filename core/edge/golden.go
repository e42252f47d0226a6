package edge

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"hypnos/core"
	"hypnos/core/fixed"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
	"hypnos/core/sleep"
)

// Golden says what an engine of this arithmetic makes of some images (GoldenTensors): the same numbers everywhere. A device
// that gives others is not to run the package.
type Golden struct {
	Images int `json:"images"`
	// Learned is the digest of the parameters after a wake step on each image, in order, at learning rate Rate in an engine of
	// seed Seed, and an instant sleep. Empty: only the logits are told.
	Learned string  `json:"learned,omitempty"`
	Rate    float64 `json:"rate,omitempty"`
	Seed    uint64  `json:"seed,omitempty"`
}

// GoldenTensors are golden images with what the network makes of them before it learns.
type GoldenTensors struct {
	Inputs []int16 // (Images, H, W, C), in the format of the network's input
	Labels []int32 // (Images)
	Logits []int16 // (Images, classes), in the format of the network's output
}

// Names of golden tensors in a package.
const (
	goldenPrefix = "golden/"
	goldenInputs = goldenPrefix + "inputs"
	goldenLabels = goldenPrefix + "labels"
	goldenLogits = goldenPrefix + "logits"
)

func isGolden(tensor string) bool { return strings.HasPrefix(tensor, goldenPrefix) }

func (g *GoldenTensors) add(p *model.Params) {
	images := len(g.Labels)
	p.Add(model.NewTensor(goldenInputs, []int{images, len(g.Inputs) / images}, g.Inputs))
	p.Add(model.NewTensor(goldenLabels, []int{images}, g.Labels))
	p.Add(model.NewTensor(goldenLogits, []int{images, len(g.Logits) / images}, g.Logits))
}

// readGolden reads the golden tensors of a package, nil where there are none.
func readGolden(p *model.Params) (*GoldenTensors, error) {
	g, found := &GoldenTensors{}, 0
	for _, i := range p.Infos() {
		if !isGolden(i.Name) {
			continue
		}
		t, err := p.Get(i.Name)
		if err != nil {
			return nil, err
		}
		ok := false
		switch i.Name {
		case goldenInputs:
			g.Inputs, ok = t.Data.([]int16)
		case goldenLabels:
			g.Labels, ok = t.Data.([]int32)
		case goldenLogits:
			g.Logits, ok = t.Data.([]int16)
		}
		if !ok {
			return nil, fmt.Errorf("tensor %q is no golden tensor", i.Name)
		}
		found++
	}
	switch found {
	case 0:
		return nil, nil
	case 3:
		return g, nil
	}
	return nil, errors.New("golden tensors are missing")
}

// checkGolden returns an error when golden tensors and what the manifest says of them do not fit the network.
func (m Manifest) checkGolden(g *GoldenTensors) error {
	if (m.Golden == nil) != (g == nil) {
		return errors.New("golden tensors without a record of them, or a record without tensors")
	}
	if g == nil {
		return nil
	}
	images, classes := m.Golden.Images, m.Network.Output().C
	if images < 1 || len(g.Labels) != images || len(g.Inputs) != images*m.Network.Input().Len() || len(g.Logits) != images*classes {
		return fmt.Errorf("golden tensors of %d inputs, %d labels and %d logits do not fit %d images", len(g.Inputs), len(g.Labels), len(g.Logits), images)
	}
	for i, l := range g.Labels {
		if l < 0 || int(l) >= classes {
			return fmt.Errorf("label %d of golden image %d is none of %d", l, i, classes)
		}
	}
	if r := m.Golden.Rate; m.Golden.Learned != "" && !(r > 0 && r <= 1) {
		return fmt.Errorf("golden learning rate %g is outside (0, 1]", r)
	}
	return nil
}

// Options are those of the engine that MakeGolden and CheckGolden take.
func (g Golden) Options() core.Options {
	return core.Options{MaxBatch: 1, Train: g.Learned != "" || g.Rate > 0, Optimizer: optim.Spec{Kind: optim.SGD}, Seed: g.Seed}
}

// MakeGolden makes golden tensors of images x with labels y, and completes the record g, of which it takes rate and seed. The
// engine, compiled with g.Options, has the network's parameters; if the rate is not 0 it has others afterwards.
func MakeGolden(ctx context.Context, n *net.Network, f Formats, e core.Engine, g Golden, x core.Batch, y core.Labels) (Golden, *GoldenTensors, error) {
	t := &GoldenTensors{Labels: y}
	in := f.Activations[n.Nodes[0].Name]
	for _, v := range x.Pixels {
		t.Inputs = append(t.Inputs, in.Quantise(float64(v)))
	}
	var err error
	if t.Logits, err = t.infer(ctx, n, f, e); err != nil {
		return g, nil, err
	}
	g.Images = len(y)
	if g.Rate > 0 {
		g.Learned, err = t.learn(ctx, n, f, e, g.Rate)
	}
	return g, t, err
}

// CheckGolden returns an error when the engine gives other numbers than the package says, or the package says nothing. The
// engine, compiled with the Options of the manifest's Golden, has the package's parameters, and others afterwards.
func (p *Package) CheckGolden(ctx context.Context, e core.Engine) error {
	m, g := p.Manifest, p.golden
	if g == nil {
		return errors.New("edge: the package has no golden vectors")
	}
	logits, err := g.infer(ctx, m.Network, m.Formats, e)
	if err != nil {
		return err
	}
	for i := range logits {
		if logits[i] != g.Logits[i] {
			classes := m.Network.Output().C
			return fmt.Errorf("edge: golden image %d: output %d is %d, the package has %d", i/classes, i%classes, logits[i], g.Logits[i])
		}
	}
	if m.Golden.Learned == "" {
		return nil
	}
	learned, err := g.learn(ctx, m.Network, m.Formats, e, m.Golden.Rate)
	if err == nil && learned != m.Golden.Learned {
		err = fmt.Errorf("edge: parameters %s after learning the golden images, the package has %s", learned, m.Golden.Learned)
	}
	return err
}

// Golden makes golden tensors of the package's golden images with an engine of other parameters, as MakeGolden does; nil where
// the package has none. At rate 0 the engine keeps its parameters.
func (p *Package) Golden(ctx context.Context, e core.Engine, rate float64) (*Golden, *GoldenTensors, error) {
	if p.golden == nil {
		return nil, nil, nil
	}
	m := p.Manifest
	x := core.Batch{N: m.Golden.Images, Pixels: Dequantise(m.Formats.Activations[m.Network.Nodes[0].Name], p.golden.Inputs)}
	g, t, err := MakeGolden(ctx, m.Network, m.Formats, e, Golden{Rate: rate, Seed: m.Golden.Seed}, x, p.golden.Labels)
	return &g, t, err
}

// image is the i-th input, as an engine takes it: exact, as an int16 and its scale fit a float32.
func (g *GoldenTensors) image(i int, f fixed.Format) core.Batch {
	per := len(g.Inputs) / len(g.Labels)
	return core.Batch{N: 1, Pixels: Dequantise(f, g.Inputs[i*per:(i+1)*per])}
}

// Dequantise gives the numbers that integers in a format stand for; an engine of that format makes the same integers of them.
func Dequantise(f fixed.Format, n []int16) []float32 {
	x := make([]float32, len(n))
	for i, v := range n {
		x[i] = float32(f.Float(int64(v)))
	}
	return x
}

func (g *GoldenTensors) infer(ctx context.Context, n *net.Network, f Formats, e core.Engine) ([]int16, error) {
	var all []int16
	out := f.Activations[n.Nodes[len(n.Nodes)-1].Name]
	for i := range g.Labels {
		l, err := e.Infer(ctx, g.image(i, f.Activations[n.Nodes[0].Name]))
		if err != nil {
			return nil, fmt.Errorf("edge: golden image %d: %w", i, err)
		}
		for _, v := range l.Values {
			all = append(all, out.Quantise(v))
		}
	}
	return all, nil
}

func (g *GoldenTensors) learn(ctx context.Context, n *net.Network, f Formats, e core.Engine, rate float64) (string, error) {
	for i, label := range g.Labels {
		if _, err := e.Wake(ctx, g.image(i, f.Activations[n.Nodes[0].Name]), core.Labels{label}, rate); err != nil {
			return "", fmt.Errorf("edge: learning golden image %d: %w", i, err)
		}
	}
	if _, err := e.Sleep(ctx, sleep.Stream{Rule: sleep.Instant{}}); err != nil {
		return "", fmt.Errorf("edge: sleep after the golden images: %w", err)
	}
	p, err := e.Save()
	if err != nil {
		return "", err
	}
	sum, err := Digest(n, p)
	return hex.EncodeToString(sum[:]), err
}
