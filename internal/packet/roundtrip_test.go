package packet

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func text256() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 16) }

func users(n int) []UserProperty {
	u := make([]UserProperty, n)
	for i := range u {
		u[i] = UserProperty{fmt.Appendf(nil, "key %d", i%3), fmt.Appendf(nil, "value é %d", i)}
	}
	return u
}

// samples are packets that survive encoding and decoding unchanged.
func samples(v Version) []Packet {
	s := []Packet{
		&Connect{Version: v, ClientID: []byte{}},
		&Connect{Version: v, CleanStart: true, KeepAlive: 65_535, ClientID: []byte("a"), HasUser: true, Username: []byte("ü"), HasPass: true, Password: []byte{0, 255}},
		&Connect{Version: v, ClientID: []byte("a"), Will: &Will{Topic: []byte("w"), Payload: []byte{}}},
		&Connect{Version: v, ClientID: text256(), Will: &Will{Topic: []byte("a/b"), Payload: text256(), QoS: 2, Retain: true}, HasUser: true, Username: []byte{}},
		&Connack{},
		&Connack{SessionPresent: true},
		&Connack{Code: NotAuthorized},
		&Publish{Topic: []byte("a"), Payload: []byte{}},
		&Publish{Topic: []byte("a/b/c"), Payload: []byte("x"), Retain: true},
		&Publish{Topic: []byte("a/b/c"), Payload: bytes.Repeat([]byte("x"), 200), QoS: 1, ID: 1, Dup: true},
		&Publish{Topic: text256(), Payload: bytes.Repeat([]byte{0}, 70_000), QoS: 2, ID: 65_535, Retain: true},
		&Publish{Topic: bytes.Repeat([]byte("é"), 32_767), Payload: bytes.Repeat([]byte{0}, 2_100_000)},
		&Ack{Kind: PUBACK, ID: 1},
		&Ack{Kind: PUBREC, ID: 256},
		&Ack{Kind: PUBREL, ID: 65_535},
		&Ack{Kind: PUBCOMP, ID: 2},
		&Subscribe{ID: 1, Subscriptions: []Subscription{{Filter: []byte("#"), QoS: 2}}},
		&Subscribe{ID: 65_535, Subscriptions: []Subscription{{Filter: []byte("a/+/b")}, {Filter: []byte{}, QoS: 1}, {Filter: text256(), QoS: 2}}},
		&Suback{ID: 9, Codes: []Code{Success, GrantedQoS1, GrantedQoS2, UnspecifiedError}},
		&Unsubscribe{ID: 9, Filters: [][]byte{[]byte("a"), {}, text256()}},
		&Pingreq{},
		&Pingresp{},
		&Disconnect{},
	}
	if v == V311 {
		return append(s, &Unsuback{ID: 9})
	}
	message := Properties{
		PayloadFormat: Some(byte(1)), MessageExpiry: Some(uint32(0)), ContentType: []byte("application/json"),
		ResponseTopic: []byte("lawnberry/responses/me"), CorrelationData: []byte{0, 1, 255}, User: users(20),
	}
	publish := message
	publish.TopicAlias = Some(uint16(65_535))
	publish.SubscriptionIDs = []uint32{1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, MaxRemainingLength, 1}
	will := message
	will.WillDelay = Some(uint32(4_294_967_295))
	empty := Properties{ContentType: []byte{}, CorrelationData: []byte{}, User: []UserProperty{{[]byte{}, []byte{}}}}
	reason := Properties{ReasonString: []byte("because"), User: users(2)}
	long := Properties{ReasonString: bytes.Repeat([]byte("r"), maxString)}
	auth := Properties{AuthMethod: []byte("SCRAM-SHA-1"), AuthData: []byte{0, 1}, ReasonString: []byte{}, User: users(1)}
	return append(s,
		&Connect{Version: v, ClientID: []byte("a"), HasPass: true, Password: []byte("alone"),
			Will: &Will{Topic: []byte("w"), Payload: []byte("p"), QoS: 1, Properties: will},
			Properties: Properties{
				SessionExpiry: Some(uint32(1)), ReceiveMaximum: Some(uint16(65_535)), MaximumPacketSize: Some(uint32(4_294_967_295)),
				TopicAliasMaximum: Some(uint16(10)), RequestResponse: Some(byte(1)), RequestProblem: Some(byte(0)),
				User: users(3), AuthMethod: []byte{}, AuthData: []byte{},
			}},
		&Connack{Properties: Properties{
			SessionExpiry: Some(uint32(0)), ReceiveMaximum: Some(uint16(1)), MaximumQoS: Some(byte(0)), RetainAvailable: Some(byte(1)),
			MaximumPacketSize: Some(uint32(1)), AssignedClientID: []byte("auto"), TopicAliasMaximum: Some(uint16(0)),
			ReasonString: []byte("welcome"), User: users(1), WildcardAvailable: Some(byte(0)), SubIDAvailable: Some(byte(0)),
			SharedAvailable: Some(byte(1)), ServerKeepAlive: Some(uint16(0)), ResponseInfo: []byte("info"),
			ServerReference: []byte("other:1883"), AuthMethod: []byte("m"), AuthData: []byte("d"),
		}},
		&Connack{Code: PacketTooLarge, Properties: reason},
		&Publish{Topic: []byte("a"), Payload: []byte("p"), Properties: message},
		&Publish{Topic: []byte{}, Payload: []byte("p"), QoS: 2, ID: 5, Properties: publish},
		&Publish{Topic: []byte("a"), Payload: []byte("p"), Properties: empty},
		&Ack{Kind: PUBACK, ID: 1, Code: NoMatchingSubscribers},
		&Ack{Kind: PUBACK, ID: 1, Properties: reason},
		&Ack{Kind: PUBREC, ID: 1, Code: QuotaExceeded, Properties: reason},
		&Ack{Kind: PUBREL, ID: 1, Code: PacketIDNotFound, Properties: long},
		&Ack{Kind: PUBCOMP, ID: 1, Code: PacketIDNotFound},
		&Subscribe{ID: 1, Properties: Properties{SubscriptionIDs: []uint32{MaxRemainingLength}, User: users(1)},
			Subscriptions: []Subscription{{Filter: []byte("a"), QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2},
				{Filter: []byte("$share/g/a"), RetainHandling: 1}}},
		&Suback{ID: 9, Codes: []Code{TopicFilterInvalid, Success}, Properties: reason},
		&Unsubscribe{ID: 9, Filters: [][]byte{[]byte("a")}, Properties: Properties{User: users(2)}},
		&Unsuback{ID: 9, Codes: []Code{Success, NoSubscriptionExisted, TopicFilterInvalid}, Properties: reason},
		&Disconnect{Code: DisconnectWithWill},
		&Disconnect{Code: ServerMoved, Properties: Properties{SessionExpiry: Some(uint32(5)), ReasonString: []byte("moved"), User: users(1), ServerReference: []byte("x")}},
		&Disconnect{Properties: Properties{SessionExpiry: Some(uint32(5))}},
		&Auth{},
		&Auth{Code: ContinueAuthentication, Properties: auth},
		&Auth{Code: ReAuthenticate, Properties: auth},
		&Auth{Properties: auth},
	)
}

func TestRoundTrip(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		for i, p := range samples(v) {
			prefix := []byte("before")
			b, err := p.Append(prefix, v)
			if err != nil {
				t.Errorf("%v sample %d, %v: %v", v, i, p.Type(), err)
				continue
			}
			if !bytes.HasPrefix(b, prefix) {
				t.Errorf("%v sample %d, %v: Append overwrote what was there", v, i, p.Type())
			}
			q, err := decodeBytes(b[len(prefix):], v)
			if err != nil {
				t.Errorf("%v sample %d, %v: decode %.100x: %v", v, i, p.Type(), b, err)
				continue
			}
			if !reflect.DeepEqual(p, q) {
				t.Errorf("%v sample %d, %v:\nencoded %+v\ndecoded %+v", v, i, p.Type(), p, q)
			}
			if p.Type() != q.Type() {
				t.Errorf("type %v became %v", p.Type(), q.Type())
			}
		}
	}
}

// A packet cut anywhere, with a remaining length that fits, is refused or is another packet of the same type; its
// last byte is never read from behind its end.
func TestTruncated(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		for _, p := range samples(v) {
			b, err := p.Append(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			if len(b) > 1000 {
				continue
			}
			_, n := varint(b[1:])
			body := b[1+n:]
			for cut := range body {
				q, err := Decode(b[0], body[:cut:cut], v)
				var e *Error
				if err != nil && !errors.As(err, &e) {
					t.Fatalf("%x cut at %d: not an *Error: %v", b, cut, err)
				}
				if err != nil {
					continue
				}
				again, err := q.Append(nil, v)
				if err != nil || q.Type() != p.Type() || len(again) > 1+n+cut {
					t.Errorf("%x cut at %d: decodes to %+v, encodes as %x, %v", b, cut, q, again, err)
				}
			}
			// One byte more is a payload or too much.
			q, err := Decode(b[0], append(body[:len(body):len(body)], 0), v)
			switch p.(type) {
			case *Publish, *Suback, *Unsuback:
			case *Ack, *Disconnect, *Auth: // the byte may be a code or a property length
				if err == nil && v == V311 {
					t.Errorf("%x and a byte: decodes to %+v", b, q)
				}
			default:
				if err == nil {
					t.Errorf("%x and a byte: decodes to %+v", b, q)
				}
			}
		}
	}
}

// Decoding into a used packet leaves nothing of what was there.
func TestReuse(t *testing.T) {
	for _, v := range []Version{V311, V5} {
		var (
			publish     Publish
			ack         Ack
			connect     Connect
			connack     Connack
			subscribe   Subscribe
			suback      Suback
			unsubscribe Unsubscribe
			unsuback    Unsuback
			disconnect  Disconnect
			auth        Auth
		)
		all := samples(v)
		for i := range 2 * len(all) {
			want := all[i%len(all)]
			if i >= len(all) {
				want = all[2*len(all)-1-i]
			}
			b, err := want.Append(nil, v)
			if err != nil {
				t.Fatal(err)
			}
			_, n := varint(b[1:])
			first, body := b[0], b[1+n:]
			var got Packet
			switch want.(type) {
			case *Connect:
				got, err = &connect, connect.Decode(first, body)
			case *Connack:
				got, err = &connack, connack.Decode(first, body, v)
			case *Publish:
				got, err = &publish, publish.Decode(first, body, v)
			case *Ack:
				got, err = &ack, ack.Decode(first, body, v)
			case *Subscribe:
				got, err = &subscribe, subscribe.Decode(first, body, v)
			case *Suback:
				got, err = &suback, suback.Decode(first, body, v)
			case *Unsubscribe:
				got, err = &unsubscribe, unsubscribe.Decode(first, body, v)
			case *Unsuback:
				got, err = &unsuback, unsuback.Decode(first, body, v)
			case *Disconnect:
				got, err = &disconnect, disconnect.Decode(first, body, v)
			case *Auth:
				got, err = &auth, auth.Decode(first, body, v)
			default:
				continue
			}
			if err != nil {
				t.Fatalf("%v %v: %v", v, want.Type(), err)
			}
			if len(b) > 100_000 {
				continue
			}
			// Absent lists are empty here and nil in the sample: compare what they encode to, and what they print as.
			again, err := got.Append(nil, v)
			if err != nil || !bytes.Equal(again, b) {
				t.Errorf("%v %v: encodes as %.200x, %v, want %.200x", v, want.Type(), again, err, b)
			}
			if g, w := fmt.Sprintf("%+v", got), fmt.Sprintf("%+v", want); g != w && want.Type() != CONNECT {
				t.Errorf("%v:\ngot  %.500s\nwant %.500s", v, g, w)
			}
		}
	}
}

// For 3.1.1, properties are left out and codes folded.
func TestAppendV311(t *testing.T) {
	p := Properties{ReasonString: []byte("r"), User: users(1), SessionExpiry: Some(uint32(1)), ContentType: []byte("c"), SubscriptionIDs: []uint32{1}}
	for _, c := range []struct {
		p    Packet
		want string
	}{
		{&Connect{CleanStart: true, ClientID: []byte("a"), Properties: p, Will: &Will{Topic: []byte("w"), Properties: p}}, "10 " + c4 + " 06 0000 0001 'a' 0001 'w' 0000"},
		{&Connack{Properties: p}, "20 00 00"},
		{&Publish{Topic: []byte("a"), Payload: []byte("x"), Properties: p}, "30 0001 'a' 'x'"},
		{&Ack{Kind: PUBREC, ID: 1, Code: QuotaExceeded, Properties: p}, "50 0001"},
		{&Ack{Kind: PUBREL, ID: 1, Code: PacketIDNotFound}, "62 0001"},
		{&Subscribe{ID: 1, Properties: p, Subscriptions: []Subscription{{Filter: []byte("a"), QoS: 1, NoLocal: true, RetainAsPublished: true, RetainHandling: 2}}}, "82 0001 0001 'a' 01"},
		{&Suback{ID: 1, Properties: p, Codes: []Code{GrantedQoS2, TopicFilterInvalid, NotAuthorized, Success}}, "90 0001 02 80 80 00"},
		{&Unsubscribe{ID: 1, Properties: p, Filters: [][]byte{[]byte("a")}}, "a2 0001 0001 'a'"},
		{&Unsuback{ID: 1, Properties: p, Codes: []Code{NoSubscriptionExisted}}, "b0 0001"},
		{&Disconnect{Code: DisconnectWithWill, Properties: p}, "e0"},
	} {
		got, err := c.p.Append(nil, V311)
		if want := wire(t, c.want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v: got %x, %v, want %x", c.p.Type(), got, err, want)
		}
	}
}

// A property that a packet does not have is left out; the order of the others is fixed.
func TestAppendV5(t *testing.T) {
	all := Properties{
		PayloadFormat: Some(byte(1)), MessageExpiry: Some(uint32(1)), ContentType: []byte("c"), ResponseTopic: []byte("r"),
		CorrelationData: []byte("d"), SubscriptionIDs: []uint32{200}, SessionExpiry: Some(uint32(2)), AssignedClientID: []byte("i"),
		ServerKeepAlive: Some(uint16(3)), AuthMethod: []byte("m"), AuthData: []byte("a"), RequestProblem: Some(byte(1)),
		WillDelay: Some(uint32(4)), RequestResponse: Some(byte(1)), ResponseInfo: []byte("f"), ServerReference: []byte("s"),
		ReasonString: []byte("n"), ReceiveMaximum: Some(uint16(5)), TopicAliasMaximum: Some(uint16(6)), TopicAlias: Some(uint16(7)),
		MaximumQoS: Some(byte(1)), RetainAvailable: Some(byte(1)), User: []UserProperty{{[]byte("k"), []byte("v")}},
		MaximumPacketSize: Some(uint32(8)), WildcardAvailable: Some(byte(1)), SubIDAvailable: Some(byte(1)), SharedAvailable: Some(byte(1)),
	}
	const user = " 26 0001 'k' 0001 'v'"
	for _, c := range []struct {
		p    Packet
		want string
	}{
		{&Publish{Topic: []byte("t"), Properties: all}, "30 0001 't' 20 0200000001 230007 0bc801 0101 03 0001 'c' 08 0001 'r' 09 0001 'd'" + user + "'x'"},
		{&Ack{Kind: PUBREL, ID: 1, Properties: all}, "62 0001 00 0b 1f 0001 'n'" + user},
		{&Subscribe{ID: 1, Properties: all, Subscriptions: []Subscription{{Filter: []byte("a")}}}, "82 0001 0a 0bc801" + user + " 0001 'a' 00"},
		{&Unsubscribe{ID: 1, Properties: all, Filters: [][]byte{[]byte("a")}}, "a2 0001 07" + user + " 0001 'a'"},
		{&Disconnect{Code: ServerMoved, Properties: all}, "e0 9d 14 1100000002 1c 0001 's' 1f 0001 'n'" + user},
		{&Auth{Code: ContinueAuthentication, Properties: all}, "f0 18 13 15 0001 'm' 16 0001 'a' 1f 0001 'n'" + user},
	} {
		if p, ok := c.p.(*Publish); ok {
			p.Payload = []byte("x")
		}
		got, err := c.p.Append(nil, V5)
		if want := wire(t, c.want); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v:\ngot  %x, %v\nwant %x", c.p.Type(), got, err, want)
		}
	}
	if got, want := (&Properties{}).AppendForwarded([]byte("x")), "x"; string(got) != want {
		t.Errorf("no properties: got %x", got)
	}
	if got, want := all.AppendForwarded(nil), unhex(t, "0101 03 0001 'c' 08 0001 'r' 09 0001 'd'"+user); !bytes.Equal(got, want) {
		t.Errorf("forwarded: got %x, want %x", got, want)
	}
}

// What cannot be encoded gives an error that names it and leaves dst as it was.
func TestAppendImpossible(t *testing.T) {
	long := bytes.Repeat([]byte("x"), maxString+1)
	huge := make([]byte, MaxRemainingLength)
	for _, c := range []struct {
		p    Packet
		v    Version
		text string
	}{
		{&Connect{ClientID: long}, V311, "CONNECT: client identifier has 65536 bytes"},
		{&Connect{HasUser: true, Username: long}, V5, "user name"},
		{&Connect{HasPass: true, Password: long}, V5, "password"},
		{&Connect{HasPass: true}, V311, "no password without a user name"},
		{&Connect{Will: &Will{Topic: long}}, V5, "Will topic"},
		{&Connect{Will: &Will{Payload: long}}, V311, "Will payload"},
		{&Connect{Will: &Will{Properties: Properties{ContentType: long}}}, V5, "Content Type"},
		{&Connack{Properties: Properties{ReasonString: long}}, V5, "Reason String"},
		{&Publish{Topic: long}, V5, "topic name"},
		{&Publish{Topic: []byte("a"), Payload: huge}, V311, "over the protocol's limit of 268435455"},
		{&Publish{Topic: []byte("a"), Properties: Properties{CorrelationData: long}}, V5, "Correlation Data"},
		{&Publish{Topic: []byte("a"), Properties: Properties{User: []UserProperty{{long, nil}}}}, V5, "User Property"},
		{&Publish{Topic: []byte("a"), Properties: Properties{User: []UserProperty{{nil, long}}}}, V5, "User Property"},
		{&Publish{Topic: []byte("a"), Properties: Properties{SubscriptionIDs: []uint32{0}}}, V5, "subscription identifier 0"},
		{&Publish{Topic: []byte("a"), Properties: Properties{SubscriptionIDs: []uint32{1 << 28}}}, V5, "subscription identifier 268435456"},
		{&Ack{Kind: PUBACK, ID: 1, Properties: Properties{ReasonString: long}}, V5, "PUBACK: Reason String"},
		{&Subscribe{ID: 1, Subscriptions: []Subscription{{Filter: long}}}, V5, "topic filter"},
		{&Subscribe{ID: 1, Properties: Properties{SubscriptionIDs: []uint32{1, 2}}}, V5, "2 subscription identifiers"},
		{&Unsubscribe{ID: 1, Filters: [][]byte{long}}, V311, "topic filter"},
		{&Disconnect{Properties: Properties{ServerReference: long}}, V5, "Server Reference"},
		{&Auth{}, V311, "AUTH: does not exist in MQTT 3.1.1"},
	} {
		got, err := c.p.Append([]byte("before"), c.v)
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: got error %v, want %q", c.p.Type(), err, c.text)
		}
		if string(got) != "before" {
			t.Errorf("%v: dst has become %d bytes", c.p.Type(), len(got))
		}
	}
	p := Properties{ContentType: long, User: []UserProperty{{[]byte("k"), []byte("v")}}}
	if got, want := p.AppendForwarded(nil), unhex(t, "26 0001 'k' 0001 'v'"); !bytes.Equal(got, want) {
		t.Errorf("AppendForwarded with a string that is too long: %.100x", got)
	}
}
