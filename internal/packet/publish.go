package packet

import (
	"encoding/binary"
	"slices"
)

// Publish is a message on its way.
type Publish struct {
	Dup        bool
	QoS        byte
	Retain     bool
	ID         uint16 // 0 at QoS 0
	Topic      []byte // empty only with a TopicAlias
	Properties Properties
	Payload    []byte
}

// The PUBLISH flags of the first byte.
const (
	flagRetain = 0x01
	flagQoS    = 0x06
	flagDup    = 0x08
)

func (p *Publish) Type() Type { return PUBLISH }

// Decode decodes into p, reusing its slices; nothing is allocated once they have grown. Fields alias body. A
// subscription identifier, which only a server may send, is not refused here [MQTT-3.3.4-6].
func (p *Publish) Decode(first byte, body []byte, v Version) error {
	p.Properties.resetPublish()
	p.Dup = first&flagDup != 0
	p.QoS = first & flagQoS >> 1
	p.Retain = first&flagRetain != 0
	p.ID = 0
	if p.QoS == 3 {
		return &Error{MalformedPacket, "PUBLISH: QoS is 3 [MQTT-3.3.1-4]"}
	}
	if p.Dup && p.QoS == 0 {
		return &Error{MalformedPacket, "PUBLISH: DUP at QoS 0 [MQTT-3.3.1-2]"}
	}
	d := decoder{b: body, t: PUBLISH}
	p.Topic = d.binary("topic name")
	if t := classifyTopic(p.Topic); t != textPlain {
		if t == textWildcard {
			d.fail(topicCode(v), "topic name contains a wildcard [MQTT-3.3.2-2]")
		} else {
			d.badText(t, "topic name")
		}
	}
	if p.QoS > 0 {
		p.ID = d.id()
	}
	if v == V5 {
		d.properties(&p.Properties, inPublish)
	}
	if d.err != nil {
		return d.err
	}
	if len(p.Topic) == 0 && !p.Properties.TopicAlias.OK {
		if v == V5 {
			d.protocol("neither a topic name nor a Topic Alias (section 3.3.2.1)")
		} else {
			d.malformed("topic name is empty [MQTT-4.7.3-1]")
		}
		return d.err
	}
	p.Payload = d.b
	return nil
}

func (p *Publish) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, PUBLISH)
	e.string(p.Topic, "topic name")
	if p.QoS > 0 {
		e.uint16(p.ID)
	}
	if v == V5 {
		e.properties(&p.Properties, inPublish)
	}
	return e.finish(publishFlags(p.Dup, p.QoS, p.Retain), p.Payload)
}

func publishFlags(dup bool, qos byte, retain bool) byte {
	f := qos << 1 & flagQoS
	if dup {
		f |= flagDup
	}
	if retain {
		f |= flagRetain
	}
	return f
}

// Outgoing is a PUBLISH as a server sends it to one subscriber: the shared part (Topic, Forwarded, Payload) as it is
// stored, and the part of this subscriber. What is in it must be possible: a topic of at most 65,535 bytes,
// subscription identifiers from 1 to 268,435,455, and a Size that the protocol allows.
type Outgoing struct {
	Topic     string
	Forwarded []byte // properties from AppendForwarded; ignored for V311
	Payload   []byte

	Dup, Retain     bool
	QoS             byte
	ID              uint16
	MessageExpiry   Opt[uint32]
	Alias           uint16 // 0 is none
	OmitTopic       bool   // alias already known to the client
	SubscriptionIDs []uint32
}

// lengths returns the lengths of the properties without their length, and of all after the fixed header.
func (o *Outgoing) lengths(v Version) (properties, remaining int) {
	remaining = 2 + len(o.Payload)
	if v != V5 || !o.OmitTopic {
		remaining += len(o.Topic)
	}
	if o.QoS > 0 {
		remaining += 2
	}
	if v != V5 {
		return 0, remaining
	}
	properties = len(o.Forwarded)
	if o.MessageExpiry.OK {
		properties += 5
	}
	if o.Alias != 0 {
		properties += 3
	}
	for _, id := range o.SubscriptionIDs {
		properties += 1 + varintSize(int(id))
	}
	return properties, remaining + varintSize(properties) + properties
}

// Size returns the length of the whole encoded packet, to be held against the client's maximum packet size.
func (o *Outgoing) Size(v Version) int {
	_, n := o.lengths(v)
	return 1 + varintSize(n) + n
}

// Append appends the packet to dst. It allocates only when dst grows. Alias, OmitTopic and the properties do not
// apply to V311.
func (o *Outgoing) Append(dst []byte, v Version) []byte {
	return append(o.AppendHead(dst, v, len(o.Payload)), o.Payload...)
}

// AppendHead appends all of the packet but its payload, with capacity for room bytes more.
func (o *Outgoing) AppendHead(dst []byte, v Version, room int) []byte {
	properties, remaining := o.lengths(v)
	dst = slices.Grow(dst, headRoom+remaining-len(o.Payload)+room)
	dst = append(dst, byte(PUBLISH)<<4|publishFlags(o.Dup, o.QoS, o.Retain))
	dst = appendVarint(dst, uint32(remaining))
	if v == V5 && o.OmitTopic {
		dst = append(dst, 0, 0)
	} else {
		dst = append(dst, byte(len(o.Topic)>>8), byte(len(o.Topic)))
		dst = append(dst, o.Topic...)
	}
	if o.QoS > 0 {
		dst = append(dst, byte(o.ID>>8), byte(o.ID))
	}
	if v == V5 {
		dst = appendVarint(dst, uint32(properties))
		if o.MessageExpiry.OK {
			dst = binary.BigEndian.AppendUint32(append(dst, idMessageExpiry), o.MessageExpiry.V)
		}
		if o.Alias != 0 {
			dst = append(dst, idTopicAlias, byte(o.Alias>>8), byte(o.Alias))
		}
		for _, id := range o.SubscriptionIDs {
			dst = appendVarint(append(dst, idSubscriptionID), id)
		}
		dst = append(dst, o.Forwarded...)
	}
	return dst
}
