package target

import (
	"bytes"
	"fmt"
	"sync"
	"time"
)

// console keeps what is printed, each line with the time; of much the end.
type console struct {
	mu    sync.Mutex
	text  bytes.Buffer
	start bool // the next byte does not begin a line
}

const consoleSize = 1 << 20

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		if !c.start {
			fmt.Fprintf(&c.text, "%s ", time.Now().Format("15:04:05.000"))
			c.start = true
		}
		if b == '\n' {
			c.start = false
		}
		if b >= ' ' || b == '\n' || b == '\t' {
			c.text.WriteByte(b)
		}
	}
	if c.text.Len() > 2*consoleSize {
		c.text.Next(c.text.Len() - consoleSize)
	}
	return len(p), nil
}

func (c *console) line(text []byte) { c.Write(append(bytes.TrimSpace(text), '\n')) }

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}
