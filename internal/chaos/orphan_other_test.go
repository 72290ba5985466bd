//go:build !linux

package chaos

import "syscall"

func orphanless() *syscall.SysProcAttr { return nil }
