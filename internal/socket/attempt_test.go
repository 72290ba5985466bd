//go:build unix

package socket

import (
	"bytes"
	"io"
	"net"
	"testing"
)

// What the socket takes is written and the rest is not waited for; a connection that is closed, or that is none of the system's, says so.
func TestAttempter(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			address := "127.0.0.1:0"
			if network == "unix" {
				address = t.TempDir() + "/s"
			}
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			near, err := net.Dial(network, l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer near.Close()
			far, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer far.Close()

			attempt := Attempter(near)
			if n, ok := attempt([]byte("hello")); n != 5 || !ok {
				t.Fatal(n, ok)
			}
			sent := 5
			part := bytes.Repeat([]byte("x"), 1<<20)
			for n := len(part); n == len(part); sent += n {
				var ok bool
				if n, ok = attempt(part); !ok {
					t.Fatal("a full socket is no failure")
				}
			}
			if n, ok := attempt(part); n != 0 || !ok {
				t.Errorf("a full socket takes %d bytes, %v", n, ok)
			}
			got := make([]byte, sent)
			if _, err := io.ReadFull(far, got); err != nil || string(got[:5]) != "hello" {
				t.Errorf("%q %v", got[:5], err)
			}
			near.Close()
			if n, ok := attempt([]byte("x")); n != 0 || ok {
				t.Errorf("a closed one takes %d bytes, %v", n, ok)
			}
		})
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if Attempter(near) != nil {
		t.Error("a pipe can be written to without waiting")
	}
}
