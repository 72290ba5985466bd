package client

import (
	"encoding/binary"
	"time"

	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// A record is a publication as it is stored: a version, flags, the deadline in Unix nanoseconds (0 is none), and topic,
// properties and body, each with its length before it.

const recordVersion = 1

const (
	recordQoS    = 0b0000_0011
	recordRetain = 0b0000_0100
)

var errRecord = &ruleError{reason: message.ReasonMalformed, text: "a record of another version, or damaged"}

func (p *publication) appendRecord(b []byte) []byte {
	flags := p.qos & recordQoS
	if p.retain {
		flags |= recordRetain
	}
	b = append(b, recordVersion, flags, byte(p.class))
	var deadline int64
	if !p.deadline.IsZero() {
		deadline = p.deadline.UnixNano()
	}
	b = binary.BigEndian.AppendUint64(b, uint64(deadline))
	for _, part := range [][]byte{[]byte(p.topic), p.props, p.body} {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

// readRecord reads what appendRecord wrote. It keeps nothing of b.
func (c *Client) readRecord(b []byte) (*publication, error) {
	const head = 11
	if len(b) < head || b[0] != recordVersion || b[1]&recordQoS > 2 || b[2] >= byte(classes) {
		return nil, errRecord
	}
	p := &publication{Receipt: Receipt{c: c}, class: topic.Class(b[2])}
	p.qos, p.retain = b[1]&recordQoS, b[1]&recordRetain != 0
	if at := int64(binary.BigEndian.Uint64(b[3:])); at != 0 {
		p.deadline = time.Unix(0, at)
	}
	b = append([]byte(nil), b[head:]...)
	var parts [3][]byte
	for i := range parts {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, errRecord
		}
		parts[i], b = b[w:w+int(n):w+int(n)], b[w+int(n):]
	}
	p.topic, p.props, p.body = string(parts[0]), parts[1], parts[2]
	if len(b) > 0 || topic.CheckName(p.topic) != nil {
		return nil, errRecord
	}
	return p, nil
}
