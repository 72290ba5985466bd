//go:build !linux

package chaos

import (
	"syscall"
	"time"
)

// sinceBoot is the wall clock's, where nothing else is shared by all processes.
func sinceBoot() time.Duration { return time.Duration(time.Now().UnixNano()) }

func process(uint32) *syscall.SysProcAttr { return nil }

const smallDiskEnv = "LAWNBERRY_CHAOS_SMALL_DISK"

func holdSmallDisk(string) {}
