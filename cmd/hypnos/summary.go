package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"hypnos/backends"
	"hypnos/bench/experiment"
	"hypnos/core"
	"hypnos/core/model"
	"hypnos/core/net"
	"hypnos/core/optim"
)

func summary(_ context.Context, c console, args []string) error {
	f := newFlags(c, "summary", "NETWORK [flags]", `
Prints the layers of a network with their shapes, parameters and multiply-adds, and its size by precision.
NETWORK is a built-in network (`+strings.Join(net.Names(), ", ")+`) or a checkpoint file.
With --backend it also prints the memory that an engine of it will take there, and whether that is free; with --images, too,
whether the training images will stay on the device.

Examples:
  hypnos summary resnet20-lc
  hypnos summary resnet20-lc --input 48 --classes 200 --json
  hypnos summary resnet20-lc --backend cpu --batch 512 --train
  hypnos summary resnet20-lc --backend cuda --train --images 50000
  hypnos summary runs/cifar10-resnet20-lc-ws10/checkpoint.safetensors`)
	var o net.Options
	f.IntVar(&o.Input, "input", 0, "rows and columns of the image (default: the network's own)")
	f.IntVar(&o.Classes, "classes", 0, "number of classes (default: the network's own)")
	f.IntVar(&o.Width, "width", 0, "channels of the first stage, or of a token (default: the network's own)")
	f.IntVar(&o.Patch, "patch", 0, "rows and columns of a patch (default: the network's own)")
	f.IntVar(&o.Depth, "depth", 0, "blocks of a mixer (default: the network's own)")
	f.BoolVar(&o.ConvOne, "first-conv", false, "keep the first layer of an LC network convolutional")
	p := planOptions{Options: core.Options{MaxBatch: experiment.Default().Train.Batch, Optimizer: optim.Default(optim.AdamW, 0)}}
	f.StringVar(&p.backend, "backend", "", "plan the memory of an engine of this `backend`, for example cpu or cpu:memory=1000")
	f.IntVar(&p.MaxBatch, "batch", p.MaxBatch, "with --backend: `images` a batch")
	f.BoolVar(&p.Train, "train", false, "with --backend: for training, not inference")
	f.StringVar((*string)(&p.Optimizer.Kind), "optimizer", string(p.Optimizer.Kind), "with --backend and --train: adamw, adam or sgd")
	f.IntVar(&p.images, "images", 0, "with --backend and --train: so many training `images`")
	f.IntVar(&p.imageSize, "image-size", 0, "with --images: their rows and columns (default: the network's input)")
	asJSON := f.Bool("json", false, "print JSON")
	names, err := f.parse(args, "NETWORK")
	if err != nil {
		return err
	}
	if p.images < 0 || p.imageSize < 0 {
		return usageError{fmt.Errorf("%d images of %d pixels: below 0", p.images, p.imageSize)}
	}
	if p.images > 0 && !p.Train || p.imageSize > 0 && p.images == 0 {
		return usageError{fmt.Errorf("--images needs --train, and --image-size --images")}
	}
	if p.backend == "" {
		f.Visit(func(g *flag.Flag) {
			if slices.Contains([]string{"batch", "train", "optimizer", "images"}, g.Name) {
				err = usageError{fmt.Errorf("--%s needs --backend", g.Name)}
			}
		})
		if err != nil {
			return err
		}
	}
	n, err := findNetwork(names[0], o)
	if err != nil {
		return err
	}
	s := networkSummary{Summary: n.Summary()}
	if p.backend != "" {
		if s.Memory, err = p.plan(n); err != nil {
			return err
		}
	}
	if *asJSON {
		return writeJSON(c.Out, s)
	}
	if err := s.WriteText(c.Out); err != nil || s.Memory == nil {
		return err
	}
	return s.Memory.writeText(c.Out)
}

// networkSummary is what summary prints.
type networkSummary struct {
	net.Summary
	Memory *memoryPlan `json:"memory,omitempty"`
}

// memoryPlan is what an engine takes.
type memoryPlan struct {
	Backend   string      `json:"backend"`
	Batch     int         `json:"batch"`
	Train     bool        `json:"train"`
	Optimizer optim.Kind  `json:"optimizer,omitempty"` // of training
	Memory    core.Memory `json:"bytes"`
	Total     int64       `json:"total"`
	Fits      bool        `json:"fits"` // as far as the backend knows
	// Feed is where training images are, of a backend that can keep them.
	Feed *experiment.Feed `json:"feed,omitempty"`
}

// planOptions are the flags of the memory plan.
type planOptions struct {
	backend   string
	images    int
	imageSize int // 0 is the network's input
	core.Options
}

func (o planOptions) plan(n *net.Network) (*memoryPlan, error) {
	b, err := backends.Open(o.backend)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	options := o.Options
	var feed *experiment.Feed
	if o.images > 0 {
		shape := n.Input()
		if o.imageSize > 0 {
			shape.H, shape.W = o.imageSize, o.imageSize
		}
		if options, feed, err = experiment.PlanFeed(b, n, options, int64(o.images)*int64(shape.Len())); err != nil {
			return nil, err
		}
	}
	m, err := b.Memory(n, options)
	if err != nil {
		return nil, err
	}
	p := &memoryPlan{Backend: o.backend, Batch: o.MaxBatch, Train: o.Train, Memory: m, Total: m.Total(), Fits: m.Fits(), Feed: feed}
	if o.Train {
		p.Optimizer = o.Optimizer.Kind
	}
	return p, nil
}

// writeText writes the plan for people, in decimal megabytes as the table of sizes has them.
func (p memoryPlan) writeText(w io.Writer) error {
	what := "inference"
	if p.Train {
		what = "training with " + string(p.Optimizer)
	}
	mb := func(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }
	m, free := p.Memory, "how much is free is unknown"
	switch {
	case !p.Fits:
		free = "does not fit: " + mb(m.Free) + " are free"
	case m.Free > 0:
		free = mb(m.Free) + " are free"
	}
	_, err := fmt.Fprintf(w, "memory of %s, %s, batches of %d: %s; %s\n  weights %s, gradients %s, moments %s, activations %s, scratch %s\n",
		p.Backend, what, p.Batch, mb(p.Total), free, mb(m.Weights), mb(m.Gradients), mb(m.Optimizer), mb(m.Activations), mb(m.Scratch))
	if err == nil && p.Feed != nil {
		_, err = fmt.Fprintf(w, "  %v\n", p.Feed)
	}
	return err
}

// findNetwork builds a built-in network or reads a checkpoint's.
func findNetwork(name string, o net.Options) (*net.Network, error) {
	if slices.Contains(net.Names(), name) {
		return net.ByName(name, o)
	}
	if _, err := os.Stat(name); err != nil {
		_, err := net.ByName(name, o) // lists the known names
		return nil, err
	}
	if o != (net.Options{}) {
		return nil, usageError{fmt.Errorf("a checkpoint's network has its own sizes")}
	}
	k, file, err := experiment.ReadCheckpoint(name)
	if err != nil {
		return nil, err
	}
	return k.Net, file.Close()
}

// writeJSON writes v as indented JSON.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// saveJSON writes v to a file, whole or not at all.
func saveJSON(path string, v any) error {
	return model.Replace(path, func(w io.Writer) error { return writeJSON(w, v) })
}
