package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"hypnos/core/edge"
	"hypnos/core/model"
	"hypnos/hil/agent"
	"hypnos/hil/compute"
	"hypnos/hil/message"
)

// guest is what a host talks to.
type guest struct {
	home    string
	address string   // where the daemon is to listen
	run     []string // an emulator and its arguments, or nothing

	mu     sync.Mutex
	daemon *daemonProcess
}

func newGuest(home, run string) (*guest, error) {
	if home == "" {
		return nil, errors.New("which home? -home DIR")
	}
	home, err := filepath.Abs(home)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // finds a port
	if err != nil {
		return nil, err
	}
	defer l.Close()
	return &guest{home: home, address: l.Addr().String(), run: strings.Fields(run)}, os.MkdirAll(filepath.Join(home, "data"), 0o755)
}

func (g *guest) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.daemon != nil {
		g.daemon.kill()
	}
}

// path is a file's, below home. Others are none of the test's: a device may be a user's machine.
func (g *guest) path(p string) (string, error) {
	if !filepath.IsLocal(p) {
		return "", fmt.Errorf("%s: not below the device's home", p)
	}
	return filepath.Join(g.home, p), nil
}

func (g *guest) handlers() map[string]agent.Handler {
	return map[string]agent.Handler{
		message.Identify: agent.Handle(g.identify),
		message.Echo:     agent.Handle(func(_ context.Context, text string) (any, error) { return text, nil }),
		message.Compute:  agent.Handle(g.compute),
		message.Start:    agent.Handle(g.start),
		message.Stop:     agent.Handle(g.stop),
		message.Log:      agent.Handle(g.log),
		message.HTTP:     agent.Handle(g.http),
		message.Learned:  agent.Handle(g.learned),
		message.Await:    agent.Handle(g.await),
		message.Usage:    agent.Handle(g.usage),
		message.Write:    agent.Handle(g.write),
		message.Copy:     agent.Handle(g.copy),
		message.Flip:     agent.Handle(g.flip),
		message.Fill:     agent.Handle(g.fill),
		message.Remove:   agent.Handle(g.remove),
		message.Mount:    agent.Handle(g.mount),
		message.Unmount:  agent.Handle(g.unmount),
		message.Clock:    agent.Handle(setClock),
		message.Driver:   agent.Handle(bindDriver),
		message.Golden:   agent.Handle(g.golden),
	}
}

func (g *guest) identify(context.Context, struct{}) (any, error) {
	model, _ := os.ReadFile("/proc/device-tree/model")
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return message.Identity{
		Arch: runtime.GOARCH, Board: strings.TrimRight(string(model), "\x00"), Kernel: strings.TrimSpace(string(kernel)),
		Cores: runtime.NumCPU(), Home: g.home, Time: time.Now(), Monotonic: monotonic(),
	}, nil
}

func (g *guest) compute(ctx context.Context, q message.Life) (any, error) {
	path, err := g.path(q.Package)
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	stages, kernels, err := compute.Run(ctx, path, q.Life)
	return message.Lived{Stages: stages, Kernels: kernels, Took: time.Since(begin)}, err
}

// daemonProcess is a running daemon.
type daemonProcess struct {
	*exec.Cmd
	log   lastBytes
	ended chan struct{}
	err   error
}

func (d *daemonProcess) kill() {
	d.Process.Kill()
	<-d.ended
}

// lastBytes keeps the end of what is written.
type lastBytes struct {
	mu sync.Mutex
	b  []byte
}

const kept = 1 << 16

func (l *lastBytes) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if len(l.b) > 2*kept {
		l.b = bytes.Clone(l.b[len(l.b)-kept:])
	}
	return len(p), nil
}

func (l *lastBytes) last(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b[max(0, len(l.b)-n):])
}

// start runs the daemon with a configuration and waits until it answers.
func (g *guest) start(ctx context.Context, q message.Configuration) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d := g.daemon; d != nil {
		select {
		case <-d.ended:
		default:
			return nil, errors.New("the daemon runs already")
		}
	}
	file := filepath.Join(g.home, "board.toml")
	text := strings.NewReplacer("{home}", g.home, "{listen}", g.address).Replace(q.Text)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	command := append(append([]string{}, g.run...), filepath.Join(g.home, "hypnosd"), "-c", file)
	if q.Drop != "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		command = append(append([]string{}, g.run...), self, "daemon", "-drop", q.Drop, "-c", file)
	}
	d := &daemonProcess{Cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	d.Stdout, d.Stderr = &d.log, &d.log
	d.SysProcAttr = dieWithParent()
	begin := time.Now()
	if err := d.Start(); err != nil {
		return nil, err
	}
	go func() { d.err = d.Wait(); close(d.ended) }()
	g.daemon = d
	for {
		r, err := http.Get("http://" + g.address + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return message.Started{Took: time.Since(begin)}, nil
			}
		}
		select {
		case <-d.ended:
			return nil, fmt.Errorf("the daemon ended: %v: %s", d.err, strings.TrimSpace(d.log.last(400)))
		case <-ctx.Done():
			return nil, fmt.Errorf("the daemon is not ready: %s", strings.TrimSpace(d.log.last(400)))
		case <-time.After(5 * time.Millisecond):
		}
		if time.Since(begin) > q.Patience {
			return nil, fmt.Errorf("the daemon is not ready after %v: %s", q.Patience, strings.TrimSpace(d.log.last(400)))
		}
	}
}

// stop ends the daemon: in order, or at once.
func (g *guest) stop(_ context.Context, kill bool) (any, error) {
	g.mu.Lock()
	d := g.daemon
	g.daemon = nil
	g.mu.Unlock()
	if d == nil {
		return nil, errors.New("no daemon runs")
	}
	if kill {
		d.kill()
		return nil, nil
	}
	d.Process.Signal(os.Interrupt)
	select {
	case <-d.ended:
		if d.err != nil {
			return nil, fmt.Errorf("the daemon: %w: %s", d.err, strings.TrimSpace(d.log.last(400)))
		}
		return nil, nil
	case <-time.After(30 * time.Second):
		d.kill()
		return nil, errors.New("the daemon does not end")
	}
}

func (g *guest) log(_ context.Context, bytes int) (any, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.daemon == nil {
		return "", nil
	}
	return g.daemon.log.last(bytes), nil
}

// http passes a request on to the daemon.
func (g *guest) http(ctx context.Context, q message.Request) (any, error) {
	var body io.Reader = bytes.NewReader(q.Body)
	if q.File != "" {
		path, err := g.path(q.File)
		if err != nil {
			return nil, err
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		body = f
	}
	r, err := http.NewRequestWithContext(ctx, q.Method, "http://"+g.address+q.Path, body)
	if err != nil {
		return nil, err
	}
	if q.Type != "" {
		r.Header.Set("Content-Type", q.Type)
	}
	begin := monotonic()
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return message.Response{Status: answer.StatusCode, Body: string(text), Asked: begin, Answered: monotonic()}, err
}

// await looks every millisecond until the daemon is in none of some states, and has it classify an image then.
func (g *guest) await(ctx context.Context, q message.Waiting) (any, error) {
	for {
		r, err := g.http(ctx, message.Request{Method: http.MethodGet, Path: "/v1/status"})
		if err != nil {
			return nil, err
		}
		var s struct{ State string }
		answer := r.(message.Response)
		if err := json.Unmarshal([]byte(answer.Body), &s); err != nil {
			return nil, err
		}
		if s.State != q.While {
			seen := monotonic()
			r, err := g.http(ctx, q.Then)
			if err != nil {
				return nil, err
			}
			return message.Awaited{Seen: seen, Response: r.(message.Response)}, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

// learned is the digest of what the network in use has learned.
func (g *guest) learned(ctx context.Context, _ struct{}) (any, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.address+"/v1/model", nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", answer.Status, text)
	}
	if err != nil {
		return nil, err
	}
	return digestOf(text)
}

// digestOf is the digest of the parameters in a package.
func digestOf(text []byte) (string, error) {
	stored, err := model.Read(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		return "", err
	}
	p, err := edge.ReadPackage(stored)
	if err != nil {
		return "", err
	}
	params, err := p.Params()
	if err != nil {
		return "", err
	}
	d, err := edge.Digest(p.Manifest.Network, params)
	return fmt.Sprintf("%x", d), err
}

// usage is what the daemon takes.
func (g *guest) usage(context.Context, struct{}) (any, error) {
	g.mu.Lock()
	d := g.daemon
	g.mu.Unlock()
	if d == nil {
		return nil, errors.New("no daemon runs")
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(d.Process.Pid) + "/status")
	if err != nil {
		return nil, err
	}
	var u message.Used
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			if _, err := fmt.Sscanf(text, "%d kB", &u.Resident); err != nil {
				return nil, err
			}
			u.Resident *= 1024
		}
	}
	err = filepath.WalkDir(filepath.Join(g.home, "data"), func(_ string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if i, err := e.Info(); err == nil && i.Mode().IsRegular() {
			u.Files++
			u.Bytes += i.Size()
		}
		return nil
	})
	return u, err
}

func (g *guest) write(_ context.Context, q message.File) (any, error) {
	path, err := g.path(q.Path)
	if err != nil {
		return nil, err
	}
	return nil, writeAt(path, q.Offset, q.Data)
}

// writeAt writes a part of a file; one at offset 0 begins it anew.
func writeAt(path string, offset int64, data []byte) error {
	flags := os.O_WRONLY | os.O_CREATE
	if offset == 0 {
		flags |= os.O_TRUNC
	}
	f, err := os.OpenFile(path, flags, 0o700)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, offset)
	return errors.Join(err, f.Close())
}

func (g *guest) copy(_ context.Context, q message.Copying) (any, error) {
	from, err := g.path(q.From)
	if err != nil {
		return nil, err
	}
	to, err := g.path(q.To)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return nil, err
	}
	return nil, os.WriteFile(to, text, 0o600)
}

func (g *guest) remove(_ context.Context, name string) (any, error) {
	path, err := g.path(name)
	if err != nil {
		return nil, err
	}
	return nil, os.Remove(path)
}

// flip turns one bit of a file around. The path may have wildcards, and must name one file then.
func (g *guest) flip(_ context.Context, q message.Bit) (any, error) {
	pattern, err := g.path(q.Path)
	if err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("no file %s", q.Path)
	}
	path := paths[len(paths)-1]
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(text) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	at := int64(float64(len(text)) * q.Where)
	text[min(at, int64(len(text))-1)] ^= 1 << (q.Bit & 7)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(text, 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return filepath.Rel(g.home, path)
}

// fill writes a file until the disk is full.
func (g *guest) fill(context.Context, struct{}) (any, error) {
	f, err := os.Create(filepath.Join(g.home, "data", "filler"))
	if err != nil {
		return nil, err
	}
	n := int64(0)
	for _, size := range []int{1 << 20, 1 << 12, 1} { // to the last byte
		block := make([]byte, size)
		for n < 1<<30 {
			k, err := f.Write(block)
			n += int64(k)
			if err != nil {
				break
			}
		}
	}
	f.Close()
	if n >= 1<<30 {
		os.Remove(f.Name())
		return nil, errors.New("the disk takes more than 1 GiB: too large to fill")
	}
	return n, nil
}
