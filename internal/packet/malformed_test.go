package packet

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// unhex turns "10 0d 'MQTT'" into bytes: hexadecimal digits, and text between apostrophes.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var b []byte
	for i, part := range strings.Split(s, "'") {
		if i%2 == 1 {
			b = append(b, part...)
			continue
		}
		x, err := hex.DecodeString(strings.ReplaceAll(part, " ", ""))
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		b = append(b, x...)
	}
	return b
}

// decodeBytes takes one whole packet as it comes over the wire.
func decodeBytes(b []byte, v Version) (Packet, error) {
	r := NewReader(bytes.NewReader(b), 0)
	first, body, err := r.Next()
	if err != nil {
		return nil, err
	}
	return Decode(first, body, v)
}

const (
	both = 0 // both versions
	c4   = "00 04 'MQTT' 04"
	c5   = "00 04 'MQTT' 05"
)

// malformed are packets that must be refused. A packet of "T ..." is the type and flags and the body, for which the
// remaining length is computed; "= ..." is given whole.
var malformed = []struct {
	name   string
	v      Version
	packet string
	code   Code
	text   string
}{
	// The fixed header.
	{"type 0", both, "= 00 00", MalformedPacket, "reserved"},
	{"remaining length of five bytes", both, "= 30 80 80 80 80 01", MalformedPacket, "longer than four bytes"},
	{"remaining length not the shortest", both, "= c0 80 00", MalformedPacket, "shortest form"},
	{"remaining length not the shortest, 3 bytes", both, "= 30 85 80 00 00 01 'a' 00 00", MalformedPacket, "shortest form"},
	{"remaining length not the shortest, CONNECT 5", both, "= 10 8d 00 " + c5 + " 02 0000 00 0000", MalformedPacket, "shortest form"},
	{"CONNECT flags", both, "11 " + c4 + " 02 0000 0000", MalformedPacket, "reserved flags must be 0000"},
	{"CONNACK flags", both, "28 00 00", MalformedPacket, "reserved flags must be 0000"},
	{"PUBACK flags", both, "42 0001", MalformedPacket, "reserved flags must be 0000"},
	{"PUBREC flags", both, "51 0001", MalformedPacket, "reserved flags must be 0000"},
	{"PUBREL flags 0", both, "60 0001", MalformedPacket, "reserved flags must be 0010"},
	{"PUBREL flags 3", both, "63 0001", MalformedPacket, "reserved flags must be 0010"},
	{"PUBREL flags 10", both, "6a 0001", MalformedPacket, "reserved flags must be 0010"},
	{"PUBCOMP flags", both, "72 0001", MalformedPacket, "reserved flags must be 0000"},
	{"SUBSCRIBE flags 0", V311, "80 0001 0001 'a' 00", MalformedPacket, "reserved flags must be 0010"},
	{"SUBSCRIBE flags 6", V5, "86 0001 00 0001 'a' 00", MalformedPacket, "reserved flags must be 0010"},
	{"SUBACK flags", V311, "91 0001 00", MalformedPacket, "reserved flags must be 0000"},
	{"UNSUBSCRIBE flags", V311, "a0 0001 0001 'a'", MalformedPacket, "reserved flags must be 0010"},
	{"UNSUBACK flags", V311, "b2 0001", MalformedPacket, "reserved flags must be 0000"},
	{"PINGREQ flags", both, "c1", MalformedPacket, "reserved flags must be 0000"},
	{"PINGREQ body", both, "c0 00", MalformedPacket, "1 bytes too many"},
	{"PINGRESP flags", both, "d8", MalformedPacket, "reserved flags must be 0000"},
	{"PINGRESP body", both, "d0 00 00", MalformedPacket, "2 bytes too many"},
	{"DISCONNECT flags", both, "e2", MalformedPacket, "reserved flags must be 0000"},
	{"AUTH flags", V5, "f1", MalformedPacket, "reserved flags must be 0000"},

	// CONNECT.
	{"CONNECT empty", both, "10", MalformedPacket, "protocol name"},
	{"CONNECT ends in protocol name", both, "10 0004 'MQ'", MalformedPacket, "protocol name"},
	{"CONNECT without level", both, "10 0004 'MQTT'", MalformedPacket, "protocol level"},
	{"CONNECT 3.1", both, "10 0006 'MQIsdp' 03 02 0000 0001 'a'", UnsupportedVersion, "protocol name"},
	{"CONNECT name in lower case", both, "10 0004 'mqtt' 04 02 0000 0001 'a'", UnsupportedVersion, "protocol name"},
	{"CONNECT other name", both, "10 0004 'HTTP' 05 02 0000 00 0001 'a'", UnsupportedVersion, "protocol name"},
	{"CONNECT empty name", both, "10 0000 04 02 0000 0001 'a'", UnsupportedVersion, "protocol name"},
	{"CONNECT level 0", both, "10 0004 'MQTT' 00 02 0000 0001 'a'", UnsupportedVersion, "level 0"},
	{"CONNECT level 3", both, "10 0004 'MQTT' 03 02 0000 0001 'a'", UnsupportedVersion, "level 3"},
	{"CONNECT level 6", both, "10 0004 'MQTT' 06 02 0000 00 0001 'a'", UnsupportedVersion, "level 6"},
	{"CONNECT level 6, rubbish after it", both, "10 0004 'MQTT' 06 ff", UnsupportedVersion, "level 6"},
	{"CONNECT level of a bridge", both, "10 0004 'MQTT' 84 02 0000 0001 'a'", UnsupportedVersion, "level 132"},
	{"CONNECT without flags", both, "10 " + c4, MalformedPacket, "connect flags"},
	{"CONNECT reserved flag, 3.1.1", both, "10 " + c4 + " 03 0000 0001 'a'", MalformedPacket, "reserved connect flag"},
	{"CONNECT reserved flag, 5", both, "10 " + c5 + " 03 0000 00 0001 'a'", MalformedPacket, "reserved connect flag"},
	{"CONNECT Will QoS without Will, 3.1.1", both, "10 " + c4 + " 0a 0000 0001 'a'", MalformedPacket, "Will QoS without"},
	{"CONNECT Will QoS without Will, 5", both, "10 " + c5 + " 12 0000 00 0001 'a'", MalformedPacket, "Will QoS without"},
	{"CONNECT Will retain without Will, 3.1.1", both, "10 " + c4 + " 22 0000 0001 'a'", MalformedPacket, "Will Retain without"},
	{"CONNECT Will retain without Will, 5", both, "10 " + c5 + " 22 0000 00 0001 'a'", MalformedPacket, "Will Retain without"},
	{"CONNECT Will QoS 3, 3.1.1", both, "10 " + c4 + " 1e 0000 0001 'a' 0001 'w' 0000", MalformedPacket, "Will QoS is 3"},
	{"CONNECT Will QoS 3, 5", both, "10 " + c5 + " 1e 0000 00 0001 'a' 00 0001 'w' 0000", MalformedPacket, "Will QoS is 3"},
	{"CONNECT password alone, 3.1.1", both, "10 " + c4 + " 42 0000 0001 'a' 0001 'p'", MalformedPacket, "password without a user name"},
	{"CONNECT ends in keep alive", both, "10 " + c4 + " 02 00", MalformedPacket, "keep alive"},
	{"CONNECT without property length", both, "10 " + c5 + " 02 0000", MalformedPacket, "property length"},
	{"CONNECT property length too long", both, "10 " + c5 + " 02 0000 05 0000", MalformedPacket, "beyond the end"},
	{"CONNECT property length not the shortest", both, "10 " + c5 + " 02 0000 8000 0000", MalformedPacket, "shortest form"},
	{"CONNECT property length of five bytes", both, "10 " + c5 + " 02 0000 ffffffff01 0000", MalformedPacket, "longer than four"},
	{"CONNECT without client id", both, "10 " + c4 + " 02 0000", MalformedPacket, "client identifier"},
	{"CONNECT ends in client id", both, "10 " + c4 + " 02 0000 0002 'a'", MalformedPacket, "client identifier"},
	{"CONNECT client id with NUL", both, "10 " + c4 + " 02 0000 0003 'a' 00 'b'", MalformedPacket, "U+0000"},
	{"CONNECT client id with a surrogate", both, "10 " + c4 + " 02 0000 0003 eda080", MalformedPacket, "UTF-8"},
	{"CONNECT client id not UTF-8", both, "10 " + c5 + " 02 0000 00 0002 'a' ff", MalformedPacket, "UTF-8"},
	{"CONNECT client id overlong", both, "10 " + c5 + " 02 0000 00 0002 c080", MalformedPacket, "UTF-8"},
	{"CONNECT without Will topic", both, "10 " + c4 + " 06 0000 0001 'a'", MalformedPacket, "Will topic"},
	{"CONNECT without Will properties", both, "10 " + c5 + " 06 0000 00 0001 'a'", MalformedPacket, "property length"},
	{"CONNECT ends in Will payload", both, "10 " + c4 + " 06 0000 0001 'a' 0001 'w' 0005 'x'", MalformedPacket, "Will payload"},
	{"CONNECT Will topic with NUL", both, "10 " + c4 + " 06 0000 0001 'a' 0002 'w' 00 0000", MalformedPacket, "Will topic contains U+0000"},
	{"CONNECT Will topic not UTF-8", both, "10 " + c5 + " 06 0000 00 0001 'a' 00 0002 'w' 80 0000", MalformedPacket, "Will topic is not well-formed"},
	{"CONNECT Will topic with #, 5", both, "10 " + c5 + " 06 0000 00 0001 'a' 00 0003 'w/#' 0000", TopicNameInvalid, "wildcard"},
	{"CONNECT Will topic with +, 5", both, "10 " + c5 + " 06 0000 00 0001 'a' 00 0001 '+' 0000", TopicNameInvalid, "wildcard"},
	{"CONNECT Will topic with #, 3.1.1", both, "10 " + c4 + " 06 0000 0001 'a' 0001 '#' 0000", MalformedPacket, "wildcard"},
	{"CONNECT Will topic empty, 5", both, "10 " + c5 + " 06 0000 00 0001 'a' 00 0000 0000", TopicNameInvalid, "Will topic is empty"},
	{"CONNECT Will topic empty, 3.1.1", both, "10 " + c4 + " 06 0000 0001 'a' 0000 0000", MalformedPacket, "Will topic is empty"},
	{"CONNECT without user name", both, "10 " + c4 + " 82 0000 0001 'a'", MalformedPacket, "user name"},
	{"CONNECT user name not UTF-8", both, "10 " + c4 + " 82 0000 0001 'a' 0001 fe", MalformedPacket, "user name is not well-formed"},
	{"CONNECT user name with NUL", both, "10 " + c5 + " 82 0000 00 0001 'a' 0001 00", MalformedPacket, "user name contains U+0000"},
	{"CONNECT without password", both, "10 " + c4 + " c2 0000 0001 'a' 0001 'u'", MalformedPacket, "password"},
	{"CONNECT ends in password", both, "10 " + c5 + " 42 0000 00 0001 'a' 0003 'pp'", MalformedPacket, "password"},
	{"CONNECT longer than its fields, 3.1.1", both, "10 " + c4 + " 02 0000 0001 'a' 00", MalformedPacket, "1 bytes too many"},
	{"CONNECT longer than its fields, 5", both, "10 " + c5 + " 02 0000 00 0001 'a' 0000", MalformedPacket, "2 bytes too many"},
	{"CONNECT receive maximum 0", both, "10 " + c5 + " 02 0000 03 210000 0000", ProtocolError, "Receive Maximum is 0"},
	{"CONNECT maximum packet size 0", both, "10 " + c5 + " 02 0000 05 2700000000 0000", ProtocolError, "Maximum Packet Size is 0"},
	{"CONNECT request problem 2", both, "10 " + c5 + " 02 0000 02 1702 0000", ProtocolError, "Request Problem Information is 2"},
	{"CONNECT request response 255", both, "10 " + c5 + " 02 0000 02 19ff 0000", ProtocolError, "Request Response Information is 255"},
	{"CONNECT authentication data alone", both, "10 " + c5 + " 02 0000 04 16 0001 'x' 0000", ProtocolError, "Authentication Data without"},
	{"CONNECT Will payload format 2", both, "10 " + c5 + " 06 0000 00 0001 'a' 02 0102 0001 'w' 0000", ProtocolError, "Payload Format Indicator is 2"},
	{"CONNECT Will delay among its own properties", both, "10 " + c5 + " 06 0000 05 1800000001 0001 'a' 00 0001 'w' 0000", MalformedPacket, "cannot have the property Will Delay"},
	{"CONNECT session expiry in the Will", both, "10 " + c5 + " 06 0000 00 0001 'a' 05 1100000001 0001 'w' 0000", MalformedPacket, "cannot have the property Session Expiry"},
	{"CONNECT Will response topic with a wildcard", both, "10 " + c5 + " 06 0000 00 0001 'a' 06 08 0003 'r/+' 0001 'w' 0000", ProtocolError, "Response Topic contains a wildcard"},

	// CONNACK.
	{"CONNACK empty", both, "20", MalformedPacket, "acknowledge flags"},
	{"CONNACK without code", both, "20 00", MalformedPacket, "reason code"},
	{"CONNACK reserved acknowledge flags", V311, "20 02 00", MalformedPacket, "reserved acknowledge flags"},
	{"CONNACK reserved acknowledge flags, 5", V5, "20 80 00 00", MalformedPacket, "reserved acknowledge flags"},
	{"CONNACK return code 6", V311, "20 00 06", ProtocolError, "return code 6"},
	{"CONNACK reason code in 3.1.1", V311, "20 00 87", ProtocolError, "return code 135"},
	{"CONNACK reason code 1", V5, "20 00 01 00", ProtocolError, "reason code 0x01"},
	{"CONNACK session present in a refusal", V311, "20 01 05", ProtocolError, "session present"},
	{"CONNACK session present in a refusal, 5", V5, "20 01 87 00", ProtocolError, "session present"},
	{"CONNACK longer than its fields", V311, "20 00 00 00", MalformedPacket, "1 bytes too many"},
	{"CONNACK longer than its fields, 5", V5, "20 00 00 00 00", MalformedPacket, "1 bytes too many"},
	{"CONNACK without property length", V5, "20 00 00", MalformedPacket, "property length"},
	{"CONNACK maximum QoS 2", V5, "20 00 00 02 2402", ProtocolError, "Maximum QoS is 2"},
	{"CONNACK retain available 2", V5, "20 00 00 02 2502", ProtocolError, "Retain Available is 2"},
	{"CONNACK wildcard available 2", V5, "20 00 00 02 2802", ProtocolError, "Wildcard Subscription Available is 2"},
	{"CONNACK subscription id available 2", V5, "20 00 00 02 2902", ProtocolError, "Subscription Identifier Available is 2"},
	{"CONNACK shared available 2", V5, "20 00 00 02 2a02", ProtocolError, "Shared Subscription Available is 2"},
	{"CONNACK receive maximum 0", V5, "20 00 00 03 210000", ProtocolError, "Receive Maximum is 0"},
	{"CONNACK authentication data alone", V5, "20 00 00 03 160000", ProtocolError, "Authentication Data without"},

	// PUBLISH.
	{"PUBLISH QoS 3", both, "36 0001 'a' 0001 00", MalformedPacket, "QoS is 3"},
	{"PUBLISH QoS 3 with DUP", both, "3e 0001 'a' 0001 00", MalformedPacket, "QoS is 3"},
	{"PUBLISH DUP at QoS 0", both, "38 0001 'a' 00", MalformedPacket, "DUP at QoS 0"},
	{"PUBLISH empty", both, "30", MalformedPacket, "topic name"},
	{"PUBLISH ends in the topic's length", both, "30 00", MalformedPacket, "topic name"},
	{"PUBLISH ends in the topic", both, "30 0003 'ab'", MalformedPacket, "topic name"},
	{"PUBLISH without id", both, "32 0001 'a'", MalformedPacket, "packet identifier"},
	{"PUBLISH ends in the id", both, "34 0001 'a' 00", MalformedPacket, "packet identifier"},
	{"PUBLISH id 0 at QoS 1", both, "32 0001 'a' 0000 00", ProtocolError, "packet identifier is 0"},
	{"PUBLISH id 0 at QoS 2", both, "34 0001 'a' 0000 00", ProtocolError, "packet identifier is 0"},
	{"PUBLISH topic with #, 3.1.1", V311, "30 0003 'a/#'", MalformedPacket, "wildcard"},
	{"PUBLISH topic with +, 3.1.1", V311, "30 0001 '+'", MalformedPacket, "wildcard"},
	{"PUBLISH topic with #, 5", V5, "30 0003 'a/#' 00", TopicNameInvalid, "wildcard"},
	{"PUBLISH topic with +, 5", V5, "30 000c 'a/long/+/one' 00", TopicNameInvalid, "wildcard"},
	{"PUBLISH topic with + among other letters", V5, "30 0003 'a+b' 00", TopicNameInvalid, "wildcard"},
	{"PUBLISH topic with # and not ASCII", V5, "30 0003 c3a9 '#' 00", TopicNameInvalid, "wildcard"},
	{"PUBLISH topic with NUL", both, "30 0003 'a' 00 'b' 00", MalformedPacket, "U+0000"},
	{"PUBLISH topic with NUL and wildcard", both, "30 0003 '#' 00 'b' 00", MalformedPacket, "U+0000"},
	{"PUBLISH long topic with NUL", both, "30 000a 'abcdefgh' 00 'b' 00", MalformedPacket, "U+0000"},
	{"PUBLISH topic not UTF-8", both, "30 0002 'a' ff 00", MalformedPacket, "UTF-8"},
	{"PUBLISH topic with a cut sequence", both, "30 000a 'abcdefgh' c3 'b' 00", MalformedPacket, "UTF-8"},
	{"PUBLISH topic with a surrogate", both, "30 0003 edbfbf 00", MalformedPacket, "UTF-8"},
	{"PUBLISH topic beyond U+10FFFF", both, "30 0004 f4908080 00", MalformedPacket, "UTF-8"},
	{"PUBLISH topic empty, 3.1.1", V311, "30 0000 'x'", MalformedPacket, "topic name is empty"},
	{"PUBLISH topic empty without alias", V5, "30 0000 00 'x'", ProtocolError, "neither a topic name nor a Topic Alias"},
	{"PUBLISH topic empty, other property", V5, "30 0000 02 0101 'x'", ProtocolError, "neither a topic name nor a Topic Alias"},
	{"PUBLISH alias 0", V5, "30 0001 'a' 03 230000", TopicAliasInvalid, "Topic Alias is 0"},
	{"PUBLISH alias 0 without topic", V5, "30 0000 03 230000", TopicAliasInvalid, "Topic Alias is 0"},
	{"PUBLISH without property length", V5, "30 0001 'a'", MalformedPacket, "property length"},
	{"PUBLISH without property length at QoS 1", V5, "32 0001 'a' 0001", MalformedPacket, "property length"},
	{"PUBLISH property length too long", V5, "30 0001 'a' 03 0101", MalformedPacket, "beyond the end"},
	{"PUBLISH ends in property length", V5, "30 0001 'a' 80", MalformedPacket, "property length"},
	{"PUBLISH property length not the shortest", V5, "30 0001 'a' 8200 0101", MalformedPacket, "shortest form"},
	{"PUBLISH property length of five bytes", V5, "30 0001 'a' 8080808001", MalformedPacket, "longer than four"},
	{"PUBLISH property cut by the property length", V5, "30 0001 'a' 03 020000 0001", MalformedPacket, "Message Expiry Interval"},
	{"PUBLISH identifier at the end of the properties", V5, "30 0001 'a' 03 0101 02", MalformedPacket, "Message Expiry Interval"},
	{"PUBLISH payload format 2", V5, "30 0001 'a' 02 0102", ProtocolError, "Payload Format Indicator is 2"},
	{"PUBLISH response topic with +", V5, "30 0001 'a' 06 08 0003 'r/+'", ProtocolError, "Response Topic contains a wildcard"},
	{"PUBLISH response topic with #", V5, "30 0001 'a' 04 08 0001 '#'", ProtocolError, "Response Topic contains a wildcard"},
	{"PUBLISH response topic empty", V5, "30 0001 'a' 03 08 0000", ProtocolError, "Response Topic is empty"},
	{"PUBLISH response topic with NUL", V5, "30 0001 'a' 04 08 0001 00", MalformedPacket, "Response Topic contains U+0000"},
	{"PUBLISH response topic not UTF-8", V5, "30 0001 'a' 04 08 0001 c0", MalformedPacket, "Response Topic is not well-formed"},
	{"PUBLISH response topic cut", V5, "30 0001 'a' 05 08 0005 'rr' 00", MalformedPacket, "Response Topic"},
	{"PUBLISH content type not UTF-8", V5, "30 0001 'a' 04 03 0001 c0", MalformedPacket, "Content Type is not well-formed"},
	{"PUBLISH content type with NUL", V5, "30 0001 'a' 0c 03 0009 'abcdefgh' 00", MalformedPacket, "Content Type contains U+0000"},
	{"PUBLISH correlation data cut", V5, "30 0001 'a' 04 09 0002 'x' 00", MalformedPacket, "Correlation Data"},
	{"PUBLISH user property without value", V5, "30 0001 'a' 04 26 0001 'k' 00", MalformedPacket, "User Property's value"},
	{"PUBLISH user property's name not UTF-8", V5, "30 0001 'a' 06 26 0001 ff 0000 00", MalformedPacket, "User Property's name"},
	{"PUBLISH user property's value with NUL", V5, "30 0001 'a' 06 26 0000 0001 00 00", MalformedPacket, "User Property's value contains U+0000"},
	{"PUBLISH subscription id 0", V5, "30 0001 'a' 02 0b00", ProtocolError, "Subscription Identifier is 0"},
	{"PUBLISH subscription id of five bytes", V5, "30 0001 'a' 06 0bffffffff01", MalformedPacket, "longer than four"},
	{"PUBLISH subscription id not the shortest", V5, "30 0001 'a' 03 0b8100", MalformedPacket, "shortest form"},
	{"PUBLISH subscription id cut", V5, "30 0001 'a' 02 0b81 01", MalformedPacket, "Subscription Identifier"},
	{"PUBLISH property 0", V5, "30 0001 'a' 02 0000", MalformedPacket, "unknown property 0x00"},
	{"PUBLISH property 4", V5, "30 0001 'a' 02 0400", MalformedPacket, "unknown property 0x04"},
	{"PUBLISH property 43", V5, "30 0001 'a' 02 2b00", MalformedPacket, "unknown property 0x2B"},
	{"PUBLISH property 128", V5, "30 0001 'a' 03 800100", MalformedPacket, "unknown property 0x80"},
	{"PUBLISH property identifier not the shortest", V5, "30 0001 'a' 03 810001", MalformedPacket, "unknown property 0x81"},

	// PUBACK, PUBREC, PUBREL, PUBCOMP.
	{"PUBACK empty", both, "40", MalformedPacket, "packet identifier"},
	{"PUBREC ends in the id", both, "50 01", MalformedPacket, "packet identifier"},
	{"PUBREL id 0", both, "62 0000", ProtocolError, "packet identifier is 0"},
	{"PUBCOMP id 0", both, "70 0000", ProtocolError, "packet identifier is 0"},
	{"PUBACK with a code in 3.1.1", V311, "40 0001 00", MalformedPacket, "1 bytes too many"},
	{"PUBREL with properties in 3.1.1", V311, "62 0001 00 00", MalformedPacket, "2 bytes too many"},
	{"PUBACK unknown code", V5, "40 0001 01", ProtocolError, "PUBACK: cannot have reason code 0x01"},
	{"PUBREC unknown code", V5, "50 0001 ff 00", ProtocolError, "PUBREC: cannot have reason code 0xFF"},
	{"PUBREL code of a PUBACK", V5, "62 0001 10", ProtocolError, "PUBREL: cannot have reason code 0x10"},
	{"PUBCOMP code of a PUBACK", V5, "70 0001 80", ProtocolError, "PUBCOMP: cannot have reason code 0x80"},
	{"PUBACK property length too long", V5, "40 0001 00 01", MalformedPacket, "beyond the end"},
	{"PUBACK longer than its fields", V5, "40 0001 00 00 00", MalformedPacket, "1 bytes too many"},
	{"PUBCOMP longer than its fields", V5, "70 0001 00 05 1f 0002 'no' 0000", MalformedPacket, "2 bytes too many"},
	{"PUBREC reason string twice", V5, "50 0001 00 06 1f0000 1f0000", ProtocolError, "Reason String twice"},
	{"PUBREC reason string not UTF-8", V5, "50 0001 00 04 1f 0001 ff", MalformedPacket, "Reason String is not well-formed"},

	// SUBSCRIBE.
	{"SUBSCRIBE cut after the filter, 5", V5, "= 82 06 00 01 00 00 01 61", MalformedPacket, "subscription options"},
	{"SUBSCRIBE cut in its second filter, 3.1.1", V311, "= 82 06 00 01 00 00 01 61", MalformedPacket, "topic filter"},
	{"SUBSCRIBE empty", both, "82", MalformedPacket, "packet identifier"},
	{"SUBSCRIBE id 0", V311, "82 0000 0001 'a' 00", ProtocolError, "packet identifier is 0"},
	{"SUBSCRIBE id 0, 5", V5, "82 0000 00 0001 'a' 00", ProtocolError, "packet identifier is 0"},
	{"SUBSCRIBE without filter", V311, "82 0001", ProtocolError, "no topic filter"},
	{"SUBSCRIBE without filter, 5", V5, "82 0001 00", ProtocolError, "no topic filter"},
	{"SUBSCRIBE without property length", V5, "82 0001", MalformedPacket, "property length"},
	{"SUBSCRIBE ends in a filter's length", V311, "82 0001 0001 'a' 00 00", MalformedPacket, "topic filter"},
	{"SUBSCRIBE without QoS", V311, "82 0001 0001 'a'", MalformedPacket, "subscription options"},
	{"SUBSCRIBE filter with NUL", V311, "82 0001 0003 'a' 00 'b' 00", MalformedPacket, "U+0000"},
	{"SUBSCRIBE filter not UTF-8", V5, "82 0001 00 0003 'a/' ff 00", MalformedPacket, "UTF-8"},
	{"SUBSCRIBE QoS 3", V311, "82 0001 0001 'a' 03", MalformedPacket, "QoS is not 0, 1 or 2"},
	{"SUBSCRIBE QoS 3, 5", V5, "82 0001 00 0001 'a' 03", ProtocolError, "maximum QoS is 3"},
	{"SUBSCRIBE no local in 3.1.1", V311, "82 0001 0001 'a' 04", MalformedPacket, "QoS is not 0, 1 or 2"},
	{"SUBSCRIBE top bit in 3.1.1", V311, "82 0001 0001 'a' 80", MalformedPacket, "QoS is not 0, 1 or 2"},
	{"SUBSCRIBE reserved bit 6", V5, "82 0001 00 0001 'a' 40", MalformedPacket, "reserved subscription options"},
	{"SUBSCRIBE reserved bit 7", V5, "82 0001 00 0001 'a' 81", MalformedPacket, "reserved subscription options"},
	{"SUBSCRIBE reserved bit in the second", V5, "82 0001 00 0001 'a' 01 0001 'b' 80", MalformedPacket, "reserved subscription options"},
	{"SUBSCRIBE retain handling 3", V5, "82 0001 00 0001 'a' 30", ProtocolError, "retain handling is 3"},
	{"SUBSCRIBE no local on a shared subscription", V5, "82 0001 00 000a '$share/g/a' 04", ProtocolError, "no local"},
	{"SUBSCRIBE subscription id 0", V5, "82 0001 02 0b00 0001 'a' 00", ProtocolError, "Subscription Identifier is 0"},
	{"SUBSCRIBE subscription id twice", V5, "82 0001 04 0b010b02 0001 'a' 00", ProtocolError, "Subscription Identifier twice"},
	{"SUBSCRIBE property of UNSUBACK", V5, "82 0001 03 1f0000 0001 'a' 00", MalformedPacket, "cannot have the property Reason String"},

	// SUBACK.
	{"SUBACK without code", V311, "90 0001", MalformedPacket, "no reason code"},
	{"SUBACK without code, 5", V5, "90 0001 00", MalformedPacket, "no reason code"},
	{"SUBACK id 0", V311, "90 0000 00", ProtocolError, "packet identifier is 0"},
	{"SUBACK reserved code", V311, "90 0001 03", MalformedPacket, "return code 0x03"},
	{"SUBACK code of 5 in 3.1.1", V311, "90 0001 87", MalformedPacket, "return code 0x87"},
	{"SUBACK unknown code", V5, "90 0001 00 01 03", ProtocolError, "reason code 0x03"},
	{"SUBACK code of UNSUBACK", V5, "90 0001 00 11", ProtocolError, "reason code 0x11"},

	// UNSUBSCRIBE.
	{"UNSUBSCRIBE id 0", V311, "a2 0000 0001 'a'", ProtocolError, "packet identifier is 0"},
	{"UNSUBSCRIBE without filter", V311, "a2 0001", ProtocolError, "no topic filter"},
	{"UNSUBSCRIBE without filter, 5", V5, "a2 0001 00", ProtocolError, "no topic filter"},
	{"UNSUBSCRIBE ends in a filter", V5, "a2 0001 00 0002 'a'", MalformedPacket, "topic filter"},
	{"UNSUBSCRIBE ends in a filter's length", V311, "a2 0001 0001 'a' 00", MalformedPacket, "topic filter"},
	{"UNSUBSCRIBE filter with NUL", V5, "a2 0001 00 0001 00", MalformedPacket, "U+0000"},
	{"UNSUBSCRIBE with a subscription id", V5, "a2 0001 02 0b01 0001 'a'", MalformedPacket, "cannot have the property Subscription Identifier"},

	// UNSUBACK.
	{"UNSUBACK with a code in 3.1.1", V311, "b0 0001 00", MalformedPacket, "1 bytes too many"},
	{"UNSUBACK without code", V5, "b0 0001 00", MalformedPacket, "no reason code"},
	{"UNSUBACK id 0", both, "b0 0000", ProtocolError, "packet identifier is 0"},
	{"UNSUBACK unknown code", V5, "b0 0001 00 01", ProtocolError, "reason code 0x01"},

	// DISCONNECT and AUTH.
	{"DISCONNECT with a code in 3.1.1", V311, "e0 00", MalformedPacket, "1 bytes too many"},
	{"DISCONNECT unknown code", V5, "e0 01", ProtocolError, "reason code 0x01"},
	{"DISCONNECT code of CONNACK", V5, "e0 85 00", ProtocolError, "reason code 0x85"},
	{"DISCONNECT property length too long", V5, "e0 00 03 1f00", MalformedPacket, "beyond the end"},
	{"DISCONNECT longer than its fields", V5, "e0 00 00 00", MalformedPacket, "1 bytes too many"},
	{"DISCONNECT session expiry twice", V5, "e0 00 0a 1100000001 1100000001", ProtocolError, "Session Expiry Interval twice"},
	{"AUTH in 3.1.1", V311, "f0", MalformedPacket, "does not exist"},
	{"AUTH in 3.1.1 with body", V311, "f0 18 06 15 0003 'abc'", MalformedPacket, "does not exist"},
	{"AUTH unknown code", V5, "f0 01 06 15 0003 'abc'", ProtocolError, "reason code 0x01"},
	{"AUTH without property length", V5, "f0 18", MalformedPacket, "property length"},
	{"AUTH without method", V5, "f0 18 00", ProtocolError, "no Authentication Method"},
	{"AUTH data without method", V5, "f0 18 04 16 0001 'x'", ProtocolError, "Authentication Data without"},
	{"AUTH method twice", V5, "f0 18 06 150000 150000", ProtocolError, "Authentication Method twice"},
	{"AUTH longer than its fields", V5, "f0 18 03 150000 00", MalformedPacket, "1 bytes too many"},
}

// wire returns the bytes of a row.
func wire(t testing.TB, s string) []byte {
	if whole, ok := strings.CutPrefix(s, "= "); ok {
		return unhex(t, whole)
	}
	b := unhex(t, s)
	return append(appendVarint(b[:1:1], uint32(len(b)-1)), b[1:]...)
}

func TestMalformed(t *testing.T) {
	for _, c := range malformed {
		for _, v := range []Version{V311, V5} {
			if c.v != both && c.v != v {
				continue
			}
			t.Run(c.name+"/"+v.String(), func(t *testing.T) {
				b := wire(t, c.packet)
				p, err := decodeBytes(b, v)
				var e *Error
				if !errors.As(err, &e) {
					t.Fatalf("%x: got %+v and error %v, want code %v", b, p, err, c.code)
				}
				if p != nil {
					t.Errorf("%x: a packet beside the error: %+v", b, p)
				}
				if e.Code != c.code || !strings.Contains(e.Text, c.text) {
					t.Errorf("%x: got %v (0x%02X), want 0x%02X with %q", b, e, byte(e.Code), byte(c.code), c.text)
				}
				if name := Type(b[0] >> 4).String(); !strings.HasPrefix(e.Text, name) && !strings.HasPrefix(e.Text, "remaining length") {
					t.Errorf("the text does not say which packet: %q", e.Text)
				}
			})
		}
	}
}

// A refused CONNECT still says which version its sender speaks.
func TestConnectVersionOfRefused(t *testing.T) {
	for _, c := range []struct {
		body string
		want Version
	}{
		{c4 + " 03 0000 0000", V311},
		{c5 + " 03 0000 00 0000", V5},
		{"0004 'MQTT' 06", 6},
		{"0006 'MQIsdp' 03 02 0000 0001 'a'", 3},
		{"0004 'HTTP' 05 02", 0},
		{"0004 'MQ'", 0},
	} {
		var p Connect
		if err := p.Decode(0x10, unhex(t, c.body)); err == nil {
			t.Errorf("%s: no error", c.body)
		}
		if p.Version != c.want {
			t.Errorf("%s: version %d, want %d", c.body, p.Version, c.want)
		}
	}
}

// What looks wrong and is not.
func TestAccepted(t *testing.T) {
	filter := func(want string) func(Packet) bool {
		return func(p Packet) bool { return string(p.(*Subscribe).Subscriptions[0].Filter) == want }
	}
	for _, c := range []struct {
		name   string
		v      Version
		packet string
		check  func(Packet) bool
	}{
		{"CONNECT password alone, 5", both, "10 " + c5 + " 42 0000 00 0000 0001 'p'", func(p Packet) bool {
			c := p.(*Connect)
			return c.HasPass && !c.HasUser && string(c.Password) == "p"
		}},
		{"CONNECT empty user name", both, "10 " + c4 + " 82 0000 0001 'a' 0000", func(p Packet) bool { return p.(*Connect).HasUser }},
		{"CONNECT password is binary", both, "10 " + c4 + " c2 0000 0001 'a' 0001 'u' 0002 00ff", nil},
		{"CONNECT empty client id, session kept", both, "10 " + c4 + " 00 0000 0000", nil},
		{"CONNECT Will payload is binary", both, "10 " + c4 + " 06 0000 0001 'a' 0001 'w' 0002 00ff", nil},
		{"PUBLISH without payload", V5, "30 0001 'a' 00", nil},
		{"PUBLISH without payload, 3.1.1", V311, "30 0001 'a'", nil},
		{"PUBLISH alias without topic", V5, "30 0000 03 230001 'x'", func(p Packet) bool { return p.(*Publish).Properties.TopicAlias.V == 1 }},
		{"PUBLISH alias with topic", V5, "30 0001 'a' 03 23ffff", nil},
		{"PUBLISH subscription ids", V5, "30 0001 'a' 07 0b01 0bffffff7f", func(p Packet) bool {
			ids := p.(*Publish).Properties.SubscriptionIDs
			return len(ids) == 2 && ids[1] == MaxRemainingLength
		}},
		{"PUBLISH user property many times", V5, "30 0001 'a' 0f 26 0000 0000 26 0000 0000 26 0000 0000", func(p Packet) bool { return len(p.(*Publish).Properties.User) == 3 }},
		{"PUBLISH empty content type", V5, "30 0001 'a' 03 030000", func(p Packet) bool { return p.(*Publish).Properties.ContentType != nil }},
		{"PUBLISH topic of control characters", both, "30 0003 01 7f 0a 00", nil},
		{"PUBLISH topic of a non-character", both, "30 0003 efbfbf 00", nil},
		{"PUBLISH topic with BOM", both, "30 0004 efbbbf 'a' 00", func(p Packet) bool { return string(p.(*Publish).Topic) == "\ufeffa" }},
		{"PUBLISH topic starting with $", both, "30 0004 '$SYS' 00", nil},
		{"PUBLISH topic of a slash", both, "30 0001 '/' 00", nil},
		{"PUBLISH payload not UTF-8 against its promise", V5, "30 0001 'a' 02 0101 ff", nil},
		{"PUBACK with code only", V5, "40 0001 10", func(p Packet) bool { return p.(*Ack).Code == NoMatchingSubscribers }},
		{"PUBACK with code and property length", V5, "40 0001 00 00", nil},
		{"PUBREL with code", V5, "62 0001 92", nil},
		{"SUBSCRIBE empty filter", V5, "82 0001 00 0000 00", filter("")},
		{"SUBSCRIBE empty filter, 3.1.1", V311, "82 0001 0000 00", filter("")},
		{"SUBSCRIBE a#", V5, "82 0001 00 0002 'a#' 00", filter("a#")},
		{"SUBSCRIBE a/#/b", V311, "82 0001 0005 'a/#/b' 02", filter("a/#/b")},
		{"SUBSCRIBE +a", V5, "82 0001 00 0002 '+a' 00", filter("+a")},
		{"SUBSCRIBE shared without group", V5, "82 0001 00 0009 '$share//a' 00", filter("$share//a")},
		{"SUBSCRIBE shared without filter", V5, "82 0001 00 0008 '$share/g' 00", filter("$share/g")},
		{"SUBSCRIBE wildcard in the group", V5, "82 0001 00 000a '$share/+/a' 00", filter("$share/+/a")},
		{"SUBSCRIBE no local on what only looks shared", V5, "82 0001 00 0008 '$shared/' 04", nil},
		{"SUBSCRIBE all options", V5, "82 0001 00 0001 'a' 2e", func(p Packet) bool {
			s := p.(*Subscribe).Subscriptions[0]
			return s.QoS == 2 && s.NoLocal && s.RetainAsPublished && s.RetainHandling == 2
		}},
		{"UNSUBSCRIBE empty filter", V5, "a2 0001 00 0000", nil},
		{"SUBACK failure", V311, "90 0001 80", func(p Packet) bool { return p.(*Suback).Codes[0] == UnspecifiedError }},
		{"DISCONNECT empty", both, "e0", nil},
		{"DISCONNECT code only", V5, "e0 04", func(p Packet) bool { return p.(*Disconnect).Code == DisconnectWithWill }},
		{"AUTH empty", V5, "f0", nil},
		{"AUTH with data", V5, "f0 18 06 150000 160000", nil},
	} {
		for _, v := range []Version{V311, V5} {
			if c.v != both && c.v != v {
				continue
			}
			b := wire(t, c.packet)
			p, err := decodeBytes(b, v)
			if err != nil {
				t.Errorf("%s, %v: %x: %v", c.name, v, b, err)
			} else if c.check != nil && !c.check(p) {
				t.Errorf("%s, %v: %x: decoded as %+v", c.name, v, b, p)
			}
		}
	}
}
