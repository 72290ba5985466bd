package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

func gzipped(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}

// TestBadRequests sends every kind of broken command, and expects an answer that names what is wrong, a count by reason,
// and a server that goes on as if nothing had happened.
func TestBadRequests(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "server"})
	ran := make(chan string, 100)
	if _, err := server.ServeCommands(ctx, "server", nil, func(_ context.Context, r *Request) (any, error) {
		ran <- r.Command
		return "done", nil
	}); err != nil {
		t.Fatal(err)
	}
	caller := connect(t, Options{URL: b.URL(), ID: "caller", Limits: message.Limits{MaxPayload: 1 << 20}})
	type answer struct {
		correlation string
		response    message.Response
	}
	answers := make(chan answer, 100)
	if _, err := caller.Subscribe(ctx, "responses/bad", func(_ context.Context, d *Delivery) {
		p, err := message.Payload[message.Response](d.Message)
		if err != nil {
			t.Errorf("answer: %v", err)
		}
		answers <- answer{d.Message.Metadata.CorrelationID, p}
	}); err != nil {
		t.Fatal(err)
	}

	now := float64(time.Now().UnixMilli()) / 1000
	envelope := func(id, change, to string) []byte {
		good := fmt.Sprintf(`{"metadata":{"timestamp":%f,"message_id":%q,"sender":"bad","message_type":"command","priority":1,"correlation_id":%q},`+
			`"payload":{"target":"server","command":"mow","parameters":{"height":30}}}`, now, id, id)
		if !strings.Contains(good, change) {
			t.Fatalf("%q is not in the message", change)
		}
		return []byte(strings.Replace(good, change, to, 1))
	}
	deep := strings.Repeat("[", 40) + strings.Repeat("]", 40)
	for i, test := range []struct {
		what   string
		body   func(id string) []byte
		reason message.Reason
		names  string // in the error
		bare   bool   // too broken to tell whose it is: no correlation id in the answer
	}{
		{"over the limit", func(id string) []byte { return envelope(id, `:30}`, `:"`+strings.Repeat("x", 20_000)+`"}`) }, message.ReasonTooLarge, "10000", true},
		{"malformed JSON", func(id string) []byte { return envelope(id, `}}}`, `}`) }, message.ReasonMalformed, "", false},
		{"wrong type", func(id string) []byte { return envelope(id, `"priority":1`, `"priority":"high"`) }, message.ReasonWrongType, "metadata.priority", false},
		{"out of range", func(id string) []byte { return envelope(id, `"priority":1`, `"priority":9`) }, message.ReasonOutOfRange, "metadata.priority", false},
		{"missing field", func(id string) []byte { return envelope(id, `"command":"mow",`, ``) }, message.ReasonMissingField, "payload.command", false},
		{"missing metadata", func(id string) []byte { return envelope(id, fmt.Sprintf(`"timestamp":%f,`, now), ``) }, message.ReasonMissingField, "metadata.timestamp", false},
		{"unknown type", func(id string) []byte { return envelope(id, `"command","priority"`, `"comand","priority"`) }, message.ReasonUnknownType, "comand", false},
		{"NaN", func(id string) []byte { return envelope(id, `:30}`, `:NaN}`) }, message.ReasonNotFinite, "height", false},
		{"deep nesting", func(id string) []byte { return envelope(id, `:30}`, ":"+deep+"}") }, message.ReasonTooDeep, "32", false},
		{"wrong UTF-8", func(id string) []byte { return envelope(id, `:30}`, ":\"\xff\xfe\"}") }, message.ReasonUTF8, "UTF-8", false},
		{"gzip bomb", func(string) []byte { return gzipped(make([]byte, 5_000_000)) }, message.ReasonTooLarge, "10000", true},
		{"half a gzip", func(id string) []byte { b := gzipped(envelope(id, `:30}`, `:31}`)); return b[:len(b)/2] }, message.ReasonInflate, "gzip", true},
		{"too old", func(id string) []byte { return envelope(id, fmt.Sprintf(`%f`, now), fmt.Sprint(now-1000)) }, message.ReasonTooOld, "", false},
	} {
		t.Run(test.what, func(t *testing.T) {
			id := fmt.Sprint("bad-", i)
			before := server.Stats().Rejected[test.reason]
			if err := caller.Publish(ctx, "commands/server", message.NewRaw(test.body(id)), WithResponse("responses/bad", []byte(id))); err != nil {
				t.Fatal(err)
			}
			select {
			case a := <-answers:
				if a.response.Success || a.response.Error == nil || !strings.Contains(*a.response.Error, test.names) {
					t.Errorf("answered with %+v, want an error that names %q", a.response, test.names)
				} else {
					t.Log(*a.response.Error)
				}
				if want := map[bool]string{false: id, true: ""}[test.bare]; a.correlation != want {
					t.Errorf("correlation id %q, want %q", a.correlation, want)
				}
			case <-ctx.Done():
				t.Fatal("no answer")
			}
			if got := server.Stats().Rejected[test.reason]; got != before+1 {
				t.Errorf("rejected for %s: %d, want %d", test.reason, got, before+1)
			}
		})
	}
	select {
	case c := <-ran:
		t.Errorf("the handler ran %q", c)
	default:
	}
	var result string
	if err := caller.Call(ctx, "server", "mow", nil, &result); err != nil || result != "done" {
		t.Errorf("a good command afterwards: %q, %v", result, err)
	}
	if n := server.Stats().Reconnects; n != 0 {
		t.Errorf("the server lost its connection %d times", n)
	}
}

// TestBadTopics holds that a topic no message can have is refused with its reason, before anything is sent.
func TestBadTopics(t *testing.T) {
	ctx := testContext(t)
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	for _, test := range []struct{ topic, names string }{
		{"a/+/b", "wildcard"}, {"a/#", "wildcard"}, {"a\x00b", "NUL"}, {"", "empty"}, {"a\xffb", "UTF-8"},
		{strings.Repeat("x", 70_000), "65"},
	} {
		err := c.Publish(ctx, test.topic, message.NewRaw([]byte("x")))
		if err == nil || !strings.Contains(err.Error(), test.names) {
			t.Errorf("publish on %.20q: %v, want an error that names %q", test.topic, err, test.names)
		}
	}
	if err := c.Publish(ctx, "still/here", message.NewRaw([]byte("x")), WithQoS(1)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}
