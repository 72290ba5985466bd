package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What CONNECT says, byte by byte: protocol name, flags, and the payload that the flags announce.

// logins notes who asked to come in.
type logins struct {
	mu  sync.Mutex
	all []Login
}

func (l *logins) authenticate(_ context.Context, who Login) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	who.Password = append([]byte(nil), who.Password...)
	l.all = append(l.all, who)
	return nil
}

// take returns who asked since it was called last.
func (l *logins) take() []Login {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// [MQTT-3.1.2-1]: what calls itself other than MQTT is no CONNECT of ours: the connection ends, and nobody was let in.
func TestMQTT_3_1_2_1_ProtocolName(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		var asked logins
		b := start(t, Options{Authenticate: asked.authenticate})
		for _, name := range []string{"", "M", "MQT", "mqtt", "Mqtt", "MQTT ", "MQTTT", "MQIsdp", "HTTP", "\ufeffMQTT"} {
			c := dial(t, b, "tcp")
			c.write(whole(0x10, field(name), string([]byte{byte(v), 2, 0, 0}), properties(v), field("c")))
			c.v = packet.V311 // the broker may say who it is, in the form that everyone reads
			if p, err := c.next(); err == nil {
				if ack, ok := p.(*packet.Connack); !ok || ack.Code != packet.UnsupportedVersion {
					t.Errorf("%q: got %s", name, describe(p))
				}
				c.closes()
			}
		}
		if all := asked.take(); len(all) > 0 || b.find("c") != nil {
			t.Errorf("let in: %+v", all)
		}
	})
}

// [MQTT-3.1.2-3]: the reserved connect flag is 0, or the CONNECT is malformed, whatever else it says.
func TestMQTT_3_1_2_3_ReservedConnectFlag(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for _, bytes := range [][]byte{
			connectBytes(v, 0x03, field("c")),
			connectBytes(v, 0x01, field("c")),
			connectBytes(v, 0xC7, field("c"), properties(v), field("w"), field("gone"), field("user"), field("password")),
		} {
			c := dial(t, b, "tcp")
			c.v = v
			c.write(bytes)
			c.refused(packet.MalformedPacket)
		}
		if b.find("c") != nil {
			t.Error("a session was made")
		}
	})
}

// Without the Will flag, Will QoS and Will Retain are 0, and no Will is in the payload.
func TestMQTT_3_1_2_11_WillFlagsWithoutWill(t *testing.T) {
	refuses := func(flags byte, payload ...string) func(t *testing.T) {
		return func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				c := dial(t, start(t, Options{}), "tcp")
				c.v = v
				c.write(connectBytes(v, flags, payload...))
				c.refused(packet.MalformedPacket)
			})
		}
	}
	t.Run("[MQTT-3.1.2-11] Will QoS 1", refuses(0x0A, field("c")))
	t.Run("[MQTT-3.1.2-11] Will QoS 2", refuses(0x12, field("c")))
	t.Run("[MQTT-3.1.2-11] Will QoS 3", refuses(0x1A, field("c")))
	t.Run("[MQTT-3.1.2-13] Will Retain", refuses(0x22, field("c")))
	t.Run("[MQTT-3.1.2-13] Will Retain and QoS", refuses(0x3A, field("c")))
	t.Run("a Will in the payload", refuses(0x02, field("c"), field("w"), field("gone")))
}

// [MQTT-3.1.2-9]: with the Will flag, properties (version 5), topic and payload of the Will are there.
func TestMQTT_3_1_2_9_WillIsInThePayload(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for name, payload := range map[string]string{
			"no Will":               field("c"),
			"no topic":              field("c") + properties(v),
			"no payload":            field("c") + properties(v) + field("w"),
			"cut in its payload":    field("c") + properties(v) + field("w") + "\x00\x05go",
			"no payload's length":   field("c") + properties(v) + field("w") + "\x00",
			"cut in its topic":      field("c") + properties(v) + "\x00\x05w",
			"cut in its properties": field("c") + "\x09\x18",
		} {
			t.Run(name, func(t *testing.T) {
				c := dial(t, b, "tcp")
				c.v = v
				c.write(connectBytes(v, 0x06, payload))
				c.refused(packet.MalformedPacket)
			})
		}
	})
}

// [MQTT-3.1.2-12]: a Will has QoS 0, 1 or 2. Each of them is kept, and 3 is malformed.
func TestMQTT_3_1_2_12_WillQoS(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub := connect(t, b, v, "sub")
		sub.subscribe("w", 2)
		for qos := range byte(4) {
			c := dial(t, b, "tcp")
			c.v = v
			c.write(connectBytes(v, 0x06|qos<<3, field("c"), properties(v), field("w"), field("gone")))
			if qos == 3 {
				c.refused(packet.MalformedPacket)
				break
			}
			expect[*packet.Connack](c)
			_ = c.nc.Close()
			sub.gets("w", "gone", qos)
		}
		sub.nothing()
	})
}

// A Will with Will Retain is stored as well as sent to who is there; one without is only sent.
func TestMQTT_3_1_2_14_WillRetain(t *testing.T) {
	run := func(flags byte, stored bool) func(t *testing.T) {
		return func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				b := start(t, Options{})
				live := connect(t, b, v, "live")
				live.subscribe("w", 1)
				c := dial(t, b, "tcp")
				c.v = v
				c.write(connectBytes(v, flags, field("c"), properties(v), field("w"), field("gone")))
				expect[*packet.Connack](c)
				_ = c.nc.Close()
				if live.gets("w", "gone", 1).Retain {
					t.Error("it came with retain to who was there")
				}
				late := connect(t, b, v, "late")
				late.subscribe("w", 1)
				if stored && !late.gets("w", "gone", 1).Retain {
					t.Error("it was stored and came without retain")
				}
				late.nothing()
			})
		}
	}
	t.Run("[MQTT-3.1.2-14] not retained", run(0x0E, false))
	t.Run("[MQTT-3.1.2-15] retained", run(0x2E, true))
}

// User name and password are in the payload exactly when their flags say so.
func TestMQTT_3_1_2_16_UserNameAndPasswordFlags(t *testing.T) {
	refuses := func(flags byte, payload ...string) func(t *testing.T) {
		return func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				var asked logins
				c := dial(t, start(t, Options{Authenticate: asked.authenticate}), "tcp")
				c.v = v
				c.write(connectBytes(v, flags, payload...))
				c.refused(packet.MalformedPacket)
				if all := asked.take(); len(all) > 0 {
					t.Errorf("asked for %+v", all)
				}
			})
		}
	}
	t.Run("[MQTT-3.1.2-16] a user name without its flag", refuses(0x02, field("c"), field("user")))
	t.Run("[MQTT-3.1.2-17] the flag without a user name", refuses(0x82, field("c")))
	t.Run("[MQTT-3.1.2-17] the flag with half a user name", refuses(0x82, field("c"), "\x00\x04us"))
	t.Run("[MQTT-3.1.2-18] a password without its flag", refuses(0x82, field("c"), field("user"), field("password")))
	t.Run("[MQTT-3.1.2-19] the flag without a password", refuses(0xC2, field("c"), field("user")))
	t.Run("[MQTT-3.1.2-19] the flag with half a password", refuses(0xC2, field("c"), field("user"), "\x00\x08pass"))
	t.Run("what they announce is taken", func(t *testing.T) {
		each(t, func(t *testing.T, v packet.Version) {
			var asked logins
			b := start(t, Options{Authenticate: asked.authenticate})
			for _, test := range []struct {
				flags   byte
				payload string
				want    Login
				only5   bool
			}{
				{0x02, "", Login{}, false},
				{0x82, field("user"), Login{Username: "user"}, false},
				{0x82, field(""), Login{}, false},
				{0xC2, field("user") + field("\x00\xff"), Login{Username: "user", HasPassword: true, Password: []byte("\x00\xff")}, false},
				{0xC2, field("user") + field(""), Login{Username: "user", HasPassword: true}, false},
				{0x42, field("token"), Login{HasPassword: true, Password: []byte("token")}, true},
			} {
				if test.only5 && v != packet.V5 {
					continue
				}
				c := dial(t, b, "tcp")
				c.v = v
				c.write(connectBytes(v, test.flags, field("c"), test.payload))
				if ack := expect[*packet.Connack](c); ack.Code != packet.Success {
					t.Errorf("flags %02x: %v", test.flags, ack.Code)
				}
				all := asked.take()
				if len(all) != 1 || all[0].Username != test.want.Username || all[0].HasPassword != test.want.HasPassword || string(all[0].Password) != string(test.want.Password) {
					t.Errorf("flags %02x: asked for %+v, want %+v", test.flags, all, test.want)
				}
				c.hangUp("c") // the next is another user
			}
		})
	})
}

// [MQTT-3.1.3-1]: the payload has client id, Will properties, Will topic, Will payload, user name and password, in this order.
func TestMQTT_3_1_3_1_OrderOfThePayload(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		var asked logins
		b := start(t, Options{Authenticate: asked.authenticate})
		sub := connect(t, b, v, "sub")
		sub.subscribe("will/topic", 1)
		asked.take()
		c := dial(t, b, "tcp")
		c.v = v
		c.write(connectBytes(v, 0xCE, field("the id"), properties(v, "\x03", field("will type")), field("will/topic"), field("will payload"), field("the user"), field("the password")))
		if ack := expect[*packet.Connack](c); ack.Code != packet.Success {
			t.Fatal(ack.Code)
		}
		if all := asked.take(); len(all) != 1 || all[0].ClientID != "the id" || all[0].Username != "the user" || string(all[0].Password) != "the password" {
			t.Errorf("asked for %+v", all)
		}
		_ = c.nc.Close()
		p := sub.gets("will/topic", "will payload", 1)
		if v == packet.V5 && string(p.Properties.ContentType) != "will type" {
			t.Errorf("%+v", p.Properties)
		}
	})
}

// [MQTT-3.1.3-3]: a client id, though it may be empty, is the first thing in the payload.
func TestMQTT_3_1_3_3_ClientIDIsThere(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for _, payload := range []string{"", "\x00", "\x00\x02c"} {
			c := dial(t, b, "tcp")
			c.v = v
			c.write(connectBytes(v, 0x02, payload))
			c.refused(packet.MalformedPacket)
		}
	})
}

// [MQTT-3.1.3-5]: client ids of 1 to 23 letters and digits are let in, each of those characters among them.
func TestMQTT_3_1_3_5_LettersAndDigits(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		const all = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
		for n := 1; n <= 23; n++ {
			id := all[n : n+n]
			connect(t, b, v, id).leave(id)
		}
		for _, letter := range all {
			connect(t, b, v, string(letter)).leave(string(letter))
		}
	})
}

// [MQTT-3.1.3-10]: the user properties of a Will keep their order, those of one name too.
func TestMQTT_3_1_3_10_OrderOfUserPropertiesOfAWill(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V5, "sub")
	sub.subscribe("will", 1)
	w := aWill()
	for i := range 20 {
		w.Properties.User = append(w.Properties.User, packet.UserProperty{Key: []byte(fmt.Sprint("k", i%3)), Value: []byte(fmt.Sprint(20 - i))})
	}
	_ = connect(t, b, packet.V5, "mower", withWill(w)).nc.Close()
	if got := sub.gets("will", "gone", 1).Properties.User; fmt.Sprint(got) != fmt.Sprint(w.Properties.User) {
		t.Errorf("got %s, want %s", got, w.Properties.User)
	}
}

// What follows a CONNECT that is refused is not handled, however it was refused.
func TestMQTT_3_1_4_6_NothingAfterARefusal(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Authenticate: func(_ context.Context, l Login) error {
			if l.ClientID == "bad" {
				return errors.New("no")
			}
			return nil
		}})
		witness := connect(t, b, v, "witness")
		witness.subscribe("#", 0)
		after := string(whole(0x30, field("a"), properties(v), "x")) + string(whole(0x31, field("b"), properties(v), "x"))
		for name, bytes := range map[string][]byte{
			"not let in":          connectBytes(v, 0x02, field("bad")),
			"malformed":           connectBytes(v, 0x03, field("c")),
			"a Will on $SYS":      connectBytes(v, 0x06, field("c"), properties(v), field("$SYS/x"), field("gone")),
			"a wildcard":          connectBytes(v, 0x06, field("c"), properties(v), field("a/#"), field("gone")),
			"longer than it is":   connectBytes(v, 0x02, field("c"), "x"),
			"another protocol":    whole(0x10, field("MQTX"), string([]byte{byte(v), 2, 0, 0}), properties(v), field("c")),
			"another level":       whole(0x10, field("MQTT"), "\x07\x02\x00\x00", properties(v), field("c")),
			"with reserved flags": append([]byte{0x1F}, connectBytes(v, 0x02, field("c"))[1:]...),
		} {
			t.Run(name, func(t *testing.T) {
				c := dial(t, b, "tcp")
				c.v = v
				c.write([]byte(string(bytes) + after))
				if p, err := c.next(); err == nil {
					if ack, ok := p.(*packet.Connack); !ok || ack.Code == packet.Success {
						t.Errorf("got %s", describe(p))
					}
					c.closes()
				}
			})
		}
		witness.nothing()
		if n := b.Stats().Retained; n != 0 {
			t.Errorf("%d retained", n)
		}
	})
}

// [MQTT-3.1.2-7]: a Will is kept with the session, and may outlive its connection; it is that of the last CONNECT.
func TestMQTT_3_1_2_7_WillIsStoredWithTheSession(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V5, "sub")
	sub.subscribe("will/#", 1)
	will := func(name string, delay uint32) choice {
		w := delayed(delay)
		w.Topic = []byte("will/" + name)
		return withWill(w)
	}
	resume := func(p *packet.Connect) { p.CleanStart = false }
	connect(t, b, packet.V5, "mower", will("first", 100), expiry(100)).hangUp("mower")
	sub.nothing() // kept, with nobody connected
	connect(t, b, packet.V5, "mower", will("second", 0), expiry(100), resume).hangUp("mower")
	sub.gets("will/second", "gone", 1)
	sub.nothing()
	connect(t, b, packet.V5, "mower", expiry(100), resume).hangUp("mower") // none any more
	sub.nothing()
}

// [MQTT-3.1.2-10]: a Will that was published, or taken back by DISCONNECT, is not published again, however the session goes on.
func TestMQTT_3_1_2_10_WillIsPublishedOnce(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub := connect(t, b, v, "sub")
		sub.subscribe("will", 1)
		for _, goodbye := range []bool{false, true} {
			c := connect(t, b, v, "mower", keep, withWill(aWill()))
			if goodbye {
				c.leave("mower")
			} else {
				c.hangUp("mower")
				sub.gets("will", "gone", 1)
			}
			sub.nothing()
			connect(t, b, v, "mower", keep).hangUp("mower")
			connect(t, b, v, "mower", clean).hangUp("mower")
			sub.nothing()
		}
	})
}

// [MQTT-3.1.4-2]: a client that is not let in is told so in version 5, in 3.1.1 too, and its connection ends.
func TestMQTT_3_1_4_2_NotLetIn(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Authenticate: func(context.Context, Login) error { return errors.New("no") }})
		c := dial(t, b, "tcp")
		if ack := c.connect(v, "c"); ack.Code != packet.BadUserNameOrPassword {
			t.Errorf("%v", ack.Code)
		}
		c.closes()
		if b.find("c") != nil {
			t.Error("a session was made")
		}
	})
}

// [MQTT-3.1.2-28]: Response Information is not returned to who does not ask for it.
func TestMQTT_3_1_2_28_NoResponseInformationUnasked(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, how := range []choice{
		func(*packet.Connect) {},
		func(p *packet.Connect) { p.Properties.RequestResponse = packet.Some(byte(0)) },
	} {
		if _, ack := connected(t, b, packet.V5, "c", how); ack.Properties.ResponseInfo != nil {
			t.Errorf("got %q", ack.Properties.ResponseInfo)
		}
	}
}

// [MQTT-3.1.2-29]: who does not want problem information gets reason strings and user properties in PUBLISH, CONNACK and
// DISCONNECT only, whatever goes wrong.
func TestMQTT_3_1_2_29_NoProblemInformation(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := connect(t, b, packet.V5, "c", func(p *packet.Connect) { p.Properties.RequestProblem = packet.Some(byte(0)) })
	c.send(outgoing("$SYS/x", "x", 1, 1), outgoing("$SYS/x", "x", 2, 2), outgoing("nobody", "x", 1, 3),
		&packet.Ack{Kind: packet.PUBREC, ID: 4}, &packet.Ack{Kind: packet.PUBREL, ID: 5},
		&packet.Subscribe{ID: 6, Subscriptions: []packet.Subscription{{Filter: []byte("a#")}, {Filter: []byte(strings.Repeat("a/", maxLevels))}}},
		&packet.Unsubscribe{ID: 7, Filters: [][]byte{[]byte("never"), []byte("a#")}})
	seen := map[packet.Type]int{}
	for range 7 {
		p, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		var with packet.Properties
		failed := true
		switch p := p.(type) {
		case *packet.Ack:
			with, failed = p.Properties, p.Code != packet.Success
		case *packet.Suback:
			with = p.Properties
		case *packet.Unsuback:
			with = p.Properties
		}
		seen[p.Type()]++
		if !failed || with.ReasonString != nil || len(with.User) > 0 {
			t.Errorf("%s: reason %q, user properties %v", describe(p), with.ReasonString, with.User)
		}
	}
	if seen[packet.PUBACK] != 2 || len(seen) != 6 {
		t.Errorf("seen %v", seen)
	}
	// Those of a message are its own.
	c.subscribe("a", 0)
	c.send(&packet.Publish{Topic: []byte("a"), Properties: packet.Properties{User: []packet.UserProperty{{Key: []byte("k"), Value: []byte("v")}}}})
	if p := c.gets("a", "", 0); len(p.Properties.User) != 1 {
		t.Errorf("got %+v", p.Properties)
	}
}
