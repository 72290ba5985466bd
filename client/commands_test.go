package client

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// holdSlots serves commands with one slot: "hold" keeps it until free is closed or its context ends.
func holdSlots(t *testing.T, c *Client, name string) (began <-chan struct{}, free chan<- struct{}, ran *atomic.Int32) {
	t.Helper()
	begun, release := make(chan struct{}, 1), make(chan struct{})
	ran = new(atomic.Int32)
	_, err := c.ServeCommands(testContext(t), name, nil, func(ctx context.Context, r *Request) (any, error) {
		if r.Command != "hold" {
			ran.Add(1)
			return nil, nil
		}
		begun <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return begun, release, ran
}

// waits waits until c has begun n requests, running or not.
func waits(t *testing.T, c *Client, n int) {
	t.Helper()
	eventually(t, "the request waits for a slot", func() bool {
		c.requests.mu.Lock()
		defer c.requests.mu.Unlock()
		return len(c.requests.order) == n
	})
}

// A request whose deadline passes, or whose caller gives up, while all slots are taken is not run later.
func TestWaitingRequestEnds(t *testing.T) {
	tests := map[string]func(parent context.Context) (context.Context, context.CancelFunc){
		"deadline": func(parent context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(parent, 200*time.Millisecond)
		},
		"cancelled": context.WithCancel,
	}
	for name, limit := range tests {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t)
			server := connect(t, Options{URL: b.URL(), ID: "nav", Commands: 1})
			began, free, ran := holdSlots(t, server, "nav")
			c := connect(t, Options{URL: b.URL()})
			held := make(chan error, 1)
			go func() { held <- c.Call(testContext(t), "nav", "hold", nil, nil) }()
			<-began

			ctx, cancel := limit(testContext(t))
			defer cancel()
			late := make(chan error, 1)
			go func() { late <- c.Call(ctx, "nav", "late", nil, nil) }()
			waits(t, server, 2)
			if name == "cancelled" {
				cancel()
			}
			if e := asCommandError(t, <-late); e.Code != CodeTimeout && e.Code != CodeCancelled {
				t.Error(e)
			}
			eventually(t, "the request is given up", func() bool {
				server.requests.mu.Lock()
				defer server.requests.mu.Unlock()
				return server.requests.order[1].done
			})
			close(free)
			if err := <-held; err != nil {
				t.Error(err)
			}
			if err := c.Call(testContext(t), "nav", "next", nil, nil); err != nil {
				t.Error(err)
			}
			if n := ran.Load(); n != 1 {
				t.Errorf("%d requests ran, want the next one alone", n)
			}
		})
	}
}

// A caller that gives up is heard while another request waits for the slot, which is free then.
func TestCancelWithAllSlotsTaken(t *testing.T) {
	b := startBroker(t)
	server := connect(t, Options{URL: b.URL(), ID: "nav", Commands: 1})
	began, _, ran := holdSlots(t, server, "nav")
	c := connect(t, Options{URL: b.URL()})
	ctx, cancel := context.WithCancel(testContext(t))
	held := make(chan error, 1)
	go func() { held <- c.Call(ctx, "nav", "hold", nil, nil) }()
	<-began
	next := make(chan error, 1)
	go func() { next <- c.Call(testContext(t), "nav", "next", nil, nil) }()
	waits(t, server, 2)
	cancel()
	if e := asCommandError(t, <-held); e.Code != CodeCancelled {
		t.Error(e)
	}
	if err := <-next; err != nil {
		t.Error(err)
	}
	if n := ran.Load(); n != 1 {
		t.Errorf("%d ran, want 1", n)
	}
}

// Requests that run at once have a goroutine each, and few are kept when they have ended. To see it fail: let handle go on for ever.
func TestRequestGoroutines(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	server, caller := connect(t, Options{URL: b.URL(), ID: "nav"}), connect(t, Options{URL: b.URL()})
	const n = 30
	begun, release := make(chan struct{}, n), make(chan struct{})
	sub, err := server.ServeCommands(testContext(t), "nav", nil, func(context.Context, *Request) (any, error) {
		begun <- struct{}{}
		<-release
		return nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		results := make(chan error, n)
		for range n {
			go func() { results <- caller.Call(testContext(t), "nav", "x", nil, nil) }()
		}
		for range n {
			<-begun
		}
		if round == 0 {
			for range n {
				release <- struct{}{}
			}
		} else {
			close(release)
		}
		for range n {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		eventually(t, "goroutines to end", func() bool {
			w := &sub.waiting
			w.mu.Lock()
			defer w.mu.Unlock()
			server.mu.Lock()
			defer server.mu.Unlock()
			return w.idle > 0 && w.idle <= maxIdle && server.handlers == w.idle
		})
	}
}
