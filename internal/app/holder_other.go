//go:build !linux

package app

import "fmt"

// portHolder would name the process that listens on a TCP port; only Linux tells.
func portHolder(int) string { return "" }

func describeProcess(pid int) string { return fmt.Sprintf("process %d", pid) }
