// Package packet encodes and decodes the control packets of MQTT 3.1.1 and 5.0. It does no I/O of its own beyond
// reading from the io.Reader a Reader is given, and knows no policy.
//
// Decoding is strict: what the specification forbids is refused with an *Error that carries the reason code to
// answer with and names the rule. What depends on state (is this identifier in use, may this client publish here,
// is this topic filter acceptable) is left to the caller.
//
// Decoded packets alias the bytes they were decoded from. Nothing here locks: a packet or a Reader belongs to one
// goroutine at a time.
package packet

// Version is the protocol level in CONNECT.
type Version byte

const (
	V311 Version = 4
	V5   Version = 5
)

// String returns "3.1.1" or "5.0".
func (v Version) String() string {
	switch v {
	case 3:
		return "3.1"
	case V311:
		return "3.1.1"
	case V5:
		return "5.0"
	}
	return "level " + decimal(int(v))
}

// Type is the control packet type.
type Type byte

const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

// String returns the specification's name, such as "PUBLISH".
func (t Type) String() string {
	switch t {
	case CONNECT:
		return "CONNECT"
	case CONNACK:
		return "CONNACK"
	case PUBLISH:
		return "PUBLISH"
	case PUBACK:
		return "PUBACK"
	case PUBREC:
		return "PUBREC"
	case PUBREL:
		return "PUBREL"
	case PUBCOMP:
		return "PUBCOMP"
	case SUBSCRIBE:
		return "SUBSCRIBE"
	case SUBACK:
		return "SUBACK"
	case UNSUBSCRIBE:
		return "UNSUBSCRIBE"
	case UNSUBACK:
		return "UNSUBACK"
	case PINGREQ:
		return "PINGREQ"
	case PINGRESP:
		return "PINGRESP"
	case DISCONNECT:
		return "DISCONNECT"
	case AUTH:
		return "AUTH"
	}
	return "packet type " + decimal(int(t))
}

// flags returns the fixed lower four bits of the first byte of every type but PUBLISH [MQTT-2.1.3-1].
func (t Type) flags() byte {
	switch t {
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		return 2
	}
	return 0
}

// Opt is an optional value.
type Opt[T any] struct {
	V  T
	OK bool
}

// Some returns a present value.
func Some[T any](v T) Opt[T] { return Opt[T]{v, true} }

// Packet is any control packet. Append encodes for a version; it fails only on what cannot be encoded at all
// (a string over 65,535 bytes, a packet over 268,435,455, AUTH in 3.1.1) and then returns dst unchanged. Properties
// that the version or the packet does not have are left out.
type Packet interface {
	Type() Type
	Append(dst []byte, v Version) ([]byte, error)
}

// Decode decodes any packet from its first byte and its body (what follows the remaining length). For CONNECT the
// version is read from the packet and v is ignored. The result aliases body. An error is always an *Error.
func Decode(first byte, body []byte, v Version) (Packet, error) {
	var p interface {
		Packet
		Decode(first byte, body []byte, v Version) error
	}
	switch t := Type(first >> 4); t {
	case CONNECT:
		c := new(Connect)
		if err := c.Decode(first, body); err != nil {
			return nil, err
		}
		return c, nil
	case CONNACK:
		p = new(Connack)
	case PUBLISH:
		p = new(Publish)
	case PUBACK, PUBREC, PUBREL, PUBCOMP:
		p = new(Ack)
	case SUBSCRIBE:
		p = new(Subscribe)
	case SUBACK:
		p = new(Suback)
	case UNSUBSCRIBE:
		p = new(Unsubscribe)
	case UNSUBACK:
		p = new(Unsuback)
	case PINGREQ:
		p = new(Pingreq)
	case PINGRESP:
		p = new(Pingresp)
	case DISCONNECT:
		p = new(Disconnect)
	case AUTH:
		p = new(Auth)
	default:
		return nil, &Error{MalformedPacket, t.String() + " is reserved (section 2.1.2)"}
	}
	if err := p.Decode(first, body, v); err != nil {
		return nil, err
	}
	return p, nil
}

// Pingreq is the client's sign of life.
type Pingreq struct{}

// Pingresp answers Pingreq.
type Pingresp struct{}

func (p *Pingreq) Type() Type  { return PINGREQ }
func (p *Pingresp) Type() Type { return PINGRESP }

// Append appends the packet's two bytes.
func (p *Pingreq) Append(dst []byte, v Version) ([]byte, error) {
	return append(dst, byte(PINGREQ)<<4, 0), nil
}

// Append appends the packet's two bytes.
func (p *Pingresp) Append(dst []byte, v Version) ([]byte, error) {
	return append(dst, byte(PINGRESP)<<4, 0), nil
}

// Decode checks that there is nothing but the fixed header.
func (p *Pingreq) Decode(first byte, body []byte, v Version) error { return decodeEmpty(first, body) }

// Decode checks that there is nothing but the fixed header.
func (p *Pingresp) Decode(first byte, body []byte, v Version) error { return decodeEmpty(first, body) }

func decodeEmpty(first byte, body []byte) error {
	d := newDecoder(first, body)
	return d.end()
}
