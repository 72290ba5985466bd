package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Topic names and filters, shared subscriptions and flow control; sections 4.7 to 4.9 of the standard.

// pending returns the messages that are on their way to c.
func (c *raw) pending() []*packet.Publish {
	c.t.Helper()
	c.send(&packet.Pingreq{})
	for all := []*packet.Publish(nil); ; {
		p, err := c.next()
		if err != nil {
			c.t.Fatal(err)
		}
		m, ok := p.(*packet.Publish)
		if !ok {
			if p.Type() != packet.PINGRESP {
				c.t.Fatalf("got %s", describe(p))
			}
			return all
		}
		all = append(all, m)
	}
}

// Wildcards stand in filters. In a topic name, anywhere, they end the connection, and nobody hears of the message.
func TestMQTT_4_7_0_1_NoWildcardsInTopicNames(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		witness := connect(t, b, v, "witness")
		witness.subscribe("#", 2)
		for _, name := range []string{"#", "+", "a/#", "a/+", "+/a", "a/+/b", "a#", "a+", "#a", "a/b+c/d", "$share/g/#"} {
			for qos := range byte(3) {
				id := ""
				if qos > 0 {
					id = "\x00\x01"
				}
				c := connect(t, b, v, "c")
				c.write(whole(0x30|qos<<1, field(name), id, properties(v), "x"))
				c.ends(packet.TopicNameInvalid)
			}
		}
		witness.nothing()
	})
}

// Where wildcards may stand in a filter, and what they match there. One that stands elsewhere fails, and is not subscribed.
func TestMQTT_4_7_1_1_WildcardsInFilters(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		names := []string{"a", "a/", "/", "/a", "a/b", "a/b/", "a/b/c", "b/b/c", "a//c"}
		try := func(valid map[string]string, invalid ...string) func(*testing.T) {
			return func(t *testing.T) {
				b := start(t, Options{})
				for filter, matches := range valid {
					c := connect(t, b, v, "c")
					if code := c.subscribe(filter, 0); code != 0 {
						t.Errorf("%q: %v", filter, code)
					}
					for _, name := range names {
						c.send(outgoing(name, "x", 0, 0))
					}
					for name := range strings.FieldsSeq(matches) {
						c.gets(name, "x", 0)
					}
					c.nothing()
					c.leave("c")
				}
				for _, filter := range invalid {
					c := connect(t, b, v, "c")
					c.write(whole(0x82, "\x00\x01", properties(v), field(filter), "\x00"))
					c.sees(suback(v, 1, invalidFilter(v)))
					for _, name := range append(names, strings.NewReplacer("#", "x", "+", "x").Replace(filter)) {
						if name != "" {
							c.send(outgoing(name, "x", 0, 0))
						}
					}
					c.nothing()
					c.leave("c")
				}
			}
		}
		t.Run("[MQTT-4.7.1-1] #", try(map[string]string{
			"#": "a a/ / /a a/b a/b/ a/b/c b/b/c a//c", "a/#": "a a/ a/b a/b/ a/b/c a//c", "/#": "/ /a", "a/b/#": "a/b a/b/ a/b/c", "a//#": "a/ a//c",
		}, "a#", "#a", "a/#/b", "#/", "#/a", "##", "a/b#", "a/#b", "/#/"))
		t.Run("[MQTT-4.7.1-2] +", try(map[string]string{
			"+": "a", "+/+": "a/ / /a a/b", "/+": "/ /a", "+/": "a/ /", "a/+": "a/ a/b", "+/b/c": "a/b/c b/b/c", "a/+/c": "a/b/c a//c", "a/b/+": "a/b/ a/b/c",
			"+/+/+": "a/b/ a/b/c b/b/c a//c", "+/#": "a a/ / /a a/b a/b/ a/b/c b/b/c a//c", "+/b/#": "a/b a/b/ a/b/c b/b/c",
		}, "a+", "+a", "a+/b", "a/+b", "a/b+/c", "++", "+#", "/a+"))
	})
}

// The least and the most that a name and a filter may have.
func TestMQTT_4_7_3_1_LengthOfNamesAndFilters(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		t.Run("[MQTT-4.7.3-1] one character at least", func(t *testing.T) {
			b := start(t, Options{})
			witness := connect(t, b, v, "witness")
			witness.subscribe("#", 0)
			for qos := range byte(3) {
				c := connect(t, b, v, "c")
				c.write(whole(0x30|qos<<1, field(""), "\x00\x01"[:2*min(1, qos)], properties(v), "x"))
				c.ends(packet.ProtocolError)
			}
			witness.nothing()
			c := connect(t, b, v, "c")
			c.write(whole(0x82, "\x00\x01", properties(v), field(""), "\x00", field("$share/g/"), "\x00"))
			c.sees(suback(v, 1, invalidFilter(v), invalidFilter(v)))
			c.subscribe("x", 0)
			c.send(outgoing("x", "one", 0, 0))
			c.gets("x", "one", 0)
		})
		t.Run("[MQTT-4.7.3-3] 65,535 bytes at most", func(t *testing.T) {
			// One byte more cannot be said in the two bytes of a length.
			b := start(t, Options{})
			pub := connect(t, b, v, "pub")
			for _, name := range []string{strings.Repeat("x", 65535), strings.Repeat("\u20ac", 21845)} {
				for _, filter := range []string{name, "#", "+"} {
					c := connect(t, b, v, "c")
					c.subscribe(filter, 1)
					pub.publish(name, "long", 1)
					c.gets(name, "long", 1)
					c.unsubscribe(filter)
					pub.publish(name, "long", 1)
					c.nothing()
				}
			}
		})
	})
}

func TestMQTT_4_7_3_2_NoNULInNamesAndFilters(t *testing.T) {
	textIn(t, "topic name", "topic filter", "second topic filter", "topic filter of UNSUBSCRIBE")
}

// What is a shared subscription and what is none: a filter that begins with $share/ has a name and a filter, or fails.
func TestMQTT_4_8_2_1_FiltersOfSharedSubscriptions(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		refuses := func(filters ...string) func(*testing.T) {
			return func(t *testing.T) {
				c := connect(t, b, v, "c")
				for i, filter := range filters {
					c.write(whole(0x82, "\x01", string([]byte{byte(i)}), properties(v), field(filter), "\x00"))
					c.sees(suback(v, 0x100+uint16(i), invalidFilter(v)))
				}
				if n := b.Stats().Subscriptions; n != 0 {
					t.Errorf("%d subscriptions", n)
				}
			}
		}
		t.Run("[MQTT-4.8.2-1] no name", refuses("$share/", "$share//", "$share//a", "$share//#"))
		t.Run("[MQTT-4.8.2-2] a wildcard in the name, or no filter behind it",
			refuses("$share/+/a", "$share/#/a", "$share/g+/a", "$share/#g/a", "$share/g", "$share/g/", "$share/#", "$share/+"))
		t.Run("[MQTT-4.8.2-1] [MQTT-4.8.2-2] shared or not", func(t *testing.T) {
			for filter, shared := range map[string]bool{
				"$share/g/x": true, "$share/a name/x": true, "$share/$/+": true, "$share/g/#": true, "$share": false, "$shared/g/x": false, "$SHARE/g/x": false,
			} {
				one, two, pub := connect(t, b, v, "one"), connect(t, b, v, "two"), connect(t, b, v, "pub")
				for _, c := range []*raw{one, two} {
					if code := c.subscribe(filter, 0); code != 0 {
						t.Errorf("%q: %v", filter, code)
					}
				}
				name := filter
				if shared {
					name = "x"
				}
				copies := 0
				pub.publish(name, "x", 0)
				for _, c := range []*raw{one, two} {
					copies += len(c.pending())
					c.unsubscribe(filter)
				}
				if want := map[bool]int{true: 1, false: 2}[shared]; copies != want {
					t.Errorf("%q: %d copies, want %d", filter, copies, want)
				}
			}
		})
	})
}

// Each member of a group gets messages with its own QoS, and never above the publisher's.
func TestMQTT_4_8_2_3_QoSOfEachMember(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		var members []*raw
		for granted := range byte(3) {
			c := connect(t, b, v, fmt.Sprint(granted))
			c.subscribe("$share/g/a", granted)
			members = append(members, c)
		}
		const n = 30
		for i := range n {
			pub.publish("a", fmt.Sprint(i%3), byte(i%3))
		}
		got := 0
		for granted, c := range members {
			for _, m := range c.pending() {
				var published byte
				if _, err := fmt.Sscan(string(m.Payload), &published); err != nil || m.QoS != min(published, byte(granted)) {
					t.Errorf("granted %d: %s", granted, describe(m))
				}
				got++
			}
		}
		if got != n {
			t.Errorf("%d of %d came", got, n)
		}
	})
}

// A QoS 2 message that one member got is completed with it when it returns, at whatever step its connection ended; and
// goes to nobody else.
func TestMQTT_4_8_2_4_CompletedWithTheSameMember(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		c := connect(t, b, v, "c", keep)
		c.subscribe("$share/g/a", 2)
		pub.publish("a", "x", 2)
		id := c.getsFirst("a", "x", 2).ID
		other := connect(t, b, v, "other")
		other.subscribe("$share/g/a", 2)
		c.hangUp("c")
		other.nothing()
		c = connect(t, b, v, "c", keep)
		if p := c.getsFirst("a", "x", 2); p.ID != id || !p.Dup {
			t.Errorf("%s, first sent with %d", describe(p), id)
		}
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: id})
		c.expectAck(packet.PUBREL, id)
		c.hangUp("c")
		other.nothing()
		c = connect(t, b, v, "c", keep)
		c.expectAck(packet.PUBREL, id)
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
		c.nothing()
		other.nothing()
	})
}

// A message that one member refuses is gone: nobody else gets it, at once or later.
func TestMQTT_4_8_2_6_RefusedByAMember(t *testing.T) {
	t.Parallel()
	for qos, kind := range map[byte]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
		for _, code := range []packet.Code{packet.UnspecifiedError, packet.NotAuthorized, packet.QuotaExceeded} {
			b := start(t, Options{})
			pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", keep)
			c.subscribe("$share/g/a", 2)
			pub.publish("a", "x", qos)
			p := c.getsFirst("a", "x", qos)
			other := connect(t, b, packet.V5, "other")
			other.subscribe("$share/g/a", 2)
			c.send(&packet.Ack{Kind: kind, ID: p.ID, Code: code})
			c.nothing()
			other.nothing()
			c.hangUp("c")
			connect(t, b, packet.V5, "c", clean).nothing()
			other.nothing()
			pub.publish("a", "next", qos)
			other.gets("a", "next", qos)
		}
	}
}

// The send quota is the client's receive maximum, 65,535 when it says nothing. At 0 nothing with QoS 1 or 2 is sent, and
// everything else is handled as ever.
func TestMQTT_4_9_0_1_SendQuota(t *testing.T) {
	t.Parallel()
	t.Run("[MQTT-4.9.0-1] [MQTT-4.9.0-2] as many as the receive maximum", func(t *testing.T) {
		t.Parallel()
		for _, most := range []uint16{0, 1, 2, 7, 65535} { // 0 is none said
			b := start(t, Options{})
			var how []choice
			if most > 0 {
				how = append(how, receiveMaximum(most))
			}
			pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", how...)
			c.subscribe("a", 2)
			const n = 300
			for i := range n {
				pub.publish("a", fmt.Sprint(i), byte(1+i%2))
			}
			first := n
			if most > 0 {
				first = min(n, int(most))
			}
			for i := range first {
				c.getsFirst("a", fmt.Sprint(i), byte(1+i%2))
			}
			c.nothing()
		}
	})
	t.Run("[MQTT-4.9.0-3] everything else at a quota of 0", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", receiveMaximum(1))
		c.subscribe("a", 2)
		pub.publish("a", "1", 2)
		pub.publish("a", "2", 2)
		p := c.getsFirst("a", "1", 2)
		c.nothing() // PINGREQ
		if code := c.subscribe("b", 1); code != 1 {
			t.Errorf("SUBACK: %v", code)
		}
		if codes := c.unsubscribe("b"); codes[0] != packet.Success {
			t.Errorf("UNSUBACK: %v", codes)
		}
		for qos := range byte(3) {
			if code := c.publish("out", "x", qos); code >= 0x80 {
				t.Errorf("QoS %d: %v", qos, code)
			}
		}
		pub.publish("a", "QoS 0", 0)
		c.gets("a", "QoS 0", 0)
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
		c.expectAck(packet.PUBREL, p.ID)
		c.nothing()
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
		c.gets("a", "2", 2)
	})
}
