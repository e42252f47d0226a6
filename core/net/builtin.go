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
	Width   int  // channels of the first stage, which later stages double, or of every token
	Patch   int  // rows and columns of a patch, where the network cuts the image into patches
	Depth   int  // blocks, where their number is free
	ConvOne bool // in an LC network, keep the first layer convolutional
}

// sizes lists the options that are numbers, with the names that messages call them by.
func (o *Options) sizes() []size {
	return []size{
		{"input size", &o.Input}, {"number of classes", &o.Classes}, {"width", &o.Width},
		{"patch size", &o.Patch}, {"number of blocks", &o.Depth},
	}
}

type size struct {
	what  string
	value *int
}

// builtin is a built-in network: its own sizes, 0 for those that it does not have, and its layers between the input and
// the classifier. ConvOne is the builder's business (blocks.first).
type builtin struct {
	name     string
	defaults Options
	layers   func(b *blocks, x Ref, o Options) Ref
}

// family lists the built-in networks. ResNet20 is the paper's network for CIFAR and TinyImageNet, resnet18-half its
// network for ImageNet; resnet8 is ResNet20 with one block a stage instead of three, for quick work. mixer is a network
// of patches (Appendix A.4), small enough for CIFAR.
func family() []builtin {
	cifar := Window{Kernel: 3, Stride: 1}
	imagenet := Window{Kernel: 7, Stride: 2}
	return []builtin{
		{"resnet8", Options{Input: 32, Classes: 10, Width: 16}, resnet{cifar, false, 3, 1}.layers},
		{"resnet20", Options{Input: 32, Classes: 10, Width: 16}, resnet{cifar, false, 3, 3}.layers},
		{"resnet18", Options{Input: 224, Classes: 1000, Width: 64}, resnet{imagenet, true, 4, 2}.layers},
		{"resnet18-half", Options{Input: 224, Classes: 1000, Width: 32}, resnet{imagenet, true, 4, 2}.layers},
		{"mixer", Options{Input: 32, Classes: 10, Width: 32, Patch: 4, Depth: 4}, mixerLayers},
	}
}

// lcSuffix marks the locally connected form of a built-in network.
const lcSuffix = "-lc"

// Names lists the built-in networks, each in its convolutional and its locally connected form.
func Names() []string {
	var names []string
	for _, n := range family() {
		names = append(names, n.name, n.name+lcSuffix)
	}
	return names
}

// ByName builds a built-in network; "-lc" at the end of its name makes every convolution locally connected.
// An unknown name is an error that lists the known ones.
func ByName(name string, o Options) (*Network, error) {
	base, lc := strings.CutSuffix(name, lcSuffix)
	all := family()
	i := slices.IndexFunc(all, func(n builtin) bool { return n.name == base })
	if i < 0 {
		return nil, fmt.Errorf("net: unknown network %q (known: %s)", name, strings.Join(Names(), ", "))
	}
	if o.ConvOne && !lc {
		return nil, fmt.Errorf("net: %s: the first layer is convolutional already", name)
	}
	if err := o.fill(all[i].defaults); err != nil {
		return nil, fmt.Errorf("net: %s: %w", name, err)
	}
	b := &blocks{Builder: NewBuilder(name), lc: lc, convNext: o.ConvOne}
	x := all[i].layers(b, b.Input(Shape{o.Input, o.Input, 3}), o)
	b.Linear("linear", b.GlobalAvgPool("pool", x), o.Classes)
	return b.Build()
}

// fill sets what is 0 to a network's own sizes.
func (o *Options) fill(defaults Options) error {
	own := defaults.sizes()
	for i, f := range o.sizes() {
		def := *own[i].value
		switch {
		case *f.value < 0:
			return fmt.Errorf("%s %d is below 1", f.what, *f.value)
		case *f.value > 0 && def == 0:
			return fmt.Errorf("the network has no %s to choose", f.what)
		case *f.value == 0:
			*f.value = def
		}
	}
	return nil
}

// blocks adds the blocks of built-in networks to the Builder, convolutional or locally connected.
type blocks struct {
	*Builder
	lc       bool
	convNext bool // the next spatial layer is convolutional all the same
}

// spatial is a convolution or a locally connected layer.
func (b *blocks) spatial(name string, x Ref, w Window) Ref {
	lc := b.lc && !b.convNext
	b.convNext = false
	if lc {
		return b.LC2D(name, x, w)
	}
	return b.Conv2D(name, x, w)
}

// shape is the shape of a node's activation, the zero Shape behind a fault.
func (b *blocks) shape(x Ref) Shape {
	if b.err != nil {
		return Shape{}
	}
	return b.nodes[x].Out
}
