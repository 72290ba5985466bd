package broker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What outlives the broker. That nothing acknowledged is lost when it is killed is shown in internal/chaos.

func stopNow(t testing.TB, b *Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if err := b.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

// disconnect says goodbye, and returns when the broker has closed the connection, which is after it let go of the session.
func (c *raw) disconnect() {
	c.t.Helper()
	c.send(&packet.Disconnect{})
	c.closes()
	_ = c.nc.Close()
}

func TestQueueOutlivesTheBroker(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		dir := t.TempDir()
		b := start(t, Options{Dir: dir})
		s := connect(t, b, v, "sub", keep)
		s.subscribe("a/#", 2)
		s.disconnect()
		p := connect(t, b, v, "pub")
		for i := range 100 {
			p.publish("a/b", fmt.Sprint(i), byte(1+i%2))
		}
		p.disconnect()
		for range 2 {
			stopNow(t, b)
			b = start(t, Options{Dir: dir})
		}
		s, ack := connected(t, b, v, "sub", keep)
		if !ack.SessionPresent {
			t.Fatal("the session is gone")
		}
		got := make([]*packet.Publish, 100)
		for i := range got {
			m := expect[*packet.Publish](s)
			if string(m.Payload) != fmt.Sprint(i) || m.QoS != byte(1+i%2) || m.Dup {
				t.Fatalf("message %d: %q, QoS %d, DUP %v", i, m.Payload, m.QoS, m.Dup)
			}
			got[i] = m
		}
		for _, m := range got {
			s.acknowledge(m)
		}
		s.nothing()
		stopNow(t, b)
		b = start(t, Options{Dir: dir})
		connect(t, b, v, "sub", keep).nothing()
	})
}

func TestInflightOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := start(t, Options{Dir: dir})
	s := connect(t, b, packet.V5, "sub", keep)
	s.subscribe("a", 2)
	p := connect(t, b, packet.V5, "pub", keep)
	p.publish("a", "one", 1)
	p.publish("a", "two", 2)
	p.publish("a", "three", 2)
	one, two, three := expect[*packet.Publish](s), expect[*packet.Publish](s), expect[*packet.Publish](s)
	s.send(&packet.Ack{Kind: packet.PUBREC, ID: three.ID})
	expect[*packet.Ack](s) // PUBREL, after which three must not come again
	p.send(&packet.Publish{Topic: []byte("a"), QoS: 2, ID: 77, Payload: []byte("four")})
	expect[*packet.Ack](p) // PUBREC: four is ours, and comes once
	four := expect[*packet.Publish](s)
	stopNow(t, b)

	b = start(t, Options{Dir: dir})
	p = connect(t, b, packet.V5, "pub", keep)
	p.send(&packet.Publish{Topic: []byte("a"), QoS: 2, ID: 77, Dup: true, Payload: []byte("four")})
	if a := expect[*packet.Ack](p); a.Kind != packet.PUBREC || a.ID != 77 || a.Code != packet.Success {
		t.Fatalf("got %+v", a)
	}
	s = connect(t, b, packet.V5, "sub", keep)
	again := map[uint16]string{}
	released := false
	for range 4 {
		switch x, err := s.next(); x := x.(type) {
		case *packet.Publish:
			if !x.Dup {
				t.Errorf("%q is sent again without DUP", x.Payload)
			}
			again[x.ID] = string(x.Payload)
		case *packet.Ack:
			released = x.Kind == packet.PUBREL && x.ID == three.ID
		default:
			t.Fatal(x, err)
		}
	}
	if !released || again[one.ID] != "one" || again[two.ID] != "two" || again[four.ID] != "four" {
		t.Errorf("released %v, again %v", released, again)
	}
	s.nothing()
	p.send(&packet.Ack{Kind: packet.PUBREL, ID: 77})
	if a := expect[*packet.Ack](p); a.Kind != packet.PUBCOMP || a.Code != packet.Success {
		t.Errorf("got %+v", a)
	}
}

func TestRetainedOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := start(t, Options{Dir: dir})
	p := connect(t, b, packet.V5, "pub")
	p.send(&packet.Publish{Topic: []byte("r/kept"), Retain: true, QoS: 1, ID: 1, Payload: []byte("x"), Properties: packet.Properties{
		ContentType: []byte("text/plain"), MessageExpiry: packet.Some(uint32(1000)),
		User: []packet.UserProperty{{Key: []byte("k"), Value: []byte("v")}},
	}})
	expect[*packet.Ack](p)
	for i, text := range []string{"old", "", "first", "second"} {
		p.send(&packet.Publish{Topic: fmt.Appendf(nil, "r/%d", i/2), Retain: true, QoS: 1, ID: 2, Payload: []byte(text)})
		expect[*packet.Ack](p)
	}
	stopNow(t, b)
	b = start(t, Options{Dir: dir})
	s := connect(t, b, packet.V5, "sub")
	s.subscribe("r/#", 1)
	got := map[string]*packet.Publish{}
	for range 2 {
		m := expect[*packet.Publish](s)
		got[string(m.Topic)] = m
		s.acknowledge(m)
	}
	s.nothing()
	kept := got["r/kept"]
	if kept == nil || string(kept.Properties.ContentType) != "text/plain" || len(kept.Properties.User) != 1 ||
		kept.Properties.MessageExpiry.V > 1000 || kept.Properties.MessageExpiry.V < 900 {
		t.Errorf("r/kept: %+v", kept)
	}
	if m := got["r/1"]; m == nil || string(m.Payload) != "second" {
		t.Errorf("r/1: %+v", m)
	}
}

func TestWillsOutliveTheBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := start(t, Options{Dir: dir})
	s := connect(t, b, packet.V5, "sub", keep)
	s.subscribe("will/#", 1)
	s.disconnect()
	delayed := withWill(&packet.Will{Topic: []byte("will/delayed"), QoS: 1, Payload: []byte("d"), Properties: packet.Properties{WillDelay: packet.Some(uint32(1))}})
	connect(t, b, packet.V5, "a", keep, delayed)
	connect(t, b, packet.V5, "b", keep, withWill(&packet.Will{Topic: []byte("will/back"), Properties: packet.Properties{WillDelay: packet.Some(uint32(60))}}))
	connect(t, b, packet.V5, "c", withWill(&packet.Will{Topic: []byte("will/now"), QoS: 1, Payload: []byte("n")}))
	connect(t, b, packet.V5, "d", withWill(&packet.Will{Topic: []byte("will/never")})).disconnect()
	stopNow(t, b)
	b = start(t, Options{Dir: dir})
	connect(t, b, packet.V5, "b", keep).disconnect()
	s = connect(t, b, packet.V5, "sub", keep)
	got := make(map[string]string)
	for range 2 { // in any order: both are due by now when the disk is slow
		m := expect[*packet.Publish](s)
		got[string(m.Topic)] = string(m.Payload)
		if string(m.Topic) == "will/delayed" {
			s.acknowledge(m)
		}
	}
	if got["will/now"] != "n" || got["will/delayed"] != "d" {
		t.Errorf("got %q, want will/now and will/delayed", got)
	}
	s.nothing()
	stopNow(t, b)
	b = start(t, Options{Dir: dir})
	s = connect(t, b, packet.V5, "sub", keep)
	if m := expect[*packet.Publish](s); string(m.Topic) != "will/now" || !m.Dup { // not acknowledged above
		t.Errorf("got %s again", m.Topic)
	}
	s.nothing()
}

// TestTimeOutlivesTheBroker stops the broker for what the wall clock says are some seconds.
func TestTimeOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var offset atomic.Int64
	tuned := Options{Dir: dir, tune: func(l *limits) {
		l.wall = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	}}
	b := start(t, tuned)
	for id, seconds := range map[string]uint32{"short": 50, "long": 150} {
		s := connect(t, b, packet.V5, id, expiry(seconds), func(p *packet.Connect) { p.CleanStart = false })
		s.subscribe("t/#", 1)
		s.disconnect()
	}
	p := connect(t, b, packet.V5, "pub")
	for i, seconds := range []uint32{50, 150} {
		p.send(&packet.Publish{Topic: fmt.Appendf(nil, "t/%d", i), QoS: 1, ID: 1, Properties: packet.Properties{MessageExpiry: packet.Some(seconds)}})
		expect[*packet.Ack](p)
	}
	stopNow(t, b)
	offset.Add(int64(100 * time.Second))
	b = start(t, tuned)
	if _, ack := connected(t, b, packet.V5, "short", keep); ack.SessionPresent {
		t.Error("a session of 50 s is there after 100 s")
	}
	s, ack := connected(t, b, packet.V5, "long", keep)
	if !ack.SessionPresent {
		t.Fatal("a session of 150 s is gone after 100 s")
	}
	m := expect[*packet.Publish](s)
	if left := m.Properties.MessageExpiry.V; string(m.Topic) != "t/1" || left > 50 || left < 45 {
		t.Errorf("%s with %d s left, want t/1 with 50", m.Topic, left)
	}
	s.nothing()
}

func TestSessionInMemory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := start(t, Options{Dir: dir})
	memory := func(p *packet.Connect) {
		p.Properties.User = []packet.UserProperty{{Key: []byte("session-durability"), Value: []byte("memory")}}
	}
	for _, id := range []string{"memory", "both", "disk"} {
		s := connect(t, b, packet.V5, id, keep, memory)
		s.subscribe("a", 1)
		s.disconnect()
	}
	p := connect(t, b, packet.V5, "pub")
	p.publish("a", "1", 1)
	connect(t, b, packet.V5, "both", keep).leave("both") // from now on it is kept, with all it has
	connect(t, b, packet.V5, "disk", keep).leave("disk")
	connect(t, b, packet.V5, "disk", keep, memory).leave("disk") // and no longer
	p.publish("a", "2", 1)
	stopNow(t, b)
	b = start(t, Options{Dir: dir})
	for _, id := range []string{"memory", "disk"} {
		if _, ack := connected(t, b, packet.V5, id, keep); ack.SessionPresent {
			t.Errorf("%s is there after a restart", id)
		}
	}
	s, ack := connected(t, b, packet.V5, "both", keep)
	if !ack.SessionPresent {
		t.Fatal("both is gone")
	}
	for _, want := range []string{"1", "2"} {
		if m := expect[*packet.Publish](s); string(m.Payload) != want {
			t.Errorf("got %q, want %q", m.Payload, want)
		} else {
			s.acknowledge(m)
		}
	}
	s.subscribe("a", 1)
	s.nothing()
}

func TestCleanStartEndsWhatIsStored(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := start(t, Options{Dir: dir})
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("old", 1)
	s.disconnect()
	s = connect(t, b, packet.V5, "s", clean, expiry(1000))
	s.subscribe("new", 1)
	s.disconnect()
	stopNow(t, b)
	b = start(t, Options{Dir: dir})
	p := connect(t, b, packet.V5, "pub")
	p.publish("old", "x", 1)
	p.publish("new", "y", 1)
	s, ack := connected(t, b, packet.V5, "s", keep)
	if !ack.SessionPresent {
		t.Fatal("the session that began with a clean start is gone")
	}
	if m := expect[*packet.Publish](s); string(m.Topic) != "new" {
		t.Errorf("got %s", m.Topic)
	}
	s.nothing()
}

func TestSharedOutlivesTheBroker(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := start(t, Options{Dir: dir})
	for _, id := range []string{"one", "two"} {
		s := connect(t, b, packet.V5, id, keep)
		s.subscribe("$share/g/a", 1)
		s.disconnect()
	}
	p := connect(t, b, packet.V5, "pub")
	for i := range 10 {
		p.publish("a", fmt.Sprint(i), 1)
	}
	stopNow(t, b)
	b = start(t, Options{Dir: dir})
	two := connect(t, b, packet.V5, "two", keep)
	connect(t, b, packet.V5, "one", clean).disconnect() // its messages go to the other
	got := map[string]bool{}
	for len(got) < 10 {
		m := expect[*packet.Publish](two)
		if got[string(m.Payload)] {
			t.Errorf("%s twice", m.Payload)
		}
		got[string(m.Payload)] = true
		two.acknowledge(m)
	}
	two.nothing()
}

// failing is a disk that can be full.
type failing struct{ full atomic.Bool }

func (f *failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	if f.full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
		return syscall.ENOSPC
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := &failing{}
	o := Options{Dir: dir, tune: func(l *limits) { l.store.FS = errorfs.Wrap(vfs.Default, disk) }}
	b := start(t, o)
	s := connect(t, b, packet.V5, "away", keep)
	s.subscribe("kept/#", 2)
	s.disconnect()
	live := connect(t, b, packet.V5, "live")
	live.subscribe("#", 2)
	p5, p3 := connect(t, b, packet.V5, "p5"), connect(t, b, packet.V311, "p3")
	p5.publish("kept/a", "before", 1)
	live.acknowledge(expect[*packet.Publish](live))

	disk.full.Store(true)
	for qos, kind := range map[byte]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
		p5.send(&packet.Publish{Topic: []byte("kept/a"), QoS: qos, ID: 9, Payload: []byte("refused")})
		if a := expect[*packet.Ack](p5); a.Kind != kind || a.Code != packet.QuotaExceeded {
			t.Errorf("QoS %d: %+v, want 0x97", qos, a)
		}
		live.acknowledge(expect[*packet.Publish](live)) // whoever is there has it all the same
	}
	// What concerns only those who are there goes on, for both versions.
	for _, p := range []*raw{p5, p3} {
		for _, topic := range []string{"live", "lawnberry/safety/emergency_stop"} {
			p.publish(topic, "x", 2)
			m := expect[*packet.Publish](live)
			if string(m.Topic) != topic {
				t.Errorf("got %s, want %s", m.Topic, topic)
			}
			live.acknowledge(m)
		}
	}
	// MQTT 3.1.1 knows no refusal: no acknowledgement, and the connection ends.
	p3.send(&packet.Publish{Topic: []byte("kept/a"), QoS: 1, ID: 9, Payload: []byte("refused")})
	if x, err := p3.next(); err == nil {
		t.Errorf("3.1.1 got %+v", x)
	}
	live.acknowledge(expect[*packet.Publish](live))
	// A session that is stored takes no subscription that would be gone after a crash.
	s = connect(t, b, packet.V5, "away", keep)
	before := expect[*packet.Publish](s)
	s.send(&packet.Subscribe{ID: 5, Subscriptions: []packet.Subscription{{Filter: []byte("new"), QoS: 1}, {Filter: []byte("kept/#"), QoS: 2}}})
	if a := expect[*packet.Suback](s); len(a.Codes) != 2 || a.Codes[0] != packet.QuotaExceeded || a.Codes[1] != packet.GrantedQoS2 {
		t.Errorf("SUBACK %v", a.Codes)
	}
	s.acknowledge(before)
	s.disconnect()

	disk.full.Store(false)
	deadline := time.Now().Add(patient)
	for code := packet.QuotaExceeded; code != packet.Success; {
		p5.send(&packet.Publish{Topic: []byte("kept/a"), QoS: 1, ID: 10, Payload: []byte("after")})
		code = expect[*packet.Ack](p5).Code
		live.acknowledge(expect[*packet.Publish](live))
		if time.Now().After(deadline) {
			t.Fatalf("still %v", code)
		}
	}
	stopNow(t, b)
	b = start(t, o)
	s = connect(t, b, packet.V5, "away", keep)
	if m := expect[*packet.Publish](s); string(m.Payload) != "after" {
		t.Errorf("got %q, want what was acknowledged after the disk was full, and only that", m.Payload)
	}
	s.nothing()
}

func TestSecondBrokerOnADirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	start(t, Options{Dir: dir})
	_, err := Start(context.Background(), Options{Dir: dir})
	var e *StoreError
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("got %v", err)
	}
}
