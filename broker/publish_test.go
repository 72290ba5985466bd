package broker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What PUBLISH says, and what of it goes on to the subscribers.

// [MQTT-3.3.1-1]: what is sent again has DUP, at QoS 1 and 2, and what is sent first has not.
func TestMQTT_3_3_1_1_DUPOnWhatIsSentAgain(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, sub := connect(t, b, v, "pub"), connect(t, b, v, "sub", keep)
		sub.subscribe("a", 2)
		for _, qos := range []byte{1, 2} {
			pub.publish("a", "x", qos)
			if p := sub.getsFirst("a", "x", qos); p.Dup {
				t.Errorf("first sent as %s", describe(p))
			}
		}
		for range 2 {
			sub.hangUp("sub")
			sub = connect(t, b, v, "sub", keep)
			for _, qos := range []byte{1, 2} {
				if p := sub.getsFirst("a", "x", qos); !p.Dup {
					t.Errorf("sent again as %s", describe(p))
				}
			}
		}
	})
}

// [MQTT-3.3.1-2]: at QoS 0 there is no DUP: from a client it is malformed, and the broker never sets it.
func TestMQTT_3_3_1_2_NoDUPAtQoS0(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub := connect(t, b, v, "sub", keep)
		sub.subscribe("a", 0)
		for _, first := range []byte{0x38, 0x39} {
			c := connect(t, b, v, "c")
			c.write(whole(first, field("a"), properties(v), "x"))
			c.ends(packet.MalformedPacket)
		}
		sub.nothing()
		pub := connect(t, b, v, "pub")
		again := outgoing("a", "x", 1, 1)
		again.Dup = true
		pub.send(again)
		pub.expectAck(packet.PUBACK, 1)
		if p := sub.gets("a", "x", 0); p.Dup {
			t.Errorf("got %s", describe(p))
		}
	})
}

// [MQTT-3.3.1-4]: there is no QoS 3; such a packet is malformed, and nobody hears of it.
func TestMQTT_3_3_1_4_NoQoS3(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		witness := connect(t, b, v, "witness")
		witness.subscribe("#", 2)
		for _, first := range []byte{0x36, 0x37, 0x3E, 0x3F} {
			c := connect(t, b, v, "c")
			c.write(whole(first, field("a"), "\x00\x01", properties(v), "x"))
			c.ends(packet.MalformedPacket)
		}
		witness.nothing()
		if n := b.Stats().Retained; n != 0 {
			t.Errorf("%d retained", n)
		}
	})
}

// [MQTT-3.3.1-6], [MQTT-3.3.1-7], [MQTT-3.3.1-8]: what removes a stored message and what leaves it alone.
func TestMQTT_3_3_1_6_WhatIsStored(t *testing.T) {
	stored := func(t *testing.T, b *Broker, v packet.Version, want string) {
		t.Helper()
		c := connect(t, b, v, "late")
		c.subscribe("a", 1)
		if want != "" {
			c.gets("a", want, 1)
		}
		c.nothing()
		c.leave("late")
	}
	t.Run("[MQTT-3.3.1-6] an empty one is sent and removes", func(t *testing.T) {
		each(t, func(t *testing.T, v packet.Version) {
			b := start(t, Options{})
			pub, live := connect(t, b, v, "pub"), connect(t, b, v, "live")
			for qos := range byte(3) {
				pub.publish("a", "state", 1, retain)
				stored(t, b, v, "state")
				live.subscribe("a", 2)
				live.gets("a", "state", 1)
				pub.publish("a", "", qos, retain)
				live.gets("a", "", qos)
				live.unsubscribe("a")
				stored(t, b, v, "")
			}
		})
	})
	t.Run("[MQTT-3.3.1-7] an empty one is not stored", func(t *testing.T) {
		each(t, func(t *testing.T, v packet.Version) {
			b := start(t, Options{})
			pub := connect(t, b, v, "pub")
			for qos := range byte(3) {
				pub.publish("a", "", qos, retain)
				stored(t, b, v, "")
			}
			if n := b.Stats().Retained; n != 0 {
				t.Errorf("%d retained", n)
			}
		})
	})
	t.Run("[MQTT-3.3.1-8] one without retain neither stores nor removes", func(t *testing.T) {
		each(t, func(t *testing.T, v packet.Version) {
			b := start(t, Options{})
			pub := connect(t, b, v, "pub")
			for qos := range byte(3) {
				pub.publish("a", "x", qos)
				stored(t, b, v, "")
			}
			pub.publish("a", "state", 1, retain)
			for qos := range byte(3) {
				pub.publish("a", "x", qos)
				pub.publish("a", "", qos)
				stored(t, b, v, "state")
			}
		})
	})
}

// The three retain handlings, each at a subscription that is new and at one that is not.
func TestMQTT_3_3_1_9_RetainHandlings(t *testing.T) {
	run := func(handling byte, fresh, again bool) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			pub := connect(t, b, packet.V5, "pub")
			pub.publish("a/1", "1", 1, retain)
			pub.publish("a/2", "2", 1, retain)
			c := connect(t, b, packet.V5, "c")
			for i, want := range []bool{fresh, again, again} {
				c.subscribe("a/+", 1, retainHandling(handling))
				if want {
					one, two := expect[*packet.Publish](c), expect[*packet.Publish](c)
					c.acknowledge(one)
					c.acknowledge(two)
					if got := string(one.Payload) + string(two.Payload); got != "12" && got != "21" || !one.Retain || !two.Retain {
						t.Errorf("subscription %d: %s, %s", i, describe(one), describe(two))
					}
				}
				c.nothing()
			}
			pub.publish("a/1", "live", 1)
			c.gets("a/1", "live", 1)
		}
	}
	t.Run("[MQTT-3.3.1-9] 0 sends them always", run(0, true, true))
	t.Run("[MQTT-3.3.1-10] 1 sends them to a new subscription", run(1, true, false))
	t.Run("[MQTT-3.3.1-11] 2 sends none", run(2, false, false))
}

// [MQTT-3.3.1-13]: with retain as published the flag is the publisher's.
func TestMQTT_3_3_1_13_RetainAsPublished(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", keep)
	c.subscribe("a", 2, retainAsPublished)
	send := func(qos byte, flag bool) {
		pub.publish("a", "x", qos, func(p *packet.Publish) { p.Retain = flag })
	}
	for qos := range byte(3) {
		for _, flag := range []bool{true, false} {
			send(qos, flag)
			if p := c.gets("a", "x", qos); p.Retain != flag {
				t.Errorf("QoS %d published with retain %t: %s", qos, flag, describe(p))
			}
		}
	}
	c.hangUp("c")
	send(1, true)
	send(2, false)
	c = connect(t, b, packet.V5, "c", keep)
	if one, two := c.gets("a", "x", 1), c.gets("a", "x", 2); !one.Retain || two.Retain {
		t.Errorf("queued with retain and without: %s, %s", describe(one), describe(two))
	}
}

// [MQTT-3.3.2-2]: a topic name has no wildcards, wherever they stand; nobody gets such a message, and it is not stored.
func TestMQTT_3_3_2_2_NoWildcardsInTopics(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		witness := connect(t, b, v, "witness")
		witness.subscribe("#", 2)
		for _, name := range []string{"#", "+", "a/#", "a/+/b", "a+", "#a", "long enough for a word/+", "\u00e4#"} {
			for _, first := range []byte{0x31, 0x33, 0x35} {
				id := "\x00\x01"
				if first == 0x31 {
					id = ""
				}
				c := connect(t, b, v, "c")
				c.write(whole(first, field(name), id, properties(v), "x"))
				c.ends(packet.TopicNameInvalid)
			}
		}
		witness.nothing()
		if n := b.Stats().Retained; n != 0 {
			t.Errorf("%d retained", n)
		}
	})
}

// [MQTT-3.3.2-3]: the topic that a subscriber sees is one that its filter matches, and the one that was published.
func TestMQTT_3_3_2_3_TopicMatchesTheFilter(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		names := []string{"a", "a/b", "a/b/c", "b", "b/b", "A", "$x", "/", "a/"}
		for filter, want := range map[string][]string{
			"a": {"a"}, "a/+": {"a/b", "a/"}, "a/#": {"a", "a/b", "a/b/c", "a/"}, "+/b": {"a/b", "b/b"}, "+": {"a", "b", "A"},
			"$x": {"$x"}, "/": {"/"}, "$share/g/+/+": {"a/b", "b/b", "/", "a/"}, "c": nil,
		} {
			c := connect(t, b, v, "c")
			c.subscribe(filter, 1)
			for i, name := range names {
				pub.publish(name, name, byte(i%2))
			}
			for i, name := range names {
				if slices.Contains(want, name) {
					c.gets(name, name, byte(i%2))
				}
			}
			c.nothing()
		}
	})
}

// What a publisher says about its message goes on as it is: at once, from the queue, and with a stored message.
func TestMQTT_3_3_2_4_PropertiesGoOnUnaltered(t *testing.T) {
	run := func(set func(p *packet.Properties), same func(got, want packet.Properties) bool) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			pub, live := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "live")
			away := connect(t, b, packet.V5, "away", keep)
			live.subscribe("a", 2)
			away.subscribe("a", 2)
			away.hangUp("away")
			for qos := range byte(3) {
				p := outgoing("a", "x", qos, uint16(qos))
				p.Retain = true
				set(&p.Properties)
				pub.send(p)
				check := func(how string, got *packet.Publish) {
					if !same(got.Properties, p.Properties) {
						t.Errorf("%s, QoS %d: %+v", how, qos, got.Properties)
					}
				}
				check("live", live.gets("a", "x", qos))
				late := connect(t, b, packet.V5, "late")
				late.subscribe("a", 2)
				check("stored", late.gets("a", "x", qos))
				if qos > 0 {
					away = connect(t, b, packet.V5, "away", keep)
					check("queued", away.gets("a", "x", qos))
					away.hangUp("away")
				}
			}
		}
	}
	one := packet.Some(byte(1))
	t.Run("[MQTT-3.3.2-4] payload format 1", run(
		func(p *packet.Properties) { p.PayloadFormat = one },
		func(got, want packet.Properties) bool { return got.PayloadFormat == want.PayloadFormat }))
	t.Run("[MQTT-3.3.2-4] payload format 0", run(
		func(p *packet.Properties) { p.PayloadFormat = packet.Some(byte(0)) },
		func(got, want packet.Properties) bool { return got.PayloadFormat == want.PayloadFormat }))
	t.Run("[MQTT-3.3.2-15] response topic", run(
		func(p *packet.Properties) { p.ResponseTopic = []byte("answers/ä/$x") },
		func(got, want packet.Properties) bool { return string(got.ResponseTopic) == string(want.ResponseTopic) }))
	t.Run("[MQTT-3.3.2-16] correlation data", run(
		func(p *packet.Properties) { p.CorrelationData = []byte("\x00\xff\xed\xa0\x80") },
		func(got, want packet.Properties) bool {
			return string(got.CorrelationData) == string(want.CorrelationData)
		}))
	t.Run("[MQTT-3.3.2-16] empty correlation data", run(
		func(p *packet.Properties) { p.CorrelationData = []byte{} },
		func(got, _ packet.Properties) bool {
			return got.CorrelationData != nil && len(got.CorrelationData) == 0
		}))
	t.Run("[MQTT-3.3.2-20] empty content type", run(
		func(p *packet.Properties) { p.ContentType = []byte{} },
		func(got, _ packet.Properties) bool { return got.ContentType != nil && len(got.ContentType) == 0 }))
	t.Run("[MQTT-3.3.2-20] content type", run(
		func(p *packet.Properties) { p.ContentType = []byte("text/plain; ä") },
		func(got, want packet.Properties) bool { return string(got.ContentType) == string(want.ContentType) }))
	users := func(pairs ...string) []packet.UserProperty {
		var all []packet.UserProperty
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, packet.UserProperty{Key: []byte(pairs[i]), Value: []byte(pairs[i+1])})
		}
		return all
	}
	sameUsers := func(got, want packet.Properties) bool { return fmt.Sprint(got.User) == fmt.Sprint(want.User) }
	t.Run("[MQTT-3.3.2-17] user properties", run(
		func(p *packet.Properties) { p.User = users("k", "v", "", "", "K", strings.Repeat("ä", 1000)) }, sameUsers))
	t.Run("[MQTT-3.3.2-18] their order", run(
		func(p *packet.Properties) {
			p.User = users("b", "1", "a", "2", "b", "1", "c", "3", "b", "0", "a", "9", "b", "1")
		}, sameUsers))
	t.Run("all at once", run(
		func(p *packet.Properties) {
			p.PayloadFormat, p.ContentType, p.ResponseTopic, p.CorrelationData = one, []byte("t"), []byte("r"), []byte("c")
			p.User = users("z", "1", "y", "2")
		},
		func(got, want packet.Properties) bool {
			return sameUsers(got, want) && got.PayloadFormat == one && string(got.ContentType) == "t" &&
				string(got.ResponseTopic) == "r" && string(got.CorrelationData) == "c"
		}))
}

// What waits too long is gone, for each subscriber by itself; what does not says how much of its time is left.
func TestMQTT_3_3_2_6_TimeLeft(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	away, live := connect(t, b, packet.V5, "away", keep), connect(t, b, packet.V5, "live", receiveMaximum(1))
	live.subscribe("a", 1)
	pub.publish("a", "in flight", 1, messageExpiry(50)) // delivery to live has begun
	first := live.getsFirst("a", "in flight", 1)
	if left := first.Properties.MessageExpiry.V; left > 50 || left < 30 {
		t.Errorf("%d s are left at once", left)
	}
	away.subscribe("a", 1)
	away.hangUp("away")
	pub.publish("a", "short", 1, messageExpiry(1)) // and waits for live's receive maximum
	pub.publish("a", "long", 1, messageExpiry(100))
	clock := connect(t, b, packet.V5, "clock", expiry(2))
	clock.hangUp("clock")
	waitFor(t, "two seconds to pass", func() bool { return b.find("clock") == nil })
	live.acknowledge(first)
	away = connect(t, b, packet.V5, "away", keep)
	for name, c := range map[string]*raw{"[MQTT-3.3.2-6] connected": live, "[MQTT-3.3.2-6] away": away} {
		if left := c.gets("a", "long", 1).Properties.MessageExpiry; !left.OK || left.V > 98 || left.V < 60 {
			t.Errorf("%s: %+v left", name, left)
		}
		c.nothing() // the short one has expired [MQTT-3.3.2-5]
	}
}

// [MQTT-3.3.2-7]: what an alias stands for ends with the connection, in both directions.
func TestMQTT_3_3_2_7_AliasesEndWithTheConnection(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	t.Run("of the client", func(t *testing.T) {
		c := connect(t, b, packet.V5, "c", keep)
		c.publish("a", "x", 1, withAlias(1))
		c.publish("", "x", 1, withAlias(1))
		c.hangUp("c")
		c = connect(t, b, packet.V5, "c", keep)
		p := outgoing("", "x", 1, 1)
		withAlias(1)(p)
		c.send(p)
		c.ends(packet.ProtocolError)
	})
	t.Run("of another client", func(t *testing.T) {
		connect(t, b, packet.V5, "one").publish("a", "x", 1, withAlias(1))
		c := connect(t, b, packet.V5, "two")
		p := outgoing("", "x", 1, 1)
		withAlias(1)(p)
		c.send(p)
		c.ends(packet.ProtocolError)
	})
	t.Run("of the broker", func(t *testing.T) {
		pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "sub", keep, aliasMaximum(5))
		c.subscribe("t", 1)
		for range 2 {
			pub.publish("t", "x", 1)
			if p := c.getsFirst("t", "x", 1); !p.Properties.TopicAlias.OK {
				t.Errorf("got %s without an alias", describe(p))
			} else {
				c.acknowledge(p)
			}
			pub.publish("t", "x", 1)
			p := expect[*packet.Publish](c)
			if len(p.Topic) > 0 || !p.Properties.TopicAlias.OK {
				t.Errorf("got %s, want the alias alone", describe(p))
			}
			c.acknowledge(p)
			c.nothing()
			c.hangUp("sub")
			c = connect(t, b, packet.V5, "sub", keep, aliasMaximum(5))
		}
	})
}

// A topic alias is between 1 and what CONNACK says.
func TestMQTT_3_3_2_8_AliasesOutOfRange(t *testing.T) {
	refuses := func(alias func(most uint16) uint16, topic string) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			witness := connect(t, b, packet.V5, "witness")
			witness.subscribe("#", 0)
			c, ack := connected(t, b, packet.V5, "c")
			p := outgoing(topic, "x", 0, 0)
			withAlias(alias(ack.Properties.TopicAliasMaximum.V))(p)
			c.send(p)
			c.ends(packet.TopicAliasInvalid)
			witness.nothing()
		}
	}
	t.Run("[MQTT-3.3.2-8] 0", refuses(func(uint16) uint16 { return 0 }, "a"))
	t.Run("[MQTT-3.3.2-8] 0 without a topic", refuses(func(uint16) uint16 { return 0 }, ""))
	t.Run("[MQTT-3.3.2-9] one too many", refuses(func(most uint16) uint16 { return most + 1 }, "a"))
	t.Run("[MQTT-3.3.2-9] 65535", refuses(func(uint16) uint16 { return 65535 }, "a"))
}

// [MQTT-3.3.2-12]: every alias up to what CONNACK says is taken.
func TestMQTT_3_3_2_12_EveryAlias(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V5, "sub")
	sub.subscribe("#", 0)
	c, ack := connected(t, b, packet.V5, "c")
	most := ack.Properties.TopicAliasMaximum.V
	for _, topic := range []func(alias uint16) string{func(alias uint16) string { return fmt.Sprint("t/", alias) }, func(uint16) string { return "" }} {
		for alias := uint16(1); alias <= most; alias++ {
			c.publish(topic(alias), "x", 0, withAlias(alias))
			sub.gets(fmt.Sprint("t/", alias), "x", 0)
		}
	}
}

// The broker's aliases are at most what the client says, and none are sent to one that says nothing or 0.
func TestMQTT_3_3_2_11_AliasesOfTheBroker(t *testing.T) {
	run := func(most uint16, how ...choice) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", how...)
			c.subscribe("#", 0)
			highest := uint16(0)
			for i := range 20 {
				pub.publish(fmt.Sprint("t/", i%10), "x", 0)
				p := expect[*packet.Publish](c)
				if a := p.Properties.TopicAlias; a.OK {
					if a.V == 0 || a.V > most {
						t.Fatalf("alias %d", a.V)
					}
					highest = max(highest, a.V)
				} else if string(p.Topic) != fmt.Sprint("t/", i%10) {
					t.Fatalf("got %s", describe(p))
				}
			}
			if want := min(most, 10); highest != want {
				t.Errorf("the highest alias is %d, want %d", highest, want)
			}
		}
	}
	t.Run("[MQTT-3.1.2-26] [MQTT-3.3.2-11] at most 1", run(1, aliasMaximum(1)))
	t.Run("[MQTT-3.1.2-26] [MQTT-3.3.2-11] at most 3", run(3, aliasMaximum(3)))
	t.Run("[MQTT-3.1.2-26] [MQTT-3.3.2-11] at most 65535", run(65535, aliasMaximum(65535)))
	t.Run("[MQTT-3.1.2-27] none at 0", run(0, aliasMaximum(0)))
	t.Run("[MQTT-3.1.2-27] none when it is absent", run(0))
}

// [MQTT-3.3.2-14]: a response topic has no wildcards, in a message and in a Will.
func TestMQTT_3_3_2_14_NoWildcardsInResponseTopics(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	witness := connect(t, b, packet.V5, "witness")
	witness.subscribe("#", 0)
	for _, answer := range []string{"#", "+", "a/#", "a/+/b", "a+b"} {
		c := connect(t, b, packet.V5, "c")
		c.write(whole(0x30, field("a"), properties(packet.V5, "\x08", field(answer)), "x"))
		c.ends(packet.ProtocolError)
		c = dial(t, b, "tcp")
		c.write(connectBytes(packet.V5, 0x06, field("c"), properties(packet.V5, "\x08", field(answer)), field("w"), field("gone")))
		c.refused(packet.ProtocolError)
	}
	witness.nothing()
}

// Overlapping subscriptions: one copy, at the highest of their QoS, with the identifiers of all that have one.
func TestMQTT_3_3_4_3_OverlappingSubscriptions(t *testing.T) {
	t.Run("[MQTT-3.3.4-2] the highest QoS", func(t *testing.T) {
		each(t, func(t *testing.T, v packet.Version) {
			b := start(t, Options{})
			pub := connect(t, b, v, "pub")
			for i, order := range [][]byte{{0, 1, 2}, {2, 1, 0}, {1, 0, 1}, {0, 0, 0}} {
				c := connect(t, b, v, fmt.Sprint("c", i))
				for j, filter := range []string{"a/b", "a/+", "#"} {
					c.subscribe(filter, order[j])
				}
				for qos := range byte(3) {
					pub.publish("a/b", "x", qos)
					c.gets("a/b", "x", min(qos, slices.Max(order)))
					c.nothing()
				}
				c.leave(fmt.Sprint("c", i))
			}
		})
	})
	identifiers := func(want ...uint32) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			c := connect(t, b, packet.V5, "c")
			c.subscribe("a/b", 1)
			for i, id := range want {
				c.subscribeID([]string{"a/+", "a/#", "#"}[i], byte(i), id)
			}
			connect(t, b, packet.V5, "pub").publish("a/b", "x", 2)
			p := expect[*packet.Publish](c)
			slices.Sort(p.Properties.SubscriptionIDs)
			if !slices.Equal(p.Properties.SubscriptionIDs, want) {
				t.Errorf("identifiers %v, want %v", p.Properties.SubscriptionIDs, want)
			}
			c.acknowledge(p)
			c.nothing() // one copy, so there is none without the others' identifiers
		}
	}
	t.Run("[MQTT-3.3.4-3] the identifier of one", identifiers(7))
	t.Run("[MQTT-3.3.4-4] the identifiers of all", identifiers(7, 8, 268_435_455))
	t.Run("none has one", identifiers())
}

// [MQTT-3.3.4-6]: a client's PUBLISH has no subscription identifier.
func TestMQTT_3_3_4_6_NoSubscriptionIdentifierFromClients(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	witness := connect(t, b, packet.V5, "witness")
	witness.subscribe("#", 0)
	for _, props := range []string{"\x0b\x01", "\x0b\xff\xff\xff\x7f", "\x0b\x01\x0b\x02", "\x01\x01\x0b\x05", "\x0b\x00"} {
		c := connect(t, b, packet.V5, "c")
		c.write(whole(0x30, field("a"), properties(packet.V5, props), "x"))
		c.ends(packet.ProtocolError)
	}
	witness.nothing()
}

// While the client's receive maximum is reached it gets no PUBLISH with QoS 1 or 2, and everything else.
func TestMQTT_3_3_4_9_ReceiveMaximum(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", receiveMaximum(2))
	c.subscribe("a", 2)
	for i := range 5 {
		pub.publish("a", fmt.Sprint(i), byte(1+i%2))
	}
	one, two := c.getsFirst("a", "0", 1), c.getsFirst("a", "1", 2)
	t.Run("[MQTT-3.3.4-9] no more of them", func(*testing.T) { c.nothing() })
	t.Run("[MQTT-3.3.4-10] everything else", func(t *testing.T) {
		c.nothing() // PINGRESP
		c.subscribe("b", 1)
		c.unsubscribe("b")
		for qos := range byte(3) {
			if code := c.publish("nobody", "x", qos); code >= 0x80 {
				t.Errorf("QoS %d: %v", qos, code)
			}
		}
		pub.publish("a", "QoS 0", 0)
		c.gets("a", "QoS 0", 0)
	})
	t.Run("[MQTT-3.3.4-9] a QoS 2 message counts until PUBCOMP", func(t *testing.T) {
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: two.ID})
		c.expectAck(packet.PUBREL, two.ID)
		c.nothing()
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: two.ID})
		c.getsFirst("a", "2", 1)
		c.nothing()
	})
	t.Run("[MQTT-3.3.4-9] a failure makes room too", func(t *testing.T) {
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: one.ID, Code: packet.UnspecifiedError})
		p := c.getsFirst("a", "3", 2)
		c.nothing()
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID, Code: packet.UnspecifiedError})
		c.getsFirst("a", "4", 1)
		c.nothing()
	})
}
