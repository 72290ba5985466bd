package client

import (
	"net"
	"syscall"
	"unsafe"
)

// unsent returns how many bytes written to conn the other side's kernel has not taken in yet.
func unsent(conn net.Conn) (n int, ok bool) {
	if t, is := conn.(interface{ NetConn() net.Conn }); is {
		conn = t.NetConn()
	}
	tcp, is := conn.(*net.TCPConn)
	if !is {
		return 0, false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, false
	}
	var queued int32
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&queued)))
	})
	return int(queued), err == nil && errno == 0
}
