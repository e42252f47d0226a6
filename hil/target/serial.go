package target

import (
	"context"
	"fmt"
	"io"

	"go.bug.st/serial"
)

// Serial reaches a board by a serial line, at whose other end a guest serves.
type Serial struct {
	Port string
	Baud int
}

// Dial opens the line: 8 bits, no parity, one stop bit.
func (s Serial) Dial(context.Context, io.Writer) (io.ReadWriteCloser, error) { return s.open() }

// Console opens it to listen.
func (s Serial) Console() (io.ReadCloser, error) { return s.open() }

func (s Serial) open() (io.ReadWriteCloser, error) {
	p, err := serial.Open(s.Port, &serial.Mode{BaudRate: s.Baud})
	if err != nil {
		return nil, fmt.Errorf("serial line %s, %d baud: %w", s.Port, s.Baud, err)
	}
	return p, nil
}
