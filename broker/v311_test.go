package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What MQTT 3.1.1 says and 5.0 does not, or says otherwise; the numbers are those of 3.1.1. It has no reason codes: what is
// wrong ends the connection without a word.

// read311 sends bytes on a new connection, and returns all that comes back until it is closed.
func read311(t *testing.T, b *Broker, bytes ...string) string {
	t.Helper()
	c := dial(t, b, "tcp")
	c.write([]byte(strings.Join(bytes, "")))
	_ = c.nc.SetReadDeadline(time.Now().Add(patient))
	var got []byte
	for {
		buf := make([]byte, 100)
		n, err := c.nc.Read(buf)
		got = append(got, buf[:n]...)
		if isTimeout(err) {
			t.Fatalf("%x is answered with %x, and the connection stays open", bytes, got)
		}
		if err != nil {
			return string(got)
		}
	}
}

// connect311 returns the bytes of a CONNECT.
func connect311(flags byte, payload ...string) string {
	return string(connectBytes(packet.V311, flags, payload...))
}

const accepted311 = "\x20\x02\x00\x00"

// [MQTT-3.1.2-2] of 3.1.1: a level that is not supported gets return code 1, and then the connection ends.
func TestMQTT311_3_1_2_2_UnacceptableLevel(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, level := range []byte{0, 1, 2, 3, 0x83, 0x84, 0xFF} {
		got := read311(t, b, string(whole(0x10, field("MQTT"), string([]byte{level, 2, 0, 0}), field("c"))), "\xc0\x00")
		if got != "\x20\x02\x00\x01" {
			t.Errorf("level %d: %x", level, got)
		}
	}
}

// [MQTT-3.1.2-6] of 3.1.1: a session with clean session lasts as long as its connection, and nothing of it is used again.
func TestMQTT311_3_1_2_6_CleanSessionEndsWithItsConnection(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub := connect(t, b, packet.V311, "pub")
	c := connect(t, b, packet.V311, "c", clean)
	c.subscribe("a", 1)
	pub.publish("a", "x", 1)
	c.getsFirst("a", "x", 1)
	c.hangUp("c")
	waitFor(t, "the session to end", func() bool { return b.find("c") == nil })
	pub.publish("a", "y", 1)
	c, ack := connected(t, b, packet.V311, "c", keep)
	if ack.SessionPresent {
		t.Error("session present")
	}
	c.nothing()
	pub.publish("a", "z", 1)
	c.nothing()
}

// [MQTT-3.1.2-4], [MQTT-3.1.2-5] of 3.1.1: a session without clean session is kept, and takes what comes with QoS 1 and 2.
func TestMQTT311_3_1_2_5_SessionIsKept(t *testing.T) {
	t.Run("[MQTT-3.1.2-4] of 3.1.1: kept", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		for i := range 3 {
			c, ack := connected(t, b, packet.V311, "c", keep)
			if ack.SessionPresent != (i > 0) {
				t.Errorf("connection %d: session present %t", i, ack.SessionPresent)
			}
			if i == 0 {
				c.subscribe("a", 1)
			}
			c.send(outgoing("a", "x", 0, 0))
			c.gets("a", "x", 0)
			if i == 1 {
				c.leave("c")
			} else {
				c.hangUp("c")
			}
		}
	})
	t.Run("[MQTT-3.1.2-5] of 3.1.1: messages are stored", func(t *testing.T) {
		t.Parallel()
		b := start(t, Options{})
		pub, c := connect(t, b, packet.V311, "pub"), connect(t, b, packet.V311, "c", keep)
		c.subscribe("a", 2)
		c.hangUp("c")
		for i := range 10 {
			pub.publish("a", fmt.Sprint(i), byte(1+i%2))
		}
		c = connect(t, b, packet.V311, "c", keep)
		for i := range 10 {
			if p := c.getsFirst("a", fmt.Sprint(i), byte(1+i%2)); p.Dup {
				t.Errorf("got %s", describe(p))
			}
		}
		c.nothing()
	})
}

// [MQTT-3.1.2-7] of 3.1.1: retained messages are no part of a session, and stay when it ends.
func TestMQTT311_3_1_2_7_RetainedMessagesStay(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for i, how := range []choice{clean, keep} {
			c := connect(t, b, v, "c", how)
			c.publish(fmt.Sprint("a/", i), "x", 1, retain)
			c.leave("c")
			connect(t, b, v, "c", clean).leave("c")
			waitFor(t, "the session to end", func() bool { return b.find("c") == nil })
			late := connect(t, b, v, "late")
			late.subscribe(fmt.Sprint("a/", i), 1)
			late.gets(fmt.Sprint("a/", i), "x", 1)
			late.leave("late")
		}
	})
}

// [MQTT-3.1.2-12] of 3.1.1: without the Will flag no Will is published, not that of an earlier connection either.
func TestMQTT311_3_1_2_12_NoWillWithoutItsFlag(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		witness := connect(t, b, v, "witness")
		witness.subscribe("#", 2)
		connect(t, b, v, "mower", keep, withWill(aWill())).hangUp("mower")
		witness.gets("will", "gone", 1)
		for _, how := range []choice{keep, clean} {
			connect(t, b, v, "mower", how).hangUp("mower")
			c := connect(t, b, v, "mower", how)
			c.write([]byte{0, 0})
			c.ends(packet.MalformedPacket)
			connect(t, b, v, "mower", how).leave("mower")
		}
		witness.nothing()
	})
}

// [MQTT-3.1.2-22] of 3.1.1: without a user name there is no password.
func TestMQTT311_3_1_2_22_NoPasswordWithoutUserName(t *testing.T) {
	t.Parallel()
	var asked logins
	b := start(t, Options{Authenticate: asked.authenticate})
	for _, bytes := range []string{
		connect311(0x42, field("c"), field("password")),
		connect311(0x46, field("c"), field("w"), field("gone"), field("password")),
	} {
		if got := read311(t, b, bytes); got != "" {
			t.Errorf("answered with %x", got)
		}
	}
	if all := asked.take(); len(all) > 0 {
		t.Errorf("asked for %+v", all)
	}
}

// An empty client id needs clean session: with it the client gets a session of its own, without it return code 2.
func TestMQTT311_3_1_3_8_EmptyClientID(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	t.Run("[MQTT-3.1.3-8] of 3.1.1: refused without clean session", func(t *testing.T) {
		if got := read311(t, b, connect311(0x00, field("")), "\xc0\x00"); got != "\x20\x02\x00\x02" {
			t.Errorf("%x", got)
		}
		if n := b.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions", n)
		}
	})
	t.Run("[MQTT-3.1.3-6] of 3.1.1: let in with it", func(t *testing.T) {
		var all []*raw
		for range 5 {
			c, ack := connected(t, b, packet.V311, "")
			if ack.SessionPresent {
				t.Error("session present")
			}
			c.subscribe("a", 0)
			all = append(all, c)
		}
		connect(t, b, packet.V311, "pub").publish("a", "x", 0)
		for _, c := range all { // nobody has taken another's session
			c.gets("a", "x", 0)
			c.nothing()
		}
	})
}

// [MQTT-3.1.3-9] of 3.1.1: a client id that is refused gets return code 2, and the connection ends. The only one that is refused is
// the empty one.
func TestMQTT311_3_1_3_9_RefusedClientID(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, bytes := range []string{connect311(0x00, field("")), connect311(0x80, field(""), field("user")), connect311(0x04, field(""), field("w"), field("gone"))} {
		if got := read311(t, b, bytes); got != "\x20\x02\x00\x02" {
			t.Errorf("%x", got)
		}
	}
}

// [MQTT-3.1.4-1] of 3.1.1: a CONNECT that is not as it should be gets no CONNACK; the connection ends.
func TestMQTT311_3_1_4_1_NoCONNACKForABadCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for name, bytes := range map[string]string{
		"reserved flag":        connect311(0x03, field("c")),
		"flags of the header":  "\x11" + connect311(0x02, field("c"))[1:],
		"Will QoS 3":           connect311(0x1E, field("c"), field("w"), field("gone")),
		"Will QoS alone":       connect311(0x0A, field("c")),
		"Will Retain alone":    connect311(0x22, field("c")),
		"no Will":              connect311(0x06, field("c")),
		"half a Will":          connect311(0x06, field("c"), field("w")),
		"no client id":         connect311(0x02),
		"client id with NUL":   connect311(0x02, field("a\x00")),
		"no user name":         connect311(0x82, field("c")),
		"no password":          connect311(0xC2, field("c"), field("user")),
		"more than its fields": connect311(0x02, field("c"), "x"),
		"properties":           string(connectWith(packet.V311, 0x02, "\x00", field("c"))),
		"wildcard in the Will": connect311(0x06, field("c"), field("#"), field("gone")),
		"empty Will topic":     connect311(0x06, field("c"), field(""), field("gone")),
		"no flags":             string(whole(0x10, field("MQTT"), "\x04")),
		"no keep alive":        string(whole(0x10, field("MQTT"), "\x04\x02")),
	} {
		if got := read311(t, b, bytes, "\xc0\x00"); got != "" {
			t.Errorf("%s: answered with %x", name, got)
		}
	}
	if n := b.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// [MQTT-3.1.4-2] of 3.1.1: whose client id is used by another is disconnected, without a packet: there is none for that.
func TestMQTT311_3_1_4_2_Takeover(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, v := range []packet.Version{packet.V311, packet.V5} {
		old := connect(t, b, packet.V311, "c")
		c := connect(t, b, v, "c")
		old.closes()
		c.nothing()
	}
}

// [MQTT-3.1.4-5] of 3.1.1: what follows a CONNECT that is refused is not handled.
func TestMQTT311_3_1_4_5_NothingAfterARefusal(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	witness := connect(t, b, packet.V311, "witness")
	witness.subscribe("#", 0)
	if got := read311(t, b, connect311(0x00, field("")), "\x31\x04\x00\x01ax", "\xc0\x00"); got != "\x20\x02\x00\x02" {
		t.Errorf("%x", got)
	}
	witness.nothing()
	if n := b.Stats().Retained; n != 0 {
		t.Errorf("%d retained", n)
	}
}

// [MQTT-3.2.0-1] of 3.1.1: the first packet from the broker is CONNACK; before CONNECT it says nothing.
func TestMQTT311_3_2_0_1_NothingBeforeCONNACK(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, first := range []string{"\xc0\x00", "\x82\x06\x00\x01\x00\x01a\x00", "\x32\x06\x00\x01a\x00\x01x", "\xe0\x00"} {
		if got := read311(t, b, first+connect311(0x02, field("c"))); got != "" {
			t.Errorf("%x was answered with %x", first, got)
		}
	}
	if got := read311(t, b, connect311(0x02, field("c")), "\xc0\x00", "\xe0\x00"); got != accepted311+"\xd0\x00" {
		t.Errorf("%x", got)
	}
}

// The session present flag and the return code of CONNACK, byte by byte.
func TestMQTT311_3_2_2_1_CONNACK(t *testing.T) {
	run := func(want string, bytes ...string) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{Authenticate: func(_ context.Context, l Login) error {
				if l.Username == "nobody" {
					return errors.New("no")
				}
				return nil
			}})
			for i, connect := range bytes {
				got := read311(t, b, connect, "\xe0\x00")
				waitFor(t, "the connection to end", func() bool { s := b.find("c"); return s == nil || s.holder() == nil })
				if i == len(bytes)-1 && got != want {
					t.Errorf("got %x, want %x", got, want)
				}
			}
		}
	}
	keeping, cleaning := connect311(0x00, field("c")), connect311(0x02, field("c"))
	nobody := connect311(0x80, field("c"), field("nobody"))
	t.Run("[MQTT-3.2.2-1] of 3.1.1: clean session, none before", run(accepted311, cleaning))
	t.Run("[MQTT-3.2.2-1] of 3.1.1: clean session, one before", run(accepted311, keeping, cleaning))
	t.Run("[MQTT-3.2.2-2] of 3.1.1: a session is there", run("\x20\x02\x01\x00", keeping, keeping))
	t.Run("[MQTT-3.2.2-3] of 3.1.1: none is there", run(accepted311, keeping))
	t.Run("[MQTT-3.2.2-3] of 3.1.1: it was ended by clean session", run(accepted311, keeping, cleaning, keeping))
	t.Run("[MQTT-3.2.2-4] of 3.1.1: none is present in a refusal", run("\x20\x02\x00\x04", keeping, nobody))
	t.Run("[MQTT-3.2.2-5] of 3.1.1: a refusal ends the connection", run("\x20\x02\x00\x04", nobody))
	t.Run("the refusal leaves the session alone", run("\x20\x02\x01\x00", keeping, nobody, keeping))
}

// [MQTT-3.3.1-7] of 3.1.1: a QoS 0 message with retain takes the place of what was stored before.
func TestMQTT311_3_3_1_7_QoS0ReplacesWhatIsStored(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		pub := connect(t, b, v, "pub")
		for qos := range byte(3) {
			pub.publish("a", "old", qos, retain)
			pub.publish("a", "new", 0, retain)
			c := connect(t, b, v, "late")
			c.subscribe("a", 2)
			c.gets("a", "new", 0)
			c.nothing()
			c.leave("late")
		}
	})
}

// Retained messages in 3.1.1: the flag is set on what comes with a subscription, and never on what comes live.
func TestMQTT311_3_3_1_8_RetainFlag(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	pub, c := connect(t, b, packet.V311, "pub"), connect(t, b, packet.V311, "c")
	t.Run("[MQTT-3.3.1-9] of 3.1.1: not on live messages", func(t *testing.T) {
		c.subscribe("#", 2)
		for qos := range byte(3) {
			pub.publish("a", "x", qos, retain)
			if c.gets("a", "x", qos).Retain {
				t.Errorf("QoS %d came with retain", qos)
			}
		}
	})
	t.Run("[MQTT-3.3.1-6] [MQTT-3.3.1-8] of 3.1.1: on stored ones, at every SUBSCRIBE", func(t *testing.T) {
		for _, filter := range []string{"a", "+", "a", "#"} {
			c.subscribe(filter, 2)
			if !c.gets("a", "x", 2).Retain {
				t.Errorf("%s brought it without retain", filter)
			}
			c.nothing()
		}
	})
}

// [MQTT-3.3.5-2] of 3.1.1: a PUBLISH that is not allowed is acknowledged like any other, and goes nowhere.
func TestMQTT311_3_3_5_2_NotAllowedAndAcknowledged(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	witness := connect(t, b, packet.V311, "witness")
	witness.subscribe("$SYS/#", 2)
	c := connect(t, b, packet.V311, "c")
	for id := uint16(1); id < 5; id++ {
		c.publish("$SYS/x", "x", 0, retain)
		c.send(outgoing("$SYS/x", "x", 1, id))
		c.expectAck(packet.PUBACK, id)
		c.send(outgoing("$SYS/x", "x", 2, id))
		c.expectAck(packet.PUBREC, id)
		c.release(id)
	}
	witness.nothing()
	if n := b.Stats().Retained; n != 0 {
		t.Errorf("%d retained", n)
	}
}

// [MQTT-3.8.3-4] of 3.1.1: QoS 3 and reserved bits in SUBSCRIBE end the connection, also in a later filter; none is subscribed.
func TestMQTT311_3_8_3_4_ReservedBitsOfSUBSCRIBE(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for options := 3; options < 256; options++ {
		got := read311(t, b, connect311(0x02, field("c")), string(whole(0x82, "\x00\x01", field("fine"), "\x01", field("a"), string([]byte{byte(options)}))))
		if got != accepted311 {
			t.Fatalf("options %02x: %x", options, got)
		}
	}
	waitFor(t, "nothing to be left", func() bool { return b.Stats().Subscriptions == 0 })
}

// [MQTT-3.9.3-2] of 3.1.1: SUBACK has the return codes 0, 1, 2 and 0x80, whatever is wrong with a filter.
func TestMQTT311_3_9_3_2_ReturnCodesOfSUBACK(t *testing.T) {
	t.Parallel()
	b := start(t, Options{tune: func(l *limits) { l.subscriptions = 5 }})
	c := connect(t, b, packet.V311, "c")
	var body, want string
	for _, f := range []struct {
		filter string
		qos    byte
		code   byte
	}{
		{"a", 0, 0}, {"b", 1, 1}, {"c", 2, 2}, {"a#", 1, 0x80}, {"", 0, 0x80}, {"+a", 2, 0x80}, {strings.Repeat("a/", maxLevels), 0, 0x80},
		{"d/#", 1, 1}, {"$share/g/e", 2, 2}, {"one/too/many", 0, 0x80}, {"a", 2, 2},
	} {
		body += field(f.filter) + string([]byte{f.qos})
		want += string([]byte{f.code})
	}
	c.write(whole(0x82, "\x00\x09", body))
	want = string(whole(0x90, "\x00\x09", want))
	if got := c.read(len(want)); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	c.nothing()
}

// UNSUBACK in 3.1.1 has nothing but its identifier, whether there was something to end or not.
func TestMQTT311_3_10_4_5_UNSUBACK(t *testing.T) {
	t.Parallel()
	c := connect(t, start(t, Options{}), packet.V311, "c")
	c.subscribe("a", 1)
	for range 2 {
		c.write(whole(0xA2, "\x12\x34", field("a"), field("never"), field("a#")))
		if got := c.read(4); got != "\xb0\x02\x12\x34" {
			t.Errorf("%x", got)
		}
		c.nothing()
	}
}

// [MQTT-3.14.4-3] of 3.1.1: DISCONNECT takes the Will back; with a body it is none, and the Will is published.
func TestMQTT311_3_14_4_3_DISCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V311, "sub")
	sub.subscribe("will", 1)
	for _, test := range []struct {
		bytes string
		want  bool
	}{{"\xe0\x00", false}, {"\xe0\x01\x00", true}, {"\xe1\x00", true}, {"\xe0\x02\x00\x00", true}} {
		c := connect(t, b, packet.V311, "c", withWill(aWill()))
		c.write([]byte(test.bytes))
		c.closes()
		waitFor(t, "the session to end", func() bool { return b.find("c") == nil })
		if test.want {
			sub.gets("will", "gone", 1)
		}
		sub.nothing()
	}
}

// [MQTT-4.8.0-1] of 3.1.1: what breaks the protocol ends the connection it came on, without a word, and no other.
func TestMQTT311_4_8_0_1_ViolationsEndTheConnection(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	witness := connect(t, b, packet.V311, "witness")
	witness.subscribe("#", 0)
	for _, bytes := range []string{
		connect311(0x02, field("c")), accepted311, "\x00\x00", "\xf0\x00", "\xd0\x00", "\x90\x03\x00\x01\x00", "\xb0\x02\x00\x01",
		"\x36\x06\x00\x01a\x00\x01x", "\x32\x06\x00\x01a\x00\x00x", "\x30\x02\x00\x00", "\x60\x02\x00\x01", "\x40\x00", "\xc0\x01\x00",
		"\x82\x02\x00\x01", "\xa2\x02\x00\x01", "\x30\xff\xff\xff\xff\x01",
	} {
		if got := read311(t, b, connect311(0x02, field("c")), bytes); got != accepted311 {
			t.Errorf("%x was answered with %x", bytes, got)
		}
	}
	witness.nothing()
}

// [MQTT-4.8.0-2] of 3.1.1: a message that cannot be stored just now ends its publisher's connection, unacknowledged; all
// others go on, and the publisher may come back.
func TestMQTT311_4_8_0_2_TransientErrors(t *testing.T) {
	t.Parallel()
	disk := &failing{}
	b := start(t, Options{Dir: t.TempDir(), tune: func(l *limits) { l.store.FS = errorfs.Wrap(vfs.Default, disk) }})
	connect(t, b, packet.V311, "away", keep).hangUp("away")
	away := connect(t, b, packet.V311, "away", keep)
	away.subscribe("kept", 2)
	away.hangUp("away")
	live := connect(t, b, packet.V311, "live")
	live.subscribe("live", 2)
	disk.full.Store(true)
	for _, qos := range []byte{1, 2} {
		c := connect(t, b, packet.V311, "c")
		c.send(outgoing("kept", "x", qos, 9))
		c.closes()
		c = connect(t, b, packet.V311, "c")
		c.publish("live", "x", qos)
		live.gets("live", "x", qos)
	}
	disk.full.Store(false)
	live.nothing()
}
