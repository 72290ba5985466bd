package packet

import (
	"errors"
	"strings"
	"testing"
)

// The specification's table 2-4 with one legal value of each property; W is the Will.
var specProperties = []struct {
	name    string
	value   string // identifier and value
	packets string
}{
	{"Payload Format Indicator", "01 01", "PUBLISH W"},
	{"Message Expiry Interval", "02 00000001", "PUBLISH W"},
	{"Content Type", "03 0001 'c'", "PUBLISH W"},
	{"Response Topic", "08 0001 'r'", "PUBLISH W"},
	{"Correlation Data", "09 0001 ff", "PUBLISH W"},
	{"Subscription Identifier", "0b 01", "PUBLISH SUBSCRIBE"},
	{"Session Expiry Interval", "11 ffffffff", "CONNECT CONNACK DISCONNECT"},
	{"Assigned Client Identifier", "12 0001 'i'", "CONNACK"},
	{"Server Keep Alive", "13 003c", "CONNACK"},
	{"Authentication Method", "15 0001 'm'", "CONNECT CONNACK AUTH"},
	{"Authentication Data", "16 0001 ff", "CONNECT CONNACK AUTH"},
	{"Request Problem Information", "17 00", "CONNECT"},
	{"Will Delay Interval", "18 00000005", "W"},
	{"Request Response Information", "19 01", "CONNECT"},
	{"Response Information", "1a 0001 'i'", "CONNACK"},
	{"Server Reference", "1c 0001 's'", "CONNACK DISCONNECT"},
	{"Reason String", "1f 0001 'r'", "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"},
	{"Receive Maximum", "21 0001", "CONNECT CONNACK"},
	{"Topic Alias Maximum", "22 0000", "CONNECT CONNACK"},
	{"Topic Alias", "23 0001", "PUBLISH"},
	{"Maximum QoS", "24 01", "CONNACK"},
	{"Retain Available", "25 00", "CONNACK"},
	{"User Property", "26 0001 'k' 0001 'v'", "CONNECT CONNACK PUBLISH PUBACK PUBREC PUBREL PUBCOMP SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH W"},
	{"Maximum Packet Size", "27 00000001", "CONNECT CONNACK"},
	{"Wildcard Subscription Available", "28 00", "CONNACK"},
	{"Subscription Identifier Available", "29 01", "CONNACK"},
	{"Shared Subscription Available", "2a 00", "CONNACK"},
}

// What stands before and after the property length and the properties in each packet.
var propertyPlaces = []struct{ name, before, after string }{
	{"CONNECT", "10 " + c5 + " 02 0000", "0001 'a'"},
	{"W", "10 " + c5 + " 06 0000 00 0001 'a'", "0001 'w' 0000"},
	{"CONNACK", "20 00 00", ""},
	{"PUBLISH", "30 0001 't'", "'payload'"},
	{"PUBACK", "40 0001 00", ""},
	{"PUBREC", "50 0001 00", ""},
	{"PUBREL", "62 0001 00", ""},
	{"PUBCOMP", "70 0001 00", ""},
	{"SUBSCRIBE", "82 0001", "0001 'a' 00"},
	{"SUBACK", "90 0001", "00"},
	{"UNSUBSCRIBE", "a2 0001", "0001 'a'"},
	{"UNSUBACK", "b0 0001", "00"},
	{"DISCONNECT", "e0 00", ""},
	{"AUTH", "f0 18", ""},
}

// Every property in every packet: decoded and encoded again where the specification has it, malformed elsewhere, a
// protocol error when it is there twice, and malformed when its value is cut anywhere.
func TestPropertyPlaces(t *testing.T) {
	for _, place := range propertyPlaces {
		for _, property := range specProperties {
			t.Run(property.name+" in "+place.name, func(t *testing.T) {
				build := func(properties []byte) []byte {
					b := unhex(t, place.before)
					b = appendVarint(b, uint32(len(properties)))
					b = append(append(b, properties...), unhex(t, place.after)...)
					return append(appendVarint(b[:1:1], uint32(len(b)-1)), b[1:]...)
				}
				value := unhex(t, property.value)
				var method []byte // what has to be there beside it
				if place.name == "AUTH" && property.name != "Authentication Method" ||
					property.name == "Authentication Data" && strings.Contains(property.packets, place.name) {
					method = unhex(t, "15 0001 'm'")
				}
				once := build(append(method[:len(method):len(method)], value...))
				p, err := decodeBytes(once, V5)
				var e *Error
				if !strings.Contains(" "+property.packets+" ", " "+place.name+" ") {
					if !errors.As(err, &e) || e.Code != MalformedPacket || !strings.Contains(e.Text, property.name) {
						t.Fatalf("%x: got %v, want it refused as malformed", once, err)
					}
					return
				}
				if err != nil {
					t.Fatalf("%x: %v", once, err)
				}
				again, err := p.Append(nil, V5)
				if err != nil || len(again) != len(once) || !strings.Contains(string(again), string(value)) {
					t.Errorf("%x: encoded as %x, %v", once, again, err)
				}

				twice := build(append(append(method[:len(method):len(method)], value...), value...))
				_, err = decodeBytes(twice, V5)
				many := property.name == "User Property" || property.name == "Subscription Identifier" && place.name == "PUBLISH"
				if many != (err == nil) || err != nil && err.(*Error).Code != ProtocolError {
					t.Errorf("%x: twice: %v", twice, err)
				}
				for cut := 1; cut < len(value); cut++ {
					b := build(append(method[:len(method):len(method)], value[:cut]...))
					if _, err := decodeBytes(b, V5); !errors.As(err, &e) || e.Code != MalformedPacket {
						t.Errorf("%x: cut: %v", b, err)
					}
				}
			})
		}
	}
}

// The reason codes of each packet (table 2-6, and the tables of the packets).
var specCodes = []struct{ name, before, after, codes string }{
	{"CONNACK", "20 00", "00", "00 80 81 82 83 84 85 86 87 88 89 8a 8c 90 95 97 99 9a 9b 9c 9d 9f"},
	{"PUBACK", "40 0001", "00", "00 10 80 83 87 90 91 97 99"},
	{"PUBREC", "50 0001", "00", "00 10 80 83 87 90 91 97 99"},
	{"PUBREL", "62 0001", "00", "00 92"},
	{"PUBCOMP", "70 0001", "00", "00 92"},
	{"SUBACK", "90 0001 00", "", "00 01 02 80 83 87 8f 91 97 9e a1 a2"},
	{"UNSUBACK", "b0 0001 00", "", "00 11 80 83 87 8f 91"},
	{"DISCONNECT", "e0", "00", "00 04 80 81 82 83 87 89 8b 8c 8d 8e 8f 90 93 94 95 96 97 98 99 9a 9b 9c 9d 9e 9f a0 a1 a2"},
	{"AUTH", "f0", "03 150000", "00 18 19"},
}

func TestReasonCodes(t *testing.T) {
	for _, c := range specCodes {
		for code := range 256 {
			b := wire(t, c.before+hexDigits(code)+c.after)
			_, err := decodeBytes(b, V5)
			var e *Error
			if strings.Contains(c.codes, hexDigits(code)) {
				if err != nil {
					t.Errorf("%s with 0x%02x: %v", c.name, code, err)
				}
			} else if !errors.As(err, &e) || e.Code != ProtocolError {
				t.Errorf("%s with 0x%02x: got %v, want a protocol error", c.name, code, err)
			}
		}
	}
}

func hexDigits(n int) string {
	return strings.ToLower(hexByte(byte(n))[2:])
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	known := 0
	for c := range 256 {
		s := Code(c).String()
		if seen[s] {
			t.Errorf("two codes are called %q", s)
		}
		seen[s] = true
		if strings.HasPrefix(s, "reason code 0x") {
			continue
		}
		known++
	}
	if known != 43 {
		t.Errorf("%d codes have a name, want 43", known)
	}
	for _, c := range []struct{ got, want string }{
		{PacketTooLarge.String(), "Packet too large"},
		{Code(0x7f).String(), "reason code 0x7F"},
		{UNSUBACK.String(), "UNSUBACK"},
		{Type(0).String(), "packet type 0"},
		{V311.String(), "3.1.1"},
		{V5.String(), "5.0"},
		{Version(9).String(), "level 9"},
		{(&Error{Code: ProtocolError, Text: "PUBACK: no"}).Error(), "Protocol Error: PUBACK: no"},
		{(&Error{Code: ProtocolError}).Error(), "Protocol Error"},
	} {
		if c.got != c.want {
			t.Errorf("got %q, want %q", c.got, c.want)
		}
	}
}

func TestReturnCodes(t *testing.T) {
	for _, c := range []struct {
		code Code
		want byte
		back Code
	}{
		{Success, 0, Success},
		{UnsupportedVersion, 1, UnsupportedVersion},
		{ClientIDNotValid, 2, ClientIDNotValid},
		{ServerUnavailable, 3, ServerUnavailable},
		{ServerBusy, 3, ServerUnavailable},
		{QuotaExceeded, 3, ServerUnavailable},
		{ServerShuttingDown, 3, ServerUnavailable},
		{BadUserNameOrPassword, 4, BadUserNameOrPassword},
		{BadAuthenticationMethod, 4, BadUserNameOrPassword},
		{NotAuthorized, 5, NotAuthorized},
		{Banned, 5, NotAuthorized},
		{ProtocolError, 5, NotAuthorized},
	} {
		b, err := (&Connack{Code: c.code}).Append(nil, V311)
		if err != nil || string(b) != string([]byte{0x20, 2, 0, c.want}) {
			t.Errorf("%v: encoded as %x, %v", c.code, b, err)
			continue
		}
		p, err := decodeBytes(b, V311)
		if err != nil || p.(*Connack).Code != c.back {
			t.Errorf("%v: decoded as %+v, %v", c.code, p, err)
		}
	}
}
