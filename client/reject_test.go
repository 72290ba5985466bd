package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
)

// secret is in the payloads of the tests of rejections, in places that errors quote. No log line has it.
const secret = "s3cret"

// anyID is the id of a message that is made while it is provoked.
const anyID = "any"

// A rejectCase provokes rejections of one reason and nothing else.
type rejectCase struct {
	name   string
	on     string // "send" or "receive"
	reason message.Reason
	times  int                  // 0 is once
	topic  string               // in the log line
	id     string               // in the log line; "" if it has none
	field  string               // likewise
	own    func(s Stats) uint64 // the counter; nil is Rejected[reason]

	provoke func(t *testing.T, o Options) *Client
}

var (
	ownFailed      = func(s Stats) uint64 { return s.Failed }
	ownExpired     = func(s Stats) uint64 { return s.Expired }
	ownDropped     = func(s Stats) uint64 { return s.Dropped }
	ownRateLimited = func(s Stats) uint64 { return s.RateLimited }
	ownSuperseded  = func(s Stats) uint64 { return s.Superseded }
)

// rejections is the sum of all counters.
func rejections(s Stats) int {
	n := s.Failed + s.Expired + s.Dropped + s.RateLimited + s.Superseded
	for _, k := range s.Rejected {
		n += k
	}
	return int(n)
}

func (tt *rejectCase) run(t *testing.T, o Options) {
	t.Parallel()
	var lines func() string
	o.Logger, lines = logged()
	c := tt.provoke(t, o)
	want := max(tt.times, 1)
	count := func() int {
		if tt.own != nil {
			return int(tt.own(c.Stats()))
		}
		return int(c.Stats().Rejected[tt.reason])
	}
	rejected := func() (out []string) {
		for line := range strings.Lines(lines()) {
			if strings.Contains(line, `msg="message rejected"`) {
				out = append(out, line)
			}
		}
		return out
	}
	eventually(t, fmt.Sprintf("%d rejections for %s are counted", want, tt.reason), func() bool { return count() >= want })
	eventually(t, fmt.Sprintf("%d rejections for %s are logged", want, tt.reason), func() bool { return len(rejected()) >= want })
	if n, all := count(), rejections(c.Stats()); n != want || all != want {
		t.Errorf("counted %d, of %d in all, want %d: %+v", n, all, want, c.Stats())
	}
	got := rejected()
	if len(got) != want {
		t.Errorf("%d lines, want %d: %q", len(got), want, got)
	}
	for _, line := range got {
		attrs := "on=" + tt.on + " topic=" + tt.topic + " reason=" + string(tt.reason)
		if tt.field != "" {
			attrs += " field=" + tt.field
		}
		switch tt.id {
		case "":
		case anyID:
			attrs += " message_id=" + line[max(len(line)-37, 0):len(line)-1]
			if !isUUID4(line[max(len(line)-37, 0) : len(line)-1]) {
				t.Errorf("no message id: %s", line)
			}
		default:
			attrs += " message_id=" + tt.id
		}
		if !strings.HasSuffix(line, `msg="message rejected" `+attrs+"\n") {
			t.Errorf("logged:\n%s\nwant %s", line, attrs)
		}
	}
	if strings.Contains(strings.Join(got, ""), secret) {
		t.Errorf("payload is logged: %q", got)
	}
}

// rejectable returns a valid event with the id "i".
func rejectable() message.Message {
	return message.Message{Payload: json.RawMessage(`{"event_type":"` + secret + `"}`), Metadata: message.Metadata{
		Timestamp: message.Seconds(time.Now()), ID: "i", Sender: "s", Type: message.TypeEvent, Priority: message.Normal}}
}

// failing returns a provocation: a Publish that fails.
func failing(topic string, change func(m *message.Message), opts ...PublishOption) func(*testing.T, Options) *Client {
	return func(t *testing.T, o Options) *Client {
		c := connect(t, o)
		m := rejectable()
		if change != nil {
			change(&m)
		}
		if err := c.Publish(testContext(t), topic, m, opts...); err == nil {
			t.Error("it is published")
		}
		return c
	}
}

// stranded connects a client and takes the connection from it for good.
func stranded(t *testing.T, o Options) *Client {
	t.Helper()
	cut := make(chan struct{})
	o.Dial = scripted(t, func(n int, s *script) {
		if n == 0 {
			s.accept(packet.Connack{})
			<-cut
		}
	})
	c := connect(t, o)
	close(cut)
	eventually(t, "the connection is lost", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.link == nil
	})
	return c
}

type unencodable struct{}

func (unencodable) MarshalJSON() ([]byte, error) { return nil, errors.New(secret) }

// TestRejectedOnSend provokes each reason for which a message does not go out. It was seen to fail with calls of reject and of
// lose taken out, in most places where there is one, and with the error itself in the log line.
func TestRejectedOnSend(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	invalid := func(reason message.Reason, field string, change func(m *message.Message)) rejectCase {
		return rejectCase{name: string(reason), reason: reason, topic: "x", id: "i", field: field, provoke: failing("x", change)}
	}
	cases := []rejectCase{
		invalid(message.ReasonTooLarge, "", func(m *message.Message) {
			m.Payload = json.RawMessage(`{"e":"` + strings.Repeat(secret, 2000) + `"}`)
		}),
		invalid(message.ReasonMalformed, "", func(m *message.Message) { m.Payload = json.RawMessage(`{"` + secret + `":}`) }),
		invalid(message.ReasonMissingField, "payload.sensor_type", func(m *message.Message) { m.Metadata.Type = message.TypeSensorData }),
		invalid(message.ReasonWrongType, "payload.event_type", func(m *message.Message) { m.Payload = json.RawMessage(`{"event_type":3}`) }),
		invalid(message.ReasonUnknownType, "metadata.message_type", func(m *message.Message) { m.Metadata.Type = secret }),
		invalid(message.ReasonOutOfRange, "metadata.priority", func(m *message.Message) { m.Metadata.Priority = 9 }),
		invalid(message.ReasonNotFinite, "", func(m *message.Message) { m.Metadata.Timestamp = math.NaN() }),
		invalid(message.ReasonTooDeep, "", func(m *message.Message) {
			m.Payload = json.RawMessage(`{"` + secret + `":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}`)
		}),
		invalid(message.ReasonUTF8, "", func(m *message.Message) { m.Payload = json.RawMessage("{\"" + secret + "\":\"\xff\"}") }),
		{name: "topic", reason: ReasonTopic, topic: "a/+", id: "i", provoke: failing("a/+", nil)},
		{name: "response topic", reason: ReasonTopic, topic: "x", id: "i", provoke: failing("x", nil, WithResponse("a/+", nil))},
		{name: "QoS", reason: ReasonOption, topic: "x", id: "i", provoke: failing("x", nil, WithQoS(3))},
		{name: "user property", reason: ReasonOption, topic: "x", id: "i", provoke: failing("x", nil, WithUser("a\x00", secret))},
		{name: "correlation data", reason: ReasonOption, topic: "x", id: "i", provoke: failing("x", nil, WithResponse("a", make([]byte, 65536)))},
		{name: "PublishAsync", reason: ReasonTopic, topic: "a/#", id: "i", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			if c.PublishAsync("a/#", rejectable()).Wait(testContext(t)) == nil {
				t.Error("it is published")
			}
			return c
		}},
		{name: "caller gave up before", reason: ReasonCancelled, topic: "x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = c.Publish(ctx, "x", rejectable())
			return c
		}},
		{name: "closed", reason: ReasonClosed, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			_ = c.Close(testContext(t))
			_ = c.Publish(testContext(t), "x", rejectable())
			return c
		}},
		{name: "lost by Close", reason: ReasonClosed, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			c := stranded(t, o)
			_ = c.Publish(testContext(t), "x", rejectable())
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_ = c.Close(ctx)
			return c
		}},
		{name: "full", reason: ReasonFull, times: 2, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Outbox = Queue{Max: 1, Full: Refuse}
			c := stranded(t, o)
			_ = c.Publish(testContext(t), "x", rejectable())
			if err := c.Publish(testContext(t), "x", rejectable()); !errors.Is(err, ErrFull) {
				t.Error(err)
			}
			<-c.PublishAsync("x", rejectable()).Done()
			return c
		}},
		{name: "no room until the caller gives up", reason: ReasonFull, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Outbox = Queue{Max: 1}
			o.Dial = scripted(t, func(_ int, s *script) { // a broker that takes one message at a time
				ack := packet.Connack{}
				ack.Properties.ReceiveMaximum = packet.Some[uint16](1)
				s.accept(ack)
				s.drain()
			})
			c := connect(t, o)
			for range 2 {
				c.PublishAsync("x", rejectable())
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := c.Publish(ctx, "x", rejectable()); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			return c
		}},
		{name: "dropped from the outbox", reason: ReasonDropped, own: ownDropped, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Outbox = Queue{Max: 1, Full: DropOldest}
			c := stranded(t, o)
			for range 2 {
				_ = c.Publish(testContext(t), "x", rejectable())
			}
			return c
		}},
		{name: "expired in the outbox", reason: message.ReasonExpired, own: ownExpired, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Outbox = Queue{Max: 1, Full: Refuse}
			c := stranded(t, o)
			_ = c.Publish(testContext(t), "x", rejectable(), WithExpiry(time.Nanosecond))
			_ = c.Publish(testContext(t), "x", rejectable())
			return c
		}},
		{name: "over the rate", reason: ReasonRateLimited, own: ownRateLimited, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Rates.General = 1
			c := connect(t, o)
			_ = c.Publish(testContext(t), "x", rejectable())
			if err := c.Publish(testContext(t), "x", rejectable()); !errors.Is(err, ErrRateLimited) {
				t.Error(err)
			}
			return c
		}},
		{name: "its turn did not come", reason: ReasonRateLimited, own: ownRateLimited, topic: "lawnberry/commands/a", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Rates.General = 1
			c := connect(t, o)
			_ = c.Publish(testContext(t), "commands/a", rejectable())
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
			defer cancel()
			if err := c.Publish(ctx, "commands/a", rejectable()); !errors.Is(err, ErrRateLimited) {
				t.Error(err)
			}
			return c
		}},
		{name: "superseded", reason: ReasonSuperseded, own: ownSuperseded, topic: "lawnberry/weather/forecast", id: "i", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			for range 3 {
				c.PublishAsync("weather/forecast", rejectable())
			}
			return c
		}},
		{name: "refused by the broker", reason: ReasonRefused, own: ownFailed, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Dial = scripted(t, func(_ int, s *script) {
				s.accept(packet.Connack{})
				if p, ok := want[*packet.Publish](s); ok {
					s.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID, Code: packet.NotAuthorized})
				}
				s.drain()
			})
			return failing("x", nil)(t, o)
		}},
		{name: "retained, which the broker has not", reason: ReasonRefused, own: ownFailed, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Dial = scripted(t, func(_ int, s *script) {
				ack := packet.Connack{}
				ack.Properties.RetainAvailable = packet.Some[byte](0)
				s.accept(ack)
				s.drain()
			})
			return failing("x", nil, WithRetain(true))(t, o)
		}},
		{name: "too large for the broker", reason: message.ReasonTooLarge, own: ownFailed, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Dial = scripted(t, func(_ int, s *script) {
				ack := packet.Connack{}
				ack.Properties.MaximumPacketSize = packet.Some[uint32](100)
				s.accept(ack)
				s.drain()
			})
			return failing("x", nil)(t, o)
		}},
		{name: "the connection that it belongs to is lost", reason: ReasonNotConnected, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Dial = scripted(t, func(n int, s *script) {
				s.accept(packet.Connack{})
				switch n {
				case 0:
				case 1:
					_, _ = want[*packet.Publish](s)
				default:
					s.drain()
				}
			})
			var births atomic.Int32
			o.Birth = func(ctx context.Context, c *Client) error {
				if births.Add(1) == 2 {
					_ = c.Publish(ctx, "x", rejectable())
				}
				return nil
			}
			return connect(t, o)
		}},
		{name: "the disk is full", reason: ReasonNotStored, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			full := &fullDisk{}
			o.ID, o.Dir, o.fs = "c", t.TempDir(), errorfs.Wrap(vfs.Default, full)
			c := stranded(t, o)
			full.on.Store(true)
			if err := c.Publish(testContext(t), "x", rejectable()); !errors.Is(err, ErrNotStored) {
				t.Error(err)
			}
			full.on.Store(false)
			return c
		}},
		{name: "call: target", reason: ReasonTarget, topic: "commands/a/b", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			_ = c.Call(testContext(t), "a/b", "mow", nil, nil)
			return c
		}},
		{name: "call: topic", reason: ReasonTopic, topic: "commands/+", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			_ = c.Call(testContext(t), "+", "mow", nil, nil)
			return c
		}},
		{name: "call: no command", reason: message.ReasonMissingField, topic: "commands/a", field: "payload.command", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			_ = c.Call(testContext(t), "a", "", nil, nil)
			return c
		}},
		{name: "call: parameters", reason: ReasonOther, topic: "commands/a", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			_ = c.Call(testContext(t), "a", "mow", unencodable{}, nil)
			return c
		}},
		{name: "call: the caller gave up before", reason: ReasonCancelled, topic: "commands/a", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = c.Call(ctx, "a", "mow", nil, nil)
			return c
		}},
		{name: "call: it ends while the request waits", reason: ReasonCancelled, topic: "lawnberry/commands/a", id: anyID, provoke: func(t *testing.T, o Options) *Client {
			c := stranded(t, o)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- c.Call(ctx, "a", "mow", nil, nil) }()
			eventually(t, "the request waits", func() bool { return c.Stats().Outbox == 1 })
			cancel()
			if err := <-done; asCommandError(t, err).Code != CodeCancelled {
				t.Error(err)
			}
			return c
		}},
		{name: "call: no answer could come", reason: ReasonRefused, own: ownFailed, topic: "lawnberry/commands/a", id: anyID, provoke: func(t *testing.T, o Options) *Client {
			o.Dial = scripted(t, func(_ int, s *script) {
				_ = s.next()
				s.send(&packet.Connack{})
				if p, ok := want[*packet.Subscribe](s); ok {
					s.send(&packet.Suback{ID: p.ID, Codes: []packet.Code{packet.NotAuthorized}})
				}
				s.drain()
			})
			c := connect(t, o)
			if err := c.Call(testContext(t), "a", "mow", nil, nil); asCommandError(t, err).Code != CodeRefused {
				t.Error(err)
			}
			return c
		}},
		{name: "reply: result", reason: ReasonOther, topic: "absolute:lawnberry/responses/caller", provoke: answering(b, func(ctx context.Context) any { return unencodable{} })},
		{name: "progress", reason: ReasonOther, topic: "absolute:lawnberry/responses/caller", provoke: answering(b, func(ctx context.Context) any {
			Progress(ctx, unencodable{})
			return nil
		})},
	}
	for _, tt := range cases {
		tt.on = "send"
		t.Run(tt.name, func(t *testing.T) { tt.run(t, Options{URL: b.URL()}) })
	}
}

// answering has a caller call a server, which is the client that is looked at.
func answering(b brokertest.Broker, h func(ctx context.Context) any) func(*testing.T, Options) *Client {
	return func(t *testing.T, o Options) *Client {
		server := connect(t, o)
		name := "server-" + server.ID()
		if _, err := server.ServeCommands(testContext(t), name, nil, func(ctx context.Context, _ *Request) (any, error) { return h(ctx), nil }); err != nil {
			t.Fatal(err)
		}
		caller := connect(t, Options{URL: b.URL(), ID: "caller"})
		_ = caller.Call(testContext(t), name, "mow", nil, nil, WithProgress(func(json.RawMessage) {}))
		_ = caller.Close(testContext(t))
		return server
	}
}

// A Will that breaks a rule is the end of Connect, which says why; the line is there all the same.
func TestRejectedWill(t *testing.T) {
	t.Parallel()
	broken := rejectable()
	broken.Metadata.Priority = 9
	for reason, w := range map[message.Reason]*Will{
		ReasonTopic: {Topic: "a/+", Message: rejectable()}, ReasonOption: {Topic: "x", Message: rejectable(), QoS: 3},
		message.ReasonOutOfRange: {Topic: "x", Message: broken},
	} {
		log, lines := logged()
		dial := func(context.Context) (net.Conn, error) { return nil, errors.New("not reached") }
		if _, err := Connect(testContext(t), Options{Dial: dial, Will: w, Logger: log}); err == nil {
			t.Errorf("%s: connected", reason)
		}
		if got := lines(); strings.Count(got, "message rejected") != 1 || !strings.Contains(got, " reason="+string(reason)) || strings.Contains(got, secret) {
			t.Errorf("%s: logged %q", reason, got)
		}
	}
}

// A rejection that is not logged allocates nothing: a handler that is overrun, or a sensor over its rate, must not cost more than that.
func TestRejectAllocations(t *testing.T) {
	c := connect(t, Options{URL: startBroker(t).URL()})
	for _, err := range []error{errQueueFull, errUnexpected, ErrDropped, ErrExpired, ErrRateLimited, ErrSuperseded, ErrFull,
		&message.Error{Reason: message.ReasonTooOld, Field: "metadata.timestamp"}} {
		p := publication{Receipt: Receipt{c: c}, topic: "lawnberry/x"}
		if n := testing.AllocsPerRun(100, func() {
			_ = c.reject(receiving, "lawnberry/x", "i", err)
			_ = p.reject(err)
		}); n > 0 {
			t.Errorf("%v: %g allocations", err, n)
		}
	}
}
