// Package emulator runs boards under QEMU: their kernel and initramfs, what happens on their buses and lines, their disks and the loss of
// power. What it measures is emulated, never a board's.
package emulator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options of Start.
type Options struct {
	Program string   // of QEMU
	Args    []string // beside those for consoles and sockets
	Dir     string   // for sockets; its path is short enough for them
	Serial  []string // what the machine's serial ports are: "console", "line" or "none", in order; or a line elsewhere: Port
	Port    []string // arguments that connect the chardev "line" if no serial port does
	Console io.Writer
	// Snapshot, when it is not "", is a file of Save, in place of starting.
	Snapshot string
}

// Machine is a running emulator.
type Machine struct {
	process *exec.Cmd
	ended   chan struct{}
	qmp     *qmp
	qtest   *qtest
	line    net.Conn
}

// Start starts a machine. With a snapshot it stands still until Continue.
func Start(ctx context.Context, o Options) (m *Machine, err error) {
	socket := func(name string) string { return filepath.Join(o.Dir, name) }
	for _, name := range []string{"qmp", "qtest", "line"} {
		os.Remove(socket(name))
	}
	args := append([]string{}, o.Args...)
	args = append(args, "-display", "none", "-no-reboot", "-monitor", "none", "-nic", "none", "-qtest-log", "none",
		"-qmp", "unix:"+socket("qmp")+",server=on,wait=off", "-qtest", "unix:"+socket("qtest")+",server=on,wait=off",
		"-chardev", "stdio,id=console,signal=off", "-chardev", "socket,id=line,path="+socket("line")+",server=on,wait=off")
	for _, s := range o.Serial {
		if s == "none" {
			args = append(args, "-serial", "null")
		} else {
			args = append(args, "-serial", "chardev:"+s)
		}
	}
	args = append(args, o.Port...)
	if o.Snapshot != "" {
		args = append(args, "-incoming", "file:"+o.Snapshot)
	}
	m = &Machine{process: exec.Command(o.Program, args...), ended: make(chan struct{})}
	m.process.Stdout, m.process.Stderr = o.Console, o.Console
	m.process.SysProcAttr = dieWithParent()
	if err := m.process.Start(); err != nil {
		return nil, fmt.Errorf("emulator: %w", err)
	}
	go func() { m.process.Wait(); close(m.ended) }()
	defer func() {
		if err != nil {
			m.Kill()
		}
	}()
	control, err := m.dial(ctx, socket("qmp"))
	if err != nil {
		return nil, err
	}
	if m.qmp, err = newQMP(control); err != nil {
		return nil, err
	}
	test, err := m.dial(ctx, socket("qtest"))
	if err != nil {
		return nil, err
	}
	m.qtest = newQTest(test)
	if m.line, err = m.dial(ctx, socket("line")); err != nil {
		return nil, err
	}
	return m, nil
}

// dial connects to a socket that the emulator is about to make.
func (m *Machine) dial(ctx context.Context, path string) (net.Conn, error) {
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			return c, nil
		}
		select {
		case <-m.ended:
			return nil, errors.New("emulator: QEMU ended at once; its console says why")
		case <-ctx.Done():
			return nil, fmt.Errorf("emulator: %s: %w", path, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Line is the connection to the guest's side of the line.
func (m *Machine) Line() net.Conn { return m.line }

// Ended is closed when the emulator has ended.
func (m *Machine) Ended() <-chan struct{} { return m.ended }

// Kill is a loss of power. What the guest's disk had been given is with the host's kernel, and is not lost: CutLog takes it away.
func (m *Machine) Kill() {
	m.process.Process.Signal(syscall.SIGKILL)
	<-m.ended
	for _, c := range []net.Conn{m.line, m.qmp.connection(), m.qtest.connection()} {
		if c != nil {
			c.Close()
		}
	}
}

// Do carries out a command of QMP, with arguments that are JSON.
func (m *Machine) Do(command string, arguments any) (json.RawMessage, error) {
	return m.qmp.do(command, arguments)
}

// Save writes the machine's state into a file, and stops it for good.
func (m *Machine) Save(ctx context.Context, path string) error {
	if _, err := m.Do("stop", nil); err != nil {
		return err
	}
	if _, err := m.Do("migrate", map[string]string{"uri": "file:" + path}); err != nil {
		return err
	}
	return m.poll(ctx, "query-migrate", "completed", "failed")
}

// Arrived waits until a machine has taken in its snapshot.
func (m *Machine) Arrived(ctx context.Context) error {
	return m.poll(ctx, "query-status", "paused", "")
}

// Continue has a machine run that stands still.
func (m *Machine) Continue() error {
	_, err := m.Do("cont", nil)
	return err
}

func (m *Machine) poll(ctx context.Context, query, want, failed string) error {
	for {
		text, err := m.Do(query, nil)
		if err != nil {
			return err
		}
		var r struct {
			Status string `json:"status"`
			Desc   string `json:"error-desc"`
		}
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("emulator: %s: %w", query, err)
		}
		switch {
		case r.Status == want:
			return nil
		case failed != "" && r.Status == failed:
			return fmt.Errorf("emulator: %s: %s", query, r.Desc)
		}
		select {
		case <-m.ended:
			return errors.New("emulator: QEMU has ended")
		case <-ctx.Done():
			return fmt.Errorf("emulator: %s: %s: %w", query, r.Status, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// SetProperty sets a property of a device.
func (m *Machine) SetProperty(path, property string, value any) error {
	_, err := m.Do("qom-set", map[string]any{"path": path, "property": property, "value": value})
	return err
}

// Drive sets an input line of a device.
func (m *Machine) Drive(device, lines string, line, level int) error {
	return m.qtest.do(fmt.Sprintf("set_irq_in %s %s %d %d", device, lines, line, level))
}

// Watch has output lines of a device noted from now on; of one device only.
func (m *Machine) Watch(device string) error { return m.qtest.do("irq_intercept_out " + device) }

// Poke writes 32 bits to an address.
func (m *Machine) Poke(address, value uint32) error {
	return m.qtest.do(fmt.Sprintf("writel 0x%x 0x%x", address, value))
}

// Level is the last level of a watched output line, and how often it has changed.
func (m *Machine) Level(line int) (level bool, changes int) {
	m.qtest.mu.Lock()
	defer m.qtest.mu.Unlock()
	return m.qtest.levels[line], m.qtest.changes[line]
}

// qmp is QEMU's control protocol (docs/interop/qmp-spec.rst).
type qmp struct {
	mu      sync.Mutex
	conn    net.Conn
	answers *bufio.Scanner
}

func (q *qmp) connection() net.Conn {
	if q == nil {
		return nil
	}
	return q.conn
}

func newQMP(c net.Conn) (*qmp, error) {
	q := &qmp{conn: c, answers: bufio.NewScanner(c)}
	q.answers.Buffer(nil, 1<<22)
	if !q.answers.Scan() {
		return nil, errors.New("emulator: QMP does not greet")
	}
	_, err := q.do("qmp_capabilities", nil)
	return q, err
}

func (q *qmp) do(command string, arguments any) (json.RawMessage, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	text, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return nil, err
	}
	if _, err := q.conn.Write(append(text, '\n')); err != nil {
		return nil, fmt.Errorf("emulator: %s: %w", command, err)
	}
	for q.answers.Scan() { // events come in between
		var r struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := json.Unmarshal(q.answers.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("emulator: %s: %w", command, err)
		}
		switch {
		case r.Error != nil:
			return nil, fmt.Errorf("emulator: %s: %s", command, r.Error.Desc)
		case r.Return != nil:
			return r.Return, nil
		}
	}
	return nil, fmt.Errorf("emulator: %s: QEMU has ended", command)
}

// qtest is QEMU's protocol for tests of devices (include/sysemu/qtest.h, system/qtest.c).
type qtest struct {
	conn    net.Conn
	order   sync.Mutex
	answers chan string

	mu      sync.Mutex
	levels  map[int]bool
	changes map[int]int
}

func (q *qtest) connection() net.Conn {
	if q == nil {
		return nil
	}
	return q.conn
}

func newQTest(c net.Conn) *qtest {
	q := &qtest{conn: c, answers: make(chan string, 16), levels: map[int]bool{}, changes: map[int]int{}}
	go func() {
		defer close(q.answers)
		for s := bufio.NewScanner(c); s.Scan(); {
			var way string
			var line int
			if _, err := fmt.Sscanf(s.Text(), "IRQ %s %d", &way, &line); err == nil {
				q.mu.Lock()
				q.levels[line] = way == "raise"
				q.changes[line]++
				q.mu.Unlock()
				continue
			}
			q.answers <- s.Text()
		}
	}()
	return q
}

func (q *qtest) do(command string) error {
	q.order.Lock()
	defer q.order.Unlock()
	if _, err := fmt.Fprintln(q.conn, command); err != nil {
		return fmt.Errorf("emulator: %s: %w", command, err)
	}
	switch text, ok := <-q.answers; {
	case !ok:
		return fmt.Errorf("emulator: %s: QEMU has ended", command)
	case !strings.HasPrefix(text, "OK"):
		return fmt.Errorf("emulator: %s: %s", command, text)
	}
	return nil
}
