package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/fleet"
	"github.com/lawnberry/lawnberry/internal/natstest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/safety"
)

// A mower is a bus with a hub of the emergency stop and a client that says something.
type mower struct {
	t   testing.TB
	url string
	c   *client.Client
	dir string

	operators string // file of their keys, for an uplink in a process of its own; "" knows none

	mu   sync.Mutex // guards n
	n    int
	said map[string][]string // message ids, by topic
}

func newMower(t testing.TB) *mower {
	t.Helper()
	ctx := testContext(t)
	m := &mower{t: t, dir: t.TempDir(), said: map[string][]string{}}
	b, err := broker.Start(ctx, broker.Options{Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}, Dir: t.TempDir()})
	check(t, err)
	later(t, b.Stop)
	m.url = b.URL()
	hub, err := safety.StartHub(ctx, safety.HubOptions{Client: client.Options{URL: m.url}})
	check(t, err)
	later(t, hub.Stop)
	m.c, err = client.Connect(ctx, client.Options{URL: m.url, ID: "speaker", CleanStart: true})
	check(t, err)
	later(t, m.c.Close)
	return m
}

// up starts an uplink of the mower; adjust, if it is not nil, changes its options.
func (m *mower) up(url string, adjust func(*Options)) *Uplink {
	m.t.Helper()
	o := Options{
		Mower: "m-1", Version: "1.2.3", Client: client.Options{URL: m.url}, Engine: fleet.Engine{URL: url}, Dir: m.dir, BatchInterval: 200 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(m.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	o.Up = fleet.DefaultFilters()
	for i := range o.Up {
		o.Up[i].Rate = 0
	}
	if adjust != nil {
		adjust(&o)
	}
	u, err := Start(testContext(m.t), o)
	check(m.t, err)
	later(m.t, u.Stop)
	return u
}

// say publishes an event, and returns its id.
func (m *mower) say(topic string, opts ...client.PublishOption) string {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	x, err := message.NewEvent("speaker", message.Event{EventType: "said", EventData: json.RawMessage(fmt.Sprintf(`{"n":%d}`, m.n))})
	check(m.t, err)
	check(m.t, m.c.Publish(testContext(m.t), topic, x, append(opts, client.Unlimited())...))
	m.said[topic] = append(m.said[topic], x.Metadata.ID)
	return x.Metadata.ID
}

// A control is an operator's side: what the engine has.
type control struct {
	t  testing.TB
	nc *nats.Conn
	js jetstream.JetStream
}

func newControl(t testing.TB, s *natstest.Servers, replicas int) *control {
	t.Helper()
	nc, err := nats.Connect(s.URLs(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	check(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	check(t, err)
	c := &control{t, nc, js}
	eventually(t, "the streams are made", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_, err := fleet.Setup(ctx, js, fleet.Limits{Mowers: 1}, replicas)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	return c
}

// A heard is a message of the history.
type heard struct {
	Metadata struct {
		ID string `json:"message_id"`
	} `json:"metadata"`
}

// history returns the message ids that a stream has, by topic, in their order. Batches are unpacked.
func (c *control) history(stream string) map[string][]string {
	c.t.Helper()
	got, err := c.readHistory(stream)
	check(c.t, err)
	return got
}

func (c *control) readHistory(stream string) (map[string][]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	s, err := c.js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	got := map[string][]string{}
	last := s.CachedInfo().State.LastSeq
	if last == 0 {
		return got, nil
	}
	for sequence := uint64(1); sequence <= last; sequence++ {
		m, err := s.GetMsg(ctx, sequence)
		if err != nil {
			return nil, err
		}
		_, topic, err := fleet.ParseHistorySubject(m.Subject)
		if err != nil {
			return nil, err
		}
		ids, err := idsOf(m.Header, m.Data)
		if err != nil {
			return nil, err
		}
		got[topic] = append(got[topic], ids...)
	}
	return got, nil
}

func idsOf(h nats.Header, body []byte) ([]string, error) {
	if h.Get(fleet.HeaderEncoding) == "gzip" {
		r, err := gzip.NewReader(strings.NewReader(string(body)))
		if err != nil {
			return nil, err
		}
		if body, err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	if h.Get(fleet.HeaderOrigin) != "m-1" || h.Get(fleet.HeaderHops) != "1" {
		return nil, errors.New("it does not say where it comes from")
	}
	if h.Get(fleet.HeaderBatch) == "" {
		var one heard
		err := json.Unmarshal(body, &one)
		return []string{one.Metadata.ID}, err
	}
	var ids []string
	for line := range strings.Lines(string(body)) {
		var one struct {
			T float64 `json:"t"`
			M heard   `json:"m"`
		}
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			return nil, err
		}
		if one.T < 1e9 {
			return nil, fmt.Errorf("a line of a batch arrived at %v", one.T)
		}
		ids = append(ids, one.M.Metadata.ID)
	}
	if fmt.Sprint(len(ids)) != h.Get(fleet.HeaderBatch) {
		return nil, fmt.Errorf("a batch of %d says %s", len(ids), h.Get(fleet.HeaderBatch))
	}
	return ids, nil
}

// latest returns the message id of the latest value of a topic, "" without one.
func (c *control) latest(topic string) string {
	kv, err := c.js.KeyValue(testContext(c.t), fleet.BucketState)
	check(c.t, err)
	e, err := kv.Get(testContext(c.t), fleet.StateKey("m-1", topic))
	if err != nil {
		return ""
	}
	var h heard
	check(c.t, json.Unmarshal(e.Value(), &h))
	return h.Metadata.ID
}

// presence returns what the mower says of its uplink; ok is false when it says nothing.
func (c *control) presence() (p fleet.Presence, ok bool) {
	kv, err := c.js.KeyValue(testContext(c.t), fleet.BucketPresence)
	check(c.t, err)
	e, err := kv.Get(testContext(c.t), "m-1")
	if err != nil {
		return p, false
	}
	check(c.t, json.Unmarshal(e.Value(), &p))
	return p, true
}

// sameHistory waits until the streams have what was said, each message once and in its order.
func (c *control) sameHistory(m *mower, streams ...string) {
	c.t.Helper()
	var got map[string][]string
	var trouble error
	same := func() bool {
		got = map[string][]string{}
		for _, s := range streams {
			part, err := c.readHistory(s)
			if trouble = err; err != nil {
				trouble = fmt.Errorf("stream %s: %w", s, err)
				return false
			}
			for topic, ids := range part {
				got[topic] = ids
			}
		}
		for topic, ids := range m.said {
			if len(got[topic]) < len(ids) {
				return false
			}
		}
		return true
	}
	for end := time.Now().Add(90 * time.Second); !same(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			break
		}
	}
	if trouble != nil {
		c.t.Error(trouble)
	}
	for topic, ids := range m.said {
		if !slices.Equal(got[topic], ids) {
			c.t.Errorf("%s: the fleet has %d messages, %d were said; want the same in the same order\n%s", topic, len(got[topic]), len(ids), difference(got[topic], ids))
		}
	}
}

func difference(got, want []string) string {
	count := map[string]int{}
	for _, id := range got {
		count[id]++
	}
	missing, twice := 0, 0
	for _, id := range want {
		if count[id] == 0 {
			missing++
		}
		if count[id] > 1 {
			twice++
		}
	}
	return fmt.Sprintf("%d are missing, %d are there more than once", missing, twice)
}
