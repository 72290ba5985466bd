package client

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
)

// rejectedBodies breaks each rule of the wire format for received messages once, with the field that is logged.
func rejectedBodies() map[message.Reason][2]string {
	now := float64(time.Now().UnixMilli()) / 1000
	envelope := func(old, to string) string {
		good := fmt.Sprintf(`{"metadata":{"message_id":"i","timestamp":%.3f,"sender":"s","message_type":"event","priority":1,"expires_at":null},"payload":{"event_type":%q}}`, now, secret)
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

// TestRejectedOnReceipt provokes each reason for which a received message goes no further. It was seen to fail
// as TestRejectedOnSend was.
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
		{name: "result of another type", reason: message.ReasonWrongType, topic: "responses/result_of_another_type", id: anyID, provoke: func(t *testing.T, o Options) *Client {
			o.ID = "result_of_another_type"
			c := connect(t, o)
			if _, err := sender.ServeCommands(testContext(t), "teller", nil, func(context.Context, *Request) (any, error) { return secret, nil }); err != nil {
				t.Fatal(err)
			}
			var n int
			if err := c.Call(testContext(t), "teller", "tell", nil, &n); asCommandError(t, err).Code != CodeFailed {
				t.Error(err)
			}
			return c
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
