package broker

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// What UTF-8 strings may contain, wherever one stands in a packet.

// A place is a packet with a string in it.
type place struct {
	name    string
	connect bool // it is a CONNECT
	only5   bool
	bytes   func(v packet.Version, s string) []byte
}

var stringPlaces = []place{
	{"client id", true, false, func(v packet.Version, s string) []byte { return connectBytes(v, 0x02, field(s)) }},
	{"Will topic", true, false, func(v packet.Version, s string) []byte {
		return connectBytes(v, 0x06, field("c"), properties(v), field(s), field("gone"))
	}},
	{"user name", true, false, func(v packet.Version, s string) []byte { return connectBytes(v, 0x82, field("c"), field(s)) }},
	{"authentication method", true, true, func(v packet.Version, s string) []byte {
		return connectWith(v, 0x02, properties(v, "\x15", field(s)), field("c"))
	}},
	{"Will content type", true, true, func(v packet.Version, s string) []byte {
		return connectBytes(v, 0x06, field("c"), properties(v, "\x03", field(s)), field("w"), field("gone"))
	}},
	{"Will response topic", true, true, func(v packet.Version, s string) []byte {
		return connectBytes(v, 0x06, field("c"), properties(v, "\x08", field(s)), field("w"), field("gone"))
	}},
	{"topic name", false, false, func(v packet.Version, s string) []byte { return whole(0x30, field(s), properties(v), "x") }},
	{"topic filter", false, false, func(v packet.Version, s string) []byte {
		return whole(0x82, "\x00\x01", properties(v), field(s), "\x00")
	}},
	{"second topic filter", false, false, func(v packet.Version, s string) []byte {
		return whole(0x82, "\x00\x01", properties(v), field("fine"), "\x00", field(s), "\x00")
	}},
	{"topic filter of UNSUBSCRIBE", false, false, func(v packet.Version, s string) []byte {
		return whole(0xA2, "\x00\x01", properties(v), field("fine"), field(s))
	}},
	{"content type", false, true, func(v packet.Version, s string) []byte {
		return whole(0x30, field("a"), properties(v, "\x03", field(s)), "x")
	}},
	{"response topic", false, true, func(v packet.Version, s string) []byte {
		return whole(0x30, field("a"), properties(v, "\x08", field(s)), "x")
	}},
	{"reason string of PUBACK", false, true, func(v packet.Version, s string) []byte {
		return whole(0x40, "\x00\x01\x80", properties(v, "\x1f", field(s)))
	}},
	{"reason string of DISCONNECT", false, true, func(v packet.Version, s string) []byte {
		return whole(0xE0, "\x80", properties(v, "\x1f", field(s)))
	}},
}

// pairPlaces are those of user properties; the name or the value is s.
var pairPlaces = []place{
	{"CONNECT", true, true, func(v packet.Version, pair string) []byte {
		return connectWith(v, 0x02, properties(v, pair), field("c"))
	}},
	{"Will", true, true, func(v packet.Version, pair string) []byte {
		return connectBytes(v, 0x06, field("c"), properties(v, pair), field("w"), field("gone"))
	}},
	{"PUBLISH", false, true, func(v packet.Version, pair string) []byte {
		return whole(0x30, field("a"), properties(v, pair), "x")
	}},
	{"SUBSCRIBE", false, true, func(v packet.Version, pair string) []byte {
		return whole(0x82, "\x00\x01", properties(v, pair), field("a"), "\x00")
	}},
	{"UNSUBSCRIBE", false, true, func(v packet.Version, pair string) []byte {
		return whole(0xA2, "\x00\x01", properties(v, pair), field("a"))
	}},
	{"PUBACK", false, true, func(v packet.Version, pair string) []byte { return whole(0x40, "\x00\x01\x80", properties(v, pair)) }},
	{"PUBREC", false, true, func(v packet.Version, pair string) []byte { return whole(0x50, "\x00\x01\x80", properties(v, pair)) }},
	{"PUBREL", false, true, func(v packet.Version, pair string) []byte { return whole(0x62, "\x00\x01\x00", properties(v, pair)) }},
	{"PUBCOMP", false, true, func(v packet.Version, pair string) []byte { return whole(0x70, "\x00\x01\x00", properties(v, pair)) }},
	{"DISCONNECT", false, true, func(v packet.Version, pair string) []byte { return whole(0xE0, "\x00", properties(v, pair)) }},
}

// illFormed are byte sequences that are not UTF-8.
var illFormed = map[string]string{
	"U+D800":               "\xed\xa0\x80",
	"U+DFFF":               "\xed\xbf\xbf",
	"a pair of surrogates": "\xed\xa0\x81\xed\xb0\x80",
	"overlong":             "\xc0\xaf",
	"overlong NUL":         "\xc0\x80",
	"above U+10FFFF":       "\xf4\x90\x80\x80",
	"a lone continuation":  "\x80",
	"a cut sequence":       "long enough \xe2\x82",
	"Latin-1":              "caf\xe9",
}

// refusesText makes sure that a packet with s in it is malformed and ends its connection, wherever s stands, and that
// nobody hears of it.
func refusesText(t *testing.T, v packet.Version, places []place, name, s string) {
	t.Helper()
	b := start(t, Options{})
	witness := connect(t, b, v, "witness")
	witness.subscribe("#", 0)
	for _, p := range places {
		if p.only5 && v != packet.V5 {
			continue
		}
		t.Run(name+" in "+p.name, func(t *testing.T) {
			if p.connect {
				c := dial(t, b, "tcp")
				c.v = v
				c.write(p.bytes(v, s))
				c.refused(packet.MalformedPacket)
				return
			}
			c := connect(t, b, v, "c")
			c.write(p.bytes(v, s))
			c.ends(packet.MalformedPacket)
		})
	}
	witness.nothing()
}

// [MQTT-1.5.4-1]: a string that is not well-formed UTF-8 makes its packet malformed. So it does in a client id
// [MQTT-3.1.3-4], a Will topic [MQTT-3.1.3-11], a user name [MQTT-3.1.3-12], a topic name [MQTT-3.3.2-1], a response
// topic [MQTT-3.3.2-13] and a content type [MQTT-3.3.2-19], whose tests follow.
func TestMQTT_1_5_4_1_IllFormedUTF8(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		for name, s := range illFormed {
			refusesText(t, v, stringPlaces, name, s)
		}
	})
}

// [MQTT-1.5.4-2]: no string contains U+0000.
func TestMQTT_1_5_4_2_NUL(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		for name, s := range map[string]string{"NUL": "\x00", "NUL at the end": "a\x00", "NUL among others": "long enough\x00for a word"} {
			refusesText(t, v, stringPlaces, name, s)
		}
	})
}

// [MQTT-1.5.7-1]: a user property is two strings, and both must be well-formed and without U+0000.
func TestMQTT_1_5_7_1_UserPropertiesAreStrings(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{"U+D800": "\xed\xa0\x80", "Latin-1": "caf\xe9", "NUL": "a\x00b"} {
		refusesText(t, packet.V5, pairPlaces, name+" in the name", "\x26"+field(s)+field("value"))
		refusesText(t, packet.V5, pairPlaces, name+" in the value", "\x26"+field("name")+field(s))
	}
}

// textIn makes sure that bad text is refused in the places of those names.
func textIn(t *testing.T, names ...string) {
	t.Helper()
	each(t, func(t *testing.T, v packet.Version) {
		var places []place
		for _, p := range stringPlaces {
			for _, name := range names {
				if p.name == name {
					places = append(places, p)
				}
			}
		}
		if len(places) != len(names) {
			t.Fatalf("%d places of %v", len(places), names)
		}
		refusesText(t, v, places, "U+DFFF", "\xed\xbf\xbf")
		refusesText(t, v, places, "Latin-1", "caf\xe9")
		refusesText(t, v, places, "NUL", "a\x00")
	})
}

func TestMQTT_3_1_3_4_ClientIDIsUTF8(t *testing.T)   { textIn(t, "client id") }
func TestMQTT_3_1_3_11_WillTopicIsUTF8(t *testing.T) { textIn(t, "Will topic") }
func TestMQTT_3_1_3_12_UserNameIsUTF8(t *testing.T)  { textIn(t, "user name") }
func TestMQTT_3_3_2_13_ResponseTopicIsUTF8(t *testing.T) {
	textIn(t, "response topic", "Will response topic")
}
func TestMQTT_3_3_2_19_ContentTypeIsUTF8(t *testing.T) {
	textIn(t, "content type", "Will content type")
}

// [MQTT-3.3.2-1]: a PUBLISH begins with its topic, which is a string; there is no PUBLISH without.
func TestMQTT_3_3_2_1_TopicIsFirstAndUTF8(t *testing.T) {
	textIn(t, "topic name")
	t.Run("missing", func(t *testing.T) {
		for _, v := range []packet.Version{packet.V311, packet.V5} {
			b := start(t, Options{})
			for _, cut := range []string{"", "\x00", "\x00\x05abcd"} {
				c := connect(t, b, v, "c")
				c.write(whole(0x30, cut))
				c.ends(packet.MalformedPacket)
			}
			c := connect(t, b, v, "c")
			c.write(whole(0x30, field(""), properties(v)))
			c.ends(packet.ProtocolError)
		}
	})
}

// [MQTT-1.5.4-3]: U+FEFF is a character like any other, wherever it stands: it is neither dropped nor ignored.
func TestMQTT_1_5_4_3_ByteOrderMark(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		const bom = "\ufeff"
		var mu sync.Mutex
		users := map[string]string{}
		b := start(t, Options{Authenticate: func(_ context.Context, l Login) error {
			mu.Lock()
			defer mu.Unlock()
			users[l.ClientID] = l.Username
			return nil
		}})
		marked, plain := connect(t, b, v, bom+"c", func(p *packet.Connect) {
			p.HasUser, p.Username = true, []byte(bom+"user"+bom)
		}), connect(t, b, v, "c")
		pub := connect(t, b, v, "pub")
		mu.Lock()
		if users[bom+"c"] != bom+"user"+bom {
			t.Errorf("user names %q", users)
		}
		mu.Unlock()
		for _, name := range []string{bom + "a", "a" + bom, "a/" + bom, bom} {
			marked.subscribe(name, 0)
			plain.subscribe(strings.ReplaceAll(name, bom, "")+"x", 0)
			pub.publish(name, bom, 0)
			marked.gets(name, bom, 0)
			pub.publish(strings.ReplaceAll(name, bom, "")+"x", "y", 0)
			plain.gets(strings.ReplaceAll(name, bom, "")+"x", "y", 0)
		}
		marked.nothing()
		plain.nothing()
		if v != packet.V5 {
			return
		}
		p := outgoing(bom, "x", 0, 0)
		p.Properties = packet.Properties{
			ContentType: []byte(bom + "type"), ResponseTopic: []byte("answer" + bom),
			User: []packet.UserProperty{{Key: []byte(bom), Value: []byte(bom + bom)}},
		}
		pub.send(p)
		got := marked.gets(bom, "x", 0).Properties
		if string(got.ContentType) != bom+"type" || string(got.ResponseTopic) != "answer"+bom ||
			string(got.User[0].Key) != bom || string(got.User[0].Value) != bom+bom {
			t.Errorf("got %+v", got)
		}
	})
}
