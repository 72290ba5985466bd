package packet

import (
	"bytes"
	"reflect"
	"testing"
)

// Every combination of what Outgoing can carry encodes to what Publish decodes, in exactly Size bytes.
func TestOutgoing(t *testing.T) {
	forwarded := Properties{PayloadFormat: Some(byte(1)), ContentType: []byte("text/plain"), ResponseTopic: []byte("r"),
		CorrelationData: []byte{1, 2}, User: users(30)}
	for _, payload := range []int{0, 100, 115, 120, 128, 16_300, 16_384, 2_097_152} {
		for bits := range 1 << 8 {
			if payload > 20_000 && bits%37 != 0 {
				continue
			}
			o := Outgoing{Topic: "lawnberry/sensors/gps/data", Payload: bytes.Repeat([]byte("p"), payload), Retain: bits&1 != 0}
			want := Publish{Topic: []byte(o.Topic), Payload: o.Payload, Retain: o.Retain}
			if bits&2 != 0 {
				o.QoS, o.ID, o.Dup = 1+byte(bits&1), 4711, true
				want.QoS, want.ID, want.Dup = o.QoS, o.ID, true
			}
			v3 := want
			if bits&4 != 0 {
				want.Properties = forwarded
				o.Forwarded = forwarded.AppendForwarded(nil)
			}
			if bits&8 != 0 {
				o.MessageExpiry = Some(uint32(3600))
				want.Properties.MessageExpiry = o.MessageExpiry
			}
			if bits&16 != 0 {
				o.Alias = 7
				want.Properties.TopicAlias = Some(o.Alias)
			}
			if bits&32 != 0 {
				o.SubscriptionIDs = []uint32{1, 128, 16_384, MaxRemainingLength}
				want.Properties.SubscriptionIDs = o.SubscriptionIDs
			}
			if bits&(16|64) == 16|64 {
				o.OmitTopic = true
				want.Topic = []byte{}
			}
			prefix := make([]byte, 3, 3+bits) // with and without room
			for _, v := range []Version{V5, V311} {
				if v == V311 {
					want = v3 // the topic cannot be omitted there
				}
				b := o.Append(prefix, v)[len(prefix):]
				if len(b) != o.Size(v) {
					t.Errorf("%v %08b %d: %d bytes, Size says %d", v, bits, payload, len(b), o.Size(v))
				}
				got, err := decodeBytes(b, v)
				if err != nil {
					t.Errorf("%v %08b %d: %v", v, bits, payload, err)
				} else if !reflect.DeepEqual(got, &want) {
					t.Errorf("%v %08b %d:\ngot  %.300v\nwant %.300v", v, bits, payload, got, &want)
				}
			}
		}
	}
}

// The property length at the borders of its own length.
func TestPropertyLengthBorders(t *testing.T) {
	for _, n := range []int{126, 127, 128, 129, 16_382, 16_383, 16_384, 16_385} {
		want := Publish{Topic: []byte("a"), Payload: []byte("p")}
		want.Properties.CorrelationData = make([]byte, n-3)
		b, err := want.Append(nil, V5)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeBytes(b, V5)
		if err != nil || !reflect.DeepEqual(got, &want) {
			t.Errorf("%d bytes of properties: %.300v, %v", n, got, err)
		}
		o := Outgoing{Topic: "a", Payload: []byte("p"), Forwarded: want.Properties.AppendForwarded(nil)}
		if c := o.Append(nil, V5); !bytes.Equal(b, c) || len(c) != o.Size(V5) {
			t.Errorf("%d bytes of properties: Outgoing gives %d bytes (Size %d), Publish %d", n, len(c), o.Size(V5), len(b))
		}
	}
}

// The hot path allocates nothing once buffers have grown.
func TestAllocations(t *testing.T) {
	topic := "lawnberry/sensors/gps/data"
	payload := bytes.Repeat([]byte("p"), 200)
	plain, err := (&Publish{Topic: []byte(topic), Payload: payload, QoS: 1, ID: 1}).Append(nil, V5)
	if err != nil {
		t.Fatal(err)
	}
	full := Publish{Topic: []byte(topic), Payload: payload, QoS: 2, ID: 1, Properties: Properties{
		PayloadFormat: Some(byte(1)), MessageExpiry: Some(uint32(5)), ContentType: []byte("application/json"), ResponseTopic: []byte("r"),
		CorrelationData: []byte("c"), SubscriptionIDs: []uint32{1, 2, 3}, TopicAlias: Some(uint16(1)), User: users(5),
	}}
	rich, err := full.Append(nil, V5)
	if err != nil {
		t.Fatal(err)
	}
	body := func(b []byte) []byte { _, n := varint(b[1:]); return b[1+n:] }
	var p Publish
	var a Ack
	puback := unhex(t, "0001 10 0e 1f 0001 'r' 26 0001 'k' 0004 'vvvv'")
	buf := make([]byte, 0, 4096)
	out := Outgoing{Topic: topic, Payload: payload, QoS: 1, ID: 1, MessageExpiry: Some(uint32(5)), Alias: 3, SubscriptionIDs: []uint32{1, 200},
		Forwarded: full.Properties.AppendForwarded(nil)}
	r := NewReader(&repeat{data: bytes.Repeat(plain, 400)}, 1<<20)
	for name, f := range map[string]func(){
		"Publish.Decode 3.1.1":           func() { must(t, p.Decode(plain[0], body(plain), V311)) },
		"Publish.Decode":                 func() { must(t, p.Decode(plain[0], body(plain), V5)) },
		"Publish.Decode with properties": func() { must(t, p.Decode(rich[0], body(rich), V5)) },
		"Publish.Append": func() {
			_, err := full.Append(buf, V5)
			must(t, err)
		},
		"Ack.Decode":      func() { must(t, a.Decode(0x40, puback, V5)) },
		"AppendAck":       func() { buf = AppendAck(buf[:0], PUBREC, V5, 7, NoMatchingSubscribers) },
		"Outgoing.Append": func() { buf = out.Append(buf[:0], V5) },
		"Outgoing.Size":   func() { _ = out.Size(V5) },
		"AppendForwarded": func() { _ = full.Properties.AppendForwarded(buf[:0]) },
		"Reader.Next": func() {
			_, _, err := r.Next()
			must(t, err)
		},
	} {
		for range 3000 {
			f() // grow
		}
		if n := testing.AllocsPerRun(2000, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// repeat is an endless stream of data.
type repeat struct {
	data []byte
	at   int
}

func (r *repeat) Read(p []byte) (n int, _ error) {
	for n < len(p) {
		c := copy(p[n:], r.data[r.at:])
		n += c
		r.at = (r.at + c) % len(r.data)
	}
	return n, nil
}

func benchmarkPublish(b *testing.B) (first byte, body []byte, whole []byte) {
	p := Publish{Topic: []byte("lawnberry/sensors/gps/data"), Payload: bytes.Repeat([]byte("p"), 200), QoS: 1, ID: 4711}
	whole, err := p.Append(nil, V5)
	must(b, err)
	_, n := varint(whole[1:])
	return whole[0], whole[1+n:], whole
}

func BenchmarkPublishDecode(b *testing.B) {
	first, body, _ := benchmarkPublish(b)
	var p Publish
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Decode(first, body, V5); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPublishDecodeProperties(b *testing.B) {
	q := Publish{Topic: []byte("lawnberry/commands/navigation"), Payload: bytes.Repeat([]byte("p"), 200), QoS: 2, ID: 1, Properties: Properties{
		MessageExpiry: Some(uint32(30)), ContentType: []byte("application/json"), ResponseTopic: []byte("lawnberry/responses/web"),
		CorrelationData: []byte("0123456789abcdef"), User: []UserProperty{{[]byte("traceparent"), bytes.Repeat([]byte("0"), 55)}}}}
	whole, err := q.Append(nil, V5)
	must(b, err)
	_, n := varint(whole[1:])
	var p Publish
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Decode(whole[0], whole[1+n:], V5); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAckDecode(b *testing.B) {
	var a Ack
	body := []byte{0, 1}
	b.ReportAllocs()
	for b.Loop() {
		if err := a.Decode(0x40, body, V5); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOutgoingAppend(b *testing.B) {
	o := Outgoing{Topic: "lawnberry/sensors/gps/data", Payload: bytes.Repeat([]byte("p"), 200), QoS: 1, ID: 4711}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = o.Append(dst[:0], V5)
	}
}

func BenchmarkPublishAppend(b *testing.B) {
	p := Publish{Topic: []byte("lawnberry/sensors/gps/data"), Payload: bytes.Repeat([]byte("p"), 200), QoS: 1, ID: 4711}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst, _ = p.Append(dst[:0], V5)
	}
}

func BenchmarkReader(b *testing.B) {
	_, _, whole := benchmarkPublish(b)
	r := NewReader(&repeat{data: bytes.Repeat(whole, 300)}, 1<<20)
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReaderBig(b *testing.B) {
	p := Publish{Topic: []byte("lawnberry/vision/frame"), Payload: make([]byte, 256<<10)}
	whole, err := p.Append(nil, V5)
	must(b, err)
	r := NewReader(&repeat{data: whole}, 1<<20)
	b.SetBytes(int64(len(whole)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
