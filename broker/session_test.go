package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// session present is told in CONNACK: never on a clean start, always when a session was kept [MQTT-3.2.2-2, MQTT-3.2.2-3].
func TestMQTT_3_2_2_2_SessionPresent(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for i, step := range []struct {
			how  choice
			want bool
		}{
			{keep, false}, {keep, true}, {clean, false}, {keep, false}, {keep, true}, {clean, false}, {clean, false},
		} {
			c, ack := connected(t, b, v, "c", step.how)
			if ack.SessionPresent != step.want {
				t.Fatalf("step %d: session present %t", i, ack.SessionPresent)
			}
			c.leave("c")
		}
	})
}

// A clean start discards subscriptions, queued messages and everything in flight, both ways [MQTT-3.1.2-4, MQTT-3.1.2-6].
func TestMQTT_3_1_2_4_CleanStartDiscardsEverything(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
		c.subscribe("a", 2)
		pub.publish("a", "in flight", 2)
		p := c.getsFirst("a", "in flight", 2)
		c.send(outgoing("b", "x", 2, 3))
		c.expectAck(packet.PUBREC, 3)
		c.hangUp("c")
		pub.publish("a", "queued", 1)

		c = connect(t, b, v, "c", clean)
		c.nothing()
		pub.publish("a", "not subscribed", 1)
		c.nothing()
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
		c.expectAck(packet.PUBREL, p.ID)
		c.send(&packet.Ack{Kind: packet.PUBREL, ID: 3})
		if code := c.expectAck(packet.PUBCOMP, 3); v == packet.V5 && code != packet.PacketIDNotFound {
			t.Fatalf("PUBCOMP %v: the identifier survived a clean start", code)
		}
		if s := b.Stats(); s.Subscriptions != 0 || s.Queued != 0 {
			t.Fatalf("left behind: %+v", s)
		}
	})
}

// A clean start in version 5 may still ask for a session that lasts.
func TestCleanStartKeepsWhatComesAfter(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	connect(t, b, packet.V5, "c", keep).leave("c")
	c, ack := connected(t, b, packet.V5, "c", clean, expiry(100))
	if ack.SessionPresent {
		t.Fatal("session present on a clean start")
	}
	c.subscribe("a", 1)
	c.hangUp("c")
	pub.publish("a", "kept", 1)
	c, ack = connected(t, b, packet.V5, "c", func(p *packet.Connect) { p.CleanStart = false })
	if !ack.SessionPresent {
		t.Fatal("the session is gone")
	}
	c.gets("a", "kept", 1)
}

// An offline session gets everything with QoS 1 and 2, in order, without DUP; QoS 0 is not kept.
func TestOfflineMessagesInOrder(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
		c.subscribe("a/+", 2)
		c.leave("c")
		const n = 3000
		for i := 0; i < n; i += 100 {
			var burst []packet.Packet
			for j := range 100 {
				burst = append(burst, outgoing("a/b", fmt.Sprint(i+j), byte(1+j%2), uint16(i+j+1)), outgoing("a/c", "QoS 0", 0, 0))
			}
			pub.send(burst...)
			for j := range 100 {
				if id := uint16(i + j + 1); j%2 == 0 {
					pub.expectAck(packet.PUBACK, id)
				} else {
					pub.expectAck(packet.PUBREC, id)
				}
			}
			for j := 1; j < 100; j += 2 {
				pub.release(uint16(i + j + 1))
			}
		}
		c = connect(t, b, v, "c", keep)
		next := 0
		err := c.collect(func(p *packet.Publish) bool {
			if string(p.Payload) != fmt.Sprint(next) || p.Dup {
				t.Errorf("message %d is %s", next, describe(p))
				return false
			}
			next++
			return next < n
		})
		if err != nil {
			t.Fatalf("after %d: %v", next, err)
		}
	})
}

// Sessions end when they have been offline for their expiry, and not before; expiry 0 at once; with them go their
// subscriptions [MQTT-3.1.2-23, MQTT-4.1.0-2].
func TestMQTT_4_1_0_2_SessionExpiry(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		asked uint32
		leave *packet.Disconnect // nil is a lost connection
		gone  bool
	}{
		{"0, lost", 0, nil, true},
		{"0, goodbye", 0, &packet.Disconnect{}, true},
		{"1, lost", 1, nil, true},
		{"1, goodbye", 1, &packet.Disconnect{}, true},
		{"1, made 100 at goodbye", 1, disconnectWithExpiry(100), false},
		{"100, made 0 at goodbye", 100, disconnectWithExpiry(0), true},
		{"100, made 1 at goodbye", 100, disconnectWithExpiry(1), true},
		{"100, made forever at goodbye", 100, disconnectWithExpiry(0xFFFFFFFF), false},
		{"forever", 0xFFFFFFFF, nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			pub := connect(t, b, packet.V5, "pub")
			c := connect(t, b, packet.V5, "c", expiry(test.asked))
			c.subscribe("a", 1)
			c.nothing()
			left := time.Now()
			if test.leave != nil {
				c.send(test.leave)
			}
			c.hangUp("c")
			if test.gone {
				waitFor(t, "the session to end", func() bool { return b.find("c") == nil })
				if test.name[0] == '1' && test.asked == 1 && time.Since(left) < time.Second {
					t.Errorf("ended after %v", time.Since(left))
				}
				waitFor(t, "its subscription to end", func() bool { return b.Stats().Subscriptions == 0 })
				if code := pub.publish("a", "x", 1); code != packet.NoMatchingSubscribers {
					t.Errorf("published to the ended session: %v", code)
				}
			} else {
				other := connect(t, b, packet.V5, "other", expiry(1))
				other.hangUp("other")
				waitFor(t, "a session with expiry 1 to end", func() bool { return b.find("other") == nil })
			}
			if _, ack := connected(t, b, packet.V5, "c", func(p *packet.Connect) { p.CleanStart = false }); ack.SessionPresent == test.gone {
				t.Errorf("session present: %t", ack.SessionPresent)
			}
		})
	}
}

func disconnectWithExpiry(seconds uint32) *packet.Disconnect {
	d := &packet.Disconnect{}
	d.Properties.SessionExpiry = packet.Some(seconds)
	return d
}

// A session that is taken up in time does not expire, however often; the expiry is that of the last connection.
func TestResumeStopsTheExpiry(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := connect(t, b, packet.V5, "c", expiry(1))
	c.hangUp("c")
	c, ack := connected(t, b, packet.V5, "c", keep)
	if !ack.SessionPresent {
		t.Fatal("session gone at once")
	}
	other := connect(t, b, packet.V5, "other", expiry(1))
	other.hangUp("other")
	waitFor(t, "another session to end", func() bool { return b.find("other") == nil })
	c.nothing()
	if b.find("c") == nil {
		t.Fatal("the session ended while connected")
	}
}

// An expiry timer that fires late, when the session has been taken and left again, ends nothing.
func TestStaleExpiryEndsNothing(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for range 2 {
		connect(t, b, packet.V5, "c", keep).hangUp("c")
	}
	s := b.find("c")
	b.expire(s, 1)
	if b.find("c") == nil {
		t.Fatal("the expiry of an earlier connection ended the session")
	}
	b.expire(s, 2)
	if b.find("c") != nil {
		t.Fatal("the expiry of the last connection did not")
	}
}

// What was begun without an expiry cannot ask for one at the end (section 3.14.2.2.2).
func TestExpiryCannotBeginAtDISCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := connect(t, b, packet.V5, "c")
	c.send(disconnectWithExpiry(10))
	c.ends(packet.ProtocolError)
	c = connect(t, b, packet.V5, "c")
	c.send(disconnectWithExpiry(0)) // which changes nothing
	c.closes()
}

// [MQTT-3.1.4-3]: the older of two connections with one client id is told 0x8E and closed; the session goes on with the newer.
func TestMQTT_3_1_4_3_Takeover(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, old := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
		old.subscribe("a", 1)
		pub.publish("a", "in flight", 1)
		first := old.getsFirst("a", "in flight", 1)
		c, ack := connected(t, b, v, "c", keep)
		if !ack.SessionPresent {
			t.Fatal("session not present")
		}
		old.ends(packet.SessionTakenOver)
		if p := c.gets("a", "in flight", 1); !p.Dup || p.ID != first.ID {
			t.Fatalf("resent as %s", describe(p))
		}
		pub.publish("a", "after", 1)
		c.gets("a", "after", 1)
		if s := b.Stats(); s.Connections != 2 || s.Sessions != 2 {
			t.Fatalf("%+v", s)
		}
	})
}

// A hundred takeovers of one session under load: nothing is lost, QoS 2 comes once, and the last connection hears.
func TestHundredTakeoversUnderLoad(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		for name, dir := range map[string]string{"in memory": "", "stored": t.TempDir()} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				takeOverUnderLoad(t, v, Options{Dir: dir})
			})
		}
	})
}

func takeOverUnderLoad(t *testing.T, v packet.Version, o Options) {
	const takeovers, publishers = 100, 2
	b := start(t, o)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	defer wg.Wait()
	var published, finished atomic.Int32
	var over atomic.Bool
	first := connect(t, b, v, "c", keep)
	first.subscribe("load/#", 2)
	open := map[uint16]string{} // what a client must remember of QoS 2
	before := make(chan struct{})
	close(before)
	gather := func(c *raw) {
		ended := make(chan struct{})
		last := before
		before = ended
		c.released = func(id uint16) {
			mu.Lock()
			defer mu.Unlock()
			delete(open, id)
		}
		wg.Go(func() {
			defer close(ended)
			<-last // a client has one connection at a time
			err := c.collect(func(p *packet.Publish) bool {
				mu.Lock()
				defer mu.Unlock()
				if p.QoS == 2 {
					if open[p.ID] == string(p.Payload) {
						return true
					}
					open[p.ID] = string(p.Payload)
				}
				seen[string(p.Payload)]++
				return true
			})
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("collector: %v", err)
			}
		})
	}
	gather(first)
	for i := range publishers {
		pub := connect(t, b, v, fmt.Sprint("pub", i))
		wg.Go(func() {
			defer finished.Add(1)
			const batch = 40
			for j := 0; !over.Load(); {
				var out []byte
				for range batch {
					id, qos := uint16(j%60000+1), byte(1+j%2)
					out, _ = outgoing(fmt.Sprint("load/", i), fmt.Sprint(i, " ", j), qos, id).Append(out, v)
					if qos == 2 {
						out = packet.AppendAck(out, packet.PUBREL, v, id, 0)
					}
					j++
				}
				_ = pub.nc.SetWriteDeadline(time.Now().Add(patient))
				if _, err := pub.nc.Write(out); err != nil {
					t.Errorf("publisher: %v", err)
					return
				}
				for range batch + batch/2 { // PUBACK, or PUBREC and PUBCOMP
					if _, err := pub.next(); err != nil {
						t.Errorf("publisher: %v", err)
						return
					}
				}
				published.Add(batch)
			}
		})
	}
	last := first
	for range takeovers {
		last = connect(t, b, v, "c", keep)
		gather(last)
	}
	over.Store(true)
	waitFor(t, "all messages", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return finished.Load() == publishers && len(seen) == int(published.Load())
	})
	connect(t, b, packet.V5, "probe").publish("load/probe", "probe", 1)
	waitFor(t, "the last connection to hear", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen["probe"] > 0
	})
	mu.Lock()
	for payload, n := range seen {
		var from, j int
		if _, err := fmt.Sscan(payload, &from, &j); err == nil && j%2 == 1 && n != 1 {
			t.Errorf("QoS 2 message %q came %d times", payload, n)
		}
	}
	mu.Unlock()
	if s := b.Stats(); s.Dropped != 0 || s.Connections > publishers+2 {
		t.Errorf("%+v", s)
	}
	_ = last.nc.Close()
	t.Logf("%d messages, %d takeovers, all received", published.Load(), takeovers)
}

// Many connections with one client id at once: one of them wins, and the broker is left with one.
func TestSimultaneousTakeovers(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	const n = 20
	conns := make([]*raw, n)
	for i := range conns {
		conns[i] = dial(t, b, "tcp")
	}
	var wg sync.WaitGroup
	var answered, alive atomic.Int32
	for _, c := range conns {
		wg.Go(func() {
			out, _ := (&packet.Connect{Version: packet.V5, ClientID: []byte("c")}).Append(nil, packet.V5)
			_, _ = c.nc.Write(out)
			if p, err := c.next(); err != nil || p.Type() != packet.CONNACK {
				t.Errorf("no CONNACK: %v", err)
				return
			}
			answered.Add(1)
			alive.Add(1)
			p, err := c.next()
			if d, ok := p.(*packet.Disconnect); err == nil && ok && d.Code == packet.SessionTakenOver {
				alive.Add(-1)
			}
		})
	}
	waitFor(t, "one to be left", func() bool { return answered.Load() == n && alive.Load() == 1 && b.Stats().Connections == 1 })
	for _, c := range conns {
		_ = c.nc.Close()
	}
	wg.Wait()
}

// A stalled connection does not keep its session from being taken over soon.
func TestTakeoverOfAStalledConnection(t *testing.T) {
	for _, network := range []string{"tcp", "ssl", "unix", "ws", "wss", "pipe"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{
				Listeners: everywhere(t),
				tune:      func(l *limits) { l.stall = time.Hour }, // only the takeover may end it
			})
			stalled := dial(t, b, network)
			stalled.connect(packet.V5, "c", keep)
			stalled.subscribe("a", 0)
			pub := connect(t, b, packet.V5, "pub")
			payload := string(make([]byte, 100_000))
			for range 200 {
				pub.send(outgoing("a", payload, 0, 0))
			}
			pub.nothing()
			begun := time.Now()
			c, ack := connected(t, b, packet.V5, "c", keep)
			if !ack.SessionPresent || time.Since(begun) > 4*time.Second {
				t.Fatalf("present %t after %v", ack.SessionPresent, time.Since(begun))
			}
			c.nothing()
		})
	}
}

// The expiry of messages in the queue: gone when it has passed, and what is left of it told when not [MQTT-3.3.2-5, MQTT-3.3.2-6].
func TestMQTT_3_3_2_5_MessageExpiry(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	live := connect(t, b, packet.V5, "live")
	live.subscribe("a", 1)
	pub.publish("a", "live", 1, messageExpiry(10))
	if e := live.gets("a", "live", 1).Properties.MessageExpiry; !e.OK || e.V != 10 {
		t.Fatalf("expiry of a message delivered at once: %+v", e)
	}
	live.leave("live")

	c := connect(t, b, packet.V5, "c", keep)
	c.subscribe("a", 2)
	c.leave("c")
	old := connect(t, b, packet.V311, "old", keep)
	old.subscribe("a", 2)
	old.leave("old")
	pub.publish("a", "short", 1, messageExpiry(1))
	pub.publish("a", "long", 1, messageExpiry(1000))
	pub.publish("a", "ever", 1)
	clock := connect(t, b, packet.V5, "clock", expiry(2))
	clock.hangUp("clock")
	waitFor(t, "two seconds to pass", func() bool { return b.find("clock") == nil })

	c = connect(t, b, packet.V5, "c", keep)
	if e := c.gets("a", "long", 1).Properties.MessageExpiry; !e.OK || e.V < 900 || e.V > 998 {
		t.Fatalf("remaining expiry %+v", e)
	}
	if e := c.gets("a", "ever", 1).Properties.MessageExpiry; e.OK {
		t.Fatalf("a message without expiry got one: %+v", e)
	}
	c.nothing()
	old = connect(t, b, packet.V311, "old", keep)
	old.gets("a", "long", 1)
	old.gets("a", "ever", 1)
	old.nothing()
	if n := b.Stats().Expired; n != 2 {
		t.Errorf("%d expired are counted, want 2", n)
	}
}

// What was sent before its expiry is still sent again on resume: delivery had begun.
func TestExpiryDoesNotEndAFlowThatBegan(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	c := connect(t, b, packet.V5, "c", keep)
	c.subscribe("a", 1)
	pub.publish("a", "x", 1, messageExpiry(1))
	id := c.getsFirst("a", "x", 1).ID
	c.hangUp("c")
	clock := connect(t, b, packet.V5, "clock", expiry(2))
	clock.hangUp("clock")
	waitFor(t, "two seconds to pass", func() bool { return b.find("clock") == nil })
	c = connect(t, b, packet.V5, "c", keep)
	if p := c.gets("a", "x", 1); p.ID != id || !p.Dup || p.Properties.MessageExpiry.V != 0 {
		t.Fatalf("got %s %+v", describe(p), p.Properties.MessageExpiry)
	}
}

// A session that has ended leaves nothing behind; an offline one does not hold on to its last connection.
func TestNothingIsLeftBehind(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for i := range 20 {
			id := fmt.Sprint("c", i)
			c := connect(t, b, v, id)
			c.subscribe(id+"/#", 1)
			c.subscribe("$share/g/"+id, 1)
			c.send(outgoing(id, "x", 1, 1))
			if i%2 == 0 {
				c.send(&packet.Disconnect{})
			}
			c.hangUp(id)
		}
		kept := connect(t, b, v, "kept", keep)
		kept.hangUp("kept")
		waitFor(t, "all to end", func() bool {
			s := b.Stats()
			return s.Connections == 0 && s.Sessions == 1 && s.Subscriptions == 0 && s.Queued == 0
		})
		b.tree.mu.RLock()
		defer b.tree.mu.RUnlock()
		if len(b.tree.root.children) != 0 || b.tree.shared != 0 {
			t.Errorf("the tree has %d nodes left, %d shared", len(b.tree.root.children), b.tree.shared)
		}
		if len(b.find("kept").window.slots) > 16 {
			t.Error("an empty session holds a table")
		}
	})
}
