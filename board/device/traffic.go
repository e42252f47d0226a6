package device

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"periph.io/x/conn/v3/i2c"
	"periph.io/x/conn/v3/physic"
)

// Transfer is one transaction on an I²C bus: bytes written, then bytes read, or why it failed. As text it is one line,
//
//	48 w 01 r 60a0
//	48 w 00 r 2 ! remote I/O error
//
// the address, what was written and what was read in hexadecimal; a failed one has the number of bytes that were to be read.
type Transfer struct {
	Addr uint16
	W, R []byte // R is zeros when it failed
	Err  string
}

func (t Transfer) String() string {
	s := fmt.Sprintf("%02x", t.Addr)
	if len(t.W) > 0 {
		s += fmt.Sprintf(" w %x", t.W)
	}
	switch {
	case t.Err != "":
		s += fmt.Sprintf(" r %d ! %s", len(t.R), strings.ReplaceAll(t.Err, "\n", " "))
	case len(t.R) > 0:
		s += fmt.Sprintf(" r %x", t.R)
	}
	return s
}

// ReadTraffic reads what a recorder wrote. Empty lines, and lines that begin with #, are left out.
func ReadTraffic(r io.Reader) ([]Transfer, error) {
	var all []Transfer
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		t, err := parseTransfer(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %q: %w", n, text, err)
		}
		all = append(all, t)
	}
	return all, lines.Err()
}

func parseTransfer(text string) (t Transfer, err error) {
	text, t.Err, _ = strings.Cut(text, " ! ")
	fields := strings.Fields(text)
	addr, err := strconv.ParseUint(fields[0], 16, 16)
	if err != nil {
		return t, err
	}
	t.Addr = uint16(addr)
	for fields = fields[1:]; len(fields) >= 2; fields = fields[2:] {
		switch {
		case fields[0] == "w":
			t.W, err = hex.DecodeString(fields[1])
		case fields[0] == "r" && t.Err != "":
			var n uint64
			n, err = strconv.ParseUint(fields[1], 10, 12)
			t.R = make([]byte, n)
		case fields[0] == "r":
			t.R, err = hex.DecodeString(fields[1])
		default:
			err = errors.New("want ADDRESS w HEX r HEX")
		}
		if err != nil {
			return t, err
		}
	}
	if len(fields) > 0 {
		err = errors.New("want ADDRESS w HEX r HEX")
	}
	return t, err
}

// recorder writes the traffic of a bus down, a line at once, so that a crash loses none.
type recorder struct {
	i2c.BusCloser
	mu *sync.Mutex
	w  io.Writer
}

func (r recorder) Tx(addr uint16, w, read []byte) error {
	err := r.BusCloser.Tx(addr, w, read)
	t := Transfer{Addr: addr, W: w, R: read}
	if err != nil {
		t.Err = err.Error()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, writing := fmt.Fprintln(r.w, t); writing != nil && err == nil {
		return fmt.Errorf("recording: %w", writing)
	}
	return err
}

// Recorded returns buses whose traffic goes to w as well, also when the bus is opened again.
func Recorded(open func() (i2c.BusCloser, error), w io.Writer) func() (i2c.BusCloser, error) {
	mu := &sync.Mutex{}
	return func() (i2c.BusCloser, error) {
		bus, err := open()
		if err != nil {
			return nil, err
		}
		return recorder{bus, mu, w}, nil
	}
}

// playback is a bus that answers as the recorded one did, and only to the same transactions in the same order.
type playback struct {
	mu   sync.Mutex
	left []Transfer
	done int
}

// Playback returns a bus that plays traffic; when it is opened again it goes on where it was.
func Playback(traffic []Transfer) func() (i2c.BusCloser, error) {
	p := &playback{left: traffic}
	return func() (i2c.BusCloser, error) { return p, nil }
}

// PlaybackFile plays a file.
func PlaybackFile(path string) (func() (i2c.BusCloser, error), error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("device: playback: %w", err)
	}
	defer f.Close()
	traffic, err := ReadTraffic(f)
	if err != nil {
		return nil, fmt.Errorf("device: playback %s: %w", path, err)
	}
	return Playback(traffic), nil
}

func (p *playback) Tx(addr uint16, w, r []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) == 0 {
		return fmt.Errorf("playback: ends after %d transfers", p.done)
	}
	t := p.left[0]
	if t.Addr != addr || !bytes.Equal(t.W, w) || len(t.R) != len(r) {
		return fmt.Errorf("playback: transfer %d is %v, not %v", p.done+1, t, Transfer{Addr: addr, W: w, R: make([]byte, len(r))})
	}
	p.left, p.done = p.left[1:], p.done+1
	if t.Err != "" {
		return errors.New(t.Err)
	}
	copy(r, t.R)
	return nil
}

func (p *playback) String() string                  { return "playback" }
func (p *playback) SetSpeed(physic.Frequency) error { return nil }
func (p *playback) Close() error                    { return nil }
