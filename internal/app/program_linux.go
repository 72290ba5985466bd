package app

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

// forgetProgram takes the pages of the program's file that this process has read so far out of its memory: most were needed by the start
// alone. What is needed again is mapped again from the system's cache of the file. It leaves alone what the process may write to, and what
// it has written to: the linker of a dynamic program writes addresses into pages that it makes read-only then, and the file does not have them.
func forgetProgram() {
	self, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	for _, m := range unwritten(maps, self) {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.begin, m.end-m.begin, syscall.MADV_DONTNEED)
	}
}

type mapping struct{ begin, end uintptr }

// unwritten returns the mappings of a file in smaps (proc(5)) of which all is as the file has it.
func unwritten(smaps io.Reader, file string) []mapping {
	var all []mapping
	var at mapping
	of := false // at is one of the file's
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) == 0 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") { // begin-end permissions offset device inode path
			at = mapping{}
			_, err := fmt.Sscanf(f[0], "%x-%x", &at.begin, &at.end)
			of = err == nil && len(f) == 6 && f[5] == file && (f[1] == "r-xp" || f[1] == "r--p")
			continue
		}
		if of && f[0] == "Anonymous:" && len(f) == 3 && f[1] == "0" {
			all = append(all, at)
		}
	}
	return all
}
