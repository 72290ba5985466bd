package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/broker"
	"github.com/lawnberry/lawnberry/internal/brokertest"
	"github.com/lawnberry/lawnberry/internal/faultnet"
	"github.com/lawnberry/lawnberry/internal/packet"
	"github.com/lawnberry/lawnberry/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func startBroker(t testing.TB, listeners ...broker.Listener) brokertest.Broker {
	t.Helper()
	if len(listeners) == 0 {
		listeners = []broker.Listener{{Network: "tcp", Address: "127.0.0.1:0"}}
	}
	return startBrokerWith(t, broker.Options{Listeners: listeners})
}

func startBrokerWith(t testing.TB, o broker.Options) brokertest.Broker {
	t.Helper()
	return brokertest.StartWith(t, o)
}

func stopBroker(t testing.TB, b brokertest.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := b.Stop(ctx); err != nil {
		t.Errorf("stop broker: %v", err)
	}
}

// startProxy puts faults before b.
func startProxy(t testing.TB, b brokertest.Broker) (*faultnet.Proxy, string) {
	t.Helper()
	for e := range b.Endpoints() {
		p, err := faultnet.Start(e.Address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Close)
		return p, "tcp://" + p.Addr()
	}
	t.Fatal("the broker has no endpoint")
	return nil, ""
}

// quick makes reconnecting fast.
func quick(o Options) Options {
	if o.ReconnectDelay == 0 {
		o.ReconnectDelay = 5 * time.Millisecond
	}
	if o.MaxReconnect == 0 {
		o.MaxReconnect = 50 * time.Millisecond
	}
	return o
}

func connect(t testing.TB, o Options) *Client {
	t.Helper()
	c, err := Connect(testContext(t), quick(o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // what was not sent is each test's own affair
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx)
	})
	return c
}

func subscribe(t testing.TB, c *Client, filter string, h Handler, opts ...SubscribeOption) *Subscription {
	t.Helper()
	s, err := c.Subscribe(testContext(t), filter, h, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t testing.TB, c *Client, topic, text string, opts ...PublishOption) {
	t.Helper()
	if err := c.Publish(testContext(t), topic, raw(text), opts...); err != nil {
		t.Fatal(err)
	}
}

func raw(text string) message.Message { return message.NewRaw([]byte(text)) }

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		<-tick.C
	}
}

const settleTopic = "settle/"

// A collector is a handler that keeps the text of what it gets.
type collector struct {
	mu   sync.Mutex
	got  []*Delivery
	more chan struct{}
}

func newCollector() *collector { return &collector{more: make(chan struct{}, 1)} }

func (k *collector) handle(_ context.Context, d *Delivery) {
	if strings.HasPrefix(d.Topic, settleTopic) {
		return
	}
	k.mu.Lock()
	k.got = append(k.got, d)
	k.mu.Unlock()
	select {
	case k.more <- struct{}{}:
	default:
	}
}

func (k *collector) all() []*Delivery {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]*Delivery(nil), k.got...)
}

func (k *collector) texts() []string {
	out := []string{}
	for _, d := range k.all() {
		out = append(out, string(d.Message.Payload))
	}
	return out
}

// wait returns the texts once there are n.
func (k *collector) wait(t testing.TB, n int) []string {
	t.Helper()
	timeout := time.After(patience)
	for {
		if got := k.texts(); len(got) >= n {
			return got
		}
		select {
		case <-k.more:
		case <-timeout:
			got := k.texts()
			t.Fatalf("%d messages of %d: %.300q", len(got), n, got)
		}
	}
}

// settle returns the texts after what was published until now has arrived for certain: a message on a topic of its own
// goes the same way.
func (k *collector) settle(t testing.TB, c *Client) []string {
	t.Helper()
	done := make(chan struct{})
	name := settleTopic + fmt.Sprint(time.Now().UnixNano())
	s := subscribe(t, c, name, func(context.Context, *Delivery) { close(done) })
	publish(t, c, name, "", WithQoS(1))
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the last message does not arrive")
	}
	if err := s.Unsubscribe(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the handlers are through", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.table.handlers {
			if s.waiting.busy() {
				return false
			}
		}
		return true
	})
	return k.texts()
}

// busy says that something waits, or is with the handler.
func (b *backlog) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.len() > 0 || b.taking
}

// onlyV311 dials b through something that refuses MQTT 5 in one of the ways brokers do.
func onlyV311(b brokertest.Broker, refusal string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := b.Dial(ctx)
		if err != nil {
			return nil, err
		}
		return &v311Conn{Conn: conn, refusal: refusal}, nil
	}
}

type v311Conn struct {
	net.Conn
	refusal string // bytes to answer a CONNECT of version 5 with
	begun   bool
	answer  chan []byte
}

func (c *v311Conn) Write(p []byte) (int, error) {
	if !c.begun {
		c.begun = true
		if bytes.HasPrefix(p[2:], []byte("\x00\x04MQTT\x05")) || bytes.HasPrefix(p[3:], []byte("\x00\x04MQTT\x05")) {
			c.answer = make(chan []byte, 1)
			c.answer <- []byte(c.refusal)
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}

func (c *v311Conn) Read(p []byte) (int, error) {
	if c.answer == nil {
		return c.Conn.Read(p)
	}
	select {
	case b := <-c.answer:
		if len(b) > 0 {
			return copy(p, b), nil
		}
	default:
	}
	return 0, io.EOF
}

// refusals are the ways.
var refusals = map[string]string{
	"return code 1 of 3.1.1": "\x20\x02\x00\x01",
	"reason code 0x84 of 5":  "\x20\x03\x00\x84\x00",
	"close":                  "",
}

// A script is a broker that does as a test says.
type script struct {
	t       testing.TB
	conn    net.Conn
	rd      *packet.Reader
	version packet.Version
}

// scripted returns a Dial for Options. Each connection runs play in a goroutine and ends with it.
func scripted(t testing.TB, play func(n int, s *script)) func(ctx context.Context) (net.Conn, error) {
	var wg sync.WaitGroup
	var n int
	var mu sync.Mutex
	t.Cleanup(wg.Wait)
	return func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		mu.Lock()
		defer mu.Unlock()
		i := n
		n++
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer far.Close()
			play(i, &script{t: t, conn: far, rd: packet.NewReader(far, 0), version: packet.V5})
		}()
		return near, nil
	}
}

// next returns the next packet other than PINGREQ and a SUBSCRIBE that renews, which it answers, or nil at the end or DISCONNECT.
func (s *script) next() packet.Packet {
	for {
		first, body, err := s.rd.Next()
		if err != nil {
			return nil
		}
		p, err := packet.Decode(first, bytes.Clone(body), s.version)
		if err != nil {
			s.t.Errorf("the client sends %v", err)
			return nil
		}
		switch p := p.(type) {
		case *packet.Connect:
			s.version = p.Version
		case *packet.Pingreq:
			s.send(&packet.Pingresp{})
			continue
		case *packet.Subscribe:
			if len(p.Subscriptions) == 1 && p.Subscriptions[0].RetainHandling == 1 {
				s.confirm(p)
				continue
			}
		case *packet.Disconnect:
			return nil
		}
		return p
	}
}

func (s *script) send(packets ...packet.Packet) {
	var out []byte
	for _, p := range packets {
		b, err := p.Append(out, s.version)
		if err != nil {
			s.t.Error(err)
			return
		}
		out = b
	}
	_, _ = s.conn.Write(out)
}

// accept takes CONNECT, answers with ack, and confirms the subscription to responses, unless the client has given this attempt up, as it does
// on a machine that was too slow to answer in time.
func (s *script) accept(ack packet.Connack) *packet.Connect {
	hello, ok := s.next().(*packet.Connect)
	if !ok {
		return nil
	}
	s.send(&ack)
	if !ack.SessionPresent {
		if p := s.next(); p != nil {
			s.confirm(p)
		}
	}
	return hello
}

func (s *script) confirm(p packet.Packet) *packet.Subscribe {
	sub, ok := p.(*packet.Subscribe)
	if !ok {
		s.t.Errorf("got %T, want SUBSCRIBE", p)
		return nil
	}
	s.send(&packet.Suback{ID: sub.ID, Codes: []packet.Code{packet.GrantedQoS2}})
	return sub
}

// drain reads until the client closes.
func (s *script) drain() {
	for s.next() != nil {
	}
}

// want takes a packet of type T.
func want[T packet.Packet](s *script) (p T, ok bool) {
	got := s.next()
	p, ok = got.(T)
	if !ok {
		s.t.Errorf("got %T %+v, want %T", got, got, p)
	}
	return p, ok
}

// logged returns a logger whose lines a test can look for.
func logged() (*slog.Logger, func() string) {
	var mu sync.Mutex
	var buf bytes.Buffer
	w := writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return buf.Write(p)
	})
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})), func() string {
		mu.Lock()
		defer mu.Unlock()
		return buf.String()
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func asCommandError(t testing.TB, err error) *CommandError {
	t.Helper()
	var e *CommandError
	if !errors.As(err, &e) {
		t.Fatalf("%v (%T) is no *CommandError", err, err)
	}
	return e
}

type faultDirection = faultnet.Direction

const (
	up   = faultnet.Up
	down = faultnet.Down
)

var (
	faultNone = faultnet.Faults{}
	faultLose = faultnet.Faults{Lose: true}
)
