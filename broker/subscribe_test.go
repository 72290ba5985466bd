package broker

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Each filter of a SUBSCRIBE gets its own code, in order; a bad one spoils nothing [MQTT-3.8.4-6, MQTT-3.9.3-1].
func TestMQTT_3_8_4_6_SubscribeCodes(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := connect(t, b, v, "c")
		deep := strings.Repeat("a/", maxLevels)
		filters := []struct {
			filter string
			ok     bool
		}{
			{"a", true}, {"a#", false}, {"a/#/b", false}, {"+a", false}, {"", false}, {"$share//x", false}, {"$share/g/", false}, {"$share/g", false},
			{"$share/", false}, {"$share/g+/x", false}, {"$share/#/x", false}, {"$share/g/a#", false}, {"$share/g/#", true}, {"$share/g//", true},
			{"#", true}, {"+/+", true}, {"/", true}, {"//", true}, {" ", true}, {"$SYS/#", true}, {"$share", true}, {"#/", false}, {"##", false}, {"a/b+/c", false},
			{"+/#", true}, {deep[:len(deep)-1], true}, {deep, false}, {"ä/ö", true},
		}
		p := &packet.Subscribe{ID: 5}
		for i, f := range filters {
			p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: []byte(f.filter), QoS: byte(i % 3)})
		}
		c.send(p)
		ack := expect[*packet.Suback](c)
		if len(ack.Codes) != len(filters) {
			t.Fatalf("%d codes for %d filters", len(ack.Codes), len(filters))
		}
		bad := packet.TopicFilterInvalid
		if v == packet.V311 {
			bad = packet.UnspecifiedError // 0x80 is its only one
		}
		for i, f := range filters {
			want := packet.Code(i % 3)
			if !f.ok {
				want = bad
			}
			if ack.Codes[i] != want {
				t.Errorf("%q: %v, want %v", f.filter, ack.Codes[i], want)
			}
		}
		c.nothing()
	})
}

// UNSUBACK tells of each filter [MQTT-3.11.3-1]; 3.1.1 has no codes. After it nothing comes for it any more [MQTT-3.10.4-1 to 5].
func TestMQTT_3_10_4_4_Unsubscribe(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c")
		for _, f := range []string{"a", "a/#", "$share/g/a"} {
			c.subscribe(f, 1)
		}
		want := []packet.Code{packet.Success, packet.NoSubscriptionExisted, packet.TopicFilterInvalid, packet.NoSubscriptionExisted, packet.TopicFilterInvalid}
		codes := c.unsubscribe("a", "+", "a#", "a", "")
		if v == packet.V5 && !slices.Equal(codes, want) || v != packet.V5 && len(codes) > 0 {
			t.Errorf("codes %v, want %v", codes, want)
		}
		pub.publish("a", "1", 0)
		c.gets("a", "1", 0) // a/#
		c.gets("a", "1", 0) // $share/g/a
		c.nothing()
		c.unsubscribe("a/#", "$share/g/a")
		pub.publish("a", "2", 0)
		c.nothing()
		if n := b.Stats().Subscriptions; n != 0 {
			t.Errorf("%d subscriptions left", n)
		}
	})
}

// A new SUBSCRIBE to the same filter replaces the subscription: QoS, options and identifier [MQTT-3.8.4-3].
func TestMQTT_3_8_4_3_SubscriptionIsReplaced(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c")
	for _, prefix := range []string{"", "$share/g/"} {
		c.subscribeID(prefix+"a", 2, 7)
		c.subscribe(prefix+"a", 0)
		pub.publish("a", "x", 2)
		if p := c.gets("a", "x", 0); len(p.Properties.SubscriptionIDs) != 0 {
			t.Errorf("identifiers %v", p.Properties.SubscriptionIDs)
		}
		c.nothing()
		c.unsubscribe(prefix + "a")
	}
}

// Overlapping subscriptions bring one copy, with the highest QoS and all identifiers [MQTT-3.3.4-2 to MQTT-3.3.4-5].
func TestMQTT_3_3_4_2_OverlappingSubscriptions(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c")
		if v == packet.V311 {
			for i, f := range []string{"a/b", "a/#", "+/b"} {
				c.subscribe(f, byte(i%3))
			}
			pub.publish("a/b", "x", 2)
			c.gets("a/b", "x", 2)
			c.nothing()
			return
		}
		c.subscribeID("a/b", 0, 1)
		c.subscribeID("a/#", 1, 268_435_455)
		c.subscribeID("+/b", 2, 3)
		c.subscribe("#", 0)
		ids := func(p *packet.Publish) string {
			slices.Sort(p.Properties.SubscriptionIDs)
			return fmt.Sprint(p.Properties.SubscriptionIDs)
		}
		pub.publish("a/b", "x", 2, retain)
		if got := ids(c.gets("a/b", "x", 2)); got != "[1 3 268435455]" {
			t.Errorf("identifiers %s", got)
		}
		pub.publish("other", "x", 2)
		if got := ids(c.gets("other", "x", 0)); got != "[]" {
			t.Errorf("identifiers %s", got)
		}
		// A stored message comes for the new subscription only, with its identifier.
		c.subscribeID("a/+", 1, 9)
		if got := ids(c.gets("a/b", "x", 1)); got != "[9]" {
			t.Errorf("identifiers of a stored message %s", got)
		}
		c.unsubscribe("a/b", "+/b", "a/+")
		pub.publish("a/b", "y", 2)
		if got := ids(c.gets("a/b", "y", 1)); got != "[268435455]" {
			t.Errorf("after unsubscribing: identifiers %s", got)
		}
		c.nothing()
		// Identifiers are part of the session.
		c = connect(t, b, packet.V5, "kept", keep)
		c.subscribeID("kept", 1, 77)
		c.hangUp("kept")
		pub.publish("kept", "z", 1)
		c = connect(t, b, packet.V5, "kept", keep)
		if got := ids(c.gets("kept", "z", 1)); got != "[77]" {
			t.Errorf("after a resume: identifiers %s", got)
		}
	})
}

// [MQTT-3.8.4-4]: replacing a subscription loses nothing of what is published meanwhile.
func TestMQTT_3_8_4_4_ReplacingLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		const n = 3000
		b := start(t, Options{})
		pub, sub := connect(t, b, v, "pub"), connect(t, b, v, "sub")
		sub.subscribe("load", 1)
		var wg sync.WaitGroup
		wg.Go(func() { pour(t, pub, "load", 1, n, 20, 1) })
		again, _ := (&packet.Subscribe{ID: 9, Subscriptions: []packet.Subscription{{Filter: []byte("load"), QoS: 1}}}).Append(nil, v)
		next := 1
		if err := sub.collect(func(p *packet.Publish) bool {
			if string(p.Payload) != fmt.Sprintf("%-20d", next) {
				t.Errorf("got %s, want %d", describe(p), next)
				return false
			}
			next++
			if next%10 == 0 {
				_, _ = sub.nc.Write(again)
			}
			return next <= n
		}); err != nil {
			t.Errorf("after %d: %v", next-1, err)
		}
		wg.Wait()
	})
}

// [MQTT-3.10.4-3]: UNSUBSCRIBE does not end a flow that began, also across a resume.
func TestMQTT_3_10_4_3_UnsubscribeCompletesFlows(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
		c.subscribe("a", 2)
		pub.publish("a", "1", 2)
		pub.publish("a", "2", 1)
		c.getsFirst("a", "1", 2)
		c.getsFirst("a", "2", 1)
		c.unsubscribe("a")
		c.hangUp("c")
		c = connect(t, b, v, "c", keep)
		one, two := c.getsFirst("a", "1", 2), c.getsFirst("a", "2", 1)
		c.acknowledge(one)
		c.acknowledge(two)
		c.nothing()
	})
}

// [MQTT-4.7.3-4]: topics are compared byte by byte, without any normalization.
func TestMQTT_4_7_3_4_NoNormalization(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		names := []string{"a", "A", " a", "a ", "/a", "a/", "a//b", "a/b", "\u00e4", "a\u0308", "\ufeffa", "a\u200b"}
		for i, filter := range names {
			c := connect(t, b, v, fmt.Sprint("c", i))
			c.subscribe(filter, 0)
			for _, name := range names {
				c.send(outgoing(name, "x", 0, 0))
			}
			c.gets(filter, "x", 0)
			c.nothing()
			c.leave(fmt.Sprint("c", i))
		}
	})
}

// [MQTT-3.8.3-3]: no local keeps a client's own messages from it, and only those.
func TestMQTT_3_8_3_3_NoLocal(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c, other := connect(t, b, packet.V5, "c"), connect(t, b, packet.V5, "other")
	c.subscribe("a", 1, noLocal)
	other.subscribe("a", 1)
	c.publish("a", "own", 1)
	c.nothing()
	other.gets("a", "own", 1)
	connect(t, b, packet.V5, "pub").publish("a", "theirs", 1)
	c.gets("a", "theirs", 1)
	// With an overlapping subscription without it, one copy comes.
	c.subscribe("+", 0)
	c.send(outgoing("a", "both", 0, 0))
	c.gets("a", "both", 0)
	c.nothing()
}

// Wildcards do not match a leading $; a/# matches a; levels may be empty [MQTT-4.7.1-2, MQTT-4.7.2-1].
func TestMQTT_4_7_2_1_WildcardsOverLiveTopics(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for filter, want := range map[string]string{
			"#":      "a a/ a/b /a",
			"+/#":    "a a/ a/b /a",
			"a/#":    "a a/ a/b",
			"+":      "a",
			"+/+":    "a/ a/b /a",
			"a/+":    "a/ a/b",
			"/+":     "/a",
			"$foo/#": "$foo $foo/a",
			"$foo":   "$foo",
			"+/a":    "/a",
			"A":      "",
		} {
			c := connect(t, b, v, "c")
			c.subscribe(filter, 0)
			for _, name := range []string{"a", "a/", "a/b", "/a", "$foo", "$foo/a"} {
				c.send(outgoing(name, "x", 0, 0))
			}
			for name := range strings.FieldsSeq(want) {
				c.gets(name, "x", 0)
			}
			c.nothing()
			c.leave("c")
		}
	})
}

// Every message of a shared subscription goes to exactly one member of each group, in turn; ordinary subscribers get
// each; the QoS is the member's own [MQTT-4.8.2-3].
func TestMQTT_4_8_2_3_SharedSubscriptions(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		const members, n = 3, 30
		var clients []*raw
		for _, group := range []string{"$share/one/a/+", "$share/two/a/+", "$share/one/a/#"} {
			for i := range members {
				c := connect(t, b, v, fmt.Sprint(group, i))
				c.subscribe(group, 1)
				clients = append(clients, c)
			}
		}
		ordinary := connect(t, b, v, "ordinary")
		ordinary.subscribe("a/+", 0)
		for i := range n {
			pub.publish("a/b", fmt.Sprint(i), 2)
			ordinary.gets("a/b", fmt.Sprint(i), 0)
		}
		for g := range 3 {
			var all []string
			for _, c := range clients[g*members : (g+1)*members] {
				before := -1
				for range n / members {
					p := expect[*packet.Publish](c)
					c.acknowledge(p)
					var now int
					if _, err := fmt.Sscan(string(p.Payload), &now); err != nil || now <= before || p.QoS != 1 {
						t.Errorf("%s after %d", describe(p), before)
					}
					before = now
					all = append(all, string(p.Payload))
				}
				c.nothing()
			}
			slices.Sort(all)
			if len(slices.Compact(all)) != n {
				t.Errorf("group %d got %d different messages of %d", g, len(slices.Compact(all)), n)
			}
		}
	})
}

// Members come and go: one that leaves gets no more, one that is offline is passed over, and only when all are offline a
// session that is kept takes the message.
func TestSharedMembersComeAndGo(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		a, c := connect(t, b, v, "a", keep), connect(t, b, v, "c", keep)
		for _, member := range []*raw{a, c} {
			member.subscribe("$share/g/t", 1)
		}
		a.hangUp("a")
		for i := range 6 {
			pub.publish("t", fmt.Sprint(i), 1)
			c.gets("t", fmt.Sprint(i), 1)
		}
		c.hangUp("c")
		for i := range 6 {
			pub.publish("t", fmt.Sprint(i), 1)
		}
		pub.publish("t", "QoS 0", 0) // nobody is there
		a, c = connect(t, b, v, "a", keep), connect(t, b, v, "c", keep)
		got := 0
		for _, member := range []*raw{a, c} {
			for range 3 {
				member.acknowledge(expect[*packet.Publish](member))
				got++
			}
			member.nothing()
		}
		a.unsubscribe("$share/g/t")
		for i := range 6 {
			pub.publish("t", fmt.Sprint(i), 1)
			c.gets("t", fmt.Sprint(i), 1)
		}
		a.nothing()
		c.leave("c")
		connect(t, b, v, "c", clean) // ends the last membership
		if code := pub.publish("t", "x", 1); v == packet.V5 && code != packet.NoMatchingSubscribers {
			t.Errorf("no members: %v", code)
		}
	})
}

// When a member's session ends, what it had not got goes to the others: QoS 1 also when in flight; QoS 2 in flight goes to
// nobody else [MQTT-4.8.2-4 to MQTT-4.8.2-6].
func TestMQTT_4_8_2_5_OrphansOfASharedSubscription(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		leaver := connect(t, b, v, "leaver", keep)
		leaver.subscribe("$share/g/t", 2)
		pub.publish("t", "0 in flight", 1)
		pub.publish("t", "1 in flight", 2)
		leaver.getsFirst("t", "0 in flight", 1)
		leaver.getsFirst("t", "1 in flight", 2)
		leaver.hangUp("leaver")
		pub.publish("t", "2 queued", 1)
		pub.publish("t", "3 queued", 2)
		heir := connect(t, b, v, "heir")
		heir.subscribe("$share/g/t", 2)
		heir.nothing()
		connect(t, b, v, "leaver", clean)
		for _, want := range []struct {
			payload string
			qos     byte
		}{{"0 in flight", 1}, {"2 queued", 1}, {"3 queued", 2}} {
			if p := heir.gets("t", want.payload, want.qos); p.Dup {
				t.Errorf("%s", describe(p))
			}
		}
		heir.nothing()
	})
}

// A full member is passed over while another has room; nothing is lost or counted so.
func TestSharedMemberThatIsFull(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxQueued: 5})
	pub := connect(t, b, packet.V5, "pub")
	stuck := connect(t, b, packet.V5, "stuck", receiveMaximum(1))
	good := connect(t, b, packet.V5, "good")
	for _, c := range []*raw{stuck, good} {
		c.subscribe("$share/g/t", 1)
	}
	const n = 60
	for i := range n {
		if code := pub.publish("t", fmt.Sprint(i), 1); code != packet.Success {
			t.Fatalf("message %d: %v", i, code)
		}
		for { // what it got is taken, so that it never is full
			good.send(&packet.Pingreq{})
			p, err := good.next()
			if err != nil {
				t.Fatal(err)
			}
			m, ok := p.(*packet.Publish)
			if !ok {
				break
			}
			good.acknowledge(m)
			expect[*packet.Pingresp](good)
		}
	}
	if s := b.Stats(); s.Dropped != 0 || s.Queued != 5 {
		t.Errorf("%+v", s)
	}
	expect[*packet.Publish](stuck)
	stuck.nothing()
}

// [MQTT-3.8.3-4]: no local on a shared subscription is a protocol error.
func TestMQTT_3_8_3_4_NoLocalOnASharedSubscription(t *testing.T) {
	t.Parallel()
	c := connect(t, start(t, Options{}), packet.V5, "c")
	c.send(&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("$share/g/a"), NoLocal: true}}})
	c.ends(packet.ProtocolError)
}

// The bound of a session's subscriptions: one more is refused, replacing one is not.
func TestSubscriptionLimit(t *testing.T) {
	t.Parallel()
	b := start(t, Options{tune: func(l *limits) { l.subscriptions = 2 }})
	c := connect(t, b, packet.V5, "c")
	for _, step := range []struct {
		filter string
		want   packet.Code
	}{{"a", 1}, {"b", 1}, {"c", packet.QuotaExceeded}, {"a", 1}} {
		if code := c.subscribe(step.filter, 1); code != step.want {
			t.Errorf("%s: %v, want %v", step.filter, code, step.want)
		}
	}
}

// Topic names with as many levels as the broker takes, and one more.
func TestDeepTopics(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := connect(t, b, v, "c")
		c.subscribe("#", 0)
		deep := strings.Repeat("/", maxLevels)
		c.send(outgoing(deep[1:], "x", 0, 0))
		c.gets(deep[1:], "x", 0)
		if code := c.publish(deep, "x", 1, retain); v == packet.V5 && code != packet.TopicNameInvalid {
			t.Errorf("%v", code)
		}
		c.nothing()
	})
}
