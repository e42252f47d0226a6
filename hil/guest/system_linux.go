package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.bug.st/serial"
	"golang.org/x/sys/unix"

	"hypnos/hil/agent"
	"hypnos/hil/message"
)

// monotonic is the time since the system was started.
func monotonic() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

// boot makes a system of a kernel: virtual file systems, modules in the order of /lib/modules/order, loopback. Then it serves on the
// device that the kernel's argument hil.line names. What goes wrong is told on the console, and the machine goes off.
func boot(ctx context.Context) {
	err := func() error {
		for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}} {
			if err := os.MkdirAll(m.at, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
				return fmt.Errorf("%s: %w", m.at, err)
			}
		}
		if err := loadModules(); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return fmt.Errorf("loopback: %w", err)
		}
		g, err := newGuest("/hil", "")
		if err != nil {
			return err
		}
		arguments, err := os.ReadFile("/proc/cmdline")
		if err != nil {
			return err
		}
		name := ""
		for _, a := range strings.Fields(string(arguments)) {
			if v, ok := strings.CutPrefix(a, "hil.line="); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(a, message.LifeArgument); ok {
				return countedLife(ctx, v)
			}
		}
		line, err := waitTTY("/dev/" + name)
		if err != nil {
			return err
		}
		fmt.Printf("hil: ready after %v\n", monotonic())
		for { // a virtual port ends when nobody is connected to it, and goes on afterwards
			if err := agent.Serve(ctx, line, g.handlers(), nil); err != nil || ctx.Err() != nil {
				return err
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	fmt.Println("hil: ended:", err)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func loadModules() error {
	text, err := os.ReadFile("/lib/modules/order")
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(text)) {
		f, err := os.Open("/lib/modules/" + name + ".ko")
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && err != unix.EEXIST {
			return fmt.Errorf("module %s: %w", name, err)
		}
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// waitTTY opens a line that a driver may still be making.
func waitTTY(path string) (f io.ReadWriteCloser, err error) {
	for range 1000 {
		if f, err = openTTY(path, 115200); err == nil {
			return f, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, err
}

// openTTY opens a serial line, or a virtual port, for bytes as they are.
func openTTY(path string, baud int) (io.ReadWriteCloser, error) {
	p, err := serial.Open(path, &serial.Mode{BaudRate: baud})
	var not *serial.PortError
	if errors.As(err, &not) && not.Code() == serial.InvalidSerialPort {
		return os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

func (g *guest) mount(_ context.Context, q message.Disk) (any, error) {
	var flags uintptr
	if q.ReadOnly {
		flags |= unix.MS_RDONLY
	}
	if q.Again {
		flags |= unix.MS_REMOUNT
	}
	folder, err := g.path(q.Folder)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	// A driver may still be looking for its disks.
	for range 500 {
		if _, err := os.Stat(q.Device); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !q.Again && mounted(folder) { // by a guest before this one
		if err := unix.Unmount(folder, 0); err != nil {
			return nil, fmt.Errorf("unmount %s: %w", folder, err)
		}
	}
	if err := unix.Mount(q.Device, folder, "ext4", flags, ""); err != nil {
		return nil, fmt.Errorf("mount %s on %s: %w", q.Device, folder, err)
	}
	if !q.Empty {
		return nil, nil
	}
	entries, err := os.ReadDir(folder)
	for _, e := range entries {
		if e.Name() != "lost+found" {
			err = errors.Join(err, os.RemoveAll(filepath.Join(folder, e.Name())))
		}
	}
	return nil, err
}

// mounted tells whether something is mounted on a folder.
func mounted(folder string) bool {
	text, err := os.ReadFile("/proc/self/mounts")
	return err == nil && strings.Contains(string(text), " "+folder+" ")
}

func syncAll() { unix.Sync() }

// become has this process become another program, with the same arguments.
func become(path string) error {
	return unix.Exec(path, append([]string{path}, os.Args[1:]...), os.Environ())
}

// dieWithParent has a process killed when this one ends, however that happens.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

func (g *guest) unmount(_ context.Context, folder string) (any, error) {
	path, err := g.path(folder)
	if err != nil {
		return nil, err
	}
	return nil, unix.Unmount(path, 0)
}

// setClock sets the wall clock forward.
func setClock(_ context.Context, by time.Duration) (any, error) {
	t := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	return nil, unix.ClockSettime(unix.CLOCK_REALTIME, &t)
}

func bindDriver(_ context.Context, q message.Binding) (any, error) {
	file := "unbind"
	if q.Bound {
		file = "bind"
	}
	return nil, os.WriteFile(filepath.Join("/sys/bus", q.Bus, "drivers", q.Driver, file), []byte(q.Device), 0)
}
