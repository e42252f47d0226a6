//go:build linux

package hil

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// secureShell runs this machine's sshd for one test and returns the options by which ssh reaches it.
func secureShell(t *testing.T) (host string, options []string) {
	t.Helper()
	server, err := exec.LookPath("sshd")
	if err != nil {
		server = "/usr/sbin/sshd"
	}
	for _, p := range []string{server, "ssh"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("no %s: Debian's openssh-server and openssh-client have it", filepath.Base(p))
		}
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // where the server, as root, keeps apart what is not trusted
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Skipf("sshd needs /run/sshd: %v", err)
		}
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path(name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // finds a port
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	hostKey, err := os.ReadFile(path("host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("known"), fmt.Appendf(nil, "[127.0.0.1]:%d %s", port, hostKey), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	c := exec.Command(server, "-D", "-e", "-f", "/dev/null", "-p", fmt.Sprint(port), "-h", path("host"), "-o", "ListenAddress=127.0.0.1",
		"-o", "AuthorizedKeysFile="+path("user.pub"), "-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes")
	c.Stderr = &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	})
	for range 200 {
		if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			conn.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return me.Username + "@127.0.0.1", []string{"-F", "none", "-p", fmt.Sprint(port), "-i", path("user"), "-o", "UserKnownHostsFile=" + path("known"), "-o", "StrictHostKeyChecking=yes"}
}

// serialLine is two terminals that are the ends of one line: what is written to one is read from the other.
func serialLine(t *testing.T) (near, far string) {
	t.Helper()
	var masters [2]*os.File
	var names [2]string
	for i := range masters {
		m, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Skipf("no pseudo-terminals: %v", err)
		}
		t.Cleanup(func() { m.Close() })
		if err := unix.IoctlSetPointerInt(int(m.Fd()), unix.TIOCSPTLCK, 0); err != nil {
			t.Fatal(err)
		}
		n, err := unix.IoctlGetInt(int(m.Fd()), unix.TIOCGPTN)
		if err != nil {
			t.Fatal(err)
		}
		masters[i], names[i] = m, fmt.Sprintf("/dev/pts/%d", n)
		// Held open, it stays a terminal while nobody has it.
		hold, err := os.OpenFile(names[i], os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { hold.Close() })
		if _, err := term.MakeRaw(int(hold.Fd())); err != nil { // no echo before both ends are open
			t.Fatal(err)
		}
	}
	for i := range masters {
		go io.Copy(masters[i], masters[1-i])
	}
	return names[0], names[1]
}

// A board over SSH and one over a serial line do what all do. This machine is both, by its own sshd and by a guest at the other end of a
// pair of terminals; that guest is of another version at first.
func TestRealBoards(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the devices' programs")
	}
	host, options := secureShell(t)
	near, far := serialLine(t)
	dir := t.TempDir()
	guest, err := programs{source: "..", dir: dir}.build("hil/guest", runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(guest)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other") // what is behind an ELF file is not looked at
	if err := os.WriteFile(other, append(text, "other version"...), 0o700); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	c := exec.Command(other, "serve", "-depot", filepath.Join(dir, "serial"), "-tty", far)
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Process.Kill()
		c.Wait()
		if said.Len() > 0 {
			t.Errorf("the guest on the line: %s", said.String())
		}
	}()
	quoted := strings.Join(options, `", "`)
	rig := filepath.Join(dir, "rig.toml")
	if err := os.WriteFile(rig, fmt.Appendf(nil, `
cache = %q
[[target]]
name = "ssh"
kind = "ssh"
arch = %q
host = %q
options = ["%s"]
home = %q
scenarios = ["equivalence", "learn", "damage", "update", "storage", "clock", "day"]
[[target]]
name = "serial"
kind = "serial"
arch = %q
port = %q
scenarios = ["learn", "line", "update"]
`, filepath.Join(dir, "cache"), runtime.GOARCH, host, quoted, filepath.Join(dir, "over", "ssh"), runtime.GOARCH, near), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := ReadRig(rig)
	if err != nil {
		t.Fatal(err)
	}
	cuts, err := parseScenario("three-cuts", `
about = "Power cuts, few of them."
needs = ["power cut"]
[daemon.brain]
max_replay = "300ms"
[[step]]
cuts = { count = 3, during = ["learning", "sleeping", "updating"], within = "300ms" }`)
	if err != nil {
		t.Fatal(err)
	}
	for i := range r.Targets {
		r.Targets[i].Scenarios = append(r.Targets[i].Scenarios, cuts.Name)
	}
	report, err := Run(t.Context(), r, Options{Source: "..", Extra: []Scenario{cuts}})
	if err != nil {
		t.Fatal(err)
	}
	skipped := map[string]string{"storage": "storage", "clock": "set_clock", "day": "around"}
	passed := map[string]int{}
	for _, x := range report.Results {
		t.Log(x.line())
		switch why := skipped[x.Scenario]; {
		case x.Outcome == Passed && x.Compared > 0:
			passed[x.Target]++
		case x.Outcome == Skipped && (why != "" && strings.Contains(x.Reason, why) || strings.HasPrefix(x.Scenario, "missing-sync")):
		default:
			t.Errorf("%s, %s: %s: %s\n%s", x.Target, x.Scenario, x.Outcome, x.Reason, x.Console)
		}
	}
	if passed["ssh"] != 7 || passed["serial"] != 6 { // with the rig's own check and the flipped bit
		t.Errorf("passed: %v", passed)
	}
}
