//go:build !linux

package client

import "net"

// unsent cannot tell here.
func unsent(net.Conn) (n int, ok bool) { return 0, false }
