package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What a session is after several restarts, with little left of it in the store each time.

// A queue that was empty at a restart is not taken for one that was sent at the next. It was seen to fail with the order of
// a session beginning at 0 again: the messages came with DUP, and those that had expired came too.
func TestQueueAfterTwoRestarts(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("a", 2)
	p := connect(t, b, packet.V5, "p")
	for i := range 20 {
		p.publish("a", fmt.Sprint(i), 1)
		if m := expect[*packet.Publish](s); i < 19 {
			s.acknowledge(m)
		}
	}
	s.disconnect()
	stopNow(t, b)
	b = start(t, o)
	s = connect(t, b, packet.V5, "s", keep)
	if m := s.gets("a", "19", 1); !m.Dup {
		t.Error("sent again without DUP")
	}
	s.disconnect()
	stopNow(t, b)
	b = start(t, o)
	p = connect(t, b, packet.V5, "p")
	for i := range 5 {
		p.publish("a", fmt.Sprint("new ", i), byte(1+i%2))
	}
	stopNow(t, b)
	b = start(t, o)
	s = connect(t, b, packet.V5, "s", keep)
	for i := range 5 {
		if m := s.getsFirst("a", fmt.Sprint("new ", i), byte(1+i%2)); m.Dup {
			t.Errorf("message %d has DUP the first time", i)
		}
	}
	s.nothing()
}

// The messages that a member of a group leaves behind go to the others, also when it had subscribed again since, as
// clients do that reconnect. It was seen to fail with a group that ends when its only member subscribes again.
func TestOrphansOfOneWhoSubscribedAgain(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	one := connect(t, b, packet.V5, "one", keep, receiveMaximum(1))
	one.subscribe("$share/g/a", 1)
	p := connect(t, b, packet.V5, "p")
	for i := range 5 {
		p.publish("a", fmt.Sprint(i), 1)
	}
	expect[*packet.Publish](one)
	one.subscribe("$share/g/a", 1)
	one.hangUp("one")
	two := connect(t, b, packet.V5, "two")
	two.subscribe("$share/g/a", 1)
	connect(t, b, packet.V5, "one", clean)
	for i := range 5 {
		two.gets("a", fmt.Sprint(i), 1)
	}
	two.nothing()
}

// A computer that does not keep the time while it is off starts with a wall clock that is behind. It was seen to fail with
// an anchor that is written only when the wall clock is set: the broker's clock fell back to where it had been at the start.
func TestWallClockBehindAtAStart(t *testing.T) {
	t.Parallel()
	var behind atomic.Int64
	o := Options{Dir: t.TempDir(), tune: func(l *limits) {
		l.wall = func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) }
	}}
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("a", 1)
	s.leave("s")
	p := connect(t, b, packet.V5, "p")
	p.publish("a", "short", 1, messageExpiry(1))
	expired := time.Now().Add(time.Second)
	waitFor(t, "the message to expire", func() bool { return time.Now().After(expired) })
	p.publish("a", "long", 1)
	stopNow(t, b)
	behind.Store(int64(time.Hour))
	b = start(t, o)
	s = connect(t, b, packet.V5, "s", keep)
	s.gets("a", "long", 1)
	s.nothing()
}

// crashed returns a directory with what is on the disk of a broker at this moment, as it would be after a SIGKILL.
func crashed(t testing.TB, dir string) string {
	t.Helper()
	names := func() (list []string) {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, _ error) error {
			list = append(list, path)
			return nil
		})
		return list
	}
	for {
		now, before := t.TempDir(), names()
		err := os.CopyFS(now, os.DirFS(dir))
		if err == nil && slices.Equal(before, names()) {
			return now
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// A Will is on the disk before its client is let in. It was seen to fail, not always, with one that was written a little later.
func TestWillOfOneJustLetIn(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("will", 1)
	connect(t, b, packet.V5, "c", withWill(&packet.Will{Topic: []byte("will"), Payload: []byte("x"), QoS: 1}))
	o.Dir = crashed(t, o.Dir)
	b = start(t, o)
	connect(t, b, packet.V5, "s", keep).gets("will", "x", 1)
}

// A session that its client has ended, or moved into memory, is gone when the client is let in. It was seen to fail, not
// always, with records that were removed a little later.
func TestSessionJustEnded(t *testing.T) {
	t.Parallel()
	memory := func(p *packet.Connect) {
		p.Properties.User = []packet.UserProperty{{Key: []byte("session-durability"), Value: []byte("memory")}}
	}
	for name, how := range map[string][]choice{"clean": {clean}, "clean, kept": {clean, expiry(1000)}, "in memory": {keep, memory}, "until it leaves": {func(p *packet.Connect) { p.CleanStart = false }}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Dir: t.TempDir()}
			b := start(t, o)
			s := connect(t, b, packet.V5, "s", keep)
			s.subscribe("a", 1)
			s.leave("s")
			connect(t, b, packet.V5, "p").publish("a", "old", 1)
			connect(t, b, packet.V5, "s", how...)
			o.Dir = crashed(t, o.Dir)
			b = start(t, o)
			s, ack := connected(t, b, packet.V5, "s", keep)
			if want := name == "clean, kept"; ack.SessionPresent != want {
				t.Errorf("session present %v, want %v", ack.SessionPresent, want)
			}
			s.nothing()
		})
	}
}

// What was sent just before a graceful stop is known to have been sent. It was seen to fail, not always, with sessions that
// were closed before the last commit.
func TestSentJustBeforeAStop(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("a", 2)
	p := connect(t, b, packet.V5, "p")
	p.publish("a", "x", 2)
	s.getsFirst("a", "x", 2)
	_ = s.nc.Close() // nobody is waited for
	_ = p.nc.Close()
	stopNow(t, b)
	b = start(t, o)
	if m := connect(t, b, packet.V5, "s", keep).getsFirst("a", "x", 2); !m.Dup {
		t.Error("sent again without DUP")
	}
}
