package broker

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What the store refuses, and what must not be lost by it because it was accepted before.

// onDisk is a broker whose disk can be full.
func onDisk(t *testing.T) (*failing, Options) {
	disk := &failing{}
	return disk, Options{Dir: t.TempDir(), tune: func(l *limits) { l.store.FS = errorfs.Wrap(vfs.Default, disk) }}
}

// works waits until the store works again.
func works(t *testing.T, b *Broker, disk *failing) {
	t.Helper()
	disk.full.Store(false)
	// What was being written then may be seen to have failed only now.
	group := b.journal.current.Load()
	b.journal.hurry()
	<-group.done
	waitFor(t, "the store to work", func() bool { return !b.journal.failing.Load() })
}

// A subscription that was refused because it could not be stored is not there after a restart either, and the one that it
// would have replaced is.
func TestRefusedSubscriptionStaysRefused(t *testing.T) {
	t.Parallel()
	disk, o := onDisk(t)
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("old", 1)
	disk.full.Store(true)
	s.send(&packet.Subscribe{ID: 5, Subscriptions: []packet.Subscription{{Filter: []byte("new"), QoS: 1}, {Filter: []byte("old"), QoS: 2}}})
	if a := expect[*packet.Suback](s); a.Codes[0] != packet.QuotaExceeded || a.Codes[1] != packet.QuotaExceeded {
		t.Fatalf("SUBACK %v", a.Codes)
	}
	works(t, b, disk)
	s.disconnect()
	stopNow(t, b)
	b = start(t, o)
	p := connect(t, b, packet.V5, "p")
	p.publish("new", "x", 1)
	p.publish("old", "y", 2)
	s = connect(t, b, packet.V5, "s", keep)
	s.gets("old", "y", 1)
	s.nothing()
}

// A session that was in memory has accepted messages. It becomes one that is stored just when the store fails.
func TestBecomingDurableOnAFullDisk(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} { // that the disk is full
		t.Run(fmt.Sprint(known), func(t *testing.T) {
			t.Parallel()
			disk, o := onDisk(t)
			b := start(t, o)
			memory := func(p *packet.Connect) {
				p.Properties.User = []packet.UserProperty{{Key: []byte("session-durability"), Value: []byte("memory")}}
			}
			s := connect(t, b, packet.V5, "s", keep, memory)
			s.subscribe("a", 2)
			live := connect(t, b, packet.V5, "live")
			live.subscribe("once", 2)
			s.send(&packet.Publish{Topic: []byte("once"), QoS: 2, ID: 7, Payload: []byte("x")})
			s.expectAck(packet.PUBREC, 7)
			live.gets("once", "x", 2)
			s.hangUp("s")
			p := connect(t, b, packet.V5, "p")
			for i := range 5 {
				p.publish("a", fmt.Sprint(i), byte(1+i%2))
			}
			other := connect(t, b, packet.V5, "other", keep)
			other.subscribe("other", 1)
			other.leave("other")
			disk.full.Store(true)
			if known && p.publish("other", "x", 1) != packet.QuotaExceeded {
				t.Fatal("not failing")
			}
			s = connect(t, b, packet.V5, "s", keep, receiveMaximum(1))
			first := s.getsFirst("a", "0", 1)
			s.send(&packet.Publish{Topic: []byte("once"), QoS: 2, ID: 7, Dup: true, Payload: []byte("x")})
			s.expectAck(packet.PUBREC, 7)
			live.nothing()
			s.acknowledge(first)
			second := s.getsFirst("a", "1", 2)
			works(t, b, disk)
			s.release(7)
			s.hangUp("s")
			stopNow(t, b)
			b = start(t, o)
			s = connect(t, b, packet.V5, "s", keep)
			if m := s.getsFirst("a", "1", 2); m.ID != second.ID || !m.Dup {
				t.Errorf("got %s, want identifier %d with DUP", describe(m), second.ID)
			}
			for i := 2; i < 5; i++ {
				s.getsFirst("a", fmt.Sprint(i), byte(1+i%2))
			}
			s.nothing()
		})
	}
}

// Nobody is told that a Will, or a message that another member of a group has left behind, could not be stored. So it is
// kept until it can be.
func TestNobodyToTell(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} { // that the disk is full
		t.Run(fmt.Sprint(known), func(t *testing.T) {
			t.Parallel()
			disk, o := onDisk(t)
			b := start(t, o)
			away := connect(t, b, packet.V5, "away", keep)
			away.subscribe("will", 2)
			away.subscribe("$share/g/a", 2)
			away.leave("away")
			here := connect(t, b, packet.V5, "here", keep)
			here.subscribe("will", 2)
			dead := connect(t, b, packet.V5, "dead", keep, withWill(&packet.Will{Topic: []byte("will"), Payload: []byte("x"), QoS: 2}), receiveMaximum(1))
			dead.subscribe("$share/g/a", 2)
			p := connect(t, b, packet.V5, "p")
			p.publish("a", "0", 1) // whoever is connected has it first
			p.publish("a", "1", 1)
			p.publish("a", "2", 1)
			dead.getsFirst("a", "0", 1)
			disk.full.Store(true)
			if known && p.publish("will", "refused", 1) != packet.QuotaExceeded {
				t.Fatal("not failing")
			}
			if known {
				here.gets("will", "refused", 1)
			}
			dead.hangUp("dead")
			will := here.getsFirst("will", "x", 2)
			here.send(&packet.Ack{Kind: packet.PUBREC, ID: will.ID})
			here.nothing() // PUBREL waits for the disk
			connect(t, b, packet.V5, "dead", clean)
			works(t, b, disk)
			here.expectAck(packet.PUBREL, will.ID)
			here.send(&packet.Ack{Kind: packet.PUBCOMP, ID: will.ID})
			here.nothing()
			stopNow(t, b)
			b = start(t, o)
			away = connect(t, b, packet.V5, "away", keep)
			away.getsFirst("will", "x", 2)
			for i := range 3 {
				away.getsFirst("a", fmt.Sprint(i), 1)
			}
			away.nothing()
			connect(t, b, packet.V5, "here", keep).nothing()
		})
	}
}

// Live traffic goes on while the disk is full, also to a client whose receive maximum is used up by messages that were
// stored before.
func TestReceiveMaximumOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk, o := onDisk(t)
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep, receiveMaximum(3))
	s.subscribe("#", 2)
	p := connect(t, b, packet.V5, "p")
	var first []*packet.Publish
	for i := range 3 {
		p.publish("a", fmt.Sprint(i), 2)
		first = append(first, s.getsFirst("a", fmt.Sprint(i), 2))
	}
	disk.full.Store(true)
	s.acknowledge(first[0])
	s.acknowledge(first[1])
	s.send(&packet.Ack{Kind: packet.PUBREC, ID: first[2].ID})
	s.nothing() // there is room for others, so PUBREL waits for the disk
	if code := p.publish("lawnberry/safety/emergency_stop", "x", 2); code != packet.QuotaExceeded {
		t.Errorf("PUBREC %v", code)
	}
	stop := s.getsFirst("lawnberry/safety/emergency_stop", "x", 2)
	s.send(&packet.Ack{Kind: packet.PUBREC, ID: stop.ID})
	works(t, b, disk)
	for _, id := range []uint16{first[2].ID, stop.ID} {
		s.expectAck(packet.PUBREL, id)
		s.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
	}
	s.nothing()
	stopNow(t, b)
	b = start(t, o)
	connect(t, b, packet.V5, "s", keep).nothing()
}

// A message that could not be stored, and that its subscriber has not released, does not share its packet identifier with
// one after a crash: that one would be taken for the same, and lost. It was seen to fail with one row of identifiers for both.
func TestIdentifiersAfterAFullDisk(t *testing.T) {
	t.Parallel()
	disk, o := onDisk(t)
	b := start(t, o)
	s := connect(t, b, packet.V5, "s", keep)
	s.subscribe("#", 2)
	p := connect(t, b, packet.V5, "p")
	disk.full.Store(true)
	p.publish("a", "refused", 2)
	waitFor(t, "the store to fail", b.journal.failing.Load)
	held := map[uint16]bool{}
	for _, topic := range []string{"a", "lawnberry/safety/emergency_stop"} {
		p.publish(topic, "live", 2)
		for m := expect[*packet.Publish](s); ; m = expect[*packet.Publish](s) {
			if held[m.ID] = true; string(m.Payload) == "live" {
				break
			}
		}
	}
	works(t, b, disk)
	o.Dir = crashed(t, o.Dir)
	b = start(t, o)
	p = connect(t, b, packet.V5, "p")
	s = connect(t, b, packet.V5, "s", keep)
	for _, topic := range []string{"a", "lawnberry/safety/emergency_stop"} {
		p.publish(topic, "new", 2)
		if m := s.getsFirst(topic, "new", 2); held[m.ID] {
			t.Errorf("identifier %d is still in use", m.ID)
		}
	}
}
