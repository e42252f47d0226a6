package net

import "fmt"

// resnet is a stem and stages of basic blocks (He et al. 2016, Section 4.2 for CIFAR and Table 1 for ImageNet).
type resnet struct {
	stem   Window // Out is filled from the width
	pool   bool   // 3x3 max pool of stride 2 after the stem
	stages int    // every stage but the first begins with stride 2
	blocks int    // basic blocks a stage
}

func (r resnet) layers(b *blocks, x Ref, o Options) Ref {
	stem := r.stem
	stem.Out = o.Width
	x = b.normalised("stem.conv", "stem.bn", x, stem)
	x = b.ReLU("stem.relu", x)
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
	return x
}

// normalised is a spatial layer and the batch norm behind it.
func (b *blocks) normalised(name, bn string, x Ref, w Window) Ref {
	return b.BatchNorm(bn, b.spatial(name, x, w))
}

// basic is the residual block of two 3x3 layers; where the shape changes, a 1x1 layer carries the shortcut.
func (b *blocks) basic(name string, x Ref, width, stride int) Ref {
	y := b.normalised(name+".conv1", name+".bn1", x, Window{Out: width, Kernel: 3, Stride: stride})
	y = b.ReLU(name+".relu1", y)
	y = b.normalised(name+".conv2", name+".bn2", y, Window{Out: width, Kernel: 3, Stride: 1})
	if stride != 1 || b.shape(x).C != width {
		x = b.normalised(name+".shortcut", name+".shortcut.bn", x, Window{Out: width, Kernel: 1, Stride: stride})
	}
	return b.ReLU(name+".relu2", b.Sum(name+".add", y, x))
}
