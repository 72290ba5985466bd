package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

func withAlias(alias uint16) func(*packet.Publish) {
	return func(p *packet.Publish) { p.Properties.TopicAlias = packet.Some(alias) }
}

// Aliases of the client: learned, used, changed; and the same for the publisher's next message with a topic.
func TestMQTT_3_3_2_12_InboundTopicAlias(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V5, "sub")
	sub.subscribe("#", 1)
	pub, ack := connected(t, b, packet.V5, "pub")
	most := ack.Properties.TopicAliasMaximum.V
	if most == 0 {
		t.Fatal("no aliases")
	}
	for _, step := range []struct {
		topic string
		alias uint16
		want  string
	}{
		{"a", 1, "a"}, {"", 1, "a"}, {"b", most, "b"}, {"", 1, "a"}, {"", most, "b"}, {"c", 1, "c"}, {"", 1, "c"},
	} {
		pub.publish(step.topic, "x", 1, withAlias(step.alias))
		if p := sub.gets(step.want, "x", 1); p.Properties.TopicAlias.OK {
			t.Error("the publisher's alias went on to a subscriber")
		}
	}
}

// Aliases that cannot be: unknown, 0, over the maximum, known only on the connection before [MQTT-3.3.2-7 to MQTT-3.3.2-9].
func TestMQTT_3_3_2_9_BadTopicAlias(t *testing.T) {
	for _, test := range []struct {
		name  string
		topic string
		alias uint16
		want  packet.Code
	}{
		{"unknown", "", 2, packet.ProtocolError},
		{"of the connection before", "", 1, packet.ProtocolError},
		{"0", "a", 0, packet.TopicAliasInvalid},
		{"over the maximum", "a", inboundAliases + 1, packet.TopicAliasInvalid},
		{"65535, without topic", "", 65535, packet.TopicAliasInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			c := connect(t, b, packet.V5, "c", keep)
			c.publish("a", "x", 1, withAlias(1))
			c.hangUp("c")
			c = connect(t, b, packet.V5, "c", keep)
			p := outgoing(test.topic, "x", 1, 1)
			withAlias(test.alias)(p)
			c.send(p)
			c.ends(test.want)
		})
	}
}

// Aliases of the broker: none without a maximum, never above it, the topic with the first use; a new connection of the
// session begins anew [MQTT-3.1.2-26, MQTT-3.1.2-27].
func TestMQTT_3_1_2_26_OutboundTopicAlias(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	for _, most := range []uint16{0, 1, 3, 65535} {
		id := fmt.Sprint("sub", most)
		var how []choice
		if most > 0 {
			how = append(how, aliasMaximum(most))
		}
		c := connect(t, b, packet.V5, id, append(how, keep)...)
		c.subscribe("t/#", 1)
		known := map[uint16]string{}
		for round := range 2 {
			used := 0
			for i := range 20 {
				name := fmt.Sprint("t/", i%5)
				pub.publish(name, fmt.Sprint(i), 1)
				p := expect[*packet.Publish](c)
				c.acknowledge(p)
				a := p.Properties.TopicAlias
				if a.OK && (a.V == 0 || a.V > most) {
					t.Fatalf("maximum %d: alias %d", most, a.V)
				}
				if len(p.Topic) == 0 {
					used++
					p.Topic = []byte(known[a.V])
				} else if a.OK {
					known[a.V] = string(p.Topic)
				}
				if string(p.Topic) != name || string(p.Payload) != fmt.Sprint(i) {
					t.Fatalf("maximum %d: %s, want %s", most, describe(p), name)
				}
			}
			if want := min(int(most), 5)*3 + min(int(most), round); used != want {
				t.Errorf("maximum %d: %d messages by alias, want %d", most, used, want)
			}
			c.hangUp(id)
			pub.publish("t/0", "queued", 1)
			c = connect(t, b, packet.V5, id, append(how, keep)...)
			p := c.gets("t/0", "queued", 1) // with its topic, on a new connection
			clear(known)
			known[p.Properties.TopicAlias.V] = "t/0"
		}
		c.leave(id)
		connect(t, b, packet.V5, id).leave(id)
	}
}

// A message sent again on a new connection comes with its topic, whatever alias it had.
func TestResendDoesNotReuseAnAlias(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	c := connect(t, b, packet.V5, "c", keep, aliasMaximum(10))
	c.subscribe("t", 1)
	for i := range 3 {
		pub.publish("t", fmt.Sprint(i), 1)
		expect[*packet.Publish](c)
	}
	c.hangUp("c")
	c = connect(t, b, packet.V5, "c", keep)
	for i := range 3 {
		if p := c.getsFirst("t", fmt.Sprint(i), 1); p.Properties.TopicAlias.OK {
			t.Errorf("alias %d without a maximum", p.Properties.TopicAlias.V)
		}
	}
}

// A message larger than the client takes is dropped for this client alone: the session goes on, also when it was in flight or
// queued on a resume [MQTT-3.1.2-24, MQTT-3.1.2-25].
func TestMQTT_3_1_2_24_MaximumPacketSizeOfTheClient(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	large := strings.Repeat("x", 500)
	other := connect(t, b, packet.V5, "other")
	other.subscribe("t", 2)
	publishBoth := func() {
		t.Helper()
		for qos := range byte(3) {
			pub.publish("t", large, qos)
			other.gets("t", large, qos)
			pub.publish("t", "small", qos)
			other.gets("t", "small", qos)
		}
	}
	c := connect(t, b, packet.V5, "c", keep, maximumPacket(100), receiveMaximum(3), aliasMaximum(5))
	c.subscribe("t", 2)
	publishBoth()
	for qos := range byte(3) {
		p := expect[*packet.Publish](c)
		if string(p.Payload) != "small" || p.QoS != qos || (len(p.Topic) == 0) != (qos > 0) {
			t.Errorf("got %s", describe(p))
		}
		c.acknowledge(p)
	}
	c.nothing()
	c.hangUp("c")

	c = connect(t, b, packet.V5, "c", keep) // no limit: in flight now
	publishBoth()
	for qos := range byte(3) {
		c.getsFirst("t", large, qos)
		c.getsFirst("t", "small", qos)
	}
	c.hangUp("c")
	pub.publish("t", large, 1)
	pub.publish("t", "after", 1)
	c = connect(t, b, packet.V5, "c", keep, maximumPacket(100))
	c.gets("t", "small", 1)
	c.getsFirst("t", "small", 2)
	c.gets("t", "after", 1)
	c.nothing()

	// Exactly at the limit.
	exact := connect(t, b, packet.V5, "exact", maximumPacket(50))
	exact.subscribe("e", 0)
	pub.publish("e", strings.Repeat("x", 44), 0) // 2 + 2 + 1 + 1 + 44
	exact.gets("e", strings.Repeat("x", 44), 0)
	pub.publish("e", strings.Repeat("x", 45), 0)
	exact.nothing()
}

// Reason strings are left out for a client that takes only small packets, and for one that does not want them.
func TestMQTT_3_1_2_29_ReasonStrings(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, test := range []struct {
		name   string
		choose choice
		want   bool
	}{
		{"as it is", func(*packet.Connect) {}, true},
		{"problem information 1", func(p *packet.Connect) { p.Properties.RequestProblem = packet.Some(byte(1)) }, true},
		{"problem information 0", func(p *packet.Connect) { p.Properties.RequestProblem = packet.Some(byte(0)) }, false},
		{"small packets", maximumPacket(20), false},
	} {
		c := connect(t, b, packet.V5, "c", test.choose)
		c.send(&packet.Connect{CleanStart: true})
		d := expect[*packet.Disconnect](c)
		if got := len(d.Properties.ReasonString) > 0; got != test.want || d.Code != packet.ProtocolError {
			t.Errorf("%s: %v with reason %q", test.name, d.Code, d.Properties.ReasonString)
		}
	}
}

// What the broker takes is told in CONNACK and holds: one byte more ends the connection with 0x95 [MQTT-3.2.2-15].
func TestMQTT_3_2_2_15_MaximumPacketSizeOfTheBroker(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		const most = 1000
		b := start(t, Options{MaxPacketSize: most})
		c, ack := connected(t, b, v, "c")
		if v == packet.V5 && ack.Properties.MaximumPacketSize.V != most {
			t.Errorf("told %d", ack.Properties.MaximumPacketSize.V)
		}
		fit := most - 3 - 2 - 1 - 2 // fixed header, topic, identifier
		if v == packet.V5 {
			fit--
		}
		c.publish("a", strings.Repeat("x", fit), 1)
		c.send(outgoing("a", strings.Repeat("x", fit+1), 1, 9))
		c.ends(packet.PacketTooLarge)
	})
}

// Before it is let in, a client gets 4 KiB; one of version 5 is told so.
func TestLargeCONNECT(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := dial(t, b, "tcp")
		c.v = v
		c.send(&packet.Connect{CleanStart: true, ClientID: []byte(strings.Repeat("x", 5000))})
		c.refused(packet.PacketTooLarge)
		connect(t, b, v, strings.Repeat("x", 4000))
	})
}
