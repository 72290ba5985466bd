package mosquitto

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
)

// Every kind of listener takes a client, and messages go from each to each.
func TestListeners(t *testing.T) {
	t.Parallel()
	b := start(t, Options{
		Listeners: []Listener{
			{Network: "tcp", Address: "127.0.0.1:0"}, {Network: "ws", Address: "127.0.0.1:0"},
			{Network: "tcp", Address: "[2001:db8::1]:0", Optional: true}, // nobody has this one
		},
		Logins: Logins{Anonymous: true},
	})
	n := 0
	var urls []string
	for e := range b.Endpoints() {
		urls = append(urls, e.URL)
	}
	if len(urls) != 3 || b.URL() != urls[0] || !strings.HasPrefix(urls[1], "ws://") || !strings.HasPrefix(urls[2], "unix://") {
		t.Fatalf("endpoints %q, URL %s", urls, b.URL())
	}
	for _, from := range urls {
		for _, to := range urls {
			n++
			name := fmt.Sprintf("x/%d", n)
			h := listen(t, connect(t, client.Options{URL: to}), name)
			publish(t, connect(t, client.Options{URL: from}), name, "hello")
			eventually(t, from+" to "+to, func() bool { return h.has("lawnberry/" + name + "=hello") })
		}
	}
	c := connect(t, client.Options{Dial: b.Dial})
	publish(t, c, "x/0", "hello")
	if v := c.Stats().Version; v != 5 {
		t.Errorf("MQTT version %d", v)
	}
}

// Nobody but this user can read what it writes.
func TestFilesAreOurs(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	b := start(t, Options{Dir: dir, Persist: filepath.Join(dir, "store"), Socket: filepath.Join(filepath.Dir(dir), "sock"),
		Listeners: local(), Logins: Logins{Users: []User{{"ann", Verifier("a long password")}}, Grants: []Grant{{"ann", Read, "#"}}}})
	publish(t, connect(t, client.Options{Dial: b.Dial}), "x", "kept", client.WithRetain(true))
	stop(t, b)
	files := 0
	check(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		files++
		want := os.FileMode(0o600)
		if info.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: %v", path, info.Mode())
		}
		return nil
	}))
	if files < 5 {
		t.Errorf("%d files", files)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "sock")); len(left) > 0 {
		t.Error("the socket is still there")
	}
}

// Retained messages outlive a restart, and a clean end loses nothing.
func TestRetainedOutlivesRestart(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	o := Options{Dir: dir, Persist: filepath.Join(dir, "store"), Listeners: local(), Logins: Logins{Anonymous: true}}
	b := start(t, o)
	publish(t, connect(t, client.Options{URL: b.URL()}), "safety/emergency_stop", "STOP", client.WithRetain(true))
	stop(t, b)
	select {
	case <-b.Done():
	default:
		t.Error("not done")
	}
	b = start(t, o)
	h := listen(t, connect(t, client.Options{URL: b.URL()}), "safety/#")
	eventually(t, "the retained message", func() bool { return h.has("lawnberry/safety/emergency_stop=STOP") })
}

// Killed, it is there again within two seconds, clients come back, and what was saved is kept.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	log, logger := newLog(slog.LevelInfo)
	b := start(t, Options{Dir: dir, Persist: filepath.Join(dir, "store"), Listeners: local(), Logins: Logins{Anonymous: true}, Logger: logger})
	c := connect(t, client.Options{URL: b.URL(), ID: "c"})
	h := listen(t, c, "x/#")
	for i := range 3 * saveEvery {
		publish(t, c, fmt.Sprint("kept/", i), "1", client.WithRetain(true))
	}
	for round := range 3 {
		before := b.Stats()
		check(t, syscall.Kill(before.PID, syscall.SIGKILL))
		began := time.Now()
		eventually(t, "it runs again", func() bool { s := b.Stats(); return s.Running && s.PID != before.PID })
		t.Logf("again after %v", time.Since(began))
		if s := b.Stats(); s.Restarts != uint64(round+1) || s.Hangs != 0 || !strings.Contains(s.Trouble, "killed") {
			t.Errorf("%+v", s)
		}
		name := fmt.Sprint("x/", round)
		publish(t, connect(t, client.Options{URL: b.URL()}), "x/other", "there")
		eventually(t, "the client is back", func() bool { return c.Stats().Connected && c.Stats().Reconnects == uint64(round+1) })
		publish(t, c, name, "back")
		eventually(t, "a message", func() bool { return h.has("lawnberry/" + name + "=back") })
	}
	kept := listen(t, connect(t, client.Options{URL: b.URL()}), "kept/#")
	eventually(t, "what was saved", func() bool {
		return kept.has("lawnberry/kept/0=1") && kept.has(fmt.Sprintf("lawnberry/kept/%d=1", saveEvery))
	})
	if !log.has("level=ERROR", "Mosquitto is started again") {
		t.Errorf("the log does not say it:\n%s", log)
	}
}

// Stopped by a signal it takes connections no more, though its sockets are there: it is killed, and started again.
func TestHung(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Listeners: local(), Logins: Logins{Anonymous: true}, tune: quick})
	before := b.Stats()
	check(t, syscall.Kill(before.PID, syscall.SIGSTOP))
	eventually(t, "it runs again", func() bool { s := b.Stats(); return s.Running && s.PID != before.PID })
	if s := b.Stats(); s.Hangs != 1 || s.Restarts != 1 || !strings.Contains(s.Trouble, "no sign of life") {
		t.Errorf("%+v", s)
	}
	publish(t, connect(t, client.Options{URL: b.URL()}), "x", "there")
	if _, ok := born(before.PID); ok {
		t.Error("the hung process is still there")
	}
}

// One that is stopped for less than the patience is left alone.
func TestShortPause(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Listeners: local(), Logins: Logins{Anonymous: true}, tune: func(s *times) { s.probe = 10 * time.Millisecond }})
	before := b.Stats()
	c := connect(t, client.Options{URL: b.URL(), Probe: time.Hour})
	for range 3 {
		check(t, syscall.Kill(before.PID, syscall.SIGSTOP))
		sent := make(chan error, 1)
		go func() { sent <- c.Publish(testContext(t), "x", rawMessage("late"), client.WithQoS(1)) }()
		select { // a pause, and nothing gets through
		case <-sent:
			t.Fatal("it is not stopped")
		case <-time.After(300 * time.Millisecond):
		}
		check(t, syscall.Kill(before.PID, syscall.SIGCONT))
		check(t, <-sent)
	}
	if s := b.Stats(); s.PID != before.PID || s.Restarts != 0 {
		t.Errorf("%+v", s)
	}
}

// What somebody else has taken is named, at the start and when it happens while Mosquitto is down.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	_, err = tryStart(t, Options{Listeners: []Listener{{Network: "tcp", Address: l.Addr().String()}}, Logins: Logins{Anonymous: true}})
	var listen *broker.ListenError
	if !errors.As(err, &listen) || !errors.Is(err, syscall.EADDRINUSE) || listen.Address != l.Addr().String() {
		t.Fatalf("got %v", err)
	}
}

// A crash loop goes on without an end, and not faster than its bound; when its reason is gone, all is well again.
func TestCrashLoop(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	log, logger := newLog(slog.LevelInfo)
	switched := filepath.Join(filepath.Dir(dir), "broken")
	binary := script(t, `if [ -e '`+switched+`' ] && [ "$1" = -c ]; then echo 'Error: it is broken' >&2; exit 1; fi; exec "$MOSQUITTO" "$@"`)
	b := start(t, Options{Dir: dir, Binary: binary, Listeners: local(), Logins: Logins{Anonymous: true}, Logger: logger,
		tune: func(s *times) { s.backoff, s.longest = 5*time.Millisecond, 40*time.Millisecond }})
	check(t, os.WriteFile(switched, nil, 0o600))
	check(t, syscall.Kill(b.Stats().PID, syscall.SIGKILL))
	eventually(t, "six attempts", func() bool { return b.Stats().Restarts >= 6 })
	if s := b.Stats(); s.Running || s.PID != 0 || !strings.Contains(s.Trouble, "it is broken") {
		t.Errorf("%+v", s)
	}
	check(t, os.Remove(switched))
	eventually(t, "it runs again", func() bool { return b.Stats().Running })
	publish(t, connect(t, client.Options{URL: b.URL()}), "x", "there")
	if !log.has("level=ERROR", "cannot be started again", "it is broken") {
		t.Errorf("the log does not say it:\n%s", log)
	}
}

// The wait between attempts grows up to two seconds.
func TestWait(t *testing.T) {
	t.Parallel()
	b := &Broker{times: times{backoff: 100 * time.Millisecond, longest: 2 * time.Second}}
	for n, want := range []int64{100, 100, 200, 400, 800, 1600, 2000, 2000} {
		if got := b.wait(n); got.Milliseconds() != want {
			t.Errorf("after %d failures %v", n, got)
		}
	}
	if got := b.wait(1 << 40); got != 2*time.Second {
		t.Errorf("after many %v", got)
	}
}

// A stop in any state ends soon and leaves nothing behind.
func TestStopWhileHungOrDown(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]syscall.Signal{"hung": syscall.SIGSTOP, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{Listeners: local(), Logins: Logins{Anonymous: true}, tune: func(s *times) { s.stop = 200 * time.Millisecond }})
			pid := b.Stats().PID
			check(t, syscall.Kill(pid, harm))
			stop(t, b)
			if _, ok := born(pid); ok {
				t.Error("it is still there")
			}
			stop(t, b)
		})
	}
}

// Its log is ours, with levels.
func TestLog(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]slog.Level{
		"Error: Address already in use":                                       slog.LevelError,
		"Warning: Mosquitto should not be run as root/administrator.":         slog.LevelWarn,
		"Warning: Unable to set TCP_NODELAY.":                                 slog.LevelDebug,
		"Warning: ACL pattern 'x' does not contain '%c' or '%u'.":             slog.LevelDebug,
		"mosquitto version 2.0.11 running":                                    slog.LevelInfo,
		"New connection from 127.0.0.1:1 on port 1883.":                       slog.LevelDebug,
		"New client connected from 127.0.0.1:1 as Error (p2, c1, k60).":       slog.LevelInfo,
		"Outgoing messages are being dropped for client slow.":                slog.LevelWarn,
		"Client <unknown> disconnected, not authorised.":                      slog.LevelWarn,
		"Received PUBLISH from x (d0, q0, r0, m0, 'Error', ... (1 bytes))":    slog.LevelDebug,
		"Client x already connected, closing old connection.":                 slog.LevelWarn,
		"Client x has exceeded timeout, disconnecting.":                       slog.LevelWarn,
		"OpenSSL Error[0]: error:14094418:SSL routines:ssl3_read_bytes:alert": slog.LevelWarn,
	} {
		if got := levelOf(line); got != want {
			t.Errorf("%s: %v", line, got)
		}
	}
	log, logger := newLog(slog.LevelDebug)
	b := start(t, Options{Listeners: local(), Logins: Logins{Anonymous: true}, Logger: logger})
	c := connect(t, client.Options{URL: b.URL(), ID: "seen-in-the-log"})
	publish(t, c, "x", "there")
	eventually(t, "the connection", func() bool { return log.has("level=INFO", "msg=mosquitto", "New client connected", "seen-in-the-log") })
	eventually(t, "the message", func() bool { return log.has("level=DEBUG", "msg=mosquitto", "Received PUBLISH from seen-in-the-log") })
	eventually(t, "the start", func() bool { return log.has("level=INFO", "running") })

	errorsOnly, logger := newLog(slog.LevelError)
	b = start(t, Options{Listeners: local(), Logins: Logins{Anonymous: true}, Logger: logger})
	publish(t, connect(t, client.Options{URL: b.URL()}), "x", "there")
	if s := errorsOnly.String(); s != "" {
		t.Errorf("logged: %s", s)
	}
}

// A line without an end does not fill the memory, and is one line of ours.
func TestLongLine(t *testing.T) {
	t.Parallel()
	log, logger := newLog(slog.LevelInfo)
	m := &mapper{log: logger}
	m.read(strings.NewReader("Error: " + strings.Repeat("x", 1<<20) + "\nsecond\n\n\n"))
	if n := len(log.String()); n > 10_000 || !log.has("says=second") || strings.Count(log.String(), "\n") != 2 {
		t.Errorf("%d bytes, %d lines", n, strings.Count(log.String(), "\n"))
	}
	for range 100 {
		m.take("more")
	}
	if got := m.tail(); len(got) > 20 {
		t.Errorf("%d lines are kept", len(got))
	}
}

// Mosquitto saves sessions now and then. After a kill it says that a session is present which does not have the latest subscriptions: the client makes
// them again, or an emergency stop would not reach it.
func TestSessionOfBefore(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	b := start(t, Options{Dir: dir, Persist: filepath.Join(dir, "store"), Listeners: local(), Logins: Logins{Anonymous: true}})
	c := connect(t, client.Options{URL: b.URL(), ID: "c"})
	listen(t, c, "early")
	other := connect(t, client.Options{URL: b.URL(), ID: "other"})
	saved := filepath.Join(dir, "store", savedName)
	eventually(t, "it is saved", func() bool {
		publish(t, other, "some/state", "1", client.WithRetain(true))
		_, err := os.Stat(saved)
		return err == nil
	})
	late := listen(t, c, "safety/emergency_stop")
	check(t, syscall.Kill(b.Stats().PID, syscall.SIGKILL))
	eventually(t, "both are back", func() bool { return c.Stats().Reconnects == 1 && other.Stats().Reconnects == 1 })
	publish(t, other, "safety/emergency_stop", "STOP")
	eventually(t, "the emergency stop arrives", func() bool { return late.has("lawnberry/safety/emergency_stop=STOP") })
}
