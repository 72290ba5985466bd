package packet

// Ack is PUBACK, PUBREC, PUBREL or PUBCOMP.
type Ack struct {
	Kind       Type
	ID         uint16
	Code       Code
	Properties Properties // ReasonString, User
}

func (p *Ack) Type() Type { return p.Kind }

// Decode decodes into a, reusing its slices.
func (p *Ack) Decode(first byte, body []byte, v Version) error {
	p.Properties.Reset()
	p.Code = Success
	d := newDecoder(first, body)
	p.Kind = d.t
	p.ID = d.id()
	if v == V5 && len(d.b) > 0 {
		p.Code = Code(d.b[0])
		d.b = d.b[1:]
		d.reason(p.Code)
		if len(d.b) > 0 {
			d.properties(&p.Properties, 1<<p.Kind)
		}
	}
	return d.end()
}

func (p *Ack) Append(dst []byte, v Version) ([]byte, error) {
	if v != V5 || p.Properties.ReasonString == nil && len(p.Properties.User) == 0 {
		return AppendAck(dst, p.Kind, v, p.ID, p.Code), nil
	}
	e := newEncoder(dst, p.Kind)
	e.uint16(p.ID)
	e.byte(byte(p.Code))
	e.properties(&p.Properties, 1<<p.Kind)
	return e.finish(p.Kind.flags(), nil)
}

// AppendAck appends an acknowledgement without properties. It allocates only when dst grows.
func AppendAck(dst []byte, kind Type, v Version, id uint16, code Code) []byte {
	first := byte(kind)<<4 | kind.flags()
	if v == V5 && code != Success {
		return append(dst, first, 3, byte(id>>8), byte(id), byte(code))
	}
	return append(dst, first, 2, byte(id>>8), byte(id))
}
