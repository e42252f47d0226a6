// Package target has the devices under test behind one interface: this machine, an emulated processor, an emulated board, a real one.
package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"hypnos/hil/agent"
	"hypnos/hil/message"
)

// Target is a device under test. One caller uses it at a time.
type Target interface {
	// Boot starts the device, whose disk is as it was left, or empty after Erase. It returns when the device answers.
	Boot(ctx context.Context) error
	// Call has the device carry out a method of package message.
	Call(ctx context.Context, method string, params, result any) error
	// Cut takes its power away.
	Cut() error
	// Erase empties the disk of a device that is off.
	Erase() error
	// Can says whether the device has what a scenario needs; an error of one line says why not.
	Can(Capability) error
	// World is what is around it; nil without Sensors.
	World() World
	// Disturb damages a share of what goes over the line to the device from now on, by a generator of seed.
	Disturb(share float64, seed uint64)
	// Console is what it has printed, each line with the time.
	Console() string
	// Profile is the name of the board's profile, for the daemon's configuration.
	Profile() string
	Close() error
}

// Capability is something that scenarios need and not every target has.
type Capability string

// Capabilities.
const (
	Sensors  Capability = "sensors"   // a thermometer, lines and a light that the host sets and sees
	PowerCut Capability = "power cut" // its programs end at any moment, its disk stays
	Memory   Capability = "memory"    // of its own, which a power cut empties: what the system had not written to the disk is lost, too
	CutLog   Capability = "cut log"   // of a power cut, what was written after the last flush can be taken away
	Disk     Capability = "disk"      // one of its own that may be full, read-only or damaged
	Clock    Capability = "clock"     // its wall clock may be set
)

// Capabilities lists all.
var capabilities = []Capability{Sensors, PowerCut, Memory, CutLog, Disk, Clock}

// Check returns an error for an unknown capability.
func (c Capability) Check() error {
	for _, k := range capabilities {
		if c == k {
			return nil
		}
	}
	return fmt.Errorf("unknown capability %q (there are: %q)", c, capabilities)
}

// World is what is around a device.
type World interface {
	SetTemperature(celsius float64) error
	SetLine(name string, high bool) error // "wake" or "sleep"
	LED() (on bool, changes int)
}

// Storage is a disk of a device's own.
type Storage interface {
	// Mount mounts it where the daemon keeps its data.
	Mount(ctx context.Context, readOnly, again bool) error
	// Forget takes from the disk, of a device that is off, what was written after the last flush. It tells how many writes those were, and of
	// how many.
	Forget() (lost, writes int, err error)
}

// Identify asks a device who it is.
func Identify(ctx context.Context, t Target) (id message.Identity, err error) {
	err = t.Call(ctx, message.Identify, nil, &id)
	return id, err
}

// errOff is the error of calls to a device that is off.
var errOff = errors.New("target: the device is off")

// connection is an agent's, or nothing. It may be cut while others wait for an answer.
type connection struct {
	client atomic.Pointer[agent.Client]
	line   *line
}

func (c *connection) connect(conn io.ReadWriteCloser, o agent.Options) {
	c.line = &line{ReadWriteCloser: conn}
	o.Resend = time.Second
	c.client.Store(agent.NewClient(c.line, o))
}

// Call asks the agent. When it takes long, the line is tried in between: one that is dead is ErrDead.
func (c *connection) Call(ctx context.Context, method string, params, result any) error {
	client := c.client.Load()
	if client == nil {
		return errOff
	}
	ctx, cancel := context.WithTimeoutCause(ctx, answerTime, fmt.Errorf("the device does not answer for %v", answerTime))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		for {
			select {
			case <-time.After(tryTime):
			case <-ctx.Done():
				return
			}
			try, cancel := context.WithTimeout(ctx, tryTime)
			err := client.Call(try, message.Echo, "still there", new(string))
			cancel()
			if errors.Is(err, context.DeadlineExceeded) {
				stop(ErrDead)
				return
			}
		}
	}()
	return client.Call(ctx, method, params, result)
}

// ErrDead is that not even an echo comes back from a device: its line, or all of it, has come to a stop, whatever the daemon does.
var ErrDead = errors.New("the device is dead")

func (c *connection) disconnect() {
	if client := c.client.Swap(nil); client != nil {
		client.Close()
	}
}

func (c *connection) Disturb(share float64, seed uint64) {
	if c.line != nil {
		c.line.disturb(share, seed)
	}
}

// answers waits until the device does.
func (c *connection) answers(ctx context.Context) error {
	return c.Call(ctx, message.Echo, "hello", new(string))
}

// answerTime bounds how long a device may take for one request, tryTime for an echo.
const (
	answerTime = 3 * time.Minute
	tryTime    = 15 * time.Second
)

// bootTime bounds how long a device may take to answer after it was started.
const bootTime = 2 * time.Minute
