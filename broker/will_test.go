package broker

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

func aWill() *packet.Will {
	return &packet.Will{Topic: []byte("will"), Payload: []byte("gone"), QoS: 1}
}

func delayed(seconds uint32) *packet.Will {
	w := aWill()
	w.Properties.WillDelay = packet.Some(seconds)
	return w
}

// The Will is published when a connection ends other than by a DISCONNECT with 0x00, and only then
// [MQTT-3.1.2-8, MQTT-3.1.2-10, MQTT-3.14.4-3].
func TestMQTT_3_1_2_8_Will(t *testing.T) {
	disconnect := func(code packet.Code) func(*raw) {
		return func(c *raw) { c.send(&packet.Disconnect{Code: code}) }
	}
	for _, test := range []struct {
		name string
		end  func(c *raw)
		want bool
		only packet.Version // 0 is both
	}{
		{"connection closed", func(c *raw) { _ = c.nc.Close() }, true, 0},
		{"connection reset", func(c *raw) {
			_ = c.nc.(*net.TCPConn).SetLinger(0)
			_ = c.nc.Close()
		}, true, 0},
		{"closed in the middle of a packet", func(c *raw) {
			c.write([]byte{0x30, 10, 0})
			_ = c.nc.Close()
		}, true, 0},
		{"malformed packet", func(c *raw) { c.write([]byte{0xF0, 0}) }, true, packet.V311},
		{"protocol error", func(c *raw) { c.send(&packet.Connack{}) }, true, 0},
		{"packet too large", func(c *raw) { c.write([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F}) }, true, 0},
		{"keep alive timeout", func(c *raw) {}, true, 0},
		{"takeover", func(c *raw) { connect(c.t, c.b, c.v, "mower") }, true, 0},
		{"takeover of a session", func(c *raw) { connect(c.t, c.b, c.v, "mower", keep) }, true, 0},
		{"DISCONNECT", disconnect(packet.Success), false, 0},
		{"DISCONNECT with Will", disconnect(packet.DisconnectWithWill), true, packet.V5},
		{"DISCONNECT with an error", disconnect(packet.UnspecifiedError), true, packet.V5},
	} {
		t.Run(test.name, func(t *testing.T) {
			each(t, func(t *testing.T, v packet.Version) {
				if test.only != 0 && v != test.only {
					return
				}
				b := start(t, Options{})
				sub := connect(t, b, v, "sub")
				sub.subscribe("will", 2)
				seconds := uint16(0)
				if test.name == "keep alive timeout" {
					seconds = 1
				}
				c := connect(t, b, v, "mower", withWill(aWill()), keepAlive(seconds))
				test.end(c)
				if test.want {
					if p := sub.gets("will", "gone", 1); p.Retain || p.Dup {
						t.Errorf("%s", describe(p))
					}
				} else {
					c.closes()
					waitFor(t, "the session to end", func() bool { return b.find("mower") == nil })
				}
				sub.nothing()
			})
		})
	}
}

// A Will has any QoS, may be retained, and may be empty [MQTT-3.1.2-12, MQTT-3.1.2-14, MQTT-3.1.2-15].
func TestMQTT_3_1_2_15_WillQoSAndRetain(t *testing.T) {
	each(t, func(t *testing.T, v packet.Version) {
		b := start(t, Options{})
		sub := connect(t, b, v, "sub")
		sub.subscribe("will/#", 2)
		for qos := range byte(3) {
			w := &packet.Will{Topic: []byte(fmt.Sprint("will/", qos)), Payload: []byte("gone"), QoS: qos, Retain: qos > 0}
			_ = connect(t, b, v, "mower", withWill(w)).nc.Close()
			if sub.gets(string(w.Topic), "gone", qos).Retain {
				t.Error("a live Will came with retain")
			}
		}
		late := connect(t, b, v, "late")
		for qos := range byte(3) {
			late.subscribe(fmt.Sprint("will/", qos), 2)
			if qos > 0 && !late.gets(fmt.Sprint("will/", qos), "gone", qos).Retain {
				t.Error("a stored Will came without retain")
			}
		}
		late.nothing()
		_ = connect(t, b, v, "mower", withWill(&packet.Will{Topic: []byte("will/1"), Retain: true})).nc.Close()
		sub.gets("will/1", "", 0)
		late = connect(t, b, v, "late")
		late.subscribe("will/1", 2)
		late.nothing()
	})
}

// The Will keeps its properties; its expiry begins when it is published.
func TestWillProperties(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V5, "sub")
	sub.subscribe("will", 2)
	w := delayed(1)
	w.Properties.PayloadFormat = packet.Some(byte(1))
	w.Properties.ContentType = []byte("text/plain")
	w.Properties.ResponseTopic = []byte("answer")
	w.Properties.CorrelationData = []byte{1, 2}
	w.Properties.MessageExpiry = packet.Some(uint32(7))
	w.Properties.User = []packet.UserProperty{{Key: []byte("k"), Value: []byte("v")}}
	_ = connect(t, b, packet.V5, "mower", withWill(w), expiry(100)).nc.Close()
	p := sub.gets("will", "gone", 1).Properties
	if p.PayloadFormat.V != 1 || string(p.ContentType) != "text/plain" || string(p.ResponseTopic) != "answer" ||
		string(p.CorrelationData) != "\x01\x02" || p.MessageExpiry.V != 7 || len(p.User) != 1 || p.WillDelay.OK {
		t.Errorf("got %+v", p)
	}
}

// A delayed Will comes after its delay or when the session ends, whichever is first; a resume cancels it, a clean start
// does not [MQTT-3.1.2-8, MQTT-3.1.3-9].
func TestMQTT_3_1_3_9_WillDelay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		delay, expiry uint32
		resume        choice // nil is not at all
		want          bool
		atLeast       time.Duration
	}{
		{"after its delay", 1, 100, nil, true, time.Second},
		{"at the session's end", 100, 1, nil, true, time.Second},
		{"at once without a session", 100, 0, nil, true, 0},
		{"cancelled by a resume", 1, 100, keep, false, 0},
		{"published by a clean start", 100, 100, clean, true, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := start(t, Options{})
			sub := connect(t, b, packet.V5, "sub")
			sub.subscribe("will", 2)
			c := connect(t, b, packet.V5, "mower", withWill(delayed(test.delay)), expiry(test.expiry))
			begun := time.Now()
			if test.resume != nil && test.want {
				c.hangUp("mower")
				sub.nothing()
			} else {
				_ = c.nc.Close()
			}
			if test.resume != nil {
				c = connect(t, b, packet.V5, "mower", test.resume)
				c.nothing()
			}
			if !test.want {
				clock := connect(t, b, packet.V5, "clock", expiry(2))
				clock.hangUp("clock")
				waitFor(t, "the delay to pass", func() bool { return b.find("clock") == nil })
				sub.nothing()
				return
			}
			sub.gets("will", "gone", 1)
			if d := time.Since(begun); d < test.atLeast {
				t.Errorf("published after %v", d)
			}
			sub.nothing()
		})
	}
}

// A takeover that goes on with the session cancels a delayed Will, as any resume does; one with a clean start publishes it.
func TestTakeoverWithADelayedWill(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V5, "sub")
	sub.subscribe("will", 2)
	connect(t, b, packet.V5, "mower", withWill(delayed(1)), expiry(100))
	connect(t, b, packet.V5, "mower", expiry(100), withWill(delayed(100)), func(p *packet.Connect) { p.CleanStart = false })
	clock := connect(t, b, packet.V5, "clock", expiry(2))
	clock.hangUp("clock")
	waitFor(t, "the delay to pass", func() bool { return b.find("clock") == nil })
	sub.nothing()
	connect(t, b, packet.V5, "mower", clean)
	sub.gets("will", "gone", 1)
	sub.nothing()
}

// DISCONNECT with 0x04 and an expiry of 0: the Will at once, whatever its delay.
func TestWillDelayEndsWithTheSessionAtDISCONNECT(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	sub := connect(t, b, packet.V5, "sub")
	sub.subscribe("will", 2)
	c := connect(t, b, packet.V5, "mower", withWill(delayed(100)), expiry(100))
	d := disconnectWithExpiry(0)
	d.Code = packet.DisconnectWithWill
	c.send(d)
	sub.gets("will", "gone", 1)
}

// A Will that the client could not publish is refused at CONNECT: on $SYS, with a wildcard, empty, too deep.
func TestForbiddenWills(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, test := range []struct {
		topic string
		code  packet.Code
		old   packet.Code // in 3.1.1; Success is a closed connection
	}{
		{"$SYS/broker/version", packet.NotAuthorized, packet.NotAuthorized},
		{"$SYS", packet.NotAuthorized, packet.NotAuthorized},
		{"$SYS/broker/connection//state", packet.NotAuthorized, packet.NotAuthorized},
		{"$SYS/broker/connection/x/state/y", packet.NotAuthorized, packet.NotAuthorized},
		{"$SYS/broker/connection/state", packet.NotAuthorized, packet.NotAuthorized},
		{"a/+", packet.TopicNameInvalid, packet.Success},
		{"#", packet.TopicNameInvalid, packet.Success},
		{"", packet.TopicNameInvalid, packet.Success},
		{string(make([]byte, 3)), packet.MalformedPacket, packet.Success},
	} {
		will := withWill(&packet.Will{Topic: []byte(test.topic), Payload: []byte("x")})
		c := dial(t, b, "tcp")
		if ack := c.connect(packet.V5, "c", will); ack.Code != test.code {
			t.Errorf("Will on %q: %v, want %v", test.topic, ack.Code, test.code)
		}
		c.closes()
		c = dial(t, b, "tcp")
		c.v = packet.V311
		if test.old == packet.Success {
			p := &packet.Connect{CleanStart: true, ClientID: []byte("c")}
			will(p)
			c.send(p)
		} else if ack := c.connect(packet.V311, "c", will); ack.Code != test.old {
			t.Errorf("Will on %q in 3.1.1: %v, want %v", test.topic, ack.Code, test.old)
		}
		c.closes()
	}
}

// A client hears its own Will when its session goes on, unless it said no local.
func TestOwnWill(t *testing.T) {
	t.Parallel()
	b := start(t, Options{})
	for _, local := range []bool{true, false} {
		c := connect(t, b, packet.V5, "mower", keep, clean, withWill(aWill()))
		if local {
			c.subscribe("will", 1)
		} else {
			c.subscribe("will", 1, noLocal)
		}
		c.hangUp("mower")
		c = connect(t, b, packet.V5, "mower", keep)
		if local {
			c.gets("will", "gone", 1)
		}
		c.nothing()
		c.leave("mower")
	}
}
