//go:build !linux

package app

import "fmt"

// portHolder would name the process that listens on a TCP port; only Linux tells.
func portHolder(int) string { return "" }

func portOwner(int) int { return 0 }

func unixOwner(string) int { return 0 }

func describeProcess(pid int) string {
	if pid == 0 {
		return "another process"
	}
	return fmt.Sprintf("process %d", pid)
}
