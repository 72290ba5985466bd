//go:build unix

package load

import (
	"runtime"
	"syscall"
	"time"
)

// ownUsage returns what this process has used of the processor, and the most memory that it had at once. ok is false where the system does
// not tell.
func ownUsage() (cpu time.Duration, memory uint64, ok bool) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0, 0, false
	}
	memory = uint64(u.Maxrss)
	if runtime.GOOS != "darwin" { // which counts bytes, the others KiB
		memory <<= 10
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), memory, true
}
