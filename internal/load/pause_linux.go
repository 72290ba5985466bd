package load

import (
	"syscall"
	"time"
)

// nap sleeps for d, more exactly than a timer of Go's, which may be a millisecond late.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil) // woken early by a signal, it is called again
}
