package emulator

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Counted runs init on QEMU's plain machine with one processor, whose clock goes by instructions (one is a nanosecond), with an argument to
// the kernel, until it switches the machine off. It returns the rest of the console's line that begins with prefix. Nothing from outside
// reaches the machine: it does the same each time.
func (t Tools) Counted(ctx context.Context, dir, init string, files map[string]string, argument, prefix string) (string, error) {
	b, err := ByName("virt")
	if err != nil {
		return "", err
	}
	if err := t.Check(b); err != nil {
		return "", err
	}
	ram := filepath.Join(dir, "initramfs")
	f, err := os.Create(ram)
	if err != nil {
		return "", err
	}
	err = WriteInitramfs(f, init, t.Kernel(), nil, files)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return "", err
	}
	c := exec.CommandContext(ctx, t.QEMU(), "-M", "virt", "-cpu", "cortex-a72", "-smp", "1", "-m", "512M", "-display", "none", "-no-reboot", "-nic", "none",
		"-monitor", "none", "-serial", "stdio", "-icount", "shift=0,sleep=off", "-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm",
		"-kernel", t.Kernel().Image(), "-initrd", ram, "-append", "console=ttyAMA0 quiet nokaslr panic=-1 "+argument)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	c.SysProcAttr = dieWithParent()
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("emulator: %w: %s", err, LastLine(out.String()))
	}
	for line := range strings.Lines(out.String()) {
		if _, rest, ok := strings.Cut(strings.TrimRight(line, "\r\n"), prefix); ok {
			return rest, nil
		}
	}
	return "", fmt.Errorf("emulator: the machine ended without an answer: %s", LastLine(out.String()))
}

// LastLine is the last line of what a console shows.
func LastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
