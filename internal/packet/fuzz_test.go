package packet

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"
)

// FuzzDecode: whatever comes is refused with an *Error or decodes; what decodes can be encoded, and that decodes to
// an equal packet and encodes to the same bytes. Decoding into a used packet gives the same as into a new one.
func FuzzDecode(f *testing.F) {
	for _, v := range []Version{V311, V5} {
		for _, p := range samples(v) {
			b, err := p.Append(nil, v)
			if err != nil {
				f.Fatal(err)
			}
			if _, n := varint(b[1:]); len(b) < 2000 {
				f.Add(b[0], b[1+n:], v == V5)
			}
		}
	}
	for _, c := range malformed {
		if b := wire(f, c.packet); len(b) > 1 && b[1] < 0x80 {
			f.Add(b[0], b[2:], c.v != V311)
		}
	}
	f.Fuzz(func(t *testing.T, first byte, body []byte, five bool) {
		v := V311
		if five {
			v = V5
		}
		before := bytes.Clone(body)
		p, err := Decode(first, body, v)
		if !bytes.Equal(body, before) {
			t.Fatal("decoding changed the body")
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Code < UnspecifiedError || e.Text == "" || p != nil {
				t.Fatalf("refused with %v and %v", err, p)
			}
			return
		}
		if c, ok := p.(*Connect); ok {
			v = c.Version
		}
		if p.Type() != Type(first>>4) {
			t.Fatalf("0x%02x decoded as %v", first, p.Type())
		}
		b, err := p.Append(nil, v)
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		q, err := decodeBytes(b, v)
		if err != nil {
			t.Fatalf("%+v encodes as %x: %v", p, b, err)
		}
		if !reflect.DeepEqual(p, q) {
			t.Fatalf("%+v\nencodes as %x, which is\n%+v", p, b, q)
		}
		if c, err := q.Append(nil, v); err != nil || !bytes.Equal(b, c) {
			t.Fatalf("encoded as %x, then as %x, %v", b, c, err)
		}
		publish, ok := p.(*Publish)
		if !ok {
			return
		}
		used := Publish{ID: 9, Dup: true, Topic: []byte("old"), Payload: []byte("old"), Properties: Properties{
			User: users(3), SubscriptionIDs: []uint32{1, 2}, TopicAlias: Some(uint16(3)), ResponseTopic: []byte("old")}}
		if err := used.Decode(first, body, v); err != nil {
			t.Fatal(err)
		}
		if d, err := used.Append(nil, v); err != nil || !bytes.Equal(b, d) {
			t.Fatalf("into a used packet: %x, %v, want %x", d, err, b)
		}
		props := &publish.Properties
		o := Outgoing{Topic: string(publish.Topic), Payload: publish.Payload, Dup: publish.Dup, QoS: publish.QoS, Retain: publish.Retain,
			ID: publish.ID, Forwarded: props.AppendForwarded(nil), MessageExpiry: props.MessageExpiry, Alias: props.TopicAlias.V,
			SubscriptionIDs: props.SubscriptionIDs}
		if d := o.Append(nil, v); !bytes.Equal(b, d) || len(d) != o.Size(v) {
			t.Fatalf("Outgoing gives %x (Size %d), Publish %x", d, o.Size(v), b)
		}
	})
}

// FuzzReader: however a stream is cut into reads, it gives the packets and the error that a plain loop over the whole
// gives.
func FuzzReader(f *testing.F) {
	_, wire := stream()
	f.Add(wire[:20_000], uint16(300), uint16(7))
	f.Add(wire[:3_000], uint16(0), uint16(1))
	f.Add([]byte{0xc0, 0, 0x30, 0x80, 0x80, 0x80, 0x80}, uint16(100), uint16(2))
	f.Add(unhex(f, "10 8d 80 00 "+c4+" 02 0000 0001 'a' 30 83 80 00 0001 'a'"), uint16(100), uint16(3))
	f.Fuzz(func(t *testing.T, data []byte, limit, step uint16) {
		want, code := split(data, int(limit))
		step = step%2000 + 1
		for _, src := range []io.Reader{
			bytes.NewReader(data),
			iotest.DataErrReader(&steps{data, int(step)}),
			&steps{data, int(step)},
		} {
			got, err := readAll(t, src, int(limit))
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%d packets, want %d", len(got), len(want))
			}
			var e *Error
			switch {
			case errors.As(err, &e):
				if e.Code != code {
					t.Fatalf("ends with %v, want code %v", err, code)
				}
			case code != Success || err != io.EOF && err != io.ErrUnexpectedEOF:
				t.Fatalf("ends with %v, want code %v", err, code)
			case (err == io.EOF) != (total(want, data) == len(data)):
				t.Fatalf("ends with %v after %d of %d bytes", err, total(want, data), len(data))
			}
		}
	})
}

// total returns how many bytes of data the packets take.
func total(packets []raw, data []byte) (n int) {
	for _, p := range packets {
		_, size := varint(data[n+1:])
		n += 1 + size + len(p.body)
	}
	return n
}

// split is the plain loop. The code is Success when data just ends.
func split(data []byte, limit int) (packets []raw, code Code) {
	if limit == 0 {
		limit = maxPacket
	}
	padded := false
	for {
		if len(data) < 2 {
			return packets, Success
		}
		length, n := varint(data[1:])
		if n == 0 {
			return packets, Success
		}
		if n < 0 {
			return packets, MalformedPacket
		}
		whole := 1 + n + int(length)
		if whole > limit {
			return packets, PacketTooLarge
		}
		longer := n > 1 && data[n] == 0 && !padded
		if longer && Type(data[0]>>4) != CONNECT {
			return packets, MalformedPacket
		}
		if len(data) < whole {
			return packets, Success
		}
		body := data[1+n : whole]
		if longer {
			if !bytes.HasPrefix(body, []byte("\x00\x04MQTT\x04")) {
				return packets, MalformedPacket
			}
			padded = true
		}
		packets = append(packets, raw{data[0], string(body)})
		data = data[whole:]
	}
}

// steps returns data in pieces of n bytes.
type steps struct {
	data []byte
	n    int
}

func (s *steps) Read(p []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.n)], s.data)
	s.data = s.data[n:]
	return n, nil
}
