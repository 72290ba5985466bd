package broker

import (
	"math"
	"time"

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

// newMessage copies what it keeps out of the arguments.
func newMessage(topic string, p *packet.Properties, payload []byte, now int64) *message {
	m := &message{topic: topic, expires: never}
	if p.MessageExpiry.OK {
		m.expires = now + int64(p.MessageExpiry.V)*int64(time.Second)
	}
	// One allocation for both: the payload first, so that its length is known before the properties are appended.
	body := make([]byte, len(payload), len(payload)+forwardedSize(p))
	copy(body, payload)
	body = p.AppendForwarded(body)
	m.payload = body[:len(payload):len(payload)]
	m.props = body[len(payload):]
	return m
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
