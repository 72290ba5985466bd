package broker

import (
	"fmt"
	"slices"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Every QoS of the message meets every QoS of the subscription, both ways, to the end.
func TestMQTT_3_8_4_8_DeliveredAtTheLowerOfTwoQoS(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, sub := connect(t, b, v, "pub"), connect(t, b, v, "sub")
		for granted := range byte(3) {
			filter := fmt.Sprint("t/", granted)
			if code := sub.subscribe(filter, granted); code != packet.Code(granted) {
				t.Fatalf("granted %v, want %d", code, granted)
			}
			for qos := range byte(3) {
				pub.publish(filter, "x", qos)
				if p := sub.gets(filter, "x", min(qos, granted)); p.Dup || p.Retain {
					t.Fatalf("a live message came as %s", describe(p))
				}
			}
		}
		sub.nothing()
	})
}

func TestMQTT_4_3_1_1_QoS0IsNotAcknowledged(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		c := connect(t, start(t, Options{}), v, "c")
		c.send(outgoing("a", "x", 0, 0))
		c.nothing()
	})
}

// [MQTT-4.3.2-4], [MQTT-4.3.3-8], [MQTT-3.3.4-1]: each QoS is acknowledged by its own packets, with the publisher's identifier.
func TestMQTT_3_3_4_1_AcknowledgementsCarryTheIdentifier(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		c := connect(t, start(t, Options{}), v, "c")
		for _, id := range []uint16{1, 2, 255, 256, 65535} {
			c.send(outgoing("a", "x", 1, id))
			c.expectAck(packet.PUBACK, id)
			c.send(outgoing("a", "x", 2, id))
			c.expectAck(packet.PUBREC, id)
			c.release(id)
		}
	})
}

// Acknowledgements come in the order of what they acknowledge; the standard asks it of clients, and of brokers only 3.1.1 does.
func TestMQTT_4_6_0_2_AcknowledgementsInOrder(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := connect(t, b, v, "c")
		inOrder := func(qos byte, kind packet.Type) func(*testing.T) {
			return func(*testing.T) {
				var burst []packet.Packet
				for id := uint16(1000); id > 900; id-- {
					burst = append(burst, outgoing("a", "x", qos, id))
				}
				c.send(burst...)
				for id := uint16(1000); id > 900; id-- {
					c.expectAck(kind, id)
				}
			}
		}
		t.Run("[MQTT-4.6.0-2] PUBACK for PUBLISH", inOrder(1, packet.PUBACK))
		t.Run("[MQTT-4.6.0-3] PUBREC for PUBLISH", inOrder(2, packet.PUBREC))
		t.Run("PUBCOMP for PUBREL", func(*testing.T) {
			var burst []packet.Packet
			for id := uint16(901); id <= 1000; id++ {
				burst = append(burst, &packet.Ack{Kind: packet.PUBREL, ID: id})
			}
			c.send(burst...)
			for id := uint16(901); id <= 1000; id++ {
				c.expectAck(packet.PUBCOMP, id)
			}
		})
		t.Run("[MQTT-4.6.0-4] PUBREL for PUBREC", func(*testing.T) {
			sub := connect(t, b, v, "sub")
			sub.subscribe("b", 2)
			var ids []uint16
			for i := range 50 {
				c.publish("b", fmt.Sprint(i), 2)
				ids = append(ids, sub.getsFirst("b", fmt.Sprint(i), 2).ID)
			}
			slices.Reverse(ids) // an order of its own
			var burst []packet.Packet
			for _, id := range ids {
				burst = append(burst, &packet.Ack{Kind: packet.PUBREC, ID: id})
			}
			sub.send(burst...)
			for _, id := range ids {
				sub.expectAck(packet.PUBREL, id)
			}
		})
	})
}

// A PUBLISH sent again before its PUBREL is the same message, with DUP or without, also on a resumed session; after
// PUBREL the identifier stands for a new one [MQTT-4.3.3-10, MQTT-4.3.3-12].
func TestMQTT_4_3_3_10_ExactlyOnceFromThePublisher(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub := connect(t, b, v, "sub")
		sub.subscribe("a", 2)
		pub := connect(t, b, v, "pub", keep)
		p := outgoing("a", "first", 2, 7)
		pub.send(p)
		pub.expectAck(packet.PUBREC, 7)
		pub.send(p)
		pub.expectAck(packet.PUBREC, 7)
		pub.hangUp("pub")

		pub, ack := connected(t, b, v, "pub", keep)
		if !ack.SessionPresent {
			t.Fatal("the session is gone")
		}
		p.Dup = true
		pub.send(p)
		pub.expectAck(packet.PUBREC, 7)
		pub.release(7)
		sub.gets("a", "first", 2)
		sub.nothing()

		pub.send(outgoing("a", "second", 2, 7))
		pub.expectAck(packet.PUBREC, 7)
		sub.gets("a", "second", 2)
		sub.nothing()
		pub.release(7)
	})
}

// PUBREL is answered whether its identifier is known or not, also when it comes twice and after a resume.
func TestMQTT_4_3_3_11_PUBRELIsAlwaysAnswered(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := connect(t, b, v, "c", keep)
		c.send(outgoing("a", "x", 2, 9))
		c.expectAck(packet.PUBREC, 9)
		c.hangUp("c")
		c = connect(t, b, v, "c", keep)
		c.release(9)
		c.send(&packet.Ack{Kind: packet.PUBREL, ID: 9})
		want := packet.Success
		if v == packet.V5 {
			want = packet.PacketIDNotFound
		}
		if code := c.expectAck(packet.PUBCOMP, 9); code != want {
			t.Fatalf("PUBCOMP for an unknown identifier: %v, want %v", code, want)
		}
	})
}

// What was sent and not acknowledged comes again on the resumed session: with DUP, the same identifiers, in the first order,
// before anything new; and what was never sent comes without DUP.
func TestMQTT_4_4_0_1_ResumedInOrderWithDUP(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		sub := connect(t, b, v, "sub", keep, receiveMaximum(4))
		sub.subscribe("a", 2)
		first := 4
		if v == packet.V311 {
			first = 10 // no receive maximum: all of them
		}
		var ids []uint16
		for i := range 10 {
			pub.publish("a", fmt.Sprint(i), byte(1+i%2))
		}
		for i := range first {
			ids = append(ids, sub.getsFirst("a", fmt.Sprint(i), byte(1+i%2)).ID)
		}
		sub.nothing()
		sub.hangUp("sub")
		for i := 10; i < 15; i++ {
			pub.publish("a", fmt.Sprint(i), 1)
		}

		sub = connect(t, b, v, "sub", keep)
		for i := range 15 {
			qos := byte(1)
			if i < 10 {
				qos += byte(i % 2)
			}
			p := sub.getsFirst("a", fmt.Sprint(i), qos)
			if again := i < first; p.Dup != again || again && p.ID != ids[i] {
				t.Fatalf("message %d: %s, first sent as %v", i, describe(p), ids)
			}
		}
		sub.nothing()
	})
}

// After PUBREC nothing but PUBREL follows, also on a resumed session, where it keeps its place [MQTT-4.3.3-6, MQTT-4.4.0-1].
func TestMQTT_4_3_3_6_NoPUBLISHAfterPUBREC(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		sub := connect(t, b, v, "sub", keep)
		sub.subscribe("a", 2)
		for i := range 4 {
			pub.publish("a", fmt.Sprint(i), 2)
		}
		var ids []uint16
		for i := range 4 {
			ids = append(ids, sub.getsFirst("a", fmt.Sprint(i), 2).ID)
		}
		for _, i := range []int{0, 2} {
			sub.send(&packet.Ack{Kind: packet.PUBREC, ID: ids[i]})
			sub.expectAck(packet.PUBREL, ids[i])
		}
		for range 3 { // as often as it likes
			sub.hangUp("sub")
			sub = connect(t, b, v, "sub", keep)
			sub.expectAck(packet.PUBREL, ids[0])
			sub.getsFirst("a", "1", 2)
			sub.expectAck(packet.PUBREL, ids[2])
			sub.getsFirst("a", "3", 2)
			sub.nothing()
		}
		sub.send(&packet.Ack{Kind: packet.PUBREC, ID: ids[0]}) // again
		sub.expectAck(packet.PUBREL, ids[0])
		for _, i := range []int{1, 3} {
			sub.send(&packet.Ack{Kind: packet.PUBREC, ID: ids[i]})
			sub.expectAck(packet.PUBREL, ids[i])
		}
		for _, id := range ids {
			sub.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
		}
		sub.nothing()
		sub.hangUp("sub")
		sub = connect(t, b, v, "sub", keep)
		sub.nothing()
	})
}

// A PUBACK or PUBREC with a failure ends the flow: no PUBREL, nothing on resume, its place in the receive maximum is free,
// and no other member of a group gets it [MQTT-4.3.3-4, MQTT-4.4.0-2, MQTT-4.8.2-6].
func TestMQTT_4_4_0_2_FailureEndsTheFlow(t *testing.T) {
	for _, filter := range []string{"a", "$share/g/a"} {
		for qos, kind := range map[byte]packet.Type{1: packet.PUBACK, 2: packet.PUBREC} {
			t.Run(fmt.Sprint(filter, " ", kind), func(t *testing.T) {
				t.Parallel()
				b := start(t, Options{})
				pub := connect(t, b, packet.V5, "pub")
				sub := connect(t, b, packet.V5, "sub", keep, receiveMaximum(1))
				sub.subscribe(filter, 2)
				pub.publish("a", "1", qos)
				pub.publish("a", "2", qos)
				p := sub.getsFirst("a", "1", qos)
				other := connect(t, b, packet.V5, "other")
				other.subscribe("$share/g/a", 2)
				sub.send(&packet.Ack{Kind: kind, ID: p.ID, Code: packet.QuotaExceeded})
				sub.gets("a", "2", qos)
				sub.nothing()
				sub.hangUp("sub")
				sub = connect(t, b, packet.V5, "sub", keep)
				sub.nothing()
				connect(t, b, packet.V5, "sub", clean)
				other.nothing()
			})
		}
	}
}

// [MQTT-3.3.1-3]: DUP says that this packet was sent before, not that the publisher's was.
func TestMQTT_3_3_1_3_DUPIsNotForwarded(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub, pub := connect(t, b, v, "sub"), connect(t, b, v, "pub")
		sub.subscribe("a", 2)
		for _, qos := range []byte{1, 2} {
			pub.publish("a", "x", qos, func(p *packet.Publish) { p.Dup = true })
			if p := sub.gets("a", "x", qos); p.Dup {
				t.Errorf("%s", describe(p))
			}
		}
	})
}

// [MQTT-4.3.2-5]: after PUBACK an identifier stands for a new message, whatever DUP says.
func TestMQTT_4_3_2_5_IdentifierAfterPUBACK(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub, pub := connect(t, b, v, "sub"), connect(t, b, v, "pub")
		sub.subscribe("a", 2)
		for i := range 3 {
			p := outgoing("a", fmt.Sprint(i), 1, 5)
			p.Dup = i > 0
			pub.send(p)
			pub.expectAck(packet.PUBACK, 5)
			sub.gets("a", fmt.Sprint(i), 1)
		}
	})
}

// [MQTT-4.3.3-9]: after a PUBREC with a failure an identifier stands for a new message, and needs no PUBREL.
func TestMQTT_4_3_3_9_IdentifierAfterARefusal(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub, pub := connect(t, b, packet.V5, "sub"), connect(t, b, packet.V5, "pub")
	sub.subscribe("a", 2)
	pub.send(outgoing("$SYS/x", "refused", 2, 5))
	if code := pub.expectAck(packet.PUBREC, 5); code != packet.NotAuthorized {
		t.Fatalf("%v", code)
	}
	pub.send(outgoing("a", "taken", 2, 5))
	pub.expectAck(packet.PUBREC, 5)
	pub.release(5)
	sub.gets("a", "taken", 2)
	sub.nothing()
}

// A PUBREC for an identifier that is not in use is answered with 0x92, and hurts nobody; so do PUBACK and PUBCOMP.
func TestUnknownAcknowledgementsAreHarmless(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		c := connect(t, start(t, Options{}), v, "c")
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: 77}, &packet.Ack{Kind: packet.PUBCOMP, ID: 77}, &packet.Ack{Kind: packet.PUBREC, ID: 77})
		if code := c.expectAck(packet.PUBREL, 77); v == packet.V5 && code != packet.PacketIDNotFound {
			t.Fatalf("PUBREL: %v", code)
		}
		c.subscribe("a", 1)
		c.send(outgoing("a", "x", 0, 0))
		c.gets("a", "x", 0)
	})
}

// The wrong kind of acknowledgement is a protocol error.
func TestMismatchedAcknowledgements(t *testing.T) {
	for _, test := range []struct {
		name string
		qos  byte
		kind packet.Type
	}{
		{"PUBREC at QoS 1", 1, packet.PUBREC},
		{"PUBCOMP at QoS 1", 1, packet.PUBCOMP},
		{"PUBACK at QoS 2", 2, packet.PUBACK},
		{"PUBCOMP before PUBREC", 2, packet.PUBCOMP},
	} {
		t.Run(test.name, func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				b := start(t, Options{})
				c := connect(t, b, v, "c")
				c.subscribe("a", 2)
				connect(t, b, v, "pub").publish("a", "x", test.qos)
				p := c.getsFirst("a", "x", test.qos)
				c.send(&packet.Ack{Kind: test.kind, ID: p.ID})
				c.ends(packet.ProtocolError)
			})
		})
	}
}

// The identifiers of the two directions have nothing to do with each other [MQTT-2.2.1-4].
func TestMQTT_2_2_1_4_IdentifiersOfTheTwoDirectionsAreSeparate(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
		c.subscribe("in", 2)
		pub.publish("in", "1", 1)
		pub.publish("in", "2", 2)
		one, two := c.getsFirst("in", "1", 1), c.getsFirst("in", "2", 2)

		// Publish with the very identifiers that are open the other way.
		c.send(outgoing("out", "x", 2, one.ID))
		c.expectAck(packet.PUBREC, one.ID)
		c.send(outgoing("out", "x", 1, two.ID))
		c.expectAck(packet.PUBACK, two.ID)
		c.send(&packet.Ack{Kind: packet.PUBREC, ID: two.ID})
		c.expectAck(packet.PUBREL, two.ID)
		c.send(outgoing("out", "x", 2, two.ID))
		c.expectAck(packet.PUBREC, two.ID)
		c.release(two.ID)
		c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: two.ID})
		c.send(&packet.Ack{Kind: packet.PUBACK, ID: one.ID})
		c.release(one.ID)
		c.nothing()
		c.hangUp("c")
		connect(t, b, v, "c", keep).nothing()
	})
}

// SUBSCRIBE, UNSUBSCRIBE and PUBLISH with identifiers in use, while messages are in flight.
func TestSubscribeWhileMessagesAreInFlight(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", receiveMaximum(2))
		c.subscribe("a", 2)
		for i := range 2 {
			pub.publish("a", fmt.Sprint(i), 2)
		}
		p, q := c.getsFirst("a", "0", 2), c.getsFirst("a", "1", 2)
		c.id = p.ID - 1
		c.subscribe("b", 1)
		c.id = q.ID - 1
		c.unsubscribe("b")
		c.acknowledge(q)
		c.acknowledge(p)
		c.nothing()
	})
}

// Never more than the client's receive maximum is unacknowledged, at no mixture of QoS; QoS 0 goes on; and once
// acknowledged it goes on to the end, however often the limit was reached [MQTT-3.3.4-9, MQTT-3.3.4-10, MQTT-4.9.0-2].
func TestMQTT_4_9_0_2_ReceiveMaximumOfTheClient(t *testing.T) {
	for _, limit := range []uint16{1, 2, 20} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			pub := connect(t, b, packet.V5, "pub")
			sub := connect(t, b, packet.V5, "sub", keep, receiveMaximum(limit))
			sub.subscribe("a", 2)
			const n = 120
			for i := range n {
				pub.publish("a", fmt.Sprint(i), byte(1+i%2))
			}
			var open []*packet.Publish
			for i := 0; i < n; {
				for len(open) < int(limit) && i < n {
					open = append(open, sub.getsFirst("a", fmt.Sprint(i), byte(1+i%2)))
					i++
				}
				sub.nothing() // the limit holds
				pub.publish("a", "QoS 0", 0)
				sub.gets("a", "QoS 0", 0)
				// A QoS 2 message occupies its place until PUBCOMP.
				p := open[0]
				open = open[1:]
				if p.QoS == 2 {
					sub.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
					sub.expectAck(packet.PUBREL, p.ID)
					sub.nothing()
					sub.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
				} else {
					sub.acknowledge(p)
				}
			}
			for _, p := range open {
				sub.acknowledge(p)
			}
			sub.nothing()
		})
	}
}

// The receive maximum belongs to the connection: a resumed session starts to count anew, with the new limit.
func TestReceiveMaximumIsPerConnection(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V5, "pub")
	sub := connect(t, b, packet.V5, "sub", keep, receiveMaximum(5))
	sub.subscribe("a", 2)
	for i := range 8 {
		pub.publish("a", fmt.Sprint(i), byte(1+i%2))
	}
	for i := range 5 {
		sub.getsFirst("a", fmt.Sprint(i), byte(1+i%2))
	}
	sub.nothing()
	sub.hangUp("sub")
	sub = connect(t, b, packet.V5, "sub", keep, receiveMaximum(2))
	for i := range 8 {
		sub.getsFirst("a", fmt.Sprint(i), byte(1+i%2))
		if i < 1 {
			continue
		}
		sub.nothing()
		sub.acknowledge(&packet.Publish{QoS: byte(1 + (i-1)%2), ID: uint16(i)})
	}
	sub.nothing()
}

// [MQTT-3.3.4-7]: a client that has more QoS 2 messages open than CONNACK allows is told 0x93; 3.1.1 knows no limit.
func TestMQTT_3_3_4_7_ReceiveMaximumOfTheBroker(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		c, ack := connected(t, start(t, Options{}), v, "c")
		limit := receiveMax
		if v == packet.V5 {
			limit = int(ack.Properties.ReceiveMaximum.V)
		}
		var burst []packet.Packet
		for i := range limit {
			burst = append(burst, outgoing("a", "", 2, uint16(i+1)))
		}
		c.send(burst...)
		for i := range limit {
			c.expectAck(packet.PUBREC, uint16(i+1))
		}
		again := outgoing("a", "", 2, 1)
		again.Dup = true
		c.send(again) // one of those that are open
		c.expectAck(packet.PUBREC, 1)
		c.send(&packet.Ack{Kind: packet.PUBREL, ID: 1}, outgoing("a", "", 2, 5000))
		c.expectAck(packet.PUBCOMP, 1)
		c.expectAck(packet.PUBREC, 5000)
		c.send(outgoing("a", "", 2, 5001))
		if v == packet.V5 {
			c.ends(packet.ReceiveMaximumExceeded)
			return
		}
		c.expectAck(packet.PUBREC, 5001)
	})
}

// The codes of PUBACK and PUBREC: 0x10 when nobody is there, not when a message was stored; 0x87 on the broker's own topics.
func TestMQTT_3_4_2_1_PublishReasonCodes(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub, c := connect(t, b, packet.V5, "sub"), connect(t, b, packet.V5, "c")
	sub.subscribe("somebody/#", 0)
	for _, test := range []struct {
		topic  string
		retain bool
		want   packet.Code
	}{
		{"nobody", false, packet.NoMatchingSubscribers},
		{"nobody", true, packet.Success},
		{"somebody", false, packet.Success},
		{"somebody/here", true, packet.Success},
		{"$SYS/broker/version", false, packet.NotAuthorized},
		{"$SYS", true, packet.NotAuthorized},
		{"$SYSTEM", false, packet.NoMatchingSubscribers},
	} {
		for _, qos := range []byte{1, 2} {
			if code := c.publish(test.topic, "x", qos, func(p *packet.Publish) { p.Retain = test.retain }); code != test.want {
				t.Errorf("%s, retain %t, QoS %d: %v, want %v", test.topic, test.retain, qos, code, test.want)
			}
		}
	}
}

// What is sent before a DISCONNECT, or before the client closes its side, is answered.
func TestAnswersBeforeGoodbye(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for _, network := range []string{"tcp", "half-closed"} {
			c := dial(t, b, "tcp")
			c.connect(v, "c")
			packets := []packet.Packet{outgoing("a", "x", 1, 1), &packet.Pingreq{}, outgoing("a", "x", 2, 2)}
			if network == "tcp" {
				packets = append(packets, &packet.Disconnect{})
			}
			c.send(packets...)
			if network == "half-closed" {
				if err := c.nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			seen := map[string]bool{}
			for range 3 { // PINGRESP may come anywhere
				p, err := c.next()
				if err != nil {
					t.Fatal(err)
				}
				seen[p.Type().String()] = true
			}
			if !seen["PUBACK"] || !seen["PUBREC"] || !seen["PINGRESP"] {
				t.Fatalf("got only %v", seen)
			}
			c.closes()
		}
	})
}
