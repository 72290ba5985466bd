package broker

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What must be on the disk before it is said, and what of it must be there again.

// A gate is a disk whose syncs wait while it is shut.
type gate struct {
	mu      sync.RWMutex // held for writing while shut
	waiting atomic.Int32
}

func (g *gate) String() string { return "gate" }

func (g *gate) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		g.waiting.Add(1)
		g.mu.RLock()
		g.waiting.Add(-1)
		g.mu.RUnlock()
	}
	return nil
}

// Nothing that must outlive the broker is acknowledged before it has been synced: a message for a session that is away, a
// retained one, a QoS 2 flow's next step, a subscription of a durable session, a durable session itself. What concerns only who
// is there does not wait.
//
// Seen failing with acknowledgements that are sent when the message is queued.
func TestNothingIsAcknowledgedBeforeItIsStored(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		disk := &gate{}
		b := start(t, Options{Dir: t.TempDir(), tune: func(l *limits) { l.store.FS = errorfs.Wrap(vfs.Default, disk) }})
		away := connect(t, b, v, "away", keep)
		away.subscribe("kept", 2)
		away.disconnect()
		live := connect(t, b, v, "live")
		live.subscribe("live", 2)
		begun := connect(t, b, v, "begun", keep)
		begun.send(outgoing("kept", "x", 2, 9))
		begun.expectAck(packet.PUBREC, 9)
		subscriber := connect(t, b, v, "subscriber", keep)
		clients := map[string]*raw{}
		for _, name := range []string{"QoS 1", "QoS 2", "retained", "other"} {
			clients[name] = connect(t, b, v, name)
		}

		for _, x := range []struct {
			name string
			ask  func() (answer func())
		}{
			{"QoS 1", func() func() {
				c := clients["QoS 1"]
				c.send(outgoing("kept", "x", 1, 7))
				return func() { c.expectAck(packet.PUBACK, 7) }
			}},
			{"QoS 2", func() func() {
				c := clients["QoS 2"]
				c.send(outgoing("kept", "x", 2, 7))
				return func() { c.expectAck(packet.PUBREC, 7) }
			}},
			{"retained", func() func() {
				c := clients["retained"]
				p := outgoing("state", "x", 1, 7)
				p.Retain = true
				c.send(p)
				return func() { c.expectAck(packet.PUBACK, 7) }
			}},
			{"PUBREL", func() func() {
				begun.send(&packet.Ack{Kind: packet.PUBREL, ID: 9})
				return func() { begun.expectAck(packet.PUBCOMP, 9) }
			}},
			{"SUBSCRIBE", func() func() {
				subscriber.send(&packet.Subscribe{ID: 3, Subscriptions: []packet.Subscription{{Filter: []byte("a"), QoS: 1}}})
				return func() { expect[*packet.Suback](subscriber) }
			}},
			{"CONNECT", func() func() {
				newcomer := dial(t, b, "tcp") // only now: who does not send CONNECT soon is cut off
				newcomer.v = v
				p := &packet.Connect{ClientID: []byte("newcomer")}
				keep(p)
				newcomer.send(p)
				return func() { expect[*packet.Connack](newcomer) }
			}},
		} {
			disk.mu.Lock()
			answered := make(chan struct{})
			wait := x.ask()
			go func() {
				defer close(answered)
				wait()
			}()
			waitFor(t, x.name+" to reach the disk", func() bool { return disk.waiting.Load() > 0 })
			for range 3 { // meanwhile life goes on
				clients["other"].publish("live", "x", 2)
				live.gets("live", "x", 2)
			}
			select {
			case <-answered:
				t.Errorf("%s is answered before it is on the disk", x.name)
			default:
			}
			disk.mu.Unlock()
			<-answered
		}
		away = connect(t, b, v, "away", keep)
		for _, qos := range []byte{2, 1, 2} {
			away.getsFirst("kept", "x", qos)
		}
	})
}

// A queued message that is larger than its client takes does not lock it out, also when the broker was restarted in between:
// it is left out, at each resume, and the others come.
func TestTooLargeAfterARestart(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	b := start(t, o)
	c := connect(t, b, packet.V5, "c", keep)
	c.subscribe("t", 2)
	large := strings.Repeat("x", 500)
	pub := connect(t, b, packet.V5, "pub")
	for qos := byte(1); qos <= 2; qos++ { // on its way when the broker stops
		pub.publish("t", large, qos)
		c.getsFirst("t", large, qos)
	}
	c.hangUp("c")
	for qos := byte(1); qos <= 2; qos++ {
		pub.publish("t", large, qos)
		pub.publish("t", "small", qos)
	}
	for round := range 2 {
		stopNow(t, b)
		b = start(t, o)
		c, ack := connected(t, b, packet.V5, "c", keep, maximumPacket(100))
		if !ack.SessionPresent {
			t.Fatal("no session")
		}
		if round == 0 {
			c.gets("t", "small", 1)
			c.gets("t", "small", 2)
		}
		c.nothing()
		c.disconnect()
	}
	c = connect(t, b, packet.V5, "c", keep) // what was left out is gone, and not kept for later
	c.nothing()
}

// A Will keeps its properties when the broker is restarted before it is published.
func TestWillPropertiesOutliveTheBroker(t *testing.T) {
	t.Parallel()
	o := Options{Dir: t.TempDir()}
	b := start(t, o)
	sub := connect(t, b, packet.V5, "sub", keep)
	sub.subscribe("will", 2)
	sub.disconnect()
	w := &packet.Will{Topic: []byte("will"), Payload: []byte("gone"), QoS: 2, Retain: true}
	w.Properties = packet.Properties{
		PayloadFormat: packet.Some(byte(1)), ContentType: []byte("text/plain"), ResponseTopic: []byte("answer"), CorrelationData: []byte{1, 2},
		MessageExpiry: packet.Some(uint32(700)), WillDelay: packet.Some(uint32(1)),
		User: []packet.UserProperty{{Key: []byte("k"), Value: []byte("v")}, {Key: []byte("k"), Value: []byte("w")}},
	}
	connect(t, b, packet.V5, "mower", withWill(w), expiry(1000))
	stopNow(t, b)
	b = start(t, o)
	m := connect(t, b, packet.V5, "sub", keep).gets("will", "gone", 2)
	if p := m.Properties; p.PayloadFormat.V != 1 || string(p.ContentType) != "text/plain" || string(p.ResponseTopic) != "answer" ||
		string(p.CorrelationData) != "\x01\x02" || p.MessageExpiry.V > 700 || p.MessageExpiry.V < 600 || len(p.User) != 2 || string(p.User[1].Value) != "w" {
		t.Errorf("got %+v", p)
	}
	late := connect(t, b, packet.V5, "late")
	late.subscribe("will", 1)
	if m := late.gets("will", "gone", 1); !m.Retain || string(m.Properties.ContentType) != "text/plain" {
		t.Errorf("stored as %s %+v", describe(m), m.Properties)
	}
}

// The subscriptions of a session that expired while the broker was away are gone with it, shared ones too.
func TestSubscriptionsOfASessionThatExpiredWhileAway(t *testing.T) {
	t.Parallel()
	var offset atomic.Int64
	o := Options{Dir: t.TempDir(), tune: func(l *limits) {
		l.wall = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	}}
	b := start(t, o)
	c := connect(t, b, packet.V5, "c", expiry(50))
	c.subscribe("a/#", 1)
	c.subscribe("$share/g/b", 1)
	c.disconnect()
	stopNow(t, b)
	offset.Add(int64(100 * time.Second))
	b = start(t, o)
	pub := connect(t, b, packet.V5, "pub")
	waitFor(t, "the session to be gone", func() bool { return b.find("c") == nil })
	for _, topic := range []string{"a/x", "b"} {
		if code := pub.publish(topic, "x", 1); code != packet.NoMatchingSubscribers {
			t.Errorf("%s: %v", topic, code)
		}
	}
	c, ack := connected(t, b, packet.V5, "c", expiry(50), func(p *packet.Connect) { p.CleanStart = false })
	if ack.SessionPresent || b.Stats().Subscriptions != 0 {
		t.Errorf("session present %t, %+v", ack.SessionPresent, b.Stats())
	}
	pub.publish("a/x", "x", 1)
	c.nothing()
	stopNow(t, b)
	b = start(t, o) // and they do not come back
	c, ack = connected(t, b, packet.V5, "c", keep)
	if !ack.SessionPresent || b.Stats().Subscriptions != 0 {
		t.Errorf("session present %t, %+v", ack.SessionPresent, b.Stats())
	}
	c.nothing()
}

// again receives, in either order, message 0 with DUP and its identifier, and the PUBREL for another.
func again(c *raw, sent, released uint16) (m *packet.Publish) {
	c.t.Helper()
	for seen := false; m == nil || !seen; {
		p, err := c.next()
		if err != nil {
			c.t.Fatal(err)
		}
		switch p := p.(type) {
		case *packet.Publish:
			if m != nil || p.ID != sent || !p.Dup || string(p.Payload) != "0" {
				c.t.Fatalf("%s, first sent as %d", describe(p), sent)
			}
			m = p
		case *packet.Ack:
			if seen || p.Kind != packet.PUBREL || p.ID != released {
				c.t.Fatalf("%s, want PUBREL %d", describe(p), released)
			}
			seen = true
		default:
			c.t.Fatalf("got %s", describe(p))
		}
	}
	return m
}

// QoS 2 in all its states, both ways, across a restart, where each side goes on with what it has to send.
func TestEveryStateOfQoS2OutlivesTheBroker(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		o := Options{Dir: t.TempDir()}
		b := start(t, o)
		sub, pub := connect(t, b, v, "sub", keep), connect(t, b, v, "pub", keep)
		sub.subscribe("t", 2)
		const n = 4
		var ids [n]uint16
		for i := range n {
			pub.send(outgoing("t", fmt.Sprint(i), 2, uint16(100+i)))
			pub.expectAck(packet.PUBREC, uint16(100+i))
			ids[i] = sub.getsFirst("t", fmt.Sprint(i), 2).ID
		}
		// 0 is not answered, 1 has its PUBREC, 2 and 3 are done.
		for i := 1; i < n; i++ {
			sub.send(&packet.Ack{Kind: packet.PUBREC, ID: ids[i]})
			sub.expectAck(packet.PUBREL, ids[i])
		}
		for i := 2; i < n; i++ {
			sub.send(&packet.Ack{Kind: packet.PUBCOMP, ID: ids[i]})
		}
		sub.nothing()
		pub.release(102)
		pub.release(103)
		stopNow(t, b)

		for range 2 { // as often as it likes
			b = start(t, o)
			sub = connect(t, b, v, "sub", keep)
			again(sub, ids[0], ids[1])
			sub.nothing()
			pub = connect(t, b, v, "pub", keep)
			for _, id := range []uint16{100, 101} { // sent again: known
				m := outgoing("t", "again", 2, id)
				m.Dup = true
				pub.send(m)
				pub.expectAck(packet.PUBREC, id)
			}
			sub.nothing()
			stopNow(t, b)
		}

		b = start(t, o)
		sub, pub = connect(t, b, v, "sub", keep), connect(t, b, v, "pub", keep)
		pub.release(100)
		pub.release(101)
		pub.send(outgoing("t", "new", 2, 100)) // the identifier is free
		pub.expectAck(packet.PUBREC, 100)
		pub.release(100)
		m := again(sub, ids[0], ids[1])
		sub.send(&packet.Ack{Kind: packet.PUBCOMP, ID: ids[1]})
		next := sub.getsFirst("t", "new", 2)
		sub.acknowledge(m)
		sub.acknowledge(next)
		sub.nothing()
		stopNow(t, b)
		b = start(t, o)
		connect(t, b, v, "sub", keep).nothing()
	})
}
