package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A source is a scripted broker that sends what a test says.
type source struct {
	mu   sync.Mutex
	link *script
}

func (x *source) play(_ int, s *script) {
	s.accept(packet.Connack{})
	x.mu.Lock()
	x.link = s
	x.mu.Unlock()
	for p := s.next(); p != nil; p = s.next() {
		switch p := p.(type) {
		case *packet.Subscribe:
			s.send(&packet.Suback{ID: p.ID, Codes: []packet.Code{0}})
		case *packet.Unsubscribe:
			s.send(&packet.Unsuback{ID: p.ID, Codes: []packet.Code{0}})
		}
	}
}

func (x *source) say(topic string, retained bool) {
	x.mu.Lock()
	link := x.link
	x.mu.Unlock()
	link.send(&packet.Publish{Topic: []byte("lawnberry/" + topic), Payload: []byte("x"), Retain: retained})
	synctest.Wait()
}

// A topic is stale when nothing has come for the deadline, and fresh with the next message: by the time of receipt, each topic
// on its own, whatever the handler does.
func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		x := &source{}
		c, err := Connect(context.Background(), Options{Dial: scripted(t, x.play)})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		var mu sync.Mutex
		var news []string
		note := func(topic string, stale bool, age time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			news = append(news, fmt.Sprintf("%s %v after %v at %v", topic, map[bool]string{true: "stale", false: "fresh"}[stale], age, time.Since(began)))
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(news, want) {
				t.Errorf("\n got %s\nwant %s", strings.Join(news, "\n     "), strings.Join(want, "\n     "))
			}
			news = nil
		}
		slow := func(ctx context.Context, _ *Delivery) { <-ctx.Done() } // for ever
		one, err := c.Subscribe(context.Background(), "sensors/gps/data", slow, WithDeadline(200*time.Millisecond, note))
		if err != nil {
			t.Fatal(err)
		}
		for range 10 { // in time, though the handler lags far behind
			time.Sleep(150 * time.Millisecond)
			x.say("sensors/gps/data", false)
		}
		expect()
		time.Sleep(time.Second)
		expect("sensors/gps/data stale after 200ms at 1.7s")
		x.say("sensors/gps/data", true) // of any age
		x.say("other", false)
		expect()
		x.say("sensors/gps/data", false)
		expect("sensors/gps/data fresh after 1s at 2.5s")
		if err := one.Unsubscribe(context.Background()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		expect()

		// One that never comes is stale too. With wildcards each topic counts from its first message.
		began = time.Now()
		for _, f := range []string{"sensors/imu/data", "power/+"} {
			if _, err := c.Subscribe(context.Background(), f, slow, WithDeadline(time.Second, note)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(500 * time.Millisecond)
		x.say("power/battery", false)
		time.Sleep(100 * time.Millisecond)
		x.say("power/solar", true)
		time.Sleep(2 * time.Second)
		expect("sensors/imu/data stale after 1s at 1s", "power/battery stale after 1s at 1.5s", "power/solar stale after 1s at 1.6s")

		// Without a connection everything is stale in time.
		began = time.Now()
		x.say("power/battery", false)
		x.mu.Lock()
		x.link.conn.Close()
		x.mu.Unlock()
		time.Sleep(1500 * time.Millisecond)
		expect("power/battery fresh after 2.1s at 0s", "power/battery stale after 1s at 1s")
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
}

// A deadline of a thousand topics costs one timer and little time.
func BenchmarkDeadline(b *testing.B) {
	x := newFreshness(time.Hour, func(string, bool, time.Duration) {})
	topics := make([]string, 1000)
	for i := range topics {
		topics[i] = fmt.Sprintf("sensors/%d/data", i)
	}
	now := time.Now()
	i := 0
	for b.Loop() {
		x.seen(topics[i%len(topics)], now, false)
		i++
	}
	x.stop()
}

// The context of a handler with a timeout ends in time; one that runs on is counted, and the figures of all handlers are right.
func TestHandlerTimeout(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	log, lines := logged()
	c := connect(t, Options{URL: b.URL(), Logger: log})
	ended := make(chan error, 10)
	release := make(chan struct{})
	subscribe(t, c, "x", func(ctx context.Context, d *Delivery) {
		switch string(d.Message.Payload) {
		case "slow":
			<-ctx.Done()
			ended <- ctx.Err()
			<-release
		case "panic":
			panic("as told")
		}
	}, WithHandlerTimeout(20*time.Millisecond), WithQueue(Queue{Max: 2, Full: DropOldest}))
	publish(t, c, "x", "quick", WithQoS(1))
	eventually(t, "the quick one", func() bool { return c.Stats().Handlers[0].Handled == 1 })
	publish(t, c, "x", "slow", WithQoS(1))
	if err := <-ended; err != context.DeadlineExceeded {
		t.Errorf("%v", err)
	}
	eventually(t, "the overrun is counted", func() bool { return c.Stats().Overruns == 1 })
	for _, text := range []string{"lost", "panic", "quick"} {
		publish(t, c, "x", text, WithQoS(1))
	}
	eventually(t, "two wait, one is dropped", func() bool {
		h := c.Stats().Handlers[0]
		return h.Queued == 2 && h.Dropped == 1
	})
	close(release)
	eventually(t, "all are handled", func() bool { return c.Stats().Handlers[0].Handled == 4 })
	h := c.Stats().Handlers[0]
	if h.Filter != "x" || h.Panics != 1 || h.Overruns != 1 || h.Queued != 0 || h.Busy < 20*time.Millisecond || h.Longest > h.Busy || h.Longest < 20*time.Millisecond {
		t.Errorf("%+v", h)
	}
	if n := strings.Count(lines(), "handler takes too long"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// Everything reaches a handler of "#" for debugging, once, beside handlers of narrower filters.
func TestEverything(t *testing.T) {
	t.Parallel()
	ours, mosquitto := startBroker(t).URL(), "tcp://"+startMosquitto(t)
	for name, url := range map[string]string{"ours": ours, "mosquitto": mosquitto} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, Options{URL: url})
			all, some := newCollector(), newCollector()
			subscribe(t, c, "#", all.handle)
			subscribe(t, c, "sensors/+/data", some.handle)
			other := connect(t, Options{URL: url})
			for i := range 20 {
				publish(t, other, []string{"sensors/gps/data", "commands/nav", "other/a/b/c"}[i%3], fmt.Sprint(i), WithQoS(byte(i%3)))
			}
			got := all.wait(t, 20)
			slices.SortFunc(got, func(a, b string) int { return len(a) - len(b) + 2*strings.Compare(a, b)/2 })
			if len(got) != 20 || len(slices.Compact(got)) != 20 {
				t.Errorf("%q", got)
			}
			if got := some.wait(t, 7); len(got) != 7 {
				t.Errorf("%q", got)
			}
		})
	}
}
