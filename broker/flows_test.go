package broker

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// How messages with QoS 1 and 2 go from end to end, and what of it is kept; section 4 of the standard.

// seconds waits until that many have passed for the broker.
func seconds(t *testing.T, b *Broker, n uint32) {
	t.Helper()
	clock := connect(t, b, packet.V5, "clock", expiry(n))
	clock.hangUp("clock")
	waitFor(t, "time to pass", func() bool { return b.find("clock") == nil })
}

// A session is not discarded while its connection is open, however short its expiry: not its subscriptions, not what is in
// flight either way.
func TestMQTT_4_1_0_1_SessionStaysWhileConnected(t *testing.T) {
	t.Parallel()
	for _, asked := range []uint32{0, 1} {
		b := start(t, Options{})
		pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", expiry(asked))
		c.subscribe("a", 2)
		pub.publish("a", "1", 1)
		pub.publish("a", "2", 2)
		one, two := c.getsFirst("a", "1", 1), c.getsFirst("a", "2", 2)
		c.send(outgoing("b", "x", 2, 9))
		c.expectAck(packet.PUBREC, 9)
		seconds(t, b, 2)
		again := outgoing("b", "x", 2, 9)
		again.Dup = true
		c.send(again)
		c.expectAck(packet.PUBREC, 9)
		c.release(9)
		c.acknowledge(two)
		c.acknowledge(one)
		pub.publish("a", "3", 1)
		c.gets("a", "3", 1)
		c.nothing()
	}
}

// What the sender of QoS 1 and 2 does: a new message gets an identifier that is not in use and comes without DUP; without an
// answer it comes again on the next connection, with DUP and the same identifier; with its answer it does not.
func TestMQTT_4_3_2_1_SenderOfQoS1And2(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		fresh := func(qos byte, kind packet.Type) func(*testing.T) {
			return func(t *testing.T) {
				b := start(t, Options{})
				pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c")
				c.subscribe("a", qos)
				open := map[uint16]bool{}
				var order []uint16
				for i := range 60 {
					pub.publish("a", fmt.Sprint(i), qos)
					p := c.getsFirst("a", fmt.Sprint(i), qos)
					if p.ID == 0 || open[p.ID] || p.Dup {
						t.Fatalf("%s while %v are in use", describe(p), order)
					}
					open[p.ID] = true
					order = append(order, p.ID)
					if i%3 == 2 { // one of those in the middle makes room
						id := order[len(order)/2]
						c.send(&packet.Ack{Kind: kind, ID: id})
						if kind == packet.PUBREC { // in use until PUBCOMP
							c.expectAck(packet.PUBREL, id)
							pub.publish("a", "between", qos)
							if p := c.getsFirst("a", "between", qos); open[p.ID] {
								t.Fatalf("%s while %v are in use", describe(p), order)
							} else {
								c.acknowledge(p)
							}
							c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
						}
						delete(open, id)
						order = append(order[:len(order)/2], order[len(order)/2+1:]...)
					}
				}
			}
		}
		t.Run("[MQTT-4.3.2-1] [MQTT-4.3.2-2] QoS 1, new", fresh(1, packet.PUBACK))
		t.Run("[MQTT-4.3.3-1] [MQTT-4.3.3-2] QoS 2, new", fresh(2, packet.PUBREC))

		again := func(qos byte, kind packet.Type) func(*testing.T) {
			return func(t *testing.T) {
				b := start(t, Options{})
				pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
				c.subscribe("a", qos)
				pub.publish("a", "x", qos)
				id := c.getsFirst("a", "x", qos).ID
				for range 2 {
					c.hangUp("c")
					c = connect(t, b, v, "c", keep)
					if p := c.getsFirst("a", "x", qos); p.ID != id || !p.Dup {
						t.Errorf("%s, first sent with %d", describe(p), id)
					}
					c.nothing()
				}
				c.send(&packet.Ack{Kind: kind, ID: id})
				if kind == packet.PUBREC {
					c.expectAck(packet.PUBREL, id)
					c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
				}
				c.nothing()
				c.hangUp("c")
				connect(t, b, v, "c", keep).nothing()
			}
		}
		t.Run("[MQTT-4.3.2-3] QoS 1, until PUBACK", again(1, packet.PUBACK))
		t.Run("[MQTT-4.3.3-3] QoS 2, until PUBREC", again(2, packet.PUBREC))

		t.Run("[MQTT-4.3.3-4] PUBREL for PUBREC", func(t *testing.T) {
			b := start(t, Options{})
			pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c")
			c.subscribe("a", 2)
			for _, code := range []byte{0x00, 0x10} {
				if v != packet.V5 && code > 0 {
					continue
				}
				pub.publish("a", "x", 2)
				id := c.getsFirst("a", "x", 2).ID
				c.send(&packet.Ack{Kind: packet.PUBREC, ID: id, Code: packet.Code(code)})
				if code := c.expectAck(packet.PUBREL, id); code != packet.Success {
					t.Errorf("PUBREL: %v", code)
				}
				c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
			}
			c.nothing()
		})
		t.Run("[MQTT-4.3.3-5] PUBREL, until PUBCOMP", func(t *testing.T) {
			b := start(t, Options{})
			pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
			c.subscribe("a", 2)
			pub.publish("a", "x", 2)
			id := c.getsFirst("a", "x", 2).ID
			c.send(&packet.Ack{Kind: packet.PUBREC, ID: id})
			c.expectAck(packet.PUBREL, id)
			for range 2 {
				c.hangUp("c")
				c = connect(t, b, v, "c", keep)
				c.expectAck(packet.PUBREL, id)
				c.nothing()
			}
			c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
			c.nothing()
			c.hangUp("c")
			connect(t, b, v, "c", keep).nothing()
		})
	})
}

// What has been sent does not expire: it comes again after a resume, and goes on to the end.
func TestMQTT_4_3_3_7_NoExpiryAfterItWasSent(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, c := connect(t, b, packet.V5, "pub"), connect(t, b, packet.V5, "c", keep)
	c.subscribe("a", 2)
	pub.publish("a", "x", 2, messageExpiry(1))
	id := c.getsFirst("a", "x", 2).ID
	c.hangUp("c")
	seconds(t, b, 2)
	c = connect(t, b, packet.V5, "c", keep)
	if p := c.getsFirst("a", "x", 2); p.ID != id || !p.Dup {
		t.Errorf("%s", describe(p))
	}
	c.send(&packet.Ack{Kind: packet.PUBREC, ID: id})
	if code := c.expectAck(packet.PUBREL, id); code != packet.Success {
		t.Errorf("PUBREL: %v", code)
	}
	c.send(&packet.Ack{Kind: packet.PUBCOMP, ID: id})
	c.nothing()
}

// What the receiver of QoS 1 and 2 does: its answer has the identifier and means that the message is safe with it, whatever
// becomes of the publisher; after the end the identifier stands for another message.
func TestMQTT_4_3_2_4_ReceiverOfQoS1And2(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		owns := func(qos byte, kind packet.Type) func(*testing.T) {
			return func(t *testing.T) {
				b := start(t, Options{})
				away := connect(t, b, v, "away", keep)
				away.subscribe("a", 2)
				away.hangUp("away")
				live := connect(t, b, v, "live")
				live.subscribe("a", 2)
				for _, id := range []uint16{1, 256, 65535} {
					pub := connect(t, b, v, "pub")
					pub.send(outgoing("a", fmt.Sprint(id), qos, id))
					if code := pub.expectAck(kind, id); code != packet.Success {
						t.Errorf("%v", code)
					}
					pub.hangUp("pub") // for ever: no PUBREL comes
				}
				away = connect(t, b, v, "away", keep)
				for _, id := range []uint16{1, 256, 65535} {
					away.getsFirst("a", fmt.Sprint(id), qos)
					live.getsFirst("a", fmt.Sprint(id), qos)
				}
				away.nothing()
				live.nothing()
			}
		}
		t.Run("[MQTT-4.3.2-4] PUBACK", owns(1, packet.PUBACK))
		t.Run("[MQTT-4.3.3-8] PUBREC", owns(2, packet.PUBREC))
		t.Run("[MQTT-4.3.3-12] a new message after PUBCOMP", func(t *testing.T) {
			b := start(t, Options{})
			sub, pub := connect(t, b, v, "sub"), connect(t, b, v, "pub")
			sub.subscribe("a", 2)
			for i := range 3 {
				p := outgoing("a", fmt.Sprint(i), 2, 7)
				p.Dup = i == 2 // whatever it says
				pub.send(p)
				pub.expectAck(packet.PUBREC, 7)
				pub.release(7)
				sub.gets("a", fmt.Sprint(i), 2)
				sub.nothing()
			}
		})
	})
}

// A message that expired at the broker is acknowledged to its end all the same.
func TestMQTT_4_3_3_13_ExpiredAndAcknowledgedToTheEnd(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	away := connect(t, b, packet.V5, "away", keep)
	away.subscribe("a", 2)
	away.hangUp("away")
	pub := connect(t, b, packet.V5, "pub", keep)
	p := outgoing("a", "x", 2, 7)
	messageExpiry(1)(p)
	pub.send(p)
	pub.expectAck(packet.PUBREC, 7)
	pub.hangUp("pub")
	seconds(t, b, 2)
	away = connect(t, b, packet.V5, "away", keep)
	away.nothing() // it has expired
	pub = connect(t, b, packet.V5, "pub", keep)
	p.Dup = true
	pub.send(p)
	if code := pub.expectAck(packet.PUBREC, 7); code >= 0x80 {
		t.Errorf("PUBREC: %v", code)
	}
	pub.release(7)
	away.nothing()
}

// A message that the broker took goes to everyone with a matching subscription: connected or away, and however it matches.
func TestMQTT_4_5_0_1_EverySessionThatMatches(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		filters := []string{"a/b", "a/+", "a/#", "+/b", "+/+", "#", "a/b/#", "$share/g/a/b"}
		others := []string{"a", "a/b/c", "+", "b/#", "$share/h/a"}
		var clients []*raw
		for i, filter := range append(filters, others...) {
			for _, how := range []string{"live", "away"} {
				if filter == "$share/g/a/b" && how == "away" {
					continue // one member
				}
				id := fmt.Sprint(how, i)
				c := connect(t, b, v, id, keep)
				c.subscribe(filter, 2)
				if how == "away" {
					c.hangUp(id)
					c = nil
				}
				clients = append(clients, c)
			}
		}
		pub := connect(t, b, v, "pub")
		for qos := byte(1); qos < 3; qos++ {
			pub.publish("a/b", fmt.Sprint(qos), qos)
		}
		pub.hangUp("pub")
		n := 0
		for i, filter := range append(filters, others...) {
			for _, how := range []string{"live", "away"} {
				if filter == "$share/g/a/b" && how == "away" {
					continue
				}
				c := clients[n]
				n++
				if c == nil {
					c = connect(t, b, v, fmt.Sprint(how, i), keep)
				}
				if i < len(filters) {
					c.gets("a/b", "1", 1)
					c.gets("a/b", "2", 2)
				}
				c.nothing()
			}
		}
	})
}

// The messages of one client come to each subscriber in their order, for each topic and QoS, whatever the topic, the
// filter, and others do meanwhile; and those that are sent again come in the order in which they were first sent.
func TestMQTT_4_6_0_5_Order(t *testing.T) {
	topics := []string{"a", "a/b", "/", "$x", "safety/stop", strings.Repeat("long/", 20)}
	each(t, func(t *testing.T, v packet.Version) {
		t.Run("[MQTT-4.6.0-5] [MQTT-4.6.0-6] of live messages", func(t *testing.T) {
			b := start(t, Options{})
			var subs []*raw
			for granted := range byte(3) {
				c := connect(t, b, v, fmt.Sprint("sub", granted))
				c.subscribe("#", granted)
				c.subscribe("$x", granted)
				subs = append(subs, c)
			}
			const publishers, n = 3, 360
			for i := range publishers {
				pub := connect(t, b, v, fmt.Sprint("pub", i))
				var burst []packet.Packet
				for j := range n {
					qos := byte(j / len(topics) % 3)
					id := uint16(0)
					if qos > 0 {
						id = uint16(n - j) // identifiers are no order
					}
					burst = append(burst, outgoing(topics[j%len(topics)], fmt.Sprint(i, " ", j), qos, id))
				}
				pub.send(burst...)
			}
			for granted, c := range subs {
				last := map[string]int{}
				seen := 0
				if err := c.collect(func(p *packet.Publish) bool {
					var from, now int
					if _, err := fmt.Sscan(string(p.Payload), &from, &now); err != nil {
						t.Error(err)
					}
					key := fmt.Sprint(from, " ", string(p.Topic), " ", p.QoS)
					if before, known := last[key]; known && now <= before {
						t.Errorf("granted %d: %d came after %d of %s", granted, now, before, key)
					}
					last[key] = now
					seen++
					return seen < publishers*n
				}); err != nil {
					t.Fatalf("after %d messages: %v", seen, err)
				}
			}
		})
		t.Run("[MQTT-4.6.0-1] of those that are sent again", func(t *testing.T) {
			b := start(t, Options{})
			pub, c := connect(t, b, v, "pub"), connect(t, b, v, "c", keep)
			c.subscribe("#", 2)
			var first []string
			for i := range 40 {
				pub.publish(topics[i%3], fmt.Sprint(i), byte(1+i/3%2))
			}
			for range 40 {
				p := expect[*packet.Publish](c)
				first = append(first, string(p.Payload))
			}
			c.hangUp("c")
			c = connect(t, b, v, "c", keep)
			for i, want := range first {
				if p := expect[*packet.Publish](c); string(p.Payload) != want || !p.Dup {
					t.Fatalf("number %d is %s, was %s", i, describe(p), want)
				}
			}
			c.nothing()
		})
	})
}
