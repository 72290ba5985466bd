package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
)

// A handler that hangs delays no other, however much comes for the others and as long as its own queue has room. It
// fails if ackAhead returns false: the broker's window fills up.
func TestHangingHandlerDelaysNobody(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		c := connect(t, o)
		publisher := connect(t, Options{URL: b.URL()})
		k := newCollector()
		hang := make(chan struct{})
		var hung collector
		subscribe(t, c, "slow", func(ctx context.Context, d *Delivery) {
			<-hang
			hung.handle(ctx, d)
		})
		subscribe(t, c, "fast", k.handle)
		subscribe(t, c, "slow", k.handle) // shares messages with the slow one
		const slow, fast = 600, 3000
		for i := range slow {
			publisher.PublishAsync("slow", raw(strconv.Itoa(i)), WithQoS(byte(1+i%2)))
		}
		for i := range fast {
			publisher.PublishAsync("fast", raw(strconv.Itoa(i)), WithQoS(byte(1+i%2)))
		}
		eventually(t, "all of them", func() bool { return len(k.once(t)) == slow+fast })
		close(hang)
		eventually(t, "the slow one gets all", func() bool { return len(hung.once(t)) == slow })
		if s := c.Stats(); s.Dropped != 0 || s.Reconnects != 0 && !brokertest.IsMosquitto(t) {
			t.Errorf("%+v", s)
		}
		eventually(t, "all is acknowledged", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Queued == 0 }) })
	})
}

// A handler that is over its bound makes the broker wait; QoS 1 and 2 are not lost.
func TestFloodedHandler(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	publisher := connect(t, Options{URL: b.URL()})
	hang := make(chan struct{})
	k := newCollector()
	s := subscribe(t, c, "x", func(ctx context.Context, d *Delivery) {
		<-hang
		k.handle(ctx, d)
	}, WithQueue(Queue{Max: 10}))
	const n = 3000
	for i := range n {
		publisher.PublishAsync("x", raw(strconv.Itoa(i)), WithQoS(1))
	}
	publish(t, publisher, "y", "", WithQoS(1))
	eventually(t, "the window is full", func() bool { return int(s.backlog.Load()) >= receiveMaximum-1 })
	if got := int(s.backlog.Load()); got > receiveMaximum+10 {
		t.Errorf("%d messages wait in the client", got)
	}
	close(hang)
	eventually(t, "all of them", func() bool { return len(k.once(t)) == n })
	for i, text := range k.once(t) {
		if text != strconv.Itoa(i) {
			t.Fatalf("%d: %s", i, text)
		}
	}
}

// once returns the texts of what came, without what Mosquitto 2.0.11 repeats: at times a whole window over the same connection, marked as
// repeated. (When it is more than the receive maximum the client ends the connection, and there are more repetitions.)
func (k *collector) once(t testing.TB) (texts []string) {
	mosquitto := brokertest.IsMosquitto(t)
	came := map[string]bool{}
	for _, d := range k.all() {
		text := string(d.Message.Payload)
		if key := d.Topic + " " + text; !mosquitto || !d.Dup || !came[key] {
			came[key] = true
			texts = append(texts, text)
		}
	}
	return texts
}

func TestQueuePolicies(t *testing.T) {
	tests := []struct {
		name string
		q    Queue
		qos  byte
		send []string // topic=text, after one that hangs in the handler
		want []string
		lost uint64
	}{
		{"by class, QoS 0", Queue{Max: 2}, 0, []string{"a=1", "a=2", "a=3", "b=4"}, []string{"3", "4"}, 2},
		{"by class, QoS 1", Queue{Max: 2}, 1, []string{"a=1", "a=2", "a=3", "b=4"}, []string{"1", "2", "3", "4"}, 0},
		{"refuse, QoS 0", Queue{Max: 2, Full: Refuse}, 0, []string{"a=1", "a=2", "a=3", "b=4"}, []string{"1", "2"}, 2},
		{"refuse, QoS 2", Queue{Max: 2, Full: Refuse}, 2, []string{"a=1", "a=2", "a=3", "b=4"}, []string{"1", "2", "3", "4"}, 0},
		{"drop oldest, QoS 0", Queue{Max: 2, Full: DropOldest}, 0, []string{"a=1", "a=2", "a=3", "b=4"}, []string{"3", "4"}, 2},
		{"drop oldest, QoS 2", Queue{Max: 2, Full: DropOldest}, 2, []string{"a=1", "a=2", "a=3", "b=4"}, []string{"3", "4"}, 2},
		{"latest, QoS 1", Queue{Max: 2, Full: Latest}, 1, []string{"a=1", "b=2", "b=3", "b=4"}, []string{"1", "4"}, 2},
		{"latest of one, QoS 1", Queue{Max: 1, Full: Latest}, 1, []string{"a=1", "b=2", "c=3"}, []string{"3"}, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := startBroker(t)
			c := connect(t, Options{URL: b.URL()})
			k, all := newCollector(), newCollector()
			in, out := make(chan struct{}, 10), make(chan struct{})
			subscribe(t, c, "q/+", func(ctx context.Context, d *Delivery) {
				in <- struct{}{}
				<-out
				k.handle(ctx, d)
			}, WithQueue(tt.q))
			subscribe(t, c, "q/+", all.handle)
			publish(t, c, "q/a", "0", WithQoS(tt.qos))
			<-in
			for _, s := range tt.send {
				name, text, _ := strings.Cut(s, "=")
				publish(t, c, "q/"+name, text, WithQoS(tt.qos))
			}
			all.wait(t, len(tt.send)+1) // the second handler gets each message after the first
			close(out)
			k.wait(t, len(tt.want)+1)
			if got := k.settle(t, c)[1:]; !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if n := c.Stats().Dropped; n != tt.lost {
				t.Errorf("%d dropped, want %d", n, tt.lost)
			}
			eventually(t, "all is acknowledged", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Queued == 0 }) })
		})
	}
}

func TestPanicInHandler(t *testing.T) {
	b := startBroker(t)
	log, lines := logged()
	c := connect(t, Options{URL: b.URL(), Logger: log})
	k := newCollector()
	subscribe(t, c, "x", func(ctx context.Context, d *Delivery) {
		k.handle(ctx, d)
		panic("oh " + string(d.Message.Payload))
	})
	for q := range byte(3) {
		publish(t, c, "x", strconv.Itoa(int(q)), WithQoS(q))
	}
	k.wait(t, 3)
	eventually(t, "they are counted", func() bool { return c.Stats().Panics == 3 })
	eventually(t, "all is acknowledged", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Queued == 0 }) })
	eventually(t, "the log has them with their stacks", func() bool {
		s := lines()
		return strings.Contains(s, "oh 2") && strings.Contains(s, "handler_test.go")
	})
}

// After Unsubscribe no message reaches the handler, and what was queued for it is acknowledged.
func TestUnsubscribe(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		c := connect(t, o)
		publisher := connect(t, Options{URL: b.URL()})
		k := newCollector()
		in, out := make(chan context.Context, 100), make(chan struct{})
		s := subscribe(t, c, "x", func(ctx context.Context, d *Delivery) {
			in <- ctx
			<-out
			k.handle(ctx, d)
		})
		for i := range 20 {
			publish(t, publisher, "x", strconv.Itoa(i), WithQoS(byte(1+i%2)))
		}
		ctx := <-in
		if s.Filter() != "x" || len(c.Stats().Handlers) != 1 {
			t.Error(s.Filter(), c.Stats().Handlers)
		}
		if err := s.Unsubscribe(testContext(t)); err != nil { // while the handler runs
			t.Fatal(err)
		}
		if err := s.Unsubscribe(testContext(t)); err != nil {
			t.Error(err)
		}
		<-ctx.Done()
		close(out)
		publish(t, publisher, "x", "late", WithQoS(1))
		k.wait(t, 1)
		if got := k.settle(t, c); len(got) != 1 {
			t.Errorf("%q", got)
		}
		eventually(t, "all is acknowledged", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Queued == 0 }) })
		if n := len(c.Stats().Handlers); n != 0 {
			t.Errorf("%d handlers", n)
		}
		again := newCollector() // the same filter once more
		subscribe(t, c, "x", again.handle)
		publish(t, publisher, "x", "again", WithQoS(1))
		if got := again.wait(t, 1); got[0] != "again" {
			t.Error(got)
		}
	})
}

// What is subscribed and unsubscribed while there is no connection holds after it is back, also in a resumed session.
func TestSubscribeWhileDisconnected(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		p, url := startProxy(t, b)
		if o.Dial != nil {
			o.Dial = viaV311(t, p.Addr())
		} else {
			o.URL = url
		}
		c := connect(t, o)
		publisher := connect(t, Options{URL: b.URL()})
		k := newCollector()
		old := subscribe(t, c, "old", k.handle)
		subscribe(t, c, "kept", k.handle)
		offline(t, p, c)
		if err := old.Unsubscribe(testContext(t)); err != nil {
			t.Fatal(err)
		}
		subscribed := make(chan error, 1)
		go func() {
			_, err := c.Subscribe(testContext(t), "new", k.handle)
			subscribed <- err
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := c.Subscribe(ctx, "never", k.handle); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		select {
		case err := <-subscribed:
			t.Errorf("confirmed without a broker: %v", err)
		default:
		}
		p.Refuse(false)
		if err := <-subscribed; err != nil {
			t.Fatal(err)
		}
		eventually(t, "the broker has what it should", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Subscriptions == 4 }) }) // and two responses
		for _, name := range []string{"old", "never", "kept", "new"} {
			publish(t, publisher, name, name, WithQoS(1))
		}
		k.wait(t, 2)
		got := k.settle(t, c)
		slices.Sort(got) // each filter has a handler of its own
		if fmt.Sprint(got) != "[kept new]" {
			t.Error(got)
		}
	})
}

// A refused filter is an error of Subscribe and leaves nothing behind.
func TestSubscribeRefused(t *testing.T) {
	again := make(chan struct{})
	dial := scripted(t, func(n int, s *script) {
		if s.accept(packet.Connack{}) == nil {
			return
		}
		for {
			switch p := s.next().(type) {
			case nil:
				return
			case *packet.Subscribe:
				code := packet.GrantedQoS1
				if strings.HasSuffix(string(p.Subscriptions[0].Filter), "secret") {
					code = packet.NotAuthorized
				}
				ack := &packet.Suback{ID: p.ID, Codes: []packet.Code{code}}
				ack.Properties.ReasonString = []byte("by rule 7")
				s.send(ack)
			case *packet.Unsubscribe:
				s.send(&packet.Unsuback{ID: p.ID, Codes: []packet.Code{packet.NoSubscriptionExisted}})
			case *packet.Publish:
				close(again)
			}
		}
	})
	c := connect(t, Options{Dial: dial})
	_, err := c.Subscribe(testContext(t), "secret", newCollector().handle)
	var refused *RefusedError
	if !errors.As(err, &refused) || err.Error() != "subscribe lawnberry/secret: refused by the broker: Not authorized (by rule 7)" {
		t.Error(err)
	}
	subscribe(t, c, "open", newCollector().handle)
	if n := len(c.Stats().Handlers); n != 1 {
		t.Errorf("%d handlers", n)
	}
	publish(t, c, "x", "", WithQoS(0))
	<-again
}

// Acknowledgements leave in the order of receipt, each after its handler returned; PUBREC and PUBREL in between.
func TestAcknowledgementOrder(t *testing.T) {
	release := make(map[string]chan struct{})
	for _, text := range []string{"1", "2", "3", "4"} {
		release[text] = make(chan struct{})
	}
	finished := make(chan struct{})
	dial := scripted(t, func(_ int, s *script) {
		defer close(finished)
		if s.accept(packet.Connack{}) == nil {
			return
		}
		for range 2 {
			s.confirm(s.next())
		}
		send := func(id uint16, qos byte, name, text string, dup bool) {
			s.send(&packet.Publish{ID: id, QoS: qos, Dup: dup, Topic: []byte("lawnberry/" + name), Payload: []byte(text)})
		}
		send(1, 1, "a", "1", false)
		send(2, 1, "b", "2", false)
		send(3, 2, "b", "3", false)
		send(4, 1, "b", "4", false)
		expect := func(kind packet.Type, id uint16, code packet.Code) {
			if a, ok := want[*packet.Ack](s); !ok || a.Kind != kind || a.ID != id || a.Code != code {
				s.t.Errorf("got %v %d %v, want %v %d %v", a.Kind, a.ID, a.Code, kind, id, code)
			}
		}
		close(release["2"])
		close(release["3"])
		expect(packet.PUBREC, 3, packet.Success) // QoS 2 has an order of its own
		send(3, 2, "b", "3", true)               // as if PUBREC had been lost: it is not handled again
		expect(packet.PUBREC, 3, packet.Success)
		close(release["4"])
		s.send(&packet.Ack{Kind: packet.PUBREL, ID: 3})
		expect(packet.PUBCOMP, 3, packet.Success)
		s.send(&packet.Ack{Kind: packet.PUBREL, ID: 3})
		expect(packet.PUBCOMP, 3, packet.PacketIDNotFound)
		close(release["1"])
		expect(packet.PUBACK, 1, packet.Success)
		expect(packet.PUBACK, 2, packet.Success)
		expect(packet.PUBACK, 4, packet.Success)
		s.send(&packet.Ack{Kind: packet.PUBREC, ID: 77}) // of nothing we sent
		expect(packet.PUBREL, 77, packet.PacketIDNotFound)
		s.send(&packet.Ack{Kind: packet.PUBACK, ID: 77}, &packet.Ack{Kind: packet.PUBCOMP, ID: 78}, &packet.Ack{Kind: packet.PUBACK, ID: 60000})
	})
	c := connect(t, Options{Dial: dial})
	k := newCollector()
	h := func(ctx context.Context, d *Delivery) {
		<-release[string(d.Message.Payload)]
		k.handle(ctx, d)
	}
	subscribe(t, c, "a", h)
	subscribe(t, c, "b", h)
	<-finished
	if got := k.wait(t, 4); len(got) != 4 {
		t.Errorf("%q", got)
	}
}

// A message that its handler still has when the connection is lost comes again in the resumed session: it is not handled
// again, but acknowledged there. A new message with the same identifier is handled.
func TestRedeliveryWhileHandling(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			handling, release, finished := make(chan struct{}), make(chan struct{}), make(chan struct{})
			kind := packet.PUBACK
			if qos == 2 {
				kind = packet.PUBREC
			}
			dial := scripted(t, func(n int, s *script) {
				if s.accept(packet.Connack{SessionPresent: n > 0}) == nil {
					return
				}
				send := func(text string, dup bool) {
					s.send(&packet.Publish{ID: 9, QoS: qos, Dup: dup, Topic: []byte("lawnberry/x"), Payload: []byte(text)})
				}
				acknowledged := func() {
					if a, ok := want[*packet.Ack](s); !ok || a.Kind != kind || a.ID != 9 {
						s.t.Errorf("got %+v", a)
					}
				}
				if n == 0 {
					s.confirm(s.next())
					send("1", false)
					<-handling
					return
				}
				send("1", true)
				close(release) // net.Pipe: the client has read it
				acknowledged()
				if qos == 2 {
					s.send(&packet.Ack{Kind: packet.PUBREL, ID: 9})
					if a, ok := want[*packet.Ack](s); !ok || a.Kind != packet.PUBCOMP {
						s.t.Errorf("got %+v", a)
					}
				}
				send("2", false)
				acknowledged()
				close(finished)
				s.drain()
			})
			c := connect(t, Options{Dial: dial})
			k := newCollector()
			subscribe(t, c, "x", func(ctx context.Context, d *Delivery) {
				if string(d.Message.Payload) == "1" {
					close(handling) // panics if it comes again
				}
				<-release
				k.handle(ctx, d)
			})
			<-finished
			if got := k.wait(t, 2); fmt.Sprint(got) != "[1 2]" {
				t.Error(got)
			}
			if n := c.Stats().Panics; n != 0 {
				t.Error("the message was handled twice")
			}
		})
	}
}

// A broker that breaks the protocol is told so and left; the client comes back.
func TestProtocolErrors(t *testing.T) {
	alias := &packet.Publish{Topic: []byte("x")}
	alias.Properties.TopicAlias = packet.Some[uint16](1)
	for name, tt := range map[string]struct {
		p    packet.Packet
		raw  string
		code packet.Code
	}{
		"topic alias":   {alias, "", packet.TopicAliasInvalid},
		"a CONNECT":     {&packet.Connect{Version: packet.V5}, "", packet.ProtocolError},
		"malformed":     {nil, "\x30\x03\x00\x05x", packet.MalformedPacket},
		"reserved type": {nil, "\x00\x00", packet.ProtocolError},
	} {
		t.Run(name, func(t *testing.T) {
			said, ready := make(chan packet.Code, 1), make(chan struct{})
			dial := scripted(t, func(n int, s *script) {
				if s.accept(packet.Connack{}) == nil || n > 0 {
					s.drain()
					return
				}
				<-ready
				if tt.p != nil {
					s.send(tt.p)
				} else {
					_, _ = s.conn.Write([]byte(tt.raw))
				}
				first, body, err := s.rd.Next()
				if err != nil || packet.Type(first>>4) != packet.DISCONNECT {
					s.t.Errorf("%x, %v", first, err)
					close(said)
					return
				}
				said <- packet.Code(body[0])
			})
			cause := make(chan error, 4)
			c := connect(t, Options{Dial: dial, OnState: func(up bool, err error) {
				if !up {
					cause <- err
				}
			}})
			close(ready)
			if code := <-said; code != tt.code {
				t.Errorf("DISCONNECT with %v, want %v", code, tt.code)
			}
			var e *DisconnectError
			if err := <-cause; !errors.As(err, &e) || !e.Ours || packet.Code(e.Code) != tt.code {
				t.Error(err)
			}
			eventually(t, "it is back", c.Connected)
		})
	}
}

// What breaks a rule is counted by reason, logged, acknowledged, and never seen by a handler; the connection lives on.
func TestBadInput(t *testing.T) {
	now := fmt.Sprintf("%f", message.Seconds(time.Now()))
	envelope := func(timestamp, rest string) string {
		return `{"metadata":{"timestamp":` + timestamp + `,"message_id":"i","sender":"s","message_type":"event","priority":1` + rest + `},"payload":{}}`
	}
	bad := map[message.Reason][]string{
		message.ReasonTooLarge:     {strings.Repeat("x", 10_001), strings.Repeat("y", 300_000)},
		message.ReasonMalformed:    {envelope(now, "")[:60]},
		message.ReasonMissingField: {`{"metadata":{"message_type":"event"},"payload":{}}`},
		message.ReasonWrongType:    {envelope(`"now"`, "")},
		message.ReasonUnknownType:  {strings.Replace(envelope(now, ""), `"event"`, `"rumour"`, 1)},
		message.ReasonOutOfRange:   {strings.Replace(envelope(now, ""), `"priority":1`, `"priority":9`, 1)},
		message.ReasonTooDeep:      {strings.Replace(envelope(now, ""), `{}}`, strings.Repeat(`{"a":`, 40)+"1"+strings.Repeat("}", 41), 1)},
		message.ReasonInflate:      {"\x1f\x8b\x08garbage"},
		message.ReasonExpired:      {envelope(now, `,"expires_at":1`)},
		message.ReasonTooOld:       {envelope("1000", "")},
	}
	good := []string{"", "12.6", "plain text", `{"a":1}`, `[1,2`, "null", "\xff\xfe", envelope(now, `,"unknown":1`)}

	brokertest.Embedded(t, "it sends one message for several subscriptions, so that it is rejected once")
	b := startBrokerWith(t, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}, MaxPacketSize: 1 << 20})
	log, lines := logged()
	c := connect(t, Options{URL: b.URL(), ID: "c", Logger: log})
	k, debug := newCollector(), newCollector()
	subscribe(t, c, "#", k.handle)
	subscribe(t, c, "in", debug.handle, WithInvalid())
	sender := connect(t, Options{URL: b.URL(), Limits: message.Limits{MaxPayload: 1 << 20}})
	sent := 0
	for reason, bodies := range bad {
		for i, body := range bodies {
			publish(t, sender, "in", body, WithQoS(byte((i+1)%3)))
			sent++
			eventually(t, "it is counted as "+string(reason), func() bool { return c.Stats().Rejected[reason] == uint64(i+1) })
		}
	}
	for _, body := range good {
		publish(t, sender, "in", body, WithQoS(1))
	}
	k.wait(t, len(good))
	if got := k.settle(t, c); len(got) != len(good) {
		t.Errorf("handlers saw %d messages, want %d", len(got), len(good))
	}
	debug.wait(t, sent+len(good))
	for i, d := range debug.all() {
		if (d.Invalid != nil) != (i < sent) || d.Invalid != nil && !d.Message.Raw {
			t.Errorf("%d: %v", i, d.Invalid)
		}
	}
	if s := c.Stats(); s.Reconnects != 0 || len(s.Rejected) != len(bad) {
		t.Errorf("%+v", s)
	}
	if n := strings.Count(lines(), "message rejected"); n != sent {
		t.Errorf("%d log lines, want %d", n, sent)
	}
	eventually(t, "all is acknowledged", func() bool { return brokertest.Holds(b, func(s broker.Stats) bool { return s.Queued == 0 }) })
}

// Retained messages, Wills and service status are exempt from the age limit, not from expires_at.
func TestAgeLimit(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	old := func(expires string) string {
		return `{"metadata":{"timestamp":1000,"message_id":"i","sender":"s","message_type":"status","priority":0,"expires_at":` + expires + `},"payload":{}}`
	}
	far := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	for i, tt := range []struct {
		topic, expires string
		opts           []PublishOption
		live, retained bool
	}{
		{"own/a", "null", []PublishOption{WithRetain(true)}, false, true},
		{"own/b", far, []PublishOption{WithRetain(true)}, false, true},
		{"own/c", "2000", []PublishOption{WithRetain(true)}, false, false},
		{"own/d", "null", []PublishOption{WithUser(willKey, "1"), WithRetain(true)}, true, true},
		{"system/services/x/status", "null", nil, true, true},
		{"system/services/x/status", "2000", nil, false, false},
	} {
		live, late := newCollector(), newCollector()
		s := subscribe(t, c, tt.topic, live.handle)
		live.settle(t, c)
		live.mu.Lock()
		live.got = nil
		live.mu.Unlock()
		publish(t, c, tt.topic, old(tt.expires), tt.opts...)
		if got := live.settle(t, c); (len(got) == 1) != tt.live {
			t.Errorf("%d: live %v, want %v", i, len(got), tt.live)
		}
		_ = s.Unsubscribe(testContext(t))
		s = subscribe(t, c, tt.topic, late.handle)
		if got := late.settle(t, c); (len(got) == 1) != tt.retained {
			t.Errorf("%d: retained %v, want %v", i, len(got), tt.retained)
		}
		_ = s.Unsubscribe(testContext(t))
	}
}

// Subscribing and unsubscribing at random, from many goroutines, loses no message for those that stay.
func TestSubscribeConcurrently(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		c := connect(t, o)
		publisher := connect(t, Options{URL: b.URL()})
		k := newCollector()
		subscribe(t, c, "x/+", k.handle)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for i := range 25 {
					filter := []string{"x/#", "x/1", "x/+", "+/1", "y", "#"}[(g+i)%6]
					s, err := c.Subscribe(testContext(t), filter, newCollector().handle)
					if err != nil {
						t.Error(err)
						return
					}
					if err := s.Unsubscribe(testContext(t)); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		const n = 500
		for i := range n {
			m, err := message.NewEvent("p", message.Event{EventType: strconv.Itoa(i)})
			if err != nil {
				t.Fatal(err)
			}
			if err := publisher.Publish(testContext(t), "x/1", m); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
		k.wait(t, n)
		k.settle(t, c)
		for i, d := range k.all() {
			e, err := message.Payload[message.Event](d.Message)
			if err != nil || e.EventType != strconv.Itoa(i) {
				t.Fatalf("%d: %s, %v", i, e.EventType, err)
			}
		}
		if got := len(k.all()); got != n {
			t.Errorf("%d messages, want %d", got, n)
		}
	})
}
