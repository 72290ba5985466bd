package packet

import "bytes"

// Subscription is one entry of SUBSCRIBE.
type Subscription struct {
	Filter            []byte // well-formed UTF-8 without U+0000; whether it is a topic filter is not checked
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte // 0 send, 1 send if new, 2 do not send
}

// Subscribe asks for messages. A Filter that is a string but no topic filter (empty, "a#", "$share//a") decodes: each
// entry has a reason code of its own in SUBACK.
type Subscribe struct {
	ID            uint16
	Properties    Properties // at most one SubscriptionIDs, User
	Subscriptions []Subscription
}

// The subscription options.
const (
	optionQoS      = 0x03
	optionNoLocal  = 0x04
	optionAsPub    = 0x08
	optionHandling = 0x30
	optionReserved = 0xC0
)

func (p *Subscribe) Type() Type { return SUBSCRIBE }

// Decode decodes into p, reusing its slices.
func (p *Subscribe) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	p.Subscriptions = p.Subscriptions[:0]
	d := newDecoder(first, body)
	p.ID = d.id()
	if v == V5 {
		d.properties(&p.Properties, inSubscribe)
	}
	if len(d.b) == 0 {
		d.protocol("no topic filter [MQTT-3.8.3-2]")
	}
	for len(d.b) > 0 {
		filter := d.string("topic filter")
		p.Subscriptions = append(p.Subscriptions, d.options(filter, v))
	}
	return d.end()
}

func (d *decoder) options(filter []byte, v Version) Subscription {
	o := d.byte("subscription options")
	switch {
	case v == V5 && o&optionReserved != 0:
		d.malformed("reserved subscription options are set [MQTT-3.8.3-5]")
	case v == V5 && o&optionQoS == 3:
		d.protocol("maximum QoS is 3 (section 3.8.3.1)")
	case v == V5 && o&optionHandling == optionHandling:
		d.protocol("retain handling is 3 (section 3.8.3.1)")
	case v == V5 && o&optionNoLocal != 0 && bytes.HasPrefix(filter, []byte("$share/")):
		d.protocol("no local on a shared subscription [MQTT-3.8.3-4]")
	case v != V5 && o > 2:
		d.malformed("requested QoS is not 0, 1 or 2 [MQTT-3.8.3-4]")
	}
	return Subscription{
		Filter:            filter,
		QoS:               o & optionQoS,
		NoLocal:           o&optionNoLocal != 0,
		RetainAsPublished: o&optionAsPub != 0,
		RetainHandling:    o & optionHandling >> 4,
	}
}

func (p *Subscribe) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, SUBSCRIBE)
	e.uint16(p.ID)
	if v == V5 {
		e.properties(&p.Properties, inSubscribe)
	}
	for i := range p.Subscriptions {
		s := &p.Subscriptions[i]
		e.string(s.Filter, "topic filter")
		o := s.QoS & optionQoS
		if v == V5 {
			if s.NoLocal {
				o |= optionNoLocal
			}
			if s.RetainAsPublished {
				o |= optionAsPub
			}
			o |= s.RetainHandling << 4 & optionHandling
		}
		e.byte(o)
	}
	return e.finish(SUBSCRIBE.flags(), nil)
}

// Suback answers Subscribe with one code per subscription.
type Suback struct {
	ID         uint16
	Properties Properties // ReasonString, User
	Codes      []Code     // for V311 a failure is encoded as 0x80
}

func (p *Suback) Type() Type { return SUBACK }

// Decode decodes into p, reusing its slices.
func (p *Suback) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	p.Codes = p.Codes[:0]
	d := newDecoder(first, body)
	p.ID = d.id()
	if v == V5 {
		d.properties(&p.Properties, inSuback)
	}
	if len(d.b) == 0 {
		d.malformed("no reason code")
	}
	for _, b := range d.b {
		c := Code(b)
		if v == V5 {
			d.reason(c)
		} else if c > GrantedQoS2 && c != UnspecifiedError {
			d.malformed("return code " + hexByte(b) + " is reserved [MQTT-3.9.3-2]")
		}
		p.Codes = append(p.Codes, c)
	}
	d.b = nil
	return d.end()
}

func (p *Suback) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, SUBACK)
	e.uint16(p.ID)
	if v == V5 {
		e.properties(&p.Properties, inSuback)
	}
	for _, c := range p.Codes {
		if v != V5 && c >= UnspecifiedError {
			c = UnspecifiedError
		}
		e.byte(byte(c))
	}
	return e.finish(0, nil)
}

// Unsubscribe ends subscriptions. As in Subscribe, a filter is any string.
type Unsubscribe struct {
	ID         uint16
	Properties Properties // User
	Filters    [][]byte
}

func (p *Unsubscribe) Type() Type { return UNSUBSCRIBE }

// Decode decodes into p, reusing its slices.
func (p *Unsubscribe) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	p.Filters = p.Filters[:0]
	d := newDecoder(first, body)
	p.ID = d.id()
	if v == V5 {
		d.properties(&p.Properties, inUnsubscribe)
	}
	if len(d.b) == 0 {
		d.protocol("no topic filter [MQTT-3.10.3-2]")
	}
	for len(d.b) > 0 {
		p.Filters = append(p.Filters, d.string("topic filter"))
	}
	return d.end()
}

func (p *Unsubscribe) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, UNSUBSCRIBE)
	e.uint16(p.ID)
	if v == V5 {
		e.properties(&p.Properties, inUnsubscribe)
	}
	for _, f := range p.Filters {
		e.string(f, "topic filter")
	}
	return e.finish(UNSUBSCRIBE.flags(), nil)
}

// Unsuback answers Unsubscribe with one code per filter.
type Unsuback struct {
	ID         uint16
	Properties Properties // ReasonString, User
	Codes      []Code     // absent on the wire in V311
}

func (p *Unsuback) Type() Type { return UNSUBACK }

// Decode decodes into p, reusing its slices.
func (p *Unsuback) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	p.Codes = p.Codes[:0]
	d := newDecoder(first, body)
	p.ID = d.id()
	if v != V5 {
		return d.end()
	}
	d.properties(&p.Properties, inUnsuback)
	if len(d.b) == 0 {
		d.malformed("no reason code")
	}
	for _, b := range d.b {
		d.reason(Code(b))
		p.Codes = append(p.Codes, Code(b))
	}
	d.b = nil
	return d.end()
}

func (p *Unsuback) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, UNSUBACK)
	e.uint16(p.ID)
	if v == V5 {
		e.properties(&p.Properties, inUnsuback)
		for _, c := range p.Codes {
			e.byte(byte(c))
		}
	}
	return e.finish(0, nil)
}
