//go:build !linux

package main

import (
	"context"
	"errors"
	"io"
	"syscall"
	"time"

	"hypnos/hil/message"
)

var errLinux = errors.New("on Linux only")

var start = time.Now()

func monotonic() time.Duration { return time.Since(start) }

func boot(context.Context) {}

func openTTY(string, int) (io.ReadWriteCloser, error)             { return nil, errLinux }
func (g *guest) mount(context.Context, message.Disk) (any, error) { return nil, errLinux }
func (g *guest) unmount(context.Context, string) (any, error)     { return nil, errLinux }
func setClock(context.Context, time.Duration) (any, error)        { return nil, errLinux }
func bindDriver(context.Context, message.Binding) (any, error)    { return nil, errLinux }

func mounted(string) bool { return false }

func syncAll() {}

func become(string) error { return errLinux }

func dieWithParent() *syscall.SysProcAttr { return nil }
