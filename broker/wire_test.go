package broker

import (
	"io"
	"strings"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// Packets as bytes, for what the encoder would not make and the decoder would not show.

// whole returns a packet of its first byte and of all that follows the remaining length.
func whole(first byte, parts ...string) []byte {
	body := strings.Join(parts, "")
	return append(append([]byte{first}, varint(len(body))...), body...)
}

// varint returns n as a variable byte integer.
func varint(n int) string {
	var out []byte
	for ; n >= 0x80; n >>= 7 {
		out = append(out, byte(n)|0x80)
	}
	return string(append(out, byte(n)))
}

// field returns a string or binary data, with its length before it.
func field(s string) string { return string([]byte{byte(len(s) >> 8), byte(len(s))}) + s }

// properties returns properties with their length before them, in version 5; 3.1.1 has none.
func properties(v packet.Version, parts ...string) string {
	if v != packet.V5 {
		return ""
	}
	all := strings.Join(parts, "")
	return varint(len(all)) + all
}

// connectBytes returns a CONNECT with those flags and that payload, without keep alive and properties.
func connectBytes(v packet.Version, flags byte, payload ...string) []byte {
	return connectWith(v, flags, properties(v), payload...)
}

// connectWith is connectBytes with properties.
func connectWith(v packet.Version, flags byte, props string, payload ...string) []byte {
	return whole(0x10, field("MQTT"), string([]byte{byte(v), flags, 0, 0}), props, strings.Join(payload, ""))
}

// read returns the next n bytes that the broker sends. What was sent before must have been received as packets.
func (c *raw) read(n int) string {
	c.t.Helper()
	_ = c.nc.SetReadDeadline(time.Now().Add(patient))
	buf := make([]byte, n)
	if got, err := io.ReadFull(c.nc, buf); err != nil {
		c.t.Fatalf("%d of %d bytes, then %v: %x", got, n, err, buf[:got])
	}
	return string(buf)
}

// refused makes sure that the broker answers a CONNECT with that code and closes; 3.1.1 has no code for what is
// malformed, and its client sees the connection end.
func (c *raw) refused(code packet.Code) {
	c.t.Helper()
	if c.v == packet.V5 {
		if ack := expect[*packet.Connack](c); ack.Code != code || ack.SessionPresent {
			c.t.Fatalf("CONNACK with %v, session present %t, want %v", ack.Code, ack.SessionPresent, code)
		}
	}
	c.closes()
}
