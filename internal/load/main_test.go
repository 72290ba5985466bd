package load

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/lawnberry/lawnberry/client"
	"github.com/lawnberry/lawnberry/internal/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// aPlan is a small one, which goes by a count.
func aPlan(kind Kind, url string) Plan {
	p := Plan{Kind: kind, Client: client.Options{URL: url, ID: "load", CleanStart: true, SessionExpiry: -1, FailFast: true}, Topic: "bench/test",
		Size: 100, QoS: 1,
		Publishers: 1, Subscribers: 1, Count: 500, Patience: 20 * time.Second}
	if kind == Latency {
		p.Rate = 5000
	}
	return p
}

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func mustRun(t testing.TB, p Plan) *Result {
	t.Helper()
	r, err := Run(testContext(t), p)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A badBroker does with messages what a test wants.
type badBroker struct {
	// deliver says what goes to the subscribers for a message that comes.
	deliver func(s stamp, payload []byte) [][]byte
	mute    func(s stamp) bool // it is not acknowledged; nil is none

	l  net.Listener
	wg sync.WaitGroup

	mu          sync.Mutex // guards what follows, and writing
	conns       map[net.Conn]bool
	subscribers map[net.Conn]string // the prefix of its topics
}

func startBad(t testing.TB, b *badBroker) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b.l, b.conns, b.subscribers = l, map[net.Conn]bool{}, map[net.Conn]string{}
	b.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns[c] = true
			b.mu.Unlock()
			b.wg.Go(func() { b.serve(t, c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.cut()
		b.wg.Wait()
	})
	return "tcp://" + l.Addr().String()
}

// cut ends all connections without a word.
func (b *badBroker) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.Close()
	}
}

func (b *badBroker) serve(t testing.TB, c net.Conn) {
	defer c.Close()
	rd := packet.NewReader(c, 0)
	v := packet.V5
	for {
		first, body, err := rd.Next()
		if err != nil {
			return
		}
		p, err := packet.Decode(first, bytes.Clone(body), v)
		if err != nil {
			t.Errorf("the client sends %v", err)
			return
		}
		b.mu.Lock()
		b.take(c, &v, p)
		b.mu.Unlock()
	}
}

// take answers one packet.
func (b *badBroker) take(c net.Conn, v *packet.Version, p packet.Packet) {
	send := func(to net.Conn, p packet.Packet) {
		if out, err := p.Append(nil, *v); err == nil {
			_, _ = to.Write(out)
		}
	}
	switch p := p.(type) {
	case *packet.Connect:
		*v = p.Version
		send(c, &packet.Connack{})
	case *packet.Pingreq:
		send(c, &packet.Pingresp{})
	case *packet.Subscribe:
		ack := &packet.Suback{ID: p.ID}
		for _, s := range p.Subscriptions {
			if prefix, ok := strings.CutSuffix(string(s.Filter), "/+"); ok {
				b.subscribers[c] = prefix + "/"
			}
			ack.Codes = append(ack.Codes, packet.Code(s.QoS))
		}
		send(c, ack)
	case *packet.Publish:
		s, _ := readStamp(p.Payload)
		if p.QoS == 1 && (b.mute == nil || !b.mute(s)) {
			ack := packet.AppendAck(nil, packet.PUBACK, *v, p.ID, packet.Success)
			_, _ = c.Write(ack)
		}
		for _, payload := range b.deliver(s, p.Payload) {
			for to, prefix := range b.subscribers {
				if strings.HasPrefix(string(p.Topic), prefix) {
					send(to, &packet.Publish{Topic: p.Topic, Payload: payload})
				}
			}
		}
	}
}

func faithful(_ stamp, payload []byte) [][]byte { return [][]byte{payload} }

func isLost(err error) bool {
	var lost *LostConnectionError
	return errors.As(err, &lost)
}
