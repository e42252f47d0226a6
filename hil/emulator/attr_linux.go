package emulator

import "syscall"

// dieWithParent has a process killed when this one ends, however that happens.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
