package mosquitto

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// attributes make the process end with us, and keep signals of our terminal from it: its end comes after that of who needs it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}

// checkOwner refuses a directory of somebody else's.
func checkOwner(path string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("mosquitto: %s is no directory: move it away", path)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && int(s.Uid) != os.Geteuid() {
		return fmt.Errorf("mosquitto: %s belongs to user %d, not to the user of this process (%d): change its owner, or choose another data directory",
			path, s.Uid, os.Geteuid())
	}
	return nil
}

// born says when a process was started, in a way that no other process of this computer has; false when there is none.
func born(pid int) (string, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	// pid (name) state ppid ... the 20th after the name is the time of the start, in ticks since the boot.
	_, rest, ok := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	f := strings.Fields(rest)
	if !ok || len(f) < 20 || f[0] == "Z" {
		return "", false
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", false
	}
	return strings.TrimSpace(string(boot)) + "/" + f[19], true
}
