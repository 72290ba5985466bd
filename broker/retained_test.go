package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A retained message is set, replaced and cleared; an empty one is not stored, but reaches who is there
// [MQTT-3.3.1-5, MQTT-3.3.1-6, MQTT-3.3.1-7].
func TestMQTT_3_3_1_5_RetainedSetReplaceClear(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, live := connect(t, b, v, "pub"), connect(t, b, v, "live")
		live.subscribe("a", 2)
		late := func(want string, qos byte) {
			t.Helper()
			c := connect(t, b, v, "late")
			c.subscribe("a", 2)
			if want != "" {
				if p := c.gets("a", want, qos); !p.Retain || p.Dup {
					t.Fatalf("stored message came as %s", describe(p))
				}
			}
			c.nothing()
			c.leave("late")
		}
		for qos := range byte(3) {
			payload := fmt.Sprint("state ", qos)
			pub.publish("a", payload, qos, retain)
			if live.gets("a", payload, qos).Retain {
				t.Error("a live message came with retain [MQTT-3.3.1-9]")
			}
			late(payload, qos)
		}
		pub.publish("a", "not retained", 1)
		live.gets("a", "not retained", 1)
		late("state 2", 2)
		pub.publish("a", "", 1, retain)
		if live.gets("a", "", 1).Retain {
			t.Error("the clearing message came with retain")
		}
		late("", 0)
		if n := b.Stats().Retained; n != 0 {
			t.Errorf("%d retained", n)
		}
	})
}

// Stored messages come with the lower of the two QoS, and again with every SUBSCRIBE.
func TestMQTT_3_8_4_4_RetainedQoSAndAgain(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c")
		for stored := range byte(3) {
			c.unsubscribe("a")
			pub.publish("a", "x", stored, retain)
			for granted := range byte(3) {
				c.subscribe("a", granted)
				c.gets("a", "x", min(stored, granted))
			}
		}
		c.nothing()
		c.unsubscribe("a")
		c.subscribe("a", 0)
		c.gets("a", "x", 0)
		c.nothing()
	})
}

// Retain handling: 0 always, 1 only when the subscription is new, 2 never [MQTT-3.3.1-9 to MQTT-3.3.1-11].
func TestMQTT_3_3_1_10_RetainHandling(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	connect(t, b, packet.V5, "pub").publish("a", "x", 1, retain)
	c := connect(t, b, packet.V5, "c", keep)
	subscribe := func(handling byte, want bool) {
		t.Helper()
		c.subscribe("a", 1, retainHandling(handling))
		if want {
			c.gets("a", "x", 1)
		}
		c.nothing()
	}
	subscribe(2, false)
	subscribe(1, false) // exists already
	subscribe(0, true)
	subscribe(0, true)
	subscribe(1, false)
	c.unsubscribe("a")
	subscribe(1, true)
	c.hangUp("c")
	c = connect(t, b, packet.V5, "c", keep)
	subscribe(1, false) // existed in the session
	c.hangUp("c")
	c = connect(t, b, packet.V5, "c", clean)
	subscribe(1, true)
	// Two filters in one SUBSCRIBE: each by its own handling.
	c.subscribeWith(&packet.Subscribe{Subscriptions: []packet.Subscription{
		{Filter: []byte("a"), QoS: 1, RetainHandling: 1}, {Filter: []byte("+"), QoS: 0, RetainHandling: 1},
	}})
	c.gets("a", "x", 0)
	c.nothing()
}

// Retain as published keeps the flag of live messages; a stored one has it always [MQTT-3.3.1-12, MQTT-3.3.1-13].
func TestMQTT_3_3_1_12_RetainAsPublished(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	as, not := connect(t, b, packet.V5, "as"), connect(t, b, packet.V5, "not")
	as.subscribe("a", 1, retainAsPublished)
	not.subscribe("a", 1)
	for _, flag := range []bool{true, false} {
		pub.publish("a", "x", 1, func(p *packet.Publish) { p.Retain = flag })
		if p := as.gets("a", "x", 1); p.Retain != flag {
			t.Errorf("published with retain %t, came with %t", flag, p.Retain)
		}
		if p := not.gets("a", "x", 1); p.Retain {
			t.Error("retain without retain as published")
		}
	}
	not.subscribe("a", 1)
	if !not.gets("a", "x", 1).Retain {
		t.Error("a stored message without retain")
	}
}

// Which stored messages a filter brings: a/# brings a, +/# too; wildcards bring no $ topic [MQTT-4.7.1-2, MQTT-4.7.2-1].
func TestMQTT_4_7_1_2_RetainedByWildcard(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		topics := []string{"a", "a/b", "a/b/c", "a/", "/", "/a", "$x", "$x/y", "b/$y", "b"}
		for _, name := range topics {
			pub.publish(name, name, 0, retain)
		}
		c := connect(t, b, v, "c")
		for filter, want := range map[string]string{
			"a":     "a",
			"a/#":   "a a/ a/b a/b/c",
			"+/#":   "/ /a a a/ a/b a/b/c b b/$y",
			"#":     "/ /a a a/ a/b a/b/c b b/$y",
			"+":     "a b",
			"+/+":   "/ /a a/ a/b b/$y",
			"a/+":   "a/ a/b",
			"a/b/#": "a/b a/b/c",
			"a/":    "a/",
			"/+":    "/ /a",
			"/#":    "/ /a",
			"$x/#":  "$x $x/y",
			"$x/+":  "$x/y",
			"+/y":   "",
			"b/+":   "b/$y",
			"c/#":   "",
		} {
			var got []string
			c.send(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte(filter)}}}, &packet.Pingreq{})
			expect[*packet.Suback](c)
			for {
				p, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				m, ok := p.(*packet.Publish)
				if !ok {
					break
				}
				if string(m.Topic) != string(m.Payload) || !m.Retain {
					t.Errorf("%s", describe(m))
				}
				got = append(got, string(m.Topic))
			}
			slices.Sort(got)
			if strings.Join(got, " ") != want {
				t.Errorf("%s brings %q, want %q", filter, got, want)
			}
		}
	})
}

// A shared subscription brings no stored messages (section 4.8.2).
func TestNoRetainedForSharedSubscriptions(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		connect(t, b, v, "pub").publish("a", "x", 1, retain)
		c := connect(t, b, v, "c")
		c.subscribe("$share/g/a", 1)
		c.nothing()
	})
}

// A stored message expires, and what is left of its expiry is told.
func TestRetainedExpiry(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	pub.publish("a", "short", 1, retain, messageExpiry(1))
	pub.publish("b", "long", 1, retain, messageExpiry(100))
	clock := connect(t, b, packet.V5, "clock", expiry(1))
	clock.hangUp("clock")
	waitFor(t, "a second to pass", func() bool { return b.find("clock") == nil })
	c := connect(t, b, packet.V5, "c")
	c.subscribe("+", 1)
	if left := c.gets("b", "long", 1).Properties.MessageExpiry.V; left > 99 || left < 60 {
		t.Errorf("%d s remain", left)
	}
	c.nothing()
}

// Everything that a publisher says about its message reaches the subscribers of now and of later, in its order [MQTT-3.3.2-17].
func TestMQTT_3_3_2_17_PropertiesAreForwarded(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := connect(t, b, packet.V5, "c")
	c.subscribe("a", 1)
	send := outgoing("a", "x", 1, 1)
	send.Retain = true
	send.Properties = packet.Properties{
		PayloadFormat: packet.Some(byte(1)), ContentType: []byte("text/plain"), ResponseTopic: []byte("answer/here"),
		CorrelationData: []byte{0, 1, 255}, MessageExpiry: packet.Some(uint32(5000)), TopicAlias: packet.Some(uint16(3)),
		User: []packet.UserProperty{{Key: []byte("k"), Value: []byte("2")}, {Key: []byte("k"), Value: []byte("1")}, {Key: []byte(""), Value: []byte("")}},
	}
	pub := connect(t, b, packet.V5, "pub")
	pub.send(send)
	pub.expectAck(packet.PUBACK, 1)
	late := connect(t, b, packet.V5, "late")
	late.subscribe("a", 1)
	for _, got := range []*packet.Publish{c.gets("a", "x", 1), late.gets("a", "x", 1)} {
		p, want := got.Properties, send.Properties
		if p.PayloadFormat != want.PayloadFormat || string(p.ContentType) != string(want.ContentType) ||
			string(p.ResponseTopic) != string(want.ResponseTopic) || string(p.CorrelationData) != string(want.CorrelationData) ||
			p.MessageExpiry != want.MessageExpiry || p.TopicAlias.OK || fmt.Sprint(p.User) != fmt.Sprint(want.User) {
			t.Errorf("got %+v", p)
		}
	}
}

// A subscription to more stored messages than a session may queue brings them all, at every QoS, to who takes its time.
func TestMoreRetainedThanTheQueueHolds(t *testing.T) {
	t.Parallel()
	for qos := range byte(3) {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			const n = 3000
			b := start(t, Options{MaxQueued: 50, tune: func(l *limits) { l.queue0 = 50 }})
			pub := connect(t, b, packet.V5, "pub")
			for i := 0; i < n; i += 500 {
				var burst []packet.Packet
				for j := range 500 {
					p := outgoing(fmt.Sprint("r/", i+j), strings.Repeat("x", 100), qos, uint16(qos)*uint16(i+j+1))
					p.Retain = true
					burst = append(burst, p)
					if qos == 2 {
						burst = append(burst, &packet.Ack{Kind: packet.PUBREL, ID: p.ID})
					}
				}
				pub.send(burst...)
				for range 500 * int(qos) {
					if _, err := pub.next(); err != nil {
						t.Fatal(err)
					}
				}
			}
			pub.nothing()
			c := connect(t, b, packet.V5, "c", receiveMaximum(10))
			c.subscribe("r/#", qos)
			got := map[string]bool{}
			if err := c.collect(func(p *packet.Publish) bool {
				got[string(p.Topic)] = true
				return len(got) < n
			}); err != nil {
				t.Fatalf("after %d of %d: %v", len(got), n, err)
			}
			if d := b.Stats().Dropped; d != 0 {
				t.Errorf("%d dropped", d)
			}
		})
	}
}

// The limit of stored messages: one more is delivered, not stored, and its publisher told; replacing goes on; $SYS does
// not count.
func TestRetainedLimit(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxRetained: 2, SysInterval: 1 << 40})
	waitFor(t, "$SYS", func() bool { return b.retained.get("$SYS/broker/version", 0) != nil })
	c, pub := connect(t, b, packet.V5, "c"), connect(t, b, packet.V5, "pub")
	c.subscribe("r/#", 0)
	for _, step := range []struct {
		topic, payload string
		want           packet.Code
	}{
		{"r/1", "x", packet.Success}, {"r/2", "x", packet.Success}, {"r/3", "x", packet.QuotaExceeded}, {"r/2/deeper", "x", packet.QuotaExceeded},
		{"r/1", "y", packet.Success}, {"r/1", "", packet.Success}, {"r/3", "x", packet.Success}, {"r/4", "", packet.Success},
	} {
		if code := pub.publish(step.topic, step.payload, 1, retain); code != step.want {
			t.Errorf("%s: %v, want %v", step.topic, code, step.want)
		}
		c.gets(step.topic, step.payload, 0)
	}
	if n := b.Stats().Retained; n != 2 {
		t.Errorf("%d retained", n)
	}
}

// Whoever subscribes while a state changes sees the states from then on in their order, each once.
func TestSubscribingWhileTheStateChanges(t *testing.T) {
	t.Parallel()
	const n = 1000
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	pub.publish("state", "0", 1, retain)
	var wg sync.WaitGroup
	for i := range 8 {
		c := connect(t, b, packet.V5, fmt.Sprint("c", i))
		wg.Go(func() {
			out, _ := (&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("state"), QoS: 1}}}).Append(nil, packet.V5)
			if _, err := c.nc.Write(out); err != nil {
				t.Error(err)
				return
			}
			last := -1
			if err := c.collect(func(p *packet.Publish) bool {
				var now int
				if _, err := fmt.Sscan(string(p.Payload), &now); err != nil || now <= last || last >= 0 && now > last+1 {
					t.Errorf("state %q after %d", p.Payload, last)
				}
				last = now
				return now < n
			}); err != nil {
				t.Errorf("after %d: %v", last, err)
			}
		})
	}
	for i := 1; i <= n; i++ {
		pub.publish("state", fmt.Sprint(i), 1, retain)
	}
	wg.Wait()
}
