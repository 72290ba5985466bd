package packet

// UserProperty is one user property. Both alias the decoded buffer.
type UserProperty struct{ Key, Value []byte }

// Properties holds the properties of any packet; nil and not-OK fields are absent. Decoded byte slices alias the
// buffer they were decoded from and are non-nil when present, even if empty. Decoding reuses User and SubscriptionIDs.
type Properties struct {
	PayloadFormat     Opt[byte]   // 0 bytes, 1 UTF-8; whether the payload keeps that promise is not checked
	MessageExpiry     Opt[uint32] // seconds
	ContentType       []byte
	ResponseTopic     []byte
	CorrelationData   []byte
	SubscriptionIDs   []uint32    // 1 to 268,435,455
	SessionExpiry     Opt[uint32] // seconds; 0xFFFFFFFF is never
	AssignedClientID  []byte
	ServerKeepAlive   Opt[uint16] // seconds
	AuthMethod        []byte
	AuthData          []byte
	RequestProblem    Opt[byte]   // 0 or 1; absent means 1
	WillDelay         Opt[uint32] // seconds
	RequestResponse   Opt[byte]   // 0 or 1; absent means 0
	ResponseInfo      []byte
	ServerReference   []byte
	ReasonString      []byte
	ReceiveMaximum    Opt[uint16] // packets, never 0; absent means 65,535
	TopicAliasMaximum Opt[uint16] // absent means 0
	TopicAlias        Opt[uint16] // never 0
	MaximumQoS        Opt[byte]   // 0 or 1; absent means 2
	RetainAvailable   Opt[byte]   // 0 or 1; absent means 1
	User              []UserProperty
	MaximumPacketSize Opt[uint32] // bytes, never 0; absent means no limit
	WildcardAvailable Opt[byte]   // 0 or 1; absent means 1
	SubIDAvailable    Opt[byte]   // 0 or 1; absent means 1
	SharedAvailable   Opt[byte]   // 0 or 1; absent means 1
}

// Reset clears p, keeping the capacity of User and SubscriptionIDs.
func (p *Properties) Reset() {
	user, ids := p.User[:0], p.SubscriptionIDs[:0]
	*p = Properties{}
	p.User, p.SubscriptionIDs = user, ids
}

// resetPublish is Reset for properties that only a PUBLISH was decoded into: it touches what such a packet can have.
func (p *Properties) resetPublish() {
	p.PayloadFormat, p.MessageExpiry, p.TopicAlias = Opt[byte]{}, Opt[uint32]{}, Opt[uint16]{}
	p.ContentType, p.ResponseTopic, p.CorrelationData = nil, nil, nil
	p.User, p.SubscriptionIDs = p.User[:0], p.SubscriptionIDs[:0]
}

// Property identifiers (section 2.2.2.2).
const (
	idPayloadFormat     = 0x01
	idMessageExpiry     = 0x02
	idContentType       = 0x03
	idResponseTopic     = 0x08
	idCorrelationData   = 0x09
	idSubscriptionID    = 0x0B
	idSessionExpiry     = 0x11
	idAssignedClientID  = 0x12
	idServerKeepAlive   = 0x13
	idAuthMethod        = 0x15
	idAuthData          = 0x16
	idRequestProblem    = 0x17
	idWillDelay         = 0x18
	idRequestResponse   = 0x19
	idResponseInfo      = 0x1A
	idServerReference   = 0x1C
	idReasonString      = 0x1F
	idReceiveMaximum    = 0x21
	idTopicAliasMaximum = 0x22
	idTopicAlias        = 0x23
	idMaximumQoS        = 0x24
	idRetainAvailable   = 0x25
	idUser              = 0x26
	idMaximumPacketSize = 0x27
	idWildcardAvailable = 0x28
	idSubIDAvailable    = 0x29
	idSharedAvailable   = 0x2A
)

// A place is a set of places where properties stand: one bit per packet type, and inWill.
type place uint16

const (
	inWill        place = 1
	inConnect     place = 1 << CONNECT
	inConnack     place = 1 << CONNACK
	inPublish     place = 1 << PUBLISH
	inAcks        place = 1<<PUBACK | 1<<PUBREC | 1<<PUBREL | 1<<PUBCOMP
	inSubscribe   place = 1 << SUBSCRIBE
	inSuback      place = 1 << SUBACK
	inUnsubscribe place = 1 << UNSUBSCRIBE
	inUnsuback    place = 1 << UNSUBACK
	inDisconnect  place = 1 << DISCONNECT
	inAuth        place = 1 << AUTH
	inAll         place = inWill | inConnect | inConnack | inPublish | inAcks | inSubscribe | inSuback |
		inUnsubscribe | inUnsuback | inDisconnect | inAuth
)

// propertyTable says what each identifier is called and where it may stand. It is never written to.
var propertyTable = [...]struct {
	name string
	in   place
}{
	idPayloadFormat:     {"Payload Format Indicator", inPublish | inWill},
	idMessageExpiry:     {"Message Expiry Interval", inPublish | inWill},
	idContentType:       {"Content Type", inPublish | inWill},
	idResponseTopic:     {"Response Topic", inPublish | inWill},
	idCorrelationData:   {"Correlation Data", inPublish | inWill},
	idSubscriptionID:    {"Subscription Identifier", inPublish | inSubscribe},
	idSessionExpiry:     {"Session Expiry Interval", inConnect | inConnack | inDisconnect},
	idAssignedClientID:  {"Assigned Client Identifier", inConnack},
	idServerKeepAlive:   {"Server Keep Alive", inConnack},
	idAuthMethod:        {"Authentication Method", inConnect | inConnack | inAuth},
	idAuthData:          {"Authentication Data", inConnect | inConnack | inAuth},
	idRequestProblem:    {"Request Problem Information", inConnect},
	idWillDelay:         {"Will Delay Interval", inWill},
	idRequestResponse:   {"Request Response Information", inConnect},
	idResponseInfo:      {"Response Information", inConnack},
	idServerReference:   {"Server Reference", inConnack | inDisconnect},
	idReasonString:      {"Reason String", inConnack | inAcks | inSuback | inUnsuback | inDisconnect | inAuth},
	idReceiveMaximum:    {"Receive Maximum", inConnect | inConnack},
	idTopicAliasMaximum: {"Topic Alias Maximum", inConnect | inConnack},
	idTopicAlias:        {"Topic Alias", inPublish},
	idMaximumQoS:        {"Maximum QoS", inConnack},
	idRetainAvailable:   {"Retain Available", inConnack},
	idUser:              {"User Property", inAll},
	idMaximumPacketSize: {"Maximum Packet Size", inConnect | inConnack},
	idWildcardAvailable: {"Wildcard Subscription Available", inConnack},
	idSubIDAvailable:    {"Subscription Identifier Available", inConnack},
	idSharedAvailable:   {"Shared Subscription Available", inConnack},
}

// properties reads the property length and the properties into p, which is empty.
func (d *decoder) properties(p *Properties, in place) {
	n := int(d.varint("property length"))
	if n == 0 {
		return
	}
	if n > len(d.b) {
		d.malformed("property length goes beyond the end")
		return
	}
	rest := d.b[n:]
	d.b = d.b[:n]
	var seen uint64 // one bit per identifier
	for len(d.b) > 0 {
		id := d.b[0]
		d.b = d.b[1:]
		if int(id) >= len(propertyTable) || propertyTable[id].in == 0 {
			d.malformed("unknown property " + hexByte(id) + " (section 2.2.2.2)")
			return
		}
		name := propertyTable[id].name
		if propertyTable[id].in&in == 0 {
			d.malformed("cannot have the property " + name + " (section 2.2.2.2)")
			return
		}
		if seen&(1<<id) != 0 && id != idUser && (id != idSubscriptionID || in != inPublish) {
			d.protocol(name + " twice")
			return
		}
		seen |= 1 << id
		d.property(p, id, name)
	}
	if d.err != nil {
		return
	}
	if p.AuthData != nil && p.AuthMethod == nil {
		d.protocol("Authentication Data without Authentication Method")
		return
	}
	d.b = rest
}

// property reads the value of one property.
func (d *decoder) property(p *Properties, id byte, name string) {
	switch id {
	case idPayloadFormat:
		p.PayloadFormat = d.boolean(name)
	case idMessageExpiry:
		p.MessageExpiry = Some(d.uint32(name))
	case idContentType:
		p.ContentType = d.string(name)
	case idResponseTopic:
		p.ResponseTopic = d.responseTopic(name)
	case idCorrelationData:
		p.CorrelationData = d.binary(name)
	case idSubscriptionID:
		v := d.varint(name)
		if v == 0 {
			d.protocol(name + " is 0")
		}
		p.SubscriptionIDs = append(p.SubscriptionIDs, v)
	case idSessionExpiry:
		p.SessionExpiry = Some(d.uint32(name))
	case idAssignedClientID:
		p.AssignedClientID = d.string(name)
	case idServerKeepAlive:
		p.ServerKeepAlive = Some(d.uint16(name))
	case idAuthMethod:
		p.AuthMethod = d.string(name)
	case idAuthData:
		p.AuthData = d.binary(name)
	case idRequestProblem:
		p.RequestProblem = d.boolean(name)
	case idWillDelay:
		p.WillDelay = Some(d.uint32(name))
	case idRequestResponse:
		p.RequestResponse = d.boolean(name)
	case idResponseInfo:
		p.ResponseInfo = d.string(name)
	case idServerReference:
		p.ServerReference = d.string(name)
	case idReasonString:
		p.ReasonString = d.string(name)
	case idReceiveMaximum:
		p.ReceiveMaximum = Some(d.uint16(name))
		if p.ReceiveMaximum.V == 0 {
			d.protocol(name + " is 0")
		}
	case idTopicAliasMaximum:
		p.TopicAliasMaximum = Some(d.uint16(name))
	case idTopicAlias:
		p.TopicAlias = Some(d.uint16(name))
		if p.TopicAlias.V == 0 {
			d.fail(TopicAliasInvalid, name+" is 0 [MQTT-3.3.2-8]")
		}
	case idMaximumQoS:
		p.MaximumQoS = d.boolean(name)
	case idRetainAvailable:
		p.RetainAvailable = d.boolean(name)
	case idUser:
		k := d.string("User Property's name")
		v := d.string("User Property's value")
		p.User = append(p.User, UserProperty{k, v})
	case idMaximumPacketSize:
		p.MaximumPacketSize = Some(d.uint32(name))
		if p.MaximumPacketSize.V == 0 {
			d.protocol(name + " is 0")
		}
	case idWildcardAvailable:
		p.WildcardAvailable = d.boolean(name)
	case idSubIDAvailable:
		p.SubIDAvailable = d.boolean(name)
	case idSharedAvailable:
		p.SharedAvailable = d.boolean(name)
	}
}

// boolean reads a byte that is 0 or 1.
func (d *decoder) boolean(name string) Opt[byte] {
	v := d.byte(name)
	if v > 1 {
		d.protocol(name + " is " + decimal(int(v)) + ", not 0 or 1")
	}
	return Some(v)
}

func (d *decoder) responseTopic(name string) []byte {
	v := d.binary(name)
	if d.err != nil {
		return nil
	}
	switch t := classifyTopic(v); {
	case t == textWildcard:
		d.protocol(name + " contains a wildcard [MQTT-3.3.2-14]")
	case t != textPlain:
		d.badText(t, name)
	case len(v) == 0:
		d.protocol(name + " is empty [MQTT-4.7.3-1]")
	}
	return v
}

// AppendForwarded appends (without the length) the properties of a PUBLISH that a server passes on unchanged:
// payload format, content type, response topic, correlation data, user properties in their order [MQTT-3.3.2-17].
// A string over 65,535 bytes, which no decoded packet has, is left out.
func (p *Properties) AppendForwarded(dst []byte) []byte {
	e := encoder{b: dst}
	e.forwarded(p)
	return e.b
}

// properties appends the property length and those of p that may stand here. The order is fixed: PUBLISH has it as
// in Outgoing, and user properties come last everywhere.
func (e *encoder) properties(p *Properties, in place) {
	at := len(e.b)
	e.byte(0)
	if in != inPublish {
		e.connection(p, in)
	}
	if in&(inPublish|inWill|inSubscribe) != 0 {
		e.message(p, in)
	}
	if in&(inPublish|inWill) != 0 {
		e.forwarded(p)
	} else {
		e.user(p)
	}
	n := len(e.b) - at - 1
	if n < 0x80 {
		e.b[at] = byte(n)
		return
	}
	more := varintSize(n) - 1 // if it does not fit in four bytes, finish refuses the packet
	e.b = append(e.b, make([]byte, more)...)
	copy(e.b[at+1+more:], e.b[at+1:at+1+n])
	appendVarint(e.b[:at], uint32(n))
}

// connection appends what is neither about a message nor a user property.
func (e *encoder) connection(p *Properties, in place) {
	e.optUint32(in, idSessionExpiry, p.SessionExpiry)
	e.optUint32(in, idWillDelay, p.WillDelay)
	e.optUint16(in, idReceiveMaximum, p.ReceiveMaximum)
	e.optByte(in, idMaximumQoS, p.MaximumQoS)
	e.optByte(in, idRetainAvailable, p.RetainAvailable)
	e.optUint32(in, idMaximumPacketSize, p.MaximumPacketSize)
	e.optString(in, idAssignedClientID, p.AssignedClientID)
	e.optUint16(in, idTopicAliasMaximum, p.TopicAliasMaximum)
	e.optByte(in, idRequestResponse, p.RequestResponse)
	e.optByte(in, idRequestProblem, p.RequestProblem)
	e.optByte(in, idWildcardAvailable, p.WildcardAvailable)
	e.optByte(in, idSubIDAvailable, p.SubIDAvailable)
	e.optByte(in, idSharedAvailable, p.SharedAvailable)
	e.optUint16(in, idServerKeepAlive, p.ServerKeepAlive)
	e.optString(in, idResponseInfo, p.ResponseInfo)
	e.optString(in, idServerReference, p.ServerReference)
	e.optString(in, idAuthMethod, p.AuthMethod)
	e.optString(in, idAuthData, p.AuthData)
	e.optString(in, idReasonString, p.ReasonString)
}

func (e *encoder) message(p *Properties, in place) {
	e.optUint32(in, idMessageExpiry, p.MessageExpiry)
	e.optUint16(in, idTopicAlias, p.TopicAlias)
	if in == inWill {
		return
	}
	if in == inSubscribe && len(p.SubscriptionIDs) > 1 {
		e.fail("%d subscription identifiers, at most one is possible", len(p.SubscriptionIDs))
	}
	for _, id := range p.SubscriptionIDs {
		if id == 0 || id > MaxRemainingLength {
			e.fail("subscription identifier %d is not between 1 and %d", id, MaxRemainingLength)
			return
		}
		e.b = appendVarint(append(e.b, idSubscriptionID), id)
	}
}

func (e *encoder) forwarded(p *Properties) {
	e.optByte(inPublish, idPayloadFormat, p.PayloadFormat)
	e.optString(inPublish, idContentType, p.ContentType)
	e.optString(inPublish, idResponseTopic, p.ResponseTopic)
	e.optString(inPublish, idCorrelationData, p.CorrelationData)
	e.user(p)
}

func (e *encoder) user(p *Properties) {
	for i := range p.User {
		u := &p.User[i]
		if len(u.Key) > maxString || len(u.Value) > maxString {
			e.fail("a User Property has %d and %d bytes, the protocol's limit is %d", len(u.Key), len(u.Value), maxString)
			return
		}
		e.byte(idUser)
		e.string(u.Key, "")
		e.string(u.Value, "")
	}
}

func (e *encoder) optByte(in place, id byte, v Opt[byte]) {
	if v.OK && propertyTable[id].in&in != 0 {
		e.b = append(e.b, id, v.V)
	}
}

func (e *encoder) optUint16(in place, id byte, v Opt[uint16]) {
	if v.OK && propertyTable[id].in&in != 0 {
		e.byte(id)
		e.uint16(v.V)
	}
}

func (e *encoder) optUint32(in place, id byte, v Opt[uint32]) {
	if v.OK && propertyTable[id].in&in != 0 {
		e.byte(id)
		e.uint32(v.V)
	}
}

func (e *encoder) optString(in place, id byte, v []byte) {
	if v == nil || propertyTable[id].in&in == 0 {
		return
	}
	if len(v) > maxString {
		e.fail("%s has %d bytes, the protocol's limit is %d", propertyTable[id].name, len(v), maxString)
		return
	}
	e.byte(id)
	e.string(v, "")
}
