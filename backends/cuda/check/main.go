//go:build cuda && cgo && linux && amd64

// Command check runs the CUDA kernels on a GPU at the sizes of the paper's networks: first whether every version
// computes the right numbers, then how long it takes, against what the same device reaches in copies and in chains of
// multiply-adds in the same run. It prints a table and writes JSON. make cuda-check runs it.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"time"

	"hypnos/backends/cuda/internal/driver"
	"hypnos/core/model"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cuda check:", err)
		os.Exit(1)
	}
}

// result is what is written as JSON.
type result struct {
	Device   string    `json:"device"`
	Date     time.Time `json:"date"`
	Seed     uint64    `json:"seed"`
	Small    bool      `json:"small,omitempty"` // sizes at which times mean nothing
	Ceilings []ceiling `json:"ceilings"`
	Rows     []row     `json:"rows"`
}

// row is one kernel at one size.
type row struct {
	Kernel string `json:"kernel"`
	Size   string `json:"size"`
	// Worst is the largest error as a share of its bound: at most 1 where the kernel is right.
	Worst float64 `json:"worst_error_of_bound"`
	Right bool    `json:"right"`
	MS    float64 `json:"ms"` // a launch: the median of the samples
	GBs   float64 `json:"gb_s,omitempty"`
	// Share is the least time at the ceiling that binds, as a share of the time measured.
	Share float64 `json:"share"`
	Binds string  `json:"binds"`
	// Peers are the milliseconds of the same work elsewhere, by form.
	Peers map[string]float64 `json:"peers,omitempty"`
}

func run(args []string, out io.Writer) error {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	device := flags.Int("device", 0, "number of the device")
	path := flags.String("json", "cuda-check.json", "file to write; \"\" writes none")
	peer := flags.String("peer", "", "command that measures the same elsewhere, as peer.py does")
	small := flags.Bool("small", false, "small sizes and few samples, for an emulated device; its times mean nothing")
	if err := flags.Parse(args); err != nil {
		return err
	}
	peers, err := measured(*peer)
	if err != nil {
		return err
	}
	d, err := driver.Open(*device)
	if err != nil {
		return err
	}
	defer d.Close()
	r := result{Device: d.Info().String(), Date: time.Now().UTC(), Seed: 1, Small: *small}
	fmt.Fprintf(out, "%s; seed %d\n\n", r.Device, r.Seed)
	b, err := newBench(d, r.Seed, *small)
	if err != nil {
		return err
	}
	if r.Ceilings, err = b.ceilings(); err != nil {
		return err
	}
	for _, c := range r.Ceilings {
		fmt.Fprintf(out, "%-14s %10.1f %s\n", c.Name, c.Rate, c.Unit)
	}
	fmt.Fprintf(out, "\n%-34s %-18s %8s %6s %10s %9s %7s  %-5s %s\n", "kernel", "size", "error", "right", "ms", "GB/s", "share", "of", "times as fast as")
	wrong := 0
	add := func(row row) {
		row.Peers = peers[row.Kernel+"/"+row.Size]
		r.Rows = append(r.Rows, row)
		right := "yes"
		if !row.Right {
			right, wrong = "NO", wrong+1
		}
		fmt.Fprintf(out, "%-34s %-18s %8.3f %6s %10.4f %9.1f %6.1f%%  %-5s%s\n", row.Kernel, row.Size, row.Worst, right, row.MS, row.GBs,
			100*row.Share, row.Binds, row.comparison())
	}
	for _, s := range b.subjects() {
		row, err := b.measure(s)
		if err != nil {
			return fmt.Errorf("%s at %s: %w", s.kernel, s.size, err)
		}
		add(row)
	}
	for _, row := range together(r.Rows) {
		add(row)
	}
	fmt.Fprintln(out, "\nerror: the largest one as a share of its bound; share: least time at the ceiling that binds, of the time measured;\n"+
		"window_T: forward and both gradients, each in its fastest version")
	if *path != "" {
		if err := write(*path, r); err != nil {
			return err
		}
	}
	if wrong > 0 {
		return fmt.Errorf("%d kernels are wrong", wrong)
	}
	return nil
}

// comparison is how many times as fast as each peer the row is.
func (r row) comparison() (text string) {
	for _, form := range slices.Sorted(maps.Keys(r.Peers)) {
		text += fmt.Sprintf(" %.2f %s", r.Peers[form]/r.MS, form)
	}
	return text
}

// measured runs a peer and returns its milliseconds by row and form.
func measured(command string) (map[string]map[string]float64, error) {
	if command == "" {
		return nil, nil
	}
	c := exec.Command("sh", "-c", command)
	c.Stderr = os.Stderr
	lines, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("peer %q: %w", command, err)
	}
	rows := map[string]map[string]float64{}
	for decoder := json.NewDecoder(bytes.NewReader(lines)); decoder.More(); {
		var line struct {
			Name, Form string
			MS         float64
		}
		if err := decoder.Decode(&line); err != nil {
			return nil, fmt.Errorf("peer %q: %w", command, err)
		}
		if rows[line.Name] == nil {
			rows[line.Name] = map[string]float64{}
		}
		rows[line.Name][line.Form] = line.MS
	}
	return rows, nil
}

func write(path string, r result) error {
	return model.Replace(path, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	})
}
