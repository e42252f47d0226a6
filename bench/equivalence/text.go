package equivalence

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"hypnos/core/net"
)

// digest is the SHA-256 of parameters as float64, little-endian, in the order of net.Params.
func digest(n *net.Network, w numbers) string {
	h := sha256.New()
	for _, q := range n.Params() {
		binary.Write(h, binary.LittleEndian, w[q.Name])
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// WriteText writes a table, within 120 columns: of every check the row nearest to its bound, or every row.
func (r *Result) WriteText(w io.Writer, every bool) error {
	fmt.Fprintf(w, "%s (%s) on %s\n", r.Network, r.Origin, r.Data)
	fmt.Fprintf(w, "%d steps at batch 1, learning rate %g, %s sleep every %d; seed %d; steps with bounds: %d\n\n",
		r.Steps, r.Rate, r.Rule, r.Every, r.Seed, r.Checked)
	t := tabwriter.NewWriter(w, 0, 0, 1, ' ', 0)
	fmt.Fprint(t, "backend\tcheck\tlayer\tlargest\tat\trelative\tbound\tratio\tsat.\twhy\n")
	for _, g := range r.groups() {
		row := g.worst
		for _, row := range g.rows {
			if every {
				writeRow(t, row, 1)
			}
		}
		if !every {
			writeRow(t, row, len(g.rows))
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, "\nbackend\n")
	for _, b := range r.Backends {
		fmt.Fprintf(w, "  %-24s %-8s top-1 %.2f%% before, %.2f%% after; loss %.4f; weights %.16s\n", b.Name, b.Format, 100*b.Before, 100*b.Top1, b.Loss, b.Digest)
	}
	verdict := "every bound holds"
	if n := len(r.Violated); n > 0 {
		verdict = fmt.Sprintf("%d bounds VIOLATED", n)
	}
	_, err := fmt.Fprintf(w, "\n%s (%d comparisons); %d test images; %.0f s\n", verdict, len(r.Rows), r.Images, r.Seconds)
	return err
}

// group are the rows of one check of one backend.
type group struct {
	rows  []Row
	worst Row
}

// groups are the rows by backend and check, in their order; worst is the one nearest to its bound, or beyond.
func (r *Result) groups() []*group {
	type key struct{ backend, against, check string }
	index := map[key]*group{}
	var all []*group
	for _, row := range r.Rows {
		k := key{row.Backend, row.Against, row.Check}
		g := index[k]
		if g == nil {
			g = &group{worst: row}
			index[k] = g
			all = append(all, g)
		}
		g.rows = append(g.rows, row)
		if rank(row) > rank(g.worst) {
			g.worst = row
		}
	}
	return all
}

// rank orders rows by their distance from the bound.
func rank(r Row) float64 {
	switch {
	case r.Violated || r.Ratio == nil:
		return math.Inf(1)
	case *r.Largest > 0:
		return 1 + *r.Ratio
	}
	return 0
}

func writeRow(w io.Writer, r Row, of int) {
	layer, against, mark := r.Layer, "", ""
	if layer == "" {
		layer = r.Tensor
	}
	if of > 1 {
		layer += fmt.Sprintf(" /%d", of)
	}
	if r.Against != "exact" {
		against = " : " + r.Against
	}
	if r.Violated {
		mark = " VIOLATED"
	}
	fmt.Fprintf(w, "%s%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%d\t%s%s\n", r.Backend, against, r.Check, layer, number(r.Largest), r.Index,
		number(r.Relative), number(r.Bound), number(r.Ratio), r.Saturated, r.Why, mark)
}

func number(v *float64) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprintf("%.2g", *v)
}
