package faultnet

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"
)

// through returns both ends of a connection over a bad network: who listens, and who has connected.
func through(t *testing.T, b Bad) (listening, connecting net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = b.Listener(l)
	defer l.Close()
	connecting, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = connecting.Close() })
	listening, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listening.Close() })
	if listening.RemoteAddr().String() != connecting.LocalAddr().String() {
		t.Errorf("it is from %v, want %v", listening.RemoteAddr(), connecting.LocalAddr())
	}
	_ = connecting.SetDeadline(time.Now().Add(20 * time.Second))
	_ = listening.SetDeadline(time.Now().Add(20 * time.Second))
	return listening, connecting
}

// Everything arrives in order, not before its time, also what was written right before the end.
func TestBadDelay(t *testing.T) {
	t.Parallel()
	const delay = 30 * time.Millisecond
	listening, connecting := through(t, Bad{Delay: delay})
	for i := range 3 {
		began := time.Now()
		if _, err := connecting.Write([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		var b [1]byte
		if _, err := io.ReadFull(listening, b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := listening.Write(b[:]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(connecting, b[:]); err != nil || b[0] != byte(i) {
			t.Fatalf("%v, %v", b, err)
		}
		if took := time.Since(began); took < delay {
			t.Errorf("an answer after %v, want %v at least", took, delay)
		}
	}
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	go func() {
		_, _ = listening.Write(body)
		_ = listening.Close()
	}()
	got, err := io.ReadAll(connecting)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("%d bytes of %d, %v", len(got), len(body), err)
	}
}

func TestBadCut(t *testing.T) {
	t.Parallel()
	listening, connecting := through(t, Bad{Cut: 10 * time.Millisecond})
	var b [1]byte
	if _, err := connecting.Read(b[:]); err == nil {
		t.Error("read something")
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Error("the client's end is not cut")
	}
	if _, err := listening.Read(b[:]); err == nil {
		t.Error("read something")
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Error("the broker's end is not cut")
	}
}
