package net

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Summary tells the size of a network.
type Summary struct {
	Network string         `json:"network"`
	Input   Shape          `json:"input"`
	Output  Shape          `json:"output"`
	Layers  []LayerSummary `json:"layers"`
	// Weights counts the weights of conv2d and lc2d layers, the figure the paper's sizes are given in; Linear those
	// of linear layers with their biases; Params all trained parameters; Statistics the running statistics.
	Weights    int64 `json:"weights"`
	Linear     int64 `json:"linear"`
	Params     int64 `json:"params"`
	Statistics int64 `json:"statistics"`
	// MACs is the number of multiply-adds of one image's inference, zero-padded taps not counted.
	MACs int64 `json:"macs"`
	// Bytes is the size of the weights (conv2d and lc2d) by precision; Adam that of Adam's float32 state, four
	// numbers a weight: weight, gradient and two moments.
	Bytes map[string]int64 `json:"bytes"`
}

// LayerSummary tells the size of one node.
type LayerSummary struct {
	Name    string `json:"name"`
	Op      string `json:"op"`
	In      Shape  `json:"in"`
	Out     Shape  `json:"out"`
	Kernel  int    `json:"kernel,omitempty"`
	Stride  int    `json:"stride,omitempty"`
	Groups  int    `json:"groups,omitempty"`
	Patches bool   `json:"patches,omitempty"` // windows without padding
	Params  int64  `json:"params"`            // trained parameters and running statistics
	MACs    int64  `json:"macs"`
}

// window notes the geometry of a spatial layer.
func (l *LayerSummary) window(w Window) {
	l.Kernel, l.Stride, l.Groups, l.Patches = w.Kernel, w.Stride, w.Groups, w.Patches
}

// precisions are the number formats of Summary.Bytes with the bytes that one weight takes.
func precisions() []struct {
	Name  string
	Bytes int64
} {
	return []struct {
		Name  string
		Bytes int64
	}{{"float32", 4}, {"int16", 2}, {"int8", 1}, {"adam_float32", 16}}
}

// Summary computes the network's sizes.
func (n *Network) Summary() Summary {
	s := Summary{Network: n.Name, Input: n.Input(), Output: n.Output(), Bytes: map[string]int64{}}
	for _, v := range n.Nodes {
		l := LayerSummary{Name: v.Name, Op: v.Op.Kind(), In: v.In, Out: v.Out}
		l.MACs = v.Op.macs(v.In, v.Out)
		s.MACs += l.MACs
		switch op := v.Op.(type) {
		case Conv2D:
			l.window(op.Window)
		case LC2D:
			l.window(op.Window)
		case MaxPool:
			l.Kernel, l.Stride = op.Kernel, op.Stride
		}
		for _, p := range v.Params {
			size := int64(p.Len())
			l.Params += size
			if !p.Trained() {
				s.Statistics += size
				continue
			}
			s.Params += size
			switch v.Op.(type) {
			case Conv2D, LC2D:
				if p.Role == Weight {
					s.Weights += size
				}
			case Linear:
				s.Linear += size
			}
		}
		s.Layers = append(s.Layers, l)
	}
	for _, p := range precisions() {
		s.Bytes[p.Name] = s.Weights * p.Bytes
	}
	return s
}

// WriteText writes the summary as a table for people.
func (s Summary) WriteText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "layer\top\tkernel\tin\tout\tparameters\tmultiply-adds\n")
	for _, l := range s.Layers {
		kernel := "-"
		if l.Kernel > 0 {
			kernel = fmt.Sprintf("%dx%d", l.Kernel, l.Kernel)
			if l.Stride > 1 {
				kernel += fmt.Sprintf("/%d", l.Stride)
			}
			if l.Groups > 1 {
				kernel += fmt.Sprintf(" g%d", l.Groups)
			}
			if l.Patches {
				kernel += " patches"
			}
		}
		in := l.In.String()
		if l.In == (Shape{}) {
			in = "-"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Op, kernel, in, l.Out, count(l.Params), count(l.MACs))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var sizes []string
	for _, p := range precisions() {
		sizes = append(sizes, fmt.Sprintf("%s %s", strings.Replace(p.Name, "_", " ", 1), megabytes(s.Bytes[p.Name])))
	}
	_, err := fmt.Fprintf(w, "\n%s: %s weights + %s linear (%s parameters), %s multiply-adds an image\nweights: %s\n",
		s.Network, group(s.Weights), group(s.Linear), group(s.Params), count(s.MACs), strings.Join(sizes, ", "))
	return err
}

// count prints a number with a decimal unit, three digits: 40.8M.
func count(n int64) string {
	switch f := float64(n); {
	case n == 0:
		return "-"
	case n < 1e4:
		return fmt.Sprint(n)
	case n < 1e6:
		return fmt.Sprintf("%.1fk", f/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1fM", f/1e6)
	default:
		return fmt.Sprintf("%.2fG", f/1e9)
	}
}

// megabytes prints a size in decimal megabytes, as the paper's table of sizes does.
func megabytes(n int64) string {
	switch f := float64(n); {
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", f/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.0f MB", f/1e6)
	default:
		return fmt.Sprintf("%.2f GB", f/1e9)
	}
}

// group prints a number with commas between thousands.
func group(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
