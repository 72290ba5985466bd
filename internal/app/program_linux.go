package app

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// forgetProgram takes the pages of the program's file that this process has read so far out of its memory: most were needed by the start
// alone. What is needed again is mapped again from the system's cache of the file. It leaves alone what the process may write to.
func forgetProgram() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		f := strings.Fields(lines.Text()) // begin-end permissions offset device inode path
		if len(f) != 6 || f[5] != self || f[1] != "r-xp" && f[1] != "r--p" {
			continue
		}
		var begin, end uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &begin, &end); err == nil {
			_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, begin, end-begin, syscall.MADV_DONTNEED)
		}
	}
}
