package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"hypnos/bench/experiment"
	"hypnos/core/model"
	"hypnos/core/net"
)

func summary(_ context.Context, c console, args []string) error {
	f := newFlags(c, "summary", "NETWORK [flags]", `
Prints the layers of a network with their shapes, parameters and multiply-adds, and its size by precision.
NETWORK is a built-in network (`+strings.Join(net.Names(), ", ")+`) or a checkpoint file.

Examples:
  hypnos summary resnet20-lc
  hypnos summary resnet20-lc --input 48 --classes 200 --json
  hypnos summary runs/cifar10-resnet20-lc-ws10/checkpoint.safetensors`)
	var o net.Options
	f.IntVar(&o.Input, "input", 0, "rows and columns of the image (default: the network's own)")
	f.IntVar(&o.Classes, "classes", 0, "number of classes (default: the network's own)")
	f.IntVar(&o.Width, "width", 0, "channels of the first stage, or of a token (default: the network's own)")
	f.IntVar(&o.Patch, "patch", 0, "rows and columns of a patch (default: the network's own)")
	f.IntVar(&o.Depth, "depth", 0, "blocks of a mixer (default: the network's own)")
	f.BoolVar(&o.ConvOne, "first-conv", false, "keep the first layer of an LC network convolutional")
	asJSON := f.Bool("json", false, "print JSON")
	names, err := f.parse(args, "NETWORK")
	if err != nil {
		return err
	}
	n, err := findNetwork(names[0], o)
	if err != nil {
		return err
	}
	if *asJSON {
		return writeJSON(c.Out, n.Summary())
	}
	return n.Summary().WriteText(c.Out)
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
