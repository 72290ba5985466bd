package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// SUBSCRIBE and UNSUBSCRIBE, and their answers, in bytes.

func TestMQTT_3_8_1_1_FlagsOfSUBSCRIBE(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) { wrongFlags(t, v, packet.SUBSCRIBE) })
}

func TestMQTT_3_10_1_1_FlagsOfUNSUBSCRIBE(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) { wrongFlags(t, v, packet.UNSUBSCRIBE) })
}

func TestMQTT_3_8_3_1_FiltersOfSUBSCRIBEAreUTF8(t *testing.T) {
	textIn(t, "topic filter", "second topic filter")
}

func TestMQTT_3_10_3_1_FiltersOfUNSUBSCRIBEAreUTF8(t *testing.T) {
	textIn(t, "topic filter of UNSUBSCRIBE")
}

// Without a filter SUBSCRIBE and UNSUBSCRIBE are protocol errors; a filter without its options is cut short.
func TestMQTT_3_8_3_2_AFilterAtLeast(t *testing.T) {
	refuses := func(first byte, code packet.Code, parts ...string) func(*testing.T) {
		return func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				c := connect(t, start(t, Options{}), v, "c")
				c.write(whole(first, append([]string{"\x00\x01", properties(v)}, parts...)...))
				c.ends(code)
			})
		}
	}
	t.Run("[MQTT-3.8.3-2] no filter", refuses(0x82, packet.ProtocolError))
	t.Run("[MQTT-3.8.3-2] no options", refuses(0x82, packet.MalformedPacket, field("a")))
	t.Run("[MQTT-3.8.3-2] no options for the second", refuses(0x82, packet.MalformedPacket, field("a"), "\x01", field("b")))
	t.Run("[MQTT-3.10.3-2] no filter", refuses(0xA2, packet.ProtocolError))
}

// Reserved bits in the options of any filter make the whole packet malformed: none of its filters is subscribed.
func TestMQTT_3_8_3_5_ReservedOptions(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, reserved := range []byte{0x40, 0x80, 0xC0} {
		for _, valid := range []byte{0x00, 0x01, 0x02, 0x2E} {
			for _, last := range []bool{false, true} {
				c := connect(t, b, packet.V5, "c", keep)
				filters := []string{field("a"), string([]byte{reserved | valid}), field("b"), "\x01"}
				if last {
					filters = slices.Concat(filters[2:], filters[:2])
				}
				c.write(whole(0x82, append([]string{"\x00\x01", "\x00"}, filters...)...))
				c.ends(packet.MalformedPacket)
				if n := b.Stats().Subscriptions; n != 0 {
					t.Fatalf("options %02x: %d subscriptions", reserved|valid, n)
				}
			}
		}
	}
}

// suback returns the bytes of a SUBACK.
func suback(v packet.Version, id uint16, codes ...byte) string {
	return string(whole(0x90, string([]byte{byte(id >> 8), byte(id)}), properties(v), string(codes)))
}

// unsuback returns the bytes of an UNSUBACK, whose codes 3.1.1 does not have.
func unsuback(v packet.Version, id uint16, codes ...byte) string {
	if v != packet.V5 {
		codes = nil
	}
	return string(whole(0xB0, string([]byte{byte(id >> 8), byte(id)}), properties(v), string(codes)))
}

// sees makes sure that the broker sends these bytes and nothing more.
func (c *raw) sees(want string) {
	c.t.Helper()
	if got := c.read(len(want)); got != want {
		c.t.Fatalf("got %x, want %x", got, want)
	}
	c.nothing()
}

// invalidFilter is the code for a filter that is none; 3.1.1 has one for all failures.
func invalidFilter(v packet.Version) byte {
	if v == packet.V5 {
		return 0x8F
	}
	return 0x80
}

// Each SUBSCRIBE is answered by a SUBACK with its identifier, also one that fails, and those that come in one write.
func TestMQTT_3_8_4_1_SUBACK(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		t.Run("[MQTT-3.8.4-1] [MQTT-3.8.4-2] its identifier", func(t *testing.T) {
			c := connect(t, b, v, "c")
			for _, id := range []uint16{1, 255, 256, 65535, 1} {
				c.write(whole(0x82, string([]byte{byte(id >> 8), byte(id)}), properties(v), field("a"), "\x02"))
				c.sees(suback(v, id, 2))
			}
		})
		t.Run("[MQTT-3.8.4-1] several at once, one of which fails", func(t *testing.T) {
			c := connect(t, b, v, "d")
			c.write(slices.Concat(
				whole(0x82, "\x00\x07", properties(v), field("a"), "\x00"),
				whole(0x82, "\x00\x05", properties(v), field("a#"), "\x01"),
				whole(0x82, "\x00\x06", properties(v), field("b"), "\x01")))
			c.sees(suback(v, 7, 0) + suback(v, 5, invalidFilter(v)) + suback(v, 6, 1))
		})
		t.Run("[MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] a code for each filter in its place", func(t *testing.T) {
			c, pub := connect(t, b, v, "e"), connect(t, b, v, "pub")
			bad := invalidFilter(v)
			c.write(whole(0x82, "\x00\x09", properties(v), field("q/2"), "\x02", field("q/0"), "\x00", field("a#"), "\x02", field("q/1"), "\x01",
				field(""), "\x00", field("#/a"), "\x01", field("q/2/#"), "\x02"))
			c.sees(suback(v, 9, 2, 0, bad, 1, bad, bad, 2))
			for granted := range byte(3) { // which is what was granted
				pub.publish(fmt.Sprint("q/", granted), "x", 2)
				c.gets(fmt.Sprint("q/", granted), "x", granted)
			}
			c.nothing()
		})
	})
}

// The codes are those of SUBACK: the QoS, 0x8F for what is no filter, 0x97 for one more than a client may have.
func TestMQTT_3_9_3_2_ReasonCodesOfSUBACK(t *testing.T) {
	t.Parallel()
	c := connect(t, start(t, Options{tune: func(l *limits) { l.subscriptions = 3 }}), packet.V5, "c")
	c.write(whole(0x82, "\x00\x01", "\x00", field("a"), "\x00", field("b"), "\x01", field("$share/g/c"), "\x02", field("+d"), "\x00", field("e"), "\x02"))
	c.sees(suback(packet.V5, 1, 0, 1, 2, 0x8F, 0x97))
}

// What explains a SUBACK or UNSUBACK does not make it larger than what the client takes.
func TestMQTT_3_9_2_1_SUBACKAndUNSUBACKFit(t *testing.T) {
	fits := func(ask []byte, want string) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			for most := uint32(16); most < 64; most++ { // 16 is what CONNACK needs
				c := connect(t, b, packet.V5, "c", maximumPacket(most))
				c.write(ask)
				head := c.read(2)
				if head[0] != want[0] || 2+int(head[1]) > int(most) {
					t.Fatalf("a packet %02x of %d bytes for a client that takes %d", head[0], 2+int(head[1]), most)
				}
				if body := c.read(int(head[1])); body[:2] != want[2:4] || body[len(body)-1] != want[len(want)-1] {
					t.Fatalf("%x", body)
				}
				c.nothing()
			}
		}
	}
	t.Run("[MQTT-3.9.2-1] [MQTT-3.9.2-2] SUBACK", fits(whole(0x82, "\x00\x07", "\x00", field("a#"), "\x00"), suback(packet.V5, 7, 0x8F)))
	t.Run("[MQTT-3.11.2-1] [MQTT-3.11.2-2] UNSUBACK", fits(whole(0xA2, "\x00\x07", "\x00", field("a#")), unsuback(packet.V5, 7, 0x8F)))
}

// The same filter once more is a new subscription in the place of the old one: one message, with the new QoS.
func TestMQTT_3_8_4_3_OneSubscriptionForAFilter(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c")
		for _, qos := range []byte{2, 0, 1} {
			c.subscribe("a/+", qos)
			pub.publish("a/b", "x", 2)
			c.gets("a/b", "x", qos)
			c.nothing()
		}
		c.unsubscribe("a/+")
		pub.publish("a/b", "x", 2)
		c.nothing()
	})
}

// A SUBSCRIBE with many filters does what as many SUBSCRIBEs do, with one SUBACK: also when a filter is there twice, one
// is bad, and messages are stored.
func TestMQTT_3_8_4_5_ManyFiltersAreHandledAsOneAfterTheOther(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		pub.publish("a", "stored", 1, retain)
		pub.publish("b/1", "stored", 1, retain)
		together, alone := connect(t, b, v, "together"), connect(t, b, v, "alone")
		filters := []struct {
			filter string
			qos    byte
		}{{"a", 0}, {"b/#", 2}, {"a#", 1}, {"a", 0}, {"none", 1}, {"a", 1}}
		p := &packet.Subscribe{ID: 77}
		var codes []packet.Code
		var stored []string
		take := func(c *raw) string {
			m := expect[*packet.Publish](c)
			c.acknowledge(m)
			return fmt.Sprintf("%s %d %t", m.Topic, m.QoS, m.Retain)
		}
		want := map[string]int{"a": 1, "b/#": 1}
		for _, f := range filters {
			p.Subscriptions = append(p.Subscriptions, packet.Subscription{Filter: []byte(f.filter), QoS: f.qos})
			codes = append(codes, alone.subscribe(f.filter, f.qos))
			for range want[f.filter] {
				stored = append(stored, take(alone))
			}
			alone.nothing()
		}
		together.send(p)
		if ack := expect[*packet.Suback](together); ack.ID != 77 || !slices.Equal(ack.Codes, codes) {
			t.Fatalf("SUBACK %d %v, want those of single ones: %v", ack.ID, ack.Codes, codes)
		}
		for _, want := range stored {
			if got := take(together); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		together.nothing()
		for _, c := range []*raw{together, alone} {
			pub.publish("a", "live", 2)
			c.gets("a", "live", 1)
			pub.publish("b/2", "live", 2)
			c.gets("b/2", "live", 2)
			c.nothing()
			c.leave(map[*raw]string{together: "together", alone: "alone"}[c])
			if c == together {
				alone.gets("a", "live", 1)
				alone.gets("b/2", "live", 2)
			}
		}
	})
}

// UNSUBSCRIBE ends the subscription whose filter is the same to the last character, and no other.
func TestMQTT_3_10_4_1_FiltersAreComparedCharacterByCharacter(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c")
		c.subscribe("a/b", 1)
		for _, other := range []string{"a/+", "a/#", "#", "+/b", "A/b", "a/b/", "/a/b", "a", "a/b ", "a/b/#", "$share/g/a/b", "\ufeffa/b"} {
			if codes := c.unsubscribe(other); v == packet.V5 && codes[0] != packet.NoSubscriptionExisted {
				t.Errorf("%q: %v", other, codes)
			}
			pub.publish("a/b", "x", 1)
			c.gets("a/b", "x", 1)
		}
		c.subscribe("a/+", 0)
		if codes := c.unsubscribe("a/+"); v == packet.V5 && codes[0] != packet.Success {
			t.Errorf("%v", codes)
		}
		pub.publish("a/c", "x", 1)
		c.nothing()
		pub.publish("a/b", "x", 1)
		c.gets("a/b", "x", 1)
		c.unsubscribe("a/b")
		pub.publish("a/b", "x", 1)
		c.nothing()
	})
}

// What is published after UNSUBACK is not added, neither for a connected client nor for its session while it is away.
func TestMQTT_3_10_4_2_NothingNewAfterUNSUBACK(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
		c.subscribe("a/#", 2)
		pub.publish("a", "before", 2)
		c.gets("a", "before", 2)
		c.unsubscribe("a/#")
		for qos := range byte(3) {
			pub.publish("a", "after", qos)
		}
		c.nothing()
		c.hangUp("c")
		for qos := range byte(3) {
			pub.publish("a", "away", qos)
		}
		connect(t, b, v, "c", keep).nothing()
	})
}

// UNSUBSCRIBE is answered by one UNSUBACK with its identifier and, in version 5, a code for each filter in its place.
func TestMQTT_3_10_4_4_UNSUBACK(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		t.Run("[MQTT-3.10.4-4] [MQTT-3.10.4-5] its identifier, whether something was there or not", func(t *testing.T) {
			c := connect(t, b, v, "c")
			for _, id := range []uint16{1, 255, 256, 65535} {
				c.subscribe("a", 1)
				for _, code := range []byte{0x00, 0x11, 0x11} {
					c.write(whole(0xA2, string([]byte{byte(id >> 8), byte(id)}), properties(v), field("a")))
					c.sees(unsuback(v, id, code))
				}
			}
		})
		t.Run("[MQTT-3.10.4-6] many filters, one after the other", func(t *testing.T) {
			c, pub := connect(t, b, v, "d"), connect(t, b, v, "pub")
			for _, filter := range []string{"a", "b/+", "c", "stays"} {
				c.subscribe(filter, 0)
			}
			c.write(whole(0xA2, "\x12\x34", properties(v), field("never"), field("a"), field("b/+"), field("a"), field("c")))
			c.sees(unsuback(v, 0x1234, 0x11, 0x00, 0x00, 0x11, 0x00))
			for _, name := range []string{"a", "b/x", "c", "stays"} {
				pub.publish(name, "x", 0)
			}
			c.gets("stays", "x", 0)
			c.nothing()
		})
	})
}

// The codes of UNSUBACK, in the order of the filters: done, nothing was there, no filter.
func TestMQTT_3_11_3_1_ReasonCodesOfUNSUBACK(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	t.Run("[MQTT-3.11.3-1] [MQTT-3.11.3-2] a code for each filter in its place", func(t *testing.T) {
		c := connect(t, b, packet.V5, "c")
		c.subscribe("a", 1)
		c.subscribe("$share/g/a", 1)
		c.write(whole(0xA2, "\x00\x05", "\x00", field("b"), field("a"), field("a#"), field("$share/g/a"), field("$share/h/a"), field("")))
		c.sees(unsuback(packet.V5, 5, 0x11, 0x00, 0x8F, 0x00, 0x11, 0x8F))
	})
}
