package client

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/message"
)

// TestConnection numbers the connections, and tells of each who wants to know, until that one does not any more.
func TestConnection(t *testing.T) {
	b := startBroker(t)
	p, url := startProxy(t, b)
	c := connect(t, Options{URL: url})
	first := c.Connection()
	if first == 0 || !c.Connected() {
		t.Fatalf("connection %d after Connect", first)
	}
	var mu sync.Mutex
	var told []bool
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(told) }
	cancel := c.OnConnection(func(up bool, _ error) { mu.Lock(); told = append(told, up); mu.Unlock() })
	seen := map[uint64]bool{0: true, first: true}
	for i := range 5 {
		p.Cut(true)
		eventually(t, "a lost and a new connection", func() bool { return count() == 2*(i+1) })
		n := c.Connection()
		if seen[n] {
			t.Fatalf("connection %d for the second time", n)
		}
		seen[n] = true
	}
	mu.Lock()
	for i, up := range told {
		if up != (i%2 == 1) {
			t.Fatalf("told %v", told)
		}
	}
	mu.Unlock()
	cancel()
	before := c.Connection()
	p.Cut(true)
	eventually(t, "another connection", func() bool { n := c.Connection(); return n != 0 && n != before })
	if count() != 10 {
		t.Errorf("told %d times, the last time after cancel", count())
	}
	if err := c.Close(testContext(t)); err != nil || c.Connection() != 0 {
		t.Errorf("connection %d after Close (%v)", c.Connection(), err)
	}
}

// TestDrain waits for the handler to have returned for all that came before.
func TestDrain(t *testing.T) {
	b := startBroker(t)
	c := connect(t, Options{URL: b.URL()})
	ctx := testContext(t)
	var mu sync.Mutex
	handled := 0
	gate := make(chan struct{}, 1000)
	s := subscribe(t, c, "drain", func(context.Context, *Delivery) {
		<-gate
		mu.Lock()
		handled++
		mu.Unlock()
	})
	if err := s.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	for round := 1; round <= 20; round++ {
		for range 10 {
			if err := c.Publish(ctx, "drain", message.NewRaw([]byte("x"))); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "all have come", func() bool { return s.received() == uint64(10*round) })
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		if s.Drain(short) == nil {
			t.Fatal("drained while the handler hangs")
		}
		cancel()
		for range 10 {
			gate <- struct{}{}
		}
		if err := s.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if handled != 10*round {
			t.Fatalf("drained after %d of %d", handled, 10*round)
		}
		mu.Unlock()
	}
	if err := s.Unsubscribe(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Drain(ctx); err != nil {
		t.Errorf("of a subscription that has ended: %v", err)
	}
}

func (s *Subscription) received() uint64 {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	return s.waiting.added
}

// TestRequestFrom finds the request in the context of its handler, also in one derived from it, and not after the handler has returned.
func TestRequestFrom(t *testing.T) {
	b := startBroker(t)
	server, caller := connect(t, Options{URL: b.URL(), ID: "server"}), connect(t, Options{URL: b.URL(), ID: "caller"})
	var kept context.Context
	_, err := server.ServeCommands(testContext(t), "server", nil, func(ctx context.Context, r *Request) (any, error) {
		kept = ctx
		derived, cancel := context.WithCancel(ctx)
		defer cancel()
		for _, ctx := range []context.Context{ctx, derived} {
			if got, ok := RequestFrom(ctx); !ok || got != r {
				t.Errorf("request %v, %v", got, ok)
			}
		}
		return r.Sender, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var sender string
	if err := caller.Call(testContext(t), "server", "x", nil, &sender); err != nil || sender != "caller" {
		t.Fatalf("%q, %v", sender, err)
	}
	eventually(t, "forgotten", func() bool { _, ok := RequestFrom(kept); return !ok })
	if _, ok := RequestFrom(context.Background()); ok {
		t.Error("a request in an empty context")
	}
}
