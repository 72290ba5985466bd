package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// PINGREQ, AUTH, and how connections end.

// rest returns all that the broker sends until the connection ends, which it must. What was sent before must have been
// received as packets.
func (c *raw) rest() string {
	c.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patient))
	all, err := io.ReadAll(c.nc)
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Fatalf("the connection stays open, after %x", all)
	}
	return string(all)
}

// decoded returns the packets in bytes that the broker sent.
func decoded(t *testing.T, v packet.Version, bytes string) []packet.Packet {
	t.Helper()
	var all []packet.Packet
	for r := packet.NewReader(strings.NewReader(bytes), 0); ; {
		first, body, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatalf("%v in %x", err, bytes)
		}
		p, err := packet.Decode(first, slices.Clone(body), v)
		if err != nil {
			t.Fatalf("%v in %x", err, bytes)
		}
		all = append(all, p)
	}
}

// Each PINGREQ is answered, also when many come in one write, and while messages are in flight.
func TestMQTT_3_12_4_1_PINGRESP(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := connect(t, b, v, "c")
		for _, n := range []int{1, 2, 50} {
			c.write([]byte(strings.Repeat("\xc0\x00", n)))
			if got := c.read(2 * n); got != strings.Repeat("\xd0\x00", n) {
				t.Fatalf("%d PINGREQs: %x", n, got)
			}
		}
		c.subscribe("a", 2)
		connect(t, b, v, "pub").publish("a", "x", 2)
		c.getsFirst("a", "x", 2)
		c.write([]byte("\xc0\x00"))
		if got := c.read(2); got != "\xd0\x00" {
			t.Fatalf("%x", got)
		}
	})
}

// A client that is not let in gets a CONNACK or nothing, but no DISCONNECT, however its connection ends.
func TestMQTT_3_14_0_1_NoDISCONNECTBeforeCONNACK(t *testing.T) {
	t.Parallel()
	b := start(t, Options{
		MaxConnections: 1,
		Authenticate: func(_ context.Context, l Login) error {
			if l.ClientID != "first" {
				return errors.New("no")
			}
			return nil
		},
		tune: func(l *limits) { l.handshake = time.Second },
	})
	connect(t, b, packet.V5, "first")
	for name, bytes := range map[string]string{
		"nothing":                    "",
		"half a CONNECT":             "\x10\x20\x00\x04MQ",
		"PINGREQ first":              "\xc0\x00",
		"DISCONNECT first":           "\xe0\x00",
		"AUTH first":                 "\xf0\x00",
		"type 0":                     "\x00\x00",
		"too large":                  "\x10\xff\xff\x7f",
		"malformed CONNECT":          "\x10\x05\x00\x04MQT",
		"reserved flag":              string(connectBytes(packet.V5, 0x03, field("c"))),
		"receive maximum 0":          string(connectWith(packet.V5, 0x02, properties(packet.V5, "\x21\x00\x00"), field("c"))),
		"another version":            string(whole(0x10, field("MQTT"), "\x07\x02\x00\x00\x00", field("c"))),
		"not let in":                 string(connectBytes(packet.V5, 0x02, field("second"))),
		"not let in, and goes on":    string(connectBytes(packet.V5, 0x02, field("second"))) + "\xc0\x00\x00\x00",
		"an authentication method":   string(connectWith(packet.V5, 0x02, properties(packet.V5, "\x15", field("x")), field("first"))),
		"a Will that is not allowed": string(connectBytes(packet.V5, 0x06, field("first"), properties(packet.V5), field("$SYS"), field("x"))),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t, b, "tcp")
			c.write([]byte(bytes))
			got := decoded(t, packet.V5, c.rest())
			if len(got) > 1 || len(got) == 1 && got[0].Type() != packet.CONNACK {
				t.Errorf("%v and %d more", got[0].Type(), len(got)-1)
			}
		})
	}
	t.Run("the broker stops", func(t *testing.T) {
		b := start(t, Options{tune: func(l *limits) { l.handshake = time.Hour }})
		c := dial(t, b, "tcp")
		c.write([]byte{0x10})
		if err := b.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		if got := c.rest(); got != "" {
			t.Errorf("%x", got)
		}
	})
}

func TestMQTT_3_14_1_1_FlagsOfDISCONNECT(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) { wrongFlags(t, v, packet.DISCONNECT) })
}

// disconnectCodes are those that a server may send.
var disconnectCodes = []packet.Code{0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B,
	0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2}

// The broker's DISCONNECT has one of its codes and no session expiry, nothing follows it, and the connection ends; be it
// with much to send still, and much received still.
func TestMQTT_3_14_2_1_DISCONNECTOfTheBroker(t *testing.T) {
	ends := func(check func(t *testing.T, last []packet.Packet, want packet.Code)) func(*testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			for _, test := range []struct {
				name string
				code packet.Code
				end  func(c *raw)
			}{
				{"malformed", packet.MalformedPacket, func(c *raw) { c.write([]byte("\x00\x00")) }},
				{"second CONNECT", packet.ProtocolError, func(c *raw) { c.write(connectBytes(packet.V5, 0x02, field("c"))) }},
				{"topic with a wildcard", packet.TopicNameInvalid, func(c *raw) { c.write([]byte("\x30\x04\x00\x01#\x00")) }},
				{"alias 0", packet.TopicAliasInvalid, func(c *raw) { c.write(whole(0x30, field("a"), properties(packet.V5, "\x23\x00\x00"))) }},
				{"too large", packet.PacketTooLarge, func(c *raw) { c.write([]byte("\x30\xff\xff\xff\x7f")) }},
				{"taken over", packet.SessionTakenOver, func(c *raw) { connect(c.t, c.b, packet.V5, "c", keep) }},
				{"keep alive", packet.KeepAliveTimeout, func(*raw) {}},
				{"stop", packet.ServerShuttingDown, func(c *raw) { go func() { _ = c.b.Stop(context.Background()) }() }},
			} {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					b := start(t, Options{})
					c := connect(t, b, packet.V5, "c", keep, keepAlive(map[string]uint16{"keep alive": 1}[test.name]))
					c.subscribe("a", 1)
					pub := connect(t, b, packet.V5, "pub")
					for i := range 200 {
						pub.send(outgoing("a", fmt.Sprint(i), 1, uint16(i+1)))
					}
					test.end(c)
					if test.name != "keep alive" {
						// It may be closed already, or find all this unread.
						_, _ = c.nc.Write(slices.Concat([]byte(strings.Repeat("\xc0\x00", 20)), whole(0x32, field("b"), "\x00\x01", "\x00")))
					}
					var all []packet.Packet
					for {
						p, err := c.next()
						if err != nil {
							break
						}
						all = append(all, p)
					}
					for i, p := range all {
						if p.Type() == packet.DISCONNECT {
							check(t, all[i:], test.code)
							return
						}
					}
					t.Fatalf("no DISCONNECT among %d packets", len(all))
				})
			}
		}
	}
	t.Run("[MQTT-3.14.2-1] its codes", ends(func(t *testing.T, last []packet.Packet, want packet.Code) {
		if d := last[0].(*packet.Disconnect); d.Code != want || !slices.Contains(disconnectCodes, d.Code) {
			t.Errorf("%v, want %v", d.Code, want)
		}
	}))
	t.Run("[MQTT-3.14.2-2] no session expiry", ends(func(t *testing.T, last []packet.Packet, _ packet.Code) {
		if e := last[0].(*packet.Disconnect).Properties.SessionExpiry; e.OK {
			t.Errorf("session expiry %d", e.V)
		}
	}))
	t.Run("[MQTT-3.14.4-1] [MQTT-3.14.4-2] nothing after it but the end", ends(func(t *testing.T, last []packet.Packet, _ packet.Code) {
		if len(last) != 1 {
			t.Errorf("%s after the DISCONNECT", describe(last[1]))
		}
	}))
}

// Nothing follows a DISCONNECT that another connection caused, while the broker answers and sends as fast as it can.
func TestMQTT_3_14_4_1_NothingAfterATakeover(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	part := "\xc0\x00" + string(whole(0x32, field("a"), "\x00\x07", "\x00", "x")) + string(whole(0x82, "\x00\x08", "\x00", field("a"), "\x01"))
	for range 40 {
		c := connect(t, b, packet.V5, "c", receiveMaximum(1))
		c.subscribe("a", 1)
		flowing, over := make(chan struct{}), make(chan string)
		go func() { _, _ = c.nc.Write([]byte(strings.Repeat(part, 1000))) }()
		go func() {
			_ = c.nc.SetReadDeadline(time.Now().Add(patient))
			first := make([]byte, 1)
			_, _ = io.ReadFull(c.nc, first)
			close(flowing)
			rest, _ := io.ReadAll(c.nc)
			over <- string(append(first, rest...))
		}()
		<-flowing
		connect(t, b, packet.V5, "c").leave("c")
		all := decoded(t, packet.V5, <-over)
		i := slices.IndexFunc(all, func(p packet.Packet) bool { return p.Type() == packet.DISCONNECT })
		if i < 0 || i != len(all)-1 || all[i].(*packet.Disconnect).Code != packet.SessionTakenOver {
			t.Fatalf("DISCONNECT is number %d of %d packets", i+1, len(all))
		}
	}
}

// The same when so many answers are unread that the broker reads no more: those that it still has go before the DISCONNECT
// or not at all.
func TestMQTT_3_14_4_1_NothingAfterATakeoverOfAClientThatDoesNotRead(t *testing.T) {
	for name, what := range map[string]string{"PINGREQ": "\xc0\x00", "PUBLISH": string(whole(0x32, field("b"), "\x00\x07", "\x00"))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{tune: func(l *limits) { l.stall, l.farewell = time.Hour, patient }})
			c := dial(t, b, "pipe")
			c.connect(packet.V5, "c")
			for err := error(nil); err == nil; {
				_ = c.nc.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				_, err = c.nc.Write([]byte(strings.Repeat(what, 1000)))
			}
			held := b.find("c").current()
			other := dial(t, b, "tcp")
			other.write(connectBytes(packet.V5, 0x02, field("c")))
			waitFor(t, "the takeover", held.stopped.Load)
			all := decoded(t, packet.V5, c.rest())
			expect[*packet.Connack](other)
			if d, ok := all[len(all)-1].(*packet.Disconnect); !ok || d.Code != packet.SessionTakenOver {
				t.Errorf("the last of %d packets is %s", len(all), describe(all[len(all)-1]))
			}
		})
	}
}

// What explains a DISCONNECT does not make it larger than what the client takes.
func TestMQTT_3_14_2_3_DISCONNECTFits(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	t.Run("[MQTT-3.14.2-3] [MQTT-3.14.2-4] any maximum", func(t *testing.T) {
		explained := 0
		for most := 16; most < 80; most++ { // 16 is what CONNACK needs
			c := connect(t, b, packet.V5, "c", maximumPacket(uint32(most)))
			c.write(connectBytes(packet.V5, 0x02, field("c")))
			got := c.rest()
			d, ok := decoded(t, packet.V5, got)[0].(*packet.Disconnect)
			if !ok || len(got) > most || d.Code != packet.ProtocolError {
				t.Fatalf("%x for a client that takes %d bytes", got, most)
			}
			if len(d.Properties.ReasonString) > 0 {
				explained++
			}
		}
		if explained == 0 || explained == 64 {
			t.Errorf("%d of 64 had a reason string: the maximum made no difference", explained)
		}
	})
}

// DISCONNECT with 0x00 takes the Will back, also one that would have come later, and for good.
func TestMQTT_3_14_4_3_DISCONNECTDiscardsTheWill(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub := connect(t, b, v, "sub")
		sub.subscribe("will", 2)
		for _, bytes := range []string{"\xe0\x00", "\xe0\x01\x00", "\xe0\x02\x00\x00"} {
			if v != packet.V5 && len(bytes) > 2 {
				continue // it has neither code nor properties
			}
			for _, how := range [][]choice{{}, {keep}, {keep, withWill(delayed(1))}} {
				c := connect(t, b, v, "mower", append([]choice{withWill(aWill())}, how...)...)
				c.write([]byte(bytes))
				if got := c.rest(); got != "" {
					t.Fatalf("answered by %x", got)
				}
				c.hangUp("mower")
				connect(t, b, v, "mower", clean).leave("mower") // ends the session
				sub.nothing()
			}
		}
	})
}

// AUTH with flags is malformed, before anything else about it is looked at.
func TestMQTT_3_15_1_1_FlagsOfAUTH(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for flags := byte(1); flags < 16; flags++ {
		for _, body := range []string{"", "\x18" + properties(packet.V5, "\x15", field("x"))} {
			c := connect(t, b, packet.V5, "c")
			c.write(whole(0xF0|flags, body))
			c.ends(packet.MalformedPacket)
		}
	}
}

// A client that named no authentication method hears of none; its own AUTH is a protocol error, whatever is in it.
func TestMQTT_4_12_0_6_NoAuthenticationUnasked(t *testing.T) {
	t.Parallel()
	b := start(t, Options{Authenticate: func(context.Context, Login) error { return nil }})
	t.Run("[MQTT-4.12.0-6] no AUTH, no method", func(t *testing.T) {
		c := dial(t, b, "tcp")
		c.write(connectBytes(packet.V5, 0xC2, field("c"), field("user"), field("password")))
		ack := expect[*packet.Connack](c)
		if ack.Code != packet.Success || ack.Properties.AuthMethod != nil || ack.Properties.AuthData != nil {
			t.Errorf("%v, %+v", ack.Code, ack.Properties)
		}
		c.nothing()
	})
	t.Run("[MQTT-4.12.0-7] AUTH of the client", func(t *testing.T) {
		for _, code := range []string{"\x00", "\x18", "\x19"} {
			c := connect(t, b, packet.V5, "c")
			c.write(whole(0xF0, code, properties(packet.V5, "\x15", field("x"))))
			c.ends(packet.ProtocolError)
		}
	})
}

// A failure in CONNACK or DISCONNECT ends the connection, whoever says it, and also when it cannot be said.
func TestMQTT_4_13_2_1_FailuresEndTheConnection(t *testing.T) {
	t.Parallel()
	t.Run("CONNACK", func(t *testing.T) {
		b := start(t, Options{Authenticate: func(context.Context, Login) error { return errors.New("no") }})
		c := dial(t, b, "tcp")
		if ack := c.connect(packet.V5, "c"); ack.Code < 0x80 {
			t.Errorf("%v", ack.Code)
		}
		c.closes()
		c = dial(t, b, "tcp") // which takes no packet that large
		c.write(connectWith(packet.V5, 0x02, properties(packet.V5, "\x27\x00\x00\x00\x01"), field("c")))
		if got := c.rest(); got != "" {
			t.Errorf("%x", got)
		}
	})
	t.Run("DISCONNECT of the client", func(t *testing.T) {
		b := start(t, Options{})
		for _, code := range []byte{0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99} {
			c := connect(t, b, packet.V5, "c")
			c.write(whole(0xE0, string([]byte{code})))
			if got := c.rest(); got != "" {
				t.Errorf("%02x was answered by %x", code, got)
			}
		}
	})
	t.Run("DISCONNECT to a client that does not read", func(t *testing.T) {
		b := start(t, Options{tune: func(l *limits) { l.stall, l.farewell = time.Hour, 50*time.Millisecond }})
		c, pub := connect(t, b, packet.V5, "c"), connect(t, b, packet.V5, "pub")
		c.subscribe("a", 0)
		payload := strings.Repeat("x", 100_000)
		for range 200 {
			pub.send(outgoing("a", payload, 0, 0))
		}
		pub.nothing()
		c.write([]byte("\x00\x00"))
		waitFor(t, "the connection to end", func() bool { return b.find("c") == nil })
		pub.nothing()
	})
}
