package broker

import (
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Which properties a packet may have (section 2.2.2.2), how often, and with which values: over a connection; every property
// in every packet is what the tests of the decoder are about.

// everyProperty has an example of each property.
var everyProperty = map[string]string{
	"payload format": "\x01\x01", "message expiry": "\x02\x00\x00\x00\x09", "content type": "\x03\x00\x01t", "response topic": "\x08\x00\x01r",
	"correlation data": "\x09\x00\x01c", "subscription identifier": "\x0b\x01", "session expiry": "\x11\x00\x00\x00\x09",
	"assigned client id": "\x12\x00\x01i", "server keep alive": "\x13\x00\x09", "authentication method": "\x15\x00\x01m",
	"authentication data": "\x16\x00\x01d", "request problem": "\x17\x01", "Will delay": "\x18\x00\x00\x00\x09", "request response": "\x19\x00",
	"response information": "\x1a\x00\x01i", "server reference": "\x1c\x00\x01s", "reason string": "\x1f\x00\x01r", "receive maximum": "\x21\x00\x09",
	"alias maximum": "\x22\x00\x09", "alias": "\x23\x00\x01", "maximum QoS": "\x24\x01", "retain available": "\x25\x01",
	"user property": "\x26\x00\x01k\x00\x01v", "maximum packet size": "\x27\x00\x01\x00\x00", "wildcards": "\x28\x01", "identifiers": "\x29\x01", "shared": "\x2a\x01",
	"no property": "\x04\x00", "none of them": "\x7f\x00",
}

// [MQTT-3.1.4-1]: CONNECT and its Will have their own properties, once each, in their range; others make it malformed.
func TestMQTT_3_1_4_1_PropertiesOfCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	inConnect := map[string]bool{"session expiry": true, "receive maximum": true, "maximum packet size": true, "alias maximum": true,
		"request response": true, "request problem": true, "user property": true, "authentication method": true, "authentication data": true}
	inWill := map[string]bool{"Will delay": true, "payload format": true, "message expiry": true, "content type": true, "response topic": true,
		"correlation data": true, "user property": true}
	send := func(props, will string) *packet.Connack {
		t.Helper()
		c := dial(t, b, "tcp")
		c.write(connectWith(packet.V5, 0x06, properties(packet.V5, props), field("c"), properties(packet.V5, will), field("w"), field("gone")))
		ack := expect[*packet.Connack](c)
		if ack.Code != packet.Success {
			c.closes()
		} else {
			c.leave("c")
		}
		return ack
	}
	for name, property := range everyProperty {
		once, twice, other := packet.Success, packet.ProtocolError, packet.Success
		switch name {
		case "authentication method":
			once = packet.BadAuthenticationMethod // there are none
		case "authentication data":
			once = packet.ProtocolError // without a method
		case "user property":
			twice = packet.Success
		}
		if !inConnect[name] {
			once, twice = packet.MalformedPacket, packet.MalformedPacket
		}
		if !inWill[name] {
			other = packet.MalformedPacket
		}
		if ack := send(property, ""); ack.Code != once {
			t.Errorf("%s: %v, want %v", name, ack.Code, once)
		}
		if ack := send(property+property, ""); ack.Code != twice {
			t.Errorf("%s, twice: %v, want %v", name, ack.Code, twice)
		}
		if ack := send("", property); ack.Code != other {
			t.Errorf("%s in the Will: %v, want %v", name, ack.Code, other)
		}
		if other == packet.Success && name != "user property" {
			if ack := send("", property+property); ack.Code != packet.ProtocolError {
				t.Errorf("%s in the Will, twice: %v", name, ack.Code)
			}
		}
	}
	for name, property := range map[string]string{
		"receive maximum 0": "\x21\x00\x00", "maximum packet size 0": "\x27\x00\x00\x00\x00", "request problem 2": "\x17\x02", "request response 2": "\x19\x02",
	} {
		if ack := send(property, ""); ack.Code != packet.ProtocolError {
			t.Errorf("%s: %v", name, ack.Code)
		}
	}
	if ack := send("", "\x01\x02"); ack.Code != packet.ProtocolError {
		t.Errorf("payload format 2 in the Will: %v", ack.Code)
	}
}

// The same for what a client sends when it is in.
func TestPropertiesOfOtherPackets(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	witness := connect(t, b, packet.V5, "witness")
	witness.subscribe("#", 0)
	for _, p := range []struct {
		name  string
		bytes func(props string) []byte
		has   map[string]bool
	}{
		{"PUBLISH", func(props string) []byte { return whole(0x30, field("quiet"), properties(packet.V5, props), "x") },
			map[string]bool{"payload format": true, "message expiry": true, "alias": true, "response topic": true, "correlation data": true,
				"user property": true, "subscription identifier": true, "content type": true}},
		{"PUBACK", func(props string) []byte { return whole(0x40, "\x00\x01\x00", properties(packet.V5, props)) },
			map[string]bool{"reason string": true, "user property": true}},
		{"PUBREL", func(props string) []byte { return whole(0x62, "\x00\x01\x00", properties(packet.V5, props)) },
			map[string]bool{"reason string": true, "user property": true}},
		{"SUBSCRIBE", func(props string) []byte {
			return whole(0x82, "\x00\x01", properties(packet.V5, props), field("a"), "\x00")
		}, map[string]bool{"subscription identifier": true, "user property": true}},
		{"UNSUBSCRIBE", func(props string) []byte { return whole(0xA2, "\x00\x01", properties(packet.V5, props), field("a")) },
			map[string]bool{"user property": true}},
		{"DISCONNECT", func(props string) []byte { return whole(0xE0, "\x00", properties(packet.V5, props)) },
			map[string]bool{"session expiry": true, "server reference": true, "reason string": true, "user property": true}},
	} {
		for name, property := range everyProperty {
			c := connect(t, b, packet.V5, "c")
			want := packet.MalformedPacket
			if p.has[name] {
				if name == "user property" {
					continue // as often as one likes
				}
				want = packet.ProtocolError
				property += property
			}
			t.Log(p.name, name)
			c.write(p.bytes(property))
			c.ends(want)
		}
	}
	witness.nothing()
}
