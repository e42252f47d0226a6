package hil

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"hypnos/hil/compute"
	"hypnos/hil/emulator"
	"hypnos/hil/message"
)

// Costs are instructions of an emulated arm64 processor, by network and work. They are no time of any board.
type Costs struct {
	Go     string         `json:"go"`     // version of the compiler
	Kernel string         `json:"kernel"` // of Linux
	Costs  []compute.Cost `json:"costs"`  // a nanosecond is an instruction
}

// CountCosts counts the instructions of a small network's inference, wake step and sleeps, twice. That the counts differ is an error.
func CountCosts(ctx context.Context, source, cache string, tools emulator.Tools) (*Costs, error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cache, "count")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	p := programs{source: source, dir: dir}
	tool, err := p.build("cmd/hypnos", hostArch())
	if err != nil {
		return nil, err
	}
	packages, err := packagesOf(cache, tool)
	if err != nil {
		return nil, err
	}
	guest, err := p.build("hil/guest", "arm64")
	if err != nil {
		return nil, err
	}
	var runs [2]string
	for i := range runs {
		runs[i], err = tools.Counted(ctx, dir, guest, map[string]string{"hil/v1.hyp": packages["v1.hyp"]}, message.LifeArgument+"/hil/v1.hyp", message.CostsLine)
		if err != nil {
			return nil, err
		}
	}
	if runs[0] != runs[1] {
		return nil, fmt.Errorf("hil: the counts differ from run to run: %s; %s", runs[0], runs[1])
	}
	c := &Costs{Go: goVersion()}
	if c.Kernel, err = tools.Kernel().Release(); err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(runs[0]), &c.Costs); err != nil {
		return nil, fmt.Errorf("hil: counts: %w", err)
	}
	if len(c.Costs) == 0 {
		return nil, errors.New("hil: nothing was counted")
	}
	return c, nil
}

// ReadCosts reads what WriteJSON wrote.
func ReadCosts(path string) (*Costs, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := &Costs{}
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("hil: %s: %w", path, err)
	}
	return c, nil
}

// WriteJSON writes the counts.
func (c *Costs) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "\t")
	return e.Encode(c)
}

// Write shows the counts beside those of before, which may be nil.
func (c *Costs) Write(w io.Writer, before *Costs) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "network\twork\tinstructions\tbefore\tchange\t")
	for _, x := range c.Costs {
		fmt.Fprintf(t, "%s\t%s\t%d\t", x.Network, x.Work, x.Took)
		if was, ok := before.find(x); ok {
			fmt.Fprintf(t, "%d\t%+.2f %%\t\n", was, 100*(float64(x.Took)/float64(was)-1))
		} else {
			fmt.Fprint(t, "\t\t\n")
		}
	}
	return t.Flush()
}

func (c *Costs) find(x compute.Cost) (time.Duration, bool) {
	if c == nil {
		return 0, false
	}
	i := slices.IndexFunc(c.Costs, func(y compute.Cost) bool { return y.Network == x.Network && y.Work == x.Work })
	if i < 0 || c.Costs[i].Took <= 0 {
		return 0, false
	}
	return c.Costs[i].Took, true
}

// Explain says what may have changed the counts, if any has changed.
func (c *Costs) Explain(before *Costs) []string {
	if slices.Equal(c.Costs, before.Costs) {
		return []string{"nothing has changed"}
	}
	var why []string
	if c.Go != before.Go {
		why = append(why, fmt.Sprintf("compiled by %s, before by %s", c.Go, before.Go))
	}
	if c.Kernel != before.Kernel {
		why = append(why, fmt.Sprintf("on Linux %s, before on %s: its interrupts count, too", c.Kernel, before.Kernel))
	}
	if len(why) == 0 {
		why = append(why, "compiler and kernel are the same: it is our code, or a dependency's")
	}
	return why
}

// Grown are the works that take more instructions than before, by more than a share.
func (c *Costs) Grown(before *Costs, share float64) (works []string) {
	for _, x := range c.Costs {
		if was, ok := before.find(x); ok && !(float64(x.Took) <= float64(was)*(1+share)) {
			works = append(works, x.Work)
		}
	}
	return works
}
