package mosquitto

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/packet"
)

// A lineHook calls a function with each line of Mosquitto's, as it comes.
type lineHook struct {
	mu sync.Mutex // guards do
	do func(line string)
}

func (h *lineHook) set(do func(string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.do = do
}

func (h *lineHook) Enabled(context.Context, slog.Level) bool { return true }
func (h *lineHook) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h *lineHook) WithGroup(string) slog.Handler            { return h }
func (h *lineHook) Handle(_ context.Context, r slog.Record) error {
	h.mu.Lock()
	do := h.do
	h.mu.Unlock()
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "says" && do != nil {
			do(a.Value.String())
		}
		return true
	})
	return nil
}

// A user who is removed while Mosquitto comes up, after it has read its files, does not come in for that.
func TestLoginsChangeWhileItStarts(t *testing.T) {
	t.Parallel()
	ann, bob := User{"ann", Verifier("her long password")}, User{"bob", Verifier("his long password")}
	both, one := Logins{Users: []User{ann, bob}}, Logins{Users: []User{ann}}
	var hook lineHook
	b := start(t, Options{Listeners: local(), Logins: both, Logger: slog.New(&hook)})
	login := func(name, password string) error {
		c, err := tryConnect(t, client.Options{URL: b.URL(), Username: name, Password: client.Secret(password)})
		if err == nil {
			_ = c.Close(testContext(t))
		}
		return err
	}
	for round := range 8 {
		check(t, b.SetLogins(both))
		eventually(t, "bob is there", func() bool { return login("bob", "his long password") == nil })
		changed := make(chan error, 1)
		hook.set(func(line string) {
			if !strings.HasSuffix(line, " running") { // it has read its files, and has not been asked yet
				return
			}
			hook.set(nil)
			changed <- b.SetLogins(one)
		})
		check(t, syscall.Kill(b.Stats().PID, syscall.SIGKILL))
		select {
		case err := <-changed:
			check(t, err)
		case <-testContext(t).Done():
			t.Fatal("it does not come again")
		}
		eventually(t, "ann comes in", func() bool { return login("ann", "her long password") == nil })
		eventually(t, fmt.Sprintf("round %d: bob is put out", round), func() bool { return login("bob", "his long password") != nil })
	}
}

// Limits and the level of the log change while it runs, and what it is recognised by with them.
func TestLimitsAndLevelChange(t *testing.T) {
	t.Parallel()
	var level slog.LevelVar
	level.Set(slog.LevelDebug)
	lines := &logged{}
	log := slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: &level}))
	o := Options{Dir: shortDir(t), Listeners: local(), Logins: Logins{Anonymous: true}, MaxConnections: 2, Logger: log}
	b := start(t, o)
	fits := func(n int) bool {
		var all []*client.Client
		defer func() {
			for _, c := range all {
				_ = c.Close(testContext(t))
			}
		}()
		for range n {
			c, err := client.Connect(testContext(t), client.Options{URL: b.URL(), FailFast: true})
			if err != nil {
				return false
			}
			all = append(all, c)
		}
		return true
	}
	if fits(3) { // once: 2.0.11 counts each client that leaves twice, so that later there is room for more
		t.Error("the first limit is not kept")
	}
	before := b.Stats().PID
	b.SetLimits(2, 0, 0)
	check(t, b.SetLogLevel())
	if b.Stats().PID != before {
		t.Error("started again for nothing")
	}
	b.SetLimits(4, 70, 1<<20)
	eventually(t, "another one", func() bool { s := b.Stats(); return s.Running && s.PID != before })
	if fits(5) {
		t.Error("the new limit is not kept")
	}
	conf, err := os.ReadFile(filepath.Join(o.Dir, configName))
	check(t, err)
	for _, want := range []string{"max_queued_messages 70\n", "max_queued_bytes 1048576\n"} {
		if !strings.Contains(string(conf), want) {
			t.Errorf("no %q", want)
		}
	}
	if s := b.Stats(); s.Restarts != 0 || s.PID == before {
		t.Errorf("%+v", s)
	}
	level.Set(slog.LevelDebug)
	check(t, b.SetLogLevel())
	eventually(t, "it logs more", func() bool {
		c := connect(t, client.Options{URL: b.URL(), ID: "somebody"})
		_ = c.Close(testContext(t))
		return lines.has("Received DISCONNECT from somebody")
	})
	record, err := os.ReadFile(filepath.Join(o.Dir, stateName))
	check(t, err)
	if !strings.Contains(string(record), b.generation()) {
		t.Error("it would not be recognised")
	}
}

// With %c in the acl, Mosquitto grants nothing of what is for everyone to a client id with # or +: whoever makes the grants has to know.
func TestPatternsAndClientIDs(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Listeners: local(), Logins: Logins{Users: []User{{"ann", Verifier("her long password")}}, Grants: []Grant{
		{"", Write, "lawnberry/everyone"}, {"ann", Write, "lawnberry/hers"},
	}}})
	everything := listen(t, connect(t, client.Options{Dial: b.Dial}), "#")
	for _, id := range []string{"tablet", "tablet#1", "tablet+1"} { // which our client does not take
		nc, err := net.Dial("tcp", strings.TrimPrefix(b.URL(), "tcp://"))
		check(t, err)
		t.Cleanup(func() { _ = nc.Close() })
		hello := packet.Connect{
			Version: packet.V311, CleanStart: true, KeepAlive: 60, ClientID: []byte(id), HasUser: true, Username: []byte("ann"), HasPass: true, Password: []byte("her long password"),
		}
		raw, err := hello.Append(nil, packet.V311)
		check(t, err)
		for _, topic := range []string{"lawnberry/everyone", "lawnberry/hers"} {
			p := packet.Publish{Topic: []byte(topic), Payload: []byte(id)}
			raw, err = p.Append(raw, packet.V311)
			check(t, err)
		}
		_, err = nc.Write(raw)
		check(t, err)
		eventually(t, "hers, as "+id, func() bool { return everything.has("lawnberry/hers=" + id) })
		if got := everything.has("lawnberry/everyone=" + id); got != (id == "tablet") {
			t.Errorf("%s: %t", id, got)
		}
	}
}
