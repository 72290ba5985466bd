package client

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/lawnberry/lawnberry/internal/packet"
)

// A call that leaves the full outbox wakes who waits for its room.
func TestWithdrawnCallMakesRoom(t *testing.T) {
	acknowledge := make(chan struct{})
	dial := scripted(t, func(_ int, s *script) {
		s.accept(packet.Connack{Properties: packet.Properties{ReceiveMaximum: packet.Some[uint16](1)}})
		p, ok := want[*packet.Publish](s)
		if !ok {
			return
		}
		<-acknowledge
		s.send(&packet.Ack{Kind: packet.PUBACK, ID: p.ID})
		for p := s.next(); p != nil; p = s.next() {
			switch p := p.(type) {
			case *packet.Publish:
				s.send(&packet.Ack{Kind: packet.PUBREC, ID: p.ID})
			case *packet.Ack:
				s.send(&packet.Ack{Kind: packet.PUBCOMP, ID: p.ID})
			}
		}
	})
	c := connect(t, Options{Dial: dial, Outbox: Queue{Max: 1}})
	c.PublishAsync("power/battery", raw("uses up the receive maximum"))
	ctx, cancel := context.WithCancel(testContext(t))
	called, published := make(chan error, 1), make(chan error, 1)
	go func() { called <- c.Call(ctx, "nav", "queued", nil, nil) }()
	eventually(t, "the call fills the outbox", func() bool { return c.Stats().Outbox == 1 })
	go func() { published <- c.Publish(testContext(t), "commands/nav", raw("waits")) }()
	eventually(t, "another waits for room", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.room != nil
	})
	cancel()
	if e := asCommandError(t, <-called); e.Code != CodeCancelled {
		t.Error(e)
	}
	close(acknowledge)
	if err := <-published; err != nil {
		t.Error(err)
	}
}

// A call whose request cannot be sent says so at once.
func TestCallTooLargeForBroker(t *testing.T) {
	dial := scripted(t, func(_ int, s *script) {
		s.accept(packet.Connack{Properties: packet.Properties{MaximumPacketSize: packet.Some[uint32](400)}})
		s.drain()
	})
	c := connect(t, Options{Dial: dial})
	err := c.Call(testContext(t), "nav", "x", map[string]string{"path": string(make([]byte, 500))}, nil)
	if !errors.Is(err, ErrTooLarge) {
		t.Errorf("%v, want %v", err, ErrTooLarge)
	}
}

func TestCallDroppedFromOutbox(t *testing.T) {
	c, _ := cutOff(t, Options{Outbox: Queue{Max: 1, Full: DropOldest}})
	called := make(chan error, 1)
	go func() { called <- c.Call(testContext(t), "nav", "x", nil, nil) }()
	eventually(t, "the call is in the outbox", func() bool { return c.Stats().Outbox == 1 })
	publish(t, c, "commands/nav", "newer")
	if err := <-called; !errors.Is(err, ErrDropped) {
		t.Errorf("%v, want %v", err, ErrDropped)
	}
}

func TestCallInBirth(t *testing.T) {
	b := startBroker(t)
	serve(t, connect(t, Options{URL: b.URL(), ID: "nav"}), "nav")
	var got point
	c := connect(t, Options{URL: b.URL(), FailFast: true, Birth: func(ctx context.Context, c *Client) error {
		return c.Call(ctx, "nav", "echo", point{1, 2}, &got)
	}})
	if want := (point{1, 2}); got != want {
		t.Errorf("%s got %v", c.ID(), got)
	}
}

// What has expired takes no room from what has not.
func TestExpiredMakesRoom(t *testing.T) {
	for _, full := range []Overflow{Refuse, DropOldest, Latest} {
		t.Run(full.String(), func(t *testing.T) {
			c, _ := cutOff(t, Options{Outbox: Queue{Max: 2, Full: full}})
			valid := c.PublishAsync("x", raw("1"))
			expired := c.PublishAsync("x", raw("2"), WithExpiry(time.Nanosecond))
			publish(t, c, "x", "3")
			<-expired.Delivered()
			if err := expired.Err(); !errors.Is(err, ErrExpired) {
				t.Errorf("the expired one: %v", err)
			}
			if err := valid.Err(); err != nil {
				t.Errorf("the valid one: %v", err)
			}
			if s := c.Stats(); s.Outbox != 2 || s.Expired != 1 || s.Dropped != 0 {
				t.Errorf("%d in the outbox, %d expired, %d dropped", s.Outbox, s.Expired, s.Dropped)
			}
		})
	}
}

// Close does not wait for what has expired.
func TestCloseWithExpired(t *testing.T) {
	c, back := cutOff(t, Options{Probe: time.Hour})
	publish(t, c, "x", "1", WithExpiry(time.Nanosecond))
	ctx := testContext(t)
	closed := make(chan error, 1)
	go func() { closed <- c.Close(ctx) }()
	eventually(t, "Close waits for the outbox", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.flushed != nil
	})
	close(back)
	if err := <-closed; err != nil || ctx.Err() != nil {
		t.Error(err, ctx.Err())
	}
}

// cutOff connects to a broker that then ends the connection and takes no other until back is closed.
func cutOff(t *testing.T, o Options) (c *Client, back chan<- struct{}) {
	t.Helper()
	cut, again := make(chan struct{}), make(chan struct{})
	dial := scripted(t, func(n int, s *script) {
		s.accept(packet.Connack{SessionPresent: n > 0})
		if n == 0 {
			<-cut
		} else {
			s.drain()
		}
	})
	dials := 0 // of the client's one goroutine that connects
	o.Dial = func(ctx context.Context) (net.Conn, error) {
		if dials++; dials > 1 {
			select {
			case <-again:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return dial(ctx)
	}
	c = connect(t, o)
	close(cut)
	eventually(t, "the connection is lost", func() bool { return !c.Connected() })
	return c, again
}
