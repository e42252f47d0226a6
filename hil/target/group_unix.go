//go:build unix

package target

import (
	"os/exec"
	"syscall"
)

// ownGroup has a process and its children make a group.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func killGroup(c *exec.Cmd) { syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
