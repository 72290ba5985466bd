package packet

import (
	"encoding/binary"
	"fmt"
)

const (
	maxString = 65_535
	headRoom  = 5 // the longest fixed header
)

// encoder appends one packet to b: room for the fixed header, then the fields; finish puts the header in place. The
// first failure stays in err.
type encoder struct {
	b     []byte
	start int
	t     Type
	err   error
}

func newEncoder(dst []byte, t Type) encoder {
	return encoder{b: append(dst, make([]byte, headRoom)...), start: len(dst), t: t}
}

func (e *encoder) fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf("packet: encode %s: "+format, append([]any{e.t}, args...)...)
	}
}

// finish returns the packet with payload at its end, or what was there before.
func (e *encoder) finish(flags byte, payload []byte) ([]byte, error) {
	body := e.b[e.start+headRoom:]
	n := len(body) + len(payload)
	if n > MaxRemainingLength {
		e.fail("%d bytes are over the protocol's limit of %d", n, MaxRemainingLength)
	}
	if e.err != nil {
		return e.b[:e.start], e.err
	}
	head := append(e.b[:e.start], byte(e.t)<<4|flags)
	head = appendVarint(head, uint32(n))
	return append(append(head, body...), payload...), nil
}

func (e *encoder) byte(v byte)     { e.b = append(e.b, v) }
func (e *encoder) uint16(v uint16) { e.b = binary.BigEndian.AppendUint16(e.b, v) }
func (e *encoder) uint32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }

// string appends a UTF-8 Encoded String or Binary Data.
func (e *encoder) string(v []byte, field string) {
	if len(v) > maxString {
		e.fail("%s has %d bytes, the protocol's limit is %d", field, len(v), maxString)
		return
	}
	e.uint16(uint16(len(v)))
	e.b = append(e.b, v...)
}

// appendVarint appends a Variable Byte Integer; v is at most MaxRemainingLength.
func appendVarint(dst []byte, v uint32) []byte {
	for v >= 0x80 {
		dst = append(dst, byte(v)|0x80)
		v >>= 7
	}
	return append(dst, byte(v))
}

// varintSize returns the length of v as a Variable Byte Integer.
func varintSize(v int) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	}
	return 4
}
