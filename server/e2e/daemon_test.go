package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"hypnos/server/brain"
	"hypnos/server/client"
)

// programs are the commands, built once from the tree that this module is part of. HYPNOSD_ARCH=arm64 or arm has the daemon run on
// an emulated processor.
var programs = sync.OnceValues(func() (dir string, err error) {
	dir, err = os.MkdirTemp("", "hypnos-e2e")
	if err != nil {
		return "", err
	}
	for command, arch := range map[string]string{"hypnos": "", "hypnosd": os.Getenv("HYPNOSD_ARCH")} {
		build := exec.Command("go", "build", "-o", dir, "./cmd/"+command)
		build.Dir = "../.."
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch, "GOARM=7")
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
})

// hypnosd is the daemon with arguments.
func hypnosd(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path := program(t, "hypnosd")
	emulator, is := map[string]string{"arm64": "qemu-aarch64-static", "arm": "qemu-arm-static"}[os.Getenv("HYPNOSD_ARCH")]
	if !is {
		return exec.Command(path, args...)
	}
	if _, err := exec.LookPath(emulator); err != nil {
		t.Skipf("SKIPPED: no %s; make arm-tools installs it", emulator)
	}
	return exec.Command(emulator, append([]string{path}, args...)...)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := programs(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

func program(t *testing.T, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, name)
}

// hypnos runs the workstation's tool.
func hypnos(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var both bytes.Buffer
	c := exec.Command(program(t, "hypnos"), args...)
	c.Dir, c.Stdout, c.Stderr = t.TempDir(), &both, &both
	err = c.Run()
	return both.String(), err
}

func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := hypnos(t, args...)
	if err != nil {
		t.Fatalf("hypnos %q: %v\n%s", args, err, out)
	}
	return out
}

// maker has a key, and packages of a network that has learned a little of the embedded sample.
type maker struct{ dir string }

func newMaker(t *testing.T) maker {
	t.Helper()
	m := maker{t.TempDir()}
	must(t, "keygen", "-o", m.path("maker"))
	must(t, "keygen", "-o", m.path("stranger"))
	must(t, "train", "--set", "network.name=resnet8-lc", "--set", "network.width=4", "--set", "train.epochs=1", "--set", "train.steps=4", "--dir", m.path("run"))
	return m
}

func (m maker) path(name string) string { return filepath.Join(m.dir, name) }

// pack makes a package of a version, signed by a key.
func (m maker) pack(t *testing.T, version int, key string) string {
	t.Helper()
	path := m.path(fmt.Sprintf("%s-%d.hyp", key, version))
	must(t, "package", "-m", m.path("run/checkpoint.safetensors"), "--images", "16", "--version", fmt.Sprint(version), "--sign", m.path(key+".key"), "-o", path)
	return path
}

// daemon is hypnosd as a process.
type daemon struct {
	t      *testing.T
	config string
	url    string
	*client.Client
	process *exec.Cmd
	log     *lockedBuffer
	ended   chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newDaemon writes a configuration; start starts it. more has further keys, by table.
func newDaemon(t *testing.T, m maker, more map[string]string) *daemon {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // finds a port; that somebody else takes it meanwhile would be seen
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("at 0s temperature = 43.5\nat 0s volts = 5.02\nat 0s amperes = 0.5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`
board = "generic-linux"
[brain]
data = %q
keys = [%q]
package = %q
rate = 0.001
max_replay = "500ms"
%s
[brain.sleep]
%s
[brain.health]
window = "2s"
[governor]
night = []
wake_hold = "50ms"
stay_awake = "1s"
min_interval = "0s"
%s
[server]
listen = %q
rate = 0
[wiring.temperature]
driver = "script"
script = %q
every = "200ms"
[wiring.power]
driver = "script"
script = %q
[wiring.led]
driver = "memory"
`, filepath.Join(dir, "data"), m.path("maker.pub"), m.path("maker-1.hyp"), more["brain"], more["sleep"], more["governor"], address, script, script)
	d := &daemon{t: t, config: filepath.Join(dir, "board.toml"), url: "http://" + address}
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if d.Client, err = client.New(client.Config{URL: d.url}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.process != nil {
			d.process.Process.Kill()
			<-d.ended
		}
		if t.Failed() {
			t.Logf("log:\n%s", d.log)
		}
	})
	return d
}

// start starts the process and waits until its network is in use.
func (d *daemon) start() brain.Status {
	d.t.Helper()
	if d.log == nil {
		d.log = &lockedBuffer{}
	}
	d.process = hypnosd(d.t, "-c", d.config)
	d.process.Stderr = d.log
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.ended = make(chan error, 1)
	go func(p *exec.Cmd) { d.ended <- p.Wait() }(d.process)
	return d.until("ready", func(s brain.Status) bool { return s.Model.Slot != "" })
}

// kill ends the process as a loss of power does, but for what the system has in its cache.
func (d *daemon) kill() {
	d.process.Process.Kill()
	<-d.ended
	d.process = nil
}

// end asks the process to end, which must be in order.
func (d *daemon) end() {
	d.t.Helper()
	d.process.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Errorf("hypnosd: %v", err)
		}
	case <-time.After(20 * time.Second):
		d.t.Fatal("hypnosd does not end")
	}
	d.process = nil
}

func (d *daemon) until(what string, is func(brain.Status) bool) brain.Status {
	d.t.Helper()
	var s brain.Status
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if s, err = d.Status(context.Background()); err == nil && is(s) {
			return s
		}
	}
	d.t.Fatalf("never %s: %v, %+v", what, err, s)
	return s
}

// picture is a raw image of noise.
func picture(r *rand.Rand) brain.Image {
	x := make([]byte, 32*32*3)
	for i := range x {
		x[i] = byte(r.Uint32())
	}
	return brain.Image{Type: brain.Tensor, Data: x}
}

// 64 clients classify and learn for a minute: no error but a documented 429, no acknowledged step lost, memory told.
func TestDaemonLoad(t *testing.T) {
	m := newMaker(t)
	m.pack(t, 1, "maker")
	d := newDaemon(t, m, map[string]string{"governor": "after_steps = 300"})
	d.start()
	duration := "60s"
	if testing.Short() {
		duration = "10s"
	}
	out := must(t, "bench", "load", "--to", d.url, "--duration", duration)
	t.Logf("\n%s", out)
	if !strings.Contains(out, " 0 lost") {
		t.Error("the report does not say what was lost")
	}
	d.end()
}

// The process is killed at random moments while clients classify and learn and the network sleeps in between: every acknowledged
// step is there when it starts again.
func TestDaemonKilled(t *testing.T) {
	const seed = 11
	kills := 20
	if testing.Short() {
		kills = 5
	}
	m := newMaker(t)
	m.pack(t, 1, "maker")
	d := newDaemon(t, m, map[string]string{"governor": "after_steps = 20\nidle = \"200ms\"", "sleep": "rule = \"hebbian\"\nevents = 20"})
	r := rand.New(rand.NewPCG(seed, 0))
	d.start()
	var acknowledged atomic.Int64
	slept := int64(0)
	for i := range kills {
		var wait sync.WaitGroup
		ctx, stop := context.WithCancel(context.Background())
		for w := range uint64(3) {
			noise := rand.New(rand.NewPCG(seed, 100*uint64(i)+w))
			wait.Go(func() {
				for ctx.Err() == nil {
					if a, err := d.Learn(ctx, picture(noise), int(noise.Uint32()%10)); err == nil && a.Durable {
						for {
							was := acknowledged.Load()
							if a.Step <= was || acknowledged.CompareAndSwap(was, a.Step) {
								break
							}
						}
					}
				}
			})
		}
		time.Sleep(time.Duration(100+r.IntN(900)) * time.Millisecond)
		if s, err := d.Status(ctx); err == nil {
			slept += s.Counters.Sleeps + s.Counters.Interrupted
		}
		d.kill()
		stop()
		wait.Wait()
		if s := d.start(); s.Step < acknowledged.Load() {
			t.Fatalf("kill %d: %d steps, %d were acknowledged", i, s.Step, acknowledged.Load())
		}
	}
	t.Logf("seed %d: %d kills, %d steps acknowledged, none lost; %d sleeps or parts of one", seed, kills, acknowledged.Load(), slept)
	if acknowledged.Load() < int64(kills) || slept == 0 {
		t.Errorf("%d steps, %d sleeps: too few to show anything", acknowledged.Load(), slept)
	}
	d.end()
}

// A signed package is taken on trial and committed to; others are refused, with nothing changed; a kill in a trial returns; so does a
// rollback; and what was learned comes back to the workstation and goes out again.
func TestDaemonUpdates(t *testing.T) {
	m := newMaker(t)
	first := m.pack(t, 1, "maker")
	d := newDaemon(t, m, nil)
	d.start()
	refused := func(path string, code string) {
		t.Helper()
		out, err := hypnos(t, "deploy", "-m", path, "--to", d.url)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, code) {
			t.Errorf("deploy %s: %v, want %q in\n%s", filepath.Base(path), err, code, out)
		}
		if s := d.until("answering", func(brain.Status) bool { return true }); s.Model.Version > 2 {
			t.Errorf("version %d is in use", s.Model.Version)
		}
	}
	refused(m.pack(t, 2, "stranger"), "not trusted")
	second := m.pack(t, 2, "maker")
	damaged := m.path("damaged.hyp")
	text, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(damaged, text, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(damaged, "is damaged")
	// Past the tool's own check, the board's.
	if _, err := d.Upload(context.Background(), bytes.NewReader(text), int64(len(text))); code(err) != brain.CodePackage {
		t.Errorf("a damaged package: %v", err)
	}
	if _, err := d.Upload(context.Background(), io.LimitReader(bytes.NewReader(text), 1000), int64(len(text))); err == nil {
		t.Error("a package that breaks off was taken")
	}
	r := rand.New(rand.NewPCG(5, 0))
	for range 3 {
		if _, err := d.Learn(context.Background(), picture(r), 1); err != nil {
			t.Fatal(err)
		}
	}
	if out := must(t, "deploy", "-m", second, "--key", m.path("maker.pub"), "--to", d.url); !strings.Contains(out, "version 2 is in use") {
		t.Errorf("deploy:\n%s", out)
	}
	refused(first, "downgrade")
	if out := must(t, "deploy", "--rollback", "--reason", "a test", "--to", d.url); !strings.Contains(out, "version 1 is in use again") {
		t.Errorf("rollback:\n%s", out)
	}
	if s := d.until("back", func(s brain.Status) bool { return s.Model.Version == 1 }); s.Step != 3 || !hasReason(s, "a test") {
		t.Errorf("after the rollback: step %d, %+v", s.Step, s.Models)
	}
	third := m.pack(t, 3, "maker")
	file, err := os.Open(third)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Upload(context.Background(), file, st.Size()); err != nil {
		t.Fatal(err)
	}
	if model, err := d.Activate(context.Background()); err != nil || model.State != brain.Trial {
		t.Fatalf("%+v, %v", model, err)
	}
	d.kill() // slot b had version 2: with two slots, an upload is in place of what could be returned to
	if s := d.start(); s.Model.Version != 1 || !hasReason(s, "the daemon ended during its trial") {
		t.Errorf("after a kill in a trial: %+v", s.Models)
	}
	learned := m.path("learned.hyp")
	must(t, "pull", "--from", d.url, "-o", learned)
	again := m.path("again.hyp")
	must(t, "package", "-m", learned, "--version", "4", "--sign", m.path("maker.key"), "-o", again)
	if out := must(t, "deploy", "-m", again, "--to", d.url); !strings.Contains(out, "version 4 is in use") {
		t.Errorf("deploy of what was learned:\n%s", out)
	}
	d.end()
}

func code(err error) brain.Code {
	var e *client.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func hasReason(s brain.Status, reason string) bool {
	for _, m := range s.Models {
		if strings.Contains(m.Reason, reason) {
			return true
		}
	}
	return false
}

// The page of a real daemon shows a real sleep as it goes, and its buttons sleep, wake and roll back.
func TestDaemonPage(t *testing.T) {
	m := newMaker(t)
	m.pack(t, 1, "maker")
	b := newBrowser(t)
	d := newDaemon(t, m, map[string]string{"sleep": "rule = \"hebbian\"\nevents = 60000"})
	d.start()
	r := rand.New(rand.NewPCG(6, 0))
	for range 20 {
		if _, err := d.Learn(context.Background(), picture(r), int(r.Uint32()%10)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, "deploy", "-m", m.pack(t, 2, "maker"), "--to", d.url)
	if _, err := d.Learn(context.Background(), picture(r), 1); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // longer than wake_hold
	b.do(chromedp.EmulateViewport(1180, 900), scheme("light"), chromedp.Navigate(d.url))
	b.until(`document.getElementById("link").dataset.live === "yes" && document.getElementById("network").textContent.includes("version 2")`)
	b.until(`document.getElementById("tiles").innerText.includes("43.5 °C")`)
	b.do(chromedp.Click(chromedp.CSS("#sleep")))
	b.until(`document.getElementById("state").textContent === "asleep"`)
	b.until(`document.querySelector("#sleeps tbody tr")?.innerText.includes("running")`)
	b.shoot("daemon-asleep")
	b.do(chromedp.Click(chromedp.CSS("#wake")))
	b.until(`document.getElementById("state").textContent !== "asleep"`)
	d.until("interrupted", func(s brain.Status) bool { return s.Counters.Interrupted > 0 })
	b.until(`document.querySelector("#sleeps tbody tr").innerText.includes("to the end")`) // it went on by itself
	d.until("slept", func(s brain.Status) bool { return s.Counters.Sleeps == 1 && s.Sleeps[0].Parts > 1 })
	b.do(chromedp.Click(chromedp.CSS("#rollback")), chromedp.Click(chromedp.CSS(`#confirm button[value="yes"]`)))
	b.until(`document.getElementById("network").textContent.includes("version 1")`)
	b.shoot("daemon-awake")
	b.quiet(0)
	d.end()
}

// check tells what is wired, and unknown keys are refused with the file and the key.
func TestDaemonCheck(t *testing.T) {
	m := newMaker(t)
	d := newDaemon(t, m, nil)
	out, err := hypnosd(t, "check", "-c", d.config).CombinedOutput()
	if err != nil || !regexp.MustCompile(`temperature: 43.5 °C`).Match(out) || !bytes.Contains(out, []byte("wake: absent, because")) || !bytes.Contains(out, []byte("key: ")) {
		t.Errorf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(d.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.config, append([]byte("colour = \"red\"\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := hypnosd(t, "-c", d.config).CombinedOutput(); err == nil || !bytes.Contains(out, []byte(`unknown key "colour"`)) || !bytes.Contains(out, []byte(d.config)) {
		t.Errorf("%v\n%s", err, out)
	}
}
