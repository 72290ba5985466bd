package app

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/identity"
	"github.com/lawnberry/lawnberry/internal/packet"
)

// Whoever is let in engages the emergency stop, whatever client id a program has taken. (Mosquitto grants nothing that is for everyone to one with #.)
func TestMosquittoStopWithAnyClientID(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	withPasswords(t, dir, map[string]string{"vic": "viewer"})
	c := withMosquitto(settings())
	c.Security.AccessControl.Enabled = true
	a := start(t, Options{Config: c, DataDir: dir})
	for _, id := range []string{"tablet", "tablet#1", "+"} {
		before := a.Hub().Status().Sequence
		nc, err := net.Dial("tcp", strings.TrimPrefix(a.URL(), "tcp://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		hello := packet.Connect{
			Version: packet.V311, CleanStart: true, KeepAlive: 60, ClientID: []byte(id),
			HasUser: true, Username: []byte("vic"), HasPass: true, Password: []byte("password of vic"),
		}
		stop := packet.Publish{Topic: []byte("lawnberry/safety/emergency_stop"), Payload: []byte("STOP: " + id)}
		raw, err := hello.Append(nil, packet.V311)
		if err == nil {
			raw, err = stop.Append(raw, packet.V311)
		}
		if err == nil {
			_, err = nc.Write(raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "engaged by "+id, func() bool { return a.Hub().Status().Sequence > before })
	}
}

// A user of whom the rules cannot be said to Mosquitto does not come in, and does not keep in who has been disabled.
func TestMosquittoUserWhoCannotBe(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	withPasswords(t, dir, map[string]string{"ann": "operator", "bob": "operator"})
	c := withMosquitto(settings())
	c.Security.AccessControl.Enabled = true
	c.Security.AccessControl.Rules = []any{ // a viewer could not engage the emergency stop
		map[string]any{"role": "viewer", "deny": "subscribe", "filter": "safety/#"},
		map[string]any{"role": "viewer", "allow": "all", "filter": "#"},
	}
	var lines logLines
	a := start(t, Options{Config: c, DataDir: dir, Logger: logTo(&lines)})
	tryAs := func(name string) error {
		c, err := client.Connect(t.Context(), as(a, name))
		if err == nil {
			_ = c.Close(t.Context())
		}
		return err
	}
	bob := dial(t, as(a, "bob"))
	withPasswords(t, dir, map[string]string{"vic": "viewer"})
	if err := identity.Edit(dir, func(b *identity.Book) error { return b.Change("bob", func(u *identity.User) { u.Disabled = true }) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bob is put out", func() bool { return !bob.Connected() && tryAs("bob") != nil })
	eventually(t, "it is said who cannot log in", func() bool {
		return strings.Contains(lines.String(), "user=vic error=\"vic could not engage the emergency stop")
	})
	if err := tryAs("vic"); err == nil {
		t.Error("vic comes in")
	}
	if err := tryAs("ann"); err != nil {
		t.Errorf("ann: %v", err)
	}
	changed := *c // rules that cannot be said change nothing
	changed.Security.AccessControl.Rules = append([]any{
		map[string]any{"role": "operator", "deny": "subscribe", "filter": "safety/#"}, map[string]any{"role": "operator", "allow": "all", "filter": "#"},
	}, c.Security.AccessControl.Rules...)
	if err := a.Reload(&changed); err == nil || !strings.Contains(err.Error(), "ann could not engage") {
		t.Errorf("got %v", err)
	}
	if err := tryAs("ann"); err != nil {
		t.Errorf("ann: %v", err)
	}
}

// Limits that are taken in while it runs are Mosquitto's.
func TestMosquittoLimits(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	c := withMosquitto(settings())
	a := start(t, Options{Config: c, DataDir: dir})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before := a.mosquitto.Stats().PID
	changed := *c
	changed.Broker.MaxQueuedMessages = 77
	if err := errors.Join(a.Reload(c), a.LevelsChanged()); err != nil {
		t.Fatal(err)
	}
	if a.mosquitto.Stats().PID != before {
		t.Error("started again for nothing")
	}
	if err := a.Reload(&changed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another one", func() bool { s := a.mosquitto.Stats(); return s.Running && s.PID != before })
	conf, err := os.ReadFile(filepath.Join(dir, mosquittoDir, "mosquitto.conf"))
	if err != nil || !strings.Contains(string(conf), "max_queued_messages 77\n") {
		t.Errorf("%v:\n%s", err, conf)
	}
	w := dial(t, client.Options{URL: a.URL()})
	if _, err := w.Subscribe(ctx, "x", func(context.Context, *client.Delivery) {}); err != nil {
		t.Error(err)
	}
}
