package service_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/message"
	"github.com/lawnberry/lawnberry/service"
)

// victimURL tells a process of this test binary to be the service that is killed.
const victimURL = "LAWNBERRY_TEST_VICTIM_URL"

// victimLease is its lease; none is the usual one.
const victimLease = "LAWNBERRY_TEST_VICTIM_LEASE"

func TestMain(m *testing.M) {
	if url := os.Getenv(victimURL); url != "" {
		victim(url)
		return
	}
	if url := os.Getenv(programURL); url != "" {
		os.Exit(program(url))
	}
	goleak.VerifyTestMain(m)
}

// victim is a healthy service that lasts until it is killed.
func victim(url string) {
	lease, _ := time.ParseDuration(os.Getenv(victimLease))
	_, err := service.Start(context.Background(), service.Options{
		ID: "victim", Client: client.Options{URL: url}, Heartbeat: lease / 4, HeartbeatTimeout: lease,
	})
	if err != nil {
		panic(err)
	}
	select {}
}

const patience = 20 * time.Second // for what must happen

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newBroker starts a broker on a free port.
func newBroker(t *testing.T) brokertest.Broker {
	t.Helper()
	return brokertest.StartWith(t, broker.Options{
		Listeners: []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}, SysInterval: -1,
	})
}

// start starts a service that lives as long as the test.
func start(t *testing.T, b brokertest.Broker, o service.Options) *service.Service {
	t.Helper()
	svc, err := tryStart(t, b, o)
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

func tryStart(t *testing.T, b brokertest.Broker, o service.Options) (*service.Service, error) {
	t.Helper()
	if o.Client.Dial == nil {
		o.Client.URL = b.URL()
	}
	svc, err := service.Start(testContext(t), o)
	if err == nil {
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_ = svc.Stop(ctx) // the test may have ended it in its own way
		})
	}
	return svc, err
}

// stop stops a service, which must succeed.
func stop(t *testing.T, svc *service.Service) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := svc.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

// peer is a client of the bus that is no service of ours.
type peer struct {
	t *testing.T
	*client.Client

	mu   sync.Mutex
	seen []*client.Delivery
	read int // of seen, by next
}

// newPeer connects a client and subscribes it to filters.
func newPeer(t *testing.T, b brokertest.Broker, id string, filters ...string) *peer {
	t.Helper()
	ctx := testContext(t)
	c, err := client.Connect(ctx, client.Options{URL: b.URL(), ID: id})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = c.Close(ctx)
	})
	p := &peer{t: t, Client: c}
	for _, f := range filters {
		if _, err := c.Subscribe(ctx, f, func(_ context.Context, d *client.Delivery) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.seen = append(p.seen, d)
		}); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// say publishes body as it is.
func (p *peer) say(topic, body string, opts ...client.PublishOption) {
	p.t.Helper()
	if err := p.Publish(testContext(p.t), topic, message.NewRaw([]byte(body)), opts...); err != nil {
		p.t.Fatal(err)
	}
}

// envelope is a message as a program writes it that has nothing but JSON.
func envelope(sender, kind string, payload any, more ...map[string]any) string {
	meta := map[string]any{
		"timestamp": float64(time.Now().UnixNano()) / 1e9, "message_id": time.Now().String(), "sender": sender,
		"message_type": kind, "priority": 1,
	}
	for _, m := range more {
		for k, v := range m {
			meta[k] = v
		}
	}
	body, err := json.Marshal(map[string]any{"metadata": meta, "payload": payload})
	if err != nil {
		panic(err)
	}
	return string(body)
}

// next returns the next message on topic ("" is any), skipping others.
func (p *peer) next(topic string) *client.Delivery {
	p.t.Helper()
	var found *client.Delivery
	eventually(p.t, "message on "+topic, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for p.read < len(p.seen) && found == nil {
			if d := p.seen[p.read]; topic == "" || d.Topic == topic {
				found = d
			}
			p.read++
		}
		return found != nil
	})
	return found
}

// on returns everything heard on a topic.
func (p *peer) on(topic string) (all []*client.Delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.seen {
		if d.Topic == topic {
			all = append(all, d)
		}
	}
	return all
}

// states returns the states that a service has announced.
func (p *peer) states(id string) (all []string) {
	for _, d := range p.on("system/services/" + id + "/status") {
		s, err := message.Payload[message.Status](d.Message)
		if err == nil && (len(all) == 0 || all[len(all)-1] != s.Status) {
			all = append(all, s.Status)
		}
	}
	return all
}

// events returns the events of a type, as JSON.
func (p *peer) events(eventType string) (all []string) {
	for _, d := range p.on("system/events/" + eventType) {
		e, err := message.Payload[message.Event](d.Message)
		if err != nil {
			p.t.Error(err)
		}
		all = append(all, string(e.EventData))
	}
	return all
}

func (p *peer) awaitStates(id string, want ...string) {
	p.t.Helper()
	var got []string
	defer func() {
		p.t.Helper()
		if p.t.Failed() {
			p.t.Logf("states of %s: %v, want %v", id, got, want)
		}
	}()
	eventually(p.t, "states of "+id, func() bool {
		got = p.states(id)
		return slices.Equal(got, want)
	})
}

// awaitChanges waits until exactly these changes of a service's state were reported: "healthy>offline". Those of several
// services have no order among each other.
func (p *peer) awaitChanges(id string, want ...string) {
	p.t.Helper()
	var got []string
	defer func() {
		p.t.Helper()
		if p.t.Failed() {
			p.t.Logf("changes of %s: %v, want %v", id, got, want)
		}
	}()
	eventually(p.t, "changes of "+id, func() bool {
		got = nil
		for _, e := range p.events("service_state_change") {
			if o := object(p.t, []byte(e)); o["service_id"] == id {
				got = append(got, fmt.Sprintf("%v>%v", o["old_state"], o["new_state"]))
			}
		}
		return slices.Equal(got, want)
	})
}

// stateOf returns what svc knows of a service's state.
func stateOf(svc *service.Service, id string) service.State {
	i, _ := svc.Service(id)
	return i.State
}

func awaitState(t *testing.T, svc *service.Service, id string, want service.State) {
	t.Helper()
	eventually(t, id+" is "+string(want)+" for "+svc.ID(), func() bool { return stateOf(svc, id) == want })
}

// cord is a network connection that a test can cut, and keep cut.
type cord struct {
	b brokertest.Broker

	mu   sync.Mutex
	conn net.Conn
	cut  bool
}

func (c *cord) dial(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut {
		return nil, net.ErrClosed
	}
	var err error
	c.conn, err = c.b.Dial(ctx)
	return c.conn, err
}

func (c *cord) pull() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = true
	_ = c.conn.Close()
}

func (c *cord) plug() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = false
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
