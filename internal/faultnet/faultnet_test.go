package faultnet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// setup returns a proxy before a server that echoes, and a connection through it.
func setup(t *testing.T) (*Proxy, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	p, err := Start(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		_ = l.Close()
		<-done
	})
	return p, dial(t, p)
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// echo sends text and returns what comes back within the time.
func echo(t *testing.T, c net.Conn, text string, within time.Duration) (string, error) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	return receive(c, len(text), within)
}

func receive(c net.Conn, n int, within time.Duration) (string, error) {
	_ = c.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, n)
	n, err := io.ReadFull(c, buf)
	return string(buf[:n]), err
}

func TestPassesOn(t *testing.T) {
	p, c := setup(t)
	if got, err := echo(t, c, "hello", 5*time.Second); got != "hello" {
		t.Fatal(got, err)
	}
	big := bytes.Repeat([]byte("x"), 300_000)
	if got, err := echo(t, c, string(big), 5*time.Second); got != string(big) {
		t.Fatal(len(got), err)
	}
	p.Close() // what passed is counted once it was written, which the client may see first
	if p.Accepted() != 1 || p.Passed(Up) != 300_005 || p.Passed(Down) != 300_005 {
		t.Error(p.Accepted(), p.Passed(Up), p.Passed(Down))
	}
}

func TestCut(t *testing.T) {
	for _, reset := range []bool{false, true} {
		p, c := setup(t)
		if _, err := echo(t, c, "hello", 5*time.Second); err != nil {
			t.Fatal(err)
		}
		p.Cut(reset)
		_, err := receive(c, 1, 5*time.Second)
		if reset && !errors.Is(err, syscall.ECONNRESET) || !reset && err != io.EOF {
			t.Errorf("reset %v: %v", reset, err)
		}
		if got, err := echo(t, dial(t, p), "again", 5*time.Second); got != "again" {
			t.Error(got, err)
		}
	}
}

func TestCutAfter(t *testing.T) {
	p, c := setup(t)
	p.CutAfter(5 + 5 + 3)
	if got, err := echo(t, c, "hello", 5*time.Second); got != "hello" {
		t.Fatal(got, err)
	}
	if _, err := echo(t, c, "hello", 5*time.Second); err == nil {
		t.Fatal("the connection was not cut")
	}
	p.Close() // so that all is counted
	if n := p.Passed(Up) + p.Passed(Down); n != 13 {
		t.Errorf("%d bytes passed", n)
	}
}

// What is lost leaves no hole in a stream: nothing follows it on that connection, all does on the next.
func TestLose(t *testing.T) {
	p, c := setup(t)
	for _, d := range []Direction{Up, Down} {
		p.Set(d, Faults{Lose: true})
		if got, err := echo(t, c, "lost", 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("direction %d: %q, %v", d, got, err)
		}
		p.Set(d, Faults{})
		if got, err := echo(t, c, "hole", 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("direction %d, afterwards: %q, %v", d, got, err)
		}
		c = dial(t, p)
		if got, err := echo(t, c, "found", 5*time.Second); got != "found" {
			t.Errorf("direction %d: %q, %v", d, got, err)
		}
	}
}

func TestStall(t *testing.T) {
	p, c := setup(t)
	p.Set(Up, Faults{Stall: true})
	if got, err := echo(t, c, "late", 20*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q, %v", got, err)
	}
	p.Set(Up, Faults{})
	if got, err := receive(c, 4, 5*time.Second); got != "late" {
		t.Error(got, err)
	}
}

func TestSlow(t *testing.T) {
	for name, f := range map[string]Faults{
		"delay": {Delay: 50 * time.Millisecond},
		"rate":  {Rate: 100},
		"chunk": {Chunk: 1, Rate: 100},
	} {
		t.Run(name, func(t *testing.T) {
			p, c := setup(t)
			p.Set(Down, f)
			begin := time.Now()
			if got, err := echo(t, c, "hello world", 5*time.Second); got != "hello world" {
				t.Fatal(got, err)
			}
			if took := time.Since(begin); took < 50*time.Millisecond {
				t.Errorf("took only %v", took)
			}
		})
	}
}

func TestRefuse(t *testing.T) {
	p, c := setup(t)
	if got, err := echo(t, c, "hello", 5*time.Second); got != "hello" { // so that it has been accepted
		t.Fatal(got, err)
	}
	p.Refuse(true)
	if _, err := receive(dial(t, p), 1, 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	if got, err := echo(t, c, "hello", 5*time.Second); got != "hello" {
		t.Error("the connection that was there was harmed:", got, err)
	}
	p.Refuse(false)
	if got, err := echo(t, dial(t, p), "hello", 5*time.Second); got != "hello" {
		t.Error(got, err)
	}
}
