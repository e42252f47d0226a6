package speed

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// peerRow is one line of JSON that a peer prints. A line of a layer that does not say what was measured is a forward
// pass. Other fields are the peer's own affair.
type peerRow struct {
	Impl    string  `json:"impl"`
	Layer   string  `json:"layer"`
	Net     string  `json:"net"`
	Batch   int     `json:"batch"`
	Threads int     `json:"threads"`
	What    string  `json:"what"`
	MS      float64 `json:"ms"`
}

// keys are the rows here that do the same work. A layer is compared locally connected; a peer whose name says that it
// is a convolution is compared with a convolution too.
func (p peerRow) keys() []Key {
	if p.Net != "" {
		return []Key{{Net, p.Net, p.Batch, p.What}}
	}
	keys := []Key{{LC, p.Layer, p.Batch, p.What}}
	if strings.Contains(p.Impl, "conv") {
		keys = append(keys, Key{Conv, p.Layer, p.Batch, p.What})
	}
	return keys
}

func (p peerRow) String() string {
	if p.Batch == 0 {
		return fmt.Sprintf("%s %s/%s", p.Impl, cmp.Or(p.Net, p.Layer), p.What)
	}
	return fmt.Sprintf("%s %s/%d/%s", p.Impl, cmp.Or(p.Net, p.Layer), p.Batch, p.What)
}

// runPeer runs a peer's command and reads its rows.
func runPeer(ctx context.Context, command string) ([]peerRow, error) {
	shell := []string{"sh", "-c"}
	if runtime.GOOS == "windows" {
		shell = []string{"cmd", "/c"}
	}
	c := exec.CommandContext(ctx, shell[0], shell[1], command)
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 5 * time.Second
	var complaints bytes.Buffer
	c.Stderr = &complaints
	out, err := c.Output()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("speed: peer %q: %w%s", command, err, lastLine(complaints.String()))
	}
	rows, err := parsePeer(string(out))
	if err != nil {
		return nil, fmt.Errorf("speed: peer %q: %w", command, err)
	}
	return rows, nil
}

// lastLine is the last line of what a peer complained about, as the end of a message.
func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return ": " + last
	}
	return ""
}

// parsePeer reads the lines of JSON in a peer's output; others are passed over.
func parsePeer(out string) ([]peerRow, error) {
	var rows []peerRow
	lines := bufio.NewScanner(strings.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if !strings.HasPrefix(line, "{") {
			continue
		}
		var p peerRow
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if p.What == "" && p.Layer != "" {
			p.What = Forward
		}
		switch {
		case p.Impl == "":
			return nil, fmt.Errorf("line %d: no impl", number)
		case (p.Layer == "") == (p.Net == ""):
			return nil, fmt.Errorf("line %d: want a layer or a net", number)
		case !(p.MS > 0) || math.IsInf(p.MS, 0):
			return nil, fmt.Errorf("line %d: ms = %v is not above 0", number, p.MS)
		}
		for _, o := range rows {
			if o.String() == p.String() {
				return nil, fmt.Errorf("line %d: %s is there twice", number, p)
			}
		}
		rows = append(rows, p)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("printed no lines of JSON")
	}
	return rows, nil
}

// Comparison is what came out of the rounds with one peer.
type Comparison struct {
	Command   string      `json:"command"`
	Rounds    int         `json:"rounds"`
	Pairs     []Pair      `json:"pairs"`
	Means     []Mean      `json:"geometric_means"`
	Unmatched []Unmatched `json:"unmatched,omitempty"`
}

// Pair is one work done by a peer and here, a measurement of each every round.
type Pair struct {
	Impl   string    `json:"impl"`
	Ours   Key       `json:"ours"`
	OursMS []float64 `json:"ours_ms"` // by round
	PeerMS []float64 `json:"peer_ms"`
	Ratio  Spread    `json:"ratio"` // time of the peer / time here, pair by pair
}

// Mean is the geometric mean of the ratios of all shapes, round by round.
type Mean struct {
	Impl   string `json:"impl"`
	Kind   string `json:"ours"`
	Batch  int    `json:"batch"`
	What   string `json:"what"`
	Shapes int    `json:"shapes"`    // in the mean
	Of     int    `json:"of_shapes"` // that there are
	Ratio  Spread `json:"ratio"`
}

// Unmatched is a row of a peer with nothing here to compare it with.
type Unmatched struct {
	Row    string `json:"row"`
	Reason string `json:"reason"`
}

// unmatched notes a row once.
func (c *Comparison) unmatched(row, reason string) {
	if u := (Unmatched{row, reason}); !slices.Contains(c.Unmatched, u) {
		c.Unmatched = append(c.Unmatched, u)
	}
}

// match finds for each row of a peer the keys to measure here. Rows and keys that cannot be compared are noted.
func (c *Comparison) match(rows []peerRow, threads int, shapes []Shape, wanted func(Key) bool) map[int][]Key {
	matched := map[int][]Key{}
	for i, p := range rows {
		if p.Threads != 0 && p.Threads != threads {
			c.unmatched(p.String(), fmt.Sprintf("measured with %d threads, here are %d", p.Threads, threads))
			continue
		}
		for _, k := range p.keys() {
			if _, err := k.network(shapes); err != nil {
				c.unmatched(p.String(), strings.TrimPrefix(err.Error(), "speed: "))
			} else if !wanted(k) {
				c.unmatched(p.String(), fmt.Sprintf("%s is not asked for", k))
			} else {
				matched[i] = append(matched[i], k)
			}
		}
	}
	return matched
}

// add adds one round: the peer's rows and the milliseconds here by key. Keys without were skipped.
func (c *Comparison) add(rows []peerRow, matched map[int][]Key, ours map[Key]float64) {
	for i, p := range rows {
		for _, k := range matched[i] {
			ms, ok := ours[k]
			if !ok {
				c.unmatched(p.String(), fmt.Sprintf("%s was skipped", k))
				continue
			}
			at := slices.IndexFunc(c.Pairs, func(q Pair) bool { return q.Impl == p.Impl && q.Ours == k })
			if at < 0 {
				at = len(c.Pairs)
				c.Pairs = append(c.Pairs, Pair{Impl: p.Impl, Ours: k})
			}
			q := &c.Pairs[at]
			q.OursMS, q.PeerMS = append(q.OursMS, ms), append(q.PeerMS, p.MS)
			q.Ratio = spreadOf(ratios(q.PeerMS, q.OursMS))
		}
	}
}

// summarise computes the geometric means over shapes.
func (c *Comparison) summarise(shapes int) {
	c.Means = nil
	type group struct {
		impl, kind string
		batch      int
		what       string
	}
	var order []group
	members := map[group][]Pair{}
	for _, p := range c.Pairs {
		if p.Ours.Kind == Net {
			continue
		}
		g := group{p.Impl, p.Ours.Kind, p.Ours.Batch, p.Ours.What}
		if members[g] == nil {
			order = append(order, g)
		}
		members[g] = append(members[g], p)
	}
	for _, g := range order {
		var means []float64
		for round := range c.Rounds {
			sum, n := 0.0, 0
			for _, p := range members[g] {
				if round < len(p.OursMS) {
					sum += math.Log(p.PeerMS[round] / p.OursMS[round])
					n++
				}
			}
			if n == len(members[g]) { // a mean over fewer shapes would be another quantity
				means = append(means, math.Exp(sum/float64(n)))
			}
		}
		if len(means) > 0 {
			c.Means = append(c.Means, Mean{g.impl, g.kind, g.batch, g.what, len(members[g]), shapes, spreadOf(means)})
		}
	}
}

// compare runs the peer and the same work here in alternation.
func (b *bench) compare(ctx context.Context, command string, rounds int, shapes []Shape, wanted func(Key) bool, t *table) (Comparison, []Skipped, error) {
	c := Comparison{Command: command, Rounds: rounds}
	var skipped []Skipped
	for round := range rounds {
		t.progress("round %d of %d: peer", round+1, rounds)
		rows, err := runPeer(ctx, command)
		if err != nil {
			return c, nil, err
		}
		matched := c.match(rows, b.threads, shapes, wanted)
		var keys []Key
		for i := range rows {
			keys = append(keys, matched[i]...)
		}
		t.progress("round %d of %d: %d rows here", round+1, rounds, len(keys))
		ours := map[Key]float64{}
		all, _ := subjects(keys, shapes) // match has left out what is unknown
		for _, s := range all {
			err := b.measure(ctx, s, false, func(r Row) { ours[r.Key] = r.MS.Median }, func(s Skipped) { skipped = append(skipped, s) })
			if err != nil {
				return c, nil, err
			}
		}
		c.add(rows, matched, ours)
	}
	if len(c.Pairs) == 0 {
		return c, nil, fmt.Errorf("speed: peer %q: none of its rows is measured here: %s: %s", command, c.Unmatched[0].Row, c.Unmatched[0].Reason)
	}
	c.summarise(len(shapes))
	return c, skipped, nil
}
