package packet

import (
	"bytes"
	"errors"
	"io"
	"math/bits"
)

const (
	minBuffer     = 512
	maxBuffer     = 64 << 10 // beyond that a buffer lives only as long as the packet that needs it
	firstStep     = 4096     // the first growth for a packet that does not fit
	window        = 16       // reads after which the size of the buffer is looked at
	maxEmptyReads = 100
	maxPacket     = headRoom + MaxRemainingLength
)

// A Reader splits a stream into control packets, using one buffer that grows from small to what the traffic needs.
//
// Memory follows the bytes that arrived, never the length a packet claims: the buffer holds at most 4 KiB or four times
// what was received of the current packet. When reads keep filling it, it doubles up to 64 KiB, so that many small
// packets come with one system call; when they do not, it shrinks again. Past 64 KiB it lives only as long as
// the packet that needs it.
type Reader struct {
	src  io.Reader
	max  int    // bytes of a whole packet
	buf  []byte // unread is buf[r:w]
	r, w int
	size int   // the length that buf should have between large packets
	err  error // from src, to be returned once buf is used up

	head, total int // of the packet at r, which is complete; 0 when that is not known

	reads, peak int  // in this window: how many, and the most bytes that were unread
	padded      bool // the stream is MQTT 3.1.1 with remaining lengths longer than necessary
}

// NewReader returns a Reader that refuses packets whose total length is over max bytes with *Error{PacketTooLarge}.
// A max of 0 or less is the protocol's limit. It allocates its buffer (512 bytes at first) on the first Next.
func NewReader(r io.Reader, max int) *Reader {
	rd := &Reader{src: r, size: minBuffer}
	rd.SetMax(max)
	return rd
}

// SetMax changes the limit, which holds from the next packet on.
func (r *Reader) SetMax(max int) {
	if max <= 0 || max > maxPacket {
		max = maxPacket
	}
	r.max = max
	r.head = 0
}

// Next returns the first byte and the body of the next packet. The body is valid until the next call. At a clean
// end of stream between packets it returns io.EOF; inside one io.ErrUnexpectedEOF. A remaining length that is
// malformed gives *Error{MalformedPacket}. Other errors are the source's own.
func (r *Reader) Next() (first byte, body []byte, err error) {
	for {
		head, total := r.head, r.total
		if head == 0 {
			if head, total, err = r.peek(); err != nil {
				return 0, nil, err
			}
		}
		if head > 0 && r.w-r.r >= total {
			r.head = 0
			p := r.buf[r.r : r.r+total : r.r+total]
			r.r += total
			return p[0], p[head:], nil
		}
		if err := r.fill(total); err != nil {
			return 0, nil, err
		}
	}
}

// Buffered reports whether another complete packet can be returned without reading, or an error that is certain
// already.
func (r *Reader) Buffered() bool {
	if r.head > 0 {
		return true
	}
	head, total, err := r.peek()
	if err == nil && head > 0 && r.w-r.r >= total {
		r.head, r.total = head, total
		return true
	}
	return err != nil || r.err != nil
}

// Unread returns what was read from the source and not returned yet. It is valid until the next call of Next.
func (r *Reader) Unread() []byte { return r.buf[r.r:r.w] }

// peek reads the fixed header. While that is incomplete, head is 0 and total the least that is needed.
func (r *Reader) peek() (head, total int, err error) {
	b := r.buf[r.r:r.w]
	if len(b) < 2 {
		return 0, 2, nil
	}
	v, n := uint32(b[1]), 1
	if v >= 0x80 {
		v, n = varint(b[1:])
	}
	switch head, total = 1+n, 1+n+int(v); {
	case n == 0:
		return 0, len(b) + 1, nil
	case n < 0:
		return 0, 0, &Error{MalformedPacket, "remaining length is longer than four bytes (section 2.1.4)"}
	case total > r.max:
		return 0, 0, &Error{PacketTooLarge, "a packet of " + decimal(total) + " bytes, the limit is " + decimal(r.max)}
	case n > 1 && b[n] == 0 && !r.mayPad(b, head, total):
		return 0, 0, &Error{MalformedPacket, "remaining length is not in its shortest form [MQTT-1.5.5-1]"}
	}
	return head, total, nil
}

// mayPad reports whether a remaining length longer than necessary is to be accepted. MQTT 5 forbids it
// [MQTT-1.5.5-1]; in 3.1.1 it is legal, and whoever pads has done so since CONNECT, which names the version.
func (r *Reader) mayPad(b []byte, head, total int) bool {
	if r.padded {
		return true
	}
	if Type(b[0]>>4) != CONNECT {
		return false
	}
	if len(b) < total {
		return true // decided when it is complete
	}
	r.padded = bytes.HasPrefix(b[head:total], []byte("\x00\x04MQTT\x04"))
	return r.padded
}

// fill reads once. The packet at hand needs that many bytes, of which fewer are here.
func (r *Reader) fill(need int) error {
	if r.err != nil {
		return r.fail(r.err)
	}
	r.room(need)
	for range maxEmptyReads {
		n, err := r.src.Read(r.buf[r.w:])
		if n < 0 || n > len(r.buf)-r.w {
			return errors.New("packet: the source returned an impossible count from Read")
		}
		r.w += n
		if n > 0 {
			r.err = err
			r.learn()
			return nil
		}
		if err != nil {
			return r.fail(err)
		}
	}
	return io.ErrNoProgress
}

func (r *Reader) fail(err error) error {
	r.err = nil
	if err == io.EOF && r.w > r.r {
		return io.ErrUnexpectedEOF
	}
	return err
}

// room makes room for at least one more byte after the unread ones, of which there are fewer than need.
func (r *Reader) room(need int) {
	unread := r.w - r.r
	size := r.size
	if need > size {
		size = max(size, len(r.buf))
		if unread == len(r.buf) {
			size = min(roundUp(need), max(4*len(r.buf), firstStep))
			if size <= maxBuffer {
				r.size = size
			}
		}
	}
	switch {
	case size != len(r.buf):
		buf := make([]byte, size)
		copy(buf, r.buf[r.r:r.w])
		r.buf, r.r, r.w = buf, 0, unread
	case r.r > 0 && (unread == 0 || len(r.buf)-r.w < len(r.buf)/2):
		copy(r.buf, r.buf[r.r:r.w])
		r.r, r.w = 0, unread
	}
}

// learn adapts size to what a read brought.
func (r *Reader) learn() {
	if r.w == len(r.buf) && r.size == len(r.buf) && r.size < maxBuffer {
		r.size *= 2
	}
	r.peak = max(r.peak, r.w-r.r)
	if r.reads++; r.reads < window {
		return
	}
	if 4*r.peak <= r.size {
		r.size = max(minBuffer, roundUp(2*r.peak))
	}
	r.reads, r.peak = 0, 0
}

// roundUp returns the next power of two, up to maxBuffer; beyond that n itself.
func roundUp(n int) int {
	if n > maxBuffer {
		return n
	}
	return 1 << bits.Len(uint(n-1))
}
