//go:build unix

package socket

import (
	"net"
	"syscall"
)

// Attempter returns a function that writes to nc what can be written at once, and reports whether that went well; nil when nc cannot be
// written to like that. It is not for concurrent use.
func Attempter(nc net.Conn) func(b []byte) (n int, ok bool) {
	switch nc.(type) {
	case *net.TCPConn, *net.UnixConn:
	default: // such as TLS, which has to encrypt what is written
		return nil
	}
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	var rest []byte
	var n int
	write := func(fd uintptr) bool {
		for {
			if n, err = syscall.Write(int(fd), rest); err != syscall.EINTR {
				return true // whatever happened: there is no second attempt
			}
		}
	}
	return func(b []byte) (int, bool) {
		rest, n = b, 0
		failed := raw.Write(write)
		rest = nil
		return max(n, 0), failed == nil && (err == nil || err == syscall.EAGAIN)
	}
}
