//go:build !unix

package socket

import "net"

// Attempter returns nil: writing without waiting is not known here.
func Attempter(net.Conn) func(b []byte) (n int, ok bool) { return nil }
