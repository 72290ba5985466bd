//go:build !linux

package mosquitto

import (
	"io/fs"
	"syscall"
)

// attributes are nothing special: here Mosquitto may outlive us.
func attributes() *syscall.SysProcAttr { return nil }

func checkOwner(string, fs.FileInfo) error { return nil }

// born cannot tell here, so that no process is taken for one of ours.
func born(int) (string, bool) { return "", false }
