package target

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hypnos/hil/agent"
	"hypnos/hil/message"
)

// bench is a board of a test: it has power while the file power is there, and is reached by Dial.
type bench struct {
	power string
	mu    sync.Mutex
	calls []string
}

func (b *bench) note(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = append(b.calls, what)
}

func (b *bench) Dial(ctx context.Context, console io.Writer) (io.ReadWriteCloser, error) {
	if _, err := os.Stat(b.power); err != nil {
		return nil, errors.New("no route to host")
	}
	near, far := net.Pipe()
	handle := func(name string, answer any) agent.Handler {
		return agent.Handle(func(context.Context, any) (any, error) { b.note(name); return answer, nil })
	}
	go agent.Serve(context.Background(), far, map[string]agent.Handler{
		message.Echo:  handle("echo", "hello"),
		message.Have:  handle("have", message.Digests{Program: fmt.Sprintf("%x", sha256.Sum256([]byte("new"))), Files: map[string]string{"old": "0"}}),
		message.Put:   handle("put", nil),
		message.Fresh: handle("fresh", nil),
		message.Stop:  handle("stop", nil),
		message.Mount: handle("mount", nil),
	}, nil)
	return near, nil
}

func (b *bench) called() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := strings.Join(b.calls, " ")
	b.calls = nil
	return all
}

func newBench(t *testing.T) (*bench, map[string]string) {
	dir := t.TempDir()
	files := map[string]string{}
	for name, text := range map[string]string{message.Guest: "new", "hypnosd": strings.Repeat("x", part+1)} {
		files[name] = filepath.Join(dir, name)
		if err := os.WriteFile(files[name], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &bench{power: filepath.Join(dir, "power")}, files
}

// A board with a switch is given power, asked until it answers, and given what it lacks once.
func TestPowerSwitch(t *testing.T) {
	b, files := newBench(t)
	late := []string{"sh", "-c", "(sleep 0.3; : >" + b.power + ") >/dev/null 2>&1 &"}
	r, err := NewReal(RealOptions{Dial: b.Dial, Power: &Switch{On: late, Off: []string{"rm", b.power}}, Storage: "/dev/none"}, files)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx := t.Context()
	if err := r.Cut(); !errors.Is(err, errOff) {
		t.Errorf("cut off while off: %v", err)
	}
	if err := r.Erase(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"echo have put put fresh mount", "echo mount"} {
		if err := errors.Join(r.Boot(ctx), r.Mount(ctx, false, false)); err != nil {
			t.Fatal(err)
		}
		if got := b.called(); got != want {
			t.Errorf("boot %d: it was asked to %q, want %q", i, got, want)
		}
		if err := r.Cut(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(b.power); err == nil {
			t.Error("it has power still")
		}
		if err := r.Call(ctx, message.Echo, "", nil); !errors.Is(err, errOff) {
			t.Errorf("asked while off: %v", err)
		}
	}
	for c, can := range map[Capability]bool{Sensors: false, PowerCut: true, Memory: true, CutLog: false, Disk: true, Clock: false} {
		if err := r.Can(c); (err == nil) != can {
			t.Errorf("%s: %v", c, err)
		}
	}
}

// Without a switch a board must answer at once; with one it has its time. Either error is a line that says why.
func TestBoardThatDoesNotAnswer(t *testing.T) {
	b, files := newBench(t)
	for _, x := range []struct {
		o    RealOptions
		want string
	}{
		{RealOptions{Dial: b.Dial}, "the board does not answer: no route to host"},
		{RealOptions{Dial: b.Dial, Startup: 50 * time.Millisecond, Power: &Switch{On: []string{"true"}, Off: []string{"true"}}}, "does not answer: no route to host"},
		{RealOptions{Dial: b.Dial, Power: &Switch{On: []string{"false"}, Off: []string{"true"}}}, "power: false: exit status 1"},
		{RealOptions{Dial: b.Dial, Power: &Switch{On: []string{"/no/such/relay"}}}, "power: /no/such/relay: "},
		{RealOptions{Dial: Serial{"/no/such/tty", 115200}.Dial}, "serial line /no/such/tty, 115200 baud: "},
	} {
		r, err := NewReal(x.o, files)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		err = r.Boot(t.Context())
		if err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %q", err, x.want)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%q took %v", x.want, took)
		}
	}
	if _, err := NewReal(RealOptions{Console: Serial{"/no/such/tty", 9600}.Console}, files); err == nil || !strings.Contains(err.Error(), "console: serial line /no/such/tty") {
		t.Errorf("console: %v", err)
	}
}

// Programs of the rig's set a board's world, and see its light change.
func TestAround(t *testing.T) {
	b, files := newBench(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	set := func(name string) []string { return []string{"sh", "-c", "printf %s {value} >" + file(name)} }
	for _, p := range []string{b.power, file("light")} {
		if err := os.WriteFile(p, []byte("0\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := NewReal(RealOptions{Dial: b.Dial, Stays: true, Around: &Around{
		Temperature: set("temperature"), Wake: set("wake"), Sleep: set("sleep"), LED: []string{"cat", file("light")}}}, files)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := r.World()
	if err := w.SetTemperature(20); !errors.Is(err, errOff) {
		t.Errorf("set while off: %v", err)
	}
	if err := r.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.SetTemperature(-12.25), w.SetLine("wake", true), w.SetLine("sleep", false)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"temperature": "-12.25", "wake": "1", "sleep": "0"} {
		if got, err := os.ReadFile(file(name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if err := w.SetLine("door", true); err == nil {
		t.Error("a line that there is not was set")
	}
	for i, level := range []string{"1", "0", "1"} {
		if err := os.WriteFile(file("next"), []byte(level), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file("next"), file("light")); err != nil {
			t.Fatal(err)
		}
		for range 500 {
			on, changes := w.LED()
			if on == (level == "1") && changes >= i {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	if on, changes := w.LED(); !on || changes < 2 || changes > 3 { // the first level may have been seen as the one that it began with
		t.Errorf("light %v after %d changes", on, changes)
	}
	b.called()
	if err := r.Cut(); err != nil {
		t.Fatal(err)
	}
	if got := b.called(); got != "stop" { // the guest on a line goes on
		t.Errorf("cut off, it was asked to %q", got)
	}
}

func TestSSHDescriptions(t *testing.T) {
	for _, home := range []string{"", "/", "/home", "home/pi", "/home/pi/../x", "/home/pi/$(reboot)", "/home/pi/a b", "/home//pi", "/home/pi/"} {
		if err := (SSH{Host: "pi", Home: home}).Check(); err == nil {
			t.Errorf("home %q", home)
		}
	}
	if err := (SSH{Host: "-oProxyCommand=reboot", Home: "/home/pi/hil"}).Check(); err == nil {
		t.Error("an option as a host")
	}
	if err := (SSH{Host: "pi@board", Home: "/home/pi/hil"}).Check(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	t.Setenv("PATH", t.TempDir())
	guest := filepath.Join(t.TempDir(), "guest")
	if err := os.WriteFile(guest, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (SSH{Host: "pi@board", Home: "/home/pi/hil", Guest: guest}).Dial(ctx, io.Discard); err == nil || !strings.Contains(err.Error(), "no ssh here") {
		t.Errorf("without ssh: %v", err)
	}
}
