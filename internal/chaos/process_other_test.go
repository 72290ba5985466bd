//go:build !linux

package chaos

import "syscall"

func process(uint32) *syscall.SysProcAttr { return nil }

const smallDiskEnv = "LAWNBERRY_CHAOS_SMALL_DISK"

func holdSmallDisk(string) {}
