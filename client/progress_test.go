package client

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
)

// stepwise serves "walk", which reports each value that it gets from steps until that is closed, and keeps the context of the
// last one.
func stepwise(t *testing.T, c *Client, steps <-chan any) (last *context.Context) {
	t.Helper()
	last = new(context.Context)
	_, err := c.ServeCommands(testContext(t), "nav", nil, func(ctx context.Context, r *Request) (any, error) {
		*last = ctx
		for v := range steps {
			Progress(ctx, v)
		}
		return "there", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// The caller sees each value that the handler reports slowly enough, in order, and then the result.
func TestProgress(t *testing.T) {
	t.Parallel()
	for name, url := range map[string]string{"ours": startBroker(t).URL(), "Mosquitto": "tcp://" + startMosquitto(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps := make(chan any)
			server := connect(t, Options{URL: url, ID: "nav"})
			last := stepwise(t, server, steps)
			c := connect(t, Options{URL: url, ID: "web"})
			seen := make(chan string, 100)
			var result string
			done := make(chan error, 1)
			go func() {
				done <- c.Call(testContext(t), "nav", "walk", nil, &result, WithProgress(func(v json.RawMessage) { seen <- string(v) }))
			}()
			values := []any{0.25, map[string]any{"metres": 3}, "nearly", nil, 1}
			for i, want := range []string{"0.25", `{"metres":3}`, `"nearly"`, "null", "1"} {
				steps <- values[i]
				if got := <-seen; got != want {
					t.Errorf("%s, want %s", got, want)
				}
			}
			close(steps)
			if err := <-done; err != nil || result != "there" {
				t.Error(result, err)
			}
			Progress(*last, "too late")
			Progress(t.Context(), "nobody's")
			Progress(*last, func() {})
			if err := c.Call(testContext(t), "nav", "walk", nil, nil); err != nil { // whatever was sent is here now
				t.Error(err)
			}
			if len(seen) > 0 {
				t.Errorf("after the end: %s", <-seen)
			}
		})
	}
}

// What is on the wire: events of the caller's correlation id on its response topic, at most one each 100 ms and none behind the
// response, if the caller asked; else nothing. Seen failing without the timer (a thousand events) and without close.
func TestProgressOnTheWire(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav"})
	release := make(chan struct{}, 1)
	if _, err := server.ServeCommands(testContext(t), "nav", nil, func(ctx context.Context, r *Request) (any, error) {
		for i := range 1000 {
			Progress(ctx, i)
		}
		if r.Command == "wait" {
			<-release
			Progress(ctx, "end") // waits its turn when the handler returns, and is dropped
		}
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	k := newCollector()
	watcher := connect(t, Options{URL: b.URL()})
	subscribe(t, watcher, "responses/+", k.handle)
	c := connect(t, Options{URL: b.URL(), ID: "web"})
	if err := c.Call(testContext(t), "nav", "x", nil, nil); err != nil {
		t.Fatal(err)
	}
	k.wait(t, 1)
	began := time.Now()
	for range 2 { // the second takes long enough for what the first must not send any more
		var seen []string
		err := c.Call(testContext(t), "nav", "wait", nil, nil, WithProgress(func(v json.RawMessage) {
			if seen = append(seen, string(v)); len(seen) == 2 {
				release <- struct{}{}
			}
		}))
		if err != nil || len(seen) < 2 || seen[0] != "0" || seen[1] != "999" {
			t.Fatalf("%v %q", err, seen)
		}
	}
	took := time.Since(began)
	k.settle(t, watcher)
	first := k.all()[1].Message.Metadata.CorrelationID
	var events []*Delivery
	var response *Delivery
	for _, d := range k.all()[1:] {
		if d.Message.Metadata.CorrelationID != first {
			continue
		}
		if d.Message.Metadata.Type == message.TypeResponse {
			response = d
		} else {
			events = append(events, d)
		}
	}
	if most := 2 + int(took/progressGap); len(events) > most {
		t.Errorf("%d events in %v", len(events), took)
	}
	for _, d := range events {
		e, err := message.Payload[message.Event](d.Message)
		m := d.Message.Metadata
		if err != nil || d.Topic != "responses/web" || d.QoS != 1 || d.Retained || e.EventType != "progress" || m.CorrelationID != response.Message.Metadata.CorrelationID ||
			string(d.CorrelationData) != m.CorrelationID || m.Timestamp > response.Message.Metadata.Timestamp {
			t.Errorf("%v %+v %s", err, d, d.Message.Payload)
		}
	}
	if i := slices.IndexFunc(k.all(), func(d *Delivery) bool { return d.Message.Metadata.Type == message.TypeEvent }); i == 0 {
		t.Error("a caller that did not ask gets events")
	}
}

// Over MQTT 3.1.1 nobody can ask for progress, and nothing breaks.
func TestProgressOver311(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		o.ID = "web"
		c := connect(t, o)
		server := connect(t, Options{URL: b.URL(), ID: "nav"})
		steps := make(chan any, 1)
		steps <- 1
		close(steps)
		stepwise(t, server, steps)
		n := 0
		var result string
		err := c.Call(testContext(t), "nav", "walk", nil, &result, WithProgress(func(json.RawMessage) { n++ }))
		if v5 := c.Stats().Version == 5; err != nil || result != "there" || n > 0 && !v5 {
			t.Error(err, result, n)
		}
	})
}

// A second answer to progress: the latest value makes room for nobody who waits, and strange events are ignored.
func TestProgressIsConflated(t *testing.T) {
	t.Parallel()
	k := &call{progress: make(chan json.RawMessage, 1)}
	for i := range 10 {
		m, err := message.NewEvent("nav", message.Event{EventType: eventProgress, EventData: []byte(fmt.Sprintf(`{"progress":%d}`, i))})
		if err != nil {
			t.Fatal(err)
		}
		k.progressed(&Delivery{Message: m})
	}
	for _, e := range []message.Event{{EventType: "mowed", EventData: []byte(`{"progress":1}`)}, {EventType: eventProgress}, {EventType: eventProgress, EventData: []byte(`{"progress":1,"progress":{}`)}} {
		if m, err := message.NewEvent("nav", e); err == nil {
			k.progressed(&Delivery{Message: m})
		}
	}
	if v := string(<-k.progress); v != "9" {
		t.Error(v)
	}
}
