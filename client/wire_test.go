package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// The tests in this file hold what goes over the wire against the literals of the wire format. None of the names that the code has
// for them is used here: who changes one of the constants changes the contract with peers, and has to see it fail.

// wireTap is the other end of the wire: a broker that acknowledges, and shows every PUBLISH as it came.
func wireTap(t *testing.T) (dial func(context.Context) (net.Conn, error), sent <-chan *packet.Publish) {
	ch := make(chan *packet.Publish, 256)
	return scripted(t, func(_ int, s *script) {
		s.accept(packet.Connack{})
		for {
			switch p := s.next().(type) {
			case nil:
				return
			case *packet.Publish:
				ch <- p
				switch p.QoS {
				case 1:
					s.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
				case 2:
					s.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
				}
			case *packet.Ack:
				if p.Kind == packet.PUBREL {
					s.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
				}
			case *packet.Subscribe:
				s.confirm(p)
			}
		}
	}), ch
}

func nextSent(t *testing.T, sent <-chan *packet.Publish) *packet.Publish {
	t.Helper()
	select {
	case p := <-sent:
		return p
	case <-time.After(patience):
		t.Fatal("nothing is sent")
		return nil
	}
}

// sized returns an envelope that is n bytes long on the wire.
func sized(t *testing.T, n int) message.Message {
	t.Helper()
	m, err := message.NewEvent("s", message.Event{EventType: "e"})
	if err != nil {
		t.Fatal(err)
	}
	for fill := 1; fill <= n; fill = fill + n - length(t, m) {
		m.Payload = []byte(`{"event_data":"` + strings.Repeat("x", fill) + `"}`)
		if length(t, m) == n {
			return m
		}
	}
	t.Fatalf("no envelope is %d bytes long", n)
	return m
}

func length(t *testing.T, m message.Message) int {
	t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}

// Above 1,000 bytes an envelope is compressed whole, and says so; up to there it is not.
func TestWireCompression(t *testing.T) {
	t.Parallel()
	dial, sent := wireTap(t)
	c := connect(t, Options{Dial: dial, ID: "x", Uncompressed: []string{"plain/+"}})
	long := raw(strings.Repeat("x", 5000))
	for _, tt := range []struct {
		topic      string
		m          message.Message
		opts       []PublishOption
		compressed bool
	}{
		{"a", sized(t, 999), nil, false},
		{"a", sized(t, 1000), nil, false},
		{"a", sized(t, 1001), nil, true},
		{"a", sized(t, 999), []PublishOption{WithUser("k", "v")}, false},
		{"a", sized(t, 1001), []PublishOption{WithUser("k", "v")}, true},
		{"plain/a", sized(t, 5000), nil, false},
		{topic.Absolute("homeassistant/sensor/config"), sized(t, 5000), nil, false},
		{"a", long, nil, false},
	} {
		if err := c.Publish(testContext(t), tt.topic, tt.m, tt.opts...); err != nil {
			t.Fatal(err)
		}
		p := nextSent(t, sent)
		want, err := tt.m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		got, marks := p.Payload, ""
		for _, u := range p.Properties.User {
			if string(u.Key) != "k" {
				marks += string(u.Key) + ": " + string(u.Value)
			}
		}
		if zipped := bytes.HasPrefix(got, []byte{0x1f, 0x8b}); zipped != tt.compressed {
			t.Errorf("%d bytes on %s: compressed %v, want %v", len(want), tt.topic, zipped, tt.compressed)
		} else if zipped {
			r, err := gzip.NewReader(bytes.NewReader(got))
			if err == nil {
				got, err = io.ReadAll(r)
			}
			if err != nil {
				t.Errorf("%d bytes on %s: %v", len(want), tt.topic, err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes on %s: the wire has %.80q, want %.80q", len(want), tt.topic, got, want)
		}
		if wantMarks := map[bool]string{true: "content-encoding: gzip"}[tt.compressed]; marks != wantMarks {
			t.Errorf("%d bytes on %s: user properties %q, want %q", len(want), tt.topic, marks, wantMarks)
		}
		if ct, wantCT := string(p.Properties.ContentType), map[bool]string{false: "application/json"}[tt.m.Raw]; ct != wantCT {
			t.Errorf("%d bytes on %s: content type %q, want %q", len(want), tt.topic, ct, wantCT)
		}
	}
}

// The payload limit is 10,000 bytes, before compression and after inflation.
func TestWirePayloadLimit(t *testing.T) {
	t.Parallel()
	dial, sent := wireTap(t)
	c := connect(t, Options{Dial: dial, ID: "x"})
	for _, m := range []message.Message{sized(t, 10_000), raw(strings.Repeat("x", 10_000))} {
		if err := c.Publish(testContext(t), "a", m); err != nil {
			t.Error(err)
		}
		nextSent(t, sent)
	}
	for _, m := range []message.Message{sized(t, 10_001), raw(strings.Repeat("x", 10_001))} {
		if err := c.Publish(testContext(t), "a", m); !errors.Is(err, ErrTooLarge) {
			t.Errorf("10,001 bytes: %v", err)
		}
	}
	if n := c.Stats().Rejected["too_large"]; n != 2 {
		t.Errorf("%d too large, want 2", n)
	}

	b := startBroker(t)
	receiver := connect(t, Options{URL: b.URL()})
	k := newCollector()
	subscribe(t, receiver, "in", k.handle)
	sender := connect(t, Options{URL: b.URL(), Limits: message.Limits{MaxPayload: 20_000}})
	for _, body := range []string{strings.Repeat("x", 10_001), string(gzipped([]byte(strings.Repeat("y", 10_001)))),
		strings.Repeat("x", 10_000), string(gzipped([]byte(strings.Repeat("y", 10_000))))} {
		publish(t, sender, "in", body, WithQoS(1))
	}
	k.wait(t, 2)
	if got := k.settle(t, receiver); len(got) != 2 || len(got[0]) != 10_000 || len(got[1]) != 10_000 {
		t.Errorf("%d messages are taken, want the two of 10,000 bytes", len(got))
	}
	if n := receiver.Stats().Rejected["too_large"]; n != 2 {
		t.Errorf("%d too large, want 2", n)
	}
}

// The age limit is 300 s, where a message is neither retained nor a Will nor the status of a service.
func TestWireAgeLimit(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	k := newCollector()
	subscribe(t, c, "#", k.handle)
	aged := func(seconds float64) string {
		return fmt.Sprintf(`{"metadata":{"timestamp":%.3f,"message_id":"%g","sender":"s","message_type":"status","priority":0},"payload":{}}`,
			float64(time.Now().UnixMilli())/1000-seconds, seconds)
	}
	for _, topic := range []string{"own/a", "system/services/s/status"} {
		for _, seconds := range []float64{240, 299, 301, 360} { // under a second from literal to receipt
			publish(t, c, topic, aged(seconds), WithQoS(1), WithRetain(false))
		}
	}
	publish(t, c, "own/will", aged(500), WithUser("will", "1"))
	publish(t, c, "own/kept", aged(600), WithRetain(true)) // not retained to who has been subscribed already
	k.wait(t, 7)
	k.settle(t, c)
	var got []string
	for _, d := range k.all() {
		got = append(got, d.Topic+" "+d.Message.Metadata.ID)
	}
	want := "own/a 240,own/a 299,system/services/s/status 240,system/services/s/status 299,system/services/s/status 301," +
		"system/services/s/status 360,own/will 500"
	if strings.Join(got, ",") != want {
		t.Errorf("taken: %q\nwant   %q", got, want)
	}
	late := newCollector()
	subscribe(t, c, "own/kept", late.handle)
	late.wait(t, 1)
	if d := late.all()[0]; !d.Retained || d.Message.Metadata.ID != "600" {
		t.Errorf("%+v", d)
	}
	if n := c.Stats().Rejected["too_old"]; n != 3 {
		t.Errorf("%d too old, want 3", n)
	}
}

// The table of the wire format, as it is on the wire: QoS and retain flag of each topic, which a critical priority raises to QoS 2.
func TestWireQoS(t *testing.T) {
	t.Parallel()
	dial, sent := wireTap(t)
	c := connect(t, Options{Dial: dial, ID: "x"})
	const byPriority = 9
	for _, row := range []struct {
		topic  string
		qos    byte
		retain bool
	}{
		{"sensors/gps/data", 1, false},
		{"sensors/gps/status", 1, true},
		{"commands/navigation", 2, false},
		{"responses/caller", 2, false},
		{"navigation/position", 1, true},
		{"navigation/path", 1, true},
		{"navigation/status", 1, true},
		{"safety/alerts/tilt", 2, true},
		{"safety/emergency_stop", 2, true},
		{"safety/hazards", 2, false},
		{"power/battery", 1, true},
		{"power/solar", 1, true},
		{"power/consumption", 1, false},
		{"vision/detections", 1, false},
		{"vision/frame_analysis", 0, false},
		{"weather/current", 1, true},
		{"weather/forecast", 1, true},
		{"weather/alerts", 2, true},
		{"system/health", 1, true},
		{"system/health_check", 1, false},
		{"system/services/navigation/status", 1, true},
		{"system/events/mowed", 1, false},
		{"system/logs/warning", 0, false},
		{"nobody/defined/this", byPriority, false},
		{topic.Absolute("homeassistant/switch/mower"), byPriority, false},
	} {
		for priority, fallback := range []byte{0: 0, 1: 1, 2: 1, 3: 2} {
			want := row.qos
			if want == byPriority {
				want = fallback
			}
			if priority == 3 {
				want = 2
			}
			m, err := message.NewEvent("x", message.Event{EventType: "e"})
			if err != nil {
				t.Fatal(err)
			}
			m.Metadata.Priority = message.Priority(priority)
			if err := c.Publish(testContext(t), row.topic, m, Unlimited()); err != nil {
				t.Fatal(err)
			}
			p := nextSent(t, sent)
			full := "lawnberry/" + row.topic
			if outside, ok := strings.CutPrefix(row.topic, "absolute:"); ok {
				full = outside
			}
			if string(p.Topic) != full || p.QoS != want || p.Retain != row.retain {
				t.Errorf("priority %d: %s goes out at QoS %d, retain %v; want %s, %d, %v", priority, p.Topic, p.QoS, p.Retain, full, want, row.retain)
			}
			if !bytes.Contains(p.Payload, fmt.Appendf(nil, `"priority":%d,`, priority)) {
				t.Errorf("priority %d: %s", priority, p.Payload)
			}
		}
	}
}

// A command without a deadline has 30 s: in its payload, in expires_at, and as Message Expiry Interval. One with a deadline has
// that, to the fraction of a second but for Message Expiry, which is rounded up.
func TestWireCommand(t *testing.T) {
	t.Parallel()
	dial, sent := wireTap(t)
	c := connect(t, Options{Dial: dial, ID: "caller"})
	for _, tt := range []struct {
		given   time.Duration // 0 is none
		timeout float64
		expiry  uint32
	}{{0, 30, 30}, {90*time.Second + 500*time.Millisecond, 90.5, 91}} {
		ctx, cancel := context.WithCancel(t.Context())
		limited, end := ctx, cancel
		if tt.given > 0 {
			limited, end = context.WithTimeout(ctx, tt.given)
		}
		done := make(chan error, 1)
		begin := float64(time.Now().UnixMicro()) / 1e6
		go func() { done <- c.Call(limited, "navigation", "dock", map[string]int{"speed": 3}, nil) }()
		p := nextSent(t, sent)
		sentAt := float64(time.Now().UnixMicro()) / 1e6
		cancel()
		if err := <-done; asCommandError(t, err).Code != "cancelled" {
			t.Error(err)
		}
		end()
		var e struct {
			Metadata struct {
				Timestamp     float64
				MessageID     string `json:"message_id"`
				Sender        string
				MessageType   string   `json:"message_type"`
				Priority      int      `json:"priority"`
				CorrelationID string   `json:"correlation_id"`
				ExpiresAt     *float64 `json:"expires_at"`
			}
			Payload struct {
				Target, Command string
				Parameters      json.RawMessage
				Timeout         float64
				RequireAck      *bool `json:"require_ack"`
			}
		}
		if err := json.Unmarshal(p.Payload, &e); err != nil {
			t.Fatal(err)
		}
		md := &e.Metadata
		if p.QoS != 2 || p.Retain || string(p.Topic) != "lawnberry/commands/navigation" || string(p.Properties.ContentType) != "application/json" ||
			string(p.Properties.ResponseTopic) != "lawnberry/responses/caller" || string(p.Properties.CorrelationData) != md.CorrelationID {
			t.Errorf("%+v", p)
		}
		if !p.Properties.MessageExpiry.OK || p.Properties.MessageExpiry.V != tt.expiry {
			t.Errorf("Message Expiry Interval %+v, want %d", p.Properties.MessageExpiry, tt.expiry)
		}
		if md.ExpiresAt == nil || *md.ExpiresAt < begin+tt.timeout-0.001 || *md.ExpiresAt > sentAt+tt.timeout {
			t.Errorf("expires_at %v, want %g s after %.3f", md.ExpiresAt, tt.timeout, begin)
		}
		if d := e.Payload; math.Abs(d.Timeout-tt.timeout) > 1 || d.Target != "navigation" || d.Command != "dock" || string(d.Parameters) != `{"speed":3}` ||
			d.RequireAck == nil || !*d.RequireAck {
			t.Errorf("%s", p.Payload)
		}
		if md.MessageType != "command" || md.Priority != 1 || md.Sender != "caller" || !isUUID4(md.MessageID) || !isUUID4(md.CorrelationID) ||
			md.MessageID == md.CorrelationID || md.Timestamp < begin-0.001 || md.Timestamp > sentAt {
			t.Errorf("%+v", md)
		}
		if q := nextSent(t, sent); !bytes.Contains(q.Payload, []byte(`"$cancel"`)) { // of the cancelled call
			t.Errorf("%s", q.Payload)
		}
	}
}

func isUUID4(id string) bool {
	return len(id) == 36 && id[8] == '-' && id[13] == '-' && id[14] == '4' && id[18] == '-' && strings.IndexByte("89ab", id[19]) >= 0 && id[23] == '-'
}

// What a request leaves open: 30 s from its receipt.
func TestWireRequestWithoutDeadline(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	left := make(chan time.Duration, 1)
	if _, err := c.ServeCommands(testContext(t), "server", nil, func(ctx context.Context, r *Request) (any, error) {
		left <- r.Deadline.Sub(r.Delivery.Received)
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	publish(t, c, "commands/server", fmt.Sprintf(`{"metadata":{"timestamp":%.3f,"message_id":"m","sender":"s","message_type":"command","priority":1},`+
		`"payload":{"target":"server","command":"mow"}}`, float64(time.Now().UnixMilli())/1000))
	select {
	case d := <-left:
		if d != 30*time.Second {
			t.Errorf("%v, want 30 s", d)
		}
	case <-time.After(patience):
		t.Fatal("the request is not run")
	}
}

// An enveloped Will has the QoS of its topic, or more: 2 when it is critical. A raw one has what it was given.
func TestWireWill(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		topic    string
		given    byte
		priority message.Priority
		raw      bool
		want     byte
	}{
		{"system/services/x/status", 0, message.Low, false, 1},
		{"system/services/x/status", 2, message.Low, false, 2},
		{"system/services/x/status", 1, message.Critical, false, 2},
		{"safety/emergency_stop", 0, message.High, false, 2},
		{"vision/frame_analysis", 0, message.Normal, false, 0},
		{"nobody/defined/this", 0, message.Normal, false, 0},
		{"nobody/defined/this", 0, message.Critical, false, 2},
		{topic.Absolute("out/side"), 1, message.Critical, false, 2},
		{"safety/emergency_stop", 0, message.Normal, true, 0},
	} {
		hello := make(chan *packet.Connect, 1)
		dial := scripted(t, func(_ int, s *script) {
			hello <- s.accept(packet.Connack{})
			s.drain()
		})
		m := sized(t, 1200)
		m.Metadata.Priority = tt.priority
		if tt.raw {
			m = raw("gone")
		}
		c := connect(t, Options{Dial: dial, ID: "x", Will: &Will{Topic: tt.topic, Message: m, QoS: tt.given}})
		w := (<-hello).Will
		if w.QoS != tt.want {
			t.Errorf("%s, priority %v, given %d: QoS %d, want %d", tt.topic, tt.priority, tt.given, w.QoS, tt.want)
		}
		got := string(w.Properties.ContentType)
		for _, u := range w.Properties.User {
			got += " " + string(u.Key) + ":" + string(u.Value)
		}
		want := "application/json content-encoding:gzip will:1"
		if tt.raw {
			want = " will:1"
		} else if strings.HasPrefix(tt.topic, "absolute:") {
			want = "application/json will:1"
		}
		if got != want {
			t.Errorf("%s: properties %q, want %q", tt.topic, got, want)
		}
		_ = c.Close(testContext(t))
	}
}
