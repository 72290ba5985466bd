package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
)

// secret is in the payloads of the tests of rejections, in places that errors quote. No log line has it.
const secret = "s3cret"

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
		if tt.id != "" {
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

// TestRejectedOnSend provokes each reason for which a message does not go out. It was seen to fail with each call of reject and of lose
// taken out, and with the error itself in the log line.
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
func answering(b *broker.Broker, h func(ctx context.Context) any) func(*testing.T, Options) *Client {
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

// rejectedBodies breaks each rule of the wire format for received messages once, with the field that is logged.
func rejectedBodies() map[message.Reason][2]string {
	now := float64(time.Now().UnixMilli()) / 1000
	envelope := func(old, to string) string {
		good := fmt.Sprintf(`{"metadata":{"message_id":"i","timestamp":%.3f,"sender":"s","message_type":"event","priority":1,"expires_at":null},"payload":{"event_type":"%s"}}`, now, secret)
		return strings.Replace(good, old, to, 1)
	}
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	return map[message.Reason][2]string{
		message.ReasonTooLarge:     {strings.Repeat(secret, 2000), ""},
		message.ReasonMalformed:    {envelope(`"}}`, ``), ""},
		message.ReasonMissingField: {envelope(`"sender":"s",`, ``), "metadata.sender"},
		message.ReasonWrongType:    {envelope(`"priority":1`, `"priority":"`+secret+`"`), "metadata.priority"},
		message.ReasonUnknownType:  {envelope(`"message_type":"event"`, `"message_type":"`+secret+`"`), "metadata.message_type"},
		message.ReasonOutOfRange:   {envelope(`"priority":1`, `"priority":9`), "metadata.priority"},
		message.ReasonNotFinite:    {envelope(`"event_type"`, `"`+secret+`":NaN,"event_type"`), ""},
		message.ReasonTooDeep:      {envelope(`"event_type"`, `"`+secret+`":`+deep+`,"event_type"`), ""},
		message.ReasonInflate:      {"\x1f\x8b\x08" + secret, ""},
		message.ReasonUTF8:         {envelope(secret, secret+"\xff"), ""},
		message.ReasonExpired:      {envelope(`"expires_at":null`, `"expires_at":1`), "metadata.expires_at"},
		message.ReasonTooOld:       {envelope(fmt.Sprintf("%.3f", now), "1000"), "metadata.timestamp"},
	}
}

// TestRejectedOnReceipt provokes each reason for which a received message goes no further. It was seen to fail as TestRejectedOnSend was.
func TestRejectedOnReceipt(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	sender := connect(t, Options{URL: b.URL(), ID: "sender", Limits: message.Limits{MaxPayload: 20_000}})
	// to publishes body where it reaches a client that has subscribed by what set does.
	to := func(topic, body string, set func(t *testing.T, c *Client), opts ...PublishOption) func(*testing.T, Options) *Client {
		return func(t *testing.T, o Options) *Client {
			name := strings.ReplaceAll(t.Name()[strings.LastIndex(t.Name(), "/")+1:], " ", "_")
			o.ID = name
			c := connect(t, o)
			if set != nil {
				set(t, c)
			}
			publish(t, sender, strings.ReplaceAll(topic, "NAME", name), body, append([]PublishOption{WithQoS(1), WithRetain(false)}, opts...)...)
			return c
		}
	}
	hear := func(t *testing.T, c *Client) { subscribe(t, c, "in/"+c.ID(), newCollector().handle) }
	serve := func(t *testing.T, c *Client) {
		if _, err := c.ServeCommands(testContext(t), c.ID(), func(target string) bool { return target != "another" },
			func(context.Context, *Request) (any, error) { t.Error("it is run"); return nil, nil }); err != nil {
			t.Fatal(err)
		}
	}
	enveloped := func(kind, metadata, payload string) string {
		return fmt.Sprintf(`{"metadata":{"timestamp":%.3f,"message_id":"i","sender":"s","message_type":%q,"priority":1%s},"payload":%s}`,
			float64(time.Now().UnixMilli())/1000, kind, metadata, payload)
	}
	response := enveloped("response", `,"correlation_id":"c"`, `{"success":true,"result":"`+secret+`"}`)
	cases := []rejectCase{
		{name: "retained command", reason: ReasonRetained, topic: "commands/retained_command", id: "i", provoke: func(t *testing.T, o Options) *Client {
			publish(t, sender, "commands/retained_command", enveloped("command", "", `{"target":"x","command":"`+secret+`"}`), WithRetain(true))
			o.ID = "retained_command"
			c := connect(t, o)
			serve(t, c)
			return c
		}},
		{name: "command of another type", reason: message.ReasonWrongType, field: "metadata.message_type", topic: "commands/command_of_another_type", id: "i",
			provoke: to("commands/NAME", enveloped("event", "", `{"event_type":"`+secret+`"}`), serve)},
		{name: "command of no form", reason: message.ReasonMalformed, topic: "commands/command_of_no_form",
			provoke: to("commands/NAME", secret, serve)},
		{name: "plain command that is no JSON", reason: message.ReasonMalformed, topic: "commands/plain_command_that_is_no_JSON",
			provoke: to("commands/NAME", secret, serve, WithResponse("own/reply", nil))},
		{name: "plain command without a command", reason: message.ReasonMissingField, topic: "commands/plain_command_without_a_command",
			provoke: to("commands/NAME", `{"`+secret+`":1}`, serve, WithResponse("own/reply", nil))},
		{name: "target", reason: ReasonTarget, topic: "commands/target", id: "i",
			provoke: to("commands/NAME", enveloped("command", "", `{"target":"another","command":"`+secret+`"}`), serve)},
		{name: "expired command", reason: message.ReasonExpired, field: "metadata.expires_at", topic: "lawnberry/commands/expired_command", id: "i",
			provoke: to("commands/NAME", enveloped("command", `,"expires_at":1000`, `{"target":"x","command":"`+secret+`"}`), serve)},
		{name: "command that expires while it waits", reason: message.ReasonExpired, topic: "commands/busy", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.ID, o.Commands = "busy", 1
			c := connect(t, o)
			release, begun := make(chan struct{}), make(chan struct{}, 2)
			t.Cleanup(sync.OnceFunc(func() { close(release) }))
			if _, err := c.ServeCommands(testContext(t), "busy", nil, func(context.Context, *Request) (any, error) {
				begun <- struct{}{}
				<-release
				return nil, nil
			}); err != nil {
				t.Fatal(err)
			}
			first := strings.Replace(enveloped("command", "", `{"target":"busy","command":"x"}`), `"i"`, `"first"`, 1)
			publish(t, sender, "commands/busy", first)
			<-begun
			expires := float64(time.Now().Add(300*time.Millisecond).UnixMilli()) / 1000
			publish(t, sender, "commands/busy", enveloped("command", fmt.Sprintf(`,"expires_at":%.3f`, expires), `{"target":"busy","command":"x"}`))
			return c
		}},
		{name: "response that nobody waits for", reason: ReasonUnexpected, topic: "responses/response_that_nobody_waits_for", id: "i",
			provoke: to("responses/NAME", response, nil)},
		{name: "event that nobody waits for", reason: ReasonUnexpected, topic: "responses/event_that_nobody_waits_for", id: "i",
			provoke: to("responses/NAME", enveloped("event", "", `{"event_type":"`+secret+`"}`), nil)},
		{name: "status as response", reason: message.ReasonWrongType, field: "metadata.message_type", topic: "responses/status_as_response", id: "i",
			provoke: to("responses/NAME", enveloped("status", "", `{"status":"`+secret+`"}`), nil)},
		{name: "retained response", reason: ReasonRetained, topic: "responses/retained_response", id: "i", provoke: func(t *testing.T, o Options) *Client {
			publish(t, sender, "responses/retained_response", response, WithRetain(true))
			o.ID = "retained_response"
			return connect(t, o)
		}},
		{name: "full queue of a handler", reason: ReasonDropped, own: ownDropped, topic: "lawnberry/in/slow", id: "i", provoke: func(t *testing.T, o Options) *Client {
			c := connect(t, o)
			release, begun := make(chan struct{}), make(chan struct{}, 3)
			t.Cleanup(func() { close(release) })
			subscribe(t, c, "in/slow", func(context.Context, *Delivery) { begun <- struct{}{}; <-release }, WithQueue(Queue{Max: 1, Full: DropOldest}))
			for i := range 3 {
				publish(t, sender, "in/slow", enveloped("event", "", `{"event_type":"`+secret+`"}`), WithQoS(1))
				if i == 0 {
					<-begun
				}
			}
			return c
		}},
		{name: "no handler for what was kept", reason: ReasonDropped, own: ownDropped, topic: "lawnberry/x", id: "i", provoke: func(t *testing.T, o Options) *Client {
			o.Dial = scripted(t, func(_ int, s *script) {
				s.accept(packet.Connack{SessionPresent: true})
				for {
					switch p := s.next().(type) {
					case nil:
						return
					case *packet.Subscribe:
						s.confirm(p)
						s.send(&packet.Publish{Topic: []byte("lawnberry/x"), QoS: 1, ID: 1, Payload: []byte(enveloped("event", "", `{"event_type":"e"}`))})
					}
				}
			})
			o.ID = "kept"
			c := connect(t, o)
			eventually(t, "it waits for a handler", func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				return len(c.parked) == 1
			})
			c.mu.Lock()
			defer c.mu.Unlock()
			c.endParking()
			return c
		}},
	}
	for reason, x := range rejectedBodies() {
		id := "i"
		if reason == message.ReasonTooLarge || reason == message.ReasonInflate {
			id = "" // which is not looked for
		}
		cases = append(cases, rejectCase{name: string(reason), reason: reason, field: x[1], topic: "lawnberry/in/" + string(reason), id: id,
			provoke: to("in/NAME", x[0], hear)})
	}
	for _, tt := range cases {
		tt.on = "receive"
		t.Run(tt.name, func(t *testing.T) { tt.run(t, Options{URL: b.URL()}) })
	}
}
