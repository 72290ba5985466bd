package packet

import "slices"

// Connect opens a session.
type Connect struct {
	Version    Version // V311, V5; any other level is decoded no further and gives *Error{UnsupportedVersion}
	CleanStart bool
	KeepAlive  uint16 // seconds
	ClientID   []byte
	Will       *Will
	HasUser    bool
	Username   []byte
	HasPass    bool
	Password   []byte
	Properties Properties
}

// Will is the message that the server publishes when the connection ends without a DISCONNECT.
type Will struct {
	Topic      []byte
	Payload    []byte
	QoS        byte
	Retain     bool
	Properties Properties // WillDelay, PayloadFormat, MessageExpiry, ContentType, ResponseTopic, CorrelationData, User
}

// The connect flags.
const (
	flagReserved   = 0x01
	flagCleanStart = 0x02
	flagWill       = 0x04
	flagWillQoS    = 0x18
	flagWillRetain = 0x20
	flagPassword   = 0x40
	flagUsername   = 0x80
)

func (p *Connect) Type() Type { return CONNECT }

// Decode decodes into p. When it fails, p.Version is still the level that the packet names (0 if it ends before),
// so that a caller knows how to encode its refusal; the other fields mean nothing then.
func (p *Connect) Decode(first byte, body []byte) error {
	*p = Connect{}
	d := newDecoder(first, body)
	name := d.binary("protocol name")
	level := d.byte("protocol level")
	if d.err != nil {
		return d.err
	}
	if string(name) == "MQTT" || string(name) == "MQIsdp" {
		p.Version = Version(level)
	}
	if string(name) != "MQTT" {
		d.fail(UnsupportedVersion, `protocol name is not "MQTT" [MQTT-3.1.2-1]`)
		return d.err
	}
	if p.Version != V311 && p.Version != V5 {
		d.fail(UnsupportedVersion, "protocol level "+decimal(int(level))+" is not 4 or 5 [MQTT-3.1.2-2]")
		return d.err
	}
	flags := d.byte("connect flags")
	d.connectFlags(flags, p.Version)
	p.CleanStart = flags&flagCleanStart != 0
	p.KeepAlive = d.uint16("keep alive")
	if p.Version == V5 {
		d.properties(&p.Properties, inConnect)
	}
	p.ClientID = d.string("client identifier")
	if flags&flagWill != 0 && d.err == nil {
		p.Will = &Will{QoS: flags & flagWillQoS >> 3, Retain: flags&flagWillRetain != 0}
		d.will(p.Will, p.Version)
	}
	if flags&flagUsername != 0 {
		p.HasUser = true
		p.Username = d.string("user name")
	}
	if flags&flagPassword != 0 {
		p.HasPass = true
		p.Password = d.binary("password")
	}
	return d.end()
}

func (d *decoder) connectFlags(flags byte, v Version) {
	switch {
	case d.err != nil:
	case flags&flagReserved != 0:
		d.malformed("the reserved connect flag is set [MQTT-3.1.2-3]")
	case flags&flagWillQoS == flagWillQoS:
		d.malformed("Will QoS is 3 [MQTT-3.1.2-12]")
	case flags&flagWill == 0 && flags&flagWillQoS != 0:
		d.malformed("Will QoS without a Will [MQTT-3.1.2-11]")
	case flags&flagWill == 0 && flags&flagWillRetain != 0:
		d.malformed("Will Retain without a Will [MQTT-3.1.2-13]")
	case v == V311 && flags&(flagUsername|flagPassword) == flagPassword:
		d.malformed("a password without a user name [MQTT-3.1.2-22]")
	}
}

func (d *decoder) will(w *Will, v Version) {
	if v == V5 {
		d.properties(&w.Properties, inWill)
	}
	w.Topic = d.binary("Will topic")
	if d.err == nil {
		switch t := classifyTopic(w.Topic); {
		case t == textWildcard:
			d.fail(topicCode(v), "Will topic contains a wildcard [MQTT-4.7.1-1]")
		case t != textPlain:
			d.badText(t, "Will topic")
		case len(w.Topic) == 0:
			d.fail(topicCode(v), "Will topic is empty [MQTT-4.7.3-1]")
		}
	}
	w.Payload = d.binary("Will payload")
}

// topicCode is the reason code for a topic name that is a string but not a topic name. MQTT 3.1.1 has no codes; what
// it forbids is malformed.
func topicCode(v Version) Code {
	if v == V5 {
		return TopicNameInvalid
	}
	return MalformedPacket
}

// Append encodes p as a CONNECT of version v, whatever p.Version is.
func (p *Connect) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, CONNECT)
	e.string([]byte("MQTT"), "protocol name")
	e.byte(byte(v))
	var flags byte
	if p.CleanStart {
		flags |= flagCleanStart
	}
	if w := p.Will; w != nil {
		flags |= flagWill | w.QoS<<3&flagWillQoS
		if w.Retain {
			flags |= flagWillRetain
		}
	}
	if p.HasUser {
		flags |= flagUsername
	}
	if p.HasPass {
		flags |= flagPassword
		if v == V311 && !p.HasUser {
			e.fail("MQTT 3.1.1 has no password without a user name [MQTT-3.1.2-22]")
		}
	}
	e.byte(flags)
	e.uint16(p.KeepAlive)
	if v == V5 {
		e.properties(&p.Properties, inConnect)
	}
	e.string(p.ClientID, "client identifier")
	if w := p.Will; w != nil {
		if v == V5 {
			e.properties(&w.Properties, inWill)
		}
		e.string(w.Topic, "Will topic")
		e.string(w.Payload, "Will payload")
	}
	if p.HasUser {
		e.string(p.Username, "user name")
	}
	if p.HasPass {
		e.string(p.Password, "password")
	}
	return e.finish(0, nil)
}

// Connack answers Connect.
//
// For 3.1.1 Code is mapped to the six return codes: 1 UnsupportedVersion, 2 ClientIDNotValid, 3 ServerUnavailable and
// all that may pass, 4 BadUserNameOrPassword, 5 NotAuthorized and all other refusals. Decoding maps back.
type Connack struct {
	SessionPresent bool
	Code           Code
	Properties     Properties
}

func (p *Connack) Type() Type { return CONNACK }

// Decode decodes into p, reusing its slices.
func (p *Connack) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	d := newDecoder(first, body)
	flags := d.byte("acknowledge flags")
	code := d.byte("reason code")
	if flags > 1 {
		d.malformed("reserved acknowledge flags are set [MQTT-3.2.2-1]")
	}
	p.SessionPresent = flags == 1
	p.Code = Code(code)
	if v == V5 {
		d.reason(p.Code)
		d.properties(&p.Properties, inConnack)
	} else {
		c, ok := fromReturnCode(code)
		if !ok {
			d.protocol("return code " + decimal(int(code)) + " is reserved (section 3.2.2.3)")
		}
		p.Code = c
	}
	if p.SessionPresent && p.Code != Success {
		d.protocol("session present in a refusal [MQTT-3.2.2-6]")
	}
	return d.end()
}

// reason checks that the packet may carry c.
func (d *decoder) reason(c Code) {
	if d.err == nil && !c.in(d.t) {
		d.protocol("cannot have reason code " + hexByte(byte(c)))
	}
}

func (p *Connack) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, CONNACK)
	var flags byte
	if p.SessionPresent {
		flags = 1
	}
	if v == V5 {
		e.b = append(e.b, flags, byte(p.Code))
		e.properties(&p.Properties, inConnack)
	} else {
		e.b = append(e.b, flags, p.Code.returnCode())
	}
	return e.finish(0, nil)
}

// Disconnect ends a connection.
type Disconnect struct {
	Code       Code // always Success in V311
	Properties Properties
}

func (p *Disconnect) Type() Type { return DISCONNECT }

// Decode decodes into p, reusing its slices.
func (p *Disconnect) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	p.Code = Success
	d := newDecoder(first, body)
	if v == V5 && len(d.b) > 0 {
		p.Code = Code(d.byte("reason code"))
		d.reason(p.Code)
		if len(d.b) > 0 {
			d.properties(&p.Properties, inDisconnect)
		}
	}
	return d.end()
}

func (p *Disconnect) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, DISCONNECT)
	if v == V5 {
		e.shortest(p.Code, &p.Properties, inDisconnect)
	}
	return e.finish(0, nil)
}

// shortest appends reason code and properties, leaving out at the end what may be left out.
func (e *encoder) shortest(c Code, p *Properties, in place) {
	at := len(e.b)
	e.byte(byte(c))
	e.properties(p, in)
	if len(e.b) == at+2 { // no properties
		e.b = e.b[:at+1]
		if c == Success {
			e.b = e.b[:at]
		}
	}
}

// Auth carries one step of an extended authentication. MQTT 3.1.1 does not have it.
type Auth struct {
	Code       Code
	Properties Properties // AuthMethod, AuthData, ReasonString, User
}

func (p *Auth) Type() Type { return AUTH }

// Decode decodes into p, reusing its slices.
func (p *Auth) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	p.Code = Success
	d := newDecoder(first, body)
	if v != V5 {
		d.malformed("does not exist in MQTT 3.1.1")
	}
	if len(d.b) > 0 { // an empty one is Success without properties
		p.Code = Code(d.byte("reason code"))
		d.reason(p.Code)
		d.properties(&p.Properties, inAuth)
		if p.Properties.AuthMethod == nil {
			d.protocol("no Authentication Method (section 3.15.2.2.2)")
		}
	}
	return d.end()
}

func (p *Auth) Append(dst []byte, v Version) ([]byte, error) {
	e := newEncoder(dst, AUTH)
	if v != V5 {
		e.fail("does not exist in MQTT 3.1.1")
	}
	e.byte(byte(p.Code))
	e.properties(&p.Properties, inAuth)
	if body := e.b[e.start+headRoom:]; slices.Equal(body, []byte{byte(Success), 0}) {
		e.b = e.b[:e.start+headRoom]
	}
	return e.finish(0, nil)
}
