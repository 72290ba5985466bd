package client

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// modes are the two ways to know whom a message is for.
func modes(t *testing.T, f func(t *testing.T, b brokertest.Broker, o Options)) {
	t.Run("MQTT 5", func(t *testing.T) {
		b := startBroker(t)
		f(t, b, Options{URL: b.URL()})
	})
	t.Run("MQTT 3.1.1", func(t *testing.T) {
		b := startBroker(t)
		f(t, b, Options{Dial: onlyV311(b, refusals["return code 1 of 3.1.1"])})
	})
}

func TestDeliveryCarriesEverything(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL(), ID: "nav"})
	k := newCollector()
	subscribe(t, c, "#", k.handle)
	m, err := message.NewEvent("", message.Event{EventType: "mowed", EventData: []byte(`{"area":3}`)})
	if err != nil {
		m, err = message.NewEvent("x", message.Event{EventType: "mowed", EventData: []byte(`{"area":3}`)})
		m.Metadata.Sender = ""
	}
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := c.Publish(testContext(t), "system/events/mowed", m, WithUser("traceparent", "00-1"), WithUser("a", "b"),
		WithResponse("responses/me", []byte{0, 1}), WithExpiry(90*time.Second)); err != nil {
		t.Fatal(err)
	}
	k.wait(t, 1)
	d := k.all()[0]
	if d.Topic != "system/events/mowed" || d.QoS != 1 || d.Retained || d.Dup || d.ContentType != contentType || d.ResponseTopic != "lawnberry/responses/me" ||
		string(d.CorrelationData) != "\x00\x01" || fmt.Sprint(d.User) != "[[traceparent 00-1] [a b]]" {
		t.Errorf("%+v", d)
	}
	if d.Expiry < 85*time.Second || d.Expiry > 91*time.Second || d.Received.Before(begin) {
		t.Errorf("expiry %v, received %v", d.Expiry, d.Received)
	}
	if d.Message.Metadata.Sender != "nav" || d.Message.Metadata.ID != m.Metadata.ID || d.Message.Metadata.ExpiresAt == 0 {
		t.Errorf("%+v", d.Message.Metadata)
	}
	if e, err := message.Payload[message.Event](d.Message); err != nil || e.EventType != "mowed" {
		t.Error(e, err)
	}
	if s := c.Stats(); s.Sent != 1 || s.Received != 1 || s.RoundTrip.Count != 1 || s.OneWay.Count != 1 || len(s.Handlers) != 1 || s.OneWay.Max <= 0 {
		t.Errorf("%+v", s)
	}
}

// Retained messages and Wills say nothing about latency: they were sent at some time before.
func TestOneWayIsOfWhatIsSentNow(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL(), ID: "x"})
	say := func(age time.Duration, opts ...PublishOption) {
		t.Helper()
		m, err := message.NewStatus("x", message.Status{Status: "healthy"})
		if err != nil {
			t.Fatal(err)
		}
		m.Metadata.Timestamp = message.Seconds(time.Now().Add(-age))
		if err := c.Publish(testContext(t), "sensors/gps/status", m, opts...); err != nil {
			t.Fatal(err)
		}
	}
	say(100 * time.Second)
	late := connect(t, Options{URL: b.URL(), ID: "late"})
	k := newCollector()
	subscribe(t, late, "sensors/#", k.handle)
	k.wait(t, 1)
	say(100*time.Second, WithUser(willKey, "1"))
	k.wait(t, 2)
	if s := late.Stats(); s.Received != 2 || s.OneWay.Count != 0 {
		t.Fatalf("%d received, one way: %+v", s.Received, s.OneWay)
	}
	say(0)
	k.wait(t, 3)
	if s := late.Stats(); s.OneWay.Count != 1 || s.OneWay.Max > 50*time.Second {
		t.Errorf("one way: %+v", s.OneWay)
	}
}

// QoS and retain flag come from the registry, the priority, and the options.
func TestQoSAndRetain(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL(), ID: "x"})
	event := func(p message.Priority) message.Message {
		m, err := message.NewEvent("x", message.Event{EventType: "e"})
		if err != nil {
			t.Fatal(err)
		}
		m.Metadata.Priority = p
		return m
	}
	tests := []struct {
		topic  string
		m      message.Message
		opts   []PublishOption
		qos    byte
		retain bool
	}{
		{"system/events/e", event(message.Normal), nil, 1, false},
		{"lawnberry/system/events/e", event(message.Critical), nil, 2, false},
		{"vision/frame_analysis", event(message.Normal), nil, 0, false},
		{"vision/frame_analysis", event(message.Normal), []PublishOption{WithQoS(1)}, 1, false},
		{"vision/frame_analysis", event(message.Critical), []PublishOption{WithQoS(1)}, 2, false},
		{"navigation/status", event(message.Normal), nil, 1, true},
		{"navigation/status", event(message.Normal), []PublishOption{WithRetain(false)}, 1, false},
		{"own/topic", event(message.Low), nil, 0, false},
		{"own/topic", event(message.High), nil, 1, false},
		{"own/topic", event(message.Critical), nil, 2, false},
		{"own/topic", raw("x"), []PublishOption{WithRetain(true)}, 1, true},
		{topic.Absolute("homeassistant/sensor/config"), raw("x"), nil, 1, false},
	}
	for _, tt := range tests {
		k := newCollector()
		live := subscribe(t, c, tt.topic, k.handle)
		if err := c.Publish(testContext(t), tt.topic, tt.m, tt.opts...); err != nil {
			t.Fatal(err)
		}
		k.wait(t, 1)
		_ = live.Unsubscribe(testContext(t))
		if d := k.all()[0]; d.QoS != tt.qos || d.Retained {
			t.Errorf("%s: %+v, want QoS %d", tt.topic, d, tt.qos)
		}
		late := newCollector()
		s := subscribe(t, c, tt.topic, late.handle)
		got := late.settle(t, c)
		if (len(got) == 1) != tt.retain {
			t.Errorf("%s: retained %q, want %v", tt.topic, got, tt.retain)
		}
		_ = s.Unsubscribe(testContext(t))
		if tt.retain { // an empty message clears it
			if err := c.Publish(testContext(t), tt.topic, message.NewRaw(nil), WithRetain(true)); err != nil {
				t.Fatal(err)
			}
			late := newCollector()
			s := subscribe(t, c, tt.topic, late.handle)
			if got := late.settle(t, c); len(got) != 0 {
				t.Errorf("%s: still retained: %q", tt.topic, got)
			}
			_ = s.Unsubscribe(testContext(t))
		}
	}
}

func TestCompression(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL(), ID: "x", Uncompressed: []string{"plain/#"}})
	plain := connect(t, Options{URL: b.URL(), ID: "y", Limits: message.Limits{CompressAbove: -1}})
	k := newCollector()
	subscribe(t, c, "#", k.handle)
	subscribe(t, c, topic.Absolute("out/#"), k.handle)
	m, err := message.NewEvent("x", message.Event{EventType: "e", EventData: []byte(`"` + strings.Repeat("abc", 1000) + `"`)})
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		c          *Client
		topic      string
		compressed bool
	}{{c, "a", true}, {c, "plain/a", false}, {c, topic.Absolute("out/a"), false}, {plain, "a", false}} {
		if err := tt.c.Publish(testContext(t), tt.topic, m); err != nil {
			t.Fatal(err)
		}
		k.wait(t, i+1)
		d := k.all()[i]
		if e, ok := d.user(encodingKey); ok != tt.compressed || ok && e != encodingGzip {
			t.Errorf("%s: %v", tt.topic, d.User)
		}
		if string(d.Message.Payload) != string(m.Payload) {
			t.Errorf("%s: payload differs", tt.topic)
		}
	}
}

func TestSubscribeErrors(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	var bad *topic.Error
	for _, filter := range []string{"", "a#", "a/#/b", "a\x00b", "$share/g", "$other/x", "\xff"} {
		if _, err := c.Subscribe(testContext(t), filter, newCollector().handle); !errors.As(err, &bad) {
			t.Errorf("%q: %v", filter, err)
		}
	}
	if _, err := c.Subscribe(testContext(t), "$share/g/x", newCollector().handle, WithNoLocal()); err == nil {
		t.Error("no local on a shared subscription was accepted")
	}
	if _, err := c.Subscribe(testContext(t), "x", newCollector().handle, WithMaxQoS(3)); err == nil {
		t.Error("QoS 3 was accepted")
	}
	if n := len(c.Stats().Handlers); n != 0 {
		t.Errorf("%d handlers are left", n)
	}
}

func TestPublishErrors(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL(), ID: "x"})
	good, err := message.NewEvent("x", message.Event{EventType: "e"})
	if err != nil {
		t.Fatal(err)
	}
	broken := good
	broken.Metadata.Priority = 9
	tests := []struct {
		topic  string
		m      message.Message
		opts   []PublishOption
		reason message.Reason
	}{
		{"", good, nil, ReasonTopic},
		{"a/+", good, nil, ReasonTopic},
		{"a/#", good, nil, ReasonTopic},
		{"a\x00", good, nil, ReasonTopic},
		{"$share/g/x", good, nil, ReasonTopic},
		{"$other/x", good, nil, ReasonTopic},
		{strings.Repeat("x", 65530), good, nil, ReasonTopic},
		{"x", broken, nil, message.ReasonOutOfRange},
		{"x", raw(strings.Repeat("x", 10_001)), nil, message.ReasonTooLarge},
		{"x", good, []PublishOption{WithQoS(3)}, ""},
		{"x", good, []PublishOption{WithUser("a\x00", "b")}, ""},
		{"x", good, []PublishOption{WithUser("a", "\xff")}, ""},
		{"x", good, []PublishOption{WithResponse("a/+", nil)}, ""},
		{"x", good, []PublishOption{WithResponse("a", make([]byte, 65536))}, ""},
	}
	for _, tt := range tests {
		before := c.Stats()
		err := c.Publish(testContext(t), tt.topic, tt.m, tt.opts...)
		if err == nil {
			t.Errorf("%.20q: accepted", tt.topic)
			continue
		}
		if tt.reason == message.ReasonTooLarge != errors.Is(err, ErrTooLarge) {
			t.Errorf("%v", err)
		}
		if tt.reason != "" && c.Stats().Rejected[tt.reason] != before.Rejected[tt.reason]+1 {
			t.Errorf("%v is not counted as %s: %v", err, tt.reason, c.Stats().Rejected)
		}
		r := c.PublishAsync(tt.topic, tt.m, tt.opts...)
		if again := r.Wait(testContext(t)); again == nil || again.Error() != err.Error() {
			t.Errorf("asynchronously %v, want %v", again, err)
		}
		<-r.Delivered()
	}
	publish(t, c, "x", strings.Repeat("x", 10_000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Publish(ctx, "x", good); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	_ = c.Close(testContext(t))
	if err := c.Publish(testContext(t), "x", good); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := c.Subscribe(testContext(t), "x", newCollector().handle); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := c.Call(testContext(t), "x", "y", nil, nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := c.Close(testContext(t)); err != nil {
		t.Error(err)
	}
}

func TestNoLocal(t *testing.T) {
	brokertest.Embedded(t, "Mosquitto 2.0 keeps the no-local of a subscription that is made again without")
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		o.ID = "me"
		c := connect(t, o)
		other := connect(t, Options{URL: b.URL(), ID: "other"})
		deaf, all, alone := newCollector(), newCollector(), newCollector()
		subscribe(t, c, "x", deaf.handle, WithNoLocal())
		subscribe(t, c, "x", all.handle)
		subscribe(t, c, "y", alone.handle, WithNoLocal())
		for _, who := range []*Client{c, other} {
			for _, name := range []string{"x", "y"} {
				m, err := message.NewEvent(who.ID(), message.Event{EventType: "e"})
				if err != nil {
					t.Fatal(err)
				}
				if err := who.Publish(testContext(t), name, m); err != nil {
					t.Fatal(err)
				}
			}
		}
		all.wait(t, 2)
		alone.settle(t, c)
		for name, k := range map[string]*collector{"x": deaf, "y": alone} {
			k.wait(t, 1)
			if got := k.all(); len(got) != 1 || got[0].Message.Metadata.Sender != "other" {
				t.Errorf("%s: %d messages", name, len(got))
			}
		}
	})
}

func TestSharedSubscription(t *testing.T) {
	b := startBroker(t)
	publisher := connect(t, Options{URL: b.URL()})
	ks := []*collector{newCollector(), newCollector()}
	for _, k := range ks {
		subscribe(t, connect(t, Options{URL: b.URL()}), "$share/g/jobs/+", k.handle)
	}
	const n = 100
	for i := range n {
		publish(t, publisher, "jobs/a", strconv.Itoa(i), WithQoS(1))
	}
	eventually(t, "all are there", func() bool { return len(ks[0].all())+len(ks[1].all()) >= n })
	seen := make(map[string]bool)
	for _, k := range ks {
		for _, s := range k.texts() {
			if seen[s] {
				t.Errorf("%s came twice", s)
			}
			seen[s] = true
		}
		if len(k.all()) == 0 {
			t.Error("a member got nothing")
		}
	}
}

// 50 goroutines publish at once on three topics each; each goroutine's messages to one topic keep their order.
func TestConcurrentPublishersKeepOrder(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		sender := connect(t, o)
		receiver := connect(t, Options{URL: b.URL()})
		k := newCollector()
		subscribe(t, receiver, "c/#", k.handle)
		const goroutines, each = 50, 40
		var wg sync.WaitGroup
		for g := range goroutines {
			wg.Add(1)
			go func() {
				defer wg.Done()
				var last *Receipt
				for i := range each {
					name := fmt.Sprintf("c/%d", i%3)
					text := fmt.Sprintf("%d %d", g, i)
					q := WithQoS([]byte{1, 2, 1}[i%3])
					if g%2 == 0 {
						last = sender.PublishAsync(name, raw(text), q)
					} else if err := sender.Publish(testContext(t), name, raw(text), q); err != nil {
						t.Error(err)
					}
				}
				if last != nil {
					if err := last.Wait(testContext(t)); err != nil {
						t.Error(err)
					}
				}
			}()
		}
		wg.Wait()
		k.wait(t, goroutines*each)
		latest := make(map[string]int)
		for _, d := range k.all() {
			var g, i int
			if _, err := fmt.Sscan(string(d.Message.Payload), &g, &i); err != nil {
				t.Fatal(err)
			}
			key := fmt.Sprint(g, d.Topic)
			if before, ok := latest[key]; ok && before >= i {
				t.Fatalf("goroutine %d, topic %s: %d after %d", g, d.Topic, i, before)
			}
			latest[key] = i
		}
	})
}

func TestReceiptsInBulk(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL(), Outbox: Queue{Max: 50}})
	k := newCollector()
	subscribe(t, c, "x", k.handle)
	const n = 3000
	receipts := make([]*Receipt, n)
	for i := range receipts { // far more than fit into the outbox: PublishAsync waits for room
		receipts[i] = c.PublishAsync("x", raw(strconv.Itoa(i)), WithQoS(byte(i%2+1)))
	}
	for i, r := range receipts {
		if err := r.Wait(testContext(t)); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	k.wait(t, n)
	if s := c.Stats(); s.Dropped != 0 || s.Failed != 0 || s.InFlight != 0 || s.Outbox != 0 || s.RoundTrip.Count != n {
		t.Errorf("%+v", s)
	}
}

func TestRefusedByBroker(t *testing.T) {
	b := startBrokerWith(t, broker.Options{MaxRetained: 1})
	c := connect(t, Options{Dial: b.Dial})
	publish(t, c, "a", "1", WithRetain(true), WithQoS(1))
	for _, q := range []byte{1, 2} {
		err := c.Publish(testContext(t), "b", raw("2"), WithRetain(true), WithQoS(q))
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Code != 0x97 || refused.Op != "publish" || refused.Topic != "lawnberry/b" {
			t.Errorf("QoS %d: %v", q, err)
		} else if !strings.HasPrefix(err.Error(), "publish lawnberry/b: refused by the broker: Quota exceeded") {
			t.Error(err)
		}
	}
	if s := c.Stats(); s.Failed != 2 || s.InFlight != 0 {
		t.Errorf("%+v", s)
	}
}

// Nothing that a handler does may deadlock.
func TestHandlersMayUseTheClient(t *testing.T) {
	modes(t, func(t *testing.T, b brokertest.Broker, o Options) {
		c := connect(t, o)
		done := make(chan error, 1)
		do := func(f func(ctx context.Context, s *Subscription) error) {
			t.Helper()
			var s atomic.Pointer[Subscription]
			ready := make(chan struct{})
			s.Store(subscribe(t, c, "go", func(ctx context.Context, d *Delivery) {
				<-ready
				done <- f(ctx, s.Load())
			}, WithMaxQoS(2)))
			close(ready)
			publish(t, c, "go", "", WithQoS(2))
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("deadlock")
			}
			_ = s.Load().Unsubscribe(testContext(t))
		}
		for q := range byte(3) {
			do(func(ctx context.Context, _ *Subscription) error { return c.Publish(ctx, "other", raw("x"), WithQoS(q)) })
		}
		do(func(ctx context.Context, _ *Subscription) error {
			s, err := c.Subscribe(ctx, "inner", newCollector().handle)
			if err != nil {
				return err
			}
			return s.Unsubscribe(ctx)
		})
		do(func(ctx context.Context, s *Subscription) error { return s.Unsubscribe(context.WithoutCancel(ctx)) })
		if _, err := c.ServeCommands(testContext(t), "me", nil, func(ctx context.Context, r *Request) (any, error) {
			return nil, c.Publish(ctx, "other", raw("x"), WithQoS(2))
		}); err != nil {
			t.Fatal(err)
		}
		do(func(ctx context.Context, _ *Subscription) error { return c.Call(ctx, "me", "x", nil, nil) })
		do(func(ctx context.Context, _ *Subscription) error {
			begin := time.Now()
			err := c.Close(ctx)
			if took := time.Since(begin); took > closeTimeout/2 {
				t.Errorf("Close took %v", took)
			}
			return err
		})
	})
}
