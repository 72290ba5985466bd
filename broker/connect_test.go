package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A protocol level that the broker does not speak is answered in the form that its client knows [MQTT-3.1.2-2].
func TestMQTT_3_1_2_2_ProtocolLevels(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	connect := func(name string, level byte) string {
		body := append([]byte{0, byte(len(name))}, name...)
		body = append(body, level, 2, 0, 0)
		if level >= 5 && level < 0x80 {
			body = append(body, 0)
		}
		body = append(body, 0, 1, 'x')
		return string(append([]byte{0x10, byte(len(body))}, body...))
	}
	for _, test := range []struct {
		name, send, want string
	}{
		{"3.1", connect("MQIsdp", 3), "\x20\x02\x00\x01"},
		{"level 3", connect("MQTT", 3), "\x20\x02\x00\x01"},
		{"level 0", connect("MQTT", 0), "\x20\x02\x00\x01"},
		{"level 6", connect("MQTT", 6), "\x20"},
		{"level 127", connect("MQTT", 127), "\x20"},
		{"a bridge's", connect("MQTT", 0x84), "\x20\x02\x00\x01"},
		{"another protocol", connect("HTTP", 4), "\x20\x02\x00\x01"},
		{"lower case", connect("mqtt", 4), "\x20\x02\x00\x01"},
	} {
		c := dial(t, b, "tcp")
		c.write([]byte(test.send))
		if len(test.want) == 1 {
			if ack := expect[*packet.Connack](c); ack.Code != packet.UnsupportedVersion {
				t.Errorf("%s: %v", test.name, ack.Code)
			}
		} else {
			c.v = packet.V311
			if ack := expect[*packet.Connack](c); ack.Code != packet.UnsupportedVersion {
				t.Errorf("%s: %v", test.name, ack.Code)
			}
		}
		c.closes()
	}
}

// [MQTT-3.1.0-1]: the first packet must be CONNECT; anything else ends the connection without an answer.
func TestMQTT_3_1_0_1_FirstPacketIsCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{tune: func(l *limits) { l.handshake = 500 * time.Millisecond }}) // for those that are no whole packet
	for _, first := range []string{"\xc0\x00", "\x30\x04\x00\x01ax", "\xe0\x00", "\x20\x02\x00\x00", "\x82\x06\x00\x01\x00\x01a\x00", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x00\xff", "\x00\x00", "\xf0\x00"} {
		c := dial(t, b, "tcp")
		c.write([]byte(first))
		c.closes()
	}
}

// [MQTT-3.1.0-2]: a second CONNECT is a protocol error, whatever it contains.
func TestMQTT_3_1_0_2_SecondCONNECT(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for _, second := range []string{"", "bad"} {
			c := connect(t, b, v, "c")
			if second == "" {
				c.send(&packet.Connect{CleanStart: true, ClientID: []byte("c")})
			} else {
				c.write([]byte("\x10\x03\x00\x01x"))
			}
			c.ends(packet.ProtocolError)
		}
	})
}

// CONNECT must come in time, complete, also when it dribbles; until then a connection costs little.
func TestSlowCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{
		Listeners: []Listener{{Network: "ws", Address: "127.0.0.1:0"}},
		tune:      func(l *limits) { l.handshake = 300 * time.Millisecond },
	})
	for _, network := range []string{"tcp", "ws", "pipe"} {
		silent, partial := dial(t, b, network), dial(t, b, network)
		partial.write([]byte("\x10\x20\x00\x04MQ"))
		silent.closes()
		partial.closes()
	}
	c := connect(t, b, packet.V5, "c") // and it is over with the CONNECT
	late := connect(t, b, packet.V5, "late", expiry(1))
	late.hangUp("late")
	waitFor(t, "a second to pass", func() bool { return b.find("late") == nil })
	c.nothing()
}

// A thousand connections that send five bytes cost little, and do not keep others out.
func TestIdleConnectionsAreCheap(t *testing.T) {
	t.Parallel()
	b := start(t, Options{MaxConnections: 10, tune: func(l *limits) { l.handshake = time.Hour }})
	const n = 200
	for range n {
		dial(t, b, "tcp").write([]byte("\x10\xff\xff\xff\x7f"))
	}
	waitFor(t, "the packets that are too large to end their connections", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.conns) == 0
	})
	for range n {
		dial(t, b, "tcp").write([]byte("\x10\xf0\x1f\x00\x04"))
	}
	waitFor(t, "them to be there", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.conns) == n
	})
	waitFor(t, "what they sent to be read", func() bool { return b.stats.bytesReceived.Load() == n*5*2 })
	connect(t, b, packet.V5, "c").nothing()
}

// An empty client id: version 5 is told the one that it gets, 3.1.1 needs a clean session [MQTT-3.1.3-6 to MQTT-3.1.3-9].
func TestMQTT_3_1_3_6_EmptyClientID(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	seen := map[string]bool{}
	for _, how := range []choice{clean, keep, clean} {
		c, ack := connected(t, b, packet.V5, "", how)
		id := string(ack.Properties.AssignedClientID)
		if id == "" || seen[id] || ack.SessionPresent {
			t.Errorf("assigned %q, session present %t", id, ack.SessionPresent)
		}
		seen[id] = true
		if b.find(id) == nil {
			t.Error("not the id of its session")
		}
		c.hangUp(id)
		if how(&packet.Connect{}); len(seen) == 2 { // kept: the id can be used again
			if _, ack := connected(t, b, packet.V5, id, keep); !ack.SessionPresent || len(ack.Properties.AssignedClientID) > 0 {
				t.Error("the session under the assigned id is gone")
			}
		}
	}
	one, two := connect(t, b, packet.V311, ""), connect(t, b, packet.V311, "")
	one.nothing()
	two.nothing()
	c := dial(t, b, "tcp")
	if ack := c.connect(packet.V311, "", keep); ack.Code != packet.ClientIDNotValid || ack.SessionPresent {
		t.Errorf("3.1.1 without clean session: %v", ack.Code)
	}
	c.closes()
	if _, ack := connected(t, b, packet.V5, "given"); ack.Properties.AssignedClientID != nil {
		t.Error("an id was assigned to a client that has one")
	}
}

// Who comes in is decided by Authenticate; a refusal says as little as it can, and takes nothing over.
func TestAuthenticate(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{Authenticate: func(ctx context.Context, l Login) error {
			if _, bounded := ctx.Deadline(); !bounded || l.Remote == "" {
				t.Error("no deadline, or no address")
			}
			if l.Username == "mower" && l.HasPassword && string(l.Password) == "grass" && l.ClientID == "c" {
				return nil
			}
			return errors.New("the secret reason")
		}})
		login := func(user, password string) choice {
			return func(p *packet.Connect) {
				p.HasUser, p.Username = true, []byte(user)
				p.HasPass, p.Password = password != "", []byte(password)
			}
		}
		in := connect(t, b, v, "c", login("mower", "grass"))
		for _, how := range []choice{func(*packet.Connect) {}, login("mower", ""), login("mower", "weeds"), login("", "grass")} {
			c := dial(t, b, "tcp")
			ack := c.connect(v, "c", how)
			if ack.Code != packet.BadUserNameOrPassword || strings.Contains(string(ack.Properties.ReasonString), "secret") {
				t.Errorf("%v %s", ack.Code, ack.Properties.ReasonString)
			}
			c.closes()
		}
		in.nothing()
	})
}

// Enhanced authentication is not supported: a method in CONNECT is refused with 0x8C, AUTH is a protocol error [MQTT-4.12.0-1].
func TestMQTT_4_12_0_1_AuthenticationMethod(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	c := dial(t, b, "tcp")
	if ack := c.connect(packet.V5, "c", func(p *packet.Connect) { p.Properties.AuthMethod = []byte("SCRAM-SHA-256") }); ack.Code != packet.BadAuthenticationMethod {
		t.Errorf("%v", ack.Code)
	}
	c.closes()
	c = connect(t, b, packet.V5, "c")
	c.send(&packet.Auth{Code: packet.ReAuthenticate, Properties: packet.Properties{AuthMethod: []byte("x")}})
	c.ends(packet.ProtocolError)
	c = connect(t, b, packet.V311, "c")
	c.write([]byte("\xf0\x00"))
	c.closes()
}

// One client too many is told 0x89; a client that takes its own session over always has a place, and one that left makes room.
func TestMaxConnections(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{MaxConnections: 2})
		one, two := connect(t, b, v, "one"), connect(t, b, v, "two")
		refused := func() {
			t.Helper()
			c := dial(t, b, "tcp")
			want := packet.ServerBusy
			if v == packet.V311 {
				want = packet.ServerUnavailable
			}
			if ack := c.connect(v, "three"); ack.Code != want {
				t.Errorf("%v", ack.Code)
			}
			c.closes()
		}
		refused()
		again := connect(t, b, v, "two")
		two.ends(packet.SessionTakenOver)
		refused()
		one.leave("one")
		connect(t, b, v, "three").nothing()
		again.nothing()
		if s := b.Stats(); s.Connections != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// One session too many is told 0x88; those that are kept go on.
func TestMaxSessions(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{MaxSessions: 2})
		connect(t, b, v, "one", keep).hangUp("one")
		two := connect(t, b, v, "two")
		c := dial(t, b, "tcp")
		if ack := c.connect(v, "three"); ack.Code != packet.ServerUnavailable {
			t.Errorf("%v", ack.Code)
		}
		c.closes()
		if _, ack := connected(t, b, v, "one", keep); !ack.SessionPresent {
			t.Error("session lost")
		}
		connect(t, b, v, "one", clean)
		two.leave("two")
		connect(t, b, v, "three").nothing()
		if s := b.Stats(); s.Connections != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// [MQTT-3.1.2-22]: without a packet for one and a half times the keep alive the connection ends, with 0x8D; half a packet is none.
func TestMQTT_3_1_2_22_KeepAlive(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		begun := time.Now()
		silent, half := connect(t, b, v, "silent", keepAlive(1)), connect(t, b, v, "half", keepAlive(1))
		none, long := connect(t, b, v, "none"), connect(t, b, v, "long", keepAlive(65535))
		busy := connect(t, b, v, "busy", keepAlive(1))
		half.write([]byte{0x30})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			silent.ends(packet.KeepAliveTimeout)
			if d := time.Since(begun); d < 1500*time.Millisecond {
				t.Errorf("closed after %v", d)
			}
			half.ends(packet.KeepAliveTimeout)
		}()
		for over := false; !over; { // any packet will do
			busy.send(outgoing("a", "x", 0, 0))
			select {
			case <-ended:
				over = true
			case <-time.After(50 * time.Millisecond):
			}
		}
		busy.nothing()
		none.nothing()
		long.nothing()
	})
}

// A long keep alive does not overflow: 43,690 s and more are above 65,535 s when half is added.
func TestLongKeepAlive(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for _, seconds := range []uint16{43_690, 43_691, 65_535} {
			c := connect(t, b, v, "c", keepAlive(seconds))
			c.nothing()
			held := b.find("c").current()
			want := time.Duration(seconds) * time.Second * 3 / 2
			if got := held.idleLimit(); got != want {
				t.Errorf("%d s: closed after %v, want %v", seconds, got, want)
			}
			c.leave("c")
		}
	})
}

// [MQTT-3.2.2-21]: the broker's keep alive holds for version 5 clients that ask for a longer one or none.
func TestMQTT_3_2_2_21_ServerKeepAlive(t *testing.T) {
	t.Parallel()
	b := start(t, Options{KeepAlive: 1500 * time.Millisecond}) // 2 s
	for _, test := range []struct {
		asked uint16
		told  packet.Opt[uint16]
		v     packet.Version
		holds time.Duration
	}{
		{0, packet.Some(uint16(2)), packet.V5, 2 * time.Second},
		{3, packet.Some(uint16(2)), packet.V5, 2 * time.Second},
		{2, packet.Opt[uint16]{}, packet.V5, 2 * time.Second},
		{1, packet.Opt[uint16]{}, packet.V5, time.Second},
		{100, packet.Opt[uint16]{}, packet.V311, 100 * time.Second},
	} {
		c, ack := connected(t, b, test.v, "c", keepAlive(test.asked))
		if held := b.find("c").current().keepAlive; ack.Properties.ServerKeepAlive != test.told || held != test.holds {
			t.Errorf("asked for %d: told %+v, holds %v", test.asked, ack.Properties.ServerKeepAlive, held)
		}
		c.leave("c")
	}
	if b, err := Start(context.Background(), Options{KeepAlive: 100_000 * time.Second}); err == nil {
		_ = b.Stop(context.Background())
		t.Error("a keep alive that cannot be told was accepted")
	}
}

// Any client id, user name and password that are strings will do [MQTT-3.1.3-5].
func TestMQTT_3_1_3_5_ClientIDs(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		for _, id := range []string{"a", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "mower/1 +#$", "Mähroboter", "𝄞", "\ufeff"} {
			connect(t, b, v, id).nothing()
			if b.find(id) == nil {
				t.Errorf("no session for %q", id)
			}
		}
	})
}

// Pipelining: everything in one write after CONNECT, before its answer [MQTT-3.1.4-5].
func TestMQTT_3_1_4_5_PacketsBeforeCONNACK(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		c := dial(t, b, "tcp")
		c.v = v
		c.send(&packet.Connect{CleanStart: true, ClientID: []byte("c")},
			&packet.Subscribe{ID: 1, Subscriptions: []packet.Subscription{{Filter: []byte("a"), QoS: 1}}},
			outgoing("a", "x", 1, 2))
		expect[*packet.Connack](c)
		expect[*packet.Suback](c)
		c.expectAck(packet.PUBACK, 2)
		c.gets("a", "x", 1)

		refusing := start(t, Options{Authenticate: func(context.Context, Login) error { return errors.New("no") }})
		c = dial(t, refusing, "tcp")
		c.v = v
		c.send(&packet.Connect{CleanStart: true, ClientID: []byte("c")}, outgoing("a", "x", 1, 2))
		if ack := expect[*packet.Connack](c); ack.Code != packet.BadUserNameOrPassword {
			t.Errorf("%v", ack.Code)
		}
		c.closes() // and nothing of the rest was handled
		if n := refusing.Stats().Received; n != 0 {
			t.Errorf("%d packets of a refused client were handled", n)
		}
	})
}

// A slow Authenticate holds up nobody else.
func TestSlowAuthenticate(t *testing.T) {
	t.Parallel()
	var waiting atomic.Int32
	release := make(chan struct{})
	b := start(t, Options{Authenticate: func(ctx context.Context, l Login) error {
		if l.ClientID == "slow" {
			waiting.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	}})
	for range 5 {
		out, _ := (&packet.Connect{CleanStart: true, ClientID: []byte("slow")}).Append(nil, packet.V5)
		dial(t, b, "tcp").write(out)
	}
	waitFor(t, "them to be asked", func() bool { return waiting.Load() == 5 })
	for i := range 5 {
		connect(t, b, packet.V5, fmt.Sprint(i)).nothing()
	}
	close(release)
	waitFor(t, "one of them to be in", func() bool { return b.find("slow") != nil })
}
