package broker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// pour publishes n messages of size bytes, numbered from first in their first bytes, pipelined, and returns how many were
// answered with a failure.
func pour(t testing.TB, pub *raw, topic string, first, n, size int, qos byte) (refused int) {
	t.Helper()
	for done := 0; done < n; {
		k := min(n-done, 100)
		var out []byte
		for i := range k {
			payload := fmt.Sprintf("%-*d", size, first+done+i)
			out, _ = outgoing(topic, payload, qos, uint16(qos)*uint16(i+1)).Append(out, pub.v)
		}
		pub.write(out)
		var releases []packet.Packet
		for range k * min(1, int(qos)) {
			a := expect[*packet.Ack](pub)
			if a.Code >= 0x80 {
				refused++
			} else if a.Kind == packet.PUBREC {
				releases = append(releases, &packet.Ack{Kind: packet.PUBREL, ID: a.ID})
			}
		}
		pub.send(releases...)
		for range releases {
			expect[*packet.Ack](pub)
		}
		done += k
	}
	return refused
}

// inOrder receives the messages of pour from first to last, none lost, none twice.
func inOrder(c *raw, first, last int) error {
	next := first
	err := c.collect(func(p *packet.Publish) bool {
		var n int
		if _, err := fmt.Sscan(string(p.Payload), &n); err != nil || n != next {
			c.t.Errorf("got %.20q, want %d", p.Payload, next)
			return false
		}
		next++
		return next <= last
	})
	if err != nil {
		return fmt.Errorf("after %d: %w", next-1, err)
	}
	return nil
}

// A subscriber that stops reading is closed; the others and the publisher do not notice, and its session keeps everything.
func TestStalledSubscriber(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		const n, size = 2000, 16 << 10 // more than sockets hold
		b := start(t, Options{tune: func(l *limits) { l.stall = 200 * time.Millisecond }})
		pub, good, stalled := connect(t, b, v, "pub"), connect(t, b, v, "good"), connect(t, b, v, "stalled", keep)
		good.subscribe("load", 1)
		stalled.subscribe("load", 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := inOrder(good, 1, n); err != nil {
				t.Error(err)
			}
		})
		pour(t, pub, "load", 1, n, size, 1)
		wg.Wait()
		waitFor(t, "the stalled connection to be closed", func() bool { return b.find("stalled").current() == nil })
		stalled = connect(t, b, v, "stalled", keep)
		if err := inOrder(stalled, 1, n); err != nil {
			t.Error(err)
		}
		if s := b.Stats(); s.Dropped != 0 {
			t.Errorf("%d dropped", s.Dropped)
		}
	})
}

// A slow subscriber with a small receive maximum gets all of a burst, in order, none twice.
func TestSlowSubscriberGetsABurst(t *testing.T) {
	t.Parallel()
	const n = 5000
	b := start(t, Options{})
	pub, sub := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "sub", receiveMaximum(20))
	sub.subscribe("load", 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := inOrder(sub, 1, n); err != nil {
			t.Error(err)
		}
	})
	pour(t, pub, "load", 1, n, 100, 1)
	wg.Wait()
	sub.nothing()
}

// An offline session keeps as many messages, and as many bytes, as it may, in order; beyond, the publisher is told and the
// loss is counted. Others get everything.
func TestOfflineQueueIsFull(t *testing.T) {
	for _, bound := range []string{"messages", "bytes"} {
		t.Run(bound, func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				const most, n = 250, 400
				o := Options{MaxQueued: most}
				if bound == "bytes" {
					o = Options{MaxQueuedBytes: most * (100 + len("load") + messageOverhead)}
				}
				b := start(t, o)
				pub, good, off := connect(t, b, v, "pub"), connect(t, b, v, "good"), connect(t, b, v, "off", keep)
				good.subscribe("load", 0)
				off.subscribe("load", 2)
				off.leave("off")
				refused := pour(t, pub, "load", 1, n, 100, 1)
				if err := inOrder(good, 1, n); err != nil {
					t.Error(err)
				}
				want := n - most
				if v == packet.V311 {
					want = 0 // cannot be told
				}
				if s := b.Stats(); refused != want || s.Dropped != n-most || s.Queued != most {
					t.Errorf("%d refused, %+v", refused, s)
				}
				off = connect(t, b, v, "off", keep)
				if err := inOrder(off, 1, most); err != nil {
					t.Error(err)
				}
				pour(t, pub, "load", 7, 1, 100, 2) // there is room again
				if err := inOrder(off, 7, 7); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// A connected session whose queue fills is told 0x97 and closed; it keeps what is queued.
func TestSlowSessionIsClosed(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{MaxQueued: 100})
		pub, slow := connect(t, b, v, "pub"), connect(t, b, v, "slow", keep)
		slow.subscribe("load", 1)
		inflight := maxInflight
		for i := 0; i < inflight; i += 64 {
			if refused := pour(t, pub, "load", 1+i, 64, 10, 1); refused != 0 {
				t.Fatalf("%d refused", refused)
			}
			for range 64 { // not acknowledged
				expect[*packet.Publish](slow)
			}
		}
		pour(t, pub, "load", inflight+1, 100, 10, 1)
		slow.nothing()
		pour(t, pub, "load", 0, 1, 10, 1)
		slow.ends(packet.QuotaExceeded)
		slow.hangUp("slow")
		slow = connect(t, b, v, "slow", keep)
		if err := inOrder(slow, 1, inflight+100); err != nil {
			t.Error(err)
		}
		slow.nothing()
	})
}

// A session that resumes with a full queue, while more comes for it, may work it off: what does not fit is refused, but
// the connection lives. Once it has caught up, it is as any other.
func TestResumeWithAFullQueueUnderLoad(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxQueued: 100})
	pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", keep)
	c.subscribe("load", 1)
	c.leave("c")
	pour(t, pub, "load", 1, 100, 10, 1)
	c = connect(t, b, packet.V5, "c", keep, receiveMaximum(10))
	if refused := pour(t, pub, "load", 101, 50, 10, 1); refused != 40 { // ten went out
		t.Errorf("%d refused", refused)
	}
	if err := inOrder(c, 1, 110); err != nil {
		t.Error(err)
	}
	c.nothing()
	pour(t, pub, "load", 1, 10, 10, 1)
	for i := range 10 {
		c.getsFirst("load", fmt.Sprintf("%-10d", i+1), 1)
	}
	pour(t, pub, "load", 11, 100, 10, 1)
	pour(t, pub, "load", 0, 1, 10, 1)
	c.ends(packet.QuotaExceeded)
}

// Publishers give way to a session that works its queue off, not to one that is stuck or takes a message now and then, whatever
// else it gets at QoS 0.
func TestStuckSessionSlowsNobody(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxQueued: 1000})
	pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", receiveMaximum(1))
	c.subscribe("load", 1)
	c.subscribe("more", 0)
	pour(t, pub, "load", 1, 700, 10, 1)
	pour(t, pub, "more", 1, 200, 10, 0)
	pub.nothing()
	born := b.now()
	waitFor(t, "the connection to be no longer new", func() bool { return b.now()-born > int64(paceSpan) })
	first := c.getsFirst("load", fmt.Sprintf("%-10d", 1), 1)
	for range 200 {
		expect[*packet.Publish](c)
	}
	s := b.find("c")
	r, _ := b.tree.match("load", nil)
	m := newMessage("load", &packet.Properties{}, nil)
	m.qos = 1
	if v := s.enqueue(m, r.deliveries[0], &txn{}, false, false); v != accepted {
		t.Errorf("a stuck session: verdict %d", v)
	}
	c.acknowledge(first)
	begun := b.now()
	for i := 2; i < 2+2*livelyCut; i++ {
		c.gets("load", fmt.Sprintf("%-10d", i), 1)
	}
	v := s.enqueue(m, r.deliveries[0], &txn{}, false, false)
	if took := b.now() - begun; v != brimming && took < int64(paceSpan) { // else the machine was too busy to be lively
		t.Errorf("a session that goes on: verdict %d", v)
	}
}

// A session is lively from so many messages in a tenth of a second, and for that long afterwards.
func TestPace(t *testing.T) {
	const ms = int64(time.Millisecond)
	for _, c := range []struct {
		every int64 // ms between messages
		want  bool
	}{{1, true}, {2, true}, {5, false}, {200, false}} { // between 1 in 2 ms and 1 in 4 it depends on the moment
		var p pace
		if p.lively(3600e9) {
			t.Error("lively at first")
		}
		for at := int64(0); at < 1000; at++ {
			if at%c.every == 0 {
				p.step(3600e9 + at*ms)
			}
			if at >= 300 && p.lively(3600e9+at*ms) != c.want {
				t.Errorf("a message every %d ms: lively is %v after %d ms", c.every, !c.want, at)
				break
			}
		}
		if p.lively(3600e9 + 1200*ms) {
			t.Error("lively 200 ms after the last message")
		}
		if p.trust(7200e9); !p.lively(7200e9+99*ms) || p.lively(7200e9+100*ms) {
			t.Error("a new connection is not taken for lively for 100 ms")
		}
	}
}

// At QoS 0 the oldest are dropped and counted, by messages and by bytes; what was sent and the newest come.
func TestQoS0DropsTheOldest(t *testing.T) {
	for _, bound := range []string{"messages", "bytes"} {
		t.Run(bound, func(t *testing.T) {
			t.Parallel()
			const keeps, n, size = 10, 500, 1000
			b := start(t, Options{tune: func(l *limits) {
				l.stall = time.Hour
				if bound == "messages" {
					l.queue0 = keeps
				} else {
					l.queue0Bytes = keeps * (size + len("load") + messageOverhead)
				}
			}})
			pub, slow := connect(t, b, packet.V5, "pub"), dial(t, b, "pipe") // whose writes wait for the reader
			slow.connect(packet.V5, "slow")
			slow.subscribe("load", 0)
			pour(t, pub, "load", 1, n, size, 0)
			pub.nothing()
			var got []int
			for len(got) == 0 || got[len(got)-1] < n {
				var i int
				if _, err := fmt.Sscan(string(expect[*packet.Publish](slow).Payload), &i); err != nil {
					t.Fatal(err)
				}
				got = append(got, i)
			}
			// What the writer took in between is for the scheduler to say; what waits in the end is the newest.
			sent := len(got) - keeps
			if sent < 1 || got[sent] != n-keeps+1 || !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("got %v", got)
			}
			if d := b.Stats().Dropped; int(d) != n-len(got) {
				t.Errorf("%d dropped are counted, %d are missing", d, n-len(got))
			}
		})
	}
}

// What is below safety/ of the namespace overtakes everything else that is queued for the session, in its own order.
func TestSafetyOvertakes(t *testing.T) {
	for _, namespace := range []string{"", "garden/mower"} {
		t.Run(namespace, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{Namespace: namespace})
			prefix := namespace
			if prefix == "" {
				prefix = "lawnberry"
			}
			pub, sub := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "sub", keep, receiveMaximum(1))
			sub.subscribe("#", 1)
			for i := range 20 {
				pub.publish("sensors/gps", fmt.Sprint(i), 1)
			}
			first := sub.getsFirst("sensors/gps", "0", 1)
			for i := range 3 {
				pub.publish(prefix+"/safety/emergency_stop", fmt.Sprint(i), 2)
			}
			pub.publish("other/safety/x", "not urgent", 1)
			sub.acknowledge(first)
			for i := range 3 {
				sub.gets(prefix+"/safety/emergency_stop", fmt.Sprint(i), 1)
			}
			for i := 1; i < 20; i++ {
				sub.gets("sensors/gps", fmt.Sprint(i), 1)
			}
			sub.gets("other/safety/x", "not urgent", 1)
			sub.nothing()
		})
	}
}

// QoS 0 and QoS 1 of one topic keep their order among each other as long as the window is open.
func TestOrderAcrossQoS(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub, pub := connect(t, b, v, "sub"), connect(t, b, v, "pub")
		sub.subscribe("t", 1)
		for i := range 300 {
			pub.publish("t", fmt.Sprint(i), byte(i%2))
			sub.gets("t", fmt.Sprint(i), byte(i%2))
		}
	})
}

// [MQTT-3.14.4-1]: nothing comes after DISCONNECT, no PINGRESP either.
func TestMQTT_3_14_4_1_NoPINGRESPAfterDISCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for range 50 {
		c := connect(t, b, packet.V5, "c")
		c.write([]byte("\xc0\x00\xc0\x00\xc0\x00\x00\x00\xc0\x00"))
		for {
			p, err := c.next()
			if err != nil {
				t.Fatal(err)
			}
			if d, ok := p.(*packet.Disconnect); ok {
				if d.Code != packet.MalformedPacket {
					t.Errorf("%v", d.Code)
				}
				break
			}
		}
		c.closes()
	}
}

// What was queued before a PINGREQ comes before its answer: whoever has it has everything.
func TestPINGRESPComesAfterWhatWasQueued(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub, pub := connect(t, b, packet.V5, "sub"), connect(t, b, packet.V5, "pub")
	sub.subscribe("t", 0)
	for range 20 {
		pour(t, pub, "t", 0, 1000, 300, 0)
		pub.nothing()
		sub.send(&packet.Pingreq{})
		for range 1000 {
			expect[*packet.Publish](sub)
		}
		expect[*packet.Pingresp](sub)
	}
}

// A client that does not read the answers to what it sends is not read from: it costs a bounded amount of memory.
func TestUnreadAnswersAreBounded(t *testing.T) {
	request, _ := (&packet.Pingreq{}).Append(nil, packet.V5)
	publication, _ := outgoing("t", "", 1, 1).Append(nil, packet.V5)
	for name, what := range map[string][]byte{"PINGREQ": request, "PUBLISH": publication} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{tune: func(l *limits) { l.stall = time.Hour }})
			c := dial(t, b, "pipe")
			c.connect(packet.V5, "c")
			burst := []byte(strings.Repeat(string(what), 1000))
			for {
				_ = c.nc.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				if _, err := c.nc.Write(burst); errors.Is(err, os.ErrDeadlineExceeded) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
			}
			held := b.find("c").current()
			held.session.mu.Lock()
			defer held.session.mu.Unlock()
			if len(held.control) > maxControl+(8<<10) || held.pongs > maxControl+1 {
				t.Errorf("%d bytes and %d PINGRESPs wait", len(held.control), held.pongs)
			}
		})
	}
}

// A connection that is reset while much is queued for it ends, and its session keeps what was QoS 1.
func TestResetUnderLoad(t *testing.T) {
	t.Parallel()
	const n = 3000
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	c := connect(t, b, packet.V5, "c", keep)
	c.subscribe("load", 1)
	var wg sync.WaitGroup
	wg.Go(func() { pour(t, pub, "load", 1, n, 100, 1) })
	for range 10 {
		expect[*packet.Publish](c)
		_ = c.nc.(*net.TCPConn).SetLinger(0)
		_ = c.nc.Close()
		c = connect(t, b, packet.V5, "c", keep)
	}
	if err := inOrder(c, 1, n); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// What a publisher's routes cost is bounded, whether it uses many topics or its topics have many subscribers.
func TestRouteCacheIsBounded(t *testing.T) {
	t.Parallel()
	for _, subscribers := range []int{1, 100} {
		b := &Broker{}
		for i := range subscribers {
			subscribeTo(&b.tree, newTestSession(fmt.Sprint(i)), "t/#")
		}
		c := routeCache{routes: make(map[string]*route)}
		for i := range 3 * maxRoutes / (1 + subscribers) {
			name := fmt.Sprint("t/", i)
			if r := c.route(b, name); len(r.deliveries) != subscribers || c.route(b, name) != r {
				t.Fatalf("%s: %d deliveries, or not remembered", name, len(r.deliveries))
			}
			if held := len(c.routes) * (1 + subscribers); held > maxRoutes+1+subscribers || held != c.size {
				t.Fatalf("%d topics are remembered, size %d", len(c.routes), c.size)
			}
		}
	}
}
