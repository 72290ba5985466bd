package packet

import "encoding/binary"

// MaxRemainingLength is the most that fits in the remaining length, in bytes; also the highest subscription identifier.
const MaxRemainingLength = 268_435_455

// decoder reads the fields of one packet. The first failure stays in err and empties b, so that a sequence of
// reads needs one check at its end; field names are for the error.
type decoder struct {
	b   []byte
	t   Type
	err *Error
}

// newDecoder checks the reserved flags.
func newDecoder(first byte, body []byte) decoder {
	d := decoder{b: body, t: Type(first >> 4)}
	if want := d.t.flags(); first&15 != want {
		if want == 0 {
			d.malformed("reserved flags must be 0000 [MQTT-2.1.3-1]")
		} else {
			d.malformed("reserved flags must be 0010 [MQTT-2.1.3-1]")
		}
	}
	return d
}

func (d *decoder) fail(code Code, text string) {
	if d.err == nil {
		d.err = &Error{code, d.t.String() + ": " + text}
	}
	d.b = nil
}

func (d *decoder) malformed(text string) { d.fail(MalformedPacket, text) }
func (d *decoder) protocol(text string)  { d.fail(ProtocolError, text) }

// end checks that all was read.
func (d *decoder) end() error {
	if len(d.b) > 0 {
		d.malformed(decimal(len(d.b)) + " bytes too many at the end")
	}
	if d.err == nil {
		return nil
	}
	return d.err
}

func (d *decoder) byte(field string) byte {
	if len(d.b) < 1 {
		d.malformed("ends before its " + field)
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) uint16(field string) uint16 {
	if len(d.b) < 2 {
		d.malformed("ends before or in its " + field)
		return 0
	}
	v := binary.BigEndian.Uint16(d.b)
	d.b = d.b[2:]
	return v
}

func (d *decoder) uint32(field string) uint32 {
	if len(d.b) < 4 {
		d.malformed("ends before or in its " + field)
		return 0
	}
	v := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

// varint reads a Variable Byte Integer.
func (d *decoder) varint(field string) uint32 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		v := d.b[0]
		d.b = d.b[1:]
		return uint32(v)
	}
	v, n := varint(d.b)
	switch {
	case n == 0:
		d.malformed("ends before or in its " + field)
	case n < 0:
		d.malformed(field + " is longer than four bytes (section 1.5.5)")
	case d.b[n-1] == 0:
		d.malformed(field + " is not in its shortest form [MQTT-1.5.5-1]")
	default:
		d.b = d.b[n:]
		return v
	}
	return 0
}

// binary reads Binary Data: a two byte length and as many bytes. The result is not nil unless it failed.
func (d *decoder) binary(field string) []byte {
	if len(d.b) < 2 {
		d.malformed("ends before or in the length of its " + field)
		return nil
	}
	n := 2 + int(binary.BigEndian.Uint16(d.b))
	if n > len(d.b) {
		d.malformed("ends in its " + field)
		return nil
	}
	v := d.b[2:n:n]
	d.b = d.b[n:]
	return v
}

// string reads a UTF-8 Encoded String.
func (d *decoder) string(field string) []byte {
	v := d.binary(field)
	if t := classify(v); t != textPlain {
		d.badText(t, field)
		return nil
	}
	return v
}

// id reads a packet identifier.
func (d *decoder) id() uint16 {
	v := d.uint16("packet identifier")
	if v == 0 && d.err == nil {
		d.protocol("packet identifier is 0 [MQTT-2.2.1-3]")
	}
	return v
}

func (d *decoder) badText(t text, field string) {
	if t == textNUL {
		d.malformed(field + " contains U+0000 [MQTT-1.5.4-2]")
	} else {
		d.malformed(field + " is not well-formed UTF-8 [MQTT-1.5.4-1]")
	}
}

// varint decodes a Variable Byte Integer from the front of b, in whatever form. n is its length: 0 when b ends in it,
// -1 when it is longer than four bytes.
func varint(b []byte) (v uint32, n int) {
	for i := range 4 {
		if i == len(b) {
			return 0, 0
		}
		v |= uint32(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, -1
}
