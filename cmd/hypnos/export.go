package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"

	"hypnos/core/model"
	"hypnos/core/onnx"
	"hypnos/core/torch"
)

func exportCommand(ctx context.Context, c console, args []string) error {
	f := newFlags(c, "export", "-m FILE [--onnx FILE] [--pytorch FILE] [--npy FOLDER]", `
Writes the network of a checkpoint, or of an edge package as the numbers that its integers stand for, for other programs
(docs/EXPORT.md):

  --onnx     as an ONNX model of standard operators; it takes "images", float32 (batch, channels, rows, columns), pixels in
             0…1, and gives "output", (batch, classes)
  --pytorch  as safetensors with PyTorch's names and axes; docs/load_in_pytorch.py runs them
  --npy      what its layers make of test images, a NumPy file a layer, (images, channels, rows, columns), and labels.npy

Examples:
  hypnos export -m runs/sample-resnet8-lc-ws10/checkpoint.safetensors --onnx lc.onnx
  hypnos export -m edge.hyp --onnx edge.onnx --pytorch edge.safetensors
  hypnos export -m a.safetensors --onnx a.onnx --normalised
  hypnos export -m a.safetensors --npy activations --images 500 --layers stage1.block1.add,pool`)
	path := f.String("m", "", "checkpoint or edge package `file`")
	toONNX := f.String("onnx", "", "`file` to write")
	normalised := f.Bool("normalised", false, "the ONNX model takes images that are normalised already: pixel in 0…1 - mean, by the standard deviation, of each channel")
	toTorch := f.String("pytorch", "", "`file` to write")
	a := activations{}
	f.StringVar(&a.dir, "npy", "", "`folder` to write to; it is made if it is not there")
	f.IntVar(&a.images, "images", 200, "of --npy: test images, the first")
	layers := f.String("layers", "", "of --npy: `names` of layers, with commas (default: ends of blocks, mean and classifier)")
	f.StringVar(&a.source, "data", "", "of --npy: folder or archive of images (default: the checkpoint's)")
	f.StringVar(&a.backend, "backend", "", "of --npy: "+defaultBackend)
	if _, err := f.parse(args); err != nil {
		return err
	}
	switch {
	case *path == "":
		return usageError{errors.New("which checkpoint? -m FILE")}
	case *toONNX == "" && *toTorch == "" && a.dir == "":
		return usageError{errors.New("as what? --onnx FILE, --pytorch FILE or --npy FOLDER")}
	case *normalised && *toONNX == "":
		return usageError{errors.New("--normalised is for --onnx")}
	case a.images < 1:
		return usageError{fmt.Errorf("--images %d is below 1", a.images)}
	}
	if *layers != "" {
		a.layers = strings.Split(*layers, ",")
	}
	k, err := openModel(*path)
	if err != nil {
		return err
	}
	defer k.Close()
	if *toONNX != "" {
		if err := k.exportONNX(c, *toONNX, *normalised); err != nil {
			return err
		}
	}
	if *toTorch != "" {
		if err := k.exportTorch(c, *toTorch); err != nil {
			return err
		}
	}
	if a.dir != "" {
		return a.export(ctx, c, k)
	}
	return nil
}

func (o *opened) exportONNX(c console, to string, normalised bool) error {
	p, err := o.params("ref")
	if err != nil {
		return err
	}
	options := onnx.Options{Stats: &o.Data.Stats, Producer: "hypnos", Version: version(), Meta: map[string]string{
		"hypnos.step": strconv.FormatInt(o.State.Step, 10), "hypnos.data": o.Data.Name, "hypnos.classes": strings.Join(o.Data.Classes, ","),
	}}
	if normalised {
		options.Stats = nil
		maps.Copy(options.Meta, map[string]string{"hypnos.mean": fmt.Sprint(o.Data.Stats.Mean), "hypnos.std": fmt.Sprint(o.Data.Stats.Std)})
	}
	if err := model.Replace(to, func(w io.Writer) error { return onnx.Write(w, o.Net, p, options) }); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: %s of %s, ONNX operator set %d\n", to, o.Net.Name, o.path, onnx.OpSet)
	return nil
}

func (o *opened) exportTorch(c console, to string) error {
	p, err := o.params("ref")
	if err != nil {
		return err
	}
	all, err := torch.Params(o.Net, p, o.Data.Stats, o.Data.Classes)
	if err != nil {
		return err
	}
	if err := model.Save(to, all); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: %s of %s, %d tensors in PyTorch's layout\n", to, o.Net.Name, o.path, all.Len())
	return nil
}
