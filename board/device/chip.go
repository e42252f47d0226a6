package device

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"periph.io/x/conn/v3/i2c"
)

// chip is a chip on an I²C bus. The bus is opened when it is first needed, and closed after a failure, so that a chip that
// comes back is set up anew.
type chip struct {
	name  string // "tmp102 at 0x48 of /dev/i2c-1"
	open  func() (i2c.BusCloser, error)
	addr  uint16
	setup func(registers) error
	wait  func(time.Duration) // for a conversion

	record io.Closer // where the traffic is written, or nil

	mu    sync.Mutex
	bus   i2c.BusCloser
	known bool // it answered once: no longer absent, whatever happens
}

// silence is a transfer that failed: nothing answered, or the bus is stuck.
type silence struct{ error }

// registers reads and writes registers of 8 or 16 bits, the high byte first.
type registers struct {
	dev  i2c.Dev
	wait func(time.Duration)
}

func (r registers) read8(reg byte) (byte, error) {
	var b [1]byte
	if err := r.dev.Tx([]byte{reg}, b[:]); err != nil {
		return 0, silence{err}
	}
	return b[0], nil
}

func (r registers) read16(reg byte) (uint16, error) {
	var b [2]byte
	if err := r.dev.Tx([]byte{reg}, b[:]); err != nil {
		return 0, silence{err}
	}
	return uint16(b[0])<<8 | uint16(b[1]), nil
}

func (r registers) write8(reg, v byte) error {
	if err := r.dev.Tx([]byte{reg, v}, nil); err != nil {
		return silence{err}
	}
	return nil
}

func (r registers) write16(reg byte, v uint16) error {
	if err := r.dev.Tx([]byte{reg, byte(v >> 8), byte(v)}, nil); err != nil {
		return silence{err}
	}
	return nil
}

// do talks to the chip, which is set up first unless it is.
func (c *chip) do(talk func(registers) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := c.bus == nil
	if fresh {
		bus, err := c.open()
		if err != nil {
			var absent Absent
			if errors.As(err, &absent) && !c.known {
				return absent
			}
			return fmt.Errorf("%s: %w", c.name, plain(err))
		}
		c.bus = bus
	}
	r := registers{i2c.Dev{Bus: c.bus, Addr: c.addr}, c.wait}
	var err error
	if fresh && c.setup != nil {
		err = c.setup(r)
	}
	if err == nil {
		err = talk(r)
	}
	var mute silence
	switch {
	case err == nil:
		c.known = true
		return nil
	case errors.As(err, &mute) && !c.known:
		err = Absent(fmt.Sprintf("nothing answers: %s: %v", c.name, mute.error))
	default:
		if mute.error == nil { // it answers, with nonsense
			c.known = true
		}
		err = fmt.Errorf("%s: %w", c.name, err)
	}
	if closing := c.close(); closing != nil {
		err = fmt.Errorf("%w; %v", err, closing)
	}
	return err
}

// plain hides that an error was Absent: what was there once is broken, not absent.
func plain(err error) error {
	var absent Absent
	if errors.As(err, &absent) {
		return errors.New(string(absent))
	}
	return err
}

func (c *chip) close() error {
	if c.bus == nil {
		return nil
	}
	err := c.bus.Close()
	c.bus = nil
	return err
}

// Close closes the bus, and the file of its traffic.
func (c *chip) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.close()
	if c.record != nil {
		err = join(err, c.record.Close())
		c.record = nil
	}
	return err
}

func (c *chip) String() string { return c.name }
