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
)

func exportCommand(_ context.Context, c console, args []string) error {
	f := newFlags(c, "export", "-m FILE --onnx FILE", `
Writes the network of a checkpoint, or of an edge package as the numbers that its integers stand for, as an ONNX model for other
programs. Locally connected layers are expressed with standard operators (docs/EXPORT.md). The model takes "images",
float32 (batch, channels, rows, columns), pixels in 0…1, and gives "output", (batch, classes).

Examples:
  hypnos export -m runs/sample-resnet8-lc-ws10/checkpoint.safetensors --onnx lc.onnx
  hypnos export -m edge.hyp --onnx edge.onnx
  hypnos export -m a.safetensors --onnx a.onnx --normalised`)
	path := f.String("m", "", "checkpoint or edge package `file`")
	to := f.String("onnx", "", "`file` to write")
	normalised := f.Bool("normalised", false, "the model takes images that are normalised already: pixel in 0…1 - mean, by the standard deviation, of each channel")
	if _, err := f.parse(args); err != nil {
		return err
	}
	switch {
	case *path == "":
		return usageError{errors.New("which checkpoint? -m FILE")}
	case *to == "":
		return usageError{errors.New("where to? --onnx FILE")}
	}
	k, err := openModel(*path)
	if err != nil {
		return err
	}
	defer k.Close()
	p, err := k.params("ref")
	if err != nil {
		return err
	}
	o := onnx.Options{Stats: &k.Data.Stats, Producer: "hypnos", Version: version(), Meta: map[string]string{
		"hypnos.step": strconv.FormatInt(k.State.Step, 10), "hypnos.data": k.Data.Name, "hypnos.classes": strings.Join(k.Data.Classes, ","),
	}}
	if *normalised {
		o.Stats = nil
		maps.Copy(o.Meta, map[string]string{"hypnos.mean": fmt.Sprint(k.Data.Stats.Mean), "hypnos.std": fmt.Sprint(k.Data.Stats.Std)})
	}
	if err := model.Replace(*to, func(w io.Writer) error { return onnx.Write(w, k.Net, p, o) }); err != nil {
		return err
	}
	fmt.Fprintf(c.Out, "%s: %s of %s, ONNX operator set %d\n", *to, k.Net.Name, *path, onnx.OpSet)
	return nil
}
