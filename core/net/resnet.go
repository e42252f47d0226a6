package net

import (
	"fmt"
	"slices"
	"strings"
)

// Options choose among the variants of a built-in network. A zero field takes the network's own default.
type Options struct {
	Input   int  // rows and columns of the image; must be divisible by the network's strides
	Classes int  // number of classes
	Width   int  // channels of the first stage; later stages double it
	ConvOne bool // in an LC network, keep the first layer convolutional
}

// resnet is a member of the family: a stem and stages of basic blocks (He et al. 2016, Section 4.2 for CIFAR and
// Table 1 for ImageNet).
type resnet struct {
	name     string
	stem     Window // Out is filled from the width
	pool     bool   // 3x3 max pool of stride 2 after the stem
	stages   int    // every stage but the first begins with stride 2
	blocks   int    // basic blocks a stage
	defaults Options
}

// family lists the built-in networks. ResNet20 is the paper's network for CIFAR and TinyImageNet, resnet18-half its
// network for ImageNet; resnet8 is ResNet20 with one block a stage instead of three, for quick work.
func family() []resnet {
	cifar := Window{Kernel: 3, Stride: 1}
	imagenet := Window{Kernel: 7, Stride: 2}
	return []resnet{
		{"resnet8", cifar, false, 3, 1, Options{Input: 32, Classes: 10, Width: 16}},
		{"resnet20", cifar, false, 3, 3, Options{Input: 32, Classes: 10, Width: 16}},
		{"resnet18", imagenet, true, 4, 2, Options{Input: 224, Classes: 1000, Width: 64}},
		{"resnet18-half", imagenet, true, 4, 2, Options{Input: 224, Classes: 1000, Width: 32}},
	}
}

// lcSuffix marks the locally connected form of a built-in network.
const lcSuffix = "-lc"

// Names lists the built-in networks, each in its convolutional and its locally connected form.
func Names() []string {
	var names []string
	for _, r := range family() {
		names = append(names, r.name, r.name+lcSuffix)
	}
	return names
}

// ByName builds a built-in network; "-lc" at the end of its name makes every convolution locally connected.
// An unknown name is an error that lists the known ones.
func ByName(name string, o Options) (*Network, error) {
	base, lc := strings.CutSuffix(name, lcSuffix)
	all := family()
	i := slices.IndexFunc(all, func(r resnet) bool { return r.name == base })
	if i < 0 {
		return nil, fmt.Errorf("net: unknown network %q (known: %s)", name, strings.Join(Names(), ", "))
	}
	if o.ConvOne && !lc {
		return nil, fmt.Errorf("net: %s: the first layer is convolutional already", name)
	}
	return all[i].build(name, lc, o)
}

func (r resnet) build(name string, lc bool, o Options) (*Network, error) {
	for _, f := range []struct {
		what  string
		value *int
		def   int
	}{{"input size", &o.Input, r.defaults.Input}, {"number of classes", &o.Classes, r.defaults.Classes}, {"width", &o.Width, r.defaults.Width}} {
		if *f.value == 0 {
			*f.value = f.def
		}
		if *f.value < 0 {
			return nil, fmt.Errorf("net: %s: %s %d is below 1", name, f.what, *f.value)
		}
	}
	b := &blocks{Builder: NewBuilder(name), lc: lc && !o.ConvOne}
	x := b.Input(Shape{o.Input, o.Input, 3})
	stem := r.stem
	stem.Out = o.Width
	x = b.normalised("stem.conv", "stem.bn", x, stem)
	x = b.ReLU("stem.relu", x)
	b.lc = lc
	if r.pool {
		x = b.MaxPool("stem.pool", x, 3, 2)
	}
	for s := range r.stages {
		for i := range r.blocks {
			stride := 1
			if s > 0 && i == 0 {
				stride = 2
			}
			x = b.basic(fmt.Sprintf("stage%d.block%d", s+1, i+1), x, o.Width<<s, stride)
		}
	}
	x = b.GlobalAvgPool("pool", x)
	b.Linear("linear", x, o.Classes)
	return b.Build()
}

// blocks adds residual blocks to the Builder, convolutional or locally connected.
type blocks struct {
	*Builder
	lc bool
}

// normalised is a spatial layer and the batch norm behind it.
func (b *blocks) normalised(name, bn string, x Ref, w Window) Ref {
	if b.lc {
		x = b.LC2D(name, x, w)
	} else {
		x = b.Conv2D(name, x, w)
	}
	return b.BatchNorm(bn, x)
}

// basic is the residual block of two 3x3 layers; where the shape changes, a 1x1 layer carries the shortcut.
func (b *blocks) basic(name string, x Ref, width, stride int) Ref {
	y := b.normalised(name+".conv1", name+".bn1", x, Window{Out: width, Kernel: 3, Stride: stride})
	y = b.ReLU(name+".relu1", y)
	y = b.normalised(name+".conv2", name+".bn2", y, Window{Out: width, Kernel: 3, Stride: 1})
	if b.err == nil && (stride != 1 || b.nodes[x].Out.C != width) {
		x = b.normalised(name+".shortcut", name+".shortcut.bn", x, Window{Out: width, Kernel: 1, Stride: stride})
	}
	return b.ReLU(name+".relu2", b.Sum(name+".add", y, x))
}
