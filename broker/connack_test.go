package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// [MQTT-3.2.0-1]: nothing comes before CONNACK, however much is waiting for the session.
func TestMQTT_3_2_0_1_CONNACKComesFirst(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		c := connect(t, b, v, "c", keep)
		c.subscribe("a", 2)
		c.subscribe("b", 0)
		pub.publish("a", "in flight", 1)
		c.getsFirst("a", "in flight", 1)
		c.hangUp("c")
		for i := range 50 {
			pub.publish("a", fmt.Sprint(i), byte(1+i%2))
		}
		for range 20 {
			c = dial(t, b, "tcp")
			c.v = v
			for range 10 { // some that come just then
				pub.send(outgoing("b", "x", 0, 0))
			}
			p := &packet.Connect{ClientID: []byte("c")}
			keep(p)
			c.send(p, &packet.Pingreq{})
			if ack := expect[*packet.Connack](c); ack.Code != packet.Success || !ack.SessionPresent {
				t.Fatalf("%v, session present %t", ack.Code, ack.SessionPresent)
			}
			for expect[*packet.Publish](c).QoS == 0 {
			}
			c.hangUp("c")
		}
	})
}

// [MQTT-3.2.0-2]: there is one CONNACK in a connection, whatever the client sends.
func TestMQTT_3_2_0_2_OneCONNACK(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := dial(t, b, "tcp")
		c.v = v
		c.write(append(connectBytes(v, 0x02, field("c")), connectBytes(v, 0x02, field("c"))...))
		expect[*packet.Connack](c)
		c.ends(packet.ProtocolError) // and nothing else
	})
}

// The first byte of CONNACK says whether a session is present, and nothing else.
func TestMQTT_3_2_2_1_AcknowledgeFlags(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Authenticate: func(_ context.Context, l Login) error {
			if l.ClientID == "bad" {
				return errors.New("no")
			}
			return nil
		}})
		expiry := properties(v, "\x11\xff\xff\xff\xff")
		connack := func(bytes []byte) (flags, code byte) {
			t.Helper()
			c := dial(t, b, "tcp")
			c.write(bytes)
			head := c.read(2)
			body := c.read(int(head[1]))
			if head[0] != 0x20 {
				t.Fatalf("got %x%x", head, body)
			}
			_ = c.nc.Close()
			return body[0], body[1]
		}
		for _, step := range []struct {
			name  string
			bytes []byte
			flags byte
			ok    bool
		}{
			{"[MQTT-3.2.2-2] clean start, none before", connectWith(v, 0x02, expiry, field("clean")), 0, true},
			{"[MQTT-3.2.2-3] new session", connectWith(v, 0x00, expiry, field("c")), 0, true},
			{"[MQTT-3.2.2-3] session present", connectWith(v, 0x00, expiry, field("c")), 1, true},
			{"[MQTT-3.2.2-6] refused while its session is present", connectWith(v, 0x06, expiry, field("c"), properties(v), field("$SYS"), field("x")), 0, false},
			{"[MQTT-3.2.2-6] not let in", connectWith(v, 0x00, expiry, field("bad")), 0, false},
			{"[MQTT-3.2.2-3] still present", connectWith(v, 0x00, expiry, field("c")), 1, true},
			{"[MQTT-3.2.2-2] clean start, one before", connectWith(v, 0x02, expiry, field("c")), 0, true},
		} {
			flags, code := connack(step.bytes)
			if flags != step.flags || (code == 0) != step.ok {
				t.Errorf("%s: flags %08b, code %02x", step.name, flags, code)
			}
		}
	})
}

func TestMQTT_3_2_2_2_CleanStartHasNoSession(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for range 3 {
			c, ack := connected(t, b, v, "c", keep, clean)
			if ack.SessionPresent || ack.Code != packet.Success {
				t.Errorf("%v, session present %t", ack.Code, ack.SessionPresent)
			}
			c.hangUp("c")
			connect(t, b, v, "c", keep).hangUp("c")
		}
	})
}

func TestMQTT_3_2_2_3_SessionPresentOnlyWhenItIs(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for i := range 4 {
			c, ack := connected(t, b, v, "c", keep)
			if ack.SessionPresent != (i > 0) || ack.Code != packet.Success {
				t.Errorf("connection %d: %v, session present %t", i, ack.Code, ack.SessionPresent)
			}
			c.hangUp("c")
		}
		if _, ack := connected(t, b, v, "other", keep); ack.SessionPresent {
			t.Error("the session of another client is present")
		}
	})
}

// refusals are CONNECTs that are refused with a CONNACK, and their codes; old is the return code of 3.1.1, 0 when it has none.
var refusals = []struct {
	name string
	how  choice
	code packet.Code
	old  packet.Code
	only packet.Version // 0 is both
}{
	{"not let in", func(p *packet.Connect) { p.HasUser, p.Username = true, []byte("nobody") }, packet.BadUserNameOrPassword, packet.BadUserNameOrPassword, 0},
	{"a Will on $SYS", withWill(&packet.Will{Topic: []byte("$SYS/x")}), packet.NotAuthorized, packet.NotAuthorized, 0},
	{"a Will on too many levels", withWill(&packet.Will{Topic: []byte(strings.Repeat("/", maxLevels))}), packet.TopicNameInvalid, packet.NotAuthorized, 0},
	{"an authentication method", func(p *packet.Connect) { p.Properties.AuthMethod = []byte("SCRAM-SHA-1") }, packet.BadAuthenticationMethod, 0, packet.V5},
	{"an empty client id without clean session", func(p *packet.Connect) { p.ClientID, p.CleanStart = nil, false }, 0, packet.ClientIDNotValid, packet.V311},
}

// refusing starts a broker that refuses them.
func refusing(t *testing.T) *Broker {
	return start(t, Options{Authenticate: func(_ context.Context, l Login) error {
		if l.Username == "nobody" {
			return errors.New("no")
		}
		return nil
	}})
}

// A refusal has no session present, one of the codes that there are for CONNACK, and ends the connection; also when the
// session is there.
func TestMQTT_3_2_2_6_Refusals(t *testing.T) {
	run := func(check func(t *testing.T, c *raw, ack *packet.Connack, want packet.Code)) func(t *testing.T) {
		return func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				b := refusing(t)
				connect(t, b, v, "c", keep).hangUp("c")
				for _, r := range refusals {
					if r.only != 0 && r.only != v {
						continue
					}
					want := r.code
					if v == packet.V311 {
						want = r.old
					}
					c := dial(t, b, "tcp")
					t.Log(r.name)
					check(t, c, c.connect(v, "c", keep, r.how), want)
				}
			})
		}
	}
	t.Run("[MQTT-3.2.2-6] no session present", run(func(t *testing.T, _ *raw, ack *packet.Connack, _ packet.Code) {
		if ack.Code == packet.Success || ack.SessionPresent {
			t.Errorf("%v, session present %t", ack.Code, ack.SessionPresent)
		}
	}))
	t.Run("[MQTT-3.2.2-7] the connection ends", run(func(_ *testing.T, c *raw, _ *packet.Connack, _ packet.Code) { c.closes() }))
	t.Run("[MQTT-3.2.2-8] its codes", run(func(t *testing.T, _ *raw, ack *packet.Connack, want packet.Code) {
		if ack.Code != want {
			t.Errorf("%v, want %v", ack.Code, want)
		}
	}))
}

// [MQTT-3.2.2-16]: a client without an id is told one that no other session has, and may come back with it.
func TestMQTT_3_2_2_16_AssignedClientID(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	seen := map[string]bool{}
	for i := range 20 {
		how := []choice{keep, clean}[i%2]
		_, ack := connected(t, b, packet.V5, "", how)
		id := string(ack.Properties.AssignedClientID)
		if id == "" || seen[id] || ack.SessionPresent {
			t.Errorf("%q was assigned, session present %t", id, ack.SessionPresent)
		}
		seen[id] = true
	}
	if n := b.Stats().Sessions; n != 20 {
		t.Errorf("%d sessions", n)
	}
}

// Reason strings of CONNACK fit in what the client takes: they are left out rather than the packet.
func TestMQTT_3_2_2_19_CONNACKFits(t *testing.T) {
	t.Parallel()
	b := refusing(t)
	sizes := map[bool]int{}
	for most := uint32(5); most < 100; most++ {
		for _, r := range refusals {
			if r.only == packet.V311 {
				continue
			}
			c := dial(t, b, "tcp")
			ack := c.connect(packet.V5, "c", r.how, maximumPacket(most))
			out, err := ack.Append(nil, packet.V5)
			if err != nil || len(out) > int(most) || ack.Code != r.code {
				t.Fatalf("%s: %v in %d bytes for a client that takes %d", r.name, ack.Code, len(out), most)
			}
			sizes[len(ack.Properties.ReasonString) > 0]++
			c.closes()
		}
	}
	t.Logf("[MQTT-3.2.2-19] with a reason string %d, without %d", sizes[true], sizes[false])
	if sizes[true] == 0 || sizes[false] == 0 {
		t.Error("the sizes are all on one side of the limit")
	}
}

// A client that does not take even the smallest CONNACK is not let in: it could not be told.
func TestMQTT_3_1_4_5_CONNACKThatDoesNotFit(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for most := uint32(1); most < 100; most++ {
		c := dial(t, b, "tcp")
		c.v = packet.V5
		p := &packet.Connect{CleanStart: true}
		maximumPacket(most)(p)
		c.send(p, &packet.Pingreq{})
		first, err := c.next()
		if err != nil {
			if most >= 5 { // what a refusal needs
				t.Errorf("maximum %d: %v", most, err)
			}
			continue
		}
		ack, ok := first.(*packet.Connack)
		if !ok {
			t.Fatalf("maximum %d: got %s before CONNACK", most, describe(first))
		}
		if out, err := ack.Append(nil, packet.V5); err != nil || len(out) > int(most) {
			t.Errorf("maximum %d: CONNACK of %d bytes", most, len(out))
		}
		if ack.Code == packet.Success {
			if ack.Properties.AssignedClientID == nil || ack.Properties.MaximumPacketSize.V == 0 {
				t.Errorf("maximum %d: %+v", most, ack.Properties)
			}
			expect[*packet.Pingresp](c)
			_ = c.nc.Close()
		} else if ack.Code != packet.PacketTooLarge {
			t.Errorf("maximum %d: %v", most, ack.Code)
		}
	}
	waitFor(t, "nobody to be left", func() bool { return b.Stats().Sessions == 0 })
}

// [MQTT-3.2.2-22]: without a keep alive of the broker's own, the client's holds.
func TestMQTT_3_2_2_22_KeepAliveOfTheClient(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c, ack := connected(t, b, v, "c", keepAlive(1))
		long := connect(t, b, v, "long", keepAlive(60))
		if ack.Properties.ServerKeepAlive.OK {
			t.Errorf("told %d", ack.Properties.ServerKeepAlive.V)
		}
		c.ends(packet.KeepAliveTimeout)
		long.nothing()
	})
}

// CONNACK does not say that something is missing, and nothing is: QoS 2, retained messages, wildcards, subscription
// identifiers, shared subscriptions.
func TestNothingIsMissing(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c, ack := connected(t, b, packet.V5, "c", withWill(&packet.Will{Topic: []byte("w"), QoS: 2, Retain: true}))
	p := ack.Properties
	if p.MaximumQoS.OK || p.RetainAvailable.OK || p.WildcardAvailable.OK || p.SubIDAvailable.OK || p.SharedAvailable.OK || len(p.User) > 0 {
		t.Errorf("%+v", p)
	}
	c.subscribeID("a/#", 2, 5)
	c.subscribe("$share/g/b", 2)
	pub := connect(t, b, packet.V5, "pub")
	pub.publish("a/b", "x", 2, retain)
	if m := c.gets("a/b", "x", 2); fmt.Sprint(m.Properties.SubscriptionIDs) != "[5]" {
		t.Errorf("identifiers %v", m.Properties.SubscriptionIDs)
	}
	pub.publish("b", "x", 2)
	c.gets("b", "x", 2)
	late := connect(t, b, packet.V5, "late")
	late.subscribe("+/b", 2)
	late.gets("a/b", "x", 2)
}
