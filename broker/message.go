package broker

import (
	"math"
	"time"
	"unsafe"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A message is one application message on its way through the broker. It is immutable once routed and shared by all
// its subscribers; what differs between them (QoS, packet identifier, retain flag, alias) is added when it is written.
type message struct {
	topic   string
	props   []byte // forwarded properties as they go over the wire
	payload []byte
	qos     byte
	retain  bool
	urgent  bool // goes in the lane that overtakes
	expires int64
	routed  uint64 // a retained message's: the generation of the tree that it was fanned out by; guarded by its topic's stripe
}

// never is the value of message.expires for a message without an expiry.
const never = math.MaxInt64

// messageOverhead is what a queued message is reckoned to cost beyond its bytes.
const messageOverhead = 128

func (m *message) size() int {
	return len(m.topic) + len(m.props) + len(m.payload) + messageOverhead
}

// remaining returns the message expiry interval left at now, in whole seconds rounded up [MQTT-3.3.2-6].
func (m *message) remaining(now int64) packet.Opt[uint32] {
	if m.expires == never {
		return packet.Opt[uint32]{}
	}
	left := max(m.expires-now, 0)
	return packet.Some(uint32((left + int64(time.Second) - 1) / int64(time.Second)))
}

// newMessage copies what it keeps out of the arguments. The message has no expiry yet.
func newMessage(topic string, p *packet.Properties, payload []byte) *message {
	extra := forwardedSize(p)
	m, body := allocate(len(payload) + extra)
	m.topic, m.expires = topic, never
	if body == nil && extra > 0 {
		body = make([]byte, 0, len(payload)+extra)
	}
	// The payload first, so that its length is known before the properties are appended. Appending to nil, other than make, clears
	// nothing beforehand.
	body = append(body, payload...)
	if extra > 0 {
		body = p.AppendForwarded(body)
	}
	m.payload = body[:len(payload):len(payload)]
	m.props = body[len(payload):]
	return m
}

// Room for a body beside its message, so that both together fill one of the allocator's sizes.
const (
	header = unsafe.Sizeof(message{})
	tiny   = 112 - header
	small  = 160 - header
	medium = 224 - header
	large  = 320 - header
	huge   = 512 - header
)

// A bodied is a message and its body in one piece of memory.
type bodied[B [tiny]byte | [small]byte | [medium]byte | [large]byte | [huge]byte] struct {
	message
	body B
}

// allocate makes a message, together with room for its body of at most n bytes when that is small.
func allocate(n int) (*message, []byte) {
	switch n := uintptr(n); {
	case n <= tiny:
		x := new(bodied[[tiny]byte])
		return &x.message, x.body[:0]
	case n <= small:
		x := new(bodied[[small]byte])
		return &x.message, x.body[:0]
	case n <= medium:
		x := new(bodied[[medium]byte])
		return &x.message, x.body[:0]
	case n <= large:
		x := new(bodied[[large]byte])
		return &x.message, x.body[:0]
	case n <= huge:
		x := new(bodied[[huge]byte])
		return &x.message, x.body[:0]
	}
	return new(message), nil
}

// forwardedSize is an upper bound of what AppendForwarded appends.
func forwardedSize(p *packet.Properties) int {
	n := 0
	if p.PayloadFormat.OK {
		n += 2
	}
	for _, b := range [...][]byte{p.ContentType, p.ResponseTopic, p.CorrelationData} {
		if b != nil {
			n += 3 + len(b)
		}
	}
	for _, u := range p.User {
		n += 5 + len(u.Key) + len(u.Value)
	}
	return n
}
