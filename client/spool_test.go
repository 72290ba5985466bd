package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/topic"
)

// crash ends c as SIGKILL ends a process: nothing is sent or written any more. Its directory can be opened again.
func crash(t *testing.T, c *Client) {
	t.Helper()
	c.mu.Lock()
	if c.link != nil {
		c.link.close()
	}
	c.refusing = true
	changes := c.spool.changes
	c.spool.changes, c.spool.closed = nil, true
	c.mu.Unlock()
	_ = changes // lost
	c.startClosing()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.shutDown(ended, nil)
}

// away is a client that has been connected and is not any more, and stays so.
func away(t *testing.T, b brokertest.Broker, o Options) *Client {
	t.Helper()
	p, url := startProxy(t, b)
	o.URL = url
	c := connect(t, o)
	p.Refuse(true)
	p.Cut(true)
	eventually(t, "the connection is lost", func() bool { return !c.Connected() })
	return c
}

// TestSpool has a process accept messages of every kind while there is no connection, and die. The next process with its
// directory sends them: in their order, with their properties, safety first, without those that have expired.
//
// Seen failing when messages are accepted before they are committed.
func TestSpool(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := filepath.Join(t.TempDir(), "worker")
	o := quick(Options{ID: "worker", Dir: dir})
	c := away(t, b, o)
	ctx := testContext(t)
	var want []string
	say := func(topic, text string, opts ...PublishOption) {
		t.Helper()
		if err := c.Publish(ctx, topic, raw(text), opts...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		for qos := range byte(3) {
			text := fmt.Sprintf("%d.%d", qos, i)
			say("commands/nav", text, WithQoS(qos))
			want = append(want, text)
		}
	}
	say("safety/emergency_stop", "stop")
	say("commands/nav", "short-lived", WithExpiry(time.Millisecond))
	say("commands/nav", "volatile", Volatile())
	m, err := message.NewCommand("worker", message.Command{Target: "nav", Command: "go"})
	if err != nil {
		t.Fatal(err)
	}
	m.Metadata.Priority = message.Critical
	if err := c.Publish(ctx, "power/battery", m, WithRetain(true), WithExpiry(time.Hour), WithUser("who", "me"), WithResponse("responses/x", []byte("c"))); err != nil {
		t.Fatal(err)
	}
	if n := c.Stats().Outbox; n != len(want)+4 {
		t.Errorf("%d wait, want %d", n, len(want)+4)
	}
	crash(t, c)

	sub := connect(t, Options{URL: b.URL()})
	var mu sync.Mutex
	var got []string
	var first string
	var battery *Delivery
	for _, f := range []string{"commands/nav", "safety/#", "power/#"} {
		if _, err := sub.Subscribe(ctx, f, func(_ context.Context, d *Delivery) {
			mu.Lock()
			defer mu.Unlock()
			if first == "" {
				first = d.Topic
			}
			switch d.Topic {
			case "commands/nav":
				got = append(got, string(d.Message.Payload))
			case "power/battery":
				battery = d
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	o.URL = b.URL()
	next := connect(t, o)
	eventually(t, "all are sent", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(got) >= len(want) && battery != nil && next.Stats().InFlight == 0
	})
	mu.Lock()
	defer mu.Unlock()
	for qos := range 3 {
		of := func(all []string) []string {
			return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasPrefix(s, fmt.Sprint(qos, ".")) })
		}
		if !slices.Equal(of(got), of(want)) {
			t.Errorf("QoS %d: %q, want %q", qos, of(got), of(want))
		}
	}
	if slices.Contains(got, "short-lived") || slices.Contains(got, "volatile") || len(got) != len(want) {
		t.Errorf("%q", got)
	}
	if s := next.Stats(); s.Expired != 1 || s.Outbox != 0 {
		t.Errorf("%d expired, %d wait", s.Expired, s.Outbox)
	}
	d := battery
	if d.QoS != 2 || d.Message.Metadata.ID != m.Metadata.ID || d.Message.Metadata.Priority != message.Critical || d.ResponseTopic != "lawnberry/responses/x" ||
		string(d.CorrelationData) != "c" || d.Expiry <= 0 || d.Expiry > time.Hour || d.ContentType != "application/json" {
		t.Errorf("%+v", d)
	}
	if who, _ := d.user("who"); who != "me" {
		t.Errorf("user properties %v", d.User)
	}
	late := connect(t, Options{URL: b.URL()})
	k := newCollector()
	subscribe(t, late, "power/battery", k.handle)
	k.wait(t, 1)
	eventually(t, "the directory is empty", func() bool { return stored(t, next) == 0 })
}

// stored counts what is in c's directory.
func stored(t *testing.T, c *Client) (n int) {
	t.Helper()
	if err := c.disk.Scan([]byte{outboxKey}, func([]byte, []byte) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSpoolSafetyFirst is in the order of sending: whatever was accepted before, safety goes first.
func TestSpoolSafetyFirst(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := t.TempDir()
	c := away(t, b, quick(Options{ID: "worker", Dir: dir}))
	for i := range 100 {
		publish(t, c, "commands/nav", fmt.Sprint(i), WithQoS(2))
	}
	publish(t, c, "safety/emergency_stop", "stop")
	crash(t, c)
	var topics []string
	done := make(chan struct{})
	dial := scripted(t, func(_ int, s *script) {
		s.accept(packet.Connack{})
		for p := s.next(); p != nil; p = s.next() {
			switch p := p.(type) {
			case *packet.Publish:
				topics = append(topics, string(p.Topic))
				s.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
			case *packet.Ack:
				s.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
				if len(topics) == 101 {
					close(done)
					s.drain()
					return
				}
			case *packet.Subscribe:
				s.send(&packet.Suback{ID: p.ID, Codes: []packet.Code{0}})
			}
		}
	})
	connect(t, Options{ID: "worker", Dir: dir, Dial: dial})
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("only %d came", len(topics))
	}
	if topics[0] != "lawnberry/safety/emergency_stop" {
		t.Errorf("%s came first", topics[0])
	}
}

// TestSpoolWhatACutLeaves writes what was in flight when the connection was lost, with its identifiers: the next
// process goes on with the same ones. So the broker, which has got some of it, does not take it for new.
//
// Seen failing when identifiers, or PUBRECs, are not stored.
func TestSpoolWhatACutLeaves(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const n = 10
	ids := make(map[uint16]string)
	dial := scripted(t, func(link int, s *script) {
		switch link {
		case 0: // PUBREC for the even ones, and no PUBCOMP
			s.accept(packet.Connack{})
			for released := 0; len(ids) < n || released < n/2; {
				switch p := s.next().(type) {
				case *packet.Publish:
					ids[p.ID] = string(p.Payload)
					if len(ids)%2 == 0 {
						s.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
					}
				case *packet.Ack:
					released++
				default:
					return
				}
			}
			s.conn.Close()
		default:
			s.conn.Close()
		}
	})
	c := connect(t, quick(Options{ID: "worker", Dir: dir, Dial: dial}))
	receipts := make([]*Receipt, n)
	for i := range receipts {
		receipts[i] = c.PublishAsync("commands/nav", raw(fmt.Sprint(i)), WithQoS(2))
	}
	for _, r := range receipts {
		if err := r.Wait(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	crash(t, c)

	again := make(map[uint16]string)
	released := 0
	done := make(chan struct{})
	dial = scripted(t, func(_ int, s *script) {
		s.accept(packet.Connack{SessionPresent: true})
		for len(again) < n/2 || released < n {
			switch p := s.next().(type) {
			case *packet.Publish:
				if !p.Dup {
					t.Errorf("%s comes without DUP", p.Payload)
				}
				again[p.ID] = string(p.Payload)
				s.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
			case *packet.Ack:
				if ids[p.ID] != "" {
					released++
				}
				s.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
			case *packet.Subscribe:
				s.send(&packet.Suback{ID: p.ID, Codes: []packet.Code{0}})
			case nil:
				return
			}
		}
		close(done)
		s.drain()
	})
	next := connect(t, Options{ID: "worker", Dir: dir, Dial: dial})
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("PUBLISH again: %v; %d PUBRELs", again, released)
	}
	for id, text := range again {
		if ids[id] != text {
			t.Errorf("identifier %d is %q now, and was %q", id, text, ids[id])
		}
	}
	eventually(t, "the directory is empty", func() bool { return stored(t, next) == 0 })
}

// TestSpoolFull shows what each class does when it is full, on the disk too: what was displaced does not come back.
func TestSpoolFull(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := t.TempDir()
	o := quick(Options{ID: "worker", Dir: dir, Outbox: Queue{Max: 3}})
	c := away(t, b, o)
	ctx := testContext(t)
	for i := range 5 {
		publish(t, c, "sensors/gps/data", fmt.Sprint(i))
		publish(t, c, "safety/hazards", fmt.Sprint(i))
		for _, name := range []string{"power/battery", "power/solar"} {
			publish(t, c, name, fmt.Sprint(i))
		}
		if err := c.Publish(ctx, "commands/nav", raw(fmt.Sprint(i))); i >= 3 != errors.Is(err, ErrFull) {
			t.Errorf("command %d: %v", i, err)
		}
	}
	if s := c.Stats(); s.OutboxByClass[topic.Safety] != 5 || s.OutboxByClass[topic.Sensor] != 3 || s.Dropped != 2+7 {
		t.Errorf("%+v", s)
	}
	crash(t, c)
	sub := connect(t, Options{URL: b.URL()})
	got := make(map[string][]string)
	var mu sync.Mutex
	if _, err := sub.Subscribe(ctx, "#", func(_ context.Context, d *Delivery) {
		mu.Lock()
		defer mu.Unlock()
		got[d.Topic] = append(got[d.Topic], string(d.Message.Payload))
	}); err != nil {
		t.Fatal(err)
	}
	o.URL = b.URL()
	connect(t, o)
	for name, want := range map[string][]string{
		"sensors/gps/data": {"2", "3", "4"}, "commands/nav": {"0", "1", "2"}, "safety/hazards": {"0", "1", "2", "3", "4"},
	} {
		eventually(t, name, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return slices.Equal(got[name], want)
		})
	}
	eventually(t, "the latest states", func() bool {
		mu.Lock()
		defer mu.Unlock()
		last := func(name string) string {
			if n := len(got[name]); n > 0 {
				return got[name][n-1]
			}
			return ""
		}
		return last("power/battery") == "4" && last("power/solar") == "4" && len(got["power/battery"])+len(got["power/solar"]) == 3
	})
}

// A directory that another client has is refused, naming the process.
func TestSpoolIsOnesOwn(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := t.TempDir()
	connect(t, Options{URL: b.URL(), ID: "one", Dir: dir})
	_, err := Connect(testContext(t), Options{URL: b.URL(), ID: "two", Dir: dir})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by process %d", os.Getpid())) {
		t.Errorf("%v", err)
	}
}

// Close leaves in the directory what it could not send, and that is no loss.
func TestCloseLeavesTheSpool(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	dir := t.TempDir()
	o := quick(Options{ID: "worker", Dir: dir})
	c := away(t, b, o)
	publish(t, c, "commands/nav", "later")
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
	k := newCollector()
	subscribe(t, connect(t, Options{URL: b.URL()}), "commands/nav", k.handle)
	o.URL = b.URL()
	connect(t, o)
	if got := k.wait(t, 1); got[0] != "later" {
		t.Errorf("%q", got)
	}
}

// FuzzRecord reads records that may be anything. What can be read is written as it was.
func FuzzRecord(f *testing.F) {
	c := &Client{}
	p := publication{topic: "lawnberry/commands/nav", props: []byte{1}, body: []byte("go"), deadline: time.Unix(1, 2), class: topic.Command}
	p.qos, p.retain = 2, true
	f.Add(p.appendRecord(nil))
	f.Add([]byte{})
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := c.readRecord(b)
		if err != nil {
			return
		}
		again, err := c.readRecord(p.appendRecord(nil))
		if err != nil || again.topic != p.topic || again.qos != p.qos || again.retain != p.retain || again.class != p.class ||
			!again.deadline.Equal(p.deadline) || string(again.body) != string(p.body) || string(again.props) != string(p.props) {
			t.Errorf("%+v became %+v: %v", p, again, err)
		}
	})
}

// While the disk fails nothing is accepted that would be lost with the process, but for safety: that goes out, and its
// publisher is told that it was not stored.
func TestSpoolWhileTheDiskFails(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	p, url := startProxy(t, b)
	c := connect(t, quick(Options{URL: url, ID: "worker", Dir: t.TempDir()}))
	k := newCollector()
	sub := connect(t, Options{URL: b.URL()})
	subscribe(t, sub, "#", k.handle)
	p.Refuse(true)
	p.Cut(true)
	eventually(t, "the connection is lost", func() bool { return !c.Connected() })
	if err := c.disk.Close(); err != nil { // from now on every commit fails
		t.Fatal(err)
	}
	ctx := testContext(t)
	for _, name := range []string{"commands/nav", "sensors/gps/data", "power/battery", "system/events/x"} {
		if err := c.Publish(ctx, name, raw("lost")); !errors.Is(err, ErrNotStored) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := c.PublishAsync("safety/emergency_stop", raw("stop"))
	if err := r.Wait(ctx); !errors.Is(err, ErrNotStored) {
		t.Errorf("safety: %v", err)
	}
	if err := c.Publish(ctx, "commands/nav", raw("volatile"), Volatile()); err != nil {
		t.Error(err)
	}
	p.Refuse(false)
	if got := k.wait(t, 2); !slices.Equal(got, []string{"stop", "volatile"}) {
		t.Errorf("%q", got)
	}
	<-r.Delivered()
	if err := r.Err(); err != nil {
		t.Errorf("after the delivery: %v", err)
	}
	if n := c.Stats().Unstored; n < 5 {
		t.Errorf("%d were counted", n)
	}
}
