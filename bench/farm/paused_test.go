//go:build unix

package farm_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestPaused: a worker that stands still is held for dead, its run taken up; when it goes on again it lets the run go and changes nothing.
func TestPaused(t *testing.T) {
	needProcesses(t)
	t.Parallel()
	dir := t.TempDir()
	o := one(small(t, dir, 24))
	s := open(t, dir)
	start := func(name string) *exec.Cmd {
		p := s.process(name, filepath.Join(t.TempDir(), name))
		in, err := p.StdinPipe()
		if err == nil {
			err = p.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			p.Wait()
		})
		return p
	}
	slow := start("slow")
	r := s.start(o)
	s.until("saved", 2)
	if err := slow.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	start("quick")
	s.until("begun", 2)
	if err := slow.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	got := r.wait(t)
	same(t, got, undisturbed(t, o))
	for range 200 { // the slow one's word may come last
		if strings.Contains(s.notes(), "let go") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("the slow worker did not let go:\n%s", s.notes())
}
