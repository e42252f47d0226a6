//go:build !unix

package target

import (
	"os/exec"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return nil }

func killGroup(c *exec.Cmd) { c.Process.Kill() }
