package target

import (
	"bytes"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// line is a connection that can be made a bad one: of blocks of 4 KiB that are written and read, a share loses bytes, is doubled, damaged or
// late.
type line struct {
	io.ReadWriteCloser

	mu    sync.Mutex
	share float64
	r     *rand.Rand
	rest  []byte // of a read
}

func (l *line) disturb(share float64, seed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.share, l.r = share, rand.New(rand.NewPCG(seed, 0))
}

// spoil does to b what a bad line does.
func (l *line) spoil(b []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(b) == 0 || l.share == 0 || l.r.Float64() >= l.share*float64(len(b))/4096 {
		return b
	}
	b = bytes.Clone(b)
	switch i := l.r.IntN(len(b)); l.r.IntN(4) {
	case 0: // drops
		return append(b[:i], b[min(len(b), i+1+l.r.IntN(16)):]...)
	case 1: // damages
		b[i] ^= 1 << l.r.IntN(8)
		return b
	case 2: // doubles
		return append(b, b...)
	default: // delays
		time.Sleep(time.Duration(l.r.IntN(50)) * time.Millisecond)
		return b
	}
}

func (l *line) Write(b []byte) (int, error) {
	if _, err := l.ReadWriteCloser.Write(l.spoil(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read is called by one goroutine.
func (l *line) Read(b []byte) (int, error) {
	for len(l.rest) == 0 {
		n, err := l.ReadWriteCloser.Read(b)
		l.rest = append(l.rest, l.spoil(b[:n])...)
		if err != nil && len(l.rest) == 0 {
			return 0, err
		}
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}
