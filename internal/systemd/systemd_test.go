package systemd

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager listens as a service manager does, on a socket that the environment names.
func manager(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", name)
	return c
}

// hear returns the next message.
func hear(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// expect fails unless the next message is as a pattern says.
func expect(t *testing.T, c *net.UnixConn, pattern string) {
	t.Helper()
	if got := hear(t, c); !regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(got) {
		t.Fatalf("got %q, want %q", got, pattern)
	}
}

func TestNotifier(t *testing.T) {
	names := map[string]string{"a path": filepath.Join(t.TempDir(), "s")}
	if runtime.GOOS == "linux" {
		names["abstract"] = "@lawnberry-test-" + strconv.Itoa(os.Getpid())
	}
	for what, name := range names {
		t.Run(what, func(t *testing.T) {
			c := manager(t, name)
			n := New(nil)
			n.Ready("listening on a\nWATCHDOG=1")
			expect(t, c, "READY=1\nSTATUS=listening on a WATCHDOG=1")
			n.Reloading()
			want := "RELOADING=1\n"
			if runtime.GOOS == "linux" {
				want += "MONOTONIC_USEC=[1-9][0-9]*"
			}
			expect(t, c, want)
			n.Stopping()
			expect(t, c, "STOPPING=1\nSTATUS=stopping")
		})
	}
}

// Without a service manager nothing is said, and one that is gone or does not listen holds nobody up.
func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n := New(nil)
	n.Ready("x")
	if err := n.Watch(t.Context(), func(context.Context) error { t.Error("asked"); return nil }); err != nil {
		t.Error(err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	n.Ready("x")

	t.Setenv("WATCHDOG_USEC", "soon")
	if err := n.Watch(t.Context(), func(context.Context) error { t.Error("asked"); return nil }); err == nil {
		t.Error("a watchdog of no time")
	}
	t.Setenv("WATCHDOG_USEC", "1000000")
	t.Setenv("WATCHDOG_PID", "1")
	if err := n.Watch(t.Context(), func(context.Context) error { t.Error("asked"); return nil }); err != nil {
		t.Error(err)
	}

	c := manager(t, filepath.Join(t.TempDir(), "full"))
	for range 3000 { // more than the socket takes; all but one return at once
		n.Ready("x")
	}
	if !n.deaf {
		t.Error("nobody has read, and that was not noticed")
	}
	_ = c.Close() // so what waits ends
	<-n.sending
}

// What is not healthy is not fed.
func TestWatch(t *testing.T) {
	c := manager(t, filepath.Join(t.TempDir(), "s"))
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	var ill atomic.Bool
	n := New(nil)
	n.Ready("all is well")
	expect(t, c, "READY=1\nSTATUS=all is well")
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- n.Watch(ctx, func(ctx context.Context) error {
			if !ill.Load() {
				return nil
			}
			<-ctx.Done() // as something that hangs
			return errors.New("the broker\nhangs")
		})
	}()
	for range 3 {
		expect(t, c, "WATCHDOG=1")
	}
	ill.Store(true)
	message := hear(t, c)
	for message == "WATCHDOG=1" {
		message = hear(t, c)
	}
	if message != "STATUS=not healthy (1): the broker hangs" {
		t.Fatalf("got %q", message)
	}
	for _, times := range []string{"2", "3", "4"} {
		expect(t, c, `STATUS=not healthy \(`+times+`\): the broker hangs`)
	}
	ill.Store(false)
	for message = hear(t, c); strings.HasPrefix(message, "STATUS="); {
		message = hear(t, c)
	}
	if message != "WATCHDOG=1\nSTATUS=all is well" {
		t.Fatalf("got %q", message)
	}
	expect(t, c, "WATCHDOG=1")
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A hang that is over in time is not bitten: from one food to the next is never as long as the watchdog waits, though checks fail in between.
func TestShortHang(t *testing.T) {
	const limit = 30 * time.Second
	synctest.Test(t, func(t *testing.T) {
		t.Setenv("WATCHDOG_USEC", strconv.FormatInt(limit.Microseconds(), 10))
		t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
		t.Setenv("NOTIFY_SOCKET", "")
		for begin := time.Duration(0); begin < limit; begin += 700 * time.Millisecond {
			for _, long := range []time.Duration{limit / 3, limit/3 + time.Second, limit / 2, limit * 2 / 3} {
				start := time.Now()
				fed, hungry := start, time.Duration(0)
				ctx, end := context.WithTimeout(t.Context(), 4*limit)
				err := New(nil).Watch(ctx, func(ctx context.Context) error {
					from, to := start.Add(begin), start.Add(begin+long)
					if now := time.Now(); !now.Before(from) && now.Before(to) {
						select {
						case <-time.After(to.Sub(now)):
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					hungry, fed = max(hungry, time.Since(fed)), time.Now()
					return nil
				})
				end()
				if err != nil || hungry >= limit {
					t.Fatalf("a hang of %v after %v: nothing to eat for %v (%v)", long, begin, hungry, err)
				}
			}
		}
	})
}
